"""Where the time of a training step goes.

Programs of which each does more of a step than the one before are compiled and timed in
turn; what a part takes is the difference between two of them:

    data      the view
    student   and the student with its task alone: forward, backward and optimizer
    losses    and all terms of the phase, the teacher's targets given
    teacher   and the teacher: the whole step

XLA fuses each program in its own way, and leaves out what nothing depends on (such as a
teacher that no term looks at), so that a part is what the step takes for it and not
what it would take alone. A difference of two programs that take the same is noise,
which may be negative.
"""

import dataclasses
import pathlib
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from experiments.results import markdown
from experiments.training import recipes
from rdljax import files, teachers, terms, training

# However long a step takes, so many samples have a median.
LEAST_ROUNDS = 3
STEPS_TRACED = 3


@dataclasses.dataclass(frozen=True)
class Profile:
    """The times of the parts of a step, in seconds.

    Attributes:
      compile: The time until the step was compiled.
      step: The time of the whole step, the sum of the next four.
      data: The time of the view (gather, crop, flip, normalise), and the host's time
        for any call.
      teacher: The time of the teacher's targets.
      student: The time of forward and backward for the task alone, and the optimizer.
      losses: The time of all other terms: their values, gradients and updates.
      images: The number of images of a step, over all devices.
      rounds: The number of samples; each time is their median.
      device: The device that it was measured on.
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

    Every step takes the same batch, and is waited for: a training that does not wait
    between steps is quicker by the host's time for a call. It is for one process.
    Memory is taken for three states and the teacher's targets, besides the given state.

    Args:
      recipe: How the net is trained. The term "task" is the student's; in a phase
        without one, the student's is the mean of its logits.
      state: A state at the start of the phase or within it. It is copied, not donated.
      arrays: The arrays as the step is given them, on the devices.
      batch: The batch, from `training.shard`.
      number: The number of the phase.
      folder: The folder for `profile.json`, and below `plugins/profile` for the files
        that XProf and TensorBoard read, and `perfetto_trace.json.gz` for
        ui.perfetto.dev.
      devices: The devices that the step is mapped over, all local ones by default.
      seconds: The time for taking samples, in seconds; at least three of each are
        taken.

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
            "student": programs.step(alone, alone.enter(number, state), with_given)[0],
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
    files.write_json(folder / "profile.json", dataclasses.asdict(profile) | rates)
    return profile


@dataclasses.dataclass(frozen=True)
class _Programs:
    """The programs of the parts of a step.

    Attributes:
      recipe: How the net is trained.
      number: The number of the phase.
      arrays: The arrays that all of them read.
      devices: The devices that they are mapped over.
    """

    recipe: recipes.Recipe
    number: int
    arrays: training.Arrays
    devices: Sequence[jax.Device]

    def view(self, batch: training.Batch) -> Callable[[], training.Batch]:
        """Returns a call of the view, which is waited for."""
        view = self.recipe.view
        return self._mapped(lambda key, a, batch: view(a.data, batch, key), batch)

    def targets(self, batch: training.Batch) -> Any:
        """Returns the teacher's targets of a batch."""
        view, teacher = self.recipe.view, self.recipe.teacher

        def teach(key, arrays, batch):
            return teacher.targets(arrays.teacher, view(arrays.data, batch, key))

        return self._mapped(teach, batch)()

    def step(
        self, recipe: recipes.Recipe, state: training.TrainState, batch: training.Batch
    ) -> tuple[Callable[[], None], float]:
        """Returns a step of the phase, by this or another recipe (`_stepping`)."""
        step = recipe.step(self.number)
        return _stepping(step, state, self.arrays, batch, self.devices)

    def _mapped(
        self, function: Callable[..., Any], batch: training.Batch
    ) -> Callable[[], Any]:
        """Returns a call of `function(key, arrays, batch)`, which is waited for."""
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
    """Returns a recipe for given targets, a phase of which has the task alone."""
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
    """Returns the teacher's targets, by layer, that a batch brings."""
    return batch["targets"]


def _student_alone(phase: training.Phase) -> training.Phase:
    """Returns the phase with the student's task alone."""
    mean = terms.from_objective(lambda student, teacher: jnp.mean(student["logits"]))
    # (In the place of a term that there is, whose parameters the state has.)
    name = "task" if "task" in phase.terms else next(iter(phase.terms))
    return phase._replace(
        terms={name: phase.terms.get("task", (1.0, mean))},
        trains=("student",) if phase.trains is None else phase.trains,
    )


def _stepping(
    step: training.Step,
    state: training.TrainState,
    arrays: training.Arrays,
    batch: training.Batch,
    devices: Sequence[jax.Device],
) -> tuple[Callable[[], None], float]:
    """Returns a step to call and wait for, and the seconds that it took to compile.

    A copy of the state goes from call to call.
    """
    # (A state placed on devices may share memory with the one that was given.)
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
    machine disturb all calls alike.
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
