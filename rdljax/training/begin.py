"""Makes the state at the start of a training and at the start of each phase."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rdljax import _checks, _extras, nets, teachers, terms
from rdljax.training import _params, _rows, _student, many
from rdljax.training.state import (
    Arrays,
    Phase,
    Replicated,
    TrainState,
    View,
)

with _extras.needed("optax", "rdljax.training"):
    import optax

Array = jax.Array
Activations = Mapping[str, jax.ShapeDtypeStruct]


def init(
    key: Array,
    student: nets.NetLike,
    teacher: teachers.Teacher,
    plan: Sequence[Phase],
    view: View,
    arrays: Arrays,
    batch: Mapping[str, Any],
    *,
    devices: int | None = None,
    view_key: Array | None = None,
) -> TrainState:
    """Makes the state before the first phase; `begin_phase` prepares it for a phase.

    Args:
      key: Random key of the whole training.
      student: Net of the student, a Flax module that returns a dict of activations.
      teacher: Source of the targets.
      plan: All phases. The parameters of all their terms are initialised here. A name
        must stand for the same term in every phase.
      view: Function `view(data, batch, key)` that returns the batch for nets and terms,
        with at least the entry `image`. If it has `extra_images`, a dict of further
        images by name (such as the stimuli of a measured RDM), the student runs on
        those in the same step, after the other images; their activations are called
        `name/layer`.
      arrays: The teacher's arrays and the data.
      batch: A batch; only its shapes are used.
      devices: Number of devices that the step will be mapped over. None: all devices of
        all processes.
      view_key: Random key of the view. Trainings with the same key see the same images,
        given the same batches. None: derived from `key`.

    Returns:
      The state, at step 0.

    Raises:
      ValueError: A net does not return a dict of activations; a term is called
        "student" or "loss"; a name stands for different terms in different phases; a
        term divides a scalar over the devices; or the batch is empty.
      UnknownName: A term names a layer that a net does not have.
    """
    student_key, terms_key, phase_key = jax.random.split(key, 3)
    example = jax.eval_shape(view, arrays.data, batch, phase_key)
    if not example["image"].shape[0]:
        raise ValueError("a batch has one image or more, got none")
    # One image is enough, since only its shape matters.
    images = jnp.zeros((1, *example["image"].shape[1:]), example["image"].dtype)
    variables = dict(student.init(student_key, images))
    look = functools.partial(
        _student.with_extra_images(_student.in_evaluation), student
    )
    seen, _ = jax.eval_shape(look, variables, example, phase_key)
    taught = jax.eval_shape(teacher.targets, arrays.teacher, example)
    _check_layers(student=seen, teacher=taught)

    own = variables.pop("params")
    params, memories = _init_terms(terms_key, plan, seen, taught)
    count = jax.device_count() if devices is None else devices
    count = _checks.as_count("number of devices", count)
    state = TrainState(
        Replicated(
            step=jnp.zeros((), jnp.int32),
            params={"student": own, **params},
            model_state=variables,
            opt_state=(),
            terms={name: memory.replicated for name, memory in memories.items()},
            key=phase_key,
            view_key=phase_key if view_key is None else view_key,
        ),
        per_device={
            name: jax.tree.map(lambda x: _rows.divided(x, count), memory.per_device)
            for name, memory in memories.items()
        },
    )
    return _copy_aliases(state)


def _check_layers(**sides: Any) -> None:
    """Checks that both sides return activations by layer."""
    for side, found in sides.items():
        if not isinstance(found, Mapping):
            raise ValueError(
                f"the {side} must return a dict of activations by layer, got a "
                f"{type(found).__name__}: nets.capture makes such a net of any Flax "
                "model"
            )


def begin_phase(
    state: TrainState, phase: Phase, optimizer: optax.GradientTransformation
) -> TrainState:
    """Returns the state at the start of a phase, with a new optimizer state and key.

    Args:
      state: State from `init`, or after the last step of the previous phase.
      phase: The phase to begin.
      optimizer: The optimizer, the same as for `make_step`.

    Raises:
      UnknownName: The phase trains a parameter that does not exist.
      ValueError: The state is that of several trainings.
    """
    many.check_one_training(state)
    trained, _ = _params.partition(state.replicated.params, phase)
    keys = (state.replicated.key, state.replicated.view_key)
    key, view_key = (jax.random.split(key)[0] for key in keys)
    replicated = state.replicated._replace(
        step=jnp.zeros((), jnp.int32),
        # Jitted: zeros of each shape would compile a program.
        opt_state=jax.jit(optimizer.init)(trained),
        key=key,
        view_key=view_key,
    )
    return _copy_aliases(state._replace(replicated=replicated))


def _init_terms(
    key: Array, plan: Sequence[Phase], seen: Activations, taught: Activations
) -> tuple[dict[str, Any], dict[str, terms.State]]:
    """Returns the parameters and the states of a plan's terms, by name.

    Args:
      key: Random key of all terms.
      plan: All phases.
      seen: Shapes of the student's activations.
      taught: Shapes of the targets.
    """
    params, memories = {}, {}
    for i, (name, term) in enumerate(sorted(_all_terms(plan).items())):
        if name in ("student", "loss"):
            raise ValueError(f"a term may not be called {name!r}")
        own_key = jax.random.fold_in(key, i)
        params[name], memories[name] = term.init(own_key, seen, taught)
        if any(x.ndim == 0 for x in jax.tree.leaves(memories[name].per_device)):
            raise ValueError(f"the term {name!r} divides a scalar over the devices")
    return params, memories


def _copy_aliases(state: TrainState) -> TrainState:
    """Copies each array that a state holds more than once.

    A state is donated, and no buffer can be donated twice. (The initial state of some
    optimizers contains the parameters themselves.)
    """
    seen = set()

    def own(x):
        if isinstance(x, Array) and id(x) in seen:
            return x.copy()
        seen.add(id(x))
        return x

    return jax.tree.map(own, state)


def _all_terms(plan: Sequence[Phase]) -> dict[str, terms.Term]:
    """Returns the terms of all phases by name."""
    found: dict[str, terms.Term] = {}
    for phase in plan:
        for name, (_, term) in phase.terms.items():
            if found.setdefault(name, term).init is not term.init:
                raise ValueError(f"two phases have different terms called {name!r}")
    return found
