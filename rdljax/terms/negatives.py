"""Negatives: what `terms.crd` contrasts each example with.

terms.crd(len(labels), negatives.drawn(16384, labels))

The modes are those of CRD (Tian, Krishnan & Isola, `Contrastive Representation
Distillation <https://arxiv.org/abs/1910.10699>`_, ICLR 2020) and its released code.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rdljax import _checks, _indices, errors, objectives

Array = jax.Array
Batch = Mapping[str, Array]


class Chosen(NamedTuple):
    """What an example is contrasted with in one step.

    Attributes:
      loss: `loss(student, teacher, bank, temperature=...)`, of unit embeddings.
      rows: What `objectives.crd_normalizers` takes the normalizers from.
      positives: `[batch]` the training example that is an example's positive.
      among: `among(first, size) -> (negatives, counted)`, each `[batch, size]`: how
        often each of `size` training examples, from the number `first` on, is a
        negative of each example, and how often it counts for the normalizers.
    """

    loss: Callable[..., Array]
    rows: Array | None
    positives: Array
    among: Callable[[Array | int, int], tuple[Array, Array]]


# From a key, the batch and the number of training examples.
Negatives = Callable[[Array, Batch, int], Chosen]


def given(entry: str = "contrast_index") -> Negatives:
    """Takes positives and negatives from the batch.

    Args:
      entry: Of the batch: `[batch, K + 1]` training examples, column 0 the positive.
    """

    def choose(key, batch, n):
        errors.check_name("entry of the batch", entry, batch)
        _checks.check_integers(entry, batch[entry])
        return _contrasted(_indices.places(batch[entry], n), n)

    return choose


def drawn(count: int, labels: Array | None = None, *, relax: bool = False) -> Negatives:
    """Draws negatives in each step for each example, on the device.

    An example's draw follows from the step's key and its index alone, and so not from
    the number of devices.

    Args:
      count: Negatives of an example.
      labels: `[n]` class of each training example: negatives are of other classes. None
        to draw from all others.
      relax: Whether the positive is drawn from the example's class, itself included
        ("relax" of the released code), where it otherwise is the example ("exact").

    Raises:
      ValueError: A count that is not a whole number of 1 or more, labels of one class
        only, or `relax` without labels.

    Departures: (1) with replacement, where the released code draws without.
    """
    count = _checks.as_count("number of negatives", count)
    others, positive = _others(labels), _positives(labels, relax)

    def choose(key, batch, n):
        key, own = jax.random.split(key)
        index = _index(batch, labels, n)
        positives = positive(own, index)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
        negatives = jax.vmap(lambda k, i: others(k, i, n, count))(keys, index)
        return _contrasted(jnp.concatenate([positives[:, None], negatives], axis=1), n)

    return choose


def expected(
    count: int, labels: Array | None = None, *, relax: bool = False
) -> Negatives:
    """Takes all negatives, each weighted by how often `drawn` is expected to draw it.

    The loss is the mean of that with `drawn` over all draws, without its noise.

    Args:
      count: Negatives of an example.
      labels: As for `drawn`.
      relax: As for `drawn`.

    Raises:
      ValueError: As `drawn`.
    """
    count = _checks.as_count("number of negatives", count)
    others, positive = _count_of_others(labels), _positives(labels, relax)

    def choose(key, batch, n):
        index = _index(batch, labels, n)
        each = count / others(index, n)

        def weights(rows):
            return is_other(labels, index, rows) * each[:, None]

        def among(first, size):
            rows = first + jnp.arange(size, dtype=jnp.int32)
            known = jnp.where(rows < n, 1.0, 0.0)[None, :]
            counted = jnp.broadcast_to(known, (len(index), size))
            return known * weights(jnp.minimum(rows, n - 1)), counted

        rows = jnp.arange(n, dtype=jnp.int32)
        return _shared(positive(key, index), None, weights(rows), among)

    return choose


def independent(
    count: int, labels: Array | None = None, *, relax: bool = False
) -> Negatives:
    """Draws in each step whether each training example is a negative, for each example.

    Each of the others is a negative by itself, with a probability that makes `count` of
    them on average. That takes no indices: on an accelerator the draws of `drawn` are
    gathered and scattered one number at a time, which takes longer than the rest of a
    step; these are weights of all rows. An example's draw follows from the step's key
    and its index alone, and so not from the number of devices.

    Args:
      count: Negatives of an example, on average.
      labels: As for `drawn`.
      relax: As for `drawn`.

    Raises:
      ValueError: As `drawn`.

    Departures: (1) the number of negatives varies, with a deviation below the root of
      `count`; (2) without replacement.
    """
    count = _checks.as_count("number of negatives", count)
    others, positive = _count_of_others(labels), _positives(labels, relax)

    def choose(key, batch, n):
        key, own = jax.random.split(key)
        index = _index(batch, labels, n)
        each = count / others(index, n)
        # (Of fewer others than `count` all are negatives, and count more than once.)
        probability = jnp.minimum(each, 1)

        def draw(i, p):
            return jax.random.bernoulli(jax.random.fold_in(key, i), p, (n,))

        drawn_rows = jax.vmap(draw)(index, probability)
        rows = jnp.arange(n, dtype=jnp.int32)
        weights = is_other(labels, index, rows) * (each / probability)[:, None]
        weights = jnp.where(drawn_rows, weights, 0)

        def among(first, size):
            # (Rows behind the last are none.)
            own_rows = first + jnp.arange(size, dtype=jnp.int32)
            known = jnp.where(own_rows < n, 1.0, 0.0)[None, :]
            counted = jnp.broadcast_to(known, (len(index), size))
            padded = jnp.pad(weights, ((0, 0), (0, size)))
            zero = jnp.zeros_like(first)
            found = jax.lax.dynamic_slice(padded, (zero, first), (len(index), size))
            return known * found, counted

        return _shared(positive(own, index), None, weights, among)

    return choose


def shared(
    count: int, labels: Array | None = None, *, relax: bool = False
) -> Negatives:
    """Draws negatives in each step, the same for the whole batch.

    Drawn without replacement from all examples; those of an example's own class have
    weight 0, and the others are weighted so that on average they count as `count`.

    Args:
      count: Negatives to draw, no more than there are examples.
      labels: As for `drawn`.
      relax: As for `drawn`.

    Raises:
      ValueError: As `drawn`; and, from the term, more negatives than examples.

    Departures: (1) another sampling than the released code's, which draws for each
      example: cheaper, but the batch's losses then share their noise.
    """
    count = _checks.as_count("number of negatives", count)
    others, positive = _count_of_others(labels), _positives(labels, relax)

    def choose(key, batch, n):
        if count > n:
            raise ValueError(f"cannot share {count} negatives of {n} examples")
        key, own = jax.random.split(key)
        index = _index(batch, labels, n)
        rows = jax.random.choice(key, n, (count,), replace=False).astype(jnp.int32)
        weights = is_other(labels, index, rows) * (n / others(index, n))[:, None]

        def among(first, size):
            places = jnp.broadcast_to(rows - first, weights.shape)
            counted = jnp.ones(weights.shape)
            return _counts(places, weights, size), _counts(places, counted, size)

        return _shared(positive(own, index), rows, weights, among)

    return choose


def of_same_class(key: Array, labels: Array, index: Array) -> Array:
    """Draws for each example one of its class, uniformly: `[batch]` positives.

    Args:
      key: A random key.
      labels: `[n]` class of each training example.
      index: `[batch]` the examples; n is answered for those that are none.
    """
    order, starts, sizes, own = _by_class(labels)
    index = _indices.places(index, len(own))

    def draw(i):
        place = _draw(jax.random.fold_in(key, i), (), sizes[own[i]])
        return jnp.where(i < len(own), order[starts[own[i]] + place], i)

    return jax.vmap(draw)(index)


def is_other(labels: Array | None, index: Array, rows: Array) -> Array:
    """Returns 1 where a row is of another class (without labels, another example)."""
    if labels is not None:
        if not isinstance(labels, Array):
            # (By number: JAX would keep the lower 32 bits of large labels.)
            _, numbers = np.unique(np.asarray(labels), return_inverse=True)
            classes = jnp.asarray(numbers)
        else:
            classes = jnp.asarray(labels)
        index, rows = classes[index], classes[rows]
    return (index[:, None] != rows[None, :]).astype(float)


def _contrasted(indices: Array, n: int) -> Chosen:
    """Contrasts with `[batch, K + 1]` training examples, n for what is none."""

    def loss(student, teacher, bank, **numbers):
        return objectives.crd(student, teacher, bank, indices, **numbers)

    def among(first, size):
        def counted(rows):
            counts = _counts(rows - first, jnp.ones(rows.shape), size)
            return _checks.nan_unless(jnp.all(rows < n), counts)

        return counted(indices[:, 1:]), counted(indices)

    return Chosen(loss, indices, indices[:, 0], among)


def _shared(
    positives: Array, rows: Array | None, weights: Array, among: Callable
) -> Chosen:
    def loss(student, teacher, bank, **numbers):
        return objectives.crd_shared(
            student, teacher, bank, positives, rows, weights, **numbers
        )

    return Chosen(loss, rows, positives, among)


def _counts(places: Array, weights: Array, size: int) -> Array:
    """Sums the weights `[batch, K]` at each of `size` places: `[batch, size]`.

    Places below 0, or `size` and above, are left out.
    """
    places = jnp.where(places < 0, size, places)
    nothing = jnp.zeros((len(places), size), weights.dtype)
    batch = jnp.arange(len(places))[:, None]
    return nothing.at[batch, places].add(weights, mode="drop")


def _index(batch: Batch, labels: Array | None, n: int) -> Array:
    """Returns the batch's places among the n training examples; checks the labels.

    (n for what is no place.)
    """
    errors.check_name("entry of the batch", "index", batch)
    if labels is not None and np.shape(labels) != (n,):
        raise ValueError(
            f"expected a label for each of {n} training examples, got "
            f"{np.shape(labels)}"
        )
    if n < 2:
        raise ValueError(f"expected two training examples or more, got {n}")
    _checks.check_integers("index", batch["index"])
    return _indices.places(batch["index"], n)


def _positives(labels: Array | None, relax: bool) -> Callable[[Array, Array], Array]:
    """Returns `positive(key, index) -> [batch]`: examples, or others of their class."""
    if not relax:
        return lambda key, index: index
    if labels is None:
        raise ValueError("positives of the same class need labels")
    return lambda key, index: of_same_class(key, labels, index)


def _others(labels: Array | None) -> Callable[[Array, Array, int, int], Array]:
    """Returns `draw(key, index, n, count) -> [count]`: uniform rows of other classes.

    (Of other examples, without labels.) Sorted by class, an example's own class is one
    run of rows: drawn is a place among the others, which is moved past that run.
    """
    if labels is None:

        def draw_other(key, index, n, count):
            place = _draw(key, (count,), n - 1)
            return place + (place >= index).astype(place.dtype)

        return draw_other

    _check_classes(labels)
    order, starts, sizes, own = _by_class(labels)

    def draw(key, index, n, count):
        start, size = starts[own[index]], sizes[own[index]]
        place = _draw(key, (count,), n - size)
        return order[place + size * (place >= start).astype(place.dtype)]

    return draw


def _draw(key: Array, shape: tuple[int, ...], below: Array | int) -> Array:
    """Draws whole numbers from 0 on, below another, as int32."""
    limit = jnp.asarray(below, int)
    return jax.random.randint(key, shape, 0, limit).astype(jnp.int32)


def _count_of_others(labels: Array | None) -> Callable[[Array, int], Array]:
    """Returns `count(index, n) -> [batch]`: how many are of other classes.

    (Without labels, other examples.)
    """
    if labels is None:
        return lambda index, n: jnp.full(index.shape, float(n - 1))
    _check_classes(labels)
    _, _, sizes, own = _by_class(labels)
    return lambda index, n: (n - sizes[own[index]]).astype(float)


def _check_classes(labels: Array | None) -> None:
    if labels is not None and len(np.unique(np.asarray(labels))) < 2:
        raise ValueError("negatives of other classes need two classes or more")


def _by_class(labels: Array) -> tuple[Array, Array, Array, Array]:
    """Sorts examples by their classes.

    Returns:
      `order` `[n]`, and of each class its first place in the order and its size, and of
      each example its class `[n]`, counted from 0.
    """
    _, own, sizes = np.unique(
        np.asarray(labels), return_inverse=True, return_counts=True
    )
    starts = np.cumsum(sizes) - sizes
    order = np.argsort(own, kind="stable")
    first, second, third, fourth = (
        jnp.asarray(x, jnp.int32) for x in (order, starts, sizes, own)
    )
    return first, second, third, fourth
