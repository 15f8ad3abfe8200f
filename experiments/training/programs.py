"""Compiles steps, chooses their drivers, and checks that they fit into memory.

A step's programs are compiled before they run, with a message about the time of
compilation and the memory that they will take, so that a net that does not fit is
reported early and clearly.
"""

import contextlib
import math
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

from experiments import display
from rdljax import training

# The number of steps of a call with driver "chunk".
CHUNK = 10
# The fraction of the free memory that seeds of one program may take: an allocator loses
# some memory, and each seed is evaluated at the end of an epoch.
SHARE = 0.9


class OutOfMemory(Exception):
    """An exception for a step that does not fit into memory, with advice."""


class Driver(NamedTuple):
    """The way in which the steps of an epoch reach the device.

    Attributes:
      chunk: The number of steps of a call.
      unrolled: Whether the steps are unrolled, instead of a loop on the device.
    """

    chunk: int
    unrolled: bool


def on_accelerator() -> bool:
    """Returns whether programs run on an accelerator."""
    return jax.default_backend() != "cpu"


def driver(name: str, steps_an_epoch: int, *, stream: bool = False) -> Driver:
    """Returns the driver with a name.

    Args:
      name: The name: "step", "chunk", "epoch", or "auto" for the driver that suits the
        device. (XLA:CPU is 10 to 40 times slower at the gradients of convolutions in a
        loop, and compiling chunks costs more than calling steps.)
      steps_an_epoch: The number of steps of an epoch.
      stream: Whether the images are part of a call, so that an epoch is too large.
    """
    few = min(CHUNK, steps_an_epoch)
    if name == "auto" and on_accelerator():
        return Driver(few if stream else steps_an_epoch, unrolled=False)
    chunks = {"auto": 1, "step": 1, "chunk": few, "epoch": steps_an_epoch}
    return Driver(chunks[name], unrolled=name != "epoch")


def trainings(asked: int | None, seeds: int) -> int:
    """Returns the number of seeds to train in one program, if they fit.

    Args:
      asked: The largest number; None for all on an accelerator, and one elsewhere.
      seeds: The number of seeds.
    """
    if asked is None:
        return seeds if on_accelerator() else 1
    return min(asked, seeds)


def keep_compiled(folder: str | None) -> None:
    """Makes jax keep compiled programs in a folder, for the next run.

    Args:
      folder: The folder. None for the user's cache on an accelerator, where compilation
        takes minutes, and for no folder on a CPU; "" for no folder. If jax already has
        a folder (`JAX_COMPILATION_CACHE_DIR`), None keeps that folder.
    """
    if folder is None:
        # (jax makes its settings' attributes at run time.)
        known = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
        if not on_accelerator() or known:
            return
        cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        folder = os.path.join(cache, "rdljax")
    folder = os.path.expanduser(folder) or None
    jax.config.update("jax_compilation_cache_dir", folder)


def free() -> float | None:
    """Returns the number of free bytes of a device; None if it is not known.

    Emulated devices of a CPU have equal shares of the machine's free memory.
    """
    if on_accelerator():
        stats = jax.local_devices()[0].memory_stats() or {}
        if "bytes_limit" not in stats:
            return None
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    with contextlib.suppress(OSError, StopIteration):  # Not Linux.
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        return 1024 * int(line.split()[1]) / jax.local_device_count()
    return None


class Programs:
    """The programs of a step, each compiled when it is first needed.

    They are called like the step: `programs(state, arrays, batches) -> (state,
    metrics)`, with batches whose leaves are `[devices, steps, (trainings,) ...]`.
    """

    def __init__(
        self,
        name: str,
        step: training.Step,
        *,
        unrolled: bool,
        tell: Callable[[str], Any],
    ):
        """Stores the step; nothing is compiled yet.

        Args:
          name: The name of the trained net, for messages.
          step: The step, from `training.make_step`.
          unrolled: Whether steps are unrolled, as for `training.scan_steps`. (Several
            trainings are unrolled on a CPU, and vectorised elsewhere.)
          tell: The function that is called with messages.
        """
        self.name, self._step = name, step
        self._unrolled, self._tell = unrolled, tell
        self._compiled: dict[Any, training.Program] = {}
        self._called: tuple[training.Program, int] | None = None

    def __call__(
        self,
        state: training.TrainState,
        arrays: training.Arrays,
        batches: training.Batch,
    ) -> tuple[training.TrainState, dict[str, jax.Array]]:
        program = self.program(state, arrays, batches)
        self._called = program, _trainings(state)
        return program.step(state, arrays, batches)

    def fits_in_memory(
        self,
        state: training.TrainState,
        arrays: training.Arrays,
        batches: training.Batch,
        share: float = 1.0,
    ) -> bool:
        """Returns whether a step fits into the free memory.

        Args:
          state: The state, or its shapes (`jax.eval_shape`).
          arrays: The arrays that the step reads, which are on the devices already.
          batches: The batches of the step, or their shapes.
          share: The fraction of the free memory that the step may take.
        """
        try:
            program = self.program(state, arrays, batches)
        except jax.errors.JaxRuntimeError as error:
            if is_exhausted(error):
                return False
            raise
        there = free()
        return there is None or _needed(program, state) <= share * there

    def check(
        self,
        state: training.TrainState,
        arrays: training.Arrays,
        batches: training.Batch,
    ) -> None:
        """Raises `OutOfMemory` if a step does not fit into the memory."""
        if not self.fits_in_memory(state, arrays, batches):
            program = self.program(state, arrays, batches)
            raise OutOfMemory(
                f"{self.name} takes {_amount(program.memory)} on each device; "
                f"{_amount(_needed(program, state))} of this are not allocated yet, "
                f"and {_amount(free() or 0)} are free; {_advice(_trainings(state))}"
            )

    def program(
        self,
        state: training.TrainState,
        arrays: training.Arrays,
        batches: training.Batch,
    ) -> training.Program:
        """Returns the program for these shapes."""
        key = tuple(x.shape for x in jax.tree.leaves((state.replicated.key, batches)))
        if key not in self._compiled:
            step, seeds = self._step, _trainings(state)
            if state.replicated.key.ndim:
                step = training.vmap_trainings(step, unrolled=not on_accelerator())
            steps = training.scan_steps(step, unrolled=self._unrolled)
            program = training.compile_step(steps, state, arrays, batches)
            self._compiled[key] = program
            count = jax.tree.leaves(batches)[0].shape[1]
            of_seeds = f" of {display.count_of(seeds, 'seed')}" if seeds > 1 else ""
            self._tell(
                f"{self.name}: {display.count_of(count, 'step')}"
                f"{of_seeds} compiled in "
                f"{program.seconds:.1f} s; {_amount(program.memory)} on each device"
            )
        return self._compiled[key]

    @contextlib.contextmanager
    def advised(self) -> Iterator[None]:
        """Replaces XLA's error of exhausted memory by one with estimate and advice.

        Raises:
          OutOfMemory: If there was not enough memory.
        """
        try:
            yield
        except jax.errors.JaxRuntimeError as error:
            if self._called is None or not is_exhausted(error):
                raise
            program, seeds = self._called
            raise OutOfMemory(
                f"there is not enough memory for {self.name}, which takes "
                f"{_amount(program.memory)} on each device; {_advice(seeds)}"
            ) from error


def is_exhausted(error: Exception) -> bool:
    """Returns whether an error is XLA's error of exhausted memory."""
    return "RESOURCE_EXHAUSTED" in str(error)


def _advice(seeds: int) -> str:
    fewer = "--seeds_per_program=1 or " if seeds > 1 else ""
    return (
        f"with --resume, {fewer}--stream (the images stay in the host's memory) takes "
        "less; in another folder (--out; --teacher_from=RESULTS/teacher/weights uses "
        "the same teacher), --micro_batches=2, a smaller --batch, --dtype=bfloat16, or "
        "--remember_teacher=False"
    )


def _trainings(state: training.TrainState) -> int:
    return state.replicated.key.shape[0] if state.replicated.key.ndim else 1


def _needed(program: training.Program, state: training.TrainState) -> int:
    """Returns the bytes of the state and of a call without arguments, per device."""

    def size(tree):
        leaves = jax.tree.leaves(tree)
        return sum(math.prod(x.shape) * x.dtype.itemsize for x in leaves)

    rows = size(state.per_device) // jax.local_device_count()
    return program.memory - program.arguments + size(state.replicated) + rows


def _amount(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
