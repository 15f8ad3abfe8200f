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
import sys

from experiments import command as commands
from experiments import config as configs
from experiments import tables
from experiments.training import estimate, exits, interrupts, table_runs


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings for all columns, and what is to be done."""

    config: configs.Config
    only: str | None = None
    """The columns to run, COLUMN,...; None for all."""
    plan: bool = False
    """Show what would be run, and run nothing."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
      The exit status: 0 done, 1 it (or a planned column) cannot go on, 2 a wrong call
      or missing data; stopped by a signal 128 and its number: 130 for Ctrl-C.
    """
    arguments = commands.line(arguments)

    def command():
        call, plan = parse(arguments)
        if plan:
            text, wrong = estimate.plan_table(call)
            print(text)
            sys.exit(1 if wrong else 0)
        with interrupts.Interrupt() as interrupt:
            table_runs.make(call, interrupt)

    return exits.run(command, "experiments.table", arguments)


def parse(arguments: list[str]) -> tuple[table_runs.Call, bool]:
    """Returns what is asked for, and whether it is only to be planned.

    Raises:
      UnknownName: Of a table or a column.
      UsageError: A setting is impossible, or set by the table itself, or makes two of
        its columns one.
      SystemExit: An unknown setting, a value of the wrong type (2), or `--help` (0).
    """
    name, rest = commands.first(arguments, __doc__, "Tables", tables.names())
    table = tables.load(name)
    first = next(iter(table.columns.values())).config
    options = commands.parse(
        Options,
        rest,
        program=f"experiments.table {name}",
        about=tables.module(name).__doc__,
        default=Options(configs.change(first, out=f"results/{name}")),
    )
    given = commands.flags(rest) & configs.FIELDS.keys()
    changes = {k: v for k, v in configs.flat(options.config).items() if k in given}
    only = () if options.only is None else tuple(options.only.split(","))
    folder = options.config.runtime.out
    return table_runs.make_call(name, changes, folder, only), options.plan


if __name__ == "__main__":
    sys.exit(main())
