"""Correlations between logits, against NumPy's, and the picture of a run."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest

from experiments import correlations, data, run, weights
from experiments.analyses import logit_correlations
from rdljax import nets
from tests import quick

RUN = ["mnist_rdl", "--train_per_class=20", "--epochs=1", "--teacher_epochs=2"]
RUN += ["--teacher=mlp", "--student=mlp", "--layers", "pooled", "logits"]


@pytest.fixture(scope="module", autouse=True)
def brief():
    """Runs are not rehearsed and draw nothing, which takes half of their time."""
    with quick.runs():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a run on digits."""
    folder = tmp_path_factory.mktemp("results") / "run"
    settings = ["--methods", "plain", "kd", "--seeds=2", f"--out={folder}"]
    assert run.main([*RUN, *settings]) == 0
    return folder


def of_net(folder):
    """NumPy's correlations between the logits of a net for the test images."""
    dataset, trained = data.load("digits"), weights.load(folder)
    pixels = dataset.test.image / 255
    mean, std = trained.normalisation or (np.array(dataset.mean) / 255,) * 2
    images = ((pixels - np.array(mean)) / np.array(std)).astype(np.float32)
    net = nets.build(trained.name, 10)
    return np.corrcoef(net.apply(trained.variables, images)["logits"], rowvar=False)


def mean_of_pairs(differences):
    """The mean above the diagonal, entry by entry."""
    classes = len(differences)
    return np.mean([differences[i, j] for j in range(classes) for i in range(j)])


class TestCorrelations:
    @pytest.mark.parametrize(
        ("count", "classes"), [(7, 2), (500, 10), (300, 100)], ids=str
    )
    def test_are_those_of_numpy(self, count, classes):
        random = np.random.default_rng(0)
        mixed = random.normal(size=(classes, classes)) + np.eye(classes)
        logits = 5 + random.normal(size=(count, classes)) @ mixed
        np.testing.assert_allclose(
            logit_correlations.correlations(logits),
            np.corrcoef(logits, rowvar=False),
            atol=1e-12,
        )

    def test_a_dead_class_correlates_with_none(self):
        random = np.random.default_rng(0)
        logits = random.normal(size=(50, 4))
        logits[:, 1] = 0.1
        logits[:, 3] = np.float32(7) * (1 + 1e-7 * random.normal(size=50))
        found = logit_correlations.correlations(logits)
        expected = np.zeros((4, 4))
        expected[::2, ::2] = np.corrcoef(logits[:, ::2], rowvar=False)
        np.testing.assert_allclose(found, expected, atol=1e-12)

    def test_the_mean_is_over_pairs_of_two_classes(self):
        differences = np.array([[9, 1, 2], [1, 9, 6], [2, 6, 9]])
        assert logit_correlations.mean_difference(differences) == pytest.approx(3)


@pytest.fixture(scope="module")
def written(finished):
    """What the command has written into that folder."""
    assert correlations.main([str(finished)]) == 0
    return json.loads((finished / "correlations.json").read_text())


class TestCommand:
    def test_every_student_is_compared_with_its_teacher(self, finished, written):
        teacher = of_net(finished / "teacher" / "weights")
        for method, of in written["methods"].items():
            expected = [
                mean_of_pairs(
                    np.abs(teacher - of_net(finished / f"{method}-seed{i}" / "weights"))
                )
                for i in range(2)
            ]
            assert of["values"] == pytest.approx(expected, abs=1e-5)
            assert of["mean"] == pytest.approx(np.mean(expected), abs=1e-5)
            assert of["std"] == pytest.approx(np.std(expected, ddof=1), abs=1e-5)
            assert np.std(expected) > 1e-3 and np.min(expected) > 1e-2
        assert [*written["methods"]] == ["plain", "kd"]

    def test_the_table(self, finished, written):
        text = (finished / "correlations.md").read_text()
        for method, of in written["methods"].items():
            assert f"| {method}" in text
            assert f"{of['mean']:.4f} ± {of['std']:.4f}" in text
        assert "1,000 test images" in text

    def test_the_picture_is_of_the_seed(self, finished, written, tmp_path, monkeypatch):
        shown = {}

        def keep(path, differences, words):
            shown[words] = differences

        monkeypatch.setattr(logit_correlations, "picture", keep)
        for seed in (0, 1):
            call = [str(finished), f"--seed={seed}", f"--out={tmp_path}/{seed}.png"]
            assert correlations.main(call) == 0
            differences = shown[f"digits, seed {seed}"]
            for method, of in written["methods"].items():
                mean = mean_of_pairs(differences[method])
                assert mean == pytest.approx(of["values"][seed])
        for file in ("0.json", "1.json"):
            assert json.loads((tmp_path / file).read_text()) == written

    def test_a_second_time_it_writes_the_same(
        self, finished, written, tmp_path, capsys
    ):
        assert correlations.main([str(finished)]) == 2
        assert "correlations.png exists; --overwrite" in capsys.readouterr().err
        assert correlations.main([str(finished), f"--out={tmp_path / 'a.png'}"]) == 0
        for end in (".png", ".json", ".md"):
            again = (tmp_path / "a").with_suffix(end).read_bytes()
            assert again == (finished / f"correlations{end}").read_bytes()
        assert correlations.main([str(finished), "--overwrite"]) == 0

    def test_a_student_that_is_its_teacher(self, finished, tmp_path):
        folder = tmp_path / "run"
        shutil.copytree(finished, folder)
        for name in ("plain-seed0", "plain-seed1"):
            shutil.rmtree(folder / name / "weights")
            shutil.copytree(folder / "teacher" / "weights", folder / name / "weights")
        assert correlations.main([str(folder), "--overwrite"]) == 0
        found = json.loads((folder / "correlations.json").read_text())
        assert found["methods"]["plain"]["values"] == [0, 0]
        assert found["methods"]["kd"]["mean"] > 0.01

    def test_a_teacher_from_elsewhere(self, finished, tmp_path, capsys):
        teacher, folder = tmp_path / "teacher", tmp_path / "run"
        shutil.copytree(finished / "teacher" / "weights", teacher)
        settings = ["--methods", "kd", "--seeds=1", f"--teacher_from={teacher}"]
        assert run.main([*RUN, *settings, f"--out={folder}"]) == 0
        assert not (folder / "teacher" / "weights").exists()
        assert correlations.main([str(folder)]) == 0
        found = json.loads((folder / "correlations.json").read_text())
        (value,) = found["methods"]["kd"]["values"]
        differences = of_net(teacher) - of_net(folder / "kd-seed0" / "weights")
        assert value == pytest.approx(mean_of_pairs(np.abs(differences)), abs=1e-5)
        # Only by the teacher that it was.
        capsys.readouterr()
        trained = weights.load(teacher)
        other = jax.tree.map(lambda x: x + 1, trained.variables)
        weights.save(dataclasses.replace(trained, variables=other), teacher)
        assert correlations.main([str(folder), "--overwrite"]) == 2
        assert "holds other weights than those" in capsys.readouterr().err
        shutil.rmtree(teacher)
        assert correlations.main([str(folder), "--overwrite"]) == 2
        assert "holds no weights" in capsys.readouterr().err

    def test_without_a_teacher(self, finished, tmp_path, capsys):
        for name in ("config.json", "result.json"):
            content = json.loads((finished / name).read_text())
            content.get("config", content)["teacher"] = None
            (tmp_path / name).write_text(json.dumps(content))
        assert correlations.main([str(tmp_path)]) == 2
        assert "has no teacher" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nowhere"], "nowhere is not a run's folder"),
            (["RUN", "--seed=2"], "seed must be from 0 to 1, got 2"),
            (["RUN", "--seedd=1"], "--seed"),
            (["RUN", "--out=picture.jpg"], "out must be a file .png"),
            (["RUN", "--out="], "out must be a path"),
        ],
    )
    def test_a_wrong_call_is_answered_in_words(
        self, finished, capsys, monkeypatch, tmp_path, arguments, message
    ):
        monkeypatch.chdir(tmp_path)
        given = [a.replace("RUN", str(finished)) for a in arguments]
        assert correlations.main(given) == 2
        said = capsys.readouterr().err
        assert message in said and "Traceback" not in said
        assert not list(tmp_path.iterdir())

    def test_data_that_are_not_there(self, finished, tmp_path, capsys):
        shutil.copytree(finished, tmp_path / "run")
        for name in ("config.json", "result.json"):
            content = json.loads((finished / name).read_text())
            content.get("config", content)["data"] = "mnist"
            (tmp_path / "run" / name).write_text(json.dumps(content))
        call = [str(tmp_path / "run"), "--overwrite", "--data_dir=nowhere"]
        assert correlations.main(call) == 2
        said = capsys.readouterr().err
        assert "experiments.prepare mnist --data_dir nowhere" in said


@pytest.mark.parametrize(("methods", "classes"), [(1, 10), (6, 100)], ids=str)
def test_pictures_have_a_panel_for_each_method(methods, classes, tmp_path, monkeypatch):
    from matplotlib import axes, image

    drawn, titles = [], []
    draw, title = axes.Axes.imshow, axes.Axes.set_title

    def imshow(self, values, **options):
        drawn.append((values, options["vmin"], options["vmax"]))
        return draw(self, values, **options)

    def set_title(self, words, **options):
        titles.append(words)
        return title(self, words, **options)

    monkeypatch.setattr(axes.Axes, "imshow", imshow)
    monkeypatch.setattr(axes.Axes, "set_title", set_title)
    random = np.random.default_rng(0)
    shown = {
        f"method{i}": (1 + i) * random.uniform(size=(classes, classes))
        for i in range(methods)
    }
    path = tmp_path / "picture.png"
    logit_correlations.picture(path, shown, "digits, seed 0")
    largest = max(x.max() for x in shown.values())
    for (name, values), (own, *scale), words in zip(
        shown.items(), drawn, titles, strict=True
    ):
        np.testing.assert_array_equal(own, values)
        assert scale == [0, largest]
        assert words == f"{name}: mean {mean_of_pairs(values):.3f}"
    height, width, _ = image.imread(path).shape
    rows = 1 if methods <= 4 else 2
    assert width > 390 * min(methods, 4) and height > 390 * rows
