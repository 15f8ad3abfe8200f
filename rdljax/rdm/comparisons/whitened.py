"""Compares RDMs whitened by the covariance of their distances."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax

from rdljax import _geometry, _pytrees
from rdljax.rdm import _condensed
from rdljax.rdm.comparisons import _parts

Array = jax.Array


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class WhitenedCosine(_parts.OfLength):
    """One minus the cosine of two RDMs whitened by the covariance of their entries.

    Distances that share a stimulus covary. Let S be the noise covariance of the stimuli
    and V the covariance of the distances that follows from it. The cosine is that of
    the inner product `d' V^-1 e`, which equals `tr(P G_d P G_e)`, where G are the
    centred inner products with these distances and P is the pseudo-inverse of the
    centred S; with the identity for S it is linear CKA (Diedrichsen et al. 2020).
    rsatoolbox's "cosine_cov". 1 if one of the two RDMs is zero, 0 if both are. Weights
    raise a ValueError.

    Attributes:
      covariance: The noise covariance S of n stimuli, `[n, n]`; None: the identity.

    References:
      Diedrichsen, Berlot, Mur, Schutt, Shahbazi & Kriegeskorte, Comparing
      representational geometries using whitened unbiased-distance-matrix similarity,
      `arXiv:2007.02789 <https://arxiv.org/abs/2007.02789>`_, 2020.
    """

    covariance: Array | None = None

    def __call__(
        self, student: Array, teacher: Array, weights: Array | None = None
    ) -> Array:
        """Returns the discrepancy of two RDMs `[pairs]`."""
        if weights is not None:
            raise ValueError(
                f"{type(self).__name__} takes no weights and no masked pairs"
            )
        student, teacher, _ = _parts.masked(student, teacher, None)
        x, y = (
            _whitened(_geometry.in_own_unit(rdm), self.covariance)
            for rdm in (student, teacher)
        )
        return _parts.one_minus_cosine(x, y, jnp.ones_like(x))


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class WhitenedPearson(WhitenedCosine, _parts.OfScores):
    """`WhitenedCosine` of RDMs minus their means: rsatoolbox's "corr_cov"."""

    def __call__(
        self, student: Array, teacher: Array, weights: Array | None = None
    ) -> Array:
        """Returns the discrepancy of two RDMs `[pairs]`."""
        if weights is None:
            student, teacher, uniform = _parts.masked(student, teacher, None)
            student, teacher = (
                _parts.centred(_geometry.in_own_unit(rdm), uniform)
                for rdm in (student, teacher)
            )
        return super().__call__(student, teacher, weights)


def _whitened(rdm: Array, covariance: Array | None) -> Array:
    """Computes the centred inner products `[n, n]` of an RDM, whitened on each side."""
    distances = _condensed.square(rdm)
    n = distances.shape[0]
    if covariance is None:
        by_row = jnp.mean(distances, axis=0, keepdims=True)
        centred = distances - by_row - by_row.T + jnp.mean(distances)
        return -centred / 2
    if jnp.shape(covariance) != (n, n):
        raise ValueError(
            f"expected the covariance of {n} stimuli ({n}, {n}), got "
            f"{jnp.shape(covariance)}"
        )
    centring = jnp.eye(n, dtype=rdm.dtype) - 1 / n
    product = functools.partial(jnp.matmul, precision=_geometry.HIGHEST)
    own = _geometry.in_own_unit(jnp.asarray(covariance, rdm.dtype))
    values, vectors = jnp.linalg.eigh(product(product(centring, own), centring))
    # Centring removes the constant vector: it has the smallest eigenvalue, 0.
    nothing = values <= n * jnp.finfo(rdm.dtype).eps * jnp.max(values)
    scales = jnp.where(nothing, 0, lax.rsqrt(jnp.where(nothing, 1, values)))
    root = vectors * scales[None, :]
    return -product(product(root.T, distances), root) / 2
