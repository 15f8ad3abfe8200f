"""Checks shapes, dtypes and classes, with messages clearer than JAX's tracing errors.

Values are not checked (`rdljax.validate` does that): values that are not finite stay
so, and two constant RDMs have discrepancy 0.
"""

import jax
import jax.numpy as jnp

from rdljax import _checks, _indices

Array = jax.Array


def instance(chosen, module: str, example: type) -> None:
    """Checks that `chosen` is an instance from the module `module`, not a class."""
    if isinstance(chosen, type) or not callable(chosen):
        name = getattr(chosen, "__name__", None)
        hint = f"{name}() with its parentheses" if name else f"{example.__name__}()"
        raise ValueError(f"expected one of {module}, such as {hint}, got {chosen!r}")


def activations(x: Array, name: str = "activations", fewest: int = 2) -> None:
    """Checks that there are activations `[n, ...]` of at least `fewest` stimuli."""
    if x.ndim < 2 or x.shape[0] < fewest or x.size == 0:
        number = {1: "one", 2: "two", 3: "three"}[fewest]
        raise ValueError(
            f"an RDM needs {name} [n, ...] of {number} stimuli or more, got {x.shape}"
        )


def same_stimuli(student: Array, teacher: Array) -> None:
    """Checks that student and teacher have the same number of rows."""
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f"expected activations of the same stimuli, got {student.shape[0]} of the "
            f"student {student.shape} and {teacher.shape[0]} of the teacher "
            f"{teacher.shape}"
        )


def pairs_of(pairs: Array, n: int) -> Array:
    """Returns pairs of stimuli from integers `[2, p]`; n for an index out of range."""
    shape, dtype = jnp.shape(pairs), jnp.result_type(pairs)
    if len(shape) != 2 or shape[0] != 2 or shape[1] < 1 or dtype.kind not in "iu":
        raise ValueError(
            f"pairs must be integers [2, p], p of 1 or more, got {dtype} {shape}"
        )
    return _indices.places(pairs, n)


def weights_of(weights: Array, pairs: int, dtype) -> Array:
    """Returns weights `[pairs]` as floats; NaN for those negative or not finite."""
    if jnp.shape(weights) != (pairs,):
        raise ValueError(
            f"expected a weight for each of {pairs} pairs, got {jnp.shape(weights)}"
        )
    _checks.check_real("weights", jnp.result_type(weights))
    weights = jnp.asarray(weights, dtype)
    return _checks.nan_unless((weights >= 0) & jnp.isfinite(weights), weights)


def factor(precision: Array, units: int, dtype, name: str) -> Array:
    """Computes L with `precision = L L'`; NaN if it is not positive definite."""
    if jnp.shape(precision) != (units, units):
        raise ValueError(
            f"{name}: expected a precision {(units, units)} for {units} units, got "
            f"{jnp.shape(precision)}"
        )
    return jnp.linalg.cholesky(jnp.asarray(precision, dtype))
