"""The experiment from the command line: results, wrong calls, Ctrl-C and resuming."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import orbax.checkpoint as ocp
import pytest

from experiments import config as configs
from experiments import data, loop, report, run
from rdljax import checkpoints, objectives

ROOT = pathlib.Path(__file__).parents[1]

# 200 images: three steps an epoch.
TINY = ["--train_per_class=20", "--epochs=2", "--teacher_epochs=2", "--batch=64"]


def call(*arguments):
    return run.main(["mnist_rdl", *TINY, *arguments])


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a run of every kind of method, and what it printed."""
    folder = tmp_path_factory.mktemp("results") / "all"
    methods = ["--methods", "plain", "rdl", "kd", "kd+rdl", "hint"]
    assert call(f"--out={folder}", "--seeds=2", *methods) == 0
    return folder


class TestResults:
    def test_result_json_has_what_was_promised(self, finished):
        result = json.loads((finished / "result.json").read_text())
        assert (
            result["config"]["name"] == "mnist_rdl" and result["config"]["seeds"] == 2
        )
        assert {"jax", "flax", "python", "rdljax"} <= set(result["versions"])
        assert set(result["methods"]) == {"plain", "rdl", "kd", "kd+rdl", "hint"}
        assert len(result["mcnemar"]) == 4 * 2
        for method in result["methods"].values():
            assert len(method["test_error"]["values"]) == 2

    def test_numbers_follow_from_the_predictions(self, finished):
        result = json.loads((finished / "result.json").read_text())
        truth = data.load("digits").test.label
        for seed in range(2):
            own, plain = (
                json.loads((finished / f"{m}-seed{seed}" / "result.json").read_text())
                for m in ("rdl", "plain")
            )
            right = np.array(own["predicted"]) == truth
            np.testing.assert_array_equal(own["correct"], right)
            error = 100 * np.mean(~right)
            assert own["test_error"] == pytest.approx(error)
            assert result["methods"]["rdl"]["test_error"]["values"][
                seed
            ] == pytest.approx(error)
            plain_right = np.array(plain["predicted"]) == truth
            (test,) = (
                t
                for t in result["mcnemar"]
                if (t["method"], t["seed"]) == ("rdl", seed)
            )
            assert test["only_first"] == np.sum(right & ~plain_right)
            assert test["only_second"] == np.sum(~right & plain_right)
            assert test["p_value"] <= test["holm"] <= 1

    def test_agreement_is_that_of_the_saved_rdms(self, finished):
        own, teacher = (
            np.load(finished / name / "rdms.npz") for name in ("kd-seed1", "teacher")
        )
        result = json.loads((finished / "result.json").read_text())
        for layer, spread in result["methods"]["kd"]["agreement_by_layer"].items():
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

    def test_students_of_a_seed_start_alike(self, finished):
        # The same first batch and the same weights: the first loss of the task differs
        # by training alone, so after one epoch the students are near but not equal.
        losses = [
            json.loads((finished / f"{m}-seed0" / "result.json").read_text())["history"]
            for m in ("plain", "rdl")
        ]
        assert losses[0][0]["task"] != losses[1][0]["task"]
        assert abs(losses[0][0]["task"] - losses[1][0]["task"]) < 0.5

    def test_pictures_are_pictures(self, finished):
        from matplotlib import image

        for name in ("rdms.png", "learning_curves.png"):
            pixels = image.imread(finished / name)
            assert min(pixels.shape[:2]) > 400 and pixels.std() > 0.05

    def test_table(self, finished):
        table = (finished / "table.md").read_text()
        for method in ("plain", "rdl", "kd", "kd+rdl", "hint"):
            assert re.search(rf"^\| {re.escape(method)} +\| ", table, re.MULTILINE)
        assert "for validation" in table and "1,000 for test" in table

    def test_a_finished_run_is_shown_again(self, finished, capsys):
        before = json.loads((finished / "result.json").read_text())
        began = time.monotonic()
        methods = ["--methods", "plain", "rdl", "kd", "kd+rdl", "hint"]
        assert call(f"--out={finished}", "--seeds=2", *methods, "--resume") == 0
        again = json.loads((finished / "result.json").read_text())
        assert again["methods"] == before["methods"]
        assert before["methods"]["rdl"]["test_error"]["values"]
        assert "| rdl" in capsys.readouterr().out
        assert time.monotonic() - began < 60

    def test_the_trained_student_is_kept(self, finished):
        assert checkpoints.latest(finished / "rdl-seed0" / "checkpoint") == 6

    def test_a_nan_is_null_in_json(self, tmp_path):
        # One seed has no spread; strict readers know no NaN.
        text = json.dumps(report._spread([1.0]))
        assert json.loads(text, parse_constant=pytest.fail)["std"] is None


class Countdown:
    """An interrupt that comes when it has been looked at so many times."""

    def __init__(self, looks):
        self.looks = looks

    @property
    def requested(self):
        self.looks -= 1
        return self.looks < 0


def stored(folder):
    """The bytes of every array of the newest checkpoint, read by orbax alone."""
    newest = folder / "checkpoint" / str(checkpoints.latest(folder / "checkpoint"))
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore((newest / "state").absolute())
    return {path: np.asarray(array).tobytes() for path, array in state.items()}


class TestInterrupt:
    SETTINGS = {
        "train_per_class": 20,
        "epochs": 2,
        "teacher_epochs": 2,
        "methods": ("rdl",),
        "seeds": 1,
        "pairs": 30,
    }

    def go(self, folder, looks, resume=False):
        config = configs.load(
            "mnist_rdl", **self.SETTINGS, out=str(folder), resume=resume
        )
        return run.run("mnist_rdl", config, Countdown(looks))

    def test_resumed_ends_with_the_same_bytes_as_unbroken(self, tmp_path):
        unbroken = self.go(tmp_path / "unbroken", looks=10**6)
        # In the middle of the teacher's first epoch; between the student's two epochs;
        # in the middle of the student's second.
        for looks, resume, stopped in (
            (2, False, "teacher"),
            (4 + 3, True, "rdl-seed0"),
            (1, True, "rdl-seed0"),
        ):
            with pytest.raises(loop.Interrupted, match=stopped):
                self.go(tmp_path / "broken", looks, resume)
        resumed = self.go(tmp_path / "broken", 10**6, resume=True)
        for name in ("teacher", "rdl-seed0"):
            states = [stored(tmp_path / side / name) for side in ("unbroken", "broken")]
            assert states[0] == states[1] and len(states[0]) > 10
            records = [
                json.loads((tmp_path / side / name / "result.json").read_text())
                for side in ("unbroken", "broken")
            ]
            for key in ("history", "predicted", "test_error"):
                assert records[0][key] == records[1][key]
        for result in (unbroken, resumed):
            result["methods"]["rdl"].pop("seconds")
        assert unbroken["methods"] == resumed["methods"]

    def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(self, tmp_path):
        command = [sys.executable, "-m", "experiments.run", "mnist_rdl"]
        arguments = [f"--out={tmp_path / 'run'}", "--train_per_class=20", "--seeds=1"]
        process = subprocess.Popen(
            [*command, *arguments, "--teacher_epochs=100000"],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        events = tmp_path / "run" / "teacher"
        deadline = time.monotonic() + 120
        while not list(events.glob("events.*")) and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 130
        assert "Traceback" not in said
        assert "stopped in teacher" in said and "--resume" in said
        assert checkpoints.latest(events / "checkpoint") is not None


WRONG = {
    "config": (["mnist_rld"], "config 'mnist_rld'; did you mean 'mnist_rdl'"),
    "key": (["mnist_rdl", "--sedes=3"], "setting 'sedes'; did you mean 'seeds'"),
    "net": (["mnist_rdl", "--student=mnist_cn"], "did you mean 'mnist_cnn'"),
    "data": (["mnist_rdl", "--data=fashon_mnist"], "did you mean 'fashion_mnist'"),
    "layer": (
        ["mnist_rdl", "--layers", "stage1", "stagee2"],
        "layer of mnist_cnn_small 'stagee2'; did you mean 'stage2'",
    ),
    "teacher's layer": (
        ["mnist_rdl", "--layers", "stage1:stage7"],
        "layer of mnist_cnn 'stage7'; did you mean 'stage",
    ),
    "distance": (["mnist_rdl", "--distance=cosine"], "did you mean 'Cosine'"),
    "comparison": (["mnist_rdl", "--comparison=Person"], "did you mean 'Pearson'"),
    "method": (["mnist_rdl", "--methods", "plain", "kd+rld"], "did you mean 'rdl'"),
    "batch": (["mnist_rdl", "--batch=60"], "batch of 60 is impossible"),
    "too large": (["mnist_rdl", "--batch=8000"], "with 3500 training images"),
    "weights": (["mnist_rdl", "--layer_weights", "1", "2"], "a weight for each layer"),
    "twice": (["mnist_rdl", "--methods", "kd", "kd"], "each once"),
    "none": (["mnist_rdl", "--layers"], "one or more"),
    "seeds": (["mnist_rdl", "--seeds=0"], "seeds must be 1 or more"),
    "few": (["mnist_rdl", "--train_per_class=999"], "999"),
    "missing": (
        ["mnist_rdl", "--data=mnist", "--data_dir=nowhere"],
        "python -m experiments.prepare mnist --data_dir nowhere",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_call_is_answered_in_words(kind, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, message = WRONG[kind]
    assert run.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said
    assert not list(tmp_path.iterdir())


def test_a_value_of_the_wrong_type(capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(["mnist_rdl", "--seeds=many"])
    assert stopped.value.code == 2 and "seeds" in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0)])
def test_without_a_config_the_configs_are_listed(arguments, code, capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(arguments)
    assert stopped.value.code == code and "mnist_rdl" in capsys.readouterr().out


def test_help_shows_the_lab_note_and_every_setting(capsys):
    with pytest.raises(SystemExit) as stopped:
        run.main(["mnist_rdl", "--help"])
    said = capsys.readouterr().out
    assert stopped.value.code == 0 and "McClure" in said and "--rdl-weight" in said


class TestFolder:
    def claim(self, folder, **changes):
        config = configs.load("mnist_rdl", out=str(folder), **changes)
        return run.claim("mnist_rdl", config)

    def test_a_free_folder_is_taken(self, tmp_path):
        folder = self.claim(tmp_path / "a" / "b")
        assert json.loads((folder / "config.json").read_text())["name"] == "mnist_rdl"

    def test_the_same_settings_are_resumed_when_asked(self, tmp_path):
        self.claim(tmp_path / "a")
        (tmp_path / "a" / "kept").touch()
        with pytest.raises(configs.UsageError, match="--resume"):
            self.claim(tmp_path / "a")
        self.claim(tmp_path / "a", resume=True)
        assert (tmp_path / "a" / "kept").exists()

    def test_other_settings_are_neither_resumed_nor_overwritten(self, tmp_path):
        self.claim(tmp_path / "a")
        for changes in ({}, {"resume": True}):
            with pytest.raises(configs.UsageError, match="seeds 3 there and 7 here"):
                self.claim(tmp_path / "a", seeds=7, **changes)

    def test_overwrite_deletes_a_run_and_nothing_else(self, tmp_path):
        self.claim(tmp_path / "a")
        (tmp_path / "a" / "old").touch()
        self.claim(tmp_path / "a", seeds=7, overwrite=True)
        assert not (tmp_path / "a" / "old").exists()
        (tmp_path / "b").mkdir()
        (tmp_path / "b" / "thesis.tex").touch()
        with pytest.raises(configs.UsageError, match="not a run"):
            self.claim(tmp_path / "b", overwrite=True)
        assert (tmp_path / "b" / "thesis.tex").exists()


class TestConfig:
    def test_every_config_passes_its_own_check(self):
        for name in configs.names():
            configs.check(configs.load(name))

    def test_every_config_names_its_paper_and_command(self):
        for name in configs.names():
            note = (configs.CONFIGS / f"{name}.py").read_text()
            assert f"python -m experiments.run {name}" in note and "Paper:" in note

    def test_the_defaults_are_those_of_the_objective(self):
        config = configs.Config()
        defaults = (
            objectives.rdl.__kwdefaults__ or objectives.rdl.__wrapped__.__kwdefaults__
        )
        assert configs.DISTANCES[config.distance] == defaults["distance"]
        assert configs.COMPARISONS[config.comparison] == defaults["comparison"]

    def test_rdl_weighs_each_layer_and_decays(self):
        config = configs.Config(
            rdl_weight=2.0,
            layers=("stage1", "pooled"),
            layer_weights=(1.0, 0.5),
            rdl_decay=True,
        )
        loss = configs.weighted_terms(config, "rdl", steps=100)
        assert set(loss) == {"task", "rdl/stage1", "rdl/pooled"}
        weight, _ = loss["rdl/pooled"]
        np.testing.assert_allclose(
            [weight(0), weight(50), weight(100)], [1.0, 0.5, 0.0]
        )


def test_a_hundred_classes_of_colour_images(tmp_path, monkeypatch):
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
    settings = ["--data=cifar100", "--methods", "plain", "rdl", "--seeds=1"]
    assert run.main(["mnist_rdl", *TINY[1:], *settings, f"--out={folder}"]) == 0
    with np.load(folder / "rdl-seed0" / "rdms.npz") as rdms:
        assert rdms["stage1"].shape == (200 * 199 // 2,)
    result = json.loads((folder / "result.json").read_text())
    assert result["methods"]["rdl"]["test_error"]["mean"] > 80


def test_real_colour_images_cropped_and_flipped(tfds_dir, tmp_path):
    folder = tmp_path / "cifar10"
    where = ["--data=cifar10", f"--data_dir={tfds_dir}", f"--out={folder}"]
    methods = ["--methods", "plain", "rdl", "--seeds=1"]
    assert call(*where, *methods, "--train_per_class=16") == 0
    result = json.loads((folder / "result.json").read_text())
    assert 0 < result["methods"]["rdl"]["test_error"]["mean"] < 100
    record = json.loads((folder / "rdl-seed0" / "result.json").read_text())
    assert len(record["predicted"]) == 932
