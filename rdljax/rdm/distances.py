"""Defines distances between the activations of two stimuli, the entries of an RDM.

A distance is a frozen dataclass registered as a pytree, so that it may be an argument
or a constant of a jitted function without retracing. Called with activations `[n, ...]`
it returns the whole matrix `[n, n]`; `pairs(x, pairs)` returns the distances of given
pairs only.

Most are squared Euclidean distances in an embedding: such a distance derives from
`Embedded` and has the method `embed`. It then has the properties of squared Euclidean
distances: the matrix follows from one Gram matrix, the diagonal is exactly zero, and
two RDMs can be compared without any matrix. Distances with the methods `points` and
`between` can be computed tile by tile (`rdm.forms`).

A distance below its own rounding error is set to 0, with a gradient of 0: in the
matrix, in tiles and for given pairs.
"""

import dataclasses
import math
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax

from rdljax import _checks as _numbers
from rdljax import _geometry, _pytrees
from rdljax.rdm import _checks

__all__ = [
    "Correlation",
    "Cosine",
    "Distance",
    "Embedded",
    "Euclidean",
    "Mahalanobis",
    "MeanSquared",
    "PoissonKL",
    "SquaredEuclidean",
]

Array = jax.Array


class Distance(Protocol):
    """The interface of a distance between the activations of two stimuli."""

    def __call__(self, x: Array, /) -> Array:
        """Returns the distance matrix `[n, n]` of activations `[n, ...]`."""

    def pairs(self, x: Array, pairs: Array, /) -> Array:
        """Returns the distances `[p]` of pairs `[2, p]` of stimuli."""


# The number of elements that are gathered at a time for the distances of given pairs.
GATHERED = 2**24


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ByProducts:
    """A distance whose matrix is computed with matrix products.

    Attributes:
      matmul_precision: Precision of these products, on accelerators. Below HIGHEST it
        is faster, but small distances lose digits.
    """

    matmul_precision: lax.PrecisionLike = dataclasses.field(
        default=lax.Precision.HIGHEST, metadata={"static": True}
    )

    # Whether multiplying activations by c multiplies distances by a power of c: if a
    # comparison is invariant to the scale of RDMs, it is then also to this one.
    homogeneous = False

    def rows(self, x: Array) -> tuple[Array, ...]:
        """Returns the arrays `[n, units]` that `compare_rows` takes."""
        raise NotImplementedError

    def noise(self, x: Array, rows: tuple[Array, ...]) -> Array:
        """Returns a bound on the rounding error each row adds to a distance, `[n]`."""
        return _length(_rounding(rows[0])) * _length(_rounding(rows[-1]))

    def points(self, x: Array, axis_name: str | None = None) -> tuple[Array, ...]:
        """Returns the input of `between`: centred rows, their products and rounding.

        Centring does not change the distances; see `_geometry.squared_distances`. A
        distance no larger than the rounding error of its two stimuli is 0. With a
        mapped axis of devices that hold n stimuli each, rows are centred by the mean of
        all stimuli.
        """
        rows = self.rows(x)
        noise = self.noise(x, rows)
        rows = tuple(_geometry.centre_for_distances(a, axis_name) for a in rows)
        own = jnp.sum(rows[0] * rows[-1], axis=1)
        products = _length(rows[0]) * _length(rows[-1])
        return *rows, own, noise + _of_products(products, rows[0].shape[1])

    def scale(self, x: Array, axis_name: str | None = None) -> Array:
        """Returns about one over the mean distance; 0 if all rows are equal."""
        *_, own, rounding = self.points(x, axis_name)
        # The mean distance over pairs is twice the mean product of the centred rows.
        mean = 2 * _mean(own, axis_name)
        constant = mean <= 2 * _mean(rounding, axis_name)
        return jnp.where(constant, 0, 1 / jnp.where(constant, 1, mean))

    @staticmethod
    def between(
        x: tuple[Array, ...], y: tuple[Array, ...], precision: lax.PrecisionLike
    ) -> Array:
        """Computes distances `[n, m]` between two sets of stimuli, from `points`."""
        raise NotImplementedError

    @staticmethod
    def compare_rows(x: tuple[Array, ...], y: tuple[Array, ...]) -> Array:
        """Computes distances `[...]` of corresponding stimuli in x and y, from rows."""
        raise NotImplementedError

    def set_exact_ties(self, distances: Array, noise: Array, other: Array) -> Array:
        """Returns distances, with exact values where the noise determines them."""
        return distances

    def pairs(self, x: Array, pairs: Array) -> Array:
        """Computes the distances `[p]` of pairs `[2, p]`, from differences."""
        rows = self.rows(x)
        noise = self.noise(x, rows)

        def distances_of(pairs):
            first, second = (tuple(a[stimuli] for a in rows) for stimuli in pairs)
            return self.compare_rows(first, second)

        block = max(1, GATHERED // rows[0].shape[1])
        if pairs.shape[1] <= block:
            found = distances_of(pairs)
        else:
            found = lax.map(
                jax.checkpoint(distances_of), tuple(pairs), batch_size=block
            )
        first, second = (noise[stimuli] for stimuli in pairs)
        return self.set_exact_ties(_resolved(found, first + second), first, second)


def _mean(x: Array, axis_name: str | None) -> Array:
    """Returns the mean over stimuli, over all devices if there is a mapped axis."""
    mean = jnp.mean(x, axis=0)
    return mean if axis_name is None else lax.pmean(mean, axis_name)


def _length(rows: Array) -> Array:
    """Returns the length of every row, a constant in the gradient."""
    return jnp.sqrt(jnp.sum(lax.stop_gradient(rows) ** 2, axis=1))


def _rounding(rows: Array) -> Array:
    """Returns a bound on the rounding errors of the entries of rows."""
    return 8 * jnp.finfo(rows.dtype).eps * rows


def _noise_of_unit_rows(dtype: jnp.dtype) -> float:
    """Returns the noise of rows of length `sqrt(1/2)`, from their rounding errors."""
    return (8 * float(jnp.finfo(dtype).eps)) ** 2 / 2


def _of_products(own: Array, units: int) -> Array:
    """Returns a bound on the rounding error that products add to a distance.

    Measured errors: 2 eps times each stimulus's own product for 8 units, 4 eps for 64
    and 13 eps for 4,096.
    """
    return (4 + math.sqrt(units) / 4) * jnp.finfo(own.dtype).eps * own


def _resolved(distances: Array, rounding: Array) -> Array:
    """Sets distances no larger than their rounding error to 0; NaN stays NaN."""
    return jnp.where(distances <= rounding, 0, distances)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedded(_ByProducts):
    """A distance that is squared Euclidean distance between embedded activations."""

    def embed(self, x: Array) -> Array:
        """Embeds activations `[n, ...]` as points `[n, dimensions]`."""
        raise NotImplementedError

    def __call__(self, x: Array) -> Array:
        """Returns the distance matrix `[n, n]` of activations `[n, ...]`."""
        points = self.embed(x)
        centred = _geometry.centre_for_distances(points)
        products = _geometry.gram(centred, self.matmul_precision)
        return self.from_products(products, self.noise(x, (points,)), points.shape[1])

    def from_products(self, products: Array, noise: Array, units: int) -> Array:
        """Computes the distances `[n, n]` from the inner products of centred points."""
        own = lax.stop_gradient(jnp.diagonal(products))
        rounding = noise + _of_products(own, units)
        distances = _geometry.squared_distances_from(products)
        distances = _resolved(distances, rounding[:, None] + rounding[None, :])
        return self.set_exact_ties(distances, noise[:, None], noise[None, :])

    def rows(self, x: Array) -> tuple[Array, ...]:
        return (self.embed(x),)

    @staticmethod
    def between(
        x: tuple[Array, ...], y: tuple[Array, ...], precision: lax.PrecisionLike
    ) -> Array:
        (rows, own, rounding), (columns, other, others) = x, y
        products = _geometry.inner(rows, columns, precision)
        squared = own[:, None] + other[None, :] - 2 * products
        return _resolved(squared, rounding[:, None] + others[None, :])

    @staticmethod
    def compare_rows(x: tuple[Array, ...], y: tuple[Array, ...]) -> Array:
        return jnp.sum((x[0] - y[0]) ** 2, axis=-1)


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class SquaredEuclidean(Embedded):
    """`sum_u (x_iu - x_ju)^2`: SciPy's `sqeuclidean`.

    rsatoolbox's "euclidean" is this divided by the number of units (`MeanSquared`).
    """

    homogeneous = True

    def embed(self, x: Array) -> Array:
        return _geometry.flatten(x)


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class MeanSquared(Embedded):
    """`mean_u (x_iu - x_ju)^2`: comparable between layers of different width.

    rsatoolbox's "euclidean".
    """

    homogeneous = True

    def embed(self, x: Array) -> Array:
        x = _geometry.flatten(x)
        return x / jnp.sqrt(jnp.asarray(x.shape[1], x.dtype))


class _Directions(Embedded):
    """A distance of directions; it is 1/2 if only one of two rows has a direction."""

    def set_exact_ties(self, distances: Array, noise: Array, other: Array) -> Array:
        # Exactly 1/2, so that these distances tie in rank. (NaN stays NaN.)
        return jnp.where((noise == 0) != (other == 0), 0.5 + 0 * distances, distances)


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Cosine(_Directions):
    """`1 - cos(x_i, x_j)`.

    A zero row has no direction: its distance is 1/2 to every other row, and 0 to
    another zero row.
    """

    def embed(self, x: Array) -> Array:
        # |u - v|^2 = 2 (1 - u.v) for unit vectors.
        return _geometry.unit_rows(_geometry.flatten(x)) * 0.5**0.5

    def noise(self, x: Array, rows: tuple[Array, ...]) -> Array:
        # All rows with a direction have the same length. (The largest entry is known
        # from `embed`, so that XLA computes nothing more from the activations.)
        x = lax.stop_gradient(_geometry.flatten(x))
        largest = jnp.max(jnp.abs(x), axis=1)
        noise = jnp.where(largest == 0, 0, _noise_of_unit_rows(x.dtype))
        return noise + 0 * largest  # NaN if an entry is not finite.


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Correlation(_Directions):
    """`1 - r(x_i, x_j)`, Pearson's correlation over units.

    A row that is constant up to rounding has no correlation: its distance is 1/2 to
    every other row, and 0 to another constant row.
    """

    def _deviations(self, x: Array) -> tuple[Array, Array]:
        """Returns rows divided by a power of two, and the same minus their means."""
        x = _geometry.flatten(x)
        x = _geometry.in_own_unit(x, axis=1)
        rows = _geometry.centre_rows(x)
        largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
        # The largest entry of x is about 1.
        constant = largest <= 8 * jnp.finfo(x.dtype).eps
        return x, jnp.where(constant, 0, rows)

    def embed(self, x: Array) -> Array:
        return _geometry.unit_rows(self._deviations(x)[1]) * 0.5**0.5

    def noise(self, x: Array, rows: tuple[Array, ...]) -> Array:
        # Subtracting the mean leaves the rounding error of the whole row.
        whole, deviations = map(_length, self._deviations(x))
        ratio = whole * _geometry.safe_inverse(deviations)
        return _noise_of_unit_rows(whole.dtype) * ratio**2


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Mahalanobis(Embedded):
    """`(x_i - x_j)' P (x_i - x_j)`: squared, as is the crossvalidated form.

    SciPy's `mahalanobis` is its square root; rsatoolbox divides it by the number of
    units.

    Attributes:
      precision: Inverse covariance P of the units, `[units, units]`, symmetric and
        positive definite; otherwise the distances are NaN. It cannot be used for a
        student and a teacher of different width.
    """

    precision: Array

    homogeneous = True

    def embed(self, x: Array) -> Array:
        x = _geometry.flatten(x)
        factor = _checks.factor(self.precision, x.shape[1], x.dtype, "Mahalanobis")
        return jnp.matmul(x, factor, precision=self.matmul_precision)


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Euclidean(_ByProducts):
    """`sqrt(sum_u (x_iu - x_ju)^2)`: SciPy's `euclidean`.

    The gradient is defined as 0 for equal rows. In float32 the matrix, computed from a
    Gram matrix, does not resolve distances below about a thousandth of the spread of
    the rows; `pairs` does, since it subtracts the rows themselves.
    """

    homogeneous = True

    def _rooted(self, x: Array, squared) -> Array:
        """Returns the root of squared distances, for activations of any scale."""
        x = _geometry.flatten(x)
        size = _geometry.power_of_two(x)
        plain = SquaredEuclidean(matmul_precision=self.matmul_precision)
        return size * _geometry.safe_sqrt(squared(plain, x / size))

    def __call__(self, x: Array) -> Array:
        """Returns the distance matrix `[n, n]` of activations `[n, ...]`."""
        return self._rooted(x, lambda plain, x: plain(x))

    def pairs(self, x: Array, pairs: Array) -> Array:
        return self._rooted(x, lambda plain, x: plain.pairs(x, pairs))

    def rows(self, x: Array) -> tuple[Array, ...]:
        return (_geometry.flatten(x),)

    def scale(self, x: Array, axis_name: str | None = None) -> Array:
        return jnp.sqrt(super().scale(x, axis_name))

    @staticmethod
    def between(
        x: tuple[Array, ...], y: tuple[Array, ...], precision: lax.PrecisionLike
    ) -> Array:
        return _geometry.safe_sqrt(SquaredEuclidean.between(x, y, precision))


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class PoissonKL(_ByProducts):
    """Symmetrised Kullback-Leibler divergence of Poisson rates, mean over units.

    `mean_u (r_iu - r_ju) (log r_iu - log r_ju)` with the rates regularised by a prior,
    `r = (x + weight rate) / (1 + weight)`, as in rsatoolbox's "poisson". Activations
    must not be negative (spike counts, or after a ReLU).

    Attributes:
      prior_rate: Rate of the prior, above 0.
      prior_weight: Weight of the prior as a number of observations; above 0 if
        activations can be 0.
    """

    prior_rate: float = 1.0
    prior_weight: float = 0.1

    def rows(self, x: Array) -> tuple[Array, ...]:
        _numbers.check_number("prior rate", self.prior_rate, above=0)
        _numbers.check_number("prior weight", self.prior_weight, at_least=0)
        x = _geometry.flatten(x)
        rate, weight = (
            jnp.asarray(number, x.dtype)
            for number in (self.prior_rate, self.prior_weight)
        )
        rates = (x + weight * rate) / (1 + weight)
        valid = (rates > 0) & (rate > 0) & (weight >= 0)
        rates = _numbers.nan_unless(valid, rates)
        return rates, jnp.log(rates)

    def scale(self, x: Array, axis_name: str | None = None) -> Array:
        units = x.size // x.shape[0]
        return units * super().scale(x, axis_name)

    def __call__(self, x: Array) -> Array:
        """Returns the distance matrix `[n, n]` of activations `[n, ...]`."""
        rates, logs, own, rounding = self.points(x)
        products = _geometry.inner(rates, logs, self.matmul_precision)
        total = own[:, None] + own[None, :] - products - products.T
        total = _resolved(total, rounding[:, None] + rounding[None, :])
        diagonal = jnp.eye(x.shape[0], dtype=bool)
        return jnp.where(diagonal, 0, total) / rates.shape[1]

    def pairs(self, x: Array, pairs: Array) -> Array:
        units = x.size // x.shape[0]
        return super().pairs(x, pairs) / units

    @staticmethod
    def between(
        x: tuple[Array, ...], y: tuple[Array, ...], precision: lax.PrecisionLike
    ) -> Array:
        (rates, logs, own, rounding), (other_rates, other_logs, other, others) = x, y
        crossed = _geometry.inner(rates, other_logs, precision)
        crossed += _geometry.inner(logs, other_rates, precision)
        total = own[:, None] + other[None, :] - crossed
        total = _resolved(total, rounding[:, None] + others[None, :])
        return total / rates.shape[1]

    @staticmethod
    def compare_rows(x: tuple[Array, ...], y: tuple[Array, ...]) -> Array:
        rates, logs = (a - b for a, b in zip(x, y, strict=True))
        return jnp.sum(rates * logs, axis=-1)
