"""Tests differences of classifiers, methods and RDMs: p values and intervals.

The functions use SciPy, which is imported only when it is needed, and `rdm`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from numpy import typing as npt

from rdljax import _checks, _geometry, _resampling, rdm, validate


class McNemar(NamedTuple):
    """The result of McNemar's test: the two counts and the p value."""

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
    """The mean, standard deviation (with n - 1) and number of some values."""

    mean: float
    std: float
    count: int  # type: ignore[assignment]  # Tuples have a method of this name.


class Agreement(NamedTuple):
    """The agreement of two RDMs: correlations of their distances and of the ranks."""

    pearson: float
    spearman: float


class Bootstrap(NamedTuple):
    """A discrepancy with its confidence interval, standard error and all draws."""

    value: float
    low: float
    high: float
    standard_error: float
    draws: np.ndarray


class Ceiling(NamedTuple):
    """The noise ceiling: lower and upper bound of the best model's similarity."""

    lower: float
    upper: float


def _check_paired(name: str, *arrays: np.ndarray) -> None:
    shapes = [array.shape for array in arrays]
    if len(set(shapes)) > 1 or len(shapes[0]) != 1 or shapes[0] == (0,):
        listed = ", ".join(map(str, shapes))
        raise ValueError(
            f"{name} takes vectors of the same length, 1 or more: got {listed}"
        )


def _real(name: str, values: npt.ArrayLike) -> np.ndarray:
    """Converts real numbers to float64; refuses numbers that are not real."""
    values = np.asarray(values)
    _checks.check_real(name, values.dtype)
    return values.astype(np.float64)


def mcnemar(
    truth: npt.ArrayLike, first: npt.ArrayLike, second: npt.ArrayLike
) -> McNemar:
    """Tests whether two classifiers have the same error rate on the same examples.

    The p value is that of the exact binomial test if fewer than 25 examples are
    classified correctly by only one of the two, or if the two counts are equal;
    otherwise that of the chi-squared test with continuity correction.

    Args:
      truth: Labels `[examples]`.
      first: Predictions of the first classifier `[examples]`.
      second: Predictions of the second classifier `[examples]`.

    Returns:
      The number of examples that only the first classified correctly, the number that
      only the second did, and the two-sided p value: 1 if both are right on the same
      examples.

    Raises:
      ValueError: The shapes differ or are not `[examples]`, there is no example, or
        labels are not whole numbers.

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
    # The correction would turn equal counts into a difference of 1.
    if total < 25 or ahead == 0:
        p_value = stats.binomtest(only_first, total).pvalue if total else 1.0
    else:
        p_value = stats.chi2.sf((ahead - 1) ** 2 / total, 1)
    return McNemar(only_first, only_second, float(p_value))


def _check_labels(**labels: np.ndarray) -> None:
    """Checks that labels are whole numbers, booleans or whole floats."""
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
                f"return_inverse=True) converts names to numbers, argmax "
                f"probabilities to classes.)"
            )


def holm(p_values: npt.ArrayLike) -> np.ndarray:
    """Adjusts the p values of several tests by Holm's method.

    Rejecting hypotheses with an adjusted p value of at most alpha keeps the probability
    of any false rejection at alpha or below, whatever the dependence of the tests.

    Args:
      p_values: One p value for each test, in an array of any shape.

    Returns:
      The adjusted p values, of the same shape and in the same order.

    Raises:
      ValueError: A p value is not a number from 0 to 1.

    References:
      Holm, 1979, A simple sequentially rejective multiple test procedure.
    """
    values = _check_p_values(p_values)
    flat = values.ravel()
    order = np.argsort(flat)
    stepped = np.arange(flat.size, 0, -1) * flat[order]
    adjusted = np.empty_like(flat)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepped), 1)
    return adjusted.reshape(values.shape)


def bonferroni(p_values: npt.ArrayLike) -> np.ndarray:
    """Adjusts the p values of several tests by Bonferroni's method.

    Each is multiplied by their number. `holm` is never less powerful.

    Args:
      p_values: One p value for each test, in an array of any shape.

    Returns:
      The adjusted p values, of the same shape and in the same order.

    Raises:
      ValueError: A p value is not a number from 0 to 1.
    """
    values = _check_p_values(p_values)
    return np.minimum(values.size * values, 1)


def false_discovery_rate(p_values: npt.ArrayLike) -> np.ndarray:
    """Adjusts the p values of several tests by Benjamini and Hochberg's method.

    Of the hypotheses that are rejected with an adjusted p value of at most alpha, no
    more than a share of alpha is expected to be true, for independent tests.

    Args:
      p_values: One p value for each test, in an array of any shape.

    Returns:
      The adjusted p values, of the same shape and in the same order.

    Raises:
      ValueError: A p value is not a number from 0 to 1.

    References:
      Benjamini & Hochberg, 1995, Controlling the false discovery rate: a practical and
      powerful approach to multiple testing.
    """
    from scipy import stats

    values = _check_p_values(p_values)
    return stats.false_discovery_control(values.ravel()).reshape(values.shape)


def _check_p_values(values: npt.ArrayLike) -> np.ndarray:
    """Checks that p values are numbers from 0 to 1 and returns them as float64."""
    values = _real("p values", values)
    if not np.all((values >= 0) & (values <= 1)):
        raise ValueError(f"p values must be between 0 and 1: got {values}")
    return values


def paired_difference(
    first: npt.ArrayLike, second: npt.ArrayLike, confidence: float = 0.95
) -> Difference:
    """Computes the mean difference of two methods over seeds and its t interval.

    Args:
      first: Results of the first method, one for each seed, `[seeds]`.
      second: Results of the second method `[seeds]`, for the same seeds in the same
        order.
      confidence: Confidence level of the interval.

    Returns:
      The mean of first - second, the two ends of its confidence interval, and the
      two-sided p value of Student's paired t test. With one seed, interval and p value
      are NaN. If all seeds differ by the same amount, up to rounding, the interval has
      zero width, and the p value is 1 if the amount is 0 and 0 otherwise.

    Raises:
      ValueError: The shapes differ or are not `[seeds]`, there is no seed, a result is
        infinite, or the confidence is not between 0 and 1.

    References:
      Student, 1908, The probable error of a mean.
    """
    from scipy import stats

    first, second = _real("results", first), _real("results", second)
    _check_paired("paired_difference", first, second)
    _checks.check_confidence(confidence)
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
      values: Results, one for each seed, `[seeds]`.

    Returns:
      The mean, the standard deviation with n - 1 (NaN for one value), and n.

    Raises:
      ValueError: There is no value, or the shape is not `[seeds]`.
    """
    values = _real("results", values)
    _check_paired("spread", values)
    std = float(values.std(ddof=1)) if values.size > 1 else np.nan
    return Spread(float(values.mean()), std, values.size)


def _is_constant(values: np.ndarray) -> bool:
    """Returns whether values are equal up to rounding, with the limit of SciPy."""
    mean = values.mean()
    return bool(np.linalg.norm(values - mean) <= 1e-13 * abs(mean))


def rdm_agreement(first: npt.ArrayLike, second: npt.ArrayLike) -> Agreement:
    """Correlates two representational distance matrices over their pairs of stimuli.

    Args:
      first: Condensed RDM, the distances of the `n (n - 1) / 2` pairs, `[pairs]`. Pairs
        with NaN in either RDM, not measured, are left out.
      second: Condensed RDM of the same stimuli, `[pairs]`.

    Returns:
      Pearson's and Spearman's correlation; NaN if an RDM is constant, or fewer than two
      pairs are left.

    Raises:
      ValueError: The lengths differ or are not `n (n - 1) / 2` for any n.

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
    """Estimates by the bootstrap how the discrepancy of two RDMs varies with stimuli.

    Stimuli are drawn with replacement. The weight of a pair is the product of the
    numbers of times that its two stimuli were drawn; pairs of a stimulus with its
    copies are left out. For MSE, cosine and Pearson, all draws are computed together in
    a few matrix products of counts with RDMs, except draws in which an RDM varies much
    less than over all pairs: these are computed one by one.

    Args:
      first: Condensed RDM `[pairs]`.
      second: Condensed RDM of the same stimuli, `[pairs]`.
      comparison: One of `rdm.comparisons` that is not whitened.
      draws: Number of bootstrap draws.
      confidence: Confidence level of the percentile interval.
      seed: Seed of the draws.

    Returns:
      The discrepancy of the two (for Pearson one minus the correlation), the interval,
      the standard deviation over draws, and the draws `[draws]`. Draws with fewer than
      three different stimuli are drawn again.

    Raises:
      ValueError: The lengths differ or are of fewer than three stimuli, a distance is
        not finite, there are fewer than two draws, or the confidence is not between 0
        and 1.

    References:
      Efron & Tibshirani, An Introduction to the Bootstrap, 1993. Nili, Wingfield,
      Walther, Su, Marslen-Wilson & Kriegeskorte, A toolbox for representational
      similarity analysis, PLoS Computational Biology 10, 2014.
    """
    first, second = np.asarray(first), np.asarray(second)
    for x in (first, second):
        _checks.check_real("distances", x.dtype)
    _check_paired("bootstrap", first, second)
    _checks.check_confidence(confidence)
    draws = _checks.as_count("number of draws", draws, at_least=2)
    n = rdm.stimuli(first.size)
    if n < 3:
        raise ValueError(
            f"bootstrap takes RDMs of three stimuli or more: got {n} stimuli"
        )
    validate.distances(first, name="first RDM")
    validate.distances(second, name="second RDM")
    random = np.random.default_rng(seed)
    counts = _resampling.draw_counts(random, n, draws, fewest=3)
    dtype = np.result_type(first, second, np.float32)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if getattr(comparison, "own_scales", False):
        first, second = map(_geometry.of_unit_size, (first, second))
    first, second = (jnp.asarray(x, dtype) for x in (first, second))
    # The first row has every stimulus once: it gives the discrepancy itself.
    counts = np.concatenate([np.ones((1, n), counts.dtype), counts])
    values, sure = np.zeros(len(counts)), np.zeros(len(counts), bool)
    if rdm.forms.computable_from_means(comparison):
        found = _bootstrap_values(first, second, jnp.asarray(counts, dtype), comparison)
        values, sure = np.array(found[0], np.float64), np.asarray(found[1])
    rows, columns = np.triu_indices(n, 1)
    for draw in np.flatnonzero(~sure):
        copies = counts[draw][rows] * counts[draw][columns]
        if isinstance(comparison, rdm.comparisons.OfRanks):
            # Not by JAX, which would compile for each number of copies.
            drawn = (np.repeat(np.asarray(x), copies) for x in (first, second))
            values[draw] = comparison.on_host(*drawn)
        else:
            weights = jnp.asarray(copies, dtype)
            values[draw] = _compare_weighted(comparison, first, second, weights)
    value, values = values[0], values[1:]
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    error = float(values.std(ddof=1))
    return Bootstrap(float(value), float(low), float(high), error, values)


@jax.jit
def _compare_weighted(comparison, first, second, weights):
    return comparison(first, second, weights)


@jax.jit
def _bootstrap_values(first, second, counts, comparison):
    """Computes the discrepancy of each draw: `w' F w` for each matrix of terms F.

    Also returns whether it is accurate: the terms are relative to the mean over all
    pairs, and cancel if the variance of a draw about its own mean is much smaller.
    """
    if comparison.own_scales:
        first, second = (_of_unit_norm(x) for x in (first, second))
    centres = jnp.mean(first), jnp.mean(second)
    square = [rdm.square(x) for x in (first, second)]
    off_diagonal = ~jnp.eye(counts.shape[1], dtype=bool)
    pairs = jnp.sum(counts, axis=1) ** 2 - jnp.sum(counts**2, axis=1)

    def mean(term):
        rows = jnp.matmul(
            counts, jnp.where(off_diagonal, term, 0), precision=lax.Precision.HIGHEST
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
    """Estimates the noise ceiling: the similarity of a perfect model to noisy RDMs.

    The true RDM is estimated by the mean of the subjects' RDMs, standardised for the
    comparison (z scores, unit length or ranks). The lower bound is the mean similarity
    of each subject with the mean of the others, the upper bound that with the mean of
    all.

    Args:
      rdms: Condensed RDMs of two or more subjects, `[subjects, pairs]`.
      comparison: One of `rdm.comparisons` that is one minus a similarity (not `MSE`).

    Returns:
      The lower and the upper bound of the similarity (1 minus the discrepancy).

    Raises:
      ValueError: There are fewer than two subjects, the length is not `n (n - 1) / 2`
        for any n, a distance is not finite, or the comparison has no similarity.

    References:
      Nili, Wingfield, Walther, Su, Marslen-Wilson & Kriegeskorte, A toolbox for
      representational similarity analysis, PLoS Computational Biology 10, 2014.
    """
    rdms = _real("distances", rdms)
    if rdms.ndim != 2 or len(rdms) < 2:
        raise ValueError(
            f"noise_ceiling takes RDMs [subjects, pairs] of two subjects or more: got "
            f"{rdms.shape}"
        )
    validate.distances(rdms, name="RDMs of the subjects")
    rdm.stimuli(rdms.shape[1])
    if isinstance(comparison, rdm.comparisons.MSE):
        raise ValueError("noise_ceiling takes a comparison with a similarity: got MSE")
    scaled = map(_geometry.of_unit_size, rdms)
    standard = np.stack([comparison.standardise(one) for one in scaled])
    total = standard.sum(axis=0)

    def similarity(own, best):
        if isinstance(comparison, rdm.comparisons.OfRanks):
            return 1 - comparison.on_host(own, best)
        return 1 - float(rdm.compare(own, best, comparison=comparison))

    others = [similarity(own, total - own) for own in standard]
    best = [similarity(own, total) for own in standard]
    return Ceiling(float(np.mean(others)), float(np.mean(best)))
