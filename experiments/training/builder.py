"""Builds the trainers of a method, whose programs are used for all seeds."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import brain, weights
from experiments.results import folder as results_folder
from experiments.training import context as contexts
from experiments.training import (
    loop,
    profile,
    programs,
    recipes,
    recording,
)
from rdljax import nets, teachers, training

State = training.TrainState


class MethodTrainers(NamedTuple):
    """A recipe for a net and a method, with programs that are used for all seeds.

    Attributes:
      recipe: The recipe.
      trainers: The trainer of each phase.
    """

    recipe: recipes.Recipe
    trainers: list[loop.Trainer]


def prepare(
    context: contexts.Context,
    net: nets.NetLike,
    teacher: teachers.Teacher,
    method: str,
    name: str | None = None,
) -> MethodTrainers:
    """Returns the recipe and the trainers of a method's runs; nothing is compiled yet.

    Args:
      context: The settings and the data.
      net: The net that is trained.
      teacher: The source of the net's targets.
      method: The method of the training.
      name: The name in messages and folders; None for the method's.
    """
    config, feed = context.config, contexts.feed(context, method)
    example = feed(contexts.first_batches(config, context.inputs, method))
    recipe = recipes.make_recipe(
        *(config, context.dataset, context.inputs),
        net=net,
        teacher=teacher,
        method=method,
        example=example,
        name=name,
    )
    arrays = training.Arrays(training.replicate(teacher.arrays), context.train)
    numbers = range(len(recipe.plan))
    trainers = [_trainer(context, recipe, n, arrays, feed) for n in numbers]
    if config.runtime.profile:
        _profile(context, recipe, arrays)
    return MethodTrainers(recipe, trainers)


def _trainer(
    context: contexts.Context,
    recipe: recipes.Recipe,
    number: int,
    arrays: training.Arrays,
    feed: contexts.Feed,
) -> loop.Trainer:
    """Returns the trainer of a phase, which starts from a seed's initial state."""
    runtime, steps_an_epoch = context.config.runtime, context.steps_an_epoch
    driver = programs.driver(runtime.driver, steps_an_epoch, stream=runtime.stream)

    def begin(seed, devices):
        return recipe.start_phase(number, recipe.initial_state(seed, arrays, devices))

    step_fn = programs.Programs(
        recipe.name,
        recipe.step(number),
        unrolled=driver.unrolled,
        tell=context.print_message,
    )
    examine: Callable[..., Any] = training.pmap(recipe.finite_check(number))
    return loop.Trainer(
        begin=begin,
        arrays=arrays,
        step_fn=step_fn,
        chunk=driver.chunk,
        examine=examine,
        evaluate=_Evaluation(context, recipe, last=number == len(recipe.plan) - 1),
        layers=recipe.net.layers,
        same_view=context.config.training.same_batches,
        feed=feed,
    )


def next_trainer(
    recipe: recipes.Recipe, number: int, trainer: loop.Trainer, before: dict[int, State]
) -> loop.Trainer:
    """Returns the trainer of a phase that follows another one.

    Args:
      recipe: The recipe of the net.
      number: The number of the phase.
      trainer: The trainer of the phase.
      before: The states at the end of the previous phase, by seed. They are copied,
        since the first step donates the memory of its input state.
    """

    def begin(seed, devices):
        return recipe.start_phase(number, jax.tree.map(_copy, before[seed]))

    return dataclasses.replace(trainer, begin=begin)


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    """The measurement of a net at an epoch's end (`Trainer.evaluate`).

    Attributes:
      context: The settings and the data.
      recipe: The recipe of the net.
      last: Whether the phase is the last one, in which RDMs are saved.
    """

    context: contexts.Context
    recipe: recipes.Recipe
    last: bool

    def __call__(
        self, state: State, job: loop.Job, epoch: int
    ) -> Callable[[], loop.Metrics]:
        """Starts the measurement; returns a function that waits for the metrics."""
        context, net = self.context, self.recipe.net
        own = training.student_variables(state)
        predicted = weights.begin_predicting(
            net, own, context.dataset, context.validation
        )
        agreement = None
        if (measured := self._measured_rdms()) is not None:
            agreement = brain.rdms(context.config, measured, context.dataset, net, own)
        save_rdms = None
        if self.last and job.seed == 0 and recording.is_rdm_epoch(epoch, job.epochs):
            rdms = recording.rdms_of(context, net, own)
            save_rdms = functools.partial(
                recording.save_epoch_rdms,
                job.folder / results_folder.EPOCH_RDMS_FOLDER,
                epoch,
                context,
                rdms,
            )
        return functools.partial(self._metrics, predicted, agreement, save_rdms)

    def _measured_rdms(self) -> brain.Brain | None:
        """Returns the measured RDMs to compare a student with; None for a teacher."""
        return self.context.inputs.measured if self.recipe.name != "teacher" else None

    def _metrics(
        self,
        predicted: Callable[[], tuple[np.ndarray, float]],
        agreement: Callable[[], dict[str, np.ndarray]] | None,
        save_rdms: Callable[[], None] | None,
    ) -> loop.Metrics:
        """Waits for the metrics, and saves the RDMs.

        Args:
          predicted: The function that waits for the classes and the loss.
          agreement: The function that waits for the RDMs of the measured stimuli.
          save_rdms: The function that waits for the RDMs of test images and writes
            them.
        """
        classes, loss = predicted()
        error = 100 * np.mean(classes != self.context.validation.label)
        found = {"validation_error": float(error), "validation_loss": loss}
        if agreement is not None:
            measured = contexts.not_none(self._measured_rdms())
            found |= brain.progress(self.context.config, measured, agreement())
        if save_rdms is not None:
            save_rdms()
        return found


def _profile(
    context: contexts.Context, recipe: recipes.Recipe, arrays: training.Arrays
) -> None:
    """Writes the profile of a step of the last phase, unless there is one."""
    place = context.folder / results_folder.PROFILES / recipe.name
    last = len(recipe.plan) - 1
    if (place / results_folder.PROFILE_FILE).exists():
        return
    state = recipe.start_phase(
        last, recipe.initial_state(0, arrays, jax.device_count())
    )
    batch = training.shard(recipe.example)
    measured = profile.measure(recipe, state, arrays, batch, number=last, folder=place)
    context.bar.write(f"{recipe.name}:\n\n{measured.table()}\n\n{place}")


def _copy(x: jax.Array) -> jax.Array:
    if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jnp.copy(x)
    words = jnp.copy(jax.random.key_data(x))
    return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))


def choose_seeds_per_program(
    context: contexts.Context, method_trainers: MethodTrainers, seeds: int
) -> int:
    """Returns the number of seeds trained together: all, or as many as fit.

    A step is compiled to determine its memory; the training uses the same program, so
    that nothing is compiled twice.

    Raises:
      OutOfMemory: If not even one seed fits.
    """
    return min(
        _choose_for_phase(context, method_trainers.recipe, trainer, seeds)
        for trainer in method_trainers.trainers
    )


def _choose_for_phase(
    context: contexts.Context, recipe: recipes.Recipe, trainer: loop.Trainer, seeds: int
) -> int:
    """Returns `choose_seeds_per_program` for one phase."""
    size = programs.trainings(context.config.runtime.seeds_per_program, seeds)
    state = jax.eval_shape(lambda: trainer.begin(0, jax.device_count()))
    while True:
        several = size > 1 and not trainer.same_view
        steps = (trainer.chunk, size) if several else (trainer.chunk,)
        states = [state] * size
        stacked = functools.partial(
            training.stack_trainings, same_view=trainer.same_view
        )
        step_inputs = (
            state if size == 1 else jax.eval_shape(stacked, states),
            trainer.arrays,
            jax.tree.map(functools.partial(_shape_per_device, steps), recipe.example),
        )
        if size == 1:
            trainer.step_fn.check(*step_inputs)
            return size
        if trainer.step_fn.fits_in_memory(*step_inputs, share=programs.SHARE):
            return size
        context.print_message(f"{size} seeds together do not fit into the memory")
        size = -(-size // 2)


def _shape_per_device(steps: tuple[int, ...], x: np.ndarray) -> jax.ShapeDtypeStruct:
    """Returns the shape of several steps' entry of a batch, split over the devices."""
    devices = jax.local_device_count()
    shape = (devices, *steps, len(x) // devices, *x.shape[1:])
    return jax.ShapeDtypeStruct(shape, x.dtype)
