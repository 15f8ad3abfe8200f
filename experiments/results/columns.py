"""The settings that define a column of a table, and those that a run has changed.

The settings of `experiments.table` are for all columns. A run's folder has the settings
of that run, so that changes of earlier calls are known, too.
"""

import itertools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import command, tables
from experiments import config as configs
from experiments.results import folder as results_folder

# With another value of one of these settings, ...
TEACHING = (
    *("data", "train_per_class", "resize", "teacher", "teacher_from"),
    *("teacher_modality", "ensemble"),
)
# ... or of one of these, a column is another experiment than the published one.
EXPERIMENT = (*TEACHING, "student", "student_from", "modality")
# Settings in which columns may differ and be of one experiment.
TRAINING = ("methods", "weights", "epochs", "teacher_epochs", "learning_rate")

# By name of a setting, the run's value and the column's.
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
    """Raises `UsageError` where changes make one experiment of two columns.

    Args:
      table: The table as its file has it.
      changed: The table with the changes.
      chosen: The columns that are asked for.
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
                f"{apart[0]} sets the columns {one!r} and {other!r} apart, and with "
                "these settings they are one experiment: --only=COLUMN runs one"
            )


def changes(
    table: tables.Table, runs: Mapping[str, Mapping[str, Any]], column: str
) -> Changes:
    """Returns the settings that a run has changed of its column.

    Args:
      table: The table as its file has it.
      runs: The settings of each run (`results.folder.settings`), by column.
      column: The name of the column.

    Returns:
      The changes of the run, and those of the run whose teacher it has ("COLUMN's
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
    # (A folder of weights says which net it is of.)
    free = {"data_dir"}
    free |= {"teacher", "teacher_modality"} if of.config.nets.teacher_from else set()
    free |= {"student", "modality"} if of.config.nets.student_from else set()
    shared = of.teacher_of, "teacher", "weights"
    if pathlib.Path(run.get("teacher_from") or "").parts[-3:] == shared:
        free |= {"teacher_from"}
    own = results_folder.settings(of.config)
    return {
        key: (run[key], value)
        for key, value in own.items()
        if key in run.keys() - free and run[key] != value
    }


def name(table: tables.Table, column: str, changed: Changes) -> str:
    """Returns the name of a column: its own, if it is the experiment of that name."""
    known = defining_settings(table)
    other = [
        f"{key}={_said(now)}"
        for key, (now, _) in changed.items()
        if key.rpartition(" ")[2] in known
    ]
    return f"{column}, but {', '.join(other)}" if other else column


def sentences(changed: Mapping[str, Changes]) -> list[str]:
    """Returns the changes of all columns in words: a sentence for each setting."""
    found: dict[str, list[str]] = {}
    for column, of in changed.items():
        for key, (now, was) in of.items():
            words = f"{key}={_said(now)}, where the table has {_said(was)}"
            found.setdefault(words, []).append(column)
    return [
        words if len(where) == len(changed) else f"{', '.join(where)}: {words}"
        for words, where in found.items()
    ]


def _said(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
