"""The one training loop: a teacher is a student without terms."""

import json
import math
import pathlib
import signal
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import tensorboardX

from experiments import data
from rdljax import checkpoints, training

# Where devices are emulated on a CPU, too many steps in flight can starve one of them.
STEPS_IN_FLIGHT = 10
SECONDS_BETWEEN_CHECKPOINTS = 60.0


class Interrupted(Exception):
    """The run was stopped between two steps and left a checkpoint."""


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
    """

    name: str
    folder: pathlib.Path
    seed: int
    epochs: int
    examples: int
    batch: int

    @property
    def checkpoint(self) -> pathlib.Path:
        return self.folder / "checkpoint"

    @property
    def steps_an_epoch(self) -> int:
        return self.examples // self.batch

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_an_epoch


Step = Callable[..., tuple[training.TrainState, dict[str, jax.Array]]]
Metrics = dict[str, float]


def fit(
    job: Job,
    step: Step,
    state: training.TrainState,
    arrays: training.Arrays,
    evaluate: Callable[[training.TrainState], Metrics],
    interrupt: Interrupt,
    advance: Callable[[int, list[Metrics]], Any],
) -> tuple[training.TrainState, list[Metrics], float]:
    """Trains to the end, from the job's checkpoint if it left one.

    Args:
      job: What to train.
      step: The pmapped step.
      state: The state at the start; donated.
      arrays: What the step reads, on the devices.
      evaluate: What to measure at the end of an epoch.
      interrupt: Looked at before each step.
      advance: Told how many steps were taken, and of the epochs so far.

    Returns:
      The last state; for each epoch, the mean of the step's metrics and what was
      evaluated; the seconds it took, interruptions left out.

    Raises:
      Interrupted: Stopped; a checkpoint was left.
    """
    done, history, partial, seconds = 0, [], [], 0.0
    if checkpoints.latest(job.checkpoint) is not None:
        state, about, done = checkpoints.restore(job.checkpoint, state)
        history, partial = about["history"], about["partial"]
        seconds = about["seconds"]
        advance(done, history)
    if done == job.steps:
        return state, history, seconds
    began = saved = time.monotonic()

    def save():
        spent = seconds + time.monotonic() - began
        about = {"job": job.name, "seconds": spent}
        about |= {"history": history, "partial": _numbers(partial)}
        checkpoints.save(job.checkpoint, done, state, about)
        return spent

    with tensorboardX.SummaryWriter(str(job.folder)) as events:
        for epoch in range(done // job.steps_an_epoch, job.epochs):
            batches = data.batches(job.examples, job.batch, seed=job.seed, epoch=epoch)
            for index in batches[done % job.steps_an_epoch :]:
                if interrupt.requested:
                    save()
                    raise Interrupted(job.name)
                state, metrics = step(state, arrays, training.shard({"index": index}))
                partial.append(metrics)
                done += 1
                advance(1, history)
                if done % STEPS_IN_FLIGHT == 0:
                    jax.block_until_ready(metrics)
                    if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                        save()
                        saved = time.monotonic()
            history.append(_mean(partial) | evaluate(state))
            partial = []
            for name, value in history[-1].items():
                events.add_scalar(name, value, done)
    return state, history, save()


def _numbers(partial: list) -> list[Metrics]:
    return [
        {k: float(v) for k, v in metrics.items()} for metrics in jax.device_get(partial)
    ]


def _mean(partial: list) -> Metrics:
    numbers = _numbers(partial)
    return {k: float(np.mean([m[k] for m in numbers])) for k in numbers[0]}


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
