"""The one training loop: a teacher is a student without terms."""

import functools
import json
import math
import pathlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tensorboardX
import tqdm

from experiments import data
from rdljax import checkpoints, training

# Where devices are emulated on a CPU, too many steps in flight can starve one of them.
STEPS_IN_FLIGHT = 10
SECONDS_BETWEEN_CHECKPOINTS = 60.0


class Interrupted(Exception):
    """The run was stopped between two steps and left a checkpoint."""


class Diverged(Exception):
    """The loss is not finite; the last good checkpoint was kept."""


class Interrupt:
    """Turns Ctrl-C into a request that the loop heeds between two steps.

    A second Ctrl-C stops at once.
    """

    def __init__(self):
        self.requested = False

    def __enter__(self) -> "Interrupt":
        self._previous = signal.signal(signal.SIGINT, self._request)
        return self

    def __exit__(self, *_) -> None:
        signal.signal(signal.SIGINT, self._previous)

    def _request(self, *_) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


class Job(NamedTuple):
    """One net to train.

    Attributes:
      name: Of the run, such as `rdl-seed0`.
      folder: Where its checkpoint and events go.
      seed: Of the order of the images; the state has the seed of everything else.
      epochs: How long.
      examples: How many training images there are.
      batch: How many of them a step takes.
      settings: What its checkpoints say of it.
    """

    name: str
    folder: pathlib.Path
    seed: int
    epochs: int
    examples: int
    batch: int
    settings: dict[str, Any]

    @property
    def checkpoint(self) -> pathlib.Path:
        return self.folder / "checkpoint"

    @property
    def steps_an_epoch(self) -> int:
        return self.examples // self.batch

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_an_epoch


Metrics = dict[str, float]


class Compiled(NamedTuple):
    """A step, compiled once for all seeds.

    Attributes:
      step: The pmapped step.
      examine: The pmapped `training.examination` of it.
      layers: The student's, in depth order.
    """

    step: Callable[..., tuple[training.TrainState, dict[str, jax.Array]]]
    examine: Callable[..., tuple[training.TrainState, training.Finite]]
    layers: tuple[str, ...]


class Progress(NamedTuple):
    """How far a job has come.

    Attributes:
      done: Steps taken.
      history: For each epoch, the mean of the steps' metrics and what was evaluated.
      partial: The metrics of each step of an epoch that is not finished.
      seconds: How long it took, interruptions left out.
    """

    done: int
    history: list[Metrics]
    partial: list[Metrics]
    seconds: float


def fit(
    job: Job,
    compiled: Compiled,
    begin: Callable[[int], training.TrainState],
    arrays: training.Arrays,
    evaluate: Callable[[training.TrainState], Metrics],
    interrupt: Interrupt,
    advance: Callable[[int, list[Metrics]], Any],
) -> tuple[training.TrainState, list[Metrics], float]:
    """Trains to the end, from the job's checkpoint if it left one.

    Args:
      job: What to train.
      compiled: How.
      begin: From a number of devices to the state at the start.
      arrays: What the step reads, on the devices.
      evaluate: What to measure at the end of an epoch.
      interrupt: Looked at before each step.
      advance: Told how many steps were taken, and of the epochs so far.

    Returns:
      The last state; for each epoch, the mean of the step's metrics and what was
      evaluated; the seconds it took, interruptions left out.

    Raises:
      Interrupted: Stopped; a checkpoint was left.
      Diverged: The loss is not finite, or the parameters.
      CheckpointDamaged: All that the job left is damaged.
      CheckpointNotWritten: A checkpoint could not be written.
    """
    state, (done, history, partial, seconds) = resumed(job, begin)
    advance(done, history)
    if done == job.steps:
        return state, history, seconds
    began = saved = time.monotonic()
    under_way: list[dict[str, jax.Array]] = []

    def read():
        """Waits for the steps that are under way, and looks at their losses."""
        metrics = _numbers(under_way)
        good = [math.isfinite(m["loss"]) for m in metrics]
        if not all(good):
            first = done - len(good) + good.index(False)
            raise Diverged(_why(job, compiled, begin, arrays, first))
        partial.extend(metrics)
        under_way.clear()

    def save():
        read()
        if not _is_finite(state):
            raise Diverged(_why(job, compiled, begin, arrays, done))
        spent = seconds + time.monotonic() - began
        about = {"job": job.name, "settings": job.settings, "seconds": spent}
        about |= {"devices": jax.device_count()}
        about |= {"history": history, "partial": partial}
        checkpoints.save(job.checkpoint, done, state, about)
        return spent

    with tensorboardX.SummaryWriter(str(job.folder)) as events:
        for index in _batches(job, done):
            if interrupt.requested:
                save()
                raise Interrupted(job.name)
            batch = training.shard({"index": index})
            state, metrics = compiled.step(state, arrays, batch)
            under_way.append(metrics)
            done += 1
            advance(1, history)
            # An epoch is closed before it is saved: a resumed run begins the next one.
            if done % job.steps_an_epoch == 0:
                read()
                history.append(_mean(partial) | evaluate(state))
                partial = []
                for name, value in history[-1].items():
                    events.add_scalar(name, value, done)
            if done % STEPS_IN_FLIGHT == 0:
                read()
                if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                    save()
                    saved = time.monotonic()
    return state, history, save()


def resumed(
    job: Job, begin: Callable[[int], training.TrainState]
) -> tuple[training.TrainState, Progress]:
    """The state that a job's newest whole checkpoint holds, or that at the start."""
    devices = jax.device_count()
    if checkpoints.latest(job.checkpoint) is None:
        return begin(devices), Progress(0, [], [], 0.0)

    def like(about):
        return jax.eval_shape(functools.partial(begin, about["devices"]))

    state, about, done = checkpoints.restore(job.checkpoint, like, tell=tqdm.tqdm.write)
    state = training.divided_as(state, like({"devices": devices}))
    kept = (about[name] for name in ("history", "partial", "seconds"))
    return state, Progress(done, *kept)


def _batches(job: Job, done: int) -> Iterator[np.ndarray]:
    """The indices of each step's batch, but for those of the steps that are done."""
    first, skip = divmod(done, job.steps_an_epoch)
    for epoch in range(first, job.epochs):
        batches = data.batches(job.examples, job.batch, seed=job.seed, epoch=epoch)
        yield from batches[skip if epoch == first else 0 :]


def _why(
    job: Job,
    compiled: Compiled,
    begin: Callable[[int], training.TrainState],
    arrays: training.Arrays,
    bad: int,
) -> str:
    """Why a job diverged, found by taking its last steps once more.

    Args:
      job: What diverged.
      compiled: How it is trained.
      begin: As for `fit`.
      arrays: As for `fit`.
      bad: The number of the step whose loss is the first that is not finite, or before
        which the parameters are not.
    """
    state, (done, *_) = resumed(job, begin)
    kept = f"from the checkpoint of step {done}" if done else "from the start"
    batches, batch = _batches(job, done), None
    for number in range(done, bad + 1):
        # (After the last step there is no batch: any shows what the parameters do.)
        index = next(batches, None)
        batch = batch if index is None else training.shard({"index": index})
        if number >= bad - 1:
            state, found = compiled.examine(state, arrays, batch)
            if words := jax.device_get(found).explanation(compiled.layers):
                if number == job.steps:
                    return f"{job.name} diverged after its last step: {words}"
                epoch = 1 + number // job.steps_an_epoch
                where = f"step {number + 1}, in epoch {epoch}"
                return f"{job.name} diverged in {where}: {words}"
        state, _ = compiled.step(state, arrays, batch)
    return (
        f"{job.name} diverged in step {bad + 1}; when the steps were taken once more "
        f"{kept}, all was finite"
    )


@jax.jit
def _is_finite(state: training.TrainState) -> jax.Array:
    """Whether a state is worth keeping."""
    numbers = jax.tree.leaves(state)
    floats = [x for x in numbers if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in floats]))


def _numbers(metrics: list[dict[str, jax.Array]]) -> list[Metrics]:
    return [{k: float(v) for k, v in m.items()} for m in jax.device_get(metrics)]


def _mean(metrics: list[Metrics]) -> Metrics:
    return {k: float(np.mean([m[k] for m in metrics])) for k in metrics[0]}


def write_json(path: pathlib.Path, content: Any) -> None:
    """Writes a file whole or not at all; what is not finite becomes null."""
    draft = path.with_suffix(".partial")
    draft.write_text(json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")
    draft.replace(path)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {k: _finite(v) for k, v in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(v) for v in content]
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
