"""Measures where the time of a training step goes.

Programs that contain more and more of a step are compiled and timed in turn; the time
of a part is the difference between two of them:

    data      the view
    student   and the student with only its task: forward, backward and optimizer
    losses    and all terms of the phase, with given targets of the teacher
    teacher   and the teacher: the whole step

XLA fuses each program in its own way, and removes computations without effect (such as
a teacher that no term reads), so that the time of a part is its time within the step,
not alone. If two programs take the same time, their difference is noise, which may be
negative.
"""

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from experiments.results import folder as results_folder
from experiments.results import markdown
from experiments.training import recipes
from rdljax import files, teachers, terms, training

# The smallest number of samples for a median, however long a step takes.
LEAST_ROUNDS = 3
STEPS_TRACED = 3


@dataclasses.dataclass(frozen=True)
class Profile:
    """The times of the parts of a step, in seconds.

    Attributes:
      compile: The time of the compilation of the step.
      step: The time of the whole step, the sum of the next four.
      data: The time of the view (gather, crop, flip, normalise), and the host's time
        for a call.
      teacher: The time of the teacher's targets.
      student: The time of forward and backward pass for the task, and the optimizer.
      losses: The time of all other terms: their values, gradients and updates.
      images: The number of images of a step, over all devices.
      rounds: The number of samples; each time is their median.
      device: The description of the devices.
    """

    compile: float
    step: float
    data: float
    teacher: float
    student: float
    losses: float
    images: int
    rounds: int
    device: str

    @property
    def steps_per_second(self) -> float:
        return 1 / self.step

    @property
    def images_per_second(self) -> float:
        return self.images / self.step

    def table(self) -> str:
        """Returns the parts in Markdown, with compilation and throughput below."""
        parts = {x: getattr(self, x) for x in ("data", "teacher", "student", "losses")}
        rows = [
            [name, f"{1e3 * seconds:.3f}", f"{100 * seconds / self.step:.1f} %"]
            for name, seconds in {**parts, "step": self.step}.items()
        ]
        return (
            f"{markdown.grid(['part', 'ms a step', 'share'], rows)}\n\n"
            f"compiled in {self.compile:.1f} s; {self.steps_per_second:.4g} steps/s, "
            f"{self.images_per_second:.4g} images/s on {self.device}"
        )


def measure(
    recipe: recipes.Recipe,
    state: training.TrainState,
    arrays: training.Arrays,
    batch: training.Batch,
    *,
    number: int,
    folder: pathlib.Path,
    devices: Sequence[jax.Device] | None = None,
    seconds: float = 5.0,
) -> Profile:
    """Times the parts of a step, and writes the times and a trace of a few steps.

    Every step has the same batch, and the host waits for it: a training that does not
    wait between steps is faster by the host's time for a call. It is for one process.
    In addition to the given state it needs memory for three states and the teacher's
    targets.

    Args:
      recipe: The recipe of the net. Its term "task" counts as the student's loss; in a
        phase without it, the student's loss is the mean of its logits.
      state: A state at the start of the phase or within it. It is copied, not donated.
      arrays: The arrays that the step reads, on the devices.
      batch: The batch, from `training.shard`.
      number: The number of the phase.
      folder: The folder for `profile.json`, and below `plugins/profile` for the files
        that XProf and TensorBoard read, and `perfetto_trace.json.gz` for
        ui.perfetto.dev.
      devices: The devices that the step is mapped over; None for all local ones.
      seconds: The time for taking samples, in seconds; at least three samples of each
        program are taken.

    Returns:
      The times of the parts.
    """
    devices = jax.local_devices() if devices is None else devices
    programs = _Programs(recipe, number, arrays, devices)
    whole, compile_seconds = programs.step(recipe, state, batch)
    look = programs.view(batch)
    images, targets = look()["image"], programs.targets(batch)
    taught, alone = _with_given_targets(recipe), _without_losses(recipe, number)
    with_given = {"batch": batch, "targets": targets}
    times, rounds = _medians(
        {
            "data": look,
            "student": programs.step(
                alone, alone.start_phase(number, state), with_given
            )[0],
            "losses": programs.step(taught, state, with_given)[0],
            "whole": whole,
        },
        seconds,
    )
    profile = Profile(
        compile=compile_seconds,
        step=times["whole"],
        data=times["data"],
        teacher=times["whole"] - times["losses"],
        student=times["student"] - times["data"],
        losses=times["losses"] - times["student"],
        images=images.shape[0] * images.shape[1],
        rounds=rounds,
        device=f"{len(devices)} x {devices[0].device_kind}",
    )
    _write_trace(whole, folder)
    rates = {x: getattr(profile, x) for x in ("steps_per_second", "images_per_second")}
    files.write_json(
        folder / results_folder.PROFILE_FILE, dataclasses.asdict(profile) | rates
    )
    return profile


@dataclasses.dataclass(frozen=True)
class _Programs:
    """The programs of the parts of a step.

    Attributes:
      recipe: The recipe of the net.
      number: The number of the phase.
      arrays: The arrays that all programs read.
      devices: The devices that the programs are mapped over.
    """

    recipe: recipes.Recipe
    number: int
    arrays: training.Arrays
    devices: Sequence[jax.Device]

    def view(self, batch: training.Batch) -> Callable[[], training.Batch]:
        """Returns a function that calls the view and waits for it."""
        view = self.recipe.view
        return self._map_and_wait(lambda key, a, batch: view(a.data, batch, key), batch)

    def targets(self, batch: training.Batch) -> Any:
        """Returns the teacher's targets of a batch."""
        view, teacher = self.recipe.view, self.recipe.teacher

        def teach(key, arrays, batch):
            return teacher.targets(arrays.teacher, view(arrays.data, batch, key))

        return self._map_and_wait(teach, batch)()

    def step(
        self, recipe: recipes.Recipe, state: training.TrainState, batch: training.Batch
    ) -> tuple[Callable[[], None], float]:
        """Returns `_make_stepper` for the phase's step of this or another recipe."""
        step = recipe.step(self.number)
        return _make_stepper(step, state, self.arrays, batch, self.devices)

    def _map_and_wait(
        self, function: Callable[..., Any], batch: training.Batch
    ) -> Callable[[], Any]:
        """Returns a function that calls `function(key, arrays, batch)` and waits."""
        key = training.replicate(jax.random.key(0), self.devices)
        mapped = jax.pmap(
            function,
            axis_name=training.AXIS,
            in_axes=(None, None, 0),
            devices=self.devices,
        )
        return lambda: jax.block_until_ready(mapped(key, self.arrays, batch))


def _with_given_targets(recipe: recipes.Recipe) -> recipes.Recipe:
    """Returns a recipe for batches `{"batch": ..., "targets": ...}`."""

    def view(data, batch, key):
        seen = recipe.view(data, batch["batch"], key)
        return {**seen, "targets": batch["targets"]}

    teacher = teachers.Teacher((), _given_targets)
    return dataclasses.replace(recipe, teacher=teacher, view=view)


def _without_losses(recipe: recipes.Recipe, number: int) -> recipes.Recipe:
    """Returns a recipe for given targets in which a phase has only the task."""
    plan = list(recipe.plan)
    plan[number] = _student_alone(plan[number])
    return dataclasses.replace(_with_given_targets(recipe), plan=tuple(plan))


def _write_trace(step: Callable[[], None], folder: pathlib.Path) -> None:
    """Writes a trace of a few steps."""
    with jax.profiler.trace(folder, create_perfetto_trace=True):
        for number in range(STEPS_TRACED):
            with jax.profiler.StepTraceAnnotation("step", step_num=number):
                step()


def _given_targets(arrays: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the teacher's targets in a batch, by layer."""
    return batch["targets"]


def _student_alone(phase: training.Phase) -> training.Phase:
    """Returns the phase with only the student's task."""
    mean = terms.from_objective(lambda student, teacher: jnp.mean(student["logits"]))
    # (Under the name of an existing term, since the state has its parameters.)
    name = "task" if "task" in phase.terms else next(iter(phase.terms))
    return phase._replace(
        terms={name: phase.terms.get("task", (1.0, mean))},
        trains=("student",) if phase.trains is None else phase.trains,
    )


def _make_stepper(
    step: training.Step,
    state: training.TrainState,
    arrays: training.Arrays,
    batch: training.Batch,
    devices: Sequence[jax.Device],
) -> tuple[Callable[[], None], float]:
    """Returns a function that takes a step and waits, and the seconds to compile it.

    A copy of the state is passed from call to call.
    """
    # (A state placed on devices may share memory with the given one.)
    state = jax.tree.map(jnp.copy, state)
    program = training.compile_step(step, state, arrays, batch, devices)

    def call():
        nonlocal state
        state, _ = jax.block_until_ready(program.step(state, arrays, batch))

    return call, program.seconds


def _medians(
    calls: Mapping[str, Callable[[], Any]], seconds: float
) -> tuple[dict[str, float], int]:
    """Returns the median seconds of each call, and the number of samples.

    Samples are taken in turn, A, B, C, A, B, C, ..., so that disturbances of the
    machine affect all calls equally.
    """
    for call in calls.values():
        call()
    samples: dict[str, list[float]] = {name: [] for name in calls}
    rounds, start = 0, time.perf_counter()
    while rounds < LEAST_ROUNDS or time.perf_counter() - start < seconds:
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            samples[name].append(time.perf_counter() - begin)
        rounds += 1
    return {name: statistics.median(x) for name, x in samples.items()}, rounds
