"""Calls a command by its name: `rdljax run`, or `python -m experiments run`."""

import ast
import importlib
import pathlib
import sys

import rdljax
from experiments import command as commands
from rdljax import errors

COMMANDS = (
    *("run", "table", "report", "probe", "prepare", "correlations", "detection"),
    *("import-torch", "export-torch", "export-images", "trials"),
)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit status of the command.

    It is 2 if there is no such command, or if the packages that it needs are not
    installed.
    """
    return commands.call(_run, arguments)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    if arguments[0] == "--version":
        print(f"{commands.PROGRAM} {rdljax.__version__}")
        return 0
    name, *rest = arguments
    name = name.replace("_", "-")
    errors.check_name("command", name, COMMANDS)
    with commands.importing():
        command = importlib.import_module(f"experiments.{_module(name)}")
    return command.main(rest)


def overview() -> str:
    """Returns the list of the commands, with the first line of their docstrings.

    (The files are read and not imported, which would take ten times as long.)
    """
    program = commands.PROGRAM
    if not commands.is_console_command():
        program = "python -m experiments"
    lines = [
        f"usage: {program} COMMAND ...",
        "",
        "Trains and compares nets. `COMMAND --help` explains a command.",
        "",
    ]
    for name in COMMANDS:
        path = pathlib.Path(__file__).with_name(f"{_module(name)}.py")
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        lines.append(f"  {name:<14} {about.splitlines()[0]}")
    return "\n".join(lines)


def _module(name: str) -> str:
    """Returns the module of a command."""
    return name.replace("-", "_")


if __name__ == "__main__":
    sys.exit(main())
