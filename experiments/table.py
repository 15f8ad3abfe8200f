"""Runs a table of experiments: `python -m experiments.table NAME --field=value ...`.

Runs what is not in the results folder yet, goes on where it was stopped, and prints and
writes test accuracy (mean and deviation over seeds), the last and the best epoch on the
validation images, differences, McNemar's tests, the published numbers beside ours and
how the settings differ. `--plan` shows the runs and what they will take first. NAME is
a file of `experiments/tables`; fields are those of `experiments.run`, for all columns.
A column with other data or nets than the table's is called so, and nothing published
stands beside it.
"""

import dataclasses
import shlex
import sys
from typing import Any

import tyro

from experiments import command as commands
from experiments import config as configs
from experiments import tables
from experiments.results import columns
from experiments.training import estimate, exits, interrupts, table_runs
from rdljax import errors

# What a table sets for each column itself.
OWN = ("out", "resume", "overwrite")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
      The exit status: 0 done, 1 it cannot go on, 2 a wrong call or data that are
      missing; stopped by a signal 128 and its number: 130 for Ctrl-C.
    """
    arguments = commands.line(arguments)

    def command():
        call = parse(arguments)
        if call.plan:
            print(estimate.planned(call))
            return
        with interrupts.Interrupt() as interrupt:
            table_runs.make(call, interrupt)

    try:
        return exits.answer(command)
    except interrupts.Interrupted as stopped:
        again = shlex.join([sys.executable, "-m", "experiments.table", *arguments])
        print(f"\nstopped in {stopped}; to continue:\n{again}", file=sys.stderr)
        return stopped.status


def parse(arguments: list[str]) -> table_runs.Call:
    """Returns what is asked for, from `NAME --field=value ...`.

    Raises:
      UnknownName: Of a table, a column or a field.
      UsageError: A field that a table sets itself, or one that makes its columns one.
      SystemExit: A value of the wrong type (2), or `--help` (0).
    """
    name, rest = commands.first(arguments, __doc__, "Tables", tables.names())
    table = tables.load(name)
    plan, folder, only, changes = "--plan" in rest, f"results/{name}", [], []
    rest = iter([argument for argument in rest if argument != "--plan"])
    for argument in rest:
        key, equals, value = argument.partition("=")
        if key in ("--out", "--only"):
            value = value if equals else next(rest, "")
            folder = value if key == "--out" else folder
            only += value.split(",") if key == "--only" else []
        else:
            changes.append(argument)
    for column in only:
        errors.check_name(f"column of {name}", column, table.columns)
    fields = [field.name for field in dataclasses.fields(configs.Config)]
    known = [field for field in fields if field not in OWN]
    commands.check_keys(changes, [*known, "out", "only", "plan"])
    config = tyro.cli(
        configs.Config,
        default=next(iter(table.columns.values())).config,
        args=changes,
        prog=f"python -m experiments.table {name} [--plan] [--out=FOLDER] "
        "[--only=COLUMN,...]",
        description=tables.module(name).__doc__,
    )
    keys = {a[2:].partition("=")[0].replace("-", "_") for a in changes if a[:2] == "--"}
    changed = {
        field: getattr(config, field)
        for field in known
        if field in keys or f"no_{field}" in keys
    }
    if "{" in folder:
        raise commands.UsageError(f"out of a table is a folder as it is, got {folder}")
    own = {
        column: of._replace(config=_changed(of.config, changed))
        for column, of in table.columns.items()
    }
    place = commands.path("out", folder)
    call = table_runs.Call(name, table._replace(columns=own), place, plan, tuple(only))
    columns.check_apart(table, call.table, call.chosen)
    return call


def _changed(config: configs.Config, changes: dict[str, Any]) -> configs.Config:
    """A column's settings with the changes; of its weights those not named stay."""
    if "weights" in changes:
        named = {entry.rpartition("=")[0] for entry in changes["weights"]}
        kept = [w for w in config.weights if w.rpartition("=")[0] not in named]
        changes = changes | {"weights": (*kept, *changes["weights"])}
    return dataclasses.replace(config, **changes)


if __name__ == "__main__":
    sys.exit(main())
