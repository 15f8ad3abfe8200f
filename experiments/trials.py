"""Runs the trials by which the defaults of RDL were chosen.

    python -m experiments.trials 1

Trains one teacher, then students with every setting of a part of the grid (1:
distances, comparisons and weights; 2: layers, schedule, pairs and KD around the
default), and prints their error on the validation images (mean and standard deviation
over seeds, last epoch). The test images are not used. The results are in the
documentation: "How RDL's defaults were chosen".
"""

import dataclasses
import sys
from typing import Literal

import tyro

from experiments import command as commands
from experiments import config as configs


@dataclasses.dataclass(frozen=True)
class Options:
    """The part of the grid, the images and the length of training."""

    part: tyro.conf.Positional[Literal["1", "2"]]
    """The part of the grid."""
    data: str = "digits"
    """`digits`, or the name of a TFDS image set."""
    data_dir: str | None = None
    """The folder that holds the TFDS sets."""
    train_per_class: int | None = None
    """The number of training images of each class that are kept; None keeps all."""
    epochs: int = 20
    """The number of epochs of a student."""
    teacher_epochs: int = 20
    """The number of epochs of the teacher."""
    seeds: int = 3
    """The number of students of each setting."""


def main(arguments: list[str] | None = None) -> int:
    """Runs a part of the grid and prints a Markdown table as it grows."""
    return commands.call(_run, arguments)


def _run(arguments: list[str]) -> int:
    options = commands.parse(
        Options, arguments, program="experiments.trials", about=__doc__
    )
    settings = dataclasses.asdict(options)
    part = settings.pop("part")
    config = configs.load("mnist_rdl", **settings)
    with commands.importing():
        from experiments.analyses import grid
        from experiments.training import exits

    def train(interrupt):
        grid.run_trials(config, grid.PARTS[part](), interrupt)

    return exits.run(train, "experiments.trials")


if __name__ == "__main__":
    sys.exit(main())
