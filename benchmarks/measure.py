"""Contenders for the same work, measured side by side.

A benchmark is a module with cases. A case has several contenders, the reference first.
Its command (`main`) measures every case in a process of its own: all contenders are
called in turn, A, B, C, A, B, C, ..., and what counts are ratios over the reference. A
ratio is refused where that of the medians and that of the best samples disagree: then
something else than the contenders was measured. Peak memory is measured in a process
for each contender. Contenders that compute the same are held to the same numbers.
"""

import contextlib
import ctypes
import dataclasses
import datetime
import functools
import gc
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import rdljax
from experiments import command as commands
from rdljax import errors, files

# How far the ratio of the medians and that of the best samples may lie apart.
DISAGREEMENT = 0.25
# A sample repeats the call for so long, so that neither the clock nor a stall of a
# millisecond counts.
SECONDS_A_SAMPLE = 0.02
# A process that takes longer does not end.
SECONDS_A_PROCESS = 900
# What fewer MiB are is the allocator's affair, and no ratio is taken over it.
LEAST_MEMORY = 1.0
# JAX decomposes the matrices of a batch in parallel. Threads of OpenBLAS's own inside
# that wait for each other, for tens of seconds where another process has a core.
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
# What is measured of every contender; what else its entry has are facts about it.
MEASURED = (
    *("median_ms", "best_ms", "samples_ms", "repeats", "memory_mib"),
    *("ratio", "memory_ratio", "difference"),
)
PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch")


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to do the work of a case, compiled and with its inputs in place.

    Attributes:
      call: The function that does the work once, waits for it, and returns its outcome.
      read: The function from an outcome to arrays: first the value, then gradients and
        all else that is compared, in the order and layout that all contenders share.
      tune: The function that chooses the fastest settings of the contender. It is
        called before times are measured.
      facts: Further numbers about the contender by name, for the results and for
        goals.
    """

    call: Callable[[], Any]
    read: Callable[[Any], list[np.ndarray]] = jax.tree.leaves
    tune: Callable[[], None] = lambda: None
    facts: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Goal(NamedTuple):
    """The goal of a ratio over the reference.

    Attributes:
      name: The name, such as "P1".
      contender: The contender whose ratio it is.
      floor: The number that must be reached.
      target: The number that is hoped for. If it is below the floor, smaller is better.
      quantity: The quantity: "time" or "memory", as a ratio over the reference; or
        "MiB", the contender's memory itself; or the name of one of its facts.
    """

    name: str
    contender: str
    floor: float
    target: float
    quantity: str = "time"


class Tolerance(NamedTuple):
    """The largest difference between the numbers of a contender and of the reference.

    Attributes:
      value: The difference of the value, relative to the value.
      arrays: The difference of any entry of the other arrays, relative to the largest
        entry of its array.
    """

    value: float = 1e-4
    arrays: float = 1e-3


@dataclasses.dataclass(frozen=True)
class Case:
    """Some work and the contenders that do it.

    Attributes:
      contenders: The function that makes each contender, by name, without arguments.
        The first is the reference. (In `benchmarks.objectives`, that of the released
        code takes its modules until `build` gives them.)
      goals: The goals of the ratios.
      tolerance: The largest difference of their numbers; None if they do different
        work.
      memory: Whether peak memory is measured, too.
      covers: The names of the functions that are measured.
    """

    contenders: Mapping[str, Callable[..., Contender]]
    goals: tuple[Goal, ...] = ()
    tolerance: Tolerance | None = Tolerance()
    memory: bool = True
    covers: tuple[str, ...] = ()


class Mismatch(ValueError):
    """The error of two contenders for the same work that have different numbers."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The settings of every benchmark."""

    cases: tyro.conf.Positional[tuple[str, ...]] = ()
    """The cases to measure; all if none is named."""
    rounds: int = 7
    """The number of samples of each contender."""
    batch: int | None = None
    """The number of examples, instead of the cases' own; goals are then not judged."""
    out: pathlib.Path | None = None
    """The JSON file for all numbers, which is written again after each case."""
    list: bool = False
    """Print the names of the cases and stop."""
    markdown: bool = False
    """Print the result in the form of README.md."""
    part: str = ""
    """The part of the work that the command gives to a process of its own: `times`, or
    `memory:CONTENDER`."""

    def check(self) -> None:
        """Raises `UsageError` for settings that cannot be measured."""
        if self.rounds < 1 or (self.batch is not None and self.batch < 2):
            raise commands.UsageError("expected 1 round or more, a batch of 2 or more")
        if self.out is not None and not self.out.parent.is_dir():
            raise commands.UsageError(f"there is no folder {self.out.parent}")


@dataclasses.dataclass(frozen=True)
class DeviceOptions(Options):
    """The settings of benchmarks of any device whose cases have no batch."""

    device: str | None = None
    """The device, "cpu" or "gpu"; None for the one that JAX finds."""

    def check(self) -> None:
        """Raises `UsageError` for settings that cannot be measured."""
        super().check()
        if self.batch is not None:
            raise commands.UsageError("these cases have no batch")
        if self.device not in (None, "cpu", "gpu"):
            raise commands.UsageError(f"there is no device {self.device}: cpu or gpu")

    def take_device(self) -> None:
        """Makes JAX use that device; is called before anything else of JAX."""
        if self.device is not None:
            platform = {"gpu": "cuda"}.get(self.device, "cpu")
            jax.config.update("jax_platforms", platform)


# ---- contenders


def gradient(
    function: Callable[..., jax.Array], *arguments, trained: tuple[int, ...] = (0,)
) -> Contender:
    """Returns the jitted value and gradient of a function, as a contender.

    Args:
      function: The function, `function(*arguments) -> scalar`.
      *arguments: Its arguments, pytrees of arrays.
      trained: The numbers of the arguments of the gradient.
    """

    def step(state, *arguments):
        return state, jax.value_and_grad(function, trained)(*arguments)

    return stepping(step, (), *arguments)


def stepping(step: Callable[..., tuple[Any, Any]], state: Any, *arguments) -> Contender:
    """Returns a jitted step as a contender, whose state goes from call to call.

    The state is donated.

    Args:
      step: The step, `step(state, *arguments) -> (state, outcome)`.
      state: The state before the first call, a pytree of arrays.
      *arguments: The other arguments, pytrees of arrays, the same in every call.
    """
    # Copied: donated NumPy memory would be that of the next contender too.
    state, arguments = jax.tree.map(jnp.array, (state, arguments))
    compiled = jax.jit(step, donate_argnums=0).lower(state, *arguments).compile()

    def call():
        nonlocal state
        state, outcome = jax.block_until_ready(compiled(state, *arguments))
        return outcome

    return Contender(call)


# ---- times


def times(case: Case, rounds: int) -> dict:
    """Compares the numbers of the contenders, then measures their times in turn.

    Args:
      case: The case.
      rounds: The number of samples of each contender.

    Returns:
      By contender `differences`, `samples_ms` (the milliseconds of a call in each
      sample), `repeats` (the number of calls in a sample) and `facts`. `others`: the
      share of the cores' time that other processes took meanwhile, None if it is not
      known.

    Raises:
      Mismatch: If the numbers do not agree.
    """
    contenders = {name: make() for name, make in case.contenders.items()}
    differences = {}
    if case.tolerance is not None:
        # The first call of each, so that those that remember stand at the same step.
        numbers = {name: c.read(c.call()) for name, c in contenders.items()}
        differences = compare(numbers, case.tolerance)
    gc.collect()
    gc.disable()
    for contender in contenders.values():
        contender.tune()
    repeats = {name: _repeats(c.call) for name, c in contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    busy = _seconds_of_others()
    start = time.perf_counter()
    for _ in range(rounds):
        for name, contender in contenders.items():
            if repeats[name] > 1:
                # Not timed: caches and thread pools change hands. A call that takes
                # long by itself does not notice.
                contender.call()
            samples[name].append(1e3 * _seconds(contender.call, repeats[name]))
    available = cores() * (time.perf_counter() - start)
    others = (_seconds_of_others() or 0.0) - (busy or 0.0)
    gc.enable()
    return {
        "differences": differences,
        "samples_ms": samples,
        "repeats": repeats,
        "facts": {name: dict(c.facts) for name, c in contenders.items()},
        "others": None if busy is None else max(0.0, others / available),
    }


def _repeats(call: Callable[[], Any]) -> int:
    return math.ceil(SECONDS_A_SAMPLE / quickest(call))


def quickest(call: Callable[[], Any]) -> float:
    """Returns the seconds of the quickest of some calls, so that no stall counts."""
    taken = [_seconds(call, 1), _seconds(call, 1)]
    while len(taken) < 5 and sum(taken) < 10 * SECONDS_A_SAMPLE:
        taken.append(_seconds(call, 1))
    return min(taken)


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def _seconds_of_others() -> float | None:
    """Returns the seconds of this process's cores that other processes took.

    (None if the system does not say.)
    """
    try:
        lines = pathlib.Path("/proc/stat").read_text().splitlines()
        mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    except (OSError, AttributeError):
        return None  # Not Linux.
    ticks = 0
    for name, *fields in map(str.split, lines):
        if name in mine:
            # Without waiting (idle, iowait), and guests, who are in user already.
            user, nice, system, _, _, *interrupts = map(int, fields[:8])
            ticks += user + nice + system + sum(interrupts)
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def compare(
    numbers: Mapping[str, list[np.ndarray]], tolerance: Tolerance
) -> dict[str, dict[str, float]]:
    """Returns the differences between the numbers of each contender and of the first.

    Args:
      numbers: The arrays of `Contender.read`, by contender.
      tolerance: The largest differences that are allowed.

    Returns:
      The differences of the `value` and of the `arrays`, by contender.

    Raises:
      Mismatch: If one is larger.
    """
    (reference, expected), *others = numbers.items()
    differences = {}
    for name, found in others:
        shapes = [[np.shape(x) for x in arrays] for arrays in (found, expected)]
        if shapes[0] != shapes[1]:
            raise Mismatch(f"{name} answers {shapes[0]}, {reference} {shapes[1]}")
        off = [_difference(x, y) for x, y in zip(found, expected, strict=True)]
        worst = Tolerance(off[0], max(off[1:], default=0.0))
        for part, by, allowed in zip(worst._fields, worst, tolerance, strict=True):
            if not by <= allowed:
                raise Mismatch(
                    f"{name} and {reference} differ in the {part} by {by:.2g} of the "
                    f"largest entry, more than {allowed:g}"
                )
        differences[name] = worst._asdict()
    return differences


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    return float(np.max(np.abs(found - expected)) / (np.max(np.abs(expected)) or 1))


def ratio(reference: list[float], other: list[float]) -> dict[str, Any]:
    """Returns the ratio of the times of a contender over those of the reference.

    Args:
      reference: The times of the reference's samples.
      other: The times of the other contender's samples.

    Returns:
      `medians` and `bests`, the ratio of the medians and that of the best samples;
      `stable`, whether the two agree.
    """
    medians = statistics.median(other) / statistics.median(reference)
    bests = min(other) / min(reference)
    low, high = sorted((medians, bests))
    return {
        "medians": medians,
        "bests": bests,
        "stable": high <= (1 + DISAGREEMENT) * low,
    }


# ---- memory


def peak_memory(make: Callable[[], Contender]) -> float | None:
    """Returns the MiB of memory that the first call takes beyond those before it.

    It is meant for a new process, in which the inputs are made and the function is
    compiled, but has not run. On the CPU the peak is that of the process's resident
    memory. The result is None if the system does not say (Linux does), or if an
    accelerator had its peak before the call.

    Args:
      make: The function that makes the contender.
    """
    call = make().call
    # What a first call of anything at all takes.
    jax.block_until_ready(jax.jit(jnp.matmul)(jnp.ones((64, 64)), jnp.ones((64, 64))))
    gc.collect()
    if jax.default_backend() == "cpu":
        return _resident_peak(call)
    device = jax.local_devices()[0]
    before = device.memory_stats()
    call()
    after = device.memory_stats()
    if not after or after["peak_bytes_in_use"] <= before["peak_bytes_in_use"]:
        return None
    return (after["peak_bytes_in_use"] - before["bytes_in_use"]) / 2**20


def _resident_peak(call: Callable[[], Any]) -> float | None:
    with contextlib.suppress(OSError, AttributeError):  # Not glibc.
        # What compiling has left free in the heap would hide the call's own use of it.
        ctypes.CDLL(None).malloc_trim(0)
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM := VmRSS
        before = _status("VmRSS")
        call()
        return (_status("VmHWM") - before) / 1024
    except (OSError, KeyError):
        return None


def _status(key: str) -> int:
    """Returns the entry of /proc/self/status with that key, in kiB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    entries = dict(line.split(":", 1) for line in lines)
    return int(entries[key].split()[0])


# ---- the command


def main(
    module: str,
    build: Callable[[str, Any], Case],
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
      finish: The function that is called with the results and the settings when all
        cases are done.

    Returns:
      The exit status: 0 done, 1 a case failed, 2 a wrong call, 130 interrupted.
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
            print(markdown(results) if chosen.markdown else tables(results))
            finish(results, chosen)

    status = commands.exit_status(command)
    failed = [case for case in results.get("cases", []) if case["error"]]
    for case in failed:
        print(f"{case['case']} failed: {case['error']}", file=sys.stderr)
    return 1 if failed and not status else status


def work(case: Case, options: Options) -> None:
    """Does one part in this process and prints the result as a line of JSON."""
    part, _, contender = options.part.partition(":")
    with contextlib.redirect_stdout(sys.stderr):  # Released code prints, too.
        if part == "memory":
            answer = {"memory_mib": peak_memory(case.contenders[contender])}
        else:
            answer = _times_or_error(case, options.rounds)
    print(json.dumps(answer))


def _times_or_error(case: Case, rounds: int) -> dict:
    try:
        found = times(case, rounds)
    except Mismatch as error:
        return {"error": str(error)}
    device = jax.local_devices()[0]
    about = {"device": f"{device.platform}: {device.device_kind}"}
    goals = [goal._asdict() for goal in case.goals]
    return {**found, **about, "goals": goals, "memory": case.memory, "error": None}


def run(module: str, options: Options, names: tuple[str, ...]) -> dict:
    """Measures cases, each in processes of its own.

    Args:
      module: The module of the benchmark.
      options: The settings.
      names: The names of the cases.

    Returns:
      The entries of `head`, `rounds`, `cases` (see `measured`), and `left`: the names
      of the cases that are still to be measured.
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
        results["cases"].append({"case": name, **measured(ask)})
        results["left"].remove(name)
        if options.out is not None:
            files.write_json(options.out, results)
    return results


def head(module: str, options: Any) -> dict[str, Any]:
    """Returns the head of all results: `command`, `date`, `machine` and `versions`.

    Args:
      module: The module that `python -m` runs.
      options: The settings, a dataclass.
    """
    return {
        "command": shlex.join(["python", *_arguments(module, _shown(options))]),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
    }


def _shown(options: Any) -> Any:
    """Returns the settings with file names in the place of this machine's paths."""
    paths = {
        field.name: pathlib.Path(getattr(options, field.name).name)
        for field in dataclasses.fields(options)
        if isinstance(getattr(options, field.name), pathlib.Path)
    }
    return dataclasses.replace(options, **paths)


def _arguments(module: str, options: Any) -> list[str]:
    """Returns the arguments with which Python runs a module with these settings."""
    changed = {
        field.name: getattr(options, field.name)
        for field in dataclasses.fields(options)
        if getattr(options, field.name) != field.default
    }
    # The names that stand by themselves.
    names = next((v for v in changed.values() if isinstance(v, tuple)), ())
    named = {k: v for k, v in changed.items() if v is not names}
    flags = [f"--{k}" if v is True else f"--{k}={v}" for k, v in named.items()]
    return ["-m", module, *names, *flags]


def _ask(module: str, options: Options, name: str, part: str) -> dict:
    """Returns the result of a part of the work, done by a process of its own."""
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
        return {"error": f"{part}: no end after {SECONDS_A_PROCESS} seconds"}
    if done.returncode:
        return {"error": f"{part}: the process ended with status {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def measured(ask: Callable[[str], dict]) -> dict:
    """Returns the result of a case.

    Args:
      ask: The function from "times" or "memory:CONTENDER" to the result of that part,
        from a new process.

    Returns:
      `contenders`: by name `median_ms`, `best_ms`, `samples_ms`, `repeats`,
      `memory_mib` and its facts; of all but the first `ratio` (see `ratio`),
      `memory_ratio` and `difference` (see `compare`). `goals`, each with the number
      that was `measured` and its `verdict`. `device`, `others` (see `times`), and
      `error` (or None). `refused`: the samples of the other attempt, if a ratio was not
      stable and there are two attempts.
    """
    attempts: list[dict[str, Any]] = []
    while len(attempts) < 2:
        found = ask("times")
        if found.get("error"):
            return {"contenders": {}, "goals": [], **found}
        attempts.append(found | {"ratios": _ratios(found["samples_ms"])})
        if not _unstable(attempts[-1]):
            break
    # The last one, unless the first was the steadier.
    shown = min(reversed(attempts), key=_unstable)
    refused = [a["samples_ms"] for a in attempts if a is not shown]
    samples, repeats = shown["samples_ms"], shown["repeats"]
    contenders = {
        name: {
            "median_ms": statistics.median(times),
            "best_ms": min(times),
            "samples_ms": times,
            "repeats": repeats[name],
            "memory_mib": None,
            **shown.get("facts", {}).get(name, {}),
        }
        for name, times in samples.items()
    }
    for name, found in shown["ratios"].items():
        contenders[name] |= {"ratio": found, "memory_ratio": None}
        contenders[name]["difference"] = shown["differences"].get(name)
    error = _add_memory(contenders, ask) if shown["memory"] else None
    return {
        "contenders": contenders,
        "goals": [_judged(Goal(**goal), contenders) for goal in shown["goals"]],
        "device": shown["device"],
        "others": shown["others"],
        "refused": refused,
        "error": error,
    }


def _ratios(samples: Mapping[str, list[float]]) -> dict[str, dict]:
    (_, reference), *others = samples.items()
    return {name: ratio(reference, other) for name, other in others}


def _unstable(attempt: dict) -> int:
    return sum(not found["stable"] for found in attempt["ratios"].values())


def _add_memory(contenders: dict[str, dict], ask: Callable[[str], dict]) -> str | None:
    """Adds memory and its ratios to contenders; returns the error, or None."""
    reference, *others = contenders.values()
    for name, entry in contenders.items():
        answer = ask(f"memory:{name}")
        if answer.get("error"):
            return answer["error"]
        entry["memory_mib"] = answer["memory_mib"]
    for entry in others:
        entry["memory_ratio"] = _memory_ratio(reference, entry)
    return None


def _memory_ratio(reference: dict, other: dict) -> float | None:
    own, theirs = reference["memory_mib"], other["memory_mib"]
    if own is None or theirs is None or own < LEAST_MEMORY:
        return None
    return theirs / own


def _judged(goal: Goal, contenders: Mapping[str, dict]) -> dict:
    entry = contenders.get(goal.contender)
    if entry is None:
        found, verdict = None, f"no {goal.contender}"
    elif goal.quantity == "MiB":
        found = entry["memory_mib"]
        verdict = judge(goal, found)
    elif goal.quantity == "memory":
        found = entry["memory_ratio"]
        verdict = judge(goal, found)
    elif goal.quantity in entry:
        found = entry[goal.quantity]
        verdict = judge(goal, found)
    else:
        found = entry["ratio"]["medians"] if entry["ratio"]["stable"] else None
        verdict = judge(goal, found) if found is not None else "unstable"
    return {**goal._asdict(), "measured": found, "verdict": verdict}


def judge(goal: Goal, found: float | None) -> str:
    """Returns the verdict on a goal: "target met", "floor met" or "missed".

    (Or "not measured", where there is no number.)
    """
    if found is None:
        return "not measured"
    sign = 1 if goal.target >= goal.floor else -1
    if sign * found >= sign * goal.target:
        return "target met"
    return "floor met" if sign * found >= sign * goal.floor else "missed"


def machine() -> dict[str, Any]:
    """Returns the machine: `cpu`, the number of `cores`, and `memory_gib`."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):  # Not Linux.
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        names = [x.split(":", 1)[1] for x in lines if x.startswith("model name")]
        model = names[0].strip() if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": model, "cores": cores(), "memory_gib": round(memory / 2**30, 1)}


def cores() -> int:
    """Returns the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def versions() -> dict[str, str | None]:
    """Returns the versions of the packages that matter; None if not installed."""
    found: dict[str, str | None] = {
        "python": platform.python_version(),
        "rdljax": rdljax.__version__,
    }
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


# ---- the report


def markdown(results: dict) -> str:
    """Returns the results in the form of README.md: command, machine and tables.

    Args:
      results: The results of `run`.
    """
    return "\n\n".join([f"    {results['command']}", about(results), tables(results)])


def about(results: dict) -> str:
    """Returns the date, the machine, the versions and the rounds, in words."""
    devices = {case["device"] for case in results["cases"] if case["contenders"]}
    about, found = results["machine"], results["versions"]
    packages = ", ".join(f"{k} {v}" for k, v in found.items() if v is not None)
    return (
        f"{results['date'][:10]}, {about['cpu']}, {about['cores']} cores, "
        f"{about['memory_gib']} GiB, device {', '.join(sorted(devices))}; {packages}; "
        f"rounds: {results['rounds']}.{_disturbed(results['cases'])}"
    )


def _disturbed(cases: list[dict]) -> str:
    shares = [case["others"] for case in cases if case.get("others") is not None]
    if not shares:
        return ""
    low, high = (f"{100 * share:.0f}" for share in (min(shares), max(shares)))
    return f" Other processes took {low} to {high} % of the cores' time."


def tables(results: dict) -> str:
    """Returns the tables of times and of memory, in Markdown with aligned columns."""
    return "\n\n".join(aligned(rows) for rows in tabulated(results["cases"]))


def tabulated(cases: list[dict]) -> list[list[list[str]]]:
    """Returns the rows of the table of times and, if measured, of that of memory."""
    cases = [case for case in cases if case["contenders"]]
    entries = [entry for case in cases for entry in case["contenders"].values()]
    parts = [_rows(cases, "time")]
    if any(entry["memory_mib"] is not None for entry in entries):
        parts.append(_rows(cases, "memory"))
    return parts


def _rows(cases: list[dict], quantity: str) -> list[list[str]]:
    """Returns rows of cases, with a column for each contender.

    A cell has the time or memory of the contender, and its ratio in brackets.
    """
    names = list(dict.fromkeys(name for case in cases for name in case["contenders"]))
    unit = {"time": "ms", "memory": "MiB"}[quantity]
    rows = [[f"{quantity}, {unit}", *names, "goals"]]
    for case in cases:
        cells = [_cell(case["contenders"].get(name), quantity) for name in names]
        shown = (quantity, "MiB") if quantity == "memory" else (quantity,)
        goals = [_goal(goal) for goal in case["goals"] if goal["quantity"] in shown]
        rows.append([case["case"], *cells, "; ".join(goals)])
    return rows


def aligned(rows: list[list[str]]) -> str:
    """Returns a Markdown table with aligned columns, whose head is the first row."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    head, *body = rows
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in (head, ["-" * width for width in widths], *body)
    )


def _cell(entry: dict | None, quantity: str) -> str:
    if entry is None:
        return ""
    if quantity == "memory":
        amount, found = entry["memory_mib"], entry.get("memory_ratio")
        amount = "–" if amount is None else f"{amount:.1f}"
        return amount if found is None else f"{amount} ({_fold(found)})"
    amount = f"{entry['median_ms']:.3g}"
    if "ratio" not in entry:
        return amount
    stable, found = entry["ratio"]["stable"], entry["ratio"]["medians"]
    return f"{amount} ({_fold(found) if stable else 'unstable'})"


def _goal(goal: dict) -> str:
    bounds = f"{_fold(goal['floor'])}, {_fold(goal['target'])}"
    if goal["quantity"] == "MiB":
        bounds = f"{goal['floor']} MiB, {goal['target']} MiB"
    return f"{goal['name']} {goal['contender']} {goal['verdict']} ({bounds})"


def _fold(found: float) -> str:
    return f"{found:.0f}x" if found >= 100 else f"{found:.3g}x"
