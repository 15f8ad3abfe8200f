"""Makes terms of contrastive representation distillation: heads, banks, negatives."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rdljax import _checks, _geometry, _indices, errors, objectives
from rdljax.terms import _modules, negatives
from rdljax.terms.base import State, Term

Array = jax.Array
PyTree = Any


def crd(
    examples: int,
    choose: negatives.Negatives,
    *,
    features: int = 128,
    temperature: float = 0.07,
    momentum: float = 0.5,
) -> Term:
    """Makes the term of `objectives.crd` with its embedding heads, banks and sampling.

    The heads are linear, one for the student's layer and one for the teacher's, and
    both are trained. The banks are initialised at random; their normalizers are those
    of the first batch. The batch must have an entry `index` `[batch]`, the index of
    each example among the training examples, without repetition. The gradient is
    computed together with the loss, and the banks are updated afterwards, in place if
    the state is donated; second derivatives are 0.

    Args:
      examples: Number of training examples, the rows of a bank.
      choose: Negatives of an example, from `negatives`: `per_example(...)`,
        `expectation(...)`, `bernoulli(...)`, `per_batch(...)` or `from_batch(...)`.
        Closest to the released code is `per_example(16384, labels)`.
      features: Number of units of the embeddings.
      temperature: Divisor of the scores. At about 0.012 and below, the normalizers
        overflow in single precision and the loss is NaN.
      momentum: Weight of the old row when a bank is updated.

    Returns:
      The term. It raises `ValueError` for several layers, if there is not one label for
      each training example, and for a batch without `index`. An index out of range
      makes the loss NaN.

    Raises:
      ValueError: Numbers of a wrong kind or out of range, or negatives that are not
        from `rdljax.terms.negatives`.

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020, and its released code.
    """
    if not callable(choose):
        raise ValueError(f"crd: expected one of rdljax.terms.negatives, got {choose!r}")
    examples = _checks.as_count("number of examples", examples, at_least=2)
    _checks.check_number("temperature", temperature, above=0)
    _checks.check_number("momentum", momentum, at_least=0, at_most=1)
    init_heads, embed = _modules.heads(features)

    def init(key, student, teacher):
        heads, students, teachers, draws = jax.random.split(key, 4)
        params, _ = init_heads(heads, student, teacher)
        bank = _random_bank(students, teachers, (examples, features))
        return params, State(replicated={"bank": bank, "key": draws})

    def apply(params, state, student, teacher, batch, axis_name=None):
        errors.check_name("entry of the batch", "index", batch)
        _checks.check_integers("index", batch["index"])
        index = _indices.places(batch["index"], examples)
        bank = state.replicated["bank"]
        key, step = jax.random.split(state.replicated["key"])
        s, t = map(_geometry.unit_rows, embed(params, student, teacher))
        chosen = choose(step, batch, examples)

        first = objectives.crd_normalizers(
            s, t, bank, chosen.rows, temperature=temperature
        ).astype(bank.normalizers.dtype)
        everyone = s, t, index
        if axis_name is not None:
            first = lax.pmean(first, axis_name)
            everyone = lax.all_gather(everyone, axis_name, tiled=True)
        bank = _set_normalizers(bank, first)
        contrast = functools.partial(chosen.loss, bank=bank, temperature=temperature)
        loss, zero = _with_gradient(contrast, s, t)
        if axis_name is not None:
            zero = lax.psum(zero, axis_name)
        s, t, index = everyone
        bank = objectives.crd_update_bank(
            bank, s + zero, t + zero, index, momentum=momentum
        )
        loss = _checks.nan_unless(jnp.all(index < examples), loss)
        return loss, State(replicated={"bank": bank, "key": key})

    return Term(init, apply)


def _random_bank(
    students: Array, teachers: Array, shape: tuple[int, int]
) -> objectives.Bank:
    """Draws a bank of embeddings `[examples, features]`, with one key for each side."""
    limit = 1 / math.sqrt(shape[1] / 3)
    student, teacher = (
        jax.random.uniform(key, shape, minval=-limit, maxval=limit)
        for key in (students, teachers)
    )
    # The normalizers are 0 until the first batch sets them.
    return objectives.Bank(student, teacher, normalizers=jnp.zeros(2))


def crd_sharded(
    examples: int,
    choose: negatives.Negatives,
    *,
    features: int = 128,
    temperature: float = 0.07,
    momentum: float = 0.5,
) -> Term:
    """Makes the term `crd` with banks divided over devices, for large data sets.

    The loss is that of `crd` with the same key, up to rounding. Each device stores
    `examples / devices` rows of both banks and compares the embeddings of the whole
    batch with them, so that memory and products are divided. (With
    `negatives.per_example` every device draws for the whole batch:
    `negatives.expectation` is better suited.) Do not wrap it in `over_global_batch`.

    Args:
      examples: Number of training examples, over all devices.
      choose: Negatives of an example, as for `crd`.
      features: Number of units of the embeddings.
      temperature: Divisor of the scores.
      momentum: Weight of the old row when a bank is updated.

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020, and its released code.
    """
    init_heads, embed = _modules.heads(features)
    numbers = {"temperature": temperature, "momentum": momentum}
    init_whole = crd(examples, choose, features=features, **numbers).init

    def init(key, student, teacher):
        params, state = init_whole(key, student, teacher)
        bank = state.replicated["bank"]
        replicated = {"normalizers": bank.normalizers, "key": state.replicated["key"]}
        return params, State(replicated, (bank.student, bank.teacher))

    return Term(init, _apply_by_rows(examples, choose, embed, **numbers))


def _apply_by_rows(
    examples: int,
    choose: negatives.Negatives,
    embed: Callable,
    *,
    temperature: float,
    momentum: float,
) -> Callable[..., tuple[Array, State]]:
    """Returns the function `apply` of `crd_sharded`, with the `embed` of its heads."""

    def apply(params, state, student, teacher, batch, axis_name=None):
        errors.check_name("entry of the batch", "index", batch)
        s, t = map(_geometry.unit_rows, embed(params, student, teacher))
        students, teachers = state.per_device
        count = len(students)
        first: Array | int = 0
        if axis_name is not None:
            s, t, batch = lax.all_gather((s, t, batch), axis_name, tiled=True)
            first = lax.axis_index(axis_name) * count
        over_devices = functools.partial(_sum_over_devices, axis_name=axis_name)
        key, step = jax.random.split(state.replicated["key"])
        chosen = choose(step, batch, examples)
        rows = objectives.Bank(students, teachers, state.replicated["normalizers"])
        negative, counted = (x.astype(s.dtype) for x in chosen.counts_of(first, count))

        local_rows = functools.partial(
            _local_rows, first=first, count=count, n=examples
        )
        sums = objectives.crd_exponentials_of_rows(
            s, t, rows, counted, temperature=temperature
        )
        sums, weight = over_devices((sums, jnp.sum(counted)))
        rows = _set_normalizers(rows, sums * (examples / weight))
        contrast = functools.partial(
            objectives.crd_of_rows,
            rows=rows,
            positives=local_rows(chosen.positives),
            negatives=negative,
            counts=over_devices(jnp.sum(negative, axis=1)),
            n=examples,
            temperature=temperature,
        )
        part, zero = _with_gradient(contrast, s, t)
        index = local_rows(batch["index"])
        part = _checks.nan_unless(jnp.all(index >= 0), part)
        s, t = s + zero, t + zero
        moved = objectives.crd_update_rows(rows, s, t, index, momentum=momentum)
        replicated = {"normalizers": rows.normalizers, "key": key}
        return over_devices(part), State(replicated, (moved.student, moved.teacher))

    return apply


def _local_rows(index: Array, first: Array | int, count: int, n: int) -> Array:
    """Returns the places of examples among this device's rows.

    Args:
      index: The examples `[...]`, of n.
      first: The example of this device's first row.
      count: The number of its rows; returned for an example on another device.
      n: The number of examples; -1 is returned for an index out of range.
    """
    _checks.check_integers("index", index)
    index = _indices.places(index, n)
    mine = (index >= first) & (index < first + count)
    return jnp.where(index < n, jnp.where(mine, index - first, count), -1)


def _sum_over_devices(part: PyTree, axis_name: str | None) -> PyTree:
    return part if axis_name is None else lax.psum(part, axis_name)


def _set_normalizers(bank: objectives.Bank, first: Array) -> objectives.Bank:
    """Sets the normalizers of a bank to those of the first batch, if they are unset."""
    known = jnp.asarray(bank.normalizers)
    first = first.astype(known.dtype)
    return bank._replace(normalizers=jnp.where(known <= 0, first, known))


def _with_gradient(
    loss: Callable[[Array, Array], Array], s: Array, t: Array
) -> tuple[Array, Array]:
    """Computes a loss with its gradient, and a zero that depends on both.

    A bank that is updated in place must not be read later, or XLA copies it. The
    backward pass would read it. Therefore the gradient is computed together with the
    loss, and adding the zero to a value makes XLA compute it after them. (XLA drops
    `lax.optimization_barrier` on CPUs, which would also order them.) Second derivatives
    are 0.
    """
    fixed = jax.tree.map(lax.stop_gradient, (s, t))
    value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(*fixed)
    after = value + sum(jnp.sum(g) for g in gradients)
    # NaN stays NaN, so that the compiler cannot replace this by a constant.
    zero = jnp.where(after == after, 0, after)
    return _attach_gradient(value, (s, t), gradients), zero


@jax.custom_vjp
def _attach_gradient(value: Array, inputs: Any, gradients: Any) -> Array:
    """Returns the value, with the given gradient with respect to the inputs."""
    del inputs, gradients
    return value


_attach_gradient.defvjp(
    lambda value, inputs, gradients: (value, gradients),
    lambda gradients, of_value: (
        None,
        jax.tree.map(lambda g: (of_value * g).astype(g.dtype), gradients),
        None,
    ),
)


def crd_of_batch(
    *, features: int = 128, temperature: float = 0.07, label: str | None = "label"
) -> Term:
    """Makes the term of `objectives.crd_shared` with the batch in place of a bank.

    It is for very large batches or data sets. Wrapped in `over_global_batch`, the
    negatives are those of all devices. Positives and negatives are the current
    embeddings, and both sides of each pair receive a gradient; the normalizers are
    computed from each batch.

    Args:
      features: Number of units of the embeddings.
      temperature: Divisor of the scores.
      label: Entry of the batch with the classes; negatives are of other classes. None:
        all other examples are negatives.

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020; the author of the bank suggests
      large batches in its place (RepDistiller, issue 40).
    """
    _checks.check_number("temperature", temperature, above=0)
    init, embed = _modules.heads(features)

    def apply(params, state, student, teacher, batch, axis_name=None):
        s, t = map(_geometry.unit_rows, embed(params, student, teacher))
        rows = jnp.arange(len(s))
        weights = negatives.is_other(
            None if label is None else batch[label], rows, rows
        )
        bank = objectives.Bank(s, t, normalizers=None)
        loss = objectives.crd_shared(
            s, t, bank, rows, weights=weights, temperature=temperature
        )
        return loss, state

    return Term(init, apply)
