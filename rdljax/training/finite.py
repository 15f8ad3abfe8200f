"""Finds where a loss became NaN: the first values in a step that are not finite."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rdljax import nets, teachers
from rdljax.training import _params, _student
from rdljax.training import step as steps
from rdljax.training.state import Phase, TrainState, View

Array = jax.Array
PyTree = Any


class FiniteReport(NamedTuple):
    """Whether the inputs and intermediate values of a step are finite, by name.

    Attributes:
      state: The state before the step, by path.
      teacher: The teacher's activations, by layer.
      student: The student's activations, by layer.
      terms: The weighted value of each term, by term; and "loss", their sum.
      layers: The gradient of each term in the student's layers, by term and layer.
      gradients: The gradient of each term in the parameters, by term and path.
    """

    state: dict[str, Array]
    teacher: dict[str, Array]
    student: dict[str, Array]
    terms: dict[str, Array]
    layers: dict[str, dict[str, Array]]
    gradients: dict[str, dict[str, Array]]

    def explanation(self, layers: Sequence[str] = ()) -> str | None:
        """Describes the first values that are not finite; None if all are finite.

        Args:
          layers: The student's layers in depth order, to name the first of them.
        """

        def wrong(found, known=()):
            order = [*(k for k in known if k in found), *sorted(found)]
            return [name for name in dict.fromkeys(order) if not found[name]]

        if names := wrong(self.state):
            return f"the state is not finite before it: {_some(names)}"
        if names := wrong(self.teacher):
            return f"the teacher's layers are not finite: {_some(names)}"
        if names := wrong(self.student, layers):
            return f"the student's layers are not finite, the first is {_some(names)}"
        for by, what in ((self.layers, "layers"), (self.gradients, "parameters")):
            for term in sorted(by):
                value = "" if self.terms[term] else f"the term {term} is not finite"
                if names := wrong(by[term], layers):
                    value = value or f"the gradient of the term {term} is not finite"
                    return f"{value}: {what} {_some(names)}"
                if value:
                    return value
        return None if self.terms["loss"] else "the loss is not finite, all terms are"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def make_finite_check(
    student: nets.NetLike,
    teacher: teachers.Teacher,
    phase: Phase,
    view: View,
    *,
    micro_batches: int = 1,
) -> Callable[..., tuple[TrainState, FiniteReport]]:
    """Makes a function that finds values that are not finite in a step of a phase.

    To find out why a loss became NaN, call it with the state and batch of that step.

    Args:
      student: Net of the student, as for `make_step`.
      teacher: Source of the targets.
      phase: The phase, with the terms of its loss.
      view: Function that makes the batch for nets and terms.
      micro_batches: Number of micro-batches of a device's batch.

    Returns:
      `examine(state, arrays, batch, *, axis_name=None) -> (state, FiniteReport)`, to be
      mapped like a step. The state is returned unchanged.
    """
    run = _student.of_phase(phase, micro_batches)

    def examine(state, arrays, batch, *, axis_name=None):
        now = state.replicated
        finite = functools.partial(_finite, axis_name=axis_name)
        batch = view(arrays.data, batch, jax.random.fold_in(now.view_key, now.step))
        targets = teacher.targets(arrays.teacher, batch)
        trained, frozen = _params.partition(now.params, phase)
        dropout = _student.dropout_key(now, axis_name)

        def activations(trained):
            variables = _params.variables(now, _params.combine(trained, frozen))
            return run(student, variables, batch, dropout)[0]

        def value(alone, trained, seen):
            params = _params.combine(trained, frozen)
            total, *_ = steps.compute_loss(
                alone, params, state, seen, targets, batch, axis_name=axis_name
            )
            return total

        seen, pull = jax.vjp(activations, trained)
        values, layers, gradients = {}, {}, {}
        for name, term in phase.terms.items():
            alone = phase._replace(terms={name: term})
            values[name], (own, by_layer) = jax.value_and_grad(
                functools.partial(value, alone), argnums=(0, 1)
            )(trained, seen)
            layers[name] = by_layer
            gradients[name] = jax.tree.map(jnp.add, own, pull(by_layer)[0])
        values["loss"] = sum(values.values())
        return state, FiniteReport(
            state=finite({**now._asdict(), "per_device": state.per_device}),
            teacher=finite(targets),
            student=finite(seen),
            terms=finite(values),
            layers={name: finite(x) for name, x in layers.items()},
            gradients={name: finite(x) for name, x in gradients.items()},
        )

    return examine


def _finite(tree: PyTree, axis_name: str | None) -> dict[str, Array]:
    """Returns whether each array is finite on all devices, by path."""
    found = {}
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            every = jnp.all(jnp.isfinite(x)).astype(jnp.int32)
            every = every if axis_name is None else lax.pmin(every, axis_name)
            found[jax.tree_util.keystr(path, simple=True, separator="/")] = every
    return found
