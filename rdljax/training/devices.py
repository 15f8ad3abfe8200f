"""Maps steps over devices and processes, with their data (`docs/devices.md`)."""

import functools
import hashlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from rdljax import _checks
from rdljax.training import _rows, many
from rdljax.training.state import Arrays, Batch, TrainState
from rdljax.training.step import Step

PyTree = Any

AXIS = "devices"


def pmap(step: Step, devices: Sequence[jax.Device] | None = None) -> Step:
    """Maps a step over devices.

    The replicated state stays replicated, without a leading axis. The input state is
    donated: its buffers are reused, so do not read it afterwards.

    Args:
      step: A step from `make_step`, `scan_steps`, `vmap_trainings` or
        `make_finite_check`.
      devices: Devices to map over. None: all local devices.

    Returns:
      `step(state, arrays, batch) -> (state, metrics)`, for a batch from `shard` and
      arrays from `replicate`.
    """
    return _place_state(_map_step(step, devices), devices)


class Program(NamedTuple):
    """A compiled step.

    Attributes:
      step: The mapped step, as from `pmap`, only for the given shapes.
      seconds: Compile time in seconds.
      memory: Memory of a call on each device in bytes, including arguments, as reported
        by XLA; other arrays on the device are not included.
      arguments: Size of the arguments in bytes: the part of state, arrays and batch
        that the step reads.
      operations: Number of floating-point operations of a call on each device, as
        counted by XLA (the body of a loop counts once); None if XLA gives no count.
      compiled: The executable, with its text and its costs.
    """

    step: Step
    seconds: float
    memory: int
    arguments: int
    operations: float | None
    compiled: Any = None


def compile_step(
    step: Step,
    state: TrainState,
    arrays: Arrays,
    batch: Batch,
    devices: Sequence[jax.Device] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Program:
    """Maps a step like `pmap` and compiles it before its first call.

    Args:
      step: As for `pmap`.
      state: A state, or its shapes (`jax.eval_shape`).
      arrays: The constant inputs of the step, or their shapes.
      batch: A batch from `shard`, or its shapes.
      devices: As for `pmap`. To compile only, they may be devices of a topology that is
        not present (`jax.experimental.topologies`).
      options: Options of XLA's compiler.
    """
    begin = time.perf_counter()
    lowered = _map_step(step, devices).lower(state, arrays, batch)
    program = lowered.compile(options)
    seconds = time.perf_counter() - begin
    taken = program.memory_analysis()
    memory = (
        taken.argument_size_in_bytes
        + taken.output_size_in_bytes
        - taken.alias_size_in_bytes  # Donated buffers are both argument and output.
        + taken.temp_size_in_bytes
        + taken.generated_code_size_in_bytes
    )
    costs = program.cost_analysis() or {}
    return Program(
        _place_state(program, devices),
        seconds,
        memory,
        taken.argument_size_in_bytes,
        costs.get("flops"),
        program,
    )


def _map_step(step: Step, devices: Sequence[jax.Device] | None) -> Any:
    axes: tuple[Any, Any] = (None, 0)
    state = TrainState(*axes)
    return jax.pmap(
        functools.partial(step, axis_name=AXIS),
        axis_name=AXIS,
        in_axes=(state, None, 0),
        out_axes=(state, None),
        donate_argnums=0,
        devices=devices,
    )


def _place_state(mapped: Step, devices: Sequence[jax.Device] | None) -> Step:
    """Wraps a mapped step to take a state from other devices."""
    everywhere = _sharding(devices)
    where = (everywhere, _sharding(devices, AXIS))

    def run(state, arrays, batch):
        # For a state with another sharding (made or restored on one device) the step
        # would be compiled again.
        if state.replicated.step.sharding != everywhere:
            check_alike("state", state)
            state = state._replace(per_device=local_batch(state.per_device))
            state = TrainState(*map(jax.device_put, state, where))
        return mapped(state, arrays, batch)

    return run


def shard(
    batch: Mapping[str, Any], devices: int | None = None, *, axis: int = 0
) -> Batch:
    """Divides a batch `[batch, ...]` over devices: `[devices, batch / devices, ...]`.

    Args:
      batch: This process's part of the batch (`local_batch`); with one process, the
        whole batch.
      devices: Number of devices of this process. None: all of them.
      axis: Axis of the examples. Axes before it, of steps (`scan_steps`) and of
        trainings (`vmap_trainings`), come after that of the devices.

    Raises:
      ValueError: The batch is empty or not divisible by the number of devices.
    """
    count = jax.local_device_count() if devices is None else devices
    count = _checks.as_count("number of devices", count)
    return jax.tree.map(lambda x: _rows.split(x, count, "devices", axis), batch)


def local_batch(batch: Mapping[str, Any], *, axis: int = 0) -> Batch:
    """Returns this process's rows of a batch `[batch, ...]` that all processes hold.

    It is not needed if each process reads only its own part of the data.

    Args:
      batch: The whole batch, the same in all processes.
      axis: Axis of the examples, as for `shard`.

    Raises:
      ValueError: The batch is empty or not divisible by the number of processes.
    """
    count, me = jax.process_count(), jax.process_index()
    if count == 1:
        return batch
    return jax.tree.map(lambda x: _rows.split(x, count, "processes", axis)[me], batch)


class ProcessesDiffer(ValueError):
    """Raised if the processes of a training hold values that differ but must not."""


def check_alike(what: str, tree: PyTree) -> None:
    """Checks that all processes hold the same values.

    Every process must call it, and it raises the error in each. With one process it
    does nothing. A mapped step checks its first state, and `gather_state` the state to
    be saved.

    Args:
      what: Name of the values in the message, such as "settings".
      tree: Pytree of arrays, numbers and strings.

    Raises:
      ProcessesDiffer: Values differ; the message has the processes and the first entry
        that differs.
    """
    if jax.process_count() == 1:
        return
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: x is None)
    names = [jax.tree_util.keystr(x, simple=True, separator="/") for x, _ in found]
    hashes = [_sha256(x) for _, x in found]
    # First the names, since processes with different entries may have more of them.
    _check_hashes(what, ["the names of its entries"], [_sha256("\n".join(names))])
    _check_hashes(what, names, hashes)


def _check_hashes(what: str, names: Sequence[str], hashes: Sequence[bytes]) -> None:
    # Padded to a few shapes, since each shape compiles a program.
    own = np.zeros((-(-len(hashes) // 64) * 64, 32), np.uint8)
    own[: len(hashes)] = [list(x) for x in hashes]
    differs = multihost_utils.process_allgather(own)
    differs = (differs != differs[0]).any(axis=2)  # [processes, entries]
    if differs.any():
        processes = ", ".join(map(str, np.flatnonzero(differs.any(axis=1))))
        first = names[np.flatnonzero(differs.any(axis=0))[0]]
        raise ProcessesDiffer(
            f"the {what} of process {processes} differs from that of process 0: {first}"
        )


def _sha256(x: Any) -> bytes:
    if not hasattr(x, "dtype"):
        return hashlib.sha256(repr(x).encode()).digest()
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    x = np.asarray(x)
    content = np.ascontiguousarray(np.atleast_1d(x)).view(np.uint8)
    kind = f"{x.dtype} {x.shape}".encode()
    return hashlib.sha256(kind + content.tobytes()).digest()


def gather_state(state: TrainState) -> TrainState:
    """Gathers the rows of the devices of all processes, for saving a state.

    With one process it returns the state itself; with several, each must call it.

    Raises:
      ProcessesDiffer: The replicated state differs between processes.
    """
    check_alike("state", state.replicated)

    def one(x):
        parted = jax.process_count() > 1 and x.shape[0] < jax.device_count()
        if not parted:  # Each process holds all rows before the first step.
            return x
        return multihost_utils.process_allgather(x, tiled=True)

    return state._replace(per_device=jax.tree.map(one, state.per_device))


def reshard_like(state: TrainState, like: TrainState) -> TrainState:
    """Divides a state over another number of devices.

    Args:
      state: A restored state, or a state from `gather_state`.
      like: A state from `init` for the new number of devices, or its shapes.

    Raises:
      ValueError: The state is that of several trainings.
    """
    many.check_one_training(state)

    def one(x, target):
        rows = jnp.reshape(x, (-1, *x.shape[2:]))
        return _rows.divided(rows, target.shape[0], target.shape[1])

    per_device = jax.tree.map(one, state.per_device, like.per_device)
    return state._replace(per_device=per_device)


def replicate(tree: PyTree, devices: Sequence[jax.Device] | None = None) -> PyTree:
    """Copies a pytree of arrays to the devices; by default to all local devices."""
    return jax.device_put(tree, _sharding(devices))


def _sharding(
    devices: Sequence[jax.Device] | None, *axes: str
) -> jax.sharding.NamedSharding:
    mesh = jax.sharding.Mesh(devices or jax.local_devices(), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))
