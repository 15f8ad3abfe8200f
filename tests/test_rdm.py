"""Distances and comparisons against SciPy and slow forms.

What is under test runs as one program where it can: operation by operation, as many
programs are compiled as there are operations and shapes.
"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util
from scipy import stats
from scipy.spatial import distance as scipy_distance

from rdljax import mmd, objectives, rdm
from rdljax.rdm import _ranks, comparisons, distances, forms


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


# All but the interface and the base class.
NAMES_OF_DISTANCES = sorted({*distances.__all__} - {"Distance", "Embedded"})


def test_every_distance_has_an_oracle():
    assert set(ORACLES) == set(NAMES_OF_DISTANCES)


def check_gradient(value_and_gradient, x):
    """The gradient against small steps, in one random direction."""

    def pull(x):
        value, gradient = value_and_gradient(x)
        return value, lambda given: (given * gradient,)

    test_util.check_vjp(lambda x: value_and_gradient(x)[0], pull, (x,))


SLOW = pytest.mark.slow
PAIRS = np.array([[0, 3, 7, 2, 1, 1], [1, 3, 0, 5, 3, 4]], np.int32)
PATTERN = np.random.default_rng(9).normal(size=(28 + 6)).astype(np.float32)
traced = []


@jax.jit
def of_distance(x, distance):
    """RDM, matrix and distances of `PAIRS`; a sum of all these, and its gradient."""
    traced.append(distance)

    def form(x):
        condensed = rdm.compute(x, distance=distance)
        of_pairs = rdm.compute(x, PAIRS, distance=distance)
        total = jnp.vdot(PATTERN, jnp.concatenate([condensed, of_pairs]))
        return total, (condensed, distance(x), of_pairs)

    (total, found), gradient = jax.value_and_grad(form, has_aux=True)(x)
    return *found, (total, gradient)


compute = jax.jit(rdm.compute)


@pytest.mark.parametrize("name", NAMES_OF_DISTANCES)
class TestDistances:
    def test_equals_its_oracle(self, float64, name):
        x = activations()
        found = of_distance(x, make(name))[0]
        np.testing.assert_allclose(found, ORACLES[name](x), rtol=1e-10)

    @pytest.mark.slow
    def test_the_same_without_jit(self, float64, name):
        x, distance = activations(), make(name)
        expected = of_distance(x, distance)
        found = [rdm.compute(x, distance=distance), distance(jnp.asarray(x))]
        found.append(rdm.compute(x, PAIRS, distance=distance))
        for own, other in zip(found, expected[:3], strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-10, atol=1e-12)

    def test_pairs_are_entries_of_the_matrix(self, float64, name):
        _, matrix, found, _ = of_distance(activations(), make(name))
        np.testing.assert_allclose(found, matrix[PAIRS[0], PAIRS[1]], atol=1e-12)

    def test_matrix_is_symmetric_with_an_exactly_zero_diagonal(self, name):
        matrix = np.asarray(
            of_distance(activations().astype(np.float32), make(name))[1]
        )
        np.testing.assert_allclose(matrix, matrix.T, rtol=1e-5, atol=1e-6)
        assert not np.diagonal(matrix).any()
        assert (matrix >= 0).all()

    @pytest.mark.parametrize("kind", ["duplicates", "zero rows", "constant rows"])
    def test_finite_at_degenerate_rows(self, name, kind):
        x = activations().astype(np.float32)
        if kind == "duplicates":
            x[3] = x[1]
        elif kind == "zero rows":
            x[[1, 4]] = 0
        else:
            x[:] = 0.1
        for found in jax.tree.leaves(of_distance(x, make(name))):
            assert np.isfinite(found).all()

    def test_in_any_units_what_changes_with_them_alone(self, name):
        """Euclidean distances of any size; others where theirs are finite."""
        x = activations().astype(np.float32)
        powers = {"Cosine": 0, "Correlation": 0, "Euclidean": 1, "PoissonKL": None}
        power = powers.get(name, 2)
        if power is None:
            return
        for scale in np.float32([1e-25, 3e25] if power < 2 else [1e-15, 3e14]):
            found = of_distance(scale * x, make(name))
            expected = np.float64(scale) ** power * ORACLES[name](x)
            np.testing.assert_allclose(found[0], expected, rtol=1e-4)
            pairs = np.asarray(found[1])[PAIRS[0], PAIRS[1]]
            np.testing.assert_allclose(found[2], pairs, rtol=1e-4)

    def test_gradient_is_numerical(self, float64, name):
        check_gradient(lambda x: of_distance(x, make(name))[3], activations())

    def test_flattens_and_computes_in_float32(self, name):
        maps = activations(8, 6).astype(jnp.bfloat16).reshape(8, 1, 2, 3)
        found = compute(maps, distance=make(name))
        assert found.dtype == jnp.float32 and found.shape == (28,)
        rounded = maps.astype(np.float64).reshape(8, 6)
        np.testing.assert_allclose(found, ORACLES[name](rounded), rtol=1e-4)

    def test_jit_with_the_distance_as_argument_traces_once(self, name):
        x = activations().astype(np.float32)
        first = of_distance(x, make(name))[0]
        before = len(traced)
        second = of_distance(x + 1, make(name))[0]
        assert len(traced) == before and first.shape == second.shape

    def test_vmap_over_layers(self, name):
        stack = np.stack([activations(seed=s) for s in range(3)]).astype(np.float32)
        form = lambda x: rdm.compute(x, distance=make(name))  # noqa: E731
        each = np.stack([of_distance(x, make(name))[0] for x in stack])
        found = jax.jit(jax.vmap(form))(stack)
        np.testing.assert_allclose(found, each, rtol=1e-5, atol=1e-6)

    def test_an_embedded_distance_is_squared_euclid_in_its_embedding(
        self, float64, name
    ):
        distance, x = make(name), activations()
        if not isinstance(distance, distances.Embedded):
            assert name in ("Euclidean", "PoissonKL")
            return
        embedded = jax.jit(lambda x: distance.embed(x))(x)
        expected = scipy_distance.pdist(embedded, "sqeuclidean")
        np.testing.assert_allclose(of_distance(x, distance)[0], expected)


def test_directionless_rows_are_half_a_unit_from_all_others():
    x = np.array([[0, 0, 0], [0, 0, 0], [1, 2, 4]], np.float32)
    for distance in (distances.Cosine(), distances.Correlation()):
        found = compute(x, distance=distance)
        np.testing.assert_allclose(found, [0.0, 0.5, 0.5], atol=1e-6)


@pytest.mark.parametrize("name", ["Cosine", "Correlation"])
def test_directionless_rows_tie_exactly(name):
    x = activations(seed=3).astype(np.float32)
    x[[1, 4]] = 0.0 if name == "Cosine" else [[0.3], [0.1]]
    condensed, matrix, of_pairs, _ = of_distance(x, make(name))
    dead = np.isin(np.arange(8), [1, 4])
    one = dead[:, None] != dead
    assert (np.asarray(matrix)[one] == 0.5).all() and matrix[1, 4] == 0
    assert (np.asarray(condensed) == 0.5).sum() == 12
    assert (np.asarray(of_pairs)[one[PAIRS[0], PAIRS[1]]] == 0.5).all()


@pytest.mark.slow
def test_ranks_of_an_rdm_with_dead_stimuli_are_exact():
    rng = np.random.default_rng(0)
    x, y = (rng.normal(size=(92, 40)) for _ in range(2))
    x[rng.permutation(92)[:30]] = 0
    own = rng.permutation(92)[:12]
    x[own] = x[own[0]]  # Duplicates tie too.
    x, y = x.astype(np.float32), y.astype(np.float32)
    with jax.enable_x64(True):
        exact = [np.asarray(rdm.compute(a.astype(np.float64))) for a in (x, y)]
    exact[0] = exact[0].round(12)
    for name in ("Spearman", "RhoA", "KendallTauA"):
        comparison = getattr(comparisons, name)()
        found = rdm.compare(compute(x), compute(y), comparison=comparison)
        expected = slow_ranked(comparison, *exact)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_parameters_of_a_distance_are_leaves(float64):
    x, distance = activations(), distances.PoissonKL(2.0, 0.5)
    found = of_distance(x, distance)[0]
    np.testing.assert_allclose(found, poisson_slow(x, 2.0, 0.5), rtol=1e-10)
    gradient = jax.jit(jax.grad(lambda d: jnp.sum(rdm.compute(x, distance=d))))
    assert gradient(distance).prior_rate < 0


def weighted_cosine(x, y, w):
    return np.sum(w * x * y) / np.sqrt(np.sum(w * x * x) * np.sum(w * y * y))


def factor_slow(scale, x, y, w):
    return {
        None: lambda: 1.0,
        comparisons.by_maximum: lambda: x[w > 0].max() / y[w > 0].max(),
        comparisons.by_norm: lambda: np.sqrt(np.sum(w * x * x) / np.sum(w * y * y)),
        comparisons.by_least_squares: lambda: np.sum(w * x * y) / np.sum(w * y * y),
    }[scale]()


def slow(comparison, x, y, w):
    w = w / w.sum()
    if isinstance(comparison, comparisons.MSE):
        factor = factor_slow(comparison.scale, x, y, w)
        return np.sum(w * (x - factor * y) ** 2)
    if isinstance(comparison, comparisons.Pearson):
        x, y = x - np.sum(w * x), y - np.sum(w * y)
    return 1 - weighted_cosine(x, y, w)


NAMES_OF_COMPARISONS = [
    name
    for name in comparisons.__all__
    if dataclasses.is_dataclass(getattr(comparisons, name))
]
COMPARISONS = [
    comparisons.Cosine(),
    comparisons.Pearson(),
    comparisons.MSE(),
    comparisons.MSE(comparisons.by_maximum),
    comparisons.MSE(comparisons.by_norm),
    comparisons.MSE(comparisons.by_least_squares),
]


def label(comparison):
    scale = getattr(comparison, "scale", None)
    return type(comparison).__name__ + (f"-{scale.__name__}" if scale else "")


# Those whose value follows from ranks, from gradual orders, and from whitened RDMs.
RANKED = [comparisons.Spearman(), comparisons.RhoA(), comparisons.KendallTauA()]
SOFT = [comparisons.SoftSpearman(0.2), comparisons.SoftKendall(0.2)]
WHITENED = [comparisons.WhitenedCosine(), comparisons.WhitenedPearson()]


def test_every_comparison_is_tested():
    tested = {type(c).__name__ for c in [*COMPARISONS, *RANKED, *SOFT, *WHITENED]}
    assert tested == set(NAMES_OF_COMPARISONS)


@jax.jit
def value_and_gradient(comparison, x, y, weights=None):
    return jax.value_and_grad(comparison)(x, y, weights)


def value(*given):
    return value_and_gradient(*given)[0]


def two_rdms(dtype=np.float64):
    rng = np.random.default_rng(1)
    return tuple(rng.gamma(2.0, size=21).astype(dtype) for _ in range(2))


@pytest.mark.parametrize("comparison", COMPARISONS, ids=label)
class TestComparisons:
    def test_equals_the_slow_form(self, float64, comparison):
        x, y = two_rdms()
        expected = slow(comparison, x, y, np.ones(21))
        np.testing.assert_allclose(value(comparison, x, y), expected)

    def test_weights(self, float64, comparison):
        x, y = two_rdms()
        w = np.random.default_rng(2).uniform(size=21) * 3
        w[[2, 5]] = 0
        found = value(comparison, x, y, w)
        np.testing.assert_allclose(found, slow(comparison, x, y, w))

    def test_masked_pairs_may_be_missing(self, float64, comparison):
        x, y = two_rdms()
        keep = np.arange(21) % 4 > 0
        holes = np.where(keep, y, np.nan)
        found, gradient = value_and_gradient(comparison, x, holes, keep.astype(float))
        expected = slow(comparison, x[keep], y[keep], np.ones(keep.sum()))
        np.testing.assert_allclose(found, expected)
        assert np.isfinite(gradient).all() and not gradient[~keep].any()

    def test_all_masked_is_zero(self, float64, comparison):
        found, gradient = value_and_gradient(comparison, *two_rdms(), np.zeros(21))
        assert found == 0 and not gradient.any()

    def test_exactly_zero_at_equality(self, comparison):
        x, _ = two_rdms(np.float32)
        assert value(comparison, x, x) == 0

    def test_accurate_where_student_is_close_to_teacher(self, comparison):
        # One minus a float32 cosine would be pure noise here: the value is 1e-8.
        x, _ = two_rdms(np.float32)
        noise = np.random.default_rng(3).normal(size=21)
        y = (x * (1 + 1e-4 * noise)).astype(np.float32)
        expected = slow(comparison, x.astype(float), y.astype(float), np.ones(21))
        # MSE subtracts numbers given in float32; the others divide them first.
        np.testing.assert_allclose(value(comparison, x, y), expected, rtol=1e-2)

    @pytest.mark.parametrize("constant", ["student", "teacher", "both"])
    def test_finite_for_constant_rdms(self, comparison, constant):
        x, _ = two_rdms(np.float32)
        flat = np.full(21, 0.1, np.float32)
        pair = {"student": (flat, x), "teacher": (x, flat), "both": (flat, flat * 3)}
        for factor in np.float32([1, 0]):
            sides = (v * factor for v in pair[constant])
            found, gradient = value_and_gradient(comparison, *sides)
            assert np.isfinite(found) and np.isfinite(gradient).all()


def rdms_for(comparison):
    """Two RDMs in float32, of a length for which others have made the program."""
    size = 45 if comparison in (*RANKED, *SOFT) else 21
    return np.random.default_rng(2).gamma(2.0, size=(2, size)).astype(np.float32)


EVERY = [*COMPARISONS, *RANKED, *SOFT, *WHITENED]


@pytest.mark.parametrize("comparison", EVERY, ids=label)
class TestEveryComparison:
    def test_what_is_not_finite_on_either_side(self, comparison):
        x, y = rdms_for(comparison)
        for bad in (np.nan, np.inf):
            hole = np.where(np.arange(x.size) == 5, np.float32(bad), x)
            for pair in ((hole, y), (y, hole)):
                found, gradient = value_and_gradient(comparison, *pair)
                assert not np.isfinite(found)
                assert comparison in RANKED or not np.isfinite(gradient).all()

    def test_in_any_units(self, comparison):
        """Of both RDMs together, and each of its own where that is what it ignores."""
        x, y = rdms_for(comparison)
        expected, gradient = value_and_gradient(comparison, x, y)
        rescales = getattr(comparison, "scale", None) is not None
        own = rescales or comparison.own_scales
        for first, second in ((1e-16, 1e-36), (2e16, 3e-33), (3e18, 7e35)):
            first = np.float32(first)
            second = np.float32(second) if own else first
            found = value_and_gradient(comparison, first * x, second * y)
            power = 0 if comparison.own_scales else 2
            scale = np.float64(first) ** power
            np.testing.assert_allclose(found[0], scale * expected, rtol=1e-4)
            np.testing.assert_allclose(
                found[1],
                np.float64(first) ** (power - 1) * gradient,
                rtol=1e-3,
                atol=1e-3 * np.abs(gradient).max() * np.float64(first) ** (power - 1),
            )


@pytest.mark.slow
@pytest.mark.parametrize("comparison", [*COMPARISONS, *SOFT, *WHITENED], ids=label)
def test_a_comparison_is_the_same_without_jit(float64, comparison):
    x, y = two_rdms()
    for weights in [None] if comparison in WHITENED else [None, np.arange(21.0)]:
        found = jax.value_and_grad(comparison)(x, y, weights)
        expected = value_and_gradient(comparison, x, y, weights)
        for own, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("comparison", [*COMPARISONS[:3], COMPARISONS[5]], ids=label)
def test_gradient_of_a_comparison_is_numerical(float64, comparison):
    x, y = two_rdms()
    check_gradient(lambda x: value_and_gradient(comparison, x, y), x)


# The slope of least squares is where the value is smallest: its own gradient is zero.
@pytest.mark.parametrize("scale", [comparisons.by_maximum, comparisons.by_norm])
def test_the_factor_is_a_constant_in_the_gradient(float64, scale):
    x, y = two_rdms()
    factor = factor_slow(scale, x, y, np.ones(21))
    _, gradient = value_and_gradient(comparisons.MSE(scale), x, y)
    np.testing.assert_allclose(gradient, 2 * (x - factor * y) / 21)


def test_pearson_and_cosine_against_scipy(float64):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 21))
    found = value(comparisons.Pearson(), x, y)
    np.testing.assert_allclose(found, 1 - stats.pearsonr(x, y).statistic)
    found = value(comparisons.Cosine(), x, y)
    np.testing.assert_allclose(found, scipy_distance.cosine(x, y))


def test_a_constant_rdm_correlates_with_nothing(optimized):
    x, flat = np.arange(6, dtype=np.float32), np.full(6, 0.1, np.float32)
    pearson, cosine = (
        jax.jit(lambda x, y, c=c: c(x, y))
        for c in (comparisons.Pearson(), comparisons.Cosine())
    )
    assert pearson(x, flat) == pearson(flat, x) == 1
    assert pearson(flat, 2 * flat) == 0
    np.testing.assert_allclose(cosine(x, 0 * x), 1, rtol=1e-6)


def test_rounding_is_not_correlated():
    # Equidistant up to the last bit: the scaled residue would be noise of norm 1.
    x, y = np.ones(21, np.float32), np.arange(21, dtype=np.float32)
    x[2] = np.nextafter(np.float32(1), np.float32(2))
    found, gradient = value_and_gradient(comparisons.Pearson(), x, y)
    assert found == 1 and not gradient.any()


def distances_with_ties(seed=0, size=45):
    rng = np.random.default_rng(seed)
    return rng.gamma(2.0, size=size), np.round(2 * rng.gamma(2.0, size=size)) / 2


def slow_ranked(comparison, x, y):
    if isinstance(comparison, comparisons.KendallTauA):
        pairs = itertools.combinations(range(len(x)), 2)
        signs = [np.sign(x[i] - x[j]) * np.sign(y[i] - y[j]) for i, j in pairs]
        return 1 - np.mean(signs)
    x, y = (stats.rankdata(v).astype(np.float64) for v in (x, y))
    if isinstance(comparison, comparisons.Spearman):
        return 1 - np.corrcoef(x, y)[0, 1]
    n = len(x)
    return 1 - 12 * np.sum((x - x.mean()) * (y - y.mean())) / (n**3 - n)


@pytest.mark.parametrize("comparison", RANKED, ids=label)
class TestRanked:
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_equals_the_slow_form(self, float64, comparison, dtype):
        x, y = (v.astype(dtype) for v in distances_with_ties())
        for a, b in ((x, y), (y, x), (y, y), (-x, y)):
            expected = slow_ranked(comparison, a, b)
            tolerance = 1e-5 if dtype == np.float32 else 1e-12
            found = jax.jit(comparison)(a, b)
            assert found.dtype == dtype
            np.testing.assert_allclose(found, expected, atol=tolerance)
            found = comparison.on_host(a, b)
            np.testing.assert_allclose(found, expected, atol=1e-12)

    def test_masked_pairs_may_be_missing(self, float64, comparison):
        x, y = distances_with_ties()
        keep = np.arange(45) % 4 > 0
        holes = np.where(keep, y, np.nan)
        expected = slow_ranked(comparison, x[keep], y[keep])
        for form in (jax.jit(comparison), comparison.on_host):
            found = form(x, holes, keep.astype(float))
            np.testing.assert_allclose(found, expected, atol=1e-12)
            assert np.isnan(form(x, holes))

    def test_gradient_is_zero(self, comparison):
        x, y = (v.astype(np.float32) for v in distances_with_ties())
        found, gradient = value_and_gradient(comparison, x, y)
        assert found > 0 and not gradient.any()

    def test_nothing_to_rank(self, comparison):
        x, nothing = np.arange(45, dtype=np.float32), np.zeros(45, np.float32)
        for form in (jax.jit(comparison), comparison.on_host):
            assert form(x, x, nothing) == 0
            np.testing.assert_allclose(form(x, nothing), 1, rtol=1e-6)

    def test_vmap_over_bootstraps(self, float64, comparison):
        x, y = distances_with_ties()
        stack = np.stack([y, x, -x])
        found = jax.jit(jax.vmap(comparison, in_axes=(None, 0)))(x, stack)
        expected = [slow_ranked(comparison, x, one) for one in stack]
        np.testing.assert_allclose(found, expected, atol=1e-12)

    # (Around powers of two, which tau-a is computed in.)
    @pytest.mark.parametrize("size", [2, 64, 3000])
    def test_of_any_size(self, comparison, size):
        rng = np.random.default_rng(size)
        x, y = rng.normal(size=(2, size)).astype(np.float32)
        compare = jax.jit(comparison)
        for a, b in ((x, y), (x, np.round(x + y)), (np.round(x), np.round(y))):
            for weights in (np.ones(size, np.float32), rng.integers(0, 2, size)):
                found = compare(a, b, weights.astype(np.float32))
                expected = comparison.on_host(a, b, weights)
                np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("comparison", RANKED, ids=label)
def test_ranks_take_one_sort_of_each_rdm(comparison):
    x = jax.ShapeDtypeStruct((45,), jnp.float32)
    text = jax.jit(comparison).lower(x, x).as_text()
    assert text.count("stablehlo.sort") == 2
    if comparison != comparisons.KendallTauA():
        assert "stablehlo.scatter" not in text and "stablehlo.gather" not in text


def test_a_weight_counts_as_copies_of_a_pair(float64):
    x, y = distances_with_ties()
    copies = np.random.default_rng(4).integers(0, 4, size=45)
    expected = stats.spearmanr(np.repeat(x, copies), np.repeat(y, copies)).statistic
    for form in (jax.jit(comparisons.Spearman()), comparisons.Spearman().on_host):
        found = form(x, y, copies.astype(float))
        np.testing.assert_allclose(found, 1 - expected)
    with pytest.raises(ValueError, match="whole numbers"):
        comparisons.Spearman().on_host(x, y, copies / 2)


@pytest.mark.parametrize("comparison", RANKED, ids=label)
@pytest.mark.parametrize("wrong", [-1, np.nan, np.inf])
def test_weights_that_are_none_on_the_host(comparison, wrong):
    x, weights = np.arange(45.0), np.ones(45)
    weights[3] = wrong
    assert np.isnan(comparison.on_host(x, x, weights))


@pytest.mark.parametrize("size", [2**20, 2**23])
def test_counts_of_many_pairs_do_not_overflow(size):
    found = _ranks._total(jnp.full(size, size - 1, jnp.int32), jnp.float32)
    np.testing.assert_allclose(found, float(size) * (size - 1), rtol=1e-6)


def test_ranks_of_zeros_negatives_and_extremes():
    x = np.array([0.0, -0.0, -1.5, 3e38, -3e38, 1e-45, -1e-45, 2.0], np.float32)
    np.testing.assert_array_equal(_ranks.ranks_on_host(x), stats.rankdata(x))
    np.testing.assert_array_equal(
        _ranks.ranks_on_host(x[::-1]), stats.rankdata(x[::-1])
    )


class TestSoftRanks:
    @pytest.mark.parametrize(
        ("soft", "hard"),
        [
            (comparisons.SoftSpearman, comparisons.Spearman()),
            (comparisons.SoftKendall, comparisons.KendallTauA()),
        ],
    )
    def test_a_small_width_gives_the_hard_value(self, float64, soft, hard):
        x, y = np.random.default_rng(0).gamma(2.0, size=(2, 45))
        expected = slow_ranked(hard, x, y)
        np.testing.assert_allclose(value(soft(1e-6), x, y), expected)

    @pytest.mark.parametrize("comparison", SOFT, ids=label)
    def test_gradient_is_numerical_but_for_the_spread(self, float64, comparison):
        x, y = np.random.default_rng(0).gamma(2, size=(2, 21))
        wide = dataclasses.replace(comparison, width=0.5)

        def form(direction):
            # Moves the spread neither: only the width counts as a constant.
            moved = x + direction * pattern
            centred = moved - jnp.mean(moved)
            return wide(centred / jnp.std(centred) * jnp.std(x), y)

        pattern = np.random.default_rng(1).normal(size=21)
        check_gradient(jax.jit(jax.value_and_grad(form)), np.zeros(()))

    @pytest.mark.parametrize("comparison", SOFT, ids=label)
    def test_blind_to_scale_and_zero_at_equality(self, comparison):
        x, y = np.random.default_rng(0).gamma(2.0, size=(2, 45)).astype(np.float32)
        moved = value(comparison, 3 * x + 1, y)
        np.testing.assert_allclose(value(comparison, x, y), moved, rtol=1e-4)
        np.testing.assert_allclose(value(comparison, x, 5 * x), 0, atol=1e-6)

    @pytest.mark.parametrize("comparison", SOFT, ids=label)
    def test_masked_pairs_do_not_count(self, float64, comparison):
        x, y = np.random.default_rng(0).gamma(2.0, size=(2, 45))
        keep = np.arange(45) % 4 > 0
        holes = np.where(keep, y, np.nan)
        found = value(comparison, x, holes, keep.astype(float))
        np.testing.assert_allclose(found, value(comparison, x[keep], y[keep]))

    @pytest.mark.parametrize("comparison", SOFT, ids=label)
    def test_descent_orders_the_distances(self, comparison):
        x, y = np.random.default_rng(0).gamma(2.0, size=(2, 45)).astype(np.float32)
        before = slow_ranked(comparisons.Spearman(), x, y)
        for _ in range(200):
            x = x - 5 * value_and_gradient(comparison, x, y)[1]
        assert slow_ranked(comparisons.Spearman(), x, y) < 0.2 * before

    def test_finite_for_constant_rdms(self):
        x, flat = np.arange(45, dtype=np.float32), np.full(45, 0.1, np.float32)
        for comparison in SOFT:
            for pair in ((x, flat), (flat, x), (flat, flat)):
                found, gradient = value_and_gradient(comparison, *pair)
                assert np.isfinite(found) and np.isfinite(gradient).all()


class TestWhitened:
    def covariance_of_distances(self, noise):
        n = len(noise)
        contrasts = np.zeros((n * (n - 1) // 2, n))
        for row, (i, j) in enumerate(itertools.combinations(range(n), 2)):
            contrasts[row, [i, j]] = 1, -1
        return (contrasts @ noise @ contrasts.T) ** 2

    @pytest.mark.parametrize("centred", [False, True])
    @pytest.mark.parametrize("identity", [False, True])
    def test_is_the_inner_product_of_the_inverse_covariance(
        self, float64, centred, identity
    ):
        noise = np.eye(7) if identity else precision(7)
        x, y = np.random.default_rng(0).gamma(2.0, size=(2, 21))
        inverse = np.linalg.inv(self.covariance_of_distances(noise))
        kind = comparisons.WhitenedPearson if centred else comparisons.WhitenedCosine
        found = value(kind(None if identity else noise), x, y)
        if centred:
            x, y = x - x.mean(), y - y.mean()
        cosine = x @ inverse @ y / np.sqrt((x @ inverse @ x) * (y @ inverse @ y))
        np.testing.assert_allclose(found, 1 - cosine)

    def test_of_squared_distances_it_is_linear_cka(self, float64):
        x, y = activations(10, 4), activations(10, 7, seed=1)

        @jax.jit
        def both(x, y):
            found = rdm.discrepancy(
                x,
                y,
                distance=distances.SquaredEuclidean(),
                comparison=comparisons.WhitenedCosine(),
            )
            return found, objectives.cka(x, y)

        np.testing.assert_allclose(*both(x, y))

    @pytest.mark.parametrize("comparison", WHITENED, ids=label)
    def test_gradient_equality_and_constants(self, float64, comparison):
        x, y = np.random.default_rng(0).gamma(2.0, size=(2, 21))
        check_gradient(lambda x: value_and_gradient(comparison, x, y), x)
        assert value(comparison, x, x) == 0
        for pair in ((x, 0 * x), (0 * x, x), (0 * x, 0 * x)):
            found, gradient = value_and_gradient(comparison, *pair)
            assert np.isfinite(found) and np.isfinite(gradient).all()

    def test_wrong_calls(self):
        x = np.arange(21.0)
        with pytest.raises(ValueError, match="no weights"):
            comparisons.WhitenedCosine()(x, x, np.ones(21))
        with pytest.raises(ValueError, match=r"7 stimuli \(7, 7\), got \(6, 6\)"):
            jax.eval_shape(comparisons.WhitenedCosine(np.eye(6)), x, x)


crossnobis = jax.jit(rdm.crossnobis)


class TestCrossnobis:
    def measurements(self, folds=4, n=6, units=5):
        rng = np.random.default_rng(0)
        return rng.normal(size=(n, units)) + rng.normal(size=(folds, n, units))

    def slow(self, x, inverse, measured=None):
        folds, n, _ = x.shape
        measured = np.ones((folds, n), bool) if measured is None else measured
        found = []
        for i, j in itertools.combinations(range(n), 2):
            both = np.flatnonzero(measured[:, i] & measured[:, j])
            values = [
                (x[a, i] - x[a, j]) @ inverse @ (x[b, i] - x[b, j])
                for a, b in itertools.permutations(both, 2)
            ]
            found.append(np.mean(values) if values else np.nan)
        return found

    def test_a_precision_of_each_fold(self, float64):
        x = self.measurements(folds=3)
        roots = np.random.default_rng(7).normal(size=(3, 5, 5))
        inverses = roots @ np.swapaxes(roots, 1, 2) + np.eye(5)
        measured = np.ones((3, 6), bool)
        measured[1, 4] = False

        def slow(i, j):
            found = []
            for a, b in itertools.combinations(range(3), 2):
                if measured[[a, b]][:, [i, j]].all():
                    covariances = np.linalg.inv(inverses[[a, b]])
                    inverse = np.linalg.inv(covariances.mean(axis=0))
                    found.append((x[a, i] - x[a, j]) @ inverse @ (x[b, i] - x[b, j]))
            return np.mean(found)

        expected = [slow(i, j) for i, j in itertools.combinations(range(6), 2)]
        np.testing.assert_allclose(crossnobis(x, inverses, measured), expected)
        same = np.stack([precision(5)] * 3)
        expected = self.slow(x, precision(5), measured)
        np.testing.assert_allclose(crossnobis(x, same, measured), expected)

    def test_equals_the_slow_form(self, float64):
        x, inverse = self.measurements(), precision(5)
        expected = self.slow(x, inverse)
        np.testing.assert_allclose(crossnobis(x, inverse), expected)
        found = crossnobis(x.reshape(4, 6, 1, 5))
        np.testing.assert_allclose(found, self.slow(x, np.eye(5)))

    def test_missing_stimuli(self, float64):
        x, inverse = self.measurements(), precision(5)
        measured = np.random.default_rng(1).uniform(size=(4, 6)) > 0.3
        measured[:, 0] = [True, False, False, False]
        holes = np.where(measured[..., None], x, np.nan)
        found = crossnobis(holes, inverse, measured)
        np.testing.assert_allclose(found, self.slow(x, inverse, measured))
        assert np.isnan(found[:5]).all() and np.isfinite(found[5:]).any()
        whole = crossnobis(x, inverse, np.ones((4, 6), bool))
        np.testing.assert_allclose(whole, crossnobis(x, inverse))

    def test_unbiased_under_noise(self):
        # The same patterns for all stimuli: only noise tells them apart.
        x = np.random.default_rng(0).normal(size=(200, 5, 8, 10)).astype(np.float32)
        found = np.asarray(jax.jit(jax.vmap(rdm.crossnobis))(x))
        error = found.std() / np.sqrt(200)
        assert abs(found.mean()) < 4 * error
        assert (found < 0).any()

    def test_gradient_is_numerical(self, float64):
        pattern = np.random.default_rng(1).normal(size=6)
        form = lambda x: pattern @ rdm.crossnobis(x, precision(5))  # noqa: E731
        check_gradient(jax.jit(jax.value_and_grad(form)), self.measurements(3, 4))

    def test_wrong_calls(self):
        x = self.measurements()
        with pytest.raises(ValueError, match="two folds"):
            rdm.crossnobis(x[:1])
        with pytest.raises(ValueError, match=r"\(5, 5\).*\(4, 4\)"):
            rdm.crossnobis(x, np.eye(4))
        with pytest.raises(
            ValueError, match=r"one for each fold \(4, 5, 5\).*\(3, 5, 5"
        ):
            rdm.crossnobis(x, np.ones((3, 5, 5)))
        skewed = np.stack([np.eye(5)] * 3 + [-np.eye(5)])
        assert np.isnan(rdm.crossnobis(x, skewed)).all()
        with pytest.raises(ValueError, match=r"measured \(4, 6\)"):
            rdm.crossnobis(x, None, np.ones((6, 4)))
        x[1, 2, 0] = np.nan
        assert np.isnan(rdm.crossnobis(x)).all()


class TestCondensed:
    def test_order_is_scipys(self, float64):
        matrix = scipy_distance.squareform(np.arange(1.0, 11))
        condense, square = jax.jit(rdm.condense), jax.jit(rdm.square)
        np.testing.assert_array_equal(condense(matrix), range(1, 11))
        np.testing.assert_array_equal(square(np.arange(1.0, 11)), matrix)

    @pytest.mark.parametrize("n", [2, 3, 256, 257, 300])
    def test_any_number_of_stimuli_with_gradients(self, n):
        rng = np.random.default_rng(0)
        vector = rng.normal(size=n * (n - 1) // 2).astype(np.float32)
        matrix = scipy_distance.squareform(vector)
        upper = rng.normal(size=(n, n)).astype(np.float32)

        @jax.jit
        def run(vector, matrix, upper):
            condensed, pull_condensed = jax.vjp(rdm.condense, matrix)
            square, pull_square = jax.vjp(rdm.square, vector)
            stack = jax.vmap(rdm.condense)(jnp.stack([matrix, 2 * matrix]))
            pulled = pull_condensed(vector)[0], pull_square(upper)[0]
            forward = jax.jvp(rdm.square, (vector,), (2 * vector,))[1]
            back = jax.jvp(rdm.condense, (matrix,), (2 * matrix,))[1]
            return condensed, square, stack, forward, back, *pulled

        found = run(vector, matrix, upper)
        condensed, square, stack, forward, back, of_vector, of_upper = found
        np.testing.assert_array_equal(forward, 2 * matrix)
        np.testing.assert_array_equal(back, 2 * vector)
        np.testing.assert_array_equal(square, matrix)
        np.testing.assert_array_equal(condensed, vector)
        np.testing.assert_array_equal(stack, [vector, 2 * vector])
        np.testing.assert_array_equal(of_vector, np.triu(matrix))
        both = np.triu(upper, 1) + np.tril(upper, -1).T
        expected = both[np.triu_indices(n, 1)]
        np.testing.assert_allclose(of_upper, expected, rtol=1e-6)

    def test_of_every_kind(self):
        """Flags stay flags, and no number is wrapped."""
        flags = np.arange(10) % 3 > 0
        square = scipy_distance.squareform(flags.astype(float)) > 0
        found = jax.jit(rdm.condense)(square)
        assert found.dtype == bool
        np.testing.assert_array_equal(found, flags)
        with pytest.raises(ValueError, match="int32 can hold, got 1 to 4294967296"):
            rdm.square(np.array([1, 2**32, 3]))
        with pytest.raises(ValueError, match="give them as floats"):
            rdm.condense(np.full((3, 3), -(2**40)))

    def test_what_is_no_rdm(self):
        with pytest.raises(ValueError, match="45 stimuli have 990, 46 have 1035"):
            rdm.square(np.ones(1000))
        with pytest.raises(ValueError, match=r"\(3, 4\)"):
            rdm.condense(np.ones((3, 4)))
        with pytest.raises(ValueError, match=r"\[pairs\].*\(3, 3\)"):
            rdm.square(np.ones((3, 3)))

    def test_stimuli(self):
        assert [rdm.stimuli(p) for p in (1, 3, 4186, 19900)] == [2, 3, 92, 200]
        assert rdm.stimuli(99_999 * 100_000 // 2) == 100_000
        for impossible in (0, 2, 4, 4185):
            with pytest.raises(ValueError, match=str(impossible)):
                rdm.stimuli(impossible)


sample_pairs = jax.jit(rdm.sample_pairs, static_argnames=("batch", "count"))


class TestSamplePairs:
    def test_two_different_stimuli_in_order(self):
        pairs = sample_pairs(jax.random.key(0), 5, 1000)
        assert pairs.shape == (2, 1000) and pairs.dtype == jnp.int32
        pairs = np.asarray(pairs)
        assert (pairs[0] < pairs[1]).all()
        assert (pairs >= 0).all() and (pairs < 5).all()

    def test_all_pairs_alike(self):
        pairs = sample_pairs(jax.random.key(1), 5, 20_000)
        _, counts = np.unique(np.asarray(pairs), axis=1, return_counts=True)
        assert len(counts) == 10
        assert stats.chisquare(counts).pvalue > 1e-3

    def test_of_a_huge_batch(self):
        pairs = np.asarray(sample_pairs(jax.random.key(1), 100_000, 64))
        assert (pairs[0] < pairs[1]).all() and (pairs >= 0).all()

    @pytest.mark.parametrize(
        "given", [(1, 5), (5, 0), (4.5, 3), (5, 2.0), (np.float32(5), 3)]
    )
    def test_refuses_what_is_no_number_of_them(self, given):
        with pytest.raises(ValueError, match="must be a whole number of . or more, go"):
            rdm.sample_pairs(jax.random.key(0), *given)

    def test_refuses_a_number_that_is_traced(self):
        draw = functools.partial(rdm.sample_pairs, jax.random.key(0))
        with pytest.raises(ValueError, match="number of stimuli must be concrete"):
            jax.jit(lambda n: draw(n, 3))(5)


class TestNumbers:
    """Of Python and NumPy they are refused; arrays of JAX give NaN."""

    @pytest.mark.parametrize("kind", [float, np.float32, np.array])
    def test_out_of_range(self, kind):
        x, (a, b) = activations(), rdms_for(SOFT[0])
        for bad in (0.0, -0.2, np.nan, np.inf):
            for soft in (comparisons.SoftSpearman, comparisons.SoftKendall):
                with pytest.raises(ValueError, match="width must be .* above 0"):
                    rdm.compare(a, b, comparison=soft(kind(bad)))
            with pytest.raises(ValueError, match="prior rate must be .* above 0"):
                rdm.compute(x, distance=distances.PoissonKL(kind(bad)))
        with pytest.raises(ValueError, match="prior weight must be .* of 0 or more"):
            rdm.compute(x, distance=distances.PoissonKL(1.0, kind(-0.1)))
        with pytest.raises(ValueError, match="a finite number above 0, got 1j"):
            rdm.compare(a, b, comparison=comparisons.SoftKendall(1j))
        with pytest.raises(ValueError, match="whole number of 0 or more, got .*1.5"):
            rdm.compute(x, refine=kind(1.5))

    def test_out_of_range_inside(self):
        for one in SOFT:
            negative = dataclasses.replace(one, width=-0.2)
            found, gradient = value_and_gradient(negative, *rdms_for(one))
            assert np.isnan(found) and np.isnan(gradient).all()
        for soft in (comparisons.SoftSpearman, comparisons.SoftKendall):
            a, b = rdms_for(SOFT[0])
            assert np.isnan(rdm.compare(a, b, comparison=soft(jnp.float32(-0.2))))
        x = activations().astype(np.float32)
        for prior in (-1.0, 0.1), (1.0, -0.5):
            found = of_distance(x, distances.PoissonKL(*prior))
            assert np.isnan(found[0]).all() and np.isnan(found[3][1]).all()

    def check_weight_below_0(self, comparison):
        x, y = rdms_for(comparison)
        form = jax.jit(lambda w: rdm.compare(x, y, w, comparison=comparison))
        assert np.isnan(form(np.where(np.arange(x.size) == 3, -1, x)))

    def test_a_weight_below_0_inside(self):
        self.check_weight_below_0(comparisons.MSE())
        self.check_weight_below_0(comparisons.KendallTauA())

    @pytest.mark.slow
    def test_a_weight_below_0_inside_every_comparison(self):
        for comparison in EVERY[:-2]:
            self.check_weight_below_0(comparison)

    def test_pairs_of_no_stimulus_inside(self):
        x = activations().astype(np.float32)
        given = np.array([[0, 5, 3, 2], [1, 8, -3, 7]])

        @jax.jit
        def found(x, pairs):
            own = rdm.compute(x, pairs)
            return own, rdm.discrepancy(x, x[::-1], pairs), objectives.rdl(x, x, pairs)

        own, *whole = found(x, given)
        expected = ORACLES["Cosine"](x)[[0, 17]]
        np.testing.assert_allclose(own[np.array([0, 3])], expected, rtol=1e-4)
        assert np.isnan(own[1:3]).all() and np.isnan(whole).all()
        outside = rdm.compute(x, given)
        np.testing.assert_array_equal(np.isnan(outside), [False, True, True, False])
        assert np.isnan(rdm.compute(x, np.array([[0], [2**32 + 1]], np.int64)))

    def test_units_beyond_float32(self):
        a, b = np.random.default_rng(3).uniform(1, 2, (2, 15))
        for one in (comparisons.Pearson(), comparisons.Spearman(), SOFT[0]):
            expected = rdm.compare(a, b, comparison=one)
            for unit in (1e-300, 1e-44, 1e300):
                found = rdm.compare(unit * a, b * unit, comparison=one)
                np.testing.assert_allclose(found, expected, rtol=1e-5)
        for unit in (1e-300, 1e300):
            with pytest.raises(ValueError, match="distances that float32 can hold"):
                rdm.compare(unit * a, unit * b, comparison=comparisons.MSE())
            with pytest.raises(ValueError, match="activations that float32 can hold"):
                rdm.compute(unit * activations())

    def test_activations_of_other_kinds(self):
        x = activations()
        wide = (2**40 * x).astype(np.int64)
        found = jax.jit(lambda: rdm.compute(wide, distance=make("Correlation")))()
        np.testing.assert_allclose(found, ORACLES["Correlation"](wide), rtol=1e-4)
        for refused in (x + 1j, np.full((8, 6), "a"), np.full((8, 6), None)):
            for form in (
                rdm.compute,
                lambda x: rdm.discrepancy(x, x),
                lambda x: rdm.compare(x[0], x[0]),
                lambda x: rdm.crossnobis(np.stack([x, x])),
            ):
                with pytest.raises(ValueError, match="real numbers, got"):
                    form(refused)
        with pytest.raises(ValueError, match="weights that are real numbers, got comp"):
            rdm.compare(x[0], x[1], np.ones(6) * 1j)


class TestConstantsInside:
    """What a traced function closes over is taken as its arguments are."""

    traced = pytest.mark.parametrize(
        "trace",
        [
            pytest.param(lambda form, x: jax.eval_shape(form, x), id="jit"),
            pytest.param(
                lambda form, x: jax.eval_shape(jax.grad(form), x), id="grad", marks=SLOW
            ),
            pytest.param(
                lambda form, x: jax.eval_shape(jax.vmap(form), jnp.stack([x, x])),
                id="vmap",
                marks=SLOW,
            ),
            pytest.param(
                lambda form, x: jax.lax.scan(lambda c, x: (c, form(x)), 0, x[None]),
                id="scan",
                marks=SLOW,
            ),
        ],
    )

    @traced
    def test_are_taken(self, trace):
        x = jnp.asarray(activations(), jnp.float32)
        measured = jnp.arange(28, dtype=jnp.float32)
        weights = measured % 2
        for name in NAMES_OF_DISTANCES:
            distance = make(name)
            if name == "Mahalanobis":
                distance = distances.Mahalanobis(jnp.asarray(precision()))
            trace(lambda a, d=distance: rdm.discrepancy(a, x, distance=d), x)
            trace(lambda a, d=distance: jnp.sum(a + rdm.compute(x, distance=d)[0]), x)
        for comparison in EVERY:
            masking = None if comparison in WHITENED else weights

            def against(a, c=comparison, w=masking):
                own = rdm.compare(measured, measured[::-1], w, comparison=c)
                return own + rdm.compare(rdm.compute(a), measured, w, comparison=c)

            trace(against, x)
        folds, inverse = jnp.stack([x, x]), jnp.asarray(precision())
        trace(lambda a: jnp.sum(a) + jnp.sum(rdm.crossnobis(folds, inverse)), x)

    def test_are_not_looked_at(self):
        x = jnp.asarray(activations(), jnp.float32)
        hole = x.at[2, 3].set(jnp.nan)
        measured = rdm.condense(hole @ hole.T)
        negative = -jnp.arange(28.0)
        found = jax.jit(
            lambda a: [
                rdm.discrepancy(a, hole),
                rdm.compare(rdm.compute(a), measured),
                rdm.discrepancy(a, x, weights=negative),
            ]
        )(x)
        assert np.isnan(found).all()


STRICT = [
    ("bfloat16", "float32"),
    pytest.param(("float32", "bfloat16"), marks=SLOW),
    pytest.param(("float32", "float64"), marks=SLOW),
]


def strictly(form, *given):
    """Traces value and gradient without one implicit change of a dtype."""
    with jax.numpy_dtype_promotion("strict"):
        return jax.eval_shape(jax.value_and_grad(form), *given)[0].dtype


@pytest.mark.parametrize("dtypes", STRICT, ids=str)
class TestStrictPromotion:
    def check(self, dtypes, **chosen):
        x, y = (jnp.zeros((8, 6), dtype) for dtype in dtypes)
        form = functools.partial(rdm.discrepancy, **chosen)
        assert strictly(form, x, y) == jnp.float32

    def test_of_forms(self, float64, dtypes):
        for form in (forms.Dense(), forms.Moments(), forms.Tiles(3)):
            self.check(dtypes, form=form)
        self.check(dtypes, form=forms.Tiles(3), weights=jnp.ones(28, jnp.int32))
        self.check(dtypes, pairs=jnp.asarray(PAIRS), distance=distances.PoissonKL())

    @pytest.mark.slow
    @pytest.mark.parametrize("name", NAMES_OF_DISTANCES)
    def test_of_distances(self, float64, dtypes, name):
        for form in (None, forms.Tiles(3)):
            self.check(dtypes, form=form, distance=make(name))
        self.check(dtypes, pairs=jnp.asarray(PAIRS), distance=make(name))

    def test_of_comparisons(self, float64, dtypes):
        x, y = (jnp.zeros(28, dtype) for dtype in dtypes)
        for comparison in EVERY:
            assert strictly(comparison, x, y) == jnp.float32
        weights = jnp.ones(28, jnp.float64)
        for comparison in (EVERY[1], RANKED[0], comparisons.SoftKendall(np.ones(()))):
            form = functools.partial(rdm.compare, comparison=comparison)
            assert strictly(lambda x, y, f=form: f(x, y, weights), x, y) == jnp.float32

    def test_of_crossvalidated_distances(self, float64, dtypes):
        x = jnp.zeros((2, 8, 6), dtypes[0])
        other = jnp.stack([jnp.eye(6, dtype=dtypes[1])] * 2)
        form = lambda x, p: jnp.sum(rdm.crossnobis(x, p))  # noqa: E731
        assert strictly(form, x, other) == strictly(form, x, other[0]) == jnp.float32


@pytest.mark.slow
def test_no_step_on_the_way_is_nan():
    """Operation by operation, at what is degenerate."""
    x = activations().astype(np.float32)
    x[[1, 4]], x[5] = 0, x[6]
    flat = np.zeros(28, np.float32)
    measured = np.random.default_rng(0).gamma(2.0, size=28).astype(np.float32)
    with jax.debug_nans(True):
        for name in NAMES_OF_DISTANCES:
            form = functools.partial(rdm.discrepancy, distance=make(name))
            jax.value_and_grad(form)(x, x[::-1].copy())
        for comparison in EVERY:
            for a, b in itertools.permutations([flat, flat + 1, measured], 2):
                jax.value_and_grad(comparison)(a, b)


compare = jax.jit(rdm.compare)


@jax.jit
def by_most_comparisons(x, y):
    chosen = [*COMPARISONS[:3], *SOFT, *WHITENED]
    return [rdm.compare(x, y, comparison=one) for one in chosen]


def by_every_comparison(x, y):
    """Outside jit where that compiles nothing."""
    ranked = [rdm.compare(x, y, comparison=one) for one in RANKED]
    return [*by_most_comparisons(x, y), *ranked]


class TestWhatIsCompared:
    @pytest.mark.parametrize("dtype", [np.int32, np.float16, jnp.bfloat16])
    def test_is_computed_in_float32(self, dtype):
        ratings = np.random.default_rng(0).integers(1, 9, size=(2, 45))
        found = by_every_comparison(*ratings.astype(dtype))
        expected = by_every_comparison(*ratings.astype(np.float32))
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == jnp.float32 and one > 0
            np.testing.assert_allclose(one, other, rtol=1e-6)

    @pytest.mark.parametrize("name", NAMES_OF_COMPARISONS)
    def test_what_was_not_measured_needs_weight_0(self, name):
        comparison = getattr(comparisons, name)()
        x = np.arange(45, dtype=np.float32)
        y = x[::-1].copy()
        x[3] = np.nan
        form = functools.partial(compare, comparison=comparison)
        assert np.isnan(form(y, x)) and np.isnan(form(x, y))
        if not name.startswith("Whitened"):
            weights = np.ones(45, np.float32)
            weights[3] = 0
            # Outside jit the cheapest of them.
            run = rdm.compare if name in ("MSE", "Spearman") else compare
            assert run(y, x, weights, comparison=comparison) > 0
            assert np.isnan(compare(y, y, -weights, comparison=comparison))
            weights[5] = np.inf
            assert np.isnan(compare(y, y, weights, comparison=comparison))

    @pytest.mark.slow
    @pytest.mark.parametrize("name", NAMES_OF_COMPARISONS)
    def test_outside_jit_what_has_weight_0_may_be_missing(self, name):
        comparison = getattr(comparisons, name)()
        if name.startswith("Whitened"):
            return
        x, weights = np.arange(45, dtype=np.float32), np.ones(45, np.float32)
        y = x[::-1].copy()
        x[3], weights[3] = np.nan, 0
        found = rdm.compare(y, x, weights, comparison=comparison)
        expected = compare(y, x, weights, comparison=comparison)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


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
            rdm.compute(np.zeros(shape))

    @pytest.mark.parametrize(
        "pairs", [np.zeros((3, 4), int), np.zeros((2, 4)), np.zeros(2, int)]
    )
    def test_wrong_pairs(self, pairs):
        with pytest.raises(ValueError, match="pairs must be integers"):
            rdm.compute(activations(), pairs)

    def test_values_that_no_rdm_has(self):
        x = activations()
        hole = x.copy()
        hole[[2, 5], 1] = np.nan, np.inf
        found = np.asarray(rdm.square(rdm.compute(hole)))
        assert np.isnan(found[[2, 5]]).sum() == 2 * 7
        with pytest.raises(ValueError, match="three stimuli or more"):
            rdm.discrepancy(x[:2], x[:2])
        with pytest.raises(ValueError, match="8 of the student .* 7 of the teacher"):
            rdm.discrepancy(x, x[:7])
        assert np.isnan(rdm.compute(x - 5, distance=distances.PoissonKL())).any()
        singular = distances.Mahalanobis(np.ones((6, 6)) - 2 * np.eye(6))
        assert np.isnan(rdm.compute(x, distance=singular)).all()
        for refine, pairs in ((-1, None), (3, np.array([[0], [1]]))):
            with pytest.raises(ValueError, match="refine"):
                rdm.compute(x, pairs, refine=refine)
        with pytest.raises(ValueError, match="pairs must be integers"):
            rdm.discrepancy(x, x, np.array([0, 1]), np.ones(2))
        with pytest.raises(ValueError, match="28 pairs"):
            rdm.discrepancy(x, x, weights=np.ones(8))

    def test_other_values_pass(self, float64):
        x, y = activations(), activations(seed=1)
        own, other = (scipy_distance.pdist(a, "cosine") for a in (x, y))
        np.testing.assert_allclose(rdm.compute(x), own)
        found = rdm.discrepancy(x, y)
        np.testing.assert_allclose(found, 1 - stats.pearsonr(own, other).statistic)
        folds = np.stack([x, y])
        np.testing.assert_allclose(rdm.crossnobis(folds), crossnobis(folds))

    @pytest.mark.parametrize("trace", [jax.jit, lambda form: form])
    def test_what_is_not_finite_or_constant(self, trace):
        x, form = activations().astype(np.float32), trace(rdm.discrepancy)
        hole, same = x.copy(), np.ones((8, 6), np.float32)
        hole[2, 1] = np.nan
        assert np.isnan(form(x, hole))
        np.testing.assert_allclose(form(x, same), 1)
        assert form(same, same) == 0

    def test_a_precision_that_is_not_symmetric_counts_as_the_mean_of_both_triangles(
        self,
    ):
        skewed = np.eye(6) + np.eye(6, k=1) / 2
        for form in (
            lambda p: rdm.compute(activations(), distance=distances.Mahalanobis(p)),
            lambda p: rdm.crossnobis(np.stack([activations(), activations()]), p),
        ):
            found, expected = form(skewed), form((skewed + skewed.T) / 2)
            np.testing.assert_array_equal(found, expected)

    def test_wrong_precision(self):
        with pytest.raises(ValueError, match=r"\(6, 6\).*\(3, 3\)"):
            rdm.compute(activations(), distance=distances.Mahalanobis(np.eye(3)))


def test_no_two_classes_have_one_structure():
    # With equal structures jit would now and then run one with the program of another.
    made = [comparisons.MSE(comparisons.by_norm), mmd.Polynomial(3), forms.Tiles(7)]
    made += [make(name) for name in NAMES_OF_DISTANCES]
    made += [getattr(comparisons, name)() for name in NAMES_OF_COMPARISONS]
    made += [getattr(forms, name)() for name in ("Dense", "Moments", "Tiles")]
    for name in mmd.__all__:
        if dataclasses.is_dataclass(getattr(mmd, name)):
            made.append(getattr(mmd, name)())
    structures = [jax.tree.structure(one) for one in made]
    for (i, one), (j, other) in itertools.combinations(enumerate(structures), 2):
        assert one != other, (made[i], made[j])
    for one in made:
        # (Arrays of a Mahalanobis distance have no one truth value.)
        assert "Mahalanobis" in str(one) or jax.tree.map(lambda x: x, one) == one


def test_dataclasses_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        distances.PoissonKL().prior_rate = 2.0
