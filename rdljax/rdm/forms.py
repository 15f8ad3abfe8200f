"""Defines how RDMs of two sets of activations are held in memory to be compared.

Three forms of the same discrepancy, for `rdm.discrepancy(..., form=...)`:

- `Dense`: both matrices, `O(n^2)` memory. For any distance and any comparison, and the
  most accurate form if student and teacher are close.
- `Moments`: no distances at all. For squared Euclidean distances in an embedding (most
  of `rdm.distances`), MSE, cosine and Pearson's correlation follow from sums over
  stimuli of points and of their products: `O(n units^2)` time and, in addition to the
  gradient, `O(units^2)` memory.
- `Tiles`: the distances tile by tile, `O(n units + block^2)` memory, computed again for
  the gradient. For any distance of `rdm.distances`, and with weights, which then take
  a matrix `[n, n]`.

All have a gradient. `Dense` also has a forward-mode derivative (`jax.jvp`,
`jax.hessian`), for any number of stimuli. `Moments` and `Tiles` do not: JAX raises a
`TypeError` about their `custom_vjp`. `Form` is the type of all three.

`choose` selects the form if none is given; `computable_from_means`, `blind_to_scale`
and `size_of_moments` return properties on which the choice and the computation depend.
`discrepancy` and `distances_of` do the same as `rdm.discrepancy` and `rdm.compute`, for
activations that have been checked.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rdljax import _blocks, _geometry, _pytrees
from rdljax import _checks as _numbers
from rdljax.rdm import _checks, _condensed, _moments, _ring, comparisons, distances

__all__ = [
    "Dense",
    "Form",
    "Moments",
    "Tiles",
    "blind_to_scale",
    "choose",
    "computable_from_means",
    "discrepancy",
    "distances_of",
    "size_of_moments",
]

Array = jax.Array
_Shaped = Array | jax.ShapeDtypeStruct

# The largest number of stimuli for which both matrices are held in memory by default.
DENSE = 2048
# If more elements than this would be gathered from all devices, or a device would have
# more pairs of its stimuli with all, stimuli are passed around the devices instead.
GATHERED = 2**28
# With more stimuli, the index of a pair exceeds int32.
LARGEST_REFINED = 46_340


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Dense:
    """Both RDMs as matrices.

    Attributes:
      refine: Number of the smallest distances of each RDM to compute again, from
        differences: see `rdm.compute`.
    """

    refine: int = dataclasses.field(default=0, metadata={"static": True})

    def __call__(
        self,
        student: Array,
        teacher: Array,
        weights: Array | None,
        distance: Any,
        comparison: Any,
    ) -> Array:
        """Compares the RDMs of activations `[n, ...]`, as `rdm.discrepancy` does."""
        student, teacher = (
            _matrix(x, distance, self.refine) for x in (student, teacher)
        )
        return self.compare_matrices(student, teacher, weights, comparison)

    @staticmethod
    def compare_matrices(
        student: Array, teacher: Array, weights: Array | None, comparison: Any
    ) -> Array:
        """Compares two distance matrices `[n, n]`."""
        if weights is not None or not computable_from_means(comparison):
            return comparison(
                _condensed.condense(student), _condensed.condense(teacher), weights
            )
        # Counting every pair twice avoids a copy of the upper triangles.
        n = student.shape[0]
        off_diagonal = jnp.arange(n)[:, None] != jnp.arange(n)[None, :]
        pairs = float(n * (n - 1))
        centres: tuple[Any, ...] = (0.0, 0.0)
        if comparison.own_scales:
            means = [lax.stop_gradient(jnp.sum(d)) / pairs for d in (student, teacher)]
            student, teacher = (
                d / jnp.where(mean == 0, 1, mean)
                for d, mean in zip((student, teacher), means, strict=True)
            )
            centres = tuple((mean != 0).astype(mean.dtype) for mean in means)
        terms = comparison.terms(student, teacher, centres)
        found = (jnp.sum(jnp.where(off_diagonal, term, 0)) / pairs for term in terms)
        return comparison.from_means(tuple(found), centres)


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Moments:
    """Sums over stimuli, from which the sums over pairs follow.

    If both embeddings have the same number of dimensions, the value stays accurate when
    student and teacher are close. Otherwise a discrepancy d has a relative error of
    about `1e-6 / d` in float32. For Cosine and Pearson, an RDM whose distances vary by
    less than 0.2 % of their mean counts as constant.
    """

    def __call__(
        self,
        student: Array,
        teacher: Array,
        weights: Array | None,
        distance: Any,
        comparison: Any,
        *,
        axis_name: str | None = None,
    ) -> Array:
        """Compares the RDMs of activations `[n, ...]`, as `rdm.discrepancy` does."""
        _refuse_unless(self, isinstance(distance, distances.Embedded), distance)
        _refuse_unless(self, computable_from_means(comparison), comparison)
        _refuse_unless(self, weights is None, "weights")
        own, other = (distance.embed(x) for x in (student, teacher))
        noises = distance.noise(student, (own,)), distance.noise(teacher, (other,))
        products, scale = _moments.of_points(
            own,
            other,
            noises,
            own_scales=comparison.own_scales,
            precision=distance.matmul_precision,
            axis_name=axis_name,
        )
        value = comparison.from_products(products)
        if comparison.own_scales:
            return value
        # The square of the scale could overflow where the value and its gradient are 0.
        scale = jnp.where(value == 0, 1, scale)
        return value * scale * scale


@_pytrees.register
@dataclasses.dataclass(frozen=True)
class Tiles:
    """Distances tile by tile.

    Attributes:
      block: Side of a tile, in stimuli. On accelerators larger tiles may be faster.
    """

    block: int = dataclasses.field(default=512, metadata={"static": True})

    def __call__(
        self,
        student: Array,
        teacher: Array,
        weights: Array | None,
        distance: Any,
        comparison: Any,
    ) -> Array:
        """Compares the RDMs of activations `[n, ...]`, as `rdm.discrepancy` does."""
        _refuse_unless(self, hasattr(distance, "between"), distance)
        _refuse_unless(self, computable_from_means(comparison), comparison)
        _numbers.as_count("block of a tile", self.block)
        points = tuple(distance.points(x) for x in (student, teacher))
        n, dtype = len(student), points[0][0].dtype
        pairs = jnp.asarray(n * (n - 1) / 2, dtype)
        if weights is not None:
            weights = weights.astype(dtype)
            pairs = jnp.sum(weights)
            weights = _condensed.square(weights)

        def means_of(terms, points, scales, centres):
            tile = functools.partial(
                _tile,
                between=distance.between,
                terms=terms,
                precision=distance.matmul_precision,
            )
            constants = scales, centres, pairs, weights
            return _blocks.total(
                tile,
                _blocks.tiles(n, self.block),
                self.block,
                points,
                jax.tree.map(lax.stop_gradient, constants),
            )

        one = jnp.ones((), dtype)
        scales: tuple[Array, ...] = (one, one)
        centres: tuple[Array, ...] = (0 * one, 0 * one)
        if comparison.own_scales:
            if weights is None:
                scales = tuple(distance.scale(x) for x in (student, teacher))
            else:
                # The mean over pairs with a weight can differ much from that over all.
                fixed = jax.tree.map(lax.stop_gradient, points)
                means = means_of(_both, fixed, scales, centres)
                scales = tuple(_geometry.safe_inverse(mean) for mean in means)
            centres = tuple((scale != 0).astype(dtype) for scale in scales)
        return comparison.from_means(
            means_of(comparison.terms, points, scales, centres), centres
        )


Form = Dense | Moments | Tiles


def choose(
    student: _Shaped,
    teacher: _Shaped,
    weights: Array | None,
    distance: distances.Distance,
    comparison: comparisons.Comparison,
) -> Form:
    """Selects the form for these shapes, this distance and this comparison."""
    n = student.shape[0]
    tiled = computable_from_means(comparison) and hasattr(distance, "between")
    if n <= DENSE or not tiled:
        return Dense()
    if weights is None and isinstance(distance, distances.Embedded):
        p, q = (jax.eval_shape(distance.embed, x).shape[1] for x in (student, teacher))
        # Multiplications per stimulus of both forms, for value and gradient. The tiles
        # are computed once for MSE and twice for the other comparisons.
        passes = 2 if getattr(comparison, "own_scales", False) else 1
        if 2 * (2 * p**2 + q**2 + 2 * p * q) < n * (passes * (p + q) + 2 * p):
            return Moments()
    return Tiles()


def size_of_moments(p: int, q: int) -> int:
    """Returns the number of elements of the sums over stimuli, for p and q units."""
    return _moments.size_of_sums(p, q)


def _moments_move_less(student: Array, teacher: Array, distance, devices: int) -> bool:
    """Returns whether summing moments moves fewer elements than gathering activations.

    Both the value and the gradient are counted: the sums move there and back in both;
    of the gathered activations, only the gradient of the student's moves back.

    Args:
      student: The student's activations `[n, ...]` on a device.
      teacher: The teacher's activations `[n, ...]` for the same stimuli.
      distance: A distance with an embedding.
      devices: Number of devices, with n stimuli each.
    """
    p, q = (jax.eval_shape(distance.embed, x).shape[1] for x in (student, teacher))
    gathered = devices * (2 * student.size + teacher.size)
    return 4 * _moments.size_of_sums(p, q) < gathered


def _products_move_less(student: Array, teacher: Array, devices: int) -> bool:
    """Returns whether summing products moves fewer elements than gathering activations.

    Args:
      student: The student's activations `[n, ...]` on a device.
      teacher: The teacher's activations `[n, ...]` for the same stimuli.
      devices: Number of devices, with n stimuli each.
    """
    features = 2 * student.size + teacher.size
    # Two matrices are summed for the value and one for the gradient; each sum moves its
    # elements there and back.
    products = 6 * (devices * len(student)) ** 2
    return features + products < devices * features


def _matrix_over_devices(x: Array, distance, axis: str) -> Array:
    """Computes the distances of the stimuli of all devices, divided by dimensions.

    Every device receives all stimuli in its share of the embedding's dimensions; the
    sum of the devices' Gram matrices is that of all dimensions. So no device holds all
    features.
    """
    points = distance.embed(x)
    units = points.shape[1]
    noise = lax.all_gather(distance.noise(x, (points,)), axis, tiled=True)
    points = _geometry.centre_for_distances(points, axis)
    # Padding with zeros does not change the distances.
    points = jnp.pad(points, ((0, 0), (0, -units % lax.axis_size(axis))))
    share = lax.all_to_all(points, axis, split_axis=1, concat_axis=0, tiled=True)
    own = _geometry.gram(share, distance.matmul_precision)
    return distance.from_products(lax.psum(own, axis), noise, units)


def _of_rows(
    student: Array, teacher: Array, rows: int, distance, comparison, axis: str
) -> Array:
    """Computes `discrepancy` of the stimuli of all devices, a part on each.

    Every device holds all stimuli and computes the distances from its own stimuli to
    all; their means over pairs are summed over the devices.

    Args:
      student: The student's activations for the stimuli of all devices.
      teacher: The teacher's activations for the stimuli of all devices.
      rows: Number of stimuli of each device.
      distance: One of `rdm.distances` with the method `between`.
      comparison: One of `rdm.comparisons` with the method `from_means`.
      axis: Name of the mapped axis.
    """
    first, n = lax.axis_index(axis) * rows, len(student)
    points = tuple(distance.points(x) for x in (student, teacher))
    own = jax.tree.map(lambda x: lax.dynamic_slice_in_dim(x, first, rows), points)
    dtype = points[0][0].dtype
    scales, centres = _scales(student, teacher, distance, comparison)
    distances = [
        scale * distance.between(x, every, distance.matmul_precision)
        for scale, x, every in zip(scales, own, points, strict=True)
    ]
    counted = (first + jnp.arange(rows))[:, None] < jnp.arange(n)[None, :]
    each = jnp.where(counted, jnp.asarray(2 / (n * (n - 1)), dtype), 0)
    parts = [jnp.sum(each * x) for x in comparison.terms(*distances, centres)]
    return comparison.from_means(tuple(lax.psum(parts, axis)), centres)


def _by_ring(student: Array, teacher: Array, distance, comparison, axis: str) -> Array:
    """Computes `discrepancy` of more stimuli than one device can hold.

    Args:
      student: The student's activations for the stimuli of this device.
      teacher: The teacher's activations for the stimuli of this device.
      distance: As for `_of_rows`.
      comparison: As for `_of_rows`.
      axis: Name of the mapped axis.
    """
    sides = distance.points(student, axis), distance.points(teacher, axis)
    constants = _scales(student, teacher, distance, comparison, axis)
    settings = _ring.Settings(
        distance.between, comparison.terms, distance.matmul_precision, axis
    )
    return comparison.from_means(_ring.means(sides, constants, settings), constants[1])


def _scales(student, teacher, distance, comparison, axis: str | None = None):
    """Returns the scales of both RDMs, and the centres of their terms."""
    dtype = _geometry.compute_dtype(student)
    if not comparison.own_scales:
        one = jnp.ones((), dtype)
        return (one, one), (0 * one, 0 * one)
    scales = tuple(
        lax.stop_gradient(distance.scale(x, axis)) for x in (student, teacher)
    )
    return scales, tuple((scale != 0).astype(dtype) for scale in scales)


def _over_devices(
    student: Array,
    teacher: Array,
    pairs,
    weights,
    distance,
    comparison,
    *,
    form,
    axis: str,
) -> Array:
    """Computes `discrepancy` of stimuli that are divided over a mapped axis."""
    devices = lax.axis_size(axis)
    # With a given form, each device computes the whole discrepancy.
    divided = devices > 1 and pairs is None and weights is None and form is None
    divided = (
        divided and computable_from_means(comparison) and hasattr(distance, "between")
    )
    everyone = [
        jax.ShapeDtypeStruct((devices * len(x), *x.shape[1:]), x.dtype)
        for x in (student, teacher)
    ]
    if pairs is None:
        if form is None:
            own, other = everyone
            form = choose(own, other, weights, distance, comparison)
        embedded = isinstance(distance, distances.Embedded)
        if embedded and isinstance(form, Moments):
            if _moments_move_less(student, teacher, distance, devices):
                return form(
                    student, teacher, weights, distance, comparison, axis_name=axis
                )
        elif (
            embedded
            and form == Dense()
            and _products_move_less(student, teacher, devices)
        ):
            student, teacher = (
                _matrix_over_devices(x, distance, axis) for x in (student, teacher)
            )
            return form.compare_matrices(student, teacher, weights, comparison)
    rows = len(student)
    everything = devices * (student.size + teacher.size)
    if divided and max(everything, devices * rows**2) > GATHERED:
        return _by_ring(student, teacher, distance, comparison, axis)
    student, teacher = lax.all_gather((student, teacher), axis, tiled=True)
    if divided:
        return _of_rows(student, teacher, rows, distance, comparison, axis)
    return _discrepancy(
        student, teacher, pairs, weights, distance, comparison, form=form
    )


def discrepancy(
    student: Array,
    teacher: Array,
    pairs: Array | None,
    weights: Array | None,
    distance: distances.Distance,
    comparison: comparisons.Comparison,
    *,
    form: Form | None = None,
    axis_name: str | None = None,
) -> Array:
    """Computes `rdm.discrepancy` without checking the activations."""
    _checks.instance(distance, "rdm.distances", distances.Cosine)
    _checks.instance(comparison, "rdm.comparisons", comparisons.Pearson)
    dtype = _geometry.compute_dtype(student)
    if _geometry.compute_dtype(teacher) != dtype:
        teacher = teacher.astype(dtype)
    if blind_to_scale(distance, comparison):
        student, teacher = (_of_unit_size(x, axis_name) for x in (student, teacher))
    given = student, teacher, pairs, weights, distance, comparison
    if axis_name is not None:
        return _over_devices(*given, form=form, axis=axis_name)
    return _discrepancy(*given, form=form)


def blind_to_scale(
    distance: distances.Distance, comparison: comparisons.Comparison
) -> bool:
    """Returns whether the discrepancy is invariant to the scale of the activations."""
    homogeneous = getattr(distance, "homogeneous", False)
    return homogeneous and getattr(comparison, "own_scales", False)


def _of_unit_size(x: Array, axis_name: str | None) -> Array:
    """Divides activations by the power of two near the largest on all devices."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(_geometry.compute_dtype(x))
    size = _geometry.power_of_two(x)
    return x / (size if axis_name is None else lax.pmax(size, axis_name))


def _discrepancy(
    student: Array, teacher: Array, pairs, weights, distance, comparison, *, form
) -> Array:
    """Computes `discrepancy` of stimuli that are all on one device."""
    n, dtype = len(student), _geometry.compute_dtype(student)
    if pairs is not None:
        if form is not None:
            raise ValueError(f"expected either pairs or a form, got pairs and {form}")
        student, teacher = (
            distances_of(x, pairs, distance) for x in (student, teacher)
        )
        if weights is not None:
            weights = _checks.weights_of(weights, student.shape[0], dtype)
        return comparison(student, teacher, weights)
    if weights is not None:
        weights = _checks.weights_of(weights, n * (n - 1) // 2, dtype)
    if form is None:
        form = choose(student, teacher, weights, distance, comparison)
    _checks.instance(form, "rdm.forms", Tiles)
    return form(student, teacher, weights, distance, comparison)


def distances_of(
    x: Array, pairs: Array | None, distance: distances.Distance, refine: int = 0
) -> Array:
    """Computes the condensed RDM, or the distances of given pairs."""
    if pairs is None:
        return _condensed.condense(_matrix(x, distance, refine))
    places = _checks.pairs_of(pairs, len(x))
    found = distance.pairs(x, places)
    return _numbers.nan_unless((places < len(x)).all(axis=0), found)


def _matrix(x: Array, distance, refine: int = 0) -> Array:
    """Computes the distance matrix `[n, n]`, its `refine` smallest from differences."""
    refine = _numbers.as_count("number of distances to refine", refine, at_least=0)
    distances = distance(x)
    if not refine:
        return distances
    n = x.shape[0]
    if n > LARGEST_REFINED:
        raise ValueError(
            f"refine: expected {LARGEST_REFINED} stimuli or fewer, got {n}"
        )
    pairs = jnp.arange(n)[:, None] < jnp.arange(n)[None, :]
    candidates = lax.stop_gradient(jnp.where(pairs, -distances, -jnp.inf))
    _, places = lax.top_k(candidates.ravel(), min(refine, n * (n - 1) // 2))
    i, j = places // n, places % n
    exact = distance.pairs(x, jnp.stack([i, j]))
    return distances.at[i, j].set(exact).at[j, i].set(exact)


def _tile(
    constants, row_place, column_place, rows, columns, *, between, terms, precision
) -> tuple[Array, ...]:
    """Returns the contributions of the pairs in a tile to the means."""
    scales, centres, pairs, weights = constants
    (i, fresh_i), (j, fresh_j) = row_place, column_place
    student, teacher = (
        scale * between(x, y, precision)
        for scale, x, y in zip(scales, rows, columns, strict=True)
    )
    counted = (i[:, None] < j[None, :]) & fresh_i[:, None] & fresh_j[None, :]
    each = _geometry.safe_inverse(pairs)
    if weights is not None:
        each = each * lax.dynamic_slice(weights, (i[0], j[0]), counted.shape)
    each = jnp.where(counted, each, 0)
    return tuple(jnp.sum(each * term) for term in terms(student, teacher, centres))


def _both(student: Array, teacher: Array, centres) -> tuple[Array, Array]:
    """Returns both RDMs as the terms to be averaged."""
    return student, teacher


def computable_from_means(comparison: comparisons.Comparison) -> bool:
    """Returns whether a comparison can be computed from means over pairs."""
    scaled = getattr(comparison, "scale", None) is not None
    return hasattr(comparison, "from_means") and not scaled


def _refuse_unless(form, possible: bool, given) -> None:
    if not possible:
        raise ValueError(f"rdm.forms.{type(form).__name__} does not support {given}")
