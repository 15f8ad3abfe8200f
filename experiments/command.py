"""Reads command lines, handles signals and returns exit statuses, for all commands."""

import contextlib
import os
import pathlib
import re
import select
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from rdljax import errors

# The signals of Ctrl-C, of `kill` and schedulers, and of a closed terminal.
SIGNALS = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP")
    if hasattr(signal, name)
]
Options = TypeVar("Options")
# The command of an installed package: `rdljax run` is `python -m experiments.run`.
PROGRAM = "rdljax"
# The exit status where the reader of the output has ended: 128 plus SIGPIPE's number,
# which Windows does not have.
CLOSED_PIPE = 128 + 13


class UsageError(Exception):
    """An error for a setting, or a combination of settings, that cannot be run."""


class Stopped(KeyboardInterrupt):
    """The exception raised by Ctrl-C, or by another signal that asks to stop.

    Attributes:
      status: The exit status, 128 plus the signal's number.
    """

    def __init__(self, number: int):
        super().__init__()
        self.status = 128 + number


@contextlib.contextmanager
def handle_signals(handle: Callable[[int], Any]) -> Iterator[None]:
    """Calls `handle(number)` for signals that ask to stop, in a `with` block.

    A signal that is ignored, as a hangup is under `nohup`, stays ignored. (Except
    Ctrl-C, which a shell without a terminal ignores for commands in the background.)
    A handler that was not set from Python is kept, too, since it could not be restored.
    """
    before = _listen(handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def handle_signals_from_start() -> None:
    """Ends a command without a traceback if a signal asks it to stop during imports.

    As soon as the command's `main` is defined, these signals raise `Stopped` instead,
    except within `importing`. Python drops it where a function cannot raise, such as
    one that the garbage collector calls (JAX has one); the signal is then sent again.
    """

    def handle(number):
        if hasattr(sys.modules["__main__"], "main") and not _importing:
            raise Stopped(number)
        os.write(2, b"\nstopped\n")
        os._exit(128 + number)

    def handle_dropped(error):
        if isinstance(error.exc_value, Stopped):
            number = error.exc_value.status - 128
            threading.Timer(0.05, os.kill, [os.getpid(), number]).start()
        else:
            sys.__unraisablehook__(error)

    _listen(handle)
    sys.unraisablehook = handle_dropped


# Whether the process is within `importing`.
_importing = False


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Surrounds the imports in a command's functions.

    These are the packages that it works with, which a help text does without: they
    import jax, which takes seconds. A signal that asks to stop ends the process at
    once, as during the imports at its start.

    Raises:
      UsageError: If a package is not installed.
    """
    global _importing
    _importing = True
    try:
        yield
    except (ModuleNotFoundError, errors.MissingPackage) as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "experiments", "rdljax"):
            raise
        raise UsageError(
            f"the experiments need the package {package}: pip install "
            '"rdljax[experiments]"'
        ) from error
    finally:
        _importing = False


def _listen(handle: Callable[[int], Any]) -> dict[int, Any]:
    """Calls `handle(number)` for signals from now on; returns the previous handlers."""

    def called(number, _):
        _spare_closed_terminals(number)
        handle(number)

    found = {number: signal.getsignal(number) for number in SIGNALS}
    before = {k: handler for k, handler in found.items() if handler is not None}
    for number, handler in before.items():
        if number == signal.SIGINT or handler is not signal.SIG_IGN:
            signal.signal(number, called)
    return before


def _spare_closed_terminals(number: int) -> None:
    """Redirects output to the null device if its terminal or pipe is closed.

    Otherwise an error of writing would end a run before it writes a checkpoint. After
    a hangup it waits briefly, since a reader such as `tee` may end a moment later.
    """
    wait = 0.1 if number == getattr(signal, "SIGHUP", None) else 0.0
    for stream in (1, 2):
        if _is_closed(stream, wait):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)
            os.close(nowhere)


def _is_closed(stream: int, wait: float) -> bool:
    """Returns whether the reader of a stream is gone, now or within `wait` seconds."""
    try:
        os.write(stream, b"")  # (No error for a pipe without a reader.)
    except OSError:
        return True
    if not hasattr(select, "poll"):
        return False
    poll = select.poll()
    poll.register(stream, 0)  # Errors and hangups are always reported.
    return bool(poll.poll(1000 * wait))


def is_console_command() -> bool:
    """Returns whether this process is `rdljax`, not `python -m experiments.run`."""
    return pathlib.PurePath(sys.argv[0]).stem == PROGRAM


def as_called(text: str) -> str:
    """Returns a text with every command of it written as this process was called.

    Args:
      text: A text in which commands are written as `python -m experiments.run`.
    """
    if not is_console_command():
        return text
    return re.sub(
        r"python -m experiments\.(\w+)",
        lambda found: f"{PROGRAM} {found[1].replace('_', '-')}",
        text,
    )


def again(program: str) -> list[str]:
    """Returns the words that call a command again, for a shell.

    Args:
      program: The name of the module, such as "experiments.probe".
    """
    if not is_console_command():
        return [sys.executable, "-m", program]
    found = shutil.which(PROGRAM)
    is_found = found is not None and os.path.samefile(found, sys.argv[0])
    name = program.removeprefix("experiments.").replace("_", "-")
    return [PROGRAM if is_found else sys.argv[0], name]


def split_name(
    arguments: Sequence[str], about: str, kind: str, known: Iterable[str]
) -> tuple[str, list[str]]:
    """Returns the first argument of a command line, a name, and the other arguments.

    Args:
      arguments: The arguments of the command line.
      about: The description of the command, for `--help` and a call without a name.
      kind: The kind of the names, such as "Configs", for the same texts.
      known: The names.

    Raises:
      SystemExit: If there is no name: `--help` (0), or a wrong command line (2).
    """
    if not arguments or arguments[0].startswith("-"):
        print(
            f"{as_called(about)}\n{kind}: {', '.join(known)}. Their settings: NAME "
            "--help."
        )
        sys.exit(0 if arguments and arguments[0] in ("-h", "--help") else 2)
    name, *rest = arguments
    return name, rest


def parse(
    options: type[Options],
    arguments: Sequence[str],
    *,
    program: str,
    about: str | None,
    default: Options | None = None,
) -> Options:
    """Returns a command line as a dataclass, whose fields are the flags.

    Args:
      options: The dataclass, with a docstring below each field.
      arguments: The arguments of the command line.
      program: The name of the module, such as "experiments.probe".
      about: The description of the command, for `--help`.
      default: The values of flags that are not given; None for the dataclass's own
        defaults.

    Raises:
      UsageError: If the dataclass refuses its values.
      SystemExit: If a flag is unknown, or a value has the wrong type (2); or for
        `--help` (0).
    """
    import tyro  # (It takes a third of a second; signals are handled before.)

    given: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(
        options,
        args=list(arguments),
        prog=as_called(f"python -m {program}"),
        description=None if about is None else as_called(about),
        use_underscores=True,
        config=(tyro.conf.OmitArgPrefixes,),
        **given,
    )


def flags(arguments: Iterable[str]) -> set[str]:
    """Returns the flags that are given on a command line."""
    named = (one[2:].partition("=")[0] for one in arguments if one.startswith("--"))
    return {flag.replace("-", "_").removeprefix("no_") for flag in named}


def path(setting: str, given: str | None) -> pathlib.Path:
    """Returns the path in the value of a setting, which need not exist.

    Args:
      setting: The name of the setting, for the message.
      given: The value.

    Raises:
      UsageError: If the value is empty or None, if no file can have that path, or if
        the file system cannot look it up.
    """
    try:
        if not given:
            raise ValueError("it is empty")
        given.encode()  # (A path that cannot be printed is refused here.)
        found = pathlib.Path(given).expanduser()
        with contextlib.suppress(FileNotFoundError):
            os.stat(found)
    except (OSError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"{setting} must be a path, got {given!r} ({error})"
        ) from error
    return found


def read_arguments(arguments: Sequence[str] | None = None) -> list[str]:
    """Returns a command line, by default the process's, with `~` expanded.

    `~` is replaced by the home folder at the beginning of an argument and of its value,
    since a shell does not expand it in `--out=~/results`. The paths that a run records
    are then the same wherever it is resumed.
    """
    given = sys.argv[1:] if arguments is None else arguments
    home = (argument.partition("=") for argument in given)
    return ["".join(map(os.path.expanduser, parts)) for parts in home]


def call(
    run: Callable[[list[str]], int | None], arguments: Sequence[str] | None = None
) -> int:
    """Runs a command on the arguments from `read_arguments`.

    Returns:
      The exit status, from `exit_status`.
    """
    return exit_status(lambda: run(read_arguments(arguments)))


def exit_status(run: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit status.

    It is what the command returns (None: 0), 2 for a wrong command line, and 128 plus
    the number of the signal that stopped the command, such as 130 for Ctrl-C. If the
    reader of the output has ended, as in `rdljax --help | head -1`, it is 141 without
    a message, as of programs that the signal SIGPIPE ends.
    """
    try:
        status = _status(run)
        sys.stdout.flush()  # (What is still buffered would fail after `main`.)
    except BrokenPipeError:
        if not (_is_closed(1, 0.0) or _is_closed(2, 0.0)):
            raise  # (The pipe of another process.)
        _spare_closed_terminals(0)
        return CLOSED_PIPE
    return status


def _status(run: Callable[[], int | None]) -> int:
    """Runs a command and returns its exit status, unless its output is closed."""
    try:
        return run() or 0
    except (errors.UnknownName, UsageError) as error:
        print(as_called(f"error: {error}"), file=sys.stderr)
        return 2
    except SystemExit as stopped:  # (By tyro, which has printed an error or the help.)
        return status_of(stopped)
    except KeyboardInterrupt as stopped:
        print("\nstopped", file=sys.stderr)
        return getattr(stopped, "status", 130)


def status_of(stopped: SystemExit) -> int:
    """Returns the exit status that Python would end with; prints the message if any."""
    if isinstance(stopped.code, str):
        print(stopped.code, file=sys.stderr)
        return 1
    return int(stopped.code or 0)
