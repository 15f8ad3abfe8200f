"""Indices that come with the data, such as labels, and may be out of range.

JAX takes the last row for -1, and some other row beyond the end; here such an index
becomes one that gives NaN. (`validate.indices` says which they are.)
"""

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def places(indices: Array, size: int) -> Array:
    """Returns integers of any kind as int32: `size` for all but 0 to `size - 1`."""
    # (JAX would keep the lower 32 bits of NumPy's larger integers.)
    like = jnp if isinstance(indices, Array) else np
    indices = like.asarray(indices)
    if indices.dtype.itemsize < 4:  # (8 bits may have no number `size`.)
        indices = indices.astype(np.int32)
    valid = (indices >= 0) & (indices < size)
    return jnp.asarray(like.where(valid, indices, size), jnp.int32)


def rows(x: Array, indices: Array) -> Array:
    """Returns `x[indices]`, NaN where there is no such row.

    Integers, which have no NaN, become float32.
    """
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.inexact):
        x = x.astype(jnp.float32)
    return x.at[places(indices, len(x))].get(mode="fill", fill_value=jnp.nan)
