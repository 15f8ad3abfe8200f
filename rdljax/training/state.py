"""Defines the training plan and the state that a step updates."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from rdljax import terms
from rdljax._types import Batch

Array = jax.Array

PyTree = Any
Weight = float | Array | Callable[[Array], Array]

# `view(data, batch, key)` returns the batch for nets and terms, from the data on the
# device, a batch and a random key.
View = Callable[[PyTree, Batch, Array], Batch]


class Phase(NamedTuple):
    """A part of a training plan.

    Attributes:
      terms: Dict of the terms of the loss by name, each with its weight. A weight is a
        number or an optax schedule over the steps of the phase.
      epochs: Number of epochs.
      trains: Parameters that the phase trains: "student", names of terms, or paths
        below them such as "ft/translator". All other parameters stay fixed. None: the
        student and the terms of the phase.
    """

    terms: Mapping[str, tuple[Weight, terms.Term]]
    epochs: int
    trains: tuple[str, ...] | None = None


class Replicated(NamedTuple):
    """The part of the training state that is the same on all devices.

    Attributes:
      step: Number of steps taken in this phase.
      params: Parameters `{"student": ..., term: ...}`, for all terms of the plan.
      model_state: Other variables of the student, such as running statistics.
      opt_state: State of the optimizer, for the parameters that the phase trains.
      terms: Dict of the replicated state of each term.
      key: Random key of the phase.
      view_key: Random key of the view.
    """

    step: Array
    params: dict[str, PyTree]
    model_state: dict[str, PyTree]
    opt_state: PyTree
    terms: dict[str, PyTree]
    key: Array
    view_key: Array


class TrainState(NamedTuple):
    """The training state, all that a step updates.

    Attributes:
      replicated: The part that is the same on all devices, without a device axis.
      per_device: Dict of the rows of each term that are divided over the devices:
        leaves `[devices, rows, ...]`. (With several processes, each has the rows of its
        own devices between steps; `gather_state` returns all.)
    """

    replicated: Replicated
    per_device: dict[str, PyTree]


def student_variables(state: TrainState) -> dict[str, PyTree]:
    """Returns the student's Flax variables, for its `apply` or for `teachers.net`.

    Args:
      state: The state of one training, or of several (`stack_trainings`), whose
        variables then have leaves `[trainings, ...]`.
    """
    now = state.replicated
    return {"params": now.params["student"], **now.model_state}


class Arrays(NamedTuple):
    """The constant inputs of a step.

    Attributes:
      teacher: Arrays of the teacher (`Teacher.arrays`).
      data: Data from which the view makes batches.
    """

    teacher: PyTree
    data: PyTree
