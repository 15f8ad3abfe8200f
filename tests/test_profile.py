"""The profile of a step: its parts add up, and what is slow shows where it belongs."""

import gzip
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments import config as configs
from experiments import data
from experiments.training import profile, recipes
from rdljax import nets, objectives, teachers, terms, training

KD = terms.on_layers("logits", terms.from_objective(objectives.kd))
TASK_AND_KD = {"task": (1.0, terms.cross_entropy()), "kd": (1.0, KD)}
OPTIMIZER = optax.sgd(0.1, momentum=0.9)


def heavy(x):
    """Zero, after work that takes longer than all else in these steps."""
    matrix = jnp.full((512, 512), jnp.sum(x))
    for _ in range(12):
        matrix = jnp.tanh(matrix @ matrix)
    return 0.0 * jnp.sum(matrix)


def heavy_term():
    def apply(student, teacher):
        return heavy(jax.lax.stop_gradient(student["logits"]))

    return terms.from_objective(apply)


def heavy_teacher(teacher):
    def targets(arrays, batch):
        added = heavy(batch["image"])
        return jax.tree.map(lambda x: x + added, teacher.targets(arrays, batch))

    return teacher._replace(targets=targets)


def setting(loss, change=lambda teacher: teacher, devices=1):
    """What `profile.measure` takes, but for the folder: digits, 8 of them a step."""
    dataset = data.load("digits", train_per_class=2)
    some = jax.local_devices()[:devices]
    net = nets.build("mlp", 10)
    images = data.normalise(dataset, dataset.train.image[:1])
    teacher = change(teachers.net(net, jax.jit(net.init)(jax.random.key(1), images)))
    arrays = training.Arrays(teacher.arrays, dataset.train._asdict())
    arrays = training.replicate(arrays, some)
    batch = {"index": np.arange(8, dtype=np.int32)}
    phase = training.Phase(loss, epochs=1)
    view = data.view(dataset)

    @jax.jit
    def begin(key):
        state = training.init(
            key, net, teacher, [phase], view, arrays, batch, devices=devices
        )
        return training.begin_phase(state, phase, OPTIMIZER)

    state, sharded = begin(jax.random.key(0)), training.shard(batch, devices)
    recipe = recipes.Recipe(
        *("kd", configs.make(), net, teacher, (phase,), (OPTIMIZER,), view, batch)
    )
    return recipe, state, arrays, sharded


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A profile on two devices, its folder, and what was measured."""
    folder = tmp_path_factory.mktemp("profile")
    given = setting(TASK_AND_KD, devices=2)
    devices = jax.local_devices()[:2]
    where = {"number": 0, "folder": folder, "devices": devices}
    found = profile.measure(*given, **where, seconds=0.1)
    return found, folder, given


class TestProfile:
    def test_the_parts_add_up_to_the_step(self, measured):
        found, _, _ = measured
        parts = found.data + found.teacher + found.student + found.losses
        np.testing.assert_allclose(parts, found.step)
        assert found.compile > found.step > 0 and found.data > 0
        assert found.images == 8 and found.rounds >= profile.LEAST_ROUNDS
        np.testing.assert_allclose(found.images_per_second, 8 * found.steps_per_second)
        assert found.device == "2 x cpu"

    def test_the_table(self):
        found = profile.Profile(2.0, 0.01, 0.001, 0.004, 0.0055, -0.0005, 64, 3, "cpu")
        assert found.table().splitlines() == [
            "| part    | ms a step |   share |",
            "|---------|----------:|--------:|",
            "| data    |     1.000 |  10.0 % |",
            "| teacher |     4.000 |  40.0 % |",
            "| student |     5.500 |  55.0 % |",
            "| losses  |    -0.500 |  -5.0 % |",
            "| step    |    10.000 | 100.0 % |",
            "",
            "compiled in 2.0 s; 100 steps/s, 6400 images/s on cpu",
        ]

    def test_what_is_written(self, measured):
        found, folder, _ = measured
        record = json.loads((folder / "profile.json").read_text())
        rates = [record.pop(f"{x}_per_second") for x in ("steps", "images")]
        assert profile.Profile(**record) == found
        assert rates == [found.steps_per_second, found.images_per_second]
        (trace,) = folder.glob("plugins/profile/*")
        assert list(trace.glob("*.xplane.pb")) and list(trace.glob("*.trace.json.gz"))
        # XProf is shown the names of `training.make_step`.
        content = next(trace.glob("*.xplane.pb")).read_bytes()
        for name in (b"/view/", b"/teacher/", b"(student)", b"(terms/kd)"):
            assert name in content, name
        with gzip.open(trace / "perfetto_trace.json.gz") as file:
            events = json.load(file)["traceEvents"]
        steps = [event for event in events if event.get("name") == "step"]
        assert len(steps) == profile.STEPS_TRACED

    def test_the_state_given_can_be_used_afterwards(self, measured):
        _, _, (recipe, state, arrays, batch) = measured
        assert int(state.replicated.step) == 0
        body = recipe.step(0)
        step = training.pmap(body, jax.local_devices()[:2])
        state, _ = step(state, arrays, batch)
        # One that lies where the step takes it, in the buffers to be donated.
        profile._make_stepper(body, state, arrays, batch, jax.local_devices()[:2])[0]()
        assert int(state.replicated.step) == 1


class TestHeavy:
    def measured(self, folder, loss, **changes):
        given, one = setting(loss, **changes), jax.local_devices()[:1]
        where = {"number": 0, "folder": folder, "devices": one}
        return profile.measure(*given, **where, seconds=0.1)

    @pytest.mark.slow
    def test_a_teacher_unless_no_term_looks_at_it(self, tmp_path):
        found = self.measured(tmp_path, TASK_AND_KD, change=heavy_teacher)
        assert found.teacher > 0.5 * found.step
        task = {"task": TASK_AND_KD["task"]}
        alone = self.measured(tmp_path, task, change=heavy_teacher)
        assert alone.teacher < 0.2 * found.teacher

    def test_a_term_of_a_phase_without_a_task(self, tmp_path):
        found = self.measured(tmp_path, {"own": (1.0, heavy_term())})
        assert found.losses > 0.5 * found.step
