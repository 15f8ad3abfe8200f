"""Compares two RDMs: discrepancies that are 0 for equal RDMs.

A comparison is a frozen dataclass registered as a pytree. It is called with the
condensed RDMs `[pairs]` of student and teacher, and optionally weights `[pairs]` (0
masks a pair, whose distances may then be NaN), and returns a scalar.

The comparisons subtract before they square (one minus a cosine is half the squared
distance of two unit vectors), so that they stay accurate when student and teacher are
close, and are exactly 0 when they are equal.

A comparison that does not need the RDMs in memory (`rdm.forms`) has three more methods:
`from_products` computes its value from `Products`, six means and products; `terms`
returns the terms that are averaged over pairs, relative to approximate means of the two
RDMs; `from_means` computes its value from the means of these terms. The attribute
`own_scales` says whether a comparison is invariant to the scale of each RDM.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rdljax import _checks, _geometry, _pytrees
from rdljax.rdm import _condensed, _ranks

__all__ = [
    "MSE",
    "Cosine",
    "KendallTauA",
    "Pearson",
    "RhoA",
    "SoftKendall",
    "SoftSpearman",
    "Spearman",
    "WhitenedCosine",
    "WhitenedPearson",
]

Array = jax.Array


class Comparison(Protocol):
    """The interface of a comparison of two RDMs."""

    def __call__(
        self, student: Array, teacher: Array, weights: Array | None = None, /
    ) -> Array:
        """Returns a scalar, 0 for equal RDMs `[pairs]`; weights are not negative."""


class Similarity(Comparison, Protocol):
    """A comparison that is one minus a similarity, so that RDMs can be averaged."""

    def standardised(self, rdm: np.ndarray, /) -> np.ndarray:
        """Returns the RDM `[pairs]` standardised, as it enters an average of RDMs."""


class Products(NamedTuple):
    """Means, variances and covariance over pairs of the distances d and e of two RDMs.

    A comparison needs no more, so that the RDMs need not be held in memory.

    Attributes:
      difference: The mean of `d - e`, the student's distance minus the teacher's.
      teacher: The mean of e.
      differences: The variance of `d - e`.
      both: The covariance of `d - e` and e.
      teachers: The variance of e.
      students: The variance of d.
    """

    difference: Array
    teacher: Array
    differences: Array
    both: Array
    teachers: Array
    students: Array

    def resolved(self, floor: float | np.floating) -> "Products":
        """Sets values that are only rounding error to 0, for RDMs of about unit size.

        A variance below `floor` (times the square of the mean, if that is above 1)
        becomes 0, and so does an RDM with zero variance and a mean near 0. (NaN stays
        NaN.)
        """
        nothing = 64 * jnp.finfo(self.teacher.dtype).eps
        teacher, student = self.teacher, self.teacher + self.difference
        teachers, students = (
            jnp.where(variance <= floor * jnp.maximum(mean**2, 1), 0, variance)
            for variance, mean in ((self.teachers, teacher), (self.students, student))
        )
        no_teacher, no_student = (
            (jnp.abs(mean) <= nothing) & (variance == 0)
            for variance, mean in ((teachers, teacher), (students, student))
        )
        difference = jnp.where(no_student, -teacher, self.difference)
        difference = jnp.where(no_teacher, student, difference)
        return Products(
            jnp.where(no_student & no_teacher, 0, difference),
            jnp.where(no_teacher, 0, teacher),
            self.differences,
            self.both,
            teachers,
            students,
        )


class OfProducts(Comparison, Protocol):
    """A comparison that can be computed from `Products`, without any distances."""

    own_scales: bool

    def from_products(self, products: Products, /) -> Array:
        """Computes the value from the means, variances and covariance over pairs."""


def by_maximum(student: Array, teacher: Array, weights: Array) -> Array:
    """Returns the factor that makes the largest distances of the two RDMs equal."""
    largest_student, largest_teacher = (
        jnp.max(jnp.where(weights > 0, rdm, 0)) for rdm in (student, teacher)
    )
    return _ratio(largest_student, largest_teacher)


def by_norm(student: Array, teacher: Array, weights: Array) -> Array:
    """Returns the factor that gives the teacher's RDM the student's norm."""
    squares = (jnp.sum(weights * rdm * rdm) for rdm in (student, teacher))
    return jnp.sqrt(_ratio(*squares))


def by_least_squares(student: Array, teacher: Array, weights: Array) -> Array:
    """Returns the slope of the student's distances on the teacher's, with no offset."""
    return _ratio(
        jnp.sum(weights * student * teacher), jnp.sum(weights * teacher * teacher)
    )


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class MSE:
    """Weighted mean squared difference.

    Attributes:
      scale: None, or the function that returns the factor by which the teacher's RDM is
        first scaled to the student's: `by_maximum`, `by_norm` or `by_least_squares`,
        the "max", "norm" and "regression" of the first author's prototype
        (github.com/patrick-mcclure/rdl, 2015). As there, the factor counts as a
        constant in the gradient. (A function of your own receives each RDM divided by a
        power of two, and its factor applies to these. If the student's RDM is
        multiplied by c, the factor must be multiplied by c; if the teacher's is, it
        must be divided by c.)
    """

    scale: Callable[[Array, Array, Array], Array] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )

    own_scales = False

    def __call__(
        self, student: Array, teacher: Array, weights: Array | None = None
    ) -> Array:
        return self.weighted(*_masked(student, teacher, weights))

    def weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
        if self.scale is not None:
            # In these units the factor is about 1, whatever the scales of the RDMs.
            teacher = _geometry.in_own_unit(teacher)
            units = _geometry.in_own_unit(student), teacher, weights
            factor = self.scale(*lax.stop_gradient(units))
            teacher = _geometry.power_of_two(student) * (factor * teacher)
        return jnp.sum(weights * (student - teacher) ** 2)

    def terms(self, student: Array, teacher: Array, centres) -> tuple[Array, ...]:
        return ((student - teacher) ** 2,)

    def from_means(self, means: tuple[Array, ...], centres) -> Array:
        return means[0]

    def from_products(self, products: Products) -> Array:
        return products.differences + products.difference**2


class _OfLength:
    """A comparison that depends only on RDMs scaled to unit length."""

    own_scales = True

    def standardised(self, rdm: np.ndarray) -> np.ndarray:
        """Returns the RDM `[pairs]` scaled to unit length."""
        return rdm / (np.linalg.norm(rdm) or 1)


class _OfScores(_OfLength):
    """A comparison that depends only on the z scores of RDMs."""

    def standardised(self, rdm: np.ndarray) -> np.ndarray:
        return super().standardised(rdm - rdm.mean())


class _BlindToScale:
    """The common part of `Cosine` and `Pearson`, invariant to the scales of RDMs."""

    def __call__(
        self, student: Array, teacher: Array, weights: Array | None = None
    ) -> Array:
        return self.weighted(*_masked(student, teacher, weights))

    def weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
        raise NotImplementedError

    def from_products(self, products: Products) -> Array:
        raise NotImplementedError

    def terms(self, student: Array, teacher: Array, centres) -> tuple[Array, ...]:
        # Relative to about their means, so that less cancels in `from_means`.
        difference = student - teacher
        student, teacher = student - centres[0], teacher - centres[1]
        return (
            difference,
            teacher,
            difference * difference,
            difference * teacher,
            teacher * teacher,
            student * student,
        )

    def from_means(self, means: tuple[Array, ...], centres) -> Array:
        difference, teacher, differences, both, teachers, students = means
        student = difference - centres[0] + centres[1] + teacher
        products = Products(
            difference,
            centres[1] + teacher,
            differences - difference**2,
            both - difference * teacher,
            teachers - teacher**2,
            students - student**2,
        )
        rounding = 8 * jnp.finfo(teacher.dtype).eps
        return self.from_products(products.resolved(rounding**2))


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Cosine(_BlindToScale, _OfLength):
    """One minus the cosine of the two RDMs: invariant to their scale.

    1 if one of the two is all zero, 0 if both are.
    """

    def weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
        return _one_minus_cosine(student, teacher, weights)

    def from_products(self, products: Products) -> Array:
        difference, teacher = products.difference, products.teacher
        return _one_minus_ratio(
            products.differences + difference**2,
            products.both + difference * teacher,
            products.teachers + teacher**2,
            products.students + (difference + teacher) ** 2,
        )


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Pearson(_BlindToScale, _OfScores):
    """One minus Pearson's correlation of the two RDMs: invariant to scale and offset.

    1 if one of the two is constant, 0 if both are.
    """

    def weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
        student, teacher = (
            _centred(_geometry.in_own_unit(rdm), weights) for rdm in (student, teacher)
        )
        return _one_minus_cosine(student, teacher, weights)

    def from_products(self, products: Products) -> Array:
        return _one_minus_ratio(
            products.differences, products.both, products.teachers, products.students
        )


class OfRanks:
    """The base class of comparisons of ranks: `Spearman`, `RhoA` and `KendallTauA`.

    Their gradient is 0, since ranks change in steps. `on_host` computes the same value
    with NumPy and SciPy, which sort faster than XLA on a CPU.
    """

    own_scales = True

    def __call__(
        self, student: Array, teacher: Array, weights: Array | None = None
    ) -> Array:
        dtype = jax.dtypes.canonicalize_dtype(_geometry.compute_dtype(student))
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
        value = self.weighted(student, teacher, weights)
        # NaN if any value is not finite: such values have no rank.
        return value + 0 * (jnp.sum(student) + jnp.sum(teacher) + jnp.sum(weights))

    def weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
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
          The value; NaN if a distance with a weight above 0 is not finite.
        """
        student, teacher = np.asarray(student), np.asarray(teacher)
        if weights is not None:
            student, teacher = self._kept(student, teacher, np.asarray(weights))
        if not (np.isfinite(student).all() and np.isfinite(teacher).all()):
            return np.nan
        if len(student) < 2:
            return 0.0
        return float(self._on_host(student, teacher))

    def standardised(self, rdm: np.ndarray) -> np.ndarray:
        """Returns the ranks of an RDM `[pairs]`, which enter an average of RDMs."""
        return _ranks.on_host(rdm)

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

    def weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
        return Pearson()(*_ranks.of_both(student, teacher, weights))

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

    def weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
        kept = (weights > 0).astype(student.dtype)
        n = jnp.sum(kept)
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

    def weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
        kept = weights > 0
        n = jnp.sum(kept, dtype=student.dtype)
        tied, discordant = _ranks.tied_and_discordant(student, teacher, kept)
        total = n * (n - 1) / 2
        return jnp.where(n > 1, (tied + 2 * discordant) / jnp.maximum(total, 1), 0)

    def _on_host(self, student, teacher):
        return 1 - _ranks.tau_a_on_host(student, teacher)


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class SoftSpearman(_OfScores):
    """`Spearman` with a gradient: the order of two distances is gradual.

    The soft rank of a distance is the sum over all others of `(1 + tanh(gap / w)) / 2`,
    with the distance minus the other as gap and a width w; it tends to the rank as w
    tends to 0. Every two distances are compared: time grows with the fourth power of
    the number of stimuli (with the square of that of the pairs, which can be few:
    `rdm.sample_pairs`). 1 if one of the two RDMs is constant, 0 if both are.

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
        student, teacher, weights = _masked(student, teacher, weights)
        student, teacher = (
            _ranks.soft(rdm, weights)
            for rdm in _in_widths(self.width, student, teacher, weights)
        )
        return Pearson().weighted(student, teacher, weights)


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class SoftKendall(_OfScores):
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
        student, teacher, weights = _masked(student, teacher, weights)
        x, y = _in_widths(self.width, student, teacher, weights)
        both, students, teachers = _ranks.compared(jnp.tanh, x, y, weights)
        return _one_minus_ratio(
            jnp.maximum(students + teachers - 2 * both, 0),
            both - teachers,
            teachers,
            students,
        )


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class WhitenedCosine(_OfLength):
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
        if weights is not None:
            raise ValueError(
                f"{type(self).__name__} takes no weights and no masked pairs"
            )
        student, teacher, _ = _masked(student, teacher, None)
        x, y = (
            _whitened(_geometry.in_own_unit(rdm), self.covariance)
            for rdm in (student, teacher)
        )
        return _one_minus_cosine(x, y, jnp.ones_like(x))


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class WhitenedPearson(WhitenedCosine, _OfScores):
    """`WhitenedCosine` of RDMs minus their means: rsatoolbox's "corr_cov"."""

    def __call__(
        self, student: Array, teacher: Array, weights: Array | None = None
    ) -> Array:
        if weights is None:
            student, teacher, uniform = _masked(student, teacher, None)
            student, teacher = (
                _centred(_geometry.in_own_unit(rdm), uniform)
                for rdm in (student, teacher)
            )
        return super().__call__(student, teacher, weights)


def _ratio(numerator: Array, denominator: Array) -> Array:
    nothing = denominator <= 0
    return jnp.where(nothing, 1, numerator / jnp.where(nothing, 1, denominator))


def _masked(
    student: Array, teacher: Array, weights: Array | None
) -> tuple[Array, Array, Array]:
    """Returns both RDMs, 0 where masked, and weights that sum to 1 (or are all 0).

    All in the dtype of computation of the student's RDM.
    """
    student = jnp.asarray(student)
    dtype = _geometry.compute_dtype(student)
    student, teacher = student.astype(dtype), jnp.asarray(teacher, dtype)
    if weights is None:
        return student, teacher, jnp.full_like(student, 1 / student.size)
    weights = jnp.asarray(weights, dtype)
    weights = weights / _or_1(jnp.sum(weights))
    student, teacher = (jnp.where(weights > 0, rdm, 0) for rdm in (student, teacher))
    return student, teacher, weights


def _or_1(x: Array) -> Array:
    """Replaces 0 by 1 in numbers that are not negative; NaN stays NaN."""
    return jnp.where(x <= 0, 1, x)


def _centred(rdm: Array, weights: Array) -> Array:
    """Subtracts the weighted mean; all 0 if the RDM is constant up to rounding."""
    mean = jnp.sum(weights * rdm)
    deviation = jnp.where(weights > 0, rdm - mean, 0)
    rounding = 8 * jnp.finfo(rdm.dtype).eps * jnp.abs(mean)
    # The comparison is written so that NaN stays NaN.
    return jnp.where(jnp.max(jnp.abs(deviation)) <= rounding, 0, deviation)


def _one_minus_cosine(x: Array, y: Array, weights: Array) -> Array:
    x, y = ((jnp.sqrt(weights) * a).reshape(1, -1) for a in (x, y))
    x, y = _geometry.unit_rows(x), _geometry.unit_rows(y)
    one_is_zero = jnp.any(x != 0) != jnp.any(y != 0)
    return (jnp.sum((x - y) ** 2) + jnp.where(one_is_zero, 1, 0)) / 2


def _one_minus_ratio(
    differences: Array, both: Array, teachers: Array, students: Array
) -> Array:
    """Computes `1 - <d, e> / (|d| |e|)` from `|d - e|^2`, `<d - e, e>` and squares.

    If d and e are close, `<d, e>` is close to `|d| |e|`, and the difference of their
    squares, `|d|^2 |e|^2 - <d, e>^2 = |d - e|^2 |e|^2 - <d - e, e>^2`, loses no digits.
    """
    alive = (teachers != 0) & (students != 0)
    norm = jnp.sqrt(jnp.where(alive, teachers * students, 1))
    product = teachers + both
    near = (differences * teachers - both**2) / (norm * (norm + jnp.abs(product)))
    far = 1 - product / norm
    one_is_zero = (teachers != 0) != (students != 0)
    # A value below 0 by rounding becomes 0, but keeps its gradient.
    near = near + lax.stop_gradient(jnp.maximum(near, 0) - near)
    value = jnp.where(product > 0, near, far)
    return jnp.where(alive, value, jnp.where(one_is_zero, 1, 0))


def _in_widths(width, student: Array, teacher: Array, weights: Array) -> list[Array]:
    """Returns both RDMs in units of the width times their standard deviation.

    The standard deviation counts as a constant in the gradient, and as 1 if it is 0.
    """
    _checks.check_number("width", width, above=0)
    width = jnp.asarray(width, weights.dtype)
    width = _checks.nan_unless(width > 0, width)
    # Centring sets RDMs that are constant up to rounding to 0: they have no order.
    rdms = [_centred(_geometry.in_own_unit(rdm), weights) for rdm in (student, teacher)]
    return [rdm / (width * _spread(rdm, weights)) for rdm in rdms]


def _spread(centred: Array, weights: Array) -> Array:
    variance = jnp.sum(weights * lax.stop_gradient(centred) ** 2)
    return jnp.sqrt(_or_1(variance))


def _centred_ranks(rdm: np.ndarray) -> np.ndarray:
    return _ranks.on_host(rdm) - (len(rdm) + 1) / 2


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
