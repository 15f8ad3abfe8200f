"""Combines several steps, or the steps of several trainings, in one program."""

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rdljax import _checks
from rdljax.training.state import Replicated, TrainState
from rdljax.training.step import Step

PyTree = Any


def scan_steps(step: Step, *, unrolled: bool = False) -> Step:
    """Combines successive steps in one call, so that the host is involved only once.

    Args:
      step: A step from `make_step` or `vmap_trainings`.
      unrolled: Whether to unroll the steps instead of a loop on the device. Compile
        time then grows with the number of steps; but XLA:CPU is 10 to 40 times slower
        at the gradients of convolutions in a loop.

    Returns:
      `steps(state, arrays, batches, *, axis_name=None) -> (state, metrics)`, to be
      mapped like a step. Batches and metrics have leaves `[steps, ...]`.
    """

    def steps(state, arrays, batches, *, axis_name=None):
        def next_step(state, batch):
            return step(state, arrays, batch, axis_name=axis_name)

        if unrolled and jax.tree.leaves(batches)[0].shape[0] == 1:
            # `scan` makes a loop of a single step, even if unrolled.
            state, metrics = next_step(state, jax.tree.map(lambda x: x[0], batches))
            return state, jax.tree.map(lambda x: x[None], metrics)
        return lax.scan(next_step, state, batches, unroll=unrolled or 1)

    return steps


def vmap_trainings(step: Step, *, unrolled: bool = False) -> Step:
    """Vectorises a step over several trainings, which then run as one program.

    Trainings that share the key of their view (`stack_trainings(same_view=True)`) also
    share their batches, so that the view and the teacher, which depend only on the
    batch, are computed once.

    Args:
      step: A step from `make_step`.
      unrolled: Whether to unroll the trainings instead of vectorising them: XLA:CPU is
        slow at convolutions whose kernels differ from example to example.

    Returns:
      `step(state, arrays, batch, *, axis_name=None) -> (state, metrics)`, to be mapped
      like a step. The state is from `stack_trainings`; the batch has leaves
      `[trainings, ...]`, or is the batch that all share; metrics are `[trainings]`.
    """
    return vmap_over(lambda _: step, (), unrolled=unrolled)


def vmap_over(
    step_of: Callable[[PyTree], Step], numbers: PyTree, *, unrolled: bool = False
) -> Step:
    """Vectorises trainings that differ in numbers: weights, temperatures, rates.

        kd = terms.on_layers("logits", terms.from_objective(objectives.kd))

        def weighing(weight):
            phase = training.Phase({"task": (1.0, task), "kd": (weight, kd)}, epochs=20)
            return training.make_step(net, teacher, phase, optimizer, view)

        step = training.vmap_over(weighing, jnp.array([0.1, 0.3, 1.0]))

    Args:
      step_of: Function from the numbers of one training to its step.
      numbers: Pytree with leaves `[trainings, ...]`.
      unrolled: As for `vmap_trainings`.

    Returns:
      A step as from `vmap_trainings`.
    """

    def steps(state, arrays, batch, *, axis_name=None):
        def one(numbers, state, batch):
            return step_of(numbers)(state, arrays, batch, axis_name=axis_name)

        shared = state.replicated.view_key.ndim == 0
        if unrolled:

            def alone(number):
                pick = operator.itemgetter(number)
                own = batch if shared else jax.tree.map(pick, batch)
                selected = _select(state, number, axis=0)
                return one(jax.tree.map(pick, numbers), selected, own)

            count = state.replicated.key.shape[0]
            states, metrics = zip(*map(alone, range(count)), strict=True)
            metrics = jax.tree.map(lambda *x: jnp.stack(x), *metrics)
            return _stack(states, shared, axis=0), metrics
        first_axis: Any = 0
        axes = TrainState(_axes(shared), per_device=first_axis)
        return jax.vmap(
            one, in_axes=(0, axes, None if shared else 0), out_axes=(axes, 0)
        )(numbers, state, batch)

    return steps


def stack_trainings(
    states: Sequence[TrainState], *, same_view: bool = False
) -> TrainState:
    """Stacks the states of several trainings, for `vmap_trainings`.

    Args:
      states: The states, all at the same step (see `check_same_step`; the step of the
        first is kept) and for the same number of devices.
      same_view: Whether all trainings have the same batches, from a view with the key
        of the first.

    Returns:
      A state with leaves `[trainings, ...]`; in `per_device`
      `[devices, trainings, ...]`.
    """
    return _stack(states, same_view, axis=1)


def check_same_step(states: Sequence[TrainState]) -> None:
    """Checks that several trainings are at the same step, before they are stacked.

    Args:
      states: The states of the trainings, outside jit.

    Raises:
      ValueError: The trainings are at different steps.
    """
    steps = [int(state.replicated.step) for state in states]
    if len({*steps}) > 1:
        raise ValueError(f"expected trainings at the same step, got steps {steps}")


def check_one_training(state: TrainState) -> None:
    """Checks that a state is that of one training, not of several.

    Args:
      state: The state of a training.

    Raises:
      ValueError: The state is from `stack_trainings`.
    """
    if state.replicated.key.ndim:
        raise ValueError(
            "expected the state of one training (see `select_training`), not of several"
        )


def select_training(state: TrainState, number: int) -> TrainState:
    """Returns the state of one of several trainings (`stack_trainings`).

    Args:
      state: The state of several trainings.
      number: Index of the training, from 0.

    Raises:
      ValueError: The state is that of one training, or the index is out of range.
    """
    trainings = state.replicated.key.shape
    if not trainings:
        raise ValueError("expected the state of several trainings (`stack_trainings`)")
    number = _checks.as_count("number of a training", number, at_least=0)
    if number >= trainings[0]:
        raise ValueError(f"the training must be 0 to {trainings[0] - 1}, got {number}")
    return _select(state, number, axis=1)


def _axes(same_view: bool) -> Replicated:
    """Returns the axis of the trainings for each field of the state."""
    axes: tuple[Any, ...] = (None, 0, 0, 0, 0, 0, None if same_view else 0)
    return Replicated(*axes)


def _stack(states: Sequence[TrainState], same_view: bool, axis: int) -> TrainState:
    """Stacks states, with the trainings of `per_device` along the given axis."""

    def one(axis, *trees):
        if axis is None:
            return trees[0]
        return jax.tree.map(lambda *x: jnp.stack(x, axis), *trees)

    return TrainState(
        Replicated(*map(one, _axes(same_view), *(s.replicated for s in states))),
        one(axis, *(state.per_device for state in states)),
    )


def _select(state: TrainState, number: int, axis: int) -> TrainState:
    """Selects a training; those of `per_device` are along the given axis."""

    def one(axis, tree):
        if axis is None:
            return tree
        return jax.tree.map(lambda x: x[(slice(None),) * axis + (number,)], tree)

    axes = _axes(state.replicated.view_key.ndim == 0)
    return TrainState(
        Replicated(*map(one, axes, state.replicated)), one(axis, state.per_device)
    )
