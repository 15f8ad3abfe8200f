"""Comparisons of two RDMs: discrepancies that are 0 when the two are equal.

A comparison is a frozen dataclass registered as a pytree. It is called with the
condensed RDMs `[pairs]` of student and teacher, and optionally weights `[pairs]` (0
masks a pair, whose distances may then be NaN), and returns a scalar.

The forms here subtract before they square (one minus a cosine is half the squared
distance of two unit vectors), so that they stay accurate where student and teacher are
close, and are exactly 0 where they are equal.

What compares two RDMs that are never written down (`rdm.forms`) also has
`from_products`, its value from six means and products; `terms`, what it sums over
pairs, given about the means of the two RDMs, and `from_means`, its value from the means
of those. `own_scales` is whether a comparison is blind to the scale of each RDM.
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
    """What a comparison of two RDMs has to be."""

    def __call__(
        self, student: Array, teacher: Array, weights: Array | None = None, /
    ) -> Array:
        """Returns a scalar, 0 for equal RDMs `[pairs]`; weights are not negative."""


class Similarity(Comparison, Protocol):
    """A comparison that is one minus a similarity, for which RDMs can be averaged."""

    def standardised(self, rdm: np.ndarray, /) -> np.ndarray:
        """Returns the RDM `[pairs]` as others are averaged with it."""


class Products(NamedTuple):
    """How the distances d and e of two RDMs vary, alone and together, over pairs.

    What a comparison needs to know of two RDMs that are nowhere written down.

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
        """Sets to 0 what is no more than rounding, in RDMs of about unit size.

        A variance below `floor` (in relation to the square of the mean, if that is
        above 1) is 0, and so is an RDM of no variance and a mean next to 0. (NaN stays
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
    """A comparison that follows from `Products`, without any distance."""

    own_scales: bool

    def from_products(self, products: Products, /) -> Array:
        """Returns the value from how the distances vary over pairs."""


def by_maximum(student: Array, teacher: Array, weights: Array) -> Array:
    """Returns the factor that makes the largest distances of both RDMs equal."""
    largest_student, largest_teacher = (
        jnp.max(jnp.where(weights > 0, rdm, 0)) for rdm in (student, teacher)
    )
    return _ratio(largest_student, largest_teacher)


def by_norm(student: Array, teacher: Array, weights: Array) -> Array:
    """Returns the factor that gives the teacher's RDM the student's norm."""
    squares = (jnp.sum(weights * rdm * rdm) for rdm in (student, teacher))
    return jnp.sqrt(_ratio(*squares))


def by_least_squares(student: Array, teacher: Array, weights: Array) -> Array:
    """Returns the slope of the student's distances on the teacher's, through 0."""
    return _ratio(
        jnp.sum(weights * student * teacher), jnp.sum(weights * teacher * teacher)
    )


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class MSE:
    """Mean squared difference, weighted.

    Attributes:
      scale: None, or how the teacher's RDM is brought to the scale of the student's
        first: `by_maximum`, `by_norm` or `by_least_squares`, the "max", "norm" and
        "regression" of the first author's prototype (github.com/patrick-mcclure/rdl,
        2015). As there, the factor counts as a constant in the gradient. (A function
        of your own sees each RDM divided by a power of two, and the factor is in
        relation to that: c times a student's RDM must have c times the factor, c times
        a teacher's 1 / c of it.)
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
            # Whatever the units of the two RDMs, the factor is one of about 1.
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
    """RDMs of unit length are what the comparison sees."""

    own_scales = True

    def standardised(self, rdm: np.ndarray) -> np.ndarray:
        """Returns the RDM `[pairs]` as others are averaged with it."""
        return rdm / (np.linalg.norm(rdm) or 1)


class _OfScores(_OfLength):
    """z scores of an RDM are what the comparison sees."""

    def standardised(self, rdm: np.ndarray) -> np.ndarray:
        return super().standardised(rdm - rdm.mean())


class _BlindToScale:
    """What `Cosine` and `Pearson` share."""

    def __call__(
        self, student: Array, teacher: Array, weights: Array | None = None
    ) -> Array:
        return self.weighted(*_masked(student, teacher, weights))

    def weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
        raise NotImplementedError

    def from_products(self, products: Products) -> Array:
        raise NotImplementedError

    def terms(self, student: Array, teacher: Array, centres) -> tuple[Array, ...]:
        # About their means, so that less cancels below.
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
    """One minus the cosine of the two RDMs: blind to their scale.

    1 where one of the two is all zero, 0 where both are.
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
    """One minus Pearson's correlation of the two RDMs: blind to scale and offset.

    1 where one of the two is constant, 0 where both are.
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
    """Comparisons of ranks: `Spearman`, `RhoA` and `KendallTauA`.

    Their gradient is 0: ranks change in steps. `on_host` computes the same by NumPy and
    SciPy, which on a CPU sort faster than XLA.
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
        # What is not finite has no rank.
        return value + 0 * (jnp.sum(student) + jnp.sum(teacher) + jnp.sum(weights))

    def weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
        """Computes the value from distances that are 0 where their weight is."""
        raise NotImplementedError

    def on_host(
        self,
        student: np.ndarray,
        teacher: np.ndarray,
        weights: np.ndarray | None = None,
    ) -> float:
        """Computes the value by NumPy and SciPy, in float64: not for jit.

        Args:
          student: The student's condensed RDM `[pairs]`.
          teacher: The teacher's condensed RDM `[pairs]`.
          weights: As for the comparison itself, `[pairs]`; `Spearman` takes whole
            numbers alone here, as how often each pair counts.

        Returns:
          The value; NaN if a distance that has a weight is not finite.
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
        """Returns the ranks of an RDM `[pairs]`, as others are averaged with it."""
        return _ranks.on_host(rdm)

    def _kept(self, student, teacher, weights):
        """Returns the distances that have a weight."""
        return student[weights > 0], teacher[weights > 0]

    def _on_host(self, student: np.ndarray, teacher: np.ndarray) -> float:
        """Computes the value of two distances or more."""
        raise NotImplementedError


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Spearman(OfRanks):
    """One minus Spearman's correlation: Pearson's of the ranks, ties at their mean.

    A weight counts as so many copies of a pair. 1 where one of the two RDMs is
    constant, 0 where both are. Its gradient is 0, for ranks change in steps;
    `SoftSpearman` has one.

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
    """One minus rho-a: Spearman's correlation, were ties broken at random, on average.

    Models that predict ties are not favoured. Above 0 at equality where distances tie.
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
    """One minus tau-a: of all pairs of distances, concordant minus discordant ones.

    Above 0 at equality where distances tie. Its gradient is 0; `SoftKendall` has one. A
    weight above 0 counts as 1. Time grows as `pairs log(pairs)`.

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

    The rank of a distance is the sum over all others of `(1 + tanh(gap / w)) / 2` for
    its gap above them and a width w; towards width 0 it becomes the rank. Every two
    distances are compared: time grows with the fourth power of the stimuli (which
    `rdm.sample_pairs` makes few). 1 where one of the two RDMs is constant, 0 where both
    are.

    Attributes:
      width: Above 0, over the standard deviation of each RDM, which counts as a
        constant in the gradient.

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
    """`KendallTauA` with a gradient: one minus the cosine of all gradual orders.

    The order of two distances is `tanh(gap / w)` of their gap, for a width w. 0 at
    equality; 1 where one of the two RDMs is constant, 0 where both are. Every two
    distances are compared, as in `SoftSpearman`.

    Attributes:
      width: Above 0, over the standard deviation of each RDM, which counts as a
        constant in the gradient.
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
    """One minus the cosine of two RDMs whitened by how their entries covary.

    Distances that share a stimulus vary together. With V their covariance under noise
    of covariance S of the stimuli, the cosine is that of the inner product
    `d' V^-1 e`, which is `tr(P G_d P G_e)` of the centred products G that the distances
    belong to, P the pseudo-inverse of the centred S; for S the identity that is linear
    CKA (Diedrichsen et al. 2020). rsatoolbox's "cosine_cov". 1 where one of the two is
    zero, 0 where both are. It takes no weights: ValueError.

    Attributes:
      covariance: S, `[n, n]`, of the noise of n stimuli; None for the identity.

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
                f"{type(self).__name__} takes no weights, nor masked pairs"
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
    """As `WhitenedCosine`, each RDM less its mean first: rsatoolbox's "corr_cov"."""

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

    In the dtype in which the student's is computed.
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
    """Numbers that are not negative, but 1 for 0; NaN stays NaN."""
    return jnp.where(x <= 0, 1, x)


def _centred(rdm: Array, weights: Array) -> Array:
    """Minus its weighted mean; all 0 where it varies by no more than rounding."""
    mean = jnp.sum(weights * rdm)
    deviation = jnp.where(weights > 0, rdm - mean, 0)
    rounding = 8 * jnp.finfo(rdm.dtype).eps * jnp.abs(mean)
    # (Not the other way round: NaN is to stay NaN.)
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

    Where d and e are close `<d, e>` is next to `|d| |e|`, and the difference of their
    squares, `|d|^2 |e|^2 - <d, e>^2 = |d - e|^2 |e|^2 - <d - e, e>^2`, keeps digits.
    """
    alive = (teachers != 0) & (students != 0)
    norm = jnp.sqrt(jnp.where(alive, teachers * students, 1))
    product = teachers + both
    near = (differences * teachers - both**2) / (norm * (norm + jnp.abs(product)))
    far = 1 - product / norm
    one_is_zero = (teachers != 0) != (students != 0)
    # Rounding may leave less than 0, which has a gradient all the same.
    near = near + lax.stop_gradient(jnp.maximum(near, 0) - near)
    value = jnp.where(product > 0, near, far)
    return jnp.where(alive, value, jnp.where(one_is_zero, 1, 0))


def _in_widths(width, student: Array, teacher: Array, weights: Array) -> list[Array]:
    """Returns both RDMs in units of a width over their standard deviation.

    The deviation is a constant in the gradient, and 1 where there is none.
    """
    _checks.check_number("width", width, above=0)
    width = jnp.asarray(width, weights.dtype)
    width = _checks.nan_unless(width > 0, width)
    # (Less their means: what varies by no more than rounding has no order.)
    rdms = [_centred(_geometry.in_own_unit(rdm), weights) for rdm in (student, teacher)]
    return [rdm / (width * _spread(rdm, weights)) for rdm in rdms]


def _spread(centred: Array, weights: Array) -> Array:
    variance = jnp.sum(weights * lax.stop_gradient(centred) ** 2)
    return jnp.sqrt(_or_1(variance))


def _centred_ranks(rdm: np.ndarray) -> np.ndarray:
    return _ranks.on_host(rdm) - (len(rdm) + 1) / 2


def _whitened(rdm: Array, covariance: Array | None) -> Array:
    """Computes centred products `[n, n]` of an RDM, whitened on either side."""
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
    # The constant vector is what the centring leaves out: the smallest value, 0.
    nothing = values <= n * jnp.finfo(rdm.dtype).eps * jnp.max(values)
    scales = jnp.where(nothing, 0, lax.rsqrt(jnp.where(nothing, 1, values)))
    root = vectors * scales[None, :]
    return -product(product(root.T, distances), root) / 2
