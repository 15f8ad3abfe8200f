"""Makes small Flax modules that terms train: one per layer, or one for each net."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rdljax import _checks, _geometry, _pruned
from rdljax.nets import regressors
from rdljax.terms.base import State

Array = jax.Array
PyTree = Any


def init_params(module, key: Array, shape: tuple[int, ...]) -> PyTree:
    """Returns new parameters of a module for inputs of a given shape."""
    inputs = jnp.zeros(shape, jnp.float32)
    return _pruned.evaluate(module.init, key, inputs)["params"]


def apply_module(module, params: PyTree, x: Array) -> Array:
    """Applies a module in training mode."""
    # Running statistics are dropped: these modules are only used in training. Flax
    # promotes activations and parameters to a common dtype, as intended.
    with jax.numpy_dtype_promotion("standard"):
        return module.apply({"params": params}, x, mutable=["batch_stats"])[0]


def module_per_layer(name: str, make: Callable) -> tuple[Callable, Callable]:
    """Makes one module per layer, from the student's to the teacher's activations.

    Args:
      name: Name of the term, for messages.
      make: Function `make(student, teacher, axis_name)` that returns the module of a
        layer, or None.

    Returns:
      `init(key, student, teacher) -> (params, State())` and `run(params, student,
      teacher, axis_name) -> mapped student`.
    """

    def init(key, student, teacher):
        structure: Any = jax.tree_util.tree_structure(student)
        if structure != jax.tree_util.tree_structure(teacher):
            raise ValueError(
                f"{name}: expected the same layers on both sides, got {structure} and "
                f"{jax.tree_util.tree_structure(teacher)}"
            )
        keys = structure.unflatten(jax.random.split(key, structure.num_leaves))

        def one(key, s, t):
            if len(s.shape) != len(t.shape) or s.shape[:-3] != t.shape[:-3]:
                raise ValueError(
                    f"{name}: no module maps activations {s.shape} to {t.shape}"
                )
            module = make(s, t, None)
            return {} if module is None else init_params(module, key, s.shape)

        return jax.tree.map(one, keys, student, teacher), State()

    def run(params, student, teacher, axis_name):
        def one(s, t, p):
            module = make(s, t, axis_name)
            return s if module is None else apply_module(module, p, s)

        return jax.tree.map(one, student, teacher, params)

    return init, run


def heads(features: int) -> tuple[Callable, Callable]:
    """Makes linear embeddings of one layer of student and teacher.

    Returns:
      `init(key, student, teacher) -> (params, State())` and `embed(params, student,
      teacher) -> (student's, teacher's)`, each `[batch, features]`.
    """
    features = _checks.as_count("number of features", features)
    head = regressors.Embedding(features)

    def init(key, student, teacher):
        for side in (student, teacher):
            if not hasattr(side, "shape"):
                raise ValueError(
                    f"expected one layer to embed, got {type(side).__name__}"
                )
        keys = jax.random.split(key)
        return {
            "student": init_params(head, keys[0], student.shape),
            "teacher": init_params(head, keys[1], teacher.shape),
        }, State()

    def embed(params, student, teacher):
        student = apply_module(head, params["student"], student)
        teacher = apply_module(head, params["teacher"], lax.stop_gradient(teacher))
        return student, teacher.astype(student.dtype)

    return init, embed


def pool(student: PyTree, teacher: PyTree) -> tuple[PyTree, PyTree]:
    """Pools the larger of two maps to the smaller, in every layer."""

    def one(s, t):
        return _geometry.pool_to_smaller(s, t) if s.ndim == t.ndim == 4 else (s, t)

    outer = jax.tree_util.tree_structure(student)
    inner = jax.tree_util.tree_structure((0, 0))
    pairs = jax.tree.map(one, student, teacher)
    return jax.tree_util.tree_transpose(outer, inner, pairs)


def as_maps(student: PyTree, teacher: PyTree) -> tuple[PyTree, PyTree]:
    """Reshapes vectors that are compared with maps to maps of one position."""

    def one(s, t):
        return s[:, None, None, :] if (s.ndim, t.ndim) == (2, 4) else s

    structure: Any = jax.tree_util.tree_structure(student)
    if structure != jax.tree_util.tree_structure(teacher):
        return student, teacher  # The caller raises the error.
    return jax.tree.map(one, student, teacher), jax.tree.map(one, teacher, student)
