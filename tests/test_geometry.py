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
    np.testing.assert_allclose(_geometry.squared_distances(x), expected, rtol=1e-12)


def test_squared_distances_keep_their_digits_far_from_the_origin():
    # In float32, near-duplicates at offset 10: without centring the error is 69 %.
    rng = np.random.default_rng(0)
    x = 10 + 1e-2 * rng.normal(size=(20, 64))
    x = x.astype(np.float32)
    expected = distance.squareform(distance.pdist(x.astype(float), "sqeuclidean"))
    found = np.asarray(_geometry.squared_distances(x))
    off = ~np.eye(20, dtype=bool)
    assert np.max(np.abs(found - expected)[off] / expected[off]) < 1e-4
    assert not found[~off].any()


@pytest.mark.parametrize("rows", ["equal", "zero", "one differs"])
def test_squared_distances_of_degenerate_rows(rows):
    x = {
        "equal": jnp.full((6, 3), 0.1),
        "zero": jnp.zeros((6, 3)),
        "one differs": jnp.zeros((6, 3)).at[0].set(1.0),
    }[rows]
    value, gradient = jax.value_and_grad(
        lambda x: jnp.sum(_geometry.squared_distances(x))
    )(x)
    assert jnp.isfinite(gradient).all()
    np.testing.assert_allclose(value, 30.0 if rows == "one differs" else 0, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e4, 1e30])
def test_unit_rows_at_every_scale(scale):
    x = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    expected = x / np.linalg.norm(x, axis=1, keepdims=True)
    found = _geometry.unit_rows(jnp.asarray(x * np.float32(scale)))
    np.testing.assert_allclose(found, expected, rtol=2e-6)


def test_a_zero_row_stays_zero_with_zero_gradient():
    x = jnp.zeros((2, 3)).at[1].set(jnp.array([3.0, 0, 4]))
    np.testing.assert_array_equal(_geometry.unit_rows(x)[0], 0)
    gradient = jax.grad(lambda x: jnp.sum(_geometry.unit_rows(x) ** 3))(x)
    assert jnp.isfinite(gradient).all() and not gradient[0].any()


def test_a_constant_row_is_centred_to_exactly_zero():
    # The float32 mean of seven times 0.1 is not 0.1.
    rows = _geometry.centre_rows(jnp.full((2, 7), 0.1).at[1, 0].set(5.0))
    assert not rows[0].any() and rows[1].any()


@pytest.mark.parametrize("root", [_geometry.safe_sqrt, _geometry.safe_rsqrt])
def test_safe_roots(root):
    assert root(jnp.array(0.0)) == 0
    assert jax.grad(root)(0.0) == 0
    assert jax.grad(jax.grad(root))(0.0) == 0
    plain = {"safe_sqrt": jnp.sqrt, "safe_rsqrt": lambda x: 1 / jnp.sqrt(x)}
    plain = plain[root.__name__]
    np.testing.assert_allclose(root(jnp.array(3.0)), plain(3.0), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(root)(3.0), jax.grad(plain)(3.0), rtol=1e-6)


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
    found = _geometry.pool(jnp.asarray(x), *target)
    np.testing.assert_allclose(found, pool_slow(x, *target), rtol=1e-12)


def test_each_side_is_pooled_to_the_smaller():
    x, y = jnp.zeros((2, 4, 6, 3)), jnp.zeros((2, 5, 3, 7))
    x, y = _geometry.pool_to_smaller(x, y)
    assert x.shape == (2, 4, 3, 3) and y.shape == (2, 4, 3, 7)


def test_pool_equals_the_worked_example():
    # Windows of 5 -> 3 overlap: {0, 1}, {1, 2, 3}, {3, 4}.
    x = jnp.arange(5.0).reshape(1, 5, 1, 1)
    np.testing.assert_allclose(_geometry.pool(x, 3, 1).ravel(), [0.5, 2.0, 3.5])


def test_gram_is_all_inner_products_with_the_gradient_of_both_sides(float64):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 3)))
    np.testing.assert_allclose(_geometry.gram(x), _geometry.inner(x, x))
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(5, 5)))
    form = lambda x: jnp.sum(weights * jnp.cos(_geometry.gram(x)))  # noqa: E731
    plain = lambda x: jnp.sum(weights * jnp.cos(_geometry.inner(x, x)))  # noqa: E731
    np.testing.assert_allclose(jax.grad(form)(x), jax.grad(plain)(x), atol=1e-13)
    np.testing.assert_allclose(jax.hessian(form)(x), jax.hessian(plain)(x), atol=1e-12)
