"""Makes one step of a phase: the loss, its gradient and the optimizer's update."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rdljax import _checks, _extras, nets, teachers, terms
from rdljax.training import _params, _student
from rdljax.training.state import Batch, Phase, TrainState, View, Weight

with _extras.needed("optax", "rdljax.training"):
    import optax

Array = jax.Array
PyTree = Any

# `step(state, arrays, batch) -> (state, metrics)`; before it is mapped, it also takes
# an `axis_name`.
Step = Callable[..., tuple["TrainState", dict[str, Array]]]


def make_step(
    student: nets.NetLike,
    teacher: teachers.Teacher,
    phase: Phase,
    optimizer: optax.GradientTransformation,
    view: View,
    *,
    micro_batches: int = 1,
) -> Step:
    """Makes one step of a phase, as it runs on each device.

    Micro-batches are for batches that are too large for memory. The student runs on one
    after the other, and only the returned activations of each are kept. The loss is
    that of the whole batch, including relations between examples of different
    micro-batches, and each micro-batch is computed a second time for the gradient. The
    step equals that of the whole batch, except for the statistics of batch
    normalisation, which are those of each micro-batch, and for dropout. The teacher
    runs on the whole batch at once. (XLA:CPU is slow at convolutions in such a loop,
    but without a loop it would keep all activations.)

    A student with dropout takes its key as `rngs["dropout"]`. The masks differ from
    step to step and from device to device, so that the result of such a student depends
    on the number of devices.

    Args:
      student: Net of the student, the same as for `init`.
      teacher: Source of the targets, the same as for `init`.
      phase: The phase, with the terms of its loss.
      optimizer: The optimizer, the same as for `begin_phase`. If its update takes
        `value=`, it receives the loss, the mean over the devices.
      view: Function that makes the batch for nets and terms, the same as for `init`.
      micro_batches: Number of micro-batches into which the batch of a device is
        divided for the student. (Plain gradient accumulation would compare only
        examples of the same micro-batch, which is a different loss.)

    Returns:
      `step(state, arrays, batch, *, axis_name=None) -> (state, metrics)`. The batch is
      that of one device; `state.per_device` has no device axis. Metrics are the loss
      and the unweighted value of each term, averaged over the devices.
    """
    run = _student.of_phase(phase, micro_batches)
    update = _make_update(optimizer)

    def step(state, arrays, batch, *, axis_name=None):
        now, per_device = state
        mean = functools.partial(_mean, axis_name=axis_name)
        with jax.named_scope("view"):
            key = jax.random.fold_in(now.view_key, now.step)
            batch = view(arrays.data, batch, key)
        with jax.named_scope("teacher"):
            targets = teacher.targets(arrays.teacher, batch)
        dropout = _student.dropout_key(now, axis_name)
        trained, frozen = _params.partition(now.params, phase)

        def loss(trained):
            params = _params.combine(trained, frozen)
            variables = _params.variables(now, params)
            with jax.named_scope("student"):
                seen, model_state = run(student, variables, batch, dropout)
            total, values, states = compute_loss(
                phase, params, state, seen, targets, batch, axis_name=axis_name
            )
            return total, (values, states, model_state)

        (total, (values, states, model_state)), gradient = jax.value_and_grad(
            loss, has_aux=True
        )(trained)
        gradient, metrics = mean(gradient), mean({"loss": total, **values})
        trained, opt_state = update(gradient, now.opt_state, trained, metrics["loss"])
        new = now._replace(
            step=now.step + 1,
            params=_params.combine(trained, frozen),
            # Already equal if the net synchronises its statistics itself.
            model_state=mean(model_state),
            opt_state=opt_state,
            terms=now.terms | {k: s.replicated for k, s in states.items()},
        )
        per_device = per_device | {k: s.per_device for k, s in states.items()}
        return TrainState(new, per_device), metrics

    return step


def _make_update(optimizer: optax.GradientTransformation) -> Callable:
    """Returns `update(gradient, opt_state, trained, loss) -> (trained, opt_state)`."""
    takes_value = _takes(optimizer.update, "value")

    def update(gradient, opt_state, trained, loss):
        with jax.named_scope("optimizer"):
            extra = {"value": loss} if takes_value else {}
            updates, opt_state = optimizer.update(gradient, opt_state, trained, **extra)
            return optax.apply_updates(trained, updates), opt_state

    return update


def _takes(function: Callable, name: str) -> bool:
    """Returns whether a function takes a keyword argument of the given name."""
    parameters = inspect.signature(function).parameters
    kinds = [parameter.kind for parameter in parameters.values()]
    return name in parameters or inspect.Parameter.VAR_KEYWORD in kinds


def compute_loss(
    phase: Phase,
    params: dict[str, PyTree],
    state: TrainState,
    activations: Mapping[str, Array],
    targets: Mapping[str, Array],
    batch: Batch,
    *,
    axis_name: str | None,
) -> tuple[Array, dict[str, Array], dict[str, terms.State]]:
    """Computes the loss of a phase, the weighted sum of its terms.

    Args:
      phase: The phase, with the terms of its loss.
      params: Parameters of all terms by name, as in `Replicated.params`.
      state: The training state before the step, with the state of each term.
      activations: The student's activations by layer.
      targets: The teacher's activations by layer.
      batch: The batch from the view.
      axis_name: Name of the mapped axis of the devices, if any.

    Returns:
      The loss on this device, the unweighted value of each term by name, and the new
      state of each term by name.

    Raises:
      ValueError: A weight is not a number.
    """
    total: Any = 0.0
    values, states = {}, {}
    for name, (weight, term) in phase.terms.items():
        memory = terms.State(state.replicated.terms[name], state.per_device[name])
        with jax.named_scope(f"terms/{name}"):
            values[name], states[name] = term.apply(
                params[name], memory, activations, targets, batch, axis_name
            )
        weight = _at(weight, state.replicated.step)
        _checks.check_number(f"weight of the term {name!r}", weight)
        total += jnp.asarray(weight, values[name].dtype) * values[name]
    return total, values, states


def _mean(tree: PyTree, axis_name: str | None) -> PyTree:
    """Averages arrays over the devices, except integers (such as counters)."""
    if axis_name is None:
        return tree
    return jax.tree.map(
        lambda x: (
            lax.pmean(x, axis_name) if jnp.issubdtype(x.dtype, jnp.inexact) else x
        ),
        tree,
    )


def _at(weight: Weight, step: Array) -> Array | float:
    return weight(step) if callable(weight) else weight
