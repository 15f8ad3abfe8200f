"""Checks of values, before arrays are given to losses, RDMs and kernels.

Those look at shapes, dtypes and chosen numbers (a temperature, a width) alone, never at
what an array holds: so they do the same inside jit and outside, and wait for no device.
What is not finite or out of range gives NaN. A check here says instead what is wrong
with the values, and where; it reads them, so that it is not for jit.

=============== ========================================================================
check           what it refuses
=============== ========================================================================
`activations`   NaN and infinity
`distinct`      the same activations for all stimuli, whose distances are all 0
`distances`     condensed RDMs with NaN or infinity at pairs that have a weight
`weights`       weights that are negative or not finite
`indices`       labels, pairs or rows that are out of range
`precision`     matrices that are not symmetric and positive definite
`rates`         spike counts below 0, for `rdm.distances.PoissonKL`
=============== ========================================================================

Each returns what it was given, so that it can stand where the values are used:

    distances = rdm.compute(validate.activations(features))
"""

from typing import TypeVar

import jax
import numpy as np
import numpy.typing as npt

__all__ = [
    "activations",
    "distances",
    "distinct",
    "indices",
    "precision",
    "rates",
    "weights",
]

# An array of NumPy or JAX, or what NumPy makes one of.
Values = TypeVar("Values", bound=npt.ArrayLike | jax.Array)


def activations(x: Values, name: str = "activations") -> Values:
    """Checks activations for NaN and infinity.

    Args:
      x: Activations `[n, ...]` of n stimuli.
      name: What they are, for the message.

    Returns:
      The activations.

    Raises:
      ValueError: A number is not finite; with how many stimuli, and the first of them.
    """
    values = np.asarray(x)
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        raise ValueError(
            f"{name}: expected finite numbers, got NaN or infinity for "
            f"{bad.sum()} of {len(bad)} stimuli, the first of them {bad.argmax()}"
        )
    return x


def distinct(x: Values, name: str = "activations") -> Values:
    """Checks that the activations of at least two stimuli differ.

    Args:
      x: Activations `[n, ...]` of n stimuli.
      name: What they are, for the message.

    Returns:
      The activations.

    Raises:
      ValueError: They are the same for all stimuli.
    """
    values = np.asarray(x)
    if (values[1:2] == values[:1]).all() and (values == values[:1]).all():
        raise ValueError(
            f"{name}: expected stimuli that differ, got the same activations for all "
            f"{len(values)} of them"
        )
    return x


def distances(
    x: Values, weights: npt.ArrayLike | jax.Array | None = None, name: str = "RDM"
) -> Values:
    """Checks a condensed RDM for NaN and infinity at pairs that have a weight.

    Args:
      x: Distances `[..., pairs]`.
      weights: Of each pair, `[pairs]`; 0 masks a pair. None: all pairs count.
      name: What they are, for the message.

    Returns:
      The distances.

    Raises:
      ValueError: A distance with a weight is not finite; with how many.
    """
    bad = ~np.isfinite(np.asarray(x))
    if weights is not None:
        bad &= np.asarray(weights) > 0
    if bad.any():
        raise ValueError(
            f"the {name}: expected finite distances, got NaN or infinity for "
            f"{bad.sum()} of {bad.size} pairs: give those weight 0"
        )
    return x


def weights(x: Values, name: str = "weights") -> Values:
    """Checks that weights are finite and not negative.

    Args:
      x: Weights of any shape.
      name: What they are, for the message.

    Returns:
      The weights.

    Raises:
      ValueError: One is below 0, infinite or NaN.
    """
    values = np.asarray(x)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(
            f"expected finite {name} of 0 or more, got one below 0, infinite or NaN"
        )
    return x


def indices(x: Values, size: int, name: str = "labels") -> Values:
    """Checks that integers lie between 0 and `size - 1`.

    Args:
      x: Integers of any shape: the labels of examples, pairs of stimuli `[2, p]`, rows
        of a bank.
      size: How many classes, stimuli or rows there are.
      name: What they are, for the message.

    Returns:
      The integers.

    Raises:
      ValueError: Not integers, or one out of range; with the smallest and the largest.
    """
    values = np.asarray(x)
    if not jax.dtypes.issubdtype(values.dtype, np.integer):
        raise ValueError(f"the {name} must be integers, got {values.dtype}")
    if values.size:
        low, high = int(values.min()), int(values.max())
        if low < 0 or high >= size:
            raise ValueError(f"the {name} must be 0 to {size - 1}, got {low} to {high}")
    return x


def precision(x: Values, name: str = "precision") -> Values:
    """Checks that a matrix is symmetric (up to rounding) and positive definite.

    Args:
      x: An inverse covariance `[units, units]`, or one of each fold
        `[folds, units, units]`: for `rdm.distances.Mahalanobis` and `rdm.crossnobis`.
      name: What it is, for the message.

    Returns:
      The matrix.

    Raises:
      ValueError: Not symmetric, not finite, or not positive definite.
    """
    for values in np.reshape(np.asarray(x, np.float64), (-1, *np.shape(x)[-2:])):
        unlike = np.abs(values - values.T).max() / (np.abs(values).max() or 1)
        if not unlike <= 1e-5:
            raise ValueError(
                f"{name}: expected a symmetric matrix of finite numbers; its two "
                f"triangles differ by {unlike:.2g} of its largest entry"
            )
        try:
            np.linalg.cholesky((values + values.T) / 2)
        except np.linalg.LinAlgError:
            raise ValueError(f"{name}: expected a positive definite matrix") from None
    return x


def rates(x: Values, prior_rate: float = 1.0, prior_weight: float = 0.1) -> Values:
    """Checks that spike counts or rates are above 0 with the prior of `PoissonKL`.

    Args:
      x: Activations `[n, ...]`.
      prior_rate: As in `rdm.distances.PoissonKL`.
      prior_weight: As in `rdm.distances.PoissonKL`; 0 for no prior.

    Returns:
      The activations.

    Raises:
      ValueError: The smallest is not above 0 when the prior is added.
    """
    least = np.min(np.asarray(x, np.float64), initial=np.inf)
    if not least + np.float64(prior_weight) * np.float64(prior_rate) > 0:
        raise ValueError(
            f"PoissonKL: expected activations of 0 or more, and a prior above 0 where "
            f"one is 0, got activations of {least}, a prior rate of {prior_rate} and a "
            f"prior weight of {prior_weight}"
        )
    return x
