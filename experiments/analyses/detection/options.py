"""Defines the settings of a comparison of detectors."""

import dataclasses
import math

import tyro

from experiments import command

# The settings that must be 1 or more.
COUNTS = ("seeds", "epochs", "batch", "canvases", "test_canvases", "objects", "size")


@dataclasses.dataclass(frozen=True)
class Options:
    """The settings of a comparison of detectors."""

    backbones: tyro.conf.Positional[tuple[str, ...]]
    """The backbones, each as NAME=FOLDER or NAME=random:NET."""
    data: str = "digits"
    """The data: `digits`, or the name of a TFDS image set."""
    data_dir: str | None = None
    """The folder that holds the TFDS sets."""
    seeds: int = 3
    """The number of trainings of each backbone."""
    epochs: int = 10
    """The number of times that each canvas is seen."""
    batch: int = 16
    """The number of canvases in a step."""
    learning_rate: float = 3e-3
    """The largest learning rate, reached after the first epoch."""
    canvases: int = 2000
    """The number of canvases to train on."""
    test_canvases: int = 500
    """The number of canvases to test on."""
    size: int = 64
    """The height and width of a canvas in pixels."""
    objects: int = 3
    """The largest number of objects in a canvas."""
    layer: str | None = None
    """The map that the head reads; None for the last stage with at least 8 x 8 cells.
    """
    frozen: bool = False
    """Train only the head."""
    out: str = "results/detection"
    """The folder for results."""
    resume: bool = False
    """Continue the run in the folder."""

    def __post_init__(self):
        """Checks the numbers.

        Raises:
          UsageError: If a number is not allowed.
        """
        if not self.backbones:
            raise command.UsageError("name one or more backbones, NAME=FOLDER")
        for name in COUNTS:
            if getattr(self, name) < 1:
                raise command.UsageError(
                    f"{name} must be 1 or more, got {getattr(self, name)}"
                )
        if self.batch > self.canvases:
            raise command.UsageError(
                f"batch must be at most the number of canvases, {self.canvases}, got "
                f"{self.batch}"
            )
        if not 0 < self.learning_rate < math.inf:
            raise command.UsageError(
                f"learning_rate must be above 0 and finite, got {self.learning_rate}"
            )
