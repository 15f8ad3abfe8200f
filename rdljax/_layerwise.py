"""What every objective does besides its formula, written once.

The decorated objective takes an array or a pytree of arrays on either side. Layers are
paired by their place in the tree, their shapes checked, the teacher is held fixed and
cast to the student's compute dtype, and the values of the layers are summed.
"""

import functools
import inspect
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from rdljax import _geometry

Shape = tuple[int, ...]
Check = Callable[[Shape, Shape], str | None]


def same_batch(student: Shape, teacher: Shape) -> str | None:
    """Expects `[batch, ...]` on both sides; the trailing shapes may differ."""
    if min(len(student), len(teacher)) < 2 or student[0] != teacher[0]:
        return "expected [batch, ...] with the same batch on both sides"
    return None


def same_shape(student: Shape, teacher: Shape) -> str | None:
    """Expects `[batch, ...]` of one shape."""
    if len(student) < 2 or student != teacher:
        return "expected [batch, ...] of the same shape on both sides"
    return None


def same_shape_but_size(student: Shape, teacher: Shape) -> str | None:
    """Expects one shape; of maps `[batch, H, W, C]` height and width may differ."""
    if len(student) != 4 or len(teacher) != 4:
        return same_shape(student, teacher)
    if (student[0], student[3]) != (teacher[0], teacher[3]):
        return "expected maps [batch, H, W, C] of the same batch and channels"
    return None


def layerwise(check: Check) -> Callable[[Callable], Callable]:
    """Makes a formula over two arrays an objective over two pytrees of arrays.

    Args:
      check: From the shapes of student and teacher, what was expected, or None if all
        is well.

    Returns:
      The decorator. What it makes raises `ValueError` with the names of objective and
      layer and both shapes, before the formula is traced.
    """

    def decorate(formula: Callable) -> Callable:
        signature = inspect.signature(formula)

        @functools.wraps(formula)
        def objective(*args, **numbers):
            student, teacher, rest = _sides(signature, args, numbers)
            values = [
                _apply(formula, check, layer, *pair, rest)
                for layer, *pair in _pair(formula.__name__, student, teacher)
            ]
            return functools.reduce(jnp.add, values)

        return objective

    return decorate


def single(check: Check) -> Callable[[Callable], Callable]:
    """As `layerwise`, for an objective of one array on either side (logits)."""

    def decorate(formula: Callable) -> Callable:
        signature = inspect.signature(formula)

        @functools.wraps(formula)
        def objective(*args, **numbers):
            student, teacher, rest = _sides(signature, args, numbers)
            for side, tree in (("student", student), ("teacher", teacher)):
                if not jax.tree_util.all_leaves([tree]):
                    raise ValueError(
                        f"{formula.__name__}: the {side} must be one array, "
                        f"got {jax.tree_util.tree_structure(tree)}"
                    )
            return _apply(formula, check, None, student, teacher, rest)

        return objective

    return decorate


def _sides(signature: inspect.Signature, args: tuple, numbers: dict) -> tuple:
    """The first two arguments of a call, and the others by name."""
    rest = signature.bind(*args, **numbers).arguments
    first, second, *_ = signature.parameters
    return rest.pop(first), rest.pop(second), rest


def _pair(name: str, student, teacher) -> list[tuple[str | None, jax.Array, jax.Array]]:
    """The layers of both trees as (path, student's, teacher's)."""
    students, structure = jax.tree_util.tree_flatten_with_path(student)
    if structure != jax.tree_util.tree_structure(teacher):
        raise ValueError(
            f"{name}: student and teacher must have the same layers, got student "
            f"{_layers(student)} and teacher {_layers(teacher)}"
        )
    if not students:
        raise ValueError(f"{name}: there is no layer to compare, got {student}")
    teachers = jax.tree_util.tree_leaves(teacher)
    return [
        (_path(path), s, t) for (path, s), t in zip(students, teachers, strict=True)
    ]


def _path(path) -> str | None:
    return jax.tree_util.keystr(path, simple=True, separator="/") or None


def _layers(tree) -> str:
    names = [_path(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return "one array" if names == [None] else "[" + ", ".join(map(str, names)) + "]"


def _apply(formula: Callable, check: Check, layer: str | None, student, teacher, rest):
    """The formula of one layer: checked, in the student's compute dtype."""
    where = (
        formula.__name__ if layer is None else f"{formula.__name__}, layer {layer!r}"
    )
    shapes = jnp.shape(student), jnp.shape(teacher)
    got = f"got student {shapes[0]} and teacher {shapes[1]}"
    expected = check(*shapes)
    if expected is not None:
        raise ValueError(f"{where}: {expected}, {got}")
    student, teacher = jnp.asarray(student), jnp.asarray(teacher)
    dtype = _geometry.compute_dtype(student)
    teacher = lax.stop_gradient(teacher.astype(dtype))
    try:
        return formula(student.astype(dtype), teacher, **rest)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; {got}") from error
