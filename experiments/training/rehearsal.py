"""Traces one step of every method before anything is trained."""

import dataclasses
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
    inputs: contexts.Inputs = contexts.Inputs(),  # noqa: B008 (it is frozen)
) -> None:
    """Traces one step of every phase, so that impossible steps are reported early.

    Raises:
      UsageError: If a step is impossible with these settings.
    """
    dataset = data.for_students(dataset, config.data.student_per_class)
    count, *shape = dataset.train.image.shape
    train: dict[str, Any] = {
        "image": jax.ShapeDtypeStruct((count, math.prod(shape)), np.uint8),
        "label": dataset.train.label,
    }
    if inputs.measured is not None:
        train["stimuli"] = inputs.measured.images[inputs.measured.shown]
    train = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), train)
    student = contexts.student(config, dataset, inputs)
    rehearsal = _Rehearsal(config, dataset, inputs, student)
    for method in config.method.names:
        try:
            of_brain = contexts.with_brain(config, inputs, teachers.none(), method)
            steps = functools.partial(rehearsal.steps, method, of_brain)
            jax.eval_shape(steps, train)
        except ZeroDivisionError as error:
            raise commands.UsageError(
                f"images of {dataset.shape} are too small for "
                f"{config.nets.teacher} or {config.nets.student}"
            ) from error
        except ValueError as error:
            words = f"{method} cannot be trained: {error}"
            if flags := methods.layer_flags(method):
                words += f"; layers are set by {flags}"
            raise commands.UsageError(words) from error


@dataclasses.dataclass(frozen=True)
class _Rehearsal:
    """The inputs shared by the steps of all methods.

    Attributes:
      config: The settings.
      dataset: The images.
      inputs: The inputs other than images.
      student: The students' net.
    """

    config: configs.Config
    dataset: data.Dataset
    inputs: contexts.Inputs
    student: nets.NetLike

    def steps(
        self, method: str, of_brain: teachers.Teacher, train: dict[str, jax.Array]
    ) -> training.TrainState:
        """Takes a step of every phase of a method, as in the training.

        Args:
          method: The method.
          of_brain: The teacher of its measured RDMs.
          train: The training images and labels, and stimuli.
        """
        batch, source = self._first_batch(method, train)
        source = teachers.merge(source, of_brain)
        recipe = recipes.make_recipe(
            *(self.config, self.dataset, self.inputs),
            net=self.student,
            teacher=source,
            method=method,
            example=batch,
        )
        arrays = training.Arrays(source.arrays, train)
        state = recipe.initial_state(0, arrays, devices=1)
        for number in range(len(recipe.plan)):
            state = recipe.start_phase(number, state)
            state, _ = recipe.step(number)(state, arrays, batch)
        return state

    def _first_batch(
        self, method: str, train: dict[str, jax.Array]
    ) -> tuple[dict[str, Any], teachers.Teacher]:
        """Returns the first batch of a method, and the source of its targets."""
        first = contexts.first_batches(self.config, self.inputs, method)
        batch: dict[str, Any] = {"index": first.image}
        if first.stimulus is not None:
            batch["stimulus"] = first.stimulus
        stored = self.inputs.activations
        if stored is not None and methods.reads_teacher(method):
            batch["targets"] = activations.batch_reader(stored)(first.image)
            return batch, teachers.from_batch()
        view = contexts.view(self.config, self.dataset, method)
        seen = view(train, batch, jax.random.key(0))
        return batch, self._teacher(seen["image"])

    def _teacher(self, seen: Any) -> teachers.Teacher:
        """Returns the teacher of all methods; random weights if it is trained here.

        Args:
          seen: Images, normalised and augmented as for the teacher.
        """
        trained = self.inputs.teacher
        if trained is not None:
            net = trained.net(self.dataset, other_classes=True)
            return teachers.net(net, trained.variables)
        if self.config.nets.teacher is None:
            return teachers.none()
        net = contexts.teacher(self.config, self.dataset)
        source = teachers.net(net, net.init(jax.random.key(0), seen))
        if names := methods.teacher_names(self.config):
            return teachers.ensemble(dict.fromkeys(names, source))
        return source
