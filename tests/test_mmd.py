"""Maximum mean discrepancy: kernels and estimates against sums over all pairs.

A kernel's tests share two programs, of samples of different and of one size.
"""

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
SLOW = pytest.mark.slow
biased, unbiased = (
    jax.jit(estimate, static_argnames=("kernel", "block"))
    for estimate in (mmd.biased, mmd.unbiased)
)


def some(*now):
    """These kernels now, all others with `-m slow`."""
    marks = {name: [] if name in now else SLOW for name in KERNELS}
    return [pytest.param(name, marks=marks[name]) for name in KERNELS]


def values_and_gradients(x, y, kernel, block=None):
    """By both estimates: the biased one first."""
    return [
        jax.value_and_grad(estimate, argnums=(0, 1))(x, y, kernel=kernel, block=block)
        for estimate in (mmd.biased, mmd.unbiased)
    ]


@functools.partial(jax.jit, static_argnames="name")
def found(x, y, moves, name):
    """Values and gradients, the biased value with its slope, and the matrix of x."""
    kernel = KERNELS[name][0]
    form = functools.partial(mmd.biased, kernel=kernel)
    slope = jax.jvp(form, (x, y), moves)
    return values_and_gradients(x, y, kernel), slope, kernel(x)


def two_samples(units=3):
    return draw(7, 0, units), draw(9, 1, units, shift=0.3)


@functools.partial(jax.jit, static_argnames="name")
def of_one_size(x, y, name):
    """Value and gradients of the biased estimate, and the estimate in linear time."""
    kernel = KERNELS[name][0]
    form = jax.value_and_grad(mmd.biased, argnums=(0, 1))
    return *form(x, y, kernel=kernel), mmd.linear_time(x, y, kernel=kernel)


def check_equals_the_sum(name, units):
    x, y = two_samples(units)
    for (value, _), is_biased in zip(found(x, y, (x, y), name)[0], (1, 0), strict=True):
        expected = slow(x, y, KERNELS[name][1], is_biased)
        np.testing.assert_allclose(value, expected, rtol=1e-10, atol=1e-14)


@every
def test_equals_the_sum_over_all_pairs(float64, name):
    check_equals_the_sum(name, units=3)


@pytest.mark.slow
@every
def test_the_same_without_jit(float64, name):
    x, y = two_samples()
    kernel, form = KERNELS[name]
    given = {"kernel": kernel}
    values = mmd.biased(x, y, **given), mmd.unbiased(x, y, **given)
    expected = slow(x, y, form), slow(x, y, form, False)
    np.testing.assert_allclose(values, expected, rtol=1e-10, atol=1e-14)
    linear = mmd.linear_time(x, x[::-1], **given)
    np.testing.assert_allclose(linear, jax.jit(mmd.linear_time)(x, x[::-1], **given))


# (Of more units than rows, a polynomial takes another way; the others have one.)
@pytest.mark.parametrize("name", some("polynomial", "offset", "cubic"))
def test_equals_the_sum_where_units_are_many(float64, name):
    check_equals_the_sum(name, units=20)


@every
def test_the_kernel_matrix(float64, name):
    x, y = two_samples()
    expected = [[KERNELS[name][1](a, b) for b in x] for a in x]
    _, _, matrix = found(x, y, (x, y), name)
    np.testing.assert_allclose(matrix, expected, rtol=1e-10)


@pytest.mark.parametrize("scale", [mmd.by_median, mmd.by_mean])
@pytest.mark.parametrize(
    ("kernel", "form"),
    [
        (mmd.Gaussian, lambda t: np.exp(-(t**2) / 2)),
        (mmd.Laplace, lambda t: np.exp(-t)),
        (mmd.InverseMultiquadric, lambda t: 1 / np.sqrt(1 + t**2)),
    ],
)
def test_a_width_from_the_data_is_that_of_both_samples_together(
    float64, scale, kernel, form
):
    x, y = draw(7, 0), draw(9, 1, shift=2.0)
    both = np.concatenate([x, y])
    distances = [distance(both[i], both[j]) for i in range(16) for j in range(i)]
    unit = {
        mmd.by_median: np.median(distances),
        mmd.by_mean: np.sqrt(np.mean(np.square(distances))),
    }[scale]
    value = biased(x, y, kernel=kernel(1.5, scale))
    expected = slow(x, y, lambda a, b: form(distance(a, b) / 1.5 / unit))
    np.testing.assert_allclose(value, expected)
    # And so the discrepancy is blind to a common scale of the samples.
    scaled = biased(5 * x, 5 * y, kernel=kernel(1.5, scale))
    np.testing.assert_allclose(scaled, value)


@every
def test_zero_for_equal_samples_and_positive_for_others(float64, name):
    x = draw(9, 0)
    value, (gradient, _), _ = of_one_size(x, x, name)
    assert abs(value) < 1e-12 and abs(gradient).max() < 1e-12
    assert of_one_size(x, x[::-1], name)[0] < 1e-12
    assert of_one_size(x, x + 1, name)[0] > 1e-3


# (What an estimate averages does not depend on the kernel.)
@pytest.mark.parametrize("name", some("polynomial", "gaussian"))
def test_the_unbiased_estimate_is_right_on_average(float64, name):
    # For samples of one distribution the biased one is above 0, the unbiased is not.
    kernel, _ = KERNELS[name]
    samples = np.random.default_rng(0).normal(size=(2, 3000, 4, 3))

    @jax.jit
    @jax.vmap
    def both(x, y):
        return mmd.biased(x, y, kernel=kernel), mmd.unbiased(x, y, kernel=kernel)

    of_biased, of_unbiased = map(np.asarray, both(*samples))
    error = lambda values: values.std() / np.sqrt(len(values))  # noqa: E731
    assert abs(of_unbiased.mean()) < 4 * error(of_unbiased)
    assert of_biased.mean() > 10 * error(of_biased)


@every
def test_gradients_are_numerical_and_finite_where_rows_repeat(float64, name):
    x, y = two_samples()
    value = lambda x, y: found(x, y, (x, y), name)[0][0][0]  # noqa: E731
    slope = lambda rows, moves: found(*rows, tuple(moves), name)[1]  # noqa: E731

    def pull(x, y):
        value, gradients = found(x, y, (x, y), name)[0][0]
        return value, lambda given: tuple(given * g for g in gradients)

    test_util.check_jvp(value, slope, (x, y))
    test_util.check_vjp(value, pull, (x, y))
    repeated = np.zeros((9, 3))
    repeated[0] = 1
    _, gradients, _ = of_one_size(repeated, repeated, name)
    assert np.isfinite(gradients).all()


@pytest.mark.parametrize("scale", [mmd.by_median, mmd.by_mean])
def test_a_sample_without_any_width(scale):
    same = np.ones((4, 3), np.float32)
    form = functools.partial(mmd.biased, kernel=mmd.Gaussian(scale=scale))
    value, gradient = jax.jit(jax.value_and_grad(form))(same, same)
    assert value == 0 and np.isfinite(gradient).all()


class TestScale:
    @pytest.mark.parametrize(
        "kernel", [mmd.Gaussian, pytest.param(mmd.InverseMultiquadric, marks=SLOW)]
    )
    def test_a_fixed_width_in_the_unit_of_the_rows(self, kernel):
        """Of all estimates, in any unit whose numbers are finite."""
        x, y = (draw(8, s, shift=s) for s in (0, 1))

        @jax.jit
        def estimates(x, y, kernel):
            return (
                mmd.biased(x, y, kernel=kernel),
                mmd.biased(x, y, kernel=kernel, block=3),
                mmd.unbiased(x, y, kernel=kernel),
                mmd.linear_time(x, y, kernel=kernel),
            )

        form = {
            mmd.Gaussian: lambda t: np.exp(-t / 2),
            mmd.InverseMultiquadric: lambda t: (1 + t) ** -0.5,
        }[kernel]
        k = lambda a, b: form(distance(a, b) ** 2 / 0.8**2)  # noqa: E731
        both = slow(x, y, k), slow(x, y, k, False)
        pairs = zip(x[::2], x[1::2], y[::2], y[1::2], strict=True)
        linear = [k(a, b) + k(c, d) - k(a, d) - k(b, c) for a, b, c, d in pairs]
        expected = [both[0], both[0], both[1], np.mean(linear)]
        for unit in np.float32([1, 3e-30, 7e36]):
            sides = (a.astype(np.float32) * unit for a in (x, y))
            values = estimates(*sides, kernel(np.float32(0.8) * unit))
            np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("scale", [mmd.by_median, mmd.by_mean])
    def test_a_width_from_the_data_where_most_rows_are_equal(self, scale):
        """As those of a ReLU: the median of all distances is 0."""
        x, y = draw(11, 0) - 1, draw(9, 1) - 1.4
        x, y = (np.where((a > 0).all(axis=1, keepdims=True), a, 0.1) for a in (x, y))
        x[:3] += [[1.0, 0, 2], [0, 3, 1], [0.5, 0, 0]]
        pooled = np.concatenate([x, y])
        apart = [distance(a, b) for a, b in itertools.combinations(pooled, 2)]
        assert np.median(apart) == 0
        apart = np.array(apart)[np.array(apart) > 0]
        unit = {
            mmd.by_median: np.median(apart),
            mmd.by_mean: np.sqrt(np.sum(apart**2) / (20 * 19 / 2)),
        }[scale]
        expected = slow(x, y, lambda a, b: np.exp(-distance(a, b) / unit))

        @jax.jit
        def form(x, y):
            kernel = mmd.Laplace(1.0, scale)
            fitted = kernel.fit(jnp.concatenate([x, y]))
            (value, gradient), (_, other) = (
                jax.value_and_grad(mmd.biased)(x, y, kernel=k) for k in (kernel, fitted)
            )
            return value, gradient, fitted.width, other

        gradients = []
        for factor in np.float32([1, 0.1, 3e-30, 7e30]):
            sides = (np.float32(a) * factor for a in (x, y))
            value, gradient, width, of_fixed = form(*sides)
            np.testing.assert_allclose(value, expected, rtol=1e-4)
            np.testing.assert_allclose(width, unit * factor, rtol=1e-4)
            # The width counts as a constant.
            gradients += [np.float64(g) * factor for g in (gradient, of_fixed)]
        np.testing.assert_allclose(gradients, 8 * gradients[:1], rtol=0, atol=1e-5)


class TestWhatIsNotFinite:
    @every
    def test_is_seen_in_every_estimate_and_gradient(self, float64, name):
        for bad, side in itertools.product((np.nan, np.inf, -np.inf), (0, 1)):
            samples = list(two_samples())
            samples[side][2, 1] = bad
            estimates, _, matrix = found(*samples, tuple(samples), name)
            for value, gradients in estimates:
                assert not np.isfinite(value)
                assert not np.isfinite(gradients[side]).all()
            assert side or not np.isfinite(matrix).all()
            same = [draw(9, 0), draw(9, 1, shift=0.3)]
            same[side][2, 1] = bad
            assert not np.isfinite(of_one_size(*same, name)[2])

    def test_has_no_p_value_and_no_width(self):
        @jax.jit
        def form(x, y):
            kernel = mmd.Gaussian(1.0, mmd.by_median)
            test = mmd.permutation_test(
                jax.random.key(0), x, y, kernel=kernel, permutations=9
            )
            return test, kernel.fit(x).width

        x, y = (draw(8, s).astype(np.float32) for s in (0, 1))
        assert np.isfinite(jax.tree.leaves(form(x, y))).all()
        for bad in (np.nan, np.inf):
            x[1, 0] = bad
            assert not np.isfinite(jax.tree.leaves(form(x, y))).any()

    def test_is_nan_outside_jit_too(self):
        for bad in (np.nan, np.inf):
            assert np.isnan(mmd.biased(draw(3, 0) * bad, draw(3, 1)))


def test_samples_and_kernels_may_be_constants_of_what_is_traced():
    x, y = (jnp.asarray(draw(6, s), jnp.float32) for s in (0, 1))
    kernel = mmd.Gaussian(jnp.asarray([0.5, 2.0]))
    polynomial = mmd.Polynomial(2, jnp.asarray(0.5))

    @jax.jit
    def values(a):
        traced = mmd.biased(a, y, kernel=kernel)
        return traced, *(mmd.biased(x, y, kernel=k) for k in (kernel, polynomial))

    found = values(x)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-6)
    assert np.isfinite(found[2])

    def scanned(x):
        step = lambda total, a: (total + sum(values(a)), total)  # noqa: E731
        return jax.lax.scan(step, 0.0, x)[0]

    # (Traced alone: what may fail is a look at a value.)
    jax.eval_shape(jax.grad(scanned), x[None])


WRONG_NUMBERS = [
    *((mmd.Gaussian, width) for width in (0, -1.0, np.nan, np.float32(np.inf), "1")),
    *((mmd.Laplace, width) for width in ((), (1.0, 0.0), np.array([2, -3]), None)),
    (mmd.InverseMultiquadric, 1j),
    *((mmd.Polynomial, degree) for degree in (0, 2.0, np.float32(2), True, np.ones(2))),
    *((functools.partial(mmd.Polynomial, 2), o) for o in (-1, np.nan, np.ones(2))),
]


@pytest.mark.parametrize(("kernel", "number"), WRONG_NUMBERS)
def test_wrong_numbers_of_kernels(kernel, number):
    with pytest.raises(ValueError, match="the (width|degree|offset) must be a"):
        kernel(number)


def test_numbers_of_numpy_are_those_of_python():
    x, y = two_samples()
    form = lambda degree: mmd.biased(x, y, kernel=mmd.Polynomial(degree))  # noqa: E731
    np.testing.assert_array_equal(form(np.int8(2)), form(2))
    assert hash(mmd.Polynomial(np.int64(3))) == hash(mmd.Polynomial(3))
    with pytest.raises(ValueError, match="real numbers, got complex"):
        mmd.biased(x * 1j, y)


@pytest.mark.parametrize(
    ("name", "x64"),
    [
        pytest.param(name, x64, marks=[] if (name, x64) in now else SLOW)
        for now in [{("laplace", False), ("offset", True)}]
        for name, x64 in itertools.product(KERNELS, (False, True))
    ],
)
def test_samples_of_two_dtypes_under_strict_promotion(name, x64):
    def form(key, x, y):
        kernel = KERNELS[name][0]
        linear = mmd.linear_time(x, y, kernel=kernel)
        test = mmd.permutation_test(key, x, y, kernel=kernel, permutations=9)
        return values_and_gradients(x, y, kernel, block=4), test, linear, kernel(x)

    dtypes = (np.float32, np.float64) if x64 else (jnp.bfloat16, np.float32)
    with jax.enable_x64(x64), jax.numpy_dtype_promotion("strict"):
        x, y = (jax.ShapeDtypeStruct((9, 3), dtype) for dtype in dtypes)
        estimates, test, *_ = jax.eval_shape(form, jax.random.key(0), x, y)
        for value, (of_x, of_y) in estimates:
            assert value.dtype == test.value.dtype == np.float32
            assert (of_x.dtype, of_y.dtype) == (x.dtype, y.dtype)


def test_a_kernel_may_be_traced_and_is_not_retraced():
    traces = []

    @jax.jit
    def form(x, y, kernel):
        traces.append(kernel)
        return mmd.biased(x, y, kernel=kernel)

    x, y = draw(5, 0), draw(6, 1)
    for width in (0.5, 0.7):
        kernel = lambda a, b, w=width: np.exp(-(distance(a, b) ** 2) / 2 / w**2)  # noqa: E731
        for run in (form, mmd.biased):
            value = run(x, y, kernel=mmd.Gaussian(width))
            np.testing.assert_allclose(value, slow(x, y, kernel), rtol=1e-5)
    assert len(traces) == 1


def test_any_function_is_a_kernel(float64):
    x, y = draw(5, 0), draw(6, 1)
    value = biased(x, y, kernel=lambda z: jnp.cos(z @ z.T))
    np.testing.assert_allclose(value, slow(x, y, lambda a, b: np.cos(a @ b)))


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


def check_tiles(name, block):
    kernel, form = KERNELS[name]
    x, y = two_samples()
    run = functools.partial(values_and_gradients, kernel=kernel, block=block)
    whole = found(x, y, (x, y), name)[0]
    for streamed, other, is_biased in zip(
        jax.jit(run)(x, y), whole, (1, 0), strict=True
    ):
        expected = slow(x, y, form, is_biased)
        np.testing.assert_allclose(streamed[0], expected, rtol=1e-9, atol=1e-13)
        for a, b in zip(streamed[1], other[1], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-10)


@every
def test_tile_by_tile(float64, name):
    check_tiles(name, 4)


# (Places are those of any kernel; one of distances and one of products.)
@pytest.mark.parametrize("name", some("gaussian", "offset"))
@pytest.mark.parametrize("block", [16, 64])
def test_one_tile(float64, name, block):
    check_tiles(name, block)


@every
def test_linear_time(float64, name):
    form = KERNELS[name][1]
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
    _, _, value = of_one_size(x, y, name)
    np.testing.assert_allclose(value, expected, rtol=1e-10)


def test_linear_time_is_unbiased():
    kernel = mmd.Gaussian(1.0)
    x, y = (draw(4000, s, shift=0.5 * s).astype(np.float32) for s in (0, 1))

    @jax.jit
    def both(x, y):
        quadratic = mmd.unbiased(x[:1000], y[:1000], kernel=kernel)
        return mmd.linear_time(x, y, kernel=kernel), quadratic

    np.testing.assert_allclose(*both(x, y), atol=0.02)


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
            fitted = jax.jit(kernel.fit)(pooled)
            assert fitted.scale is None

            @jax.jit
            def both(x, y, fitted, kernel=kernel):
                pooled = jnp.concatenate([x, y])
                streamed = mmd.unbiased(x, y, kernel=fitted, block=4)
                whole = mmd.unbiased(x, y, kernel=kernel)
                return (fitted(pooled), streamed), (kernel(pooled), whole)

            for own, expected in zip(*both(x, y, fitted), strict=True):
                np.testing.assert_allclose(own, expected)
        assert mmd.Gaussian(2.0).fit(x) == mmd.Gaussian(2.0)

    def test_is_refused_where_not_all_data_is_at_hand(self):
        x, kernel = draw(8, 0), mmd.Laplace(1.0, mmd.by_median)
        with pytest.raises(ValueError, match="Laplace.*kernel.fit"):
            mmd.linear_time(x, x, kernel=kernel)
        with pytest.raises(ValueError, match="Laplace.*kernel.fit"):
            mmd.biased(x, x, kernel=kernel, block=4)


class TestPermutations:
    def test_value_and_p_value_by_hand(self, float64):
        x, y = draw(4, 0), draw(3, 1, shift=1.5)
        kernel = mmd.Gaussian(1.0, mmd.by_median)
        run = functools.partial(mmd.permutation_test, kernel=kernel, permutations=4000)
        test = jax.jit(run)(jax.random.key(0), x, y)
        np.testing.assert_allclose(test.value, unbiased(x, y, kernel=kernel))
        pooled = np.concatenate([x, y])
        values = []
        for first in itertools.combinations(range(7), 4):
            rest = np.delete(pooled, first, axis=0)
            values.append(unbiased(pooled[list(first)], rest, kernel=kernel))
        exact = np.mean(np.asarray(values) >= test.value - 1e-12)
        np.testing.assert_allclose(test.p_value, exact, atol=0.03)

    def test_no_p_value_is_zero(self):
        # The given division, which no other comes near, counts as one of a hundred.
        x, y = (draw(12, s, shift=50.0 * s).astype(np.float32) for s in (0, 1))
        run = functools.partial(
            mmd.permutation_test, kernel=mmd.Linear(), permutations=99
        )
        test = jax.jit(run)(jax.random.key(0), x, y)
        np.testing.assert_allclose(test.p_value, 1 / 100, rtol=1e-6)

    def test_p_values_are_uniform_without_a_difference(self):
        def p_value(key):
            data, test = jax.random.split(key)
            x, y = jax.random.normal(data, (2, 12, 3))
            return mmd.permutation_test(
                test, x, y, kernel=mmd.Gaussian(), permutations=99
            ).p_value

        keys = jax.random.split(jax.random.key(0), 400)
        values = np.asarray(jax.jit(jax.vmap(p_value))(keys))
        assert abs(np.mean(values <= 0.05) - 0.05) < 0.04
        assert abs(np.mean(values) - 0.5) < 0.06

    def test_wrong_calls(self):
        key = jax.random.key(0)
        with pytest.raises(ValueError, match="two rows"):
            mmd.permutation_test(key, draw(1, 0), draw(3, 1))
        for wrong in (0, 9.5):
            with pytest.raises(ValueError, match=f"permutations.*more, got {wrong}"):
                mmd.permutation_test(key, draw(3, 0), draw(3, 1), permutations=wrong)
        with pytest.raises(ValueError, match="rows in both"):
            mmd.biased(draw(0, 0), draw(3, 1))
        with pytest.raises(ValueError, match="block must be a whole number of 1 or mo"):
            mmd.biased(draw(3, 0), draw(3, 1), block=0)
        with pytest.raises(ValueError, match="one of the kernels"):
            mmd.linear_time(draw(3, 0), draw(3, 1), kernel=lambda x: x @ x.T)
        with pytest.raises(ValueError, match="the same number in both"):
            mmd.linear_time(draw(4, 0), draw(3, 1))
