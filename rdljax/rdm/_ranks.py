"""Computes ranks and counts discordant pairs of two rankings, by JAX and on the host.

NumPy and SciPy sort several times faster than XLA does on a CPU.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array

# Number of pairs of distances that are compared at a time.
COMPARED = 2**22


@jax.jit
def of_both(x: Array, y: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Computes mean ranks of two RDMs; weight w counts as w equal distances.

    Ranks are relative: the lowest distance, if it has weight 1, has rank 1/2.

    Args:
      x: Distances `[pairs]` of one RDM.
      y: Distances `[pairs]` of the other RDM.
      weights: Weights `[pairs]`, not negative.

    Returns:
      The ranks of x, the ranks of y and the weights, each `[pairs]`, all sorted by y:
      sums over pairs do not depend on the order, so that two sorts are enough.
    """
    x, y, weights = lax.sort((x, y, weights), num_keys=1)
    ranks = _of_sorted(x, weights)
    y, ranks, weights = lax.sort((y, ranks, weights), num_keys=1)
    return ranks, _of_sorted(y, weights), weights


def _of_sorted(x: Array, weights: Array) -> Array:
    """Computes mean ranks of numbers in ascending order."""
    through = jnp.cumsum(weights)
    before = jnp.concatenate([jnp.zeros_like(through[:1]), through[:-1]])
    first = _is_first(x)
    last = jnp.concatenate([first[1:], jnp.ones(1, bool)])
    low = lax.cummax(jnp.where(first, before, 0))
    high = lax.cummin(jnp.where(last, through, jnp.inf), reverse=True)
    return (low + high) / 2


def _is_first(*x: Array) -> Array:
    """Returns for each of the sorted numbers whether it differs from the previous."""
    differ = [one[1:] != one[:-1] for one in x]
    return jnp.concatenate([jnp.ones(1, bool), jnp.any(jnp.stack(differ), axis=0)])


@jax.jit
def tied_and_discordant(x: Array, y: Array, kept: Array) -> tuple[Array, Array]:
    """Counts the tied and the discordant pairs of distances of two RDMs.

    Args:
      x: Distances `[pairs]` of one RDM, finite.
      y: Distances `[pairs]` of the other RDM, finite.
      kept: Mask `[pairs]`: whether a distance counts.

    Returns:
      The number of pairs that are tied in x or in y, and the number of discordant
      pairs, in the dtype of x.
    """
    x, y = (jnp.where(kept, rdm, jnp.inf) for rdm in (x, y))
    # `_inversions` needs a power of two.
    bits = max(1, (x.size - 1).bit_length())
    x, y = (
        jnp.pad(rdm, (0, 2**bits - x.size), constant_values=jnp.inf) for rdm in (x, y)
    )
    x, y = lax.sort((x, y), num_keys=2)
    both = _ties(x < jnp.inf, x, y)
    places = lax.iota(jnp.int32, x.size)
    in_order, order = lax.sort((y, places), num_keys=1, is_stable=True)
    ranks = jnp.zeros_like(order).at[order].set(places, unique_indices=True)
    tied = _ties(x < jnp.inf, x) + (_ties(in_order < jnp.inf, in_order) - both)
    return tied, _inversions(ranks, bits, x.dtype)


def _ties(kept: Array, *x: Array) -> Array:
    """Counts pairs of equal numbers (or tuples of numbers), in ascending order."""
    places = lax.iota(jnp.int32, kept.size)
    first = lax.cummax(jnp.where(_is_first(*x), places, 0))
    return _total(jnp.where(kept, places - first, 0), x[0].dtype)


def _inversions(ranks: Array, bits: int, dtype: jnp.dtype) -> Array:
    """Counts inversions: pairs where the first element has the higher rank.

    Ranks are sorted by their highest bit, then by the next, as in a radix sort. At each
    bit, the ranks with the same higher bits form a block, which begins at the index
    that their higher bits give; half of its ranks have a 1 at this bit. The inversions
    that this bit decides are, for each 0, the 1s before it in its block.

    Args:
      ranks: Permutation of the integers below `2**bits`.
      bits: Number of bits.
      dtype: Dtype of the result.
    """

    def by_bit(done, carry):
        ranks, count = carry
        bit = bits - 1 - done
        is_one = (ranks >> bit) & 1
        start = (ranks >> bit >> 1) << bit << 1
        ones = jnp.cumsum(is_one) - is_one - start // 2
        zeros = lax.iota(jnp.int32, ranks.size) - start - ones
        count += _total(jnp.where(is_one == 1, 0, ones), dtype)
        place = start + jnp.where(is_one == 1, (1 << bit) + ones, zeros)
        ranks = jnp.zeros_like(ranks).at[place].set(ranks, unique_indices=True)
        return ranks, count

    return lax.fori_loop(0, bits, by_bit, (ranks, jnp.zeros((), dtype)))[1]


def _total(counts: Array, dtype: jnp.dtype) -> Array:
    """Sums integers below `counts.size`, exactly within rows, then over the rows."""
    # (The sum of a row must be below 2**32.)
    row = min(1024, counts.size, 2**32 // counts.size)
    rows = jnp.sum(counts.reshape(-1, row), axis=1, dtype=jnp.uint32)
    return jnp.sum(rows, dtype=dtype)


def ranks_on_host(x: np.ndarray) -> np.ndarray:
    """Computes the mean ranks, from 1, of numbers `[pairs]` with NumPy."""
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
    """Returns the sorting indices and the sorted numbers, up to a monotone map."""
    if x.dtype != np.float32 or len(x) >= 2**32:
        order = np.argsort(x)
        return order, x[order]
    # One sort of integers with the value in the high and the index in the low bits is
    # several times faster than `argsort`. (0 + x turns -0 into 0.)
    bits = (0 + x).view(np.uint32)
    keys = np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))
    keys = keys.astype(np.uint64) << np.uint64(32)
    keys |= np.arange(len(x), dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64(2**32 - 1)).astype(np.intp), keys >> np.uint64(32)


def tau_a_on_host(x: np.ndarray, y: np.ndarray) -> float:
    """Computes Kendall's tau-a of two vectors `[pairs]` with SciPy."""
    from scipy import stats

    def tied(ranks):
        counts = np.unique(ranks, return_counts=True)[1].astype(np.float64)
        return np.sum(counts * (counts - 1) / 2)

    x, y = ranks_on_host(x), ranks_on_host(y)
    total = len(x) * (len(x) - 1) / 2
    untied = [total - tied(ranks) for ranks in (x, y)]
    if min(untied) == 0:
        return 0.0
    tau_b = stats.kendalltau(x, y).statistic
    return float(tau_b * np.sqrt(untied[0] / total) * np.sqrt(untied[1] / total))


def compared(sign, x: Array, y: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Sums products of the signs of differences over all ordered pairs of distances.

    For the pair a, b they are `s = sign(x_a - x_b)` and `t = sign(y_a - y_b)`.

    Args:
      sign: Odd elementwise function of a difference.
      x: Distances `[pairs]` of one RDM.
      y: Distances `[pairs]` of the other RDM.
      weights: Weights `[pairs]`.

    Returns:
      The weighted sums of `s t`, of `s^2` and of `t^2`.
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
    """Computes soft ranks minus their mean: the order of two distances is gradual."""

    @jax.checkpoint
    def row(a):
        return jnp.sum(weights * jnp.tanh(a - x)) / 2

    return lax.map(row, x, batch_size=max(1, COMPARED // x.size))
