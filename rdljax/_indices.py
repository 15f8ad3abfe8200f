"""Handles indices from data, such as labels, which may be out of range.

JAX indexes the last row with -1, and some other row with an index beyond the end; here
such an index becomes one that gives NaN. (`validate.indices` reports them.)
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def places(indices: Array, size: int) -> Array:
    """Converts integers to int32, with `size` for all that are not 0 to `size - 1`."""
    # JAX would truncate wider integers of NumPy to 32 bits.
    like = jnp if isinstance(indices, Array) else np
    indices = like.asarray(indices)
    if indices.dtype.itemsize < 4:  # Narrow integers may not represent `size`.
        indices = indices.astype(np.int32)
    valid = (indices >= 0) & (indices < size)
    return jnp.asarray(like.where(valid, indices, size), jnp.int32)


def rows(x: Array, indices: Array) -> Array:
    """Returns `x[indices]`, with NaN for indices out of range.

    Integers become float32, since they have no NaN.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(jnp.float32)
    return x.at[places(indices, len(x))].get(mode="fill", fill_value=jnp.nan)
