"""Detection: canvases, targets and boxes, average precision, training, the command."""

import dataclasses
import functools
import json
import math
import shlex

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image
from pycocotools import coco, cocoeval

from experiments import command, data, detection, locks, weights
from experiments.analyses.detection import backbones, canvas, centernet, comparison
from experiments.analyses.detection import folder as folders
from experiments.analyses.detection import options as detection_options
from experiments.training import interrupts
from rdljax import nets

STRIDE = 4
encode = jax.jit(centernet.encode, static_argnames=("grid", "stride", "classes"))
decode = jax.jit(centernet.decode, static_argnums=(1, 2))


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def canvases(digits):
    return canvas.compose(digits, "train", 60, size=64, objects=4, seed=3)


def colours(train=slice(0, 256), test=slice(0, 256)):
    """Random colour images of 32 x 32 pixels, their pixels from given ranges."""
    rng = np.random.default_rng(0)
    splits = [
        data.Split(
            rng.integers(of.start, of.stop, (20, 32, 32, 3), np.uint8),
            np.arange(20, dtype=np.int32) % 4,
        )
        for of in (train, train, test)
    ]
    return data.Dataset("colours", 4, *splits, "", (100.0, 120.0, 140.0), (20.0,) * 3)


def present(canvases, i):
    """The boxes and classes of a canvas that are there."""
    there = canvases.label[i] != canvas.ABSENT
    return canvases.boxes[i][there], canvases.label[i][there]


class TestCompose:
    def test_is_a_function_of_the_seed(self, digits, canvases):
        options = {"size": 64, "objects": 4}
        again = canvas.compose(digits, "train", 60, seed=3, **options)
        jax.tree.map(np.testing.assert_array_equal, again, canvases)
        other = canvas.compose(digits, "train", 60, seed=4, **options)
        assert np.any(other.image != canvases.image)
        # Fewer are the first of more.
        few = canvas.compose(digits, "train", 7, seed=3, **options)
        np.testing.assert_array_equal(few.image, canvases.image[:7])

    def test_boxes_of_digits_are_tight(self, canvases):
        assert canvases.image.shape == (60, 64, 64, 1)
        for i, image in enumerate(canvases.image[..., 0]):
            outside = image.copy()
            for x0, y0, x1, y1 in present(canvases, i)[0].astype(int):
                assert 0 <= x0 < x1 <= 64 and 0 <= y0 < y1 <= 64
                own = image[y0:y1, x0:x1]
                for edge in (own[0], own[-1], own[:, 0], own[:, -1]):
                    assert edge.any()
                outside[y0:y1, x0:x1] = 0
            assert not outside.any()

    def test_has_one_to_so_many_objects_that_hardly_overlap(self, canvases):
        counts = np.count_nonzero(canvases.label != canvas.ABSENT, axis=1)
        assert set(counts) == {1, 2, 3, 4}
        for i in range(len(counts)):
            boxes = present(canvases, i)[0].astype(int)
            covered = np.zeros((len(boxes), 64, 64), bool)
            for own, (x0, y0, x1, y1) in zip(covered, boxes, strict=True):
                own[y0:y1, x0:x1] = True
            for a in range(len(boxes)):
                for b in range(a):
                    smaller = min(covered[a].sum(), covered[b].sum())
                    assert (covered[a] & covered[b]).sum() <= 0.1 * smaller

    def test_digits_are_whole_and_vary_in_size(self, digits, canvases):
        single = np.flatnonzero(canvases.label[:, 1] == canvas.ABSENT)
        heights = []
        for i in single:
            (box,), (label,) = present(canvases, i)
            x0, y0, x1, y1 = box.astype(int)
            source = canvases.source[i, 0]
            assert label == digits.train.label[source]
            image = digits.train.image[source, ..., 0].astype(float)
            rows = np.flatnonzero((image > 40).any(axis=1))
            heights.append((y1 - y0) / (rows[-1] - rows[0] + 1))
            # What is in the box is the source, in another size.
            columns = np.flatnonzero((image > 40).any(axis=0))
            cut = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            cut = Image.fromarray(cut.astype(np.uint8)).resize((x1 - x0, y1 - y0))
            own = canvases.image[i, y0:y1, x0:x1, 0].astype(float)
            assert np.corrcoef(np.ravel(cut), np.ravel(own))[0, 1] > 0.75
        assert len(single) > 8 and min(heights) > 0.5 and max(heights) < 1.6
        assert np.ptp(heights) > 0.4

    def test_no_ink_is_cut_off(self, digits, monkeypatch):
        monkeypatch.setattr(canvas, "SCALES", (1.0, 1.0))
        found = canvas.compose(digits, "train", 20, size=40, objects=1, seed=0)
        for i, image in enumerate(found.image[..., 0]):
            source = digits.train.image[found.source[i, 0], ..., 0]
            kept = source[source >= source.max() / 8]
            assert image.sum() == kept.sum()
            assert np.count_nonzero(image) == len(kept)

    def test_colour_images_lie_whole_on_noise(self):
        dataset = colours()
        found = canvas.compose(dataset, "train", 30, size=64, objects=1, seed=0)
        around = []
        for i, image in enumerate(found.image):
            (box,), _ = present(found, i)
            x0, y0, x1, y1 = box.astype(int)
            whole = Image.fromarray(dataset.train.image[found.source[i, 0]])
            whole = whole.resize((x1 - x0, y1 - y0), Image.Resampling.BILINEAR)
            np.testing.assert_array_equal(image[y0:y1, x0:x1], np.array(whole))
            assert x1 - x0 == y1 - y0 and 19 <= x1 - x0 <= 45
            outside = np.ones((64, 64), bool)
            outside[y0:y1, x0:x1] = False
            around.append(image[outside])
        around = np.concatenate(around)
        np.testing.assert_allclose(around.mean(axis=0), dataset.mean, atol=0.5)
        np.testing.assert_allclose(around.std(axis=0), dataset.std, atol=0.5)

    def test_training_and_test_canvases_share_no_image(self, digits):
        seen = {}
        for part, split in (("train", digits.train), ("test", digits.test)):
            found = canvas.compose(digits, part, 300, size=64, objects=3, seed=0)
            sources = found.source[found.source >= 0]
            seen[part] = {split.image[i].tobytes() for i in sources}
            np.testing.assert_array_equal(
                found.label[found.source >= 0], split.label[sources]
            )
        assert len(seen["train"]) > 300 and not seen["train"] & seen["test"]
        # The pixels too are of the part that was asked for.
        dataset = colours(train=slice(0, 100), test=slice(200, 256))
        for part, low, high in (("train", 0, 100), ("test", 200, 256)):
            found = canvas.compose(dataset, part, 5, size=64, objects=2, seed=0)
            for i, image in enumerate(found.image):
                for x0, y0, x1, y1 in present(found, i)[0].astype(int):
                    own = image[y0:y1, x0:x1]
                    # (Where another covers it, that is of the same part.)
                    assert own.min() >= low and own.max() < high

    def test_an_image_without_ink_is_a_box_of_its_own_size(self, digits):
        split = digits.train._replace(image=np.zeros_like(digits.train.image))
        blank = dataclasses.replace(digits, train=split)
        found = canvas.compose(blank, "train", 5, size=64, objects=1, seed=0)
        (box,), _ = present(found, 0)
        assert box[2] - box[0] == box[3] - box[1] >= 19

    def test_refuses_a_canvas_smaller_than_an_object(self, digits):
        with pytest.raises(command.UsageError, match="size must be 45 pixels or more"):
            canvas.compose(digits, "train", 1, size=44, objects=1, seed=0)


def slow_iou(first, second):
    """By counting pixels; for boxes at whole pixels from 0 to 40."""
    covered = np.zeros((2, 40, 40), bool)
    for own, (x0, y0, x1, y1) in zip(covered, (first, second), strict=True):
        own[int(y0) : int(y1), int(x0) : int(x1)] = True
    return (covered[0] & covered[1]).sum() / (covered[0] | covered[1]).sum()


def random_boxes(rng, *shape, extent=40, least=4):
    low = rng.integers(0, extent - least, (*shape, 2))
    return np.concatenate([low, rng.integers(low + least, extent + 1)], axis=-1)


class TestIoU:
    @pytest.mark.parametrize(
        ("second", "expected"),
        [
            ([0, 0, 4, 2], 1),
            ([2, 0, 6, 2], 1 / 3),
            ([4, 0, 8, 2], 0),
            ([9, 9, 10, 10], 0),
            ([1, 0, 2, 1], 1 / 8),
        ],
    )
    def test_by_hand(self, second, expected):
        first, second = np.array([0.0, 0, 4, 2]), np.array(second, float)
        assert canvas.iou(first, second) == pytest.approx(expected)
        assert canvas.iou(second, first) == pytest.approx(expected)

    def test_against_counted_pixels(self):
        rng = np.random.default_rng(0)
        first, second = random_boxes(rng, 50), random_boxes(rng, 50)
        expected = [slow_iou(*pair) for pair in zip(first, second, strict=True)]
        np.testing.assert_allclose(canvas.iou(first, second), expected)
        table = canvas.iou(first[:, None], second[None])
        np.testing.assert_array_equal(np.diag(table), canvas.iou(first, second))

    def test_of_nothing_is_0(self):
        assert canvas.iou(np.zeros(4), np.zeros(4)) == 0


class TestEncode:
    @pytest.mark.parametrize("stride", [2, 4, 8])
    def test_decoding_gives_the_boxes_back(self, canvases, stride):
        maps = encode(
            canvases.boxes, canvases.label, grid=64 // stride, stride=stride, classes=10
        )
        found = jax.device_get(decode(maps, stride))
        alone = 0
        for i in range(len(canvases.label)):
            boxes, label = present(canvases, i)
            cells = (boxes[:, :2] + boxes[:, 2:]) // (2 * stride)
            if len(np.unique(cells, axis=0)) < len(cells):
                continue  # (One cell has one box.)
            alone += 1
            there = found.label[i] != canvas.ABSENT
            assert np.all(found.score[i][there] == 1)
            rows = zip(found.label[i][there], found.box[i][there], strict=True)
            expected = zip(label, boxes, strict=True)
            assert sorted((c, *b) for c, b in rows) == sorted(
                (c, *b) for c, b in expected
            )
        assert alone > 50

    def test_the_heat_is_a_gaussian_as_wide_as_the_box_may_be_moved(self):
        box, width, height = np.array([[10, 6, 50, 34]], np.float32), 10, 7
        label = np.array([[2]])
        maps = encode(box[None], label, grid=16, stride=STRIDE, classes=3)
        heat = np.asarray(maps.heat[0], np.float64)
        assert heat[5, 7, 2] == 1 and not heat[..., :2].any()
        sigma = math.sqrt(-1 / (2 * math.log(heat[5, 8, 2])))
        # A distance of sqrt(5) cells.
        assert heat[3, 8, 2] == pytest.approx(math.exp(-5 / (2 * sigma**2)), rel=1e-4)
        radius = (6 * sigma - 1) / 2
        own = np.array([0, 0, width, height])
        assert canvas.iou(own, own + radius) == pytest.approx(0.7, abs=1e-4)
        np.testing.assert_array_equal(maps.size[0, 5, 7], [width, height])
        np.testing.assert_array_equal(maps.offset[0, 5, 7], [0.5, 0])
        assert np.count_nonzero(maps.size) == 2

    def test_of_two_of_a_class_the_larger_heat_counts(self):
        boxes = np.array([[[0, 0, 40, 40], [20, 20, 60, 60]]], np.float32)
        label = np.array([[1, 1]])
        options = {"grid": 16, "stride": STRIDE, "classes": 2}
        both = encode(boxes, label, **options).heat
        each = [
            encode(boxes[:, i : i + 1], label[:, i : i + 1], **options).heat
            for i in (0, 1)
        ]
        np.testing.assert_array_equal(both, np.maximum(*each))

    def test_what_is_absent_leaves_no_trace(self):
        boxes = np.array([[[8, 8, 24, 24], [0, 0, 0, 0]]], np.float32)
        label = np.array([[0, canvas.ABSENT]])
        options = {"grid": 16, "stride": STRIDE, "classes": 2}
        maps = encode(boxes, label, **options)
        alone = encode(boxes[:, :1], label[:, :1], **options)
        jax.tree.map(lambda *x: np.testing.assert_allclose(*x, rtol=1e-3), maps, alone)

    def test_two_centres_in_a_cell(self):
        boxes = np.array([[[0, 0, 20, 20], [8, 4, 12, 16]]], np.float32)
        maps = encode(boxes, np.array([[0, 1]]), grid=16, stride=STRIDE, classes=2)
        np.testing.assert_array_equal(maps.heat[0, 2, 2], [1, 1])
        np.testing.assert_array_equal(maps.size[0, 2, 2], [3, 4])


def test_decode_takes_local_maxima_by_score():
    heat = np.zeros((1, 8, 8, 2), np.float32)
    heat[0, 1, 1, 0], heat[0, 1, 2, 0], heat[0, 2, 2, 0] = 0.9, 0.8, 0.7
    heat[0, 1, 2, 1] = 0.5  # Of another class: neighbours do not matter.
    heat[0, 6, 5, 0] = 0.6
    size = np.full((1, 8, 8, 2), 2, np.float32)
    size[0, 6, 5] = [4, -1]
    offset = np.zeros((1, 8, 8, 2), np.float32)
    offset[0, 1, 1] = [0.5, 0.25]
    found = decode(centernet.Maps(heat, size, offset), 10, 4)
    np.testing.assert_allclose(found.score, [[0.9, 0.6, 0.5, 0]])
    np.testing.assert_array_equal(found.label, [[0, 0, 1, canvas.ABSENT]])
    expected = [[5, 2.5, 25, 22.5], [30, 60, 70, 60], [10, 0, 30, 20]]
    np.testing.assert_allclose(found.box[0, :3], expected)
    # No more than there are cells and classes.
    every = decode(centernet.Maps(heat, size, offset), 10, 1000)
    assert every.score.shape == (1, 8 * 8 * 2)


def test_losses_are_the_equations_of_the_paper(canvases):
    rng = np.random.default_rng(1)
    target = encode(
        canvases.boxes[:5], canvases.label[:5], grid=16, stride=STRIDE, classes=10
    )
    # (Heat around the centres that is not small, so that its exponent matters.)
    around = rng.uniform(0, 0.9, target.heat.shape)
    target = jax.device_get(target)
    heat = np.where(target.heat == 1, 1, around).astype(np.float32)
    target = target._replace(heat=heat)
    answered = jax.tree.map(lambda x: rng.normal(size=x.shape), target)
    heat = size = offset = 0.0
    objects = 0
    for n, y, x in np.ndindex(5, 16, 16):
        for c in range(10):
            p, wanted = 1 / (1 + np.exp(-answered.heat[n, y, x, c])), 0
            wanted = float(target.heat[n, y, x, c])
            if wanted == 1:
                heat -= (1 - p) ** 2 * np.log(p)
            else:
                heat -= (1 - wanted) ** 4 * p**2 * np.log(1 - p)
        if np.any(target.heat[n, y, x] == 1):
            objects += 1
            size += np.abs(answered.size[n, y, x] - target.size[n, y, x]).sum()
            offset += np.abs(answered.offset[n, y, x] - target.offset[n, y, x]).sum()
    found = jax.jit(centernet.losses)(answered, target)
    expected = {"heat": heat, "size": 0.1 * size, "offset": offset}
    for name, value in expected.items():
        assert float(found[name]) == pytest.approx(value / objects, rel=1e-4)
    total = sum(expected.values()) / objects
    assert float(found["loss"]) == pytest.approx(total, rel=1e-4)


def slow_average_precision(found, boxes, label, classes, threshold):
    """From the definition, detection by detection and recall by recall."""
    areas = []
    for c in range(classes):
        total = int((label == c).sum())
        if not total:
            areas.append(math.nan)
            continue
        every = [
            (-found.score[n, k], n, k)
            for n, k in np.ndindex(*found.label.shape)
            if found.label[n, k] == c
        ]
        taken, right, curve = set(), 0, []
        for seen, (_, n, k) in enumerate(sorted(every), 1):
            own = [m for m in range(boxes.shape[1]) if label[n, m] == c]
            pairs = [(slow_iou(found.box[n, k], boxes[n, m]), -m) for m in own]
            best, m = max(pairs, default=(0, 0))
            if best >= threshold and (n, m) not in taken:
                taken.add((n, m))
                right += 1
            curve.append((right / total, right / seen))
        area = 0.0
        for step in range(1, total + 1):
            reached = [p for recall, p in curve if recall >= step / total - 1e-12]
            area += max(reached, default=0) / total
        areas.append(area)
    return np.array(areas)


def coco_precision(found, boxes, label, classes, recalls=None):
    """Average precision by pycocotools, `[IoUs, classes]`; NaN without an object.

    It is the mean over recalls; None stands for all that occur.
    """

    def rows(box, own):
        for n, k in np.argwhere(own != canvas.ABSENT):
            (x0, y0, x1, y1), category = map(float, box[n, k]), int(own[n, k]) + 1
            place = {"image_id": int(n), "category_id": category}
            yield (n, k), place | {"bbox": [x0, y0, x1 - x0, y1 - y0]}

    true, annotations, answers = coco.COCO(), [], []
    # (From 1: it takes an object with the id 0 for none.)
    for i, (_, row) in enumerate(rows(boxes, label), 1):
        area = row["bbox"][2] * row["bbox"][3]
        annotations.append(row | {"id": i, "area": area, "iscrowd": 0})
    for place, row in rows(found.box, found.label):
        answers.append(row | {"score": float(found.score[place])})
    true.dataset = {
        "images": [{"id": n} for n in range(len(label))],
        "categories": [{"id": c + 1} for c in range(classes)],
        "annotations": annotations,
    }
    true.createIndex()
    evaluation = cocoeval.COCOeval(true, true.loadRes(answers), "bbox")
    evaluation.params.iouThrs = centernet.IOUS
    evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
    evaluation.params.maxDets = [1000]
    evaluation.evaluate()
    areas = np.full((len(centernet.IOUS), classes), np.nan)
    for c in np.unique(label[label != canvas.ABSENT]):
        total = np.count_nonzero(label == c)
        every = np.arange(1, total + 1) / total
        evaluation.params.recThrs = every if recalls is None else recalls
        evaluation.accumulate()
        areas[:, c] = evaluation.eval["precision"][:, :, c, 0, 0].mean(axis=1)
    return areas


def found_by(*rows):
    """Detections in one canvas, from label, score and box."""
    label, score, box = zip(*rows, strict=True)
    return centernet.Detections(
        np.array([box], float), np.array([label]), np.array([score], float)
    )


class TestAveragePrecision:
    BOXES = np.array([[[0, 0, 10, 10], [20, 20, 30, 30]]], float)
    LABEL = np.array([[0, 0]])
    A, B, NEAR_A = [0, 0, 10, 10], [20, 20, 30, 30], [1, 0, 11, 10]
    ELSEWHERE = [20, 0, 30, 10]

    @pytest.mark.parametrize(
        ("rows", "expected"),
        [
            # Perfect; the order of the scores does not matter then.
            ([(0, 0.9, A), (0, 0.3, B)], 1),
            # A duplicate comes between: precision 1 and then 2 of 3.
            ([(0, 0.9, A), (0, 0.8, NEAR_A), (0, 0.7, B)], (1 + 2 / 3) / 2),
            # After all objects are found it costs nothing.
            ([(0, 0.9, A), (0, 0.8, B), (0, 0.7, NEAR_A)], 1),
            # The first of two is right, however near they are.
            ([(0, 0.9, NEAR_A), (0, 0.8, A)], 1 / 2),
            # The first is wrong: precision 1/2, then 2/3, which counts for both.
            ([(0, 0.9, ELSEWHERE), (0, 0.8, A), (0, 0.7, B)], 2 / 3),
            # Of another class, and nothing.
            ([(1, 0.9, A), (1, 0.8, B)], 0),
            ([(canvas.ABSENT, 0.0, A)], 0),
            # IoU of exactly 1/2 is enough, and less is not.
            ([(0, 0.9, [0, 0, 10, 5])], 1 / 2),
            ([(0, 0.9, [0, 0, 10, 4.9])], 0),
        ],
    )
    def test_by_hand(self, rows, expected):
        found = centernet.average_precision(found_by(*rows), self.BOXES, self.LABEL, 2)
        assert found[0] == pytest.approx(expected)
        assert math.isnan(found[1])  # There is no object of the class.

    def test_what_is_in_another_canvas_is_wrong(self):
        boxes = np.concatenate([self.BOXES, self.BOXES])
        label = np.array([[0, 0], [canvas.ABSENT] * 2])
        one = found_by((0, 0.9, self.A), (0, 0.8, self.B))
        other = centernet.Detections(*(x[::-1] for x in map(np.array, one)))
        there = centernet.Detections(*map(np.concatenate, zip(one, one, strict=True)))
        found = centernet.average_precision(there, boxes, label, 1)
        # Right, wrong, right, wrong (equal scores stay in the order of the canvases).
        assert found[0] == pytest.approx((1 + 2 / 3) / 2)
        nowhere = other._replace(label=np.full_like(other.label, canvas.ABSENT))
        there = centernet.Detections(
            *map(np.concatenate, zip(nowhere, one, strict=True))
        )
        assert centernet.average_precision(there, boxes, label, 1)[0] == 0

    @pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75])
    def test_against_the_definition(self, threshold):
        rng = np.random.default_rng(2)
        for _ in range(5):
            boxes = random_boxes(rng, 6, 4, least=8)
            label = rng.integers(-1, 3, (6, 4))
            # Detections around objects, several of some, and anywhere.
            which = rng.integers(4, size=(6, 9, 1))
            box = np.take_along_axis(boxes, which, axis=1)
            box = np.clip(box + rng.integers(-2, 3, box.shape), 0, 40)
            box[:, 7:] = random_boxes(rng, 6, 2)
            right = np.take_along_axis(label, which[..., 0], axis=1)
            wrong = rng.integers(0, 3, right.shape)
            own = np.where(rng.random(right.shape) < 0.7, right, wrong)
            found = centernet.Detections(box, own, rng.random(own.shape))
            given = (found, boxes, label, 4)
            expected = slow_average_precision(*given, threshold)
            areas = centernet.average_precision(*given, threshold)
            np.testing.assert_allclose(areas, expected)
            assert np.isnan(areas[3]) and np.nanmax(areas) > 0.05

    def test_against_pycocotools(self):
        rng = np.random.default_rng(5)
        n, objects, several = 12, 6, 3
        # Objects side by side, so that no detection reaches the IoU of two of them.
        corner = 40.0 * np.stack(np.unravel_index(np.arange(objects), (3, 2)), axis=-1)
        low = corner + rng.uniform(0, 10, (n, objects, 2))
        boxes = np.concatenate([low, low + rng.uniform(15, 30, low.shape)], axis=-1)
        label = rng.integers(-1, 3, (n, objects))
        # Several detections of each, near or far, some of another class or of none.
        box, own = (np.repeat(x, several, axis=1) for x in (boxes, label))
        away = rng.uniform(0, 6, (*own.shape, 1))
        box += away * rng.uniform(-1, 1, box.shape)
        other = rng.integers(-1, 3, own.shape)
        own = np.where(rng.random(own.shape) < 0.7, own, other)
        found = centernet.Detections(box, own, rng.random(own.shape))
        given = (found, boxes, label, 4)
        areas = np.array(
            [centernet.average_precision(*given, least) for least in centernet.IOUS]
        )
        # (NaN for the class without an object.)
        np.testing.assert_allclose(areas, coco_precision(*given), rtol=1e-12)
        assert areas[0, :3].min() > 0.3 and areas[-1, :3].max() < 0.1
        # At its own recalls it is a sum for the integral that ours is.
        usual = coco_precision(*given, np.linspace(0, 1, 101))
        assert 1e-4 < np.nanmax(np.abs(usual - areas)) <= 1 / 101

    def test_where_pycocotools_gives_a_detection_another_object(self):
        boxes = np.array([[self.A, [0, 0, 10, 8]]], float)
        found = found_by((0, 0.9, self.A), (0, 0.8, self.A))
        given = (found, boxes, self.LABEL, 1)
        assert centernet.average_precision(*given)[0] == pytest.approx(1 / 2)
        assert coco_precision(*given)[0] == pytest.approx(1)

    def test_measure_takes_the_means(self, canvases):
        truth = jax.tree.map(lambda x: x[:20], canvases)
        box = truth.boxes + np.array([2, 0, 2, 0], np.float32)
        found = centernet.Detections(box, truth.label, np.ones(truth.label.shape))
        measured = centernet.measure(found, truth, 11)
        given = (found, truth.boxes, truth.label, 11)
        np.testing.assert_allclose(
            measured["ap"], 100 * centernet.average_precision(*given)
        )
        means = []
        for threshold in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95):
            ap = centernet.average_precision(*given, threshold)
            means.append(100 * np.mean(ap[~np.isnan(ap)]))
        assert measured["map"] == pytest.approx(means[0])
        assert measured["map_strict"] == pytest.approx(np.mean(means))
        assert measured["map_strict"] < measured["map"]


class Small(nn.Module):
    """A backbone that compiles quickly, with the layers of a net."""

    layers = ("stage1",)

    @nn.compact
    def __call__(self, x, train=False):
        for features in (16, 32):
            x = nn.Conv(features, (3, 3), 2)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = nn.relu(x)
        return {"stage1": nn.relu(nn.Conv(32, (5, 5))(x))}


def begun(dataset, canvases, optimizer, frozen=False):
    """A detector of canvases of 48 x 48 pixels, and its state."""
    detector = centernet.Detector(
        Small(),
        functools.partial(data.normalise, dataset),
        "stage1",
        12,
        STRIDE,
        dataset.classes,
        frozen,
    )
    variables = jax.jit(detector.net.init)(
        jax.random.key(5), np.zeros((1, 48, 48, 1), np.float32)
    )
    state = centernet.begin(detector, variables, optimizer, canvases.image, 0)
    return detector, state


def some_digits(digits, classes):
    """The digits below a number alone."""
    splits = [
        data.Split(s.image[s.label < classes], s.label[s.label < classes])
        for s in (digits.train, digits.validation, digits.test)
    ]
    parts = dict(zip(("train", "validation", "test"), splits, strict=True))
    return dataclasses.replace(digits, classes=classes, **parts)


class TestTrain:
    @pytest.mark.slow
    def test_detects_digits_that_it_did_not_before(self, digits):
        dataset = some_digits(digits, 3)
        train, test = (
            canvas.compose(dataset, part, count, size=48, objects=2, seed=seed)
            for part, count, seed in (("train", 400, 0), ("test", 100, 1))
        )
        epochs, batch = 8, 16
        rate = optax.cosine_decay_schedule(5e-3, epochs * (400 // batch))
        optimizer = optax.adam(rate)
        detector, state = begun(dataset, train, optimizer)

        def precision(state):
            found = centernet.detect(detector, state, test.image, chunk=50)
            return centernet.measure(found, test, 3)["map"]

        before = precision(state)
        given = (optimizer, jax.tree.map(jnp.asarray, train))
        state, history = centernet.train(
            detector, state, *given, epochs=epochs, batch=batch, seed=0
        )
        assert before < 5 and precision(state) > 50
        assert len(history) == epochs
        assert history[-1]["loss"] < history[0]["loss"] / 2
        for epoch in history:
            parts = (epoch[k] for k in ("heat", "size", "offset"))
            assert epoch["loss"] == pytest.approx(sum(parts), rel=1e-5)

    @pytest.mark.parametrize("frozen", [True, False])
    def test_a_frozen_backbone_stays_as_it_is_to_the_bit(self, digits, frozen):
        canvases = canvas.compose(digits, "train", 8, size=48, objects=2, seed=0)
        optimizer = optax.adam(1e-2)
        detector, state = begun(digits, canvases, optimizer, frozen)
        after, _ = centernet.train(
            detector, state, optimizer, canvases, epochs=2, batch=4, seed=0
        )

        def same(own, other):
            return jax.tree.map(
                lambda x, y: np.asarray(x).tobytes() == np.asarray(y).tobytes(),
                own,
                other,
            )

        kept = jax.tree.leaves(same(state.backbone, after.backbone))
        assert all(kept) if frozen else not any(kept)
        assert len(kept) == 3 * 2 + 2 * 2 + 2 * 2  # Running statistics too.
        assert not any(jax.tree.leaves(same(state.head, after.head)))

    def test_seeds_differ_in_head_and_order(self, digits):
        canvases = canvas.compose(digits, "train", 8, size=48, objects=2, seed=0)
        optimizer = optax.sgd(1e-2)
        detector, state = begun(digits, canvases, optimizer, frozen=True)

        def losses(state, seed):
            given = (detector, state, optimizer, canvases)
            return centernet.train(*given, epochs=2, batch=4, seed=seed)[1]

        assert losses(state, 0) == losses(state, 0) != losses(state, 1)
        other = centernet.begin(detector, state.backbone, optimizer, canvases.image, 1)
        kernels = (x.head["params"]["hidden"]["kernel"] for x in (state, other))
        assert not np.any(np.equal(*kernels))


TINY = ["--canvases=8", "--test_canvases=6", "--batch=4", "--epochs=1", "--size=48"]
TINY += ["--frozen", "--objects=2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of weights for each of two seeds."""
    tmp_path = tmp_path_factory.mktemp("weights")
    init = jax.jit(nets.build("resnet8", 10).init)
    for seed in (0, 1):
        drawn = init(jax.random.key(7 + seed), np.zeros((1, 32, 32, 1), np.float32))
        normalisation = ((0.1,), (0.3,))
        about = ("resnet8", 10, (32, 32, 1), drawn, normalisation, {"run": "a test"})
        weights.save(
            weights.TrainedNet(*about), tmp_path / f"net-seed{seed}" / "weights"
        )
    return f"{tmp_path}/net-seed{{seed}}/weights"


class Countdown(interrupts.Interrupt):
    """A Ctrl-C that comes when it has been looked for so many times."""

    looks = 0

    def __init__(self):
        self.left = self.looks

    @property
    def requested(self):
        self.left -= 1
        return self.left < 0


class TestCommand:
    def without_training(self, monkeypatch):
        """Trainings only count their two steps, and detections are drawn."""
        rng = np.random.default_rng(0)

        def train(detector, state, *_, epochs, batch, seed, advance):
            assert (epochs, batch) == (1, 4) and seed in (0, 1)
            advance()
            advance()
            return state, [{"loss": 1.0}]

        def detect(detector, state, images):
            corner = rng.uniform(0, 20, (len(images), 5, 2))
            return centernet.Detections(
                np.concatenate([corner, corner + 20], axis=-1),
                rng.integers(0, 10, (len(images), 5)),
                rng.uniform(size=(len(images), 5)),
            )

        monkeypatch.setattr(centernet, "begin", lambda *_: None)
        monkeypatch.setattr(centernet, "train", train)
        monkeypatch.setattr(centernet, "detect", detect)

    @pytest.mark.parametrize(
        "trained", [False, pytest.param(True, marks=pytest.mark.slow)]
    )
    def test_compares_backbones_and_resumes(
        self, folder, tmp_path, capsys, monkeypatch, trained
    ):
        if not trained:
            self.without_training(monkeypatch)
        out = tmp_path / "my results"
        backbones = ["drawn=random:resnet8", f"own={folder}"]
        tiny = [*TINY, "--seeds=2"]
        call = [*backbones, *tiny, f"--out={out}"]
        with monkeypatch.context() as patch:
            # Two steps a training: in the second of the third.
            patch.setattr(Countdown, "looks", 5)
            patch.setattr(interrupts, "Interrupt", Countdown)
            assert detection.main(call) == 130
        said = capsys.readouterr().err
        assert "stopped in own-seed0" in said and "Traceback" not in said
        left = {path.name for path in out.iterdir()}
        assert left == {"detection.json", "drawn-seed0.json", "drawn-seed1.json"}
        before = {name: (out / name).read_bytes() for name in left}
        # As pasted from what was printed.
        again = shlex.split(said.strip().splitlines()[-1])
        assert again[1:3] == ["-m", "experiments.detection"]
        assert detection.main(again[3:]) == 0
        assert {name: (out / name).read_bytes() for name in left} == before
        result = json.loads((out / "result.json").read_text())
        assert result["settings"]["canvases"] == 8
        assert len(json.loads((out / "detection.json").read_text())["images"]) == 64
        assert result["versions"].keys() > {"jax", "flax", "numpy"}
        assert list(result["backbones"]) == ["drawn", "own"]
        for name, of in result["backbones"].items():
            assert (of["net"], of["layer"], of["grid"]) == ("resnet8", "stage3", 12)
            values = [run["map"] for run in of["runs"]]
            assert of["map"]["mean"] == pytest.approx(np.mean(values))
            assert [len(run["history"]) for run in of["runs"]] == [1, 1]
            assert len(of["ap"]) == 10
            digests = {run["weights"] for run in of["runs"]}
            assert len(digests) == 2  # Of each seed its own.
            assert ("difference" in of) == (name == "own")
        own, drawn = (result["backbones"][name] for name in ("own", "drawn"))
        gap = own["map"]["mean"] - drawn["map"]["mean"]
        assert own["difference"]["mean"] == pytest.approx(gap)
        table = (out / "table.md").read_text()
        assert "not photographs" in table and "real images of digits" in table
        assert "| own " in table and "is frozen" in table
        assert (out / "detections.png").stat().st_size > 10_000
        # Finished ones are not trained again, and fewer may be shown.
        monkeypatch.setattr(centernet, "step", None)
        capsys.readouterr()
        alone = [backbones[1], *TINY, "--seeds=1", f"--out={out}", "--resume"]
        assert detection.main(alone) == 0
        assert "drawn" not in capsys.readouterr().out

        # Neither without --resume, nor with other settings or weights, nor damaged.
        def refused(*arguments):
            assert detection.main([*arguments, f"--out={out}"]) == 2
            return capsys.readouterr().err

        assert "--resume continues it" in refused(*backbones, *tiny)
        other = [*tiny, "--objects=1", "--resume"]
        assert "objects 2 there and 1 here" in refused(*backbones, *other)
        swapped = f"drawn={folder}"
        assert "is of other weights" in refused(swapped, *tiny, "--resume")
        (out / "own-seed0.json").write_text("{")
        assert "own-seed0.json is damaged" in refused(*backbones, *tiny, "--resume")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["a=random:resnet8", "--seedss=1"], "--seeds"),
            (["random:resnet8"], "expected NAME=FOLDER"),
            (["a/b=random:resnet8"], "expected NAME=FOLDER"),
            (["a=random:resnet8", "a=random:wrn_16_1"], "two backbones are called a"),
            (["a=random:resnet9"], "there is no net 'resnet9'; did you mean 'resnet8'"),
            (["a=nowhere"], "nowhere holds no weights"),
            (["a=random:mnist_cnn"], "mnist_cnn cannot see canvases of 64 x 64"),
            (["a=random:mlp"], "such as resnet8, wrn_16_1 and vgg8"),
            (["a=random:resnet8", "--layer=stage7"], "there is no map of a 'stage7'"),
            (["a=random:resnet8", "--layer=pooled"], "there is no map of a 'pooled'"),
            (["a=random:resnet8", "--size=65"], "17 x 17 cells, which do not divide"),
            (["a=random:resnet8", "--size=40"], "size must be 45 pixels or more"),
            (["a=random:resnet8", "--seeds=0"], "seeds must be 1 or more, got 0"),
            (
                ["a=random:resnet8", "--batch=9", "--canvases=8"],
                "at most the number of canvases, 8",
            ),
            (["a=random:resnet8", "--learning_rate=nan"], "above 0 and finite"),
            (["a=random:resnet8", "--data=cifar10"], "no data_dir is given"),
            (["a=random:resnet8", "--data=digist"], "did you mean 'digits'"),
        ],
    )
    def test_a_wrong_call_is_answered_in_words(
        self, arguments, message, tmp_path, capsys, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        assert detection.main(arguments) == 2
        said = capsys.readouterr().err
        assert message in said and "Traceback" not in said
        assert not list(tmp_path.iterdir())

    def test_a_loss_that_is_not_finite_leaves_no_result(
        self, tmp_path, capsys, monkeypatch
    ):
        diverged = [{"loss": 1.0}, {"loss": math.nan}]
        monkeypatch.setattr(
            centernet, "train", lambda _, state, *a, **b: (state, diverged)
        )
        call = ["a=random:resnet8", *TINY, f"--out={tmp_path}"]
        assert detection.main(call) == 1
        assert "a-seed0: the loss is not finite" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["detection.json"]

    def test_leaves_folders_of_others_alone(self, tmp_path, capsys):
        (tmp_path / "thesis.txt").write_text("years of work")
        for arguments in ([], ["--resume"]):
            call = ["a=random:resnet8", *TINY, f"--out={tmp_path}", *arguments]
            assert detection.main(call) == 2
            assert (
                "something that is not a comparison of detectors"
                in capsys.readouterr().err
            )
        call = ["a=random:resnet8", *TINY, f"--out={tmp_path / 'thesis.txt'}"]
        assert detection.main(call) == 2
        assert "cannot write to" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


class TestFolder:
    def test_of_other_images_is_not_gone_on_with(self, tmp_path, capsys):
        def claim(**settings):
            options = detection_options.Options(
                ("a=random:mlp",), out=str(tmp_path), resume=True
            )
            folders.claim(options, settings)

        claim(epochs=3, images="a")
        with pytest.raises(command.UsageError, match="images 'a' there and 'b' here"):
            claim(epochs=3, images="b")
        with pytest.raises(command.UsageError, match="epochs 3 there and 4 here"):
            claim(epochs=4, images="a")
        assert not capsys.readouterr().err
        # An earlier version's says nothing of them, and then does.
        (tmp_path / "detection.json").write_text('{"epochs": 3}')
        claim(epochs=3, images="b")
        assert "is not checked" in capsys.readouterr().err
        with pytest.raises(command.UsageError, match="images 'b' there"):
            claim(epochs=3, images="a")

    def test_a_result_of_another_comparison_is_not_taken(self, tmp_path):
        variables = {"params": np.arange(3.0)}
        backbone = backbones.Backbone("a", 1, "mlp", None, variables)
        settings = {"epochs": 3}
        whole = {"backbone": "a", "seed": 1, "settings": settings}
        whole["weights"] = weights.fingerprint(variables)
        old = {k: v for k, v in whole.items() if k != "settings"}
        for record, message in (
            (whole, None),
            (old, None),
            (whole | {"seed": 0}, "differs in seed; if"),
            (whole | {"backbone": "b"}, "differs in backbone; if"),
            (whole | {"settings": {"epochs": 4}}, "differs in settings; if"),
            (whole | {"weights": "0"}, "of other weights"),
        ):
            (tmp_path / "a-seed1.json").write_text(json.dumps(record))
            if message is None:
                assert (
                    comparison.record_backbone(tmp_path, backbone, settings) == record
                )
            else:
                with pytest.raises(command.UsageError, match=message):
                    comparison.record_backbone(tmp_path, backbone, settings)

    def test_in_use_is_left_alone(self, tmp_path, capsys, digits, monkeypatch):
        monkeypatch.setattr(backbones, "load_backbone", lambda *_: None)
        monkeypatch.setattr(data, "load", lambda *_: digits)
        with locks.hold(tmp_path):
            assert detection.main(["a=b", *TINY, f"--out={tmp_path}"]) == 2
        assert "in use by process" in capsys.readouterr().err
        assert not list(tmp_path.iterdir())


class TestBackbone:
    def load(self, source, dataset, **changes):
        changes = {"size": 96, **changes}
        options = detection_options.Options((f"a={source}",), **changes)
        given = (functools.partial(data.normalise, dataset), options)
        return backbones.load_backbone("a", source, 0, dataset, *given)

    @pytest.mark.parametrize(
        ("name", "size", "layer"),
        [
            ("resnet8", 64, "stage3"),
            ("wrn_16_1", 96, "stage3"),
            ("vgg8", 64, "stage3"),
            ("resnet18_imagenet", 64, "stage2"),
            ("resnet18_imagenet", 256, "stage4"),
        ],
    )
    def test_the_head_reads_the_last_stage_of_8_x_8(self, name, size, layer):
        net = nets.build(name, 10)
        images = jnp.zeros((1, size, size, 3))
        seen, _ = jax.eval_shape(net.init_with_output, jax.random.key(0), images)
        assert backbones.last_stage("a", net, seen, size) == layer
        with pytest.raises(command.UsageError, match="no stage of 8 x 8 cells"):
            tiny = jax.tree.map(lambda x: jnp.zeros((1, 7, 7, 1)), seen)
            backbones.last_stage("a", net, tiny, size)

    def test_a_layer_may_be_named(self, folder, digits):
        detector = self.load(folder, digits, layer="stage2").detector
        assert (detector.layer, detector.grid, detector.stride) == ("stage2", 48, 2)

    def test_sees_images_as_it_was_trained_to(self, folder, digits):
        found = self.load(folder, digits)
        trained = weights.load(folder.replace("{seed}", "0"))
        images = digits.test.image[:3]
        net = nets.build("resnet8", 10)
        pixels = (images / np.float32(255) - np.float32(0.1)) / np.float32(0.3)
        expected = jax.jit(net.apply)(trained.variables, pixels)["stage3"]
        detector = found.detector
        apply = jax.jit(detector.net.apply)
        seen = apply(found.variables, detector.normalise(images))
        np.testing.assert_allclose(seen["stage3"], expected, rtol=1e-4, atol=1e-4)

    def test_refuses_images_of_other_channels(self, folder):
        with pytest.raises(command.UsageError, match="1 channel, colours has 3"):
            self.load(folder, colours())

    def test_other_classes_do_not_matter(self, folder, digits):
        found = self.load(folder, dataclasses.replace(digits, classes=4))
        assert found.detector.classes == 4


@pytest.mark.slow
def test_real_colour_images(tfds_dir, tmp_path):
    """From CIFAR-10 to the picture, with one backbone and one seed."""
    call = ["a=random:resnet8", *TINY[:-3], "--size=64", "--seeds=1", "--frozen"]
    call += ["--data=cifar10", f"--data_dir={tfds_dir}", f"--out={tmp_path / 'out'}"]
    assert detection.main(call) == 0
    table = (tmp_path / "out" / "table.md").read_text()
    assert "real images of cifar10 on noise" in table
