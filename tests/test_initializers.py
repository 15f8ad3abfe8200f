"""Initial weights: the values of Flax's initialisers, without running the net."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from rdljax import _pruned, nets
from rdljax.nets import _initializers, mlp, regressors
from rdljax.terms import _modules

# Weights of fewer and of more numbers than the shortest vector that is drawn.
SHAPES = [(40, 10), (1, 1, 3, 8), (3, 3, 60, 130)]
OWN_AND_FLAX = {
    "he": (
        _initializers.he,
        nn.initializers.variance_scaling(2.0, "fan_out", "normal"),
    ),
    "lecun": (_initializers.lecun, nn.initializers.lecun_normal()),
    "lecun_third": (
        _initializers.lecun_third,
        nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    ),
    "narrow": (_initializers.narrow, nn.initializers.normal(0.01)),
}
# Sums of the absolute weights (all but the biases) of the key 0, at dba955c.
NETS = {
    "resnet8": ((32, 32, 3), 4426.716321436428),
    "mnist_cnn_small": ((28, 28, 1), 704.7492267994603),
    "mlp": ((28, 28, 1), 6800.1865480421575),
    "vgg8": ((32, 32, 3), 68319.0739425461),
}
REGRESSORS = [
    (regressors.Regressor((4, 4, 8), normalize=True), (2, 8, 8, 3), 34.31854194536572),
    (regressors.Regressor((4, 4, 8)), (2, 2, 2, 3), 44.33749270893168),
    (regressors.Pointwise(5), (2, 6), 27.532214852282777),
    (regressors.Embedding(7), (2, 3, 3, 2), 24.40560099115828),
    (regressors.Coder((3, 4, 5), transposed=True), (2, 4, 4, 3), 50.750682519050315),
]


def assert_same(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    assert [x.dtype for x in jax.tree.leaves(got)] == [
        x.dtype for x in jax.tree.leaves(expected)
    ]


def assert_close(got, expected):
    """Equal up to the last bits, which depend on jax and on how XLA compiles."""
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for one, other in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=0)
        assert one.dtype == other.dtype


class TestInitializers:
    @pytest.mark.parametrize("shape", SHAPES)
    @pytest.mark.parametrize("name", OWN_AND_FLAX)
    def test_values_are_flaxs(self, name, shape):
        own, flax = OWN_AND_FLAX[name]
        key = jax.random.key(3)
        assert_close(own(key, shape), flax(key, shape, jnp.float32))

    def test_weights_longer_than_all_vectors(self, monkeypatch):
        monkeypatch.setattr(_initializers, "LENGTHS", (16, 32))
        own, flax = OWN_AND_FLAX["he"]
        key = jax.random.key(4)
        assert_close(own(key, (7, 9)), flax(key, (7, 9), jnp.float32))

    def test_two_precisions(self):
        own, flax = OWN_AND_FLAX["lecun"]
        key = jax.random.key(5)
        got, expected = own(key, (4, 5), jnp.bfloat16), flax(key, (4, 5), jnp.bfloat16)
        assert_same(got, expected)


class TestEvaluate:
    def test_what_the_result_does_not_need_is_left_out(self):
        calls = []

        def note(x):
            calls.append(x)
            return x

        def both(x):
            shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
            lost = jax.pure_callback(note, shape, x)
            return {"twice": 2 * x, "shape": jnp.zeros(lost.shape)}

        got = _pruned.evaluate(both, jnp.arange(3.0))
        assert_same(got, {"twice": 2 * jnp.arange(3.0), "shape": jnp.zeros(3)})
        assert not calls
        both(jnp.arange(3.0))
        jax.effects_barrier()
        assert len(calls) == 1

    def test_arrays_that_the_function_holds(self):
        held, given = jnp.arange(4.0), jnp.ones(4)
        got = _pruned.evaluate(lambda x: (held, x + held, held[:2]), given)
        assert_same(got, (held, given + held, held[:2]))

    def test_traced_arguments(self):
        plus = functools.partial(_pruned.evaluate, lambda x: x + 1)
        np.testing.assert_array_equal(jax.jit(plus)(jnp.arange(3)), [1, 2, 3])


def total(variables):
    """The sum of the absolute weights, without biases."""
    arrays = map(np.asarray, jax.tree.leaves(variables["params"]))
    return sum(np.abs(x.astype(np.float64)).sum() for x in arrays if x.ndim > 1)


class TestNets:
    @pytest.mark.parametrize("name", NETS)
    def test_values_of_a_seed_are_those_of_earlier_versions(self, name):
        shape, expected = NETS[name]
        images = np.zeros((1, *shape), np.float32)
        variables = nets.build(name, 10).init(jax.random.key(0), images)
        assert total(variables) == pytest.approx(expected, rel=1e-7)

    @pytest.mark.parametrize(("module", "shape", "expected"), REGRESSORS)
    def test_values_of_regressors_too(self, module, shape, expected):
        params = _modules.init_params(module, jax.random.key(0), shape)
        assert total({"params": params}) == pytest.approx(expected, rel=1e-7)

    def test_is_the_init_of_flax(self):
        net = mlp.MLP(classes=10, widths=(20, 10), normalize=True)
        key = jax.random.key(1)
        images = np.zeros((2, 4, 4, 3), np.float32)
        expected = nn.Module.init(net, key, images)
        assert_close(net.init(key, images), expected)
        assert_close(net.init({"params": key}, images, train=True), expected)
        shapes = jax.eval_shape(net.init, key, images)
        assert jax.tree.map(jnp.shape, expected) == jax.tree.map(jnp.shape, shapes)
