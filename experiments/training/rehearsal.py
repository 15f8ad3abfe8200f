"""A step of every method, traced before anything is trained."""

import functools
import math
from typing import Any

import jax
import numpy as np

from experiments import command as commands
from experiments import config as configs
from experiments import data, methods
from experiments.training import context as contexts
from experiments.training import recipes
from rdljax import activations, nets, teachers, training


def rehearse(
    config: configs.Config,
    dataset: data.Dataset,
    given: contexts.Inputs = contexts.Inputs(),  # noqa: B008 (it is frozen)
) -> None:
    """Traces one step of every phase, so that impossible steps are told at once.

    Raises:
      UsageError: A step cannot be made with these settings.
    """
    count, *shape = dataset.train.image.shape
    train: dict[str, Any] = {
        "image": jax.ShapeDtypeStruct((count, math.prod(shape)), np.uint8),
        "label": dataset.train.label,
    }
    if given.measured is not None:
        train["stimuli"] = given.measured.images[given.measured.shown]
    train = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), train)
    student = contexts.student(config, dataset, given)
    steps = functools.partial(_steps, config, dataset, given, student)
    for method in config.method.names:
        try:
            of_brain = contexts.with_brain(config, given, teachers.none(), method)
            jax.eval_shape(functools.partial(steps, method, of_brain), train)
        except ZeroDivisionError as error:
            raise commands.UsageError(
                f"images of {dataset.shape} are too small for "
                f"{config.nets.teacher} or {config.nets.student}"
            ) from error
        except ValueError as error:
            raise commands.UsageError(f"{method} cannot be trained: {error}") from error


def _steps(
    config: configs.Config,
    dataset: data.Dataset,
    given: contexts.Inputs,
    student: nets.NetLike,
    method: str,
    of_brain: teachers.Teacher,
    train: dict[str, jax.Array],
) -> training.TrainState:
    """Takes a step of every phase of a method, as the training will."""
    first = contexts.first_batches(config, given, method)
    batch: dict[str, Any] = {"index": first.image}
    if first.stimulus is not None:
        batch["stimulus"] = first.stimulus
    if given.activations is not None and methods.reads_teacher(method):
        batch["targets"] = activations.batch_reader(given.activations)(first.image)
        source = teachers.from_batch()
    else:
        view = contexts.view(config, dataset, method)
        seen = view(train, batch, jax.random.key(0))
        source = _teacher(config, dataset, given, seen["image"])
    source = teachers.merge(source, of_brain)
    recipe = recipes.make_recipe(config, dataset, given, student, source, method, batch)
    arrays = training.Arrays(source.arrays, train)
    state = recipe.begin(0, arrays, devices=1)
    for number in range(len(recipe.plan)):
        state = recipe.enter(number, state)
        state, _ = recipe.step(number)(state, arrays, batch)
    return state


def _teacher(
    config: configs.Config, dataset: data.Dataset, given: contexts.Inputs, seen: Any
) -> teachers.Teacher:
    """Returns the teacher of all methods, with weights as drawn if it is trained here.

    Args:
      config: The settings.
      dataset: The images.
      given: The inputs besides images.
      seen: Images as the teacher sees them.
    """
    if given.teacher is not None:
        net = given.teacher.net(dataset, other_classes=True)
        return teachers.net(net, given.teacher.variables)
    if config.nets.teacher is None:
        return teachers.none()
    net = contexts.teacher(config, dataset)
    source = teachers.net(net, net.init(jax.random.key(0), seen))
    if names := methods.teacher_names(config):
        return teachers.ensemble(dict.fromkeys(names, source))
    return source
