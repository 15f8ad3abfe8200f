"""Contrastive objectives: each example against others, in a memory bank."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rdljax import _checks, _geometry, _indices, _layerwise

Array = jax.Array


class Bank(NamedTuple):
    """What `crd` remembers of all n training examples.

    Attributes:
      student: Embeddings `[n, units]`, as the student's head last had them.
      teacher: Embeddings `[n, units]` of the teacher's head.
      normalizers: `[2]`, above 0: for the student's embeddings against the teacher's
        bank, and for the teacher's against the student's, an estimate of what the
        exponentiated scores of an example sum to over the bank. None for those of each
        batch itself (as `crd_normalizers` has them, but at any temperature).
    """

    student: Array
    teacher: Array
    normalizers: Array | None


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
    """Computes the contrastive representation distillation loss (CRD).

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
      ValueError: Not embeddings of one shape, a bank of other units, indices that are
        not integers `[batch, K + 1]`, or a temperature that is not above 0 and finite.
        (The loss is NaN for an index that is no row of the bank.)

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020, eqs. 17 to 19; the bank is that
      of the released code.

    Departures: (1) the temperature of the released code, where the paper has 0.1
      outside ImageNet. As there, the noise is 1/n for each negative, although none of
      the example's own class is drawn.
    """
    temperature = _checks.as_number("temperature", temperature, student.dtype, above=0)
    bank = _checked(bank, student.shape[1])
    indices, valid = _rows_of(bank, indices)
    if indices.ndim != 2 or len(indices) != len(student) or indices.shape[1] < 2:
        raise ValueError(
            f"expected indices [batch, K + 1], not {indices.shape}, for this batch"
        )

    def direction(anchors, keys, normalizer):
        scores = _scores(anchors, keys, indices) / temperature
        count = jnp.asarray(indices.shape[1] - 1, scores.dtype)
        log_z = _log_normalizer(normalizer, scores, len(keys))
        return _nce(scores[:, 0], scores[:, 1:], None, count, log_z, len(keys))

    return _checks.nan_unless(valid, _both_ways(direction, student, teacher, bank))


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
    """Computes the CRD loss with negatives that the batch shares.

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
      ValueError: Not embeddings of one shape, a bank of other units, an index or
        weights of another batch, or a temperature that is not above 0 and finite. (The
        loss is NaN for rows that are none of the bank's, and weights below 0.)

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020, eqs. 17 to 19.
    """
    temperature = _checks.as_number("temperature", temperature, student.dtype, above=0)
    bank = _checked(bank, student.shape[1])
    index, valid = _rows_of(bank, index)
    if negatives is not None:
        negatives, rows_are_valid = _rows_of(bank, negatives)
        valid &= rows_are_valid
    if weights is not None:
        weights = _weights(weights, student.dtype)
    if negatives is not None and negatives.ndim != 1:
        raise ValueError(f"expected negatives [R], not {negatives.shape}")
    rows = len(bank.student) if negatives is None else len(negatives)
    shape = (len(student), rows) if weights is None else weights.shape
    if index.shape != student.shape[:1] or shape != (len(student), rows):
        raise ValueError(
            f"expected an index [batch] and weights [batch, {rows}], not {index.shape} "
            f"and {shape}, for this batch"
        )

    def direction(anchors, keys, normalizer):
        own = keys[index].astype(anchors.dtype)
        positives = jnp.sum(anchors * own, axis=1) / temperature
        others = keys if negatives is None else keys[negatives]
        scores = _geometry.inner(anchors, others.astype(anchors.dtype)) / temperature
        if weights is None:
            count = jnp.asarray(rows, scores.dtype)
        else:
            count = jnp.sum(weights, axis=1)
        log_z = _log_normalizer(normalizer, scores, len(keys))
        return _nce(positives, scores, weights, count, log_z, len(keys))

    return _checks.nan_unless(valid, _both_ways(direction, student, teacher, bank))


def crd_of_rows(
    student: Array,
    teacher: Array,
    rows: Bank,
    positives: Array,
    negatives: Array,
    counts: Array,
    *,
    n: int,
    temperature: float = 0.07,
) -> Array:
    """Computes the part of `crd` of some rows of a bank; the parts add up to it.

    For banks that are divided over devices.

    Args:
      student: Unit embeddings `[batch, units]`.
      teacher: Unit embeddings `[batch, units]`.
      rows: R rows of the bank, and the normalizers of all of it.
      positives: `[batch]` which of these rows is an example's positive; R where its
        positive is not among them. (Any other number gives NaN.)
      negatives: `[batch, R]` how often each row is a negative of each example.
      counts: `[batch]` how many negatives an example has among all rows.
      n: Rows of the whole bank.
      temperature: As for `crd`.

    Returns:
      A scalar in nats: summed over all rows, `crd` (or `crd_shared`) of the whole bank.

    Raises:
      ValueError: Not embeddings of one shape, rows of other units or without
        normalizers, or positives that are not integers.

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020, eqs. 17 to 19.
    """
    student, teacher = _embeddings(student, teacher)
    temperature = _checks.as_number("temperature", temperature, student.dtype, above=0)
    if rows.normalizers is None:
        raise ValueError("expected the normalizers of the whole bank, got None")
    rows, size = _checked(rows, student.shape[1]), len(rows.student)
    _checks.check_integers("positives", positives)
    positives = _indices.places(positives, size + 1)
    here = positives < size
    weights = _weights(negatives, student.dtype)
    count = jnp.asarray(counts, student.dtype)

    def direction(anchors, keys, normalizer):
        keys = keys.astype(anchors.dtype)
        scores = _geometry.inner(anchors, keys) / temperature
        own = jnp.where(here, positives, 0)
        positive = jnp.take_along_axis(scores, own[:, None], axis=1)[:, 0]
        log_z = _log_normalizer(normalizer, scores, n)
        losses = _nce_each(positive, scores, weights, count, log_z, n)
        return jnp.mean(jnp.where(here, losses[0], 0) + losses[1])

    valid = jnp.all(positives <= size)
    return _checks.nan_unless(valid, _both_ways(direction, student, teacher, rows))


def crd_exponentials_of_rows(
    student: Array,
    teacher: Array,
    rows: Bank,
    weights: Array,
    *,
    temperature: float = 0.07,
) -> Array:
    """Computes the part of a bank's normalizers of some rows, without a gradient.

    Args:
      student: Unit embeddings `[batch, units]`.
      teacher: Unit embeddings `[batch, units]`.
      rows: R rows of the bank.
      weights: `[batch, R]` how often each row counts for each example.
      temperature: As for `crd`.

    Returns:
      `[2]`: the weighted sums of exponentiated scores. Those of all rows, divided by
      the sum of the weights and times the rows of the bank, are its `normalizers`.

    Raises:
      ValueError: Not embeddings of one shape, or rows of other units.
    """
    student, teacher = _embeddings(student, teacher)
    temperature = _checks.as_number("temperature", temperature, student.dtype, above=0)
    rows = _checked(rows, student.shape[1])
    weights = _weights(weights, student.dtype)

    def one(anchors, keys):
        scores = _geometry.inner(anchors, keys.astype(anchors.dtype))
        scores = _checks.nan_unless(jnp.isfinite(scores), scores)
        # (A row that does not count may be filling, with any score.)
        counted = weights * jnp.exp(scores / temperature)
        return jnp.sum(jnp.where(weights == 0, 0, counted))

    found = jnp.stack([one(student, rows.teacher), one(teacher, rows.student)])
    return jax.lax.stop_gradient(found)


def crd_normalizers(
    student: Array,
    teacher: Array,
    bank: Bank,
    indices: Array | None = None,
    *,
    temperature: float = 0.07,
) -> Array:
    """Computes the normalizers `[2]` of a bank from one batch, without a gradient.

    The released code takes them from the first batch and keeps them. They overflow in
    float32 at temperatures below about 0.012, and the loss is then NaN.

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

    Raises:
      ValueError: Not embeddings of one shape, a bank of other units, or indices that
        are not integers. (The normalizers are NaN for one that is no row of the bank.)
    """
    student, teacher = _embeddings(student, teacher)
    temperature = _checks.as_number("temperature", temperature, student.dtype, above=0)
    bank = _checked(bank, student.shape[1])
    valid: Array | bool = True
    if indices is not None:
        indices, valid = _rows_of(bank, indices)

    def one(anchors, keys):
        if indices is not None and indices.ndim == 2:
            scores = _scores(anchors, keys, indices)
        else:
            keys = keys if indices is None else keys[indices]
            scores = _geometry.inner(anchors, keys.astype(anchors.dtype))
        found = jnp.mean(jnp.exp(scores / temperature)) * len(bank.student)
        return _checks.nan_unless(jnp.isfinite(jnp.sum(scores)), found)

    found = jnp.stack([one(student, bank.teacher), one(teacher, bank.student)])
    return jax.lax.stop_gradient(_checks.nan_unless(valid, found))


def crd_update_bank(
    bank: Bank, student: Array, teacher: Array, index: Array, *, momentum: float = 0.5
) -> Bank:
    """Moves the batch's rows of a bank towards the new embeddings.

    Args:
      bank: The bank before.
      student: Unit embeddings `[batch, units]`.
      teacher: Unit embeddings `[batch, units]`.
      index: `[batch]` row of the bank of each example.
      momentum: Share of the old row in the new one, which is then scaled to a unit
        vector.

    Returns:
      The new bank, without a gradient; the normalizers stay.

    Raises:
      ValueError: Not embeddings of one shape, a bank of other units, an index that is
        not integers `[batch]`, or a momentum that is not 0 to 1. (NaN is written for
        one that is no row of the bank.)
    """
    index, valid = _rows_of(bank, index)
    # (Beyond the bank nothing would be written.)
    index = jnp.minimum(index, len(bank.student) - 1)
    return _moved(bank, student, teacher, index, valid, momentum)


def crd_update_rows(
    rows: Bank, student: Array, teacher: Array, index: Array, *, momentum: float = 0.5
) -> Bank:
    """Updates some rows of a bank: `crd_update_bank` of banks that are divided.

    Args:
      rows: R rows of the bank before.
      student: Unit embeddings `[batch, units]`.
      teacher: Unit embeddings `[batch, units]`.
      index: `[batch]` which of these rows is an example's; R where it is not among
        them. (Any other number writes NaN.)
      momentum: As for `crd_update_bank`.

    Returns:
      The new rows, without a gradient; the normalizers stay.

    Raises:
      ValueError: As `crd_update_bank`.
    """
    size = len(rows.student)
    _checks.check_integers("index", index)
    index = _indices.places(index, size + 1)
    valid = index <= size
    index = jnp.where(valid, index, 0)
    return _moved(rows, student, teacher, index, jnp.all(valid), momentum)


def _moved(
    bank: Bank,
    student: Array,
    teacher: Array,
    index: Array,
    valid: Array,
    momentum: float | Array,
) -> Bank:
    """Writes at the index, of which what is beyond the rows is left out.

    If it is not valid, all that is written is NaN.
    """
    student, teacher = _embeddings(student, teacher)
    bank = _checked(bank, student.shape[1])
    if index.shape != student.shape[:1]:
        raise ValueError(
            f"expected an index [batch], not {index.shape}, for embeddings "
            f"{student.shape}"
        )

    def moved(rows, new):
        old = _checks.as_number("momentum", momentum, rows.dtype, at_least=0, at_most=1)
        new = jax.lax.stop_gradient(new).astype(rows.dtype)
        mixed = _geometry.unit_rows(old * rows[index] + (1 - old) * new)
        return rows.at[index].set(_checks.nan_unless(valid, mixed))

    return bank._replace(
        student=moved(bank.student, student), teacher=moved(bank.teacher, teacher)
    )


def _both_ways(
    direction: Callable[..., Array], student: Array, teacher: Array, bank: Bank
) -> Array:
    """Sums both directions: student against teacher's bank, and the other way round."""
    own, other = (None, None) if bank.normalizers is None else bank.normalizers
    first = direction(student, bank.teacher, own)
    return first + direction(teacher, bank.student, other)


def _embeddings(student: Array, teacher: Array) -> tuple[Array, Array]:
    """Returns both sides in the student's compute dtype, if their shapes are right."""
    shapes = jnp.shape(student), jnp.shape(teacher)
    if expected := _rows_of_same_shape(*shapes):
        raise ValueError(f"{expected}, got student {shapes[0]} and teacher {shapes[1]}")
    student, teacher = map(_checks.as_activations, (student, teacher))
    dtype = _geometry.compute_dtype(student)
    return student.astype(dtype), teacher.astype(dtype)


def _checked(bank: Bank, units: int) -> Bank:
    """Returns the bank, if its shapes are right."""
    shapes = tuple(jnp.shape(x) for x in bank[:2])
    if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][1] != units:
        raise ValueError(
            f"expected two banks [n, {units}], not {shapes[0]} and {shapes[1]}"
        )
    if bank.normalizers is not None and jnp.shape(bank.normalizers) != (2,):
        raise ValueError(
            f"expected normalizers (2,), not {jnp.shape(bank.normalizers)}"
        )
    return jax.tree.map(jnp.asarray, bank)


def _rows_of(bank: Bank, indices: Array) -> tuple[Array, Array]:
    """Returns integers as rows of the bank, and whether they all are such."""
    n = len(bank.student)
    _checks.check_integers("rows of the bank", indices)
    indices = _indices.places(indices, n)
    return indices, jnp.all(indices < n)


def _weights(weights: Array, dtype: jnp.dtype) -> Array:
    """Returns weights in a dtype, NaN for those below 0."""
    weights = jnp.asarray(weights)
    _checks.check_real("weights", weights.dtype)
    weights = weights.astype(dtype)
    return jnp.where(weights < 0, jnp.nan, weights)


def _log_normalizer(normalizer: Array | None, scores: Array, n: int) -> Array:
    """Returns the logarithm of a normalizer; of None, of what the scores average to.

    NaN of a normalizer that is not above 0 and finite.
    """
    if normalizer is None:
        scores = jax.lax.stop_gradient(scores)
        return jax.nn.logsumexp(scores) + math.log(n / scores.size)
    logarithm = jnp.log(normalizer).astype(scores.dtype)
    return _checks.nan_unless(jnp.isfinite(logarithm), logarithm)


def _scores(anchors: Array, keys: Array, indices: Array) -> Array:
    """Computes inner products `[batch, K + 1]` with rows `[batch, K + 1]` of the keys.

    By one matrix product with all n keys: on a CPU a gathered row costs as much as
    about ten rows there. For few of many rows they are gathered.
    """
    if _GATHER * indices.shape[1] < len(keys):
        return jnp.einsum(
            "bu,bku->bk",
            anchors,
            keys[indices].astype(anchors.dtype),
            precision=jax.lax.Precision.HIGHEST,
        )
    products = _geometry.inner(anchors, keys.astype(anchors.dtype))
    return jnp.take_along_axis(products, indices, axis=1)


_GATHER = 10


def _nce(*scores_and_numbers) -> Array:
    """Returns the mean over the batch of `_nce_each`, of positives and negatives."""
    positives, negatives = _nce_each(*scores_and_numbers)
    return jnp.mean(positives + negatives)


def _nce_each(
    positives: Array,
    negatives: Array,
    weights: Array | None,
    count: Array,
    log_normalizer: Array,
    n: int,
) -> tuple[Array, Array]:
    """Computes the noise-contrastive loss of one direction, a logistic loss.

    With p = exp(score) / normalizer, and noise of 1/n for each row of the bank, the
    positive's probability p / (p + count/n + epsilon) is the logistic function of the
    score minus a threshold.

    Args:
      positives: Scores `[batch]`.
      negatives: Scores `[batch, R]`.
      weights: `[batch, R]`, or None for 1.
      count: How many negatives an example has, `[]` or `[batch]`.
      log_normalizer: A number.
      n: Rows of the bank.

    Returns:
      Of each example the loss of its positive and those of its negatives, `[batch]`:
      NaN where a score is not finite.
    """
    epsilon = 1e-7  # of the released code
    noise = count / n
    threshold = log_normalizer + jnp.log(noise + epsilon)
    finite = jnp.isfinite(positives + jnp.sum(negatives, axis=1))
    threshold = _checks.nan_unless(finite, threshold)
    losses = jax.nn.softplus(negatives - jnp.reshape(threshold, (-1, 1)))
    if weights is not None:
        losses = losses * weights
    # The released code leaves epsilon out of the negatives' numerator.
    left_out = count * jnp.log1p(epsilon / jnp.where(noise > 0, noise, 1))
    return (
        jax.nn.softplus(threshold - positives) + left_out,
        jnp.sum(losses, axis=1),
    )
