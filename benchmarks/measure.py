"""Measures contenders for the same work in turn.

A benchmark is a module with cases. A case has several contenders, the reference first.
All contenders are called in turn, A, B, C, A, B, C, ..., and the results are ratios to
the reference. A ratio is rejected as unstable if the ratio of the medians and the ratio
of the best samples disagree: then other work of the machine was measured. The numbers
of contenders that compute the same are compared. (`runner` runs each case in a separate
process.)
"""

import contextlib
import ctypes
import dataclasses
import functools
import gc
import math
import os
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import machine

# The largest relative difference between the ratio of medians and that of best samples.
DISAGREEMENT = 0.25
# The shortest time of a sample, for which the call is repeated, so that the resolution
# of the clock and a stall of a millisecond do not matter.
SECONDS_A_SAMPLE = 0.02


@dataclasses.dataclass(frozen=True)
class Contender:
    """One way to do the work of a case, compiled and with its inputs in place.

    Attributes:
      call: The function that does the work once, waits for it, and returns its outcome.
      read: The function from an outcome to arrays: first the value, then gradients and
        other compared numbers, in an order and layout common to all contenders.
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
    """The goal for a ratio to the reference.

    Attributes:
      name: The name, such as "P1".
      contender: The name of the contender.
      floor: The required number.
      target: The desired number. If it is below the floor, smaller is better.
      quantity: The quantity: "time" or "memory", as a ratio to the reference; or "MiB",
        the contender's memory itself; or the name of one of its facts.
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
    """Some work and the contenders for it.

    Attributes:
      contenders: The functions that make the contenders, by name, without arguments.
        The first is the reference. (In `benchmarks.objectives`, the function for the
        released code takes its modules, which `build` passes.)
      goals: The goals for the ratios.
      tolerance: The largest difference between contenders' numbers; None if they do
        different work.
      memory: Whether peak memory is measured, too.
      covers: The names of the functions that are measured.
    """

    contenders: Mapping[str, Callable[..., Contender]]
    goals: tuple[Goal, ...] = ()
    tolerance: Tolerance | None = Tolerance()
    memory: bool = True
    covers: tuple[str, ...] = ()


class Mismatch(ValueError):
    """An error for contenders for the same work that have different numbers."""


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
    """Returns a jitted step as a contender, whose state is passed from call to call.

    The state is donated.

    Args:
      step: The step, `step(state, *arguments) -> (state, outcome)`.
      state: The initial state, a pytree of arrays.
      *arguments: The other arguments, pytrees of arrays, the same in every call.
    """
    # Copied: donated NumPy memory would be shared with the next contender.
    state, arguments = jax.tree.map(jnp.array, (state, arguments))
    compiled = jax.jit(step, donate_argnums=0).lower(state, *arguments).compile()

    def call():
        nonlocal state
        state, outcome = jax.block_until_ready(compiled(state, *arguments))
        return outcome

    return Contender(call)


def eager(function, *arrays, read=None) -> Contender:
    """Returns a contender that calls a function of arrays outside jit."""
    call = functools.partial(function, *arrays)
    return Contender(
        lambda: jax.block_until_ready(call()), read or (lambda x: [np.asarray(x)])
    )


def jitted(function, *arrays) -> Contender:
    """Returns a contender that calls a jitted function of arrays."""
    return eager(jax.jit(function), *map(jnp.asarray, arrays))


# ---- times


def times(case: Case, rounds: int) -> dict:
    """Compares the numbers of the contenders, then measures their times in turn.

    Args:
      case: The case.
      rounds: The number of samples of each contender.

    Returns:
      By contender `differences`, `samples_ms` (the milliseconds per call in each
      sample), `repeats` (the number of calls in a sample) and `facts`. `others`: the
      fraction of the cores' time used by other processes, None if it is not known.

    Raises:
      Mismatch: If the numbers do not agree.
    """
    contenders = {name: make() for name, make in case.contenders.items()}
    differences = {}
    if case.tolerance is not None:
        # The first call of each, so that contenders with a state are at the same step.
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
                # Not timed: caches and thread pools switch to this contender. For a
                # long call this does not matter.
                contender.call()
            samples[name].append(1e3 * _seconds(contender.call, repeats[name]))
    available = machine.cores() * (time.perf_counter() - start)
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
    """Returns the seconds of the fastest of several calls, so that no stall counts."""
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
    """Returns the seconds of this process's cores used by other processes.

    It is None if the system does not report them.
    """
    try:
        lines = pathlib.Path("/proc/stat").read_text().splitlines()
        mine = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    except (OSError, AttributeError):
        return None  # Not Linux.
    ticks = 0
    for name, *fields in map(str.split, lines):
        if name in mine:
            # Without waiting (idle, iowait), and guests, which are included in user.
            user, nice, system, _, _, *interrupts = map(int, fields[:8])
            ticks += user + nice + system + sum(interrupts)
    return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


def compare(
    numbers: Mapping[str, list[np.ndarray]], tolerance: Tolerance
) -> dict[str, dict[str, float]]:
    """Returns the differences between the numbers of each contender and of the first.

    Args:
      numbers: The arrays of `Contender.read`, by contender.
      tolerance: The largest allowed differences.

    Returns:
      The differences of the `value` and of the `arrays`, by contender.

    Raises:
      Mismatch: If a difference is larger.
    """
    (reference, expected), *others = numbers.items()
    differences = {}
    for name, found in others:
        shapes = [[np.shape(x) for x in arrays] for arrays in (found, expected)]
        if shapes[0] != shapes[1]:
            raise Mismatch(
                f"{name} returns shapes {shapes[0]}, {reference} {shapes[1]}"
            )
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
    """Returns the ratio of a contender's times to those of the reference.

    Args:
      reference: The times of the reference's samples.
      other: The times of the other contender's samples.

    Returns:
      `medians` and `bests`, the ratios of the medians and of the best samples;
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
    """Returns the MiB of memory that the first call takes in addition to those before.

    It is meant for a new process, in which the inputs are made and the function is
    compiled, but has not run. On the CPU the peak is that of the process's resident
    memory. The result is None if the system does not report it (Linux does), or if an
    accelerator had its peak before the call.

    Args:
      make: The function that makes the contender.
    """
    call = make().call
    # (The memory of the first call of any program is not counted.)
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
        # (Heap memory freed by the compiler would hide the memory of the call.)
        ctypes.CDLL(None).malloc_trim(0)
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM := VmRSS
        before = _status("VmRSS")
        call()
        return (_status("VmHWM") - before) / 1024
    except (OSError, KeyError):
        return None


def _status(key: str) -> int:
    """Returns the entry of /proc/self/status with a key, in kiB."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    entries = dict(line.split(":", 1) for line in lines)
    return int(entries[key].split()[0])
