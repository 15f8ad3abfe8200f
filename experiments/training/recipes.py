"""Makes recipes, which build the states and steps for a net and a method.

The rehearsal of a run traces the steps; the training, the profile and the plan of a
table run them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import optax

from experiments import config as configs
from experiments import data, weights
from experiments.training import context as contexts
from experiments.training import optimizers
from rdljax import nets, teachers, training

State = training.TrainState


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A recipe, which makes the states and steps for a net and a method.

    A phase is given by its number in `plan`; the last phase has the task.

    Attributes:
      name: The name in messages and folders: the method's, or "teacher".
      config: The settings.
      net: The net that is trained.
      teacher: The source of the net's targets.
      plan: The phases.
      optimizers: The optimizer of each phase.
      view: The function from a step's input to the batch that nets see.
      example: A batch, for its shapes.
      initial_weights: The initial weights of the net; None for random ones.
    """

    name: str
    config: configs.Config
    net: nets.NetLike
    teacher: teachers.Teacher
    plan: tuple[training.Phase, ...]
    optimizers: tuple[optax.GradientTransformation, ...]
    view: training.View
    example: training.Batch
    initial_weights: weights.TrainedNet | None = None

    @property
    def stimuli(self) -> int:
        """Returns the number of stimuli of a measured RDM that a step takes."""
        return len(self.example.get("stimulus", ()))

    def initial_state(self, seed: int, arrays: training.Arrays, devices: int) -> State:
        """Returns the state of a seed before the first phase.

        Args:
          seed: The seed of the weights, and of all random numbers of the training.
          arrays: The arrays that a step reads.
          devices: The number of devices that the step is mapped over.
        """
        key = jax.random.key(seed)
        view_key = jax.random.key(0) if self.config.training.same_batches else None
        made = (self.net, self.teacher, self.plan, self.view)
        state = training.init(
            key, *made, arrays, self.example, devices=devices, view_key=view_key
        )
        if self.initial_weights is None:
            return state
        return contexts.with_weights(state, self.initial_weights)

    def start_phase(self, number: int, state: State) -> State:
        """Returns the state at the start of a phase, from any earlier state."""
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
    inputs: contexts.Inputs,
    *,
    net: nets.NetLike,
    teacher: teachers.Teacher,
    method: str,
    example: training.Batch,
    name: str | None = None,
) -> Recipe:
    """Returns the recipe that trains a net by a method.

    Args:
      config: The settings.
      dataset: The images.
      inputs: The inputs other than images.
      net: The net that is trained.
      teacher: The source of its targets.
      method: The method: `plain`, or parts of `experiments.methods` joined by `+`.
      example: A batch, for its shapes.
      name: The name in messages and folders; None for the method's. A "teacher" begins
        with random weights, learns only its task, and has its own number of epochs and
        learning rate.
    """
    teaches = name == "teacher"
    # (The weights of losses are for students: a teacher learns its task.)
    own = configs.change(config, weights=()) if teaches else config
    plan = contexts.plan(own, dataset, inputs, method)
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
        initial_weights=None if teaches else inputs.student,
    )
