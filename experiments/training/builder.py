"""How a method trains a net: the one builder of steps.

`make_recipe` has all that a training is made of; the rehearsal of a run traces its
steps, the training, the profile and the plan of a table run them (`prepare`).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import brain, data, weights
from experiments import config as configs
from experiments.training import context as contexts
from experiments.training import (
    loop,
    optimizers,
    profile,
    programs,
    recording,
)
from rdljax import teachers, training

State = training.TrainState


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The one way in which states and steps for a net and a method are made.

    A phase is named by its number in `plan`; the last is the one with the task.

    Attributes:
      name: The name in messages and folders: the method's, or "teacher".
      config: The settings.
      net: The net that is trained.
      teacher: The source of its targets.
      plan: The phases.
      optimizers: The optimizer of each phase.
      view: The view that a step has of its batch.
      example: A batch, for its shapes.
      begins: The weights that the net begins with; None for drawn ones.
    """

    name: str
    config: configs.Config
    net: Any
    teacher: teachers.Teacher
    plan: tuple[training.Phase, ...]
    optimizers: tuple[optax.GradientTransformation, ...]
    view: training.View
    example: training.Batch
    begins: weights.Trained | None = None

    @property
    def stimuli(self) -> int:
        """Returns the number of stimuli of a measured RDM that a step takes."""
        return len(self.example.get("stimulus", ()))

    def begin(self, seed: int, arrays: training.Arrays, devices: int) -> State:
        """Returns the state of a seed before the first phase.

        Args:
          seed: The seed of the weights, and of all that the training draws.
          arrays: The arrays that a step reads.
          devices: The number of devices that the step is mapped over.
        """
        key = jax.random.key(seed)
        view_key = jax.random.key(0) if self.config.training.same_batches else None
        made = (self.net, self.teacher, self.plan, self.view)
        state = training.init(key, *made, arrays, self.example, devices, view_key)
        return state if self.begins is None else contexts.begun(state, self.begins)

    def enter(self, number: int, state: State) -> State:
        """Returns the state at the start of a phase, from any state."""
        phase, optimizer = self.plan[number], self.optimizers[number]
        return training.begin_phase(state, phase, optimizer)

    def step(self, number: int) -> training.Step:
        """Returns the step of a phase."""
        return training.make_step(
            *(self.net, self.teacher, self.plan[number]),
            *(self.optimizers[number], self.view),
            micro_batches=self.config.training.micro_batches,
        )

    def finite_check(self, number: int) -> Callable[..., Any]:
        """Returns a function that finds non-finite numbers in a step of a phase."""
        return training.make_finite_check(
            *(self.net, self.teacher, self.plan[number], self.view),
            micro_batches=self.config.training.micro_batches,
        )


def make_recipe(
    config: configs.Config,
    dataset: data.Dataset,
    given: contexts.Inputs,
    net: Any,
    teacher: teachers.Teacher,
    method: str,
    example: training.Batch,
    name: str | None = None,
) -> Recipe:
    """Returns the recipe that trains a net by a method.

    Args:
      config: The settings.
      dataset: The images.
      given: The inputs besides images.
      net: The net that is trained.
      teacher: The source of its targets.
      method: The method: `plain`, or parts of `experiments.methods` joined by `+`.
      example: A batch, for its shapes.
      name: The name in messages and folders, the method's by default. A "teacher"
        begins as drawn, learns its task alone, and has epochs and a learning rate of
        its own.
    """
    teaches = name == "teacher"
    # (The weights are the students': a teacher learns its task.)
    own = configs.change(config, weights=()) if teaches else config
    plan = contexts.plan(own, dataset, given, method)
    if teaches:
        plan = [plan[-1]._replace(epochs=config.training.teacher_epochs)]
    steps_an_epoch = len(dataset.train.label) // config.training.batch
    return Recipe(
        name=name or method,
        config=config,
        net=net,
        teacher=teacher,
        plan=tuple(plan),
        optimizers=tuple(
            optimizers.make_optimizer(
                config.optimizer,
                phase.epochs,
                steps_an_epoch,
                teaches=teaches,
                start=phase is not plan[-1],
            )
            for phase in plan
        ),
        view=contexts.view(config, dataset, method),
        example=example,
        begins=None if teaches else given.student,
    )


class Prepared(NamedTuple):
    """A recipe for a net and a method, with programs that serve all seeds.

    Attributes:
      recipe: The recipe.
      trainers: The trainer of each phase.
    """

    recipe: Recipe
    trainers: list[loop.Trainer]


def prepare(
    context: contexts.Context,
    net: Any,
    teacher: teachers.Teacher,
    method: str,
    name: str | None = None,
) -> Prepared:
    """Returns the recipe and the trainers of a method's runs; nothing is compiled yet.

    Args:
      context: The settings and the data.
      net: The net, as for `make_recipe`, and so are `teacher`, `method` and `name`.
      teacher: The source of the net's targets.
      method: The method that it is trained by.
      name: The name in messages and folders.
    """
    config, feed = context.config, contexts.feed(context, method)
    example = feed(contexts.first_batches(config, context.given, method))
    given = (config, context.dataset, context.given)
    recipe = make_recipe(*given, net, teacher, method, example, name)
    arrays = training.Arrays(training.replicate(teacher.arrays), context.train)
    numbers = range(len(recipe.plan))
    trainers = [_trainer(context, recipe, n, arrays, feed) for n in numbers]
    if config.runtime.profile:
        _profile(context, recipe, arrays)
    return Prepared(recipe, trainers)


def _trainer(
    context: contexts.Context,
    recipe: Recipe,
    number: int,
    arrays: training.Arrays,
    feed: contexts.Feed,
) -> loop.Trainer:
    """Returns the trainer of a phase, from the state of a seed before the first one."""
    runtime, steps_an_epoch = context.config.runtime, context.steps_an_epoch
    driver = programs.driver(runtime.driver, steps_an_epoch, stream=runtime.stream)

    def begin(seed, devices):
        return recipe.enter(number, recipe.begin(seed, arrays, devices))

    step_fn = programs.Programs(
        recipe.name,
        recipe.step(number),
        unrolled=driver.unrolled,
        tell=context.tell,
    )
    examine: Callable[..., Any] = training.pmap(recipe.finite_check(number))
    return loop.Trainer(
        begin=begin,
        arrays=arrays,
        step_fn=step_fn,
        chunk=driver.chunk,
        examine=examine,
        evaluate=_evaluation(context, recipe, number),
        layers=recipe.net.layers,
        same_view=context.config.training.same_batches,
        feed=feed,
    )


def after(
    recipe: Recipe, number: int, trainer: loop.Trainer, before: dict[int, State]
) -> loop.Trainer:
    """Returns the trainer of a phase after another one.

    Args:
      recipe: The recipe of the net.
      number: The number of the phase.
      trainer: The trainer of the phase.
      before: The states at the end of the phase before, by seed. They are copied, since
        the first step takes the memory of the state that it is given.
    """

    def begin(seed, devices):
        return recipe.enter(number, jax.tree.map(_copy, before[seed]))

    return trainer._replace(begin=begin)


def _evaluation(
    context: contexts.Context, recipe: Recipe, number: int
) -> Callable[..., Callable[[], loop.Metrics]]:
    """Returns a function that measures a net at an epoch's end (`Trainer.evaluate`)."""
    config, dataset = context.config, context.dataset
    of_brain = context.given.measured if recipe.name != "teacher" else None
    last = number == len(recipe.plan) - 1

    def evaluate(state, job, epoch):
        own, found_rdms = recording.variables(state), None
        predicted = weights.predicting(recipe.net, own, dataset, context.validation)
        agreement = None
        if of_brain is not None:
            agreement = brain.rdms(config, of_brain, dataset, recipe.net, own)
        if last and job.seed == 0 and recording.keeps_rdms_of(epoch, job.epochs):
            found_rdms = recording.rdms_of(context, recipe.net, own)

        def metrics():
            classes, loss = predicted()
            error = 100 * np.mean(classes != context.validation.label)
            found = {"validation_error": float(error), "validation_loss": loss}
            if agreement is not None:
                found |= brain.progress(config, of_brain, agreement())
            if found_rdms is not None:
                recording.keep_rdms(job.folder / "rdms", epoch, context, found_rdms)
            return found

        return metrics

    return evaluate


def _profile(
    context: contexts.Context, recipe: Recipe, arrays: training.Arrays
) -> None:
    """Writes where the time of a step of the last phase goes, if that is not known."""
    place, last = context.folder / "profile" / recipe.name, len(recipe.plan) - 1
    if (place / "profile.json").exists():
        return
    state = recipe.enter(last, recipe.begin(0, arrays, jax.device_count()))
    measured = profile.measure(
        recipe.net,
        recipe.teacher,
        recipe.plan[last],
        recipe.optimizers[last],
        recipe.view,
        state,
        arrays,
        training.shard(recipe.example),
        place,
        micro_batches=context.config.training.micro_batches,
    )
    context.bar.write(f"{recipe.name}:\n\n{measured.table()}\n\n{place}")


def _copy(x: jax.Array) -> jax.Array:
    if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jnp.copy(x)
    words = jnp.copy(jax.random.key_data(x))
    return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))


def seeds_per_program(context: contexts.Context, prepared: Prepared, seeds: int) -> int:
    """Returns the number of seeds that go together: all, or the part of them that fits.

    A step is compiled to know its memory; the training takes the same program, so that
    it does not wait for that.

    Raises:
      OutOfMemory: Not one fits.
    """
    return min(
        _together(context, prepared.recipe, how, seeds) for how in prepared.trainers
    )


def _together(
    context: contexts.Context, recipe: Recipe, how: loop.Trainer, seeds: int
) -> int:
    """Returns `seeds_per_program` of one phase."""
    size = programs.trainings(context.config.runtime.together, seeds)
    state = jax.eval_shape(lambda: how.begin(0, jax.device_count()))
    while True:
        several = size > 1 and not how.same_view
        steps = (how.chunk, size) if several else (how.chunk,)
        states = [state] * size
        stacked = functools.partial(training.stack_trainings, same_view=how.same_view)
        given = (
            state if size == 1 else jax.eval_shape(stacked, states),
            how.arrays,
            jax.tree.map(functools.partial(_divided, steps), recipe.example),
        )
        if size == 1:
            how.step_fn.check(*given)
            return size
        if how.step_fn.fits_in_memory(*given, share=programs.SHARE):
            return size
        context.tell(f"{size} seeds together do not fit into the memory")
        size = -(-size // 2)


def _divided(steps: tuple[int, ...], x: np.ndarray) -> jax.ShapeDtypeStruct:
    """Returns the form of several steps' entries of a batch, split over the devices."""
    devices = jax.local_device_count()
    shape = (devices, *steps, len(x) // devices, *x.shape[1:])
    return jax.ShapeDtypeStruct(shape, x.dtype)
