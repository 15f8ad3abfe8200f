"""Representational distance matrices (RDMs): computed, sampled and compared.

An RDM holds the distance between the activations of every two stimuli. It is kept
condensed, `[pairs]`: the upper triangle row by row, `n (n - 1) / 2` distances, in the
order of SciPy's `squareform` and of rsatoolbox.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from rdljax.rdm import comparisons, distances

__all__ = [
    "comparisons",
    "compute",
    "condense",
    "discrepancy",
    "distances",
    "sample_pairs",
    "square",
    "stimuli",
]

Array = jax.Array


def compute(
    activations: Array,
    pairs: Array | None = None,
    *,
    distance=distances.Cosine(),
) -> Array:
    """The condensed RDM of one layer, or its distances at given pairs.

    Args:
      activations: `[n, ...]`, flattened to `[n, units]`.
      pairs: `[2, p]` integers below n, or None for all pairs.
      distance: One of `rdm.distances`.

    Returns:
      `[n (n - 1) / 2]` or `[p]` distances, in at least float32.

    Raises:
      ValueError: Fewer than two stimuli, pairs that are not `[2, p]` integers, or a
        class
        where an instance is meant.
    """
    activations = jnp.asarray(activations)
    _check_instance(distance)
    if activations.ndim < 2 or activations.shape[0] < 2:
        raise ValueError(
            f"an RDM needs activations [n, ...] of two stimuli or more, got "
            f"{activations.shape}"
        )
    if pairs is None:
        return condense(distance(activations))
    pairs = jnp.asarray(pairs)
    if pairs.ndim != 2 or pairs.shape[0] != 2 or pairs.dtype.kind not in "iu":
        raise ValueError(
            f"pairs must be integers [2, p], got {pairs.dtype} {pairs.shape}"
        )
    return distance.pairs(activations, pairs)


def discrepancy(
    student: Array,
    teacher: Array,
    pairs: Array | None = None,
    *,
    distance=distances.Cosine(),
    comparison=comparisons.Pearson(),
) -> Array:
    """How far apart the RDMs of two sets of activations are: 0 when equal.

    Args:
      student: `[n, ...]`.
      teacher: `[n, ...]` of the same stimuli; the trailing shape may differ.
      pairs: `[2, p]` pairs of stimuli to compare, or None for all.
      distance: One of `rdm.distances`.
      comparison: One of `rdm.comparisons`.

    Returns:
      A scalar.

    Raises:
      ValueError: As `compute`.
    """
    _check_instance(comparison)
    student, teacher = (
        compute(x, pairs, distance=distance) for x in (student, teacher)
    )
    return comparison(student, teacher)


def condense(matrix: Array) -> Array:
    """The upper triangle of `[n, n]`, row by row: `[n (n - 1) / 2]`."""
    rows, columns = np.triu_indices(matrix.shape[0], 1)
    return matrix[rows, columns]


def square(condensed: Array) -> Array:
    """The symmetric matrix `[n, n]`, zero on the diagonal, of a condensed RDM."""
    condensed = jnp.asarray(condensed)
    n = stimuli(condensed.shape[0])
    rows, columns = np.triu_indices(n, 1)
    matrix = jnp.zeros((n, n), condensed.dtype).at[rows, columns].set(condensed)
    return matrix + matrix.T


def stimuli(pairs: int) -> int:
    """How many stimuli a condensed RDM of `pairs` distances has.

    Raises:
      ValueError: No number n of stimuli has `n (n - 1) / 2 == pairs`.
    """
    n = (1 + math.isqrt(1 + 8 * pairs)) // 2
    if n < 2 or n * (n - 1) // 2 != pairs:
        raise ValueError(f"no condensed RDM has {pairs} distances")
    return n


def sample_pairs(key: Array, batch: int, count: int) -> Array:
    """Random pairs of different stimuli, drawn independently and uniformly.

    The random pairs of RDL (McClure & Kriegeskorte 2016): a step then costs `count`
    distances, whatever the batch.

    Args:
      key: A random key.
      batch: The number of stimuli, 2 or more.
      count: How many pairs to draw; a pair may come twice.

    Returns:
      `[2, count]` int32; the first stimulus of a pair comes before the second.

    Raises:
      ValueError: Fewer than two stimuli or fewer than one pair.
    """
    if batch < 2 or count < 1:
        raise ValueError(f"cannot draw {count} pairs of {batch} stimuli")
    first_key, step_key = jax.random.split(key)
    first = jax.random.randint(first_key, (count,), 0, batch)
    step = jax.random.randint(step_key, (count,), 1, batch)
    return jnp.sort(jnp.stack([first, (first + step) % batch]), axis=0)


def _check_instance(chosen) -> None:
    if isinstance(chosen, type):
        raise ValueError(
            f"pass an instance, {chosen.__name__}(), not the class {chosen.__name__}"
        )
