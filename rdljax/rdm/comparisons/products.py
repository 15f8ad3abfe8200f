"""Compares RDMs by sums over pairs: MSE, cosine and Pearson's correlation."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rdljax import _geometry, _pytrees
from rdljax.rdm.comparisons import _parts

Array = jax.Array


class Comparison(Protocol):
    """The interface of a comparison of two RDMs."""

    def __call__(
        self, student: Array, teacher: Array, weights: Array | None = None, /
    ) -> Array:
        """Returns a scalar, 0 for equal RDMs `[pairs]`; weights are not negative."""


class Similarity(Comparison, Protocol):
    """A comparison that is one minus a similarity, so that RDMs can be averaged."""

    def standardise(self, rdm: np.ndarray, /) -> np.ndarray:
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
    return _parts.ratio(largest_student, largest_teacher)


def by_norm(student: Array, teacher: Array, weights: Array) -> Array:
    """Returns the factor that gives the teacher's RDM the student's norm."""
    squares = (jnp.sum(weights * rdm * rdm) for rdm in (student, teacher))
    return jnp.sqrt(_parts.ratio(*squares))


def by_least_squares(student: Array, teacher: Array, weights: Array) -> Array:
    """Returns the slope of the student's distances on the teacher's, with no offset."""
    return _parts.ratio(
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
        """Returns the discrepancy of two RDMs `[pairs]`."""
        return self.compare_weighted(*_parts.masked(student, teacher, weights))

    def compare_weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
        """Computes the value from distances that are 0 where their weight is 0."""
        if self.scale is not None:
            # In these units the factor is about 1, whatever the scales of the RDMs.
            teacher = _geometry.in_own_unit(teacher)
            units = _geometry.in_own_unit(student), teacher, weights
            factor = self.scale(*lax.stop_gradient(units))
            teacher = _geometry.power_of_two(student) * (factor * teacher)
        return jnp.sum(weights * (student - teacher) ** 2)

    def terms(
        self, student: Array, teacher: Array, centres: Sequence[Array | float]
    ) -> tuple[Array, ...]:
        """Returns the terms that are averaged over pairs, relative to the centres."""
        return ((student - teacher) ** 2,)

    def from_means(
        self, means: tuple[Array, ...], centres: Sequence[Array | float]
    ) -> Array:
        """Computes the value from the means of the terms over pairs."""
        return means[0]

    def from_products(self, products: Products) -> Array:
        """Computes the value from the means, variances and covariance over pairs."""
        return products.differences + products.difference**2


class _BlindToScale:
    """The common part of `Cosine` and `Pearson`, invariant to the scales of RDMs."""

    def __call__(
        self, student: Array, teacher: Array, weights: Array | None = None
    ) -> Array:
        """Returns the discrepancy of two RDMs `[pairs]`."""
        return self.compare_weighted(*_parts.masked(student, teacher, weights))

    def compare_weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
        """Computes the value from distances that are 0 where their weight is 0."""
        raise NotImplementedError

    def from_products(self, products: Products) -> Array:
        """Computes the value from the means, variances and covariance over pairs."""
        raise NotImplementedError

    def terms(
        self, student: Array, teacher: Array, centres: Sequence[Array | float]
    ) -> tuple[Array, ...]:
        """Returns the terms that are averaged over pairs, relative to the centres."""
        # Relative to approximate means, so that less cancels in `from_means`.
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

    def from_means(
        self, means: tuple[Array, ...], centres: Sequence[Array | float]
    ) -> Array:
        """Computes the value from the means of the terms over pairs."""
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
class Cosine(_BlindToScale, _parts.OfLength):
    """One minus the cosine of the two RDMs: invariant to their scale.

    1 if one of the two is all zero, 0 if both are.
    """

    def compare_weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
        return _parts.one_minus_cosine(student, teacher, weights)

    def from_products(self, products: Products) -> Array:
        difference, teacher = products.difference, products.teacher
        return _parts.one_minus_ratio(
            products.differences + difference**2,
            products.both + difference * teacher,
            products.teachers + teacher**2,
            products.students + (difference + teacher) ** 2,
        )


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Pearson(_BlindToScale, _parts.OfScores):
    """One minus Pearson's correlation of the two RDMs: invariant to scale and offset.

    1 if one of the two is constant, 0 if both are.
    """

    def compare_weighted(self, student: Array, teacher: Array, weights: Array) -> Array:
        student, teacher = (
            _parts.centred(_geometry.in_own_unit(rdm), weights)
            for rdm in (student, teacher)
        )
        return _parts.one_minus_cosine(student, teacher, weights)

    def from_products(self, products: Products) -> Array:
        return _parts.one_minus_ratio(
            products.differences, products.both, products.teachers, products.students
        )
