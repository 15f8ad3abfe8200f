"""What is refused, by name, before any tracing error can.

Values are checked where they are known: outside jit, and constants inside. What is
traced and not finite stays so, and two constant RDMs have discrepancy 0.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rdljax import _checks, _indices

Array = jax.Array


def instance(chosen, room: str, example: type) -> None:
    """Checks for an instance of what `room` has, not a class."""
    if isinstance(chosen, type) or not callable(chosen):
        name = getattr(chosen, "__name__", None)
        hint = f"{name}() with its parentheses" if name else f"{example.__name__}()"
        raise ValueError(f"expected one of {room}, such as {hint}, got {chosen!r}")


def activations(x: Array, name: str = "activations", fewest: int = 2) -> None:
    """Checks for rows of so many stimuli or more."""
    if x.ndim < 2 or x.shape[0] < fewest or x.size == 0:
        number = {1: "one", 2: "two", 3: "three"}[fewest]
        raise ValueError(
            f"an RDM needs {name} [n, ...] of {number} stimuli or more, got {x.shape}"
        )


def finite(x: Array | np.ndarray, name: str = "activations") -> None:
    """Checks for NaN and infinity, where the values are known."""
    if not _checks.is_known(x):
        return
    bad = ~np.isfinite(np.asarray(x)).reshape(len(x), -1).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{name}: expected finite numbers, got NaN or infinity for "
            f"{bad.sum()} of {len(bad)} stimuli, the first of them {bad.argmax()}"
        )


def vary(x: Array, name: str = "activations") -> None:
    """Checks that stimuli differ, where the values are known."""
    if not _checks.is_known(x):
        return
    values = np.asarray(x)
    if (values[1:2] == values[:1]).all() and (values == values[:1]).all():
        raise ValueError(
            f"{name}: expected stimuli that differ, got the same activations for all "
            f"{len(x)} of them"
        )


def same_stimuli(student: Array, teacher: Array) -> None:
    """Checks for one row a stimulus on both sides."""
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f"expected activations of the same stimuli, got {student.shape[0]} of the "
            f"student {student.shape} and {teacher.shape[0]} of the teacher "
            f"{teacher.shape}"
        )


def pairs_of(pairs: Array, n: int) -> Array:
    """Pairs that are integers `[2, p]`; n for what is traced and no stimulus."""
    shape, dtype = jnp.shape(pairs), jnp.result_type(pairs)
    if len(shape) != 2 or shape[0] != 2 or shape[1] < 1 or dtype.kind not in "iu":
        raise ValueError(
            f"pairs must be integers [2, p], p of 1 or more, got {dtype} {shape}"
        )
    if not _checks.is_known(pairs):
        return _indices.places(pairs, n)
    values = np.asarray(pairs)
    if values.min() < 0 or values.max() >= n:
        raise ValueError(
            f"pairs must be of stimuli 0 to {n - 1}, got {values.min()} to "
            f"{values.max()}"
        )
    return jnp.asarray(pairs)


def weights_of(weights: Array, pairs: int, dtype) -> Array:
    """As many weights as pairs, as a float array; NaN where traced and below 0."""
    if jnp.shape(weights) != (pairs,):
        raise ValueError(
            f"expected a weight for each of {pairs} pairs, got {jnp.shape(weights)}"
        )
    _checks.check_real("weights", jnp.result_type(weights))
    if not _checks.is_known(weights):
        weights = weights.astype(dtype)
        return _checks.nan_unless(weights >= 0, weights)
    values = np.asarray(weights)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(
            "expected finite weights of 0 or more, got one below 0, infinite or NaN"
        )
    return jnp.asarray(weights, dtype)


def distances(x: Array, weights: Array | None, name: str) -> None:
    """Checks that distances with a weight are finite, where they are known."""
    if not _checks.is_known(x, weights):
        return
    bad = ~np.isfinite(np.asarray(x))
    if weights is not None:
        bad &= np.asarray(weights) > 0
    if bad.any():
        raise ValueError(
            f"the {name} RDM: expected finite distances, got NaN or infinity for "
            f"{bad.sum()} of {bad.size} pairs: give those weight 0"
        )


def factor(precision: Array, units: int, dtype, name: str) -> Array:
    """L of `precision = L L'`; a precision `[units, units]`, symmetric where known."""
    if jnp.shape(precision) != (units, units):
        raise ValueError(
            f"{name}: expected a precision {(units, units)} for {units} units, got "
            f"{jnp.shape(precision)}"
        )
    if not _checks.is_known(precision):
        return jnp.linalg.cholesky(precision.astype(dtype))
    values = np.asarray(precision, np.float64)
    unlike = np.abs(values - values.T).max() / (np.abs(values).max() or 1)
    if not unlike <= 1e-5:
        raise ValueError(
            f"{name}: expected a symmetric precision of finite numbers; its two "
            f"triangles differ by {unlike:.2g} of its largest entry"
        )
    try:
        found = np.linalg.cholesky((values + values.T) / 2)
    except np.linalg.LinAlgError:
        raise ValueError(f"{name}: expected a positive definite precision") from None
    return jnp.asarray(found, dtype)
