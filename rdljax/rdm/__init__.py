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
    "compare",
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
      pairs: `[2, p]` integers below n, or None for all pairs. Traced values are not
        checked; what is beyond n then counts as n - 1.
      distance: One of `rdm.distances`.

    Returns:
      `[n (n - 1) / 2]` or `[p]` distances, in at least float32.

    Raises:
      ValueError: Fewer than two stimuli, pairs that are not `[2, p]` integers, or a
        class where an instance is meant.
    """
    activations = jnp.asarray(activations)
    _check_instance(distance, "rdm.distances", distances.Cosine)
    if activations.ndim < 2 or activations.shape[0] < 2:
        raise ValueError(
            f"an RDM needs activations [n, ...] of two stimuli or more, got "
            f"{activations.shape}"
        )
    if pairs is None:
        return condense(distance(activations))
    return distance.pairs(activations, _checked_pairs(pairs, activations.shape[0]))


def compare(
    student: Array,
    teacher: Array,
    weights: Array | None = None,
    *,
    comparison=comparisons.Pearson(),
) -> Array:
    """How far apart two condensed RDMs are: 0 when equal.

    Args:
      student: `[pairs]`.
      teacher: `[pairs]`, of the same pairs.
      weights: `[pairs]`, not negative; a pair of weight 0 may be NaN. None weighs all
        alike.
      comparison: One of `rdm.comparisons`.

    Returns:
      A scalar.

    Raises:
      ValueError: Different lengths, or a class where an instance is meant.
    """
    _check_instance(comparison, "rdm.comparisons", comparisons.Pearson)
    shapes = {jnp.shape(x) for x in (student, teacher, weights) if x is not None}
    if len(shapes) > 1 or len(*shapes) != 1:
        raise ValueError(
            f"expected two condensed RDMs, and weights, of one length, got "
            f"{jnp.shape(student)}, {jnp.shape(teacher)} and "
            f"{None if weights is None else jnp.shape(weights)}"
        )
    return comparison(jnp.asarray(student), jnp.asarray(teacher), weights)


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
    student, teacher = (
        compute(x, pairs, distance=distance) for x in (student, teacher)
    )
    return compare(student, teacher, comparison=comparison)


def condense(matrix: Array) -> Array:
    """The upper triangle of `[n, n]`, row by row: `[n (n - 1) / 2]`."""
    rows, columns = np.triu_indices(matrix.shape[0], 1)
    return matrix[rows, columns]


def square(condensed: Array) -> Array:
    """The symmetric matrix `[n, n]`, zero on the diagonal, of a condensed RDM.

    Raises:
      ValueError: No RDM has that many distances.
    """
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


def _checked_pairs(pairs: Array, n: int) -> Array:
    """Pairs that are integers `[2, p]`; below n, where their values are known."""
    shape, dtype = jnp.shape(pairs), jnp.result_type(pairs)
    if len(shape) != 2 or shape[0] != 2 or shape[1] < 1 or dtype.kind not in "iu":
        raise ValueError(
            f"pairs must be integers [2, p], p of 1 or more, got {dtype} {shape}"
        )
    if not isinstance(pairs, jax.core.Tracer):
        known = np.asarray(pairs)
        if known.min() < 0 or known.max() >= n:
            raise ValueError(
                f"pairs must be of stimuli 0 to {n - 1}, got {known.min()} to "
                f"{known.max()}"
            )
    return jnp.asarray(pairs)


def _check_instance(chosen, room: str, example: type) -> None:
    if isinstance(chosen, type) or not callable(chosen):
        name = getattr(chosen, "__name__", None)
        hint = f"{name}() with its parentheses" if name else f"{example.__name__}()"
        raise ValueError(f"expected one of {room}, such as {hint}, got {chosen!r}")
