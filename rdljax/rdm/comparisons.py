"""Comparisons of two RDMs: discrepancies that are 0 when the two are equal.

A comparison is a frozen dataclass registered as a pytree. Called with the condensed
RDMs `[pairs]` of student and teacher, and optionally weights `[pairs]` (0 masks a pair,
whose distances may then be NaN), it answers a scalar.

The forms here subtract before they square (one minus a cosine is half the squared
distance of two unit vectors), so that they stay accurate where student and teacher are
close, and are exactly 0 where they are equal.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from rdljax import _geometry

__all__ = ["MSE", "Cosine", "Pearson"]

Array = jax.Array


def by_maximum(student: Array, teacher: Array, weights: Array) -> Array:
    """The factor that gives the teacher's RDM the student's largest distance."""
    largest_student, largest_teacher = (
        jnp.max(jnp.where(weights > 0, rdm, 0)) for rdm in (student, teacher)
    )
    return _ratio(largest_student, largest_teacher)


def by_norm(student: Array, teacher: Array, weights: Array) -> Array:
    """The factor that gives the teacher's RDM the student's Euclidean norm."""
    squares = (jnp.sum(weights * rdm * rdm) for rdm in (student, teacher))
    return jnp.sqrt(_ratio(*squares))


def by_least_squares(student: Array, teacher: Array, weights: Array) -> Array:
    """The slope of the student's distances on the teacher's, through the origin."""
    return _ratio(
        jnp.sum(weights * student * teacher), jnp.sum(weights * teacher * teacher)
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MSE:
    """Mean squared difference, weighted.

    Attributes:
      scale: None, or how the teacher's RDM is brought to the scale of the student's
        first: `by_maximum`, `by_norm` or `by_least_squares`, the "max", "norm" and
        "regression" of the first author's prototype (github.com/patrick-mcclure/rdl,
        2015). As there, the factor counts as a constant in the gradient.
    """

    scale: Callable[[Array, Array, Array], Array] | None = dataclasses.field(
        default=None, metadata={"static": True}
    )

    def __call__(
        self, student: Array, teacher: Array, weights: Array | None = None
    ) -> Array:
        student, teacher, weights = _masked(student, teacher, weights)
        if self.scale is not None:
            teacher = teacher * lax.stop_gradient(self.scale(student, teacher, weights))
        return jnp.sum(weights * (student - teacher) ** 2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cosine:
    """One minus the cosine of the two RDMs: blind to their scale.

    1 where one of the two is all zero, 0 where both are.
    """

    def __call__(
        self, student: Array, teacher: Array, weights: Array | None = None
    ) -> Array:
        student, teacher, weights = _masked(student, teacher, weights)
        return _one_minus_cosine(student, teacher, weights)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pearson:
    """One minus Pearson's correlation of the two RDMs: blind to scale and offset.

    1 where one of the two is constant, 0 where both are.
    """

    def __call__(
        self, student: Array, teacher: Array, weights: Array | None = None
    ) -> Array:
        student, teacher, weights = _masked(student, teacher, weights)
        student, teacher = (_centred(rdm, weights) for rdm in (student, teacher))
        return _one_minus_cosine(student, teacher, weights)


def _ratio(numerator: Array, denominator: Array) -> Array:
    alive = denominator > 0
    return jnp.where(alive, numerator / jnp.where(alive, denominator, 1), 1)


def _masked(
    student: Array, teacher: Array, weights: Array | None
) -> tuple[Array, Array, Array]:
    """Both RDMs, 0 where masked, and weights that sum to 1 (or are all 0)."""
    if weights is None:
        return student, teacher, jnp.full_like(student, 1 / student.size)
    weights = jnp.asarray(weights, student.dtype)
    total = jnp.sum(weights)
    weights = weights / jnp.where(total > 0, total, 1)
    student, teacher = (jnp.where(weights > 0, rdm, 0) for rdm in (student, teacher))
    return student, teacher, weights


def _centred(rdm: Array, weights: Array) -> Array:
    """Minus its weighted mean; all 0 where it varies by no more than rounding."""
    mean = jnp.sum(weights * rdm)
    deviation = jnp.where(weights > 0, rdm - mean, 0)
    rounding = 8 * jnp.finfo(rdm.dtype).eps * jnp.abs(mean)
    return jnp.where(jnp.max(jnp.abs(deviation)) > rounding, deviation, 0)


def _one_minus_cosine(x: Array, y: Array, weights: Array) -> Array:
    x, y = (_geometry.unit_rows((jnp.sqrt(weights) * a)[None])[0] for a in (x, y))
    one_is_zero = jnp.any(x != 0) != jnp.any(y != 0)
    return (jnp.sum((x - y) ** 2) + jnp.where(one_is_zero, 1, 0)) / 2
