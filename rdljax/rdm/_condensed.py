"""Converts RDMs between square matrices and vectors of their upper triangle."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array

LARGEST = 65_536


def condense(matrix: Array) -> Array:
    """Returns the upper triangle of a matrix `[n, n]`, row by row: `[n (n - 1) / 2]`.

    Raises:
      ValueError: The matrix is not square, or not of 2 to 65,536 stimuli.
    """
    if np.ndim(matrix) != 2 or len({*np.shape(matrix)}) > 1 or len(matrix) < 2:
        raise ValueError(
            f"expected a matrix [n, n] of two stimuli or more, got {np.shape(matrix)}"
        )
    matrix = _as_distances(matrix)
    n = len(matrix)
    if n > LARGEST:
        raise ValueError(
            f"expected {LARGEST} stimuli or fewer, whose pairs int32 can count, got "
            f"{n}: rdm.discrepancy compares more without their RDMs"
        )
    if matrix.dtype == bool:
        return condense(matrix.astype(jnp.uint8)).astype(bool)
    pairs = n * (n - 1) // 2
    windows = lax.scatter_add(
        jnp.zeros(1 + pairs + n, matrix.dtype),
        _windows(n)[:, None],
        jnp.where(_above_diagonal(n), matrix, 0),
        lax.ScatterDimensionNumbers((1,), (), (0,)),
        indices_are_sorted=True,
        mode=lax.GatherScatterMode.PROMISE_IN_BOUNDS,
    )
    return windows[1 : 1 + pairs]


def square(condensed: Array) -> Array:
    """Returns the symmetric matrix `[n, n]`, zero on the diagonal, of a condensed RDM.

    Raises:
      ValueError: The length is not `n (n - 1) / 2` for any n.
    """
    condensed = _as_distances(condensed)
    if condensed.ndim != 1:
        raise ValueError(f"expected a condensed RDM [pairs], got {condensed.shape}")
    n = stimuli(condensed.shape[0])
    padded = jnp.pad(condensed, (1, n))
    rows = jax.vmap(lambda start: lax.dynamic_slice(padded, (start,), (n,)))
    upper = jnp.where(_above_diagonal(n), rows(_windows(n)), 0)
    return upper + upper.T


def stimuli(pairs: int) -> int:
    """Returns the number of stimuli of a condensed RDM of `pairs` distances.

    Raises:
      ValueError: No number n of stimuli has `n (n - 1) / 2 == pairs`.
    """
    n = (1 + math.isqrt(1 + 8 * pairs)) // 2
    if n < 2 or n * (n - 1) // 2 != pairs:
        near = max(n, 2)
        raise ValueError(
            f"no condensed RDM has {pairs} distances: {near} stimuli have "
            f"{near * (near - 1) // 2}, {near + 1} have {near * (near + 1) // 2}"
        )
    return n


# Whole rows of n numbers are copied: an index for every pair costs more above a few
# hundred stimuli. (JAX too derives each conversion as the transpose of the other.)
def _windows(n: int) -> np.ndarray:
    """Returns the start of each row of the matrix in a vector `[1 + pairs + n]`.

    Column j of row i is at `start + j`; up to the diagonal these are entries of other
    rows.
    """
    rows = np.arange(n, dtype=np.int64)
    return (rows * n - rows * (rows + 1) // 2 - rows).astype(np.int32)


def _above_diagonal(n: int) -> Array:
    columns = jnp.arange(n)
    return columns[:, None] < columns[None, :]


def _as_distances(x: Array) -> Array:
    """Converts to a JAX array; refuses integers that JAX's integer type cannot hold."""
    if not isinstance(x, Array):
        x = np.asarray(x)
        given = jax.dtypes.canonicalize_dtype(x.dtype)
        if x.dtype.kind in "iu" and x.size:
            limits = jnp.iinfo(given)
            if x.min() < limits.min or x.max() > limits.max:
                raise ValueError(
                    f"expected distances that {given} can hold, got {x.min()} to "
                    f"{x.max()}: give them as floats"
                )
    return jnp.asarray(x)
