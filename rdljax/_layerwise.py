"""Defines decorators with the common part of all objectives.

The decorated objective takes an array or a pytree of arrays for student and teacher.
Layers are paired by their position in the tree and their shapes are checked; the
teacher is held fixed and cast to the student's compute dtype; and the values of the
layers are summed.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rdljax import _checks, _geometry

Shape = tuple[int, ...]
Check = Callable[[Shape, Shape], str | None]
MAPS = "[batch, H, W, C] (NHWC: the channels last)"


def same_batch(student: Shape, teacher: Shape) -> str | None:
    """Returns the expected shapes as text, or None if the shapes are right.

    They are `[batch, ...]` on both sides; the trailing shapes may differ.
    """
    if min(len(student), len(teacher)) < 2 or student[0] != teacher[0]:
        return "expected [batch, ...] with the same batch on both sides"
    return None


def same_shape(student: Shape, teacher: Shape) -> str | None:
    """Returns the expected shapes as text, or None if the shapes are right.

    They are `[batch, ...]`, the same on both sides.
    """
    if len(student) < 2 or student != teacher:
        return "expected [batch, ...] of the same shape on both sides"
    return None


def same_shape_but_size(student: Shape, teacher: Shape) -> str | None:
    """Returns the expected shapes as text, or None if the shapes are right.

    They are the same on both sides, except height and width of maps `[batch, H, W, C]`.
    """
    if len(student) != 4 or len(teacher) != 4:
        return same_shape(student, teacher)
    if (student[0], student[3]) != (teacher[0], teacher[3]):
        return f"expected maps {MAPS} of the same batch and channels"
    return None


def maps(student: Shape, teacher: Shape) -> str | None:
    """Returns the expected shapes as text, or None if the shapes are right.

    They are maps `[batch, H, W, C]` on both sides; sizes and channels may differ.
    """
    if len(student) != 4 or len(teacher) != 4 or student[0] != teacher[0]:
        return f"expected maps {MAPS} with the same batch on both sides"
    return None


def maps_of_same_channels(student: Shape, teacher: Shape) -> str | None:
    """Returns the expected shapes as text, or None if the shapes are right.

    They are maps `[batch, H, W, C]` with the same channels; sizes may differ.
    """
    if maps(student, teacher) is not None or student[3] != teacher[3]:
        return f"expected maps {MAPS} of the same batch and channels"
    return None


def layerwise(
    check: Check, *, paired: tuple[str, ...] = (), teacher_is_fixed: bool = True
) -> Callable[[Callable], Callable]:
    """Makes a decorator from formulas of two arrays to objectives of two pytrees.

    Args:
      check: Function of the shapes of student and teacher that returns a description of
        the expected shapes, or None if the shapes are right.
      paired: Names of the arguments that are pytrees of trained arrays with the
        structure of the layers; all other arguments go to every layer.
      teacher_is_fixed: Whether the teacher is held fixed.

    Returns:
      The decorator.

    Raises:
      ValueError: From the decorated objective, before the formula is traced, with the
        names of the objective and the layer and with both shapes.
    """

    def decorate(formula: Callable) -> Callable:
        signature = inspect.signature(formula)

        @functools.wraps(formula)
        def objective(*args, **numbers):
            name = formula.__name__
            student, teacher, rest = _sides(signature, args, numbers)
            trained = {
                key: _leaves_like(name, student, rest.pop(key)) for key in paired
            }
            values = []
            for i, (layer, s, t) in enumerate(_pair(name, student, teacher)):
                own = {key: leaves[i] for key, leaves in trained.items()}
                with _with_context(name, layer, s, t):
                    s, t = _prepare(check, s, t, teacher_is_fixed)
                    values.append(formula(s, t, **own, **rest))
            return functools.reduce(jnp.add, values)

        return objective

    return decorate


def single(
    check: Check, *, teacher_is_fixed: bool = True
) -> Callable[[Callable], Callable]:
    """Makes a decorator for objectives of one array on each side (logits)."""

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
            with _with_context(formula.__name__, None, student, teacher):
                sides = _prepare(check, student, teacher, teacher_is_fixed)
                return formula(*sides, **rest)

        return objective

    return decorate


def in_depth_order(check: Check) -> Callable[[Callable], Callable]:
    """Makes a decorator from formulas of two tuples to objectives of two sequences.

    It is for objectives that relate or weight successive layers. Dicts are refused: jit
    sorts their keys, so that the order is not that of the net.
    """

    def decorate(formula: Callable) -> Callable:
        signature = inspect.signature(formula)

        @functools.wraps(formula)
        def objective(*args, **numbers):
            name = formula.__name__
            student, teacher, rest = _sides(signature, args, numbers)
            for side, layers in (("student", student), ("teacher", teacher)):
                if not isinstance(layers, list | tuple):
                    raise ValueError(
                        f"{name}: the {side} must be a sequence of layers in depth "
                        f"order, got {type(layers).__name__}"
                    )
            prepared = []
            for layer, s, t in _pair(name, student, teacher):
                with _with_context(name, layer, s, t):
                    prepared.append(_prepare(check, s, t))
            batches = {s.shape[0] for s, _ in prepared}
            if len(batches) > 1:
                raise ValueError(f"{name}: layers of different batch sizes {batches}")
            try:
                return formula(*zip(*prepared, strict=True), **rest)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error

        return objective

    return decorate


def _sides(signature: inspect.Signature, args: tuple, numbers: dict) -> tuple:
    """Returns the first two arguments of a call, and a dict of the others."""
    rest = signature.bind(*args, **numbers).arguments
    first, second, *_ = signature.parameters
    return rest.pop(first), rest.pop(second), rest


def _pair(name: str, student, teacher) -> list[tuple[str | None, jax.Array, jax.Array]]:
    """Returns the layers of both trees as (path, student's, teacher's)."""
    structure: Any
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


def _leaves_like(name: str, student, arrays) -> list[jax.Array]:
    """Returns the leaves of a pytree of trained arrays, one for each layer."""
    own: Any = jax.tree_util.tree_structure(student)
    if own != jax.tree_util.tree_structure(arrays):
        raise ValueError(
            f"{name}: trained arrays must have the student's layers "
            f"{_layers(student)}, got {_layers(arrays)}"
        )
    return jax.tree_util.tree_leaves(arrays)


@contextlib.contextmanager
def _with_context(name: str, layer: str | None, student, teacher):
    """Adds the names of objective and layer and both shapes to error messages."""
    where = name if layer is None else f"{name}, layer {layer!r}"
    got = f"got student {jnp.shape(student)} and teacher {jnp.shape(teacher)}"
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{where}: {error}; {got}") from error


def _prepare(check: Check, student, teacher, teacher_is_fixed: bool = True):
    """Checks both sides and returns them in the student's compute dtype.

    The teacher is held fixed if `teacher_is_fixed`.
    """
    expected = check(jnp.shape(student), jnp.shape(teacher))
    if expected is not None:
        raise ValueError(expected)
    if not jnp.shape(student)[0]:
        raise ValueError("expected a batch of one example or more")
    student, teacher = map(_checks.as_activations, (student, teacher))
    dtype = _geometry.compute_dtype(student)
    student, teacher = student.astype(dtype), teacher.astype(dtype)
    return student, lax.stop_gradient(teacher) if teacher_is_fixed else teacher
