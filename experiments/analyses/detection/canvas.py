"""Composes canvases: images of several real images with one object each."""

import math
from typing import NamedTuple

import numpy as np
from PIL import Image

from experiments import command, data

# The range of factors on the size of an image, the largest overlap, as a fraction of
# the smaller of two objects, and the number of attempts to find a place.
SCALES = (0.6, 1.4)
OVERLAP, TRIES = 0.1, 20
# The threshold of ink, as a fraction of the brightest pixel of an image.
INK = 1 / 8
# The label that stands for no object.
ABSENT = -1


class Canvases(NamedTuple):
    """Images with several objects.

    Attributes:
      image: The images, uint8 `[n, size, size, channels]`.
      boxes: The boxes, float32 `[n, objects, 4]`: x0, y0, x1, y1, the outer edges in
        pixels, so that a box is `x1 - x0` pixels wide.
      label: The classes of the objects, int32 `[n, objects]`; -1 for no object.
      source: The indices of the objects in their split, int32 `[n, objects]`; -1 for no
        object.
    """

    image: np.ndarray
    boxes: np.ndarray
    label: np.ndarray
    source: np.ndarray


def compose(
    dataset: data.Dataset, part: str, count: int, *, size: int, objects: int, seed: int
) -> Canvases:
    """Composes canvases of images of one part of the data, as a function of the seed.

    Args:
      dataset: The data set.
      part: The part of the data, "train", "validation" or "test".
      count: The number of canvases.
      size: The height and width of a canvas in pixels.
      objects: The largest number of objects in a canvas. Each canvas has at least one
        object, and fewer than were drawn if there is not enough room.
      seed: The seed of images, sizes and places.

    Raises:
      UsageError: If an object may be larger than a canvas.
    """
    split, channels = getattr(dataset, part), dataset.train.image.shape[-1]
    least = math.ceil(SCALES[1] * max(split.image.shape[1:3]))
    if size < least:
        raise command.UsageError(f"size must be {least} pixels or more, got {size}")
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
            seen = _rescale(split.image[chosen], rng.uniform(*SCALES))
            tall, wide = seen.shape[:2]
            box = _place(rng, boxes[i, :j], tall, wide, size)
            if box is None:
                break
            x0, y0, x1, y1 = box
            under = canvas[y0:y1, x0:x1]
            under[:] = np.maximum(under, seen) if channels == 1 else seen
            boxes[i, j], label[i, j], source[i, j] = box, split.label[chosen], chosen
    return Canvases(image, boxes, label, source)


def _rescale(image: np.ndarray, scale: float) -> np.ndarray:
    """Rescales an image; if it has one channel, keeps only its ink."""
    height, width = (round(scale * length) for length in image.shape[:2])
    whole = Image.fromarray(np.squeeze(image, 2) if image.shape[2] == 1 else image)
    seen = np.array(whole.resize((width, height), Image.Resampling.BILINEAR))
    if seen.ndim == 3:
        return seen
    ink = seen >= INK * seen.max()
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    cut = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return np.where(ink, seen, 0)[cut][..., None]


def _place(
    rng: np.random.Generator, taken: np.ndarray, height: int, width: int, size: int
) -> np.ndarray | None:
    """Draws a box that overlaps little with other boxes; None if it finds none.

    Args:
      rng: The generator of the random numbers.
      taken: The other boxes, `[objects, 4]`.
      height: The height of the box in pixels.
      width: The width of the box in pixels.
      size: The height and width of the canvas in pixels.
    """
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
    """Returns the intersection over union of boxes `[..., 4]`; 0 if both are empty."""
    both = _intersection(first, second)
    union = _area(first) + _area(second) - both
    return both / np.where(union > 0, union, 1)
