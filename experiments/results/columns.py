"""Compares the settings of a table's columns with those of their runs.

The settings of `experiments.table` apply to all columns. A run's folder records the
settings of that run, so that changes made in earlier calls are known, too.
"""

import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import command, tables
from experiments import config as configs
from experiments.results import folder as results_folder

# If one of these settings, which define the teacher, is changed, ...
TEACHING = (
    *("data", "train_per_class", "resize", "teacher", "teacher_from"),
    *("teacher_modality", "ensemble"),
)
# ... or one of these, a column is no longer the published experiment.
EXPERIMENT = (
    *TEACHING,
    *("student", "student_from", "modality", "student_per_class"),
)
# Settings that do not make columns different experiments.
TRAINING = ("methods", "weights", "epochs", "teacher_epochs", "learning_rate")

# The run's and the column's value of changed settings, by name.
Changes = dict[str, tuple[Any, Any]]


def defining_settings(table: tables.Table) -> list[str]:
    """Returns the settings that define columns, and those in which columns differ."""
    every = [results_folder.settings(of.config) for of in table.columns.values()]
    first, *others = every
    apart = {k for k in first if any(own[k] != first[k] for own in others)}
    return [*EXPERIMENT, *sorted(apart - {*EXPERIMENT, *TRAINING})]


def check_apart(
    table: tables.Table, changed: tables.Table, chosen: Sequence[str]
) -> None:
    """Raises `UsageError` if changes make two columns the same experiment.

    Args:
      table: The original table.
      changed: The table with the changes.
      chosen: The names of the columns to run.
    """
    known = defining_settings(table)

    def identity(of, column):
        own = of.columns[column]
        settings = configs.flat(own.config)
        found = {key: settings[key] for key in known}
        if own.teacher_of is not None and own.config.nets.teacher_from is None:
            own = of.columns[own.teacher_of]
        settings = configs.flat(own.config)
        return found | {f"teacher's {k}": settings[k] for k in TEACHING}

    before, now = ({c: identity(t, c) for c in chosen} for t in (table, changed))
    for one, other in itertools.combinations(chosen, 2):
        apart = [k for k, of in before[one].items() if of != before[other][k]]
        if apart and now[one] == now[other]:
            raise command.UsageError(
                f"the columns {one!r} and {other!r} differ in {apart[0]}, but with "
                "these settings they are one experiment: --only=COLUMN runs one"
            )


def changes(
    table: tables.Table, runs: Mapping[str, Mapping[str, Any]], column: str
) -> Changes:
    """Returns the settings that differ between a column's run and the original table.

    Args:
      table: The original table.
      runs: The settings of each run (`results.folder.settings`), by column.
      column: The name of the column.

    Returns:
      The changes of the run, and those of the run that trained its teacher ("COLUMN's
      SETTING").
    """
    found, source = _changes(table, runs, column), table.columns[column].teacher_of
    if source is not None and source in runs and "teacher_from" not in found:
        for key, values in _changes(table, runs, source).items():
            if key in TEACHING and runs[column].get(key) != values[0]:
                found[f"{source}'s {key}"] = values
    return found


def _changes(
    table: tables.Table, runs: Mapping[str, Mapping[str, Any]], column: str
) -> Changes:
    of, run = table.columns[column], json.loads(json.dumps(runs[column]))
    # (A folder of weights determines the net.)
    free = {"data_dir"}
    free |= {"teacher", "teacher_modality"} if of.config.nets.teacher_from else set()
    free |= {"student", "modality"} if of.config.nets.student_from else set()
    folders = results_folder.net_folder("teacher", 0), results_folder.WEIGHTS_FOLDER
    taught_by = pathlib.Path(run.get("teacher_from") or "").parts[-3:]
    if taught_by == (of.teacher_of, *folders):
        free |= {"teacher_from"}
    own = results_folder.settings(of.config)
    return {
        key: (run[key], value)
        for key, value in own.items()
        if key in run.keys() - free and run[key] != value
    }


def name(table: tables.Table, column: str, changed: Changes) -> str:
    """Returns the name of a column, with changes that make it another experiment."""
    known = defining_settings(table)
    other = [
        f"{key}={_format_value(now)}"
        for key, (now, _) in changed.items()
        if key.rpartition(" ")[2] in known
    ]
    return f"{column}, but {', '.join(other)}" if other else column


def sentences(changed: Mapping[str, Changes]) -> list[str]:
    """Describes the changes of all columns, with a sentence for each setting."""
    found: dict[str, list[str]] = {}
    for column, of in changed.items():
        for key, (now, was) in of.items():
            words = (
                f"{key}={_format_value(now)}, where the table has {_format_value(was)}"
            )
            found.setdefault(words, []).append(column)
    return [
        words if len(where) == len(changed) else f"{', '.join(where)}: {words}"
        for words, where in found.items()
    ]


def _format_value(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
