"""Defines terms, and functions that make terms from objectives or other terms."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rdljax import _checks, _extras, _geometry, _indices, errors
from rdljax.terms import _rows

with _extras.needed("optax", "rdljax.terms"):
    import optax

Array = jax.Array
PyTree = Any
Pair = str | tuple[str, str] | tuple[str, list[str]]


class State(NamedTuple):
    """The state of a term, kept from step to step.

    Attributes:
      replicated: The part that is the same on all devices.
      per_device: The part that is divided over the devices by rows (a bank). `init`
        returns all rows, leaves `[rows, ...]`; `apply` receives those of its device. If
        the number of rows is not a multiple of the number of devices, zeros are
        appended.
    """

    replicated: PyTree = ()
    per_device: PyTree = ()


class Term(NamedTuple):
    """An objective with its trained parameters and its state, as pure functions.

    Attributes:
      init: `init(key, student, teacher) -> (params, state)`, from the activations of
        one batch; only their shapes and dtypes are used (`jax.ShapeDtypeStruct` is
        enough). `params` is the pytree to train, {} if there is none; `state` is a
        `State`.
      apply: `apply(params, state, student, teacher, batch, axis_name=None) -> (loss,
        state)`. `batch` is the batch with the images and their other entries, such as
        `label` and `index`; `axis_name` is the mapped axis of the devices, if any.
      pretrain: None, or a function like `apply` that returns the loss of a phase before
        the main one (`pretraining`).
      apply_globally: None, or a function like `apply` that returns the loss of the
        global batch from the part on each device, for terms that need not gather the
        batch (`over_global_batch`).
    """

    init: Callable[..., tuple[PyTree, State]]
    apply: Callable[..., tuple[Array, State]]
    pretrain: Callable[..., tuple[Array, State]] | None = None
    apply_globally: Callable[..., tuple[Array, State]] | None = None


def from_objective(objective: Callable[..., Array], **numbers: Any) -> Term:
    """Makes a term, without parameters or state, from an objective.

    Args:
      objective: Function `objective(student, teacher, **numbers) -> scalar`.
      **numbers: Keyword arguments of each call of the objective.
    """

    def init(key, student, teacher):
        return {}, State()

    def apply(params, state, student, teacher, batch, axis_name=None):
        return objective(student, teacher, **numbers), state

    # Some objectives have a form in which a device computes the rows of its examples.
    of_rows = next((f for of, f in _rows.OF_ROWS.items() if of is objective), None)
    if of_rows is None:
        return Term(init, apply)

    def apply_globally(params, state, student, teacher, batch, axis_name=None):
        if axis_name is None or lax.axis_size(axis_name) == 1:
            return apply(params, state, student, teacher, batch)
        return of_rows(student, teacher, axis_name=axis_name, **numbers), state

    return Term(init, apply, apply_globally=apply_globally)


def with_labels(
    objective: Callable[..., Array], *, label: str = "label", **numbers: Any
) -> Term:
    """Makes a term from an objective that also takes labels, such as `objectives.dkd`.

    Args:
      objective: Function `objective(student, teacher, labels, **numbers) -> scalar`.
      label: Entry of the batch with the target classes `[batch]`.
      **numbers: Keyword arguments of each call of the objective.
    """

    def init(key, student, teacher):
        return {}, State()

    def apply(params, state, student, teacher, batch, axis_name=None):
        return objective(student, teacher, batch[label], **numbers), state

    return Term(init, apply)


def on_layers(pairs: Pair | Mapping[str, str] | Sequence[Pair], term: Term) -> Term:
    """Applies a term to selected layers of student and teacher.

    Args:
      pairs: The layers, and the form in which the term receives them:

        - One name: that layer of both nets, as arrays.
        - A tuple of two names: the student's layer and the teacher's, as arrays. The
          second may be a list of names, passed as a tuple of arrays, for several
          teachers.
        - A dict from student's to teacher's names: those layers, as dicts.
        - A list of names or pairs: those layers in that order, as tuples, for
          objectives that relate successive layers (`ab`, `fsp`, `kdsvd`).
      term: The term that receives these layers.

    Raises:
      UnknownName: From `init` and `apply`, for a layer that a net does not have.
    """
    pick_student, pick_teacher = _pickers(pairs)

    def init(key, student, teacher):
        return term.init(key, pick_student(student), pick_teacher(teacher))

    def picking(apply):
        def picked(params, state, student, teacher, batch, axis_name=None):
            student, teacher = pick_student(student), pick_teacher(teacher)
            return apply(params, state, student, teacher, batch, axis_name)

        return picked

    return wrap_applies(init, term, picking)


def over_global_batch(term: Term) -> Term:
    """Applies a term to the batch of all devices, for relations between examples.

    Activations and batch are gathered over the devices before the term is applied, so
    that the result does not depend on the number of devices. (`rdl` instead divides the
    work and sums products if that moves fewer elements.) The gradient flows back
    through the gathering; its mean over the devices (`pmean` after `grad`) is that of
    the global loss. Without a mapped axis the term is unchanged.
    """

    def gathering(apply):
        def gathered(params, state, student, teacher, batch, axis_name=None):
            if axis_name is not None:
                student, teacher, batch = lax.all_gather(
                    (student, teacher, batch), axis_name, tiled=True
                )
            return apply(params, state, student, teacher, batch)

        return gathered

    pretrain = None if term.pretrain is None else gathering(term.pretrain)
    return Term(term.init, term.apply_globally or gathering(term.apply), pretrain)


def pretraining(term: Term) -> Term:
    """Returns the term for a pretraining phase, which comes before the main phase.

    It trains the same parameters and has the same name in the plan:

        factors = terms.on_layers(("stage3", "stage3"), terms.ft())
        plan = [
            training.Phase(
                {"ft": (1.0, terms.pretraining(factors))}, 5, trains=("ft/paraphraser",)
            ),
            training.Phase(
                {"task": (1.0, terms.cross_entropy()), "ft": (500.0, factors)},
                200,
                trains=("student", "ft/translator"),
            ),
        ]

    Raises:
      ValueError: The term has no pretraining.
    """
    if term.pretrain is None:
        raise ValueError("this term has no pretraining")
    return Term(term.init, term.pretrain)


def cross_entropy(logits: str = "logits", label: str = "label") -> Term:
    """Makes the term of the classification task: the softmax cross-entropy.

    Args:
      logits: Name of the student's layer of logits `[batch, classes]`.
      label: Entry of the batch with the target classes `[batch]`. A label out of range
        makes the loss NaN.
    """

    def init(key, student, teacher):
        errors.check_name("student layer", logits, student)
        return {}, State()

    def apply(params, state, student, teacher, batch, axis_name=None):
        own = student[logits]
        classes = own.shape[-1]
        _checks.check_integers(label, batch[label])
        right = _indices.places(batch[label], classes)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(
            own.astype(_geometry.compute_dtype(own)), right
        )
        return jnp.mean(_checks.nan_unless(right < classes, losses)), state

    return Term(init, apply)


def wrap_applies(
    init: Callable[..., tuple[PyTree, State]],
    term: Term,
    wrap: Callable[[Callable], Callable],
) -> Term:
    """Makes a term from another one, with a new `init` and all other functions wrapped.

    It is for functions that make a term from a term, such as `on_layers`.

    Args:
      init: Function `init` of the new term.
      term: The term whose other functions are wrapped.
      wrap: Function from `apply`, `pretrain` or `apply_globally` of the term to that of
        the new term, with the same arguments.
    """

    def wrapped(apply):
        return None if apply is None else wrap(apply)

    pretrain, globally = wrapped(term.pretrain), wrapped(term.apply_globally)
    return Term(init, wrap(term.apply), pretrain, globally)


def _pickers(pairs) -> tuple[Callable, Callable]:
    """Returns the functions that select the student's and the teacher's layers."""
    if isinstance(pairs, str):
        pairs = (pairs, pairs)
    if isinstance(pairs, tuple):
        first, second = pairs
        if isinstance(second, list):
            return _one("student", first), _in_order("teacher", second)
        return _one("student", first), _one("teacher", second)
    if isinstance(pairs, Mapping):
        return (
            _several("student", dict(zip(pairs, pairs, strict=True))),
            _several("teacher", pairs),
        )
    both = [(pair, pair) if isinstance(pair, str) else pair for pair in pairs]
    students, teachers = zip(*both, strict=True)
    return _in_order("student", students), _in_order("teacher", teachers)


def _one(side: str, name: str) -> Callable:
    def pick(activations):
        errors.check_name(f"{side} layer", name, activations)
        return activations[name]

    return pick


def _several(side: str, names: Mapping[str, str]) -> Callable:
    picks = {key: _one(side, name) for key, name in names.items()}
    return lambda activations: {key: pick(activations) for key, pick in picks.items()}


def _in_order(side: str, names: Sequence[str]) -> Callable:
    picks = [_one(side, name) for name in names]
    return lambda activations: tuple(pick(activations) for pick in picks)
