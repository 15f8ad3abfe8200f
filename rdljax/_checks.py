"""Checks kind and range of numbers, indices and activations, for all modules.

The values of Python and NumPy numbers (a temperature, a count) are checked. The values
of JAX arrays, traced or not, and of arrays of data are not: only their shapes and
dtypes are checked, and values out of range give NaN. `rdljax.validate` checks values on
request. The one exception are numbers of NumPy that JAX cannot represent: they are
refused when they are converted (as arguments of jit JAX converts them before).
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def check_number(
    name: str,
    value,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    whole: bool = False,
    several: bool = False,
) -> None:
    """Checks the kind and the range of a number.

    Args:
      name: Name of the number in the message.
      value: A Python or NumPy number; or a JAX array of shape `[]`, of which only dtype
        and shape are checked.
      above: Lower bound, excluded. None: no such bound.
      at_least: Lower bound, included. None: no such bound.
      at_most: Upper bound, included. None: no such bound.
      whole: Whether the number must be an integer.
      several: Whether a non-empty array of any shape is allowed.

    Raises:
      ValueError: The value is not a real number (or not an integer, if `whole`), not
        finite, or out of range; the message has the name, the expected range and the
        value.
    """
    expected = "a whole number" if whole else "a finite number"
    if above is not None:
        expected += f" above {above}"
    if at_least is not None:
        expected += f" of {at_least} or more"
    if at_most is not None:
        expected += f" and at most {at_most}"
    if not _is_number(value, above, at_least, at_most, whole, several):
        raise ValueError(f"the {name} must be {expected}, got {value!r}")


def _is_number(value, above, at_least, at_most, whole: bool, several: bool) -> bool:
    chosen = not isinstance(value, Array)
    if chosen:
        value = np.asarray(value)
    kinds = (jnp.integer,) if whole else (jnp.integer, jnp.floating)
    if not any(jax.dtypes.issubdtype(value.dtype, kind) for kind in kinds):
        return False
    if value.shape != () and not (several and value.size):
        return False
    if not chosen:
        return True
    value = value.astype(np.float64)
    return bool(
        np.isfinite(value).all()
        and (above is None or (value > above).all())
        and (at_least is None or (value >= at_least).all())
        and (at_most is None or (value <= at_most).all())
    )


def as_number(
    name: str,
    value,
    dtype: jnp.dtype,
    *,
    above: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
):
    """Checks a number by `check_number` and returns it for a formula in `dtype`.

    Python and NumPy numbers are returned as Python numbers, which do not change dtypes;
    a JAX array `[]` as an array of the dtype, with NaN if it is out of range.
    """
    check_number(name, value, above=above, at_least=at_least, at_most=at_most)
    if not isinstance(value, Array):
        return np.asarray(value).item()
    valid = jnp.isfinite(value)
    if above is not None:
        valid &= value > above
    if at_least is not None:
        valid &= value >= at_least
    if at_most is not None:
        valid &= value <= at_most
    return nan_unless(valid, value.astype(dtype))


def as_count(name: str, value, at_least: int = 1) -> int:
    """Checks a whole number for shapes or loops and returns it as a Python integer.

    Raises:
      ValueError: The value is not a whole number, too small, or traced.
    """
    if isinstance(value, jax.core.Tracer):  # It has no value.
        raise ValueError(f"the {name} must be concrete, not traced, got {value!r}")
    if isinstance(value, Array):
        value = np.asarray(value)
    check_number(name, value, at_least=at_least, whole=True)
    return int(np.asarray(value))


def check_confidence(confidence: float) -> None:
    """Checks that a confidence level is a number between 0 and 1."""
    check_number("confidence", confidence, above=0)
    if confidence >= 1:
        raise ValueError(f"the confidence must be between 0 and 1: got {confidence}")


def check_integers(name: str, indices) -> None:
    """Checks that indices are integers; raises `ValueError` otherwise."""
    dtype = indices.dtype if hasattr(indices, "dtype") else np.asarray(indices).dtype
    if not jax.dtypes.issubdtype(dtype, jnp.integer):
        raise ValueError(f"the {name} must be integers, got {dtype}")


def nan_unless(valid: Array | bool, value: Array) -> Array:
    """Returns the value, but NaN (with gradient NaN) where `valid` is false.

    Args:
      valid: Mask, of a shape that broadcasts to that of the value.
      value: Array of a floating dtype.
    """
    return value * jnp.where(valid, 1, jnp.nan).astype(value.dtype)


def as_activations(x, name: str = "activations") -> Array:
    """Converts activations to a JAX array without changing their values.

    Raises:
      ValueError: The activations are not real numbers (complex, strings, objects), or
        JAX cannot represent them: float64 beyond the range of float32, unless x64 is
        enabled.
    """
    if not isinstance(x, Array):
        x = np.asarray(x)
        if x.dtype.kind in "iu" and x.dtype.itemsize >= 4:
            # JAX would truncate wider integers to 32 bits.
            x = x.astype(np.float32)
        if x.dtype == np.float64 and not jax.config.read("jax_enable_x64"):
            _check_range(name, x)
    check_real(name, x.dtype)
    return jnp.asarray(x)


def _check_range(name: str, x: np.ndarray) -> None:
    """Checks that the largest number is neither 0 nor infinite in float32."""
    largest, limits = np.abs(x).max(initial=0), np.finfo(np.float32)
    if 0 < largest < limits.tiny or limits.max < largest < np.inf:
        raise ValueError(
            f"expected {name} that float32 can hold, got up to {largest}: scale them, "
            "or set jax_enable_x64"
        )


def check_real(name: str, dtype: jnp.dtype) -> None:
    """Checks that a dtype is of real numbers: not complex, strings or objects."""
    real = (np.bool_, jnp.integer, jnp.floating)
    if not any(jax.dtypes.issubdtype(dtype, kind) for kind in real):
        raise ValueError(f"expected {name} that are real numbers, got {dtype}")
