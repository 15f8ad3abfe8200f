"""Runs a table of experiments.

    python -m experiments.table NAME --field=value ...

Trains the runs that are not in the results folder yet, continues where it was stopped,
and prints and writes test accuracy (mean and standard deviation over seeds), the last
and the best epoch on the validation images, differences, McNemar's tests, the published
numbers and how their settings differ. `--plan` shows the runs and their estimated time.
NAME is a file of `experiments/tables`; fields are those of `experiments.run`, for all
columns. A column with other data or nets is marked, and has no published numbers.
"""

import dataclasses
import functools
import sys
from typing import TYPE_CHECKING

from experiments import command as commands
from experiments import config as configs
from experiments import tables

if TYPE_CHECKING:
    from experiments.training import table_runs


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings for all columns, and the columns to run."""

    config: configs.Config
    only: str | None = None
    """The columns to run, COLUMN,...; None for all."""
    plan: bool = False
    """Show the runs and their estimated time, and run nothing."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status, as for `experiments.run`."""
    return commands.call(_run, arguments)


def _run(arguments: list[str]) -> int:
    call, plan = parse(arguments)
    with commands.importing():
        from experiments.training import estimate, exits, table_runs

    if plan:
        return exits.exit_status(functools.partial(estimate.print_plan, call))
    train = functools.partial(table_runs.run_table, call)
    return exits.run(train, "experiments.table", arguments)


def parse(arguments: list[str]) -> "tuple[table_runs.Call, bool]":
    """Returns the parsed command line, and whether `--plan` is given.

    Raises:
      UnknownName: If there is no such table or column.
      UsageError: If a setting is not allowed here, or makes two columns equal.
      SystemExit: If a setting is unknown, has the wrong type (2); for `--help` (0).
    """
    name, rest = commands.split_name(arguments, __doc__, "Tables", tables.names())
    first = next(iter(tables.load(name).columns.values())).config
    options = commands.parse(
        Options,
        rest,
        program=f"experiments.table {name}",
        about=tables.module(name).__doc__,
        default=Options(configs.change(first, out=f"results/{name}")),
    )
    given = commands.flags(rest)
    changes = {k: v for k, v in configs.flat(options.config).items() if k in given}
    folder = options.config.runtime.out
    only = () if options.only is None else tuple(options.only.split(","))
    with commands.importing():
        from experiments.training import table_runs
    return table_runs.make_call(name, changes, folder, only), options.plan


if __name__ == "__main__":
    sys.exit(main())
