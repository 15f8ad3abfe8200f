"""RDMs as vectors of their upper triangle, and as square matrices."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array

# Beyond so many stimuli an index for every pair costs more than copying row by row.
INDEXED = 256
LARGEST = 65_536


def condense(matrix: Array) -> Array:
    """The upper triangle of `[n, n]`, row by row: `[n (n - 1) / 2]`.

    Raises:
      ValueError: Not a square matrix of 2 to 65,536 stimuli.
    """
    if np.ndim(matrix) != 2 or len({*np.shape(matrix)}) > 1 or len(matrix) < 2:
        raise ValueError(
            f"expected a matrix [n, n] of two stimuli or more, got {np.shape(matrix)}"
        )
    matrix = jnp.asarray(matrix)
    if matrix.shape[0] > LARGEST:
        raise ValueError(
            f"expected {LARGEST} stimuli or fewer, whose pairs int32 can count, got "
            f"{matrix.shape[0]}: rdm.discrepancy compares more without their RDMs"
        )
    if matrix.shape[0] <= INDEXED:
        return matrix[np.triu_indices(matrix.shape[0], 1)]
    return _condense(matrix)


def square(condensed: Array) -> Array:
    """The symmetric matrix `[n, n]`, zero on the diagonal, of a condensed RDM.

    Raises:
      ValueError: No RDM has that many distances.
    """
    condensed = jnp.asarray(condensed)
    if condensed.ndim != 1:
        raise ValueError(f"expected a condensed RDM [pairs], got {condensed.shape}")
    n = stimuli(condensed.shape[0])
    if n <= INDEXED:
        matrix = jnp.zeros((n, n), condensed.dtype)
        matrix = matrix.at[np.triu_indices(n, 1)].set(condensed)
    else:
        matrix = _upper_triangle(condensed)
    return matrix + matrix.T


def stimuli(pairs: int) -> int:
    """How many stimuli a condensed RDM of `pairs` distances has.

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


# Both loops copy whole rows, each over the tail of the one before, without an index for
# every pair. They are linear, and each is the transpose of the other.
@jax.custom_vjp
def _condense(matrix: Array) -> Array:
    n = matrix.shape[0]
    pairs = n * (n - 1) // 2
    # A row of n distances always fits.
    padded = jnp.pad(matrix, ((0, 0), (0, n)))

    def copy(place, i):
        out, start = place
        row = lax.dynamic_slice(padded, (i, i + 1), (1, n))[0]
        return (lax.dynamic_update_slice(out, row, (start,)), start + n - 1 - i), None

    out = jnp.zeros(pairs + n, matrix.dtype) + 0 * matrix[0, 0]
    start = jnp.zeros((), jnp.int32)
    return lax.scan(copy, (out, start), jnp.arange(n - 1))[0][0][:pairs]


@jax.custom_vjp
def _upper_triangle(condensed: Array) -> Array:
    n = stimuli(condensed.shape[0])
    padded = jnp.pad(condensed, (0, n))
    columns = jnp.arange(n)

    def copy(start, i):
        # Column j of row i is at start + j - i - 1: what comes before is masked.
        row = lax.dynamic_slice(padded, (start,), (n,))
        row = jnp.where(columns > i, jnp.roll(row, i + 1), 0)
        return start + n - 1 - i, row

    start = jnp.zeros((), jnp.int32)
    return lax.scan(copy, start, jnp.arange(n))[1]


_condense.defvjp(lambda x: (_condense(x), None), lambda _, g: (_upper_triangle(g),))
_upper_triangle.defvjp(
    lambda x: (_upper_triangle(x), None), lambda _, g: (_condense(g),)
)
