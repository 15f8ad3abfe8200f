"""The training state and the optax step, pmapped across devices.

A training plan is a sequence of phases. A phase has the terms of its loss with their
weights, which parameters it trains, and for how long. The step's body knows of the
devices an axis name only, so the same body runs under `pmap`, `vmap(axis_name=...)`,
`jit(shard_map(...))`, or unmapped with `axis_name=None`. Of several processes
(`jax.distributed`) each holds its own devices' part: see `docs/devices.md`.

    plan = [training.Phase({"task": (1.0, terms.cross_entropy())}, epochs=20)]
    arrays = training.replicate(training.Arrays(teacher.arrays, data))
    state = training.init(key, net, teacher, plan, view, arrays, batch)
    state = training.start(state, plan[0], optimizer)
    step = training.pmap(training.body(net, teacher, plan[0], optimizer, view))
    state, metrics = step(state, arrays, training.shard(batch))
"""

import functools
import hashlib
import inspect
import operator
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.experimental import multihost_utils

from rdljax import _checks, _names, teachers, terms

Array = jax.Array
PyTree = Any
Batch = Mapping[str, Array]
Weight = float | Array | Callable[[Array], Array]
# From the data on the device, a batch and a key to the batch that nets and terms see.
View = Callable[[PyTree, Batch, Array], Batch]

# `step(state, arrays, batch) -> (state, metrics)`; before it is mapped it takes an
# `axis_name` too.
Step = Callable[..., tuple["TrainState", dict[str, Array]]]

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
      key: Where the phase's randomness comes from, but for the view's.
      view_key: Where the view's comes from.
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
      replicated: The same on all devices, without a device axis.
      per_device: By term, the rows that are divided over the devices: leaves
        `[devices, rows, ...]`. (Of several processes each has those of its own devices
        between two steps; `whole` answers all.)
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
    view_key: Array | None = None,
) -> TrainState:
    """The state before the first phase; `start` readies it for a phase.

    Args:
      key: The random key of the whole training.
      student: A Flax module that answers a dict of activations.
      teacher: Where the targets come from.
      plan: All phases: the parameters of all their terms are made here. A name stands
        for the same term in every phase.
      view: `view(data, batch, key)` answers the batch that nets and terms see: at least
        `image`. If it has `also`, a dict of further images by name (the stimuli of a
        measured RDM), the student sees those in the same step, behind the others: their
        activations are called `name/layer`.
      arrays: What the teacher holds and the data.
      batch: A batch; only its shapes count.
      devices: Over how many devices the step will be mapped, all by default: those of
        all processes.
      view_key: The random key of the view, if it is not to follow from `key`: trainings
        with the same one see the same images, given the same batches.

    Raises:
      ValueError: A term is called "student" or "loss", or a name stands for different
        terms in different phases, or what a term divides has no rows, or the batch is
        empty.
      UnknownName: A term is between layers that a net does not have.
    """
    student_key, terms_key, phase_key = jax.random.split(key, 3)
    example = jax.eval_shape(view, arrays.data, batch, phase_key)
    if not example["image"].shape[0]:
        raise ValueError("a batch has one image or more, got none")
    # One image will do: only the shape of an image counts. Not jitted: XLA would take
    # minutes to compile the drawing of a deep net's arrays in one program.
    images = jnp.zeros((1, *example["image"].shape[1:]), example["image"].dtype)
    variables = dict(student.init(student_key, images))
    look = functools.partial(_with_further_images(_in_evaluation), student)
    seen, _ = jax.eval_shape(look, variables, example, phase_key)
    taught = jax.eval_shape(teacher.targets, arrays.teacher, example)

    params, states = {"student": variables.pop("params")}, {}
    for i, (name, term) in enumerate(sorted(_all_terms(plan).items())):
        if name in ("student", "loss"):
            raise ValueError(f"a term may not be called {name!r}")
        own_key = jax.random.fold_in(terms_key, i)
        params[name], states[name] = term.init(own_key, seen, taught)
        if any(x.ndim == 0 for x in jax.tree.leaves(states[name].per_device)):
            raise ValueError(f"the term {name!r} divides a scalar over the devices")

    count = jax.device_count() if devices is None else devices
    count = _checks.as_count("number of devices", count)
    state = TrainState(
        Replicated(
            step=jnp.zeros((), jnp.int32),
            params=params,
            model_state=variables,
            opt_state=(),
            terms={name: state.replicated for name, state in states.items()},
            key=phase_key,
            view_key=phase_key if view_key is None else view_key,
        ),
        per_device={
            name: jax.tree.map(lambda x: _divided(x, count), state.per_device)
            for name, state in states.items()
        },
    )
    return _unaliased(state)


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
      ValueError: The state is that of several trainings.
    """
    _check_one(state)
    trained, _ = _partition(state.replicated.params, phase)
    keys = (state.replicated.key, state.replicated.view_key)
    key, view_key = (jax.random.split(key)[0] for key in keys)
    replicated = state.replicated._replace(
        step=jnp.zeros((), jnp.int32),
        opt_state=optimizer.init(trained),
        key=key,
        view_key=view_key,
    )
    return _unaliased(state._replace(replicated=replicated))


def _unaliased(state: TrainState) -> TrainState:
    """The state with a copy of each array that it holds more than once.

    A state is donated, and no buffer can be donated twice. (Some optimizers begin with
    the parameters themselves as a part of their state.)
    """
    seen = set()

    def own(x):
        if isinstance(x, Array) and id(x) in seen:
            return x.copy()
        seen.add(id(x))
        return x

    return jax.tree.map(own, state)


def body(
    student,
    teacher: teachers.Teacher,
    phase: Phase,
    optimizer: optax.GradientTransformation,
    view: View,
    *,
    micro_batches: int = 1,
) -> Step:
    """One step of a phase, as it runs on each device.

    Where a batch is too large for the memory, the student sees it in micro-batches, one
    after the other, and keeps of each its activations alone; the loss is that of the
    whole batch, relations between examples of different micro-batches included, and for
    the gradient each is computed a second time. So the step is that of the whole batch,
    but for batch normalisation, whose statistics are those of each, and for what is
    dropped. The teacher sees the batch at once. (XLA:CPU is slow at convolutions in
    such a loop, and would keep everything without it.)

    A student that drops activations in training takes its key as `rngs["dropout"]`: the
    masks differ from step to step and from device to device, so that such a student
    depends on the number of devices.

    Args:
      student: As given to `init`, and so are `teacher` and `view`.
      teacher: Where the targets come from.
      phase: The phase, whose terms make the loss.
      optimizer: As given to `start`. One that asks for `value=` is given the loss, the
        mean over the devices.
      view: What makes the batch.
      micro_batches: In how many the student sees a device's batch. (Gradient
        accumulation; of the relations in each of them alone the gradient would be that
        of another loss.)

    Returns:
      `step(state, arrays, batch, *, axis_name=None) -> (state, metrics)`. The batch is
      this device's; `state.per_device` is without its device axis. Metrics are the loss
      and the unweighted value of each term, the mean over the devices.
    """
    run = _of_student(phase, micro_batches)
    takes_value = _takes(optimizer.update, "value")

    def step(state, arrays, batch, *, axis_name=None):
        now, per_device = state

        def mean(tree):
            return tree if axis_name is None else _mean(tree, axis_name)

        with jax.named_scope("view"):
            key = jax.random.fold_in(now.view_key, now.step)
            batch = view(arrays.data, batch, key)
        with jax.named_scope("teacher"):
            targets = teacher.targets(arrays.teacher, batch)
        dropout = _dropout_key(now, axis_name)
        trained, frozen = _partition(now.params, phase)

        def loss(trained):
            params = _combine(trained, frozen)
            variables = _variables(now, params)
            with jax.named_scope("student"):
                seen, model_state = run(student, variables, batch, dropout)
            total, values, remembered = _weighted_sum(
                phase, params, state, seen, targets, batch, axis_name
            )
            return total, (values, remembered, model_state)

        (total, (values, remembered, model_state)), gradient = jax.value_and_grad(
            loss, has_aux=True
        )(trained)
        gradient, metrics = mean(gradient), mean({"loss": total, **values})
        with jax.named_scope("optimizer"):
            extra = {"value": metrics["loss"]} if takes_value else {}
            updates, opt_state = optimizer.update(
                gradient, now.opt_state, trained, **extra
            )
            trained = optax.apply_updates(trained, updates)
        new = now._replace(
            step=now.step + 1,
            params=_combine(trained, frozen),
            # Equal already where the net synchronises its statistics itself.
            model_state=mean(model_state),
            opt_state=opt_state,
            terms=now.terms | {k: s.replicated for k, s in remembered.items()},
        )
        per_device = per_device | {k: s.per_device for k, s in remembered.items()}
        return TrainState(new, per_device), metrics

    return step


def _takes(function: Callable, name: str) -> bool:
    """Returns whether a function takes a keyword argument of that name."""
    parameters = inspect.signature(function).parameters
    kinds = [parameter.kind for parameter in parameters.values()]
    return name in parameters or inspect.Parameter.VAR_KEYWORD in kinds


class Finite(NamedTuple):
    """Of what a step reads and computes, whether every number is finite.

    Attributes:
      state: By path, of the state before the step.
      teacher: By layer.
      student: By layer.
      terms: By term, of its weighted value; and "loss", their sum.
      layers: By term and layer, of the term's gradient by the student's layer.
      gradients: By term and path, of the term's gradient by a parameter.
    """

    state: dict[str, Array]
    teacher: dict[str, Array]
    student: dict[str, Array]
    terms: dict[str, Array]
    layers: dict[str, dict[str, Array]]
    gradients: dict[str, dict[str, Array]]

    def explanation(self, layers: Sequence[str] = ()) -> str | None:
        """What is not finite, in words, by the first place it shows; None if all is.

        Args:
          layers: The student's in depth order, so that the first of them is named.
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


def examination(
    student,
    teacher: teachers.Teacher,
    phase: Phase,
    view: View,
    *,
    micro_batches: int = 1,
) -> Callable[..., tuple[TrainState, Finite]]:
    """What a step of a phase would compute, looked at for what is not finite.

    To find out why a loss turned NaN: from the same state and batch as the step.

    Args:
      student: As given to `body`, and so are all others.
      teacher: Where the targets come from.
      phase: The phase, whose terms make the loss.
      view: What makes the batch.
      micro_batches: As given to `body`.

    Returns:
      `examine(state, arrays, batch, *, axis_name=None) -> (state, Finite)`, to be
      mapped as a step is. The state is that given.
    """
    run = _of_student(phase, micro_batches)

    def examine(state, arrays, batch, *, axis_name=None):
        now = state.replicated
        finite = functools.partial(_finite, axis_name=axis_name)
        batch = view(arrays.data, batch, jax.random.fold_in(now.view_key, now.step))
        targets = teacher.targets(arrays.teacher, batch)
        trained, frozen = _partition(now.params, phase)
        dropout = _dropout_key(now, axis_name)

        def activations(trained):
            variables = _variables(now, _combine(trained, frozen))
            return run(student, variables, batch, dropout)[0]

        def value(alone, trained, seen):
            params = _combine(trained, frozen)
            total, *_ = _weighted_sum(
                alone, params, state, seen, targets, batch, axis_name
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
        return state, Finite(
            state=finite({**now._asdict(), "per_device": state.per_device}),
            teacher=finite(targets),
            student=finite(seen),
            terms=finite(values),
            layers={name: finite(x) for name, x in layers.items()},
            gradients={name: finite(x) for name, x in gradients.items()},
        )

    return examine


def successive(step: Step, *, unrolled: bool = False) -> Step:
    """Several steps as one, so that the host is asked once for all of them.

    Args:
      step: From `body` or `together`.
      unrolled: Written out one after the other, which takes as many times as long to
        compile, and not as a loop on the device: XLA:CPU is 10 to 40 times slower at
        the gradients of convolutions in a loop.

    Returns:
      `steps(state, arrays, batches, *, axis_name=None) -> (state, metrics)`, to be
      mapped as a step is. Batches and metrics have leaves `[steps, ...]`.
    """

    def steps(state, arrays, batches, *, axis_name=None):
        def next_step(state, batch):
            return step(state, arrays, batch, axis_name=axis_name)

        if unrolled and jax.tree.leaves(batches)[0].shape[0] == 1:
            # `scan` makes a loop of one step that is to be unrolled.
            state, metrics = next_step(state, jax.tree.map(lambda x: x[0], batches))
            return state, jax.tree.map(lambda x: x[None], metrics)
        return lax.scan(next_step, state, batches, unroll=unrolled or 1)

    return steps


def together(step: Step, *, unrolled: bool = False) -> Step:
    """The steps of several trainings as one program, vectorised over their states.

    Where the trainings share their view's key (`stacked`), they share their batches
    too, and what follows from these alone is computed once: the view, and the teacher.

    Args:
      step: From `body`.
      unrolled: Written out one after the other, not vectorised: XLA:CPU is slow at
        convolutions whose kernels differ from example to example.

    Returns:
      `step(state, arrays, batch, *, axis_name=None) -> (state, metrics)`, to be mapped
      as a step is. The state is that of `stacked`; the batch has leaves
      `[trainings, ...]`, or is the one that all share; metrics are `[trainings]`.
    """
    return together_with(lambda _: step, (), unrolled=unrolled)


def together_with(
    step_of: Callable[[PyTree], Step], numbers: PyTree, *, unrolled: bool = False
) -> Step:
    """`together`, of trainings that differ in numbers: weights, temperatures, rates.

        kd = terms.between("logits", terms.plain(objectives.kd))

        def weighing(weight):
            phase = training.Phase({"task": (1.0, task), "kd": (weight, kd)}, epochs=20)
            return training.body(net, teacher, phase, optimizer, view)

        step = training.together_with(weighing, jnp.array([0.1, 0.3, 1.0]))

    Args:
      step_of: From the numbers of one training to its step.
      numbers: Leaves `[trainings, ...]`.
      unrolled: As for `together`.

    Returns:
      As `together`.
    """

    def steps(state, arrays, batch, *, axis_name=None):
        def one(numbers, state, batch):
            return step_of(numbers)(state, arrays, batch, axis_name=axis_name)

        shared = state.replicated.view_key.ndim == 0
        if unrolled:

            def alone(number):
                pick = operator.itemgetter(number)
                own = batch if shared else jax.tree.map(pick, batch)
                taken = _taken(state, number, axis=0)
                return one(jax.tree.map(pick, numbers), taken, own)

            count = state.replicated.key.shape[0]
            states, metrics = zip(*map(alone, range(count)), strict=True)
            metrics = jax.tree.map(lambda *x: jnp.stack(x), *metrics)
            return _stack(states, shared, axis=0), metrics
        axes = TrainState(_axes(shared), per_device=0)
        return jax.vmap(
            one, in_axes=(0, axes, None if shared else 0), out_axes=(axes, 0)
        )(numbers, state, batch)

    return steps


def stacked(states: Sequence[TrainState], *, same_view: bool = False) -> TrainState:
    """The states of several trainings as one, for `together`.

    Args:
      states: All at the same step, for the same number of devices.
      same_view: They see the same batches, through a view with the first one's key.

    Returns:
      Leaves `[trainings, ...]`, of `per_device` `[devices, trainings, ...]`.

    Raises:
      ValueError: They are at different steps.
    """
    numbers = [state.replicated.step for state in states]
    known = [int(n) for n in numbers if not isinstance(n, jax.core.Tracer)]
    if len({*known}) > 1:
        raise ValueError(f"trainings together must be at one step, got {known}")

    return _stack(states, same_view, axis=1)


def one_of(state: TrainState, number: int) -> TrainState:
    """The state of one of several trainings (`stacked`), counted from 0.

    Raises:
      ValueError: The state is that of one training, or has no such one.
    """
    trainings = state.replicated.key.shape
    if not trainings:
        raise ValueError("expected the state of several trainings (`stacked`)")
    _checks.check_indices("training", number, *trainings)
    return _taken(state, number, axis=1)


def _check_one(state: TrainState) -> None:
    if state.replicated.key.ndim:
        raise ValueError(
            "expected the state of one training (`one_of`), not of several"
        )


def _axes(same_view: bool) -> Replicated:
    """Which axis has the trainings."""
    return Replicated(None, 0, 0, 0, 0, 0, None if same_view else 0)


def _stack(states: Sequence[TrainState], same_view: bool, axis: int) -> TrainState:
    """`stacked`, where `per_device` has the trainings along an axis."""

    def one(axis, *trees):
        if axis is None:
            return trees[0]
        return jax.tree.map(lambda *x: jnp.stack(x, axis), *trees)

    return TrainState(
        Replicated(*map(one, _axes(same_view), *(s.replicated for s in states))),
        one(axis, *(state.per_device for state in states)),
    )


def _taken(state: TrainState, number: int, axis: int) -> TrainState:
    """`one_of`, where `per_device` has the trainings along an axis."""

    def one(axis, tree):
        if axis is None:
            return tree
        return jax.tree.map(lambda x: x[(slice(None),) * axis + (number,)], tree)

    axes = _axes(state.replicated.view_key.ndim == 0)
    return TrainState(
        Replicated(*map(one, axes, state.replicated)), one(axis, state.per_device)
    )


def pmap(step: Step, devices: Sequence[jax.Device] | None = None) -> Step:
    """A step mapped over devices, all local ones by default.

    The replicated state stays replicated without a leading axis. The state given is
    donated: its buffers are reused, do not read it afterwards.

    Args:
      step: From `body`, `successive`, `together` or `examination`.
      devices: The devices to map over.

    Returns:
      `step(state, arrays, batch) -> (state, metrics)` for a batch from `shard` and
      arrays from `replicate`.
    """
    return _placing(_mapped(step, devices), devices)


class Program(NamedTuple):
    """A step that is compiled.

    Attributes:
      step: As `pmap` answers it, for these shapes alone.
      seconds: How long it took to compile.
      memory: Bytes that a call takes on each device, its arguments included: XLA's own
        account, which does not know of what else is there.
      arguments: Bytes of these: of state, arrays and batch, what the step looks at.
      operations: Floating-point operations of a call on each device, by XLA's count (of
        a loop's body once); None where it does not count.
    """

    step: Step
    seconds: float
    memory: int
    arguments: int
    operations: float | None


def compiled(
    step: Step,
    state: TrainState,
    arrays: Arrays,
    batch: Batch,
    devices: Sequence[jax.Device] | None = None,
) -> Program:
    """A step as `pmap` maps it, compiled before its first call.

    Args:
      step: As for `pmap`.
      state: A state, or its shapes (`jax.eval_shape`); so are arrays and batch.
      arrays: As the step is given.
      batch: As from `shard`.
      devices: As for `pmap`.
    """
    begin = time.perf_counter()
    program = _mapped(step, devices).lower(state, arrays, batch).compile()
    seconds = time.perf_counter() - begin
    taken = program.memory_analysis()
    memory = (
        taken.argument_size_in_bytes
        + taken.output_size_in_bytes
        - taken.alias_size_in_bytes  # What is donated is argument and output.
        + taken.temp_size_in_bytes
        + taken.generated_code_size_in_bytes
    )
    costs = program.cost_analysis() or {}
    return Program(
        _placing(program, devices),
        seconds,
        memory,
        taken.argument_size_in_bytes,
        costs.get("flops"),
    )


def _mapped(step: Step, devices: Sequence[jax.Device] | None) -> Any:
    return jax.pmap(
        functools.partial(step, axis_name=AXIS),
        axis_name=AXIS,
        in_axes=(TrainState(None, 0), None, 0),
        out_axes=(TrainState(None, 0), None),
        donate_argnums=0,
        devices=devices,
    )


def _placing(mapped: Step, devices: Sequence[jax.Device] | None) -> Step:
    """A mapped step that takes a state from anywhere."""
    everywhere = _sharding(devices)
    where = TrainState(everywhere, _sharding(devices, AXIS))

    def run(state, arrays, batch):
        # For a state that comes from elsewhere (made or restored on one device) the
        # step would be compiled once more.
        if state.replicated.step.sharding != everywhere:
            check_alike("state", state)
            state = state._replace(per_device=of_this_process(state.per_device))
            state = TrainState(*map(jax.device_put, state, where))
        return mapped(state, arrays, batch)

    return run


def shard(batch: Batch, devices: int | None = None, *, axis: int = 0) -> Batch:
    """A batch `[batch, ...]` as `[devices, batch / devices, ...]`.

    Args:
      batch: This process's part of the batch (`of_this_process`), which is all of it
        where there is one process.
      devices: Over how many devices of this process, all by default.
      axis: Which axis has the examples. Those before it, of steps (`successive`) and of
        trainings (`together`), follow that of the devices.

    Raises:
      ValueError: The batch is empty or does not divide by the devices.
    """
    count = jax.local_device_count() if devices is None else devices
    count = _checks.as_count("number of devices", count)
    return jax.tree.map(lambda x: _split(x, count, "devices", axis), batch)


def of_this_process(batch: Batch, *, axis: int = 0) -> Batch:
    """This process's part of a batch that all processes know: its rows `[batch, ...]`.

    A process that reads data of its own has its part already. `axis` as for `shard`.

    Raises:
      ValueError: The batch is empty or does not divide by the processes.
    """
    count, me = jax.process_count(), jax.process_index()
    if count == 1:
        return batch
    return jax.tree.map(lambda x: _split(x, count, "processes", axis)[me], batch)


class ProcessesDiffer(ValueError):
    """What all processes of a training should hold alike is not the same."""


def check_alike(what: str, tree: PyTree) -> None:
    """Raises `ProcessesDiffer` where a process holds something else than the first.

    Of several processes each must call, and in each it raises. Nothing is asked of one
    process alone. A step calls it with the state that it begins with, and `whole` with
    the one that is to be saved.

    Args:
      what: What it is, for the message, such as "settings".
      tree: Arrays, numbers, strings, and pytrees of these.

    Raises:
      ProcessesDiffer: With the processes, and the first entry that differs.
    """
    if jax.process_count() == 1:
        return
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: x is None)
    names = [jax.tree_util.keystr(x, simple=True, separator="/") for x, _ in found]
    hashes = [_sha256(x) for _, x in found]
    # The names alone first: of other entries there may be more.
    _check_hashes(what, ["what its entries are called"], [_sha256("\n".join(names))])
    _check_hashes(what, names, hashes)


def _check_hashes(what: str, names: Sequence[str], hashes: Sequence[bytes]) -> None:
    # (Of few shapes, each of which is a program to compile.)
    own = np.zeros((-(-len(hashes) // 64) * 64, 32), np.uint8)
    own[: len(hashes)] = [list(x) for x in hashes]
    differs = multihost_utils.process_allgather(own)
    differs = (differs != differs[0]).any(axis=2)  # [processes, entries]
    if differs.any():
        processes = ", ".join(map(str, np.flatnonzero(differs.any(axis=1))))
        first = names[np.flatnonzero(differs.any(axis=0))[0]]
        raise ProcessesDiffer(
            f"the {what} of process {processes} differs from that of process 0: {first}"
        )


def _sha256(x: Any) -> bytes:
    if not hasattr(x, "dtype"):
        return hashlib.sha256(repr(x).encode()).digest()
    if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key):
        x = jax.random.key_data(x)
    x = np.asarray(x)
    content = np.ascontiguousarray(np.atleast_1d(x)).view(np.uint8)
    kind = f"{x.dtype} {x.shape}".encode()
    return hashlib.sha256(kind + content.tobytes()).digest()


def whole(state: TrainState) -> TrainState:
    """The state with the rows of all processes' devices, as it is to be saved.

    Of one process it is the state itself; of several, each must call.

    Raises:
      ProcessesDiffer: What all processes should hold alike is not the same.
    """
    check_alike("state", state.replicated)

    def one(x):
        parted = jax.process_count() > 1 and x.shape[0] < jax.device_count()
        if not parted:  # (A state before its first step is not.)
            return x
        return multihost_utils.process_allgather(x, tiled=True)

    return state._replace(per_device=jax.tree.map(one, state.per_device))


def divided_as(state: TrainState, like: TrainState) -> TrainState:
    """A state divided over another number of devices.

    Args:
      state: Restored, or from `whole`.
      like: From `init`, for the devices wanted; only shapes count.

    Raises:
      ValueError: The state is that of several trainings.
    """
    _check_one(state)

    def one(x, target):
        rows = jnp.reshape(x, (-1, *x.shape[2:]))
        return _divided(rows, target.shape[0], target.shape[1])

    per_device = jax.tree.map(one, state.per_device, like.per_device)
    return state._replace(per_device=per_device)


def replicate(tree: PyTree, devices: Sequence[jax.Device] | None = None) -> PyTree:
    """A pytree of arrays, copied once to each device, all local ones by default."""
    return jax.device_put(tree, _sharding(devices))


def _split(x: Array, count: int, over: str, axis: int = 0) -> Array:
    before, size, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    if size % count or not size:
        raise ValueError(f"a batch of {size} does not divide by {count} {over}")
    return np.moveaxis(x.reshape(*before, count, size // count, *after), axis, 0)


def _divided(x: Array, devices: int, rows: int | None = None) -> Array:
    """Rows `[n, ...]` as `[devices, rows, ...]`, the last filled up with zeros."""
    rows = -(-x.shape[0] // devices) if rows is None else rows
    x = x[: devices * rows]
    missing = devices * rows - x.shape[0]
    x = jnp.pad(x, [(0, missing), *[(0, 0)] * (x.ndim - 1)])
    return jnp.reshape(x, (devices, rows, *x.shape[1:]))


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
        with jax.named_scope(f"terms/{name}"):
            values[name], remembered[name] = term.apply(
                params[name], memory, seen, targets, batch, axis_name
            )
        weight = _at(weight, state.replicated.step)
        _checks.check_number(f"weight of the term {name!r}", weight)
        total += jnp.asarray(weight, values[name].dtype) * values[name]
    return total, values, remembered


def _variables(now: Replicated, params: dict[str, PyTree]) -> dict[str, PyTree]:
    """The student's Flax variables."""
    return {"params": params["student"], **now.model_state}


def _finite(tree: PyTree, axis_name: str | None) -> dict[str, Array]:
    """By path, whether all numbers of an array are finite, on all devices."""
    found = {}
    for path, x in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(x.dtype, jnp.inexact):
            every = jnp.all(jnp.isfinite(x)).astype(jnp.int32)
            every = every if axis_name is None else lax.pmin(every, axis_name)
            found[jax.tree_util.keystr(path, simple=True, separator="/")] = every
    return found


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


def _of_student(phase: Phase, micro_batches: int) -> Callable:
    """How a phase runs the student on a batch."""
    micro_batches = _checks.as_count("number of micro-batches", micro_batches)
    run = _in_training if _trains_student(phase) else _in_evaluation
    return _with_further_images(
        run if micro_batches == 1 else _accumulated(run, micro_batches)
    )


def _with_further_images(run: Callable) -> Callable:
    """`run` of a batch: of its images and, behind them, of those of `also`."""

    def look(student, variables, batch, dropout):
        images, also = batch["image"], batch.get("also", {})
        for name, others in also.items():
            if others.shape[1:] != images.shape[1:]:
                raise ValueError(
                    f"expected images of one size, got {name} {others.shape} beside "
                    f"the batch's {images.shape}"
                )
        if not also:
            return run(student, variables, images, dropout)
        together = jnp.concatenate([images, *also.values()])
        seen, state = run(student, variables, together, dropout)
        at = len(images)
        found = {layer: x[:at] for layer, x in seen.items()}
        for name, others in also.items():
            rows = slice(at, at + len(others))
            found |= {f"{name}/{layer}": x[rows] for layer, x in seen.items()}
            at = rows.stop
        return found, state

    return look


def _accumulated(run: Callable, micro_batches: int) -> Callable:
    """`run` of one micro-batch after the other.

    Under `jax.checkpoint` nothing of one is kept but what it answers, so that the
    gradient of a loss of all of them takes the memory of one.
    """

    def accumulated(student, variables, images, dropout):
        variables = dict(variables)
        params = variables.pop("params")

        @jax.checkpoint
        def one(state, micro_batch):
            images, key = micro_batch
            seen, state = run(student, {"params": params, **state}, images, key)
            return state, seen

        state, seen = lax.scan(
            one,
            variables,
            (
                _split(images, micro_batches, "micro-batches"),
                jax.random.split(dropout, micro_batches),
            ),
        )
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), seen), state

    return accumulated


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
        # (A term may have nothing to train, such as `ab` between maps of one shape.)
        empty = name in params and not jax.tree.leaves(params[name])
        if not empty and not any(_is_below(path, name) for path, _ in _leaves(params)):
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
