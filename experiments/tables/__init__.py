"""Tables: several experiments whose results stand side by side.

A table is made by `get_table()` of a file in this folder, whose docstring is its lab
note. `python -m experiments.table NAME` runs and prints it.
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
      published: The published test accuracy in percent, by method and of the
        "teacher".
      teacher_of: The column whose teacher, trained there, teaches here, too.
    """

    config: configs.Config
    published: Mapping[str, float] = {}
    teacher_of: str | None = None


class Table(NamedTuple):
    """Experiments side by side.

    Attributes:
      columns: The columns by name, in the order in which they are run.
      differences: The differences from the publication's setting, a sentence each.
    """

    columns: dict[str, Column]
    differences: tuple[str, ...] = ()


def names() -> list[str]:
    """Returns the names of all tables."""
    return sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "__init__")


def load(name: str) -> Table:
    """Returns the table of that name.

    Raises:
      UnknownName: If there is no such table.
    """
    return module(name).get_table()


def module(name: str) -> Any:
    """Returns the module of a table, whose docstring is its lab note."""
    errors.check_name("table", name, names())
    return importlib.import_module(f"experiments.tables.{name}")


# KD alone is weighed against the task so in RepDistiller (run_cifar_distill.sh).
KD_ALONE = ("kd/task=0.1", "kd/kd=0.9")
# How the tables that two CPU cores can fill differ from all papers.
SMALL = (
    "small nets and few epochs, where the papers have residual nets and 160 epochs and "
    "more",
    "a warm-up and a cosine instead of steps, and gradients clipped to norm 1, so that "
    "a large weight leaves the task a smaller part of each step",
    "weights are RepDistiller's, not tuned for these nets",
)
# What VID's tables of CIFAR-10 share (Ahn et al. 2019; the nets are the paper's).
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
# How RepDistiller's released code trains (Tian, Krishnan & Isola 2020; train_student.py
# and scripts/run_cifar_distill.sh): 240 epochs, a tenth of the rate after 150, 180 and
# 210, neither clipping nor Nesterov.
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
# What its settings leave different here.
NOT_REPDISTILLERS = (
    "a tenth of the training images is held out for validation, so that students see "
    "45,000 images, and those that do not fill a batch are left out",
    "CRD's negatives are all images of other classes, each weighted by how often it "
    "would be drawn (--crd_sampling=drawn draws them)",
)


def repdistiller(**changes) -> configs.Config:
    """Returns a config with RepDistiller's settings, except for the changes."""
    return configs.make(**(REPDISTILLER | changes))
