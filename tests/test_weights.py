"""Teachers that were trained elsewhere: read, checked, kept, and taught from."""

import dataclasses
import functools
import hashlib
import json
import pathlib

import jax
import numpy as np
import pytest

from experiments import command, data, export_torch, import_torch, run, weights
from experiments.training import rehearsal
from experiments.weights import store
from rdljax import checkpoints, files, nets
from rdljax.nets import _weights, from_torch
from tests import quick

FILE = pathlib.Path(__file__).parent / "reference" / "nets" / "resnet8.npz"
SOURCE = {"file": "weights.npz"}
# All layers of images, by the net of `file`.
see = jax.jit(nets.build("resnet8", 10).apply)
cached_shapes = functools.cache(_weights.shapes)


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch):
    """Nets are traced for their shapes: each once, in place of at every call."""
    monkeypatch.setattr(_weights, "shapes", cached_shapes)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file as a PyTorch program would leave it, for ten classes."""
    with np.load(FILE) as stored:
        prefix = "state/"
        state = {k.removeprefix(prefix): stored[k] for k in stored if prefix in k}
    state["fc.weight"], state["fc.bias"] = (
        state["fc.weight"][:10],
        state["fc.bias"][:10],
    )
    path = tmp_path_factory.mktemp("weights") / "resnet8.safetensors"
    from_torch.write(path, state)
    return path


def dataset(count=30, channels=3, classes=10):
    """Random images and labels."""
    random = np.random.default_rng(0)
    shape = (count, 32, 32, channels)
    split = data.Split(
        random.integers(256, size=shape, dtype=np.uint8),
        random.integers(classes, size=count).astype(np.int32),
    )
    mean, std = (120.0, 100.0, 90.0)[:channels], (60.0, 70.0, 80.0)[:channels]
    return data.Dataset("random", classes, split, split, split, "", mean, std)


def drawn(net, shape):
    """A net's variables for images `[H, W, C]`, made by one program."""
    image = np.zeros((1, *shape), np.float32)
    return jax.jit(net.init)(jax.random.key(0), image)


class TestTrained:
    def test_repdistillers_teachers_see_what_they_were_trained_on(self, tmp_path):
        with np.load(FILE) as stored:
            state = {k[6:]: stored[k] for k in stored if k.startswith("state/")}
        from_torch.write(tmp_path / "resnet8.npz", state)
        mean, std = weights.read("resnet8", tmp_path / "resnet8.npz").normalisation
        assert mean == (0.5071, 0.4867, 0.4408) and std == (0.2675, 0.2565, 0.2761)

    @pytest.mark.parametrize(
        "normalisation", [None, ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))]
    )
    def test_sees_images_normalised_as_it_was_trained(self, file, normalisation):
        trained, images = weights.read("resnet8", file, normalisation), dataset()
        net, pixels = trained.net(images), images.test.image
        seen = jax.jit(net.apply)(trained.variables, data.normalise(images, pixels))
        if normalisation is None:
            mean, std = np.array(images.mean) / 255, np.array(images.std) / 255
        else:
            mean, std = normalisation
        expected = see(
            trained.variables, ((pixels / 255 - mean) / std).astype(np.float32)
        )
        for layer in net.layers:
            np.testing.assert_allclose(
                seen[layer], expected[layer], rtol=1e-4, atol=1e-4
            )

    def test_accuracy_is_the_share_it_is_right_about(self, file):
        trained, images = weights.read("resnet8", file), dataset()
        seen = see(trained.variables, data.normalise(images, images.test.image))
        predicted = np.argmax(seen["logits"], axis=1)
        expected = np.mean(predicted == images.test.label)
        assert weights.accuracy(trained, images) == pytest.approx(expected)
        net, test = trained.net(images), images.test
        found, loss = weights.predict(net, trained.variables, images, "test", chunk=7)
        np.testing.assert_array_equal(found, predicted)
        logits = np.asarray(seen["logits"], np.float64)
        losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(30), test.label]
        assert loss == pytest.approx(losses.mean(), rel=1e-4)
        known = dataclasses.replace(images, test=images.test._replace(label=predicted))
        assert weights.accuracy(trained, known) == 1

    def test_refuses_data_of_other_classes_or_channels(self, file):
        trained = weights.read("resnet8", file)
        with pytest.raises(command.UsageError, match="10 classes and random has 4"):
            trained.net(dataset(classes=4))
        with pytest.raises(command.UsageError, match="3 channels, random has 1"):
            trained.net(dataset(channels=1))

    def test_refuses_images_of_a_size_that_a_dense_layer_cannot_see(self):
        net = nets.build("mlp", 10)
        variables = drawn(net, (28, 28, 3))
        trained = weights.TrainedNet("mlp", 10, (28, 28, 3), variables, None, {})
        with pytest.raises(command.UsageError, match=r"\[28, 28, 3\], random has \[32"):
            trained.net(dataset())

    def test_the_fingerprint_is_that_of_the_numbers(self, file):
        trained = weights.read("resnet8", file)
        again = weights.read("resnet8", file, ((0.5,) * 3, (0.2,) * 3))
        assert trained.fingerprint == again.fingerprint
        bias = trained.variables["params"]["classifier"]["bias"]
        again.variables["params"]["classifier"]["bias"] = bias + 1
        assert trained.fingerprint != again.fingerprint

    def test_known_nets_have_known_normalisations(self):
        assert set(store.NORMALISATIONS) <= set(nets.NETS)
        mean, std = store.NORMALISATIONS["efficientnet_lite0"]
        pixel = np.array([0.0, 127.0, 255.0]) / 255
        normalised = (pixel - mean) / std
        np.testing.assert_allclose(normalised, [-127 / 128, 0, 1], atol=1e-9)

    def test_comes_back_from_its_folder_as_it_was(self, file, tmp_path):
        trained = weights.read("resnet8", file, ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)))
        weights.save(trained, tmp_path / "net")
        found = weights.load(tmp_path / "net")
        jax.tree.map(np.testing.assert_array_equal, found.variables, trained.variables)
        assert (found.name, found.classes) == ("resnet8", 10)
        assert found.shape == (32, 32, 3)
        assert found.normalisation == trained.normalisation
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert found.source == {"file": file.name, "sha256": digest}

    def test_a_folder_of_something_else_is_refused(self, tmp_path):
        with pytest.raises(command.UsageError, match="import_torch"):
            weights.load(tmp_path / "nothing")
        checkpoints.save(tmp_path / "run", 3, {"x": np.ones(2)}, {"epoch": 1})
        with pytest.raises(command.UsageError, match="checkpoint of a run"):
            weights.load(tmp_path / "run")


class TestUntrusted:
    """A folder whose hashes are right, and whose words are not."""

    def test_wrong_fields_and_sizes_are_told(self, tmp_path):
        about = {
            **{"kind": "weights", "name": "mlp", "classes": 2, "shape": [4, 4, 1]},
            **{"normalisation": [[0.5], [0.25]], "source": {"file": "x.npz"}},
        }
        variables = drawn(nets.build("mlp", 2), (4, 4, 1))
        checkpoints.save(tmp_path / "net", 0, variables, about)
        assert weights.load(tmp_path / "net").shape == (4, 4, 1)
        text = tmp_path / "net" / "0" / "manifest.json"
        for changes, words in (
            *(({key: ...}, f"it lacks '{key}'") for key in about.keys() - {"kind"}),
            ({"kind": ...}, "is a checkpoint of a run"),
            ({"name": ["mlp"]}, "name is .*, expected the name of a net"),
            ({"name": "mlpp"}, "name is 'mlpp', expected the name of a net"),
            ({"classes": 0}, "classes is '0'"),
            ({"classes": "2"}, "classes is '2'"),
            ({"classes": 10**12}, "its arrays would take .*limit"),
            ({"shape": [10**7, 10**7, 1]}, "its arrays would take .*limit"),
            ({"shape": [4, 4]}, "expected height, width and channels"),
            ({"shape": [4, 4.0, 1]}, r"shape\[1\] is '4.0'"),
            ({"normalisation": [[0.5]]}, "expected mean and std"),
            ({"normalisation": "0"}, "expected mean and std"),
            ({"normalisation": [["a"], [1]]}, "expected mean and std"),
            ({"normalisation": [[0.5, 1], [1, 1]]}, "of 1 channel,"),
            ({"source": "here"}, "source is 'here', expected dict"),
            ({"source": {}}, "its record has no source"),
            ({"source": {"file": 1}}, "source.file is '1'"),
            ({"modality": "smell"}, "modality is 'smell'"),
        ):
            manifest = json.loads(text.read_text())
            told = {k: x for k, x in (about | changes).items() if x is not ...}
            manifest["about"] = told
            manifest["sha256"] = files.sha256_of_manifest(manifest)
            text.write_text(json.dumps(manifest))
            with pytest.raises(command.UsageError, match=words):
                weights.load(tmp_path / "net")


class TestExport:
    def test_a_student_of_a_run_returns_to_pytorch(self, file, tmp_path, capsys):
        trained = weights.read("resnet8", file)
        weights.save(trained, tmp_path / "net")
        back = tmp_path / "back.npz"
        assert export_torch.main([str(tmp_path / "net"), str(back)]) == 0
        assert "resnet8" in capsys.readouterr().out
        found, expected = from_torch.read(back), from_torch.read(file)
        assert found.keys() == expected.keys()
        for key in found:
            np.testing.assert_array_equal(found[key], expected[key])

    def test_of_one_channel(self, tmp_path):
        net = nets.build("resnet8", 10)
        variables = drawn(net, (32, 32, 1))
        grey = weights.TrainedNet("resnet8", 10, (32, 32, 1), variables, None, SOURCE)
        weights.save(grey, tmp_path / "net")
        back = tmp_path / "back.npz"
        assert export_torch.main([str(tmp_path / "net"), str(back)]) == 0
        found = weights.read("resnet8", back)
        assert found.shape == (32, 32, 1) and found.normalisation is None
        assert found.fingerprint == grey.fingerprint

    def test_wrong_calls(self, file, tmp_path, capsys):
        back = tmp_path / "back.npz"
        assert export_torch.main([str(tmp_path / "nothing"), str(back)]) == 2
        assert "holds no weights" in capsys.readouterr().err
        net = nets.build("mnist_cnn_small", 10)
        variables = drawn(net, (32, 32, 1))
        about = ("mnist_cnn_small", 10, (32, 32, 1), variables, None, SOURCE)
        weights.save(weights.TrainedNet(*about), tmp_path / "small")
        assert export_torch.main([str(tmp_path / "small"), str(back)]) == 2
        assert "no net with weights in PyTorch" in capsys.readouterr().err
        assert not back.exists()
        weights.save(weights.read("resnet8", file), tmp_path / "net")
        back.touch()
        assert export_torch.main([str(tmp_path / "net"), str(back)]) == 2
        assert "exists" in capsys.readouterr().err


class TestCommand:
    def test_writes_a_folder_and_says_so(self, file, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(data, "load", lambda *_, **__: dataset())
        out = tmp_path / "net"
        call = ["resnet8", str(file), f"--out={out}", "--check=cifar10"]
        assert import_torch.main(call) == 0
        printed = capsys.readouterr().out
        share = weights.accuracy(weights.load(out), dataset())
        assert f"accuracy {100 * share:.2f} % on 30 test images" in printed
        assert f"--teacher_from={out}" in printed
        # Neither again nor over it, unless told to.
        assert import_torch.main(call) == 2
        assert "--overwrite replaces it" in capsys.readouterr().err
        assert import_torch.main([*call, "--overwrite"]) == 0

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["resnet9", "FILE"], "did you mean 'resnet8'"),
            (["mnist_cnn", "FILE"], "no net with weights in PyTorch 'mnist_cnn'"),
            (["resnet8", "nothing.npz"], "there is no file nothing.npz"),
            (["resnet14", "FILE"], "missing layer1.1.conv1.weight [16, 16, 3, 3]"),
            (["resnet8", "FILE", "--checkk=a"], "--check"),
            (
                ["resnet8", "FILE", "--mean", "1", "1", "1"],
                "mean and std must be given together",
            ),
            (["resnet8", "FILE", "--mean", "1", "--std", "1"], "of 3 channels"),
            (
                ["resnet8", "FILE", "--mean", "0", "0", "0", "--std", "1", "0", "1"],
                "no std of 0",
            ),
            (["resnet8", "FILE", "--check=cifar10"], "no data_dir is given"),
            (["resnet8", "FILE", "--check=digits"], "3 channels, digits has 1"),
        ],
    )
    def test_a_wrong_call_is_answered_in_words_and_writes_nothing(
        self, file, tmp_path, capsys, arguments, message
    ):
        out = tmp_path / "net"
        arguments = [str(file) if a == "FILE" else a for a in arguments]
        assert import_torch.main([*arguments, f"--out={out}"]) == 2
        assert message in capsys.readouterr().err
        assert not out.exists()

    def test_deletes_nothing_but_weights(self, file, tmp_path, capsys):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").write_text("years of work")
        for out in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
            call = ["resnet8", str(file), f"--out={out}", "--overwrite"]
            assert import_torch.main(call) == 2
            assert "holds no weights" in capsys.readouterr().err
        assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


@pytest.fixture
def _few_tests(monkeypatch):
    """Every set is read once, with its first 200 test images."""
    read = functools.cache(data.load)

    def load(*names, **options):
        dataset = read(*names, **options)
        return dataclasses.replace(
            dataset, test=data.Split(*(x[:200] for x in dataset.test))
        )

    monkeypatch.setattr(data, "load", load)


@pytest.mark.usefixtures("_few_tests")
@pytest.mark.slow
def test_students_learn_from_it(tmp_path, tfds_dir, capsys):
    """The whole experiment, on 200 images, with the teacher that is not trained."""
    folder, out = tmp_path / "net", tmp_path / "run"
    variables = drawn(nets.build("mnist_cnn_small", 10), (32, 32, 3))
    about = ("mnist_cnn_small", 10, (32, 32, 3), variables)
    trained = weights.TrainedNet(*about, ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)), SOURCE)
    weights.save(trained, folder)
    call = ["mnist_rdl", "--data=cifar10", f"--data_dir={tfds_dir}", f"--out={out}"]
    call += [f"--teacher_from={folder}", "--seeds=1", "--epochs=1"]
    call += ["--methods", "kd+rdl", "--layers", "stage2", "pooled"]
    call += ["--train_per_class=20", "--teacher_epochs=50"]
    call += ["--crop=0", "--flip=False", "--remember_teacher=False"]
    with quick.runs() as patch:
        patch.setattr(rehearsal, "rehearse", quick.rehearse)
        assert run.main(call) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["config"]["teacher"] == "mnist_cnn_small"
    dataset = data.load("cifar10", str(tfds_dir), train_per_class=20)
    error = 100 * (1 - weights.accuracy(weights.load(folder), dataset))
    assert result["teacher"]["test_error"] == pytest.approx(error, abs=0.11)
    assert not (out / "teacher" / "checkpoint").exists()
    # The student's weights are there, for PyTorch or to teach another. They know how
    # their images were normalised, whatever is usual for the data.
    student = weights.load(out / "kd+rdl-seed0" / "weights")
    other = dataclasses.replace(dataset, mean=(100.0,) * 3, std=(50.0,) * 3)
    share = weights.accuracy(student, other)
    (own,) = result["methods"]["kd+rdl"]["test_error"]["values"]
    assert 100 * (1 - share) == pytest.approx(own, abs=0.11)
    table = (out / "table.md").read_text()
    assert "(from weights.npz, not trained here)" in table
    with quick.runs():
        # Told again, it shows the table, and a missing folder is named.
        assert run.main([*call, "--resume"]) == 0
        capsys.readouterr()
        # Other weights in the same folder are another run; a run's own teacher is kept.
        variables = jax.tree.map(lambda x: np.asarray(x) + 1, variables)
        weights.save(dataclasses.replace(trained, variables=variables), folder)
        assert run.main([*call, "--resume"]) == 2
        assert "teacher_weights" in capsys.readouterr().err
        own = out / "kd+rdl-seed0" / "weights"
        again = [*call, "--overwrite", f"--teacher_from={own}"]
        assert run.main(again) == 2
        said = capsys.readouterr().err
        assert "which teacher_from names" in said and own.is_dir()
        assert run.main([*call[:4], "--teacher_from=nowhere"]) == 2
        assert "nowhere holds no weights" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("_few_tests")
def test_students_learn_from_a_file_of_pytorch(file, tmp_path, tfds_dir):
    """From images cropped and mirrored, by a ResNet-8; rehearsed and with pictures."""
    folder, out = tmp_path / "net", tmp_path / "run"
    weights.save(weights.read("resnet8", file), folder)
    call = ["mnist_rdl", "--data=cifar10", f"--data_dir={tfds_dir}", f"--out={out}"]
    call += [f"--teacher_from={folder}", "--student=resnet8", "--seeds=1", "--epochs=1"]
    call += ["--methods", "kd+rdl", "--layers", "stage3", "pooled"]
    call += ["--train_per_class=20", "--teacher_epochs=50"]
    assert run.main(call) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["config"]["teacher"] == "resnet8"
    dataset = data.load("cifar10", str(tfds_dir), train_per_class=20)
    (own,) = result["methods"]["kd+rdl"]["test_error"]["values"]
    student = weights.load(out / "kd+rdl-seed0" / "weights")
    for net, error in (
        (weights.load(folder), result["teacher"]["test_error"]),
        (student, own),
    ):
        share = weights.accuracy(net, dataset)
        assert error == pytest.approx(100 * (1 - share), abs=0.11)
    assert not (out / "teacher" / "checkpoint").exists()
    assert (out / "learning_curves.png").stat().st_size > 5_000
    table = (out / "table.md").read_text()
    assert "(from resnet8.safetensors, not trained here)" in table
    assert run.main([*call, "--resume"]) == 0
