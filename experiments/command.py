"""What the commands of this folder share: wrong calls are answered in words."""

import contextlib
import os
import pathlib
import sys
from collections.abc import Callable, Iterable, Sequence

from rdljax import _names


class UsageError(ValueError):
    """A setting, or a combination of settings, that cannot be run."""


def check_keys(arguments: Iterable[str], known: Iterable[str]) -> None:
    """Raises `UnknownName` for a `--key` that is not among the known ones."""
    known = [*known, "help"]
    for argument in arguments:
        if argument.startswith("--"):
            key = argument[2:].partition("=")[0].replace("-", "_")
            _names.check("setting", key.removeprefix("no_"), known)


def path(setting: str, given: str) -> pathlib.Path:
    """The path that a setting names; nothing need be there.

    Raises:
      UsageError: Nothing can be there, or nobody can look.
    """
    try:
        if not given:
            raise ValueError("it is empty")
        given.encode()  # It is printed, too.
        found = pathlib.Path(given).expanduser()
        with contextlib.suppress(FileNotFoundError):
            os.stat(found)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"{setting} must be a path, got {given!r} ({error})"
        ) from error
    return found


def call(
    run: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None
) -> int:
    """`answer`, for a command that takes its arguments, by default the process's."""
    return answer(lambda: run(sys.argv[1:] if arguments is None else arguments))


def answer(run: Callable[[], None]) -> int:
    """Runs a command; its exit status: 0 done, 2 a wrong call, 130 interrupted."""
    try:
        run()
    except (_names.UnknownName, UsageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0
