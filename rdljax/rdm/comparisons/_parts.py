"""Defines parts that comparisons share: masks, means, cosines, standardised RDMs."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rdljax import _geometry

Array = jax.Array


class OfLength:
    """A comparison that depends only on RDMs scaled to unit length."""

    own_scales = True

    def standardise(self, rdm: np.ndarray) -> np.ndarray:
        """Returns the RDM `[pairs]` scaled to unit length."""
        return rdm / (np.linalg.norm(rdm) or 1)


class OfScores(OfLength):
    """A comparison that depends only on the z scores of RDMs."""

    def standardise(self, rdm: np.ndarray) -> np.ndarray:
        return super().standardise(rdm - rdm.mean())


def masked(
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
    weights = weights / or_1(jnp.sum(weights))
    student, teacher = (jnp.where(weights > 0, rdm, 0) for rdm in (student, teacher))
    return student, teacher, weights


def or_1(x: Array) -> Array:
    """Replaces 0 by 1 in numbers that are not negative; NaN stays NaN."""
    return jnp.where(x <= 0, 1, x)


def ratio(numerator: Array, denominator: Array) -> Array:
    """Computes a ratio; 1 if the denominator is not above 0."""
    nothing = denominator <= 0
    return jnp.where(nothing, 1, numerator / jnp.where(nothing, 1, denominator))


def centred(rdm: Array, weights: Array) -> Array:
    """Subtracts the weighted mean; all 0 if the RDM is constant up to rounding."""
    mean = jnp.sum(weights * rdm)
    deviation = jnp.where(weights > 0, rdm - mean, 0)
    rounding = 8 * jnp.finfo(rdm.dtype).eps * jnp.abs(mean)
    # The comparison is written so that NaN stays NaN.
    return jnp.where(jnp.max(jnp.abs(deviation)) <= rounding, 0, deviation)


def one_minus_cosine(x: Array, y: Array, weights: Array) -> Array:
    """Computes one minus the weighted cosine of two RDMs `[pairs]`.

    Half the squared difference of unit vectors, so that it is exactly 0 if they are
    equal. 1 if one of the two is zero, 0 if both are.
    """
    x, y = ((jnp.sqrt(weights) * a).reshape(1, -1) for a in (x, y))
    one_is_zero = jnp.any(x != 0) != jnp.any(y != 0)
    squares = jnp.sum(_geometry.difference_of_unit_rows(x, y) ** 2)
    return (squares + jnp.where(one_is_zero, 1, 0)) / 2


def one_minus_ratio(
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
