"""The experiment from the command line: results, wrong calls, Ctrl-C and resuming."""

import ast
import contextlib
import dataclasses
import errno
import functools
import io
import itertools
import json
import os
import pathlib
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types

import filelock
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments import command, data, locks, methods, run, trials, weights
from experiments import config as configs
from experiments.analyses import grid
from experiments.config import functions
from experiments.data import sets
from experiments.results import folder as results_folder
from experiments.results import plots, verdict
from experiments.training import (
    builder,
    checks,
    experiment,
    fitting,
    interrupts,
    loop,
    recording,
    rehearsal,
)
from experiments.training import context as contexts
from rdljax import checkpoints, errors, nets, objectives, teachers, training
from tests import quick

ROOT = pathlib.Path(__file__).parents[1]

# MLPs compile quickly. (What needs maps is run in test_methods.py.)
MLPS = ["--teacher=mlp", "--student=mlp", "--hint_layer=stage1"]
MLPS += ["--layers", "pooled", "logits"]
# 200 images: three steps an epoch.
TINY = ["--train_per_class=20", "--epochs=2", "--teacher_epochs=2", "--batch=64", *MLPS]


def call(*arguments):
    return run.main(["mnist_rdl", *TINY, *arguments])


def drawn_teacher(folder, name="mlp"):
    """The folder of a teacher for digits as it is drawn, which need not be trained."""
    shape = (32, 32, 1)
    init = jax.jit(nets.build(name, 10).init)
    drawn = init(jax.random.key(0), np.zeros((1, *shape), np.float32))
    about = {"run": "none"}
    weights.save(weights.TrainedNet(name, 10, shape, drawn, None, about), folder)
    return str(folder)


@pytest.fixture(scope="module", autouse=True)
def brief():
    """Runs are not rehearsed and draw nothing, which takes longer than small nets."""
    with quick.runs():
        yield


@pytest.fixture
def rehearsed(monkeypatch):
    """Runs of the test are rehearsed."""
    monkeypatch.setattr(rehearsal, "rehearse", quick.rehearse)


METHODS = "plain", "kd+rdl", "hint"


@pytest.fixture(scope="module")
def finished(brief, tmp_path_factory):
    """A folder with a run of every kind of method, with pictures."""
    folder = tmp_path_factory.mktemp("results") / "all"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "pictures", quick.pictures)
        assert call(f"--out={folder}", "--seeds=2", "--methods", *METHODS) == 0
    return folder


class TestResults:
    def test_result_json_has_what_was_promised(self, finished):
        result = json.loads((finished / "result.json").read_text())
        assert (
            result["config"]["name"] == "mnist_rdl" and result["config"]["seeds"] == 2
        )
        assert {"jax", "flax", "python", "rdljax"} <= set(result["versions"])
        assert set(result["methods"]) == set(METHODS)
        assert len(result["mcnemar"]) == 2 * 2
        for method in result["methods"].values():
            assert len(method["test_error"]["values"]) == 2

    def test_numbers_follow_from_the_predictions(self, finished):
        result = json.loads((finished / "result.json").read_text())
        truth = data.load("digits").test.label
        for seed in range(2):
            own, plain = (
                json.loads((finished / f"{m}-seed{seed}" / "result.json").read_text())
                for m in ("kd+rdl", "plain")
            )
            right = np.array(own["predicted"]) == truth
            np.testing.assert_array_equal(own["correct"], right)
            error = 100 * np.mean(~right)
            assert own["test_error"] == pytest.approx(error)
            errors = result["methods"]["kd+rdl"]["test_error"]["values"]
            assert errors[seed] == pytest.approx(error)
            plain_right = np.array(plain["predicted"]) == truth
            (test,) = (
                t
                for t in result["mcnemar"]
                if (t["method"], t["seed"]) == ("kd+rdl", seed)
            )
            assert test["only_first"] == np.sum(right & ~plain_right)
            assert test["only_second"] == np.sum(~right & plain_right)
            assert test["p_value"] <= test["holm"] <= 1

    def test_agreement_is_that_of_the_saved_rdms(self, finished):
        own, teacher = (
            np.load(finished / name / "rdms.npz")
            for name in ("kd+rdl-seed1", "teacher")
        )
        result = json.loads((finished / "result.json").read_text())
        agreement = result["methods"]["kd+rdl"]["agreement_by_layer"]
        assert set(agreement) == {"pooled", "logits"}
        for layer, spread in agreement.items():
            expected = np.corrcoef(own[layer], teacher[layer])[0, 1]
            assert spread["values"][1] == pytest.approx(expected, abs=1e-5)

    def test_every_epoch_is_recorded(self, finished):
        record = json.loads((finished / "kd+rdl-seed0" / "result.json").read_text())
        assert len(record["history"]) == 2
        rdl = {f"rdl/{layer}" for layer in record["config"]["layers"]}
        assert {"loss", "task", "kd", "validation_error", *rdl} <= set(
            record["history"][0]
        )
        events = list((finished / "kd+rdl-seed0").glob("events.*"))
        assert events and events[0].stat().st_size > 100

    def test_students_of_a_seed_start_alike(self, tmp_path):
        # As the loop begins with them.
        changes = TestInterrupt.SETTINGS | {"methods": ("plain", "rdl")}
        changes |= {"teacher_from": drawn_teacher(tmp_path / "teacher")}
        config, inputs = contexts.trained_elsewhere(
            configs.load("mnist_rdl", **changes)
        )
        dataset = contexts.load(config)
        lab = contexts.build_context(config, dataset, tmp_path, None, None, inputs)
        teacher = teachers.net(inputs.teacher.net(dataset), inputs.teacher.variables)
        student = contexts.student(config, dataset, inputs, training.AXIS)
        states = []
        for method in config.method.names:
            made = builder.prepare(lab, student, teacher, method)
            (trainer,) = made.trainers
            states.append([trainer.begin(seed, 8).replicated.params for seed in (0, 1)])
        (first, second), others = states
        leaves = lambda state: jax.tree.leaves(state["student"])  # noqa: E731
        assert len(leaves(first)) == 6
        for own, other in zip((first, second), others, strict=True):
            jax.tree.map(
                np.testing.assert_array_equal, own["student"], other["student"]
            )
        differ = [(x != y).any() for x, y in zip(*map(leaves, states[0]), strict=True)]
        assert sum(differ) == 3  # Biases are 0.

    def test_pictures_are_pictures(self, finished):
        from matplotlib import image

        for name in ("rdms.png", "learning_curves.png"):
            pixels = image.imread(finished / name)
            assert min(pixels.shape[:2]) > 400 and pixels.std() > 0.05

    def test_table(self, finished):
        table = (finished / "table.md").read_text()
        for method in METHODS:
            assert re.search(rf"^\| {re.escape(method)} +\| ", table, re.MULTILINE)
        assert "for validation" in table and "1,000 for test" in table

    def test_a_finished_run_is_shown_again_and_left_alone(self, finished, capsys):
        files = {f: f.stat().st_mtime_ns for f in finished.rglob("*") if f.is_file()}
        files.pop(finished / "config.json")
        again = ["--seeds=2", "--methods", *METHODS, "--resume"]
        assert call(f"--out={finished}", *again) == 0
        assert (finished / "table.md").read_text() in capsys.readouterr().out
        assert all(f.stat().st_mtime_ns == then for f, then in files.items())
        assert len(files) > 50

    def test_seconds_are_those_of_all_runs(self, finished):
        result = json.loads((finished / "result.json").read_text())
        records = [json.loads(f.read_text()) for f in finished.glob("*/result.json")]
        assert len(records) == 7 and all(r["seconds"] > 0 for r in records)
        assert result["seconds"] == pytest.approx(sum(r["seconds"] for r in records))

    def test_its_teacher_serves_another_run(self, finished, tmp_path, capsys):
        source = shutil.copytree(finished / "teacher" / "weights", tmp_path / "net")
        few = [f"--out={tmp_path / 'run'}", "--methods", "kd+rdl", "--seeds=1"]
        settings = [*few, f"--teacher_from={source}"]
        assert call(*settings) == 0
        result = json.loads((tmp_path / "run" / "result.json").read_text())
        assert result["teacher_source"]["run"] == str(finished / "teacher")
        # Other weights in that folder are another run; what teaches is not deleted.
        drawn_teacher(source)
        assert call(*settings, "--resume") == 2
        assert "teacher_weights" in capsys.readouterr().err
        own = tmp_path / "run" / "kd+rdl-seed0" / "weights"
        assert call(*few, "--overwrite", f"--teacher_from={own}") == 2
        assert "which teacher_from names" in capsys.readouterr().err
        assert own.is_dir()
        first, second = (
            json.loads((folder / "teacher" / "result.json").read_text())
            for folder in (finished, tmp_path / "run")
        )
        assert second["predicted"] == first["predicted"]
        # The same student, from the same teacher.
        first, second = (
            json.loads((folder / "kd+rdl-seed0" / "result.json").read_text())
            for folder in (finished, tmp_path / "run")
        )
        assert second["predicted"] == first["predicted"]

    @pytest.mark.slow
    def test_kd_and_rdl_alone(self, rehearsed, tmp_path, monkeypatch):
        """All that is asked of `finished`, with more tests to correct for."""
        monkeypatch.setattr(plots, "pictures", quick.pictures)
        of, folder = ("plain", "rdl", "kd", "kd+rdl", "hint"), tmp_path / "run"
        assert call(f"--out={folder}", "--seeds=2", "--methods", *of) == 0
        result = json.loads((folder / "result.json").read_text())
        assert tuple(result["methods"]) == of
        records = [json.loads(f.read_text()) for f in folder.glob("*/result.json")]
        assert len(records) == 11
        assert result["seconds"] == pytest.approx(sum(r["seconds"] for r in records))
        # Holm over the tests of four methods and two seeds.
        tests = sorted(result["mcnemar"], key=lambda t: t["p_value"])
        p_values = np.array([t["p_value"] for t in tests])
        holm = np.minimum(np.maximum.accumulate(p_values * np.arange(8, 0, -1)), 1)
        np.testing.assert_allclose([t["holm"] for t in tests], holm)
        truth, table = data.load("digits").test.label, (folder / "table.md").read_text()
        teacher = np.load(folder / "teacher" / "rdms.npz")
        for method in of:
            found = result["methods"][method]
            assert re.search(rf"^\| {re.escape(method)} +\| ", table, re.MULTILINE)
            for seed in range(2):
                student = folder / f"{method}-seed{seed}"
                own = json.loads((student / "result.json").read_text())
                error = 100 * np.mean(np.array(own["predicted"]) != truth)
                assert found["test_error"]["values"][seed] == pytest.approx(error)
                rdms = np.load(student / "rdms.npz")
                for layer, spread in found["agreement_by_layer"].items():
                    expected = np.corrcoef(rdms[layer], teacher[layer])[0, 1]
                    assert spread["values"][seed] == pytest.approx(expected, abs=1e-5)
        for name in ("rdms.png", "learning_curves.png"):
            assert (folder / name).stat().st_size > 5_000

    def test_the_trained_student_is_kept(self, finished):
        assert checkpoints.latest(finished / "kd+rdl-seed0" / "checkpoint") == 6
        # Its epochs are closed: no step is left whose mean is to be taken.
        about = checkpoints.about(finished / "kd+rdl-seed0" / "checkpoint")
        assert about["partial"] == [] and len(about["history"]) == 2

    def test_a_run_that_diverges_stops_and_says_where(self, tmp_path, capsys):
        folder = tmp_path / "run"
        wild = ["--seeds=1", "--methods", "plain", "--learning_rate=1e20"]
        wild += ["--clip=1e14"]
        for resume in ([], ["--resume"]):
            assert call(f"--out={folder}", *wild, *resume) == 1
            said = capsys.readouterr().err
            assert "Traceback" not in said
            message = said.strip().splitlines()[-1]
            assert re.fullmatch(
                r"error: teacher diverged in step [1-6], in epoch [12]: (the student's "
                r"layers are not finite, the first is (stage1, )?pooled, logits|the "
                r"gradient of the term task is not finite.*|the state is not finite "
                r"before it.*)",
                message,
            )
        assert not (folder / "teacher" / "result.json").exists()
        assert not (folder / "result.json").exists()


class Countdown:
    """An interrupt that comes when it has been looked at so many times."""

    def __init__(self, looks):
        self.looks = looks

    @property
    def requested(self):
        self.looks -= 1
        return self.looks < 0


class Request(Countdown):
    """The same in place of `loop.Interrupt`, for commands."""

    __enter__ = interrupts.Interrupt.__enter__
    __exit__ = interrupts.Interrupt.__exit__
    _request = interrupts.Interrupt._request


def stored(folder):
    """The bytes of every array of the newest checkpoint, read by orbax alone."""
    newest = folder / "checkpoint" / str(checkpoints.latest(folder / "checkpoint"))
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore((newest / "state").absolute())
    return {path: np.asarray(array).tobytes() for path, array in state.items()}


@pytest.fixture(scope="module")
def unbroken(brief, tmp_path_factory):
    """The folder of a run of TestInterrupt that nothing stopped, and its result."""
    folder = tmp_path_factory.mktemp("results") / "unbroken"
    return folder, TestInterrupt().go(folder, looks=10**6)


class TestInterrupt:
    SETTINGS = {
        "train_per_class": 20,
        "epochs": 2,
        "teacher_epochs": 2,
        "teacher": "mlp",
        "student": "mlp",
        "layers": ("pooled", "logits"),
        "methods": ("rdl",),
        "seeds": 1,
        "pairs": 30,
    }

    def go(self, folder, looks, resume=False):
        config = configs.load(
            "mnist_rdl", **self.SETTINGS, out=str(folder), resume=resume
        )
        return experiment.run("mnist_rdl", config, Countdown(looks))

    @pytest.mark.parametrize(
        "stops",
        [
            # In the middle of the teacher's first epoch, and of the student's second.
            ((2, "teacher"), (4 + 4, "rdl-seed0")),
            # And between the student's two epochs.
            pytest.param(
                ((2, "teacher"), (4 + 3, "rdl-seed0"), (1, "rdl-seed0")),
                marks=pytest.mark.slow,
            ),
        ],
        ids=len,
    )
    def test_resumed_ends_with_the_same_bytes_as_unbroken(
        self, stops, unbroken, tmp_path
    ):
        folder, whole = unbroken
        sides = folder, tmp_path / "broken"
        for looks, stopped in stops:
            resume = sides[1].exists()
            with pytest.raises(interrupts.Interrupted, match=stopped):
                self.go(tmp_path / "broken", looks, resume)
        resumed = self.go(tmp_path / "broken", 10**6, resume=True)
        for name in ("teacher", "rdl-seed0"):
            states = [stored(side / name) for side in sides]
            assert states[0] == states[1] and len(states[0]) > 10
            records = [
                json.loads((side / name / "result.json").read_text()) for side in sides
            ]
            for key in ("history", "predicted", "test_error"):
                assert records[0][key] == records[1][key]
        found = [dict(result["methods"]["rdl"]) for result in (whole, resumed)]
        assert all(numbers.pop("seconds")["mean"] > 0 for numbers in found)
        assert found[0] == found[1]

    def test_damaged_results_are_named_and_left_alone(self, unbroken, tmp_path, capsys):
        shutil.copytree(unbroken[0], tmp_path / "run")
        own = tmp_path / "run" / "rdl-seed0"
        (tmp_path / "run" / "result.json").unlink()
        settings = {**self.SETTINGS, "out": str(tmp_path / "run"), "resume": True}
        flags = ["--methods", "rdl", "--layers", "pooled", "logits", "--resume"]
        for key in settings.keys() - {"methods", "layers", "out", "resume"}:
            flags.append(f"--{key}={settings[key]}")
        for file in (own / "result.json", own / "rdms.npz"):
            whole = file.read_bytes()
            file.write_bytes(whole[: len(whole) // 2])
            assert run.main(["mnist_rdl", f"--out={tmp_path / 'run'}", *flags]) == 2
            said = capsys.readouterr().err
            assert "result.json or rdms.npz next to it is damaged" in said
            assert len(file.read_bytes()) == len(whole) // 2
            file.write_bytes(whole)
        newest = own / "checkpoint" / str(checkpoints.latest(own / "checkpoint"))
        (own / "result.json").unlink()
        (newest / "manifest.json").unlink()
        assert run.main(["mnist_rdl", f"--out={tmp_path / 'run'}", *flags]) == 1
        said = capsys.readouterr().err
        assert f"{newest} is damaged" in said and "Traceback" not in said

    @pytest.mark.parametrize(
        "trained", [False, pytest.param(True, marks=pytest.mark.slow)]
    )
    def test_in_micro_batches_and_half_precision(self, trained, tmp_path, monkeypatch):
        settings = ["--micro_batches=4", "--dtype=bfloat16", "--seeds=1"]
        settings += ["--methods=rdl"]
        if trained:
            # (The teacher too, and rehearsed.)
            monkeypatch.setattr(rehearsal, "rehearse", quick.rehearse)
        else:
            settings += [f"--teacher_from={drawn_teacher(tmp_path / 'teacher')}"]
        assert call(f"--out={tmp_path / 'run'}", *settings) == 0
        result = json.loads((tmp_path / "run" / "result.json").read_text())
        assert 0 < result["methods"]["rdl"]["test_error"]["mean"] < 95

    @pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
    def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(
        self, processes, tmp_path, monkeypatch, capsys
    ):
        # A folder with a space, and --overwrite: the printed command must work as
        # pasted and must not delete what it continues.
        # It is continued here, and interrupted after so many steps.
        teacher, reached = tmp_path / "my run" / "teacher", 0
        command = [sys.executable, "-m", "experiments.run", "mnist_rdl", "--overwrite"]
        command += [f"--out={teacher.parent}", "--train_per_class=20", "--seeds=1"]
        command += ["--teacher_epochs=100000", "--methods", "plain", *MLPS]
        for _ in range(processes):
            known, before = set(teacher.glob("rdms/*")), reached
            process = subprocess.Popen(
                command, cwd=ROOT, stderr=subprocess.PIPE, text=True
            )
            deadline = time.monotonic() + 120
            # (RDMs are written at the ends of some epochs, of the first one too.)
            while set(teacher.glob("rdms/*")) <= known:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=120)
            assert process.returncode == 130
            assert "Traceback" not in said and "stopped in teacher" in said
            reached = checkpoints.latest(teacher / "checkpoint")
            command = shlex.split(said.strip().splitlines()[-1])
            assert command[:3] == [sys.executable, "-m", "experiments.run"]
            assert reached > before and "--overwrite" not in command
        monkeypatch.setattr(interrupts, "Interrupt", lambda: Request(4))
        assert run.main(command[3:]) == 130
        assert checkpoints.latest(teacher / "checkpoint") == reached + 4
        again = capsys.readouterr().err.strip().splitlines()[-1]
        assert shlex.split(again) == command


WRONG = {
    "config": (["mnist_rld"], "config 'mnist_rld'; did you mean 'mnist_rdl'"),
    "key": (["mnist_rdl", "--seedss=3"], "--seeds"),
    "net": (["mnist_rdl", "--student=mnist_cn"], "did you mean 'mnist_cnn'"),
    "teacher's net": (["mnist_rdl", "--teacher=mnist_cm"], "did you mean 'mnist_cnn'"),
    "data": (["mnist_rdl", "--data=fashon_mnist"], "did you mean 'fashion_mnist'"),
    "layer": (
        ["mnist_rdl", "--layers", "stage1", "stagee2"],
        "layer of mnist_cnn_small 'stagee2'; did you mean 'stage2'",
    ),
    "teacher's layer": (
        ["mnist_rdl", "--layers", "stage1:stage7"],
        "layer of mnist_cnn 'stage7'; did you mean 'stage",
    ),
    "distance": (["mnist_rdl", "--distance=cosine"], "invalid choice 'cosine'"),
    "comparison": (["mnist_rdl", "--comparison=Person"], "invalid choice 'Person'"),
    "method": (["mnist_rdl", "--methods", "plain", "kd+rdll"], "did you mean 'rdl'"),
    "batch": (["mnist_rdl", "--batch=60"], "batch of 60 is impossible"),
    "micro-batches": (
        ["mnist_rdl", "--micro_batches=3"],
        "a batch of 8 images on a device does not divide into 3 micro-batches",
    ),
    "too large": (["mnist_rdl", "--batch=8000"], "with 3,500 training images"),
    "weights": (["mnist_rdl", "--layer_weights", "1", "2"], "a weight for each layer"),
    "twice": (["mnist_rdl", "--methods", "kd", "kd"], "each once"),
    "none": (["mnist_rdl", "--layers"], "one or more"),
    "seeds": (["mnist_rdl", "--seeds=0"], "seeds must be 1 or more"),
    "plain with others": (["mnist_rdl", "--methods", "plain+kd"], "not a method"),
    "a term twice": (["mnist_rdl", "--methods", "kd+kd"], "not a method"),
    "pairs": (["mnist_rdl", "--pairs=0"], "pairs must be 1 or more"),
    "crop": (["mnist_rdl", "--crop=-1"], "crop must be 0 or more"),
    "hint": (
        ["mnist_rdl", "--methods", "hint", "--hint_layer=pooled:stage2"],
        "hint cannot be trained: hint: no module maps activations (64, 64) to "
        "(64, 2, 2, 64); layers are set by --hint_layer (hint)",
    ),
    "out": (["mnist_rdl", "--out=res/{x}"], "out may contain {config} and {data}"),
    "both": (["mnist_rdl", "--resume", "--overwrite"], "exclude each other"),
    "known to tfds": (
        ["mnist_rdl", "--data=kmnist", "--data_dir=nowhere"],
        "tfds.builder('kmnist', data_dir='nowhere'",
    ),
    "few": (["mnist_rdl", "--train_per_class=999"], "999"),
    "missing": (
        ["mnist_rdl", "--data=mnist", "--data_dir=nowhere"],
        "python -m experiments.prepare mnist --data_dir nowhere",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_call_is_answered_in_words(
    kind, rehearsed, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    arguments, message = WRONG[kind]
    assert run.main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said and "Traceback" not in said
    assert not list(tmp_path.iterdir())


class TestSettings:
    def test_by_their_flags(self):
        config = configs.make({"epochs": 3}, brain_rdms=("it",), crd_relax=True)
        assert config.training.epochs == 3 and config.crd.relax
        found = configs.flat(config)
        assert found["brain_rdms"] == ("it",) and found.keys() == configs.FIELDS.keys()
        assert configs.make(found) == config != configs.make()
        again = configs.change(config, epochs=15, brain_rdms=("human_it",))
        assert configs.change(again, crd_relax=False) == configs.make()
        with pytest.raises(errors.UnknownName, match="'epoch'; did you mean 'epochs'"):
            configs.change(config, epoch=3)

    def test_a_group_checks_itself(self):
        for group, field, value in (
            (configs.Training, "epochs", 0),
            (configs.Optimizer, "clip", float("nan")),
            (configs.RDL, "layers", ("a", "a")),
            (configs.RDL, "distance", "Euclid"),
            (configs.Nets, "modality", "colour"),
            (configs.CRD, "sampling", "per_class"),
            (configs.Optimizer, "schedule", "cosines"),
            (configs.Training, "dtype", "float16"),
        ):
            with pytest.raises(command.UsageError):
                group(**{field: value})
        message = "no brain_comparison 'Pearso'; did you mean 'Pearson'"
        with pytest.raises(command.UsageError, match=message):
            configs.make(brain_comparison="Pearso")

    def test_every_setting_is_documented(self):
        groups = {
            node.name: node.body
            for node in ast.parse(
                pathlib.Path(configs.settings.__file__).read_text()
            ).body
            if isinstance(node, ast.ClassDef)
        }
        for group in configs.Config.__dataclass_fields__.values():
            body = groups[type(group.default).__name__]
            for field, words in itertools.pairwise(body):
                if isinstance(field, ast.AnnAssign):
                    assert isinstance(words, ast.Expr), field.target.id
                    assert len(words.value.value) > 15, field.target.id


def test_a_value_of_the_wrong_type(capsys):
    assert run.main(["mnist_rdl", "--seeds=many"]) == 2
    assert "seeds" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0)])
def test_without_a_config_the_configs_are_listed(arguments, code, capsys):
    assert run.main(arguments) == code
    assert "mnist_rdl" in capsys.readouterr().out


def test_help_shows_the_lab_note_and_every_setting(capsys):
    assert run.main(["mnist_rdl", "--help"]) == 0
    said = capsys.readouterr().out
    assert "McClure" in said and all(f"--{flag}" in said for flag in configs.FIELDS)


def test_a_setting_that_no_method_reads_is_not_checked():
    # The MLP has no stage2, the default of hint_layer.
    settings = ["--student=mlp", "--layers", "pooled", "logits", "--methods", "plain"]
    _, config = run.parse(["mnist_rdl", *settings])
    assert config.method.hint_layer == "stage2"
    checks.check(config)
    quick.rehearse(config, data.load("digits"))


def test_pictures_name_both_layers_of_an_unequal_pair(tmp_path, monkeypatch):
    from matplotlib import axes

    titles = []
    monkeypatch.setattr(
        axes.Axes, "set_title", lambda self, title, **_: titles.append(title)
    )
    monkeypatch.setattr(plots, "save", lambda *_, **__: None)
    monkeypatch.setattr(plots, "pictures", quick.pictures)
    pair = ["--layers", "stage1:pooled", "--methods", "rdl"]
    assert call(f"--out={tmp_path / 'run'}", *pair, "--seeds=1") == 0
    assert titles[0] == "teacher" and re.fullmatch(r"rdl, r = -?\d\.\d\d", titles[1])


def test_a_picture_with_a_palette_is_small_and_looks_alike(tmp_path):
    from matplotlib import pyplot as plt

    matrix = np.random.default_rng(0).random((120, 120))
    for palette in (False, True):
        figure, axis = plt.subplots(figsize=(4, 4))
        axis.imshow(matrix, interpolation="nearest")
        plots.save(figure, tmp_path / f"{palette}.png", palette=palette)
    whole, few = (tmp_path / f"{palette}.png" for palette in (False, True))
    assert few.stat().st_size < whole.stat().st_size / 2
    seen = [plt.imread(path)[..., :3] for path in (whole, few)]
    assert seen[0].shape == seen[1].shape
    assert np.abs(seen[0] - seen[1]).mean() < 0.02 < seen[0].std()


def test_pictures_of_many_classes_and_of_a_teacher_from_elsewhere(
    tmp_path, monkeypatch
):
    from matplotlib import pyplot as plt

    seen = []
    monkeypatch.setattr(plots, "save", lambda figure, *_, **__: seen.append(figure))
    both = {"seed": 0, "compared": ["a"], "rdms": {"a": np.arange(42.0 * 41 // 2)}}
    epoch = {"validation_error": 50.0, "task": 1.0}
    student = {"agreement": {"a": {"pearson": 0.5}}, "history": [epoch]}
    results = [{"method": "teacher", "history": [], **both}]
    results.append({"method": "plain", **student, **both})
    quick.pictures(tmp_path, results, np.repeat(np.arange(21), 2))
    monkeypatch.undo()
    rdms, curves = seen
    ticks = [text.get_text() for text in rdms.axes[0].get_xticklabels()]
    assert ticks == [""] * 21
    drawn = [text.get_text() for text in curves.axes[0].get_legend().get_texts()]
    assert drawn == ["plain"]
    plt.close("all")


class TestTrials:
    def test_prints_a_row_for_every_setting(self, capsys, monkeypatch):
        few = [("plain", {}), ("rdl", {"weights": ("rdl=0.5",)})]
        monkeypatch.setitem(grid.PARTS, "1", lambda: few)
        sizes = ["--train_per_class=20", "--epochs=1", "--teacher_epochs=1"]
        mlps = {"teacher": "mlp", "student": "mlp", "layers": ("pooled", "logits")}
        load = functools.partial(configs.load, **mlps)
        monkeypatch.setattr(configs, "load", load)
        assert trials.main(["1", *sizes, "--seeds=2"]) == 0
        rows = capsys.readouterr().out.strip().splitlines()[-2:]
        for row, setting in zip(rows, ("", "rdl=0.5"), strict=True):
            number = r"([\d.]+)"
            found = re.fullmatch(
                rf"\| \w+ \| (.*) \| {number} ± {number} \| {number} {number} \|", row
            )
            mean, _, *each = map(float, found.groups()[1:])
            assert found.group(1) == setting
            assert mean == pytest.approx(np.mean(each), abs=0.01)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["1", "--data=digit"], "did you mean 'digits'"),
            (["1", "--seedss=2"], "--seeds"),
            (["1", "--data=mnist", "--data_dir=nowhere"], "experiments.prepare mnist"),
        ],
    )
    def test_a_wrong_call(self, arguments, message, capsys):
        assert trials.main(arguments) == 2
        assert message in capsys.readouterr().err

    def test_every_setting_of_the_grid_can_be_trained(self):
        for part in grid.PARTS.values():
            for method, change in part():
                checks.check(configs.load("mnist_rdl", methods=(method,), **change))


FEW = ["--student_per_class=8", "--methods", "plain", "kd", "--seeds=2"]


@pytest.fixture(scope="module")
def with_few(brief, tmp_path_factory):
    """The trainings of a run and what it prints; a run whose teacher has few too.

    Images are normalised equally in both.
    """
    folder, jobs, fit = tmp_path_factory.mktemp("few"), [], loop.fit

    def noted(given, *more):
        jobs.extend(given)
        return fit(given, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "fit", noted)
        patch.setattr(sets, "_moments", lambda _: ((33.0,), (79.0,)))
        for name, size in (("students", "20"), ("all", "8")):
            kept = [f"--train_per_class={size}", f"--out={folder / name}"]
            kept += FEW[name == "all" :]
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                assert call(*kept) == 0
            if name == "students":
                found = {job.name: job.examples for job in jobs}, said.getvalue()
    return folder, *found


class TestFewerImagesOfStudents:
    def test_the_teacher_has_all(self, with_few):
        _, examples, _ = with_few
        students = [f"{method}-seed{i}" for method in ("plain", "kd") for i in (0, 1)]
        assert examples == {"teacher": 200, **dict.fromkeys(students, 80)}

    def test_plain_students_are_those_of_a_run_with_few(self, with_few):
        folder, *_ = with_few
        predicted = [
            [
                json.loads((folder / run / net / "result.json").read_text())[
                    "predicted"
                ]
                for run in ("students", "all")
            ]
            for net in ("plain-seed0", "plain-seed1", "kd-seed0")
        ]
        assert [own == other for own, other in predicted] == [True, True, False]

    def test_what_is_said(self, with_few):
        folder, _, said = with_few
        note = "Students are trained on 80 of them, 8 of each class."
        assert "200 images for training" in said and note in said
        summary = json.loads((folder / "students" / "result.json").read_text())
        assert summary["data"].endswith(note)
        sentence = verdict.sentence(summary)
        *_, last, _, files, page = said.strip().splitlines()
        assert last == sentence and "table.md" in files
        assert page.endswith(f"python -m experiments.report {folder / 'students'}")
        assert sentence in (folder / "students" / "table.md").read_text()

    def test_too_few_for_a_batch(self, capsys):
        assert call("--student_per_class=6") == 2
        said = capsys.readouterr().err
        assert "a batch of 64 is impossible with 60 training images" in said


class TestFolder:
    def claim(self, folder, **changes):
        config = configs.load("mnist_rdl", out=str(folder), **changes)
        return results_folder.claim("mnist_rdl", config)

    def test_a_free_folder_is_taken(self, tmp_path):
        folder = self.claim(tmp_path / "a" / "b")
        assert json.loads((folder / "config.json").read_text())["name"] == "mnist_rdl"

    def test_one_that_a_run_was_killed_while_it_took_is_free(self, tmp_path):
        (tmp_path / "run").mkdir()
        left = {"config.partial", ".partial-0a1b2c3d-config.json", locks.NAME}
        for name in left:
            (tmp_path / "run" / name).write_text("{")
        folder = self.claim(tmp_path / "run")
        names = {file.name for file in folder.iterdir()}
        assert names - left == {"config.json"}

    def test_the_same_settings_are_resumed_when_asked(self, tmp_path):
        self.claim(tmp_path / "a")
        (tmp_path / "a" / "kept").touch()
        with pytest.raises(command.UsageError, match="--resume"):
            self.claim(tmp_path / "a")
        self.claim(tmp_path / "a", resume=True)
        assert (tmp_path / "a" / "kept").exists()

    def test_other_settings_are_neither_resumed_nor_overwritten(self, tmp_path):
        self.claim(tmp_path / "a")
        for changes in ({}, {"resume": True}):
            with pytest.raises(command.UsageError, match="seeds 3 there and 2 here"):
                self.claim(tmp_path / "a", seeds=2, **changes)

    def test_a_file_is_not_a_folder(self, tmp_path):
        (tmp_path / "a").touch()
        with pytest.raises(command.UsageError, match="is a file"):
            self.claim(tmp_path / "a", overwrite=True)

    def test_the_home_folder_is_found(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        assert self.claim("~/a") == tmp_path / "a"

    def written(self, folder):
        """A folder of a run with all kinds of what runs leave, and their paths."""
        self.claim(folder)
        names = ["result.json", "table.md", "report.html", "correlations.md"]
        names += ["brain_mds.png", "before-seed12.npz", locks.NAME, "config.partial"]
        names += ["profile/kd/profile.json", "profile/kd/plugins/profile/1/a.pb"]
        names += ["teacher/weights/0/manifest.json", "teacher-seed1/result.json"]
        for net in ("plain-seed0", "kd+rdl-seed11"):
            names += [f"{net}/{of}" for of in ("result.json", "rdms.npz", "brain.npz")]
            names += [
                f"{net}/checkpoint/{of}"
                for of in (f"6/state/d/{'0a' * 16}", "6/manifest.json", ".writing/6/x")
            ]
            names += [f"{net}/rdms/epoch-0001.npz", f"{net}/events.out.tfevents.1.a"]
            names += [f"{net}/start-up/checkpoint/3/manifest.json"]
            names += [f"{net}/.partial-0a1b2c3d-rdms.npz"]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(name)
        return names

    def test_overwrite_deletes_a_run(self, finished, tmp_path):
        folders = [tmp_path / "a", shutil.copytree(finished, tmp_path / "b")]
        self.written(folders[0])
        for folder in folders:
            self.claim(folder, seeds=7, overwrite=True)
            left = {path.name for path in folder.rglob("*")} - {locks.NAME}
            assert left == {"config.json"}
            assert json.loads((folder / "config.json").read_text())["seeds"] == 7

    @pytest.mark.parametrize(
        "foreign",
        [
            *("thesis.tex", "notes/thesis.tex", "plain-seed0/notes.txt"),
            *("plain-seed0 copy/result.json", "plain-seed/result.json"),
            *("at-seed0/result.json", "kd-seed0/config.json", "inner/config.json"),
            *("teacher/checkpoint/best/state", "plain-seed0/rdms/mine.npz"),
            *("teacher/checkpoint/2024/photo.jpg", "teacher/weights/0/thesis.tex"),
            *("teacher/weights/0/state/thesis.tex", "teacher/weights/0/state/d/a.tex"),
            *("table.md/a", "profile/kd/notes.txt", "probe-stl10/probe.json"),
            *("LINK:away", "LINK:rdms.png", "LINK:rdl-seed0", "LINK:plain-seed0/rdms"),
        ],
    )
    def test_overwrite_deletes_nothing_where_something_else_lies(
        self, foreign, tmp_path
    ):
        folder, aside = tmp_path / "a", tmp_path / "aside"
        self.claim(folder)
        (folder / "plain-seed0").mkdir()
        (folder / "plain-seed0" / "result.json").write_text("{}")
        (folder / "result.json").write_text("{}")
        aside.mkdir()
        link, name = foreign.startswith("LINK:"), foreign.removeprefix("LINK:")
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if link:
            (folder / name).symlink_to(aside)
        else:
            (folder / name).write_text("years of work")
        before = sorted(folder.rglob("*"))
        with pytest.raises(command.UsageError, match="no run has written: ") as refused:
            self.claim(folder, overwrite=True)
        named = str(refused.value).partition("written: ")[2].partition(";")[0]
        assert name == named or name.startswith(f"{named}/")
        assert sorted(folder.rglob("*")) == before

    def test_where_overwriting_is_cut_short_a_net_is_whole_or_gone(
        self, tmp_path, monkeypatch
    ):
        folder, removed = tmp_path / "a", []
        names = self.written(folder)

        def cut(path):
            removed.append(path)
            if len(removed) == 2:
                next(x for x in path.rglob("*") if x.is_file()).unlink()
                raise KeyboardInterrupt
            remove(path)

        remove = shutil.rmtree
        monkeypatch.setattr(shutil, "rmtree", cut)
        with pytest.raises(KeyboardInterrupt):
            self.claim(folder, overwrite=True)
        nets = {name.split("/")[0] for name in names if "rdms.npz" in name}
        for net in nets:
            of = {x for x in names if x.startswith(net) and "/result" not in x}
            there = {x for x in of if (folder / x).exists()}
            assert there in (set(), of)
        assert (folder / "config.json").exists() and (
            folder / results_folder.DELETED
        ).exists()
        self.claim(folder, resume=True)
        self.claim(folder, overwrite=True)
        left = {path.name for path in folder.iterdir()} - {locks.NAME}
        assert left == {"config.json"}

    def test_a_pipe_is_no_record(self, tmp_path):
        self.claim(tmp_path)
        (tmp_path / "config.json").unlink()
        os.mkfifo(tmp_path / "config.json")
        with pytest.raises(command.UsageError, match="config.json is damaged"):
            self.claim(tmp_path, resume=True)
        os.mkfifo(tmp_path / "result.json")
        with pytest.raises(command.UsageError, match="result.json is damaged"):
            results_folder.read_finished(tmp_path, "mnist_rdl", configs.make())

    def test_overwrite_takes_only_runs(self, tmp_path):
        (tmp_path / "thesis.tex").touch()
        with pytest.raises(command.UsageError, match="not a run"):
            self.claim(tmp_path, overwrite=True)
        whole = {"name": "a", **results_folder.settings(configs.make())}
        four = {k: whole[k] for k in ("name", "teacher", "student", "methods")}
        wrong = [four, whole | {"methods": "plain"}, whole | {"seeds": "3"}, [whole]]
        wrong += [{k: v for k, v in whole.items() if k != "epochs"}]
        (tmp_path / "thesis.tex").unlink()
        for record in wrong:
            (tmp_path / "config.json").write_text(json.dumps(record))
            with pytest.raises(command.UsageError, match="not a run"):
                self.claim(tmp_path, overwrite=True)
        assert results_folder.is_run(whole) and not any(
            map(results_folder.is_run, wrong)
        )

    def test_killed_while_it_deletes_it_is_not_finished(self, tmp_path, monkeypatch):
        config, at = configs.load("mnist_rdl"), 0

        def killed(*_, **__):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt

        for at in (0, 1, 2, 4, 5, 9, 13, 100):
            folder, left = tmp_path / str(at), at
            names = self.written(folder)
            with monkeypatch.context() as patch:
                for owner, name in ((pathlib.Path, "unlink"), (shutil, "rmtree")):
                    whole = getattr(owner, name)
                    patch.setattr(
                        owner, name, lambda *a, f=whole, **k: killed() or f(*a, **k)
                    )
                try:
                    self.claim(folder, overwrite=True)
                    break
                except KeyboardInterrupt:
                    pass
            results_left = [n for n in names if n.endswith("result.json")]
            results_left = [n for n in results_left if (folder / n).exists()]
            if at == 0:
                assert len(results_left) == 4
                continue
            # The run's own is the first, then those of nets, before anything else.
            assert "result.json" not in results_left
            assert not results_left or all((folder / n).exists() for n in names[1:3])
            self.claim(folder, resume=True)
            assert results_folder.read_finished(folder, "mnist_rdl", config) is None
            self.claim(folder, overwrite=True)
        assert at == 100 and (folder / "config.json").exists()

    def test_a_result_stays_until_that_of_more_seeds_takes_its_place(
        self, finished, tmp_path
    ):
        folder = shutil.copytree(finished, tmp_path / "run")
        recorded = json.loads((folder / "result.json").read_text())["config"]
        names = configs.FIELDS
        own = {k: v for k, v in recorded.items() if k in names}
        own |= {"out": str(folder), "resume": True}
        own |= {k: tuple(v) for k, v in own.items() if isinstance(v, list)}
        config = configs.make(**own)
        assert (
            results_folder.read_finished(folder, "mnist_rdl", config)["config"]
            == recorded
        )
        more = configs.change(config, seeds=5, methods=(*METHODS, "cc"))
        results_folder.claim("mnist_rdl", more)
        assert (folder / "result.json").exists()
        assert results_folder.read_finished(folder, "mnist_rdl", more) is None
        # And one of other settings than the folder's is none of this run.
        (folder / "result.json").write_text(
            (finished / "result.json").read_text().replace('"batch": 64', '"batch": 32')
        )
        with pytest.raises(command.UsageError, match="another run.*batch 32 there"):
            results_folder.claim("mnist_rdl", more)

    def test_other_images_are_not_gone_on_with(self, tmp_path, capsys):
        rng = np.random.default_rng(0)

        def split(count):
            images = rng.integers(0, 256, (count, 4, 4, 1), dtype=np.uint8)
            return data.Split(images, rng.integers(0, 3, count))

        parts = [split(5) for _ in range(3)]
        dataset = data.Dataset("a", 3, *parts, "a note", (0.0,), (1.0,))
        found = {"the same": contexts.fingerprint(dataset)}
        for part, name in zip(parts, ("train", "validation", "test"), strict=True):
            image, label = part.image.copy(), part.label[::-1].copy()
            image[3, 2, 1, 0] ^= 1
            label[0] = (part.label[0] + 1) % 3
            for other in (part._replace(image=image), part._replace(label=label)):
                changed = dataclasses.replace(dataset, **{name: other})
                found[f"{name} {other is part}{len(found)}"] = contexts.fingerprint(
                    changed
                )
        assert len({of["images"] for of in found.values()}) == 7
        config = configs.load("mnist_rdl", out=str(tmp_path), resume=True)
        first, *others = found.values()
        results_folder.claim("mnist_rdl", config, first)
        results_folder.claim("mnist_rdl", config, first)
        assert "not checked" not in capsys.readouterr().err
        with pytest.raises(command.UsageError, match="images '[0-9a-f]{64}' there"):
            results_folder.claim("mnist_rdl", config, others[0])
        # Of streamed ones the files are known, beside the others.
        streamed = {"image_files": "0" * 64}
        results_folder.claim("mnist_rdl", config, streamed)
        assert "is not checked" in capsys.readouterr().err
        record = json.loads((tmp_path / "config.json").read_text())
        assert first.items() | streamed.items() <= record.items()
        # What earlier versions left has none, and is gone on with.
        record = {k: v for k, v in record.items() if k not in results_folder.IMAGES}
        (tmp_path / "config.json").write_text(json.dumps(record))
        results_folder.claim("mnist_rdl", config, others[0])
        assert "is not checked" in capsys.readouterr().err
        with pytest.raises(command.UsageError, match="images"):
            results_folder.claim("mnist_rdl", config, first)


@pytest.fixture(scope="module")
def lab(finished):
    """What reading back takes of a lab."""
    recorded = json.loads((finished / "result.json").read_text())["config"]
    recorded = {k: tuple(v) if isinstance(v, list) else v for k, v in recorded.items()}
    recorded.pop("name")
    dataset, said = data.load("digits", train_per_class=20), []
    lab = types.SimpleNamespace(
        config=configs.make(**recorded), dataset=dataset, folder=finished
    )
    lab.inputs, lab.said, lab.print_message = contexts.Inputs(), said, said.append
    return lab


class TestReadBack:
    """What a run goes on from is its own."""

    def test_a_checkpoint_of_another_net_or_run(self, lab, tmp_path):
        plan = [training.Phase({}, epochs=2)]
        recipe = types.SimpleNamespace(stimuli=0, plan=plan)

        def refused(lab, name):
            with pytest.raises(checkpoints.CheckpointMismatch) as raised:
                fitting._fit(lab, {name: 0}, None, recipe, 0)
            return str(raised.value)

        here = types.SimpleNamespace(**{**vars(lab), "folder": tmp_path})
        shutil.copytree(lab.folder / "plain-seed0", tmp_path / "plain-seed1")
        words = refused(here, "plain-seed1")
        assert "job 'plain-seed0' there and 'plain-seed1' here" in words
        here.folder, here.config = lab.folder, configs.change(lab.config, batch=32)
        assert "batch 64 there and 32 here" in refused(here, "plain-seed0")
        # More seeds and methods are the same run; what says nothing is an old one's.
        mine = results_folder.settings(lab.config)
        whole = {"job": "a", "seconds": 1.5, "devices": 1, "history": [], "partial": []}
        for about in (whole | {"settings": mine}, whole):
            results_folder.check_checkpoint(about, "a", mine | {"seeds": 9})
        others = ({"settings": {}}, {"job": "b", "settings": mine})
        for about in (whole | other for other in others):
            with pytest.raises(ValueError, match="another run"):
                results_folder.check_checkpoint(about, "a", mine)
        # What anyone may have written, with its right hash.
        wrong = [{"settings": "x"}, {"devices": 10**30}, {"seconds": None}]
        wrong += [{"history": [{"loss": 1.0}]}, {"partial": [[]]}]
        lacks = {k: v for k, v in whole.items() if k != "devices"}
        for about in ([], lacks, *(whole | one for one in wrong)):
            with pytest.raises(ValueError, match="^its record"):
                results_folder.check_checkpoint(about, "a", mine)

    def test_a_checkpoint_whose_words_are_wrong_is_damaged(self, tmp_path):
        job = loop.Job("a", tmp_path, 0, 3, 2, examples=54, batch=8, settings={})
        about = {"job": "a", "seconds": 0.0, "history": [], "partial": []}
        checkpoints.save(job.checkpoint, 1, {"x": np.ones(2)}, about)
        with pytest.raises(checkpoints.CheckpointDamaged, match="lacks 'devices'"):
            loop.resume(job, lambda seed, devices: {"x": np.ones(devices)})

    def test_a_result_of_another_net_or_run(self, lab, tmp_path):
        here = types.SimpleNamespace(**{**vars(lab), "folder": tmp_path})
        for name in ("plain-seed0", "plain-seed1"):
            shutil.copytree(lab.folder / "plain-seed0", tmp_path / name)
        net, outcome = nets.build("mlp", 10), recording.Outcome({}, [{"loss": 1.0}])
        found = recording.record_net(here, "plain", 0, net, outcome)
        assert (found["method"], found["seed"]) == ("plain", 0)
        with pytest.raises(command.UsageError, match="seed 0 there and 1 here"):
            recording.record_net(here, "plain", 1, net, outcome)
        here.config = configs.change(lab.config, learning_rate=0.7)
        with pytest.raises(command.UsageError, match="learning_rate 0.1 there"):
            recording.record_net(here, "plain", 0, net, outcome)

    def test_a_result_without_weights_is_written_again(
        self, lab, tmp_path, monkeypatch
    ):
        here = types.SimpleNamespace(**{**vars(lab), "folder": tmp_path})
        place = shutil.copytree(lab.folder / "plain-seed0", tmp_path / "plain-seed0")
        shutil.rmtree(place / "weights" / "0")
        net, kept = nets.build("mlp", 10), []
        measured = {"test_error": 12.5, "rdms": dict.fromkeys(net.layers, np.ones(3))}
        monkeypatch.setattr(
            recording, "save_weights", lambda *given: kept.append(given[-1])
        )
        monkeypatch.setattr(recording, "measure", lambda *_: dict(measured))
        outcome = recording.Outcome({}, [{"loss": 1.0}])
        result = recording.record_net(here, "plain", 0, net, outcome)
        assert result["test_error"] == 12.5 and kept == [place / "weights"]
        assert "no weights" in lab.said[-1]

    def test_images_replaced_under_the_same_path(
        self, finished, tmp_path, capsys, monkeypatch
    ):
        folder = shutil.copytree(finished, tmp_path / "run")
        dataset = data.load("digits", train_per_class=20)
        image = dataset.test.image.copy()
        image[0, 0, 0, 0] ^= 1
        test = dataset.test._replace(image=image)
        monkeypatch.setattr(
            data, "load", lambda *_, **__: dataclasses.replace(dataset, test=test)
        )
        before = (folder / "config.json").read_bytes()
        for seeds in (2, 3):
            more = [f"--seeds={seeds}", "--methods", *METHODS, "--resume"]
            assert call(f"--out={folder}", *more) == 2
            said = capsys.readouterr().err
            assert re.search("images '[0-9a-f]{64}' there and '[0-9a-f]{64}'", said)
        assert (folder / "config.json").read_bytes() == before

    def test_a_finished_run_without_weights_says_so(self, finished, tmp_path, capsys):
        folder = shutil.copytree(finished, tmp_path / "run")
        again = ["--seeds=2", "--methods", *METHODS, "--resume", f"--out={folder}"]
        assert call(*again) == 0
        assert "weights" not in capsys.readouterr().err
        shutil.rmtree(folder / "hint-seed1" / "weights")
        shutil.rmtree(folder / "teacher")
        assert call(*again) == 0
        assert "no weights of hint-seed1, teacher:" in capsys.readouterr().err


# Holds a folder's lock as `locks.hold` does, without jax.
HOLDER = """
import fcntl, json, os, platform, sys, time
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
owner = {"host": platform.node(), "pid": os.getpid(), "since": "yesterday"}
print(json.dumps(owner), file=file, flush=True)
print("held", flush=True)
time.sleep(60)
"""

# Asks for a folder whose lock is a pipe.
PIPE = """
import os, pathlib, sys
from experiments import command
from experiments import locks
os.mkfifo(sys.argv[1])
try:
    with locks.hold(pathlib.Path(sys.argv[1]).parent):
        pass
except command.UsageError as error:
    print(error)
"""


class TestLock:
    def take(self, folder):
        with locks.hold(folder):
            pass

    def other(self, folder, age=0.0, **owner):
        """The lock file that another process has left."""
        there = {"host": "elsewhere", "pid": os.getpid(), "since": "noon"} | owner
        (folder / locks.NAME).write_text(json.dumps(there))
        then = time.time() - age
        os.utime(folder / locks.NAME, (then, then))

    def without_kernel(self, monkeypatch, meanwhile):
        """A file system without locks, and what happens in the moment of waiting."""

        def without(lock, *_, **__):
            raise OSError(errno.ENOSYS, "no locks")

        monkeypatch.setattr(filelock.FileLock, "acquire", without)
        monkeypatch.setattr(locks.time, "sleep", lambda seconds: meanwhile())

    def test_of_two_that_begin_at_once_one_holds_it(self, tmp_path, monkeypatch):
        self.without_kernel(monkeypatch, lambda: self.other(tmp_path))
        with pytest.raises(command.UsageError, match="on elsewhere since noon"):
            self.take(tmp_path)
        assert "noon" in (tmp_path / locks.NAME).read_text()

    def test_another_s_lock_is_neither_touched_nor_removed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(locks, "BEAT", 0.01)
        with locks.hold(tmp_path):
            (tmp_path / locks.NAME).unlink()
            self.other(tmp_path, 1000.0)
            before = (tmp_path / locks.NAME).stat().st_mtime
            time.sleep(0.1)
            assert (tmp_path / locks.NAME).stat().st_mtime == before
        assert "noon" in (tmp_path / locks.NAME).read_text()

    def test_who_may_write_to_the_folder_may_take_over(self, tmp_path):
        for mode in (0o777, 0o775, 0o755):
            tmp_path.chmod(mode)
            with locks.hold(tmp_path):
                found = (tmp_path / locks.NAME).stat().st_mode
                assert found & 0o777 == mode & 0o666

    def test_a_pipe_is_no_lock(self, tmp_path):
        started = [sys.executable, "-c", PIPE, str(tmp_path / locks.NAME)]
        said = subprocess.run(started, cwd=ROOT, timeout=20, capture_output=True)
        assert b"is not a file" in said.stdout

    def test_it_is_one_process_s_until_that_is_dead(self, tmp_path):
        started = [sys.executable, "-c", HOLDER, str(tmp_path / locks.NAME)]
        with subprocess.Popen(started, stdout=subprocess.PIPE) as holder:
            try:
                assert holder.stdout.readline() == b"held\n"
                words = rf"in use by process {holder.pid} on .* since yesterday"
                for _ in range(2):  # (To be refused changes nothing.)
                    with pytest.raises(command.UsageError, match=words):
                        self.take(tmp_path)
            finally:
                holder.kill()
        assert (tmp_path / locks.NAME).exists()
        with locks.hold(tmp_path):
            owner = json.loads((tmp_path / locks.NAME).read_text())
            assert (owner["pid"], owner["host"]) == (os.getpid(), platform.node())
            with pytest.raises(command.UsageError, match=f"process {os.getpid()} "):
                self.take(tmp_path)
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("owner", "age", "kernel", "free"),
        [
            # Of another host the kernel may not know, and its numbers mean nothing.
            ({}, 0.0, True, False),
            ({}, 100.0, True, False),
            ({}, 130.0, True, True),
            ({"pid": 2**22 + 1}, 0.0, False, False),
            ({"pid": 2**22 + 1}, 130.0, False, True),
            ({}, -100.0, True, False),
            ({}, -1000.0, True, True),
            # Of this one it does, and where it does not, the process is looked for,
            # which may be another with its number by now.
            ({"host": platform.node()}, 0.0, True, True),
            ({"host": platform.node()}, 0.0, False, True),
            ({"host": platform.node(), "pid": 1}, 0.0, False, False),
            ({"host": platform.node(), "pid": 1}, 130.0, False, True),
            ({"host": platform.node(), "pid": 2**22 + 1}, 0.0, False, True),
            # What is no owner holds nothing.
            *(({"pid": x}, 0.0, True, True) for x in ("x", -1, 0, None, 10**30)),
            ({"host": 3}, 0.0, True, True),
            ({"more": 3}, 0.0, True, True),
        ],
    )
    def test_who_lives(self, owner, age, kernel, free, tmp_path, monkeypatch):
        self.other(tmp_path, age, **owner)
        if not kernel:
            self.without_kernel(monkeypatch, lambda: None)
        before = (tmp_path / locks.NAME).read_text()
        if free:
            with locks.hold(tmp_path):
                assert (
                    json.loads((tmp_path / locks.NAME).read_text())["since"] != "noon"
                )
            assert not list(tmp_path.iterdir())
        else:
            with pytest.raises(command.UsageError, match="since noon"):
                self.take(tmp_path)
            assert (tmp_path / locks.NAME).read_text() == before

    def test_it_shows_that_it_lives(self, tmp_path, monkeypatch):
        monkeypatch.setattr(locks, "BEAT", 0.01)
        with locks.hold(tmp_path):
            os.utime(tmp_path / locks.NAME, (1, 1))
            for _ in range(500):
                if (tmp_path / locks.NAME).stat().st_mtime > 1:
                    break
                time.sleep(0.01)
            else:
                raise AssertionError("no sign of life")

    def test_a_turn_is_waited_for(self, tmp_path, monkeypatch):
        folder, said, slept = tmp_path / "kept", [], []
        lock = folder / locks.NAME

        def sleep(seconds):
            slept.append(seconds)
            if len(slept) == 3:  # The other has died.
                os.utime(lock, (1, 1))

        folder.mkdir()
        self.other(folder)
        monkeypatch.setattr(time, "sleep", sleep)
        stopped = interrupts.Interrupted("a")

        def stop():
            raise stopped

        def wait(handle_wait):
            with locks.hold_when_free(folder, said.append, handle_wait):
                assert lock.exists()

        with pytest.raises(interrupts.Interrupted):
            wait(stop)
        assert not slept and len(said) == 1
        wait(lambda: None)
        assert slept == [1, 1, 1] and list(tmp_path.rglob("*")) == [folder]
        words = f"{folder} is in use by process {os.getpid()} on elsewhere since noon"
        assert len(said) == 2 and all(of.startswith(words) for of in said)

    def test_an_error_within_frees_it_and_is_not_changed(self, tmp_path):
        folder = tmp_path / "a" / "b"
        with pytest.raises(OSError, match="^full$"), locks.hold(folder):
            raise OSError("full")
        assert not list((tmp_path / "a" / "b").iterdir())

    def test_what_cannot_be_written_is_refused(self, tmp_path):
        (tmp_path / "file").touch()
        (tmp_path / locks.NAME).symlink_to("elsewhere")
        for folder in (tmp_path / "file", tmp_path / "file" / "a", tmp_path):
            with pytest.raises(command.UsageError, match="cannot write to"):
                self.take(folder)
        assert not (tmp_path / "elsewhere").exists()

    def test_a_run_in_use_is_left_alone(self, finished, tmp_path, capsys):
        folder = shutil.copytree(finished, tmp_path / "run")
        self.other(folder)
        before = sorted(folder.rglob("*"))
        for flags in (["--overwrite", "--learning_rate=0.3"], ["--resume"], []):
            assert call(f"--out={folder}", *flags) == 2
            assert "in use by process" in capsys.readouterr().err
        assert sorted(folder.rglob("*")) == before


class TestConfig:
    def test_every_config_passes_its_own_check(self):
        # (Those of a brain name the RDMs of a file.)
        measured = ("human_it", "monkey_it", "human_it_shuffled")
        for name in configs.names():
            checks.check(configs.load(name), measured)

    def test_every_config_names_its_paper_and_command(self):
        for name in configs.names():
            note = (configs.PRESETS / f"{name}.py").read_text()
            assert f"python -m experiments.run {name}" in note and "Paper:" in note

    def test_the_defaults_are_those_of_the_objective(self):
        config = configs.make()
        defaults = (
            objectives.rdl.__kwdefaults__ or objectives.rdl.__wrapped__.__kwdefaults__
        )
        assert functions.DISTANCES[config.rdl.distance] == defaults["distance"]
        assert functions.COMPARISONS[config.rdl.comparison] == defaults["comparison"]

    def test_rdl_weighs_each_layer_and_decays(self):
        config = configs.make(
            weights=("rdl=2",),
            layers=("stage1", "pooled"),
            layer_weights=(1.0, 0.5),
            rdl_decay=True,
        )
        inputs = methods.TermInputs(config, np.arange(10), steps=100)
        ((loss, epochs, trains),) = methods.plan(inputs, "rdl")
        assert (epochs, trains) == (config.training.epochs, ("student",))
        assert set(loss) == {"task", "rdl/stage1", "rdl/pooled"}
        weight, _ = loss["rdl/pooled"]
        np.testing.assert_allclose(
            [weight(0), weight(50), weight(100)], [1.0, 0.5, 0.0]
        )


once_or_twice = pytest.mark.parametrize(
    "epochs", [1, pytest.param(2, marks=pytest.mark.slow)]
)


@pytest.mark.slow
@pytest.mark.parametrize("epochs", [1, 2])
def test_a_hundred_classes_of_colour_images(epochs, tmp_path, monkeypatch):
    # The shapes of CIFAR-100: noise, so the plumbing alone is tested.
    rng = np.random.default_rng(0)

    def split(per_class):
        label = np.repeat(np.arange(100, dtype=np.int32), per_class)
        image = rng.integers(0, 256, (len(label), 32, 32, 3)).astype(np.uint8)
        return data.Split(image, label)

    noise = data.Dataset(
        "cifar100",
        100,
        split(2),
        split(1),
        split(3),
        "noise",
        (127.0,) * 3,
        (74.0,) * 3,
    )
    monkeypatch.setattr(data, "load", lambda *_, **__: noise)
    folder = tmp_path / "run"
    settings = ["--data=cifar100", "--methods=rdl", "--seeds=1"]
    settings += [f"--epochs={epochs}", f"--teacher_epochs={epochs}"]
    assert run.main(["mnist_rdl", *TINY[1:], *settings, f"--out={folder}"]) == 0
    with np.load(folder / "rdl-seed0" / "rdms.npz") as rdms:
        assert rdms["stage1"].shape == (200 * 199 // 2,)
    result = json.loads((folder / "result.json").read_text())
    assert result["methods"]["rdl"]["test_error"]["mean"] > 80


@once_or_twice
@pytest.mark.slow
def test_real_colour_images_cropped_and_flipped(epochs, tfds_dir, tmp_path):
    folder = tmp_path / "cifar10"
    where = ["--data=cifar10", f"--data_dir={tfds_dir}", f"--out={folder}"]
    few = ["--methods", "rdl", "--seeds=1"]
    few += [f"--epochs={epochs}", f"--teacher_epochs={epochs}"]
    assert call(*where, *few, "--train_per_class=16") == 0
    result = json.loads((folder / "result.json").read_text())
    assert 0 < result["methods"]["rdl"]["test_error"]["mean"] < 100
    record = json.loads((folder / "rdl-seed0" / "result.json").read_text())
    assert len(record["predicted"]) == 932


def test_comparisons_scale_as_they_are_named():
    scales = {
        name: comparison.scale.__name__
        for name, comparison in functions.COMPARISONS.items()
        if name.startswith("MSE_")
    }
    names = ("least_squares", "maximum", "norm")
    assert scales == {f"MSE_{name}": f"by_{name}" for name in names}


@pytest.mark.parametrize("epochs", [1, 2])
def test_learning_curves_of_one_epoch_are_points(epochs, tmp_path, monkeypatch):
    from matplotlib import pyplot as plt

    history = [{"validation_error": 9.0 - i, "task": 2.0 - i} for i in range(epochs)]
    results = [{"method": m, "history": history} for m in ("teacher", "plain")]
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, _: drawn.append(figure))
    plots._learning_curves(tmp_path / "curves.png", results)
    (figure,) = drawn
    for axis in figure.axes:
        assert len(axis.lines) == 2
        points = [line.get_marker() == "o" for line in axis.lines]
        assert points == [epochs == 1] * 2
    plt.close(figure)
