"""Compares RDMs by ranks, with JAX and on the host, or soft ranks with a gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rdljax import _checks, _geometry, _pytrees
from rdljax.rdm import _ranks
from rdljax.rdm.comparisons import _parts, products

Array = jax.Array


class OfRanks:
    """The base class of comparisons of ranks: `Spearman`, `RhoA` and `KendallTauA`.

    Their gradient is 0, since ranks change in steps. `on_host` computes the same value
    with NumPy and SciPy, which sort faster than XLA on a CPU.
    """

    own_scales = True

    def __call__(
        self, student: Array, teacher: Array, weights: Array | None = None
    ) -> Array:
        """Returns the discrepancy of two RDMs `[pairs]`."""
        student = jnp.asarray(student)
        dtype = _geometry.compute_dtype(student)
        student, teacher = (
            lax.stop_gradient(jnp.asarray(rdm, dtype)) for rdm in (student, teacher)
        )
        if weights is None:
            weights = jnp.ones_like(student)
        weights = lax.stop_gradient(jnp.asarray(weights, dtype))
        student, teacher = (
            _geometry.in_own_unit(jnp.where(weights > 0, rdm, 0))
            for rdm in (student, teacher)
        )
        value = self.compare_weighted(student, teacher, weights)
        # NaN if any value is not finite: such values have no rank.
        return value + 0 * (jnp.sum(student) + jnp.sum(teacher) + jnp.sum(weights))

    def compare_weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
        """Computes the value from distances that are 0 where their weight is 0."""
        raise NotImplementedError

    def on_host(
        self,
        student: np.ndarray,
        teacher: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> float:
        """Computes the value with NumPy and SciPy, in float64; not for use in jit.

        Args:
          student: The student's condensed RDM `[pairs]`.
          teacher: The teacher's condensed RDM `[pairs]`.
          weights: Weights `[pairs]` as for the comparison itself, but `Spearman` takes
            only whole numbers here: the number of times each pair counts.

        Returns:
          The value; NaN if a distance with a weight above 0 is not finite, or a weight
          is negative or not finite.

        Raises:
          ValueError: `Spearman` with weights that are not whole numbers.
        """
        student, teacher = np.asarray(student), np.asarray(teacher)
        if weights is not None:
            weights = np.asarray(weights)
            if not (np.isfinite(weights) & (weights >= 0)).all():
                return np.nan
            student, teacher = self._kept(student, teacher, weights)
        if not (np.isfinite(student).all() and np.isfinite(teacher).all()):
            return np.nan
        if len(student) < 2:
            return 0.0
        return float(self._on_host(student, teacher))

    def standardise(self, rdm: np.ndarray) -> np.ndarray:
        """Returns the ranks of an RDM `[pairs]`, which enter an average of RDMs."""
        return _ranks.ranks_on_host(rdm)

    def _kept(self, student, teacher, weights):
        """Returns the distances with a weight above 0."""
        return student[weights > 0], teacher[weights > 0]

    def _on_host(self, student: np.ndarray, teacher: np.ndarray) -> float:
        """Computes the value from two or more distances."""
        raise NotImplementedError


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Spearman(OfRanks):
    """One minus Spearman's correlation: Pearson's of the ranks, mean ranks for ties.

    A weight w counts as w copies of a pair. 1 if one of the two RDMs is constant, 0 if
    both are. Its gradient is 0, since ranks change in steps; `SoftSpearman` has a
    gradient.

    References:
      Spearman, The proof and measurement of association between two things, American
      Journal of Psychology 15, 1904.
    """

    def compare_weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
        return products.Pearson()(*_ranks.of_both(student, teacher, weights))

    def _kept(self, student, teacher, weights):
        if (weights != np.round(weights)).any():
            raise ValueError("on_host takes weights that are whole numbers")
        return (np.repeat(rdm, weights.astype(int)) for rdm in (student, teacher))

    def _on_host(self, student, teacher):
        x, y = (_centred_ranks(rdm) for rdm in (student, teacher))
        squares = np.sqrt((x @ x) * (y @ y))
        if squares == 0:
            return x.any() != y.any()
        return 1 - x @ y / squares


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class RhoA(OfRanks):
    """One minus rho-a: the expected Spearman correlation if ties are broken at random.

    Models that predict ties are not favoured. Above 0 for equal RDMs if distances tie.
    Its gradient is 0. A weight above 0 counts as 1.

    References:
      Schutt, Kipnis, Diedrichsen & Kriegeskorte, Statistical inference on
      representational geometries, eLife 12, 2023.
    """

    def compare_weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
        kept = (weights > 0).astype(student.dtype)
        n = _count(weights).astype(student.dtype)
        *ranks, kept = _ranks.of_both(student, teacher, kept)
        x, y = (jnp.where(kept > 0, r / n - 1 / 2, 0) for r in ranks)
        return jnp.where(n > 1, 1 - 12 * jnp.sum(x * y) / (n - 1 / n), 0)

    def _on_host(self, student, teacher):
        x, y = (_centred_ranks(rdm) for rdm in (student, teacher))
        n = float(len(x))
        return 1 - 12 * (x @ y) / (n**3 - n)


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class KendallTauA(OfRanks):
    """One minus tau-a: concordant minus discordant pairs of distances, over all pairs.

    Above 0 for equal RDMs if distances tie. Its gradient is 0; `SoftKendall` has a
    gradient. A weight above 0 counts as 1. Time grows as `pairs log(pairs)`.

    References:
      Kendall, A new measure of rank correlation, Biometrika 30, 1938; discordant pairs
      counted by sorting: Knight, A computer method for calculating Kendall's tau with
      ungrouped data, JASA 61, 1966.
    """

    def compare_weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
        kept = weights > 0
        n = _count(weights).astype(student.dtype)
        tied, discordant = _ranks.tied_and_discordant(student, teacher, kept)
        total = n * (n - 1) / 2
        return jnp.where(n > 1, (tied + 2 * discordant) / jnp.maximum(total, 1), 0)

    def _on_host(self, student, teacher):
        return 1 - _ranks.tau_a_on_host(student, teacher)


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class SoftSpearman(_parts.OfScores):
    """`Spearman` with a gradient: the order of two distances is gradual.

    The soft rank of a distance is the sum over all others of `(1 + tanh(gap / w)) / 2`,
    with the distance minus the other as gap and a width w; it tends to the rank as w
    tends to 0. Every two distances are compared: time grows with the square of the
    number of pairs (use few: `rdm.sample_pairs`), that is with the fourth power of the
    number of stimuli. 1 if one of the two RDMs is constant, 0 if both are.

    Attributes:
      width: The width w, above 0, in units of the standard deviation of each RDM, which
        counts as a constant in the gradient.

    References:
      Qin, Liu & Li, A general approximation framework for direct optimization of
      information retrieval measures, Information Retrieval 13, 2010: ranks as sums of
      sigmoids.
    """

    width: float | Array = 0.1

    def __call__(
        self, student: Array, teacher: Array, weights: Array | None = None
    ) -> Array:
        """Returns the discrepancy of two RDMs `[pairs]`."""
        student, teacher, weights = _parts.masked(student, teacher, weights)
        student, teacher = (
            _ranks.soft(rdm, weights)
            for rdm in _in_widths(self.width, student, teacher, weights)
        )
        return products.Pearson().compare_weighted(student, teacher, weights)


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class SoftKendall(_parts.OfScores):
    """`KendallTauA` with a gradient: one minus the cosine of the gradual orders.

    The gradual order of two distances is `tanh(gap / w)`, with their difference as gap
    and a width w. 0 for equal RDMs; 1 if one of the two RDMs is constant, 0 if both
    are. Every two distances are compared, as in `SoftSpearman`.

    Attributes:
      width: The width w, above 0, in units of the standard deviation of each RDM, which
        counts as a constant in the gradient.
    """

    width: float | Array = 0.1

    def __call__(
        self, student: Array, teacher: Array, weights: Array | None = None
    ) -> Array:
        """Returns the discrepancy of two RDMs `[pairs]`."""
        student, teacher, weights = _parts.masked(student, teacher, weights)
        x, y = _in_widths(self.width, student, teacher, weights)
        both, students, teachers = _ranks.compared(jnp.tanh, x, y, weights)
        return _parts.one_minus_ratio(
            jnp.maximum(students + teachers - 2 * both, 0),
            both - teachers,
            teachers,
            students,
        )


def _count(weights: Array) -> Array:
    """Counts the pairs with a weight above 0, exactly."""
    return jnp.sum(weights > 0, dtype=jnp.int32)


def _in_widths(width, student: Array, teacher: Array, weights: Array) -> list[Array]:
    """Returns both RDMs in units of the width times their standard deviation.

    The standard deviation counts as a constant in the gradient, and as 1 if it is 0.
    """
    _checks.check_number("width", width, above=0)
    width = jnp.asarray(width, weights.dtype)
    width = _checks.nan_unless(width > 0, width)
    # Centring sets RDMs that are constant up to rounding to 0: they have no order.
    rdms = [
        _parts.centred(_geometry.in_own_unit(rdm), weights)
        for rdm in (student, teacher)
    ]
    return [rdm / (width * _spread(rdm, weights)) for rdm in rdms]


def _spread(centred: Array, weights: Array) -> Array:
    variance = jnp.sum(weights * lax.stop_gradient(centred) ** 2)
    return jnp.sqrt(_parts.or_1(variance))


def _centred_ranks(rdm: np.ndarray) -> np.ndarray:
    return _ranks.ranks_on_host(rdm) - (len(rdm) + 1) / 2
