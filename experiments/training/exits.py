"""Determines the exit status of a command that trains."""

import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax

from experiments import command as commands
from experiments.training import interrupts, loop, programs
from rdljax import checkpoints


def exit_status(command: Callable[[], int | None]) -> int:
    """Runs a command that trains and returns its exit status.

    It is 1 if the training cannot continue, otherwise that of `command.exit_status`.
    """
    try:
        return commands.exit_status(command)
    except (loop.Diverged, programs.OutOfMemory) as stopped:
        print(f"\nerror: {stopped}", file=sys.stderr)
    except jax.errors.JaxRuntimeError as error:
        if not programs.is_exhausted(error):
            raise
        first, *_ = str(error).splitlines()
        print(f"\nerror: there is not enough memory: {first}", file=sys.stderr)
    except (checkpoints.CheckpointDamaged, checkpoints.CheckpointMismatch) as error:
        print(
            f"\nerror: {error}\nIf that folder is deleted, the net is trained again.",
            file=sys.stderr,
        )
    except OSError as error:
        print(f"\nerror: {error}; --resume continues from here", file=sys.stderr)
    return 1


def run(
    command: Callable[[interrupts.Interrupt], Any],
    program: str,
    again: Sequence[str] | None = None,
) -> int:
    """Runs a command that trains; if it is stopped, prints how to continue.

    Args:
      command: The command, a function of the request to stop.
      program: The name of the program, such as "experiments.run".
      again: The command line that continues it; None if there is none.

    Returns:
      The exit status: that of `exit_status`, or of the signal that stopped it.
    """

    def train():
        with interrupts.Interrupt() as interrupt:
            command(interrupt)

    try:
        return exit_status(train)
    except interrupts.Interrupted as stopped:
        if again is None:
            print("\nstopped", file=sys.stderr)
        else:
            print(f"\nstopped in {stopped}; to continue:", file=sys.stderr)
            line = [*commands.again(program), *again]
            print(shlex.join(line), file=sys.stderr)
        return stopped.status
