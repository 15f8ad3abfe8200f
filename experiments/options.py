"""Defines the settings of the commands whose work is done by a package.

They are here since the packages import jax, which a help text does without.
"""

import dataclasses

import tyro


@dataclasses.dataclass(frozen=True)
class Report:
    """The subject of the page, and its file."""

    folder: tyro.conf.Positional[str]
    """The folder of a run, or of a table of runs."""
    out: str | None = None
    """The file; None for FOLDER/report.html."""
    data_dir: str | None = None
    """The folder that holds the TFDS sets; None for the run's."""
    brain: str | None = None
    """The file of stimuli and their measured RDMs; None for the run's."""


@dataclasses.dataclass(frozen=True)
class Probe:
    """The nets to probe, and the images."""

    results: tyro.conf.Positional[str]
    """The folder of a finished run."""
    data: str = "digits"
    """The other images: `digits`, or the name of a TFDS image set."""
    data_dir: str | None = None
    """The folder that holds the TFDS sets."""
    train_per_class: int | None = None
    """The number of training images of each class that are kept; None keeps all."""
    layer: str = "pooled"
    """The layer whose activations are the features; feature maps are flattened."""
    out: str | None = None
    """The folder to write; None for RESULTS/probe-DATA."""
    overwrite: bool = False
    """Replace an existing probe."""


@dataclasses.dataclass(frozen=True)
class Correlations:
    """The settings of the comparison of correlations."""

    results: tyro.conf.Positional[str]
    """The folder of a finished run."""
    seed: int = 0
    """The seed of the students in the figure."""
    data_dir: str | None = None
    """The folder that holds the TFDS sets; None for the run's."""
    out: str | None = None
    """The file of the figure, FILE.png; None for RESULTS/correlations.png. The numbers
    are written next to it, to FILE.json and FILE.md."""
    overwrite: bool = False
    """Replace the files if they exist."""


@dataclasses.dataclass(frozen=True)
class ImportTorch:
    """The net, the file, and how to check the weights."""

    name: tyro.conf.Positional[str]
    """The net, such as resnet32x4 or wrn_40_2."""
    file: tyro.conf.Positional[str]
    """The file of the weights: .pth, .safetensors, .npz or .h5."""
    out: str | None = None
    """The folder to write; None for weights/NAME."""
    check: str | None = None
    """The data set on whose test images the accuracy is printed."""
    data_dir: str | None = None
    """The folder that holds the TFDS sets."""
    mean: tuple[float, ...] | None = None
    """The mean of each channel, of pixels between 0 and 1, that was subtracted, as in
    torchvision's Normalize; None for the known mean of the net, or else the mean of the
    training images."""
    std: tuple[float, ...] | None = None
    """The standard deviation of each channel by which pixels were then divided."""
    overwrite: bool = False
    """Replace the folder if it exists."""
