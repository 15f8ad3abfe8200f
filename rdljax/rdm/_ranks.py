"""Ranks, and the pairs that two rankings order alike.

Outside jit they are computed by NumPy and SciPy, which sort several times faster than
XLA does on a CPU; inside, by JAX.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array

# So many pairs of distances are compared at a time.
COMPARED = 2**22


def of(x: Array, weights: Array) -> Array:
    """Computes mean ranks of `[pairs]`; weight w counts as w equal distances.

    Ranks are relative: the lowest of weight 1 has rank 1/2.
    """
    order = jnp.argsort(x)
    ordered = x[order]
    below = jnp.concatenate([jnp.zeros(1, weights.dtype), jnp.cumsum(weights[order])])
    first, last = (
        jnp.searchsorted(ordered, x, side, method="sort") for side in ("left", "right")
    )
    return (below[first] + below[last]) / 2


def of_known(x: np.ndarray) -> np.ndarray:
    """Computes the mean ranks, from 1, of `[pairs]` numbers outside jit."""
    order, ordered = _sorted(x)
    ranks = np.empty(len(x))
    first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    if len(first) == len(x):
        ranks[order] = np.arange(1.0, len(x) + 1)
        return ranks
    counts = np.diff(first, append=len(x))
    ranks[order] = np.repeat(first + (counts + 1) / 2, counts)
    return ranks


def _sorted(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of numbers, and what they are in that order up to a monotone map."""
    if x.dtype != np.float32 or len(x) >= 2**32:
        order = np.argsort(x)
        return order, x[order]
    # One sort of whole numbers, value above and place below, is several times faster
    # than a sort of places by value. (0 + x makes one zero of the two.)
    bits = (0 + x).view(np.uint32)
    keys = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    keys = keys.astype(np.uint64) << np.uint64(32)
    keys |= np.arange(len(x), dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64(2**32 - 1)).astype(np.intp), keys >> np.uint64(32)


def concordance_of_known(x: np.ndarray, y: np.ndarray) -> float:
    """Computes concordant minus discordant pairs, over all, outside jit."""
    from scipy import stats

    def tied(ranks):
        counts = np.unique(ranks, return_counts=True)[1].astype(np.float64)
        return np.sum(counts * (counts - 1) / 2)

    x, y = of_known(x), of_known(y)
    total = len(x) * (len(x) - 1) / 2
    untied = [total - tied(ranks) for ranks in (x, y)]
    if min(untied) == 0:
        return 0.0
    tau_b = stats.kendalltau(x, y).statistic
    return float(tau_b * np.sqrt(untied[0] / total) * np.sqrt(untied[1] / total))


def compared(sign, x: Array, y: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Sums over ordered pairs a, b of what `sign(x_a - x_b)` and that of y multiply to.

    Args:
      sign: Of a difference, odd and elementwise.
      x: `[pairs]`.
      y: `[pairs]`.
      weights: `[pairs]`.

    Returns:
      The weighted sums of both signs' product, of the square of x's and of y's.
    """

    @jax.checkpoint
    def row(one):
        a, b, weight = one
        s, t = sign(a - x), sign(b - y)
        return tuple(weight * jnp.sum(weights * p) for p in (s * t, s * s, t * t))

    both, own, other = lax.map(
        row, (x, y, weights), batch_size=max(1, COMPARED // x.size)
    )
    return jnp.sum(both), jnp.sum(own), jnp.sum(other)


def soft(x: Array, weights: Array) -> Array:
    """Computes ranks, less their mean, with the order of distances made gradual."""

    @jax.checkpoint
    def row(a):
        return jnp.sum(weights * jnp.tanh(a - x)) / 2

    return lax.map(row, x, batch_size=max(1, COMPARED // x.size))
