"""Image classification sets in three splits."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from experiments.data import records


class Split(NamedTuple):
    """The images and labels of a split.

    Attributes:
      image: The images, uint8 `[N, H, W, C]`; they may stay in files, or lie on a
        device.
      label: The classes, int32 `[N]`.
    """

    image: np.ndarray | jax.Array | records.Records
    label: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in three splits.

    Attributes:
      name: The name that `load` was asked for.
      classes: The number of classes.
      train: The images that the weights are fitted to.
      validation: The images held out of the training images; every choice is made on
        them.
      test: The test images, read once a run.
      note: One sentence with source, sizes and split, for the run to print.
      mean: The mean of each channel, over every pixel of `train` (of a sample, or
        ImageNet's own, where the images stay in files), in units of 0..255.
      std: The standard deviation of each channel, likewise; 1 for a channel that never
        changes.
      size: The size `(height, width)` of the images that nets see; None for their own.
    """

    name: str
    classes: int
    train: Split
    validation: Split
    test: Split
    note: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Returns height, width and channels of the images that nets see."""
        *own, channels = self.train.image.shape[1:]
        return (*(self.size or own), channels)


class DataMissing(ValueError):
    """An error for absent data, or a package that reads them; it says what to run."""
