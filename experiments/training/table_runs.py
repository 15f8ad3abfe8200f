"""Runs the experiments of a table."""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from experiments import command as commands
from experiments import config as configs
from experiments import locks, tables
from experiments.results import columns, markdown
from experiments.results import folder as results_folder
from experiments.results import table as result_table
from experiments.training import experiment, interrupts, loop, programs
from rdljax import checkpoints, errors, files

# The settings that a table sets itself for each column.
OWN = {"resume", "overwrite"}
# The errors of one column after which the table continues with the others.
CANNOT_GO_ON = (
    loop.Diverged,
    programs.OutOfMemory,
    checkpoints.CheckpointDamaged,
    checkpoints.CheckpointMismatch,
)


@dataclasses.dataclass(frozen=True)
class Call:
    """The request for a table.

    Attributes:
      name: The name of the table.
      table: The table, with the changes of the command line.
      folder: The folder for results.
      only: The columns to run; all columns if it is empty.
      refused: The reasons why columns cannot have the changes, by column.
    """

    name: str
    table: tables.Table
    folder: pathlib.Path
    only: tuple[str, ...] = ()
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def chosen(self) -> list[str]:
        """Returns the names of the columns to run."""
        return [*self.only] or [*self.table.columns]

    def check(self, column: str) -> None:
        """Raises `UsageError` for a column that cannot have the changes."""
        if column in self.refused:
            raise commands.UsageError(self.refused[column])


def make_call(
    name: str, changes: Mapping[str, Any], folder: str, only: tuple[str, ...] = ()
) -> Call:
    """Returns the request for a table.

    Args:
      name: The name of the table.
      changes: The new values of settings, by their flags, for all columns. (`out` is
        ignored.)
      folder: The folder for results.
      only: The columns to run; all columns if it is empty.

    Raises:
      UnknownName: If a table or a column is not known.
      UsageError: If the value of a setting is not allowed, or is set by the table
        itself, or makes two of its columns equal.
    """
    table = tables.load(name)
    for column in only:
        errors.check_name(f"column of {name}", column, table.columns)
    for setting in OWN & changes.keys():
        raise commands.UsageError(
            f"a table has no --{setting}: it always continues its runs"
        )
    if "{" in folder:
        raise commands.UsageError(
            f"out of a table must be a folder without {{...}}, got {folder}"
        )
    changes = {k: v for k, v in changes.items() if k != "out"}
    place = commands.path("out", folder)
    call = Call(name, table, place, only)
    own, refused = dict(table.columns), {}
    for column in call.chosen:
        try:
            config = _change_config(own[column].config, changes)
            own[column] = own[column]._replace(config=config)
        except commands.UsageError as error:
            refused[column] = str(error)
    if len(refused) == len(call.chosen):
        raise commands.UsageError("; ".join(dict.fromkeys(refused.values())))
    changed = table._replace(columns=own)
    call = dataclasses.replace(call, table=changed, refused=refused)
    columns.check_apart(table, call.table, call.chosen)
    return call


def _change_config(
    config: configs.Config, changes: Mapping[str, Any]
) -> configs.Config:
    """Returns settings with changes; weights that are not changed are kept."""
    changes = dict(changes)
    if "weights" in changes:
        named = {entry.rpartition("=")[0] for entry in changes["weights"]}
        before = config.method.weights
        kept = [entry for entry in before if entry.rpartition("=")[0] not in named]
        changes["weights"] = (*kept, *changes["weights"])
    return configs.change(config, **changes)


def run_table(call: Call, interrupt: interrupts.Interrupt) -> dict:
    """Runs the columns that are missing and writes the table.

    Args:
      call: The request.
      interrupt: The request to stop.

    Returns:
      The content of `table.json`.

    Raises:
      UsageError: If a column cannot be run; the others are run, and the table written.
      Interrupted: If it was stopped; finished columns are kept.
    """
    with locks.hold(call.folder):
        _check_own(call)
        found, missing = _run_columns(call, interrupt)
    print(
        f"\n{result_table.text(found)}\n{call.folder}: table.md, table.csv, table.json"
    )
    if missing:
        raise commands.UsageError(
            f"not run: {', '.join(missing)}. (Runs with other settings in a column's "
            "folder are not changed: --out sets another folder for the table.)"
        )
    return found


def _run_columns(
    call: Call, interrupt: interrupts.Interrupt
) -> tuple[dict, dict[str, str]]:
    """Returns the content of `table.json`, and the reasons why columns were not run.

    If a column cannot be run again, its earlier results are kept.
    """
    summaries, missing = _read_finished(call), {}
    for column in call.chosen:
        print(f"\n== {call.name}: {column}")
        try:
            config = column_settings(call, column)
            summaries[column] = experiment.run(
                f"{call.name}/{column}", config, interrupt
            )
        except (*CANNOT_GO_ON, commands.UsageError, errors.UnknownName) as error:
            missing[column] = str(error)
            if column in summaries:
                missing[column] += "; its results are those of an earlier run"
            print(f"{column}: {error}", file=sys.stderr)
        found = result_table.gather(call.name, call.table, summaries, missing)
        result_table.write(call.folder, found)
    return found, missing


def _check_own(call: Call) -> None:
    """Raises `UsageError` if the folder has another table, or files with its names.

    (`table.json` is the first file that a table writes.)
    """
    record = call.folder / result_table.TableFile.RECORD
    others = [name for name in result_table.TableFile if (call.folder / name).exists()]
    if not others:
        return
    try:
        name = files.read_json(record)["name"]
    except FileNotFoundError:
        name = None
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise commands.UsageError(
            f"{record} is not a table ({error!r}); use another folder: --out=FOLDER"
        ) from error
    if name != call.name:
        what = "files that no table has written"
        what = what if name is None else f"the table {name}"
        raise commands.UsageError(
            f"{call.folder} holds {what}: {', '.join(others)}; use another folder: "
            "--out=FOLDER"
        )


def _read_finished(call: Call) -> dict[str, dict]:
    """Returns the summaries of the columns that are finished in the folder."""
    found = {}
    for column in call.table.columns:
        record = call.folder / column / results_folder.RunFile.RESULT
        # (Missing, damaged or foreign files are reported when the column is run.)
        with contextlib.suppress(Exception):
            summary = files.read_json(record)
            markdown.table(summary)
            if summary["config"]["name"] == f"{call.name}/{column}":
                found[column] = summary
    return found


def column_settings(call: Call, column: str) -> configs.Config:
    """Returns the settings of a column's run, with its folder and its teacher's.

    Raises:
      UsageError: If its teacher is that of another column, which is not run yet, or is
        an ensemble.
    """
    call.check(column)
    of = call.table.columns[column]
    changes: dict[str, Any] = {"out": str(call.folder / column), "resume": True}
    if of.teacher_of is not None and of.config.nets.teacher_from is None:
        if of.config.nets.ensemble > 1:
            raise commands.UsageError(
                "columns cannot share the teachers of an ensemble"
            )
        teacher = call.folder / of.teacher_of / results_folder.net_folder("teacher", 0)
        there = teacher / results_folder.WEIGHTS_FOLDER
        if not there.exists():
            raise commands.UsageError(
                f"the teacher is that of {of.teacher_of}, which is not run yet"
            )
        changes["teacher_from"] = str(there)
    return configs.change(of.config, **changes)
