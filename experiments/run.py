"""Runs an experiment.

    python -m experiments.run NAME --field=value ...

Trains a teacher and the same student by several methods and seeds, and reports test
errors and the agreement of representations. NAME is a file of `experiments/presets`.
"""

import importlib
import sys

from experiments import command as commands
from experiments import config as configs


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
      The exit status: 0 if finished, 1 if the run cannot continue (the loss is not
      finite, the disk is full), 2 for a wrong command line; after a signal 128 plus its
      number, such as 130 for Ctrl-C.
    """
    return commands.call(_run, arguments)


def _run(arguments: list[str]) -> int:
    name, config = parse(arguments)
    again = [a for a in arguments if a not in ("--overwrite", "--resume")]
    with commands.importing():
        from experiments.training import exits, experiment

    def train(interrupt):
        experiment.run(name, config, interrupt)

    return exits.run(train, "experiments.run", [*again, "--resume"])


def parse(arguments: list[str]) -> tuple[str, configs.Config]:
    """Returns the config's name and the config, from `NAME --setting=value ...`.

    Raises:
      UnknownName: If there is no such config.
      UsageError: If the value of a setting is not allowed.
      SystemExit: If a setting is unknown, or a value has the wrong type (2); or for
        `--help` (0).
    """
    name, rest = commands.split_name(arguments, __doc__, "Configs", configs.names())
    config = configs.load(name)
    return name, commands.parse(
        configs.Config,
        rest,
        program=f"experiments.run {name}",
        about=importlib.import_module(f"experiments.presets.{name}").__doc__,
        default=config,
    )


if __name__ == "__main__":
    sys.exit(main())
