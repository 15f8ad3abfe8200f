"""Checks the values of arrays before they are passed to losses, RDMs and kernels.

Those functions only check shapes, dtypes and hyperparameters (a temperature, a width),
never the values of arrays: so they behave the same inside and outside jit, and do not
wait for a device. Values that are not finite or out of range give NaN. The checks here
report instead which values are wrong; they read the values, and so cannot be used in
jit. (NumPy arrays that JAX cannot represent, such as float64 beyond the range of
float32, are always refused outside jit.)

=============== ========================================================================
check           refuses
=============== ========================================================================
`activations`   NaN and infinity
`distinct`      the same activations for all stimuli, whose distances are all 0
`distances`     condensed RDMs with NaN or infinity for pairs with a weight above 0
`weights`       weights that are negative or not finite
`indices`       labels, pairs or rows that are out of range
`precision`     matrices that are not symmetric and positive definite
`rates`         spike counts below 0, for `rdm.distances.PoissonKL`
=============== ========================================================================

Each returns its argument, so that it can be used inside an expression:

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

# An array of NumPy or JAX, or an object that NumPy converts to one.
Values = TypeVar("Values", bound=npt.ArrayLike | jax.Array)


def activations(x: Values, name: str = "activations") -> Values:
    """Checks activations for NaN and infinity.

    Args:
      x: Activations `[n, ...]` of n stimuli.
      name: Name of the activations in the message.

    Returns:
      The activations.

    Raises:
      ValueError: A number is not finite; the message has the number of such stimuli and
        the first of them.
    """
    values = np.asarray(x)
    bad = ~np.isfinite(values).all(axis=tuple(range(1, values.ndim)))
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
      name: Name of the activations in the message.

    Returns:
      The activations.

    Raises:
      ValueError: The activations are the same for all stimuli.
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
    """Checks a condensed RDM for NaN and infinity in pairs with a weight above 0.

    Args:
      x: Distances `[..., pairs]`.
      weights: Weights of the pairs, `[pairs]`; 0 masks a pair. None: all pairs count.
      name: Name of the distances in the message.

    Returns:
      The distances.

    Raises:
      ValueError: A distance with a weight above 0 is not finite; the message has the
        number of such distances.
    """
    bad = ~np.isfinite(np.asarray(x))
    if weights is not None:
        bad &= np.asarray(weights) > 0
    if bad.any():
        raise ValueError(
            f"the {name}: expected finite distances, got NaN or infinity for "
            f"{bad.sum()} of {bad.size} distances"
        )
    return x


def weights(x: Values, name: str = "weights") -> Values:
    """Checks that weights are finite and not negative.

    Args:
      x: Weights of any shape.
      name: Name of the weights in the message.

    Returns:
      The weights.

    Raises:
      ValueError: A weight is negative, infinite or NaN.
    """
    values = np.asarray(x)
    if not (np.isfinite(values) & (values >= 0)).all():
        raise ValueError(
            f"expected finite {name} of 0 or more, got one below 0, infinite or NaN"
        )
    return x


def indices(x: Values, size: int, name: str = "labels") -> Values:
    """Checks that integers are from 0 to `size - 1`.

    Args:
      x: Integers of any shape: the labels of examples, pairs of stimuli `[2, p]`, rows
        of a bank.
      size: Number of classes, stimuli or rows.
      name: Name of the integers in the message.

    Returns:
      The integers.

    Raises:
      ValueError: Values are not integers, or one is out of range; the message has the
        smallest and the largest.
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
      x: Inverse covariance `[units, units]`, or one for each fold
        `[folds, units, units]`, for `rdm.distances.Mahalanobis` and `rdm.crossnobis`.
      name: Name of the matrix in the message.

    Returns:
      The matrix.

    Raises:
      ValueError: The matrix is not symmetric, not finite, or not positive definite.
    """
    if np.ndim(x) not in (2, 3) or len({*np.shape(x)[-2:]}) > 1:
        raise ValueError(f"{name}: expected a square matrix, got {np.shape(x)}")
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
      prior_rate: Rate of the prior, as in `rdm.distances.PoissonKL`.
      prior_weight: Weight of the prior, as in `rdm.distances.PoissonKL`; 0: no prior.

    Returns:
      The activations.

    Raises:
      ValueError: The smallest rate is not above 0 after the prior is added.
    """
    least = np.min(np.asarray(x, np.float64), initial=np.inf)
    if not least + np.float64(prior_weight) * np.float64(prior_rate) > 0:
        raise ValueError(
            f"PoissonKL: expected activations of 0 or more, and a prior above 0 if "
            f"one is 0, got activations of {least}, a prior rate of {prior_rate} and a "
            f"prior weight of {prior_weight}"
        )
    return x
