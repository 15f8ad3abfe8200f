"""Computes crossvalidated Mahalanobis distances."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy import linalg

from rdljax import _checks as _numbers
from rdljax import _geometry
from rdljax.rdm import _checks, _condensed

Array = jax.Array


def crossnobis(
    measurements: Array,
    precision: Array | None = None,
    measured: Array | None = None,
    *,
    matmul_precision: lax.PrecisionLike = _geometry.HIGHEST,
) -> Array:
    """Computes the crossvalidated Mahalanobis distance of every two stimuli.

    `(x_i - x_j)' P (y_i - y_j)` for two independent measurements x and y (folds),
    averaged over all pairs of folds. Noise that is independent between folds
    contributes 0 on average, so that the distance is unbiased: it is 0 on average for
    two stimuli that do not differ, and can be negative. All folds are computed with one
    whitening and two matrix products.

    Args:
      measurements: Measurements `[folds, n, ...]` of n stimuli in two or more folds.
      precision: Inverse P of the noise covariance of the units, `[units, units]`,
        symmetric and positive definite; None: the identity. Or one for each fold,
        `[folds, units, units]`: P is then the inverse of the mean covariance of the two
        folds, as in rsatoolbox, and takes a factorisation for every two folds.
      measured: Mask `[folds, n]`, False where a stimulus was not measured in a fold
        (its measurements may be NaN). The distance of two stimuli is then the mean over
        the pairs of folds that have both, and NaN if fewer than two folds have both.
        Takes `folds (folds - 1) / 2` products. None: all stimuli in all folds.
      matmul_precision: Precision of the matrix products, on accelerators.

    Returns:
      The condensed RDM `[n (n - 1) / 2]`, in at least float32. rsatoolbox divides it by
      the number of units.

    Raises:
      ValueError: Fewer than two folds or stimuli, or a precision or mask of the wrong
        shape. (The distances are NaN if the precision is not positive definite, or
        measurements are not finite: see `validate.precision`, `validate.activations`. A
        precision that is not symmetric counts as the mean of its two triangles.)

    References:
      Walther, Nili, Ejaz, Alink, Kriegeskorte & Diedrichsen, `Reliability of
      dissimilarity measures for multi-voxel pattern analysis
      <https://doi.org/10.1016/j.neuroimage.2015.12.012>`_, NeuroImage 137, 2016.
    """
    x = _numbers.as_activations(measurements)
    if x.ndim < 3 or min(x.shape[:2]) < 2 or x.size == 0:
        raise ValueError(
            f"crossnobis: expected measurements [folds, n, ...] of two folds and two "
            f"stimuli or more, got {x.shape}"
        )
    folds, n = x.shape[:2]
    x = x.reshape(folds, n, -1).astype(_geometry.compute_dtype(x))
    if measured is not None:
        measured = jnp.asarray(measured) != 0
        if measured.shape != (folds, n):
            raise ValueError(
                f"crossnobis: expected measured {(folds, n)}, got {measured.shape}"
            )
    if measured is not None:
        x = jnp.where(measured[..., None], x, 0)
    # Centring does not change the differences.
    x = x - jnp.mean(x, axis=(0, 1), keepdims=True)
    covariances = None
    if precision is not None and jnp.ndim(precision) == 3:
        covariances = _covariances(precision, folds, x.shape[2], x.dtype)
    elif precision is not None:
        factor = _checks.factor(precision, x.shape[2], x.dtype, "crossnobis")
        # One product of two matrices is faster on a CPU than a batched product.
        flat = x.reshape(folds * n, -1)
        x = jnp.matmul(flat, factor, precision=matmul_precision).reshape(x.shape)
    if measured is None and covariances is None:
        products = _between_folds(x, matmul_precision)
        own = jnp.diagonal(products)
        distances = own[:, None] + own[None, :] - 2 * products
    else:
        if measured is None:
            measured = jnp.ones((folds, n), bool)
        distances = _where_measured(
            x, measured.astype(x.dtype), covariances, matmul_precision
        )
    return _condensed.condense(distances)


def _covariances(precision: Array, folds: int, units: int, dtype) -> Array:
    """Returns the covariance of each fold, the inverse of its precision."""
    if jnp.shape(precision) != (folds, units, units):
        raise ValueError(
            f"crossnobis: expected a precision {(units, units)}, or one for each fold "
            f"{(folds, units, units)}, got {jnp.shape(precision)}"
        )
    identity = jnp.eye(units, dtype=dtype)
    roots = (
        linalg.solve_triangular(
            _checks.factor(one, units, dtype, f"crossnobis, fold {fold}"),
            identity,
            lower=True,
        )
        for fold, one in enumerate(precision)
    )
    # (L L')^-1 = (L^-1)' L^-1
    return jnp.stack([_geometry.gram(root.T) for root in roots])


def _between_folds(x: Array, precision) -> Array:
    """Returns inner products of stimuli `[n, n]`, means over ordered pairs of folds."""
    folds, n, units = x.shape
    whole = _geometry.gram(jnp.sum(x, axis=0), precision)
    within = jnp.swapaxes(x, 0, 1).reshape(n, folds * units)
    return (whole - _geometry.gram(within, precision)) / (folds * (folds - 1))


def _where_measured(x: Array, measured: Array, covariances, precision) -> Array:
    """Returns distances `[n, n]`, means over the pairs of folds with both stimuli."""

    def add(carry, pair):
        total, count = carry
        first, second = (x[k] for k in pair)
        if covariances is not None:
            first, second = _whiten(first, second, covariances[pair].mean(axis=0))
        products = _geometry.inner(first, second, precision)
        own = jnp.diagonal(products)
        distances = own[:, None] + own[None, :] - products - products.T
        both = measured[pair[0]] * measured[pair[1]]
        weight = both[:, None] * both[None, :]
        return (total + weight * distances, count + weight), None

    folds, n, _ = x.shape
    pairs = np.stack(np.triu_indices(folds, 1), axis=1).astype(np.int32)
    nothing = jnp.zeros((n, n), x.dtype) + 0 * x[0, 0, 0]
    (total, count), _ = lax.scan(add, (nothing, nothing), pairs)
    return jnp.where(count == 0, jnp.nan, total / jnp.maximum(count, 1))


def _whiten(first: Array, second: Array, covariance: Array) -> tuple[Array, Array]:
    """Whitens the stimuli of two folds `[n, units]` by their common covariance."""
    root = jnp.linalg.cholesky(covariance)
    both = jnp.concatenate([first, second]).T
    first, second = jnp.split(linalg.solve_triangular(root, both, lower=True).T, 2)
    return first, second
