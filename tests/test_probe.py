"""Linear probes of frozen nets, against slow forms of images and classifier."""

import dataclasses
import json
import os
import shutil

import jax
import numpy as np
import pytest
from scipy import optimize, special

from experiments import command, data, locks, probe, run, weights
from experiments.analyses import frozen_features, linear_probe, logistic_regression
from rdljax import nets, statistics
from tests import quick, test_data

RUN = ["mnist_rdl", "--train_per_class=20", "--epochs=2", "--teacher_epochs=2"]
RUN += ["--teacher=mlp", "--student=mlp", "--layers", "pooled", "logits"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a run on digits."""
    folder = tmp_path_factory.mktemp("results") / "run"
    settings = ["--methods", "plain", "kd", "--seeds=2", f"--out={folder}"]
    with quick.runs():
        assert run.main([*RUN, *settings]) == 0
    return folder


def stripes(count, seed):
    """Examples of three classes in colour, 20 x 20: how wide the stripes are."""
    random = np.random.default_rng(seed)
    for i in range(count):
        wave = np.sin(np.arange(20) * (1.0, 0.6, 0.3)[i % 3] + random.uniform(0, 6))
        image = 128 + 60 * wave[:, None, None] + random.normal(0, 40, (20, 20, 3))
        pixels = np.clip(image, 0, 255).astype(np.uint8)
        yield {"image": test_data._png(pixels), "label": i % 3}


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """A TFDS folder with other images, of the name of a set that the paper has."""
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = tmp_path_factory.mktemp("tfds")
    splits = {"train": [*stripes(150, 0)], "test": [*stripes(90, 1)]}
    features = {
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    test_data._write(folder, "stl10", splits, features=features)
    return folder


@pytest.fixture(scope="module")
def digits(finished):
    """Standardised features of a net of the run, 12 of them, and labels, by split."""
    dataset = data.load("digits", train_per_class=50)
    trained = weights.load(finished / "plain-seed0" / "weights")
    net = trained.net(dataset)
    found, apply = {}, jax.jit(net.apply)
    for part in ("train", "validation", "test"):
        split = getattr(dataset, part)
        seen = apply(trained.variables, data.normalise(dataset, split.image))
        found[part] = np.asarray(seen["pooled"], np.float64), split.label
    train = found["train"][0]
    mean, deviation = train.mean(0), train.std(0)
    alive = np.flatnonzero(deviation)[:12]
    return {
        part: ((x - mean)[:, alive] / deviation[alive], label)
        for part, (x, label) in found.items()
    }


def slow(features, label, l2):
    """NumPy's value, gradient and product with the Hessian, of flat parameters."""
    count, classes = len(label), label.max() + 1
    x = np.concatenate([features, np.ones((count, 1))], axis=1)
    weighed = np.ones((x.shape[1], 1))
    weighed[-1] = 0

    def logits(flat):
        return x @ flat.reshape(-1, classes)

    def value(flat):
        z = logits(flat)
        right = z[np.arange(count), label]
        penalty = np.sum(weighed * flat.reshape(-1, classes) ** 2)
        return np.mean(special.logsumexp(z, axis=1) - right) + l2 / 2 * penalty

    def gradient(flat):
        p = special.softmax(logits(flat), axis=1)
        p[np.arange(count), label] -= 1
        return (x.T @ p / count + l2 * weighed * flat.reshape(-1, classes)).ravel()

    def product(flat, v):
        p = special.softmax(logits(flat), axis=1)
        along = logits(v)
        changed = p * (along - np.sum(p * along, axis=1, keepdims=True))
        penalty = l2 * weighed * v.reshape(-1, classes)
        return (x.T @ changed / count + penalty).ravel()

    return value, gradient, product


class TestClassifier:
    @pytest.mark.parametrize("l2", [1e-1, 1e-3])
    def test_is_the_minimum_that_newtons_method_finds(self, digits, l2):
        features, label = digits["train"]
        value, gradient, product = slow(features, label, l2)
        start = np.zeros((features.shape[1] + 1) * 10)
        truth = optimize.minimize(value, start, jac=gradient, method="BFGS").x
        for _ in range(4):
            hessian = np.stack([product(truth, v) for v in np.eye(len(start))])
            # (Of least squares: the same number may be added to all biases.)
            truth -= np.linalg.lstsq(hessian, gradient(truth), rcond=1e-10)[0]
        assert np.abs(gradient(truth)).max() < 1e-10
        expected = truth.reshape(-1, 10)
        found = logistic_regression.fit(features, label, 10, l2)
        assert found.dtype == np.float64
        np.testing.assert_allclose(found[:-1], expected[:-1], atol=1e-4)
        biases = [x[-1] - x[-1].mean() for x in (found, expected)]
        np.testing.assert_allclose(*biases, atol=1e-4)
        assert np.abs(gradient(found.ravel())).max() < 1.01e-8

    def test_of_two_classes(self, digits):
        """The same penalty as of more: on the weights of both."""
        features, label = digits["train"]
        chosen = np.isin(label, [3, 8])
        seen, y = features[chosen], (label[chosen] == 8).astype(int)
        found = logistic_regression.fit(seen, y, 2, 1e-2)

        def loss(flat):
            w = flat.reshape(-1, 2)
            z = seen @ w[:-1] + w[-1]
            right = z[np.arange(len(y)), y]
            penalty = 0.5e-2 * np.sum(w[:-1] ** 2)
            return np.mean(special.logsumexp(z, axis=1) - right) + penalty

        own = found.ravel()
        least = optimize.minimize(loss, own, method="L-BFGS-B", options={"maxiter": 3})
        assert loss(own) <= least.fun + 1e-9

    def test_a_class_without_an_image(self, digits):
        features, label = digits["train"]
        few = label != 7
        with pytest.raises(command.UsageError, match="class 7 has no image"):
            logistic_regression.fit(features[few], label[few], 10, 1e-2)

    def test_the_weight_with_the_smallest_loss_on_held_out_images(
        self, digits, monkeypatch
    ):
        # (With smaller ones the search takes long; the best is neither end.)
        monkeypatch.setattr(logistic_regression, "L2", (1e-1, 1e-2, 1e-3))
        losses = {}
        for l2 in logistic_regression.L2:
            parameters = logistic_regression.fit(*digits["train"], 10, l2)
            held_out, label = digits["validation"]
            z = held_out @ parameters[:-1] + parameters[-1]
            right = z[np.arange(len(label)), label]
            losses[l2] = np.mean(special.logsumexp(z, axis=1) - right)
        l2, loss, _ = logistic_regression.choose(
            *digits["train"], *digits["validation"], 10
        )
        assert l2 == min(losses, key=losses.get)
        assert loss == pytest.approx(losses[l2], rel=1e-4)
        # (Or the choice would be none.)
        assert (
            logistic_regression.L2[0] > l2 > logistic_regression.L2[-1]
            and losses[l2] < 0.9 * losses[logistic_regression.L2[0]]
        )

    def test_separable_classes_have_no_error(self):
        random = np.random.default_rng(0)
        label = np.arange(400) % 4
        features = 8 * np.eye(6)[label] + random.uniform(-1, 1, (400, 6))
        (seen, own), (other, known) = np.split(features, 2), np.split(label // 2, 2)
        *_, parameters = logistic_regression.choose(seen, other, own, known, 2)
        np.testing.assert_array_equal(
            logistic_regression.predict(parameters, own), known
        )

    def test_of_labels_at_random_nothing_is_learnt(self, digits):
        random = np.random.default_rng(0)
        parts = [(x, random.permutation(label)) for x, label in digits.values()]
        (train, held_out, (test, label)) = parts
        *_, parameters = logistic_regression.choose(*train, *held_out, 10)
        wrong = np.mean(logistic_regression.predict(parameters, test) != label)
        # Four standard errors of 1,000 test images.
        assert abs(wrong - 0.9) < 4 * np.sqrt(0.9 * 0.1 / len(label))

    def test_what_does_not_converge_is_said(self):
        features = np.full((4, 2), np.inf)
        with pytest.raises(command.UsageError, match="2 features .* did not converge"):
            logistic_regression.fit(features, np.arange(4) % 2, 2, 1e-3)


def dataset(shape, classes=3, count=12):
    """Random images and labels."""
    random = np.random.default_rng(0)
    images = random.integers(256, size=(count, *shape), dtype=np.uint8)
    if shape[-1] == 3:
        # (A luminance of a whole number and a half may be rounded either way.)
        images[images.astype(int) @ [299, 587, 114] % 1000 == 500] = 0
    split = data.Split(images, random.integers(classes, size=count).astype(np.int32))
    numbers = (100.0, 110.0, 120.0, 130.0)[: shape[-1]]
    return data.Dataset("random", classes, split, split, split, "", numbers, numbers)


def mlp(channels, normalisation):
    """A net for ten classes and images 32 x 32, as it is drawn."""
    net, shape = nets.build("mlp", 10), (32, 32, channels)
    init = jax.jit(net.init)
    variables = init(jax.random.key(0), np.zeros((1, *shape), np.float32))
    source = {"file": "mlp.npz"}
    return weights.TrainedNet("mlp", 10, shape, variables, normalisation, source)


def enlarged(images, size):
    """Bilinear interpolation between the centres of pixels, row by row."""
    for axis in (1, 2):
        own = images.shape[axis]
        at = (np.arange(size) + 0.5) * own / size - 0.5
        images = np.apply_along_axis(
            lambda line: np.interp(at, np.arange(len(line)), line),  # noqa: B023
            axis,
            images,
        )
    return images


LUMINANCE = np.array([0.299, 0.587, 0.114])


class TestImages:
    @pytest.mark.parametrize(
        ("own", "channels", "normalisation"),
        [
            (1, 3, ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))),
            (3, 1, ((0.5,), (0.2,))),
            (3, 3, ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))),
            (3, 1, None),
            (1, 3, None),
        ],
    )
    def test_are_seen_as_the_net_was_made_for_them(self, own, channels, normalisation):
        images, trained = dataset((20, 20, own)), mlp(channels, normalisation)
        seen = frozen_features.resize_to_net(images, trained)
        net = trained.wrap_net(seen, nets.build("mlp", 10))
        found = frozen_features.extract(
            net, trained.variables, seen, seen.test.image, "stage1", chunk=5
        )
        pixels = images.test.image.astype(float)
        mean = std = np.array(images.mean)
        if own < channels:
            pixels = np.concatenate([pixels] * channels, axis=-1)
            mean = std = np.concatenate([mean] * channels)
        elif own > channels:
            pixels = np.round(pixels @ LUMINANCE)[..., None]
            mean = std = np.array([mean @ LUMINANCE])
        if normalisation is not None:
            mean, std = (255 * np.array(x) for x in normalisation)
        expected = jax.jit(nets.build("mlp", 10).apply)(
            trained.variables, enlarged((pixels - mean) / std, 32).astype(np.float32)
        )
        np.testing.assert_allclose(found, expected["stage1"], rtol=1e-4, atol=1e-4)
        assert found.dtype == np.float64 and found.std() > 0.1

    def test_of_other_channels_are_refused(self):
        with pytest.raises(command.UsageError, match="3 channels, random has 4"):
            frozen_features.resize_to_net(dataset((32, 32, 4)), mlp(3, None))

    def test_maps_are_flattened(self):
        class Doubling:
            def apply(self, variables, images):
                return {"stage1": 2 * images}

        images = dataset((4, 5, 3))
        found = frozen_features.extract(
            Doubling(), {}, images, images.test.image, "stage1", 5
        )
        expected = 2 * (images.test.image / np.array(images.std) - 1)
        np.testing.assert_allclose(found, expected.reshape(12, 60), atol=1e-6)

    def test_what_is_not_finite_is_said(self):
        images, trained = dataset((32, 32, 1)), mlp(1, None)
        broken = jax.tree.map(lambda x: x * np.nan, trained.variables)
        net = nets.build("mlp", 10)
        with pytest.raises(command.UsageError, match="pooled: expected finite numbers"):
            frozen_features.extract(net, broken, images, images.test.image, "pooled")

    def test_a_dead_unit_is_standardised_to_zero(self):
        random = np.random.default_rng(0)
        values = random.normal(size=(50, 3))
        values[:, 1] = 0.1  # Its mean is not quite 0.1.
        values[:, 2] = 7 + 1e-7 * random.normal(size=50)
        mean, deviation = frozen_features.moments(values)
        standard = (values - mean) / deviation
        np.testing.assert_allclose(standard[:, 0].std(), 1)
        np.testing.assert_array_equal(standard[:, 1:], 0)


def test_the_test_images_choose_nothing(finished, monkeypatch):
    monkeypatch.setattr(logistic_regression, "L2", (1.0, 1e-1, 1e-2))
    trained = weights.load(finished / "kd-seed1" / "weights")
    digits = data.load("digits", train_per_class=20)
    first = linear_probe.probe(trained, digits, "pooled")
    shuffled = np.random.default_rng(0).permutation(digits.test.label)
    other = dataclasses.replace(digits, test=data.Split(digits.test.image, shuffled))
    second = linear_probe.probe(trained, other, "pooled")
    assert first["test_error"] < 40 and abs(second["test_error"] - 90) < 4
    del first["test_error"], second["test_error"]
    assert first == second


# L2 weights to choose from; large ones, with which a search is short.
SEVERAL = (1.0, 1e-1)


@pytest.fixture(scope="module")
def probed(finished, elsewhere):
    """The folder of the probe on other images."""
    before = {f: f.read_bytes() for f in finished.rglob("*") if f.is_file()}
    call = [str(finished), "--data=stl10", f"--data_dir={elsewhere}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logistic_regression, "L2", SEVERAL)
        assert probe.main(call) == 0
    # Nothing of the run has changed.
    assert all(file.read_bytes() == was for file, was in before.items())
    return finished / "probe-stl10"


class TestCommand:
    def test_numbers_follow_from_the_predictions(self, probed, elsewhere):
        found = json.loads((probed / "probe.json").read_text())
        label = data.load("stl10", str(elsewhere)).test.label
        runs = {(one["method"], one["seed"]): one for one in found["nets"]}
        students = [(m, s) for m in ("plain", "kd") for s in (0, 1)]
        assert [*runs] == [("teacher", 0), *students]
        errors = {}
        for key, one in runs.items():
            errors[key] = 100 * np.mean(np.array(one["predicted"]) != label)
            assert one["test_error"] == pytest.approx(errors[key])
            # Stripes of three widths are told apart, by nets that know digits.
            assert errors[key] < 40
        assert found["teacher"]["test_error"] == errors["teacher", 0]
        each = {m: [errors[m, 0], errors[m, 1]] for m in ("plain", "kd")}
        for method, values in each.items():
            of = found["methods"][method]["test_error"]
            assert of["values"] == pytest.approx(values)
            assert of["mean"] == pytest.approx(np.mean(values))
            assert of["std"] == pytest.approx(np.std(values, ddof=1))
        difference = statistics.paired_difference(each["kd"], each["plain"])
        assert found["methods"]["kd"]["difference"] == pytest.approx(
            difference._asdict()
        )
        p_values = []
        for test in found["mcnemar"]:
            own, plain = (
                np.array(runs[m, test["seed"]]["predicted"]) == label
                for m in ("kd", "plain")
            )
            assert test["only_first"] == np.sum(own & ~plain)
            assert test["only_second"] == np.sum(~own & plain)
            p_values.append(test["p_value"])
        assert len(p_values) == 2
        corrected = statistics.holm(p_values)
        assert [t["holm"] for t in found["mcnemar"]] == pytest.approx(corrected)

    def test_the_table(self, probed):
        text = (probed / "probe.md").read_text()
        found = json.loads((probed / "probe.json").read_text())
        assert "5,000 digits" in text and "135 images for training" in text
        for method, of in found["methods"].items():
            (row,) = (
                line
                for line in text.splitlines()
                if line.startswith(f"| {method} ") and "±" in line
            )
            mean, std = of["test_error"]["mean"], of["test_error"]["std"]
            assert f" {mean:.2f} ± {std:.2f} |" in row
        low, high = (found["methods"]["kd"]["difference"][k] for k in ("low", "high"))
        assert f"[{low:+.2f}, {high:+.2f}]" in text
        # The paper's, beside ours: an accuracy of 72.2 %.
        assert "| CRD+KD  |        72.2 |     27.8 |" in text

    def test_a_second_time_it_writes_the_same(
        self, finished, probed, elsewhere, tmp_path, capsys, monkeypatch
    ):
        monkeypatch.setattr(logistic_regression, "L2", SEVERAL)
        call = [str(finished), "--data=stl10", f"--data_dir={elsewhere}"]
        assert probe.main(call) == 2
        assert "--overwrite replaces it" in capsys.readouterr().err
        assert probe.main([*call, f"--out={tmp_path / 'again'}"]) == 0
        assert capsys.readouterr().out.startswith((probed / "probe.md").read_text())
        for name in ("probe.json", "probe.md"):
            again = (tmp_path / "again" / name).read_bytes()
            assert again == (probed / name).read_bytes()

    def test_of_other_data_and_another_layer(self, finished, tmp_path, monkeypatch):
        monkeypatch.setattr(logistic_regression, "L2", (1e-1,))
        call = [str(finished), "--layer=logits", "--train_per_class=10"]
        assert probe.main([*call, f"--out={tmp_path / 'logits'}"]) == 0
        text = (tmp_path / "logits" / "probe.md").read_text()
        assert "100 images for training" in text and "probes of logits" in text
        assert "Published" not in text
        old = {"run": {}, "layer": "old", "nets": []}
        (tmp_path / "logits" / "probe.json").write_text(json.dumps(old))
        again = [*call, f"--out={tmp_path / 'logits'}", "--overwrite"]
        assert probe.main(again) == 0
        found = json.loads((tmp_path / "logits" / "probe.json").read_text())
        assert found["layer"] == "logits" and found["run"]["data"] == "digits"

    def test_of_a_run_of_one_seed_without_a_teacher(
        self, finished, tmp_path, monkeypatch
    ):
        monkeypatch.setattr(logistic_regression, "L2", (1e-1,))
        shutil.copytree(finished, tmp_path / "run")
        result = json.loads((finished / "result.json").read_text())
        result["config"] |= {"teacher": None, "seeds": 1}
        (tmp_path / "run" / "result.json").write_text(json.dumps(result))
        call = [str(tmp_path / "run"), "--train_per_class=10"]
        assert probe.main([*call, f"--out={tmp_path / 'out'}"]) == 0
        found = json.loads((tmp_path / "out" / "probe.json").read_text())
        assert found["teacher"] is None and len(found["nets"]) == 2
        difference = found["methods"]["kd"]["difference"]["mean"]
        text = (tmp_path / "out" / "probe.md").read_text()
        assert f" {difference:+.2f} " in text and "teacher" not in text

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["nowhere"], "nowhere is not a run's folder"),
            (["RUN", "--layer=poold"], "layer of mlp 'poold'; did you mean 'pooled'"),
            (["RUN", "--layerr=pooled"], "--layer"),
            (["RUN", "--data=mnits"], "did you mean 'mnist'"),
            (["RUN", "--data=mnist"], "run `python -m experiments.prepare mnist"),
            (["RUN", "--data=mnist", "--data_dir=nowhere"], "holds no folder of it"),
            (["RUN", "--train_per_class=0"], "train_per_class = 0"),
            (["RUN", "--out="], "out must be a path"),
            (["RUN", "--out=RUN/config.json/x"], "out must be a path"),
            (["RUN", "--out=RUN/config.json"], "cannot write to"),
        ],
    )
    def test_a_wrong_call_is_answered_in_words(
        self, finished, capsys, monkeypatch, tmp_path, arguments, message
    ):
        monkeypatch.chdir(tmp_path)
        before = sorted(finished.rglob("*"))
        given = [a.replace("RUN", str(finished)) for a in arguments]
        assert probe.main(given) == 2
        said = capsys.readouterr().err
        assert message in said and "Traceback" not in said
        assert sorted(finished.rglob("*")) == before and not list(tmp_path.iterdir())

    def test_what_no_probe_has_written_is_kept(
        self, finished, tmp_path, capsys, monkeypatch
    ):
        monkeypatch.setattr(linear_probe, "probe", None)  # Not come to.
        call = [str(finished), "--train_per_class=10", f"--out={tmp_path}"]
        for name, content, message in (
            ("probe.md", "notes", "probe.md that no probe has written"),
            ("probe.json", "notes", "is not a probe"),
            ("probe.json", '{"run": {}, "nets": []}', "is not a probe"),
            ("probe.json", "[1]", "is not a probe"),
        ):
            (tmp_path / name).write_text(content)
            assert probe.main([*call, "--overwrite"]) == 2
            assert message in capsys.readouterr().err
            assert (tmp_path / name).read_text() == content
            (tmp_path / name).unlink()
        with locks.hold(tmp_path):
            assert probe.main(call) == 2
        assert "in use by process" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())

    def test_without_images_to_choose_by(self, finished, capsys, monkeypatch):
        images = dataset((32, 32, 1))
        none = data.Split(images.test.image[:0], images.test.label[:0])
        monkeypatch.setattr(
            data, "load", lambda *_, **__: dataclasses.replace(images, validation=none)
        )
        assert probe.main([str(finished), "--data=random"]) == 2
        assert "random has too few images for" in capsys.readouterr().err

    def test_an_unfinished_or_damaged_run(self, finished, tmp_path, capsys):
        config = (finished / "config.json").read_text()
        folder = tmp_path / "run"
        folder.mkdir()
        four = {k: json.loads(config)[k] for k in ("name", "teacher", "student")}
        for record in ({}, four | {"methods": ["plain"]}):
            (folder / "config.json").write_text(json.dumps(record))
            assert probe.main([str(folder)]) == 2
            assert "is not a run's folder" in capsys.readouterr().err
        (folder / "config.json").unlink()
        os.mkfifo(folder / "config.json")  # Which nobody writes to.
        assert probe.main([str(folder)]) == 2
        assert "is not a run's folder (there is no file" in capsys.readouterr().err
        (folder / "config.json").unlink()
        (folder / "config.json").write_text(config)
        assert probe.main([str(folder)]) == 2
        assert "is not finished" in capsys.readouterr().err
        result = json.loads((finished / "result.json").read_text())
        for broken in ('{"config"', '{"config": {}}'):
            (folder / "result.json").write_text(broken)
            assert probe.main([str(folder)]) == 2
            assert "damaged, or of another version" in capsys.readouterr().err
        (folder / "result.json").write_text(json.dumps(result))
        assert probe.main([str(folder)]) == 2
        assert "teacher/weights holds no weights" in capsys.readouterr().err
