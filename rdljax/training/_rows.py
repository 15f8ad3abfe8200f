"""Divides the rows of arrays into equal parts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def split(x: Any, count: int, over: str, axis: int = 0) -> Array:
    """Splits an axis into `count` equal parts; the new axis of parts comes first."""
    before, size, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    if size % count or not size:
        raise ValueError(f"a batch of {size} is not divisible by {count} {over}")
    return np.moveaxis(x.reshape(*before, count, size // count, *after), axis, 0)


def divided(x: Array, devices: int, rows: int | None = None) -> Array:
    """Divides rows `[n, ...]` to `[devices, rows, ...]`, padding the last with 0."""
    rows = -(-x.shape[0] // devices) if rows is None else rows
    x = x[: devices * rows]
    missing = devices * rows - x.shape[0]
    x = jnp.pad(x, [(0, missing), *[(0, 0)] * (x.ndim - 1)])
    return jnp.reshape(x, (devices, rows, *x.shape[1:]))
