"""Estimates the squared MMD of two samples, and tests whether they differ."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rdljax import _blocks, _checks, _geometry
from rdljax.mmd import kernels
from rdljax.mmd.kernels import Kernel, Polynomial, RowKernel

Array = jax.Array


def biased(
    x: Array, y: Array, *, kernel: Kernel = Polynomial(), block: int | None = None
) -> Array:
    """Computes the squared MMD of the two empirical distributions: the V-statistic.

    Args:
      x: Rows `[n, units]`.
      y: Rows `[m, units]`.
      kernel: One of the kernels, or any function from `[n, units]` to `[n, n]`.
      block: Side of the tiles, in rows, to compute the kernel matrix tile by tile in
        `O((n + m) units + block^2)` memory. The kernel must then be one of this module,
        with a fixed width (see `fit`); its parameters have no gradient, and the rows
        no forward-mode derivative. None: builds the whole kernel matrix.

    Returns:
      A scalar, not negative up to rounding, and 0 for equal samples: the mean of the
      kernel within x, plus that within y, minus twice that between them.

    Raises:
      ValueError: Rows with different numbers of units, or a class in place of a kernel.

    References:
      Gretton et al., `A Kernel Two-Sample Test
      <https://jmlr.org/papers/v13/gretton12a.html>`_, JMLR 2012, eq. 5.
    """
    x, y = _samples(x, y, kernel)
    n, m = len(x), len(y)
    if block is not None:
        of_pairs = _Weights(1 / n**2, 1 / m**2, -1 / (n * m))
        return _streamed(x, y, kernel, block, of_pairs, own=True)
    if hasattr(kernel, "between"):
        return kernel.between(x, y)
    # A quadratic form with weights 1/n for x and -1/m for y.
    weights = np.concatenate([np.full(n, 1 / n), np.full(m, -1 / m)]).astype(x.dtype)
    matrix = kernel(jnp.concatenate([x, y]))
    return jnp.sum(matrix * (weights[:, None] * weights[None, :]))


def unbiased(
    x: Array, y: Array, *, kernel: Kernel = Polynomial(), block: int | None = None
) -> Array:
    """Computes an unbiased estimate of the squared MMD of two distributions.

    As `biased`, without the kernel of each row with itself.

    Args:
      x: Rows `[n, units]`, two or more.
      y: Rows `[m, units]`, two or more.
      kernel: One of the kernels, or any function from `[n, units]` to `[n, n]`.
      block: As for `biased`.

    Returns:
      A scalar, which may be negative.

    Raises:
      ValueError: Fewer than two rows in a sample, rows with different numbers of units,
        or a class in place of a kernel.

    References:
      Gretton et al., `A Kernel Two-Sample Test
      <https://jmlr.org/papers/v13/gretton12a.html>`_, JMLR 2012, eq. 3.
    """
    x, y = _samples(x, y, kernel)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"expected two rows or more, got {x.shape} and {y.shape}")
    if block is not None:
        of_pairs = _Weights(1 / (n * (n - 1)), 1 / (m * (m - 1)), -1 / (n * m))
        return _streamed(x, y, kernel, block, of_pairs, own=False)
    matrix = kernel(jnp.concatenate([x, y]))
    return (
        _others(matrix[:n, :n]) + _others(matrix[n:, n:]) - 2 * jnp.mean(matrix[:n, n:])
    )


def linear_time(x: Array, y: Array, *, kernel: RowKernel = Polynomial()) -> Array:
    """Computes an unbiased estimate of the squared MMD in linear time.

    From disjoint pairs of neighbouring rows, which have to be in random order. It is
    noisier than `unbiased`, but costs no more than reading the samples.

    Args:
      x: Rows `[n, units]`, two or more; the last is left out if n is odd.
      y: Rows `[n, units]`.
      kernel: One of the kernels, with a fixed width (see `fit`).

    Returns:
      A scalar, which may be negative.

    Raises:
      ValueError: Samples of different shapes, fewer than two rows, a class in place of
        a kernel, or a kernel whose width is computed from the data.

    References:
      Gretton et al., `A Kernel Two-Sample Test
      <https://jmlr.org/papers/v13/gretton12a.html>`_, JMLR 2012, lemma 14.
    """
    x, y = _samples(x, y, kernel)
    if x.shape != y.shape or len(x) < 2:
        raise ValueError(
            f"expected two rows or more, the same number in both samples, got "
            f"{x.shape} and {y.shape}"
        )
    _check_pairwise(kernel)
    n = len(x) // 2 * 2
    (x, other_x), (y, other_y) = ((a[:n:2], a[1:n:2]) for a in (x, y))
    within = kernel.rows(x, other_x) + kernel.rows(y, other_y)
    return jnp.mean(within - kernel.rows(x, other_y) - kernel.rows(other_x, y))


class PermutationTest(NamedTuple):
    """The result of a permutation test: the squared MMD and its p value."""

    value: Array
    p_value: Array


def permutation_test(
    key: Array,
    x: Array,
    y: Array,
    *,
    kernel: Kernel = Polynomial(),
    permutations: int = 1000,
) -> PermutationTest:
    """Tests whether two samples are from the same distribution.

    Compares the unbiased estimate with its values for random divisions of the pooled
    sample. All of them are computed from one kernel matrix, by products with vectors of
    0 and 1.

    Args:
      key: A random key.
      x: Rows `[n, units]`, two or more.
      y: Rows `[m, units]`, two or more.
      kernel: One of the kernels, or any function from `[n, units]` to `[n, n]`.
      permutations: Number of random divisions.

    Returns:
      The estimate and the p value: the number of divisions with an estimate at least as
      large, plus 1, divided by the number of divisions plus 1.

    Raises:
      ValueError: As for `unbiased`, or fewer than one permutation.

    References:
      Gretton et al., `A Kernel Two-Sample Test
      <https://jmlr.org/papers/v13/gretton12a.html>`_, JMLR 2012. Phipson & Smyth,
      Permutation P-values should never be zero, 2010: the addition of 1.
    """
    x, y = _samples(x, y, kernel)
    n, m = len(x), len(y)
    permutations = _checks.as_count("number of permutations", permutations)
    if min(n, m) < 2:
        raise ValueError(f"expected two rows or more, got {x.shape} and {y.shape}")
    matrix = kernel(jnp.concatenate([x, y]))
    matrix = jnp.where(jnp.eye(n + m, dtype=bool), 0, matrix)
    # The divisions, with that of the given samples first.
    first = jnp.arange(n + m) < n
    keys = jax.random.split(key, permutations)
    drawn = jax.vmap(lambda k: jax.random.permutation(k, first))(keys)
    first = jnp.concatenate([first[None], drawn]).astype(x.dtype)
    product = functools.partial(jnp.matmul, precision=_geometry.HIGHEST)
    within_x = jnp.sum(product(first, matrix) * first, axis=1)
    by_row = product(first, jnp.sum(matrix, axis=1))
    between = by_row - within_x
    pairs_x, pairs_y, both = float(n * (n - 1)), float(m * (m - 1)), float(n * m)
    within_y = jnp.sum(matrix) - within_x - 2 * between
    values = within_x / pairs_x + within_y / pairs_y - 2 * between / both
    # Up to rounding, since a division may be that of the given samples again.
    rounding = 32 * jnp.finfo(x.dtype).eps * jnp.max(jnp.abs(matrix))
    as_large = jnp.sum(values[1:] >= values[0] - rounding)
    p_value = (1 + as_large) / (1 + permutations)
    return PermutationTest(
        values[0], _checks.nan_unless(jnp.isfinite(values[0]), p_value)
    )


def _others(within: Array) -> Array:
    """Returns the mean of the entries off the diagonal."""
    count = float(len(within))
    return (jnp.sum(within) - jnp.trace(within)) / (count * (count - 1))


class _Weights(NamedTuple):
    """The weights of ordered pairs of rows.

    Attributes:
      of_x: Weight of pairs within x.
      of_y: Weight of pairs within y.
      mixed: Weight of pairs of x and y.
    """

    of_x: float
    of_y: float
    mixed: float


def _streamed(
    x: Array, y: Array, kernel, block: int, weights: _Weights, *, own: bool
) -> Array:
    """Computes the weighted sum of the kernel over ordered pairs, tile by tile."""
    _check_pairwise(kernel)
    block = _checks.as_count("block", block)
    n, pooled = len(x), jnp.concatenate([x, y])
    if isinstance(kernel, kernels.Radial):
        kernel.check_fixed()
        unit = _geometry.power_of_two(pooled)
        pooled = _geometry.centre_for_distances(pooled / unit)
        kernel = kernel.times(1 / unit)
        x, y = pooled[:n], pooled[n:]

    def tile(kernel, row_place, column_place, rows, columns):
        (i, fresh_i), (j, fresh_j) = row_place, column_place
        i, j = i[:, None], j[None, :]
        weight = jnp.where(
            j < n, weights.of_x, jnp.where(i < n, weights.mixed, weights.of_y)
        )
        # Pairs above the diagonal count for those below too.
        counted = (i < j) & fresh_i[:, None] & fresh_j[None, :]
        values = kernel.cross(rows, columns)
        return jnp.sum(jnp.where(counted, 2 * weight, 0).astype(values.dtype) * values)

    kernel = jax.tree.map(lax.stop_gradient, kernel)
    starts = _blocks.tiles(len(pooled), block)
    total = _blocks.total(tile, starts, block, pooled, kernel)
    if own:
        of_x = weights.of_x * jnp.sum(kernel.rows(x, x))
        of_y = weights.of_y * jnp.sum(kernel.rows(y, y))
        total += of_x + of_y
    return total


def _samples(x: Array, y: Array, kernel) -> tuple[Array, Array]:
    """Checks samples and kernel, and returns the samples in at least float32."""
    if isinstance(kernel, type) or not callable(kernel):
        raise ValueError(
            f"expected a kernel of rdljax.mmd, such as Polynomial() with its "
            f"parentheses, got {kernel!r}"
        )
    x, y = map(_checks.as_activations, (x, y))
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"expected rows [n, units] and [m, units], got {x.shape} and {y.shape}"
        )
    if 0 in (*x.shape, *y.shape):
        raise ValueError(f"expected rows in both samples, got {x.shape} and {y.shape}")
    dtype = _geometry.compute_dtype(x)
    return x.astype(dtype), y.astype(dtype)


def _check_pairwise(kernel) -> None:
    if not hasattr(kernel, "cross"):
        raise ValueError(f"expected one of the kernels of rdljax.mmd, got {kernel!r}")
