"""Checks that all rooms share: kind and range of numbers, indices and activations.

Numbers of Python and NumPy (a temperature, a count) are looked at. Arrays of JAX never
are, traced or not, nor are arrays that come as data: they are checked by shape and
dtype, and where a value is out of range the result is NaN. `rdljax.validate` looks at
those, for who wants it.
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
    """Raises `ValueError` for a number of a wrong kind or out of range.

    Args:
      name: What the number is, for the message.
      value: A number of Python or NumPy; or an array of JAX of shape `[]`, whose dtype
        and shape alone are checked.
      above: The number must be larger than this.
      at_least: The number must be this or larger.
      at_most: The number must be this or smaller.
      whole: Whether it must be an integer.
      several: Whether an array of any shape, not empty, will do.

    Raises:
      ValueError: Not a real number (a whole one, if asked for), not finite, or out of
        range; with the name, what is expected and what was given.
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
    """Returns a number for a formula in `dtype`, checked by `check_number`.

    A number of Python, which changes no dtype, if it is one of Python or NumPy. Of an
    array `[]` of JAX, one of the dtype: NaN where it is out of range.
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
    """Returns a whole number that shapes or loops depend on as one of Python.

    Raises:
      ValueError: Not a whole number, too small, or traced.
    """
    if isinstance(value, jax.core.Tracer):  # (It has no number to give.)
        raise ValueError(f"the {name} must be known when jax traces, got {value!r}")
    if isinstance(value, Array):
        value = np.asarray(value)
    check_number(name, value, at_least=at_least, whole=True)
    return int(np.asarray(value))


def check_integers(name: str, indices) -> None:
    """Raises `ValueError` for indices that are not integers."""
    dtype = indices.dtype if hasattr(indices, "dtype") else np.asarray(indices).dtype
    if not jax.dtypes.issubdtype(dtype, jnp.integer):
        raise ValueError(f"the {name} must be integers, got {dtype}")


def nan_unless(valid: Array | bool, value: Array) -> Array:
    """Returns the value, and NaN (value and gradient) where `valid` does not hold.

    For what is out of range.

    Args:
      valid: Whether the value is to be kept, of a shape that broadcasts to the value's.
      value: Numbers of a floating dtype.
    """
    return value * jnp.where(valid, 1, jnp.nan).astype(value.dtype)


def as_activations(x, name: str = "activations") -> Array:
    """Returns activations as a JAX array, without a change of their values.

    Raises:
      ValueError: Activations that are not real numbers (complex, strings, objects), or
        that JAX cannot hold: float64 beyond the range of float32, unless x64 is on.
    """
    if not isinstance(x, Array):
        x = np.asarray(x)
        if x.dtype.kind in "iu" and x.dtype.itemsize >= 4:
            # JAX would keep the lower 32 bits of wider integers.
            x = x.astype(np.float32)
        if x.dtype == np.float64 and not jax.config.read("jax_enable_x64"):
            _check_range(name, x)
    check_real(name, x.dtype)
    return jnp.asarray(x)


def _check_range(name: str, x: np.ndarray) -> None:
    """Raises `ValueError` where the largest number is 0 or infinite in float32."""
    largest, limits = np.abs(x).max(initial=0), np.finfo(np.float32)
    if 0 < largest < limits.tiny or limits.max < largest < np.inf:
        raise ValueError(
            f"expected {name} that float32 can hold, got up to {largest}: scale them, "
            "or set jax_enable_x64"
        )


def check_real(name: str, dtype: jnp.dtype) -> None:
    """Raises `ValueError` for numbers that are not real (complex, strings, objects)."""
    real = (np.bool_, jnp.integer, jnp.floating)
    if not any(jax.dtypes.issubdtype(dtype, kind) for kind in real):
        raise ValueError(f"expected {name} that are real numbers, got {dtype}")
