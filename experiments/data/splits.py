"""Image classification sets in three splits."""

from typing import NamedTuple

import jax
import numpy as np

from experiments.data import records


class Split(NamedTuple):
    """Images uint8 `[N, H, W, C]`, which may stay in files, and labels int32 `[N]`."""

    image: np.ndarray | jax.Array | records.Records
    label: np.ndarray


class Dataset(NamedTuple):
    """A data set in three splits.

    Attributes:
      name: what `load` was asked for.
      classes: number of classes.
      train: what the weights are fitted to.
      validation: held out of the training images; every choice is made on it.
      test: read once a run.
      note: one sentence with source, sizes and split, for the run to print.
      mean: per channel, over every pixel of `train` (of a sample, or ImageNet's own,
        where the images stay in files), in units of 0..255.
      std: likewise; 1 for a channel that never changes.
      size: of the images that nets see, `(height, width)`; None for their own.
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
        """Of the images that nets see: height, width and channels."""
        *own, channels = self.train.image.shape[1:]
        return (*(self.size or own), channels)


class DataMissing(ValueError):
    """The data, or a package that reads it, is absent; the message says what to run."""
