"""Distances and comparisons against SciPy and slow forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util
from scipy import stats
from scipy.spatial import distance as scipy_distance

from rdljax import rdm
from rdljax.rdm import comparisons, distances


def poisson_slow(x, rate=1.0, weight=0.1):
    x = (x + weight * rate) / (1 + weight)
    n = len(x)
    return np.array(
        [
            np.mean((x[i] - x[j]) * (np.log(x[i]) - np.log(x[j])))
            for i in range(n)
            for j in range(i + 1, n)
        ]
    )


def precision(units=6):
    root = np.random.default_rng(5).normal(size=(units, units))
    return root @ root.T + np.eye(units)


ORACLES = {
    "Correlation": lambda x: scipy_distance.pdist(x, "correlation"),
    "Cosine": lambda x: scipy_distance.pdist(x, "cosine"),
    "Euclidean": lambda x: scipy_distance.pdist(x, "euclidean"),
    "Mahalanobis": lambda x: (
        scipy_distance.pdist(x, "mahalanobis", VI=precision()) ** 2
    ),
    "MeanSquared": lambda x: scipy_distance.pdist(x, "sqeuclidean") / x.shape[1],
    "PoissonKL": poisson_slow,
    "SquaredEuclidean": lambda x: scipy_distance.pdist(x, "sqeuclidean"),
}


def make(name):
    cls = getattr(distances, name)
    return cls(precision()) if name == "Mahalanobis" else cls()


def activations(n=8, units=6, seed=0):
    return np.random.default_rng(seed).gamma(2.0, size=(n, units))


def test_every_distance_has_an_oracle():
    assert set(ORACLES) == set(distances.__all__)


@pytest.mark.parametrize("name", distances.__all__)
class TestDistances:
    def test_equals_its_oracle(self, float64, name):
        x = activations()
        found = rdm.compute(x, distance=make(name))
        np.testing.assert_allclose(found, ORACLES[name](x), rtol=1e-10)

    def test_pairs_are_entries_of_the_matrix(self, float64, name):
        x, pairs = activations(), np.array([[0, 3, 7, 2], [1, 3, 0, 5]])
        matrix = make(name)(jnp.asarray(x))
        found = rdm.compute(x, pairs, distance=make(name))
        np.testing.assert_allclose(found, matrix[pairs[0], pairs[1]], atol=1e-12)

    def test_matrix_is_symmetric_with_an_exactly_zero_diagonal(self, name):
        matrix = make(name)(jnp.asarray(activations(), jnp.float32))
        np.testing.assert_allclose(matrix, matrix.T, rtol=1e-5, atol=1e-6)
        assert not jnp.diagonal(matrix).any()
        assert (matrix >= 0).all()

    @pytest.mark.parametrize("kind", ["duplicates", "zero rows", "constant rows"])
    def test_finite_at_degenerate_rows(self, name, kind):
        x = jnp.asarray(activations(), jnp.float32)
        x = {
            "duplicates": x.at[3].set(x[1]),
            "zero rows": x.at[1].set(0.0).at[4].set(0.0),
            "constant rows": jnp.full_like(x, 0.1),
        }[kind]
        for form in (
            lambda x: jnp.sum(rdm.compute(x, distance=make(name)) ** 2),
            lambda x: jnp.sum(
                rdm.compute(x, np.array([[1, 1], [3, 4]]), distance=make(name)) ** 2
            ),
        ):
            value, gradient = jax.value_and_grad(form)(x)
            assert jnp.isfinite(value) and jnp.isfinite(gradient).all()

    def test_gradient_is_numerical(self, float64, name):
        form = lambda x: rdm.compute(x, distance=make(name))  # noqa: E731
        test_util.check_grads(form, (activations(5),), order=1, modes=["rev"])

    def test_flattens_and_computes_in_float32(self, name):
        x = activations(8, 6)
        maps = jnp.asarray(x, jnp.bfloat16).reshape(8, 1, 2, 3)
        found = rdm.compute(maps, distance=make(name))
        assert found.dtype == jnp.float32 and found.shape == (28,)
        rounded = np.asarray(maps, np.float64).reshape(8, 6)
        np.testing.assert_allclose(found, ORACLES[name](rounded), rtol=1e-4)

    def test_jit_with_the_distance_as_argument_traces_once(self, name):
        traces = []

        @jax.jit
        def form(x, distance):
            traces.append(name)
            return rdm.compute(x, distance=distance)

        x = jnp.asarray(activations(), jnp.float32)
        first, second = form(x, make(name)), form(x + 1, make(name))
        assert len(traces) == 1 and first.shape == second.shape

    def test_vmap_over_layers(self, name):
        stack = jnp.stack([activations(seed=s) for s in range(3)]).astype(jnp.float32)
        form = lambda x: rdm.compute(x, distance=make(name))  # noqa: E731
        each = jnp.stack([form(x) for x in stack])
        np.testing.assert_allclose(jax.vmap(form)(stack), each, rtol=1e-5, atol=1e-6)

    def test_an_embedded_distance_is_squared_euclid_in_its_embedding(
        self, float64, name
    ):
        distance = make(name)
        if not isinstance(distance, distances.Embedded):
            assert name in ("Euclidean", "PoissonKL")
            return
        x = jnp.asarray(activations())
        expected = scipy_distance.pdist(distance.embed(x), "sqeuclidean")
        np.testing.assert_allclose(rdm.compute(x, distance=distance), expected)


def test_directionless_rows_are_half_a_unit_from_all_others():
    x = jnp.array([[0.0, 0, 0], [0, 0, 0], [1, 2, 4]])
    for distance in (distances.Cosine(), distances.Correlation()):
        found = rdm.compute(x, distance=distance)
        np.testing.assert_allclose(found, [0.0, 0.5, 0.5], atol=1e-6)


def test_parameters_of_a_distance_are_leaves(float64):
    x = activations()
    found = rdm.compute(x, distance=distances.PoissonKL(2.0, 0.5))
    np.testing.assert_allclose(found, poisson_slow(x, 2.0, 0.5), rtol=1e-10)
    gradient = jax.grad(lambda d: jnp.sum(rdm.compute(x, distance=d)))
    assert gradient(distances.PoissonKL(2.0, 0.5)).prior_rate < 0


def weighted_cosine(x, y, w):
    return np.sum(w * x * y) / np.sqrt(np.sum(w * x * x) * np.sum(w * y * y))


def slow(comparison, x, y, w):
    w = w / w.sum()
    if isinstance(comparison, comparisons.MSE):
        factor = {
            None: lambda: 1.0,
            comparisons.by_maximum: lambda: x[w > 0].max() / y[w > 0].max(),
            comparisons.by_norm: lambda: np.sqrt(np.sum(w * x * x) / np.sum(w * y * y)),
            comparisons.by_least_squares: lambda: np.sum(w * x * y) / np.sum(w * y * y),
        }[comparison.scale]()
        return np.sum(w * (x - factor * y) ** 2)
    if isinstance(comparison, comparisons.Pearson):
        x, y = x - np.sum(w * x), y - np.sum(w * y)
    return 1 - weighted_cosine(x, y, w)


COMPARISONS = [
    comparisons.Cosine(),
    comparisons.Pearson(),
    comparisons.MSE(),
    comparisons.MSE(comparisons.by_maximum),
    comparisons.MSE(comparisons.by_norm),
    comparisons.MSE(comparisons.by_least_squares),
]


def test_every_comparison_is_tested():
    assert {type(c).__name__ for c in COMPARISONS} == set(comparisons.__all__)


@pytest.mark.parametrize("comparison", COMPARISONS, ids=str)
class TestComparisons:
    def vectors(self):
        rng = np.random.default_rng(1)
        return rng.gamma(2.0, size=21), rng.gamma(2.0, size=21)

    def test_equals_the_slow_form(self, float64, comparison):
        x, y = self.vectors()
        found = comparison(jnp.asarray(x), jnp.asarray(y))
        np.testing.assert_allclose(found, slow(comparison, x, y, np.ones(21)))

    def test_weights(self, float64, comparison):
        x, y = self.vectors()
        w = np.random.default_rng(2).uniform(size=21) * 3
        w[[2, 5]] = 0
        found = comparison(jnp.asarray(x), jnp.asarray(y), jnp.asarray(w))
        np.testing.assert_allclose(found, slow(comparison, x, y, w))

    def test_masked_pairs_may_be_missing(self, float64, comparison):
        x, y = self.vectors()
        keep = np.arange(21) % 4 > 0
        holes = jnp.where(keep, y, jnp.nan)
        form = lambda x: comparison(x, holes, jnp.asarray(keep, float))  # noqa: E731
        value, gradient = jax.value_and_grad(form)(jnp.asarray(x))
        expected = comparison(jnp.asarray(x[keep]), jnp.asarray(y[keep]))
        np.testing.assert_allclose(value, expected)
        assert jnp.isfinite(gradient).all() and not gradient[~keep].any()

    def test_all_masked_is_zero(self, comparison):
        x, y = (jnp.asarray(v, jnp.float32) for v in self.vectors())
        form = lambda x: comparison(x, y, jnp.zeros(21))  # noqa: E731
        value, gradient = jax.value_and_grad(form)(x)
        assert value == 0 and not gradient.any()

    def test_exactly_zero_at_equality(self, comparison):
        x = jnp.asarray(self.vectors()[0], jnp.float32)
        assert comparison(x, x) == 0

    def test_accurate_where_student_is_close_to_teacher(self, comparison):
        # One minus a float32 cosine would be pure noise here: the value is 1e-8.
        x = self.vectors()[0].astype(np.float32)
        noise = np.random.default_rng(3).normal(size=21)
        y = (x * (1 + 1e-4 * noise)).astype(np.float32)
        expected = slow(comparison, x.astype(float), y.astype(float), np.ones(21))
        found = comparison(jnp.asarray(x), jnp.asarray(y))
        # MSE subtracts numbers given in float32; the others divide them first.
        np.testing.assert_allclose(found, expected, rtol=1e-2)

    @pytest.mark.parametrize("constant", ["student", "teacher", "both"])
    def test_finite_for_constant_rdms(self, comparison, constant):
        x = jnp.asarray(self.vectors()[0], jnp.float32)
        flat = jnp.full(21, 0.1)
        pair = {"student": (flat, x), "teacher": (x, flat), "both": (flat, flat * 3)}
        for factor in (1.0, 0.0):
            student, teacher = (v * factor for v in pair[constant])
            value, gradient = jax.value_and_grad(comparison)(student, teacher)
            assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


@pytest.mark.parametrize("comparison", [*COMPARISONS[:3], COMPARISONS[5]], ids=str)
def test_gradient_of_a_comparison_is_numerical(float64, comparison):
    rng = np.random.default_rng(1)
    x, y = jnp.asarray(rng.gamma(2.0, size=21)), jnp.asarray(rng.gamma(2.0, size=21))
    form = lambda x: comparison(x, y)  # noqa: E731
    test_util.check_grads(form, (x,), order=1, modes=["rev"])


# The slope of least squares is where the value is smallest: its own gradient is zero.
@pytest.mark.parametrize("scale", [comparisons.by_maximum, comparisons.by_norm])
def test_the_factor_is_a_constant_in_the_gradient(float64, scale):
    rng = np.random.default_rng(1)
    x, y = jnp.asarray(rng.gamma(2.0, size=21)), jnp.asarray(rng.gamma(2.0, size=21))
    factor = scale(x, y, jnp.full(21, 1 / 21))
    gradient = jax.grad(comparisons.MSE(scale))(x, y)
    np.testing.assert_allclose(gradient, 2 * (x - factor * y) / 21)


def test_pearson_and_cosine_against_scipy(float64):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 45))
    found = comparisons.Pearson()(jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(found, 1 - stats.pearsonr(x, y).statistic)
    found = comparisons.Cosine()(jnp.asarray(x), jnp.asarray(y))
    np.testing.assert_allclose(found, scipy_distance.cosine(x, y))


def test_a_constant_rdm_correlates_with_nothing():
    x, flat = jnp.arange(6.0), jnp.full(6, 0.1)
    assert comparisons.Pearson()(x, flat) == comparisons.Pearson()(flat, x) == 1
    assert comparisons.Pearson()(flat, 2 * flat) == 0
    np.testing.assert_allclose(comparisons.Cosine()(x, jnp.zeros(6)), 1)


def test_rounding_is_not_correlated():
    # Equidistant up to the last bit: the scaled residue would be noise of norm 1.
    x = jnp.full(6, 1.0).at[2].set(np.nextafter(np.float32(1), np.float32(2)))
    y = jnp.arange(6.0)
    value, gradient = jax.value_and_grad(comparisons.Pearson())(x, y)
    assert value == 1 and not gradient.any()


class TestCondensed:
    def test_order_is_scipys(self, float64):
        matrix = scipy_distance.squareform(np.arange(1.0, 11))
        np.testing.assert_array_equal(rdm.condense(jnp.asarray(matrix)), range(1, 11))
        np.testing.assert_array_equal(rdm.square(np.arange(1.0, 11)), matrix)

    def test_stimuli(self):
        assert [rdm.stimuli(p) for p in (1, 3, 4186, 19900)] == [2, 3, 92, 200]
        assert rdm.stimuli(99_999 * 100_000 // 2) == 100_000
        for impossible in (0, 2, 4, 4185):
            with pytest.raises(ValueError, match=str(impossible)):
                rdm.stimuli(impossible)


class TestSamplePairs:
    def test_two_different_stimuli_in_order(self):
        pairs = rdm.sample_pairs(jax.random.key(0), 5, 1000)
        assert pairs.shape == (2, 1000) and pairs.dtype == jnp.int32
        assert (pairs[0] < pairs[1]).all()
        assert (pairs >= 0).all() and (pairs < 5).all()

    def test_all_pairs_alike(self):
        pairs = rdm.sample_pairs(jax.random.key(1), 5, 20_000)
        _, counts = np.unique(np.asarray(pairs), axis=1, return_counts=True)
        assert len(counts) == 10
        assert stats.chisquare(counts).pvalue > 1e-3

    def test_of_a_huge_batch(self):
        pairs = rdm.sample_pairs(jax.random.key(1), 100_000, 64)
        assert (pairs[0] < pairs[1]).all() and (pairs >= 0).all()

    @pytest.mark.parametrize(("batch", "count"), [(1, 5), (5, 0)])
    def test_refuses_the_impossible(self, batch, count):
        with pytest.raises(ValueError, match=f"{count} pairs of {batch}"):
            rdm.sample_pairs(jax.random.key(0), batch, count)


class TestErrors:
    def test_a_class_is_not_an_instance(self):
        x = activations()
        with pytest.raises(ValueError, match=r"Cosine\(\)"):
            rdm.compute(x, distance=distances.Cosine)
        with pytest.raises(ValueError, match=r"Pearson\(\)"):
            rdm.discrepancy(x, x, comparison=comparisons.Pearson)

    @pytest.mark.parametrize(
        "shapes", [((6,), (10,), None), ((6,), (6,), (5,)), ((4, 4), (4, 4), None)]
    )
    def test_rdms_that_do_not_fit(self, shapes):
        rdms = [None if shape is None else np.ones(shape) for shape in shapes]
        with pytest.raises(ValueError, match="of one length"):
            rdm.compare(*rdms)

    @pytest.mark.parametrize("shape", [(5,), (1, 5)])
    def test_too_few_stimuli(self, shape):
        with pytest.raises(ValueError, match="two stimuli"):
            rdm.compute(jnp.zeros(shape))

    @pytest.mark.parametrize(
        "pairs", [np.zeros((3, 4), int), np.zeros((2, 4)), np.zeros(2, int)]
    )
    def test_wrong_pairs(self, pairs):
        with pytest.raises(ValueError, match="pairs must be integers"):
            rdm.compute(activations(), pairs)

    def test_wrong_precision(self):
        with pytest.raises(ValueError, match=r"\(6, 6\).*\(3, 3\)"):
            rdm.compute(activations(), distance=distances.Mahalanobis(np.eye(3)))


def test_dataclasses_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        distances.PoissonKL().prior_rate = 2.0
