"""The training plan, and the state that a step changes."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from rdljax import terms

Array = jax.Array

PyTree = Any
Batch = Mapping[str, Array]
Weight = float | Array | Callable[[Array], Array]

# `view(data, batch, key)` makes of the data on the device, a batch and a random key the
# batch that nets and terms see.
View = Callable[[PyTree, Batch, Array], Batch]


class Phase(NamedTuple):
    """A part of a training plan.

    Attributes:
      terms: By name, the weight of each term of the loss, and the term. A weight is a
        number or an optax schedule over the steps of the phase.
      epochs: The number of epochs.
      trains: The parameters that the phase trains: "student", names of terms, or paths
        below them such as "ft/translator". None: the student and the phase's terms.
        All other parameters stay fixed.
    """

    terms: Mapping[str, tuple[Weight, terms.Term]]
    epochs: int
    trains: tuple[str, ...] | None = None


class Replicated(NamedTuple):
    """The part of the training state that is the same on all devices.

    Attributes:
      step: The number of steps taken in this phase.
      params: The parameters `{"student": ..., term: ...}`, of all terms of the plan.
      model_state: The student's other variables, such as running statistics.
      opt_state: The optimizer's state, for the parameters that the phase trains.
      terms: By term, its replicated state.
      key: The random key of the phase.
      view_key: The random key of the view.
    """

    step: Array
    params: dict[str, PyTree]
    model_state: dict[str, PyTree]
    opt_state: PyTree
    terms: dict[str, PyTree]
    key: Array
    view_key: Array


class TrainState(NamedTuple):
    """All that a step changes.

    Attributes:
      replicated: The part that is the same on all devices, without a device axis.
      per_device: By term, the rows that are divided over the devices: leaves
        `[devices, rows, ...]`. (With several processes, each has the rows of its own
        devices between two steps; `gather_state` returns all.)
    """

    replicated: Replicated
    per_device: dict[str, PyTree]


class Arrays(NamedTuple):
    """All that a step reads and never changes.

    Attributes:
      teacher: The teacher's `Teacher.arrays`.
      data: The data that the view takes batches from.
    """

    teacher: PyTree
    data: PyTree


def check_one(state: TrainState) -> None:
    """Raises `ValueError` for the state of several trainings."""
    if state.replicated.key.ndim:
        raise ValueError(
            "expected the state of one training (`select_training`), not of several"
        )
