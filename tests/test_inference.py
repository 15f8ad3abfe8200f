"""Comparisons of models: rsatoolbox on the same draws, slow forms, and simulations."""

import dataclasses
import itertools
import json
import warnings

import numpy as np
import pytest
from scipy import optimize, stats
from scipy.spatial import distance

from rdljax import inference, rdm, statistics
from rdljax.inference import _evaluate, _products
from rdljax.rdm import comparisons

METHODS = {
    "cosine": comparisons.Cosine(),
    "corr": comparisons.Pearson(),
    "cosine_cov": comparisons.WhitenedCosine(),
    "corr_cov": comparisons.WhitenedPearson(),
}
STIMULI, SUBJECTS = 9, 4
PAIRS = STIMULI * (STIMULI - 1) // 2


def points(stimuli=STIMULI, seed=0):
    return np.random.default_rng(seed).normal(size=(stimuli, 20))


def measured(stimuli=STIMULI, subjects=SUBJECTS, noise=0.7, seed=0):
    """RDMs of subjects, noisy versions of `points`."""
    random, x = np.random.default_rng(seed + 1), points(stimuli, seed)
    noisy = [x + noise * random.normal(size=x.shape) for _ in range(subjects)]
    return np.array([distance.pdist(one, "sqeuclidean") for one in noisy])


def models(stimuli=STIMULI, seed=0):
    """The truth, half of the truth and something else."""
    x = points(stimuli, seed)
    other = np.random.default_rng(seed + 2).normal(size=(stimuli, 5))
    half = np.hstack([x[:, :4], 0.8 * other])
    return {
        name: distance.pdist(y, "sqeuclidean")
        for name, y in {"truth": x, "half": half, "other": other}.items()
    }


def layers(seed=0):
    """Three RDMs whose sum is the truth, and a fourth."""
    x = points(seed=seed)
    other = np.random.default_rng(seed + 5).normal(size=(STIMULI, 3))
    parts = [*np.split(x, [5, 12], axis=1), other]
    return np.array([distance.pdist(part, "sqeuclidean") for part in parts])


def draws_of(count, stimuli=STIMULI, subjects=SUBJECTS, seed=3):
    """Indices that were drawn, with three different stimuli or more."""
    random = np.random.default_rng(seed)
    chosen = random.integers(stimuli, size=(1000, stimuli))
    enough = [len(set(one)) > 2 for one in chosen.tolist()]
    return chosen[enough][:count], random.integers(subjects, size=(count, subjects))


def counts_of(indices, size):
    return np.array([np.bincount(one, minlength=size) for one in indices])


def expanded(rdms, indices):
    """Square RDMs of what was drawn, NaN for a stimulus and its copy."""
    square = np.array([distance.squareform(x, checks=False) for x in rdms])
    square[:, np.arange(square.shape[1]), np.arange(square.shape[1])] = np.nan
    drawn = square[:, indices][:, :, indices]
    return drawn[:, *np.triu_indices(len(indices), 1)]


def slow_covariance(stimuli):
    """The covariance of distances with independent noise, from contrasts."""
    pairs = list(itertools.combinations(range(stimuli), 2))
    contrasts = np.zeros((len(pairs), stimuli))
    for row, (one, other) in enumerate(pairs):
        contrasts[row, [one, other]] = 1, -1
    return (contrasts @ contrasts.T) ** 2


class TestRsatoolbox:
    """The same draws, handed to both."""

    def both(self, monkeypatch, method, data, count=12):
        """Returns rsatoolbox's result, and our values on its draws."""
        from rsatoolbox import inference as others
        from rsatoolbox import model
        from rsatoolbox import rdm as rsa
        from rsatoolbox.inference import evaluate

        stimuli, subjects = draws_of(count)
        rows = iter(zip(stimuli, subjects, strict=True))

        def sample(rdms, **_):
            own, who = next(rows)
            chosen = rdms.subsample("index", who).subsample_pattern("index", own)
            return chosen, who, own

        monkeypatch.setattr(evaluate, "bootstrap_sample", sample)
        monkeypatch.setattr(evaluate.tqdm, "trange", range)
        given = [model.ModelFixed(name, x) for name, x in models().items()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = others.eval_dual_bootstrap(
                given, rsa.RDMs(data), method=method, N=count
            )
        problem = inference._make_problem(models(), data, METHODS[method])
        counts, copies = counts_of(stimuli, STIMULI), counts_of(subjects, SUBJECTS)
        once = np.ones((1, STIMULI))
        ways = np.stack([copies, np.ones_like(copies)])
        two, of_stimuli = _evaluate.evaluate(problem, counts, ways)[:, :, 0]
        of_subjects = _evaluate.evaluate(problem, once, copies[:, None])[:, 0, 0]
        return result, {"both": two, "subjects": of_subjects, "stimuli": of_stimuli}

    @pytest.mark.parametrize("method", METHODS)
    @pytest.mark.parametrize("missing", [(), (3, 17)], ids=["all", "missing"])
    def test_values_ceilings_errors_and_p_values(self, monkeypatch, method, missing):
        data = measured()
        data[:, missing] = np.nan
        known = np.isfinite(data[0])
        if missing:  # (rsatoolbox takes models without the missing pairs.)
            whole = dict(models())
            monkeypatch.setitem(
                globals(),
                "models",
                lambda: {k: np.where(known, x, np.nan) for k, x in whole.items()},
            )
        result, found = self.both(monkeypatch, method, data)
        for place, name in enumerate(("both", "subjects", "stimuli")):
            values, bounds = found[name][:, :3], found[name][:, 3:]
            expected = result.evaluations[:, :, 0, 0, place]
            np.testing.assert_allclose(values, expected, atol=1e-6)
            expected = result.noise_ceiling[:, :, 0, place].T
            np.testing.assert_allclose(bounds, expected, atol=1e-6)
        ours = inference.ModelComparison(
            values=dict(zip(models(), result.get_means(), strict=True)),
            similarities={},
            ceiling=statistics.Ceiling(np.mean(result.noise_ceiling[0]), 1),
            weights={},
            comparison=method,
            sizes={"subjects": SUBJECTS, "stimuli": STIMULI},
            draws=found["both"],
            covariances={k: np.cov(x, rowvar=False) for k, x in found.items()},
            uncorrected={},
        )
        # (Its tests use the mean over all three bootstraps.)
        mean = result.evaluations[:, :, 0, 0].mean(axis=(0, 2))
        tested = inference.ModelComparison(
            **{**vars(ours), "values": dict(zip(models(), mean, strict=True))}
        )
        errors = list(ours.standard_errors().values())
        np.testing.assert_allclose(errors, result.get_sem(), rtol=1e-6)
        pairs, zero, ceiling = result.test_all()
        found = [tested.test_above_zero(None), tested.test_against_ceiling(None)]
        np.testing.assert_allclose(list(found[0].values()), zero, atol=1e-6)
        np.testing.assert_allclose(list(found[1].values()), ceiling, atol=1e-6)
        upper = np.triu_indices(3, 1)
        own = list(tested.test_pairs(None).values())
        np.testing.assert_allclose(own, pairs[upper], atol=1e-6)

    @pytest.mark.parametrize("method", METHODS)
    def test_without_draws(self, method):
        from rsatoolbox import inference as others
        from rsatoolbox import model
        from rsatoolbox import rdm as rsa

        given = [model.ModelFixed(name, x) for name, x in models().items()]
        expected = others.eval_fixed(given, rsa.RDMs(measured()), method=method)
        found = inference.compare_models(
            models(), measured(), comparison=METHODS[method], draws=2
        )
        own = np.array(list(found.similarities.values()))
        np.testing.assert_allclose(own, expected.evaluations[0], atol=1e-12)
        np.testing.assert_allclose(found.ceiling, expected.noise_ceiling, atol=1e-12)
        np.testing.assert_allclose(list(found.values.values()), own.mean(axis=1))

    @pytest.mark.parametrize("method", ["cosine", "corr"])
    @pytest.mark.parametrize("kind", ["nonnegative", "free", "ridge", "one", "two"])
    def test_weights(self, method, kind):
        from rsatoolbox import model
        from rsatoolbox import rdm as rsa
        from rsatoolbox.model import fitter

        # (Its own algorithm does not end with numbers above 1.)
        parts, data = layers() / 1000, measured()
        squares = (parts - (method == "corr") * parts.mean(axis=1, keepdims=True)) ** 2
        own, theirs, fit = {
            "nonnegative": (
                inference.Weighted(parts),
                model.ModelWeighted("", parts),
                fitter.fit_regress_nn,
            ),
            "free": (
                inference.Weighted(parts, nonnegative=False),
                model.ModelWeighted("", parts),
                fitter.fit_regress,
            ),
            "ridge": (
                inference.Weighted(parts, ridge=0.3),
                model.ModelWeighted("", parts),
                fitter.Fitter(
                    fitter.fit_regress_nn,
                    ridge_weight=0.3 * squares.sum(axis=1).mean(),
                ),
            ),
            "one": (
                inference.Selection(parts),
                model.ModelSelect("", parts),
                fitter.fit_select,
            ),
            "two": (
                inference.Interpolation(parts),
                model.ModelInterpolate("", parts),
                fitter.fit_interpolate,
            ),
        }[kind]
        expected = fit(theirs, rsa.RDMs(data), method=method)
        if kind == "one":
            expected = np.eye(len(parts))[expected]
        (found,) = inference.compare_models(
            {"net": own}, data, comparison=METHODS[method], draws=2
        ).weights.values()
        # (It searches interpolations to about 1e-5.)
        tolerance = 1e-4 if kind == "two" else 1e-8
        expected = expected / np.linalg.norm(expected)
        np.testing.assert_allclose(found, expected, atol=tolerance)


class TestSlowForms:
    @pytest.mark.parametrize("method", METHODS)
    def test_similarities_of_expanded_draws(self, method):
        """Also of draws with one stimulus most of the time, where a pivot is 0."""
        drawn = [*draws_of(4)[0], np.array([0, 0, 0, 0, 0, 0, 0, 5, 7])]
        rdms = np.vstack([layers(), measured()])
        known = np.ones(PAIRS, bool)
        counts = counts_of(drawn, STIMULI)
        found = _products.inner_products(rdms, known, counts, METHODS[method])
        for own, cosines in zip(drawn, found.cosines(), strict=True):
            x = expanded(rdms, own)
            used = np.isfinite(x[0])
            x = x[:, used]
            if "corr" in method:
                x = x - x.mean(axis=1, keepdims=True)
            inverse = np.eye(len(x.T))
            if "cov" in method:
                covariance = slow_covariance(len(own))[np.ix_(used, used)]
                inverse = np.linalg.inv(covariance)
            inner = x @ inverse @ x.T
            size = np.sqrt(np.diagonal(inner))
            np.testing.assert_allclose(cosines, inner / size / size[:, None], atol=1e-9)

    def test_whitened_similarities_without_some_pairs(self):
        rdms, known = measured(), np.ones(PAIRS, bool)
        known[[0, 4, 11, 30]] = False
        x = rdms[:, known]
        inner = x @ np.linalg.inv(slow_covariance(STIMULI)[np.ix_(known, known)]) @ x.T
        size = np.sqrt(np.diagonal(inner))
        found = _products.inner_products(
            rdms, known, np.ones((1, STIMULI)), comparisons.WhitenedCosine()
        )
        np.testing.assert_allclose(
            found.cosines()[0], inner / size / size[:, None], atol=1e-10
        )

    @pytest.mark.parametrize("method", METHODS)
    def test_the_same_in_small_blocks(self, method, monkeypatch):
        counts = counts_of(draws_of(7)[0], STIMULI)
        given = (measured(), np.ones(PAIRS, bool), counts, METHODS[method])
        expected = _products.inner_products(*given)
        monkeypatch.setattr(_products, "BLOCK", 50)
        found = _products.inner_products(*given)
        np.testing.assert_allclose(found.inner, expected.inner, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("folds", [(2, 1), (1, 2), (3, 2)])
    def test_crossvalidation(self, folds):
        """Pair by pair, fold by fold, with the same divisions."""
        data, parts, repeats = measured(), layers(), 2
        net = inference.Weighted(parts, ridge=0.1)
        given = {"net": net, "truth": models()["truth"]}
        problem = inference._make_problem(given, data, comparisons.Cosine())
        folds = inference.Folds(*folds)
        random = np.random.default_rng(5)
        counts = random.integers(1, 4, size=(3, STIMULI))
        copies = random.integers(1, 3, size=(3, SUBJECTS))
        random = np.random.default_rng(5)
        found = _evaluate.evaluate(
            problem, counts, copies[None], folds, repeats, random
        )
        random = np.random.default_rng(5)
        for repeat in range(repeats):
            of_stimuli = _evaluate._divide(random, counts, folds.stimuli)
            of_subjects = _evaluate._divide(random, copies[None], folds.subjects)[0]
            for draw in range(len(counts)):
                values = [
                    self.fold(
                        data, given, counts[draw], copies[draw],
                        of_stimuli[draw] == i, of_subjects[draw] == j, folds,
                    )
                    for i in range(folds.stimuli)
                    for j in range(folds.subjects)
                ]  # fmt: skip
                expected = np.mean(values, axis=0)
                own = found[0, draw, repeat]
                np.testing.assert_allclose(own, expected, atol=1e-9)

    @pytest.mark.parametrize("divisions", [2, 5])
    def test_the_variance_of_divisions_is_subtracted(self, divisions):
        random = np.random.default_rng(0)
        of_draws = random.normal(size=(20_000, 1, 2)) * [1, 3]
        of_divisions = 2 * random.normal(size=(20_000, divisions, 2))
        found = inference._covariance(of_draws + of_divisions)
        np.testing.assert_allclose(np.diagonal(found), [1, 9], rtol=0.1)

    def fold(self, data, given, counts, copies, tested, test_subjects, folds):
        def weights(kept):
            c = counts * kept
            return np.array([a * b for a, b in itertools.combinations(c, 2)])

        def cosine(x, y, w):
            return (w * x) @ y / np.sqrt((w * x) @ x * ((w * y) @ y))

        def unit(x, w):
            return x / np.sqrt((w * x) @ x)

        test = weights(tested)
        train = weights(~tested) if folds.stimuli > 1 else test
        who = copies * test_subjects
        others = copies - who if folds.subjects > 1 else who
        parts = given["net"].rdms
        target = sum(n * unit(x, train) for n, x in zip(others, data, strict=True))
        penalty = np.sqrt(0.1 * (train * parts**2).sum(axis=1).mean())
        root = np.vstack([(np.sqrt(train) * parts).T, penalty * np.eye(len(parts))])
        side = np.append(np.sqrt(train) * target, np.zeros(len(parts)))
        own = optimize.nnls(root, side)[0] @ parts
        tests = [(n, x) for n, x in zip(who, data, strict=True) if n]
        values = [
            np.average(
                [cosine(y, x, test) for _, x in tests], weights=[n for n, _ in tests]
            )
            for y in (own, given["truth"])
        ]
        every = sum(n * unit(x, test) for n, x in zip(copies, data, strict=True) if n)
        upper = np.mean([cosine(every, x, test) for _, x in tests])
        lower = []
        for i in np.flatnonzero(who):
            pool = copies.copy()
            if folds.subjects > 1:
                pool = others
            else:
                pool[i] = 0
            best = sum(n * unit(x, test) for n, x in zip(pool, data, strict=True) if n)
            lower.append(cosine(best, data[i], test))
        return [*values, np.mean(lower), upper]


class TestModels:
    def test_weighted_has_the_highest_mean_similarity(self):
        """Of all weights that a general optimiser finds, whitened, too."""
        data, parts = measured(), layers()
        for comparison in METHODS.values():
            result = inference.compare_models(
                {"net": inference.Weighted(parts)}, data, comparison=comparison, draws=2
            )
            best = result.similarities["net"].mean()
            problem = inference._make_problem({"x": parts[0]}, data, comparison)

            def similarity(roots, problem=problem):
                rdms = np.vstack([roots**2 @ parts, problem.rdms[1:]])
                found = problem._replace(rdms=rdms).products(np.ones((1, STIMULI)))
                return -found.cosines()[0, 0, 1:].mean()

            starts = np.random.default_rng(0).random((3, len(parts)))
            found = [optimize.minimize(similarity, start).fun for start in starts]
            assert best == pytest.approx(-min(found), abs=1e-6)

    def test_parts_that_add_nothing(self):
        """Equal, zero and constant parts have finite weights and the same value."""
        parts = layers()[:2]
        more = np.vstack([parts, parts[:1], np.zeros((1, PAIRS)), np.ones((1, PAIRS))])
        for kind in (inference.Weighted, inference.Selection, inference.Interpolation):
            found = [
                inference.compare_models({"net": kind(x)}, measured(), draws=3)
                for x in (parts, more)
            ]
            assert np.isfinite(found[1].weights["net"]).all()
            if kind is not inference.Interpolation:  # (The third part is a neighbour.)
                few, many = (np.mean(one.similarities["net"]) for one in found)
                assert many == pytest.approx(few, abs=1e-9)

    def test_a_model_like_nothing_measured(self):
        parts = -layers()
        for kind in (inference.Weighted, inference.Interpolation):
            found = inference.compare_models(
                {"net": kind(parts)}, measured(), comparison=METHODS["cosine"], draws=3
            )
            assert found.values["net"] <= 0
        # The more similar end, if all similarities are negative.
        found = inference.compare_models(
            {
                "mixed": inference.Interpolation(parts),
                "one": inference.Selection(parts),
            },
            measured(),
            comparison=METHODS["cosine"],
            draws=3,
        )
        mixed, one = found.similarities.values()
        np.testing.assert_allclose(mixed, one)

    def test_units_of_parts_and_data_do_not_matter(self):
        given = {"net": inference.Weighted(layers()), "truth": models()["truth"]}
        tiny = {
            "net": inference.Weighted(1e-200 * layers()),
            "truth": 1e150 * given["truth"],
        }
        expected = inference.compare_models(given, measured(), draws=5)
        found = inference.compare_models(tiny, 1e-160 * measured(), draws=5)
        for name in given:
            assert found.values[name] == pytest.approx(expected.values[name], rel=1e-9)
        assert found.standard_errors() == pytest.approx(expected.standard_errors())


@pytest.fixture(scope="module")
def result():
    return inference.compare_models(models(), measured(), draws=300)


class TestCompareModels:
    def test_the_order_of_models_and_a_seed(self, result):
        again = inference.compare_models(
            dict(reversed(models().items())), measured(), draws=300
        )
        assert again.values == pytest.approx(result.values)
        assert again.standard_errors() == pytest.approx(result.standard_errors())
        other = inference.compare_models(models(), measured(), draws=300, seed=1)
        assert other.values == pytest.approx(result.values)
        assert other.standard_errors() != pytest.approx(result.standard_errors())

    def test_what_is_drawn_decides_the_error(self, result):
        errors = {
            over: inference.compare_models(
                models(), measured(), over=over, draws=300
            ).standard_errors()
            for over in (("subjects",), ("stimuli",))
        }
        for name, both in result.standard_errors().items():
            assert both >= max(of[name] for of in errors.values()) * 0.9

    def test_one_factor_agrees_with_the_formula_of_the_mean(self):
        """The bootstrap's error over subjects is the standard error of the mean."""
        data = measured(subjects=12)
        result = inference.compare_models(models(), data, over="subjects", draws=4000)
        for name, error in result.standard_errors().items():
            expected = stats.sem(result.similarities[name])
            assert error == pytest.approx(expected, rel=0.06)
        low, high = result.intervals()["half"]
        factor = stats.t.ppf(0.975, 11)
        error = result.standard_errors()["half"]
        assert (high - low) / 2 == pytest.approx(factor * error)
        assert result.degrees_of_freedom == 11
        low, high = result.percentile_intervals(0.9)["half"]
        assert low < result.values["half"] < high

    @pytest.mark.parametrize("method", METHODS)
    def test_models_that_are_equal_do_not_differ(self, method):
        truth = models()["truth"]
        given = {"a": truth, "b": 3 * truth, "c": truth / 7, "d": 0.1 * truth}
        result = inference.compare_models(
            given, measured(), comparison=METHODS[method], draws=100
        )
        assert min(result.test_pairs(None).values()) > 0.999

    def test_an_outlier_among_the_stimuli(self):
        """In draws without it, its distances take no digits from the others."""
        data, truth = measured(), models()["truth"]
        outlier = np.zeros((STIMULI, STIMULI))
        outlier[3] = outlier[:, 3] = 1e7
        rows = outlier[np.triu_indices(STIMULI, 1)]
        problem = inference._make_problem(
            {"a": truth + rows}, data + rows, METHODS["corr"]
        )
        (indices,), _ = draws_of(1)
        indices = np.where(indices == 3, 4, indices)
        x = expanded(np.vstack([truth, data]), indices)
        expected = np.corrcoef(x[:, np.isfinite(x[0])])[0, 1:].mean()
        counts = counts_of([indices], STIMULI)
        found = _evaluate.evaluate(problem, counts, np.ones((1, 1, SUBJECTS)))
        assert found[0, 0, 0, 0] == pytest.approx(expected, abs=1e-7)
        parts = layers() + rows
        result = inference.compare_models(
            {"net": inference.Weighted(parts)}, data + rows, draws=20
        )
        assert np.isfinite(result.values["net"])

    def test_stimuli_without_measured_pairs_are_no_stimuli(self):
        few = np.full((SUBJECTS, STIMULI + 2, STIMULI + 2), np.nan)
        few[:, 1:-1, 1:-1] = [distance.squareform(x) for x in measured()]
        upper = np.triu_indices(STIMULI + 2, 1)
        given = {k: np.zeros((STIMULI + 2,) * 2) for k in models()}
        for name, x in models().items():
            given[name][1:-1, 1:-1] = distance.squareform(x)
        found = inference.compare_models(
            {k: x[upper] for k, x in given.items()}, few[:, *upper], draws=50
        )
        expected = inference.compare_models(models(), measured(), draws=50)
        assert found.sizes == expected.sizes
        assert found.standard_errors() == pytest.approx(expected.standard_errors())

    def test_the_same_in_blocks_of_draws(self, monkeypatch):
        expected = inference.compare_models(models(), measured(), draws=20)
        monkeypatch.setattr(_products, "BLOCK", 300)
        found = inference.compare_models(models(), measured(), draws=20)
        np.testing.assert_allclose(found.draws, expected.draws, atol=1e-12)
        assert found.standard_errors() == pytest.approx(expected.standard_errors())

    @pytest.mark.parametrize("over", ["subjects", "stimuli", ("subjects", "stimuli")])
    def test_errors_with_crossvalidation(self, over):
        """A model without a choice of weights has the value and error of one fixed."""
        truth, data = models(20)["truth"], measured(20, subjects=8, noise=2)
        no_choice = inference.Weighted([truth, np.zeros_like(truth)])
        how = {"comparison": METHODS["cosine"], "over": over, "draws": 300}
        result = inference.compare_models(
            {"fixed": truth, "fitted": no_choice}, data, **how
        )
        assert result.values["fitted"] == pytest.approx(result.values["fixed"])
        errors = result.standard_errors()
        assert errors["fitted"] == pytest.approx(errors["fixed"], rel=1e-6)
        whole = inference.compare_models({"fixed": truth}, data, **how)
        ratio = errors["fixed"] / whole.standard_errors()["fixed"]
        assert 0.6 < ratio < 1.7

    def test_a_variance_that_is_all_of_divisions_is_not_zero(self):
        truth = models()["truth"]
        result = inference.compare_models({"a": truth}, measured(), draws=50)
        corrected = {k: -x for k, x in result.covariances.items()}
        other = dataclasses.replace(result, covariances=corrected)
        assert other.standard_errors() == result.standard_errors()

    def test_sessions_are_averaged(self):
        distances = np.stack([measured(seed=0), measured(seed=1)], axis=1)
        distances[1, 1] = np.nan  # A session that a subject lacks.
        found = inference.compare_models(models(), rdm.io.Rdms(distances), draws=3)
        mean = rdm.subjects.mean_over_sessions(rdm.io.Rdms(distances))
        expected = inference.compare_models(models(), mean, draws=3)
        np.testing.assert_equal(found.values, expected.values)

    def test_one_subject(self):
        result = inference.compare_models(
            {**models(), "net": inference.Weighted(layers())},
            measured(subjects=1),
            over="stimuli",
            draws=20,
        )
        assert all(np.isfinite([*result.values.values()]))
        assert np.isnan(result.ceiling).all() and "no noise ceiling" in str(result)
        assert np.isnan([*result.test_against_ceiling().values()]).all()
        assert json.loads(result.to_json())["ceiling"] == {"lower": None, "upper": None}
        assert all(np.isfinite([*result.standard_errors().values()]))

    def test_a_constant_model_and_a_constant_subject(self):
        data = measured()
        data[1] = 0.3
        given = {**models(), "constant": np.full(PAIRS, 7.1)}
        for method in ("corr", "corr_cov"):
            result = inference.compare_models(
                given, data, comparison=METHODS[method], draws=20
            )
            assert result.values["constant"] == 0
            assert result.similarities["truth"][1] == 0
            assert result.standard_errors()["constant"] < 1e-7
            assert result.test_above_zero(None)["constant"] == 0.5
            assert np.isfinite(result.ceiling).all()

    def test_corrections_for_several_tests(self, result):
        for correct in (
            statistics.holm,
            statistics.bonferroni,
            statistics.false_discovery_rate,
        ):
            for test in (
                result.test_above_zero,
                result.test_against_ceiling,
                result.test_pairs,
            ):
                plain, adjusted = ([*test(how).values()] for how in (None, correct))
                np.testing.assert_allclose(adjusted, correct(np.array(plain)))
        assert list(result.test_pairs()) == [
            ("truth", "half"),
            ("truth", "other"),
            ("half", "other"),
        ]

    def test_table_rows_and_json(self, result):
        text = str(result)
        assert text.startswith("Pearson, 300 draws of 4 subjects and 9 stimuli\nnoise")
        bounds = zip(result.ceiling, result.ceiling_errors(), strict=True)
        words = " to ".join(f"{bound:.3f} ± {error:.3f}" for bound, error in bounds)
        assert words in text.splitlines()[1]
        assert "truth - half: p " in text
        for row, line in zip(result.rows(), text.splitlines()[3:], strict=False):
            assert line.startswith(row["model"])
            assert f"{row['value']:.3f}  {row['standard_error']:.3f}" in line
        found = json.loads(result.to_json())
        assert found["models"] == result.rows()
        assert found["ceiling"] == result.ceiling._asdict()
        assert len(found["pairs"]) == 3 and found["drawn"] == {
            "subjects": 4,
            "stimuli": 9,
        }

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"models": {}}, "a dict of models"),
            ({"models": {"a": np.ones(3)}}, r"pairs \[36\]: got \(3,\) for 'a'"),
            ({"models": {"a": np.full(PAIRS, np.nan)}}, "'a' is not finite"),
            ({"models": {"a": inference.Weighted(np.ones(9))}}, "two parts or more"),
            ({"data": measured()[0]}, r"\[subjects, pairs\]: got \(36,\)"),
            ({"data": np.where(np.eye(4, PAIRS), np.nan, 1)}, "same pairs in all"),
            ({"data": np.full((4, PAIRS), np.inf)}, "finite distances"),
            ({"data": np.full((4, PAIRS), np.nan)}, "a known pair"),
            ({"data": np.ones((2, 1)), "models": {"a": [1.0]}}, "3 different stimuli"),
            ({"data": measured(4), "models": models(4)}, "3 different stimuli"),
            ({"data": measured(subjects=1)}, "over subjects takes two or more"),
            ({"over": ("sessions",)}, "'subjects', 'stimuli' or both"),
            ({"over": ()}, "'subjects', 'stimuli' or both"),
            ({"draws": 1}, "number of draws"),
            ({"divisions": 1}, "number of divisions"),
            ({"folds": inference.Folds(4, 1)}, "12 different stimuli in a draw"),
            ({"folds": inference.Folds(1, 4)}, "4 different subjects in a draw"),
            ({"folds": 2}, "expected Folds"),
            ({"models": {"a": rdm.io.Rdms(np.ones((1, 1, PAIRS)))}}, "model 'a'"),
            ({"models": {"a": np.ones((9, 9))}}, r"model 'a': Fixed takes RDMs"),
            ({"comparison": comparisons.Spearman()}, "one of Cosine, Pearson"),
            ({"comparison": comparisons.MSE()}, "one of Cosine, Pearson"),
            (
                {"comparison": comparisons.WhitenedCosine(np.eye(STIMULI))},
                "without a covariance",
            ),
        ],
    )  # fmt: skip
    def test_wrong_calls_are_told(self, given, words):
        given = {"models": models(), "data": measured(), "draws": 2} | given
        with pytest.raises(ValueError, match=words):
            inference.compare_models(**given)

    def test_human_and_monkey_cortex(self, brain_file):
        """The monkeys' RDM is a model of the humans': 0.49 with their mean."""
        human = rdm.io.read(brain_file, "human_it_subject_session")
        monkey = rdm.subjects.mean_over_subjects(rdm.io.read(brain_file, "monkey_it"))
        mean = rdm.subjects.mean_over_subjects(human)
        assert np.corrcoef(mean, monkey)[0, 1] == pytest.approx(0.491, abs=0.001)
        shuffled = np.random.default_rng(0).permutation(monkey)
        given = {"monkey": monkey, "shuffled": shuffled}
        result = inference.compare_models(given, human, draws=200)
        each = rdm.subjects.mean_over_sessions(human)
        expected = [np.corrcoef(x, monkey)[0, 1] for x in each]
        np.testing.assert_allclose(result.similarities["monkey"], expected)
        # (That is computed in float32.)
        ceiling = statistics.noise_ceiling(each)
        np.testing.assert_allclose(result.ceiling, ceiling, rtol=1e-5)
        assert result.test_pairs()["monkey", "shuffled"] < 0.05
        assert result.test_above_zero()["shuffled"] > 0.05


class TestSimulations:
    """Two models that are equally good, or one that has nothing to do with the data."""

    def p_values(self, over, seeds, stimuli=20, subjects=10):
        found = []
        for seed in range(seeds):
            random = np.random.default_rng(seed)
            x = random.normal(size=(stimuli, 30))
            noisy = [x + random.normal(size=x.shape) for _ in range(subjects)]
            if over == ("subjects",):  # Subjects have nothing in common.
                noisy = random.normal(size=(subjects, *x.shape))
            data = [distance.pdist(y, "sqeuclidean") for y in noisy]
            model = distance.pdist(random.normal(size=(stimuli, 5)), "sqeuclidean")
            result = inference.compare_models(
                {"model": model}, np.array(data), over=over, draws=200, seed=seed
            )
            found.append(result.test_above_zero(None)["model"])
        return np.array(found)

    def test_subjects(self):
        p = self.p_values(("subjects",), 100)
        assert (p < 0.05).mean() < 0.13 and 0.35 < np.median(p) < 0.65

    @pytest.mark.slow
    def test_the_rate_of_errors_over_subjects(self):
        rate = (self.p_values(("subjects",), 2000) < 0.05).mean()
        assert 0.04 < rate < 0.06

    @pytest.mark.slow
    @pytest.mark.parametrize("over", [("stimuli",), ("subjects", "stimuli")])
    def test_the_rate_of_errors_over_stimuli(self, over):
        """Too low: the bootstrap over stimuli is conservative."""
        rate = (self.p_values(over, 2000) < 0.05).mean()
        assert 0 < rate < 0.05

    @pytest.mark.slow
    def test_intervals_have_the_value_of_all_subjects_and_stimuli(self):
        """In 95 % of simulated studies or more, for others of both."""
        random = np.random.default_rng(0)
        mixing = random.normal(size=(30, 30)) / 5

        def study(random, stimuli, subjects):
            x = random.normal(size=(stimuli, 30))
            noisy = [x + random.normal(size=x.shape) for _ in range(subjects)]
            data = [distance.pdist(y, "sqeuclidean") for y in noisy]
            return distance.pdist(x + x @ mixing, "sqeuclidean"), np.array(data)

        model, data = study(random, 400, 40)
        true = np.corrcoef([model, *data])[0, 1:].mean()
        covered = []
        for seed in range(500):
            model, data = study(np.random.default_rng(seed), 20, 10)
            result = inference.compare_models({"a": model}, data, draws=200)
            low, high = result.intervals()["a"]
            covered.append(low < true < high)
        assert np.mean(covered) > 0.93
