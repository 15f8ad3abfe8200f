"""Distances between the activations of two stimuli: what an RDM is made of.

A distance is a frozen dataclass registered as a pytree, so that it may be an argument
or a constant of a jitted function without retracing. Called with activations `[n, ...]`
it answers the whole matrix `[n, n]`; `pairs(x, pairs)` answers given pairs alone.

Most are squared Euclidean distance in an embedding: such a distance derives from
`Embedded` and has `embed`. What is known of squared Euclidean distances then holds for
it: the matrix from one Gram matrix, exact zeros on the diagonal, and comparisons of two
RDMs that need no matrix at all. What has `points` and `between` can be computed tile by
tile (`rdm.forms`).

What rounding leaves of two stimuli that do not differ is no distance: in the matrix, in
tiles and of pairs a distance below its own rounding is 0, with a gradient of 0.
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
    "Euclidean",
    "Mahalanobis",
    "MeanSquared",
    "PoissonKL",
    "SquaredEuclidean",
]

Array = jax.Array


class Distance(Protocol):
    """What a distance of two stimuli's activations has to be."""

    def __call__(self, x: Array, /) -> Array:
        """Returns the matrix `[n, n]` of activations `[n, ...]`."""

    def pairs(self, x: Array, pairs: Array, /) -> Array:
        """Returns the distances `[p]` of pairs `[2, p]` of stimuli."""


# So many numbers are gathered at a time for the distances of given pairs.
GATHERED = 2**24


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ByProducts:
    """A distance whose matrix comes from products of matrices.

    Attributes:
      matmul_precision: Of those products, on accelerators. Less than HIGHEST is faster
        and loses the digits of small distances.
    """

    matmul_precision: lax.PrecisionLike = dataclasses.field(
        default=lax.Precision.HIGHEST, metadata={"static": True}
    )

    # Whether activations times c have distances times a power of c: a comparison that
    # is blind to the scale of an RDM is then blind to theirs.
    homogeneous = False

    def rows(self, x: Array) -> tuple[Array, ...]:
        """Returns the arrays `[n, units]` that `apart` takes."""
        raise NotImplementedError

    def noise(self, x: Array, rows: tuple[Array, ...]) -> Array:
        """Returns how much the rounding of each row may add to a distance, `[n]`."""
        return _length(_rounding(rows[0])) * _length(_rounding(rows[-1]))

    def points(self, x: Array, axis_name: str | None = None) -> tuple[Array, ...]:
        """Returns for `between` the centred rows, each one's product and its rounding.

        Centring changes no distance; see `_geometry.squared_distances`. A distance no
        larger than the rounding of its two stimuli is 0. With the mapped axis of
        devices that have as many stimuli each, rows are centred by the mean of all.
        """
        rows = self.rows(x)
        noise = self.noise(x, rows)
        rows = tuple(a - _mean(a, axis_name, keepdims=True) for a in rows)
        own = jnp.sum(rows[0] * rows[-1], axis=1)
        products = _length(rows[0]) * _length(rows[-1])
        return *rows, own, noise + _of_products(products, rows[0].shape[1])

    def scale(self, x: Array, axis_name: str | None = None) -> Array:
        """Returns one over the mean distance, about; 0 where all rows are alike."""
        *_, own, rounding = self.points(x, axis_name)
        # The products' mean over pairs is twice that over rows about their mean.
        mean = 2 * _mean(own, axis_name)
        alike = mean <= 2 * _mean(rounding, axis_name)
        return jnp.where(alike, 0, 1 / jnp.where(alike, 1, mean))

    @staticmethod
    def between(
        x: tuple[Array, ...], y: tuple[Array, ...], precision: lax.PrecisionLike
    ) -> Array:
        """Computes the distances `[n, m]` between two sets of stimuli, from points."""
        raise NotImplementedError

    @staticmethod
    def apart(x: tuple[Array, ...], y: tuple[Array, ...]) -> Array:
        """Computes the distances `[...]` of stimuli from others, from rows."""
        raise NotImplementedError

    def tied(self, distances: Array, noise: Array, other: Array) -> Array:
        """Returns distances, exact where the noise of both stimuli determines them."""
        return distances

    def pairs(self, x: Array, pairs: Array) -> Array:
        """Computes the distances `[p]` of pairs `[2, p]`, from differences."""
        rows = self.rows(x)
        noise = self.noise(x, rows)

        def apart(pairs):
            first, second = (tuple(a[stimuli] for a in rows) for stimuli in pairs)
            return self.apart(first, second)

        block = max(1, GATHERED // rows[0].shape[1])
        if pairs.shape[1] <= block:
            found = apart(pairs)
        else:
            found = lax.map(jax.checkpoint(apart), tuple(pairs), batch_size=block)
        first, second = (noise[stimuli] for stimuli in pairs)
        return self.tied(_resolved(found, first + second), first, second)


def _mean(x: Array, axis_name: str | None, *, keepdims: bool = False) -> Array:
    """Returns the mean over stimuli, those of all devices if there is an axis."""
    mean = jnp.mean(x, axis=0, keepdims=keepdims)
    return mean if axis_name is None else lax.pmean(mean, axis_name)


def _length(rows: Array) -> Array:
    """Returns the length of every row, a constant in the gradient."""
    return jnp.sqrt(jnp.sum(lax.stop_gradient(rows) ** 2, axis=1))


def _rounding(rows: Array) -> Array:
    """Returns how far from what was meant the entries of rows are, at most."""
    return 8 * jnp.finfo(rows.dtype).eps * rows


def _of_products(own: Array, units: int) -> Array:
    """Returns what the rounding of products of so many units may add to a distance.

    As measured: 2 eps of each stimulus's own product for 8 units, 4 for 64, 13 for
    4,096.
    """
    return (4 + math.sqrt(units) / 4) * jnp.finfo(own.dtype).eps * own


def _resolved(distances: Array, rounding: Array) -> Array:
    """Returns distances, but 0 for what is no more than rounding; NaN stays NaN."""
    return jnp.where(distances <= rounding, 0, distances)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedded(_ByProducts):
    """A distance that is squared Euclidean distance between embedded activations."""

    def embed(self, x: Array) -> Array:
        """Embeds activations `[n, ...]` as points `[n, dimensions]`."""
        raise NotImplementedError

    def __call__(self, x: Array) -> Array:
        """Returns the matrix `[n, n]` of activations `[n, ...]`."""
        points = self.embed(x)
        centred = _geometry.centre_columns(points)
        products = _geometry.gram(centred, self.matmul_precision)
        return self.from_products(products, self.noise(x, (points,)), points.shape[1])

    def from_products(self, products: Array, noise: Array, units: int) -> Array:
        """Computes the matrix `[n, n]` from the products of centred points."""
        own = lax.stop_gradient(jnp.diagonal(products))
        rounding = noise + _of_products(own, units)
        distances = _geometry.squared_distances_from(products)
        distances = _resolved(distances, rounding[:, None] + rounding[None, :])
        return self.tied(distances, noise[:, None], noise[None, :])

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
    def apart(x: tuple[Array, ...], y: tuple[Array, ...]) -> Array:
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
    """`mean_u (x_iu - x_ju)^2`: layers of different width compare.

    rsatoolbox's "euclidean".
    """

    homogeneous = True

    def embed(self, x: Array) -> Array:
        x = _geometry.flatten(x)
        return x / jnp.sqrt(jnp.asarray(x.shape[1], x.dtype))


class _Directions(Embedded):
    """Distances of directions; a row without one is 1/2 from all that have one."""

    def tied(self, distances: Array, noise: Array, other: Array) -> Array:
        # Exactly, so that ranks of them tie. (NaN stays NaN.)
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


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Correlation(_Directions):
    """`1 - r(x_i, x_j)`, Pearson's correlation over units.

    A row that is constant, up to rounding, has none: its distance is 1/2 to every other
    row, and 0 to another constant row.
    """

    def _deviations(self, x: Array) -> tuple[Array, Array]:
        """Returns rows divided by a power of two, and these less their means."""
        x = _geometry.flatten(x)
        x = _geometry.in_own_unit(x, axis=1)
        rows = _geometry.centre_rows(x)
        largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
        # (The largest entry is about 1.)
        constant = largest <= 8 * jnp.finfo(x.dtype).eps
        return x, jnp.where(constant, 0, rows)

    def embed(self, x: Array) -> Array:
        return _geometry.unit_rows(self._deviations(x)[1]) * 0.5**0.5

    def noise(self, x: Array, rows: tuple[Array, ...]) -> Array:
        # What the mean takes away has left its rounding.
        whole, deviations = map(_length, self._deviations(x))
        ratio = whole * _geometry.safe_inverse(deviations)
        return (_length(_rounding(rows[0])) * ratio) ** 2


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Mahalanobis(Embedded):
    """`(x_i - x_j)' P (x_i - x_j)`: squared, as the crossvalidated form is.

    SciPy's `mahalanobis` is its square root; rsatoolbox's divides it by the units.

    Attributes:
      precision: The inverse covariance P of the units, `[units, units]`, symmetric and
        positive definite; otherwise the distances are NaN. Student and teacher of
        different width have no precision in common.
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

    Its gradient at coincident rows is taken as 0. In float32 the matrix, from a Gram
    matrix, does not resolve distances below about a thousandth of the rows' spread;
    `pairs` subtracts the rows themselves and does.
    """

    homogeneous = True

    def _rooted(self, x: Array, squared) -> Array:
        """Returns the root of what is squared, at any scale of the activations."""
        x = _geometry.flatten(x)
        size = _geometry.power_of_two(x)
        plain = SquaredEuclidean(matmul_precision=self.matmul_precision)
        return size * _geometry.safe_sqrt(squared(plain, x / size))

    def __call__(self, x: Array) -> Array:
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

    `mean_u (r_iu - r_ju) (log r_iu - log r_ju)` with the rates drawn towards a prior,
    `r = (x + weight rate) / (1 + weight)`, as in rsatoolbox's "poisson". Activations
    must not be negative (spike counts, or after a ReLU).

    Attributes:
      prior_rate: The rate of the prior, above 0.
      prior_weight: How many observations the prior counts for, above 0 where an
        activation can be 0.
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
    def apart(x: tuple[Array, ...], y: tuple[Array, ...]) -> Array:
        rates, logs = (a - b for a, b in zip(x, y, strict=True))
        return jnp.sum(rates * logs, axis=-1)
