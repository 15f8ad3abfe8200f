"""Determines the order of an epoch's images, and loads batches from the host.

A batch is a list of indices determined by seed, epoch and step, whether its images are
on the device, in the host's memory or in files. grain could replace only `prefetch` and
a pool of threads, at the same speed, but not the order and the decoding
(CONTRIBUTING.md).
"""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeGuard

import jax
import numpy as np

from experiments import display
from experiments.data import records, splits


@dataclasses.dataclass(frozen=True)
class Batches:
    """The images, and stimuli, of the steps of a call, for one training or several.

    Attributes:
      image: The indices of training images, int32 `[steps, (trainings,) batch]`.
      stimulus: The indices of the stimuli of a measured RDM, int32 `[steps,
        (trainings,) stimuli]`; None for steps without stimuli.
      seed: The seed of the order of the images, int `[(trainings,)]`. With the epoch it
        determines the random crops of streamed images; None for centre crops.
      epoch: The number of the epoch, from 0.
    """

    image: np.ndarray
    stimulus: np.ndarray | None = None
    seed: np.ndarray | None = None
    epoch: int = 0

    @property
    def crop_seeds(self) -> np.ndarray | None:
        """Returns the seed and the epoch that determine random crops (`from_host`).

        Returns:
          The numbers, int `[(trainings,) 2]`; None for centre crops.
        """
        if self.seed is None:
            return None
        return np.stack([self.seed, np.full_like(self.seed, self.epoch)], axis=-1)

    def steps(self, begin: int, end: int) -> "Batches":
        """Returns the batches of the steps from `begin` up to, not including, `end`."""
        stimulus = self.stimulus if self.stimulus is None else self.stimulus[begin:end]
        return dataclasses.replace(self, image=self.image[begin:end], stimulus=stimulus)


def stack(each: Sequence[Batches]) -> Batches:
    """Stacks the batches of several trainings in one program, in the same epoch."""
    stimuli = [of.stimulus for of in each if of.stimulus is not None]
    return Batches(
        np.stack([of.image for of in each], axis=1),
        np.stack(stimuli, axis=1) if stimuli else None,
        np.array([of.seed for of in each]),
        each[0].epoch,
    )


def batches(count: int, batch: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns the indices of an epoch's batches, a pure function of seed and epoch.

    Args:
      count: The number of training images.
      batch: The number of images of a step.
      seed: The seed of the run.
      epoch: The number of the epoch; each has its own permutation.

    Returns:
      The indices, int32 `[steps, batch]`. Images that do not fill a batch are dropped.

    Raises:
      ValueError: If there are fewer images than one batch has.
    """
    if count < batch:
        raise ValueError(
            f"{display.count_of(count, 'image')} cannot fill one batch of {batch}"
        )
    order = np.random.default_rng((seed, epoch)).permutation(count)
    steps = count // batch
    return order[: steps * batch].reshape(steps, batch).astype(np.int32)


def draw_stimuli(
    count: int, size: int, steps: int, *, seed: int, epoch: int
) -> np.ndarray:
    """Draws the stimuli of an RDM for each step of an epoch, without replacement.

    Args:
      count: The number of stimuli.
      size: The number of stimuli of a step.
      steps: The number of steps of the epoch.
      seed: The seed of the run.
      epoch: The number of the epoch.

    Returns:
      The indices of the stimuli, int32 `[steps, size]`.
    """
    rng = np.random.default_rng([seed, epoch, count])
    every = np.tile(np.arange(count, dtype=np.int32), (steps, 1))
    return rng.permuted(every, axis=1)[:, :size]


def prefetch(items: Iterator[Any], count: int = 2) -> Generator[Any, None, None]:
    """Yields the items; a background thread makes some of them in advance.

    Args:
      items: The items that a loader makes.
      count: The number of items that are made in advance.
    """
    end = object()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = collections.deque(pool.submit(next, items, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item


def from_host(split: splits.Split) -> Callable[..., dict[str, np.ndarray]]:
    """Returns a loader, from indices int32 `[..., B]` to a batch with its images.

    It is for data sets that do not fit on the device; `view` then uses the images of
    the batch.

    Returns:
      The function `load(index, crop_seeds=None)`. Where images are cropped at random
      before they are sent (`crops_at_random`), `crop_seeds` determines the crops: the
      seed and the epoch, int `[..., 2]`, for each B indices, or for all. None sends
      centre crops.
    """

    def load(index: np.ndarray, crop_seeds: np.ndarray | None = None):
        if crop_seeds is not None and crops_at_random(split.image):
            image: np.ndarray | jax.Array = split.image.cropped(index, crop_seeds)
        else:
            image = split.image[index]
        return {"index": index, "image": image, "label": split.label[index]}

    return load


def crops_at_random(
    images: np.ndarray | jax.Array | records.Records,
) -> TypeGuard[records.Records]:
    """Returns whether training uses random crops, made when images are decoded."""
    return isinstance(images, records.Records) and images.random


def identity(
    images: np.ndarray | jax.Array | records.Records,
) -> np.ndarray | jax.Array:
    """Returns an array that differs for different images.

    It is the images themselves, or the fingerprint of their files.
    """
    return images.fingerprint if isinstance(images, records.Records) else images
