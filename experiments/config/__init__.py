"""Defines the settings of an experiment, loads presets and changes settings.

A config is a frozen `Config` made by `experiments/presets/NAME.py`, whose docstring is
its lab note. Settings are in groups (`config.optimizer.learning_rate`); a group checks
its values when it is constructed. Each setting has a unique flag, `--learning_rate`,
which is its name in files, keyword arguments and messages:

    config = configs.load("mnist_rdl", learning_rate=0.05, brain_rdms=("human_it",))
    config = configs.change(config, epochs=3)
    configs.flat(config)["epochs"]

- `settings`: the groups and their fields; to add a setting, add its field there, with
  its documentation and its range
- `choices`: the names of the functions that a setting chooses, such as distances,
  optimizers and schedules
- `functions`: these functions, by name. This module alone imports jax, and is imported
  where a function is used: `functions.DISTANCES[config.rdl.distance]`
- `fields`: the annotations of a field, and how a group checks its fields
"""

import dataclasses
import importlib
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.config import fields
from experiments.config.settings import (
    CRD,
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
    "Brain",
    "CRD",
    "Config",
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
    """Returns the descriptions of all settings, by flag."""
    found: dict[str, fields.Field] = {}
    for group in dataclasses.fields(Config):
        for field in fields.of_group(type(group.default), group.name):  # type: ignore[arg-type]
            if field.flag in found:
                raise TypeError(f"two settings have the flag {field.flag}")
            found[field.flag] = field
    return found


FIELDS = _all_fields()


def flat(config: Config) -> dict[str, Any]:
    """Returns the values of all settings of a config, by flag."""
    return {
        flag: getattr(getattr(config, field.group), field.name)
        for flag, field in FIELDS.items()
    }


def change(config: Config, **changes: Any) -> Config:
    """Returns a copy of a config with new values of some settings.

    Args:
      config: The config.
      **changes: The new values, by the flags of the settings.

    Raises:
      UnknownName: If there is no such setting.
      UsageError: If a value is not allowed.
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
    """Returns a config with these settings and the defaults of all others.

    Args:
      settings: Values of settings, by their flags.
      **more: Values of further settings, by their flags.

    Raises:
      UnknownName: If there is no such setting.
      UsageError: If a value is not allowed.
    """
    return change(Config(), **settings, **more)


# ---- presets


def names() -> list[str]:
    """Returns the names of all presets."""
    return sorted(p.stem for p in PRESETS.glob("*.py") if p.stem != "__init__")


def load(name: str, **changes: Any) -> Config:
    """Returns the preset config with this name.

    Args:
      name: The name of a file in `experiments/presets`.
      **changes: New values of settings, by their flags.

    Raises:
      UnknownName: If there is no such config, or no such setting.
      UsageError: If a value is not allowed.
    """
    errors.check_name("config", name, names())
    module = importlib.import_module(f"experiments.presets.{name}")
    return change(module.get_config(), **changes)
