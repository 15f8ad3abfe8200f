"""Defines tables: several experiments whose results are compared.

A table is made by `get_table()` in a file of this folder; the docstring of the file is
its lab note. `python -m experiments.table NAME` runs and prints the table.
"""

import importlib
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from experiments import config as configs
from rdljax import errors

FOLDER = pathlib.Path(__file__).parent


class Column(NamedTuple):
    """One experiment of a table.

    Attributes:
      config: The settings; the methods are rows of the table.
      published: The published test accuracies in percent, by method, and by "teacher".
      teacher_of: The name of another column whose trained teacher is used here; None to
        train a teacher here.
    """

    config: configs.Config
    published: Mapping[str, float] = {}
    teacher_of: str | None = None


class Table(NamedTuple):
    """A table of experiments.

    Attributes:
      columns: The columns by name, in the order in which they are run.
      differences: The differences from the paper's setting, a sentence each.
    """

    columns: dict[str, Column]
    differences: tuple[str, ...] = ()


def names() -> list[str]:
    """Returns the names of all tables."""
    return sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "__init__")


def load(name: str) -> Table:
    """Returns the table with this name.

    Raises:
      UnknownName: If there is no such table.
    """
    return module(name).get_table()


def module(name: str) -> Any:
    """Returns the module of a table, whose docstring is its lab note."""
    errors.check_name("table", name, names())
    return importlib.import_module(f"experiments.tables.{name}")


# RepDistiller's weights of task and KD without other terms (run_cifar_distill.sh).
KD_ALONE = ("kd/task=0.1", "kd/kd=0.9")
# Differences from all papers, of the tables that are made for two CPU cores.
SMALL = (
    "small nets and few epochs, where the papers have residual nets and 160 epochs or "
    "more",
    "a warm-up and a cosine instead of steps, and gradients clipped to norm 1, so that "
    "with a large weight the task has a smaller part in each step",
    "weights are RepDistiller's, not tuned for these nets",
)
# Settings of all of VID's tables on CIFAR-10 (Ahn et al. 2019; the paper's nets).
VID_CIFAR10: dict[str, Any] = {
    "data": "cifar10",
    "teacher": "wrn_40_2",
    "layers": ("stage1", "stage2", "stage3", "pooled"),
    "epochs": 200,
    "teacher_epochs": 200,
    "batch": 128,
    "clip": None,
    "weights": KD_ALONE,
}
# The settings of RepDistiller's released code (Tian, Krishnan & Isola 2020;
# train_student.py and scripts/run_cifar_distill.sh): 240 epochs, a tenth of the rate
# after 150, 180 and 210, neither clipping nor Nesterov momentum.
REPDISTILLER: dict[str, Any] = {
    "data": "cifar100",
    "epochs": 240,
    "teacher_epochs": 240,
    "batch": 64,
    "learning_rate": 0.05,
    "teacher_learning_rate": 0.05,
    "schedule": "steps",
    "nesterov": False,
    "clip": None,
    "weights": KD_ALONE,
    "layers": ("pooled", "logits"),
}
# Differences from RepDistiller that remain with these settings.
NOT_REPDISTILLERS = (
    "a tenth of the training images is held out for validation, so that students see "
    "45,000 images, and images that do not fill a batch are left out",
    "CRD's negatives are all images of other classes, each weighted by its expected "
    "number of draws (--crd_sampling=per_example draws them)",
)


def repdistiller(**changes) -> configs.Config:
    """Returns a config with RepDistiller's settings, except for the changes."""
    return configs.make(**(REPDISTILLER | changes))
