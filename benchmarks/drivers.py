"""Measures drivers: one step or an epoch in a call of the device, one or more seeds.

The student is a ResNet-8x4 on images of 32 x 32 in 100 classes, 64 per step, which are
stored on the device as uint8 and cropped, mirrored and normalised there; the teacher is
a ResNet-32x4 (on a CPU a ResNet-8x4), live or with kept activations. The loss is the
task's and KD's. `mlp` in a case's name stands for an MLP of two layers taught by an
MLP: its steps take milliseconds, and have no convolutions, which are slow in a loop on
a CPU.
"""

import atexit
import dataclasses
import functools
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any

# Emulated CPU devices wait for each other forever without it (before jax 0.12).
os.environ.setdefault("PJRT_NPROC", "32")

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measure, runner, steps
from experiments import data
from rdljax import nets, objectives, teachers, terms, training
from rdljax.terms import negatives

BATCH, SEEDS = 64, 5
# Teacher, student and the number of steps of an epoch (small on a CPU, where a step in
# a loop takes seconds).
ON_CPU = {"conv": ("resnet8x4", "resnet8x4", 2), "mlp": ("mlp_1024", "mlp", 50)}
ELSEWHERE = {"conv": ("resnet32x4", "resnet8x4", 100), "mlp": ("mlp_1024", "mlp", 500)}
# The images of RepDistiller's table on CIFAR-100: pairs, rows, seeds, epochs, images.
TABLE_IMAGES = 13 * 15 * 5 * 240 * 50_000


def on_cpu() -> bool:
    """Returns whether programs run on a CPU."""
    return jax.default_backend() == "cpu"


@dataclasses.dataclass(frozen=True)
class Setup:
    """The parts shared by the trainings of a case.

    Attributes:
      begin: The function from a seed (and the view's key) to the initial state.
      step: The step, before it is mapped.
      arrays: The arrays that the step reads, on the device.
      images: The training images, in the memory of the host.
      batch: The number of images in a step.
    """

    begin: Callable[..., training.TrainState]
    step: training.Step
    arrays: training.Arrays
    images: data.Split
    batch: int


def make_setup(
    kind: str = "conv",
    *,
    images: int | None = None,
    batch: int = BATCH,
    further: dict[str, terms.Term] | None = None,
    teacher: str = "live",
    student: str | None = None,
    dtype: str = "float32",
    alone: bool = False,
) -> Setup:
    """Makes a student and its teacher on random images.

    Args:
      kind: The kind of the nets, "conv" or "mlp".
      images: The number of images; None for the default of the kind.
      batch: The number of images in a step.
      further: The terms in addition to the task and KD, by name.
      teacher: The kind of the teacher, "live" or "cached".
      student: The name of the student's net; None for the default of the kind.
      dtype: The dtype of the student's activations.
      alone: Whether KD and the teacher are left out.
    """
    classes, random = 100, np.random.default_rng(0)
    taught, learns, count = (ON_CPU if on_cpu() else ELSEWHERE)[kind]
    count = count * batch if images is None else images
    pixels = random.integers(256, size=(count, 32, 32, 3), dtype=np.uint8)
    labels = random.integers(classes, size=count, dtype=np.int32)
    split = data.Split(pixels, labels)
    moments = ((127.5,) * 3, (73.6,) * 3)
    dataset = data.Dataset("random", classes, split, split, split, "", *moments)
    net = nets.build(
        student or learns, classes, dtype=jnp.dtype(dtype), axis_name=training.AXIS
    )
    view: Any = data.view(dataset, crop=4, flip=True)
    on_device = training.replicate(data.on_device(split))
    source = _teacher(taught, classes, teacher, dataset) if not alone else None
    source = source or teachers.none()
    kd = terms.on_layers("logits", terms.from_objective(objectives.kd))
    loss = {"task": terms.cross_entropy(), **({} if alone else {"kd": kd})}
    loss |= further or {}
    phase = training.Phase({name: (1.0, term) for name, term in loss.items()}, 1)
    optimizer = optax.sgd(0.05, momentum=0.9, nesterov=True)
    arrays = training.Arrays(training.replicate(source.arrays), on_device)
    example = {"index": np.arange(batch, dtype=np.int32)}

    def begin(seed, view_key=None):
        state = training.init(
            jax.random.key(seed),
            net,
            source,
            [phase],
            view,
            arrays,
            example,
            view_key=view_key,
        )
        return training.begin_phase(state, phase, optimizer)

    step = training.make_step(net, source, phase, optimizer, view)
    return Setup(begin, step, arrays, split, batch)


def _teacher(name: str, classes: int, kind: str, dataset: data.Dataset):
    net = nets.build(name, classes)
    shape = dataset.train.image[:1].shape
    live = teachers.net(net, net.init(jax.random.key(9), np.zeros(shape, np.float32)))
    if kind == "live":
        return live
    view, images = data.view(dataset), data.on_device(dataset.train)
    count = len(dataset.train.label)

    def see(index):
        key = jax.random.key(0)  # (Nothing is drawn.)
        return view(jax.tree.map(jnp.asarray, images), {"index": index}, key)

    return teachers.cached(teachers.cache(live, see, count, ["logits"]))


def _order(setup: Setup, seed: int) -> np.ndarray:
    return data.batches(len(setup.images.label), setup.batch, seed=seed, epoch=0)


def epoch(setup: Setup, chunk: int | None) -> measure.Contender:
    """Returns an epoch with several steps in a call, as a contender.

    Only the indices of the images are sent to the device. The host waits for the device
    at the end of the epoch.

    Args:
      setup: The training.
      chunk: The number of unrolled steps in a call; None for the whole epoch as a loop
        on the device.
    """
    steps = training.scan_steps(setup.step, unrolled=chunk is not None)
    steps = training.pmap(steps)
    state, index = setup.begin(0), _order(setup, 0)
    chunk = len(index) if chunk is None else chunk

    def call():
        nonlocal state
        metrics = []
        for at in range(0, len(index), chunk):
            batch = training.shard({"index": index[at : at + chunk]}, axis=1)
            state, metric = steps(state, setup.arrays, batch)
            metrics.append(metric)
        jax.block_until_ready(state)
        return metrics

    return measure.Contender(call, _losses)


def from_host(setup: Setup) -> measure.Contender:
    """Returns an epoch as it is usually written, as a contender.

    A loader gathers the images on the host, and the loss is read in every step.
    """
    step, load = training.pmap(setup.step), data.from_host(setup.images)
    state, arrays = setup.begin(0), setup.arrays._replace(data={})

    def call():
        nonlocal state
        metrics = []
        for index in _order(setup, 0):
            state, metric = step(state, arrays, training.shard(load(index)))
            metrics.append(jax.device_get(metric))
        return metrics

    return measure.Contender(call, _losses)


def _losses(metrics: list[dict[str, Any]]) -> list[np.ndarray]:
    return [np.concatenate([np.ravel(m["loss"]) for m in metrics])]


def in_turn(setup: Setup, view_key: Any = None) -> measure.Contender:
    """Returns an epoch of several seeds, one after the other, as a contender."""
    step = training.pmap(setup.step)
    states = [setup.begin(seed, view_key) for seed in range(SEEDS)]

    def call():
        metrics = []
        for seed in range(SEEDS):
            for index in _order(setup, 0 if view_key is not None else seed):
                batch = training.shard({"index": index})
                states[seed], metric = step(states[seed], setup.arrays, batch)
                metrics.append(metric)
        jax.block_until_ready(states)
        return metrics

    def read(metrics):
        losses = np.array([m["loss"] for m in metrics])
        return [losses.reshape(SEEDS, -1).T.ravel()]

    return measure.Contender(call, read)


def at_once(
    setup: Setup, *, unrolled: bool, chunk: int | None, view_key: Any = None
) -> measure.Contender:
    """Returns the steps of `in_turn` with all seeds in one program, as a contender."""
    step = training.vmap_trainings(setup.step, unrolled=unrolled)
    # (On XLA:CPU even a loop of one step is slow.)
    steps = training.pmap(training.scan_steps(step, unrolled=chunk is not None))
    same = view_key is not None
    states = [setup.begin(seed, view_key) for seed in range(SEEDS)]
    state = training.stack_trainings(states, same_view=same)
    orders = [_order(setup, seed) for seed in range(SEEDS)]
    index = orders[0] if same else np.stack(orders, axis=1)
    chunk = len(index) if chunk is None else chunk

    def call():
        nonlocal state
        metrics = []
        for at in range(0, len(index), chunk):
            part = {"index": index[at : at + chunk]}
            batch = training.shard(part, axis=1 + (not same))
            state, metric = steps(state, setup.arrays, batch)
            metrics.append(metric)
        jax.block_until_ready(state)
        return metrics

    return measure.Contender(call, _losses)


def _epochs(kind: str) -> dict[str, Callable[[], measure.Contender]]:
    def made(maker, *arguments):
        return lambda: maker(make_setup(kind), *arguments)

    ways = {
        "host loader": made(from_host),
        "steps": made(epoch, 1),
        "chunks": made(epoch, 10),
    }
    return ways if _slow(kind) else ways | {"epoch": made(epoch, None)}


def _slow(kind: str) -> bool:
    """Returns whether a loop on the device, or vectorised seeds, take minutes."""
    return kind == "conv" and on_cpu()


def _seeds(kind: str, same: bool) -> dict[str, Callable[[], measure.Contender]]:
    key = jax.random.key(1) if same else None
    # As in `experiments.run`: single steps on a CPU, epochs elsewhere.
    chunk = 1 if on_cpu() else None

    def at(unrolled):
        return lambda: at_once(
            make_setup(kind), unrolled=unrolled, chunk=chunk, view_key=key
        )

    ways = {
        "in turn": lambda: in_turn(make_setup(kind), key),
        "written out": at(True),
    }
    return ways if _slow(kind) else ways | {"vectorised": at(False)}


def _teachers() -> dict[str, Callable[[], measure.Contender]]:
    return {
        "none": lambda: epoch(make_setup(alone=True), 1),
        "live": lambda: epoch(make_setup(), 1),
        "cached": lambda: epoch(make_setup(teacher="cached"), 1),
    }


def _first_step() -> dict[str, Callable[[], measure.Contender]]:
    """Returns contenders that compile the step, or read it from JAX's cache."""

    def compiling(folder):
        setup = make_setup()
        state, batch = setup.begin(0), training.shard({"index": _order(setup, 0)[0]})

        def call():
            jax.clear_caches()
            jax.config.update("jax_compilation_cache_dir", folder)
            jax.experimental.compilation_cache.compilation_cache.reset_cache()
            training.compile_step(setup.step, state, setup.arrays, batch)
            jax.config.update("jax_compilation_cache_dir", None)
            return {"seconds": np.float32(0)}

        return measure.Contender(call)

    def cached():
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return compiling(folder)

    return {"compiled": lambda: compiling(None), "from the cache": cached}


def _crd(examples: int) -> terms.Term:
    labels: Any = np.arange(examples) % 100
    choose = negatives.per_example(steps.NEGATIVES, labels)
    return terms.on_layers("pooled", terms.crd(examples, choose))


def _rdl() -> terms.Term:
    return terms.over_global_batch(steps.LOSSES["rdl"]())


# For throughput: the terms in addition to task and KD.
FURTHER: dict[str, Callable[[], dict[str, terms.Term]]] = {
    "kd": dict,
    "kd+crd": lambda: {"crd": _crd(steps.EXAMPLES)},
    "kd+rdl": lambda: {"rdl": _rdl()},
}


def throughput(student: str, loss: str, dtype: str, seeds: int) -> measure.Contender:
    """Returns an epoch as a contender, with its numbers of images and operations.

    On an accelerator it has 50,000 images, and all seeds at once; on a CPU it has as
    few images as the other cases.

    Args:
      student: The name of the student's net.
      loss: The loss, one of `FURTHER`.
      dtype: The dtype of the student's activations.
      seeds: The number of seeds.
    """
    setup = make_setup(
        images=None if on_cpu() else steps.EXAMPLES,
        further=FURTHER[loss](),
        student=student,
        dtype=dtype,
    )
    chunk = 1 if on_cpu() else None
    if seeds == 1:
        contender = epoch(setup, chunk)
    else:
        contender = at_once(setup, unrolled=on_cpu(), chunk=chunk)
    index = _order(setup, 0)
    batch = training.shard({"index": index[0]})
    step = training.compile_step(setup.step, setup.begin(0), setup.arrays, batch)
    facts: dict[str, float] = {"images": index.size * seeds}
    if step.operations is not None:
        facts["operations"] = step.operations * len(index) * seeds
    return dataclasses.replace(contender, facts=facts)


def _throughput(student: str, loss: str) -> dict[str, Callable[[], measure.Contender]]:
    ways = {"float32": ("float32", 1)}
    if not on_cpu():
        ways["bfloat16"] = ("bfloat16", 1)
        ways |= {f"{SEEDS} seeds, {dtype}": (dtype, SEEDS) for dtype in [*ways]}
    return {
        name: functools.partial(throughput, student, loss, *way)
        for name, way in ways.items()
    }


EQUAL = measure.Tolerance(1e-3, 1e-3)
# Five seeds in one program over five in turn: unrolled on a CPU, vectorised elsewhere.
NEVER_SLOWER = measure.Goal("seeds", "written out", floor=1.1, target=1.0)
FIVE_FOR_TWO = measure.Goal("seeds", "vectorised", floor=0.4, target=0.36)
REMEMBERED = measure.Goal("teacher", "cached", floor=1.1, target=1.0)


def _goals_of_seeds() -> tuple[measure.Goal, ...]:
    return (NEVER_SLOWER if on_cpu() else FIVE_FOR_TWO,)


def _case_of_epochs(kind: str) -> measure.Case:
    return measure.Case(_epochs(kind), tolerance=EQUAL, memory=False)


def _case_of_seeds(kind: str, same: bool) -> measure.Case:
    return measure.Case(
        _seeds(kind, same), _goals_of_seeds(), tolerance=EQUAL, memory=False
    )


def _case_of_throughput(student: str, loss: str) -> measure.Case:
    return measure.Case(_throughput(student, loss), tolerance=None, memory=False)


CASES: dict[str, Callable[[], measure.Case]] = {
    **{f"epoch-{kind}": functools.partial(_case_of_epochs, kind) for kind in ON_CPU},
    **{
        f"seeds-{kind}{'-same-batches' * same}": functools.partial(
            _case_of_seeds, kind, same
        )
        for kind, same in itertools.product(ON_CPU, (False, True))
    },
    "teacher": lambda: measure.Case(
        _teachers(), (REMEMBERED,), tolerance=None, memory=False
    ),
    "first-step": lambda: measure.Case(_first_step(), tolerance=None, memory=False),
    **{
        f"throughput-{student}-{loss}": functools.partial(
            _case_of_throughput, student, loss
        )
        for student, loss in itertools.product(("resnet8x4", "wrn_16_2"), FURTHER)
    },
}


def build(name: str, options: runner.DeviceOptions) -> measure.Case:
    """Returns the case with this name."""
    options.take_device()
    return CASES[name]()


def finish(results: dict, options: runner.DeviceOptions) -> None:
    """Prints images per second, and the estimated hours of the published table."""
    for case in results["cases"]:
        for name, entry in case["contenders"].items():
            if images := entry.get("images"):
                speed = 1e3 * images / entry["median_ms"]
                hours = TABLE_IMAGES / speed / 3600
                print(
                    f"{case['case']}, {name}: {speed:,.0f} images/s; the table of "
                    f"RepDistiller, five seeds, at this speed: {hours:,.0f} hours"
                )


main = functools.partial(
    runner.main,
    "benchmarks.drivers",
    build,
    CASES,
    runner.DeviceOptions,
    finish=finish,
)

if __name__ == "__main__":
    sys.exit(main())
