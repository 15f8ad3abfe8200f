"""The order of the images of an epoch, and batches of images from the host."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from experiments.data import records, splits


def batches(count: int, batch: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns the indices of an epoch's batches, a pure function of seed and epoch.

    Args:
      count: number of training images.
      batch: images a step.
      seed: of the run.
      epoch: its number; each has its own permutation.

    Returns:
      int32 `[steps, batch]`; what does not fill a batch is dropped.

    Raises:
      ValueError: fewer images than one batch holds.
    """
    if count < batch:
        raise ValueError(f"{count} images do not fill one batch of {batch}")
    order = np.random.default_rng((seed, epoch)).permutation(count)
    steps = count // batch
    return order[: steps * batch].reshape(steps, batch).astype(np.int32)


def draws(count: int, size: int, steps: int, *, seed: int, epoch: int) -> np.ndarray:
    """For each step of an epoch, some of the stimuli of an RDM, none of them twice.

    Args:
      count: how many there are.
      size: how many a step takes.
      steps: how many steps the epoch has.
      seed: of the run.
      epoch: its number.

    Returns:
      int32 `[steps, size]`.
    """
    rng = np.random.default_rng([seed, epoch, count])
    every = np.tile(np.arange(count, dtype=np.int32), (steps, 1))
    return rng.permuted(every, axis=1)[:, :size]


def ahead(items: Iterator[Any], count: int = 2) -> Iterator[Any]:
    """Yields the items, made by a thread of its own, some before they are asked for.

    Args:
      items: what a loader makes.
      count: how many are made ahead.
    """
    end = object()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = collections.deque(pool.submit(next, items, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item


def from_host(split: splits.Split) -> Callable[..., dict[str, np.ndarray]]:
    """A loader: from indices int32 `[..., B]` to a batch that has its images with it.

    For sets that the device cannot hold; `view` then looks at nothing else.

    Returns:
      `load(index, when=None)`. Where images are cropped at random before they are sent
      (`crops_at_random`), `when` says which crops these are, `[..., 2]`: seed and epoch
      of each B indices, or of all. With None it is their middle.
    """

    def load(index: np.ndarray, when: np.ndarray | None = None):
        if when is not None and crops_at_random(split.image):
            image = split.image.cropped(index, when)
        else:
            image = split.image[index]
        return {"index": index, "image": image, "label": split.label[index]}

    return load


def crops_at_random(images: np.ndarray | records.Records) -> bool:
    """Whether training sees random parts of images, cut where they are decoded."""
    return isinstance(images, records.Records) and images.random


def identity(images: np.ndarray | records.Records) -> np.ndarray:
    """What differs where images do: themselves, or the fingerprint of their files."""
    return images.fingerprint if isinstance(images, records.Records) else images
