"""Runs an experiment: `python -m experiments.run NAME --field=value ...`.

Trains a teacher, the same student by several methods and seeds, and reports what became
of the test error and of the representations. NAME is a file of `experiments/presets`.
"""

import dataclasses
import importlib
import shlex
import sys

import tyro

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

    try:
        return exits.answer(command)
    except interrupts.Interrupted as stopped:
        again = [a for a in arguments if a not in ("--overwrite", "--resume")]
        again = [sys.executable, "-m", "experiments.run", *again, "--resume"]
        print(f"\nstopped in {stopped}; to continue:", file=sys.stderr)
        print(shlex.join(again), file=sys.stderr)
        return stopped.status


def parse(arguments: list[str]) -> tuple[str, configs.Config]:
    """Returns the config's name and the config, from `NAME --field=value ...`.

    Raises:
      UnknownName: Of a config, or of a field.
      SystemExit: A value of the wrong type (2), or `--help` (0).
    """
    name, changes = commands.first(arguments, __doc__, "Configs", configs.names())
    config = configs.load(name)
    commands.check_keys(changes, [field.name for field in dataclasses.fields(config)])
    note = importlib.import_module(f"experiments.presets.{name}").__doc__
    program = f"python -m experiments.run {name}"
    return name, tyro.cli(
        configs.Config, default=config, args=changes, prog=program, description=note
    )


if __name__ == "__main__":
    sys.exit(main())
