"""Computes inner products of RDMs for bootstrap draws of their stimuli.

A draw has each stimulus i `c_i` times, each pair of two different stimuli `c_i c_j`
times, and no pair of a stimulus with a copy of itself. All that is needed of a draw are
inner products of the RDMs. So the products of every two RDMs are computed once,
`[two, pairs]`, and those of all draws are one matrix product with the numbers of copies
`[pairs, draws]`.

Whitened: with independent noise of the stimuli the covariance of distances is
proportional to `V = 2 I + B' B`, where `B` is the incidence matrix of stimuli and pairs
(Diedrichsen et al. 2020: two distances that share a stimulus covary). By Woodbury's
identity `V^-1 d` needs only the sums of d over the pairs of each stimulus, so no matrix
over pairs exists; and if all pairs are known, no system of equations is solved.
"""

from typing import NamedTuple

import numpy as np

from rdljax.rdm import comparisons

# Numbers in the largest arrays: 64 MiB, of which a few exist at a time.
BLOCK = 2**23


class Products(NamedTuple):
    """Inner products of RDMs, draw by draw.

    Attributes:
      inner: Under the comparison: centred, whitened, `[draws, rdms, rdms]`.
      lengths: The lengths that RDMs are divided by before they are averaged: centred,
        never whitened, `[draws, rdms]`.
    """

    inner: np.ndarray
    lengths: np.ndarray

    def cosines(self) -> np.ndarray:
        """Returns the similarity of every two RDMs; 0 where one is constant."""
        size = lengths_of(self.inner)
        return divide(self.inner, size[:, :, None] * size[:, None, :])


def lengths_of(inner: np.ndarray) -> np.ndarray:
    """Returns the lengths of RDMs `[draws, rdms]` from their inner products."""
    return np.sqrt(np.maximum(np.einsum("dkk->dk", inner), 0))


def divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divides, with 0 where the denominator is not above 0."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    above = np.broadcast_to(denominator > 0, shape)
    return np.divide(numerator, denominator, out=np.zeros(shape), where=above)


def inner_products(
    rdms: np.ndarray, known: np.ndarray, counts: np.ndarray, comparison
) -> Products:
    """Computes the inner products of RDMs under a comparison, for each draw.

    Args:
      rdms: RDMs `[rdms, pairs]`, finite where known, of about unit size.
      known: Which pairs count, `[pairs]`.
      counts: Number of copies of each stimulus, `[draws, stimuli]`.
      comparison: `Cosine`, `Pearson`, `WhitenedCosine` or `WhitenedPearson`, the last
        two with independent noise.
    """
    rdms = np.where(known, rdms, 0)
    centred = isinstance(comparison, comparisons.Pearson | comparisons.WhitenedPearson)
    whitened = isinstance(comparison, comparisons.WhitenedCosine)
    if centred:  # The last RDM is the constant 1, by which others are centred.
        # First by the median: a mean may be far from all distances of a draw that does
        # not have an outlier, and little would be left of its variance.
        middle = np.median(rdms[:, known], axis=1, keepdims=True)
        rdms = np.concatenate([np.where(known, rdms - middle, 0), known[None]])
    counts = counts.astype(np.float64)
    plain = _sums(rdms, known, counts)
    inner = _whiten(plain, rdms, known, counts) if whitened else plain
    if centred:
        mean = plain[:, :-1, -1] / np.maximum(plain[:, -1:, -1], 1)
        plain, inner = _centre(plain, mean), _centre(inner, mean)
    return Products(inner, lengths_of(plain))


def _sums(rdms: np.ndarray, known: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Sums the products of every two RDMs over the pairs of each draw."""
    places = np.array(np.triu_indices(counts.shape[1], 1))[:, known]
    rdms = rdms[:, known]
    if len(counts) < len(rdms) / 2:  # Fewer draws than pairs of RDMs.
        copies = counts[:, places[0]] * counts[:, places[1]]
        return np.array([(rdms * own) @ rdms.T for own in copies])
    one, other = np.triu_indices(len(rdms))
    total = np.zeros((len(counts), len(one)))
    size = max(1, BLOCK // (len(counts) + len(one)))
    for begin in range(0, places.shape[1], size):
        block = np.s_[begin : begin + size]
        first, second = places[:, block]
        copies = counts[:, first] * counts[:, second]
        total += copies @ (rdms[one, block] * rdms[other, block]).T
    sums = np.empty((len(counts), len(rdms), len(rdms)))
    sums[:, one, other] = sums[:, other, one] = total
    return sums


def _centre(products: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Subtracts means `[draws, rdms]`; the last of the given RDMs is the constant 1."""
    own, ones = products[:, :-1, :-1], products[:, :-1, -1]
    shift = mean[:, :, None] * ones[:, None, :]
    square = mean[:, :, None] * mean[:, None, :] * products[:, -1:, -1:]
    centred = own - shift - shift.swapaxes(1, 2) + square
    # An RDM that is constant in a draw is 0, not rounding.
    before, after = (np.einsum("dkk->dk", x) for x in (own, centred))
    alive = after > 1e-13 * np.maximum(before, 0)
    return np.where(alive[:, :, None] & alive[:, None, :], centred, 0)


def _whiten(plain, rdms, known, counts) -> np.ndarray:
    """Computes `d' V^-1 e` from `d' e` and sums over each stimulus.

    With r the sums of `V^-1 e` over the pairs of each stimulus, `V^-1 e` is `(e_ij -
    r_i - r_j) / 2`.
    """
    n = counts.shape[1]
    places = tuple(np.array(np.triu_indices(n, 1))[:, known])
    square = np.zeros((len(rdms), n, n))
    square[:, places[0], places[1]] = rdms[:, known]
    square += square.swapaxes(1, 2)
    measured = np.zeros((n, n))
    measured[places] = 1
    measured += measured.T
    inner = np.empty_like(plain)
    size = max(1, BLOCK // (n * (n + 2 * len(rdms))))
    for begin in range(0, len(counts), size):
        block = np.s_[begin : begin + size]
        own = counts[block]
        sums = np.einsum("di,kij->dkj", own, square, optimize=True)
        of_inverse = _sums_of_inverse(sums, own, measured, known.all())
        shift = (sums * own[:, None, :]) @ of_inverse.swapaxes(1, 2)
        inner[block] = (plain[block] - shift) / 2
    return (inner + inner.swapaxes(1, 2)) / 2


def _sums_of_inverse(sums, counts, measured, complete: bool) -> np.ndarray:
    """Solves `2 r_i + sum_j m_ij c_j (r_i + r_j) = s_i` for r, draw by draw."""
    diagonal = 2 + counts @ measured
    if complete:
        # The matrix is `diag(diagonal - counts) + 1 counts'` (Sherman-Morrison).
        rest = diagonal - counts
        if (rest >= 1).all():
            weights = (counts / rest)[:, None, :]
            mean = (weights * sums).sum(axis=2) / (1 + weights.sum(axis=2))
            return (sums - mean[:, :, None]) / rest[:, None, :]
    matrix = measured * counts[:, None, :]
    matrix += diagonal[:, :, None] * np.eye(len(measured))
    return np.linalg.solve(matrix, sums.swapaxes(1, 2)).swapaxes(1, 2)
