"""Runs an experiment: `python -m experiments.run NAME --field=value ...`.

Trains a teacher, the same student by several methods and seeds, and reports what became
of the test error and of the representations. NAME is a file of `experiments/presets`.
"""

import importlib
import sys

from experiments import command as commands
from experiments import config as configs
from experiments.training import exits, experiment, interrupts


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
      The exit status: 0 done, 1 it cannot go on (the loss is not finite, the disk is
      full), 2 a wrong call; stopped by a signal 128 and its number: 130 for Ctrl-C.
    """
    arguments = commands.line(arguments)

    def command():
        name, config = parse(arguments)
        with interrupts.Interrupt() as interrupt:
            experiment.run(name, config, interrupt)

    again = [a for a in arguments if a not in ("--overwrite", "--resume")]
    return exits.run(command, "experiments.run", [*again, "--resume"])


def parse(arguments: list[str]) -> tuple[str, configs.Config]:
    """Returns the config's name and the config, from `NAME --setting=value ...`.

    Raises:
      UnknownName: Of a config.
      UsageError: A setting is impossible.
      SystemExit: An unknown setting, a value of the wrong type (2), or `--help` (0).
    """
    name, rest = commands.first(arguments, __doc__, "Configs", configs.names())
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
