"""Images that stay in files: decoded by hand, cropped alike every way, trained on."""

import io
import json
import os
import tracemalloc
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from experiments import command, data, run
from experiments.data import decoding, records, sets
from experiments.training import context as contexts
from experiments.training import experiment, interrupts, loop, teaching
from rdljax import nets, teachers
from tests import quick, test_data
from tests import test_experiments as experiments

tfds = pytest.importorskip("tensorflow_datasets")
image_module = pytest.importorskip("PIL.Image")
image_file = pytest.importorskip("PIL.ImageFile")

CLASSES = 3


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def photograph(rng, height, width, channels=3):
    """Waves of every length, uint8 `[H, W, C]`, whose pixels all differ in place."""
    y, x = np.mgrid[:height, :width][..., None]
    waves = sum(
        rng.uniform(10, 40, channels)
        * np.sin(
            (y * rng.uniform(-1, 1) + x * rng.uniform(-1, 1)) * length
            + rng.uniform(0, 6, channels)
        )
        for length in (0.02, 0.05, 0.1, 0.2)
    )
    return np.clip(128 + waves, 0, 255).astype(np.uint8)


def jpeg(pixels):
    file = io.BytesIO()
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    image_module.fromarray(pixels).save(file, "JPEG", quality=92)
    return file.getvalue()


def photographs(count, seed, sizes=(40, 90)):
    rng = np.random.default_rng(seed)
    return [
        {"image": jpeg(photograph(rng, *rng.integers(*sizes, 2))), "label": i % CLASSES}
        for i in range(count)
    ]


def write(folder, name, splits, shape=(None, None, 3)):
    image = tfds.features.Image(shape=shape, encoding_format="jpeg")
    label = tfds.features.ClassLabel(num_classes=CLASSES)
    features = {"image": image, "label": label}
    test_data._write(folder, name, splits, features=features)


SPLITS = {"train": photographs(60, 0), "validation": photographs(12, 1)}
LABELS = {x["image"]: x["label"] for split in SPLITS.values() for x in split}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same images of varying size as two sets."""
    made = tmp_path_factory.mktemp("data")
    write(made, "imagenet2012", SPLITS)
    write(made, "flowers", SPLITS)
    return str(made)


@pytest.fixture
def dataset(folder):
    return data.load("imagenet2012", folder, size=32)


def encoded(images):
    """The bytes of each image."""
    return [images.source.examples[int(n)]["image"] for n in images.index]


def whole(content):
    """A decoded image, float64 `[H, W, C]`."""
    with image_module.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"), np.float64)


def resampled(pixels, box, size):
    """A part of an image in another size, by the definition of its filter.

    A triangle as wide as two pixels of the image or of the result, whichever is more;
    one axis after the other, rounded after each.
    """
    for axis, (first, last, count) in enumerate(
        zip(box[:2], box[2:], size, strict=True)
    ):
        scale = (last - first) / count
        centres = first + (np.arange(count) + 0.5) * scale
        places = np.arange(pixels.shape[axis]) + 0.5
        away = np.abs(places - centres[:, None]) / max(scale, 1)
        weights = np.maximum(1 - away, 0)
        weights /= weights.sum(axis=1, keepdims=True)
        pixels = np.moveaxis(np.tensordot(weights, pixels, (1, axis)), 0, axis)
    return np.clip(np.round(pixels), 0, 255)


def slow_middle(pixels, side):
    height, width = pixels.shape[:2]
    shorter = round(side * 8 / 7)
    size = [shorter * n // min(height, width) for n in (height, width)]
    scaled = resampled(pixels, (0, 0, height, width), size)
    top, left = (round((n - side) / 2) for n in size)
    return scaled[top : top + side, left : left + side]


class TestLabels:
    def test_they_are_those_of_the_images(self, dataset):
        for split in (dataset.train, dataset.validation, dataset.test):
            expected = [LABELS[content] for content in encoded(split.image)]
            np.testing.assert_array_equal(split.label, expected)
            assert split.label.dtype == np.int32
        every = encoded(dataset.train.image) + encoded(dataset.validation.image)
        assert sorted(every) == sorted(x["image"] for x in SPLITS["train"])
        assert len(dataset.train.label) == 54 and len(dataset.test.label) == 12

    def test_fewer_of_each_class(self, folder, dataset):
        few = data.load("imagenet2012", folder, size=32, train_per_class=5)
        assert few.train.image.shape == (15, 32, 32, 3)
        kept = np.isin(dataset.train.image.index, few.train.image.index)
        np.testing.assert_array_equal(few.train.image[:], dataset.train.image[kept])
        np.testing.assert_array_equal(few.train.label, dataset.train.label[kept])

    @pytest.fixture
    def looks(self, monkeypatch):
        """The numbers of records whose labels were read."""
        seen, real = [], records.read_labels_and_sizes

        def look(source, numbers):
            seen.extend(numbers)
            return real(source, numbers)

        monkeypatch.setattr(records, "read_labels_and_sizes", look)
        monkeypatch.setattr(records, "_CHUNK", 7)
        return seen

    def test_those_of_a_large_set_are_read_once(self, tmp_path, looks, monkeypatch):
        monkeypatch.setattr(records, "KEPT", 60)
        write(tmp_path, "imagenet2012", SPLITS)
        first = data.load("imagenet2012", str(tmp_path), size=32)
        assert sorted(looks) == sorted([*range(60), *range(12)])
        (kept,) = (tmp_path / "cache" / "rdljax" / "labels").iterdir()
        (file,) = (tmp_path / "imagenet2012" / "1.0.0").glob("*train*")

        def again():
            looks.clear()
            other = data.load("imagenet2012", str(tmp_path), size=32)
            np.testing.assert_array_equal(other.train.label, first.train.label)
            assert other.train.image.varied
            return sorted(looks) == [*range(12)]

        assert again()
        content = kept.read_bytes()
        kept.write_bytes(content[:200])
        assert not again() and again()
        for wrong in (np.zeros(59, np.int32), np.zeros(60)):
            np.savez(kept.with_suffix(""), label=wrong, sizes=[(1, 1), (2, 2)])
            assert not again() and again()
        os.utime(file, ns=(1, 1))
        assert not again() and again()

    def test_those_of_a_small_set_are_not_kept(self, folder, tmp_path, looks):
        for _ in range(2):
            data.load("imagenet2012", folder, size=32)
            assert sorted(looks) == sorted([*range(60), *range(12)])
            looks.clear()
        assert not (tmp_path / "cache").exists()

    def test_hidden_ones_are_no_test(self, tmp_path):
        hidden = [example | {"label": -1} for example in photographs(5, 2)]
        write(tmp_path, "imagenet2012", SPLITS | {"test": hidden})
        dataset = data.load("imagenet2012", str(tmp_path), size=32)
        assert len(dataset.test.label) == 12
        assert "'validation' as test images since it has no 'test' with" in dataset.note


class TestEvaluation:
    @pytest.mark.parametrize(
        "key",
        [
            3,
            -1,
            slice(2, 9),
            slice(None, None, 20),
            np.array([5, 0, 5]),
            np.array([[1, 2, 3], [4, 5, 6]], np.int32),
            np.array([], int),
            np.arange(54) % 25 == 4,
        ],
        ids=str,
    )
    def test_indexed_as_an_array(self, key, dataset):
        images = dataset.train.image
        numbers = np.arange(54)[key]
        found = images[key]
        assert found.shape == (*numbers.shape, 32, 32, 3) and found.dtype == np.uint8
        contents = encoded(images)
        for place in np.ndindex(numbers.shape):
            expected = slow_middle(whole(contents[numbers[place]]), 32)
            np.testing.assert_allclose(found[place], expected, atol=1)

    def test_it_is_no_array(self, dataset):
        images = dataset.test.image
        assert len(images) == 12 and images.shape == (12, 32, 32, 3)
        assert images.dtype == np.uint8 and dataset.shape == (32, 32, 3)
        with pytest.raises(IndexError):
            images[12]
        for convert in (np.asarray, jnp.asarray):
            with pytest.raises(
                TypeError, match="validation.* is not loaded into memory"
            ):
                convert(images)

    @pytest.mark.parametrize("side", [8, 32, 100])
    @pytest.mark.parametrize("size", [(40, 40), (41, 90), (90, 37), (300, 31)])
    def test_the_middle_of_an_image(self, side, size):
        pixels = photograph(np.random.default_rng(0), *size)
        found = np.asarray(decoding.centre_crop(image_module.fromarray(pixels), side))
        expected = slow_middle(pixels.astype(float), side)
        np.testing.assert_allclose(found, expected, atol=1)

    def test_the_middle_for_224_pixels(self):
        """Of 256 x 341 the middle is 16 pixels from the top and 58 from the left."""
        pixels = photograph(np.random.default_rng(1), 256, 341)
        found = decoding.centre_crop(image_module.fromarray(pixels), 224)
        np.testing.assert_array_equal(found, pixels[16:240, 58:282])

    def test_grey_images_get_three_channels(self, tmp_path):
        rng = np.random.default_rng(5)
        sizes = [(40, 40), (50, 40), (40, 50), (60, 60)]
        grey = [photograph(rng, *size, 1) for size in sizes]
        split = [{"image": jpeg(x), "label": i % 3} for i, x in enumerate(grey)]
        write(tmp_path, "grey", {"train": split, "test": split})
        images = data.load("grey", str(tmp_path), size=32).test.image
        for found, content in zip(images[:], encoded(images), strict=True):
            assert found.shape == (32, 32, 3)
            np.testing.assert_array_equal(found, found[..., :1].repeat(3, -1))
            np.testing.assert_allclose(found, slow_middle(whole(content), 32), atol=1)


def test_colours_are_looked_up_before_pixels_are_mixed():
    """Scaled indices of a palette, or scaled alpha, would be other colours."""
    rng = np.random.default_rng(7)
    palette = rng.integers(0, 256, (8, 3), np.uint8)
    index = rng.integers(0, 8, (40, 51)).astype(np.uint8)
    alike = image_module.fromarray(palette[index])
    for transparent in ({}, {"transparency": bytes(range(0, 256, 32))}):
        indexed, file = image_module.fromarray(index), io.BytesIO()
        indexed.putpalette(palette.tobytes())
        indexed.save(file, "PNG", **transparent)
        with image_module.open(file) as image:
            for box in ((0, 0, 51, 40), (3, 5, 20, 31)):
                found, true = (
                    decoding.crop_and_resize(x, box, 16, "RGB") for x in (image, alike)
                )
                np.testing.assert_array_equal(found, true)


class TestRandomBox:
    def test_areas_and_aspects(self):
        rng = np.random.default_rng(0)
        boxes = np.array([decoding.random_box(1000, 1000, rng) for _ in range(4000)])
        left, top, width, height = boxes.T
        area, aspect = width * height / 1e6, width / height
        # (Sides are whole pixels: a side of 240 may be 0.2 % too long.)
        assert 0.08 * 0.99 < area.min() < 0.085 and 0.95 < area.max() <= 1
        assert 0.75 * 0.99 < aspect.min() < 0.76 and 1.32 < aspect.max() < 4 / 3 * 1.01
        # What is below 3/4 of a square's area fits with any aspect.
        fits = area < 0.75
        span = np.log(4 / 3)
        drawn = np.stack(
            [
                (area[fits] - 0.08) / 0.67,
                np.log(aspect[fits]) / span / 2 + 0.5,
                left[fits] / (1000 - width[fits]),
                top[fits] / (1000 - height[fits]),
            ]
        )
        for one in drawn:
            assert stats.kstest(one, stats.uniform.cdf).pvalue > 0.01
        # The deviation of a correlation of independent draws is 1 / sqrt(n).
        away = np.corrcoef(drawn) - np.eye(4)
        assert np.abs(away).max() < 5 / np.sqrt(fits.sum()) < 0.1

    @pytest.mark.parametrize("size", [(500, 375), (31, 300), (7, 5), (2, 1)])
    def test_they_lie_in_the_image(self, size):
        rng = np.random.default_rng(1)
        for _ in range(500):
            left, top, width, height = decoding.random_box(*size, rng)
            assert left >= 0 and top >= 0 and width >= 1 and height >= 1
            assert left + width <= size[0] and top + height <= size[1]

    @pytest.mark.parametrize(
        ("size", "box"),
        [
            # No part of 8 % fits: as much of the middle as has an allowed aspect.
            ((1000, 9), (494, 0, 12, 9)),
            ((9, 1000), (0, 494, 9, 12)),
        ],
    )
    def test_narrow_images(self, size, box):
        assert decoding.random_box(*size, np.random.default_rng(2)) == box


class TestTraining:
    when = np.array([3, 7])

    def slow(self, images, places, seed, epoch):
        seen, contents = [], encoded(images)
        for place in places:
            rng = np.random.default_rng((seed, epoch, images.index[place], 1))
            pixels = whole(contents[place])
            height, width = pixels.shape[:2]
            left, top, w, h = decoding.random_box(width, height, rng)
            box = (top, left, top + h, left + w)
            seen.append(resampled(pixels, box, (32, 32)))
        return np.array(seen)

    def test_as_the_slow_form(self, dataset):
        images = dataset.train.image
        # (Those that are decoded at a half of their size have a test below.)
        small = [
            i for i, x in enumerate(encoded(images)) if min(whole(x).shape[:2]) < 64
        ]
        index = np.array(small[:20])
        found = images.cropped(index, self.when)
        assert found.shape == (20, 32, 32, 3) and found.dtype == np.uint8
        np.testing.assert_allclose(found, self.slow(images, index, 3, 7), atol=1)

    def test_a_large_image_is_decoded_at_a_part_of_its_size(self):
        pixels = photograph(np.random.default_rng(0), 480, 640)
        content = jpeg(pixels)
        for box, decoded in (
            ((0, 0, 640, 480), (80, 60)),  # The 32 pixels would fit 15 times.
            ((101, 57, 150, 133), (160, 120)),
            ((101, 57, 50, 60), (640, 480)),
        ):
            left, top, width, height = box
            with image_module.open(io.BytesIO(content)) as image:
                found = np.asarray(
                    decoding.crop_and_resize(image, box, 32, "RGB"), float
                )
                assert image.size == decoded
            corners = (top, left, top + height, left + width)
            expected = resampled(whole(content), corners, (32, 32))
            assert np.abs(found - expected).mean() < 2
            assert np.abs(expected - expected.mean()).mean() > 15

    def test_threads_and_other_images_do_not_matter(self, dataset, monkeypatch):
        images, index = dataset.train.image, np.arange(40)
        expected = images.cropped(index, self.when)
        for threads in (1, 2, 7):
            monkeypatch.setattr(records, "THREADS", threads)
            again = images.cropped(index, self.when)
            np.testing.assert_array_equal(again, expected)
        mixed = np.random.default_rng(0).permutation(40)
        np.testing.assert_array_equal(images.cropped(mixed, self.when), expected[mixed])
        np.testing.assert_array_equal(
            images.cropped(index[9:10], self.when), expected[9:10]
        )
        some = images.subset(index[5:20:3])
        np.testing.assert_array_equal(
            some.cropped(np.arange(5), self.when), expected[5:20:3]
        )

    def test_seed_epoch_and_record_decide(self, dataset):
        images = dataset.train.image
        same = images.subset(np.array([4, 4, 5]))
        seen = {
            same.cropped(np.array([i]), np.array([seed, epoch])).tobytes()
            for i in range(3)
            for seed in range(3)
            for epoch in range(3)
        }
        assert len(seen) == 18

    def test_several_steps_and_trainings(self, dataset):
        """Batches `[steps, trainings, B]`, as `loop` asks for them."""
        images = dataset.train.image
        index = np.random.default_rng(0).integers(54, size=(3, 2, 4))
        when = np.array([[0, 5], [1, 5]])
        found = data.from_host(dataset.train)(index, when)
        assert found["image"].shape == (3, 2, 4, 32, 32, 3)
        for step, training in np.ndindex(3, 2):
            one = images.cropped(index[step, training], when[training])
            np.testing.assert_array_equal(found["image"][step, training], one)
        np.testing.assert_array_equal(found["label"], dataset.train.label[index])
        alone = data.from_host(dataset.train)(index[:, 0], when[0])["image"]
        np.testing.assert_array_equal(alone, found["image"][:, 0])

    @pytest.mark.parametrize("same_view", [False, True])
    def test_the_loop_says_when_images_are_seen(self, same_view, tmp_path):
        jobs = [
            loop.Job("", tmp_path, seed, 3 + seed, 2, examples=54, batch=8, settings={})
            for seed in range(2)
        ]
        method = types.SimpleNamespace(chunk=4, same_view=same_view)
        calls = list(loop._calls(jobs, method, 0))
        # (Six steps an epoch: the last two are taken one by one.)
        assert [len(call.image) for call in calls] == [4, 1, 1] * 2
        for call, epoch in zip(calls, [0, 0, 0, 1, 1, 1], strict=True):
            expected = [[3, epoch], [4, epoch]]
            np.testing.assert_array_equal(
                call.crop_seeds, expected[0] if same_view else expected
            )
            assert call.image.shape[1:] == ((8,) if same_view else (2, 8))
        resumed = loop._calls(jobs, method, 5)
        for found, expected in zip(resumed, calls[2:], strict=True):
            np.testing.assert_array_equal(found.image, expected.image)
            np.testing.assert_array_equal(found.crop_seeds, expected.crop_seeds)

    def test_without_a_time_and_without_random_crops_it_is_the_middle(
        self, dataset, folder
    ):
        index = np.arange(7)
        fixed = data.load("imagenet2012", folder, size=32, random_crops=False)
        assert data.crops_at_random(dataset.train.image)
        assert not data.crops_at_random(fixed.train.image)
        for found in (
            data.from_host(dataset.train)(index),
            data.from_host(fixed.train)(index, self.when),
        ):
            np.testing.assert_array_equal(found["image"], dataset.train.image[:7])

    def test_flips_are_usual(self, dataset):
        assert data.augmentation(dataset) == {"crop": 0, "flip": True}


class TestOneSize:
    """Images of one size, but too many: the same as those that are loaded."""

    @pytest.mark.parametrize("known", [True, False])
    @pytest.mark.parametrize("shape", [(20, 24, 3), (28, 28, 1)], ids=str)
    def test_the_same_images(self, shape, known, tmp_path):
        rng = np.random.default_rng(0)
        splits = {
            split: [
                {"image": jpeg(photograph(rng, *shape)), "label": i % CLASSES}
                for i in range(count)
            ]
            for split, count in (("train", 30), ("test", 9))
        }
        said = shape if known else (None, None, shape[-1])
        write(tmp_path, "small", splits, said)
        bytes_needed = 39 * np.prod(shape)
        loaded = data.load("small", str(tmp_path), in_memory=bytes_needed)
        opened = data.load("small", str(tmp_path), in_memory=bytes_needed - 1)
        assert isinstance(loaded.train.image, np.ndarray)
        assert isinstance(opened.train.image, records.Records)
        index, when = np.array([[3, 1], [4, 1]]), np.array([0, 1])
        for split in ("train", "validation", "test"):
            ours, theirs = getattr(opened, split), getattr(loaded, split)
            assert ours.image.shape == theirs.image.shape
            np.testing.assert_array_equal(ours.image[:], theirs.image)
            np.testing.assert_array_equal(ours.label, theirs.label)
            if split != "validation":
                found, expected = (
                    data.from_host(x)(index, when) for x in (ours, theirs)
                )
                assert found.keys() == expected.keys()
                jax.tree.map(np.testing.assert_array_equal, found, expected)
        # All training images are fewer than 2,000.
        assert (opened.mean, opened.std) == (loaded.mean, loaded.std)
        assert "of 27 training images (drawn with seed 0)" in opened.note
        assert data.augmentation(opened) == {"crop": 0, "flip": False}


class TestMoments:
    def test_those_of_imagenet(self, dataset):
        np.testing.assert_allclose(dataset.mean, [123.675, 116.28, 103.53])
        np.testing.assert_allclose(dataset.std, [58.395, 57.12, 57.375])
        assert "ImageNet's usual" in dataset.note

    def test_those_of_a_sample(self, folder, monkeypatch):
        monkeypatch.setattr(sets, "SAMPLE", 25)
        first, again, other = (
            data.load("flowers", folder, size=32, seed=seed) for seed in (0, 0, 1)
        )
        assert "those of 25 training images (drawn with seed 0)" in first.note
        assert first.mean == again.mean != other.mean
        monkeypatch.setattr(sets, "SAMPLE", 54)
        every = data.load("flowers", folder, size=32)
        images = [slow_middle(whole(x), 32) for x in encoded(every.train.image)]
        # (Decoded by hand, an image may differ by one grey level.)
        np.testing.assert_allclose(every.mean, np.mean(images, (0, 1, 2)), atol=0.5)
        np.testing.assert_allclose(every.std, np.std(images, (0, 1, 2)), atol=0.5)
        np.testing.assert_allclose(first.mean, every.mean, rtol=0.1)

    def test_the_sums_of_many_images(self):
        image = np.random.default_rng(0).integers(
            256, size=(2500, 2, 3, 3), dtype=np.uint8
        )
        mean, std = sets._moments(image)
        np.testing.assert_allclose(mean, image.mean((0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(std, image.std((0, 1, 2)), rtol=1e-12)


def test_the_fingerprint_tells_images_apart(folder, dataset):
    def of(name="imagenet2012", **options):
        return data.load(name, folder, **({"size": 32} | options)).train.image

    found = data.identity(dataset.train.image)
    np.testing.assert_array_equal(data.identity(of()), found)
    for other in (of(size=40), of(seed=1), of(train_per_class=3), of("flowers")):
        assert np.any(data.identity(other) != found)
    pixels = np.zeros((2, 4, 4, 1), np.uint8)
    assert data.identity(pixels) is pixels


def test_only_what_is_asked_for_is_decoded(tmp_path, monkeypatch):
    splits = {"train": photographs(300, 3), "test": photographs(10, 4)}
    write(tmp_path, "imagenet2012", splits)
    data.load("imagenet2012", str(tmp_path), size=64)  # (Modules are imported.)
    decoded, real = [], image_file.ImageFile.load_prepare

    def load_prepare(image):
        decoded.append(image.size)
        real(image)

    monkeypatch.setattr(image_file.ImageFile, "load_prepare", load_prepare)
    tracemalloc.start()
    dataset = data.load("imagenet2012", str(tmp_path), size=64)
    assert not decoded
    load = data.from_host(dataset.train)
    for index in data.batches(len(dataset.train.label), 16, seed=0, epoch=0)[:4]:
        load(index, np.array([0, 0]))
    assert len(decoded) == 4 * 16
    assert dataset.validation.image[:8].shape == (8, 64, 64, 3)
    assert len(decoded) == 4 * 16 + 8
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # (A batch is 0.2 MB, the images are 3.7 MB.)
    assert most < 300 * 64 * 64 * 3 / 3


class TestWrongCalls:
    def test_no_size(self, folder, monkeypatch):
        looks = []
        real = records.read_labels_and_sizes
        monkeypatch.setattr(
            records,
            "read_labels_and_sizes",
            lambda *args: looks.append(args) or real(*args),
        )
        for options in ({}, {"in_memory": None, "size": 32}):
            with pytest.raises(ValueError, match=r"varying size .*--stream --resize"):
                data.load("imagenet2012", folder, **options)
        assert len(looks) == 2

    def test_a_rare_size_is_found(self, tmp_path):
        same = [x["image"] for x in photographs(1, 0)] * 119
        other = jpeg(photograph(np.random.default_rng(0), 10, 10))
        split = [{"image": x, "label": i % 3} for i, x in enumerate([*same, other])]
        write(tmp_path, "rare", {"train": split, "test": split[:9]})
        for options in ({}, {"in_memory": None, "size": 32}):
            with pytest.raises(ValueError, match=r"varying size .*--stream --resize"):
                data.load("rare", str(tmp_path), **options)
        assert data.load("rare", str(tmp_path), size=32).train.image.varied

    def test_no_image(self, tmp_path):
        broken = [*photographs(8, 0), {"image": b"no image", "label": 0}]
        write(tmp_path, "broken", {"train": broken, "test": photographs(4, 1)})
        words = r"damaged \(.*'train': record \d cannot be decoded \(not an image\)"
        with pytest.raises(data.DataMissing, match=words):
            data.load("broken", str(tmp_path), size=32)

    def test_a_missing_file(self, tmp_path):
        write(tmp_path, "imagenet2012", SPLITS)
        (file,) = (tmp_path / "imagenet2012" / "1.0.0").glob("*validation*")
        file.unlink()
        with pytest.raises(data.DataMissing, match="imagenet2012.* is damaged"):
            data.load("imagenet2012", str(tmp_path), size=32)


class TestDamaged:
    @pytest.fixture
    def broken(self, tmp_path):
        """A set with an image that ends in the middle, and the numbers of its record.

        TFDS shuffles what it writes.
        """
        rng = np.random.default_rng(0)
        cut = jpeg(photograph(rng, 90, 90))[:-900]
        train = [*photographs(40, 0), {"image": cut, "label": 0}]
        write(tmp_path, "imagenet2012", {"train": train, "test": photographs(9, 1)})
        images = data.load("imagenet2012", str(tmp_path), size=32, validation=0).train
        (place,) = [i for i, x in enumerate(encoded(images.image)) if x == cut]
        return str(tmp_path), images.image, place

    def test_it_is_named(self, broken):
        _, images, place = broken
        number = images.index[place]
        words = rf"'train': record {number} cannot be decoded \(.*truncated"
        for see in (
            lambda: images[:],
            lambda: images.cropped(np.arange(41), np.array([0, 0])),
        ):
            with pytest.raises(decoding.Damaged, match=words):
                see()
        others = images[np.arange(41) != place]
        assert others.shape == (40, 32, 32, 3)

    def test_a_run_that_meets_it_says_so(self, broken, tmp_path, capsys):
        folder, images, place = broken
        call = [f"--data_dir={folder}", *TINY, f"--out={tmp_path / 'run'}"]
        assert run.main(["mnist_rdl", *call]) == 1
        said = capsys.readouterr().err
        assert f"record {images.index[place]} cannot be decoded" in said
        assert "Traceback" not in said


# 54 images: three steps an epoch. MLPs compile quickly.
TINY = [
    "--data=imagenet2012",
    "--stream",
    "--resize=32",
    "--teacher=None",
    "--student=mlp",
    "--methods",
    "plain",
    "--layers",
    "logits",
    "--seeds=1",
    "--epochs=2",
    "--batch=16",
]


def history(folder, method="plain", seed=0):
    """Of each epoch, all that was measured."""
    record = json.loads((folder / f"{method}-seed{seed}" / "result.json").read_text())
    return np.array([[epoch[k] for k in sorted(epoch)] for epoch in record["history"]])


def go(folder, out, *changes, looks=10**6):
    """A run that is interrupted when it has been looked at so many times.

    It is not rehearsed and draws nothing, which `test_a_command_line` does.
    """
    settings = [f"--data_dir={folder}", f"--out={out}", *TINY, *changes]
    name, config = run.parse(["mnist_rdl", *settings])
    with quick.runs():
        return experiment.run(name, config, experiments.Countdown(looks))


@pytest.fixture(scope="module")
def unbroken(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "unbroken"
    go(folder, out)
    return out


class TestRun:
    @pytest.mark.parametrize(
        "student", ["mlp", pytest.param("resnet8", marks=pytest.mark.slow)]
    )
    def test_a_command_line(self, student, folder, tmp_path, capsys):
        call = [f"--data_dir={folder}", *TINY, f"--student={student}"]
        assert run.main(["mnist_rdl", *call, f"--out={tmp_path / 'run'}"]) == 0
        said = capsys.readouterr().out
        assert "54 images for training" in said and "ImageNet's usual" in said
        assert history(tmp_path / "run").shape[0] == 2
        found = json.loads((tmp_path / "run" / "plain-seed0/result.json").read_text())
        assert len(found["predicted"]) == 12

    @pytest.mark.slow
    @pytest.mark.parametrize("whole", [False, True])
    def test_nst_on_imagenet(self, whole, folder, tmp_path, capsys):
        # The config, with smaller nets.
        name = "mnist_cnn_small"
        call = [f"--data_dir={folder}", "--resize=32", "--batch=16", "--epochs=1"]
        call += ["--teacher_from=None", "--teacher_epochs=1", f"--student={name}"]
        call += [f"--teacher={'mnist_cnn' if whole else name}"]
        call += ["--maps=stage2", "--layers=pooled"]
        call += [f"--out={tmp_path / 'run'}", "--methods", *["plain"] * whole, "nst"]
        if whole:
            # Rehearsed and drawn, from another net.
            assert run.main(["imagenet_nst", *call]) == 0
            assert np.isfinite(history(tmp_path / "run")).all()
            assert (tmp_path / "run" / "learning_curves.png").stat().st_size > 5_000
        else:
            with quick.runs():
                assert run.main(["imagenet_nst", *call]) == 0
        assert "54 images for training" in capsys.readouterr().out
        assert np.isfinite(history(tmp_path / "run", "nst")).all()

    def test_resumed_in_the_middle_of_an_epoch_it_is_the_same(
        self, folder, unbroken, tmp_path
    ):
        with pytest.raises(interrupts.Interrupted):
            go(folder, tmp_path / "run", looks=4)
        go(folder, tmp_path / "run", "--resume")
        np.testing.assert_array_equal(history(tmp_path / "run"), history(unbroken))
        states = [
            experiments.stored(out / "plain-seed0")
            for out in (unbroken, tmp_path / "run")
        ]
        assert states[0] == states[1] and len(states[0]) > 5

    @pytest.mark.slow
    def test_every_driver_sees_the_same_images(self, folder, unbroken, tmp_path):
        ways = ["--driver=chunk", "--seeds_per_program=2", "--seeds=2"]
        go(folder, tmp_path / "run", *ways)
        found = history(tmp_path / "run")
        np.testing.assert_allclose(found, history(unbroken), rtol=2e-3)

    def test_crops_are_random(self, folder, unbroken, tmp_path):
        go(folder, tmp_path / "run", "--crop=0")
        found, other = history(tmp_path / "run"), history(unbroken)
        assert not np.allclose(found[0], other[0], rtol=1e-2)

    def test_images_of_one_size_train_as_those_in_memory(self, tmp_path, monkeypatch):
        rng = np.random.default_rng(0)
        splits = {
            split: [
                {"image": jpeg(photograph(rng, 32, 32)), "label": i % CLASSES}
                for i in range(count)
            ]
            for split, count in (("train", 60), ("test", 12))
        }
        write(tmp_path, "imagenette", splits, (32, 32, 3))
        for out, limit in (("memory", sets.IN_MEMORY), ("files", 0)):
            monkeypatch.setattr(sets, "IN_MEMORY", limit)
            changes = ["--data=imagenette", "--crop=2"]
            summary = go(tmp_path, tmp_path / out, *changes)
            assert ("stay in their files" in summary["data"]) is (out == "files")
        found, expected = (history(tmp_path / out) for out in ("files", "memory"))
        np.testing.assert_array_equal(found, expected)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ("--no-stream", "--stream --resize"),
            ("--resize=None", "--stream --resize"),
            ("--data_dir=DIR", "not prepared"),
        ],
    )
    def test_wrong_calls(self, change, words, folder, tmp_path, capsys):
        out = tmp_path / "run"
        call = [f"--data_dir={folder}", *TINY, change, f"--out={out}"]
        assert run.main(["mnist_rdl", *call]) == 2
        said = capsys.readouterr().err
        assert words in said and "Traceback" not in said and not out.exists()

    @pytest.mark.parametrize(
        ("changes", "remembers"),
        [([], False), (["--flip=False"], False), (["--crop=0", "--flip=False"], True)],
    )
    def test_a_teacher_is_remembered_where_nothing_is_drawn(
        self, changes, remembers, folder, tmp_path
    ):
        settings = [*TINY, "--teacher=mlp", "--methods", "kd", *changes]
        _, config = run.parse(["mnist_rdl", f"--data_dir={folder}", *settings])
        own = contexts.build_context(
            config, contexts.load(config), tmp_path, None, None
        )
        net = nets.build("mlp", CLASSES)
        init = jax.jit(net.init)
        variables = init(jax.random.key(0), np.zeros((1, 32, 32, 3), np.float32))
        teacher = teachers.net(net, variables)
        found, _ = teaching.cache_teacher(own, teacher)
        assert (found is not teacher) is remembers
        if remembers:
            seen = data.normalise(own.dataset, own.dataset.train.image[:])
            expected = jax.jit(net.apply)(variables, seen)["logits"]
            np.testing.assert_allclose(found.arrays["logits"], expected, rtol=1e-4)

    def test_stored_activations_are_of_these_images(self, folder, tmp_path):
        settings = ["--teacher=mlp", "--teacher_epochs=1", "--methods", "kd"]
        settings += [f"--activations={tmp_path / 'kept'}", "--epochs=1"]
        go(folder, tmp_path / "first", *settings)
        words = "(?s)activations: .*images"
        source = f"--teacher_from={tmp_path / 'first' / 'teacher' / 'weights'}"
        with pytest.raises(command.UsageError, match=words):
            go(folder, tmp_path / "next", *settings, source, "--data=flowers")


class TestStimuli:
    @pytest.mark.parametrize(
        ("classes", "each", "stimuli"),
        [(3, 90, 198), (100, 3, 200), (150, 3, 300), (1000, 3, 200)],
    )
    def test_many_classes(self, classes, each, stimuli):
        label = np.tile(np.arange(classes, dtype=np.int32), each)
        found = label[contexts.stimuli(data.Split(np.empty((len(label), 1)), label))]
        assert len(found) == stimuli and np.all(np.diff(found) >= 0)
        _, counts = np.unique(found, return_counts=True)
        assert len(set(counts)) == 1
