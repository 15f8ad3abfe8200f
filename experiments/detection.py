"""What the features of a trained net are worth to a detector.

    python -m experiments.run mnist_rdl --student=resnet8 --out=results/students
    python -m experiments.detection drawn=drawn:resnet8 \
        plain=results/students/plain-seed{seed}/weights \
        rdl=results/students/rdl-seed{seed}/weights

Paper: Huang & Wang, Like What You Like: Knowledge Distill via Neuron Selectivity
Transfer, arXiv 1707.01219, 2017. A student that has learned from a teacher becomes the
backbone of a detector, and so do others; the better features make the better detector.

NAME=FOLDER is a net that a run left or `experiments.import_torch` wrote, and what it is
called; `{seed}` in FOLDER becomes 0, 1, ... NAME=drawn:NET is a net with weights drawn
by chance, the baseline if it comes first. All get the same head and the same canvases;
seeds differ in the head, the order of the canvases, drawn weights, and what `{seed}`
names.

Other than in the paper:
1. The data. The paper detects the objects of photographs, PASCAL VOC 2007. Here real
   images of a classification set lie on canvases that are composed: digits and other
   images of one channel by the maximum over black, with boxes around their ink; colour
   images as rectangles over noise of the data's mean and deviation. That is easier:
   there is no clutter, no perspective, and hardly any occlusion. What is found here
   says nothing of how nets would rank on photographs.
2. The detector. Not Faster R-CNN but one head without anchors: a heatmap of centres for
   each class, and size and offset of the box (Zhou, Wang & Krähenbühl, Objects as
   Points, arXiv 1904.07850, 2019).
3. The backbone. Not Inception-BN of ImageNet but the nets of `rdljax.nets`, trained on
   images of one object. The images of test canvases are test images of the data: nets
   of `experiments.run` with the same data have seen none of them.

The metric is the mean over classes of average precision at an IoU of 0.5, as of VOC
2010 (all points), and beside it the mean over IoUs of 0.5, 0.55, ..., 0.95.

Cost: with `--epochs=4 --canvases=1000`, two backbones and three seeds, five minutes on
two busy CPU cores; two and a half with `--frozen`.

Obtained with these settings, resnet8 and students of five epochs (4.1 % test error),
mean and standard deviation over seeds: mAP 78.6 ± 1.9 % from drawn weights and 86.2 ±
0.7 % from plain students, paired difference 7.6 [1.1, 14.2]; with `--frozen` 37.1 ± 2.3
and 78.3 ± 0.8 %, difference 41.2 [33.8, 48.7]. The learning rate, its warm-up and the
clipping were chosen on canvases of validation images.
"""

import argparse
import dataclasses
import functools
import json
import math
import pathlib
import re
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
from jax import lax
from PIL import Image

from experiments import command, data, findings, loop, run, weights
from experiments.command import UsageError
from rdljax import _names, nets, statistics
from rdljax.nets import _layers

Array = jax.Array

# Of the canvases: a factor on the size of an image, how much of the smaller of two
# objects may be covered, and how often a place is sought.
SCALES = (0.6, 1.4)
OVERLAP, TRIES = 0.1, 20
# Ink is what has this part of the brightest pixel of an image, or more.
INK = 1 / 8
# The label where there is no object.
ABSENT = -1
# The least height and width of the map that the head reads, if none is named.
LEAST_GRID = 8
# Of the head: hidden channels, and the probability of an object that it begins with.
WIDTH, PRIOR = 64, 0.1
# Zhou et al., equations 1 and 4: the exponents of the focal loss, the size's weight.
ALPHA, BETA, SIZE_WEIGHT = 2, 4, 0.1
# The gradient's largest norm: a new head's first gradients undo what a backbone knows.
CLIP = 1.0
# How far a box may be moved that its IoU stays so high: the width of the Gaussians.
SPLAT_IOU = 0.7
# Detections in a canvas; those that are shown, and in how many canvases.
TOP, SHOWN_SCORE, SHOWN = 20, 0.3, 5
IOUS = np.arange(50, 100, 5) / 100
# Seeds of the canvases, the same for all seeds of the training.
PARTS = {"train": 0, "test": 1}

COUNTS = ("seeds", "epochs", "batch", "canvases", "test_canvases", "objects", "size")
KEYS = (*COUNTS, "data", "data_dir", "learning_rate", "layer", "frozen", "out")
# What leaves the run of a backbone and a seed as it is.
OF_THE_CALL = ("backbones", "seeds", "data_dir", "out", "resume")


class Canvases(NamedTuple):
    """Images with several objects.

    Attributes:
      image: uint8 `[n, size, size, channels]`.
      boxes: float32 `[n, objects, 4]`: x0, y0, x1, y1, the outer edges in pixels, so
        that a box is `x1 - x0` pixels wide.
      label: int32 `[n, objects]`; -1 where there is no object.
      source: int32 `[n, objects]`, the object's place in its split; -1 likewise.
    """

    image: np.ndarray
    boxes: np.ndarray
    label: np.ndarray
    source: np.ndarray


def compose(
    dataset: data.Dataset, part: str, count: int, *, size: int, objects: int, seed: int
) -> Canvases:
    """Canvases with images of one part of the data, a function of the seed.

    Args:
      dataset: The data.
      part: "train", "validation" or "test".
      count: How many canvases.
      size: Their height and width in pixels.
      objects: The largest number of objects in one; each has at least one, and fewer
        than were drawn where there is no room.
      seed: Of images, sizes and places.

    Raises:
      UsageError: An object may be larger than a canvas.
    """
    split, channels = getattr(dataset, part), dataset.train.image.shape[-1]
    least = math.ceil(SCALES[1] * max(split.image.shape[1:3]))
    if size < least:
        raise UsageError(f"size must be {least} pixels or more, got {size}")
    rng = np.random.default_rng(seed)
    image = np.zeros((count, size, size, channels), np.uint8)
    boxes = np.zeros((count, objects, 4), np.float32)
    label, source = np.full((2, count, objects), ABSENT, np.int32)
    for i, canvas in enumerate(image):
        if channels > 1:
            noise = rng.normal(dataset.mean, dataset.std, canvas.shape)
            canvas[:] = np.clip(np.round(noise), 0, 255)
        for j in range(rng.integers(1, objects + 1)):
            chosen = rng.integers(len(split.label))
            seen = _scaled(split.image[chosen], rng.uniform(*SCALES))
            box = _place(rng, boxes[i, :j], *seen.shape[:2], size)
            if box is None:
                break
            x0, y0, x1, y1 = box
            under = canvas[y0:y1, x0:x1]
            under[:] = np.maximum(under, seen) if channels == 1 else seen
            boxes[i, j], label[i, j], source[i, j] = box, split.label[chosen], chosen
    return Canvases(image, boxes, label, source)


def _scaled(image: np.ndarray, scale: float) -> np.ndarray:
    """An image in another size; of one channel, the ink alone."""
    height, width = (round(scale * length) for length in image.shape[:2])
    seen = Image.fromarray(np.squeeze(image, 2) if image.shape[2] == 1 else image)
    seen = np.array(seen.resize((width, height), Image.Resampling.BILINEAR))
    if seen.ndim == 3:
        return seen
    ink = seen >= INK * seen.max()
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    cut = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return np.where(ink, seen, 0)[cut][..., None]


def _place(
    rng: np.random.Generator, taken: np.ndarray, height: int, width: int, size: int
) -> np.ndarray | None:
    """A box that covers little of those taken, and is covered little; None if none."""
    for _ in range(TRIES):
        corner = rng.integers([size - width + 1, size - height + 1])
        box = np.concatenate([corner, corner + [width, height]])
        smaller = np.minimum(_area(box), _area(taken))
        if np.all(_intersection(box, taken) <= OVERLAP * smaller):
            return box
    return None


def _area(boxes: np.ndarray) -> np.ndarray:
    return np.prod(boxes[..., 2:] - boxes[..., :2], axis=-1)


def _intersection(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    low = np.maximum(first[..., :2], second[..., :2])
    high = np.minimum(first[..., 2:], second[..., 2:])
    return np.prod(np.maximum(high - low, 0), axis=-1)


def iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes `[..., 4]`; 0 where neither has an area."""
    both = _intersection(first, second)
    union = _area(first) + _area(second) - both
    return both / np.where(union > 0, union, 1)


class Maps(NamedTuple):
    """What a head answers, or is to answer, over a grid of cells.

    Attributes:
      heat: `[n, G, G, classes]`, the probability of an object's centre (of a head, its
        logit).
      size: `[n, G, G, 2]`, width and height of the box in cells.
      offset: `[n, G, G, 2]`, the centre's x and y in its cell, from 0 to 1.
    """

    heat: Array
    size: Array
    offset: Array


class Detections(NamedTuple):
    """Boxes found: `box` `[n, K, 4]`, `label` (-1 for none) and `score` `[n, K]`."""

    box: Array
    label: Array
    score: Array


def encode(boxes: Array, label: Array, *, grid: int, stride: int, classes: int) -> Maps:
    """What a head is to answer.

    The heat is 1 in the cell of a centre and falls around it as a Gaussian whose width
    goes with the box: a box moved by its radius r in x and y still has an IoU of 0.7
    with itself, and sigma = (2 r + 1) / 6. Of several Gaussians of a class the largest
    counts. Where two centres share a cell, sizes and offsets are the mean.

    Args:
      boxes: `[n, objects, 4]`, in pixels.
      label: `[n, objects]`, -1 where there is no object.
      grid: Height and width of the map, in cells.
      stride: Height and width of a cell, in pixels.
      classes: Their number.

    References:
      Law & Deng, CornerNet, ECCV 2018 (the radius); Zhou et al. 2019, section 3.
    """
    corners = boxes / stride
    size = corners[..., 2:] - corners[..., :2]
    centre = (corners[..., 2:] + corners[..., :2]) / 2
    cell = jnp.floor(centre)
    # (w - r) (h - r) = 2 iou / (1 + iou) w h, the smaller solution.
    total, area = jnp.sum(size, axis=-1), jnp.prod(size, axis=-1)
    lost = 1 - 2 * SPLAT_IOU / (1 + SPLAT_IOU)
    radius = (total - jnp.sqrt(total**2 - 4 * lost * area)) / 2
    sigma = (2 * radius + 1) / 6
    rows, columns = jnp.indices((grid, grid))
    points = jnp.stack([columns, rows], axis=-1)[None, None]
    away = jnp.sum((points - cell[:, :, None, None]) ** 2, axis=-1)
    splat = jnp.exp(-away / (2 * sigma[..., None, None] ** 2))
    each = splat[..., None] * jax.nn.one_hot(label, classes)[:, :, None, None]
    here = (away == 0) & (label != ABSENT)[..., None, None]
    here = here[..., None].astype(boxes.dtype)
    count = jnp.maximum(jnp.sum(here, axis=1), 1)

    def at_centres(x):
        return jnp.sum(here * x[:, :, None, None], axis=1) / count

    return Maps(jnp.max(each, axis=1), at_centres(size), at_centres(centre - cell))


def decode(maps: Maps, stride: int, count: int = TOP) -> Detections:
    """The boxes at the highest of the cells that no neighbour exceeds in their class.

    Args:
      maps: With probabilities.
      stride: Height and width of a cell, in pixels.
      count: How many, K, if the maps have as many numbers.
    """
    n, grid, _, classes = maps.heat.shape
    count = min(count, grid * grid * classes)
    highest = nn.max_pool(maps.heat, (3, 3), padding="SAME")
    peaks = jnp.where(maps.heat == highest, maps.heat, 0)
    score, place = lax.top_k(jnp.reshape(peaks, (n, -1)), count)
    cell, label = jnp.divmod(place, classes)

    def there(x):
        x = jnp.reshape(x, (n, -1, 2))
        return jnp.take_along_axis(x, cell[..., None], axis=1)

    centre = jnp.stack([cell % grid, cell // grid], axis=-1) + there(maps.offset)
    half = jnp.maximum(there(maps.size), 0) / 2
    box = stride * jnp.concatenate([centre - half, centre + half], axis=-1)
    return Detections(box, jnp.where(score > 0, label, ABSENT), score)


def losses(answered: Maps, target: Maps) -> dict[str, Array]:
    """`loss`, and the parts that it is the sum of, for each object.

    Args:
      answered: By the head, with logits.
      target: From `encode`.

    References:
      Zhou et al. 2019, equations 1 to 4: the focal loss `heat`, and the L1 distances
      of `size` (in cells, with a weight of 0.1) and `offset` at the centres.
    """
    p, logits, is_centre = nn.sigmoid(answered.heat), answered.heat, target.heat == 1
    hit = (1 - p) ** ALPHA * nn.log_sigmoid(logits)
    miss = (1 - target.heat) ** BETA * p**ALPHA * nn.log_sigmoid(-logits)
    here = jnp.any(is_centre, axis=-1, keepdims=True)
    objects = jnp.maximum(jnp.sum(here), 1)

    def distance(own, other):
        return jnp.sum(here * jnp.abs(own - other)) / objects

    parts = {
        "heat": -jnp.sum(jnp.where(is_centre, hit, miss)) / objects,
        "size": SIZE_WEIGHT * distance(answered.size, target.size),
        "offset": distance(answered.offset, target.offset),
    }
    return {"loss": sum(parts.values()), **parts}


class Head(nn.Module):
    """A 3 x 3 convolution, ReLU, and a 1 x 1 convolution for heat and box.

    Attributes:
      classes: Their number.
    """

    classes: int

    @nn.compact
    def __call__(self, features: Array) -> Maps:
        """The maps of features `[n, G, G, channels]`, with logits."""
        x = nn.relu(_layers.conv(WIDTH, use_bias=True, name="hidden")(features))
        # At first nearly all cells are none of a class: Lin et al. 2017, section 4.1.
        rare = nn.initializers.constant(-math.log((1 - PRIOR) / PRIOR))
        heat = nn.Conv(self.classes, (1, 1), bias_init=rare, name="heat")(x)
        size, offset = jnp.split(nn.Conv(4, (1, 1), name="box")(x), 2, axis=-1)
        return Maps(heat, size, offset)


@dataclasses.dataclass(frozen=True)
class Detector:
    """A backbone and its head.

    Attributes:
      net: The backbone.
      normalise: What it sees of uint8 images.
      layer: The map that the head reads.
      grid: That map's height and width.
      stride: Height and width of a cell, in pixels.
      classes: Their number.
      frozen: Whether the backbone stays as it is, in evaluation mode.
    """

    net: Any
    normalise: Callable[[Array], Array]
    layer: str
    grid: int
    stride: int
    classes: int
    frozen: bool

    @property
    def head(self) -> Head:
        return Head(self.classes)


class State(NamedTuple):
    """The backbone's variables, the head's, and the optimizer's state."""

    backbone: Any
    head: Any
    optimizer: Any


def _trained(detector: Detector, state: State) -> dict[str, Any]:
    """The parameters that are trained."""
    if detector.frozen:
        return {"head": state.head}
    return {"head": state.head, "backbone": state.backbone["params"]}


def begin(
    detector: Detector,
    variables: dict,
    optimizer: optax.GradientTransformation,
    image: np.ndarray,
    seed: int,
) -> State:
    """A detector before its training.

    Args:
      detector: The detector.
      variables: The backbone's.
      optimizer: As given to `step`.
      image: Canvases, uint8, for their form.
      seed: Of the head.
    """
    variables = jax.tree.map(jnp.asarray, variables)
    image = detector.normalise(image[:1])
    features = detector.net.apply(variables, image)[detector.layer]
    head = detector.head.init(jax.random.key(seed), features)
    state = State(variables, head, ())
    return state._replace(optimizer=optimizer.init(_trained(detector, state)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def step(
    detector: Detector,
    optimizer: optax.GradientTransformation,
    state: State,
    canvases: Canvases,
    index: Array,
) -> tuple[State, dict[str, Array]]:
    """One step of training: the next state, and the losses.

    Args:
      detector: The detector.
      optimizer: How parameters change.
      state: Of the training.
      canvases: All that there are, on the device.
      index: int32 `[batch]`: those of this step.
    """
    image = detector.normalise(canvases.image[index])
    target = encode(
        canvases.boxes[index],
        canvases.label[index],
        grid=detector.grid,
        stride=detector.stride,
        classes=detector.classes,
    )

    def objective(params):
        if detector.frozen:
            seen, changed = detector.net.apply(state.backbone, image), {}
        else:
            seen, changed = detector.net.apply(
                {**state.backbone, "params": params["backbone"]},
                image,
                train=True,
                mutable=["batch_stats"],
            )
        found = losses(
            detector.head.apply(params["head"], seen[detector.layer]), target
        )
        return found["loss"], (found, changed)

    params = _trained(detector, state)
    gradient, (found, changed) = jax.grad(objective, has_aux=True)(params)
    updates, of_optimizer = optimizer.update(gradient, state.optimizer, params)
    params = optax.apply_updates(params, updates)
    backbone = {**state.backbone, **changed}
    if not detector.frozen:
        backbone["params"] = params["backbone"]
    return State(backbone, params["head"], of_optimizer), found


def train(
    detector: Detector,
    state: State,
    optimizer: optax.GradientTransformation,
    canvases: Canvases,
    *,
    epochs: int,
    batch: int,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> tuple[State, list[dict[str, float]]]:
    """Trains a detector; answers its state, and each epoch's mean losses.

    Args:
      detector: The detector.
      state: From `begin`.
      optimizer: As given to `begin`.
      canvases: To train on, on the device.
      epochs: How often each canvas is seen.
      batch: Canvases in a step.
      seed: Of their order.
      advance: Called before each step.
    """
    history = []
    for epoch in range(epochs):
        found = []
        order = data.batches(len(canvases.label), batch, seed=seed, epoch=epoch)
        for index in order:
            advance()
            state, metrics = step(detector, optimizer, state, canvases, index)
            found.append(metrics)
            # So that the progress bar and Ctrl-C are not far behind.
            jax.block_until_ready(found[-loop.STEPS_IN_FLIGHT :][0])
        found = jax.device_get(found)
        history.append({k: float(np.mean([m[k] for m in found])) for k in found[0]})
    return state, history


@functools.partial(jax.jit, static_argnums=0)
def _detect(detector: Detector, backbone: Any, head: Any, image: Array) -> Detections:
    seen = detector.net.apply(backbone, detector.normalise(image))
    maps = detector.head.apply(head, seen[detector.layer])
    return decode(maps._replace(heat=nn.sigmoid(maps.heat)), detector.stride)


def detect(
    detector: Detector, state: State, image: np.ndarray, chunk: int = 100
) -> Detections:
    """What a detector finds in canvases, uint8 `[n, size, size, channels]`.

    Args:
      detector: The detector.
      state: Of its training.
      image: The canvases.
      chunk: Canvases at a time.
    """
    parts = [
        jax.device_get(
            _detect(detector, state.backbone, state.head, image[i : i + chunk])
        )
        for i in range(0, len(image), chunk)
    ]
    return Detections(*map(np.concatenate, zip(*parts, strict=True)))


def average_precision(
    found: Detections,
    boxes: np.ndarray,
    label: np.ndarray,
    classes: int,
    threshold: float = 0.5,
) -> np.ndarray:
    """The area under the curve of precision over recall, of each class.

    Detections of a class are looked at by falling score. One is right if its IoU with
    the object of its class in its canvas that it covers best reaches the threshold, and
    no detection before it had that object. Precision is the best at the same recall or
    a higher one.

    Args:
      found: What was detected.
      boxes: What is there, `[n, objects, 4]`.
      label: Its class, `[n, objects]`; -1 where there is no object.
      classes: Their number.
      threshold: Of the IoU.

    Returns:
      float64 `[classes]`; NaN for a class without an object.

    References:
      Everingham, Van Gool, Williams, Winn & Zisserman, The PASCAL Visual Object Classes
      (VOC) Challenge, IJCV 88, 2010; all points, as from VOC 2010 on.
    """
    every = found.box.astype(np.float64)[:, :, None], boxes.astype(np.float64)[:, None]
    same = found.label[:, :, None] == label[:, None]
    overlap = np.where(same, iou(*every), 0)
    best, hit = overlap.argmax(axis=-1), overlap.max(axis=-1) >= threshold
    which = best + boxes.shape[1] * np.arange(len(boxes))[:, None]
    areas = np.full(classes, np.nan)
    for one in np.unique(label[label != ABSENT]):
        own = found.label == one
        order = np.argsort(-found.score[own], kind="stable")
        places = np.flatnonzero(hit[own][order])
        _, first = np.unique(which[own][order][places], return_index=True)
        right = np.zeros(len(order), bool)
        right[places[first]] = True
        precision = np.cumsum(right) / np.arange(1, len(right) + 1)
        highest = np.maximum.accumulate(precision[::-1])[::-1]
        areas[one] = np.sum(highest[right]) / np.count_nonzero(label == one)
    return areas


def measure(found: Detections, canvases: Canvases, classes: int) -> dict[str, Any]:
    """Average precision in percent.

    Returns:
      `ap` of each class at an IoU of 0.5, its mean `map`, and `map_strict`, the mean
      over classes and IoUs from 0.5 to 0.95.
    """
    every = 100 * np.stack(
        [
            average_precision(found, canvases.boxes, canvases.label, classes, least)
            for least in IOUS
        ]
    )
    means = np.nanmean(every, axis=1)
    return {"ap": every[0].tolist(), "map": means[0], "map_strict": means.mean()}


class Backbone(NamedTuple):
    """A net that a detector begins with.

    Attributes:
      name: In the table.
      seed: Of the training.
      net: Its name.
      detector: With it.
      variables: Its variables.
    """

    name: str
    seed: int
    net: str
    detector: Detector
    variables: Any

    @property
    def run(self) -> str:
        """The name of its training."""
        return f"{self.name}-seed{self.seed}"


def parse_backbones(given: Sequence[str]) -> dict[str, str]:
    """From `NAME=FOLDER` or `NAME=drawn:NET` to folders or nets, by name.

    Raises:
      UsageError: One is neither, or two have one name.
    """
    found = {}
    for one in given:
        name, _, source = one.partition("=")
        if not (source and re.fullmatch(r"[\w.+-]+", name)):
            raise UsageError(f"expected NAME=FOLDER or NAME=drawn:NET, got {one!r}")
        if name in found:
            raise UsageError(f"two backbones are called {name}")
        found[name] = source
    return found


def load_backbone(
    name: str,
    source: str,
    seed: int,
    dataset: data.Dataset,
    normalise: Callable[[Array], Array],
    options: argparse.Namespace,
) -> Backbone:
    """A backbone and the detector around it.

    Args:
      name: In the table.
      source: A folder of weights, or `drawn:NET`.
      seed: Of the training.
      dataset: The data.
      normalise: What nets see of its images.
      options: `size`, `layer` and `frozen`.

    Raises:
      UsageError: There is no such folder, or the net cannot see the canvases, or has no
        map for the head.
      UnknownName: There is no such net, or layer.
    """
    drawn = source.removeprefix("drawn:")
    if drawn != source:
        net_name, net = drawn, nets.build(drawn, dataset.classes)
        blank = jnp.zeros((1, *dataset.shape))
        draw = functools.partial(net.init, jax.random.key(seed), blank)
    else:
        trained = weights.load(source.replace("{seed}", str(seed)))
        own, channels = trained.shape[-1], dataset.shape[-1]
        if own != channels:
            raise UsageError(
                f"{name} sees images of {own} channels, {dataset.name} has {channels}"
            )
        net_name = trained.name
        net = trained.seeing(dataset, nets.build(net_name, trained.classes))

        def draw():
            return trained.variables

    canvas = jnp.zeros((1, options.size, options.size, dataset.shape[-1]))
    try:
        seen = jax.eval_shape(lambda: net.apply(draw(), canvas))
    except flax.errors.FlaxError as error:
        raise UsageError(
            f"{name}: {net_name} cannot see canvases of {options.size} x "
            f"{options.size} pixels, since it flattens its maps and so takes images of "
            "one size alone; nets that take the mean over positions can, such as "
            "resnet8, wrn_16_1 and vgg8"
        ) from error
    layer = options.layer
    if layer is None:
        layer = last_stage(name, net, seen, options.size)
    _names.check(f"map of {name}", layer, [k for k, x in seen.items() if x.ndim == 4])
    grid = seen[layer].shape[1]
    if options.size % grid:
        raise UsageError(
            f"size: {layer} of {name} has {grid} x {grid} cells, which do not divide "
            f"{options.size} pixels"
        )
    detector = Detector(
        net,
        normalise,
        layer,
        grid,
        options.size // grid,
        dataset.classes,
        options.frozen,
    )
    return Backbone(name, seed, net_name, detector, draw())


def last_stage(name: str, net: Any, seen: dict[str, Array], size: int) -> str:
    """The deepest stage that is fine enough for a head.

    Args:
      name: Of the backbone.
      net: The backbone.
      seen: What it answers, or the form of that.
      size: Of the canvases.

    Raises:
      UsageError: None is.
    """
    stages = [layer for layer in net.layers if layer.startswith("stage")]
    fine = [layer for layer in stages if seen[layer].shape[1] >= LEAST_GRID]
    if not fine:
        raise UsageError(
            f"{name} has no stage of {LEAST_GRID} x {LEAST_GRID} cells or more for "
            f"canvases of {size} pixels; --size takes larger ones, --layer names a map"
        )
    return fine[-1]


def compare(options: argparse.Namespace, interrupt: loop.Interrupt) -> dict:
    """Trains and measures a detector for each backbone and seed; writes the results.

    Args:
      options: From `parse`.
      interrupt: Whether to stop.

    Returns:
      What `result.json` holds.

    Raises:
      UsageError: A setting is impossible, data or weights are missing, or the folder
        is taken.
      UnknownName: Of a net, a layer or a data set.
      Interrupted: Stopped; the folder can be resumed.
      Diverged: A loss is not finite.
    """
    sources = parse_backbones(options.backbones)
    _check(options)
    try:
        dataset = data.load(options.data, options.data_dir)
    except ValueError as error:
        raise UsageError(str(error)) from error
    normalise = functools.partial(data.normalise, dataset)
    backbones = [
        load_backbone(name, source, seed, dataset, normalise, options)
        for name, source in sources.items()
        for seed in range(options.seeds)
    ]
    size = {"size": options.size, "objects": options.objects}
    counts = {"train": options.canvases, "test": options.test_canvases}
    canvases = {
        part: compose(dataset, part, count, seed=PARTS[part], **size)
        for part, count in counts.items()
    }
    settings = {k: v for k, v in vars(options).items() if k not in OF_THE_CALL}
    folder = claim(options, settings)
    note = described(dataset, canvases)
    print(f"{note}\nResults: {folder}.")

    epoch = options.canvases // options.batch
    rate = optax.warmup_cosine_decay_schedule(
        0.0, options.learning_rate, epoch, options.epochs * epoch + 1
    )
    optimizer = optax.chain(optax.clip_by_global_norm(CLIP), optax.adam(rate))
    on_device = Canvases(*map(jnp.asarray, canvases["train"]))
    results = []
    total = len(backbones) * options.epochs * epoch
    with tqdm.tqdm(total=total, unit="step", smoothing=0.05) as bar:
        for backbone in backbones:
            results.append(recorded(folder, backbone))
            if results[-1] is not None:
                bar.update(options.epochs * epoch)
                continue
            bar.set_description(backbone.run)

            def advance(name=backbone.run):
                if interrupt.requested:
                    raise loop.Interrupted(name)
                bar.update()

            results[-1] = _result(
                backbone, optimizer, on_device, canvases["test"], options, advance
            )
            loop.write_json(folder / f"{backbone.run}.json", results[-1])
    summary = {
        "note": note,
        "settings": {"seeds": options.seeds, **settings},
        "versions": run.versions(),
        "device": jax.devices()[0].device_kind,
        "backbones": summarise(results, sources),
    }
    picture(folder / "detections.png", results, canvases["test"])
    text = table(summary)
    (folder / "table.md").write_text(text)
    loop.write_json(folder / "result.json", summary)
    print(f"\n{text}\n{folder}: result.json, table.md, detections.png")
    return summary


def _check(options: argparse.Namespace) -> None:
    """Raises `UsageError` for numbers that are impossible."""
    for name in COUNTS:
        if getattr(options, name) < 1:
            raise UsageError(f"{name} must be 1 or more, got {getattr(options, name)}")
    if options.batch > options.canvases:
        raise UsageError(
            f"batch must be at most {options.canvases}, the canvases, got "
            f"{options.batch}"
        )
    if not 0 < options.learning_rate < math.inf:
        raise UsageError(
            f"learning_rate must be above 0 and finite, got {options.learning_rate}"
        )


def claim(options: argparse.Namespace, settings: dict[str, Any]) -> pathlib.Path:
    """The folder for results, if it is free or holds such a run to be resumed.

    Raises:
      UsageError: It holds something else, or `resume` is missing.
    """
    folder = command.path("out", options.out)
    record = folder / "detection.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # (A run that is killed while it claims its folder leaves a draft alone.)
        if {path.name for path in folder.iterdir()} - {"detection.partial"}:
            _check_taken(folder, record, settings, options.resume)
        loop.write_json(record, settings)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error}") from error
    return folder


def _check_taken(
    folder: pathlib.Path, record: pathlib.Path, settings: dict[str, Any], resume: bool
) -> None:
    """Raises `UsageError` unless a folder in use may be resumed."""
    if not record.exists():
        raise UsageError(f"{folder} holds something that is no such run; see --out")
    theirs = _read(record, "--out=FOLDER leaves it alone")
    changed = [
        f"{k} {theirs.get(k)!r} there and {settings.get(k)!r} here"
        for k in settings | theirs
        if theirs.get(k) != settings.get(k)
    ]
    if changed:
        raise UsageError(
            f"{folder} holds a run with other settings ({', '.join(changed)}); "
            "--out=FOLDER leaves it alone"
        )
    if not resume:
        raise UsageError(
            f"{folder} holds a run with these settings; --resume continues it, or adds "
            "backbones and seeds"
        )


def _read(record: pathlib.Path, hint: str) -> dict:
    """A file of JSON, or `UsageError` with a hint."""
    try:
        found = json.loads(record.read_text())
        if not isinstance(found, dict):
            raise ValueError("it is no dictionary")
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{record} is damaged ({error}); {hint}") from error
    return found


def recorded(folder: pathlib.Path, backbone: Backbone) -> dict | None:
    """What a backbone and a seed have left in the folder, if they were finished.

    Raises:
      UsageError: It cannot be read, or is of another backbone.
    """
    record = folder / f"{backbone.run}.json"
    if not record.exists():
        return None
    found = _read(record, "where it is deleted, --resume writes it anew")
    if found.get("weights") != weights.fingerprint(backbone.variables):
        raise UsageError(
            f"{record} is of other weights; --out=FOLDER leaves it alone, another NAME "
            "goes beside it"
        )
    return found


def _result(
    backbone: Backbone,
    optimizer: optax.GradientTransformation,
    canvases: Canvases,
    test: Canvases,
    options: argparse.Namespace,
    advance: Callable[[], None],
) -> dict:
    """The result of a backbone and a seed."""
    start, detector = time.monotonic(), backbone.detector
    state = begin(detector, backbone.variables, optimizer, test.image, backbone.seed)
    state, history = train(
        detector,
        state,
        optimizer,
        canvases,
        epochs=options.epochs,
        batch=options.batch,
        seed=backbone.seed,
        advance=advance,
    )
    if not all(math.isfinite(epoch["loss"]) for epoch in history):
        raise loop.Diverged(
            f"{backbone.run}: the loss is not finite; see --learning_rate"
        )
    found = detect(detector, state, test.image)
    return {
        "backbone": backbone.name,
        "seed": backbone.seed,
        "net": backbone.net,
        "weights": weights.fingerprint(backbone.variables),
        "layer": detector.layer,
        "grid": detector.grid,
        **measure(found, test, detector.classes),
        "history": history,
        "seconds": time.monotonic() - start,
        "shown": [x[:SHOWN].tolist() for x in found],
    }


def described(dataset: data.Dataset, canvases: dict[str, Canvases]) -> str:
    """The data in words."""
    size = canvases["train"].image.shape[1]
    objects = {part: np.sum(x.label != ABSENT) for part, x in canvases.items()}
    how = "black, their boxes around the ink"
    if dataset.train.image.shape[-1] > 1:
        how = "noise, their boxes around the whole image"
    return (
        f"Data: not photographs of scenes, as in PASCAL VOC, but canvases of {size} x "
        f"{size} pixels composed of real images of {dataset.name} on {how}: "
        f"{len(canvases['train'].label):,} canvases with {objects['train']:,} objects "
        f"of its training images to train on, {len(canvases['test'].label):,} with "
        f"{objects['test']:,} of its test images to test on.\n{dataset.name}: "
        f"{dataset.note}"
    )


def summarise(results: list[dict], sources: dict[str, str]) -> dict[str, dict]:
    """By backbone, mean and spread over seeds, and every run.

    Args:
      results: Of each backbone and seed.
      sources: Of each backbone, by name, the first one the baseline.

    Returns:
      With `difference`, of `map` from the baseline's, paired over seeds.
    """
    runs = {name: [r for r in results if r["backbone"] == name] for name in sources}
    first = next(iter(runs))
    found = {}
    for name, own in runs.items():
        found[name] = {
            "source": sources[name],
            **{key: own[0][key] for key in ("net", "layer", "grid")},
            **{
                key: _spread([r[key] for r in own])
                for key in ("map", "map_strict", "seconds")
            },
            "ap": [
                None if None in of_class else _spread(of_class)
                for of_class in zip(*(_numbers(r["ap"]) for r in own), strict=True)
            ],
            "runs": [{k: v for k, v in r.items() if k != "shown"} for r in own],
        }
        if name != first:
            pair = ([r["map"] for r in of] for of in (own, runs[first]))
            difference = statistics.paired_difference(*pair)._asdict()
            found[name]["difference"] = dict(
                zip(difference, _numbers(difference.values()), strict=True)
            )
    return found


def _numbers(values: Sequence[float | None]) -> list[float | None]:
    """None in the place of NaN: what was read from JSON, and what was not, alike."""
    return [None if v is None or math.isnan(v) else float(v) for v in values]


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    mean, std, _ = statistics.spread(values)
    return dict(zip(("mean", "std"), _numbers([mean, std]), strict=True))


def table(summary: dict) -> str:
    """The summary as Markdown."""
    backbones, settings = summary["backbones"], summary["settings"]
    first = next(iter(backbones))
    kept = "kept as it is" if settings["frozen"] else "trained with the head"
    rows = [
        [
            name,
            f"{of['net']}, {of['layer']}, {of['grid']} x {of['grid']}",
            findings.plus_minus(of["map"], 1),
            _interval(of.get("difference")),
            findings.plus_minus(of["map_strict"], 1),
            findings.plus_minus(of["seconds"], 0),
        ]
        for name, of in backbones.items()
    ]
    columns = ["backbone", "net, map and cells", "mAP at 0.5, %", "difference"]
    columns += ["mAP 0.5 to 0.95, %", "seconds a run"]
    classes = range(len(backbones[first]["ap"]))
    by_class = [
        [one]
        + [
            "–" if of["ap"][one] is None else findings.plus_minus(of["ap"][one], 1)
            for of in backbones.values()
        ]
        for one in classes
    ]
    parts = [
        summary["note"],
        f"The backbone is {kept}: {settings['epochs']} epochs, {settings['seeds']} "
        "seeds. mAP: average precision on test canvases, its mean over classes, with "
        f"mean and deviation over seeds. Difference: mAP at 0.5 minus that of {first}, "
        "paired over seeds, with its 95 % t interval.",
        findings.grid(columns, rows),
        "Average precision at an IoU of 0.5 by class, %:",
        findings.grid(["class", *backbones], by_class),
    ]
    return "\n\n".join(parts) + "\n"


def _interval(difference: dict | None) -> str:
    if difference is None:
        return "–"
    if difference["low"] is None:
        return f"{difference['mean']:+.1f}"
    return "{mean:+.1f} [{low:+.1f}, {high:+.1f}]".format(**difference)


def picture(path: pathlib.Path, results: list[dict], canvases: Canvases) -> None:
    """The first test canvases with true boxes and those of each backbone's seed 0.

    Args:
      path: Of the PNG.
      results: Of each run.
      canvases: For testing.
    """
    from matplotlib import patches
    from matplotlib import pyplot as plt

    results = [r for r in results if r["seed"] == 0]
    count, size = min(SHOWN, len(canvases.label)), canvases.image.shape[1]
    figure, axes = plt.subplots(
        len(results),
        count,
        figsize=(2.4 * count + 0.3, 2.4 * len(results) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    styles = {
        "true": {"edgecolor": "#56B4E9", "linewidth": 1.6},
        "detected": {"edgecolor": "#E69F00", "linewidth": 1.2, "linestyle": "--"},
    }
    written = {"color": "#E69F00", "fontsize": 7, "clip_on": True}
    written["bbox"] = {"color": "black", "alpha": 0.5, "pad": 0.3}

    def mark(axis, box, kind):
        corner, end = np.split(np.asarray(box), 2)
        patch = patches.Rectangle(corner, *(end - corner), fill=False, **styles[kind])
        axis.add_patch(patch)

    for row, result in zip(axes, results, strict=True):
        found = Detections(*map(np.asarray, result["shown"]))
        for i, axis in enumerate(row):
            image = canvases.image[i]
            image = image[..., 0] if image.shape[-1] == 1 else image
            axis.imshow(image, "gray", vmin=0, vmax=255, extent=(0, size, size, 0))
            for box, label in zip(canvases.boxes[i], canvases.label[i], strict=True):
                if label != ABSENT:
                    mark(axis, box, "true")
            for box, label, score in zip(*(x[i] for x in found), strict=True):
                if score >= SHOWN_SCORE and label != ABSENT:
                    mark(axis, box, "detected")
                    text, top = f"{label} ({100 * score:.0f} %)", max(box[1], 0)
                    place = {"va": "bottom" if top > size / 12 else "top"}
                    axis.text(max(box[0], 0), top, text, **place, **written)
            axis.set(xticks=[], yticks=[], xlim=(0, size), ylim=(size, 0))
        row[0].set_ylabel(result["backbone"], fontsize=9)
    shown = [patches.Patch(fill=False, label=k, **style) for k, style in styles.items()]
    figure.legend(handles=shown, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The settings of a command line.

    Raises:
      UnknownName: Of a setting.
      SystemExit: A value of the wrong type (2), or `--help` (0).
    """
    parser = argparse.ArgumentParser(
        prog="python -m experiments.detection",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("backbones", nargs="+", metavar="NAME=FOLDER", help="or NAME=drawn:NET")
    add("--data", default="digits", help="digits, or the name of a TFDS image set")
    add("--data_dir", help="the folder that holds the TFDS sets")
    add("--seeds", type=int, default=3, help="trainings of each backbone")
    add("--epochs", type=int, default=10, help="how often each canvas is seen")
    add("--batch", type=int, default=16, help="canvases in a step")
    add("--learning_rate", type=float, default=3e-3, help="after the first epoch")
    add("--canvases", type=int, default=2000, help="to train on")
    add("--test_canvases", type=int, default=500, help="to test on")
    add("--size", type=int, default=64, help="pixels of a canvas on each side")
    add("--objects", type=int, default=3, help="the most objects in a canvas")
    add("--layer", help="the map for the head; the last stage of 8 x 8 cells or more")
    add("--frozen", action="store_true", help="train the head alone")
    add("--out", default="results/detection", help="the folder for results")
    add("--resume", action="store_true", help="continue what the folder holds")
    command.check_keys(arguments, (*KEYS, "resume"))
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """The command line; its exit status is that of `experiments.run`."""
    arguments = sys.argv[1:] if arguments is None else arguments

    def detection():
        options = parse(arguments)
        with loop.Interrupt() as interrupt:
            compare(options, interrupt)

    try:
        return run.answer(detection)
    except loop.Interrupted as stopped:
        again = [a for a in arguments if a != "--resume"]
        again = [sys.executable, "-m", "experiments.detection", *again, "--resume"]
        print(f"\nstopped in {stopped}; to continue:", file=sys.stderr)
        print(shlex.join(again), file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
