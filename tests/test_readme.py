"""The README's programs run, and its table is that of the library."""

import functools
import pathlib
import re

import jax
import numpy as np
import pytest

from rdljax import nets, teachers, terms, training
from rdljax.nets import from_torch
from tests.losses import LOSSES

README = (pathlib.Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.parametrize(
    "see",
    [
        jax.eval_shape,
        pytest.param(lambda function, *x: function(*x), marks=pytest.mark.slow),
    ],
    ids=["shapes", "numbers"],
)
def test_the_python_blocks_run_from_top_to_bottom(see, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 7
    names: dict = {}
    loop = "for _ in range(100):"
    exec(blocks[0].replace(loop, f"before = loss(weights)\n{loop}"), names)
    # What the first program claims: the student takes on the teacher's geometry.
    assert names["loss"](names["weights"]) < 0.5 * names["before"]
    exec(blocks[1], names)
    assert 0 < names["value"] < 1
    exec(blocks[2], names)
    found = names["found"]
    assert found.low < found.value < found.high
    assert re.fullmatch(
        r"r = 0\.\d\d, 95 % \[0\.\d\d, 0\.\d\d\]\n", capsys.readouterr().out
    )
    assert (tmp_path / "rdms.png").stat().st_size > 10_000
    exec(blocks[3], names)
    assert set(names["phase"].terms) == {"task", "kd", "rdl"}
    exec(blocks[4], names)
    # The plan is one that training accepts, with the nets of the package.
    net = nets.build("mnist_cnn_small", 4)
    data = {"image": np.zeros((1000, 28, 28, 1), np.float32)}
    data["label"] = np.zeros(1000, np.int32)

    def view(data, batch, key):
        return {k: v[batch["index"]] for k, v in data.items()} | batch

    def begin(key, data):
        variables = net.init(key, data["image"][:1])
        return training.init(
            key,
            net,
            teachers.net(net, variables),
            names["plan"],
            view,
            training.Arrays(variables, data),
            {"index": np.arange(4)},
            devices=1,
        )

    state = see(begin, jax.random.key(0), data)
    assert set(state.replicated.params["ft"]) == {"paraphraser", "translator"}
    assert state.replicated.terms["crd"]["bank"].student.shape == (1000, 128)
    both, kd = names["ensemble"], names["loss"]["kd"][1]
    taught = jax.jit(both.targets)(both.arrays, {"image": names["images"]})
    student = {"logits": np.zeros((8, 4), np.float32)}
    begun = kd.init(jax.random.key(0), student, taught)
    value, _ = jax.jit(lambda *x: kd.apply(*begun, *x, {}))(student, taught)
    assert value > 0

    exec_nets(blocks[5:], names)


def test_the_program_of_the_brain_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (pathlib.Path(__file__).parents[1] / "docs" / "brain.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {}
    exec(block, names)
    assert 0 < names["loss"] < 2
    batch = {"stimulus": np.arange(10)}
    teacher, student = names["teacher"], {"stimuli/pooled": names["student"]}
    taught = jax.jit(teacher.targets)(teacher.arrays, batch)
    apply = jax.jit(functools.partial(names["term"].apply, {}, terms.State()))
    value, _ = apply(student, taught, batch)
    assert 0 < value < 2


def exec_nets(blocks, names):
    """Weights from PyTorch, as a file in the working folder, and a captured model."""
    net = nets.build("resnet8", 100)
    images = np.random.default_rng(5).standard_normal((2, 32, 32, 3), np.float32)
    variables = jax.jit(net.init)(jax.random.key(6), images)
    from_torch.write("resnet8.safetensors", from_torch.to_torch("resnet8", variables))
    exec(blocks[0], names)
    teacher = names["teacher"]
    taught = jax.jit(teacher.targets)(teacher.arrays, {"image": images})
    expected = jax.jit(net.apply)(variables, images)
    np.testing.assert_array_equal(taught["logits"], expected["logits"])
    exec(blocks[1], names)
    assert names["seen"]["stage1"].shape == (8, 32, 32, 8)
    assert names["seen"]["stage2"].shape == (8, 32, 32, 16)


def test_the_table_lists_every_objective():
    rows = re.findall(r"^\| `(\w+)`", README, re.MULTILINE)
    assert sorted(rows) == sorted(LOSSES)


def test_every_file_that_is_linked_exists():
    root = pathlib.Path(__file__).parents[1]
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert links and all((root / link).exists() for link in links)
