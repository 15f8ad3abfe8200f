"""Computes, samples and compares representational distance matrices (RDMs).

=================== ====================================================================
name                contents
=================== ====================================================================
`rdm`               `compute`, `compare`, `discrepancy`, `sample_pairs`; `crossnobis`
`distances`         the distance of two stimuli's activations: `SquaredEuclidean`,
                    `MeanSquared`, `Euclidean`, `Mahalanobis`, `Cosine`, `Correlation`,
                    `PoissonKL`; the protocol `Distance`, the base class `Embedded`
`comparisons`       the discrepancy of two RDMs: `comparisons.Pearson`, ...
`forms`             how RDMs are held in memory: `forms.Dense`, `Moments`, `Tiles`
`io`                measured RDMs (`Rdms`) in files: `read`, `from_array`, `check`,
                    `write`
`subjects`          measured RDMs of several subjects and sessions: `select`, `shuffle`,
                    `mean_over_sessions`, `mean_over_subjects`, `reliability`,
                    `agreement_with_others`
`condense` ...      `condense`, `square` and `stimuli`: matrices and condensed RDMs
`blocks_of` ...     `blocks_of` and `discrepancy_of_blocks`: RDMs larger than memory
=================== ====================================================================

An RDM holds the distance between the activations of every two stimuli. It is stored
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
    """Computes the condensed RDM of one layer, or the distances of given pairs.

    Args:
      activations: Activations `[n, ...]` of n stimuli, flattened to `[n, units]`.
      pairs: Pairs of stimuli, `[2, p]` integers from 0 to n - 1; None: all pairs. An
        index out of range gives the distance NaN.
      distance: One of `rdm.distances`.
      refine: Number of the smallest distances to compute again, from the difference of
        the two stimuli. By default all distances come from a matrix product, whose
        rounding in float32 hides squared distances below about 1e-6 of the spread of
        the stimuli: without `refine`, those of near duplicates are 0.

    Returns:
      Distances `[n (n - 1) / 2]` or `[p]`, in at least float32.

    Raises:
      ValueError: Fewer than two stimuli, pairs that are not `[2, p]` integers, a class
        in place of an instance, activations that are not real numbers. (Activations
        that are not finite give distances that are not finite: see
        `validate.activations`.)
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
    """Computes the discrepancy of two condensed RDMs, or of distances of given pairs.

    It is 0 for equal RDMs (for `KendallTauA` and `RhoA`: if no distances tie).

    Args:
      student: Distances of the student `[pairs]`.
      teacher: Distances of the teacher `[pairs]`, of the same pairs.
      weights: Weights `[pairs]`, not negative; the distance of a pair with weight 0 may
        be NaN. None: uniform weights.
      comparison: One of `rdm.comparisons`.

    Returns:
      A scalar, in at least float32.

    Raises:
      ValueError: Different lengths, or a class in place of an instance. (The value is
        NaN if a weight is negative or not finite, or if a distance with a weight above
        0 is not finite: see `validate.weights`, `validate.distances`.)
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
        # Before NumPy's float64 becomes float32, whose range the values may exceed.
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
    """Computes the discrepancy of the RDMs of two sets of activations; 0: equal RDMs.

    Args:
      student: Activations of the student `[n, ...]`.
      teacher: Activations of the teacher `[n, ...]` for the same stimuli; the trailing
        shape may differ.
      pairs: Pairs of stimuli to compare, `[2, p]` integers; None: all pairs.
      weights: Weights of the pairs, `[p]`, or `[n (n - 1) / 2]` for all pairs, not
        negative; 0 masks a pair. None: uniform weights.
      distance: One of `rdm.distances`.
      comparison: One of `rdm.comparisons`.
      form: One of `rdm.forms`: how the RDMs are held in memory. None selects the
        fastest: both matrices up to 2,048 stimuli, and above that no matrix at all if
        distance and comparison allow it. (Those forms have no forward-mode derivative,
        `jax.jvp` or `jax.hessian`; `forms.Dense()` has one for any number of stimuli.)
      axis_name: Name of a mapped axis (`pmap`, `vmap`, or `shard_map` with
        `check_vma=False`, since JAX treats gathered values as device-dependent) whose
        devices hold the stimuli in equal parts. The discrepancy is then that of all
        stimuli, `pairs` and `weights` refer to all stimuli, and the gradient is that of
        all stimuli once averaged over the devices (`pmean` after `grad`). If it moves
        fewer numbers than gathering the activations, each device takes some dimensions
        of the embedding and the products are summed, or, for `forms.Moments`, the
        sums over stimuli are summed. Otherwise, if more than 2**28 numbers would have
        to be gathered, the activations of each device are passed around all others
        (which has no forward-mode derivative either).

    Returns:
      A scalar, the same on all devices.

    Raises:
      ValueError: Fewer than three stimuli, different numbers of stimuli of student and
        teacher, pairs or weights of a wrong shape, a form that does not support this
        distance or comparison. (Activations that are not finite give NaN. If all
        stimuli of one side are equal, the cosine and Pearson's correlation count as 0;
        if those of both sides are, as 1: see `validate.activations`,
        `validate.distinct`.)
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

    The random pairs of RDL (McClure & Kriegeskorte 2016): a training step then costs
    `count` distances, whatever the batch size.

    Args:
      key: A random key.
      batch: Number of stimuli, 2 or more.
      count: Number of pairs to draw, with replacement.

    Returns:
      Pairs `[2, count]`, int32; the first index of a pair is below the second.

    Raises:
      ValueError: Fewer than two stimuli or fewer than one pair, or a number that is not
        whole.
    """
    batch = _numbers.as_count("number of stimuli", batch, at_least=2)
    count = _numbers.as_count("number of pairs", count)
    first_key, step_key = jax.random.split(key)
    first = jax.random.randint(first_key, (count,), 0, batch)
    step = jax.random.randint(step_key, (count,), 1, batch)
    return jnp.sort(jnp.stack([first, (first + step) % batch]), axis=0)
