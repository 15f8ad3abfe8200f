"""Trains students and teachers (a teacher is a student without terms).

Each call of the devices takes a few steps (`Trainer.chunk`), and the host does not wait
for it: on an accelerator the next epoch is started before the metrics of the last are
read. Several trainings of the same kind may run as one program; each has its own
checkpoint, history and events, so that they may be resumed in other groups.
"""

import collections
import contextlib
import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments import data
from experiments.results import folder as results_folder
from experiments.training import events, interrupts, programs
from rdljax import checkpoints, files, training

# With emulated devices on a CPU, too many pending steps can starve one of them.
STEPS_IN_FLIGHT = 10
SECONDS_BETWEEN_CHECKPOINTS = 60.0


class Diverged(Exception):
    """An exception for a loss that is not finite; the last good checkpoint is kept."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One net to train.

    Attributes:
      name: The name of the run, such as `rdl-seed0`.
      folder: The folder of its checkpoint and events.
      seed: The seed of the net's state.
      order: The seed of the order of the images.
      epochs: The number of epochs.
      examples: The number of training images.
      batch: The number of images of a step.
      settings: The settings that its checkpoints record.
      stimuli: The number of stimuli of a measured RDM, 0 for none.
      shown: The number of stimuli of a step.
    """

    name: str
    folder: pathlib.Path
    seed: int
    order: int
    epochs: int
    examples: int
    batch: int
    settings: dict[str, Any]
    stimuli: int = 0
    shown: int = 0

    @property
    def checkpoint(self) -> pathlib.Path:
        return self.folder / results_folder.CHECKPOINT_FOLDER

    @property
    def steps_an_epoch(self) -> int:
        return self.examples // self.batch

    @property
    def steps(self) -> int:
        return self.epochs * self.steps_an_epoch


Metrics = dict[str, float]
State = training.TrainState


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The functions and arrays that train nets, the same for all seeds.

    Attributes:
      begin: The function from a job's seed and a number of devices to the initial
        state.
      arrays: The arrays that a step reads, on the devices.
      step_fn: The programs `step_fn(state, arrays, batches) -> (state, metrics)`: a
        call of several steps (`training.scan_steps`), of one training or of several
        (`training.vmap_trainings`).
      chunk: The number of steps of a call. Steps that do not fill a chunk, or begin
        within one, are taken one by one.
      examine: The pmapped `training.make_finite_check` of a step of one training.
      evaluate: The function `evaluate(state, job, epoch)`, called with the student's
        part of a training's state at the end of an epoch, counted from 1. It returns
        immediately a function that waits for the metrics.
      layers: The student's layers, in depth order.
      same_view: Whether trainings of one program share their batches.
      feed: The function from `data.Batches` to the entries of a batch.
    """

    begin: Callable[[int, int], State]
    arrays: training.Arrays
    step_fn: programs.Programs
    chunk: int
    examine: Callable[..., tuple[State, training.FiniteReport]]
    evaluate: Callable[[State, Job, int], Callable[[], Metrics]]
    layers: tuple[str, ...]
    same_view: bool = False
    feed: Callable[..., training.Batch] = lambda batches: {"index": batches.image}


class Progress(NamedTuple):
    """The progress of a job.

    Attributes:
      done: The number of steps taken.
      history: The metrics of each epoch: means over its steps, and evaluated ones.
      partial: The metrics of each step of an unfinished epoch.
      seconds: The training time in seconds, without interruptions.
    """

    done: int
    history: list[Metrics]
    partial: list[Metrics]
    seconds: float


class FitResult(NamedTuple):
    """The result of a finished job.

    Attributes:
      state: The last state.
      history: The metrics of each epoch: means over its steps, and evaluated ones.
      seconds: The training time in seconds, without interruptions; for trainings of one
        program, an equal share of its time.
    """

    state: State
    history: list[Metrics]
    seconds: float


class _Call(NamedTuple):
    """A call of several steps that may not be finished.

    Attributes:
      first: The number of the first step of the call.
      metrics: The metrics, with leaves `[steps, trainings]`.
      evaluated: The functions that wait for the metrics of `evaluate`, one for each
        training; empty except at the end of an epoch.
    """

    first: int
    metrics: dict[str, jax.Array]
    evaluated: list[Callable[[], Metrics]]


def fit(
    jobs: Sequence[Job],
    trainer: Trainer,
    interrupt: interrupts.Interrupt,
    advance: Callable[[int, list[Metrics]], Any],
) -> list[FitResult]:
    """Trains to the end, each job from its checkpoint if there is one.

    Args:
      jobs: The jobs to train together; they differ in their names, folders and seeds.
      trainer: The functions that train them, the same for all.
      interrupt: The request to stop, checked before each call.
      advance: The function that is called with the number of steps taken, and the first
        job's history so far.

    Returns:
      The trained nets, in the order of the jobs.

    Raises:
      Interrupted: If it was stopped; checkpoints were written.
      Diverged: If the loss of a job, or its parameters, are not finite.
      CheckpointDamaged: If all checkpoints of a job are damaged.
      CheckpointNotWritten: If a checkpoint could not be written.
      OSError: If events could not be written.
    """
    taken = {job.name: checkpoints.latest(job.checkpoint) or 0 for job in jobs}
    if len({*taken.values()}) > 1:
        # Killed between two of their checkpoints, or resumed in another group.
        results: dict[str, FitResult] = {}
        for done in sorted({*taken.values()}):
            equal = [job for job in jobs if taken[job.name] == done]
            found = fit(equal, trainer, interrupt, advance)
            results |= zip((job.name for job in equal), found, strict=True)
        return [results[job.name] for job in jobs]
    begun = [resume(job, trainer.begin) for job in jobs]
    if len({progress.done for _, progress in begun}) > 1:
        # A newest checkpoint is damaged.
        del begun
        return [fit([job], trainer, interrupt, advance)[0] for job in jobs]
    trainings = _Trainings(jobs, trainer, advance, begun)
    del begun  # (To free memory: the first step makes new states.)
    return trainings.run(interrupt)


class _Trainings:
    """Trainings in one program, from the same number of steps to the end."""

    def __init__(
        self,
        jobs: Sequence[Job],
        trainer: Trainer,
        advance: Callable[[int, list[Metrics]], Any],
        begun: Sequence[tuple[State, Progress]],
    ):
        """Stacks the states and reports the number of finished steps to `advance`.

        Args:
          jobs: The jobs, as for `fit`.
          trainer: The functions that train them, as for `fit`.
          advance: The function that is called with the progress, as for `fit`.
          begun: The state and the progress of each job.
        """
        self.jobs, self.trainer, self.advance = jobs, trainer, advance
        states, self.before = zip(*begun, strict=True)
        self.histories = [list(p.history) for p in self.before]
        self.partial = [list(p.partial) for p in self.before]
        self.done: int = self.before[0].done
        self.state: State = states[0]
        if len(jobs) > 1:
            training.check_same_step(states)
            self.state = training.stack_trainings(states, same_view=trainer.same_view)
        self.under_way: collections.deque[_Call] = collections.deque()
        self.logs: list[events.Events] = []
        self.began = self.saved = time.monotonic()
        advance(self.done * len(jobs), self.histories[0])

    def run(self, interrupt: interrupts.Interrupt) -> list[FitResult]:
        """Takes the remaining steps and returns the trained nets."""
        if self.done == self.jobs[0].steps:
            seconds = [progress.seconds for progress in self.before]
        else:
            with contextlib.ExitStack() as opened:
                for job in self.jobs:
                    log = contextlib.closing(events.Events(job.folder))
                    self.logs.append(opened.enter_context(log))
                calls = _calls(self.jobs, self.trainer, self.done)
                batches = data.prefetch(map(self.trainer.feed, calls))
                for batch in opened.enter_context(contextlib.closing(batches)):
                    if interrupt.requested:
                        self.save()
                        names = ", ".join(job.name for job in self.jobs)
                        raise interrupts.Interrupted(names)
                    self.take(batch)
                seconds = self.save()
        return list(map(FitResult, self.singles(self.state), self.histories, seconds))

    def take(self, batch: training.Batch) -> None:
        """Takes the steps of a call; at the end of an epoch evaluates the students."""
        trainer, steps = self.trainer, len(batch["index"])
        several_batches = len(self.jobs) > 1 and not trainer.same_view
        batch = training.shard(batch, axis=1 + several_batches)
        self.state, metrics = trainer.step_fn(self.state, trainer.arrays, batch)
        first, self.done = self.done, self.done + steps
        # An epoch is closed before it is saved: a resumed run begins the next one.
        epoch, within = divmod(self.done, self.jobs[0].steps_an_epoch)
        evaluated = []
        if not within:
            students = self.singles(_of_student(self.state))
            evaluated = [
                trainer.evaluate(student, job, epoch)
                for student, job in zip(students, self.jobs, strict=True)
            ]
        self.under_way.append(_Call(first, metrics, evaluated))
        self.read(leave=max(1, STEPS_IN_FLIGHT // trainer.chunk))
        if time.monotonic() - self.saved > SECONDS_BETWEEN_CHECKPOINTS:
            self.save()
            self.saved = time.monotonic()

    def read(self, leave: int = 0) -> None:
        """Waits for all calls except the last few, and checks their losses."""
        while len(self.under_way) > leave:
            call = self.under_way.popleft()
            metrics = _numbers(call.metrics, len(self.jobs))
            for i, job in enumerate(self.jobs):
                good = [math.isfinite(m["loss"]) for m in metrics[i]]
                if not all(good):
                    raise self.diverged(job, call.first + good.index(False))
                self.partial[i].extend(metrics[i])
            for i, wait in enumerate(call.evaluated):
                self.histories[i].append(_mean(self.partial[i]) | wait())
                self.partial[i].clear()
                self.logs[i].add(self.histories[i][-1], call.first + len(metrics[i]))
            self.advance(len(metrics[0]) * len(self.jobs), self.histories[0])

    def save(self) -> list[float]:
        """Writes a checkpoint of each training; returns the seconds of each so far."""
        self.read()
        spent = (time.monotonic() - self.began) / len(self.jobs)
        seconds = [progress.seconds + spent for progress in self.before]
        each = zip(self.jobs, self.singles(self.state), strict=True)
        for i, (job, own) in enumerate(each):
            if not _is_finite(own):
                raise self.diverged(job, self.done)
            about = {"job": job.name, "settings": job.settings, "seconds": seconds[i]}
            about |= {"devices": jax.device_count()}
            about |= {"history": self.histories[i], "partial": self.partial[i]}
            checkpoints.save(job.checkpoint, self.done, own, about)
            self.logs[i].flush()
        return seconds

    def singles(self, state: State) -> Iterator[State]:
        """Yields the state of each training."""
        for i in range(len(self.jobs)):
            yield _one_of(state, i) if len(self.jobs) > 1 else state

    def diverged(self, job: Job, bad: int) -> Diverged:
        """Returns an exception with the reason why a job diverged (`_why`)."""
        del self.state  # (To free memory: finding the reason needs its own state.)
        self.under_way.clear()
        others = ""
        if len(self.jobs) > 1:
            others = "; --seeds_per_program=1 --resume finishes the others"
        return Diverged(_why(job, self.trainer, bad) + others)


_one_of = jax.jit(training.select_training, static_argnums=1)


def _of_student(state: State) -> State:
    """Returns only the student's part of a state."""
    now = state.replicated
    now = now._replace(
        params={"student": now.params["student"]}, opt_state=(), terms={}
    )
    return State(now, {})


def resume(job: Job, begin: Callable[[int, int], State]) -> tuple[State, Progress]:
    """Returns the state of a job's newest complete checkpoint, or the initial state."""
    devices = jax.device_count()
    if checkpoints.latest(job.checkpoint) is None:
        return begin(job.seed, devices), Progress(0, [], [], 0.0)

    def like(about):
        if wrong := files.describe_mismatch(about, results_folder.ABOUT, "its record"):
            raise checkpoints.CheckpointDamaged(f"{job.checkpoint} is damaged: {wrong}")
        return form(about["devices"])

    def form(devices):
        return jax.eval_shape(lambda: begin(job.seed, devices))

    state, about, done = checkpoints.restore(job.checkpoint, like, tell=tqdm.tqdm.write)
    state = training.reshard_like(state, form(devices))
    kept = (about[name] for name in ("history", "partial", "seconds"))
    return state, Progress(done, *kept)


def _calls(jobs: Sequence[Job], trainer: Trainer, done: int) -> Iterator[data.Batches]:
    """Yields the batches of each call, from the first step that is not done."""
    an_epoch, chunk = jobs[0].steps_an_epoch, trainer.chunk
    for epoch in range(done // an_epoch, jobs[0].epochs):
        alone = len(jobs) == 1 or trainer.same_view
        every = [_batches(job, epoch) for job in (jobs[:1] if alone else jobs)]
        batches = every[0] if alone else data.stack(every)
        at = done - epoch * an_epoch
        while at < an_epoch:
            steps = 1 if at % chunk or at + chunk > an_epoch else chunk
            yield batches.steps(at, at + steps)
            at += steps
        done = (epoch + 1) * an_epoch


def _batches(job: Job, epoch: int) -> data.Batches:
    """Returns the batches of an epoch of one training."""
    seed_and_epoch = {"seed": job.order, "epoch": epoch}
    images = data.batches(job.examples, job.batch, **seed_and_epoch)
    stimuli = None
    if job.shown:
        stimuli = data.draw_stimuli(
            job.stimuli, job.shown, len(images), **seed_and_epoch
        )
    return data.Batches(images, stimuli, np.asarray(job.order), epoch)


def _why(job: Job, trainer: Trainer, bad: int) -> str:
    """Returns the reason why a job diverged, by repeating its last steps one by one.

    Args:
      job: The job that diverged.
      trainer: The functions that train it.
      bad: The number of the first step whose loss, or whose initial parameters, are not
        finite.
    """
    state, (done, *_) = resume(job, trainer.begin)
    kept = f"from the checkpoint of step {done}" if done else "from the start"
    batches = _calls([job], dataclasses.replace(trainer, chunk=1), done)
    batch: training.Batch = {}
    for number in range(done, bad + 1):
        # (After the last step there is no batch: any batch shows bad parameters.)
        call = next(batches, None)
        batch = batch if call is None else trainer.feed(call)
        if number >= bad - 1:
            one = training.shard(jax.tree.map(lambda x: x[0], batch))
            state, found = trainer.examine(state, trainer.arrays, one)
            if words := jax.device_get(found).explanation(trainer.layers):
                if number == job.steps:
                    return f"{job.name} diverged after its last step: {words}"
                epoch = 1 + number // job.steps_an_epoch
                where = f"step {number + 1}, in epoch {epoch}"
                return f"{job.name} diverged in {where}: {words}"
        state, _ = trainer.step_fn(state, trainer.arrays, training.shard(batch, axis=1))
    return (
        f"{job.name} diverged in step {bad + 1}; when the steps were repeated {kept}, "
        "all values were finite"
    )


@jax.jit
def _is_finite(state: training.TrainState) -> jax.Array:
    """Returns whether all values of a state are finite."""
    numbers = jax.tree.leaves(state)
    floats = [x for x in numbers if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.stack([jnp.isfinite(x).all() for x in floats]))


def _numbers(metrics: dict[str, jax.Array], jobs: int) -> list[list[Metrics]]:
    """Returns, for each job, the metrics of each step."""
    found = {k: np.reshape(v, (-1, jobs)) for k, v in jax.device_get(metrics).items()}
    steps = len(found["loss"])
    return [
        [{k: float(v[step, i]) for k, v in found.items()} for step in range(steps)]
        for i in range(jobs)
    ]


def _mean(metrics: list[Metrics]) -> Metrics:
    return {k: float(np.mean([m[k] for m in metrics])) for k in metrics[0]}
