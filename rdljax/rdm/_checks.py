"""What is refused, by name, before any tracing error can.

Values are checked where they are known: outside jit. Inside, what is not finite stays
so, and two constant RDMs have discrepancy 0.
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def known(*arrays: Array) -> bool:
    """Whether the values of all these can be looked at: none is traced."""
    return not any(isinstance(x, jax.core.Tracer) for x in arrays)


def instance(chosen, room: str, example: type) -> None:
    """An instance of what `room` has, not a class."""
    if isinstance(chosen, type) or not callable(chosen):
        name = getattr(chosen, "__name__", None)
        hint = f"{name}() with its parentheses" if name else f"{example.__name__}()"
        raise ValueError(f"expected one of {room}, such as {hint}, got {chosen!r}")


def activations(x: Array, name: str = "activations", fewest: int = 2) -> None:
    """Rows of so many stimuli or more."""
    if x.ndim < 2 or x.shape[0] < fewest or x.size == 0:
        number = {1: "one", 2: "two", 3: "three"}[fewest]
        raise ValueError(
            f"an RDM needs {name} [n, ...] of {number} stimuli or more, got {x.shape}"
        )


def finite(x: Array, name: str = "activations") -> None:
    """No NaN and no infinity, where the values are known."""
    if not known(x):
        return
    bad = ~jnp.all(jnp.isfinite(x).reshape(x.shape[0], -1), axis=1)
    if bad.any():
        raise ValueError(
            f"{name}: expected finite numbers, got NaN or infinity for "
            f"{int(bad.sum())} of {len(bad)} stimuli, the first of them "
            f"{int(bad.argmax())}"
        )


def vary(x: Array, name: str = "activations") -> None:
    """Not the same activations for all stimuli, where the values are known."""
    if known(x) and bool(jnp.all(x == x[:1])):
        raise ValueError(
            f"{name}: expected stimuli that differ, got the same activations for all "
            f"{len(x)} of them"
        )


def same_stimuli(student: Array, teacher: Array) -> None:
    """One row a stimulus on both sides."""
    if student.shape[0] != teacher.shape[0]:
        raise ValueError(
            f"expected activations of the same stimuli, got {student.shape[0]} of the "
            f"student {student.shape} and {teacher.shape[0]} of the teacher "
            f"{teacher.shape}"
        )


def pairs_of(pairs: Array, n: int) -> Array:
    """Pairs that are integers `[2, p]`; below n, where their values are known."""
    shape, dtype = jnp.shape(pairs), jnp.result_type(pairs)
    if len(shape) != 2 or shape[0] != 2 or shape[1] < 1 or dtype.kind not in "iu":
        raise ValueError(
            f"pairs must be integers [2, p], p of 1 or more, got {dtype} {shape}"
        )
    if known(pairs):
        values = np.asarray(pairs)
        if values.min() < 0 or values.max() >= n:
            raise ValueError(
                f"pairs must be of stimuli 0 to {n - 1}, got {values.min()} to "
                f"{values.max()}"
            )
    return jnp.asarray(pairs)


def weights_of(weights: Array, pairs: int) -> Array:
    """As many weights as pairs."""
    if jnp.shape(weights) != (pairs,):
        raise ValueError(
            f"expected a weight for each of {pairs} pairs, got {jnp.shape(weights)}"
        )
    if known(weights) and not np.all(np.asarray(weights) >= 0):
        raise ValueError("expected weights of 0 or more, got one below 0 or NaN")
    return jnp.asarray(weights)


def distances(x: Array, weights: Array | None, name: str) -> None:
    """Finite where they have a weight, where the values are known."""
    if not known(x) or (weights is not None and not known(weights)):
        return
    bad = ~jnp.isfinite(x)
    if weights is not None:
        bad &= weights > 0
    if bad.any():
        raise ValueError(
            f"the {name} RDM: expected finite distances, got NaN or infinity for "
            f"{int(bad.sum())} of {bad.size} pairs: give those weight 0"
        )


def factor(precision: Array, units: int, dtype, name: str) -> Array:
    """L of `precision = L L'`; a precision `[units, units]`, symmetric where known."""
    if jnp.shape(precision) != (units, units):
        raise ValueError(
            f"{name}: expected a precision {(units, units)} for {units} units, got "
            f"{jnp.shape(precision)}"
        )
    if known(precision):
        values = np.asarray(precision, np.float64)
        unlike = np.abs(values - values.T).max() / (np.abs(values).max() or 1)
        if not unlike <= 1e-5:
            raise ValueError(
                f"{name}: expected a symmetric precision of finite numbers; its two "
                f"triangles differ by {unlike:.2g} of its largest entry"
            )
    found = jnp.linalg.cholesky(jnp.asarray(precision, dtype))
    if known(found) and not jnp.isfinite(found).all():
        raise ValueError(f"{name}: expected a positive definite precision")
    return found
