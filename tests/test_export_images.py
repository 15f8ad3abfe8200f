"""The images of a run in a file, for a teacher of another program."""

import numpy as np
import pytest

from experiments import data, export_images
from experiments.config import load
from experiments.training import context
from rdljax import activations


def test_images_are_those_of_the_run_in_their_order(tmp_path, capsys):
    path = tmp_path / "images.npz"
    assert export_images.main([str(path), "--student_per_class=2"]) == 0
    assert "wrote 20 images (32, 32, 1)" in capsys.readouterr().out
    expected = data.for_students(data.load("digits"), 2)
    with np.load(path) as found:
        np.testing.assert_array_equal(found["image"], expected.train.image)
        np.testing.assert_array_equal(found["label"], expected.train.label)
        np.testing.assert_array_equal(found["index"], np.arange(20))
        np.testing.assert_array_equal(found["mean"], expected.mean)
        np.testing.assert_array_equal(found["std"], expected.std)


def test_a_run_reads_the_activations_of_these_images(tmp_path):
    """Rows in another order are sorted by the copied `index`."""
    path, stored = tmp_path / "images.npz", tmp_path / "activations.npz"
    assert export_images.main([str(path), "--student_per_class=2"]) == 0
    with np.load(path) as found:
        order = np.random.default_rng(0).permutation(len(found["index"]))
        rows = found["image"][order].reshape(20, -1) / 255
        np.savez(stored, index=found["index"][order], conv=rows)
    config = load(
        "mnist_rdl",
        student_per_class=2,
        batch=8,
        teacher=None,
        methods=("rdl",),
        layers=("stage1:conv",),
        activations=str(stored),
    )
    dataset = context.load(config)
    kept = context.with_measurements(config, dataset, context.Inputs()).activations
    assert isinstance(kept, activations.Store)
    images = data.for_students(dataset, 2).train.image
    np.testing.assert_array_equal(kept.layers["conv"], images.reshape(20, -1) / 255)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["images.npy"], "must end with .npz"),
        (["images.npz"], "--overwrite replaces it"),
        (["other.npz", "--data=cifar100"], "cifar100"),
        (["other.npz", "--student_per_class=1000"], "student_per_class"),
    ],
)
def test_what_cannot_be_written_is_refused(
    arguments, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images.npz").write_text("precious")
    assert export_images.main(arguments) == 2
    assert words in capsys.readouterr().err
    assert (tmp_path / "images.npz").read_text() == "precious"
    assert not (tmp_path / "other.npz").exists()
