"""Chooses the negatives with which `terms.crd` contrasts each example.

    terms.crd(len(labels), negatives.per_example(16384, labels))

The modes are those of CRD (Tian, Krishnan & Isola, `Contrastive Representation
Distillation <https://arxiv.org/abs/1910.10699>`_, ICLR 2020) and its released code.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from rdljax import _checks, _indices, errors, objectives
from rdljax._types import Batch

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class Choice:
    """The positives and negatives of a batch in one step.

    Attributes:
      loss: Function `loss(student, teacher, bank, temperature=...)` of unit embeddings.
      rows: The `indices` for `objectives.crd_normalizers`.
      positives: Index of each example's positive among the training examples,
        `[batch]`.
      counts_of: Function `counts_of(first, size) -> (negatives, counted)`, each
        `[batch, size]`: for `size` training examples starting at index `first`, the
        number of times each is a negative of each example, and its weight in the
        normalizers.
    """

    loss: Callable[..., Array]
    rows: Array | None
    positives: Array
    counts_of: Callable[[Array | int, int], tuple[Array, Array]]


# A function of a key, the batch and the number of training examples.
Negatives = Callable[[Array, Batch, int], Choice]


def from_batch(entry: str = "contrast_index") -> Negatives:
    """Takes positives and negatives from the batch.

    Args:
      entry: Entry of the batch with indices of training examples, `[batch, K + 1]`: the
        positive in column 0, the negatives in the others.
    """

    def choose(key, batch, n):
        errors.check_name("entry of the batch", entry, batch)
        _checks.check_integers(entry, batch[entry])
        return _choose_per_example(_indices.places(batch[entry], n), n)

    return choose


def per_example(
    count: int, labels: Array | None = None, *, relax: bool = False
) -> Negatives:
    """Draws negatives in each step for each example, on the device.

    The draw of an example depends only on the key of the step and the index of the
    example, so not on the number of devices.

    Args:
      count: Number of negatives of an example.
      labels: Classes of the training examples, `[n]`: negatives are of other classes.
        None: negatives are drawn from all other examples.
      relax: Whether the positive is drawn from the class of the example, including the
        example ("relax" in the released code). Otherwise it is the example ("exact").

    Raises:
      ValueError: A count that is not a whole number of 1 or more, labels of only one
        class, or `relax` without labels.

    Departures: (1) negatives are drawn with replacement; the released code draws
      without.
    """
    count = _checks.as_count("number of negatives", count)
    others, positive = _others(labels), _positives(labels, relax)

    def choose(key, batch, n):
        key, own = jax.random.split(key)
        index = _index(batch, labels, n)
        positives = positive(own, index)
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(index)
        negatives = jax.vmap(lambda k, i: others(k, i, n, count))(keys, index)
        return _choose_per_example(
            jnp.concatenate([positives[:, None], negatives], axis=1), n
        )

    return choose


def expectation(
    count: int, labels: Array | None = None, *, relax: bool = False
) -> Negatives:
    """Takes all negatives, weighted by their expected number of draws in `per_example`.

    The loss is the mean of the loss with `per_example` over all draws, without its
    noise.

    Args:
      count: Number of negatives of an example.
      labels: As for `per_example`.
      relax: As for `per_example`.

    Raises:
      ValueError: As for `per_example`.
    """
    count = _checks.as_count("number of negatives", count)
    others, positive = _count_of_others(labels), _positives(labels, relax)

    def choose(key, batch, n):
        index = _index(batch, labels, n)
        each = count / others(index, n)

        def weights(rows):
            return is_other(labels, index, rows) * each[:, None]

        def counts_of(first, size):
            rows = first + jnp.arange(size, dtype=jnp.int32)
            known = jnp.where(rows < n, 1.0, 0.0)[None, :]
            counted = jnp.broadcast_to(known, (len(index), size))
            return known * weights(jnp.minimum(rows, n - 1)), counted

        rows = jnp.arange(n, dtype=jnp.int32)
        return _choose_for_batch(positive(key, index), None, weights(rows), counts_of)

    return choose


def bernoulli(
    count: int, labels: Array | None = None, *, relax: bool = False
) -> Negatives:
    """Draws in each step, for each example, which training examples are negatives.

    Each of the others is a negative independently, with a probability that gives
    `count` negatives on average. The draws are weights of all rows rather than indices:
    on an accelerator, the indices of `per_example` are gathered and scattered one
    element at a time, which takes longer than the rest of a step. The draw of an
    example depends only on the key of the step and the index of the example, so not on
    the number of devices.

    Args:
      count: Mean number of negatives of an example.
      labels: As for `per_example`.
      relax: As for `per_example`.

    Raises:
      ValueError: As for `per_example`.

    Departures: (1) the number of negatives varies, with a standard deviation below the
      root of `count`; (2) negatives are drawn without replacement.
    """
    count = _checks.as_count("number of negatives", count)
    others, positive = _count_of_others(labels), _positives(labels, relax)

    def choose(key, batch, n):
        key, own = jax.random.split(key)
        index = _index(batch, labels, n)
        each = count / others(index, n)
        # If there are fewer others than `count`, all are negatives, with weights > 1.
        probability = jnp.minimum(each, 1)

        def draw(i, p):
            return jax.random.bernoulli(jax.random.fold_in(key, i), p, (n,))

        drawn_rows = jax.vmap(draw)(index, probability)
        rows = jnp.arange(n, dtype=jnp.int32)
        weights = is_other(labels, index, rows) * (each / probability)[:, None]
        weights = jnp.where(drawn_rows, weights, 0)

        def counts_of(first, size):
            # Rows beyond the last are padding.
            own_rows = first + jnp.arange(size, dtype=jnp.int32)
            known = jnp.where(own_rows < n, 1.0, 0.0)[None, :]
            counted = jnp.broadcast_to(known, (len(index), size))
            padded = jnp.pad(weights, ((0, 0), (0, size)))
            zero = jnp.zeros_like(first)
            found = jax.lax.dynamic_slice(padded, (zero, first), (len(index), size))
            return known * found, counted

        return _choose_for_batch(positive(own, index), None, weights, counts_of)

    return choose


def per_batch(
    count: int, labels: Array | None = None, *, relax: bool = False
) -> Negatives:
    """Draws negatives in each step, the same for the whole batch.

    They are drawn without replacement from all examples. Those of an example's own
    class have weight 0, and the weights of the others sum to `count` on average.

    Args:
      count: Number of negatives to draw, at most the number of examples.
      labels: As for `per_example`.
      relax: As for `per_example`.

    Raises:
      ValueError: As for `per_example`; and, from the term, more negatives than
        examples.

    Departures: (1) the released code draws negatives for each example; sharing them is
      cheaper, but the losses of a batch then share their noise.
    """
    count = _checks.as_count("number of negatives", count)
    others, positive = _count_of_others(labels), _positives(labels, relax)

    def choose(key, batch, n):
        if count > n:
            raise ValueError(f"cannot draw {count} negatives from {n} examples")
        key, own = jax.random.split(key)
        index = _index(batch, labels, n)
        rows = jax.random.choice(key, n, (count,), replace=False).astype(jnp.int32)
        weights = is_other(labels, index, rows) * (n / others(index, n))[:, None]

        def counts_of(first, size):
            places = jnp.broadcast_to(rows - first, weights.shape)
            counted = jnp.ones(weights.shape)
            return _counts(places, weights, size), _counts(places, counted, size)

        return _choose_for_batch(positive(own, index), rows, weights, counts_of)

    return choose


def of_same_class(key: Array, labels: Array, index: Array) -> Array:
    """Draws for each example a positive of its class, uniformly: `[batch]`.

    Args:
      key: A random key.
      labels: Classes of the training examples, `[n]`.
      index: Indices of the examples, `[batch]`; an index out of range gives n.
    """
    order, starts, sizes, own = _by_class(labels)
    index = _indices.places(index, len(own))

    def draw(i):
        place = _draw(jax.random.fold_in(key, i), (), sizes[own[i]])
        return jnp.where(i < len(own), order[starts[own[i]] + place], i)

    return jax.vmap(draw)(index)


def is_other(labels: Array | None, index: Array, rows: Array) -> Array:
    """Returns 1 where a row is of another class (without labels: another example)."""
    if labels is not None:
        if not isinstance(labels, Array):
            # Consecutive numbers, since JAX would truncate large labels to 32 bits.
            _, numbers = np.unique(np.asarray(labels), return_inverse=True)
            classes = jnp.asarray(numbers)
        else:
            classes = jnp.asarray(labels)
        index, rows = classes[index], classes[rows]
    return (index[:, None] != rows[None, :]).astype(float)


def _choose_per_example(indices: Array, n: int) -> Choice:
    """Contrasts with training examples `[batch, K + 1]`; n: an index out of range."""

    def loss(student, teacher, bank, **numbers):
        return objectives.crd(student, teacher, bank, indices, **numbers)

    def counts_of(first, size):
        def counted(rows):
            counts = _counts(rows - first, jnp.ones(rows.shape), size)
            return _checks.nan_unless(jnp.all(rows < n), counts)

        return counted(indices[:, 1:]), counted(indices)

    return Choice(loss, indices, indices[:, 0], counts_of)


def _choose_for_batch(
    positives: Array, rows: Array | None, weights: Array, counts_of: Callable
) -> Choice:
    def loss(student, teacher, bank, **numbers):
        return objectives.crd_shared(
            student, teacher, bank, positives, rows, weights, **numbers
        )

    return Choice(loss, rows, positives, counts_of)


def _counts(places: Array, weights: Array, size: int) -> Array:
    """Sums the weights `[batch, K]` at each of `size` positions: `[batch, size]`.

    Positions below 0, or of `size` and above, are left out.
    """
    places = jnp.where(places < 0, size, places)
    nothing = jnp.zeros((len(places), size), weights.dtype)
    batch = jnp.arange(len(places))[:, None]
    return nothing.at[batch, places].add(weights, mode="drop")


def _index(batch: Batch, labels: Array | None, n: int) -> Array:
    """Returns the batch's indices among n training examples; checks the labels.

    (n for an index out of range.)
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
    """Returns `positive(key, index) -> [batch]`: the examples, or of the same class."""
    if not relax:
        return lambda key, index: index
    if labels is None:
        raise ValueError("positives of the same class need labels")
    return lambda key, index: of_same_class(key, labels, index)


def _others(labels: Array | None) -> Callable[[Array, Array, int, int], Array]:
    """Returns `draw(key, index, n, count) -> [count]`: uniform rows of other classes.

    (Without labels: of other examples.) With rows sorted by class, the example's own
    class is one run of rows: a position among the other rows is drawn, and shifted if
    it is not before that run.
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
    """Draws integers from 0 to `below - 1`, as int32."""
    limit = jnp.asarray(below, int)
    return jax.random.randint(key, shape, 0, limit).astype(jnp.int32)


def _count_of_others(labels: Array | None) -> Callable[[Array, int], Array]:
    """Returns `count(index, n) -> [batch]`: the number of examples of other classes.

    (Without labels: of other examples.)
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
      The sorted order `[n]`; the start in this order and the size of each class; and
      the class of each example `[n]`, counted from 0.
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
