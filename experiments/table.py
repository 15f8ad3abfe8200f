"""Runs a table of experiments: `python -m experiments.table NAME --field=value ...`.

Trains the runs that are not in the results folder yet, continues where it was stopped,
and prints and writes test accuracy (mean and standard deviation over seeds), the last
and the best epoch on the validation images, differences, McNemar's tests, the published
numbers and the differences between their settings and ours. `--plan` shows the runs and
their estimated time. NAME is a file of `experiments/tables`; fields are those of
`experiments.run`, for all columns. A column whose data or nets are not the table's is
marked, and has no published numbers.
"""

import dataclasses
import sys

from experiments import command as commands
from experiments import config as configs
from experiments import tables
from experiments.training import estimate, exits, interrupts, table_runs


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings for all columns, and the columns to run."""

    config: configs.Config
    only: str | None = None
    """The columns to run, COLUMN,...; None for all."""
    plan: bool = False
    """Show the runs and their estimated time, and run nothing."""


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
      The exit status, as for `experiments.run`; 1 also if a planned column cannot be
      run, 2 also for missing data.
    """
    arguments = commands.read_arguments(arguments)

    def command():
        call, plan = parse(arguments)
        if plan:
            text, wrong = estimate.plan_table(call)
            print(text)
            sys.exit(1 if wrong else 0)
        with interrupts.Interrupt() as interrupt:
            table_runs.run_table(call, interrupt)

    return exits.run(command, "experiments.table", arguments)


def parse(arguments: list[str]) -> tuple[table_runs.Call, bool]:
    """Returns the parsed command line, and whether `--plan` is given.

    Raises:
      UnknownName: If there is no such table or column.
      UsageError: If a setting is not allowed here, or makes two columns equal.
      SystemExit: If a setting is unknown, or a value has the wrong type (2); or for
        `--help` (0).
    """
    name, rest = commands.split_name(arguments, __doc__, "Tables", tables.names())
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
