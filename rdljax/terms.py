"""Terms: an objective together with what it trains or remembers.

A term is a pair of pure functions over the whole dicts of activations of student and
teacher. Terms compose: `between(pairs, term)` picks layers, `over_global_batch(term)`
gathers the batch over the devices first. A loss is a weighted sum of terms.

    terms.between("logits", terms.plain(objectives.kd, temperature=4.0))
    terms.over_global_batch(
        terms.between({"stage1": "stage2"}, terms.rdl(pairs=50))
    )
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from rdljax import _names, objectives, rdm
from rdljax.nets import regressors

Array = jax.Array
PyTree = Any
Batch = Mapping[str, Array]
Pair = str | tuple[str, str]


class State(NamedTuple):
    """What a term remembers from step to step.

    Attributes:
      replicated: The same on all devices.
      per_device: Different on each device (a part of a bank), without a device axis.
    """

    replicated: PyTree = ()
    per_device: PyTree = ()


class Term(NamedTuple):
    """An objective with what it trains or remembers: two pure functions.

    Attributes:
      init: `init(key, student, teacher) -> (params, state)`, from the activations of
        one batch, of which only shapes and dtypes count (`jax.ShapeDtypeStruct` will
        do). `params` is the pytree to train, {} if there is nothing; `state` a `State`.
      apply: `apply(params, state, student, teacher, batch, axis_name=None) -> (loss,
        state)`. `batch` has what came with the images, such as `label` and `index`;
        `axis_name` is the mapped axis of the devices, if any.
    """

    init: Callable[..., tuple[PyTree, State]]
    apply: Callable[..., tuple[Array, State]]


def plain(objective: Callable[..., Array], **numbers) -> Term:
    """An objective that trains and remembers nothing.

    Args:
      objective: `objective(student, teacher, **numbers) -> scalar`.
      **numbers: The keyword arguments it is called with.
    """

    def init(key, student, teacher):
        return {}, State()

    def apply(params, state, student, teacher, batch, axis_name=None):
        return objective(student, teacher, **numbers), state

    return Term(init, apply)


def between(pairs: Pair | Mapping[str, str] | Sequence[Pair], term: Term) -> Term:
    """A term between chosen layers.

    Args:
      pairs: Which layers the term sees.
        One name: that layer of both, as arrays.
        A tuple of two names: the student's layer and the teacher's, as arrays.
        A dict from student's to teacher's names: those layers, as dicts.
        A list of names or pairs: those layers in that order, as tuples, for the
        objectives that relate successive layers (`ab`, `fsp`, `kdsvd`).
      term: What is applied to them.

    Raises:
      UnknownName: From `init` and `apply`: a net has no layer of that name.
    """
    pick_student, pick_teacher = _pickers(pairs)

    def init(key, student, teacher):
        return term.init(key, pick_student(student), pick_teacher(teacher))

    def apply(params, state, student, teacher, batch, axis_name=None):
        student, teacher = pick_student(student), pick_teacher(teacher)
        return term.apply(params, state, student, teacher, batch, axis_name)

    return Term(init, apply)


def over_global_batch(term: Term) -> Term:
    """A term of the global batch, for relations between examples.

    Gathers activations and batch over the devices before it applies the term, so that
    the result does not depend on the number of devices. The gradient flows back through
    the gathering; averaged over the devices (`pmean` after `grad`) it is that of the
    global loss. Outside a mapped axis it is the term itself.
    """

    def apply(params, state, student, teacher, batch, axis_name=None):
        if axis_name is not None:
            student, teacher, batch = lax.all_gather(
                (student, teacher, batch), axis_name, tiled=True
            )
        return term.apply(params, state, student, teacher, batch)

    return Term(term.init, apply)


def cross_entropy(logits: str = "logits", label: str = "label") -> Term:
    """The task: classification.

    Args:
      logits: The student's layer `[batch, classes]`.
      label: The entry of the batch `[batch]` with the right class.
    """

    def init(key, student, teacher):
        _names.check("student layer", logits, student)
        return {}, State()

    def apply(params, state, student, teacher, batch, axis_name=None):
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(
            student[logits].astype(jnp.float32), batch[label]
        )
        return jnp.mean(losses), state

    return Term(init, apply)


def hint() -> Term:
    """`objectives.hint` through a trained regressor for each layer.

    The regressor (`nets.regressors.Regressor`) maps the student's layer linearly to the
    teacher's channels, by a convolution that fits the sizes.

    References:
      Romero et al., `FitNets: Hints for Thin Deep Nets
      <https://arxiv.org/abs/1412.6550>`_, ICLR 2015, section 2.2.

    Departures: (1) the regressor is linear, where the paper's ends with the guided
    layer's non-linearity and RepDistiller's with batch normalisation and ReLU.
    """

    def regressor(teacher):
        return regressors.Regressor(tuple(teacher.shape[1:]))

    def init(key, student, teacher):
        layers, structure = jax.tree_util.tree_flatten(student)
        if structure != jax.tree_util.tree_structure(teacher):
            raise ValueError(
                f"hint: expected the same layers on both sides, got {structure} and "
                f"{jax.tree_util.tree_structure(teacher)}"
            )
        keys = structure.unflatten(jax.random.split(key, len(layers)))

        def one(key, s, t):
            if len(s.shape) != len(t.shape) or s.shape[:-3] != t.shape[:-3]:
                raise ValueError(
                    f"hint: no regressor from activations {s.shape} to {t.shape}"
                )
            return regressor(t).init(key, jnp.zeros(s.shape, s.dtype))["params"]

        return jax.tree.map(one, keys, student, teacher), State()

    def apply(params, state, student, teacher, batch, axis_name=None):
        def one(s, t, p):
            return regressor(t).apply({"params": p}, s)

        mapped = jax.tree.map(one, student, teacher, params)
        return objectives.hint(mapped, teacher), state

    return Term(init, apply)


def rdl(*, pairs: int | None = None, **numbers) -> Term:
    """`objectives.rdl` over all pairs of the batch, or over random ones.

    Wrapped in `over_global_batch` the pairs are drawn from the global batch, the same
    on all devices.

    Args:
      pairs: How many random pairs each step draws anew; None for all.
      **numbers: `distance` and `comparison` of `objectives.rdl`.

    References:
      McClure & Kriegeskorte, `Representational Distance Learning for Deep Neural
      Networks <https://doi.org/10.3389/fncom.2016.00131>`_, 2016; its first author's
      prototype draws 50 pairs a step.
    """
    if pairs is None:
        return plain(objectives.rdl, **numbers)

    def init(key, student, teacher):
        return {}, State(replicated=key)

    def apply(params, state, student, teacher, batch, axis_name=None):
        key, draw = jax.random.split(state.replicated)
        size = jax.tree.leaves(student)[0].shape[0]
        drawn = rdm.sample_pairs(draw, size, pairs)
        loss = objectives.rdl(student, teacher, drawn, **numbers)
        return loss, State(replicated=key)

    return Term(init, apply)


def _pickers(pairs) -> tuple[Callable, Callable]:
    """What student's and teacher's side of a term see of a dict of activations."""
    if isinstance(pairs, str):
        pairs = (pairs, pairs)
    if isinstance(pairs, tuple):
        first, second = pairs
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
        _names.check(f"{side} layer", name, activations)
        return activations[name]

    return pick


def _several(side: str, names: Mapping[str, str]) -> Callable:
    picks = {key: _one(side, name) for key, name in names.items()}
    return lambda activations: {key: pick(activations) for key, pick in picks.items()}


def _in_order(side: str, names: Sequence[str]) -> Callable:
    picks = [_one(side, name) for name in names]
    return lambda activations: tuple(pick(activations) for pick in picks)
