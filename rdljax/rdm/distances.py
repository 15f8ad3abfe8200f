"""Distances between the activations of two stimuli: what an RDM is made of.

A distance is a frozen dataclass registered as a pytree, so that it may be an argument
or a constant of a jitted function without retracing. Called with activations `[n, ...]`
it answers the whole matrix `[n, n]`; `pairs(x, pairs)` answers given pairs alone.

Most are squared Euclidean distance in an embedding: such a distance derives from
`Embedded` and has `embed`. What is known of squared Euclidean distances then holds for
it: the matrix from one Gram matrix, exact zeros on the diagonal, and comparisons of two
RDMs that need no matrix at all. What has `points` and `between` can be computed tile by
tile (`rdm.forms`).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

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

    def rows(self, x: Array) -> tuple[Array, ...]:
        """What `apart` needs of activations `[n, ...]`: arrays `[n, units]`."""
        raise NotImplementedError

    def points(self, x: Array) -> tuple[Array, ...]:
        """What `between` needs: the rows centred, and each one's product.

        Centring changes no distance; see `_geometry.squared_distances`.
        """
        rows = tuple(_geometry.centre_columns(a) for a in self.rows(x))
        return *rows, jnp.sum(rows[0] * rows[-1], axis=1)

    def scale(self, x: Array) -> Array:
        """One over the mean distance, about; 0 where all rows are alike."""
        rows, own = self.rows(x), self.points(x)[-1]
        # The products' mean over pairs is twice that over rows about their mean.
        mean = 2 * jnp.mean(own)
        products = jnp.mean(rows[0], axis=0) * jnp.mean(rows[-1], axis=0)
        rounding = 8 * jnp.finfo(own.dtype).eps
        alike = mean <= rounding**2 * jnp.abs(jnp.sum(products))
        return jnp.where(alike, 0, 1 / jnp.where(alike, 1, mean))

    @staticmethod
    def between(
        x: tuple[Array, ...], y: tuple[Array, ...], precision: lax.PrecisionLike
    ) -> Array:
        """The distances `[n, m]` between two sets of stimuli, from their points."""
        raise NotImplementedError

    @staticmethod
    def apart(x: tuple[Array, ...], y: tuple[Array, ...]) -> Array:
        """The distances `[...]` of stimuli from others, from rows `[..., units]`."""
        raise NotImplementedError

    def pairs(self, x: Array, pairs: Array) -> Array:
        """The distances `[p]` of the stimuli `pairs` `[2, p]`, from differences."""
        rows = self.rows(x)

        def apart(pairs):
            first, second = (tuple(a[stimuli] for a in rows) for stimuli in pairs)
            return self.apart(first, second)

        block = max(1, GATHERED // rows[0].shape[1])
        if pairs.shape[1] <= block:
            return apart(pairs)
        return lax.map(jax.checkpoint(apart), tuple(pairs), batch_size=block)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedded(_ByProducts):
    """A distance that is squared Euclidean distance between embedded activations."""

    def embed(self, x: Array) -> Array:
        """Activations `[n, ...]` as points `[n, dimensions]`."""
        raise NotImplementedError

    def __call__(self, x: Array) -> Array:
        """The matrix `[n, n]` of activations `[n, ...]`."""
        return _geometry.squared_distances(self.embed(x), self.matmul_precision)

    def rows(self, x: Array) -> tuple[Array, ...]:
        return (self.embed(x),)

    @staticmethod
    def between(
        x: tuple[Array, ...], y: tuple[Array, ...], precision: lax.PrecisionLike
    ) -> Array:
        (x, own), (y, other) = x, y
        squared = own[:, None] + other[None, :] - 2 * _geometry.inner(x, y, precision)
        return jnp.maximum(squared, 0)

    @staticmethod
    def apart(x: tuple[Array, ...], y: tuple[Array, ...]) -> Array:
        return jnp.sum((x[0] - y[0]) ** 2, axis=-1)


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class SquaredEuclidean(Embedded):
    """`sum_u (x_iu - x_ju)^2`: SciPy's `sqeuclidean`.

    rsatoolbox's "euclidean" is this divided by the number of units (`MeanSquared`).
    """

    def embed(self, x: Array) -> Array:
        return _geometry.flatten(x)


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class MeanSquared(Embedded):
    """`mean_u (x_iu - x_ju)^2`: layers of different width compare.

    rsatoolbox's "euclidean".
    """

    def embed(self, x: Array) -> Array:
        x = _geometry.flatten(x)
        return x / jnp.sqrt(jnp.asarray(x.shape[1], x.dtype))


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Cosine(Embedded):
    """`1 - cos(x_i, x_j)`.

    A zero row has no direction: its distance is 1/2 to every other row, and 0 to
    another zero row.
    """

    def embed(self, x: Array) -> Array:
        # |u - v|^2 = 2 (1 - u.v) for unit vectors.
        return _geometry.unit_rows(_geometry.flatten(x)) * 0.5**0.5


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Correlation(Embedded):
    """`1 - r(x_i, x_j)`, Pearson's correlation over units.

    A constant row has none: its distance is 1/2 to every other row, and 0 to another
    constant row.
    """

    def embed(self, x: Array) -> Array:
        rows = _geometry.centre_rows(_geometry.flatten(x))
        return _geometry.unit_rows(rows) * 0.5**0.5


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

    def __call__(self, x: Array) -> Array:
        squared = SquaredEuclidean(matmul_precision=self.matmul_precision)
        return _geometry.safe_sqrt(squared(x))

    def rows(self, x: Array) -> tuple[Array, ...]:
        return (_geometry.flatten(x),)

    def scale(self, x: Array) -> Array:
        return jnp.sqrt(super().scale(x))

    @staticmethod
    def between(
        x: tuple[Array, ...], y: tuple[Array, ...], precision: lax.PrecisionLike
    ) -> Array:
        return _geometry.safe_sqrt(SquaredEuclidean.between(x, y, precision))

    @staticmethod
    def apart(x: tuple[Array, ...], y: tuple[Array, ...]) -> Array:
        return _geometry.safe_sqrt(SquaredEuclidean.apart(x, y))


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
        x = _geometry.flatten(x)
        rates = (x + self.prior_weight * self.prior_rate) / (1 + self.prior_weight)
        if _checks.known(rates) and not (rates > 0).all():
            raise ValueError(
                "PoissonKL: expected activations of 0 or more, and a prior above 0 "
                "where one is 0"
            )
        return rates, jnp.log(rates)

    def scale(self, x: Array) -> Array:
        units = x.size // x.shape[0]
        return units * super().scale(x)

    def __call__(self, x: Array) -> Array:
        rates, logs, _ = self.points(x)
        products = _geometry.inner(rates, logs, self.matmul_precision)
        own = jnp.diagonal(products)
        total = own[:, None] + own[None, :] - products - products.T
        diagonal = jnp.eye(x.shape[0], dtype=bool)
        return jnp.where(diagonal, 0, jnp.maximum(total, 0)) / rates.shape[1]

    @staticmethod
    def between(
        x: tuple[Array, ...], y: tuple[Array, ...], precision: lax.PrecisionLike
    ) -> Array:
        (rates, logs, own), (other_rates, other_logs, other) = x, y
        crossed = _geometry.inner(rates, other_logs, precision)
        crossed += _geometry.inner(logs, other_rates, precision)
        total = own[:, None] + other[None, :] - crossed
        return jnp.maximum(total, 0) / rates.shape[1]

    @staticmethod
    def apart(x: tuple[Array, ...], y: tuple[Array, ...]) -> Array:
        rates, logs = (a - b for a, b in zip(x, y, strict=True))
        return jnp.mean(rates * logs, axis=-1)
