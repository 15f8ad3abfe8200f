"""Maximum mean discrepancy (MMD) of two samples, and its kernels.

The MMD is how far apart the means of two samples lie in the feature space of a kernel
(Gretton et al., `A Kernel Two-Sample Test <https://jmlr.org/papers/v13/gretton12a.html>`_,
JMLR 2012). `biased` and `unbiased` estimate its square.

A kernel is a frozen dataclass registered as a pytree. Called with rows `[n, units]` it
answers their kernel matrix `[n, n]`; both samples are given to it as one, so that a
width which follows from the data is the same for all pairs. The features of `Linear`
and of `Polynomial` of degree 2 are few: `between` is their biased estimate as one
difference of two moments, and no kernel matrix is built where that costs less.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rdljax import _geometry

__all__ = [
    "Gaussian",
    "InverseMultiquadric",
    "Laplace",
    "Linear",
    "Polynomial",
    "biased",
    "by_mean",
    "by_median",
    "unbiased",
]

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linear:
    """`x.y`: compares the means of the samples."""

    def __call__(self, x: Array) -> Array:
        return _geometry.gram(x)

    def between(self, x: Array, y: Array) -> Array:
        """The biased estimate, from the two means."""
        return _squared_norm(jnp.mean(x, axis=0) - jnp.mean(y, axis=0))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Polynomial:
    """`(x.y + offset) ** degree`: compares moments up to the degree.

    Attributes:
      degree: A whole number, 1 or more; ValueError otherwise.
      offset: Not negative; 0 compares the moments of the last degree alone.
    """

    degree: int = dataclasses.field(default=2, metadata={"static": True})
    offset: float | Array = 0.0

    def __post_init__(self):
        if not isinstance(self.degree, int) or self.degree < 1:
            raise ValueError(
                f"the degree must be a whole number of 1 or more, got {self.degree}"
            )

    def __call__(self, x: Array) -> Array:
        return (_geometry.gram(x) + self.offset) ** self.degree

    def between(self, x: Array, y: Array) -> Array:
        """The biased estimate, from second moments or products: the cheaper of them."""
        n, m, units = len(x), len(y), x.shape[1]
        by_products = units * (n + m) > n * n + m * m + n * m
        if self.degree != 2 or (by_products and n != m):
            products = _geometry.inner(x, y)
            between = jnp.mean((products + self.offset) ** self.degree)
            return jnp.mean(self(x)) + jnp.mean(self(y)) - 2 * between
        if by_products:
            # x'x - y'y = (d's + s'd) / 2 of difference and sum, whose squared norm is
            # exact where x and y are close.
            d, s = x - y, x + y
            mixed = _geometry.inner(d, s)
            squares = jnp.sum(_geometry.gram(d) * _geometry.gram(s))
            value = (squares + jnp.sum(mixed * mixed.T)) / (2 * n**2)
        else:
            value = _squared_norm(_geometry.gram(x.T) / n - _geometry.gram(y.T) / m)
        if isinstance(self.offset, int | float) and self.offset == 0:
            return value
        return value + 2 * self.offset * Linear().between(x, y)


class _Radial:
    """A kernel of `t = (|x - y| / width)^2`: `profile(t)`, the mean over the widths."""

    width: float | Array
    scale: Callable[[Array], Array] | None

    def profile(self, t: Array) -> Array:
        raise NotImplementedError

    def __call__(self, x: Array) -> Array:
        squared = _geometry.squared_distances(x)
        if self.scale is not None:
            # Where all rows are the same, any unit will do.
            unit = lax.stop_gradient(self.scale(squared))
            squared = squared / jnp.where(unit > 0, unit, 1) ** 2
        widths = jnp.ravel(jnp.asarray(self.width, squared.dtype))
        kernels = (self.profile(squared / width**2) for width in widths)
        return sum(kernels) / len(widths)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gaussian(_Radial):
    """`exp(-|x - y|^2 / (2 width^2))`.

    Attributes:
      width: A number, or several, whose kernels are averaged.
      scale: What the width is a multiple of: `by_median` or `by_mean` of the sample;
        None for the units of the rows. It counts as a constant in the gradient.
    """

    width: float | Array = 1.0
    scale: Callable[[Array], Array] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )

    def profile(self, t: Array) -> Array:
        return jnp.exp(-t / 2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Laplace(_Radial):
    """`exp(-|x - y| / width)`, of the Euclidean distance.

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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InverseMultiquadric(_Radial):
    """`(1 + |x - y|^2 / width^2) ** -1/2`: its tails are heavier than a Gaussian's.

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
    """The median distance between the rows of a sample."""
    return jnp.median(jnp.sqrt(_pairs(squared_distances)))


def by_mean(squared_distances: Array) -> Array:
    """The root of the mean squared distance between the rows of a sample."""
    return jnp.sqrt(jnp.mean(_pairs(squared_distances)))


def biased(x: Array, y: Array, *, kernel=Polynomial()) -> Array:
    """The squared MMD of the two samples as they are: the V-statistic.

    Args:
      x: Rows `[n, units]`.
      y: Rows `[m, units]`.
      kernel: One of the kernels, or any function from `[n, units]` to `[n, n]`.

    Returns:
      A scalar, not negative but for rounding, and 0 for equal samples: the mean of the
      kernel within x, plus that within y, minus twice that between them.

    Raises:
      ValueError: Not rows of as many units, or a class where a kernel is meant.

    References:
      Gretton et al., `A Kernel Two-Sample Test
      <https://jmlr.org/papers/v13/gretton12a.html>`_, JMLR 2012, eq. 5.
    """
    x, y = _samples(x, y, kernel)
    if hasattr(kernel, "between"):
        return kernel.between(x, y)
    # One quadratic form in the weights 1/n of x and -1/m of y.
    n, m = len(x), len(y)
    weights = np.concatenate([np.full(n, 1 / n), np.full(m, -1 / m)]).astype(x.dtype)
    matrix = kernel(jnp.concatenate([x, y]))
    return jnp.sum(matrix * (weights[:, None] * weights[None, :]))


def unbiased(x: Array, y: Array, *, kernel=Polynomial()) -> Array:
    """An unbiased estimate of the squared MMD of what the samples are from.

    As `biased`, without the kernel of each row with itself.

    Args:
      x: Rows `[n, units]`, two or more.
      y: Rows `[m, units]`, two or more.
      kernel: One of the kernels, or any function from `[n, units]` to `[n, n]`.

    Returns:
      A scalar, which may be negative.

    Raises:
      ValueError: Not two rows or more of as many units, or a class where a kernel is
        meant.

    References:
      Gretton et al., `A Kernel Two-Sample Test
      <https://jmlr.org/papers/v13/gretton12a.html>`_, JMLR 2012, eq. 3.
    """
    x, y = _samples(x, y, kernel)
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"expected two rows or more, got {x.shape} and {y.shape}")
    matrix = kernel(jnp.concatenate([x, y]))

    def others(within):
        count = len(within)
        return (jnp.sum(within) - jnp.trace(within)) / (count * (count - 1))

    return (
        others(matrix[:n, :n]) + others(matrix[n:, n:]) - 2 * jnp.mean(matrix[:n, n:])
    )


def _samples(x: Array, y: Array, kernel) -> tuple[Array, Array]:
    """Both samples in at least float32, checked, and the kernel checked too."""
    if isinstance(kernel, type) or not callable(kernel):
        raise ValueError(
            f"expected a kernel of rdljax.mmd, such as Polynomial() with its "
            f"parentheses, got {kernel!r}"
        )
    x, y = jnp.asarray(x), jnp.asarray(y)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"expected rows [n, units] and [m, units], got {x.shape} and {y.shape}"
        )
    dtype = _geometry.compute_dtype(x)
    return x.astype(dtype), y.astype(dtype)


def _squared_norm(x: Array) -> Array:
    return jnp.sum(x * x)


def _pairs(matrix: Array) -> Array:
    """The entries `[n - 1, n]` beside the diagonal: each pair twice."""
    n = matrix.shape[0]
    return matrix.ravel()[1:].reshape(n - 1, n + 1)[:, :-1]
