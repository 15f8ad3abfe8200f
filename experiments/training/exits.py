"""The exit status of a command that trains."""

import sys
from collections.abc import Callable

import jax

from experiments import command as commands
from experiments.training import loop, programs
from rdljax import checkpoints


def answer(command: Callable[[], None]) -> int:
    """Runs a command that trains; 1 where that cannot go on, else `command.answer`."""
    try:
        return commands.answer(command)
    except (loop.Diverged, programs.OutOfMemory) as stopped:
        print(f"\nerror: {stopped}", file=sys.stderr)
    except jax.errors.JaxRuntimeError as error:
        if not programs.is_exhausted(error):
            raise
        first, *_ = str(error).splitlines()
        print(f"\nerror: the memory does not suffice: {first}", file=sys.stderr)
    except (checkpoints.CheckpointDamaged, checkpoints.CheckpointMismatch) as error:
        print(
            f"\nerror: {error}\nWhere that folder is deleted, the net is trained anew.",
            file=sys.stderr,
        )
    except OSError as error:
        print(f"\nerror: {error}; --resume goes on from here", file=sys.stderr)
    return 1
