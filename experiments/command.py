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


def first(
    arguments: Sequence[str], about: str, kind: str, known: Iterable[str]
) -> tuple[str, list[str]]:
    """The name that a call begins with, and what follows.

    Args:
      arguments: Of the command line.
      about: What the command does, for `--help` and a call without a name.
      kind: What is named, such as "Configs".
      known: The names.

    Raises:
      SystemExit: There is no name: `--help` (0), or a wrong call (2).
    """
    if not arguments or arguments[0].startswith("-"):
        print(f"{about}\n{kind}: {', '.join(known)}. Their settings: NAME --help.")
        sys.exit(0 if arguments and arguments[0] in ("-h", "--help") else 2)
    name, *rest = arguments
    return name, rest


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


def line(arguments: Sequence[str] | None = None) -> list[str]:
    """A command line, by default the process's, with `~` as the home folder.

    At the beginning of an argument, and of its value: a shell leaves `--out=~/results`
    as it is. What a run records of its paths is then the same wherever it is resumed.
    """
    given = sys.argv[1:] if arguments is None else arguments
    home = (argument.partition("=") for argument in given)
    return ["".join(map(os.path.expanduser, parts)) for parts in home]


def call(
    run: Callable[[Sequence[str]], None], arguments: Sequence[str] | None = None
) -> int:
    """`answer`, for a command that takes its `line`."""
    return answer(lambda: run(line(arguments)))


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
