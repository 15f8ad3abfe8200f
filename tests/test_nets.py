"""The nets answer what they promise."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from rdljax import _names, nets
from rdljax.nets import mnist, regressors

CHANNELS = 1


@pytest.mark.parametrize("name", nets.NETS)
class TestNets:
    def net(self, name):
        net = nets.build(name, classes=10)
        images = jnp.asarray(
            np.random.default_rng(0).normal(size=(3, 32, 32, CHANNELS)), jnp.float32
        )
        return net, net.init(jax.random.key(0), images), images

    def test_names_its_layers_in_depth_order(self, name):
        net, variables, images = self.net(name)
        seen = net.apply(variables, images)
        assert set(net.layers) == set(seen)
        assert net.layers[-2:] == ("pooled", "logits")
        stages = net.layers[:-2]
        assert stages == tuple(f"stage{i + 1}" for i in range(len(stages)))
        assert seen["logits"].shape == (3, 10) and seen["pooled"].ndim == 2

    def test_a_layer_depends_on_those_before_it_alone(self, name):
        # The classifier's weights change the logits and nothing else, and so on.
        net, variables, images = self.net(name)
        before = net.apply(variables, images)
        variables["params"]["classifier"]["kernel"] *= 2
        after = net.apply(variables, images)
        changed = [k for k in net.layers if (before[k] != after[k]).any()]
        assert changed == ["logits"]

    def test_the_logits_are_a_linear_map_of_pooled(self, name):
        net, variables, images = self.net(name)
        seen = net.apply(variables, images)
        classifier = variables["params"]["classifier"]
        expected = seen["pooled"] @ classifier["kernel"] + classifier["bias"][None]
        np.testing.assert_allclose(seen["logits"], expected, rtol=1e-5, atol=1e-6)

    def test_parameters_are_those_of_the_table(self, name):
        _, variables, _ = self.net(name)
        count = sum(x.size for x in jax.tree.leaves(variables["params"]))
        row = re.search(rf"^`{name}` .*", inspect.getdoc(nets), re.MULTILINE).group()
        assert f"{count:,}" in row

    def test_the_table_lists_every_net(self, name):
        assert re.search(rf"^`{name}` ", inspect.getdoc(nets), re.MULTILINE)


def test_mnist_cnn_equals_the_prototypes_layers():
    """Convolution, ReLU and pooling by lax, with windows as the prototype has them."""
    net = nets.build("mnist_cnn", 10)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 1)).astype(np.float32)
    variables = net.init(jax.random.key(0), images)
    seen, params = net.apply(variables, images), variables["params"]

    def layer(x, name, size):
        kernel, bias = params[name]["kernel"], params[name]["bias"]
        x = lax.conv(
            x.transpose(0, 3, 1, 2), kernel.transpose(3, 2, 0, 1), (1, 1), "VALID"
        )
        x = jnp.maximum(x.transpose(0, 2, 3, 1) + bias.reshape(1, 1, 1, -1), 0)
        return nn.max_pool(x, (size, size), (size, size))

    stage1 = layer(images, "conv1", 3)
    stage2 = layer(stage1, "conv2", 2)
    assert stage1.shape == (2, 9, 9, 32) and stage2.shape == (2, 2, 2, 64)
    np.testing.assert_allclose(seen["stage1"], stage1, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen["stage2"], stage2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [2, 3])
def test_max_pool_and_its_gradient_equal_flax(size):
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 7, 8, 3)), jnp.float32)
    ours = lambda x: mnist._max_pool(x, size)  # noqa: E731
    flax = lambda x: nn.max_pool(x, (size, size), (size, size))  # noqa: E731
    np.testing.assert_array_equal(ours(x), flax(x))
    gradients = (jax.grad(lambda x, f=f: jnp.sum(f(x) ** 2))(x) for f in (ours, flax))
    np.testing.assert_array_equal(*gradients)


def test_an_unknown_net_is_answered_with_the_nearest():
    with pytest.raises(_names.UnknownName, match="did you mean 'mnist_cnn'"):
        nets.build("mnist_cn", 10)


@pytest.mark.parametrize(
    ("student", "teacher", "answer"),
    [
        ((8, 8, 3), (4, 4, 5), (4, 4, 5)),
        ((4, 4, 3), (8, 8, 5), (8, 8, 5)),
        ((9, 7, 3), (7, 7, 5), (7, 7, 5)),
        ((6, 6, 3), (6, 6, 2), (6, 6, 2)),
        ((5, 5, 2), (7, 7, 3), (5, 5, 3)),
        ((6,), (7,), (7,)),
    ],
)
def test_regressor_takes_a_layer_to_the_teachers_width(student, teacher, answer):
    module = regressors.Regressor(teacher)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, *student)), jnp.float32)
    y, variables = module.init_with_output(jax.random.key(0), x)
    assert y.shape == (2, *answer)
    # Linear: the kernel is reached by the gradient wherever the input is not zero.
    gradient = jax.grad(lambda v: jnp.sum(module.apply(v, x) ** 2))(variables)
    assert all(g.any() for g in jax.tree.leaves(gradient))
