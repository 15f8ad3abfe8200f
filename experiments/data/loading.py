"""The order of the images of an epoch, and batches of images from the host."""

import collections
import concurrent.futures
import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, TypeGuard

import jax
import numpy as np

from experiments.data import records, splits


@dataclasses.dataclass(frozen=True)
class Batches:
    """Which images, and stimuli, the steps of a call take, of one training or several.

    Attributes:
      image: int32 `[steps, (trainings,) batch]`, places of training images.
      stimulus: int32 `[steps, (trainings,) stimuli]`, places of the stimuli of a
        measured RDM; None where a step takes none.
      seed: int `[(trainings,)]`, the seed of the order of the images. With it and the
        epoch random parts of streamed images are drawn; None: their middle is seen.
      epoch: Its number, from 0.
    """

    image: np.ndarray
    stimulus: np.ndarray | None = None
    seed: np.ndarray | None = None
    epoch: int = 0

    @property
    def when(self) -> np.ndarray | None:
        """Returns seed and epoch, int `[(trainings,) 2]`, as `from_host` takes them."""
        if self.seed is None:
            return None
        return np.stack([self.seed, np.full_like(self.seed, self.epoch)], axis=-1)

    def steps(self, begin: int, end: int) -> "Batches":
        """Returns the batches of some of the steps."""
        stimulus = self.stimulus if self.stimulus is None else self.stimulus[begin:end]
        return dataclasses.replace(self, image=self.image[begin:end], stimulus=stimulus)


def stack(each: Sequence[Batches]) -> Batches:
    """Returns the batches of several trainings that go together, in the same epoch."""
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


def ahead(items: Iterator[Any], count: int = 2) -> Generator[Any, None, None]:
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
            image: np.ndarray | jax.Array = split.image.cropped(index, when)
        else:
            image = split.image[index]
        return {"index": index, "image": image, "label": split.label[index]}

    return load


def crops_at_random(
    images: np.ndarray | jax.Array | records.Records,
) -> TypeGuard[records.Records]:
    """Whether training sees random parts of images, cut where they are decoded."""
    return isinstance(images, records.Records) and images.random


def identity(
    images: np.ndarray | jax.Array | records.Records,
) -> np.ndarray | jax.Array:
    """What differs where images do: themselves, or the fingerprint of their files."""
    return images.fingerprint if isinstance(images, records.Records) else images
