"""RDMs of features that are larger than memory, compared in one pass."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from numpy import typing as npt

from rdljax.rdm import _checks, _moments, comparisons, distances, forms

Array = jax.Array


def blocks_of(
    student: npt.ArrayLike, teacher: npt.ArrayLike, size: int = 4096
) -> Iterable[tuple[npt.ArrayLike, npt.ArrayLike]]:
    """Rows of both sets of activations, some at a time: for `discrepancy_of_blocks`.

    Args:
      student: `[n, ...]`: an array, a `numpy.memmap`, or whatever answers slices of
        rows (a data set of HDF5).
      teacher: `[n, ...]` of the same stimuli.
      size: Rows of a block.

    Yields:
      `student[i : i + size]` and `teacher[i : i + size]`.

    Raises:
      ValueError: Another number of rows on either side.
    """
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
    distance=distances.Cosine(),
    comparison=comparisons.Pearson(),
    stimuli: int | None = None,
    progress: bool = False,
) -> float:
    """`rdm.discrepancy` of features that are larger than memory, in one pass.

    Neither the features nor an RDM are ever held: what is kept of a block are sums of
    its points and of their products (`rdm.forms.Moments`), in float64. Not for jit, and
    without a gradient.

    Args:
      blocks: Pairs of activations `[rows, ...]` of student and teacher, of the same
        stimuli: an iterator, such as `rdm.blocks_of` two memory-mapped files.
      distance: One of `rdm.distances` that is squared Euclidean distance in an
        embedding (`distances.Embedded`).
      comparison: `MSE()`, `Cosine()` or `Pearson()` of `rdm.comparisons`.
      stimuli: How many there are, if known, for the progress bar.
      progress: Whether to show a progress bar (of tqdm).

    Returns:
      The discrepancy.

    Raises:
      ValueError: Fewer than three stimuli, blocks that do not match, activations that
        are not finite, or a distance or comparison that has no such form.
    """
    if not isinstance(distance, distances.Embedded) or not forms.streams(comparison):
        raise ValueError(
            f"expected a distance with an embedding and one of MSE(), Cosine() and "
            f"Pearson(), got {distance} and {comparison}"
        )
    if progress:
        import tqdm

        bar = tqdm.tqdm(total=stimuli, unit=" stimuli")
    origin = sums = None
    count = 0
    for student, teacher in blocks:
        student, teacher = jnp.asarray(student), jnp.asarray(teacher)
        for x, name in ((student, "the student's"), (teacher, "the teacher's")):
            _checks.finite(x, f"{name} activations from stimulus {count} on")
        _checks.same_stimuli(student, teacher)
        own = comparison.own_scales
        if origin is None:
            origin = _origin(student, teacher, distance, own_scales=own)
        block = jax.tree.map(
            lambda x: np.asarray(x, np.float64),
            _block_sums(origin, student, teacher, distance),
        )
        sums = block if sums is None else jax.tree.map(np.add, sums, block)
        count += len(student)
        if progress:
            bar.update(len(student))
    if progress:
        bar.close()
    if count < 3:
        raise ValueError(f"an RDM needs three stimuli or more, got {count}")
    products = _moments.of_sums(sums, np.asarray(origin.forms, np.float64), count)
    products = jax.tree.map(jnp.asarray, products)
    # The blocks' sums are rounded in the features' precision, then added in float64.
    floor = 32 * jnp.finfo(origin.forms.dtype).eps
    value = float(comparison.from_products(products.resolved(floor)))
    return value if own else value / float(origin.scales[0]) ** 4


@functools.partial(jax.jit, static_argnames="own_scales")
def _origin(student, teacher, distance, *, own_scales):
    embedded = distance.embed(student), distance.embed(teacher)
    return _moments.origin_of(*embedded, own_scales=own_scales)


@jax.jit
def _block_sums(origin, student, teacher, distance):
    embedded = distance.embed(student), distance.embed(teacher)
    return _moments.sums_of(*embedded, origin, distance.matmul_precision)
