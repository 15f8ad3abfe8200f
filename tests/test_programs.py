"""How an experiment's steps reach the device: the same results by every way."""

import contextlib
import functools
import json
import math
import os
import pathlib
import re
import shutil
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest

from experiments import command, data, run, weights
from experiments import config as configs
from experiments.results import plots
from experiments.training import context as contexts
from experiments.training import (
    experiment,
    interrupts,
    loop,
    profile,
    programs,
    rehearsal,
    teaching,
)
from rdljax import checkpoints, nets, teachers, training
from tests import quick
from tests import test_drivers as drivers
from tests import test_experiments as experiments

ROOT = pathlib.Path(__file__).parents[1]

# 80 images in steps of 40: two an epoch. MLPs compile quickly.
IMAGES = 80
SETTINGS = {
    "train_per_class": IMAGES // 10,
    "batch": 40,
    "epochs": 3,
    "teacher_epochs": 1,
    "teacher": "mlp",
    "student": "mlp",
    "layers": ("pooled",),
    "methods": ("kd+rdl",),
    "seeds": 2,
}
NEVER = 10**6
# Of processes that are started: no rehearsal and no pictures.
CHILD = """
import sys

from experiments import run
from experiments.results import plots
from experiments.training import programs, rehearsal

rehearsal.rehearse = plots.pictures = lambda *_: []
"""


def go(folder, looks=NEVER, resume=False, **changes):
    """A run that is interrupted when it has been looked at so many times.

    Its teacher is an MLP that was not trained.
    """
    source = folder.parent / "teacher"
    if not source.exists():
        experiments.drawn_teacher(source)
    changes = {"teacher_from": str(source)} | changes
    config = configs.load(
        "mnist_rdl", **(SETTINGS | changes), out=str(folder), resume=resume
    )
    return experiment.run("mnist_rdl", config, experiments.Countdown(looks))


def records(folder, method="kd+rdl"):
    """By run, what it wrote of itself."""
    found = sorted(folder.glob(f"{method}-seed*/result.json"))
    return {path.parent.name: json.loads(path.read_text()) for path in found}


def histories(folder, method="kd+rdl"):
    """Of each run and epoch, the losses and the validation loss."""
    return np.array(
        [
            [[epoch[name] for name in sorted(epoch)] for epoch in one["history"]]
            for one in records(folder, method).values()
        ]
    )


@pytest.fixture(scope="module")
def in_steps(brief, tmp_path_factory):
    """A run whose steps are taken one by one."""
    folder = tmp_path_factory.mktemp("steps")
    go(folder / "run", driver="step", remember_teacher=False)
    return folder / "run"


@pytest.fixture(scope="module", autouse=True)
def brief():
    """Runs are not rehearsed and draw nothing."""
    with quick.runs():
        yield


class Runs:
    """Runs beside each other, each made once: by their changes, the folders."""

    def __init__(self, folder):
        self.folder, self.made, self.copies = folder, {}, 0

    def whole(self, **changes):
        """The folder of a run, to be looked at."""
        key = tuple(changes.items())
        if key not in self.made:
            go(self.folder / f"run{len(self.made)}", **changes)
            self.made[key] = self.folder / f"run{len(self.made)}"
        return self.made[key]

    def interrupted(self, looks, **changes):
        """A copy of a run that was interrupted, to go on, and what stopped."""
        key = (looks, *changes.items())
        if key not in self.made:
            folder = self.folder / f"run{len(self.made)}"
            with pytest.raises(interrupts.Interrupted) as stopped:
                go(folder, looks, **changes)
            self.made[key] = folder, str(stopped.value)
        folder, stopped = self.made[key]
        self.copies += 1
        copy = self.folder / f"copy{self.copies}"
        return shutil.copytree(folder, copy), stopped


@pytest.fixture(scope="module")
def runs(brief, tmp_path_factory):
    """Runs that several tests look at, or go on with."""
    return Runs(tmp_path_factory.mktemp("runs"))


# How seeds go together that several tests interrupt.
TOGETHER = {"remember_teacher": False, "driver": "step", "seeds_per_program": 2}


class TestDrivers:
    @pytest.mark.parametrize(
        "changes",
        [
            {"driver": "epoch"},
            {"driver": "step", "seeds_per_program": 2},
            {"remember_teacher": True},
            # (These are the first or the last epochs of the next test too.)
            pytest.param({"driver": "chunk"}, marks=pytest.mark.slow),
            pytest.param(
                {"driver": "epoch", "seeds_per_program": 2}, marks=pytest.mark.slow
            ),
            pytest.param({"driver": "step", "stream": True}, marks=pytest.mark.slow),
            pytest.param(
                {"driver": "step", "stream": True, "seeds_per_program": 2},
                marks=pytest.mark.slow,
            ),
            pytest.param(
                {"driver": "chunk", "stream": True, "seeds_per_program": 2},
                marks=pytest.mark.slow,
            ),
        ],
        ids=lambda changes: " ".join(f"{k}={v}" for k, v in changes.items()),
    )
    def test_every_way_has_the_same_results(self, changes, in_steps, runs):
        folder = runs.whole(**{"remember_teacher": False, **changes})
        found, expected = histories(folder), histories(in_steps)
        assert found.shape == expected.shape == (2, 3, found.shape[-1])
        np.testing.assert_allclose(found, expected, rtol=2e-3)
        for name, record in records(folder).items():
            other = records(in_steps)[name]
            same = np.equal(record["predicted"], other["predicted"])
            assert same.mean() > 0.995
        assert not np.allclose(expected[0], expected[1], rtol=0.01)

    @pytest.mark.slow
    def test_rehearsed_and_with_pictures_too(self, in_steps, tmp_path, monkeypatch):
        monkeypatch.setattr(rehearsal, "rehearse", quick.rehearse)
        monkeypatch.setattr(plots, "pictures", quick.pictures)
        go(tmp_path / "run", driver="step", remember_teacher=False)
        np.testing.assert_array_equal(histories(tmp_path / "run"), histories(in_steps))
        assert (tmp_path / "run" / "learning_curves.png").stat().st_size > 5_000

    @pytest.mark.parametrize(
        ("first", "then"),
        [
            ({"driver": "step"}, {"driver": "epoch", "seeds_per_program": 2}),
            pytest.param(
                {"driver": "step", "seeds_per_program": 2},
                {"driver": "step"},
                marks=pytest.mark.slow,
            ),
            ({"driver": "chunk"}, {"driver": "step", "stream": True}),
        ],
        ids=["in turn, then together", "together, then in turn", "then streaming"],
    )
    def test_resumed_another_way_in_the_middle_of_an_epoch(
        self, first, then, in_steps, runs
    ):
        # (Chunks are epochs here.)
        looks = 3 if first["driver"] == "step" else 2
        others = {"remember_teacher": False}
        folder, stopped = runs.interrupted(looks, **others, **first)
        assert "kd" in stopped
        steps = checkpoints.latest(folder / "kd+rdl-seed0" / "checkpoint")
        assert steps == (3 if first["driver"] == "step" else 4)
        go(folder, resume=True, **others, **then)
        found, expected = histories(folder), histories(in_steps)
        np.testing.assert_allclose(found, expected, rtol=2e-3)

    def test_stopped_in_the_middle_of_an_epoch_it_ends_with_the_same_bytes(self, runs):
        unbroken = runs.whole(**TOGETHER)
        broken, stopped = runs.interrupted(3, **TOGETHER)
        assert "kd+rdl-seed0, kd+rdl-seed1" in stopped
        go(broken, resume=True, **TOGETHER)
        for seed in (0, 1):
            states = [
                experiments.stored(side / f"kd+rdl-seed{seed}")
                for side in (unbroken, broken)
            ]
            assert states[0] == states[1] and len(states[0]) > 10
        np.testing.assert_array_equal(histories(unbroken), histories(broken))

    def test_seeds_at_different_steps_go_on_apart(self, runs, in_steps):
        """As a run that was killed between two checkpoints of seeds together."""
        folder, _ = runs.interrupted(3, **TOGETHER)
        with pytest.raises(interrupts.Interrupted, match="kd.rdl-seed0$"):
            go(folder, 1, resume=True, **(TOGETHER | {"seeds_per_program": 1}))
        taken = [
            checkpoints.latest(folder / f"kd+rdl-seed{seed}" / "checkpoint")
            for seed in (0, 1)
        ]
        assert taken == [4, 3]
        go(folder, resume=True, **TOGETHER)
        found, expected = histories(folder), histories(in_steps)
        np.testing.assert_allclose(found, expected, rtol=2e-3)

    @pytest.mark.parametrize(
        "beside", [False, pytest.param(True, marks=pytest.mark.slow)]
    )
    def test_the_same_batches(self, beside, tmp_path):
        """Seeds in turn and together see them, and then have one order of images."""
        changes = {"same_batches": True, "crop": 2, "methods": ("kd",)}
        go(tmp_path / "turn", driver="step", **changes)
        go(tmp_path / "together", driver="epoch", seeds_per_program=2, **changes)
        found, expected = (histories(tmp_path / x, "kd") for x in ("together", "turn"))
        np.testing.assert_allclose(found, expected, rtol=2e-3)
        assert not np.allclose(expected[0], expected[1], rtol=0.01)
        if not beside:
            return
        # A seed is the same training beside others and without them.
        go(tmp_path / "one", driver="step", seeds=1, **changes)
        alone = histories(tmp_path / "one", "kd")
        np.testing.assert_array_equal(alone[0], expected[0])

    @pytest.mark.parametrize(
        ("name", "steps", "stream", "here", "there"),
        [
            # On a CPU, a loop on the device is slow; images that stream are few.
            ("auto", 54, False, (1, True), (54, False)),
            ("auto", 54, True, (1, True), (10, False)),
            ("auto", 7, True, (1, True), (7, False)),
            ("step", 54, False, (1, True), (1, True)),
            ("chunk", 54, True, (10, True), (10, True)),
            ("chunk", 7, False, (7, True), (7, True)),
            ("epoch", 54, False, (54, False), (54, False)),
        ],
    )
    def test_a_driver_suits_the_device(
        self, name, steps, stream, here, there, monkeypatch
    ):
        assert programs.driver(name, steps, stream=stream) == here
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        assert programs.driver(name, steps, stream=stream) == there

    def test_seeds_go_together_where_that_is_fast(self, monkeypatch):
        assert programs.trainings(None, 5) == 1 and programs.trainings(9, 5) == 5
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        assert programs.trainings(None, 5) == 5 and programs.trainings(2, 5) == 2

    def test_a_seed_that_diverges_is_named(self, tmp_path):
        wild = {
            "learning_rate": 1e20,
            "clip": 1e14,
            "driver": "epoch",
            "seeds_per_program": 2,
        }
        wild["methods"] = ("kd",)
        words = (
            r"^kd-seed[01] diverged in step .*; --seeds_per_program=1 --resume "
            "finishes the others$"
        )
        with pytest.raises(loop.Diverged, match=words):
            go(tmp_path / "run", **wild)


class TestTeacher:
    @pytest.mark.parametrize(
        ("changes", "remembers"),
        [
            ({}, True),
            ({"crop": 2}, False),
            ({"flip": True}, False),
            ({"remember_teacher": False}, False),
            ({"methods": ("plain",)}, False),
            ({"crop": 2, "remember_teacher": True, "stream": True}, True),
        ],
    )
    def test_it_is_remembered_where_nothing_is_drawn(
        self, changes, remembers, tmp_path
    ):
        lab, teacher = self.lab(tmp_path, **changes)
        found, _ = teaching.cache_teacher(lab, teacher)
        assert (found is not teacher) is remembers
        if remembers:
            sizes = {name: x.shape for name, x in found.arrays.items()}
            assert sizes == {"logits": (IMAGES, 10), "pooled": (IMAGES, 64)}

    def test_it_is_not_where_that_takes_too_much(self, tmp_path, monkeypatch):
        lab, teacher = self.lab(tmp_path)
        size = IMAGES * (10 + 64) * 4 * jax.local_device_count()
        for there, remembers in ((size, True), (size - 1, False)):
            monkeypatch.setattr(teaching, "REMEMBERED", there)
            assert (teaching.cache_teacher(lab, teacher)[0] is not teacher) is remembers

    def lab(self, folder, **changes):
        config = configs.load("mnist_rdl", **(SETTINGS | changes))
        lab = contexts.build_context(config, contexts.load(config), folder, None, None)
        net = nets.build("mlp", 10)
        shape = (1, 32, 32, 1)
        init = jax.jit(net.init)
        variables = init(jax.random.key(0), np.zeros(shape, np.float32))
        return lab, teachers.net(net, variables)

    def test_what_is_remembered_is_what_it_answers(self):
        dataset = data.load("digits", train_per_class=3)
        net = nets.build("mnist_cnn_small", 10)
        images = data.normalise(dataset, dataset.train.image)
        live = teachers.net(net, jax.jit(net.init)(jax.random.key(0), images))
        view = data.view(dataset)
        train = jax.tree.map(jax.numpy.asarray, dataset.train._asdict())

        def see(index):
            return view(train, {"index": index}, jax.random.key(0))

        layers = ("stage2", "logits")
        kept = teachers.cache(live, see, 30, layers, chunk=7)
        found = teachers.cached(kept)
        index = np.array([4, 29, 0, 4])
        answer = jax.jit(found.targets)(found.arrays, {"index": index})
        expected = jax.jit(live.targets)(live.arrays, {"image": images[index]})
        assert set(answer) == set(layers)
        for layer in layers:
            np.testing.assert_allclose(answer[layer], expected[layer], atol=1e-5)
        with pytest.raises(ValueError, match="layer 'stage9'.*stage"):
            teachers.cache(live, see, 30, ["stage9"])


class TestMemory:
    def test_what_does_not_fit_is_told_before_it_runs(self, tmp_path, monkeypatch):
        monkeypatch.setattr(programs, "free", lambda: 2**20)
        message = (
            r"kd\+rdl takes \d+ MiB on each device; \d+ MiB of this are not allocated "
            r"yet, and 1 MiB are free; with --resume, --stream .* takes less; .*"
        )
        with pytest.raises(programs.OutOfMemory, match=message):
            go(tmp_path / "run")
        assert not (tmp_path / "run" / "kd+rdl-seed0").exists()

    def test_the_command_says_it_in_a_line(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(programs, "free", lambda: 2**20)
        small = ["--teacher=mlp", "--student=mlp", "--layers", "pooled", "logits"]
        assert experiments.call(f"--out={tmp_path / 'run'}", *small) == 1
        said = capsys.readouterr().err
        assert "Traceback" not in said
        assert "error: teacher takes" in said.strip().splitlines()[-1]

    def test_every_setting_of_the_advice_is_one(self):
        flags = re.findall(r"--(\w+)(?:=(\S+))?", programs._advice(2))
        assert len(flags) >= 8
        words = {"RESULTS/teacher/weights": "x"}
        for name, value in flags:
            value = words.get(value, value.strip(",.;)"))
            value = value or {"out": "x", "batch": "8"}.get(name)
            call = f"--{name}={value}" if value else f"--{name}"
            _, config = run.parse(["mnist_rdl", call])
            assert configs.flat(config)[name] != configs.flat(configs.make())[name]

    @pytest.mark.parametrize(
        ("same", "epochs"),
        [
            pytest.param(False, 1),
            pytest.param(False, 2, marks=pytest.mark.slow),
            pytest.param(True, 2, marks=pytest.mark.slow),
        ],
    )
    def test_seeds_that_do_not_fit_together_are_split(
        self, same, epochs, tmp_path, monkeypatch, capsys
    ):
        """Of three that do not fit, two and one."""
        changes = {"seeds": 3, "epochs": epochs, "driver": "step", "same_batches": same}
        changes["methods"] = ("kd",)
        fit, asked = programs.Programs.fits_in_memory, []

        def no_more_than_two(self, state, arrays, batches, share=1.0):
            assert fit(self, state, arrays, batches, share)
            asked.append(state.replicated.key.size)
            return asked[-1] < 3

        monkeypatch.setattr(programs.Programs, "fits_in_memory", no_more_than_two)
        go(tmp_path / "split", seeds_per_program=3, **changes)
        assert asked == [3, 2]
        assert "3 seeds together do not fit into the memory" in capsys.readouterr().err
        assert len(records(tmp_path / "split", "kd")) == 3
        if epochs == 1:
            return
        go(tmp_path / "turn", **changes)
        found, expected = (histories(tmp_path / x, "kd") for x in ("split", "turn"))
        np.testing.assert_allclose(found, expected, rtol=2e-3)

    @pytest.mark.parametrize("seeds", [1, 2])
    def test_fits_if_what_is_not_there_yet_does(self, seeds, monkeypatch):
        """To the byte, on two devices; arrays that are there do not count."""
        names = ("task", "kd", "count")
        loss = {name: drivers.some.LOSS[name] for name in names}
        lab = drivers.Lab(phase=training.Phase(loss, epochs=1))
        monkeypatch.setattr(jax, "local_device_count", lambda: 2)
        state = jax.eval_shape(lambda: lab.begin(0))
        index = drivers.order(0)[:1]
        if seeds > 1:
            index = np.stack([index] * seeds, axis=1)
            state = jax.eval_shape(training.stack_trainings, [state] * seeds)
        batch = training.shard({"index": index}, 2, axis=index.ndim - 1)
        said = []
        take = programs.Programs("x", lab.body, unrolled=True, tell=said.append)
        program = take.program(state, lab.arrays, batch)
        kept = [
            math.prod(x.shape) * (8 if x.dtype == state.replicated.key.dtype else 4)
            for x in jax.tree.leaves(state.replicated)
        ]
        # Of the rows, half on each device.
        kept += [math.prod(x.shape) * 2 for x in jax.tree.leaves(state.per_device)]
        needed = sum(kept) + program.memory - program.arguments
        there = sum(x.nbytes for x in jax.tree.leaves(lab.arrays))
        assert sum(kept) < needed < program.memory - there / 2
        for free, expected in ((None, True), (needed, True), (needed - 1, False)):
            monkeypatch.setattr(programs, "free", lambda free=free: free)
            assert take.fits_in_memory(state, lab.arrays, batch) is expected
        assert len(said) == 1  # Compiled once.

    def test_exhausted_elsewhere_it_is_a_line_too(self, tmp_path, monkeypatch, capsys):
        def exhausted(*_):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore")

        monkeypatch.setattr(contexts, "build_context", exhausted)
        assert experiments.call(f"--out={tmp_path / 'run'}") == 1
        said = capsys.readouterr().err
        assert said.strip().splitlines()[-1] == (
            "error: there is not enough memory: RESOURCE_EXHAUSTED: Out of memory"
        )

    @pytest.mark.slow
    def test_really_exhausted(self, tmp_path):
        """A step that takes gigabytes, in a process that may have fewer."""
        code = (
            f"{CHILD}\n"
            "programs.free = lambda: None\n"
            "import jax, resource; jax.numpy.ones(3).block_until_ready()\n"
            "size = int(open('/proc/self/statm').read().split()[0]) * 4096\n"
            "resource.setrlimit(resource.RLIMIT_AS, (size + 3 * 2**29,) * 2)\n"
            "sys.exit(run.main(sys.argv[1:]))\n"
        )
        settings = ["mnist_rdl", "--batch=3000", "--teacher=mnist_cnn", "--resize=48"]
        settings += ["--student=mlp", "--methods", "plain", "--teacher_epochs=1"]
        settings += ["--layers", "pooled", "logits", f"--out={tmp_path / 'run'}"]
        one_device = os.environ["XLA_FLAGS"].replace("count=8", "count=1")
        done = subprocess.run(
            [sys.executable, "-c", code, *settings],
            cwd=ROOT,
            env=os.environ | {"XLA_FLAGS": one_device, "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert "Traceback" not in done.stderr, done.stderr[-3000:]
        assert done.returncode == 1
        last = done.stderr.strip().splitlines()[-1]
        assert re.match(
            r"error: there is not enough memory for teacher, which takes "
            r"\d+\.\d GiB on each device; with --resume, --stream ",
            last,
        )


class TestCompiled:
    @pytest.mark.parametrize(
        ("method", "epochs"),
        [("plain", 1), pytest.param("kd+rdl", 3, marks=pytest.mark.slow)],
    )
    def test_the_message_has_the_time_and_the_memory(
        self, method, epochs, tmp_path, capsys
    ):
        ways = {"remember_teacher": False, "driver": "epoch", "seeds_per_program": 2}
        go(tmp_path / "run", methods=(method,), epochs=epochs, **ways)
        words = r": 2 steps of 2 seeds compiled in \d+\.\d s; \d+ MiB on each dev"
        assert re.search(re.escape(method) + words, capsys.readouterr().err)

    def test_a_folder_for_compiled_programs(self, tmp_path, monkeypatch):
        before = jax.config.jax_compilation_cache_dir
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
        try:
            programs.keep_compiled(None)
            assert jax.config.jax_compilation_cache_dir == before
            programs.keep_compiled(str(tmp_path / "own"))
            assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
            monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
            programs.keep_compiled(None)
            assert jax.config.jax_compilation_cache_dir == str(tmp_path / "own")
            programs.keep_compiled("")
            assert jax.config.jax_compilation_cache_dir is None
            programs.keep_compiled(None)
            usual = str(tmp_path / "user" / "rdljax")
            assert jax.config.jax_compilation_cache_dir == usual
        finally:
            jax.config.update("jax_compilation_cache_dir", before)

    @pytest.mark.slow
    @pytest.mark.parametrize("trained", [False, True])
    def test_a_second_run_finds_its_programs(self, trained, tmp_path):
        """In a process of its own: jax remembers for a process what cache it has."""
        folder = tmp_path / "cache"
        code = f"{CHILD}\nsys.exit(run.main(sys.argv[1:]))"
        command = [sys.executable, "-c", code, "mnist_rdl", "--seeds=1"]
        command += ["--train_per_class=8", "--epochs=1"]
        if trained:
            command += ["--teacher=mlp", "--teacher_epochs=1"]
        else:
            source = experiments.drawn_teacher(tmp_path / "teacher")
            command.append(f"--teacher_from={source}")
        command += ["--student=mlp", "--methods", "kd"]
        command += ["--layers", "pooled", f"--compilation_cache={folder}"]
        environment = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
        # (One that jax has from the start is the one that stays.)
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        kept = []
        for name in ("first", "second"):
            subprocess.run(
                [*command, f"--out={tmp_path / name}"],
                cwd=ROOT,
                env=environment,
                check=True,
                capture_output=True,
                timeout=250,
            )
            kept.append({path.name for path in folder.iterdir()})
        assert len(kept[0]) > 2
        programs_of = [{x for x in names if x.startswith("jit_")} for names in kept]
        assert not {x for x in programs_of[1] - programs_of[0] if "atime" not in x}
        both = [
            (tmp_path / x / "kd-seed0" / "result.json") for x in ("first", "second")
        ]
        first, second = (json.loads(path.read_text())["history"] for path in both)
        assert first == second

    @pytest.mark.parametrize(
        "seconds", [pytest.param(s, marks=pytest.mark.slow) for s in (0.0, 5.0)]
    )
    def test_profile(self, seconds, tmp_path, monkeypatch, capsys):
        few = functools.partial(profile.measure, seconds=seconds)
        monkeypatch.setattr(profile, "measure", few)
        go(tmp_path / "run", epochs=1, seeds=1, profile=True, methods=("kd",))
        said = capsys.readouterr().out
        assert "kd:\n\n| part" in said
        folder = tmp_path / "run" / "profile" / "kd"
        measured = json.loads((folder / "profile.json").read_text())
        assert measured["steps_per_second"] > 0
        assert list(folder.rglob("*.xplane.pb"))


class TestStream:
    def test_the_view_is_that_of_images_on_the_device(self):
        dataset = data.load("digits", train_per_class=3)
        view = data.view(dataset, crop=3, flip=True)
        index = np.array([[3, 1, 4], [15, 9, 26]], np.int32)
        batch = data.from_host(dataset.train)(index)
        assert batch["image"].shape == (2, 3, 32, 32, 1)
        key = jax.random.key(0)
        train = jax.tree.map(jax.numpy.asarray, dataset.train._asdict())
        for step in range(2):
            one = {name: x[step] for name, x in batch.items()}
            found = view({}, one, key)
            expected = view(train, {"index": index[step]}, key)
            jax.tree.map(np.testing.assert_array_equal, found, expected)

    def test_ahead_keeps_order_and_hands_errors_on(self):
        made = [threading.Event() for _ in range(5)]

        def items():
            for i, event in enumerate(made):
                event.set()
                yield i
            raise OSError("the disk is gone")

        found = []
        with pytest.raises(OSError, match="the disk is gone"):
            for item in data.prefetch(items()):
                found.append(item)
                # The next is made before it is asked for, those far ahead are not.
                assert item == 4 or made[item + 1].wait(timeout=60)
                assert not any(event.is_set() for event in made[item + 4 :])
        assert found == [0, 1, 2, 3, 4]
        assert list(data.prefetch(iter([]))) == []

    @pytest.mark.parametrize("broken", [False, True])
    def test_ahead_leaves_no_thread(self, broken):
        before = threading.active_count()
        items = data.prefetch(iter(range(10**6)))
        with (
            pytest.raises(KeyError) if broken else contextlib.nullcontext(),
            contextlib.closing(items),
        ):
            assert next(items) == 0 and threading.active_count() > before
            if broken:
                raise KeyError
        assert threading.active_count() == before

    def test_nothing_lies_on_the_device(self, tmp_path, monkeypatch):
        given = []
        real = training.replicate

        def replicate(tree, *args):
            given.extend(jax.tree.leaves(tree))
            return real(tree, *args)

        monkeypatch.setattr(training, "replicate", replicate)
        monkeypatch.setattr(contexts, "_on_device", given.append)
        go(tmp_path / "run", seeds=1, stream=True, remember_teacher=False)
        assert given and not [
            x
            for x in given
            if isinstance(x, data.Split) or getattr(x, "dtype", None) == np.uint8
        ]

    def test_an_epoch_at_once_is_refused(self, tmp_path):
        with pytest.raises(command.UsageError, match="would stream an epoch"):
            go(tmp_path / "run", stream=True, driver="epoch")


def test_predicting_answers_what_predict_does():
    dataset = data.load("digits", train_per_class=3)
    net = nets.build("mlp", 10)
    init = jax.jit(net.init)
    variables = init(jax.random.key(0), np.zeros((1, 32, 32, 1), np.float32))
    wait = weights.begin_predicting(
        net, variables, dataset, dataset.validation, chunk=99
    )
    found, expected = wait(), weights.predict(net, variables, dataset, "validation")
    np.testing.assert_array_equal(found[0], expected[0])
    assert found[1] == pytest.approx(expected[1], rel=1e-5)
