"""Defines the detector, one head without anchors over a map, and its precision.

Zhou, Wang & Krähenbühl, Objects as Points, arXiv 1904.07850, 2019.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from experiments import data
from experiments.analyses.detection import canvas
from experiments.training import loop
from rdljax import nets

Array = jax.Array

# The head's number of hidden channels, and its initial probability of an object.
WIDTH, PRIOR = 64, 0.1
# Zhou et al., equations 1 and 4: the exponents of the focal loss, the size's weight.
ALPHA, BETA, SIZE_WEIGHT = 2, 4, 0.1
# The gradient's largest norm: a new head's first gradients would damage a backbone.
CLIP = 1.0
# The IoU of a box with a shifted copy, which determines the width of the Gaussians.
SPLAT_IOU = 0.7
# The number of detections in a canvas.
TOP = 20
IOUS = np.arange(50, 100, 5) / 100


class Maps(NamedTuple):
    """The output of a head over a grid of cells, or the target of that output.

    Attributes:
      heat: The probability of an object's centre (in a head's output, its logit),
        `[n, G, G, classes]`.
      size: The width and height of the box in cells, `[n, G, G, 2]`.
      offset: The x and y of the centre in its cell, from 0 to 1, `[n, G, G, 2]`.
    """

    heat: Array
    size: Array
    offset: Array


class Detections(NamedTuple):
    """The boxes that a detector finds in canvases.

    Attributes:
      box: The boxes in pixels, `[n, K, 4]`.
      label: The classes, `[n, K]`; -1 for none.
      score: The scores, `[n, K]`.
    """

    box: Array | np.ndarray
    label: Array | np.ndarray
    score: Array | np.ndarray


def encode(boxes: Array, label: Array, *, grid: int, stride: int, classes: int) -> Maps:
    """Returns the target of a head.

    The heat is 1 in the cell of a centre and falls around it as a Gaussian whose width
    depends on the box: a box shifted by the radius r in x and y still has an IoU of 0.7
    with the original, and sigma = (2 r + 1) / 6. Several Gaussians of a class are
    combined by their maximum. If two centres share a cell, sizes and offsets are the
    mean.

    Args:
      boxes: The boxes in pixels, `[n, objects, 4]`.
      label: The classes of the objects, `[n, objects]`; -1 for no object.
      grid: The height and width of the map in cells.
      stride: The height and width of a cell in pixels.
      classes: The number of classes.

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
    here = (away == 0) & (label != canvas.ABSENT)[..., None, None]
    here = here[..., None].astype(boxes.dtype)
    count = jnp.maximum(jnp.sum(here, axis=1), 1)

    def at_centres(x):
        return jnp.sum(here * x[:, :, None, None], axis=1) / count

    return Maps(jnp.max(each, axis=1), at_centres(size), at_centres(centre - cell))


def decode(maps: Maps, stride: int, count: int = TOP) -> Detections:
    """Returns the boxes at the highest peaks: cells that no neighbour exceeds.

    (Peaks are found in each class separately.)

    Args:
      maps: The maps, with probabilities.
      stride: The height and width of a cell in pixels.
      count: The largest number of boxes K.
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
    return Detections(box, jnp.where(score > 0, label, canvas.ABSENT), score)


def losses(output: Maps, target: Maps) -> dict[str, Array]:
    """Computes the parts of the loss per object, and their sum `loss`.

    Args:
      output: The output of the head, with logits.
      target: The target, from `encode`.

    References:
      Zhou et al. 2019, equations 1 to 4: the focal loss `heat`, and the L1 distances
      of `size` (in cells, with a weight of 0.1) and `offset` at the centres.
    """
    p, logits, is_centre = nn.sigmoid(output.heat), output.heat, target.heat == 1
    hit = (1 - p) ** ALPHA * nn.log_sigmoid(logits)
    miss = (1 - target.heat) ** BETA * p**ALPHA * nn.log_sigmoid(-logits)
    here = jnp.any(is_centre, axis=-1, keepdims=True)
    objects = jnp.maximum(jnp.sum(here), 1)

    def distance(own, other):
        return jnp.sum(here * jnp.abs(own - other)) / objects

    parts = {
        "heat": -jnp.sum(jnp.where(is_centre, hit, miss)) / objects,
        "size": SIZE_WEIGHT * distance(output.size, target.size),
        "offset": distance(output.offset, target.offset),
    }
    return {"loss": sum(parts.values()), **parts}


class Head(nn.Module):
    """A 3 x 3 convolution, ReLU, and a 1 x 1 convolution for heat and box.

    Attributes:
      classes: The number of classes.
    """

    classes: int

    @nn.compact
    def __call__(self, features: Array) -> Maps:
        """Returns the maps, with logits, for features `[n, G, G, channels]`."""
        x = nn.relu(nets.conv(WIDTH, use_bias=True, name="hidden")(features))
        # Initially nearly all cells are to be empty: Lin et al. 2017, section 4.1.
        rare = nn.initializers.constant(-math.log((1 - PRIOR) / PRIOR))
        heat = nn.Conv(self.classes, (1, 1), bias_init=rare, name="heat")(x)
        size, offset = jnp.split(nn.Conv(4, (1, 1), name="box")(x), 2, axis=-1)
        return Maps(heat, size, offset)


@dataclasses.dataclass(frozen=True)
class Detector:
    """A backbone and its head.

    Attributes:
      net: The backbone.
      normalise: The function that normalises uint8 images for the backbone.
      layer: The name of the map that the head reads.
      grid: The height and width of that map in cells.
      stride: The height and width of a cell in pixels.
      classes: The number of classes.
      frozen: Whether the backbone is not trained, and in evaluation mode.
    """

    net: Any
    normalise: Callable[[Any], Array]
    layer: str
    grid: int
    stride: int
    classes: int
    frozen: bool

    @property
    def head(self) -> Head:
        return Head(self.classes)


class State(NamedTuple):
    """The variables of the backbone and of the head, and the optimizer's state."""

    backbone: Any
    head: Any
    optimizer: Any


def _trainable(detector: Detector, state: State) -> dict[str, Any]:
    """Returns the parameters that are trained."""
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
    """Returns the state of a detector before its training.

    Args:
      detector: The detector.
      variables: The variables of the backbone.
      optimizer: The optimizer, the same as for `step`.
      image: The images of canvases, uint8, for their shape.
      seed: The seed of the head.
    """
    variables = jax.tree.map(jnp.asarray, variables)
    seen = detector.normalise(image[:1])
    features = detector.net.apply(variables, seen)[detector.layer]
    head = detector.head.init(jax.random.key(seed), features)
    state = State(variables, head, ())
    return state._replace(optimizer=optimizer.init(_trainable(detector, state)))


@functools.partial(jax.jit, static_argnums=(0, 1))
def step(
    detector: Detector,
    optimizer: optax.GradientTransformation,
    state: State,
    canvases: canvas.Canvases,
    index: Array,
) -> tuple[State, dict[str, Array]]:
    """Takes one step of training; returns the new state and the losses.

    Args:
      detector: The detector.
      optimizer: The optimizer.
      state: The state of the training.
      canvases: All canvases, on the device.
      index: The indices of the canvases of this step, int32 `[batch]`.
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
        maps: Any = detector.head.apply(params["head"], seen[detector.layer])
        found = losses(maps, target)
        return found["loss"], (found, changed)

    params = _trainable(detector, state)
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
    canvases: canvas.Canvases,
    *,
    epochs: int,
    batch: int,
    seed: int,
    advance: Callable[[], None] = lambda: None,
) -> tuple[State, list[dict[str, float]]]:
    """Trains a detector; returns its state, and the mean losses of each epoch.

    Args:
      detector: The detector.
      state: The state, from `begin`.
      optimizer: The optimizer, the same as for `begin`.
      canvases: The canvases to train on, on the device.
      epochs: The number of times that each canvas is seen.
      batch: The number of canvases in a step.
      seed: The seed of the canvases' order.
      advance: The function that is called before each step.
    """
    history = []
    for epoch in range(epochs):
        found = []
        order = data.batches(len(canvases.label), batch, seed=seed, epoch=epoch)
        for index in order:
            advance()
            state, metrics = step(detector, optimizer, state, canvases, index)
            found.append(metrics)
            # So that the progress bar and Ctrl-C do not lag far behind.
            jax.block_until_ready(found[-loop.STEPS_IN_FLIGHT :][0])
        found = jax.device_get(found)
        history.append({k: float(np.mean([m[k] for m in found])) for k in found[0]})
    return state, history


@functools.partial(jax.jit, static_argnums=0)
def _detect(detector: Detector, backbone: Any, head: Any, image: Array) -> Detections:
    seen = detector.net.apply(backbone, detector.normalise(image))
    maps: Any = detector.head.apply(head, seen[detector.layer])
    return decode(maps._replace(heat=nn.sigmoid(maps.heat)), detector.stride)


def detect(
    detector: Detector, state: State, image: np.ndarray, chunk: int = 100
) -> Detections:
    """Returns the detections in canvases, as NumPy arrays.

    Args:
      detector: The detector.
      state: The state of its training.
      image: The images of the canvases, uint8 `[n, size, size, channels]`.
      chunk: The number of canvases at a time.
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
    """Computes the area under the precision-recall curve for each class.

    Detections of a class are sorted by descending score. A detection is matched to the
    object of its class in its canvas with the largest IoU; it is correct if this IoU
    reaches the threshold and no earlier detection was matched to the object. Precision
    is the largest at the same or a higher recall.

    Args:
      found: The detections.
      boxes: The true boxes, `[n, objects, 4]`.
      label: The true classes, `[n, objects]`; -1 for no object.
      classes: The number of classes.
      threshold: The threshold of the IoU.

    Returns:
      The average precisions, float64 `[classes]`; NaN for a class without an object.

    References:
      Everingham, Van Gool, Williams, Winn & Zisserman, The PASCAL Visual Object Classes
      (VOC) Challenge, IJCV 88, 2010; all points, as from VOC 2010 on.

    Departures from COCO's definition (pycocotools): (1) the mean over all recalls that
    occur, where COCO uses 101 recalls; (2) a detection is wrong if its object is
    already matched, where COCO matches it to the best of the remaining objects. Since
    the objects of canvases hardly overlap, (2) is rare there.
    """
    box = np.asarray(found.box).astype(np.float64)
    every = box[:, :, None], boxes.astype(np.float64)[:, None]
    same = found.label[:, :, None] == label[:, None]
    overlap = np.where(same, canvas.iou(*every), 0)
    best, hit = overlap.argmax(axis=-1), overlap.max(axis=-1) >= threshold
    which = best + boxes.shape[1] * np.arange(len(boxes))[:, None]
    areas = np.full(classes, np.nan)
    for one in np.unique(label[label != canvas.ABSENT]):
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


def measure(
    found: Detections, canvases: canvas.Canvases, classes: int
) -> dict[str, Any]:
    """Computes average precision in percent.

    Args:
      found: The detections.
      canvases: The canvases, with the true boxes.
      classes: The number of classes.

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
