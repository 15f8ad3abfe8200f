"""Contrastive objectives: each example against others, in a memory bank."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rdljax import _geometry, _layerwise

Array = jax.Array


class Bank(NamedTuple):
    """What `crd` remembers of all n training examples.

    Attributes:
      student: Embeddings `[n, units]`, as the student's head last had them.
      teacher: Embeddings `[n, units]` of the teacher's head.
      normalizers: `[2]`: for the student's embeddings against the teacher's bank, and
        for the teacher's against the student's, what an exponentiated score sums to
        over the bank.
    """

    student: Array
    teacher: Array
    normalizers: Array


def _rows_of_same_shape(student: tuple, teacher: tuple) -> str | None:
    if len(student) != 2 or student != teacher:
        return "expected embeddings [batch, units] of the same shape on both sides"
    return None


@_layerwise.single(_rows_of_same_shape, teacher_is_fixed=False)
def crd(
    student: Array,
    teacher: Array,
    bank: Bank,
    indices: Array,
    *,
    temperature: float = 0.07,
) -> Array:
    """Contrastive representation distillation (CRD).

    Compares each embedding of one net with the bank of the other: noise-contrastive
    estimation tells the same example (the positive) from K others (the negatives), for
    the student against the teacher and for the teacher against the student.

    Args:
      student: Unit embeddings `[batch, units]`, one array.
      teacher: Unit embeddings `[batch, units]`: it receives a gradient too, for the
        head that made them.
      bank: Remembered embeddings of all examples, and their normalizers.
      indices: `[batch, K + 1]` rows of the bank for each example: column 0 the
        positive, the others its negatives.
      temperature: What the inner products are divided by, above 0.

    Returns:
      A scalar in nats: the loss of the positive plus those of the K negatives, mean
      over the batch, summed over the two directions.

    Raises:
      ValueError: Not embeddings of one shape, a bank of other units, or indices that
        are not `[batch, K + 1]`.

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020, eqs. 17 to 19; the bank is that
      of the released code.
    """
    bank, indices = _prepared(bank, student), jnp.asarray(indices)
    if indices.ndim != 2 or len(indices) != len(student) or indices.shape[1] < 2:
        raise ValueError(
            f"expected indices [batch, K + 1], not {indices.shape}, for this batch"
        )

    def direction(anchors, keys, normalizer):
        # All scores by one matrix product: cheaper than to gather K + 1 rows of the
        # bank for each example.
        scores = _geometry.inner(anchors, keys)
        scores = jnp.take_along_axis(scores, indices, axis=1) / temperature
        count = jnp.asarray(indices.shape[1] - 1, scores.dtype)
        return _nce(scores[:, 0], scores[:, 1:], None, count, normalizer, len(keys))

    return direction(student, bank.teacher, bank.normalizers[0]) + direction(
        teacher, bank.student, bank.normalizers[1]
    )


@_layerwise.single(_rows_of_same_shape, teacher_is_fixed=False)
def crd_shared(
    student: Array,
    teacher: Array,
    bank: Bank,
    index: Array,
    negatives: Array | None = None,
    weights: Array | None = None,
    *,
    temperature: float = 0.07,
) -> Array:
    """Contrastive representation distillation, the batch sharing its negatives.

    As `crd`, with one set of negatives for all examples and a weight for each: how
    often it was drawn, or is expected to be; 0 for one of the example's own class.
    Nothing is gathered for each example, which makes it several times faster.

    Args:
      student: Unit embeddings `[batch, units]`, one array.
      teacher: Unit embeddings `[batch, units]`: it receives a gradient too.
      bank: Remembered embeddings of all examples, and their normalizers.
      index: `[batch]` row of the bank of each example, its positive.
      negatives: `[R]` rows of the bank; None for all of it.
      weights: `[batch, R]`, not negative: how often each negative counts for each
        example. None for 1.
      temperature: What the inner products are divided by, above 0.

    Returns:
      A scalar in nats: with the counts of drawn negatives as weights, `crd`'s; with
      their expectation, the mean of `crd` over all draws.

    Raises:
      ValueError: Not embeddings of one shape, a bank of other units, or an index or
        weights of another batch.

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020, eqs. 17 to 19.
    """
    bank, index = _prepared(bank, student), jnp.asarray(index)
    negatives, weights = (
        None if x is None else jnp.asarray(x) for x in (negatives, weights)
    )
    rows = len(bank.student) if negatives is None else len(negatives)
    shape = (len(student), rows) if weights is None else weights.shape
    if index.shape != student.shape[:1] or shape != (len(student), rows):
        raise ValueError(
            f"expected an index [batch] and weights [batch, {rows}], not {index.shape} "
            f"and {shape}, for this batch"
        )

    def direction(anchors, keys, normalizer):
        positives = jnp.sum(anchors * keys[index], axis=1) / temperature
        others = keys if negatives is None else keys[negatives]
        scores = _geometry.inner(anchors, others) / temperature
        if weights is None:
            count = jnp.asarray(rows, scores.dtype)
        else:
            count = jnp.sum(weights.astype(scores.dtype), axis=1)
        return _nce(positives, scores, weights, count, normalizer, len(keys))

    return direction(student, bank.teacher, bank.normalizers[0]) + direction(
        teacher, bank.student, bank.normalizers[1]
    )


def normalizers(
    student: Array,
    teacher: Array,
    bank: Bank,
    indices: Array | None = None,
    *,
    temperature: float = 0.07,
) -> Array:
    """The normalizers of a bank, from one batch: `[2]`, without a gradient.

    The released code takes them from the first batch and keeps them.

    Args:
      student: Unit embeddings `[batch, units]`.
      teacher: Unit embeddings `[batch, units]`.
      bank: Of which the embeddings count.
      indices: `[batch, K + 1]` rows of the bank for each example, or `[R]` rows for
        all; None for all rows.
      temperature: As for `crd`.

    Returns:
      `[2]`: the mean exponentiated score times the rows of the bank, for the student's
      embeddings and for the teacher's.
    """

    def one(anchors, keys):
        scores = _geometry.inner(anchors, keys)
        if indices is not None and indices.ndim == 2:
            scores = jnp.take_along_axis(scores, indices, axis=1)
        elif indices is not None:
            scores = scores[:, indices]
        return jnp.mean(jnp.exp(scores / temperature)) * len(keys)

    indices = None if indices is None else jnp.asarray(indices)
    found = jnp.stack([one(student, bank.teacher), one(teacher, bank.student)])
    return jax.lax.stop_gradient(found)


def update_bank(
    bank: Bank, student: Array, teacher: Array, index: Array, *, momentum: float = 0.5
) -> Bank:
    """The bank after a batch: its rows moved towards the new embeddings.

    Args:
      bank: The bank before.
      student: Unit embeddings `[batch, units]`.
      teacher: Unit embeddings `[batch, units]`.
      index: `[batch]` row of the bank of each example.
      momentum: Share of the old row in the new one, which is then scaled to a unit
        vector.

    Returns:
      The new bank, without a gradient; the normalizers stay.
    """

    def moved(rows, new):
        new = jax.lax.stop_gradient(new).astype(rows.dtype)
        mixed = momentum * rows[index] + (1 - momentum) * new
        return rows.at[index].set(_geometry.unit_rows(mixed))

    return bank._replace(
        student=moved(bank.student, student), teacher=moved(bank.teacher, teacher)
    )


def _prepared(bank: Bank, student: Array) -> Bank:
    """The bank in the student's dtype, its shapes checked."""
    bank = Bank(*(jnp.asarray(x, student.dtype) for x in bank))
    shapes = bank.student.shape, bank.teacher.shape
    if shapes[0] != shapes[1] or shapes[0][1:] != student.shape[1:]:
        raise ValueError(
            f"expected two banks [n, {student.shape[1]}], not {shapes[0]} and "
            f"{shapes[1]}"
        )
    return bank


def _nce(
    positives: Array,
    negatives: Array,
    weights: Array | None,
    count: Array,
    normalizer: Array,
    n: int,
) -> Array:
    """Noise-contrastive estimation of one direction, as a logistic loss.

    With p = exp(score) / normalizer, and noise of 1/n for each row of the bank, the
    positive's probability p / (p + count/n + epsilon) is the logistic function of the
    score minus a threshold.

    Args:
      positives: Scores `[batch]`.
      negatives: Scores `[batch, R]`.
      weights: `[batch, R]`, or None for 1.
      count: How many negatives an example has, `[]` or `[batch]`.
      normalizer: A number.
      n: Rows of the bank.
    """
    epsilon = 1e-7  # of the released code
    noise = count / n
    threshold = jnp.log(normalizer) + jnp.log(noise + epsilon)
    losses = jax.nn.softplus(negatives - jnp.reshape(threshold, (-1, 1)))
    if weights is not None:
        losses = losses * weights
    # The released code leaves epsilon out of the negatives' numerator.
    left_out = count * jnp.log1p(epsilon / jnp.where(noise > 0, noise, 1))
    each = jax.nn.softplus(threshold - positives) + jnp.sum(losses, axis=1) + left_out
    return jnp.mean(each)
