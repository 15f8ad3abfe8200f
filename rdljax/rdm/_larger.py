"""Compares RDMs of features that are larger than memory, in one pass."""

import contextlib
import functools
from collections.abc import Iterable
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from numpy import typing as npt

from rdljax import _checks as _numbers
from rdljax import _extras, _geometry, validate
from rdljax.rdm import _checks, _moments, comparisons, distances, forms

Array = jax.Array


class Rows(Protocol):
    """An object that returns slices of rows: an array, memory map or HDF5 data set."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Any: ...


def blocks_of(
    student: Rows, teacher: Rows, size: int = 4096
) -> Iterable[tuple[npt.ArrayLike, npt.ArrayLike]]:
    """Yields blocks of rows of both sets of activations, for `discrepancy_of_blocks`.

    Args:
      student: Activations `[n, ...]` of the student: an array, a `numpy.memmap`, or any
        object that returns slices of rows (an HDF5 data set).
      teacher: Activations `[n, ...]` of the teacher, for the same stimuli.
      size: Number of rows of a block.

    Yields:
      `student[i : i + size]` and `teacher[i : i + size]`.

    Raises:
      ValueError: Different numbers of rows of student and teacher, or a size below 1.
    """
    size = _numbers.as_count("size of a block", size)
    if len(student) != len(teacher):
        raise ValueError(
            f"expected activations of the same stimuli, got {len(student)} of the "
            f"student and {len(teacher)} of the teacher"
        )
    return (
        (student[start : start + size], teacher[start : start + size])
        for start in range(0, len(student), size)
    )


def discrepancy_of_blocks(
    blocks: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]],
    *,
    distance: distances.Distance = distances.Cosine(),
    comparison: comparisons.OfProducts = comparisons.Pearson(),
    stimuli: int | None = None,
    progress: bool = False,
) -> float:
    """Computes `rdm.discrepancy` of features larger than memory, in one pass.

    Neither the features nor an RDM are held in memory: only sums over each block of its
    points and of their products are kept (`rdm.forms.Moments`), in float64. Not for use
    in jit, and without a gradient. With float32 features the discrepancy is accurate to
    about 1e-6, and an RDM whose distances vary by less than 0.2 % of their mean counts
    as constant.

    Args:
      blocks: Iterable over pairs of activations `[rows, ...]` of student and teacher,
        for the same stimuli, such as `rdm.blocks_of` of two memory-mapped files.
      distance: One of `rdm.distances` that is squared Euclidean distance in an
        embedding (`distances.Embedded`).
      comparison: `MSE()`, `Cosine()` or `Pearson()` of `rdm.comparisons`.
      stimuli: Number of stimuli, for the progress bar. None: unknown.
      progress: Whether to show a progress bar (with tqdm).

    Returns:
      The discrepancy.

    Raises:
      ValueError: Fewer than three stimuli, blocks that do not match, activations that
        are not finite, or a distance or comparison that cannot be computed from sums.
    """
    if not isinstance(distance, distances.Embedded) or not forms.computable_from_means(
        comparison
    ):
        raise ValueError(
            f"expected a distance with an embedding and one of MSE(), Cosine() and "
            f"Pearson(), got {distance} and {comparison}"
        )
    origin, sums, count = _sum_blocks(blocks, distance, comparison, stimuli, progress)
    if count < 3:
        raise ValueError(f"an RDM needs three stimuli or more, got {count}")
    products = _moments.of_sums(sums, np.asarray(origin.forms, np.float64), count)
    if not np.isfinite(products).all():
        raise ValueError(
            "the activations spread too much more than those of the first block for "
            "sums of their fourth powers: scale them"
        )
    if not comparison.own_scales:
        products = jax.tree.map(jnp.asarray, products)
        return float(comparison.from_products(products)) / float(origin.scales[0]) ** 4
    # The blocks' sums are rounded in the features' precision, then added in float64.
    floor = float(_moments.FLOOR * jnp.finfo(origin.forms.dtype).eps)
    products = jax.tree.map(jnp.asarray, _scale_to_mean_1(products)).resolved(floor)
    return float(comparison.from_products(products))


def _sum_blocks(
    blocks: Iterable[tuple[npt.ArrayLike, npt.ArrayLike]],
    distance: distances.Embedded,
    comparison: Any,
    stimuli: int | None,
    progress: bool,
) -> tuple[Any, Any, int]:
    """Returns the origin from the first block, the sums and the number of stimuli."""
    origin = sums = sizes = None
    count = 0
    blind = forms.blind_to_scale(distance, comparison)
    with contextlib.ExitStack() as stack:
        update = lambda rows: None  # noqa: E731
        if progress:
            with _extras.needed("tqdm", "progress=True"):
                import tqdm

            update = stack.enter_context(
                tqdm.tqdm(total=stimuli, unit=" stimuli")
            ).update
        for student, teacher in blocks:
            student, teacher = map(_numbers.as_activations, (student, teacher))
            for x, name in ((student, "the student's"), (teacher, "the teacher's")):
                name = f"{name} activations from stimulus {count} on"
                _checks.activations(x, name, fewest=1)
                validate.activations(x, name)
            _checks.same_stimuli(student, teacher)
            teacher = teacher.astype(_geometry.compute_dtype(student))
            if blind:
                # The first block sets the units.
                sizes = sizes or [_size(x) for x in (student, teacher)]
                student, teacher = student / sizes[0], teacher / sizes[1]
            if origin is None:
                origin = _origin(
                    student, teacher, distance, own_scales=comparison.own_scales
                )
            block = jax.tree.map(
                lambda x: np.asarray(x, np.float64),
                _block_sums(origin, student, teacher, distance),
            )
            sums = block if sums is None else jax.tree.map(np.add, sums, block)
            count += len(student)
            update(len(student))
    return origin, sums, count


def _size(x: Array) -> float:
    """Returns the power of two above the largest magnitude; 1 if all values are 0."""
    largest = float(np.max(np.abs(np.asarray(x, np.float64))))
    return 2.0 ** np.frexp(largest)[1] if largest else 1.0


def _scale_to_mean_1(products: comparisons.Products) -> comparisons.Products:
    """Scales products to RDMs of mean 1: the first block's mean may be far off."""
    means = products.teacher, products.teacher + products.difference
    a, b = (1 / mean if mean > 0 else 1.0 for mean in means)
    both = a * b * (products.both + products.teachers)
    teachers, students = a**2 * products.teachers, b**2 * products.students
    return comparisons.Products(
        b * means[1] - a * means[0],
        a * means[0],
        students - 2 * both + teachers,
        both - teachers,
        teachers,
        students,
    )


@functools.partial(jax.jit, static_argnames="own_scales")
def _origin(student, teacher, distance, *, own_scales):
    points = distance.embed(student), distance.embed(teacher)
    noises = [
        distance.noise(x, (own,))
        for x, own in zip((student, teacher), points, strict=True)
    ]
    origin = _moments.origin_of(*points, noises, own_scales=own_scales, close=False)
    # Points that are equal in the first block may differ in later blocks.
    own, other = (jnp.where(scale > 0, scale, 1) for scale in origin.scales)
    return origin._replace(scales=(own, other))


@jax.jit
def _block_sums(origin, student, teacher, distance):
    embedded = distance.embed(student), distance.embed(teacher)
    return _moments.sums_of(*embedded, origin, distance.matmul_precision)
