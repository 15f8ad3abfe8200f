"""Distances between the activations of two stimuli: what an RDM is made of.

A distance is a frozen dataclass registered as a pytree, so that it may be an argument
or a constant of a jitted function without retracing. Called with activations `[n, ...]`
it answers the whole matrix `[n, n]`; `pairs(x, pairs)` answers given pairs alone.

Most are squared Euclidean distance in an embedding: such a distance derives from
`Embedded` and has `embed`. What is known of squared Euclidean distances then holds for
it: the matrix from one Gram matrix, exact zeros on the diagonal, and comparisons of two
RDMs that need no matrix at all.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax

from rdljax import _geometry

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


class Embedded:
    """A distance that is squared Euclidean distance between embedded activations."""

    def embed(self, x: Array) -> Array:
        """Activations `[n, ...]` as points `[n, dimensions]`."""
        raise NotImplementedError

    def __call__(self, x: Array) -> Array:
        """The matrix `[n, n]` of activations `[n, ...]`."""
        return _geometry.squared_distances(self.embed(x))

    def pairs(self, x: Array, pairs: Array) -> Array:
        """The distances `[p]` of the stimuli `pairs` `[2, p]`."""
        points = self.embed(x)
        difference = points[pairs[0]] - points[pairs[1]]
        return jnp.sum(difference * difference, axis=1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SquaredEuclidean(Embedded):
    """`sum_u (x_iu - x_ju)^2`: SciPy's `sqeuclidean`.

    rsatoolbox's "euclidean" is this divided by the number of units (`MeanSquared`).
    """

    def embed(self, x: Array) -> Array:
        return _geometry.flatten(x)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MeanSquared(Embedded):
    """`mean_u (x_iu - x_ju)^2`: layers of different width compare.

    rsatoolbox's "euclidean".
    """

    def embed(self, x: Array) -> Array:
        x = _geometry.flatten(x)
        return x / jnp.sqrt(jnp.asarray(x.shape[1], x.dtype))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cosine(Embedded):
    """`1 - cos(x_i, x_j)`.

    A zero row has no direction: its distance is 1/2 to every other row, and 0 to
    another zero row.
    """

    def embed(self, x: Array) -> Array:
        # |u - v|^2 = 2 (1 - u.v) for unit vectors.
        return _geometry.unit_rows(_geometry.flatten(x)) * 0.5**0.5


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Correlation(Embedded):
    """`1 - r(x_i, x_j)`, Pearson's correlation over units.

    A constant row has none: its distance is 1/2 to every other row, and 0 to another
    constant row.
    """

    def embed(self, x: Array) -> Array:
        rows = _geometry.centre_rows(_geometry.flatten(x))
        return _geometry.unit_rows(rows) * 0.5**0.5


@jax.tree_util.register_dataclass
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
        units = (x.shape[1],) * 2
        if jnp.shape(self.precision) != units:
            raise ValueError(
                f"Mahalanobis: expected a precision {units} for activations "
                f"{x.shape}, got {jnp.shape(self.precision)}"
            )
        factor = jnp.linalg.cholesky(jnp.asarray(self.precision, x.dtype))
        return jnp.matmul(x, factor, precision=lax.Precision.HIGHEST)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Euclidean:
    """`sqrt(sum_u (x_iu - x_ju)^2)`: SciPy's `euclidean`.

    Its gradient at coincident rows is taken as 0. In float32 the matrix, from a Gram
    matrix, does not resolve distances below about a thousandth of the rows' spread;
    `pairs` subtracts the rows themselves and does.
    """

    def __call__(self, x: Array) -> Array:
        return _geometry.safe_sqrt(SquaredEuclidean()(x))

    def pairs(self, x: Array, pairs: Array) -> Array:
        return _geometry.safe_sqrt(SquaredEuclidean().pairs(x, pairs))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PoissonKL:
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

    def _rates(self, x: Array) -> Array:
        x = _geometry.flatten(x)
        return (x + self.prior_weight * self.prior_rate) / (1 + self.prior_weight)

    def __call__(self, x: Array) -> Array:
        rates = self._rates(x)
        # Centring either factor changes no distance; see `squared_distances`.
        logs = jnp.log(rates)
        rates, logs = (a - jnp.mean(a, axis=0, keepdims=True) for a in (rates, logs))
        products = _geometry.inner(rates, logs)
        own = jnp.diagonal(products)
        total = own[:, None] + own[None, :] - products - products.T
        diagonal = jnp.eye(x.shape[0], dtype=bool)
        return jnp.where(diagonal, 0, jnp.maximum(total, 0)) / rates.shape[1]

    def pairs(self, x: Array, pairs: Array) -> Array:
        rates = self._rates(x)
        logs = jnp.log(rates)
        differences = [a[pairs[0]] - a[pairs[1]] for a in (rates, logs)]
        return jnp.mean(differences[0] * differences[1], axis=1)
