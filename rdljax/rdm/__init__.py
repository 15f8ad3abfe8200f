"""Representational distance matrices (RDMs): computed, sampled and compared.

=================== ====================================================================
where               what
=================== ====================================================================
`rdm`               `compute`, `compare`, `discrepancy`, `sample_pairs`; `crossnobis`
`distances`         the distance of two stimuli's activations: `distances.Cosine`, ...
`comparisons`       how two RDMs are compared: `comparisons.Pearson`, ...
`forms`             how RDMs are held in memory: `forms.Dense`, `Moments`, `Tiles`
`io`                measured RDMs, read from files, checked and written
`subjects`          measured RDMs of several subjects and sessions: means, reliability
`condense` ...      `condense`, `square` and `stimuli`: matrices and condensed RDMs
`blocks_of` ...     `blocks_of` and `discrepancy_of_blocks`: RDMs larger than memory
=================== ====================================================================

An RDM holds the distance between the activations of every two stimuli. It is kept
condensed, `[pairs]`: the upper triangle row by row, `n (n - 1) / 2` distances, in the
order of SciPy's `squareform` and of rsatoolbox.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rdljax import _checks as _numbers
from rdljax import _geometry
from rdljax.rdm import _checks, comparisons, distances, forms, io, subjects
from rdljax.rdm._condensed import condense, square, stimuli
from rdljax.rdm._crossnobis import crossnobis
from rdljax.rdm._larger import blocks_of, discrepancy_of_blocks

__all__ = [
    "blocks_of",
    "compare",
    "comparisons",
    "compute",
    "condense",
    "crossnobis",
    "discrepancy",
    "discrepancy_of_blocks",
    "distances",
    "forms",
    "io",
    "sample_pairs",
    "square",
    "stimuli",
    "subjects",
]

Array = jax.Array


def compute(
    activations: Array,
    pairs: Array | None = None,
    *,
    distance: distances.Distance = distances.Cosine(),
    refine: int = 0,
) -> Array:
    """Computes the condensed RDM of one layer, or its distances at given pairs.

    Args:
      activations: `[n, ...]`, flattened to `[n, units]`.
      pairs: `[2, p]` integers below n, or None for all pairs. The distance of a pair
        that is none is NaN.
      distance: One of `rdm.distances`.
      refine: How many of the smallest distances to compute again, from the difference
        of the two stimuli. All come from a product of matrices, whose rounding in
        float32 drowns squared distances below about 1e-6 of the stimuli's spread:
        those of near duplicates, which are 0 otherwise.

    Returns:
      `[n (n - 1) / 2]` or `[p]` distances, in at least float32.

    Raises:
      ValueError: Fewer than two stimuli, pairs that are not `[2, p]` integers, a class
        where an instance is meant, activations that are not real numbers. (Activations
        that are not finite have distances that are not: `validate.activations`.)
    """
    activations = _numbers.as_activations(activations)
    _checks.instance(distance, "rdm.distances", distances.Cosine)
    _checks.activations(activations)
    refine = _numbers.as_count("number of distances to refine", refine, at_least=0)
    if refine and pairs is not None:
        raise ValueError(
            f"expected to refine distances of all pairs, got {refine} with given "
            "pairs, which are exact"
        )
    return forms.distances_of(activations, pairs, distance, refine)


def compare(
    student: Array,
    teacher: Array,
    weights: Array | None = None,
    *,
    comparison: comparisons.Comparison = comparisons.Pearson(),
) -> Array:
    """Computes how far apart two condensed RDMs, or distances at pairs, are.

    0 when equal (`KendallTauA` and `RhoA`: where no distances tie).

    Args:
      student: `[pairs]`.
      teacher: `[pairs]`, of the same pairs.
      weights: `[pairs]`, not negative; a pair of weight 0 may be NaN. None: uniform
        weights.
      comparison: One of `rdm.comparisons`.

    Returns:
      A scalar, in at least float32.

    Raises:
      ValueError: Different lengths, or a class where an instance is meant. (The value
        is NaN if a weight is below 0 or not finite, or a distance that has a weight is
        not finite: `validate.weights`, `validate.distances`.)
    """
    _checks.instance(comparison, "rdm.comparisons", comparisons.Pearson)
    shapes = {jnp.shape(x) for x in (student, teacher, weights) if x is not None}
    if len(shapes) > 1 or len(*shapes) != 1:
        raise ValueError(
            f"expected two condensed RDMs, and weights, of one length, got "
            f"{jnp.shape(student)}, {jnp.shape(teacher)} and "
            f"{None if weights is None else jnp.shape(weights)}"
        )
    if getattr(comparison, "own_scales", False):
        # (Before NumPy's float64 becomes float32: units may be beyond its range.)
        student, teacher = (
            x if isinstance(x, Array) else _geometry.of_unit_size(np.asarray(x))
            for x in (student, teacher)
        )
    student, teacher = (
        _numbers.as_activations(x, "distances") for x in (student, teacher)
    )
    dtype = _geometry.compute_dtype(student)
    if weights is not None:
        weights = _checks.weights_of(weights, student.shape[0], dtype)
    return comparison(student.astype(dtype), teacher.astype(dtype), weights)


def discrepancy(
    student: Array,
    teacher: Array,
    pairs: Array | None = None,
    weights: Array | None = None,
    *,
    distance: distances.Distance = distances.Cosine(),
    comparison: comparisons.Comparison = comparisons.Pearson(),
    form: forms.Form | None = None,
    axis_name: str | None = None,
) -> Array:
    """Computes how far apart the RDMs of two sets of activations are: 0 when equal.

    Args:
      student: `[n, ...]`.
      teacher: `[n, ...]` of the same stimuli; the trailing shape may differ.
      pairs: `[2, p]` pairs of stimuli to compare, or None for all.
      weights: Of each pair, `[p]`, or `[n (n - 1) / 2]` of all, not negative; 0 masks a
        pair. None: uniform weights.
      distance: One of `rdm.distances`.
      comparison: One of `rdm.comparisons`.
      form: One of `rdm.forms`, how the RDMs are held in memory. None takes the fastest:
        both matrices up to 2,048 stimuli, and beyond that no matrix at all where
        distance and comparison allow it. (Those forms have no forward-mode derivative,
        `jax.jvp` or `jax.hessian`; `forms.Dense()` has, of any number of stimuli.)
      axis_name: Of a mapped axis (`pmap`, `vmap`, or `shard_map` with
        `check_vma=False`: what is gathered, JAX takes to differ) over whose devices the
        stimuli are divided: the discrepancy is then that of all stimuli, `pairs` and
        `weights` are of all, and the gradient, averaged over the devices (`pmean` after
        `grad`), too. Where that moves fewer numbers than gathering the activations,
        each device takes some of an embedding's dimensions and their products are
        summed; or the sums of `forms.Moments` are, where that form is taken. Where
        neither is less and more than 2**28 numbers would be gathered, each device's
        activations go around all others (which has no forward-mode derivative either).

    Returns:
      A scalar, the same on all devices.

    Raises:
      ValueError: Fewer than three stimuli, another number of them on either side, pairs
        or weights of a wrong shape, a form that does not have this distance or
        comparison. (Activations that are not finite give NaN; against the RDM of equal
        stimuli the cosine and Pearson's correlation are 0, and 1 if both are such:
        `validate.activations`, `validate.distinct`.)
    """
    student, teacher = map(_numbers.as_activations, (student, teacher))
    for x, name in ((student, "the student's"), (teacher, "the teacher's")):
        name += " activations"
        devices = 1 if axis_name is None else lax.axis_size(axis_name)
        _checks.activations(x, name, fewest=-(-3 // devices))
    _checks.same_stimuli(student, teacher)
    given = student, teacher, pairs, weights, distance, comparison
    return forms.discrepancy(*given, form=form, axis_name=axis_name)


def sample_pairs(key: Array, batch: int, count: int) -> Array:
    """Samples pairs of different stimuli, independently and uniformly.

    The random pairs of RDL (McClure & Kriegeskorte 2016): a step then costs `count`
    distances, whatever the batch.

    Args:
      key: A random key.
      batch: The number of stimuli, 2 or more.
      count: How many pairs to draw; a pair may come twice.

    Returns:
      `[2, count]` int32; the first stimulus of a pair comes before the second.

    Raises:
      ValueError: Fewer than two stimuli or fewer than one pair, or no whole number.
    """
    batch = _numbers.as_count("number of stimuli", batch, at_least=2)
    count = _numbers.as_count("number of pairs", count)
    first_key, step_key = jax.random.split(key)
    first = jax.random.randint(first_key, (count,), 0, batch)
    step = jax.random.randint(step_key, (count,), 1, batch)
    return jnp.sort(jnp.stack([first, (first + step) % batch]), axis=0)
