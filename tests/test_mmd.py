"""Maximum mean discrepancy: kernels and estimates against sums over all pairs."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util

from rdljax import mmd


def draw(n, seed, units=3, shift=0.0):
    return np.random.default_rng(seed).normal(shift, 1, (n, units))


def distance(a, b):
    return np.linalg.norm(a - b)


def slow(x, y, kernel, biased=True):
    def mean(xs, ys, same):
        return np.mean(
            [
                kernel(a, b)
                for i, a in enumerate(xs)
                for j, b in enumerate(ys)
                if biased or not same or i != j
            ]
        )

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def several(a, b):
    return np.mean([np.exp(-(distance(a, b) ** 2) / 2 / w**2) for w in (0.5, 1, 4)])


KERNELS = {
    "linear": (mmd.Linear(), lambda a, b: a @ b),
    "polynomial": (mmd.Polynomial(), lambda a, b: (a @ b) ** 2),
    "offset": (mmd.Polynomial(offset=0.7), lambda a, b: (a @ b + 0.7) ** 2),
    "cubic": (mmd.Polynomial(degree=3, offset=1.0), lambda a, b: (a @ b + 1) ** 3),
    "gaussian": (
        mmd.Gaussian(0.8),
        lambda a, b: np.exp(-(distance(a, b) ** 2) / 2 / 0.8**2),
    ),
    "several widths": (mmd.Gaussian((0.5, 1.0, 4.0)), several),
    "laplace": (mmd.Laplace(0.8), lambda a, b: np.exp(-distance(a, b) / 0.8)),
    "inverse multiquadric": (
        mmd.InverseMultiquadric(0.8),
        lambda a, b: 1 / np.sqrt(1 + distance(a, b) ** 2 / 0.8**2),
    ),
}
every = pytest.mark.parametrize("name", KERNELS)


@every
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("units", [3, 20])
def test_equals_the_sum_over_all_pairs(float64, name, biased, units):
    kernel, form = KERNELS[name]
    x, y = draw(7, 0, units), draw(9, 1, units, shift=0.3)
    estimate = mmd.biased if biased else mmd.unbiased
    np.testing.assert_allclose(
        estimate(x, y, kernel=kernel), slow(x, y, form, biased), rtol=1e-10, atol=1e-14
    )


@every
def test_the_kernel_matrix(float64, name):
    kernel, form = KERNELS[name]
    x = draw(5, 0)
    expected = [[form(a, b) for b in x] for a in x]
    np.testing.assert_allclose(kernel(jnp.asarray(x)), expected, rtol=1e-10)


@pytest.mark.parametrize("scale", [mmd.by_median, mmd.by_mean])
@pytest.mark.parametrize("kernel", [mmd.Gaussian, mmd.Laplace, mmd.InverseMultiquadric])
def test_a_width_from_the_data_is_that_of_both_samples_together(float64, scale, kernel):
    x, y = draw(7, 0), draw(9, 1, shift=2.0)
    both = np.concatenate([x, y])
    distances = [distance(both[i], both[j]) for i in range(16) for j in range(i)]
    unit = {
        mmd.by_median: np.median(distances),
        mmd.by_mean: np.sqrt(np.mean(np.square(distances))),
    }[scale]
    np.testing.assert_allclose(
        mmd.biased(x, y, kernel=kernel(1.5, scale)),
        mmd.biased(x, y, kernel=kernel(1.5 * unit)),
    )
    # And so the discrepancy is blind to a common scale of the samples.
    np.testing.assert_allclose(
        mmd.biased(5 * x, 5 * y, kernel=kernel(1.5, scale)),
        mmd.biased(x, y, kernel=kernel(1.5, scale)),
    )


@every
def test_zero_for_equal_samples_and_positive_for_others(float64, name):
    kernel, _ = KERNELS[name]
    x = jnp.asarray(draw(7, 0))
    value, gradient = jax.value_and_grad(mmd.biased)(x, x, kernel=kernel)
    assert abs(value) < 1e-12 and abs(gradient).max() < 1e-12
    assert mmd.biased(x, x[::-1], kernel=kernel) < 1e-12
    assert mmd.biased(x, x + 1, kernel=kernel) > 1e-3


@every
def test_the_unbiased_estimate_is_right_on_average(float64, name):
    # For samples of one distribution the biased one is above 0, the unbiased is not.
    kernel, _ = KERNELS[name]
    samples = np.random.default_rng(0).normal(size=(2, 3000, 4, 3))
    found = {
        estimate: np.asarray(
            jax.vmap(functools.partial(estimate, kernel=kernel))(*samples)
        )
        for estimate in (mmd.biased, mmd.unbiased)
    }
    error = {e: v.std() / np.sqrt(len(v)) for e, v in found.items()}
    assert abs(found[mmd.unbiased].mean()) < 4 * error[mmd.unbiased]
    assert found[mmd.biased].mean() > 10 * error[mmd.biased]


@every
def test_gradients_are_numerical_and_finite_where_rows_repeat(float64, name):
    kernel, _ = KERNELS[name]
    form = functools.partial(mmd.biased, kernel=kernel)
    x, y = jnp.asarray(draw(4, 0)), jnp.asarray(draw(5, 1))
    test_util.check_grads(form, (x, y), order=1, modes=["fwd", "rev"])
    repeated = jnp.zeros((4, 3)).at[0].set(1)
    assert jnp.isfinite(jax.grad(form)(repeated, repeated)).all()


@pytest.mark.parametrize("scale", [mmd.by_median, mmd.by_mean])
def test_a_sample_without_any_width(scale):
    same = jnp.ones((4, 3))
    kernel = mmd.Gaussian(scale=scale)
    value, gradient = jax.value_and_grad(mmd.biased)(same, same, kernel=kernel)
    assert value == 0 and jnp.isfinite(gradient).all()


def test_a_kernel_may_be_traced_and_is_not_retraced():
    traces = []

    @jax.jit
    def form(x, y, kernel):
        traces.append(kernel)
        return mmd.biased(x, y, kernel=kernel)

    x, y = draw(5, 0), draw(6, 1)
    for width in (0.5, 0.7):
        expected = mmd.biased(x, y, kernel=mmd.Gaussian(width))
        np.testing.assert_allclose(form(x, y, mmd.Gaussian(width)), expected, rtol=1e-5)
    assert len(traces) == 1


def test_any_function_is_a_kernel(float64):
    x, y = draw(5, 0), draw(6, 1)
    found = mmd.biased(x, y, kernel=lambda z: jnp.cos(z @ z.T))
    np.testing.assert_allclose(found, slow(x, y, lambda a, b: np.cos(a @ b)))


@pytest.mark.parametrize("estimate", [mmd.biased, mmd.unbiased])
def test_wrong_calls(estimate):
    x = np.ones((4, 3))
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(4, 2\)"):
        estimate(x, np.ones((4, 2)))
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(3,\)"):
        estimate(x, np.ones(3))
    for kernel in (mmd.Gaussian, "gaussian"):
        with pytest.raises(ValueError, match=r"expected a kernel of rdljax.mmd"):
            estimate(x, x, kernel=kernel)


def test_an_unbiased_estimate_wants_two_rows():
    with pytest.raises(ValueError, match=r"two rows or more, got \(1, 3\)"):
        mmd.unbiased(np.ones((1, 3)), np.ones((4, 3)))


@every
@pytest.mark.parametrize("block", [4, 16, 64])
def test_tile_by_tile(float64, name, block):
    kernel, form = KERNELS[name]
    x, y = draw(7, 0), draw(9, 1, shift=0.3)
    for estimate, biased in ((mmd.biased, True), (mmd.unbiased, False)):
        streamed = functools.partial(estimate, kernel=kernel, block=block)
        expected = slow(x, y, form, biased)
        np.testing.assert_allclose(streamed(x, y), expected, rtol=1e-9, atol=1e-13)
        whole = functools.partial(estimate, kernel=kernel)
        for side in (0, 1):
            a, b = (jax.grad(f, argnums=side)(x, y) for f in (streamed, whole))
            np.testing.assert_allclose(a, b, atol=1e-10)


@every
def test_linear_time(float64, name):
    kernel, form = KERNELS[name]
    x, y = draw(9, 0), draw(9, 1, shift=0.3)
    expected = np.mean(
        [
            form(x[i], x[i + 1])
            + form(y[i], y[i + 1])
            - form(x[i], y[i + 1])
            - form(x[i + 1], y[i])
            for i in (0, 2, 4, 6)
        ]
    )
    found = mmd.linear_time(x, y, kernel=kernel)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_linear_time_is_unbiased():
    kernel = mmd.Gaussian(1.0)
    x, y = (jnp.asarray(draw(4000, s, shift=0.5 * s), jnp.float32) for s in (0, 1))
    quadratic = mmd.unbiased(x[:1000], y[:1000], kernel=kernel)
    linear = mmd.linear_time(x, y, kernel=kernel)
    np.testing.assert_allclose(linear, quadratic, atol=0.02)


def test_no_kernel_matrix_is_built():
    x = jax.ShapeDtypeStruct((20_000, 8), jnp.float32)
    form = functools.partial(mmd.biased, kernel=mmd.Gaussian(), block=512)
    compiled = jax.jit(jax.value_and_grad(form)).lower(x, x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 40_000**2 * 4 / 100


class TestWidthsThatFollowFromTheData:
    def test_fitted_is_what_the_whole_sample_gives(self, float64):
        x, y = draw(7, 0), draw(9, 1)
        pooled = np.concatenate([x, y])
        for scale in (mmd.by_median, mmd.by_mean):
            kernel = mmd.Gaussian((0.5, 1.0), scale)
            fitted = kernel.fitted(pooled)
            assert fitted.scale is None
            np.testing.assert_allclose(kernel(pooled), fitted(pooled))
            found = mmd.unbiased(x, y, kernel=fitted, block=4)
            np.testing.assert_allclose(found, mmd.unbiased(x, y, kernel=kernel))
        assert mmd.Gaussian(2.0).fitted(x) == mmd.Gaussian(2.0)

    def test_is_refused_where_not_all_data_is_at_hand(self):
        x, kernel = draw(8, 0), mmd.Laplace(1.0, mmd.by_median)
        with pytest.raises(ValueError, match="Laplace.*kernel.fitted"):
            mmd.linear_time(x, x, kernel=kernel)
        with pytest.raises(ValueError, match="Laplace.*kernel.fitted"):
            mmd.biased(x, x, kernel=kernel, block=4)


class TestPermutations:
    def test_value_and_p_value_by_hand(self, float64):
        x, y = draw(4, 0), draw(3, 1, shift=1.5)
        kernel = mmd.Gaussian(1.0, mmd.by_median)
        found = mmd.permutation_test(
            jax.random.key(0), x, y, kernel=kernel, permutations=4000
        )
        np.testing.assert_allclose(found.value, mmd.unbiased(x, y, kernel=kernel))
        pooled = np.concatenate([x, y])
        values = []
        for first in itertools.combinations(range(7), 4):
            rest = np.delete(pooled, first, axis=0)
            values.append(mmd.unbiased(pooled[list(first)], rest, kernel=kernel))
        exact = np.mean(np.asarray(values) >= found.value - 1e-12)
        np.testing.assert_allclose(found.p_value, exact, atol=0.03)

    def test_p_values_are_uniform_without_a_difference(self):
        def p_value(key):
            data, test = jax.random.split(key)
            x, y = jax.random.normal(data, (2, 12, 3))
            return mmd.permutation_test(
                test, x, y, kernel=mmd.Gaussian(), permutations=99
            ).p_value

        values = jax.vmap(p_value)(jax.random.split(jax.random.key(0), 400))
        assert abs(jnp.mean(values <= 0.05) - 0.05) < 0.04
        assert abs(jnp.mean(values) - 0.5) < 0.06

    def test_wrong_calls(self):
        with pytest.raises(ValueError, match="one permutation"):
            mmd.permutation_test(jax.random.key(0), draw(1, 0), draw(3, 1))
        with pytest.raises(ValueError, match="finite rows"):
            mmd.biased(draw(3, 0) * np.inf, draw(3, 1))
        with pytest.raises(ValueError, match="rows in both"):
            mmd.biased(draw(0, 0), draw(3, 1))
        with pytest.raises(ValueError, match="one row or more"):
            mmd.biased(draw(3, 0), draw(3, 1), block=0)
        with pytest.raises(ValueError, match="one of the kernels"):
            mmd.linear_time(draw(3, 0), draw(3, 1), kernel=lambda x: x @ x.T)
        with pytest.raises(ValueError, match="as many of each"):
            mmd.linear_time(draw(4, 0), draw(3, 1))
