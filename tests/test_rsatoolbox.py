"""Parity with rsatoolbox, on random activations and on real RDMs."""

import jax.numpy as jnp
import numpy as np
import pytest
import rsatoolbox
from rsatoolbox.inference import noise_ceiling

from rdljax import rdm, statistics
from rdljax.rdm import comparisons, distances

UNITS = 7


def activations(n=12, seed=0):
    return np.random.default_rng(seed).gamma(2.0, size=(n, UNITS))


def precision():
    root = np.random.default_rng(5).normal(size=(UNITS, UNITS))
    return root @ root.T + np.eye(UNITS)


def theirs(x, method, **options):
    data = rsatoolbox.data.Dataset(x)
    return rsatoolbox.rdm.calc_rdm(data, method=method, **options).dissimilarities[0]


@pytest.mark.parametrize(
    ("distance", "method", "options"),
    [
        (distances.MeanSquared(), "euclidean", {}),
        (distances.Correlation(), "correlation", {}),
        (distances.PoissonKL(), "poisson", {}),
        (distances.PoissonKL(2.0, 0.5), "poisson", {"prior_lambda": 2.0}),
        (distances.Mahalanobis(precision()), "mahalanobis", {"noise": precision()}),
    ],
    ids=["MeanSquared", "Correlation", "PoissonKL", "PoissonKL-prior", "Mahalanobis"],
)
def test_distances(float64, distance, method, options):
    if "prior_lambda" in options:
        options = options | {"prior_weight": 0.5}
    x = activations()
    found = rdm.compute(x, distance=distance)
    if method == "mahalanobis":
        found = found / UNITS
    np.testing.assert_allclose(found, theirs(x, method, **options), rtol=1e-6)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_crossnobis(float64):
    folds, n = 4, 12
    x = activations(n) + np.random.default_rng(1).normal(size=(folds, n, UNITS))
    data = rsatoolbox.data.Dataset(
        x.reshape(-1, UNITS),
        obs_descriptors={
            "stimulus": np.tile(np.arange(n), folds),
            "fold": np.repeat(np.arange(folds), n),
        },
    )
    expected = rsatoolbox.rdm.calc_rdm(
        data,
        method="crossnobis",
        descriptor="stimulus",
        cv_descriptor="fold",
        noise=precision(),
    ).dissimilarities[0]
    found = rdm.crossnobis(x, precision()) / UNITS
    np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_crossnobis_with_a_precision_of_each_fold(float64):
    folds, n = 3, 12
    rng = np.random.default_rng(1)
    x = activations(n) + rng.normal(size=(folds, n, UNITS))
    roots = rng.normal(size=(folds, UNITS, UNITS))
    inverses = roots @ np.swapaxes(roots, 1, 2) + np.eye(UNITS)
    data = rsatoolbox.data.Dataset(
        x.reshape(-1, UNITS),
        obs_descriptors={
            "stimulus": np.tile(np.arange(n), folds),
            "fold": np.repeat(np.arange(folds), n),
        },
    )
    expected = rsatoolbox.rdm.calc_rdm(
        data,
        method="crossnobis",
        descriptor="stimulus",
        cv_descriptor="fold",
        noise=list(inverses),
    ).dissimilarities[0]
    found = rdm.crossnobis(x, inverses) / UNITS
    np.testing.assert_allclose(found, expected, rtol=1e-6)


SIMILARITIES = {
    "cosine": comparisons.Cosine(),
    "corr": comparisons.Pearson(),
    "spearman": comparisons.Spearman(),
    "rho-a": comparisons.RhoA(),
    "tau-a": comparisons.KendallTauA(),
    "cosine_cov": comparisons.WhitenedCosine(),
    "corr_cov": comparisons.WhitenedPearson(),
}


def similarity(method, x, y, **options):
    x, y = (rsatoolbox.rdm.RDMs(np.atleast_2d(a)) for a in (x, y))
    return rsatoolbox.rdm.compare(x, y, method=method, **options)[0, 0]


@pytest.mark.parametrize("method", SIMILARITIES)
class TestComparisons:
    def check(self, method, x, y):
        found = rdm.compare(x, y, comparison=SIMILARITIES[method])
        np.testing.assert_allclose(1 - found, similarity(method, x, y), rtol=1e-6)

    def test_random(self, float64, method):
        x, y = np.random.default_rng(0).gamma(2.0, size=(2, 66))
        self.check(method, x, y)
        self.check(method, x, np.round(y))

    def test_the_rdms_of_a_human_and_of_a_monkey(self, float64, method, kriegeskorte92):
        self.check(method, kriegeskorte92["human_it"], kriegeskorte92["monkey_it"])


def test_whitened_by_the_covariance_of_the_stimuli(float64):
    root = np.random.default_rng(5).normal(size=(12, 12))
    covariance = root @ root.T + np.eye(12)
    x, y = np.random.default_rng(0).gamma(2.0, size=(2, 66))
    for method, kind in (
        ("cosine_cov", comparisons.WhitenedCosine),
        ("corr_cov", comparisons.WhitenedPearson),
    ):
        found = rdm.compare(x, y, comparison=kind(covariance))
        expected = similarity(method, x, y, sigma_k=covariance)
        # Theirs solves by conjugate gradients, to 1e-5; test_rdm has the exact inverse.
        np.testing.assert_allclose(1 - found, expected, rtol=5e-5)


@pytest.fixture(scope="session")
def kriegeskorte92(brain_file):
    """The RDMs of 92 images in human and monkey IT (Kriegeskorte et al. 2008)."""
    return np.load(brain_file)


def test_known_correlations_of_the_92_images(float64, kriegeskorte92):
    human, monkey = kriegeskorte92["human_it"], kriegeskorte92["monkey_it"]
    assert rdm.stimuli(human.size) == 92
    np.testing.assert_allclose(1 - rdm.compare(human, monkey), 0.491, atol=5e-4)
    animate = kriegeskorte92["animate"].astype(bool)
    model = rdm.condense((animate[:, None] != animate[None, :]).astype(float))
    found = rdm.compare(human, model, comparison=comparisons.Spearman())
    np.testing.assert_allclose(1 - found, 0.588, atol=5e-4)
    sessions = kriegeskorte92["human_it_subject_session"]
    agreement = [1 - rdm.compare(*jnp.asarray(one)) for one in sessions]
    np.testing.assert_allclose(agreement, [0.29, 0.10, 0.40, 0.12], atol=5e-3)


@pytest.mark.parametrize("method", ["cosine", "corr", "spearman", "rho-a"])
def test_noise_ceiling(float64, method, kriegeskorte92):
    rdms = kriegeskorte92["human_it_subject_session"].mean(axis=1)
    found = statistics.noise_ceiling(rdms, comparison=SIMILARITIES[method])
    lower, upper = noise_ceiling.boot_noise_ceiling(
        rsatoolbox.rdm.RDMs(rdms), method=method
    )
    np.testing.assert_allclose(found, [lower, upper], rtol=1e-6)


def test_one_subject_against_the_others(float64, kriegeskorte92):
    rdms = kriegeskorte92["human_it_subject_session"].mean(axis=1)
    found = statistics.noise_ceiling(rdms)
    # 0.46, 0.31, 0.45 and 0.36 against the plain mean of the other three.
    np.testing.assert_allclose(
        found.lower, np.mean([0.46, 0.31, 0.45, 0.36]), atol=0.01
    )
    assert found.upper > found.lower
