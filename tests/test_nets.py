"""The nets answer what they promise."""

import functools
import inspect
import re

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax import lax

from rdljax import errors, nets, teachers, terms, training
from rdljax.nets import _convolutions, _layers, mobile, regressors, resnet

# One of each kind; the others differ in depth and width alone.
KINDS = [
    "resnet8",
    "wrn_16_1",
    "vgg8",
    "resnet18_imagenet",
    "small mobilenet_v2",
    "shufflenet_v1",
    "shufflenet_v2",
    "network_in_network",
    "cifar_cnn",
    "mlp",
    "mnist_cnn_small",
]


class SmallMobileNet(mobile.MobileNetV2):
    """MobileNetV2 with three blocks in place of seventeen, one beside a shortcut."""

    layers = ("stem", *_layers.names(2), "pooled", "logits")
    preactivations = _layers.names(2)

    stages = (((1, 3, 8, 1, 1),), ((6, 3, 12, 2, 2),))


# Nets of the same classes whose steps compile sooner.
SMALL = {
    "small resnet": functools.partial(resnet.ResNet, counts=(1, 1), widths=(16, 32)),
    "small wrn": functools.partial(resnet.WideResNet, count=1),
    "small resnet50_imagenet": functools.partial(
        resnet.ResNet,
        counts=(2,),
        widths=(8,),
        stem=8,
        block=resnet.Bottleneck,
        large=True,
    ),
    "small mobilenet_v2": SmallMobileNet,
}
# Of one kind each. (Nothing of network_in_network's step can be compared.)
STEPS = ["vgg8", "cifar_cnn", "mlp", "mnist_cnn_small", *SMALL]
# Those whose parts others have too.
LONG = ["cifar_cnn", "small resnet50_imagenet"]
# Their max-pooling is of what was just normalised, and loses its gradient where XLA
# computes that anew and rounds it otherwise. It does so with few optimisations.
POOLED = ["vgg8", "vgg11", "vgg13", "vgg16", "vgg19"]
# Their activations differ by device in training.
DROPOUT = ["network_in_network", "cifar_cnn", "efficientnet_lite0"]
# Without batch normalisation.
UNNORMALISED = ["network_in_network", "mlp", "mnist_cnn", "mnist_cnn_small"]


def build(name, classes, **numbers):
    """A net by its name here."""
    return (SMALL.get(name) or functools.partial(nets.build, name))(
        classes=classes, **numbers
    )


def row(name):
    """A net's row in the table of the docstring."""
    return re.search(rf"^`{name}` .*", inspect.getdoc(nets), re.MULTILINE).group()


def conditions(name):
    """Channels and classes of which the table speaks."""
    if name in SMALL:
        return 3, 10
    channels = 1 if re.search(r"32 x 32 x 1,|1 channel", row(name)) else 3
    classes = re.search(r"\b(1000|10)( classes)?\)", row(name))
    return channels, int(classes[1]) if classes else 100


@functools.cache
def shapes(name, size=32, batch=2):
    """Shapes of variables and of bfloat16 activations, without any computation."""
    channels, classes = conditions(name)
    net = build(name, classes, dtype=jnp.bfloat16)
    images = jax.ShapeDtypeStruct((batch, size, size, channels), jnp.float32)
    seen, variables = jax.eval_shape(net.init_with_output, jax.random.key(0), images)
    return net, variables, seen


@pytest.mark.parametrize("name", nets.NETS)
class TestEveryNet:
    def test_parameters_are_those_of_the_table(self, name):
        _, variables, _ = shapes(name)
        count = sum(x.size for x in jax.tree.leaves(variables["params"]))
        assert re.search(rf" {count:,}( |$)", row(name))

    def test_names_its_layers_in_depth_order(self, name):
        net, _, seen = shapes(name)
        assert {*net.layers, *net.preactivations} == set(seen)
        assert net.layers[-2:] == ("pooled", "logits")
        stages = [layer for layer in net.layers[:-2] if layer != "stem"]
        assert stages == [f"stage{i + 1}" for i in range(len(stages))]
        assert [p.removesuffix("_preact") for p in net.preactivations] == stages
        _, classes = conditions(name)
        assert seen["logits"].shape == (2, classes) and seen["pooled"].ndim == 2

    def test_a_preactivation_has_the_size_of_its_stage(self, name):
        net, _, seen = shapes(name)
        for before in net.preactivations:
            stage = seen[before.removesuffix("_preact")].shape
            if name == "cifar_cnn":  # Its stages are pooled after the ReLU.
                assert seen[before].shape[-1] == stage[-1]
            else:
                assert seen[before].shape == stage

    def test_computes_in_bfloat16_on_float32_parameters(self, name):
        _, variables, seen = shapes(name)
        assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
        assert seen["logits"].dtype == jnp.float32
        others = {x.dtype for layer, x in seen.items() if layer != "logits"}
        assert others == {jnp.dtype("bfloat16")}


def made(name, batch=2):
    """A net with random variables, and images."""
    channels, classes = conditions(name)
    random = np.random.default_rng(0)

    def draw(path, x):
        kind = path[-1].key
        if kind == "kernel":
            numbers = random.normal(0, np.prod(x.shape[:-1]) ** -0.5, x.shape)
        elif kind in ("scale", "var"):
            numbers = random.uniform(0.5, 1.5, x.shape)
        else:
            numbers = random.uniform(-0.3, 0.3, x.shape)
        return numbers.astype(x.dtype)

    net, variables = build(name, classes), shapes(name)[1]
    images = random.normal(size=(batch, 32, 32, channels)).astype(np.float32)
    return net, jax.tree.map_with_path(draw, variables), images


def assert_stages_follow_from_preactivations(name, net, variables, seen):
    for i, before in enumerate(net.preactivations):
        after = seen[f"stage{i + 1}"]
        if name == "wrn_16_1":
            # Stages are raw sums, and the next normalisation makes these.
            scope = (f"stage{i + 2}", "block0", "norm1") if i < 2 else ("norm",)
            own = {k: variables[k] for k in ("params", "batch_stats")}
            for part in scope:
                own = {k: x[part] for k, x in own.items()}
            norm = nn.BatchNorm(use_running_average=True, epsilon=1e-5)
            expected = jax.jit(norm.apply)(own, after)
            np.testing.assert_allclose(seen[before], expected, atol=1e-5)
        elif name == "shufflenet_v2":
            # One half has passed untouched, and all is shuffled afterwards.
            kept, own = np.split(seen[before], 2, axis=-1)
            both = np.concatenate([kept, np.maximum(own, 0)], axis=-1)
            np.testing.assert_array_equal(after, _layers.shuffle(both, 2))
        elif name.endswith("mobilenet_v2"):
            assert before == f"stage{i + 1}" and (after < 0).any()
        elif name == "cifar_cnn" and i < 3:
            # Normalised and pooled afterwards; the signs are what counts.
            assert (seen[before] < 0).any() and (seen[before] > 0).any()
        else:
            np.testing.assert_array_equal(after, np.maximum(seen[before], 0))
            assert (seen[before] < 0).any()


@pytest.mark.parametrize(
    "name", [*KINDS, pytest.param("mobilenet_v2", marks=pytest.mark.slow)]
)
def test_activations_hang_together(name):
    net, variables, images = made(name)
    apply = jax.jit(net.apply)
    seen = jax.device_get(apply(variables, images))
    assert_stages_follow_from_preactivations(name, net, variables, seen)
    # The logits are a linear map of `pooled`, by the classifier.
    classifier = variables["params"]["classifier"]
    expected = seen["pooled"] @ classifier["kernel"] + classifier["bias"][None]
    np.testing.assert_allclose(seen["logits"], expected, rtol=1e-4, atol=1e-5)
    # Nothing else sees the classifier.
    classifier["kernel"] = 2 * classifier["kernel"]
    after = jax.device_get(apply(variables, images))
    changed = [k for k in seen if (seen[k] != after[k]).any()]
    assert changed == ["logits"]


class Ready:
    """A net whose first variables are at hand: Flax's `init` compiles for long."""

    def __init__(self, net, variables):
        self.init = lambda key, images: variables
        self.apply = net.apply


@functools.cache
def steps(name, count, synchronised=True, batch=8):
    """The state after one step on so many devices, as on NumPy arrays."""
    channels, classes = conditions(name)
    axis = training.AXIS if synchronised else None
    net = build(name, classes, axis_name=axis)
    net = Ready(net, made(name)[1])
    random = np.random.default_rng(1)
    images = random.normal(size=(batch, 32, 32, channels)).astype(np.float32)
    # Images that differ in brightness, so that the devices' own statistics differ.
    images += np.linspace(-1, 1, batch, dtype=np.float32).reshape(-1, 1, 1, 1)
    data = {"image": images, "label": np.arange(batch, dtype=np.int32)}
    phase = training.Phase({"task": (1.0, terms.cross_entropy())}, epochs=1)
    optimizer, teacher = optax.sgd(0.1), teachers.none()

    def view(_, batch, key):
        return batch

    devices = jax.devices()[:count]
    arrays = training.replicate(training.Arrays((), ()), devices)
    state = training.init(
        jax.random.key(0), net, teacher, [phase], view, arrays, data, devices=count
    )
    start = jax.device_get(state.replicated.params["student"])
    state = training.begin_phase(state, phase, optimizer)
    step = training.pmap(
        training.make_step(net, teacher, phase, optimizer, view), devices=devices
    )
    state, metrics = step(state, arrays, training.shard(data, count))
    assert np.isfinite(metrics["loss"])
    return start, jax.device_get(state.replicated)


def assert_steps_equal_on_two_devices_and_one(name):
    if name in POOLED:
        jax.config.update("jax_disable_most_optimizations", False)
    start, one = steps(name, 1)
    _, two = steps(name, 2)
    if name not in UNNORMALISED:
        statistics = jax.tree.leaves(one.model_state["batch_stats"])
        largest = [np.abs(x).max() for x in statistics]
        found = jax.tree.leaves(two.model_state["batch_stats"])
        for x, y, size in zip(statistics, found, largest, strict=True):
            # (After a normalisation, a mean is nothing but rounding.)
            np.testing.assert_allclose(x, y, rtol=0, atol=1e-4 * size + 1e-7)
    if name in DROPOUT:
        return
    # (Normalisation over small maps makes much of rounding, in 50 layers above all.)
    assert difference(start, one, two) < 0.05


def difference(start, one, two):
    """How far two steps lead to different parameters, relative to the first step."""
    flat = [
        jax.flatten_util.ravel_pytree(tree)[0]
        for tree in (start, one.params["student"], two.params["student"])
    ]
    start, one, two = map(np.asarray, flat)
    return np.linalg.norm(two - one) / np.linalg.norm(one - start)


class TestSteps:
    @pytest.fixture(autouse=True)
    def as_it_was(self):
        """Compiles as before after a test that compiles otherwise."""
        before = jax.config.read("jax_disable_most_optimizations")
        yield
        jax.config.update("jax_disable_most_optimizations", before)

    @pytest.mark.parametrize("name", [n for n in STEPS if n not in LONG])
    def test_a_step_is_the_same_on_two_devices_and_on_one(self, name):
        assert_steps_equal_on_two_devices_and_one(name)

    @pytest.mark.slow
    @pytest.mark.timeout(1200)
    @pytest.mark.parametrize("name", [*LONG, *sorted({*nets.NETS} - {*STEPS})])
    def test_a_step_of_the_others_too(self, name):
        assert_steps_equal_on_two_devices_and_one(name)

    @pytest.mark.parametrize(
        "name",
        [
            *("small resnet", "small wrn", "shufflenet_v2"),
            *(pytest.param(n, marks=pytest.mark.slow) for n in ("resnet8", "wrn_16_1")),
        ],
    )
    def test_every_device_has_the_same_statistics_itself(self, name):
        """Before any mean over the devices is taken (training takes one)."""
        net, variables, images = made(name, batch=8)
        net = net.clone(axis_name="devices")

        def update(images):
            _, new = net.apply(variables, images, train=True, mutable=["batch_stats"])
            return new

        mapped = jax.vmap(update, axis_name="devices")
        per_device = jax.jit(mapped)(images.reshape(2, 4, *images.shape[1:]))
        for leaf in jax.tree.leaves(jax.device_get(per_device)):
            np.testing.assert_array_equal(leaf[0], leaf[1])

    @pytest.mark.parametrize(
        "name", ["small resnet", pytest.param("resnet8", marks=pytest.mark.slow)]
    )
    def test_without_an_axis_each_device_normalises_its_own(self, name):
        start, one = steps(name, 1)
        _, two = steps(name, 2, synchronised=False)
        assert difference(start, one, two) > 0.2
        one, two = (
            x.model_state["batch_stats"]["stem"]["norm"]["var"] - 0.9
            for x in (one, two)
        )
        assert (np.abs(one - two) > 0.01 * one).any()

    def test_statistics_move_by_a_tenth(self):
        net, variables, images = made("resnet8", batch=4)
        apply = jax.jit(lambda *a: net.apply(*a, train=True, mutable=["batch_stats"]))
        _, new = apply(variables, images)
        kernel = variables["params"]["stem"]["conv"]["kernel"]
        convolve = functools.partial(
            lax.conv_general_dilated,
            window_strides=(1, 1),
            padding=((1, 1), (1, 1)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.jit(convolve)(images, kernel)
        norm, old = (v["batch_stats"]["stem"]["norm"] for v in (new, variables))
        for name, moment in (("mean", np.mean), ("var", np.var)):
            expected = 0.9 * old[name] + 0.1 * moment(np.asarray(x), axis=(0, 1, 2))
            np.testing.assert_allclose(norm[name], expected, rtol=1e-4, atol=1e-5)


class TestDropout:
    @pytest.mark.parametrize("name", ["network_in_network", "cifar_cnn"])
    def test_drops_in_training_by_the_key_alone(self, name):
        net, variables, images = made(name)
        stats = [k for k in variables if k != "params"]

        @jax.jit
        def logits(key):
            answer = net.apply(
                variables, images, train=True, mutable=stats, rngs={"dropout": key}
            )
            return answer[0]["logits"]

        keys = jax.random.key(0), jax.random.key(1)
        first, again, other = (logits(key) for key in (keys[0], *keys))
        np.testing.assert_array_equal(first, again)
        assert (first != other).any()

    @pytest.mark.parametrize(
        "name", [None, pytest.param("network_in_network", marks=pytest.mark.slow)]
    )
    def test_a_step_drops_others_than_the_step_before(self, name):
        """With a rate of 0, the same step twice has the same loss only if it does."""

        class Dropping(nn.Module):
            layers = ("logits",)

            @nn.compact
            def __call__(self, images, train=False):
                x = images.reshape(len(images), -1)
                x = nn.Dropout(0.5, deterministic=not train)(x)
                return {"logits": nn.Dense(2)(x)}

        kernel = np.random.default_rng(1).normal(size=(3072, 2)).astype(np.float32)
        params = {"Dense_0": {"kernel": kernel, "bias": np.zeros(2, np.float32)}}
        net = Ready(*(made(name)[:2] if name else (Dropping(), {"params": params})))
        images = np.random.default_rng(0).normal(size=(2, 32, 32, 3))
        data = {"image": images.astype(np.float32), "label": np.arange(2)}
        phase = training.Phase({"task": (1.0, terms.cross_entropy())}, epochs=1)
        teacher, optimizer = teachers.none(), optax.sgd(0.0)

        def view(_, batch, key):
            return batch

        arrays = training.Arrays((), ())
        state = training.init(
            jax.random.key(0), net, teacher, [phase], view, arrays, data, devices=1
        )
        state = training.begin_phase(state, phase, optimizer)
        step = jax.jit(training.make_step(net, teacher, phase, optimizer, view))
        second, metrics = step(state, arrays, data)
        _, again = step(state, arrays, data)
        _, later = step(second, arrays, data)
        assert metrics["loss"] == again["loss"] != later["loss"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet8", 2 / (9 * 64)), ("shufflenet_v2", 1 / (3 * 464 // 2))],
)
def test_first_weights_have_the_variance_of_the_released_nets(name, expected):
    """He et al. by the outputs, or PyTorch's default, 1 / (3 inputs)."""
    net, _, images = made(name)
    block, unit = {"resnet8": (0, 2), "shufflenet_v2": (3, 3)}[name]

    @jax.jit  # One kernel alone is computed.
    def first(key):
        stage = net.init(key, images)["params"]["stage3"]
        return stage[f"block{block}"][f"unit{unit}"]["conv"]["kernel"]

    kernel = np.asarray(first(jax.random.key(0)))
    assert kernel.mean() == pytest.approx(0, abs=0.1 * expected**0.5)
    assert kernel.var() == pytest.approx(expected, rel=0.1)


def test_logits_are_float32_in_more_than_name():
    net, variables, images = made("mlp")
    apply = jax.jit(net.clone(dtype=jnp.bfloat16).apply)
    logits = np.asarray(apply(variables, images)["logits"])
    assert (logits != logits.astype(jnp.bfloat16).astype(np.float32)).any()


def test_max_pool_shares_the_gradient_among_equals():
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(_layers.max_pool(x, 2))))
    ones = np.ones((1, 2, 2, 1), np.float32)
    np.testing.assert_array_equal(gradient(ones), ones / 4)


def test_vgg_pools_a_fourth_time_from_64_pixels_on():
    assert shapes("vgg8", size=32)[2]["stage4"].shape == (2, 4, 4, 512)
    assert shapes("vgg8", size=64)[2]["stage4"].shape == (2, 4, 4, 512)


@pytest.mark.parametrize("name", ["resnet18_imagenet", "efficientnet_lite0"])
def test_nets_of_imagenet_end_with_maps_of_seven(name):
    net, _, seen = shapes(name, size=224)
    assert seen["stem"].shape[1] == {"resnet": 56, "effici": 112}[name[:6]]
    assert seen[net.preactivations[-1]].shape[1:3] == (7, 7)


def test_shuffle_is_what_its_paper_says():
    mixed = _layers.shuffle(jnp.arange(6), 2)
    assert mixed.tolist() == [0, 3, 1, 4, 2, 5]


def test_mnist_cnn_equals_the_prototypes_layers():
    """Convolution, ReLU and pooling by lax, with windows as the prototype has them."""
    net, variables, images = made("mnist_cnn")
    seen, params = jax.jit(net.apply)(variables, images), variables["params"]

    @functools.partial(jax.jit, static_argnums=(1, 2))
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
    x = np.random.default_rng(0).normal(size=(2, 7, 8, 3)).astype(np.float32)
    ours = lambda x: _layers.max_pool(x, size)  # noqa: E731
    flax = lambda x: nn.max_pool(x, (size, size), (size, size))  # noqa: E731

    def both(pool):
        gradient = jax.grad(lambda x: jnp.sum(pool(x) ** 2))
        return jax.jit(lambda x: (pool(x), gradient(x)))(x)

    for own, theirs in zip(both(ours), both(flax), strict=True):
        np.testing.assert_array_equal(own, theirs)


def test_an_unknown_net_is_answered_with_the_nearest():
    with pytest.raises(errors.UnknownName, match="did you mean 'mnist_cnn'"):
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
    x = np.random.default_rng(0).normal(size=(2, *student)).astype(np.float32)

    @jax.jit
    def run(key):
        y, variables = module.init_with_output(key, x)
        # Linear: the kernel is reached by the gradient where the input is not zero.
        return y, jax.grad(lambda v: jnp.sum(module.apply(v, x) ** 2))(variables)

    y, gradient = jax.device_get(run(jax.random.key(0)))
    assert y.shape == (2, *answer)
    assert all(g.any() for g in jax.tree.leaves(gradient))


class TestConvolutions:
    """What stands in for XLA's own operations on the CPU gives the same."""

    @pytest.mark.parametrize(
        ("size", "groups", "features", "stride", "padding"),
        [
            (3, 6, 6, 1, ((1, 1), (1, 1))),
            (3, 6, 6, 2, ((1, 1), (1, 1))),
            (5, 6, 6, 2, "SAME"),
            (3, 6, 6, 2, "VALID"),
            (2, 6, 6, 3, ((0, 2), (1, 0))),
            (1, 6, 6, 1, "SAME"),
            (1, 3, 9, 1, "SAME"),
            (1, 2, 4, 2, "SAME"),
            (3, 2, 4, 1, "SAME"),
            (3, 6, 12, 1, "SAME"),
            (3, 1, 5, 2, "SAME"),
        ],
    )
    def test_value_and_gradients_are_those_of_lax(
        self, size, groups, features, stride, padding
    ):
        random = np.random.default_rng(0)
        x = random.normal(size=(2, 7, 8, 6)).astype(np.float32)
        shape = (size, size, 6 // groups, features)
        kernel = random.normal(size=shape).astype(np.float32)
        options = {
            "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
            "feature_group_count": groups,
        }

        def ours(x, kernel):
            return _convolutions.conv_general_dilated(
                x, kernel, (stride, stride), padding, **options
            )

        def lax_own(x, kernel):
            return lax.conv_general_dilated(
                x, kernel, (stride, stride), padding, **options
            )

        def both(x, kernel):
            for f in (ours, lax_own):
                loss = lambda x, kernel, f=f: jnp.sum(jnp.sin(f(x, kernel)))  # noqa: E731
                yield f(x, kernel), *jax.grad(loss, argnums=(0, 1))(x, kernel)

        found = jax.jit(lambda *given: [*both(*given)])(x, kernel)
        for own, theirs in zip(*found, strict=True):
            assert own.shape == theirs.shape and own.dtype == theirs.dtype
            np.testing.assert_allclose(own, theirs, rtol=1e-4, atol=1e-4)

    def test_bfloat16_is_summed_in_float32(self):
        x = np.ones((1, 5, 5, 4), jnp.bfloat16)
        kernel = np.full((5, 5, 1, 4), 1 + 2**-7, jnp.bfloat16)
        convolve = functools.partial(
            _convolutions.conv_general_dilated,
            strides=(1, 1),
            padding="VALID",
            feature_group_count=4,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        answer = jax.jit(convolve)(x, kernel)
        assert answer.dtype == jnp.bfloat16
        # 25 times 1.0078125, rounded once.
        expected = np.full(answer.shape, 25 * (1 + 2**-7), jnp.bfloat16)
        np.testing.assert_array_equal(answer, expected)

    @pytest.mark.parametrize("first", [1.5, 0.0, np.inf, -np.inf, np.nan])
    def test_compute_once_changes_nothing(self, first):
        x = np.random.default_rng(0).normal(size=(2, 3, 3, 2)).astype(np.float32)
        x[0, 0, 0, 0] = first
        np.testing.assert_array_equal(jax.jit(_convolutions.compute_once)(x), x)
        gradient = jax.grad(lambda x: jnp.sum(3 * _convolutions.compute_once(x)))
        gradient = jax.jit(gradient)(x)
        np.testing.assert_array_equal(gradient, np.full(x.shape, 3))
