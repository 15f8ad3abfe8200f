"""Runs the command of a benchmark, which measures each case in a separate process.

Peak memory is measured in a separate process for each contender.
"""

import contextlib
import dataclasses
import datetime
import functools
import json
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Callable, Collection
from typing import Any

import jax
import tyro

from benchmarks import machine, measure, report, verdicts
from experiments import command as commands
from rdljax import errors, files

# The time after which a process is stopped, in seconds.
SECONDS_A_PROCESS = 900
# JAX decomposes the matrices of a batch in parallel. If OpenBLAS also uses threads,
# they wait for each other, for tens of seconds if another process uses a core.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}


@dataclasses.dataclass(frozen=True)
class Options:
    """The settings of every benchmark."""

    cases: tyro.conf.Positional[tuple[str, ...]] = ()
    """The cases to measure; all by default."""
    rounds: int = 7
    """The number of samples of each contender."""
    batch: int | None = None
    """The number of examples; None for each case's own. Other numbers have no goals."""
    out: pathlib.Path | None = None
    """The JSON file for all numbers, which is updated after each case."""
    list: bool = False
    """Print the names of the cases and stop."""
    markdown: bool = False
    """Print the result in the form of README.md."""
    part: str = ""
    """The part of the work to do in this process, used by the command itself: `times`,
    or `memory:CONTENDER`."""

    def check(self) -> None:
        """Raises `UsageError` for settings that are not allowed."""
        if self.rounds < 1 or (self.batch is not None and self.batch < 2):
            raise commands.UsageError("expected 1 round or more, a batch of 2 or more")
        if self.out is not None and not self.out.parent.is_dir():
            raise commands.UsageError(f"there is no folder {self.out.parent}")


@dataclasses.dataclass(frozen=True)
class DeviceOptions(Options):
    """The settings of benchmarks for any device, whose cases have no batch."""

    device: str | None = None
    """The device, "cpu" or "gpu"; None for JAX's default device."""

    def check(self) -> None:
        """Raises `UsageError` for settings that are not allowed."""
        super().check()
        if self.batch is not None:
            raise commands.UsageError("these cases have no batch")
        if self.device not in (None, "cpu", "gpu"):
            raise commands.UsageError(f"there is no device {self.device}: cpu or gpu")

    def take_device(self) -> None:
        """Makes JAX use the device; must be called before anything else of JAX."""
        if self.device is not None:
            platform = {"gpu": "cuda"}.get(self.device, "cpu")
            jax.config.update("jax_platforms", platform)


def main(
    module: str,
    build: Callable[[str, Any], measure.Case],
    cases: Collection[str],
    options: type[Options],
    arguments: list[str] | None = None,
    finish: Callable[[dict, Any], None] = lambda results, options: None,
) -> int:
    """Runs the command line of a benchmark.

    Args:
      module: The module that `python -m` runs.
      build: The function from a name and the settings to the case.
      cases: The names of the cases.
      options: The class of the settings, `Options` or the benchmark's own.
      arguments: The arguments of the command line; None for those of the process.
      finish: The function that is called with the results and the settings after all
        cases.

    Returns:
      The exit status: 0 if finished, 1 if a case failed, 2 for a wrong command line,
      130 if interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    results: dict = {}

    def command():
        about = sys.modules[build.__module__].__doc__
        chosen = commands.parse(options, arguments, program=module, about=about)
        for name in chosen.cases:
            errors.check_name("case", name, cases)
        chosen.check()
        if chosen.part:
            (name,) = chosen.cases
            work(build(name, chosen), chosen)
        elif chosen.list:
            print("\n".join(cases))
        else:
            results.update(run(module, chosen, chosen.cases or tuple(cases)))
            text = report.markdown if chosen.markdown else report.tables
            print(text(results))
            finish(results, chosen)

    status = commands.exit_status(command)
    failed = [case for case in results.get("cases", []) if case["error"]]
    for case in failed:
        print(f"{case['case']} failed: {case['error']}", file=sys.stderr)
    return 1 if failed and not status else status


def work(case: measure.Case, options: Options) -> None:
    """Does one part in this process and prints the result as a line of JSON."""
    part, _, contender = options.part.partition(":")
    with contextlib.redirect_stdout(sys.stderr):  # (Released code also prints.)
        if part == "memory":
            answer = {"memory_mib": measure.peak_memory(case.contenders[contender])}
        else:
            answer = _times_or_error(case, options.rounds)
    print(json.dumps(answer))


def _times_or_error(case: measure.Case, rounds: int) -> dict:
    try:
        found = measure.times(case, rounds)
    except measure.Mismatch as error:
        return {"error": str(error)}
    device = jax.local_devices()[0]
    about = {"device": f"{device.platform}: {device.device_kind}"}
    goals = [goal._asdict() for goal in case.goals]
    return {**found, **about, "goals": goals, "memory": case.memory, "error": None}


def run(module: str, options: Options, names: tuple[str, ...]) -> dict:
    """Measures cases, each in separate processes.

    Args:
      module: The module of the benchmark.
      options: The settings.
      names: The names of the cases.

    Returns:
      The entries of `head`, `rounds`, `cases` (see `verdicts.case_result`), and `left`:
      the names of the cases that are not measured yet.
    """
    results = {
        **head(module, options),
        "rounds": options.rounds,
        "cases": [],
        "left": list(names),
    }
    for i, name in enumerate(names):
        print(f"{i + 1}/{len(names)} {name}", file=sys.stderr, flush=True)
        ask = functools.partial(_ask, module, options, name)
        results["cases"].append({"case": name, **verdicts.case_result(ask)})
        results["left"].remove(name)
        if options.out is not None:
            files.write_json(options.out, results)
    return results


def head(module: str, options: Any) -> dict[str, Any]:
    """Returns the first entries of results: `command`, `date`, `machine`, `versions`.

    Args:
      module: The module that `python -m` runs.
      options: The settings, a dataclass.
    """
    return {
        "command": shlex.join(["python", *_arguments(module, _shown(options))]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine.hardware(),
        "versions": machine.versions(),
    }


def _shown(options: Any) -> Any:
    """Returns the settings with file names in place of paths."""
    paths = {
        field.name: pathlib.Path(getattr(options, field.name).name)
        for field in dataclasses.fields(options)
        if isinstance(getattr(options, field.name), pathlib.Path)
    }
    return dataclasses.replace(options, **paths)


def _arguments(module: str, options: Any) -> list[str]:
    """Returns Python's arguments to run a module with these settings."""
    changed = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if getattr(options, field.name) != field.default
    }
    # The positional arguments.
    names = next((v for v in changed.values() if isinstance(v, tuple)), ())
    named = {k: v for k, v in changed.items() if v is not names}
    flags = [f"--{k}" if v is True else f"--{k}={v}" for k, v in named.items()]
    return ["-m", module, *names, *flags]


def _ask(module: str, options: Options, name: str, part: str) -> dict:
    """Does a part of the work in a separate process and returns its result."""
    options = dataclasses.replace(options, cases=(name,), part=part)
    command = [sys.executable, *_arguments(module, options)]
    environment = {**ENVIRONMENT, **os.environ}
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            timeout=SECONDS_A_PROCESS,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"{part}: not finished after {SECONDS_A_PROCESS} seconds"}
    if done.returncode:
        return {"error": f"{part}: the process ended with status {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])
