"""Runs all benchmarks, one after another; writes one JSON file and one page.

Each benchmark is run by its own command. The limits of the machine are measured before
and after them (`benchmarks.limits`). The folder then has `index.html`,
`benchmarks.json`, and a JSON file for each benchmark.
"""

import dataclasses
import importlib.util
import json
import os
import pathlib
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import tyro

from benchmarks import limits, objectives, page, runner
from experiments import command as commands
from rdljax import errors, files

# The settings of each benchmark, in addition to the rounds.
TAKES = {
    "kernels": ("device",),
    "objectives": ("batch", "repdistiller"),
    "nets": ("batch", "repdistiller"),
    "steps": ("batch",),
    "devices": (),
    "drivers": ("device",),
    "limits": ("device",),
}
INTERRUPTED = 130
BENCHMARKS = ("kernels", "objectives", "nets", "steps", "devices", "drivers")


@dataclasses.dataclass(frozen=True)
class Options:
    """The settings of all benchmarks."""

    benchmarks: tyro.conf.Positional[tuple[str, ...]] = ()
    """The benchmarks to run; all by default."""
    rounds: int = 7
    """The number of samples of each contender."""
    batch: int | None = None
    """The number of examples; None for each case's own. Other numbers have no goals."""
    repdistiller: pathlib.Path | None = None
    """The folder of a checkout of RepDistiller, which is then measured, too."""
    device: str | None = None
    """The device of kernels, drivers and limits, "cpu" or "gpu"; None for JAX's default
    device."""
    out: pathlib.Path = pathlib.Path("results/benchmarks")
    """The folder for all results."""
    resume: bool = False
    """Skip benchmarks with complete results in the folder, measured on this machine
    with the same number of rounds."""

    def check(self) -> None:
        """Raises `UsageError` or `UnknownName` for settings that are not allowed."""
        for name in self.benchmarks:
            errors.check_name("benchmark", name, BENCHMARKS)
        chosen = self.benchmarks or BENCHMARKS
        for name in chosen:
            if importlib.util.find_spec(f"benchmarks.{name}") is None:
                raise commands.UsageError(f"there is no benchmarks/{name}.py")
        for setting in ("batch", "repdistiller", "device"):
            taken = any(setting in TAKES[name] for name in chosen)
            if getattr(self, setting) is not None and not taken:
                raise commands.UsageError(f"{' and '.join(chosen)} have no {setting}")
        runner.DeviceOptions(device=self.device).check()
        objectives.Options(
            rounds=self.rounds, batch=self.batch, repdistiller=self.repdistiller
        ).check()


def run(options: Options) -> int:
    """Runs the benchmarks and writes their results.

    Args:
      options: The checked settings.

    Returns:
      The exit status: 0 if finished, 1 if anything failed, 130 if interrupted.

    Raises:
      UsageError: If the folder cannot be created.
    """
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise commands.UsageError(f"no folder {options.out}: {error}") from error
    results = {**runner.head("benchmarks", options), "rounds": options.rounds}
    chosen = dict.fromkeys(options.benchmarks or BENCHMARKS)
    names = ("limits-before", *chosen, "limits-after")
    found: dict[str, dict] = {}
    for name in names:
        path = options.out / f"{name}.json"
        # The last limits are measured again if any benchmark is.
        late = name == "limits-after" and any(not x["kept"] for x in found.values())
        earlier = read(path)
        same = [earlier.get(key) == results[key] for key in ("rounds", "machine")]
        kept = options.resume and not late and earlier.get("left") == [] and all(same)
        print(f"{name}{': kept' if kept else ''}", file=sys.stderr, flush=True)
        status = 0 if kept else call(name, path, options)
        found[name] = {"status": status, "kept": kept, **read(path)}
        if status == INTERRUPTED:
            break
    results["problems"] = problems(found, names)
    results["limits"] = compared(found)
    results["benchmarks"] = found
    files.write_json(options.out / "benchmarks.json", results)
    files.write(options.out / "index.html", page.page(results))
    print(f"written: {options.out / 'index.html'}", file=sys.stderr)
    for problem in results["problems"]:
        print(problem, file=sys.stderr)
    return status if status == INTERRUPTED else int(bool(results["problems"]))


def call(name: str, path: pathlib.Path, options: Options) -> int:
    """Runs a benchmark by its command and returns the exit status.

    Args:
      name: The name of the benchmark, with a hyphen and a suffix if it is run twice.
      path: The path of its JSON file.
      options: The settings of this command.
    """
    path.unlink(missing_ok=True)
    name, _, _ = name.partition("-")
    given = {key: getattr(options, key) for key in ("rounds", *TAKES[name])}
    flags = [f"--{key}={x}" for key, x in given.items() if x is not None]
    command = [sys.executable, "-m", f"benchmarks.{name}", f"--out={path}", *flags]
    # (So that benchmarks without a device setting run on the CPU, too.)
    environment = {"JAX_PLATFORMS": "cpu"} if options.device == "cpu" else {}
    # In its own process group, so that an interrupt reaches it, and all processes that
    # it has started, only once.
    process = subprocess.Popen(command, process_group=0, env=os.environ | environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
        return INTERRUPTED


def read(path: pathlib.Path) -> dict[str, Any]:
    """Returns the results in a JSON file; empty `cases` if it cannot be read."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {"cases": []}


def problems(found: Mapping[str, dict], names: Sequence[str]) -> list[str]:
    """Returns a sentence for each failure and for each missing result.

    Args:
      found: The results of benchmarks, by name.
      names: The names of all requested benchmarks.
    """
    said = []
    for name, results in found.items():
        failed = [case for case in results["cases"] if case["error"]]
        said += [f"{name}: {case['case']} failed: {case['error']}" for case in failed]
        if results["status"] == INTERRUPTED:
            said.append(f"{name}: interrupted")
        elif results["status"] and not failed:
            said.append(f"{name}: ended with status {results['status']}")
        if results.get("left"):
            said.append(f"{name}: not measured: {', '.join(results['left'])}")
    missing = [name for name in names if name not in found]
    return [*said, f"not run: {', '.join(missing)}"] if missing else said


def compared(found: Mapping[str, dict]) -> dict[str, dict[str, float | None]]:
    """Returns each limit `before` and `after`, by name; None if not measured."""
    sides = {
        side: limits.best_speeds(found.get(f"limits-{side}", {"cases": []}))
        for side in ("before", "after")
    }
    names = dict.fromkeys(name for speeds in sides.values() for name in speeds)
    return {
        name: {side: speeds.get(name) for side, speeds in sides.items()}
        for name in names
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the status of `run`, or 2 for a wrong command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    status = 0

    def command():
        nonlocal status
        options = commands.parse(
            Options, arguments, program="benchmarks", about=__doc__
        )
        options.check()
        status = run(options)

    return commands.exit_status(command) or status


if __name__ == "__main__":
    sys.exit(main())
