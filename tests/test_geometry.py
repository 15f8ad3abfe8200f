"""Shared mathematics against NumPy and SciPy, and at the points where roots break."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import distance

from rdljax import _geometry


def test_squared_distances_equal_scipy(float64):
    x = np.random.default_rng(0).normal(size=(9, 5))
    expected = distance.squareform(distance.pdist(x, "sqeuclidean"))
    found = jax.jit(_geometry.squared_distances)(x)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_squared_distances_keep_their_digits_far_from_the_origin():
    # In float32, near-duplicates at offset 10: without centring the error is 69 %.
    rng = np.random.default_rng(0)
    x = 10 + 1e-2 * rng.normal(size=(20, 64))
    x = x.astype(np.float32)
    expected = distance.squareform(distance.pdist(x.astype(float), "sqeuclidean"))
    found = np.asarray(jax.jit(_geometry.squared_distances)(x))
    off = ~np.eye(20, dtype=bool)
    assert np.max(np.abs(found - expected)[off] / expected[off]) < 1e-4
    assert not found[~off].any()


@jax.jit
@jax.value_and_grad
def summed_distances(x):
    return jnp.sum(_geometry.squared_distances(x))


@pytest.mark.parametrize("rows", ["equal", "zero", "one differs"])
def test_squared_distances_of_degenerate_rows(rows):
    x = np.full((6, 3), 0.1 if rows == "equal" else 0, np.float32)
    if rows == "one differs":
        x[0] = 1
    value, gradient = summed_distances(x)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(value, 30.0 if rows == "one differs" else 0, atol=1e-6)


def test_distances_of_rows_with_a_large_mean_sorted_by_class():
    """The origin is the mean of a few rows only, a constant in the gradient."""
    rng = np.random.default_rng(1)
    classes = np.repeat(rng.normal(size=(4, 1, 16)), 13, axis=1).reshape(52, 16)
    rows = 1000 + classes + 0.1 * rng.normal(size=(52, 16))
    weights = rng.normal(size=(52, 52))

    @jax.jit
    def both(x):
        def loss(x):
            return jnp.sum(weights.astype(np.float32) * _geometry.squared_distances(x))

        return _geometry.squared_distances(x), jax.grad(loss)(x)

    x = rows.astype(np.float32)
    apart = x.astype(float)[:, None] - x.astype(float)[None, :]
    expected = (apart**2).sum(axis=-1)
    found, gradient = both(x)
    # (Without an origin near the mean the errors are about 1.)
    np.testing.assert_allclose(found, expected, atol=3e-5)
    both_ways = (weights + weights.T)[..., None]
    np.testing.assert_allclose(gradient, 2 * (both_ways * apart).sum(1), atol=2e-4)


@pytest.mark.parametrize("place", [0, 3, 8])
@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_a_row_that_is_not_finite_affects_its_own_distances_only(place, wrong):
    """Wherever it is: the origin is the mean of some of the rows."""
    x = np.random.default_rng(2).normal(size=(20, 4)).astype(np.float32)
    expected = np.array(jax.jit(_geometry.squared_distances)(x))
    x[place, 1] = wrong
    found = np.array(jax.jit(_geometry.squared_distances)(x))
    others = np.delete(np.arange(20), place)
    np.testing.assert_allclose(
        found[np.ix_(others, others)], expected[np.ix_(others, others)], atol=1e-5
    )
    assert not np.isfinite(found[place, others]).any()


unit_rows = jax.jit(_geometry.unit_rows)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e4, 1e30])
def test_unit_rows_at_every_scale(scale):
    x = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    expected = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = unit_rows(x * np.float32(scale))
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_a_zero_row_stays_zero_with_zero_gradient():
    @jax.jit
    def both(x):
        rows, back = jax.vjp(_geometry.unit_rows, x)
        return rows, *back(3 * rows**2)

    rows, gradient = both(np.array([[0, 0, 0], [3, 0, 4]], np.float32))
    np.testing.assert_array_equal(rows[0], 0)
    gradient = np.asarray(gradient)
    assert np.isfinite(gradient).all() and not gradient[0].any()


def test_a_constant_row_is_centred_to_exactly_zero():
    # The float32 mean of seven times 0.1 is not 0.1.
    x = np.full((2, 7), 0.1, np.float32)
    x[1, 0] = 5
    rows = np.asarray(jax.jit(_geometry.centre_rows)(x))
    assert not rows[0].any() and rows[1].any()


@pytest.mark.parametrize("root", [_geometry.safe_sqrt, _geometry.safe_rsqrt])
def test_safe_roots(root):
    @jax.jit
    def derivatives(x):
        return root(x), jax.grad(root)(x), jax.grad(jax.grad(root))(x)

    np.testing.assert_array_equal(derivatives(0.0), [0, 0, 0])
    expected = {
        "safe_sqrt": (3**0.5, 0.5 * 3**-0.5),
        "safe_rsqrt": (3**-0.5, -0.5 * 3**-1.5),
    }[root.__name__]
    np.testing.assert_allclose(derivatives(3.0)[:2], expected, rtol=1e-6)


def pool_slow(x, height, width):
    """PyTorch's documented rule, window by window."""
    out = np.zeros((x.shape[0], height, width, x.shape[3]))
    for i in range(height):
        for j in range(width):
            rows = slice(i * x.shape[1] // height, -(-(i + 1) * x.shape[1] // height))
            columns = slice(j * x.shape[2] // width, -(-(j + 1) * x.shape[2] // width))
            out[:, i, j] = x[:, rows, columns].mean(axis=(1, 2))
    return out


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (9, 4), (6, 6)])
@pytest.mark.parametrize("target", [(4, 4), (3, 2), (1, 1), (6, 4)])
def test_pool(float64, size, target):
    target = tuple(np.minimum(size, target))
    x = np.random.default_rng(0).normal(size=(2, *size, 3))
    found = jax.jit(_geometry.pool, static_argnums=(1, 2))(x, *target)
    np.testing.assert_allclose(found, pool_slow(x, *target), rtol=1e-12)


def test_each_side_is_pooled_to_the_smaller():
    x, y = np.zeros((2, 10, 9, 3)), np.zeros((2, 9, 10, 7))
    x, y = jax.eval_shape(_geometry.pool_to_smaller, x, y)
    assert x.shape == (2, 9, 9, 3) and y.shape == (2, 9, 9, 7)


@pytest.mark.parametrize(
    ("sizes", "one_aspect"),
    [
        (((7, 7), (14, 14)), True),
        (((7, 7), (8, 8)), True),
        (((5, 3), (10, 7)), True),  # Half of 7 is 3, rounded.
        (((33, 17), (3, 2)), True),  # Halved four times, rounded up.
        (((1, 1), (40, 9)), True),
        (((25, 1), (100, 1)), True),
        (((16, 7), (64, 7)), False),  # Channels for height.
        (((16, 14), (64, 7)), False),
        (((64, 2), (128, 2)), False),
        (((8, 4), (8, 8)), False),
    ],
)
def test_only_maps_of_one_aspect_are_pooled(sizes, one_aspect):
    for order in (1, -1):
        x, y = (jax.ShapeDtypeStruct((2, *size, 3), np.float32) for size in sizes)
        if one_aspect:
            x, y = jax.eval_shape(_geometry.pool_to_smaller, *(x, y)[::order])
            assert x.shape[1:3] == y.shape[1:3]
        else:
            with pytest.raises(ValueError, match="NHWC.*transpose"):
                jax.eval_shape(_geometry.pool_to_smaller, *(x, y)[::order])


def test_pool_equals_the_worked_example():
    # Windows of 5 -> 3 overlap: {0, 1}, {1, 2, 3}, {3, 4}.
    x = np.arange(5, dtype=np.float32).reshape(1, 5, 1, 1)
    found = jax.jit(_geometry.pool, static_argnums=(1, 2))(x, 3, 1)
    np.testing.assert_allclose(np.ravel(found), [0.5, 2.0, 3.5])


def test_gram_is_all_inner_products_with_the_gradient_of_both_sides(float64):
    x = np.random.default_rng(0).normal(size=(5, 3))
    weights = np.random.default_rng(1).normal(size=(5, 5))

    def derivatives(gram, x):
        def form(x):
            return jnp.sum(weights * jnp.cos(gram(x)))

        return gram(x), jax.grad(form)(x), jax.hessian(form)(x)

    @jax.jit
    def both(x):
        plain = derivatives(lambda x: _geometry.inner(x, x), x)
        return derivatives(_geometry.gram, x), plain

    (gram, *found), (plain, *expected) = both(x)
    np.testing.assert_allclose(gram, plain)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-13)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-12)


def test_constants_of_zero_are_zero_and_not_nan():
    zeros = np.zeros((2, 3), np.float32)
    found = jax.jit(lambda: (_geometry.in_own_unit(zeros), _geometry.unit_rows(zeros)))
    assert not np.any(found())
