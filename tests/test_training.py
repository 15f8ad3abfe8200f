"""The step: the same on one device and on eight, and through a checkpoint."""

import contextlib
import functools
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rdljax import checkpoints, errors, nets, objectives, teachers, terms, training
from rdljax.terms import negatives
from rdljax.training import _student

ROOT = pathlib.Path(__file__).parents[1]
N, BATCH, CLASSES = 48, 16, 4


class TinyNet(nn.Module):
    """A net with running statistics, synchronised over the mapped axis."""

    classes: int
    axis_name: str | None = None

    layers = ("pooled", "logits")

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Dense(8, use_bias=False)(images.reshape(images.shape[0], -1))
        x = nn.BatchNorm(
            use_running_average=not train, momentum=0.9, axis_name=self.axis_name
        )(x)
        x = nn.relu(x)
        return {"pooled": x, "logits": nn.Dense(self.classes)(x)}


class Scaled:
    """A net without Flax, whose `init` reads a number that the key determines."""

    layers = ("logits",)

    def init(self, key, images):
        scale = int(jax.random.randint(key, (), 1, 9))
        return {"params": {"weights": scale * jnp.ones((images[0].size, CLASSES))}}

    def apply(self, variables, images, train=False, mutable=False, rngs=None):
        logits = images.reshape(len(images), -1) @ variables["params"]["weights"]
        return {"logits": logits} if mutable is False else ({"logits": logits}, {})


def view(data, batch, key):
    """Images of the batch, with noise that depends on key and example alone."""
    index = batch["index"]
    noise = jax.vmap(
        lambda i: 0.1 * jax.random.normal(jax.random.fold_in(key, i), (3, 3, 1))
    )(index)
    return {
        "image": data["image"][index] + noise,
        "label": data["label"][index],
        "index": index,
    }


def counting() -> terms.Term:
    """A term that remembers on each device, row by row, how many examples it has seen.

    Its rows do not divide by the devices.
    """

    def init(key, student, teacher):
        return {}, terms.State(per_device=jnp.zeros(9, jnp.int32))

    def apply(params, state, student, teacher, batch, axis_name=None):
        seen = state.per_device + batch["index"].shape[0]
        return jnp.zeros(()), terms.State(per_device=seen)

    return terms.Term(init, apply)


LOSS = {
    "task": (1.0, terms.cross_entropy()),
    "kd": (0.5, terms.on_layers("logits", terms.from_objective(objectives.kd))),
    "hint": (
        optax.linear_schedule(1.0, 0.0, 4),
        terms.on_layers("pooled", terms.hint()),
    ),
    "rdl": (
        2.0,
        terms.over_global_batch(
            terms.on_layers({"pooled": "pooled", "logits": "logits"}, terms.rdl())
        ),
    ),
    "rdl/pairs": (
        1.0,
        terms.over_global_batch(terms.on_layers("pooled", terms.rdl(pairs=20))),
    ),
    "vid": (0.1, terms.on_layers("pooled", terms.vid())),
    "crd": (
        0.1,
        terms.on_layers("pooled", terms.crd(N, negatives.per_example(20), features=4)),
    ),
    "crd/sharded": (
        0.1,
        terms.on_layers("pooled", terms.crd_sharded(N, negatives.expectation(20))),
    ),
    "count": (1.0, counting()),
}
# What is plain, scheduled and trained, what draws, and what is kept on each device.
NAMES = ("task", "hint", "rdl/pairs", "crd/sharded", "count")
PHASE = training.Phase({name: LOSS[name] for name in NAMES}, epochs=1)
PHASE_OF_ALL = training.Phase(LOSS, epochs=1)
OPTIMIZER = optax.sgd(0.05, momentum=0.9)


def setting(axis_name=None, teacher_width=6):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(N, 3, 3, 1)).astype(np.float32)
    # The class is the brightest of the first pixels: something that can be learnt.
    label = image.reshape(N, -1)[:, :CLASSES].argmax(axis=1)
    data = {"image": jnp.asarray(image), "label": jnp.asarray(label)}
    net = nets.mlp.MLP(CLASSES, widths=(teacher_width,))
    variables = jax.jit(net.init)(jax.random.key(7), image[:2])
    teacher = teachers.net(net, variables)
    return TinyNet(CLASSES, axis_name), teacher, training.Arrays(variables, data)


def batches(steps):
    rng = np.random.default_rng(1)
    return [
        {"index": rng.permutation(N)[:BATCH].astype(np.int32)} for _ in range(steps)
    ]


def begin(student, teacher, arrays, devices: int | None = 1, phase=PHASE, plan=None):
    state = training.init(
        jax.random.key(0),
        student,
        teacher,
        plan or [phase],
        view,
        arrays,
        batches(1)[0],
        devices=devices,
    )
    return training.begin_phase(state, phase, OPTIMIZER)


@functools.cache
def mapped(devices, phase_of_all=False):
    """The step on so many devices, the arrays there, and a list of its traces."""
    student, teacher, arrays = setting(training.AXIS)
    chosen, traces = jax.local_devices()[:devices], []

    def traced(data, batch, key):
        traces.append(0)
        return view(data, batch, key)

    phase = PHASE_OF_ALL if phase_of_all else PHASE
    body = training.make_step(student, teacher, phase, OPTIMIZER, traced)
    return training.pmap(body, chosen), training.replicate(arrays, chosen), traces


def go_on(state, some, devices, phase_of_all=False):
    """The state, its metrics and the number of traces after each of some batches."""
    step, arrays, traces = mapped(devices, phase_of_all)
    metrics, traced = [], []
    for batch in some:
        state, metric = step(state, arrays, training.shard(batch, devices))
        metrics.append(jax.device_get(metric))
        traced.append(len(traces))
    return state, metrics, traced


@functools.cache
def run_pmap(devices, phase_of_all=False):
    """Four steps, the first of that program."""
    phase = PHASE_OF_ALL if phase_of_all else PHASE
    state = begin(*setting(training.AXIS), devices, phase)
    return jax.device_get(go_on(state, batches(4), devices, phase_of_all))


@functools.cache
def one_device(phase_of_all=False):
    """Four steps with no mapped axis at all."""
    phase = PHASE_OF_ALL if phase_of_all else PHASE
    student, teacher, arrays = setting()
    state = begin(student, teacher, arrays, phase=phase)
    squeeze = lambda tree: jax.tree.map(lambda x: x[0], tree)  # noqa: E731
    state = state._replace(per_device=squeeze(state.per_device))
    step = jax.jit(training.make_step(student, teacher, phase, OPTIMIZER, view))
    metrics = []
    for batch in batches(4):
        state, metric = step(state, arrays, batch)
        metrics.append(jax.device_get(metric))
    return jax.device_get(state), metrics


@functools.cache
def on_four(phase_of_all=False):
    """By `vmap`, four steps on four devices: the state and the metrics."""
    phase = PHASE_OF_ALL if phase_of_all else PHASE
    student, teacher, arrays = setting("d")
    state = begin(student, teacher, arrays, 4, phase)
    step = training.make_step(student, teacher, phase, OPTIMIZER, view)
    axes, metrics = training.TrainState(None, 0), []
    step = jax.jit(
        jax.vmap(
            functools.partial(step, axis_name="d"),
            in_axes=(axes, None, 0),
            out_axes=(axes, None),
            axis_name="d",
        )
    )
    for batch in batches(4):
        state, metric = step(state, arrays, training.shard(batch, 4))
        metrics.append(jax.device_get(metric))
    return jax.device_get(state), metrics


either_phase = pytest.mark.parametrize(
    "phase_of_all", [False, pytest.param(True, marks=pytest.mark.slow)]
)


def key_words(tree):
    return jax.tree.map(
        lambda x: (
            jax.random.key_data(x)
            if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
            else x
        ),
        tree,
    )


def assert_close(found, expected, tolerance=1e-4):
    """To the tolerance of each leaf's largest entry."""

    def compare(path, a, b):
        largest = np.max(np.abs(b)) if np.size(b) else 0
        np.testing.assert_allclose(
            a, b, rtol=0, atol=tolerance * largest + 1e-7, err_msg=str(path)
        )

    jax.tree_util.tree_map_with_path(compare, key_words(found), key_words(expected))


def test_divided_as_keeps_every_row_in_its_order():
    student, teacher, arrays = setting()
    now = jnp.arange(9, dtype=jnp.int32)
    phase = PHASE._replace(terms={k: LOSS[k] for k in ("crd/sharded", "count")})
    states = {d: begin(student, teacher, arrays, d, phase) for d in (1, 2, 4, 8)}

    def rows(state):
        return np.reshape(state.per_device["count"], -1)[:9]

    state = states[2]
    count = jnp.pad(now, (0, 1)).reshape(2, 5)
    state = state._replace(per_device=state.per_device | {"count": count})
    for devices in (4, 8, 1, 2):
        state = training.reshard_like(state, states[devices])
        assert state.per_device["count"].shape[0] == devices
        np.testing.assert_array_equal(rows(state), now)


def test_a_scalar_cannot_be_divided():
    def init(key, student, teacher):
        return {}, terms.State(per_device=jnp.zeros(()))

    phase = training.Phase({"own": (1.0, terms.Term(init, None))}, 1)
    with pytest.raises(ValueError, match="'own' divides a scalar"):
        begin(*setting(), phase=phase)


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_net_that_returns_an_array_is_told_what_helps(side):
    class Logits(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            return nn.Dense(3)(images.reshape(len(images), -1))

    mlp = nets.mlp.MLP(classes=3, widths=(4,))
    sides = {"student": mlp, "teacher": mlp}
    sides[side] = Logits()
    data = {"image": jnp.zeros((4, 2, 2, 1)), "label": jnp.zeros(4, jnp.int32)}
    variables = sides["teacher"].init(jax.random.key(0), data["image"])
    teacher = teachers.net(sides["teacher"], variables)
    arrays = training.Arrays(teacher.arrays, data)
    phase = training.Phase({"task": (1.0, terms.cross_entropy())}, 1)
    given = sides["student"], teacher, [phase], lambda data, *_: data, arrays, {}
    with pytest.raises(ValueError, match=rf"the {side} must return a dict.*capture"):
        training.init(jax.random.key(0), *given)


class TestNames:
    """Traces name the parts of a step, which are the same numbers for that."""

    names = ("task", "kd", "rdl/pairs")
    parts = ("view", "teacher", "student", "optimizer", *(f"terms/{n}" for n in names))

    def lowered(self):
        student, teacher, arrays = setting()
        phase = training.Phase({name: LOSS[name] for name in self.names}, epochs=1)
        state = begin(student, teacher, arrays, phase=phase)
        step = training.make_step(student, teacher, phase, OPTIMIZER, view)
        return jax.jit(step).lower(state, arrays, batches(1)[0])

    def test_the_compiled_step_names_each_part(self):
        text = self.lowered().compile().as_text()
        for part in self.parts:
            # `jit(step)/view/...`, `jit(step)/transpose(jvp(student))/...`
            assert re.search(rf'op_name="[^"]*[/(]{part}[/)]', text), part

    def test_the_program_is_that_without_names(self, monkeypatch):
        named = self.lowered()
        monkeypatch.setattr(jax, "named_scope", lambda _: contextlib.nullcontext())
        plain = self.lowered()
        assert "terms/kd" in named.as_text(debug_info=True)
        assert "terms/kd" not in plain.as_text(debug_info=True)
        assert named.as_text() == plain.as_text()


class TestProcesses:
    def test_two_processes_are_one(self, tmp_path):
        self.check(tmp_path, *on_four())

    @pytest.mark.slow
    def test_two_processes_are_one_by_pmap(self, tmp_path):
        self.check(tmp_path, *run_pmap(4)[:2])

    @pytest.mark.slow
    @pytest.mark.parametrize("who", [0, 1])
    @pytest.mark.parametrize("how", ["raises", "killed"])
    def test_one_that_ends_ends_the_other(self, tmp_path, how, who):
        processes = self.start(tmp_path, how, str(who))
        said = [process.communicate(timeout=100)[0] for process in processes]
        assert all(process.returncode not in (0, None) for process in processes)
        assert (processes[who].returncode == -signal.SIGKILL) == (how == "killed")
        assert ("something is wrong here" in said[who]) == (how == "raises")
        assert "another task died" in said[1 - who]
        assert not (tmp_path / "middle").exists()

    def start(self, tmp_path, *ending):
        """Two processes of two devices each, over the loopback."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, ROOT / "tests" / "process.py", tmp_path, str(port)]
        environment = os.environ | {
            "XLA_FLAGS": os.environ["XLA_FLAGS"].replace("count=8", "count=2"),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "PYTHONPATH": str(ROOT),
        }
        return [
            subprocess.Popen(
                [*command, str(i), *ending],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for i in range(2)
        ]

    def check(self, tmp_path, expected, expected_metrics):
        """Two processes against four devices of one.

        Each sees its own half of the images' indices; the first saves, both restore.
        """
        processes = self.start(tmp_path)
        for process in processes:
            try:
                said, _ = process.communicate(timeout=240)
            finally:
                for other in processes:
                    if process.returncode != 0:
                        other.kill()
            assert process.returncode == 0, said
        like = {"state": key_words(expected.replicated), "metrics": expected_metrics}
        found, about, _ = checkpoints.restore(tmp_path / "end", like)
        assert about == {"devices": 4, "processes": 2}
        assert_close(found, like)
        per_device = dict(np.load(tmp_path / "per_device.npz"))
        assert_close(per_device["count"], expected.per_device["count"])
        for i, rows in enumerate(expected.per_device["crd/sharded"]):
            assert_close(per_device[f"crd/sharded{i}"], rows)


class TestDevices:
    @pytest.mark.parametrize(
        ("devices", "phase_of_all"),
        [
            (8, False),
            *(pytest.param(d, True, marks=pytest.mark.slow) for d in (1, 2, 8)),
        ],
    )
    def test_pmap_equals_one_device_without_a_mapped_axis(self, devices, phase_of_all):
        state, metrics, _ = run_pmap(devices, phase_of_all)
        expected, expected_metrics = one_device(phase_of_all)
        assert_close(state.replicated, expected.replicated)
        assert_close(metrics, expected_metrics)
        assert metrics[0]["rdl/pairs"] > 0 and metrics[0]["hint"] > 0

    @either_phase
    def test_the_same_body_under_vmap(self, phase_of_all):
        (state, metrics), expected = on_four(phase_of_all), one_device(phase_of_all)
        assert_close((state.replicated, metrics), (expected[0].replicated, expected[1]))

    @pytest.mark.slow
    @either_phase
    def test_the_same_body_under_shard_map(self, phase_of_all):
        phase = PHASE_OF_ALL if phase_of_all else PHASE
        student, teacher, arrays = setting("d")
        state = begin(student, teacher, arrays, 4, phase)
        step = training.make_step(student, teacher, phase, OPTIMIZER, view)

        def body(state, arrays, batch):
            first = lambda tree: jax.tree.map(lambda x: x[0], tree)  # noqa: E731
            state = state._replace(per_device=first(state.per_device))
            state, metrics = step(state, arrays, batch, axis_name="d")
            more = lambda tree: jax.tree.map(lambda x: x[None], tree)  # noqa: E731
            return state._replace(per_device=more(state.per_device)), metrics

        mesh = jax.make_mesh(
            (4,),
            ("d",),
            devices=jax.devices()[:4],
            axis_types=(jax.sharding.AxisType.Auto,),
        )
        specs = training.TrainState(jax.P(), jax.P("d"))
        mapped = jax.jit(
            jax.shard_map(
                body,
                mesh=mesh,
                in_specs=(specs, jax.P(), jax.P("d")),
                out_specs=(specs, jax.P()),
                check_vma=False,
            )
        )
        for batch in batches(4):
            state, _ = mapped(state, arrays, batch)
        assert_close(state.replicated, one_device(phase_of_all)[0].replicated)

    @either_phase
    def test_state_of_its_own_stays_on_each_device(self, phase_of_all):
        state, *_ = run_pmap(8, phase_of_all)
        seen = np.full((8, 2), 4 * BATCH // 8)
        np.testing.assert_array_equal(state.per_device["count"], seen)
        alone, _ = one_device(phase_of_all)
        assert (alone.per_device["count"] == 4 * BATCH).all()

    def test_statistics_are_averaged_where_the_net_does_not_synchronise_them(self):
        # Of unsynchronised statistics each device has its own; the state has one.
        student, teacher, arrays = setting(axis_name=None)
        phase = training.Phase({"task": LOSS["task"]}, epochs=1)
        state = begin(student, teacher, arrays, 2, phase)
        body = training.make_step(student, teacher, phase, OPTIMIZER, view)
        step = functools.partial(body, axis_name="d")
        axes = training.TrainState(None, 0)
        mapped = jax.jit(
            jax.vmap(
                step, in_axes=(axes, None, 0), out_axes=(axes, None), axis_name="d"
            )
        )
        new, _ = mapped(state, arrays, training.shard(batches(1)[0], 2))
        found = new.replicated.model_state["batch_stats"]["BatchNorm_0"]["mean"]
        # Means of equal parts average to the mean of the whole.
        whole, _ = jax.jit(body)(state, arrays, batches(1)[0])
        expected = whole.replicated.model_state["batch_stats"]["BatchNorm_0"]["mean"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)

    def test_a_batch_must_divide(self):
        with pytest.raises(ValueError, match="batch of 10 is not divisible by 4"):
            training.shard({"index": np.arange(10)}, 4)

    @either_phase
    def test_compiled_once_and_state_donated(self, phase_of_all):
        *_, traced = run_pmap(8, phase_of_all)
        assert traced == traced[:1] * 4
        step, arrays, _ = mapped(8, phase_of_all)
        phase = PHASE_OF_ALL if phase_of_all else PHASE
        state, batch = begin(*setting(training.AXIS), 8, phase), batches(1)[0]
        old, _ = step(state, arrays, training.shard(batch, 8))
        step(old, arrays, training.shard(batch, 8))
        assert old.replicated.step.is_deleted()


class TestPhases:
    def test_a_phase_trains_what_it_names_alone(self):
        student, teacher, arrays = setting()
        phase = PHASE._replace(trains=("hint",))
        state = begin(student, teacher, arrays, phase=phase)
        state = state._replace(per_device={k: () for k in state.per_device})
        phase = phase._replace(terms={k: LOSS[k] for k in ("task", "hint")})
        step = jax.jit(training.make_step(student, teacher, phase, OPTIMIZER, view))
        new, _ = step(state, arrays, batches(1)[0])
        same = jax.tree.map(
            lambda a, b: bool((a == b).all()), new.replicated, state.replicated
        )
        assert all(jax.tree.leaves(same.params["student"]))
        assert all(jax.tree.leaves(same.model_state))
        assert not any(jax.tree.leaves(same.params["hint"]))

    def test_a_path_below_a_name(self):
        student, teacher, arrays = setting()
        terms_ = {k: LOSS[k] for k in ("task", "hint")}
        phase = training.Phase(terms_, 1, trains=("student/Dense_1", "hint"))
        state = begin(student, teacher, arrays, phase=phase)
        step = jax.jit(training.make_step(student, teacher, phase, OPTIMIZER, view))
        new, _ = step(state, arrays, batches(1)[0])
        same = jax.tree.map(
            lambda a, b: bool((a == b).all()),
            new.replicated.params["student"],
            state.replicated.params["student"],
        )
        assert all(jax.tree.leaves(same["Dense_0"]))
        assert not any(jax.tree.leaves(same["Dense_1"]))

    def test_a_term_may_have_nothing_to_train(self):
        student, teacher, arrays = setting()
        ends = []
        for trains in (("student",), ("student", "task")):
            phase = training.Phase({"task": LOSS["task"]}, 1, trains=trains)
            state = begin(student, teacher, arrays, phase=phase)
            assert not jax.tree.leaves(state.replicated.params["task"])
            step = jax.jit(training.make_step(student, teacher, phase, OPTIMIZER, view))
            new, _ = step(state, arrays, batches(1)[0])
            ends.append(new.replicated.params)
        jax.tree.map(np.testing.assert_array_equal, *ends)

    def test_every_trained_leaf_changes_by_default(self):
        state, _ = one_device()
        student, teacher, arrays = setting()
        before = begin(student, teacher, arrays).replicated.params
        moved = jax.tree.map(
            lambda a, b: bool((a != b).any()), before, state.replicated.params
        )
        assert all(jax.tree.leaves(moved))

    def test_phases_follow_each_other_with_terms_of_their_own(self):
        student, teacher, arrays = setting()
        first = training.Phase({"hint": LOSS["hint"]}, 1, trains=("hint",))
        second = training.Phase({k: LOSS[k] for k in ("task", "kd")}, 1)
        state = begin(student, teacher, arrays, phase=first, plan=[first, second])
        assert set(state.replicated.params) == {"student", "hint", "task", "kd"}
        for phase in (first, second):
            state = training.begin_phase(state, phase, OPTIMIZER)
            assert state.replicated.step == 0
            step = jax.jit(training.make_step(student, teacher, phase, OPTIMIZER, view))
            for batch in batches(2):
                state, metrics = step(state, arrays, batch)
            assert set(metrics) == {"loss", *phase.terms}
        assert state.replicated.step == 2

    def test_each_phase_has_its_own_randomness(self):
        student, teacher, arrays = setting()
        state = begin(student, teacher, arrays)
        later = training.begin_phase(state, PHASE, OPTIMIZER)
        keys = [jax.random.key_data(s.replicated.key) for s in (state, later)]
        assert (keys[0] != keys[1]).any()

    @either_phase
    def test_the_loss_is_the_weighted_sum_with_schedules(self, phase_of_all):
        _, metrics = one_device(phase_of_all)
        loss = (PHASE_OF_ALL if phase_of_all else PHASE).terms
        for step, values in enumerate(metrics):
            weights = {k: w(step) if callable(w) else w for k, (w, _) in loss.items()}
            expected = sum(weights[k] * values[k] for k in loss)
            np.testing.assert_allclose(values["loss"], expected, rtol=1e-5)

    @pytest.mark.parametrize(
        "name", ["studnet", "student/Dense_7", "student/Dense", "stud"]
    )
    def test_unknown_parameters_are_named(self, name):
        student, teacher, arrays = setting()
        phase = PHASE._replace(trains=(name,))
        with pytest.raises(errors.UnknownName, match=f"{name}'; did you mean 'student"):
            begin(student, teacher, arrays, phase=phase)

    def test_a_name_does_not_stand_for_longer_ones(self):
        student, teacher, arrays = setting()
        two = {"hint": LOSS["hint"], "hint/more": LOSS["hint"]}
        phase = training.Phase({"task": LOSS["task"], **two}, 1, trains=("hint",))
        state = begin(student, teacher, arrays, phase=phase)
        step = jax.jit(training.make_step(student, teacher, phase, OPTIMIZER, view))
        new, _ = step(state, arrays, batches(1)[0])
        for name, moves in (("hint", True), ("hint/more", False)):
            pair = (s.replicated.params[name] for s in (state, new))
            same = jax.tree.map(lambda a, b: bool((a == b).all()), *pair)
            assert all(x != moves for x in jax.tree.leaves(same))

    def test_a_name_stands_for_one_term_in_all_phases(self):
        student, teacher, arrays = setting()
        plan = [
            training.Phase({"x": LOSS["task"]}, 1),
            training.Phase({"x": LOSS["hint"]}, 1),
        ]
        with pytest.raises(ValueError, match="different terms called 'x'"):
            begin(student, teacher, arrays, phase=plan[0], plan=plan)

    @pytest.mark.parametrize("name", ["student", "loss"])
    def test_reserved_names(self, name):
        student, teacher, arrays = setting()
        phase = training.Phase({name: LOSS["task"]}, 1)
        with pytest.raises(ValueError, match=name):
            begin(student, teacher, arrays, phase=phase)


class Maps(nn.Module):
    """A small net with three maps before their ReLU."""

    channels: tuple[int, int, int]

    layers = ("stage1", "stage2", "stage3", "logits")

    @nn.compact
    def __call__(self, images, train=False):
        seen, x = {}, images
        for i, channels in enumerate(self.channels):
            x = nn.Conv(channels, (2, 2))(x)
            seen[f"stage{i + 1}"] = x
            x = nn.relu(x)
        return seen | {"logits": nn.Dense(CLASSES)(x.mean(axis=(1, 2)))}


class TestStartUp:
    """The published start-up phases, as parts of a plan."""

    devices, steps = 2, 3

    def run(self, plan, teacher_channels=(4, 6, 6)):
        """The student's and terms' parameters before, and after each phase."""
        _, _, arrays = setting()
        student, net = Maps((4, 5, 6)), Maps(teacher_channels)
        variables = jax.jit(net.init)(jax.random.key(1), arrays.data["image"][:2])
        teacher = teachers.net(net, variables)
        arrays = arrays._replace(teacher=variables)
        state = training.init(
            jax.random.key(0),
            student,
            teacher,
            plan,
            view,
            arrays,
            batches(1)[0],
            devices=self.devices,
        )
        some = jax.devices()[: self.devices]
        arrays = training.replicate(arrays, some)
        found, losses = [jax.tree.map(np.asarray, state.replicated.params)], []
        for phase in plan:
            state = training.begin_phase(state, phase, OPTIMIZER)
            body = training.make_step(student, teacher, phase, OPTIMIZER, view)
            step = training.pmap(body, some)
            for batch in batches(self.steps):
                batch = training.shard(batch, self.devices)
                state, metrics = step(state, arrays, batch)
                losses.append(float(metrics["loss"]))
            found.append(jax.tree.map(np.asarray, state.replicated.params))
        assert np.isfinite(losses).all()
        return found

    @staticmethod
    def moved(before, after):
        """Which leaves differ, as a flat list of booleans."""
        same = jax.tree.map(lambda a, b: bool((a == b).all()), before, after)
        return [not x for x in jax.tree.leaves(same)]

    def test_the_paraphraser_is_trained_and_then_frozen(self):
        factors = terms.on_layers(("stage3", "stage3"), terms.ft())
        plan = [
            training.Phase(
                {"ft": (1.0, terms.pretraining(factors))}, 1, trains=("ft/paraphraser",)
            ),
            training.Phase(
                {"task": LOSS["task"], "ft": (10.0, factors)},
                1,
                trains=("student", "ft/translator"),
            ),
        ]
        start, middle, end = self.run(plan)
        assert not any(self.moved(start["student"], middle["student"]))
        assert not any(
            self.moved(start["ft"]["translator"], middle["ft"]["translator"])
        )
        paraphrasers = [x["ft"]["paraphraser"] for x in (start, middle, end)]
        assert all(self.moved(*paraphrasers[:2]))
        assert not any(self.moved(*paraphrasers[1:]))
        assert all(self.moved(middle["student"], end["student"]))
        assert all(self.moved(middle["ft"]["translator"], end["ft"]["translator"]))

    def test_connectors_are_trained_with_the_trunk_and_then_left(self):
        pairs = [(f"stage{i}", f"stage{i}") for i in (1, 2, 3)]
        plan = [
            training.Phase({"ab": (1.0, terms.on_layers(pairs, terms.ab()))}, 1),
            training.Phase({"task": LOSS["task"]}, 1),
        ]
        start, middle, end = self.run(plan)
        # One layer of three differs in shape.
        assert [bool(p) for p in start["ab"]] == [False, True, False]
        assert all(self.moved(start["ab"], middle["ab"]))
        trunk, head = (
            [
                {k: v for k, v in x["student"].items() if k.startswith(part)}
                for x in (start, middle)
            ]
            for part in ("Conv", "Dense")
        )
        assert all(self.moved(*trunk)) and not any(self.moved(*head))
        assert not any(self.moved(middle["ab"], end["ab"]))
        assert all(self.moved(middle["student"], end["student"]))

    @pytest.mark.parametrize("phases", [1, pytest.param(2, marks=pytest.mark.slow)])
    def test_fsp_trains_the_trunk(self, phases):
        layers = ["stage1", "stage2", "stage3"]
        fsp = terms.on_layers(layers, terms.from_objective(objectives.fsp))
        plan = [training.Phase({"fsp": (1.0, fsp)}, 1)]
        plan.append(training.Phase({"task": LOSS["task"]}, 1))
        start, end, *_ = self.run(plan[:phases], teacher_channels=(4, 5, 6))
        moved = jax.tree.map(
            lambda a, b: bool((a != b).any()), start["student"], end["student"]
        )
        assert all(jax.tree.leaves({k: v for k, v in moved.items() if "Conv" in k}))
        assert not any(jax.tree.leaves(moved["Dense_0"]))


@pytest.mark.slow
class TestStartUpOnEightDevices(TestStartUp):
    devices, steps = 8, 5


def test_teacher_and_student_may_see_different_views():
    # Cross-modal: the teacher sees the left half of each image, the student the right.
    student, _, arrays = setting()

    def halves(data, batch, key):
        seen = view(data, batch, key)
        image = seen["image"]
        return seen | {"image": image[:, :, 1:], "left": image[:, :, :1]}

    net = nets.mlp.MLP(CLASSES, widths=(6,))
    variables = jax.jit(net.init)(jax.random.key(7), jnp.zeros((2, 3, 1, 1)))
    teacher = teachers.net(net, variables, inputs="left")
    arrays = arrays._replace(teacher=variables)
    phase = training.Phase({k: LOSS[k] for k in ("crd", "kd", "rdl")}, 1)
    state = training.init(
        jax.random.key(0),
        student,
        teacher,
        [phase],
        halves,
        arrays,
        batches(1)[0],
        devices=1,
    )
    state = training.begin_phase(state, phase, OPTIMIZER)
    step = jax.jit(training.make_step(student, teacher, phase, OPTIMIZER, halves))
    losses = []
    for batch in batches(40):
        state, metrics = step(state, arrays, batch)
        losses.append({k: float(v) for k, v in metrics.items()})
    assert state.replicated.params["student"]["Dense_0"]["kernel"].shape == (6, 8)
    for name in ("crd", "kd", "rdl"):
        first, last = (
            np.mean([x[name] for x in part]) for part in (losses[:8], losses[-8:])
        )
        assert last < first


def test_the_student_of_a_state_can_be_applied():
    student, teacher, arrays = setting()
    state = begin(student, teacher, arrays)
    variables = training.student_variables(state)
    assert variables.keys() == {"params", "batch_stats"}
    images = np.ones((3, 3, 3, 1), np.float32)
    taught = teachers.net(student, variables)
    targets = taught.targets(taught.arrays, {"image": images})
    assert targets["logits"].shape == (3, CLASSES)
    own = state.replicated.params["student"]["Dense_1"]["bias"]
    assert variables["params"]["Dense_1"]["bias"] is own


def test_training_lowers_the_loss():
    student, teacher, arrays = setting()
    phase = training.Phase({k: LOSS[k] for k in ("task", "rdl")}, 1)
    optimizer = optax.adam(0.05)
    state = begin(student, teacher, arrays, phase=phase)
    state = training.begin_phase(state, phase, optimizer)
    step = jax.jit(training.make_step(student, teacher, phase, optimizer, view))
    losses = []
    for batch in batches(150):
        state, metrics = step(state, arrays, batch)
        losses.append(metrics)
    first, last = losses[:10], losses[-10:]
    for key in ("task", "rdl"):
        before, after = (np.mean([m[key] for m in part]) for part in (first, last))
        assert after < 0.7 * before


@either_phase
def test_a_restored_state_continues_to_the_same_bits(tmp_path, phase_of_all):
    unbroken, *_ = run_pmap(8, phase_of_all)
    phase = PHASE_OF_ALL if phase_of_all else PHASE
    begun, todo = begin(*setting(training.AXIS), 8, phase), batches(4)
    like = jax.eval_shape(lambda: begun)
    checkpoints.save(tmp_path, 2, go_on(begun, todo[:2], 8, phase_of_all)[0], {})
    restored, _, _ = checkpoints.restore(tmp_path, like)
    continued, *_ = go_on(restored, todo[2:], 8, phase_of_all)
    jax.tree.map(
        np.testing.assert_array_equal, key_words(continued), key_words(unbroken)
    )


class TestMicroBatches:
    """The loss of the whole batch, the memory of a micro-batch."""

    LOSS = {k: LOSS[k] for k in ("task", "hint", "crd")} | {
        "sp": (
            100.0,
            terms.over_global_batch(
                terms.on_layers("pooled", terms.from_objective(objectives.sp))
            ),
        ),
    }

    def go(self, student, count, devices=1, steps=3):
        _, teacher, arrays = setting()
        chosen = jax.local_devices()[:devices]
        phase = training.Phase(self.LOSS, epochs=1)
        state = begin(student, teacher, arrays, devices, phase)
        arrays = training.replicate(arrays, chosen)
        body = training.make_step(
            student, teacher, phase, OPTIMIZER, view, micro_batches=count
        )
        step = training.pmap(body, chosen)
        metrics = []
        for batch in batches(steps):
            state, metric = step(state, arrays, training.shard(batch, devices))
            metrics.append(jax.device_get(metric))
        return jax.device_get(state.replicated), metrics

    # On one device the test of normalisation has micro-batches too.
    @pytest.mark.parametrize(
        ("count", "devices"),
        [(4, 2), *(pytest.param(n, 1, marks=pytest.mark.slow) for n in (2, 8))],
    )
    def test_the_step_is_that_of_the_whole_batch(self, count, devices):
        net = nets.mlp.MLP(CLASSES, widths=(8,))
        expected, expected_metrics = self.go(net, 1, 1)
        found, found_metrics = self.go(net, count, devices)
        assert_close(found_metrics, expected_metrics, 1e-5)
        assert_close(found, expected, 1e-5)

    def test_of_micro_batches_alone_the_relations_would_be_others(self):
        # What accumulated gradients of each one's own loss would be.
        student, teacher, arrays = setting()
        net = nets.mlp.MLP(CLASSES, widths=(8,))
        state = begin(net, teacher, arrays, phase=training.Phase(self.LOSS, 1))
        params = {"params": state.replicated.params["student"]}

        @jax.jit
        def losses(batch):
            images = view(arrays.data, batch, jax.random.key(0))["image"]
            seen = net.apply(params, images)["pooled"]
            taught = teacher.targets(arrays.teacher, {"image": images})["pooled"]
            halves = [objectives.sp(seen[i:][:8], taught[i:][:8]) for i in (0, 8)]
            return objectives.sp(seen, taught), halves

        whole, halves = losses(batches(1)[0])
        assert abs(np.mean(halves) / whole - 1) > 0.2

    def test_normalisation_is_that_of_each_micro_batch(self):
        student, teacher, arrays = setting()
        phase = training.Phase(self.LOSS, epochs=1)
        state = begin(student, teacher, arrays, 1, phase)
        now, batch = state.replicated, batches(1)[0]
        variables = {"params": now.params["student"], **now.model_state}

        @jax.jit
        def one_by_one(variables, key):
            for part in jnp.split(view(arrays.data, batch, key)["image"], 4):
                _, changed = student.apply(
                    variables, part, True, mutable=["batch_stats"]
                )
                variables |= changed
            return variables

        variables = one_by_one(variables, jax.random.fold_in(now.key, 0))
        found, _ = self.go(student, 4, steps=1)
        assert_close(found.model_state["batch_stats"], variables["batch_stats"], 1e-5)

    def test_less_memory(self):
        net, optimizer = nets.build("mnist_cnn", 10), optax.sgd(0.1)
        nobody = teachers.none()
        phase = training.Phase({"task": LOSS["task"]}, 1)
        data = {
            "image": jnp.zeros((256, 32, 32, 1)),
            "label": jnp.zeros(256, jnp.int32),
        }

        def memory(count):
            see = lambda data, batch, key: data  # noqa: E731
            arrays = training.Arrays((), data)
            state = jax.eval_shape(
                lambda: training.begin_phase(
                    training.init(
                        jax.random.key(0),
                        net,
                        nobody,
                        [phase],
                        see,
                        arrays,
                        {},
                        devices=1,
                    ),
                    phase,
                    optimizer,
                )
            )
            body = training.make_step(
                net, nobody, phase, optimizer, see, micro_batches=count
            )
            compiled = jax.jit(body).lower(state, arrays, {}).compile()
            return compiled.memory_analysis().temp_size_in_bytes

        assert memory(8) < memory(1) / 3

    def test_a_batch_must_divide(self):
        net = nets.mlp.MLP(CLASSES, widths=(8,))
        with pytest.raises(
            ValueError, match="batch of 16 is not divisible by 3 micro-batches"
        ):
            self.go(net, 3)


@pytest.mark.slow
class TestMicroBatchesOfOneTermMore(TestMicroBatches):
    LOSS = TestMicroBatches.LOSS | {"rdl": LOSS["rdl"]}


class TestMixedPrecision:
    """Activations in bfloat16; parameters, losses and statistics in float32."""

    def go(self, dtype, devices=1):
        _, teacher, arrays = setting()
        net = nets.build("mlp", CLASSES, dtype=dtype)
        chosen = jax.local_devices()[:devices]
        names = ("task", "kd", "rdl", "crd")
        phase = training.Phase({name: LOSS[name] for name in names}, 1)
        state = begin(net, teacher, arrays, devices, phase)
        body = training.make_step(net, teacher, phase, OPTIMIZER, view)
        step, arrays = training.pmap(body, chosen), training.replicate(arrays, chosen)
        metrics = []
        for batch in batches(3):
            state, metric = step(state, arrays, training.shard(batch, devices))
            metrics.append(jax.device_get(metric))
        return jax.device_get(state.replicated), metrics

    @pytest.mark.parametrize(
        "devices", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 8))]
    )
    def test_what_is_kept_is_single_precision_and_the_loss_nearly_the_same(
        self, devices
    ):
        # (On several devices it is as good.)
        half, half_metrics = self.go(jnp.bfloat16, devices)
        single, single_metrics = self.go(jnp.float32)
        dtypes = {x.dtype for x in jax.tree.leaves((half, half_metrics))}
        assert jnp.bfloat16 not in dtypes and np.dtype("float32") in dtypes
        assert_close(half_metrics, single_metrics, 0.03)
        moved = [
            np.concatenate([x.ravel() for x in jax.tree.leaves(s.opt_state)])
            for s in (half, single)
        ]
        assert np.corrcoef(*moved)[0, 1] > 0.95


def first_above(limit):
    """NaN, and with it the gradient, of what is above a limit somewhere."""

    def objective(student, teacher):
        return jnp.mean(jnp.where(student > limit, jnp.nan * student, student) ** 2)

    return terms.from_objective(objective)


def root_of_zero(student, teacher):
    """A value of 0 whose gradient is not finite."""
    return jnp.sum(jnp.sqrt(0 * student))


class TestExamination:
    """What is not finite is found, by the name of term and layer."""

    def explanation(
        self, phase=None, change=lambda state, arrays: (state, arrays), devices=2
    ):
        student, teacher, arrays = setting(training.AXIS)
        chosen = jax.local_devices()[:devices]
        phase = training.Phase({"task": LOSS["task"], **(phase or {})}, 1)
        state = begin(student, teacher, arrays, devices, phase)
        state, arrays = change(state, arrays)
        examine = training.make_finite_check(student, teacher, phase, view)
        arrays = training.replicate(arrays, chosen)
        batch = training.shard(batches(1)[0], devices)
        before = jax.device_get(key_words(state))
        state, found = training.pmap(examine, chosen)(state, arrays, batch)
        jax.tree.map(np.testing.assert_array_equal, before, key_words(state))
        return jax.device_get(found).explanation(student.layers)

    def test_nothing(self):
        assert (
            self.explanation({k: LOSS[k] for k in ("rdl", "vid", "crd/sharded")})
            is None
        )

    @pytest.mark.parametrize("devices", [1, 8])
    def test_a_term_and_its_layer(self, devices):
        # (On eight devices one of them sees the one that is too large.)
        wrong = terms.on_layers("logits", first_above(0.5))
        right = terms.on_layers("pooled", terms.from_objective(objectives.rkd_distance))
        phase = {"at/x": (1.0, wrong), "right": (1.0, right)}
        expected = "the term at/x is not finite: layers logits"
        assert self.explanation(phase, devices=devices) == expected

    def test_the_layer_of_a_term_of_several(self):
        def objective(student, teacher):
            return jnp.mean(student["logits"]) + root_of_zero(student["pooled"], None)

        both = {"pooled": "pooled", "logits": "logits"}
        phase = {"two": (1.0, terms.on_layers(both, terms.from_objective(objective)))}
        expected = "the gradient of the term two is not finite: layers pooled"
        assert self.explanation(phase) == expected

    def test_a_sum_that_is_too_large(self):
        def large(student, teacher):
            return jnp.float32(3e38) + 0 * jnp.sum(student)

        two = {
            k: (1.0, terms.on_layers("pooled", terms.from_objective(large)))
            for k in "ab"
        }
        assert self.explanation(two) == "the loss is not finite, all terms are"
        weighted = {"a": (1e5, two["a"][1])}
        assert self.explanation(weighted).startswith("the term a is not finite")

    def test_what_a_term_remembers(self):
        def change(state, arrays):
            crd = state.per_device["crd/sharded"]
            crd = jax.tree.map(lambda x: x.at[0].set(jnp.inf), crd)
            return state._replace(per_device={"crd/sharded": crd, "task": ()}), arrays

        phase = {"crd/sharded": LOSS["crd/sharded"]}
        expected = (
            "the state is not finite before it: per_device/crd/sharded/0, "
            "per_device/crd/sharded/1"
        )
        assert self.explanation(phase, change) == expected

    def test_the_parameters_of_a_term(self):
        def apply(params, state, student, teacher, batch, axis_name=None):
            return root_of_zero(params["scale"], None), state

        init = lambda *_: ({"scale": jnp.ones(3)}, terms.State())  # noqa: E731
        expected = "the gradient of the term own is not finite: parameters own/scale"
        assert self.explanation({"own": (1.0, terms.Term(init, apply))}) == expected

    def scaled(self, factor):
        def change(state, arrays):
            now = state.replicated
            student = jax.tree.map(lambda x: x * factor, now.params["student"])
            params = now.params | {"student": student}
            return state._replace(replicated=now._replace(params=params)), arrays

        return change

    def test_a_layer_of_the_student(self):
        # Of several the first in depth order is named.
        told = self.explanation(change=self.scaled(1e38))
        expected = "the student's layers are not finite, the first is pooled, logits"
        assert told == expected

    def test_a_layer_of_the_teacher(self):
        def change(state, arrays):
            teacher = jax.tree.map(lambda x: x * jnp.nan, arrays.teacher)
            return state, arrays._replace(teacher=teacher)

        kd = {"kd": LOSS["kd"]}
        assert "teacher's layers are not finite: logits" in self.explanation(kd, change)

    def test_parameters(self):
        assert self.explanation(change=self.scaled(np.nan)) == (
            "the state is not finite before it: params/student/BatchNorm_0/bias, "
            "params/student/BatchNorm_0/scale, params/student/Dense_0/kernel and 2 more"
        )


class Dropping(nn.Module):
    """A net that answers what it has not dropped, and counts its calls."""

    layers = ("pooled", "logits")

    @nn.compact
    def __call__(self, images, train=False):
        calls = self.variable("counters", "calls", lambda: jnp.zeros((), jnp.int32))
        if train:
            calls.value += 1
        bias = self.param("bias", nn.initializers.zeros, (CLASSES,))
        kept = nn.Dropout(0.5, deterministic=not train)(jnp.ones((len(images), 64)))
        return {"pooled": kept, "logits": jnp.ones((len(images), 1)) * bias[None]}


def test_each_term_begins_with_a_key_of_its_own():
    def init(key, student, teacher):
        return {"drawn": jax.random.normal(key, (4,))}, terms.State()

    term = terms.Term(init, None)
    phase = training.Phase({"a": (1.0, term), "b": (1.0, term)}, epochs=1)
    params = begin(*setting(), phase=phase).replicated.params
    assert (params["a"]["drawn"] != params["b"]["drawn"]).all()


def test_every_step_sees_another_view():
    def drawing(data, batch, key):
        drawn = jax.random.uniform(key, batch["index"].shape)
        return view(data, batch, key) | {"drawn": drawn}

    student, teacher, arrays = setting()
    term = terms.with_labels(lambda s, t, drawn: jnp.mean(drawn), label="drawn")
    phase = training.Phase({"drawn": (1.0, term)}, epochs=1)
    state = begin(student, teacher, arrays, phase=phase)
    step = jax.jit(training.make_step(student, teacher, phase, OPTIMIZER, drawing))
    (batch,), values = batches(1), set()
    for _ in range(3):
        state, metrics = step(state, arrays, batch)
        values.add(float(metrics["drawn"]))
    assert len(values) == 3


class TestDropping:
    """What a student drops follows from the seed, the step and the device."""

    def run(self, steps, state=None, devices=2):
        net, teacher, optimizer = Dropping(), teachers.none(), optax.sgd(0.1)

        def kept(student, teacher):
            # One number for each image, which the mean over devices keeps apart.
            return jnp.sum(student["pooled"] * 1.001 ** jnp.arange(64.0)[None])

        loss = {"kept": (1.0, terms.from_objective(kept))}
        phase = training.Phase(loss, epochs=1)
        data = {"image": jnp.zeros((4, 3, 3, 1)), "label": jnp.zeros(4, jnp.int32)}

        def all_of_it(data, batch, key):
            return {"image": batch["image"], "label": batch["label"]}

        some = jax.devices()[:devices]
        arrays = training.replicate(training.Arrays((), ()), some)
        if state is None:
            key = jax.random.key(0)
            state = training.init(
                key, net, teacher, [phase], all_of_it, arrays, data, devices=devices
            )
            state = training.begin_phase(state, phase, optimizer)
        body = training.make_step(net, teacher, phase, optimizer, all_of_it)
        step = training.pmap(body, devices=some)
        values = []
        for _ in range(steps):
            state, metrics = step(state, arrays, training.shard(data, devices))
            values.append(float(metrics["kept"]))
        return state, values

    def test_counters_stay_integers(self):
        state, _ = self.run(3)
        calls = state.replicated.model_state["counters"]["calls"]
        assert calls.dtype == jnp.int32 and int(calls) == 3

    def test_every_step_drops_others_and_a_restored_one_the_same(self, tmp_path):
        _, unbroken = self.run(4)
        assert len(set(unbroken)) == 4
        state, first = self.run(2)
        checkpoints.save(tmp_path, 2, state, {})
        state, _, _ = checkpoints.restore(tmp_path, state)
        _, second = self.run(2, state)
        assert first + second == unbroken

    def test_every_micro_batch_drops_others(self):
        net, images = Dropping(), jnp.zeros((4, 3, 3, 1))
        variables = net.init(jax.random.key(0), images)
        run = _student.in_micro_batches(_student.in_training, 2)
        seen, _ = run(net, variables, images, jax.random.key(1))
        assert (seen["pooled"][:2] != seen["pooled"][2:]).any()

    def test_every_device_and_no_view_has_such_a_key(self):
        state, _ = self.run(1)
        now = state.replicated

        def keys(_):
            return jax.random.key_data(_student.dropout_key(now, "devices"))

        first, second = jax.vmap(keys, axis_name="devices")(jnp.arange(2))
        seen = {tuple(first.tolist()), tuple(second.tolist())}
        unmapped = jax.random.key_data(_student.dropout_key(now, None))
        of_views = jax.vmap(
            lambda i: jax.random.key_data(jax.random.fold_in(now.key, i))
        )(jnp.arange(1000))
        seen |= {tuple(unmapped.tolist()), *map(tuple, of_views.tolist())}
        assert len(seen) == 3 + 1000


class Linear(nn.Module):
    """A net that is quickly compiled."""

    @nn.compact
    def __call__(self, images, train=False):
        return {"logits": nn.Dense(CLASSES)(images.reshape(images.shape[0], -1))}


def seen(data, batch, key):
    """Images and labels that come with the batch."""
    return batch


TASK = training.Phase({"task": (1.0, terms.cross_entropy())}, epochs=1)
IMAGES = np.random.default_rng(2).normal(size=(4, 8, 9)).astype(np.float32)
SEEN = [{"image": x, "label": np.arange(8) % CLASSES} for x in IMAGES]


def record():
    """An optimizer's part that keeps the last loss it was given."""

    def update(updates, state, params=None, *, value, **others):
        return updates, value

    return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros(()), update)


# The first five begin with the parameters themselves; the next ones want the loss.
OPTIMIZERS = {
    "prodigy": optax.contrib.prodigy(),
    "sam": optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.1)),
    "dog": optax.contrib.dog(),
    "dowg": optax.contrib.dowg(),
    "mechanize": optax.contrib.mechanize(optax.sgd(0.1)),
    "schedule_free": optax.contrib.schedule_free_sgd(0.1),
    "momo": optax.contrib.momo(),
    "polyak": optax.polyak_sgd(),
    "plateau": optax.chain(
        optax.sgd(0.1), optax.contrib.reduce_on_plateau(patience=1, cooldown=0)
    ),
    "adam": optax.adam(0.01),
}


def fresh(devices=1):
    net, teacher, arrays = Linear(), teachers.none(), training.Arrays((), ())
    key = jax.random.key(0)
    return training.init(
        key, net, teacher, [TASK], seen, arrays, SEEN[0], devices=devices
    )


def body_of(optimizer, phase=TASK, **options):
    return training.make_step(
        Linear(), teachers.none(), phase, optimizer, seen, **options
    )


def take_steps(optimizer, devices, steps=3):
    """States after some pmapped steps, with the metrics."""
    arrays = training.Arrays((), ())
    state = training.begin_phase(fresh(devices), TASK, optimizer)
    step = training.pmap(body_of(optimizer), jax.local_devices()[:devices])
    taken = []
    for batch in SEEN[:steps]:
        state, metrics = step(state, arrays, training.shard(batch, devices))
        taken.append(jax.device_get((state.replicated, metrics)))
    return taken


class TestOptimizers:
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_no_array_is_twice_in_a_state(self, name):
        params = {"kernel": np.ones((3, 2), np.float32), "bias": np.ones(2, np.float32)}
        state = training.TrainState(
            training.Replicated(
                step=jnp.zeros((), jnp.int32),
                params={"student": jax.tree.map(jnp.asarray, params)},
                model_state={},
                opt_state=(),
                terms={},
                key=jax.random.key(0),
                view_key=jax.random.key(1),
            ),
            per_device={},
        )
        state = training.begin_phase(state, TASK, OPTIMIZERS[name])
        leaves = jax.tree.leaves(key_words(state))
        arrays = [x for x in leaves if isinstance(x, jax.Array)]
        assert len({x.unsafe_buffer_pointer() for x in arrays}) == len(arrays)
        fresh = OPTIMIZERS[name].init(state.replicated.params)
        assert jax.tree.structure(fresh) == jax.tree.structure(
            state.replicated.opt_state
        )

    def test_no_key_is_twice_in_a_fresh_state(self):
        now = fresh().replicated
        assert now.key is not now.view_key and now.key == now.view_key

    @pytest.mark.parametrize("devices", [1, 2])
    def test_parameters_in_its_state_and_the_loss_of_all_devices(self, devices):
        plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=2, rtol=1.0)
        optimizer = optax.chain(optax.contrib.prodigy(), plateau, record())
        taken = take_steps(optimizer, devices)
        for now, metrics in taken:
            assert now.opt_state[2] == metrics["loss"]
        # (No loss falls as much as `rtol` asks: the third is the second in vain.)
        assert [now.opt_state[1].scale for now, _ in taken] == [1, 0.5, 0.5]
        losses = [float(metrics["loss"]) for _, metrics in taken]
        assert len(set(losses)) == 3
        kernel = fresh().replicated.params["student"]["Dense_0"]["kernel"]
        logits = SEEN[0]["image"] @ np.asarray(kernel, float)
        p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        expected = -np.mean(np.log(p[np.arange(8), SEEN[0]["label"]]))
        np.testing.assert_allclose(losses[0], expected, rtol=1e-5)

    @pytest.mark.slow
    @pytest.mark.parametrize("devices", [1, 2])
    @pytest.mark.parametrize("name", OPTIMIZERS)
    def test_takes_steps(self, name, devices):
        losses = [
            metrics["loss"] for _, metrics in take_steps(OPTIMIZERS[name], devices)
        ]
        assert np.isfinite(losses).all() and losses[0] != losses[1]

    def test_an_optimizer_that_takes_no_loss_is_given_none(self):
        taken = take_steps(OPTIMIZERS["sam"], 1)
        assert taken[0][1]["loss"] != taken[2][1]["loss"]


class TestNumbers:
    @pytest.mark.parametrize("wrong", [0, -1, 2.0, "2", np.array([2])])
    def test_counts_are_whole_and_above_zero(self, wrong):
        with pytest.raises(ValueError, match="number of micro-batches must be a whole"):
            body_of(OPTIMIZER, micro_batches=wrong)
        with pytest.raises(ValueError, match="number of devices must be a whole"):
            training.shard(SEEN[0], wrong)
        with pytest.raises(ValueError, match="number of devices must be a whole"):
            fresh(wrong)

    @pytest.mark.parametrize("weight", [np.nan, np.float32(np.inf), "1", np.ones(2)])
    def test_weights_are_finite_numbers(self, weight):
        phase = TASK._replace(terms={"task": (weight, TASK.terms["task"][1])})
        state = training.begin_phase(fresh(), TASK, OPTIMIZER)
        with pytest.raises(ValueError, match="weight of the term 'task' must be a fin"):
            jax.eval_shape(
                body_of(OPTIMIZER, phase), state, training.Arrays((), ()), SEEN[0]
            )

    def test_no_dtype_is_promoted_without_being_told(self):
        weight = optax.linear_schedule(1.0, 0.0, 4)
        phase = TASK._replace(terms={"task": (weight, TASK.terms["task"][1])})
        state = training.begin_phase(fresh(), TASK, OPTIMIZER)
        with jax.numpy_dtype_promotion("strict"):
            new, _ = jax.eval_shape(
                body_of(OPTIMIZER, phase), state, training.Arrays((), ()), SEEN[0]
            )
        before, now = (jax.tree.map(lambda x: x.dtype, x) for x in (state, new))
        assert now == before

    def test_one_of_several_trainings(self):
        state = training.stack_trainings([fresh(), fresh()])
        for number in (-1, 2):
            with pytest.raises(ValueError, match=f"(0 to 1|0 or more), got {number}"):
                training.select_training(state, number)
        with pytest.raises(ValueError, match="the state of several trainings"):
            training.select_training(fresh(), 0)


def test_the_init_of_a_net_may_read_values():
    _, teacher, arrays = setting()
    task = training.Phase({"task": (1.0, terms.cross_entropy())}, epochs=1)
    state = begin(Scaled(), teacher, arrays, phase=task)
    key, _, _ = jax.random.split(jax.random.key(0), 3)
    expected = Scaled().init(key, arrays.data["image"])["params"]
    found = state.replicated.params["student"]
    np.testing.assert_array_equal(found["weights"], expected["weights"])
