"""The settings of an experiment, and how the command line changes them.

A config is a frozen `Config` made by `experiments/presets/NAME.py`, whose docstring is
its lab note. Settings lie in groups (`config.optimizer.learning_rate`), each of which
checks itself when it is made. Each setting has a flag of its own, `--learning_rate`,
which is its name where settings are written, given by keyword, or talked of:

    config = configs.load("mnist_rdl", learning_rate=0.05, brain_rdms=("human_it",))
    config = configs.change(config, epochs=3)
    configs.flat(config)["epochs"]

- `settings`: the groups and their fields; to add a setting is to add its field, with
  its documentation and its range, there
- `fields`: what a field says of itself, and how a group checks its fields
"""

import dataclasses
import importlib
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.config import fields
from experiments.config.settings import (
    BRAIN_COMPARISONS,
    COMPARISONS,
    CRD,
    DISTANCES,
    RDL,
    Brain,
    Config,
    Data,
    Method,
    Nets,
    Optimizer,
    Runtime,
    Training,
)
from rdljax import errors

__all__ = [
    "BRAIN_COMPARISONS",
    "Brain",
    "COMPARISONS",
    "CRD",
    "Config",
    "DISTANCES",
    "Data",
    "FIELDS",
    "Method",
    "Nets",
    "Optimizer",
    "PRESETS",
    "RDL",
    "Runtime",
    "Training",
    "change",
    "flat",
    "load",
    "make",
    "names",
]

PRESETS = pathlib.Path(__file__).parents[1] / "presets"

# ---- settings by their flags


def _all_fields() -> dict[str, fields.Field]:
    """Returns all settings by their flags."""
    found: dict[str, fields.Field] = {}
    for group in dataclasses.fields(Config):
        for field in fields.of_group(type(group.default), group.name):  # type: ignore[arg-type]
            if field.flag in found:
                raise TypeError(f"two settings have the flag {field.flag}")
            found[field.flag] = field
    return found


FIELDS = _all_fields()


def flat(config: Config) -> dict[str, Any]:
    """Returns all settings by their flags."""
    return {
        flag: getattr(getattr(config, field.group), field.name)
        for flag, field in FIELDS.items()
    }


def change(config: Config, **changes: Any) -> Config:
    """Returns a config with other values of the settings with these flags.

    Raises:
      UnknownName: There is no such setting.
      UsageError: A value is impossible.
    """
    groups: dict[str, dict[str, Any]] = {}
    for flag, value in changes.items():
        errors.check_name("setting", flag, FIELDS)
        field = FIELDS[flag]
        groups.setdefault(field.group, {})[field.name] = value
    changed = {
        group: dataclasses.replace(getattr(config, group), **values)
        for group, values in groups.items()
    }
    return dataclasses.replace(config, **changed)


def make(settings: Mapping[str, Any] = {}, **more: Any) -> Config:  # noqa: B006
    """Returns the config with these settings, by their flags, and all else as usual.

    Raises:
      UnknownName: There is no such setting.
      UsageError: A value is impossible.
    """
    return change(Config(), **settings, **more)


# ---- presets


def names() -> list[str]:
    """Returns the names of all configs."""
    return sorted(p.stem for p in PRESETS.glob("*.py") if p.stem != "__init__")


def load(name: str, **changes: Any) -> Config:
    """Returns the config of that name.

    Args:
      name: Of a file in `experiments/presets`.
      **changes: Other values of settings, by their flags.

    Raises:
      UnknownName: There is no such config, or no such setting.
      UsageError: A value is impossible.
    """
    errors.check_name("config", name, names())
    module = importlib.import_module(f"experiments.presets.{name}")
    return change(module.get_config(), **changes)
