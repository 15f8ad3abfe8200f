"""Tables of experiments: the published settings, and the command that makes them."""

import csv
import json
import pathlib
import shutil
import sys
import types

import jax
import numpy as np
import pytest
from scipy import stats

from experiments import command, data, locks, methods, table, tables
from experiments import config as configs
from experiments.results import columns
from experiments.results import folder as results_folder
from experiments.results import table as result_table
from experiments.training import (
    checks,
    estimate,
    interrupts,
    loop,
    optimizers,
    rehearsal,
    table_runs,
    teaching,
)
from rdljax import statistics
from tests import quick


def made(name):
    return tables.load(name)


class TestTables:
    @pytest.mark.parametrize("name", tables.names())
    def test_it_says_whose_it_is_and_how_it_is_run(self, name):
        note = tables.module(name).__doc__
        assert f"python -m experiments.table {name}" in note
        assert "Paper" in note, "its docstring names a paper (or `Paper: none`)"

    @pytest.mark.parametrize("name", tables.names())
    def test_its_columns_can_be_run(self, name):
        found = made(name)
        earlier = []
        for column, of in found.columns.items():
            checks.check(of.config)
            assert of.teacher_of is None or of.teacher_of in earlier
            assert {*of.published} <= {"teacher", *of.config.method.names}
            if of.teacher_of is not None:
                source = found.columns[of.teacher_of].config
                assert source.nets.teacher == of.config.nets.teacher
                assert (source.nets.ensemble, of.config.nets.ensemble) == (1, 1)
            earlier.append(column)

    def test_every_paper_has_its_tables(self):
        # (One config streams: NST on ImageNet.)
        families = {name.partition("_")[0] for name in tables.names()}
        assert {"rdl", "nst", "crd", "vid"} <= families
        assert "imagenet_nst" in configs.names()

    def test_crds_pairs_and_rows(self):
        columns = made("crd_cifar100").columns
        assert len(columns) == 13
        rows = {m for of in columns.values() for m in of.config.method.names}
        assert len(rows) == 15  # And the teacher.
        # From the table in the README of the released code.
        spots = {
            ("r32x4 to r8x4", "teacher"): 79.42,
            ("r32x4 to r8x4", "plain"): 72.50,
            ("r32x4 to r8x4", "crd"): 75.51,
            ("vgg13 to vgg8", "kd"): 72.98,
            ("r56 to r20", "hint"): 69.21,
            ("wrn40-2 to wrn40-1", "nst"): 72.24,
            ("vgg13 to mobile", "nst"): 58.16,
            ("r50 to mobile", "at"): 58.58,
            ("r50 to vgg8", "sp"): 73.34,
            ("r32x4 to shuffle1", "pkt"): 74.10,
            ("r32x4 to shuffle2", "ab"): 74.31,
            ("wrn40-2 to shuffle1", "crd+kd"): 76.27,
            ("r110 to r32", "fsp"): 71.89,
        }
        for (column, method), accuracy in spots.items():
            assert columns[column].published[method] == accuracy
        # Sums of the rows of that table.
        sums = {
            **{"teacher": 994.01, "plain": 909.74, "kd": 941.06, "hint": 918.45},
            **{"at": 912.4, "sp": 934.56, "cc": 914.39, "vid": 928.7},
            **{"rkd": 917.78, "pkt": 937.05, "ab": 924.08, "ft": 910.05},
            **{"fsp": 427.71, "nst": 919.93, "crd": 955.12, "crd+kd": 958.21},
        }
        for method, total in sums.items():
            found = sum(of.published.get(method, 0) for of in columns.values())
            assert found == pytest.approx(total, abs=1e-6)
        with_fsp = [name for name, of in columns.items() if "fsp" in of.published]
        assert len(with_fsp) == 6 and "wrn40-2 to wrn40-1" not in with_fsp
        config = columns["vgg13 to mobile"].config
        assert (
            config.optimizer.learning_rate,
            config.optimizer.teacher_learning_rate,
        ) == (0.01, 0.05)
        weights = [
            methods.weight(config, method, part)
            for method, part in (("kd", "task"), ("kd", "kd"), ("crd+kd", "kd"))
        ]
        assert weights == [0.1, 0.9, 1.0]

    def test_repdistillers_schedule(self):

        params = {"w": np.float32(0.0)}
        # Of a gradient of 1 without momentum the step is the rate.
        settings = tables.repdistiller(momentum=0.0, weight_decay=0.0).optimizer
        flat = optimizers.make_optimizer(settings, 240, 10)
        state, rates, update = flat.init(params), [], jax.jit(flat.update)
        for _ in range(2400):
            taken, state = update({"w": np.float32(1.0)}, state, params)
            rates.append(-float(taken["w"]))
        epochs = np.array(rates).reshape(240, 10)[:, -1]
        want = np.repeat([0.05, 0.005, 0.0005, 0.00005], [150, 30, 30, 30])
        np.testing.assert_allclose(epochs, want, rtol=1e-4)

    @pytest.mark.slow
    @pytest.mark.timeout(3000)
    @pytest.mark.parametrize(
        "name",
        [n for n in tables.names() if n.startswith(("rdl_c", "nst", "crd", "vid"))],
    )
    def test_each_method_of_each_column_can_be_traced(self, name):
        # CIFAR's shapes: noise, so the plumbing alone is tested.
        rng = np.random.default_rng(0)
        for of in made(name).columns.values():
            classes = {"cifar10": 10, "cifar100": 100}[of.config.data.name]
            label = np.repeat(np.arange(classes, dtype=np.int32), 200 // classes)
            image = rng.integers(0, 256, (len(label), 32, 32, 3)).astype(np.uint8)
            split = data.Split(image, label)
            about = ("noise", *[(1.0,) * 3] * 2)
            noise = data.Dataset(of.config.data.name, classes, *[split] * 3, *about)
            rehearsal.rehearse(of.config, noise)


# ---- the command, on digits and MLPs

SETTINGS = {
    "train_per_class": 20,
    "epochs": 2,
    "teacher_epochs": 2,
    "teacher": "mlp",
    "student": "mlp",
    "layers": ("pooled", "logits"),
    "seeds": 2,
    "methods": ("plain", "kd"),
}


def tiny():
    first = configs.make(**SETTINGS)
    second = configs.make(**(SETTINGS | {"methods": ("plain", "rdl"), "epochs": 1}))
    elsewhere = configs.make(**(SETTINGS | {"data": "mnist"}))
    return tables.Table(
        {
            "first": tables.Column(first, {"teacher": 91.0, "kd": 80.25}),
            "second": tables.Column(second, {}, "first"),
            "elsewhere": tables.Column(elsewhere),
        },
        ("digits are fewer",),
    )


@pytest.fixture(scope="module", autouse=True)
def registered():
    module = types.ModuleType("experiments.tables.tiny", "A tiny table.\n\nPaper: -")
    module.get_table = tiny
    known = tables.names
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "experiments.tables.tiny", module)
        patch.setattr(tables, "names", lambda: [*known(), "tiny"])
        yield


picture = result_table.picture


@pytest.fixture(scope="module", autouse=True)
def undrawn():
    """Runs are not rehearsed and draw nothing, and nor does the table."""
    with quick.runs() as patch:
        patch.setattr(result_table, "picture", lambda *_: None)
        yield


def call(folder, *arguments):
    return table.main(["tiny", f"--out={folder}", *arguments])


@pytest.fixture(scope="module")
def finished(undrawn, tmp_path_factory):
    """A folder with the two columns whose data are there, and the table's picture."""
    folder = tmp_path_factory.mktemp("tables") / "tiny"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(result_table, "picture", picture)
        assert call(folder, "--only=first,second") == 0
    return folder


def result(folder, column, method, seed):
    file = folder / column / f"{method}-seed{seed}" / "result.json"
    return json.loads(file.read_text())


class TestCommand:
    def test_the_numbers_are_those_of_the_runs(self, finished):
        truth = data.load("digits").test.label
        found = json.loads((finished / "table.json").read_text())
        assert [c["name"] for c in found["columns"]] == ["first", "second"]
        assert found["rows"] == ["plain", "kd", "rdl"] and found["missing"] == {}
        with (finished / "table.csv").open() as file:
            rows = {
                (r["column"], r["method"], r["seed"]): r for r in csv.DictReader(file)
            }
        assert len(rows) == 8
        for (column, method, seed), row in rows.items():
            own = result(finished, column, method, seed)
            right = np.array(own["predicted"]) == truth
            assert float(row["test_accuracy"]) == pytest.approx(100 * right.mean())
            last = own["history"][-1]["validation_error"]
            assert float(row["validation_accuracy_last"]) == pytest.approx(100 - last)
            best = min(e["validation_error"] for e in own["history"])
            assert float(row["validation_accuracy_best"]) == pytest.approx(100 - best)
            if method != "plain":
                plain = result(finished, column, "plain", seed)
                test = statistics.mcnemar(truth, own["predicted"], plain["predicted"])
                assert float(row["p"]) == pytest.approx(test.p_value)
                assert float(row["p_holm"]) >= float(row["p"])
                assert int(row["only_right"]) == test.only_first

    def test_the_table_has_ours_beside_the_published(self, finished):
        text = (finished / "table.md").read_text()
        errors = [result(finished, "first", "kd", s)["test_error"] for s in range(2)]
        mean, deviation = 100 - np.mean(errors), np.std(errors, ddof=1)
        assert f"{mean:.2f} ± {deviation:.2f} (80.25)" in text
        assert "(91.00)" in text and "- digits are fewer" in text
        plain = [result(finished, "first", "plain", s)["test_error"] for s in range(2)]
        each = np.array(plain) - errors
        half = stats.t.ppf(0.975, 1) * stats.sem(each)
        ends = each.mean() - half, each.mean() + half
        words = "{:+.2f} [{:+.2f}, {:+.2f}]".format(each.mean(), *ends)
        if each[0] == each[1]:  # (As may happen on another machine.)
            words = f"{each.mean():+.2f}"
        assert words in text
        assert (finished / "table.png").stat().st_size > 5000

    def test_a_teacher_is_trained_once(self, finished):
        found = json.loads((finished / "second" / "config.json").read_text())
        assert found["teacher_from"].endswith("first/teacher/weights")
        assert not (finished / "second" / "teacher" / "checkpoint").exists()

    def test_what_is_done_is_not_run_again(self, finished, monkeypatch):
        before = (finished / "table.md").read_text()

        def fit(*_):
            raise AssertionError("trains")

        monkeypatch.setattr(loop, "fit", fit)
        assert call(finished, "--only=first,second") == 0
        assert (finished / "table.md").read_text() == before

    def test_the_plan_says_what_is_done_and_what_is_left(self, finished, capsys):
        assert call(finished, "--plan", "--only=first,second") == 0
        plan = capsys.readouterr().out
        assert "| 5 of 5" in plan and "| 4 of 4" in plan and "0 min 0 s" in plan
        # (A seed more, and a column that has none.)
        assert call(finished, "--plan", "--only=first", "--seeds=3") == 0
        plan = capsys.readouterr().out
        assert "5 of 7" in plan and "seeds of 2 methods" in plan
        assert call(finished.parent / "none", "--plan", "--only=second") == 0
        plan = capsys.readouterr().out
        assert "0 of 4" in plan and "a few steps" in plan and "s to compile)" in plan
        assert not (finished.parent / "none").exists()

    def test_the_plan_of_data_that_are_missing_is_not_known(self, finished, capsys):
        assert call(finished.parent / "none", "--plan", "--only=elsewhere") == 1
        plan = capsys.readouterr().out
        assert "experiments.prepare mnist" in plan and "0 min 0 s" not in plan
        assert "| not known |" in plan and "Left in all: not known." in plan
        assert call(finished, "--plan", "--only=first,elsewhere") == 1
        plan = capsys.readouterr().out
        assert "0 min 0 s, without elsewhere (not known)." in plan

    def test_the_plan_counts_steps_and_compiles_each_phase_once(self, monkeypatch):
        step, answer = estimate.Cost(0.5, 30.0), estimate.Cost(0.25, 7.0)
        measured = {
            "student": step,
            "teacher": estimate.Cost(2.0, 11.0),
            "teaching": answer,
        }
        monkeypatch.setattr(estimate, "_measure", lambda *_: measured)
        config = configs.make(**SETTINGS, start_epochs=3, batch=40, crop=2)
        config = configs.change(config, methods=("plain", "kd", "ft"), seeds=3)
        # (200 images; two seeds of plain are left, and all of the others.)
        left = [("teacher", 0), ("plain", 1), ("plain", 2)]
        left += [(method, i) for method in ("kd", "ft") for i in range(3)]
        cost, how = estimate._estimate(config, pathlib.Path("none"), left)
        steps = 2 * 5 * 2.0 + 2 * 2 * 5 * 0.5 + 3 * 2 * 5 * 0.75 + 3 * 5 * 5 * 0.75
        assert cost == (pytest.approx(steps), 11 + 30 + 37 + 2 * 37)
        assert how == "a few steps"

    def test_data_that_are_missing_leave_the_others(self, finished, tmp_path, capsys):
        folder = shutil.copytree(finished, tmp_path / "tiny")
        teacher = {"teacher_from": str(folder / "first" / "teacher" / "weights")}
        config = json.loads((folder / "second" / "config.json").read_text())
        (folder / "second" / "config.json").write_text(json.dumps(config | teacher))
        result = json.loads((folder / "second" / "result.json").read_text())
        result["config"] |= teacher
        (folder / "second" / "result.json").write_text(json.dumps(result))
        assert call(folder) == 2
        said = capsys.readouterr()
        assert "not run: elsewhere" in said.err
        assert "experiments.prepare mnist" in said.err
        found = json.loads((folder / "table.json").read_text())
        assert [*found["missing"]] == ["elsewhere"] and len(found["columns"]) == 2

    def test_a_column_alone_leaves_the_others_in_the_table(self, finished):
        before = json.loads((finished / "table.json").read_text())
        assert call(finished, "--only=second") == 0
        after = json.loads((finished / "table.json").read_text())
        assert [c["name"] for c in after["columns"]] == ["first", "second"]
        assert after == before

    def test_a_finished_column_that_fails_stays_in_the_table(
        self, finished, tmp_path, capsys, monkeypatch
    ):
        folder = shutil.copytree(finished, tmp_path / "tiny")
        before = json.loads((folder / "table.json").read_text())

        def failing(self, *_):
            raise loop.Diverged("it diverged")

        monkeypatch.setattr(teaching, "train_all", failing)
        for change, reason in (
            (["--learning_rate=0.7"], "learning_rate 0.1 there and 0.7 here"),
            (["--batch=10000"], "a batch of 10000 is impossible"),
            (["--seeds=3"], "it diverged"),
        ):
            assert call(folder, "--only=first", *change) == 2
            said = capsys.readouterr()
            assert "not run: first" in said.err and reason in said.err
            found = json.loads((folder / "table.json").read_text())
            assert found["columns"] == before["columns"]
            words = found["missing"]["first"]
            assert reason in words and words.endswith("are those of an earlier run")
            assert f"Not run: first ({words})" in (folder / "table.md").read_text()
        # One that was never finished is none; and what is damaged or another's.
        (folder / "first" / "result.json").unlink()
        other = (folder / "second" / "result.json").read_text()
        for left in (None, "{", other):
            if left is not None:
                (folder / "first" / "result.json").write_text(left)
            assert call(folder, "--only=first") == 2
            found = json.loads((folder / "table.json").read_text())
            assert [c["name"] for c in found["columns"]] == ["second"]

    def test_what_is_no_such_table_is_left_alone(self, tmp_path, capsys):
        for name, content, message in (
            (
                "table.md",
                "my table",
                "holds files that no table has written: table.md;",
            ),
            ("table.csv", "a,b", "holds files that no table has written: table.csv;"),
            ("table.json", '{"name": "others"}', "holds the table others: table.json;"),
            ("table.json", "[1]", "table.json is not a table"),
            ("table.json", '{"names": 1}', "table.json is not a table"),
        ):
            folder = tmp_path / "table"
            folder.mkdir()
            (folder / name).write_text(content)
            assert call(folder) == 2
            assert message in capsys.readouterr().err
            assert [(f.name, f.read_text()) for f in folder.iterdir()] == [
                (name, content)
            ]
            shutil.rmtree(folder)
        with locks.hold(folder):
            assert call(folder) == 2
        assert "in use by process" in capsys.readouterr().err
        assert not list(folder.iterdir())

    @pytest.mark.slow
    def test_a_net_that_diverges_leaves_the_others(self, finished, tmp_path, capsys):
        # Of the first column the students of KD; the second is trained.
        changes = ["--weights", "kd=1e14", "--clip=None", "--learning_rate=1e9"]
        changes += ["--teacher_learning_rate=0.1", "--weight_decay=0", "--seeds=1"]
        changes += ["--teacher_epochs=1"]
        folder = tmp_path / "tiny"
        assert call(folder, "--only=first", *changes) == 2
        assert "kd-seed0" in capsys.readouterr().err
        assert not (folder / "first" / "kd-seed0" / "result.json").exists()

    def test_other_settings_are_told_in_the_plan(self, finished, capsys):
        assert call(finished, "--plan", "--only=first", "--epochs=9") == 1
        plan = capsys.readouterr().out
        assert "its folder has a run with other settings: epochs" in plan
        assert "Left in all: not known" in plan and "0 min 0 s" not in plan

    def test_weights_are_added_to_a_columns_own(self):
        call, _ = table.parse(["crd_cifar100", "--weights", "at=500", "kd/kd=0.8"])
        config = next(iter(call.table.columns.values())).config
        assert config.method.weights == ("kd/task=0.1", "at=500", "kd/kd=0.8")

    @pytest.mark.parametrize(
        ("part", "looks", "runs"),
        [
            # In the student's second epoch.
            (["--only=first", "--methods=kd", "--seeds=1"], 10, 1),
            pytest.param(["--only=first"], 9, 4, marks=pytest.mark.slow),
        ],
        ids=["one", "all"],
    )
    def test_interrupted_it_goes_on(
        self, part, looks, runs, finished, tmp_path, monkeypatch, capsys
    ):
        from tests import test_experiments as experiments

        with monkeypatch.context() as patch:
            patch.setattr(interrupts, "Interrupt", lambda: experiments.Request(looks))
            assert call(tmp_path / "run", *part) == 130
        again = capsys.readouterr().err.strip().splitlines()[-1]
        assert "experiments.table tiny" in again and "--only=first" in again
        assert call(tmp_path / "run", *part) == 0
        students = list((tmp_path / "run" / "first").glob("*-seed*/result.json"))
        assert len(students) == runs
        for student in students:
            name = student.parent.name.split("-seed")
            expected = result(finished, "first", *name)["predicted"]
            assert json.loads(student.read_text())["predicted"] == expected

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["tinny"], "did you mean 'tiny'"),
            (["tiny", "--seedss=1"], "--seeds"),
            (["tiny", "--only=frist"], "did you mean 'first'"),
            (["tiny", "--overwrite"], "overwrite"),
            (["tiny", "--out="], "out must be a path"),
            (["vid_mlp", "--student=mlp"], "the columns 'mlp_1024' and"),
        ],
    )
    def test_a_wrong_call(self, arguments, message, capsys):
        assert table.main(arguments) == 2
        assert message in capsys.readouterr().err

    def test_a_field_changes_every_column(self):
        found, _ = table.parse(["tiny", "--seeds=5", "--clip=None", "--no-nesterov"])
        for of in found.table.columns.values():
            config = of.config
            assert (
                config.training.seeds,
                config.optimizer.clip,
                config.optimizer.nesterov,
            ) == (5, None, False)
        assert found.table.columns["second"].config.training.epochs == 1
        assert found.table.columns["second"].config.method.names == ("plain", "rdl")


def gathered(name, *runs):
    """What a table tells of runs: each a column and what it has changed."""
    summaries, kept = {}, table_runs.Call(name, made(name), pathlib.Path("out"), False)
    for column, changed in runs:
        config = kept.table.columns[column].config
        summaries[column] = {
            **{"config": configs.flat(config) | changed, "methods": {}},
            **{"data": "noise.", "device": "a device", "seconds": 1.0, "mcnemar": []},
            **{"teacher": {"test_error": 50.0}, "baseline": "plain", "versions": {}},
        }
    return result_table.gather(kept.name, kept.table, summaries, {})


class TestChanged:
    """What was changed of a column is told, and nothing published stands beside it."""

    def test_of_the_table_itself(self):
        shared = {"teacher_from": "elsewhere/5000/teacher/weights"}
        found = gathered("vid_cifar10", ("5000", {"data_dir": "a"}), ("1000", shared))
        assert [c["name"] for c in found["columns"]] == ["5000", "1000"]
        assert found["columns"][1]["published"]["vid"] == 89.73
        assert tuple(found["differences"]) == made("vid_cifar10").differences
        # (A folder says which net its weights are of.)
        found = gathered("mlp", ("subset_cifar10", {"teacher": "cifar_cnn"}))
        assert found["columns"][0]["name"] == "subset_cifar10"
        assert tuple(found["differences"]) == made("mlp").differences

    def test_other_data_and_nets(self):
        changed = {"data": "cifar10", "student": "resnet8", "train_per_class": 30}
        found = gathered("crd_cifar100", ("r110 to r32", changed | {"epochs": 7}))
        (column,) = found["columns"]
        assert column["folder"] == "r110 to r32" and column["published"] == {}
        name = "r110 to r32, but data=cifar10, train_per_class=30, student=resnet8"
        assert set(column["name"].split(", ")) == set(name.split(", "))
        text = result_table.text(found)
        assert text.startswith("# 15 methods on cifar10, after the table crd_cifar100")
        for published in ("CIFAR-100", "45,000", "74.31", "71.14", "in brackets"):
            assert published not in text
        for sentence in ("data=cifar10, where the table has cifar100", "epochs=7, "):
            assert f"- {sentence}" in text

    def test_a_column_beside_one_that_is_changed(self):
        shared = {"teacher_from": "b/5000/teacher/weights"}
        runs = ("5000", {"train_per_class": 9}), ("500", shared), ("100", {"clip": 2.0})
        found = gathered("vid_cifar10", *runs)
        assert [c["name"] for c in found["columns"]] == [
            "5000, but train_per_class=9",
            "500, but 5000's train_per_class=9",
            "100, but 5000's train_per_class=9",
        ]
        assert not any(c["published"] for c in found["columns"])
        own = {"teacher_from": "elsewhere/weights"}
        found = gathered("vid_cifar10", ("5000", {"momentum": 0.5}), ("500", own))
        assert found["columns"][0]["published"] and not found["columns"][1]["published"]
        assert found["note"] == tables.module("vid_cifar10").__doc__
        extra = found["differences"][len(made("vid_cifar10").differences) :]
        assert extra == [
            "5000: momentum=0.5, where the table has 0.9",
            "500: teacher_from=elsewhere/weights, where the table has None",
        ]

    def test_every_setting(self):
        free = {*results_folder.RUNTIME_FLAGS, "data_dir"}
        fields = configs.FIELDS.keys() - free
        for field in fields:
            found = gathered("vid_cifar100", ("wrn_40_1", {field: "other"}))
            assert f"{field}=other, where the table has" in found["differences"][-1]
            (column,) = found["columns"]
            assert bool(column["published"]) is (field not in columns.EXPERIMENT)
            assert (column["name"] == "wrn_40_1") is bool(column["published"])

    @pytest.mark.parametrize(
        ("name", "chosen", "changed", "apart"),
        [
            ("vid_cifar10", ("500", "100"), {"train_per_class": 30}, "train_per_class"),
            ("vid_cifar10", ("500",), {"train_per_class": 30}, None),
            ("vid_cifar10", ("500", "100"), {"epochs": 30}, None),
            ("crd_ensemble", None, {"ensemble": 4}, "ensemble"),
            ("crd_ablations", None, {"crd_negatives": 8}, "crd_negatives"),
            ("crd_cifar100", None, {"student": "resnet8"}, "student"),
            ("crd_cifar100", ("r50 to vgg8", "r56 to r20"), {"student": "vgg8"}, None),
            ("rdl_cifar", ("transfer", "cifar100"), {"data": "cifar10"}, "teacher's"),
            ("rdl_cifar", ("cifar10", "transfer"), {"data": "coloured"}, "data"),
        ],
    )
    def test_two_columns_are_not_made_one(self, name, chosen, changed, apart):
        own = made(name)
        other = own._replace(
            columns={
                column: of._replace(config=configs.change(of.config, **changed))
                for column, of in own.columns.items()
            }
        )
        if apart is None:
            columns.check_apart(own, other, chosen)
            return
        with pytest.raises(command.UsageError, match=f"differ in {apart}"):
            columns.check_apart(own, other, chosen or [*own.columns])


class TestChangesOfSomeColumns:
    def test_a_column_that_cannot_have_them_is_left_out(self):
        words = "averaged over all pairs"
        call = table_runs.make_call("rdl_mnist", {"pairs": 50}, "out")
        assert list(call.refused) == ["ensemble of three"]
        assert words in call.refused["ensemble of three"]
        assert call.table.columns["one teacher"].config.rdl.pairs == 50
        with pytest.raises(command.UsageError, match=words):
            table_runs.column_settings(call, "ensemble of three")
        assert table_runs.column_settings(call, "one teacher").rdl.pairs == 50

    def test_one_that_is_not_asked_for_does_not_matter(self):
        chosen = ("one teacher",)
        call = table_runs.make_call("rdl_mnist", {"pairs": 50}, "out", chosen)
        assert not call.refused and call.chosen == [*chosen]

    def test_where_none_can_have_them(self):
        with pytest.raises(command.UsageError, match="epochs must be 1 or more"):
            table_runs.make_call("rdl_mnist", {"epochs": 0}, "out")


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """A TFDS set of 160 and 40 images of three classes, 32 x 32, in colour."""
    tfds = pytest.importorskip("tensorflow_datasets")
    from tests import test_data

    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    features = {
        "image": tfds.features.Image(shape=(32, 32, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    splits = {
        split: [
            {
                "image": test_data._png(rng.integers(0, 256, (32, 32, 3), np.uint8)),
                "label": i % 3,
            }
            for i in range(count)
        ]
        for split, count in (("train", 160), ("test", 40))
    }
    test_data._write(folder, "coloured", splits, features=features)
    return folder


@pytest.mark.parametrize(
    "plain",
    [(), pytest.param(("plain",), marks=pytest.mark.slow)],
    ids=["alone", "with-plain"],
)
@pytest.mark.parametrize(
    ("name", "columns", "method"),
    [
        ("crd_cross_modal", ("cifar100",), "crd"),
        *(
            pytest.param(*of, marks=pytest.mark.slow)
            for of in (
                ("rdl_cifar", ("cifar10", "transfer"), "rdl"),
                ("vid_mlp", ("mlp_1024",), "vid"),
                ("nst_cifar", ("cifar100",), "nst_gaussian"),
                ("crd_ensemble", ("2 teachers",), "crd"),
                ("crd_ablations", ("default", "16 drawn"), "crd"),
                ("vid_cifar10", ("5000", "1000"), "vid"),
            )
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else ",".join(value),
)
def test_each_paper_in_seconds(name, columns, method, plain, coloured, tmp_path):
    # (MLPs compile quickly; NST has maps, and a vector beside maps is a paper's.)
    student = "mnist_cnn_small" if name == "nst_cifar" else "mlp"
    teacher = "mnist_cnn_small" if name in ("nst_cifar", "vid_mlp") else "mlp"
    call = [f"--data_dir={coloured}", "--data=coloured", f"--student={student}"]
    call += [f"--teacher={teacher}", "--teacher_epochs=1", "--epochs=1"]
    call += ["--layers=pooled", "--maps=stage1", "--seeds=1", "--batch=64"]
    call += ["--train_per_class=30", f"--out={tmp_path / 'table'}"]
    for column in columns:
        own = [f"--only={column}", "--methods", *plain, method]
        assert table.main([name, *call, *own]) == 0
        own = result(tmp_path / "table", column, method, 0)
        assert len(own["predicted"]) == 40
        (epoch,) = own["history"]
        assert np.isfinite(epoch["loss"]) and epoch["loss"] != epoch["task"]
        for other in plain:
            alone = result(tmp_path / "table", column, other, 0)["history"][0]
            assert epoch["loss"] != alone["loss"] == pytest.approx(alone["task"])
    if len(columns) == 2:
        taught = [
            json.loads((tmp_path / "table" / column / "result.json").read_text())
            for column in columns
        ]
        assert taught[0]["teacher"]["test_error"] == taught[1]["teacher"]["test_error"]


def test_the_ablations_of_crd_differ_in_one_setting_each():
    columns = made("crd_ablations").columns
    for name, of in columns.items():
        if name == "default":
            continue
        drawn = "drawn" in name and name != "16384 drawn"
        first = columns["16384 drawn" if drawn else "default"]
        changed = {
            field
            for field in configs.FIELDS
            if configs.flat(of.config)[field] != configs.flat(first.config)[field]
        }
        assert len(changed - {"methods"}) == 1
