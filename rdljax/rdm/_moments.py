"""Computes the moments of two RDMs from points, without their n x n distances.

For points x_i and y_i, `d_ij = |x_i - x_j|^2` and `e_ij = |y_i - y_j|^2` are sums of
bilinear forms `(a_i - a_j).(b_i - b_j)`. The sum over all pairs of the product of two
such forms, f (of a and b) and g (of c and e), follows from sums over stimuli: with
`w_i = a_i.b_i`, `z_i = c_i.e_i`, a capital for a sum over stimuli, and A'C for the
matrix `sum_i a_i c_i'`,

    sum f g = 2n sum w z + 2 W Z + 2 <A'C, B'E> + 2 <A'E, B'C>
              - 2 [(sum w c).E + C.(sum w e) + (sum z a).B + A.(sum z b)].

This holds for any origin; an origin near the mean of the points avoids cancellation. If
both sets have the same number of units, the forms are built from the difference
`u = x - y` and y: `d - e = |u|^2 + 2 y.u`, whose moments stay accurate if the two sets
are close.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rdljax import _blocks, _geometry
from rdljax.rdm import comparisons

Array = jax.Array

# Number of rows that are multiplied at a time.
BLOCK = 8192
# The error of a variance of distances from moments, in relation to the square of the
# mean, in units of the dtype's precision.
FLOOR = 32


class Origin(NamedTuple):
    """The reference values for points and forms, near their means, fixed in advance.

    Attributes:
      points: Origin of each set, `[units]`.
      scales: Factor of each set.
      forms: Approximate mean of `w` for each form, `[forms]`.
    """

    points: tuple[Array, Array]
    scales: tuple[Array, Array]
    forms: Array


class Sums(NamedTuple):
    """Sums over stimuli.

    Attributes:
      points: Sum of each set of points, `[units]`.
      forms: Sum of `w` for each form, `[forms]`.
      squares: Sums of the products of two forms' `w`, `[forms, forms]`.
      mixed: Sums of a form's `w` times the points, `[forms, units]` for each set.
      products: Sums of outer products of points, for sets (0, 0), (0, 1) and (1, 1).
    """

    points: Any
    forms: Any
    squares: Any
    mixed: Any
    products: Any


# The two sets of points that each form multiplies, and the coefficients of the forms in
# the difference of the distances (first row) and in the teacher's distance (second).
CLOSE = (((0, 0), (1, 0), (1, 1)), np.array([[1, 2, 0], [0, 0, 1]]))
APART = (((0, 0), (1, 1)), np.array([[1, -1], [0, 1]]))


def of_points(
    student: Array,
    teacher: Array,
    noises: Sequence[Array],
    *,
    own_scales: bool,
    precision: lax.PrecisionLike = lax.Precision.HIGHEST,
    axis_name: str | None = None,
) -> tuple[comparisons.Products, Array]:
    """Computes the `Products` of the squared distances of two sets of points.

    Args:
      student: Points `[n, p]` of the student.
      teacher: Points `[n, q]` of the teacher.
      noises: Bounds `[n]` of the rounding error in the distances of the points, one
        array for each set.
      own_scales: Whether each set has its own scale; otherwise both have the same.
      precision: Precision of the matrix products.
      axis_name: Name of the mapped axis of devices that hold n points each; None: one
        device.

    Returns:
      The products of the distances divided by a scale near their mean, and that scale
      (if there are two scales, the student's).
    """
    close = student.shape[1] == teacher.shape[1]
    origin = origin_of(
        student,
        teacher,
        noises,
        own_scales=own_scales,
        close=close,
        axis_name=axis_name,
    )
    origin = jax.tree.map(lax.stop_gradient, origin)
    sums, n = sums_of(student, teacher, origin, precision), len(student)
    if axis_name is not None:
        sums, n = lax.psum((sums, n), axis_name)
    products = of_sums(sums, origin.forms, n)
    if own_scales:
        products = products.resolved(FLOOR * jnp.finfo(student.dtype).eps)
    return products, 1 / origin.scales[0] ** 2


def size_of_sums(p: int, q: int) -> int:
    """Returns the number of elements of the sums over stimuli, for p and q units."""
    forms = len((CLOSE if p == q else APART)[0])
    return (p + q) * (1 + forms) + forms * (1 + forms) + p * p + p * q + q * q


def origin_of(
    student: Array,
    teacher: Array,
    noises: Sequence[Array],
    *,
    own_scales: bool,
    close: bool,
    axis_name: str | None = None,
) -> Origin:
    """Computes the means of the points, scales to about 1, and means of the forms.

    Args:
      student: Points `[n, p]` of the student.
      teacher: Points `[n, q]` of the teacher.
      noises: As for `of_points`.
      own_scales: Whether each set has its own scale; otherwise both have the same.
      close: Whether the forms are built from the difference of the two sets.
      axis_name: As for `of_points`.
    """

    def mean_of(x):
        mean = jnp.mean(x, axis=0)
        return mean if axis_name is None else lax.pmean(mean, axis_name)

    points = mean_of(student), mean_of(teacher)
    scales: tuple[Array, Array] = (
        _scale(student, points[0], noises[0], mean_of),
        _scale(teacher, points[1], noises[1], mean_of),
    )
    if not own_scales:
        # The scale of the set with the wider spread, unless that is 0.
        smaller = jnp.minimum(*(jnp.where(s > 0, s, jnp.inf) for s in scales))
        common = jnp.where(jnp.isinf(smaller), 1, smaller)
        scales = common, common
    kinds = jnp.zeros(len((CLOSE if close else APART)[0]), student.dtype)
    origin = Origin(points, scales, kinds)
    # From some rows only: centring all of them would copy both sets.
    _, forms = _features(origin, student[:BLOCK], teacher[:BLOCK])
    return origin._replace(forms=mean_of(forms))


def _scale(
    x: Array, mean: Array, noise: Array, mean_of: Callable[[Array], Array]
) -> Array:
    """Returns about one over the spread about the mean; 0 if it is only rounding.

    The scale keeps sums of fourth powers within the range of float32, and makes the RDM
    of points that are equal up to rounding exactly 0. It is a power of two, so that
    scaled points are exact, and those of equal sets are equal.
    """
    spread = mean_of(jnp.sum((x - mean[None, :]) ** 2, axis=1))
    inverse = _geometry.power_of_two(_geometry.safe_rsqrt(spread))
    return jnp.where(spread <= mean_of(noise), 0, inverse)


def sums_of(student: Array, teacher: Array, origin: Origin, precision) -> Sums:
    """Computes the sums over stimuli, block by block."""
    return _blocks.total(
        functools.partial(_sums, precision=precision),
        _blocks.rows(len(student), BLOCK),
        BLOCK,
        (student, teacher),
        origin,
    )


def _features(origin: Origin, student: Array, teacher: Array):
    """Returns the two sets of points that the forms multiply, and `w` `[n, forms]`."""
    x, y = (
        (points - mean[None, :]) * scale
        for points, mean, scale in zip(
            (student, teacher), origin.points, origin.scales, strict=True
        )
    )
    close = len(origin.forms) == len(CLOSE[0])
    sets = (x - y, y) if close else (x, y)
    forms, _ = CLOSE if close else APART
    return sets, jnp.stack([jnp.sum(sets[a] * sets[b], axis=1) for a, b in forms], 1)


def _sums(origin: Origin, place, block, *, precision) -> Sums:
    """Returns the sums over a block of both sets of points."""
    _, fresh = place
    sets, forms = _features(origin, *block)
    fresh = fresh[:, None]
    first, second = (jnp.where(fresh, x, 0) for x in sets)
    forms = jnp.where(fresh, forms - origin.forms[None, :], 0)
    between = functools.partial(jnp.matmul, precision=precision)
    return Sums(
        (jnp.sum(first, axis=0), jnp.sum(second, axis=0)),
        jnp.sum(forms, axis=0),
        between(forms.T, forms),
        (between(forms.T, first), between(forms.T, second)),
        (
            _geometry.gram(first.T, precision),
            between(first.T, second),
            _geometry.gram(second.T, precision),
        ),
    )


def of_sums(sums: Sums, origin, n: int) -> comparisons.Products:
    """Computes the `Products` from sums over n stimuli (NumPy or JAX arrays)."""
    close = len(origin) == len(CLOSE[0])
    forms, combine = CLOSE if close else APART
    pairs = {
        (i, j): _covariance(sums, origin, n, forms, i, j)
        for i in range(len(forms))
        for j in range(i, len(forms))
    }
    means = [_mean(sums, origin, n, forms, i) for i in range(len(forms))]

    def mean(of):
        return sum(weight * means[i] for i, weight in enumerate(of) if weight)

    def covariance(of, other):
        return sum(
            a * b * pairs[min(i, j), max(i, j)]
            for i, a in enumerate(of)
            for j, b in enumerate(other)
            if a * b
        )

    difference, teacher = combine.tolist()
    student = (combine[0] + combine[1]).tolist()
    return comparisons.Products(
        mean(difference),
        mean(teacher),
        covariance(difference, difference),
        covariance(difference, teacher),
        covariance(teacher, teacher),
        covariance(student, student),
    )


def _mean(sums: Sums, origin, n: int, forms: Sequence, i: int):
    """Returns the mean over pairs of a form."""
    a, b = forms[i]
    whole = n * origin[i] + sums.forms[i]
    return 2 * (whole - (sums.points[a] @ sums.points[b]) / n) / (n - 1)


def _covariance(sums: Sums, origin, n: int, forms: Sequence, i: int, j: int):
    """Computes the covariance of two forms over pairs: the equation above, centred.

    All terms are divided by `n ** 2` first, so that no sum is large.
    """
    (a, b), (c, e) = forms[i], forms[j]
    w, z = sums.forms[i] / n, sums.forms[j] / n
    squares = sums.squares[i, j] / n - w * z
    point = [x / n for x in sums.points]

    def product(k, m):
        matrix = sums.products[k + m] if k <= m else sums.products[k + m].T
        return matrix / n

    def mixed(i, mean, k):  # sum (w - mean w) a / n
        return sums.mixed[k][i] / n - mean * point[k]

    crossed = (product(a, c) * product(b, e)).sum() + (
        product(a, e) * product(b, c)
    ).sum()
    off_centre = (
        mixed(i, w, c) @ point[e]
        + mixed(i, w, e) @ point[c]
        + mixed(j, z, a) @ point[b]
        + mixed(j, z, b) @ point[a]
    )
    first, second = origin[i] + w, origin[j] + z
    ab, ce = point[a] @ point[b], point[c] @ point[e]
    means = first * second - first * ce - second * ab
    whole = 2 * squares + 2 * crossed - 2 * off_centre
    return (whole - 4 * (means + n * ab * ce) / (n - 1)) * (n / (n - 1))
