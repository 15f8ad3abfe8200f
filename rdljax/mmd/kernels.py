"""Defines kernels: functions of rows `[n, units]` to their kernel matrix `[n, n]`.

`Linear` and `Polynomial` of degree 2 have few features: their method `between` computes
the biased estimate of the MMD as one difference of two moments, and builds no kernel
matrix if that costs less. `Gaussian`, `Laplace` and `InverseMultiquadric` have a width,
or several, which may be multiples of a length that is computed from the data.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Protocol, Self

import jax
import jax.numpy as jnp
from jax import lax

from rdljax import _checks, _geometry, _pytrees

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
        """Returns the kernel `[n, n]` of rows `[n, units]`."""
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
        """Returns the kernel `[n, n]` of rows `[n, units]`."""
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


class Radial:
    """The base class of kernels `profile(t)` of `t = (|x - y| / width)^2`.

    The kernels of several widths are averaged. A subclass is a dataclass with the two
    fields and the method `profile`, registered as a pytree.

    Attributes:
      width: As for `Gaussian`.
      scale: As for `Gaussian`.
    """

    width: float | Array
    scale: Callable[[Array], Array] | None

    def profile(self, t: Array) -> Array:
        """Computes the kernel from squared distances in units of the width."""
        raise NotImplementedError

    def __post_init__(self):
        self._check()

    def __call__(self, x: Array) -> Array:
        """Returns the kernel `[n, n]` of rows `[n, units]`."""
        x = _rows(x)
        unit = _geometry.power_of_two(x)
        squared = _geometry.squared_distances(x / unit)
        return self._of(squared, self._length(squared, unit))

    def cross(self, x: Array, y: Array) -> Array:
        """Computes the kernel `[n, m]` of rows `[n, units]` with rows `[m, units]`.

        Accurate for rows whose mean is small compared with their spread.

        Raises:
          ValueError: The width is computed from the data: see `fit`.
        """
        self.check_fixed()
        x, y, unit = _in_one_unit(x, y)
        return self._of(_geometry.squared_distances_between(x, y), 1 / unit)

    def rows(self, x: Array, y: Array) -> Array:
        """Computes the kernel `[n]` of each row of x with the same row of y.

        Raises:
          ValueError: The width is computed from the data: see `fit`.
        """
        self.check_fixed()
        x, y, unit = _in_one_unit(x, y)
        return self._of(jnp.sum((x - y) ** 2, axis=1), 1 / unit)

    def fit(self, x: Array) -> Self:
        """Returns this kernel with a fixed width, computed from a sample."""
        if self.scale is None:
            return self
        x = _rows(x)
        unit = _geometry.power_of_two(x)
        length = self._length(_geometry.squared_distances(x / unit), unit)
        return self.times(length * unit)

    def times(self, factor: Array) -> Self:
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

    def check_fixed(self) -> None:
        """Raises `ValueError` if the width is computed from the data."""
        if self.scale is not None:
            raise ValueError(
                f"{type(self).__name__}: the width is computed from the data, which "
                f"are not all available here: pass kernel.fit(rows), fitted to some "
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
class Gaussian(Radial):
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
class Laplace(Radial):
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
class InverseMultiquadric(Radial):
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


def _rows(x: Array) -> Array:
    return _geometry.flatten(_checks.as_activations(x))


def _in_one_unit(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Divides both by a power of two near their largest magnitude; returns it too."""
    x, y = _rows(x), _rows(y)
    unit = jnp.maximum(_geometry.power_of_two(x), _geometry.power_of_two(y))
    return x / unit, y / unit, unit


def _squared_norm(x: Array) -> Array:
    return jnp.sum(x * x)


def _pairs(matrix: Array) -> Array:
    """Returns the entries `[n - 1, n]` off the diagonal: each pair twice."""
    n = matrix.shape[0]
    return matrix.ravel()[1:].reshape(n - 1, n + 1)[:, :-1]
