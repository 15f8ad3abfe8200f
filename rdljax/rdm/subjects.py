"""Selects and averages RDMs of several subjects and sessions, with their reliability.

All functions take the `Rdms` that `rdm.io.read` returns.
"""

import numpy as np
import numpy.typing as npt

from rdljax.rdm import _condensed
from rdljax.rdm.io import Rdms


def select(rdms: Rdms, stimuli: npt.ArrayLike) -> Rdms:
    """Selects some of the stimuli, by their indices, in the given order.

    Raises:
      ValueError: Fewer than two indices, or the same index twice.
    """
    places = np.asarray(stimuli)
    if places.ndim != 1 or not len(set(places.tolist())) == len(places) > 1:
        raise ValueError(
            f"expected indices of two stimuli or more, each once: {places}"
        )
    pairs = rdms.distances.shape[-1]
    n = _condensed.stimuli(pairs)
    number = np.zeros((n, n), np.int64)
    number[np.triu_indices(n, 1)] = np.arange(pairs)
    number += number.T
    chosen = number[np.ix_(places, places)][np.triu_indices(len(places), 1)]
    names = rdms.stimuli and tuple(rdms.stimuli[i] for i in places)
    return Rdms(rdms.distances[..., chosen], rdms.subjects, names)


def shuffle(rdms: Rdms, seed: int = 0) -> Rdms:
    """Returns a control: the same RDMs with the stimuli in a random order.

    All RDMs are permuted in the same way. They keep their distances and their
    correlations with each other, but the distances belong to other stimuli.
    """
    n = _condensed.stimuli(rdms.distances.shape[-1])
    order = np.random.default_rng(seed).permutation(n)
    return select(rdms, order)._replace(stimuli=rdms.stimuli)


def mean_over_sessions(rdms: Rdms) -> np.ndarray:
    """Averages each subject's RDMs: `[subjects, pairs]`; NaN: never measured."""
    return _mean(rdms.distances, 1)


def mean_over_subjects(rdms: Rdms, weights: npt.ArrayLike | None = None) -> np.ndarray:
    """Averages the subjects' mean RDMs: `[pairs]`.

    Args:
      rdms: The RDMs.
      weights: Weights `[subjects]`, not negative, such as their `reliability`. None:
        uniform weights.

    Raises:
      ValueError: Not one weight for each subject, or no weight above 0.
    """
    each = mean_over_sessions(rdms)
    if weights is None:
        return _mean(each, 0)
    weights = np.asarray(weights, np.float64)
    if weights.shape != each.shape[:1] or not ((weights >= 0).all() and weights.any()):
        raise ValueError(
            f"expected a weight of 0 or more for each of {len(each)} subjects, got "
            f"{weights}"
        )
    weights = np.where(np.isnan(each), 0, weights[:, None])
    total = weights.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return (weights * np.nan_to_num(each)).sum(axis=0) / total


def reliability(rdms: Rdms) -> np.ndarray:
    """Computes the agreement of each subject's sessions, `[subjects]`.

    The mean over every two sessions of Pearson's correlation over the pairs of stimuli
    measured in both; NaN for a subject with one session.
    """
    found = []
    for sessions in rdms.distances:
        sessions = [one for one in sessions if not np.isnan(one).all()]
        found.append(
            [
                _correlation(one, other)
                for i, one in enumerate(sessions)
                for other in sessions[:i]
            ]
        )
    return np.array([np.mean(of) if of else np.nan for of in found])


def agreement_with_others(rdms: Rdms) -> np.ndarray:
    """Correlates each subject with the mean of the others (Pearson), `[subjects]`.

    Raises:
      ValueError: There is only one subject.
    """
    each = mean_over_sessions(rdms)
    if len(each) < 2:
        raise ValueError("agreement_with_others takes two subjects or more, got one")
    others = (_mean(np.delete(each, i, axis=0), 0) for i in range(len(each)))
    return np.array(list(map(_correlation, each, others)))


def _mean(x: np.ndarray, axis: int) -> np.ndarray:
    """Returns the mean of the values that are not NaN; NaN if all are NaN."""
    measured = ~np.isnan(x)
    count = measured.sum(axis=axis)
    with np.errstate(invalid="ignore"):
        return np.where(measured, x, 0).sum(axis=axis) / count


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    both = ~(np.isnan(first) | np.isnan(second))
    return float(np.corrcoef(first[both], second[both])[0, 1])
