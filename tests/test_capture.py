"""Activations of models that are not ours equal the models' own."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from rdljax import errors, objectives, teachers, terms, training
from rdljax.nets import capture

IMAGES = np.random.default_rng(0).normal(size=(8, 4, 4, 1)).astype(np.float32)
KEY = jax.random.key(0)


class Block(nn.Module):
    """A dense layer with statistics and dropout, that sows what dropout sees."""

    @nn.compact
    def __call__(self, x, deterministic):
        x = nn.Dense(4, name="dense")(x)
        x = nn.BatchNorm(use_running_average=deterministic, name="norm")(x)
        self.sow("intermediates", "features", x)
        return nn.Dropout(0.5, deterministic=deterministic)(nn.relu(x))


class Encoder(nn.Module):
    """Two blocks of the same shape, the second called twice."""

    @nn.compact
    def __call__(self, x, deterministic):
        x = Block(name="block_0")(x, deterministic)
        block = Block(name="block_1")
        return block(block(x, deterministic), deterministic)


class Model(nn.Module):
    """As others write them: nested, `deterministic`, answers logits."""

    @nn.compact
    def __call__(self, images, *, deterministic=True):
        x = images.reshape(images.shape[0], -1)
        x = Encoder(name="encoder")(x, deterministic)
        return nn.Dense(3, name="head")(x)


class NNXBlock(nnx.Module):
    def __init__(self, features, rngs):
        self.dense = nnx.Linear(features, 4, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.dropout(nnx.relu(self.norm(self.dense(x))))


class NNXModel(nnx.Module):
    """Blocks in a list, a `Sequential`, a dict and a layer that is called twice."""

    def __init__(self, rngs):
        self.blocks = nnx.List([NNXBlock(16, rngs), NNXBlock(4, rngs)])
        self.neck = nnx.Sequential(nnx.Linear(4, 4, rngs=rngs), nnx.relu)
        self.heads = nnx.Dict({"main": nnx.Linear(4, 3, rngs=rngs)})

    def __call__(self, images):
        x = images.reshape(images.shape[0], -1)
        for block in self.blocks:
            x = block(x)
        return self.heads["main"](self.neck(self.neck(x)))


def nnx_model(rngs=None):
    return NNXModel(rngs or nnx.Rngs(params=0, dropout=1))


LINEN_TAPS = {"logits": "", "stage1": "encoder/*0", "stage2": "encoder/block_1#1"}
NNX_TAPS = {"logits": "", "stage1": "blocks/0", "stage2": "neck#1"}


@functools.cache
def linen_net():
    return capture.linen(Model(), LINEN_TAPS, IMAGES)


@functools.cache
def nnx_net():
    return capture.nnx(nnx_model(), NNX_TAPS, IMAGES)


NETS = {"linen": linen_net, "nnx": nnx_net}


@functools.cache
def made(kind):
    net = NETS[kind]()
    return net, net.init(KEY, IMAGES)


def equal(got, expected):
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    jax.tree.map(close, got, expected)


class TestLinen:
    def test_answers_what_the_model_answers(self):
        net, variables = made("linen")
        assert net.layers == ("stage1", "stage2", "logits")
        equal(variables, Model().init(KEY, IMAGES))
        seen = net.apply(variables, IMAGES)
        logits, own = Model().apply(variables, IMAGES, capture_intermediates=True)
        encoder = own["intermediates"]["encoder"]
        np.testing.assert_array_equal(seen["logits"], logits)
        np.testing.assert_array_equal(seen["stage1"], encoder["block_0"]["__call__"][0])
        np.testing.assert_array_equal(seen["stage2"], encoder["block_1"]["__call__"][1])
        assert set(seen) == set(net.layers)

    def test_a_layer_by_hand(self):
        net = capture.linen(Model(), ["**/block_0/dense"], IMAGES)
        variables = made("linen")[1]
        layer = variables["params"]["encoder"]["block_0"]["dense"]
        expected = IMAGES.reshape(8, -1) @ layer["kernel"] + layer["bias"][None]
        seen = net.apply(variables, IMAGES)
        equal(seen["encoder/block_0/dense"], expected)

    def test_the_layers_of_a_sequential_model_have_flaxs_names(self):
        model = nn.Sequential([nn.Dense(4), nn.relu, nn.Dense(3)])
        net = capture.linen(model, {"hidden": "layers_0", "logits": ""}, X)
        variables = net.init(KEY, X)
        seen, first = net.apply(variables, X), variables["params"]["layers_0"]
        equal(seen["hidden"], X @ first["kernel"] + first["bias"][None])
        equal(seen["logits"], model.apply(variables, X))

    def test_updates_and_dropout_are_those_of_the_model(self):
        net, variables = made("linen")
        rngs = {"dropout": jax.random.key(3)}
        seen, updates = net.apply(
            variables, IMAGES, train=True, mutable=["batch_stats"], rngs=rngs
        )
        logits, expected = Model().apply(
            variables, IMAGES, deterministic=False, mutable=["batch_stats"], rngs=rngs
        )
        np.testing.assert_array_equal(seen["logits"], logits)
        equal(updates, expected)
        assert set(updates) == {"batch_stats"}
        assert net.apply(variables, IMAGES, mutable=[])[1] == {}

    def test_gradients_are_those_of_the_model(self):
        net, variables = made("linen")

        def loss(apply):
            return lambda params: jnp.sum(apply({**variables, "params": params}) ** 2)

        def own(variables):
            _, seen = Model().apply(variables, IMAGES, capture_intermediates=True)
            return seen["intermediates"]["encoder"]["block_1"]["__call__"][1]

        ours = jax.jit(jax.grad(loss(lambda v: net.apply(v, IMAGES)["stage2"])))
        equal(ours(variables["params"]), jax.grad(loss(own))(variables["params"]))
        assert not ours(variables["params"])["head"]["kernel"].any()

    def test_a_net_made_anew_is_the_same_static_argument(self):
        again = capture.linen(Model(), LINEN_TAPS, IMAGES)
        assert again == linen_net() and hash(again) == hash(linen_net())

    def test_what_a_module_sows_has_its_path(self):
        net = capture.linen(Model(), ["encoder/block_0/features"], IMAGES)
        seen = net.apply(made("linen")[1], IMAGES)["encoder/block_0/features"]
        stage1 = linen_net().apply(made("linen")[1], IMAGES)["stage1"]
        np.testing.assert_array_equal(nn.relu(seen), stage1)

    def test_a_model_called_with_train_or_otherwise(self):
        class Trained(nn.Module):
            @nn.compact
            def __call__(self, images, train=False):
                return nn.Dropout(0.5, deterministic=not train)(images)

        rngs = {"dropout": KEY}
        net = capture.linen(Trained(), {"y": ""}, IMAGES)
        assert (net.apply({}, IMAGES, train=True, rngs=rngs)["y"] == 0).any()
        np.testing.assert_array_equal(net.apply({}, IMAGES)["y"], IMAGES)
        net = capture.linen(
            Trained(), {"y": ""}, IMAGES, call=lambda m, x, train: m(2 * x, train=False)
        )
        assert (net.apply({}, IMAGES, train=True)["y"] == 2 * IMAGES).all()


class Pair(nn.Module):
    @nn.compact
    def __call__(self, x, _=None):
        x = nn.relu(nn.Dense(4, name="dense")(x))
        return x, {"twice": 2 * x}


class Lifted(nn.Module):
    """A block in a lifted transform."""

    kind: str

    @nn.compact
    def __call__(self, x):
        axes = {"params": 0, "intermediates": 0}
        make = {
            "plain": Pair,
            "remat": nn.remat(Pair),
            "jit": nn.jit(Pair),
            "scan": nn.scan(Pair, axes, split_rngs={"params": True}, length=3),
            "remat scan": nn.scan(
                nn.remat(Pair), axes, split_rngs={"params": True}, length=3
            ),
            "mute scan": nn.scan(
                Pair, {"params": 0}, split_rngs={"params": True}, length=3
            ),
            "vmap": nn.vmap(
                Pair,
                variable_axes={"params": None, "intermediates": 1},
                split_rngs={"params": False},
            ),
        }[self.kind]
        return nn.Dense(2, name="head")(make(name="block")(x)[0])


X = np.random.default_rng(1).normal(size=(5, 4)).astype(np.float32)


class TestLinenTransforms:
    @pytest.mark.parametrize("kind", ["remat", "jit"])
    def test_answers_are_as_without_it(self, kind):
        plain, lifted = (
            capture.linen(Lifted(kind), ["**"], X) for kind in ("plain", kind)
        )
        assert lifted.layers == plain.layers
        assert "block[1][twice]" in plain.layers and "block/dense" in plain.layers
        variables = plain.init(KEY, X)
        equal(lifted.apply(variables, X), plain.apply(variables, X))
        # And once more with other taps, whatever has been compiled by now.
        other = capture.linen(Lifted(kind), {"y": "block[0]"}, X)
        expected = plain.apply(variables, X)["block[0]"]
        np.testing.assert_array_equal(other.apply(variables, X)["y"], expected)

    @pytest.mark.parametrize("kind", ["scan", "remat scan"])
    def test_what_a_scan_stacks_is_tapped_by_index(self, kind):
        model = Lifted(kind)
        net = capture.linen(model, [f"block/dense[{k}]" for k in (2, 0, 1)], X)
        assert net.layers == ("block/dense[0]", "block/dense[1]", "block/dense[2]")
        variables = net.init(KEY, X)
        seen, x = net.apply(variables, X), X
        stacked = variables["params"]["block"]["dense"]
        for k in range(3):
            x = x @ stacked["kernel"][k] + stacked["bias"][k][None]
            equal(seen[f"block/dense[{k}]"], x)
            x = nn.relu(x)
        with pytest.raises(errors.UnknownName, match=r"did you mean 'block/dense\["):
            capture.linen(model, ["block/dense"], X)

    @pytest.mark.parametrize("kind", ["mute scan", "vmap"])
    def test_what_it_does_not_hand_out_is_refused(self, kind):
        with pytest.raises(ValueError, match='"intermediates": 0'):
            capture.linen(Lifted(kind), {"y": "block/dense"}, X)
        net = capture.linen(Lifted(kind), ["head"], X)
        assert net.apply(net.init(KEY, X), X)["head"].shape == (5, 2)


class TestNNX:
    def test_answers_what_the_model_answers(self):
        net, variables = made("nnx")
        assert net.layers == ("stage1", "stage2", "logits")
        model = nnx_model()
        model.eval()
        x = model.blocks[0](IMAGES.reshape(8, -1))
        seen = jax.jit(net.apply)(variables, IMAGES)
        equal(seen["stage1"], x)
        x = model.neck(model.neck(model.blocks[1](x)))
        equal(seen["stage2"], x)
        equal(seen["logits"], model(IMAGES))

    def test_training_goes_as_the_models_own(self):
        net, variables = made("nnx")
        model = nnx_model()
        model.train()
        for i in range(2):
            key = jax.random.key(i)
            nnx.reseed(model, dropout=key)
            logits = model(IMAGES)
            seen, updates = net.apply(
                variables,
                IMAGES,
                train=True,
                mutable=["model_state"],
                rngs={"dropout": key},
            )
            variables = variables | updates
            equal(seen["logits"], logits)
        assert set(updates) == {"model_state"}
        statistics = nnx.state(model, nnx.BatchStat)
        equal(updates["model_state"], nnx.to_pure_dict(statistics))

    def test_gradients_are_those_of_the_model(self):
        net, variables = made("nnx")
        model = nnx_model()
        model.eval()
        expected = nnx.grad(lambda m: jnp.sum(m(IMAGES) ** 2))(model)

        def loss(params):
            seen = net.apply({**variables, "params": params}, IMAGES)
            return jnp.sum(seen["logits"] ** 2)

        equal(
            jax.grad(loss)(variables["params"]), nnx.to_pure_dict(nnx.state(expected))
        )

    @pytest.mark.parametrize("streams", [{"default": 0}, {"params": 0, "dropout": 1}])
    def test_dropout_follows_the_rng_given(self, streams):
        model = nnx_model(nnx.Rngs(**streams))
        net = capture.nnx(model, ["blocks/0"], IMAGES)

        def seen(**rngs):
            answers = net.apply(net.variables, IMAGES, train=True, rngs=rngs)
            return np.asarray(answers["blocks/0"])

        first, second = (jax.random.key(i) for i in range(2))
        np.testing.assert_array_equal(seen(dropout=first), seen(dropout=first))
        assert (seen(dropout=first) != seen(dropout=second)).any()
        assert (seen(dropout=first) != seen()).any()

    def test_the_model_stays_as_it_is(self):
        model = nnx_model()
        before = nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngKey)))
        graph, kinds = (
            nnx.graphdef(model),
            [type(m) for _, m in nnx.iter_modules(model)],
        )
        net = capture.nnx(model, ["**"], IMAGES)
        net.apply(net.variables, IMAGES, train=True, mutable=True)
        jax.tree.map(lambda x: x.delete(), net.init())
        equal(nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.RngKey))), before)
        assert nnx.graphdef(model) == graph
        assert [type(m) for _, m in nnx.iter_modules(model)] == kinds

    def test_called_with_a_model_it_trains_as_the_models_own(self):
        """In a loop of NNX, statistics and random streams of the model change."""
        model, own = nnx_model(), nnx_model()
        net = capture.nnx(model, NNX_TAPS, IMAGES)
        own.train()

        @nnx.jit
        def step(model, own):
            def loss(model, call):
                return jnp.sum(call(model) ** 2)

            ours = nnx.value_and_grad(loss)(
                model, lambda m: net(m, IMAGES, train=True)["logits"]
            )
            return ours, nnx.value_and_grad(loss)(own, lambda m: m(IMAGES))

        for _ in range(2):
            ours, expected = step(model, own)
            np.testing.assert_allclose(ours[0], expected[0], rtol=1e-5)
            equal(*(nnx.to_pure_dict(gradient) for _, gradient in (ours, expected)))
        kept = nnx.Any(nnx.Param, nnx.BatchStat, nnx.RngCount)
        states = [nnx.to_pure_dict(nnx.state(m, kept)) for m in (model, own)]
        equal(*states)
        assert states[0]["blocks"][0]["norm"]["mean"].any()
        assert nnx.graphdef(model) == nnx.graphdef(nnx_model())

    def test_called_with_a_teacher_in_evaluation_mode_it_changes_nothing(self):
        """NNX would refuse to change a model from outside of the transform."""
        student, teacher = nnx_model(), nnx_model()
        net = capture.nnx(teacher, NNX_TAPS, IMAGES)

        @nnx.jit
        def gap(student):
            def loss(student):
                targets = net(teacher, IMAGES, train=False)["stage1"]
                return objectives.hint(student(IMAGES), targets[:, :3])

            student.train()
            return nnx.value_and_grad(loss)(student)[0]

        def state():
            return jax.tree.leaves(nnx.state(teacher, nnx.Not(nnx.RngKey)))

        before = state()
        assert gap(student) > 0
        jax.tree.map(np.testing.assert_array_equal, state(), before)

    def test_back_to_a_model(self):
        net, variables = made("nnx")
        variables = variables | {
            "params": jax.tree.map(jnp.ones_like, variables["params"])
        }
        model = net.merge(variables)
        model.eval()
        assert type(model) is NNXModel and (model.heads["main"].kernel[...] == 1).all()
        equal(model(IMAGES), net.apply(variables, IMAGES)["logits"])
        with pytest.raises(ValueError, match="expected variables"):
            net.merge({**variables, "params": {}})

    def test_inherited_calls_own_calls_and_what_is_sown(self):
        class Mine(nnx.Linear):
            pass

        class Odd(nnx.Module):
            def __init__(self, rngs):
                self.first = Mine(4, 4, rngs=rngs)

            def encode(self, x):
                x = self.first(x)
                self.sow(nnx.Intermediate, "features", x)
                return {"features": x}

        model = Odd(nnx.Rngs(0))
        net = capture.nnx(
            model, ["**"], X, call=lambda model, x, train: model.encode(x)
        )
        assert net.layers == ("first", "features", "[features]")
        assert {*net(model, X, train=True)} == {*net.layers}
        # What is sown is not added to the model.
        assert not hasattr(model, "features")
        seen = net.apply(net.variables, X)
        for name in net.layers:
            np.testing.assert_array_equal(seen[name], model.first(X))


class NNXLifted(nnx.Module):
    """A block in an NNX or a JAX transform."""

    def __init__(self, kind, rngs):
        self.kind = kind
        if kind == "scan":
            make = nnx.split_rngs(splits=3)(nnx.vmap(lambda r: Inner(r)))
            self.block = make(rngs)
        else:
            self.block = Inner(rngs)
        self.head = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        run = lambda block, x: block(x)  # noqa: E731
        match self.kind:
            case "remat":
                x = nnx.remat(run)(self.block, x)
            case "jit":
                x = nnx.jit(run)(self.block, x)
            case "vmap":
                x = nnx.vmap(run, in_axes=(None, 0))(self.block, x)
            case "scan":
                scan = nnx.scan(
                    lambda x, block: block(x),
                    in_axes=(nnx.Carry, 0),
                    out_axes=nnx.Carry,
                )
                x = scan(x, self.block)
            case "checkpoint":
                graph, state = nnx.split(self.block)
                x = jax.checkpoint(lambda s, x: nnx.merge(graph, s)(x))(state, x)
            case "plain":
                x = self.block(x)
        return self.head(x)


class Inner(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.dense(x))


class TestNNXTransforms:
    @pytest.mark.parametrize("kind", ["remat", "jit"])
    def test_answers_are_as_without_it(self, kind):
        plain, lifted = (
            capture.nnx(NNXLifted(kind, nnx.Rngs(0)), ["**"], X)
            for kind in ("plain", kind)
        )
        assert plain.layers == lifted.layers == ("block/dense", "block", "head")
        expected = plain.apply(plain.variables, X)
        equal(lifted.apply(lifted.variables, X), expected)

    @pytest.mark.parametrize("kind", ["vmap", "scan", "checkpoint"])
    def test_what_it_does_not_hand_out_is_refused(self, kind):
        model = NNXLifted(kind, nnx.Rngs(0))
        with pytest.raises(ValueError, match="transform|vmap"):
            capture.nnx(model, ["block/dense"], X)
        net = capture.nnx(model, ["head"], X)
        np.testing.assert_allclose(net.apply(net.variables, X)["head"], model(X))


class TestNames:
    def layers(self, taps):
        return capture.linen(Model(), taps, IMAGES).layers

    def test_a_star_stays_between_slashes(self):
        assert self.layers(["*"]) == ("encoder", "head")
        assert self.layers(["head", "encoder/block_?"]) == (
            "encoder/block_0",
            "encoder/block_1",
            "head",
        )
        assert self.layers(["**/dense*"]) == (
            "encoder/block_0/dense",
            "encoder/block_1/dense",
            "encoder/block_1/dense#1",
        )
        assert self.layers(["*", "head"]) == ("encoder", "head")

    def test_unknown_ones_are_answered_with_the_nearest(self):
        with pytest.raises(errors.UnknownName, match="did you mean 'encoder/block_1'"):
            self.layers({"a": "encoder/blok_1"})
        with pytest.raises(errors.UnknownName, match="'encoder/\\*\\*/conv'"):
            self.layers(["encoder/**/conv"])

    def test_a_name_is_one_activation(self):
        with pytest.raises(ValueError, match=r"not one .*block_0.*block_1"):
            self.layers({"a": "encoder/block_?"})
        with pytest.raises(ValueError, match="expected a list or a dict"):
            self.layers("head")

    def test_what_is_not_called_in_training_is_missed_by_name(self):
        class Shy(nn.Module):
            @nn.compact
            def __call__(self, x, train=False):
                return x if train else nn.Dense(4, name="dense")(x)

        net = capture.linen(Shy(), ["dense"], X)
        with pytest.raises(ValueError, match="'dense' .*not called in this mode"):
            net.apply(net.init(KEY, X), X, train=True)


class TestReport:
    def test_rows_are_in_the_order_of_the_calls(self):
        rows = capture.report(
            nnx_model(), jax.ShapeDtypeStruct((2, 4, 4, 1), jnp.float32)
        )
        assert [row.path for row in rows] == [
            *(f"blocks/0/{name}" for name in ("dense", "norm", "dropout")),
            "blocks/0",
            *(f"blocks/1/{name}" for name in ("dense", "norm", "dropout")),
            "blocks/1",
            "neck/layers/0",
            "neck",
            "neck/layers/0#1",
            "neck#1",
            "heads/main",
            "",
        ]
        assert rows[0] == ("blocks/0/dense", "Linear", (2, 4), jnp.float32)
        assert rows[-1] == ("", "NNXModel", (2, 3), jnp.float32)

    def test_prints_as_a_table(self):
        lines = str(capture.report(Lifted("plain"), X)).splitlines()
        assert [line.split() for line in lines] == [
            ["path", "kind", "shape", "dtype"],
            ["block/dense", "Dense", "(5,", "4)", "float32"],
            ["block[0]", "Pair", "(5,", "4)", "float32"],
            ["block[1][twice]", "Pair", "(5,", "4)", "float32"],
            ["head", "Dense", "(5,", "2)", "float32"],
            ['""', "Lifted", "(5,", "2)", "float32"],
        ]
        assert len({line.index("float32") for line in lines[1:]}) == 1

    @pytest.mark.parametrize("kind", NETS)
    def test_of_a_net_it_lists_all_that_can_be_tapped(self, kind):
        model = {"linen": Model(), "nnx": nnx_model()}[kind]
        assert capture.report(NETS[kind](), IMAGES) == capture.report(model, IMAGES)

    def test_another_thing_is_refused(self):
        with pytest.raises(TypeError, match="Module, got dict"):
            capture.report({}, X)
        with pytest.raises(TypeError, match="expected a flax.linen.* got NNXModel"):
            capture.linen(nnx_model(), ["*"], IMAGES)


@pytest.mark.parametrize("kind", NETS)
def test_runs_on_the_shards_of_a_mesh(kind):
    net, variables = made(kind)
    mesh = jax.sharding.Mesh(jax.devices(), ("devices",))
    whole, split = jax.P(), jax.P("devices")
    mapped = jax.shard_map(
        net.apply, mesh=mesh, in_specs=(whole, split), out_specs=split
    )
    equal(jax.jit(mapped)(variables, IMAGES), net.apply(variables, IMAGES))


def view(data, batch, key):
    return {"image": data[batch["index"]]}


@pytest.mark.parametrize(("student", "teacher"), [("nnx", "linen"), ("linen", "nnx")])
def test_learns_and_teaches_across_devices(student, teacher):
    """Steps of `training` on eight devices, where the student comes closer."""
    net = NETS[student]()
    taught, variables = made(teacher)
    source = teachers.net(taught, variables)
    term = terms.on_layers({"stage2": "stage2"}, terms.from_objective(objectives.hint))
    phase = training.Phase({"hint": (1.0, term)}, epochs=1)
    optimizer = optax.sgd(0.1)
    arrays = training.Arrays(source.arrays, jnp.asarray(np.tile(IMAGES, (2, 1, 1, 1))))
    batch = {"index": np.arange(16, dtype=np.int32)}
    state = training.init(KEY, net, source, [phase], view, arrays, batch)
    before = jax.device_get(state.replicated)
    state = training.begin_phase(state, phase, optimizer)
    step = training.pmap(training.make_step(net, source, phase, optimizer, view))
    arrays = training.replicate(arrays)
    losses = []
    for _ in range(6):
        state, metrics = step(state, arrays, training.shard(batch))
        losses.append(float(metrics["hint"]))
    after = jax.device_get(state.replicated)
    assert losses[-1] < losses[0]
    assert jax.tree.structure(after.params) == jax.tree.structure(before.params)
    if student == "nnx":
        moved = jax.tree.map(
            lambda a, b: (a != b).any(), after.model_state, before.model_state
        )
        assert all(jax.tree.leaves(moved))
        # The model given is still there, and so is a way back.
        assert np.isfinite(nnx_net().model.heads["main"].kernel[...]).all()
        trained = {"params": after.params["student"], **after.model_state}
        assert type(net.merge(trained)) is NNXModel


def test_what_modules_sow_stands_before_what_they_answer():
    class Sowing(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.Dense(3, name="dense")(x)
            self.sow("intermediates", "features", x)
            return 2 * x

    class Two(nn.Module):
        @nn.compact
        def __call__(self, images):
            x = Sowing(name="b0")(images)
            return Sowing(name="b1")(x)

    taps = ["b1", "b0", "b1/features", "b0/features"]
    net = capture.linen(Two(), taps, jnp.ones((2, 4)))
    assert net.layers == ("b0/features", "b0", "b1/features", "b1")


def test_a_module_that_answers_more_than_arrays_is_no_obstacle():
    class Named(nn.Module):
        @nn.compact
        def __call__(self, x):
            return "name", nn.Dense(3, name="dense")(x)

    class Model(nn.Module):
        @nn.compact
        def __call__(self, images):
            return 2 * Named(name="named")(images)[1]

    images = jnp.ones((2, 4))
    net = capture.linen(Model(), {"a": "named/dense", "b": "named[1]"}, images)
    seen = net.apply(net.init(jax.random.key(0), images), images)
    np.testing.assert_array_equal(seen["a"], seen["b"])
