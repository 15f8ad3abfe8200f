"""Measures the cost of several devices, checkpoints and micro-batches in training.

Eight emulated devices share the machine's cores, so that ideally (`scaling`) a batch
takes as long on eight devices as on one. The student is a ResNet-8x4 with 64 images per
step, over all devices; losses and targets are those of `benchmarks.steps`.
"""

import atexit
import functools
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

# Before jax is imported. (Without PJRT_NPROC the devices wait for each other forever.)
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("PJRT_NPROC", "32")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
import optax

from benchmarks import measure, runner, steps
from experiments import command
from rdljax import checkpoints, nets, objectives, teachers, terms, training
from rdljax.terms import negatives

EVERYONE = 8
# The number of steps per checkpoint: an epoch of about ten seconds.
STEPS = 20
# The largest time of a checkpoint, relative to these steps.
CHECKPOINTS = measure.Goal("2 %", "a checkpoint", floor=0.02, target=0.01)
RELATIONAL = ("rdl", "sp", "pkt", "rkd", "cc", "cka", "dist")


def _gathered(name: str) -> dict[str, Callable[[], measure.Contender]]:
    """Returns steps without a relational loss, with it on each device, and over all.

    (Computed by each device separately, it is a different loss.)
    """
    alone, more = steps.LOSSES[name], {}
    if name == "rdl":
        # Gathered as for any other objective; `terms.rdl` avoids this where it can.
        layers = {x: x for x in (*steps.STAGES, "pooled")}
        whole = terms.on_layers(layers, terms.from_objective(objectives.rdl))
        more = {"gathered": lambda: stepping({name: terms.over_global_batch(whole)})}
    return {
        "none": lambda: stepping({}),
        "each device": lambda: stepping({name: alone()}),
        "all devices": lambda: stepping({name: terms.over_global_batch(alone())}),
        **more,
    }


def _banks() -> dict[str, Callable[[], measure.Contender]]:
    labels: Any = np.arange(steps.EXAMPLES) % 100
    choose = negatives.expectation(steps.NEGATIVES, labels)

    def bank(make):
        term = terms.on_layers("pooled", make(steps.EXAMPLES, choose))
        return lambda: stepping({"crd": term})

    return {"on every device": bank(terms.crd), "divided": bank(terms.crd_sharded)}


def _scaling() -> dict[str, Callable[[], measure.Contender]]:
    def on(devices):
        rdl = terms.over_global_batch(steps.LOSSES["rdl"]())
        return lambda: stepping({"rdl": rdl}, devices=devices)

    return {f"{devices} devices": on(devices) for devices in (1, 2, 4, 8)}


def _checkpoints() -> dict[str, Callable[[], measure.Contender]]:
    return {
        "an epoch": lambda: stepping({}, devices=1, steps_a_call=STEPS),
        "a checkpoint": saving,
    }


def _micro_batches() -> dict[str, Callable[[], measure.Contender]]:
    return {
        "whole": lambda: stepping({}, devices=1, batch=256),
        "8 micro-batches": lambda: stepping({}, devices=1, batch=256, micro_batches=8),
    }


def _gathering(name: str) -> measure.Case:
    return measure.Case(_gathered(name), tolerance=None, memory=False)


# The cases, by name.
CASES: dict[str, Callable[[], measure.Case]] = {
    **{f"gathering-{name}": functools.partial(_gathering, name) for name in RELATIONAL},
    "banks": lambda: measure.Case(_banks()),
    "scaling": lambda: measure.Case(
        _scaling(), tolerance=measure.Tolerance(1e-4, 1e-3), memory=False
    ),
    "checkpoint": lambda: measure.Case(
        _checkpoints(), (CHECKPOINTS,), tolerance=None, memory=False
    ),
    "micro-batches": lambda: measure.Case(_micro_batches(), tolerance=None),
}


def build(name: str, options: runner.Options) -> measure.Case:
    """Returns the case with this name.

    Raises:
      UsageError: If another batch is requested.
    """
    if options.batch is not None:
        raise command.UsageError("these cases have no batch of their own")
    return CASES[name]()


def stepping(
    further: Mapping[str, terms.Term],
    *,
    devices: int = EVERYONE,
    batch: int = 64,
    micro_batches: int = 1,
    steps_a_call: int = 1,
) -> measure.Contender:
    """Returns a pmapped step with the task, KD and further terms, as a contender.

    Args:
      further: The further terms, by name.
      devices: The number of emulated devices that take the batch.
      batch: The number of images in a step, over all devices.
      micro_batches: The number of micro-batches in which a device sees its images.
      steps_a_call: The number of steps in a call.
    """
    step, state, names = _made(further, devices, batch, micro_batches)

    def call():
        nonlocal state
        for _ in range(steps_a_call):
            state, metrics = step(state)
            jax.block_until_ready(metrics)
        return metrics

    def read(metrics: dict[str, Any]) -> list[np.ndarray]:
        return [np.asarray(metrics[name]) for name in ("loss", *names)]

    return measure.Contender(call, read)


def saving() -> measure.Contender:
    """Returns a contender that writes a checkpoint; the previous one is kept."""
    step, state, _ = _made({}, 1, 64, 1)
    state, _ = step(state)
    folder, numbers = tempfile.mkdtemp(), itertools.count()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

    def call():
        number = next(numbers)
        checkpoints.save(folder, number, state, {})
        return {"number": np.float32(number)}

    return measure.Contender(call)


def _made(
    further: Mapping[str, terms.Term], devices: int, batch: int, micro_batches: int
) -> tuple[Callable, training.TrainState, list[str]]:
    """Returns a function that takes a step, the initial state, and the terms' names."""
    kd = terms.from_objective(objectives.kd, temperature=4.0)
    loss = {
        "task": terms.cross_entropy(),
        "kd": terms.on_layers("logits", kd),
        **further,
    }
    phase = training.Phase({name: (1.0, term) for name, term in loss.items()}, epochs=1)
    net = nets.build("resnet8x4", 100, axis_name=training.AXIS)
    optimizer = optax.sgd(0.05, momentum=0.9, nesterov=True)
    data: dict[str, Any] = steps.example_data(batch)
    seen = jax.eval_shape(net.init_with_output, jax.random.key(0), data["image"][:1])
    shapes = {k: (batch, *x.shape[1:]) for k, x in seen[0].items()}
    data["targets"] = steps.example_targets(
        {k: jax.ShapeDtypeStruct(x, np.float32) for k, x in shapes.items()}
    )
    chosen = jax.local_devices()[:devices]

    def targets(arrays, batch):
        return batch["targets"]

    def view(data, batch, key):
        return jax.tree.map(lambda x: x[batch["place"]], data)

    taught = teachers.Teacher((), targets)
    arrays = training.replicate(training.Arrays((), data), chosen)
    places: Any = {"place": np.arange(batch, dtype=np.int32)}
    state = training.init(
        jax.random.key(0), net, taught, [phase], view, arrays, places, devices=devices
    )
    state = training.begin_phase(state, phase, optimizer)
    body = training.make_step(
        net, taught, phase, optimizer, view, micro_batches=micro_batches
    )
    step, places = training.pmap(body, chosen), training.shard(places, devices)
    return lambda state: step(state, arrays, places), state, list(loss)


main = functools.partial(
    runner.main, "benchmarks.devices", build, CASES, runner.Options
)

if __name__ == "__main__":
    sys.exit(main())
