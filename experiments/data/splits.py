"""Defines image classification sets in three splits."""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from experiments.data import records


class Split(NamedTuple):
    """The images and labels of a split.

    Attributes:
      image: The images, uint8 `[N, H, W, C]`; they may also be in files or on a device.
      label: The classes, int32 `[N]`.
    """

    image: np.ndarray | jax.Array | records.Records
    label: np.ndarray


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A data set in three splits.

    Attributes:
      name: The name given to `load`.
      classes: The number of classes.
      train: The images on which weights are trained.
      validation: The images held out of the training images, on which every choice is
        made.
      test: The test images, read once per run.
      note: Source, sizes and split in a few sentences, for messages.
      mean: The mean of each channel, over every pixel of the training images (the
        teacher's, if students have fewer; if images stay in files, of a sample, or
        ImageNet's usual mean), in units of 0..255.
      std: The standard deviation of each channel, likewise; 1 for a constant channel.
      size: The size `(height, width)` of nets' input; None for the images' own size.
      class_names: The names of the classes; empty if only their numbers are known.
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
    class_names: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Returns height, width and channels of nets' input."""
        *own, channels = self.train.image.shape[1:]
        return (*(self.size or own), channels)


class DataMissing(ValueError):
    """An error for missing data or packages; the message has the command to run."""
