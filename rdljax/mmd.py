"""Estimates the maximum mean discrepancy (MMD) of two samples, and defines kernels.

The MMD is the distance between the means of two samples in the feature space of a
kernel (Gretton et al., `A Kernel Two-Sample Test
<https://jmlr.org/papers/v13/gretton12a.html>`_, JMLR 2012). `biased` and `unbiased`
estimate its square.

A kernel is a frozen dataclass registered as a pytree. Called with rows `[n, units]` it
returns their kernel matrix `[n, n]`. Both samples are passed to it together, so that a
width that is computed from the data is the same for all pairs. The methods `cross` and
`rows` return the kernel of two samples, if the width is fixed. `Linear` and
`Polynomial` of degree 2 have few features: their method `between` computes the biased
estimate as one difference of two moments, and builds no kernel matrix if that costs
less.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rdljax import _blocks, _checks, _geometry, _pytrees

__all__ = [
    "Gaussian",
    "InverseMultiquadric",
    "Laplace",
    "Linear",
    "Polynomial",
    "PermutationTest",
    "biased",
    "by_mean",
    "by_median",
    "linear_time",
    "permutation_test",
    "unbiased",
]

Array = jax.Array


class Kernel(Protocol):
    """The interface of a kernel; a function of rows will do."""

    def __call__(self, x: Array, /) -> Array:
        """Returns the kernel `[n, n]` of rows `[n, units]`."""


class RowKernel(Kernel, Protocol):
    """The interface of a kernel that can also be computed row by row."""

    def rows(self, x: Array, y: Array, /) -> Array:
        """Returns the kernel `[n]` of each row of x with the same row of y."""


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Linear:
    """`x.y`: compares the means of the samples."""

    def __call__(self, x: Array) -> Array:
        return _geometry.gram(x)

    def cross(self, x: Array, y: Array) -> Array:
        """Computes the kernel `[n, m]` of rows `[n, units]` with rows `[m, units]`."""
        return _geometry.inner(x, y)

    def rows(self, x: Array, y: Array) -> Array:
        """Computes the kernel `[n]` of each row of x with the same row of y."""
        return jnp.sum(x * y, axis=1)

    def between(self, x: Array, y: Array) -> Array:
        """Computes the biased estimate from the two means."""
        return _squared_norm(jnp.mean(x, axis=0) - jnp.mean(y, axis=0))


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Polynomial:
    """`(x.y + offset) ** degree`: compares moments up to the degree.

    Attributes:
      degree: A whole number, 1 or more; ValueError otherwise.
      offset: A number, not negative; 0 compares only the moments of the last degree. A
        negative number raises a ValueError; a negative JAX array gives NaN.
    """

    degree: int = dataclasses.field(default=2, metadata={"static": True})
    offset: float | Array = 0.0

    def __post_init__(self):
        object.__setattr__(self, "degree", _checks.as_count("degree", self.degree))
        _checks.check_number("offset", self.offset, at_least=0)

    def _of(self, products: Array) -> Array:
        return (products + self._offset(products.dtype)) ** self.degree

    def _offset(self, dtype: jnp.dtype) -> float | Array:
        return _checks.as_number("offset", self.offset, dtype, at_least=0)

    def __call__(self, x: Array) -> Array:
        return self._of(_geometry.gram(x))

    def cross(self, x: Array, y: Array) -> Array:
        """Computes the kernel `[n, m]` of rows `[n, units]` with rows `[m, units]`."""
        return self._of(_geometry.inner(x, y))

    def rows(self, x: Array, y: Array) -> Array:
        """Computes the kernel `[n]` of each row of x with the same row of y."""
        return self._of(jnp.sum(x * y, axis=1))

    def between(self, x: Array, y: Array) -> Array:
        """Computes the biased estimate from second moments or from products.

        It uses the cheaper of the two.
        """
        n, m, units = len(x), len(y), x.shape[1]
        by_products = units * (n + m) > n * n + m * m + n * m
        if self.degree != 2 or (by_products and n != m):
            between = jnp.mean(self.cross(x, y))
            return jnp.mean(self(x)) + jnp.mean(self(y)) - 2 * between
        if by_products:
            # With difference d and sum s, x'x - y'y = (d's + s'd) / 2, whose squared
            # norm is accurate if x and y are close.
            d, s = x - y, x + y
            mixed = _geometry.inner(d, s)
            squares = jnp.sum(_geometry.gram(d) * _geometry.gram(s))
            value = (squares + jnp.sum(mixed * mixed.T)) / (2 * n**2)
        else:
            value = _squared_norm(_geometry.gram(x.T) / n - _geometry.gram(y.T) / m)
        offset = self._offset(x.dtype)
        if isinstance(offset, int | float) and offset == 0:
            return value
        return value + 2 * offset * Linear().between(x, y)


class _Radial:
    """A kernel `profile(t)` of `t = (|x - y| / width)^2`, averaged over the widths."""

    width: float | Array
    scale: Callable[[Array], Array] | None

    def profile(self, t: Array) -> Array:
        raise NotImplementedError

    def __post_init__(self):
        self._check()

    def __call__(self, x: Array) -> Array:
        x = _rows(x)
        unit = _geometry.power_of_two(x)
        squared = _geometry.squared_distances(x / unit)
        return self._of(squared, self._length(squared, unit))

    def cross(self, x: Array, y: Array) -> Array:
        """Computes the kernel `[n, m]` of rows `[n, units]` with rows `[m, units]`.

        Accurate for rows whose mean is small compared with their spread.

        Raises:
          ValueError: The width is computed from the data: see `fitted`.
        """
        self._fixed()
        x, y, unit = _in_one_unit(x, y)
        return self._of(_geometry.squared_distances_between(x, y), 1 / unit)

    def rows(self, x: Array, y: Array) -> Array:
        """Computes the kernel `[n]` of each row of x with the same row of y.

        Raises:
          ValueError: The width is computed from the data: see `fitted`.
        """
        self._fixed()
        x, y, unit = _in_one_unit(x, y)
        return self._of(jnp.sum((x - y) ** 2, axis=1), 1 / unit)

    def fitted(self, x: Array):
        """Returns this kernel with a fixed width, computed from a sample."""
        if self.scale is None:
            return self
        x = _rows(x)
        unit = _geometry.power_of_two(x)
        length = self._length(_geometry.squared_distances(x / unit), unit)
        return self._times(length * unit)

    def _times(self, factor: Array):
        """Returns this kernel with a fixed width: its width times a factor."""
        width = jnp.asarray(self.width, factor.dtype) * factor
        # All kernels are dataclasses.
        return dataclasses.replace(self, width=width, scale=None)  # type: ignore

    def _length(self, squared: Array, unit: Array) -> Array:
        """Returns the length that the width multiplies, in units of the distances."""
        if self.scale is None:
            return 1 / unit
        length = lax.stop_gradient(self.scale(squared))
        # If all rows are equal, the length does not matter.
        return jnp.where(length <= 0, 1, length)

    def _check(self) -> None:
        for width in jax.tree.leaves(self.width, is_leaf=lambda x: x is None) or [()]:
            _checks.check_number("width", width, above=0, several=True)

    def _fixed(self) -> None:
        if self.scale is not None:
            raise ValueError(
                f"{type(self).__name__}: the width is computed from the data, which "
                f"are not all available here: pass kernel.fitted(rows), fitted to some "
                f"thousand rows"
            )

    def _of(self, squared: Array, length: Array) -> Array:
        """Computes the mean kernel over the widths, which are multiples of a length."""
        self._check()
        widths = jnp.ravel(jnp.asarray(self.width, squared.dtype))
        widths = _checks.nan_unless((widths > 0) & jnp.isfinite(widths), widths)
        # The square of a width must not underflow to 0.
        widths = jnp.maximum(widths * length, jnp.finfo(squared.dtype).tiny ** 0.5)
        kernels = (self.profile(squared / width**2) for width in widths)
        return functools.reduce(jnp.add, kernels) / len(widths)


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Gaussian(_Radial):
    """`exp(-|x - y|^2 / (2 width^2))`.

    Attributes:
      width: A number above 0, or several numbers, whose kernels are averaged. Other
        numbers raise a ValueError; other values of a JAX array give NaN.
      scale: Function from squared distances `[n, n]` to the length that the width
        multiplies: `by_median`, `by_mean` or another function whose value doubles if
        all distances double. It counts as a constant in the gradient. None: the width
        is in the units of the rows.
    """

    width: float | Array = 1.0
    scale: Callable[[Array], Array] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )

    def profile(self, t: Array) -> Array:
        return jnp.exp(-t / 2)


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Laplace(_Radial):
    """`exp(-|x - y| / width)`, with the Euclidean distance.

    Attributes:
      width: As for `Gaussian`.
      scale: As for `Gaussian`.
    """

    width: float | Array = 1.0
    scale: Callable[[Array], Array] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )

    def profile(self, t: Array) -> Array:
        return jnp.exp(-_geometry.safe_sqrt(t))


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class InverseMultiquadric(_Radial):
    """`(1 + |x - y|^2 / width^2) ** -1/2`: with heavier tails than the Gaussian kernel.

    Attributes:
      width: As for `Gaussian`.
      scale: As for `Gaussian`.
    """

    width: float | Array = 1.0
    scale: Callable[[Array], Array] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )

    def profile(self, t: Array) -> Array:
        return lax.rsqrt(1 + t)


def by_median(squared_distances: Array) -> Array:
    """Computes the median of the nonzero distances between rows; 0 if all are 0.

    (The median over all pairs is 0 if most rows are equal, as can be after a ReLU.)
    """
    distances = jnp.sort(_geometry.safe_sqrt(_pairs(squared_distances)).ravel())
    last = distances.size - 1
    # NaN is sorted to the end.
    middle = jnp.sum(distances <= 0) + last
    middle = jnp.minimum(jnp.stack([middle, middle + 1]) // 2, last)
    return jnp.mean(distances[middle]) + 0 * distances[-1]


def by_mean(squared_distances: Array) -> Array:
    """Computes the root mean squared distance between the rows of a sample."""
    return _geometry.safe_sqrt(jnp.mean(_pairs(squared_distances)))


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
        with a fixed width (see `fitted`); its parameters have no gradient, and the rows
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
      kernel: One of the kernels, with a fixed width (see `fitted`).

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
    if isinstance(kernel, _Radial):
        kernel._fixed()
        unit = _geometry.power_of_two(pooled)
        pooled = _geometry.centre_columns(pooled / unit)
        kernel = kernel._times(1 / unit)
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


def _rows(x: Array) -> Array:
    return _geometry.flatten(_checks.as_activations(x))


def _in_one_unit(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Divides both by a power of two near their largest magnitude; returns it too."""
    x, y = _rows(x), _rows(y)
    unit = jnp.maximum(_geometry.power_of_two(x), _geometry.power_of_two(y))
    return x / unit, y / unit, unit


def _check_pairwise(kernel) -> None:
    if not hasattr(kernel, "cross"):
        raise ValueError(f"expected one of the kernels of rdljax.mmd, got {kernel!r}")


def _squared_norm(x: Array) -> Array:
    return jnp.sum(x * x)


def _pairs(matrix: Array) -> Array:
    """Returns the entries `[n - 1, n]` off the diagonal: each pair twice."""
    n = matrix.shape[0]
    return matrix.ravel()[1:].reshape(n - 1, n + 1)[:, :-1]
