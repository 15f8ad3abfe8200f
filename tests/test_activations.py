"""Activations in files: as good as the live net, whole or refused, resumed anywhere."""

import json
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from rdljax import activations, errors, files, nets, objectives, teachers, training

COUNT, CHUNK = 23, 4
LAYERS = ("features", "a/logits")
ABOUT = {"teacher": {"fingerprint": "5a"}, "data": ("random", 23)}
IMAGES = np.random.default_rng(0).standard_normal((COUNT, 5), np.float32)


def live(scale=1.0):
    """A teacher of two layers, and a third that nobody asks for."""
    random = np.random.default_rng(1)
    arrays = random.standard_normal((2, 5, 6), np.float32) * np.float32(scale)

    def targets(arrays, batch):
        features, logits = (jnp.tanh(batch["image"] @ x) for x in arrays)
        return {
            "features": features.reshape(-1, 3, 2),
            "a/logits": logits,
            "count": jnp.arange(len(logits)),
        }

    return teachers.Teacher(arrays, targets)


def see(index):
    return {"image": jnp.asarray(IMAGES)[index]}


def write(folder, teacher=None, see=see, images=COUNT, layers=LAYERS, **settings):
    settings = {"chunk": CHUNK, "about": ABOUT, "quiet": True} | settings
    return activations.write(folder, teacher or live(), see, images, layers, **settings)


def all_activations():
    """What the live teacher answers to all images at once."""
    teacher = live()
    found = teacher.targets(teacher.arrays, see(np.arange(COUNT)))
    return {layer: np.asarray(found[layer]) for layer in LAYERS}


def content(folder):
    return {x.name: x.read_bytes() for x in folder.glob("*.npy")}


class Seen:
    """`see` that keeps what it was asked for, and breaks off before a chunk."""

    def __init__(self, stop=None):
        self.firsts, self.stop = [], stop

    def __call__(self, index):
        # The first call is for the shape of one image.
        self.firsts.append(int(index[0]))
        if len(self.firsts) > 1 and index[0] == self.stop:
            raise KeyboardInterrupt
        return see(index)

    @property
    def computed(self):
        return self.firsts[1:]


# ---- round trips


def save_npz(path, arrays):
    np.savez(path, **arrays)


def save_hdf5(path, arrays):
    with h5py.File(path, "w") as file:
        for name, x in arrays.items():
            file[name] = x


def save_safetensors(path, arrays):
    safetensors.numpy.save_file(arrays, path)


def save_torch(path, arrays):
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file

    save_file({k: torch.from_numpy(x.copy()) for k, x in arrays.items()}, path)


SAVE = {
    "npz": (save_npz, "x.npz"),
    "h5": (save_hdf5, "x.h5"),
    "hdf5": (save_hdf5, "x.hdf5"),
    "safetensors": (save_safetensors, "x.safetensors"),
    "torch": (save_torch, "x.safetensors"),
}


@pytest.fixture(params=[*SAVE, "folder"])
def kept(request, tmp_path):
    """The same activations from each kind of file."""
    if request.param == "folder":
        write(tmp_path / "cache")
        return activations.read(tmp_path / "cache", images=COUNT)
    save, name = SAVE[request.param]
    arrays, order = all_activations(), np.random.default_rng(2).permutation(COUNT)
    arrays = {layer: np.ascontiguousarray(x[order]) for layer, x in arrays.items()}
    save(tmp_path / name, arrays | {"index": order.astype(np.int64)})
    return activations.read(tmp_path / name, images=COUNT)


class TestTeachers:
    index = np.int32([[4, 22, 0], [7, 8, 4]])

    def test_the_loss_is_that_of_the_live_net(self, kept):
        batch = {"index": self.index.ravel(), **see(self.index.ravel())}
        random = np.random.default_rng(3)
        student = {k: random.standard_normal((6, 8), np.float32) for k in LAYERS}

        def loss(teacher, batch):
            taught = teacher.targets(teacher.arrays, batch)
            taught = {layer: taught[layer] for layer in LAYERS}
            return float(jax.jit(objectives.rdl)(student, taught))

        expected = loss(live(), batch)
        on_device = activations.teacher(kept)
        assert loss(on_device, batch) == pytest.approx(expected, rel=1e-6)
        rows = activations.batch_reader(kept)(batch["index"])
        found = loss(teachers.from_batch(), {**batch, "targets": rows})
        assert found == pytest.approx(expected, rel=1e-6)

    def test_rows_of_any_batch(self, kept):
        found = activations.batch_reader(kept)(self.index)
        assert {k: x.shape for k, x in found.items()} == {
            "features": (2, 3, 3, 2),
            "a/logits": (2, 3, 6),
        }
        for layer, x in all_activations().items():
            np.testing.assert_allclose(found[layer], x[self.index], atol=1e-6)

    def test_another_entry_of_the_batch(self, tmp_path):
        kept = write(tmp_path / "cache")
        batch = {
            "place": np.int32([3]),
            "rows": activations.batch_reader(kept)(np.int32([3])),
        }
        looked_up = activations.teacher(kept, index="place")
        first = looked_up.targets(looked_up.arrays, batch)
        second = teachers.from_batch(entry="rows").targets((), batch)
        jax.tree.map(np.testing.assert_array_equal, first, second)

    def test_what_a_batch_brings_is_divided_over_the_devices(self, tmp_path):
        rows = activations.batch_reader(write(tmp_path / "cache"))
        batch = training.shard({"targets": rows(np.arange(16))})
        step = jax.pmap(lambda batch: teachers.from_batch().targets((), batch))
        assert step(batch)["features"].shape == (8, 2, 3, 2)

    def test_a_net(self, tmp_path):
        net = nets.build("mlp", 10)
        images = np.random.default_rng(0).standard_normal((5, 8, 8, 1), np.float32)
        teacher = teachers.net(net, net.init(jax.random.key(0), images))

        def look(index):
            return {"image": images[np.asarray(index)]}

        kept = write(tmp_path / "c", teacher, look, 5, ["logits"], dtype=jnp.float16)
        again = activations.read(tmp_path / "c")
        assert again.layers["logits"].dtype == np.float16
        expected = teachers.cache(teacher, look, 5, ["logits"])["logits"]
        for x in (kept, again):
            np.testing.assert_allclose(x.layers["logits"], expected, rtol=2e-3)


class TestFolder:
    def test_it_is_memory_mapped_and_says_what_it_is(self, tmp_path):
        for kept in (write(tmp_path / "c"), activations.read(tmp_path / "c")):
            assert kept.about == {
                "teacher": {"fingerprint": "5a"},
                "data": ["random", 23],
            }
            assert list(kept.layers) == list(LAYERS)
            for layer, x in all_activations().items():
                assert isinstance(kept.layers[layer], np.memmap)
                assert not kept.layers[layer].flags.writeable
                np.testing.assert_allclose(kept.layers[layer], x, atol=1e-6)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_in_fewer_bytes(self, dtype, tmp_path):
        write(tmp_path / "c", dtype=dtype)
        kept = activations.read(tmp_path / "c", layers=["features"])
        assert list(kept.layers) == ["features"]
        assert kept.layers["features"].dtype == jnp.dtype(dtype)
        assert activations.teacher(kept).arrays["features"].dtype == dtype
        np.testing.assert_allclose(
            kept.layers["features"].astype(np.float32),
            all_activations()["features"],
            atol=1e-2,
        )

    def test_numpy_alone_reads_a_layer(self, tmp_path):
        write(tmp_path / "c")
        found = np.load(tmp_path / "c" / "a%2Flogits.npy")
        np.testing.assert_allclose(found, all_activations()["a/logits"], atol=1e-6)

    @pytest.mark.parametrize("stop", [0, 8, 20])
    def test_it_goes_on_where_it_was_broken_off(self, stop, tmp_path):
        write(tmp_path / "whole")
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "c", see=Seen(stop))
        words = rf"unfinished: it has {stop} of 23 images; .*call `write`"
        with pytest.raises(errors.CannotRead, match=words):
            activations.read(tmp_path / "c")
        seen = Seen()
        write(tmp_path / "c", see=seen)
        assert seen.computed == list(range(stop, COUNT, CHUNK))
        assert content(tmp_path / "c") == content(tmp_path / "whole")
        again = Seen()
        write(tmp_path / "c", see=again)
        assert again.computed == []

    def test_a_line_that_was_cut_short_is_none(self, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "c", see=Seen(8))
        with (tmp_path / "c" / "chunks.jsonl").open("ab") as lines:
            lines.write(b'\n{"first": 8, "sha2')
        seen = Seen()
        write(tmp_path / "c", see=seen)
        assert seen.computed[0] == 8
        assert activations.read(tmp_path / "c", images=COUNT).layers

    def test_a_damaged_chunk_is_computed_again(self, tmp_path):
        write(tmp_path / "c")
        whole = content(tmp_path / "c")
        with (tmp_path / "c" / "features.npy").open("r+b") as file:
            # Image 9; a row has 24 bytes, and the head 128.
            file.seek(128 + 9 * 24)
            file.write(b"\1")
        words = "damaged: images 8 to 11 of layer 'features' were changed"
        with pytest.raises(errors.CannotRead, match=words):
            activations.read(tmp_path / "c")
        activations.read(tmp_path / "c", verify=False)
        activations.read(tmp_path / "c", layers=["a/logits"])
        seen = Seen()
        write(tmp_path / "c", see=seen)
        assert seen.computed == [8] and content(tmp_path / "c") == whole

    @pytest.mark.parametrize("how", ["flipped", "shortened", "emptied", "removed"])
    def test_any_damage_is_seen_and_mended(self, how, tmp_path):
        write(tmp_path / "whole")
        whole, random = content(tmp_path / "whole"), np.random.default_rng(4)
        names = sorted(x.name for x in (tmp_path / "whole").iterdir())
        assert len(names) == 4
        for name in names * (3 if how == "flipped" else 1):
            shutil.rmtree(tmp_path / "c", ignore_errors=True)
            shutil.copytree(tmp_path / "whole", tmp_path / "c")
            path = tmp_path / "c" / name
            found = bytearray(path.read_bytes())
            if how == "flipped":
                found[random.integers(len(found))] ^= 1 << random.integers(8)
            elif how == "shortened":
                found = found[: random.integers(1, len(found) - 2)]
            path.write_bytes(b"" if how == "emptied" else found)
            if how == "removed":
                path.unlink()
            try:
                kept = activations.read(tmp_path / "c")
            except errors.CannotRead:
                pass
            else:
                assert how == "flipped", "the head's padding, or a line's"
                for layer, x in activations.read(tmp_path / "whole").layers.items():
                    np.testing.assert_array_equal(kept.layers[layer], x)
            if name == "manifest.json":
                with pytest.raises((errors.CannotRead, activations.OtherActivations)):
                    write(tmp_path / "c")
            else:
                write(tmp_path / "c")
                kept = activations.read(tmp_path / "c")
                if how != "flipped":
                    assert content(tmp_path / "c") == whole

    def test_maps_of_channels_first_are_turned_once(self, tmp_path):
        # 23 images, maps of 2 channels and 2 x 2, which no shape tells apart.
        maps = np.random.default_rng(5).standard_normal((COUNT, 2, 2, 2), np.float32)
        arrays = {"maps": maps, "tokens": maps[:, 0], "volume": maps[:, None]}

        def targets(arrays, batch):
            return {k: x[batch["index"]] for k, x in arrays.items()}

        def store(folder, **settings):
            given = teachers.Teacher(jax.tree.map(jnp.asarray, arrays), targets)
            look = lambda index: {"index": index}  # noqa: E731
            return write(tmp_path / folder, given, look, layers=[*arrays], **settings)

        expected = arrays | {"maps": np.moveaxis(maps, 1, 3)}
        store("plain", chunk=12)
        for kept in (
            store("turned", chunk=12, layout="NCHW"),
            activations.read(tmp_path / "turned"),
            activations.read(tmp_path / "turned", layout="NCHW"),
            activations.read(tmp_path / "plain", layout="NCHW"),
        ):
            for layer, x in expected.items():
                np.testing.assert_array_equal(kept.layers[layer], x, layer)
        plain = activations.read(tmp_path / "plain").layers["maps"]
        np.testing.assert_array_equal(plain, maps)
        words = "layout: stored NCHW, expected NHWC$"
        with pytest.raises(activations.OtherActivations, match=words):
            store("turned", chunk=12)
        for call in (
            lambda: store("new", layout="NWHC"),
            lambda: activations.read(tmp_path / "turned", layout="NWHC"),
        ):
            with pytest.raises(ValueError, match="no layout 'NWHC'; did you mean"):
                call()

    def test_a_folder_without_a_word_of_the_layout_goes_on(self, tmp_path):
        """As those that were written before."""
        write(tmp_path / "c", layers=["features"])
        path = tmp_path / "c" / "manifest.json"
        manifest = json.loads(path.read_text())
        del manifest["layout"]
        manifest["sha256"] = files.sha256_of_manifest(manifest)
        path.write_text(json.dumps(manifest))
        with pytest.raises(
            activations.OtherActivations, match="stored NHWC, expected NCHW"
        ):
            write(tmp_path / "c", layers=["features"], layout="NCHW")
        seen = Seen()
        write(tmp_path / "c", layers=["features"], see=seen)
        assert seen.computed == [] and activations.read(tmp_path / "c").layers

    def test_where_tqdm_is_absent_it_is_told_first(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tqdm", None)
        words = r'quiet=False\) needs the package tqdm: .*"rdljax\[training\]"'
        with pytest.raises(ImportError, match=words):
            write(tmp_path / "c", quiet=False)
        assert not (tmp_path / "c").exists()

    def test_the_bar_is_on_stderr(self, tmp_path, capsys):
        write(tmp_path / "cache", quiet=False)
        said = capsys.readouterr()
        assert said.out == "" and "cache" in said.err and "6/6" in said.err
        write(tmp_path / "other")
        assert capsys.readouterr() == ("", "")


KILLED = """
import os, pathlib, signal, sys
from tests import test_activations as setting

folder, how, number = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
seen = 0

def watch(event, args):
    global seen
    if event == how and str(folder) in str(args[0]):
        # Of the files that are opened, those that are written into.
        seen += how != "open" or str(args[1]).startswith("r+")
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)

class Seen(setting.Seen):
    def __call__(self, index):
        if how == "see" and len(self.firsts) == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(index)

sys.addaudithook(watch)
setting.write(folder, see=Seen())
"""


@pytest.mark.parametrize(
    ("how", "number", "there"),
    [
        # Before the third chunk; before its second layer (the files are made by four
        # such openings); before the manifest is in its place.
        ("see", 3, 8),
        ("open", 8, 8),
        ("os.rename", 1, None),
    ],
)
def test_one_that_was_killed_goes_on(how, number, there, tmp_path):
    root, folder = pathlib.Path(__file__).parents[1], tmp_path / "c"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(folder), how, str(number)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    words = "no manifest.json" if there is None else f"{there} of 23 images"
    with pytest.raises(errors.CannotRead, match=words):
        activations.read(folder)
    seen = Seen()
    write(folder, see=seen)
    assert seen.computed[0] == (there or 0)
    write(tmp_path / "whole")
    assert content(folder) == content(tmp_path / "whole")


# ---- refusals


class TestWriteRefuses:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            pytest.param(
                {"about": {"teacher": 1}},
                r"about 'teacher': stored {\"fingerprint\": \"5a\"}, expected 1\n"
                r"  about 'data': stored \[\"random\", 23\], expected nothing$",
                id="about",
            ),
            pytest.param(
                {"images": 20}, "  images: stored 23, expected 20$", id="images"
            ),
            pytest.param({"chunk": 5}, "chunk: stored 4, expected 5$", id="chunk"),
            pytest.param(
                {"layers": ["features"]},
                r"layer 'a/logits': stored float32\[6\], expected nothing$",
                id="layers",
            ),
            pytest.param(
                {"dtype": "float16"},
                r"layer 'features': stored float32\[3, 2\], expected float16\[3, 2\]\n",
                id="dtype",
            ),
        ],
    )
    def test_a_folder_of_other_activations(self, changes, words, tmp_path):
        write(tmp_path / "c")
        found = content(tmp_path / "c")
        with pytest.raises(activations.OtherActivations, match=words):
            write(tmp_path / "c", **changes)
        assert content(tmp_path / "c") == found

    def test_a_folder_of_something_else(self, tmp_path):
        (tmp_path / "mine.txt").touch()
        for path in (tmp_path, tmp_path / "mine.txt"):
            with pytest.raises(
                activations.OtherActivations, match="holds something else"
            ):
                write(path)

    def test_layers_that_the_teacher_does_not_have(self, tmp_path):
        with pytest.raises(ValueError, match="no layer 'feature'; did you mean 'feat"):
            write(tmp_path / "c", layers=["feature"])
        with pytest.raises(ValueError, match=r"'count' is int32\[1\].*floating-point"):
            write(tmp_path / "c", layers=["count"])
        assert not (tmp_path / "c").exists()

    @pytest.mark.parametrize(
        "changes", [{"images": 0}, {"layers": []}, {"chunk": 0}], ids=str
    )
    def test_nothing(self, changes, tmp_path):
        with pytest.raises(ValueError, match="expected 1 or more, got"):
            write(tmp_path / "c", **changes)

    def test_a_layer_without_a_row_an_image(self, tmp_path):
        mean = teachers.Teacher((), lambda arrays, batch: {"m": batch["image"].mean(1)})
        alone = mean._replace(targets=lambda arrays, batch: {"m": jnp.zeros((2, 3))})
        write(tmp_path / "c", mean, layers=["m"])
        with pytest.raises(ValueError, match=r"'m' is float32\[2, 3\] for one image"):
            write(tmp_path / "d", alone, layers=["m"])

    def test_what_is_not_finite(self, tmp_path):
        def broken(index):
            return {
                "image": jnp.where(index[:, None] == 10, jnp.nan, see(index)["image"])
            }

        words = "layer '.*' is not finite in float32 for image 10"
        with pytest.raises(ValueError, match=words):
            write(tmp_path / "c", see=broken)
        with pytest.raises(errors.CannotRead, match="8 of 23 images"):
            activations.read(tmp_path / "c")

    def test_what_the_dtype_cannot_hold(self, tmp_path):
        large = teachers.Teacher((), lambda arrays, batch: {"x": 1e5 + batch["image"]})
        with pytest.raises(ValueError, match="not finite in float16 for image 0"):
            write(tmp_path / "c", large, layers=["x"], dtype="float16")


def rows(**arrays):
    """Two layers of three rows, and others or instead."""
    return {
        "a": np.arange(6, dtype=np.float32).reshape(3, 2),
        "b": np.ones((3, 1, 1)),
        **arrays,
    }


NAN = np.float32([[0, 1], [np.inf, 2], [np.nan, 3]])
REFUSED = {
    "rows": (rows(b=np.ones((4, 1))), {}, "different numbers of rows: 'a' 3, 'b' 4"),
    "images": (rows(), {"images": 4}, "has 3 rows, expected 4"),
    "integers": (rows(label=np.arange(3)), {}, "'label' is int64, and activations are"),
    "nothing": ({"index": np.arange(3)}, {}, "no array of activations"),
    "none chosen": (rows(), {"layers": []}, "no array of activations, or none"),
    "number": ({"a": np.array(3.0)}, {}, r"'a' is \[\], without a row"),
    "empty": ({"a": np.ones((0, 3))}, {}, r"'a' is \[0, 3\], without a row"),
    "finite": (rows(a=NAN), {}, "'a' is not finite in row 1"),
    "layer": (rows(), {"layers": ["c"]}, "no layer 'c'.* Known: a, b"),
    "index rows": (rows(index=np.arange(2)), {}, "numbers of rows: .*'index' 2"),
    "index twice": (
        rows(index=np.array([0, 2, 2])),
        {},
        "to 2 once: 1 occurs 0 times",
    ),
    "index beyond": (rows(index=np.array([0, 1, 3])), {}, "once: 2 occurs 0 times"),
    "index floats": (
        rows(index=np.arange(3.0)),
        {},
        "'index' is float64, expected int",
    ),
    "index shape": (rows(index=np.ones((3, 1), int)), {}, r"'index' is \[3, 1\], not"),
    "no ids": (rows(), {"ids": [1, 2, 3]}, "has no array 'ids'"),
    "ids count": (rows(ids=np.arange(3)), {"ids": range(4)}, "has 3 rows, expected 4"),
    "ids order": (
        rows(ids=np.array([5, 7, 6])),
        {"ids": [5, 6, 7]},
        "the same ids in another order: row 1 is 7, expected 6; with an array 'index'",
    ),
    "ids others": (
        rows(ids=np.array([5, 7, 7])),
        {"ids": np.array([5, 6, 7])},
        "other ids: 6 missing$",
    ),
}


class TestReadRefuses:
    @pytest.mark.parametrize("kind", ["npz", "h5", "safetensors"])
    @pytest.mark.parametrize("name", REFUSED)
    def test_rows_that_are_not_those_of_the_data(self, name, kind, tmp_path):
        arrays, settings, words = REFUSED[name]
        save, file = SAVE[kind]
        save(tmp_path / file, arrays)
        with pytest.raises(ValueError, match=words) as refusal:
            activations.read(tmp_path / file, **settings)
        assert str(tmp_path) in str(refusal.value) or name == "layer"

    def test_what_is_of_another_kind(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no file .*none\.npz"):
            activations.read(tmp_path / "none.npz")
        (tmp_path / "x.pt").touch()
        with pytest.raises(errors.CannotRead, match=r"end with \.npz, \.h5, \.hdf5, "):
            activations.read(tmp_path / "x.pt")
        with pytest.raises(errors.CannotRead, match=r"has no manifest\.json"):
            activations.read(tmp_path)

    @pytest.mark.parametrize("name", ["x.npz", "x.h5", "x.hdf5", "x.safetensors"])
    def test_what_is_not_what_its_name_says(self, name, tmp_path):
        for text in (b"", b"something else", pickle.dumps({"a": [1.0]})):
            (tmp_path / name).write_bytes(text)
            with pytest.raises(errors.CannotRead, match=f"{name} is not a"):
                activations.read(tmp_path / name)

    def test_pickled_content(self, tmp_path):
        class Trap:
            def __reduce__(self):
                return os.mkdir, (str(tmp_path / "ran"),)

        np.savez(tmp_path / "x.npz", a=np.array([Trap()], object), b=np.ones((1, 2)))
        with pytest.raises(errors.CannotRead, match="allow_pickle"):
            activations.read(tmp_path / "x.npz")
        assert activations.read(tmp_path / "x.npz", layers=["b"]).layers["b"].sum() == 2
        assert not (tmp_path / "ran").exists()

    def test_a_folder_of_other_images_or_layers(self, tmp_path):
        write(tmp_path / "c")
        for settings, words in (
            ({"images": 24}, "has 23 rows, expected 24"),
            ({"layers": ["logits"]}, "did you mean 'a/logits'"),
            ({"layers": []}, "none is selected"),
            ({"ids": range(COUNT)}, "no array 'ids'"),
        ):
            with pytest.raises(ValueError, match=words):
                activations.read(tmp_path / "c", **settings)

    def test_a_folder_of_a_later_version(self, tmp_path):
        write(tmp_path / "c")
        path = tmp_path / "c" / "manifest.json"
        manifest = json.loads(path.read_text()) | {"format": 2}
        manifest["sha256"] = files.sha256_of_manifest(manifest)
        path.write_text(json.dumps(manifest))
        with pytest.raises(errors.CannotRead, match="in format 2, .* reads format 1"):
            activations.read(tmp_path / "c")

    def test_a_manifest_of_wrong_fields(self, tmp_path):
        write(tmp_path / "c")
        path = tmp_path / "c" / "manifest.json"
        whole = json.loads(path.read_text())
        layers = ({"shape": [23, -1], "dtype": "f4"}, {"shape": [23], "dtype": "O"})
        for changes, words in (
            ({"images": None}, "manifest.json.images is 'None', expected a whole"),
            ({"images": 10**12}, "has a layer without 1000000000000 rows"),
            ({"images": True}, "images is 'True'"),
            ({"chunk": 0}, "chunk is '0', expected a whole number of 1 or more"),
            ({"chunk": 4.0}, "chunk is '4.0'"),
            ({"layout": "NWHC"}, "layout is 'NWHC', expected NHWC or NCHW"),
            ({"layers": []}, r"layers is '\[\]', expected dict"),
            ({"layers": {"x": layers[0]}}, r"x.shape\[1\] is '-1'"),
            ({"layers": {"x": layers[1]}}, "x.dtype is 'O'"),
            ({"layers": {"x": layers[1] | {"dtype": 4}}}, "x.dtype is '4'"),
            ({"layers": {"x": {"shape": [23]}}}, "x lacks 'dtype'"),
            ({"layers": {"x": 1}}, "x is '1', expected dict"),
            ({"about": "x"}, "about is 'x', expected dict"),
            ({"format": None}, "in format None"),
            *(({key: ...}, key) for key in whole.keys() - {"sha256", "layout"}),
        ):
            manifest = {k: x for k, x in (whole | changes).items() if x is not ...}
            manifest["sha256"] = files.sha256_of_manifest(manifest)
            path.write_text(json.dumps(manifest))
            with pytest.raises(errors.CannotRead, match=words):
                activations.read(tmp_path / "c")
        with pytest.raises(errors.CannotRead, match="damaged|in format"):
            write(tmp_path / "c")

    def test_as_many_images_as_nobody_counts_to(self, tmp_path):
        # All of them in a file with a hole, which takes no room.
        images = 10**12
        write(tmp_path / "c", images=1, layers=["a/logits"])
        path = tmp_path / "c" / "manifest.json"
        manifest = json.loads(path.read_text()) | {"images": images, "chunk": 1}
        manifest["layers"] = {"a": {"shape": [images], "dtype": "float16"}}
        manifest["sha256"] = files.sha256_of_manifest(manifest)
        path.write_text(json.dumps(manifest))
        with (tmp_path / "c" / "a.npy").open("wb") as file:
            head = {"descr": "<f2", "fortran_order": False, "shape": (images,)}
            np.lib.format.write_array_header_1_0(file, head)
            file.truncate(file.tell() + 2 * images)
        with pytest.raises(errors.CannotRead, match="1 of 1000000000000 images"):
            activations.read(tmp_path / "c")

    @pytest.mark.parametrize("name", ["manifest.json", "chunks.jsonl", "features.npy"])
    def test_pipes_and_links(self, name, tmp_path):
        write(tmp_path / "c")
        path, kept = tmp_path / "c" / name, tmp_path / "diary"
        path.rename(kept)
        before = kept.read_bytes()
        path.symlink_to(kept)
        if name != "manifest.json":  # (It is only read.)
            with pytest.raises(
                activations.OtherActivations, match=f"{name} is not a regular file"
            ):
                write(tmp_path / "c", about=ABOUT)
        assert kept.read_bytes() == before
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(errors.CannotRead):
            activations.read(tmp_path / "c")
        os.mkfifo(tmp_path / "x.npz")
        with pytest.raises(FileNotFoundError):
            activations.read(tmp_path / "x.npz")

    @pytest.mark.parametrize("package", ["h5py", "safetensors"])
    def test_where_a_package_is_absent(self, package, monkeypatch, tmp_path):
        kind = {"h5py": "h5"}.get(package, package)
        save, file = SAVE[kind]
        save(tmp_path / file, rows())
        for name in (package, "safetensors.numpy"):
            monkeypatch.setitem(sys.modules, name, None)
        words = rf'pip install {package}, or pip install "rdljax\[weights\]"'
        with pytest.raises(errors.CannotRead, match=words):
            activations.read(tmp_path / file)


class TestRead:
    @pytest.mark.parametrize("kind", ["npz", "h5"])
    def test_ids_may_be_words(self, kind, tmp_path):
        save, file = SAVE[kind]
        words = np.array(["b.png", "a.png", "ö.png"])
        ids = [x.encode() for x in words.tolist()] if kind == "h5" else words
        save(tmp_path / file, rows(ids=ids, index=np.array([1, 0, 2])))
        kept = activations.read(tmp_path / file, ids=["a.png", "b.png", "ö.png"])
        np.testing.assert_array_equal(kept.layers["a"][0], [2, 3])
        assert activations.read(tmp_path / file).layers["a"].shape == (3, 2)
        with pytest.raises(errors.CannotRead, match=r"ids: 'c.png' missing"):
            activations.read(tmp_path / file, ids=["a.png", "c.png", "ö.png"])

    def test_groups_of_hdf5_and_the_other_order_of_bytes(self, tmp_path):
        save_hdf5(tmp_path / "x.h5", rows(**{"net/block1/c": np.ones((3, 2), ">f4")}))
        kept = activations.read(tmp_path / "x.h5")
        assert set(kept.layers) == {"a", "b", "net/block1/c"}
        on_device = activations.teacher(kept).arrays
        assert on_device["net/block1/c"].sum() == 6

    def test_the_array_of_an_npy_file(self, tmp_path):
        x = np.random.default_rng(6).standard_normal((5, 3, 2, 4))
        np.save(tmp_path / "block3.npy", x.astype(">f4"))
        np.save(tmp_path / "half.npy", np.asfortranarray(x.astype(np.float16)))
        with open(tmp_path / "UP.NPY", "wb") as file:
            np.save(file, x[:, 0, 0])
        kept = activations.read(tmp_path / "block3.npy", images=5, layout="NCHW").layers
        assert list(kept) == ["block3"] and kept["block3"].dtype == np.float32
        expected = np.moveaxis(x.astype(np.float32), 1, 3)
        np.testing.assert_array_equal(kept["block3"], expected)
        kept = activations.read(tmp_path / "half.npy", layers=["half"])
        assert isinstance(kept.layers["half"], np.memmap)
        rows = activations.batch_reader(kept)(np.array([4, 1]))["half"]
        np.testing.assert_array_equal(rows, x[[4, 1]].astype(np.float16))
        up = activations.read(tmp_path / "UP.NPY").layers["UP"]
        np.testing.assert_array_equal(up, x[:, 0, 0])

    def test_what_is_no_npy_file_of_activations(self, tmp_path):
        x = np.ones((3, 2))
        for bad, settings, words in (
            (np.arange(3), {}, "'a' is int64, and activations are floating"),
            (np.array([[1.0], [np.nan]]), {}, "'a' is not finite in row 1"),
            (np.array([{}, 1.0]), {}, "a.npy is not an .npy file of an array"),
            (x, {"images": 4}, "has 3 rows, expected 4"),
            (x, {"ids": [1, 2, 3]}, "has no array 'ids' to compare"),
            (x, {"layers": ["b"]}, "no layer 'b'.* Known: a"),
        ):
            np.save(tmp_path / "a.npy", bad)
            with pytest.raises(ValueError, match=words):
                activations.read(tmp_path / "a.npy", **settings)
        whole = (tmp_path / "a.npy").read_bytes()
        for content in (whole[:-3], whole[:20], b"", b"\x93NUMPY no"):
            (tmp_path / "a.npy").write_bytes(content)
            with pytest.raises(errors.CannotRead, match="a.npy is not an .npy file"):
                activations.read(tmp_path / "a.npy")

    @pytest.mark.parametrize("name", ["X.NPZ", "x.Hdf5", "x.SAFETENSORS"])
    def test_a_suffix_may_be_in_capitals_and_the_path_at_home(
        self, name, tmp_path, monkeypatch
    ):
        monkeypatch.setenv("HOME", str(tmp_path))
        save, file = SAVE[name.lower().partition(".")[2]]
        save(tmp_path / file, rows())
        (tmp_path / file).rename(tmp_path / name)
        assert activations.read(f"~/{name}").layers["a"].sum() == 15

    def test_no_other_layer_is_looked_at(self, tmp_path):
        save_npz(tmp_path / "x.npz", rows(label=np.arange(3), bad=NAN))
        kept = activations.read(tmp_path / "x.npz", layers=["b"])
        assert list(kept.layers) == ["b"] and kept.about == {}
