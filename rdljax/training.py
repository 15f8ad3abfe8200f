"""The training state and the optax step, pmapped across devices.

A training plan is a sequence of phases. A phase has the terms of its loss with their
weights, which parameters it trains, and for how long. The step's body knows of the
devices an axis name only, so the same body runs under `pmap`, `vmap(axis_name=...)`,
`jit(shard_map(...))`, or unmapped with `axis_name=None`.

    plan = [training.Phase({"task": (1.0, terms.cross_entropy())}, epochs=20)]
    arrays = training.replicate(training.Arrays(teacher.arrays, data))
    state = training.init(key, net, teacher, plan, view, arrays, batch)
    state = training.start(state, plan[0], optimizer)
    step = training.pmap(training.body(net, teacher, plan[0], optimizer, view))
    state, metrics = step(state, arrays, training.shard(batch))
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from rdljax import _names, teachers, terms

Array = jax.Array
PyTree = Any
Batch = Mapping[str, Array]
Weight = float | Callable[[Array], Array]
# From the data on the device, a batch and a key to the batch that nets and terms see.
View = Callable[[PyTree, Batch, Array], Batch]

AXIS = "devices"


class Phase(NamedTuple):
    """A part of a training plan.

    Attributes:
      terms: By name, the weight of each term of the loss, and the term. A weight is a
        number or an optax schedule over the steps of the phase.
      epochs: How long the phase lasts.
      trains: Which parameters the phase trains: "student", names of terms, or paths
        below them such as "ft/translator". None for the student and the phase's terms.
        All others stay as they are.
    """

    terms: Mapping[str, tuple[Weight, terms.Term]]
    epochs: int
    trains: tuple[str, ...] | None = None


class Replicated(NamedTuple):
    """The part of the training state that is the same on all devices.

    Attributes:
      step: Steps taken in this phase.
      params: `{"student": ..., term: ...}`, of all terms of the plan.
      model_state: The student's other variables, such as running statistics.
      opt_state: The optimizer's state, for what the phase trains.
      terms: By term, what it remembers.
      key: Where the phase's randomness comes from.
    """

    step: Array
    params: dict[str, PyTree]
    model_state: dict[str, PyTree]
    opt_state: PyTree
    terms: dict[str, PyTree]
    key: Array


class TrainState(NamedTuple):
    """All that a step changes.

    Attributes:
      replicated: The same on all devices, without a device axis.
      per_device: By term, what differs by device: leaves `[devices, ...]`.
    """

    replicated: Replicated
    per_device: dict[str, PyTree]


class Arrays(NamedTuple):
    """All that a step reads and never changes.

    Attributes:
      teacher: `Teacher.arrays`.
      data: What the view takes batches from.
    """

    teacher: PyTree
    data: PyTree


def init(
    key: Array,
    student,
    teacher: teachers.Teacher,
    plan: Sequence[Phase],
    view: View,
    arrays: Arrays,
    batch: Batch,
    devices: int | None = None,
) -> TrainState:
    """The state before the first phase; `start` readies it for a phase.

    Args:
      key: The random key of the whole training.
      student: A Flax module that answers a dict of activations.
      teacher: Where the targets come from.
      plan: All phases: the parameters of all their terms are made here. A name stands
        for the same term in every phase.
      view: `view(data, batch, key)` answers the batch that nets and terms see: at least
        `image`.
      arrays: What the teacher holds and the data.
      batch: A batch; only its shapes count.
      devices: Over how many devices the step will be mapped, all local ones by default.

    Raises:
      ValueError: A term is called "student" or "loss", or a name stands for different
        terms in different phases.
      UnknownName: A term is between layers that a net does not have.
    """
    student_key, terms_key, phase_key = jax.random.split(key, 3)
    example = jax.eval_shape(view, arrays.data, batch, phase_key)
    # One image will do: only the shape of an image counts. Not jitted: XLA would take
    # minutes to compile the drawing of a deep net's arrays in one program.
    images = jnp.zeros((1, *example["image"].shape[1:]), example["image"].dtype)
    variables = dict(student.init(student_key, images))
    seen = jax.eval_shape(student.apply, variables, example["image"])
    taught = jax.eval_shape(teacher.targets, arrays.teacher, example)

    params, states = {"student": variables.pop("params")}, {}
    for i, (name, term) in enumerate(sorted(_all_terms(plan).items())):
        if name in ("student", "loss"):
            raise ValueError(f"a term may not be called {name!r}")
        own_key = jax.random.fold_in(terms_key, i)
        params[name], states[name] = term.init(own_key, seen, taught)

    count = jax.local_device_count() if devices is None else devices
    return TrainState(
        Replicated(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=variables,
            opt_state=(),
            terms={name: state.replicated for name, state in states.items()},
            key=phase_key,
        ),
        per_device={
            name: jax.tree.map(lambda x: jnp.stack([x] * count), state.per_device)
            for name, state in states.items()
        },
    )


def start(
    state: TrainState, phase: Phase, optimizer: optax.GradientTransformation
) -> TrainState:
    """The state at the start of a phase: at step 0, with a fresh optimizer and key.

    Args:
      state: From `init`, or from the last step of the phase before.
      phase: The phase to start.
      optimizer: What `body` will be given.

    Raises:
      UnknownName: The phase trains something that is not among the parameters.
    """
    trained, _ = _partition(state.replicated.params, phase)
    key, _ = jax.random.split(state.replicated.key)
    replicated = state.replicated._replace(
        step=jnp.zeros((), jnp.int32), opt_state=optimizer.init(trained), key=key
    )
    return state._replace(replicated=replicated)


def body(
    student,
    teacher: teachers.Teacher,
    phase: Phase,
    optimizer: optax.GradientTransformation,
    view: View,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """One step of a phase, as it runs on each device.

    A student that drops activations in training takes its key as `rngs["dropout"]`: the
    masks differ from step to step and from device to device, so that such a student
    depends on the number of devices.

    Args:
      student: As given to `init`, and so are `teacher` and `view`.
      teacher: Where the targets come from.
      phase: The phase, whose terms make the loss.
      optimizer: As given to `start`.
      view: What makes the batch.

    Returns:
      `step(state, arrays, batch, *, axis_name=None) -> (state, metrics)`. The batch is
      this device's; `state.per_device` is without its device axis. Metrics are the loss
      and the unweighted value of each term, the mean over the devices.
    """
    run = _in_training if _trains_student(phase) else _in_evaluation

    def step(state, arrays, batch, *, axis_name=None):
        now, per_device = state

        def mean(tree):
            return tree if axis_name is None else _mean(tree, axis_name)

        batch = view(arrays.data, batch, jax.random.fold_in(now.key, now.step))
        targets = teacher.targets(arrays.teacher, batch)
        dropout = _dropout_key(now, axis_name)
        trained, frozen = _partition(now.params, phase)

        def loss(trained):
            params = _combine(trained, frozen)
            variables = {"params": params["student"], **now.model_state}
            seen, model_state = run(student, variables, batch["image"], dropout)
            total, values, remembered = _weighted_sum(
                phase, params, state, seen, targets, batch, axis_name
            )
            return total, (values, remembered, model_state)

        (total, (values, remembered, model_state)), gradient = jax.value_and_grad(
            loss, has_aux=True
        )(trained)
        updates, opt_state = optimizer.update(mean(gradient), now.opt_state, trained)
        new = now._replace(
            step=now.step + 1,
            params=_combine(optax.apply_updates(trained, updates), frozen),
            # Equal already where the net synchronises its statistics itself.
            model_state=mean(model_state),
            opt_state=opt_state,
            terms=now.terms | {k: s.replicated for k, s in remembered.items()},
        )
        per_device = per_device | {k: s.per_device for k, s in remembered.items()}
        return TrainState(new, per_device), mean({"loss": total, **values})

    return step


def pmap(
    step: Callable[..., tuple[TrainState, dict[str, Array]]],
    devices: Sequence[jax.Device] | None = None,
) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """A step mapped over devices, all local ones by default.

    The replicated state stays replicated without a leading axis. The state given is
    donated: its buffers are reused, do not read it afterwards.

    Args:
      step: From `body`.
      devices: The devices to map over.

    Returns:
      `step(state, arrays, batch) -> (state, metrics)` for a batch from `shard` and
      arrays from `replicate`.
    """
    mapped = jax.pmap(
        functools.partial(step, axis_name=AXIS),
        axis_name=AXIS,
        in_axes=(TrainState(None, 0), None, 0),
        out_axes=(TrainState(None, 0), None),
        donate_argnums=0,
        devices=devices,
    )
    everywhere = _sharding(devices)
    where = TrainState(everywhere, _sharding(devices, AXIS))

    def run(state, arrays, batch):
        # For a state that comes from elsewhere (made or restored on one device) the
        # step would be compiled once more.
        if state.replicated.step.sharding != everywhere:
            state = TrainState(*map(jax.device_put, state, where))
        return mapped(state, arrays, batch)

    return run


def shard(batch: Batch, devices: int | None = None) -> Batch:
    """A batch `[batch, ...]` as `[devices, batch / devices, ...]`.

    Raises:
      ValueError: The batch does not divide by the devices.
    """
    count = jax.local_device_count() if devices is None else devices

    def split(x):
        if x.shape[0] % count:
            raise ValueError(
                f"a batch of {x.shape[0]} does not divide by {count} devices"
            )
        return x.reshape(count, x.shape[0] // count, *x.shape[1:])

    return jax.tree.map(split, batch)


def replicate(tree: PyTree, devices: Sequence[jax.Device] | None = None) -> PyTree:
    """A pytree of arrays, copied once to each device, all local ones by default."""
    return jax.device_put(tree, _sharding(devices))


def _sharding(
    devices: Sequence[jax.Device] | None, *axes: str
) -> jax.sharding.NamedSharding:
    mesh = jax.sharding.Mesh(devices or jax.local_devices(), (AXIS,))
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def _all_terms(plan: Sequence[Phase]) -> dict[str, terms.Term]:
    found: dict[str, terms.Term] = {}
    for phase in plan:
        for name, (_, term) in phase.terms.items():
            if found.setdefault(name, term).init is not term.init:
                raise ValueError(f"the term {name!r} is another one in another phase")
    return found


def _weighted_sum(
    phase: Phase,
    params: dict[str, PyTree],
    state: TrainState,
    seen: Mapping[str, Array],
    targets: Mapping[str, Array],
    batch: Batch,
    axis_name: str | None,
) -> tuple[Array, dict[str, Array], dict[str, terms.State]]:
    """The loss of a phase, each term's own value, and what each remembers then."""
    total, values, remembered = 0.0, {}, {}
    for name, (weight, term) in phase.terms.items():
        memory = terms.State(state.replicated.terms[name], state.per_device[name])
        values[name], remembered[name] = term.apply(
            params[name], memory, seen, targets, batch, axis_name
        )
        total += _at(weight, state.replicated.step) * values[name]
    return total, values, remembered


def _in_training(
    student: Any, variables: dict[str, PyTree], images: Array, dropout: Array
) -> tuple[dict[str, Array], dict[str, PyTree]]:
    """Activations in training mode, and the variables that are no parameters then."""
    return student.apply(
        variables,
        images,
        train=True,
        mutable=[name for name in variables if name != "params"],
        rngs={"dropout": dropout},
    )


def _in_evaluation(
    student: Any, variables: dict[str, PyTree], images: Array, dropout: Array
) -> tuple[dict[str, Array], dict[str, PyTree]]:
    """Activations in evaluation mode; nothing changes."""
    state = {name: x for name, x in variables.items() if name != "params"}
    return student.apply(variables, images), state


def _mean(tree: PyTree, axis_name: str) -> PyTree:
    """The mean over the devices of what is not an integer, such as a counter."""
    return jax.tree.map(
        lambda x: (
            lax.pmean(x, axis_name) if jnp.issubdtype(x.dtype, jnp.inexact) else x
        ),
        tree,
    )


def _dropout_key(now: Replicated, axis_name: str | None) -> Array:
    """The key of a step for what a student drops, another one on each device."""
    # No step has this number: the view's keys are others.
    key = jax.random.fold_in(now.key, np.uint32(2**32 - 1))
    key = jax.random.fold_in(key, now.step)
    if axis_name is None:
        return key
    return jax.random.fold_in(key, lax.axis_index(axis_name))


def _at(weight: Weight, step: Array) -> Array | float:
    return weight(step) if callable(weight) else weight


def _trains_student(phase: Phase) -> bool:
    return phase.trains is None or any(
        path.split("/")[0] == "student" for path in phase.trains
    )


def _partition(params: dict[str, PyTree], phase: Phase) -> tuple[PyTree, PyTree]:
    """What the phase trains and what it does not, None in each other's place."""
    trains = ("student", *phase.terms) if phase.trains is None else phase.trains
    for name in phase.trains or ():
        if not any(_is_below(path, name) for path, _ in _leaves(params)):
            raise _names.UnknownName("parameter to train", name, params)
    leaves, structure = _leaves(params), jax.tree_util.tree_structure(params)
    mine = [any(_is_below(path, name) for name in trains) for path, _ in leaves]
    trained = [x if yes else None for (_, x), yes in zip(leaves, mine, strict=True)]
    frozen = [None if yes else x for (_, x), yes in zip(leaves, mine, strict=True)]
    return structure.unflatten(trained), structure.unflatten(frozen)


def _leaves(params: dict[str, PyTree]) -> list[tuple[tuple[str, str], Array]]:
    """Each leaf under the name of its term (which may hold a slash) and its path."""
    return [
        (
            (path[0].key, jax.tree_util.keystr(path[1:], simple=True, separator="/")),
            leaf,
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    ]


def _is_below(path: tuple[str, str], name: str) -> bool:
    term, inside = path
    if name == term:
        return True
    return name.startswith(f"{term}/") and f"{inside}/".startswith(
        f"{name.removeprefix(f'{term}/')}/"
    )


def _combine(trained: PyTree, frozen: PyTree) -> PyTree:
    return jax.tree.map(
        lambda t, f: f if t is None else t,
        trained,
        frozen,
        is_leaf=lambda x: x is None,
    )
