"""`rdljax.statistics` against tables worked by hand, closed forms and slow forms."""

import itertools
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.spatial import distance

from rdljax import _resampling, rdm, statistics
from rdljax.rdm import comparisons


def answers(both: int, only_first: int, only_second: int, neither: int):
    """Labels and two classifiers' predictions with the given 2 x 2 table, shuffled."""
    counts = [both, only_first, only_second, neither]
    order = np.random.default_rng(0).permutation(sum(counts))
    truth = np.arange(sum(counts)) % 10
    wrong_first = np.repeat([0, 0, 1, 1], counts)
    wrong_second = np.repeat([0, 1, 0, 1], counts)
    predictions = (truth, (truth + wrong_first) % 10, (truth + wrong_second) % 10)
    return tuple(labels[order] for labels in predictions)


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        # Twice a fair coin's tail: 2 (1 + 10) / 2^10, 2 / 2^5, 2 (1 + 6 + 15) / 2^6.
        (9, 1, 22 / 1024),
        (0, 5, 2 / 32),
        (4, 2, 44 / 64),
        (3, 3, 1.0),
        (1, 0, 1.0),
        (0, 0, 1.0),
        # Agresti, Categorical Data Analysis, table of approval ratings: 150 and 86 of
        # 1600 changed their minds. chi2 = (|150 - 86| - 1)^2 / 236 = 16.818; one degree
        # of freedom has the tail erfc(sqrt(chi2 / 2)).
        (150, 86, math.erfc(math.sqrt(63**2 / 236 / 2))),
        (16, 9, math.erfc(math.sqrt(6**2 / 25 / 2))),
        (30, 30, 1.0),
        (31, 30, 1.0),
    ],
)
def test_mcnemar_of_tables_worked_by_hand(only_first, only_second, p_value):
    result = statistics.mcnemar(*answers(40, only_first, only_second, 7))
    assert result[:2] == (only_first, only_second)
    assert result.p_value == pytest.approx(p_value, rel=1e-12)
    truth, first, second = answers(40, only_first, only_second, 7)
    assert statistics.mcnemar(truth, second, first) == (
        only_second,
        only_first,
        result.p_value,
    )


@pytest.mark.parametrize("discordant", [1, 2, 7, 23, 24, 25, 26, 100])
def test_mcnemar_changes_from_binomial_to_chi_squared_at_25(discordant):
    for only_first in range(0, discordant + 1, max(1, discordant // 7)):
        only_second = discordant - only_first
        p_value = statistics.mcnemar(*answers(3, only_first, only_second, 2)).p_value
        if discordant < 25:
            expected = stats.binomtest(only_first, discordant).pvalue
        else:
            ahead = max(abs(only_first - only_second) - 1, 0)
            expected = stats.chi2.sf(ahead**2 / discordant, 1)
        assert p_value == pytest.approx(expected, rel=1e-9)
        assert 0 <= p_value <= 1


def test_mcnemar_takes_lists_and_jax_arrays():
    truth, first, second = answers(5, 4, 2, 1)
    expected = statistics.mcnemar(truth, first, second)
    assert statistics.mcnemar(truth.tolist(), jnp.asarray(first), second) == expected


@pytest.mark.parametrize(
    "bad",
    [
        [0.0, 1.0, np.nan, 2.0],
        [0.0, 1.0, np.inf, 2.0],
        [0.2, 0.9, 0.5, 1.0],
        ["cat", "dog", "cat", "fox"],
        [0, 1, 1j, 2],
        [0, None, 1, 2],
    ],
)
def test_mcnemar_takes_labels_alone(bad):
    labels = np.array([0, 1, 1, 2])
    for given in itertools.permutations([bad, labels, labels]):
        with pytest.raises(ValueError, match="mcnemar takes labels, whole numbers"):
            statistics.mcnemar(*given)
    assert statistics.mcnemar(labels, 1.0 * labels, labels == 1).only_first == 1


@pytest.mark.parametrize("shape", [(4,), (0,), (5, 1), ()])
def test_mcnemar_names_the_shapes(shape):
    labels = np.zeros(5, int)
    if shape == (0,):
        labels = np.zeros(0, int)
    with pytest.raises(ValueError, match=rf"mcnemar.*{str(shape)[1:-1]}"):
        statistics.mcnemar(labels, labels, np.zeros(shape, int))


def closed_testing(p_values: np.ndarray) -> np.ndarray:
    """Holm by what it abbreviates: Bonferroni's test of every set that holds i."""
    m = len(p_values)
    sets = [s for n in range(m) for s in itertools.combinations(range(m), n + 1)]
    bonferroni = {s: min(1, len(s) * min(p_values[i] for i in s)) for s in sets}
    return np.array([max(bonferroni[s] for s in sets if i in s) for i in range(m)])


def test_holm_by_hand():
    # Sorted 0.005, 0.01, 0.03, 0.04, times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04; the last
    # may not lie below the one before it.
    adjusted = statistics.holm([0.01, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02], rtol=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_closed_testing_with_bonferroni(seed):
    p_values = np.random.default_rng(seed).uniform(0, 0.4, 7).round(2)
    adjusted = statistics.holm(p_values)
    np.testing.assert_allclose(adjusted, closed_testing(p_values), rtol=1e-14)


def test_bonferroni_and_false_discovery_rate_by_hand():
    p_values = np.array([[0.01, 0.04], [0.03, 0.005]])
    found = statistics.bonferroni(p_values)
    np.testing.assert_allclose(found, [[0.04, 0.16], [0.12, 0.02]])
    np.testing.assert_array_equal(statistics.bonferroni([0.5, 0.9]), [1, 1])
    # Sorted: 0.005 * 4 / 1, 0.01 * 4 / 2, 0.03 * 4 / 3, 0.04 * 4 / 4, then minima.
    found = statistics.false_discovery_rate(p_values)
    np.testing.assert_allclose(found, [[0.02, 0.04], [0.04, 0.02]])
    for adjust in (statistics.bonferroni, statistics.false_discovery_rate):
        with pytest.raises(ValueError, match="between 0 and 1"):
            adjust([0.5, 1.5])


def test_holm_keeps_shape_and_order():
    p_values = np.random.default_rng(0).uniform(0, 0.1, 6)
    adjusted = statistics.holm(p_values.reshape(2, 3))
    np.testing.assert_array_equal(adjusted, statistics.holm(p_values).reshape(2, 3))
    assert statistics.holm(0.3) == 0.3
    assert statistics.holm([]).shape == (0,)
    np.testing.assert_array_equal(statistics.holm([1, 0.9, 0]), [1, 1, 0])


@pytest.mark.parametrize("bad", [-0.01, 1.01, np.nan, np.inf])
def test_holm_refuses_what_is_no_probability(bad):
    with pytest.raises(ValueError, match="between 0 and 1"):
        statistics.holm([0.5, bad])


def test_paired_difference_by_hand():
    # Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), two degrees of freedom,
    # for which Student's quantile of u is (2u - 1) / sqrt(2u (1 - u)) and the two-sided
    # p value of t is 1 - t / sqrt(2 + t^2).
    result = statistics.paired_difference([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    half = 0.95 / math.sqrt(2 * 0.975 * 0.025) / math.sqrt(3)
    t = 2 * math.sqrt(3)
    expected = (2, 2 - half, 2 + half, 1 - t / math.sqrt(2 + t**2))
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_paired_difference_of_two_seeds_and_another_confidence():
    # Differences -1, -3: mean -2, standard error 1, one degree of freedom: Cauchy.
    result = statistics.paired_difference([0.0, 0.0], [1.0, 3.0], confidence=0.5)
    expected = (-2, -2 - math.tan(math.pi / 4), -2 + 1, 1 - 2 / math.pi * math.atan(2))
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_paired_difference_is_paired():
    noise = np.array([0.5, -3.0, 2.0, 0.1])
    gain = np.array([1.0, 1.1, 0.9, 1.05])
    assert statistics.paired_difference(noise + gain, noise).p_value < 1e-3
    assert statistics.paired_difference(noise + gain, noise[::-1]).p_value > 0.1


def test_the_interval_excludes_zero_exactly_when_the_test_rejects():
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(40):
        first, second = rng.normal(0.6, 1, 5), rng.normal(0, 0.5, 5)
        result = statistics.paired_difference(first, second, confidence=0.9)
        rejects = result.p_value < 0.1
        assert rejects == (result.low > 0 or result.high < 0)
        found.add(rejects)
    assert found == {True, False}


def test_one_seed_has_a_difference_and_no_interval():
    mean, *rest = statistics.paired_difference([0.75], [0.5])
    assert mean == 0.25
    assert np.isnan(rest).all()


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([3.0, 4.0, 5.0], [1.0, 2.0, 3.0], (2, 2, 2, 0)),
        ([0.5, 0.25], [0.5, 0.25], (0, 0, 0, 1)),
        ([0.0, 0.0], [0.0, 0.0], (0, 0, 0, 1)),
        # 0.1 and 0.30000000000000004 - 0.2 differ in the last digit, and by rounding.
        ([0.1, 0.1 + 0.2], [0.0, 0.2], (0.1, 0.1, 0.1, 0)),
        ([0.3, 0.3], [0.1 + 0.2, 0.3], (0, 0, 0, 1)),
        ([100.1, 50.1, 10.1], [100.0, 50.0, 10.0], (0.1, 0.1, 0.1, 0)),
    ],
)
def test_equal_differences_have_an_interval_without_width(first, second, expected):
    result = statistics.paired_difference(first, second)
    np.testing.assert_allclose(result, expected, rtol=1e-12, atol=1e-15)
    assert result.low == result.mean == result.high


def test_differences_that_are_barely_unequal_raise_no_warning():
    for exponent in range(-17, -9):
        first = 1 + 10.0**exponent * np.array([0.0, 1.0, 2.0, 5.0])
        result = statistics.paired_difference(first, np.zeros(4))
        assert result.low <= result.mean <= result.high


def test_paired_difference_takes_finite_results_and_a_probability():
    for given in (([0.1, np.inf], [0.2, 0.3]), ([0.1, 0.2], [-np.inf, 0.3])):
        with pytest.raises(ValueError, match="finite results.*inf"):
            statistics.paired_difference(*given)
    for confidence in (0.0, 1.0, 95, np.nan):
        with pytest.raises(ValueError, match="confidence"):
            statistics.paired_difference([0.1, 0.4], [0.2, 0.3], confidence)
        with pytest.raises(ValueError, match="confidence"):
            statistics.bootstrap(np.arange(6.0), np.ones(6), confidence=confidence)


@pytest.mark.parametrize(("first", "second"), [(3, 2), (0, 0)])
def test_paired_difference_names_the_shapes(first, second):
    with pytest.raises(ValueError, match=rf"\({first},\), \({second},\)"):
        statistics.paired_difference(np.zeros(first), np.zeros(second))


def test_spread_by_hand():
    # Squared deviations from 5: 9 + 1 + 1 + 1 + 0 + 0 + 4 + 16 = 32, over 7.
    result = statistics.spread([2, 4, 4, 4, 5, 5, 7, 9])
    assert result.mean == 5
    assert result.std == pytest.approx(math.sqrt(32 / 7), rel=1e-15)
    assert result.count == 8


def test_spread_of_one_value_and_of_none():
    mean, std, count = statistics.spread([0.5])
    assert (mean, count) == (0.5, 1)
    assert math.isnan(std)
    with pytest.raises(ValueError, match=r"spread.*\(0,\)"):
        statistics.spread([])


def correlation(x: list[float], y: list[float]) -> float:
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    moment = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    scale = sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y)
    return moment / math.sqrt(scale)


def ranks(x: list[float]) -> list[float]:
    """Each value's rank; equal values share the mean of theirs."""
    return [sum(b < a for b in x) + (1 + sum(b == a for b in x)) / 2 for a in x]


@pytest.mark.parametrize("stimuli", [3, 4, 9])
def test_rdm_agreement_is_the_correlation_of_distances_and_of_ranks(stimuli):
    rng = np.random.default_rng(stimuli)
    pairs = stimuli * (stimuli - 1) // 2
    first = rng.gamma(2, 1, pairs).round(1)
    second = (first + rng.gamma(2, 1, pairs)).round(1)
    expected = (correlation(first, second), correlation(ranks(first), ranks(second)))
    result = statistics.rdm_agreement(first, second)
    np.testing.assert_allclose(result, expected, rtol=1e-12)
    np.testing.assert_allclose(statistics.rdm_agreement(first, -first), (-1, -1))


def test_agreement_has_no_units():
    rdms = np.random.default_rng(4).gamma(2.0, size=(2, 10))
    rdms[0, 3] = np.nan
    expected = statistics.rdm_agreement(*rdms)
    for unit in (1e-300, 1e300):
        found = statistics.rdm_agreement(unit * rdms[0], rdms[1])
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize(
    "call",
    [
        statistics.paired_difference,
        statistics.rdm_agreement,
        statistics.bootstrap,
        lambda x, _: statistics.noise_ceiling([x, x]),
        lambda x, _: statistics.spread(x),
    ],
)
def test_complex_numbers_are_refused(call):
    with pytest.raises(ValueError, match="real numbers, got complex128"):
        call(np.arange(10.0) * 1j, np.arange(10.0))


def test_pairs_that_were_not_measured_are_left_out_on_both_sides():
    rng = np.random.default_rng(0)
    first, second = rng.gamma(2, 1, (2, 15))
    left = [i for i in range(15) if i not in (0, 3, 7)]
    expected = (
        correlation(first[left], second[left]),
        correlation(ranks(first[left]), ranks(second[left])),
    )
    first[[0, 3]] = np.nan
    second[[3, 7]] = np.nan
    result = statistics.rdm_agreement(first, second)
    np.testing.assert_allclose(result, expected, rtol=1e-12)


@pytest.mark.parametrize(
    "constant",
    [
        np.zeros(6),
        np.full(6, 0.1),
        np.full(6, 2.0) + 4e-16 * np.arange(6),
        np.full(6, np.nan),
        np.array([1.0, np.nan, np.nan, np.nan, np.nan, np.nan]),
    ],
)
def test_an_rdm_without_geometry_agrees_with_none(constant):
    other = np.arange(6.0)
    assert np.isnan(statistics.rdm_agreement(constant, other)).all()
    assert np.isnan(statistics.rdm_agreement(other, constant)).all()


def test_two_stimuli_have_no_geometry():
    assert np.isnan(statistics.rdm_agreement([1.0], [2.0])).all()


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ((6,), (10,), r"\(6,\), \(10,\)"),
        ((3, 3), (3, 3), r"\(3, 3\), \(3, 3\)"),
        ((0,), (0,), r"\(0,\), \(0,\)"),
        ((5,), (5,), "condensed distance matrix"),
    ],
)
def test_what_is_no_pair_of_rdms_is_refused(first, second, message):
    with pytest.raises(ValueError, match=message):
        statistics.rdm_agreement(np.ones(first), np.ones(second))


def test_mcnemar_without_mlxtend(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    assert statistics.mcnemar(*answers(3, 9, 1, 2))[:2] == (9, 1)


def test_the_module_imports_without_scipy_and_mlxtend():
    program = (
        "import sys; sys.modules.update(scipy=None, mlxtend=None)\n"
        "from rdljax import statistics; print(statistics.holm([0.02, 0.01]))"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "[0.02 0.02]\n"


compute, compare = jax.jit(rdm.compute), jax.jit(rdm.compare)


def signs(x):
    return np.sign(x[:, None] - x[None, :])


def gradual(x):
    return np.tanh((x[:, None] - x[None, :]) / (0.1 * x.std()))


def cosine(x, y):
    return 1 - np.sum(x * y) / np.sqrt(np.sum(x * x) * np.sum(y * y))


def by_norm(x, y):
    return x - y * np.sqrt(np.sum(x * x) / np.sum(y * y))


# Comparisons, and what they are of the distances of the stimuli drawn.
RESAMPLED = {
    "Pearson": (comparisons.Pearson(), lambda x, y: 1 - np.corrcoef(x, y)[0, 1]),
    "Cosine": (comparisons.Cosine(), cosine),
    "MSE": (comparisons.MSE(), lambda x, y: np.mean((x - y) ** 2)),
    "MSE by norm": (
        comparisons.MSE(comparisons.by_norm),
        lambda x, y: np.mean(by_norm(x, y) ** 2),
    ),
    "Spearman": (
        comparisons.Spearman(),
        lambda x, y: 1 - stats.spearmanr(x, y).statistic,
    ),
    "KendallTauA": (
        comparisons.KendallTauA(),
        lambda x, y: 1 - np.sum(signs(x) * signs(y)) / (x.size * (x.size - 1)),
    ),
    "SoftKendall": (
        comparisons.SoftKendall(),
        lambda x, y: cosine(gradual(x), gradual(y)),
    ),
}


class TestBootstrap:
    def rdms(self, n=12):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(n, 5))
        near = x + 0.7 * rng.normal(size=(n, 5))
        return (np.asarray(compute(a)) for a in (x, near))

    @pytest.mark.parametrize("name", RESAMPLED)
    def test_equals_resampling_the_stimuli(self, float64, name):
        comparison, slow = RESAMPLED[name]
        n = 12
        x, y = (a.astype(np.float64) for a in self.rdms(n))
        found = statistics.bootstrap(x, y, comparison=comparison, draws=40, seed=3)
        counts = _resampling.draw_counts(np.random.default_rng(3), n, 40, fewest=3)
        for value, count in zip(found.draws, counts, strict=True):
            drawn = np.repeat(np.arange(n), count)
            i, j = (drawn[k] for k in np.triu_indices(n, 1))
            # The pairs of a stimulus with its copies are left out.
            i, j = i[i != j], j[i != j]
            copies = [distance.squareform(a)[i, j] for a in (x, y)]
            np.testing.assert_allclose(value, slow(*copies), rtol=1e-8)

    def test_interval_and_error(self):
        x, y = self.rdms()
        found = statistics.bootstrap(x, y, draws=500)
        assert found.value == pytest.approx(1 - np.corrcoef(x, y)[0, 1], rel=1e-6)
        assert found.low < found.value < found.high
        np.testing.assert_allclose(
            [found.low, found.high], np.percentile(found.draws, [2.5, 97.5])
        )
        assert found.standard_error == pytest.approx(found.draws.std(ddof=1))
        again = statistics.bootstrap(x, y, draws=500)
        np.testing.assert_array_equal(again.draws, found.draws)
        narrow = statistics.bootstrap(x, y, draws=500, confidence=0.5)
        assert narrow.high - narrow.low < found.high - found.low

    def test_rdms_of_any_sign_and_of_nothing(self, float64):
        x, y = (a.astype(np.float64) for a in self.rdms())
        for first in (-x, x - x.mean(), 0 * x, 0 * x + 3):
            for comparison in (comparisons.Pearson(), comparisons.Cosine()):
                found = statistics.bootstrap(first, y, comparison=comparison, draws=20)
                expected = compare(first, y, comparison=comparison)
                np.testing.assert_allclose(found.value, expected, atol=1e-12)
                assert np.isfinite(found.draws).all()

    def test_of_few_stimuli(self):
        found = statistics.bootstrap([1.0, 2.0, 4.0], [1.0, 3.0, 4.0], draws=50)
        assert np.isfinite(found.draws).all()

    def test_covers_the_true_value(self):
        # Of many samples of stimuli, about 95 % of the intervals hold the value of all.
        rng = np.random.default_rng(0)
        x = rng.normal(size=(2000, 4)).astype(np.float32)
        y = (x + 0.5 * rng.normal(size=x.shape)).astype(np.float32)
        true = float(jax.jit(rdm.discrepancy)(x, y))
        hits = 0
        samples = rng.permutation(2000).reshape(50, 40)
        rdms = [np.asarray(jax.jit(jax.vmap(rdm.compute))(a[samples])) for a in (x, y)]
        for both in zip(*rdms, strict=True):
            found = statistics.bootstrap(*both, draws=200)
            hits += found.low <= true <= found.high
        assert hits >= 42

    def test_wrong_calls(self):
        with pytest.raises(ValueError, match="3 distances|vectors of the same length"):
            statistics.bootstrap(np.ones(6), np.ones(10))
        with pytest.raises(ValueError, match="no condensed RDM has 5"):
            statistics.bootstrap(np.ones(5), np.ones(5))
        with pytest.raises(ValueError, match="2 stimuli"):
            statistics.bootstrap(np.ones(1), np.ones(1))
        with pytest.raises(ValueError, match="takes no weights"):
            statistics.bootstrap(
                np.arange(6.0), np.arange(6.0), comparison=comparisons.WhitenedCosine()
            )
        with pytest.raises(ValueError, match="NaN"):
            statistics.bootstrap([1.0, np.nan, 2.0], np.ones(3))

    def test_draws_without_variance(self, optimized):
        """In which one RDM is constant, or nearly, and others vary a thousandfold."""
        n, draws = 6, 200
        rows, columns = np.triu_indices(n, 1)
        counts = _resampling.draw_counts(np.random.default_rng(0), n, draws, fewest=3)
        y = np.random.default_rng(1).gamma(2.0, size=15)
        constant = np.where((rows == 2) & (columns > 3), 40.0, 0.1)
        nearly = constant + 1e-3 * np.random.default_rng(2).normal(size=15)
        for x, has_constant in ((constant, True), (nearly, False)):
            x = x.astype(np.float32)
            found = statistics.bootstrap(x, y.astype(np.float32), draws=draws).draws
            varies = []
            for value, count in zip(found, counts, strict=True):
                w = count[rows] * count[columns] / np.sum(count[rows] * count[columns])
                a, b = x - np.sum(w * x.astype(float)), y - np.sum(w * y)
                varies.append(np.ptp(x[w > 0]) > 0)
                expected = np.sum(w * a * b) / np.sqrt(
                    np.sum(w * a * a) * np.sum(w * b * b) if varies[-1] else np.inf
                )
                np.testing.assert_allclose(value, 1 - expected, atol=2e-3)
            assert all(varies) != has_constant

    def test_any_units(self):
        x, y = self.rdms()
        expected = statistics.bootstrap(x, y, draws=20)
        for first, second in ((3e-27, 2e-33), (1e-70, 1e90)):
            found = statistics.bootstrap(
                np.float64(first) * x.astype(np.float64),
                np.float64(second) * y.astype(np.float64),
                draws=20,
            )
            np.testing.assert_allclose(found.draws, expected.draws, rtol=1e-4)
            np.testing.assert_allclose(found.value, expected.value, rtol=1e-4)


class TestNoiseCeiling:
    def test_any_units(self):
        rdms = np.random.default_rng(0).gamma(2.0, size=(3, 10))
        expected = statistics.noise_ceiling(rdms)
        for unit in (1e-70, 1e-300, 1e300):
            found = statistics.noise_ceiling(unit * rdms)
            np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_equal_subjects_leave_no_room(self):
        rdms = np.tile(np.arange(10.0), (3, 1))
        for comparison in (comparisons.Pearson(), comparisons.Spearman()):
            found = statistics.noise_ceiling(rdms, comparison=comparison)
            np.testing.assert_allclose(found, 1, atol=1e-6)

    def test_by_hand(self):
        rdms = np.random.default_rng(0).gamma(2.0, size=(3, 10))
        scores = stats.zscore(rdms, axis=1)
        others = [
            stats.pearsonr(rdms[i], np.delete(scores, i, axis=0).sum(axis=0)).statistic
            for i in range(3)
        ]
        best = [stats.pearsonr(one, scores.sum(axis=0)).statistic for one in rdms]
        found = statistics.noise_ceiling(rdms)
        np.testing.assert_allclose(found, [np.mean(others), np.mean(best)], atol=1e-6)

    def test_wrong_calls(self):
        with pytest.raises(ValueError, match="two subjects"):
            statistics.noise_ceiling(np.ones((1, 10)))
        with pytest.raises(ValueError, match="no condensed RDM has 11"):
            statistics.noise_ceiling(np.ones((2, 11)))
        with pytest.raises(ValueError, match="similarity"):
            statistics.noise_ceiling(np.ones((2, 10)), comparison=comparisons.MSE())
