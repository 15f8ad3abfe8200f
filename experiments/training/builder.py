"""How a method trains a net: the one builder of steps."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import brain, weights
from experiments.training import context as contexts
from experiments.training import (
    loop,
    optimizers,
    profile,
    programs,
    recording,
)
from rdljax import teachers, training


class Recipe(NamedTuple):
    """How a net is trained by a method, compiled once for all seeds.

    Attributes:
      net: The net.
      phases: How each phase of the method is trained, and its epochs.
      begun: By seed, the state at the end of the phase before; filled by `fit`.
      shown: Stimuli in a step.
    """

    net: Any
    phases: list[tuple[loop.Trainer, int]]
    begun: dict[int, training.TrainState]
    shown: int = 0


def prepare(
    context: contexts.Context,
    net: Any,
    teacher: teachers.Teacher,
    method: str,
    name: str | None = None,
) -> Recipe:
    """Returns what the runs of a method share, its programs above all.

    Args:
      context: Settings and data.
      net: What is trained.
      teacher: Where its targets come from.
      method: `plain`, or parts of `experiments.methods` joined by `+`.
      name: In messages and folders; the method's by default. A "teacher" begins as
        drawn and has epochs and a learning rate of its own.
    """
    config, dataset, name = context.config, context.dataset, name or method
    teaches = name == "teacher"
    # (The weights are the students': a teacher learns its task.)
    own = dataclasses.replace(config, weights=()) if teaches else config
    plan = contexts.plan(own, dataset, context.given, method)
    view, load = contexts.view(config, dataset, method), contexts.feed(context, method)
    example = load(
        np.concatenate([*contexts.first(config, context.given, method).values()])
    )
    begins = None if teaches else context.given.student
    parts = {"micro_batches": config.micro_batches}
    arrays = training.Arrays(training.replicate(teacher.arrays), context.train)
    steps_an_epoch = len(dataset.train.label) // config.batch
    driver = programs.driver(config.driver, steps_an_epoch, stream=config.stream)
    started: dict[int, training.TrainState] = {}

    def trained(phase: training.Phase, epochs: int, last: bool) -> loop.Trainer:
        optimizer = optimizers.optimizer_of(
            config, teaches, epochs, steps_an_epoch, last
        )
        step = training.make_step(net, teacher, phase, optimizer, view, **parts)

        def begin(seed, devices):
            if last and seed in started:
                # (Copied: the first step takes what it is given.)
                state = jax.tree.map(_copy, started[seed])
                return training.begin_phase(state, phase, optimizer)
            key = jax.random.key(seed)
            view_key = jax.random.key(0) if config.same_batches else None
            state = training.init(
                key, net, teacher, plan, view, arrays, example, devices, view_key
            )
            if begins is not None:
                state = contexts.begun(state, begins)
            return training.begin_phase(state, phase, optimizer)

        def evaluate(state, job, epoch):
            own = recording.variables(state)
            wait = weights.predicting(net, own, dataset, context.validation)
            of_brain = rdms = None
            if context.given.measured is not None and not teaches:
                of_brain = brain.rdms(config, context.given.measured, dataset, net, own)
            if last and job.seed == 0 and recording.keeps_rdms_of(epoch, job.epochs):
                rdms = recording.rdms_of(context, net, own)

            def metrics():
                predicted, loss = wait()
                error = 100 * np.mean(predicted != context.validation.label)
                found = {"validation_error": float(error), "validation_loss": loss}
                if of_brain is not None:
                    found |= brain.progress(config, context.given.measured, of_brain())
                if rdms is not None:
                    recording.keep_rdms(job.folder / "rdms", epoch, context, rdms)
                return found

            return metrics

        take = programs.Programs(
            name, step, unrolled=driver.unrolled, tell=context.tell
        )
        place = context.folder / "profile" / name
        if last and config.profile and not (place / "profile.json").exists():
            measured = profile.measure(
                *(net, teacher, phase, optimizer, view),
                begin(0, jax.device_count()),
                arrays,
                training.shard(example),
                place,
                **parts,
            )
            context.bar.write(f"{name}:\n\n{measured.table()}\n\n{place}")
        return loop.Trainer(
            begin,
            arrays,
            take,
            driver.chunk,
            training.pmap(
                training.make_finite_check(net, teacher, phase, view, **parts)
            ),
            evaluate,
            net.layers,
            config.same_batches,
            load,
        )

    epochs = [phase.epochs for phase in plan]
    if teaches:
        epochs = [config.teacher_epochs]
    phases = [
        (trained(phase, count, i == len(plan) - 1), count)
        for i, (phase, count) in enumerate(zip(plan, epochs, strict=True))
    ]
    return Recipe(net, phases, started, len(example.get("stimulus", ())))


def _copy(x: jax.Array) -> jax.Array:
    if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jnp.copy(x)
    words = jnp.copy(jax.random.key_data(x))
    return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))


def seeds_per_program(context: contexts.Context, recipe: Recipe, seeds: int) -> int:
    """How many seeds go together: as many as are wanted, or the part of them that fits.

    To know what a step takes is to compile it, so that no training waits for that.

    Raises:
      OutOfMemory: Not one fits.
    """
    sizes = [_together(context, how, recipe.shown, seeds) for how, _ in recipe.phases]
    return min(sizes)


def _together(
    context: contexts.Context, how: loop.Trainer, shown: int, seeds: int
) -> int:
    config = context.config
    size = programs.trainings(config.together, seeds)
    state = jax.eval_shape(lambda: how.begin(0, jax.device_count()))
    one = how.feed(np.zeros(config.batch + shown, np.int32))
    while True:
        several = size > 1 and not how.same_view
        steps = (how.chunk, size) if several else (how.chunk,)
        states = [state] * size
        stacked = functools.partial(training.stack_trainings, same_view=how.same_view)
        given = (
            state if size == 1 else jax.eval_shape(stacked, states),
            how.arrays,
            jax.tree.map(functools.partial(_divided, steps), one),
        )
        if size == 1:
            how.step_fn.check(*given)
            return size
        if how.step_fn.fits_in_memory(*given, share=programs.SHARE):
            return size
        context.tell(f"{size} seeds together do not fit into the memory")
        size = -(-size // 2)


def _divided(steps: tuple[int, ...], x: np.ndarray) -> jax.ShapeDtypeStruct:
    """The form of several steps' entries of a batch, divided over the devices."""
    devices = jax.local_device_count()
    shape = (devices, *steps, len(x) // devices, *x.shape[1:])
    return jax.ShapeDtypeStruct(shape, x.dtype)
