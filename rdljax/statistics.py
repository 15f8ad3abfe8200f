"""Honest comparisons: two students, many tests, few seeds, two geometries.

Thin, over SciPy, which is imported where it is used, and over `rdm`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy import typing as npt

from rdljax import _checks, _geometry, rdm


class McNemar(NamedTuple):
    """The examples only one of two classifiers got right, and how likely that is."""

    only_first: int
    only_second: int
    p_value: float


class Difference(NamedTuple):
    """The mean of paired differences, its confidence interval and its p value."""

    mean: float
    low: float
    high: float
    p_value: float


class Spread(NamedTuple):
    """The mean of some values, their standard deviation (of n - 1) and their number."""

    mean: float
    std: float
    count: int  # type: ignore[assignment]  # (A tuple has a method of that name.)


class Agreement(NamedTuple):
    """How far two RDMs agree: the correlations of their distances and of the ranks."""

    pearson: float
    spearman: float


class Bootstrap(NamedTuple):
    """A discrepancy, its confidence interval, its standard error, and all draws."""

    value: float
    low: float
    high: float
    standard_error: float
    draws: np.ndarray


class Ceiling(NamedTuple):
    """Between what bounds the similarity of the best model to noisy data lies."""

    lower: float
    upper: float


def _check_paired(name: str, *arrays: np.ndarray) -> None:
    shapes = [array.shape for array in arrays]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1 or shapes[0] == (0,):
        listed = ", ".join(map(str, shapes))
        raise ValueError(f"{name} takes vectors of one length, 1 or more: got {listed}")


def _real(name: str, values: npt.ArrayLike) -> np.ndarray:
    """Returns numbers as float64, unless they are not real."""
    values = np.asarray(values)
    _checks.check_real(name, values.dtype)
    return values.astype(np.float64)


def _check_confidence(confidence: float) -> None:
    _checks.check_number("confidence", confidence, above=0)
    if confidence >= 1:
        raise ValueError(f"the confidence lies between 0 and 1: got {confidence}")


def mcnemar(
    truth: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike
) -> McNemar:
    """Tests whether two classifiers err alike on the same examples.

    The p value is that of the exact binomial test where fewer than 25 examples tell
    the two apart, or as many speak for the one as for the other; else that of the
    chi-squared test with continuity correction.

    Args:
      truth: Labels, [examples].
      first: What the first classifier predicts, [examples].
      second: What the second classifier predicts, [examples].

    Returns:
      The number of examples that only the first got right, that only the second got
      right, and the two-sided p value: 1 where the two are right on the same examples.

    Raises:
      ValueError: If the shapes differ, are not [examples], there is no example, or what
        is given are no labels: whole numbers.

    References:
      McNemar, 1947, Note on the sampling error of the difference between correlated
      proportions or percentages. Edwards, 1948, Note on the "correction for continuity"
      in testing the significance of the difference between correlated proportions.
    """
    from scipy import stats

    truth, first, second = np.asarray(truth), np.asarray(first), np.asarray(second)
    _check_paired("mcnemar", truth, first, second)
    _check_labels(truth=truth, first=first, second=second)
    right, others = first == truth, second == truth
    only_first, only_second = int(np.sum(right > others)), int(np.sum(others > right))
    total, ahead = only_first + only_second, abs(only_first - only_second)
    # Of equal counts the correction would make a difference of one.
    if total < 25 or ahead == 0:
        p_value = stats.binomtest(only_first, total).pvalue if total else 1.0
    else:
        p_value = stats.chi2.sf((ahead - 1) ** 2 / total, 1)
    return McNemar(only_first, only_second, float(p_value))


def _check_labels(**labels: np.ndarray) -> None:
    """Refuses labels that are not whole numbers; booleans and whole floats are."""
    for name, given in labels.items():
        whole = given.dtype.kind in "biu" or (
            given.dtype.kind == "f"
            and np.isfinite(given).all()
            and (given == np.floor(given)).all()
        )
        if not whole:
            raise ValueError(
                f"mcnemar takes labels, whole numbers: got {given.dtype} such as "
                f"{given[:3].tolist()} for {name}. (np.unique(names, "
                f"return_inverse=True) numbers names, argmax takes a probability's "
                f"class.)"
            )


def holm(p_values: npt.ArrayLike) -> np.ndarray:
    """Adjusts the p values of several tests, so that all of them may be read at once.

    Rejecting where the adjusted value is at most alpha keeps the probability of any
    false rejection at alpha or below, whatever the tests have to do with each other.

    Args:
      p_values: One p value a test, of any shape.

    Returns:
      The adjusted p values, of the same shape and in the same order.

    Raises:
      ValueError: If a p value is not a number between 0 and 1.

    References:
      Holm, 1979, A simple sequentially rejective multiple test procedure.
    """
    values = _real("p values", p_values)
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"p values lie between 0 and 1: got {values}")
    flat = values.ravel()
    order = np.argsort(flat)
    stepped = np.arange(flat.size, 0, -1) * flat[order]
    adjusted = np.empty_like(flat)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted.reshape(values.shape)


def paired_difference(
    first: npt.ArrayLike, second: npt.ArrayLike, confidence: float = 0.95
) -> Difference:
    """Compares two methods over seeds: the mean difference and its t interval.

    Args:
      first: One result a seed of the first method, [seeds].
      second: Those of the second method, with the same seeds in the same order.
      confidence: The probability with which such intervals hold the true mean.

    Returns:
      The mean of first - second, the two ends of its interval, and the two-sided p
      value of Student's paired test. One seed has neither interval nor p value: nan.
      Where all seeds differ by the same amount, up to rounding, the interval has no
      width, and the p value is 1 for an amount of 0 and else 0.

    Raises:
      ValueError: If the shapes differ, are not [seeds], there is no seed, a result is
        infinite, or the confidence is not between 0 and 1.

    References:
      Student, 1908, The probable error of a mean.
    """
    from scipy import stats

    first, second = _real("results", first), _real("results", second)
    _check_paired("paired_difference", first, second)
    _check_confidence(confidence)
    if np.isinf(first).any() or np.isinf(second).any():
        raise ValueError(
            f"paired_difference takes finite results: got {first} and {second}"
        )
    differences = first - second
    mean = float(differences.mean())
    if differences.size == 1:
        return Difference(mean, np.nan, np.nan, np.nan)
    rounding = 64 * np.finfo(np.float64).eps * np.abs([first, second]).max()
    if np.ptp(differences) <= rounding:
        return Difference(mean, mean, mean, float(abs(mean) <= rounding))
    test = stats.ttest_rel(first, second)
    interval = test.confidence_interval(confidence)
    return Difference(
        mean, float(interval.low), float(interval.high), float(test.pvalue)
    )


def spread(values: npt.ArrayLike) -> Spread:
    """Returns the mean over seeds, the standard deviation and the number of seeds.

    Args:
      values: One result a seed, [seeds].

    Returns:
      The mean, the standard deviation with n - 1 (nan of one value), and n.

    Raises:
      ValueError: If there is no value, or the shape is not [seeds].
    """
    values = _real("results", values)
    _check_paired("spread", values)
    std = float(values.std(ddof=1)) if values.size > 1 else np.nan
    return Spread(float(values.mean()), std, values.size)


def _is_constant(values: np.ndarray) -> bool:
    """Returns whether values are equal up to rounding: the limit of SciPy's warning."""
    mean = values.mean()
    return bool(np.linalg.norm(values - mean) <= 1e-13 * abs(mean))


def rdm_agreement(first: npt.ArrayLike, second: npt.ArrayLike) -> Agreement:
    """Correlates two representational distance matrices over their pairs of stimuli.

    Args:
      first: A condensed RDM, the distances of the N(N-1)/2 pairs, [pairs]. A nan is a
        distance that was not measured: that pair is left out on both sides.
      second: Another one of the same stimuli, [pairs].

    Returns:
      Pearson's and Spearman's correlation; nan where an RDM is constant, or fewer than
      two pairs are left.

    Raises:
      ValueError: If the lengths differ or belong to no number of stimuli.

    References:
      Kriegeskorte, Mur and Bandettini, 2008, Representational similarity analysis.
    """
    from scipy import stats
    from scipy.spatial import distance

    own, other = (
        _geometry.of_unit_size(_real("distances", x)) for x in (first, second)
    )
    _check_paired("rdm_agreement", own, other)
    distance.num_obs_y(own)
    measured = ~(np.isnan(own) | np.isnan(other))
    own, other = own[measured], other[measured]
    if own.size < 2 or _is_constant(own) or _is_constant(other):
        return Agreement(np.nan, np.nan)
    pearson = stats.pearsonr(own, other).statistic
    spearman = stats.spearmanr(own, other).statistic
    return Agreement(float(pearson), float(spearman))


def bootstrap(
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    comparison: rdm.comparisons.Comparison = rdm.comparisons.Pearson(),
    draws: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Bootstrap:
    """Estimates how much the discrepancy of two RDMs varies with the stimuli.

    Stimuli are drawn with replacement; a pair of stimuli counts as often as both were
    drawn, and the pairs of a stimulus with its copies are left out. For MSE, cosine and
    Pearson all draws together are a few matrix products of counts with RDMs; a draw in
    which an RDM varies much less than in all pairs is computed by itself.

    Args:
      first: A condensed RDM, [pairs].
      second: Another one of the same stimuli, [pairs].
      comparison: One of `rdm.comparisons` that is not whitened.
      draws: How many times to draw the stimuli.
      confidence: The probability that the interval is to hold, between its percentiles.
      seed: Of the draws.

    Returns:
      The discrepancy of the two (for Pearson one minus the correlation), the interval,
      the standard deviation over draws, and the draws, [draws]. A draw of fewer than
      three different stimuli is drawn again.

    Raises:
      ValueError: If the lengths differ or belong to fewer than three stimuli, a
        distance is not finite, there are fewer than two draws, or the confidence is not
        between 0 and 1.

    References:
      Efron & Tibshirani, An Introduction to the Bootstrap, 1993. Nili, Wingfield,
      Walther, Su, Marslen-Wilson & Kriegeskorte, A toolbox for representational
      similarity analysis, PLoS Computational Biology 10, 2014.
    """
    first, second = np.asarray(first), np.asarray(second)
    for x in (first, second):
        _checks.check_real("distances", x.dtype)
    _check_paired("bootstrap", first, second)
    _check_confidence(confidence)
    draws = _checks.as_count("number of draws", draws, at_least=2)
    n = rdm.stimuli(first.size)
    if n < 3:
        raise ValueError(
            f"bootstrap takes RDMs of three stimuli or more: got {n} stimuli"
        )
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise ValueError("bootstrap takes finite distances: got NaN or infinity")
    counts = _counts(np.random.default_rng(seed), n, draws)
    dtype = np.result_type(first, second, np.float32)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if getattr(comparison, "own_scales", False):
        first, second = map(_geometry.of_unit_size, (first, second))
    first, second = (jnp.asarray(x, dtype) for x in (first, second))
    # With every stimulus once, first: the discrepancy itself.
    counts = np.concatenate([np.ones((1, n), counts.dtype), counts])
    values, sure = np.zeros(len(counts)), np.zeros(len(counts), bool)
    if rdm.forms.streams(comparison):
        found = _bootstrapped(first, second, jnp.asarray(counts, dtype), comparison)
        values, sure = np.array(found[0], np.float64), np.asarray(found[1])
    rows, columns = np.triu_indices(n, 1)
    for draw in np.flatnonzero(~sure):
        copies = counts[draw][rows] * counts[draw][columns]
        if isinstance(comparison, rdm.comparisons.OfRanks):
            # As copies, of which each draw has another number: no program of JAX's.
            drawn = (np.repeat(np.asarray(x), copies) for x in (first, second))
            values[draw] = comparison.on_host(*drawn)
        else:
            weights = jnp.asarray(copies, dtype)
            values[draw] = _weighted(comparison, first, second, weights)
    value, values = values[0], values[1:]
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    error = float(values.std(ddof=1))
    return Bootstrap(float(value), float(low), float(high), error, values)


def _counts(random: np.random.Generator, n: int, draws: int) -> np.ndarray:
    """Draws how often each stimulus is taken, `[draws, n]`: three different or more."""
    counts = _drawn(random, n, draws)
    while (few := np.count_nonzero(counts, axis=1) < 3).any():
        counts[few] = _drawn(random, n, few.sum())
    return counts


def _drawn(random: np.random.Generator, n: int, draws: int) -> np.ndarray:
    places = random.integers(n, size=(draws, n)) + n * np.arange(draws)[:, None]
    return np.bincount(places.ravel(), minlength=draws * n).reshape(draws, n)


@jax.jit
def _weighted(comparison, first, second, weights):
    return comparison(first, second, weights)


@jax.jit
def _bootstrapped(first, second, counts, comparison):
    """Computes every draw's discrepancy: `w' F w` for each matrix F that is summed.

    And whether it has its digits: the terms are taken about the centre of all pairs,
    and little may be left of them about that of the draw's own.
    """
    if comparison.own_scales:
        first, second = (_of_unit_norm(x) for x in (first, second))
    centres = jnp.mean(first), jnp.mean(second)
    square = [rdm.square(x) for x in (first, second)]
    beside = ~jnp.eye(counts.shape[1], dtype=bool)
    pairs = jnp.sum(counts, axis=1) ** 2 - jnp.sum(counts**2, axis=1)

    def mean(term):
        rows = jnp.matmul(
            counts, jnp.where(beside, term, 0), precision=lax.Precision.HIGHEST
        )
        return jnp.sum(rows * counts, axis=1) / pairs

    means = [mean(term) for term in comparison.terms(*square, centres)]
    values = jax.vmap(lambda *means: comparison.from_means(means, centres))(*means)
    sure = jnp.ones(len(counts), bool)
    if comparison.own_scales:
        difference, teacher, _, _, teachers, students = means
        student = difference - centres[0] + centres[1] + teacher
        least = jnp.finfo(values.dtype).eps ** 0.25
        for shift, whole in ((student, students), (teacher, teachers)):
            sure &= whole - shift**2 > least * whole
    return values, sure


def _of_unit_norm(x: jax.Array) -> jax.Array:
    size = jnp.sqrt(jnp.mean(x * x))
    return jnp.where(size > 0, x / jnp.where(size > 0, size, 1), 0)


def noise_ceiling(
    rdms: npt.ArrayLike,
    *,
    comparison: rdm.comparisons.Similarity = rdm.comparisons.Pearson(),
) -> Ceiling:
    """Estimates how similar to noisy RDMs a perfect model could be.

    The true RDM is estimated by the mean of the subjects', each standardised as the
    comparison sees it (z scores, unit length or ranks). A model as good as that would
    score between the mean similarity of each subject with the mean of the others, and
    with the mean of all.

    Args:
      rdms: A condensed RDM of each subject, [subjects, pairs], two subjects or more.
      comparison: One of `rdm.comparisons` that is one minus a similarity (not `MSE`).

    Returns:
      The lower and the upper bound of the similarity (1 minus the discrepancy).

    Raises:
      ValueError: If there are fewer than two subjects, the length belongs to no number
        of stimuli, a distance is not finite, or the comparison has no similarity.

    References:
      Nili, Wingfield, Walther, Su, Marslen-Wilson & Kriegeskorte, A toolbox for
      representational similarity analysis, PLoS Computational Biology 10, 2014.
    """
    rdms = _real("distances", rdms)
    if rdms.ndim != 2 or len(rdms) < 2 or not np.isfinite(rdms).all():
        raise ValueError(
            f"noise_ceiling takes finite RDMs [subjects, pairs] of two subjects or "
            f"more: got {rdms.shape}, {np.isfinite(rdms).sum()} of them finite"
        )
    rdm.stimuli(rdms.shape[1])
    if isinstance(comparison, rdm.comparisons.MSE):
        raise ValueError("noise_ceiling takes a comparison with a similarity: got MSE")
    scaled = map(_geometry.of_unit_size, rdms)
    standard = np.stack([comparison.standardised(one) for one in scaled])
    total = standard.sum(axis=0)

    def similarity(own, best):
        if isinstance(comparison, rdm.comparisons.OfRanks):
            return 1 - comparison.on_host(own, best)
        return 1 - float(rdm.compare(own, best, comparison=comparison))

    others = [similarity(own, total - own) for own in standard]
    best = [similarity(own, total) for own in standard]
    return Ceiling(float(np.mean(others)), float(np.mean(best)))
