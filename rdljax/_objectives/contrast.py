"""Defines contrastive objectives: each example against others in a memory bank."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rdljax import _checks, _geometry, _indices, _layerwise

Array = jax.Array


class Bank(NamedTuple):
    """The memory bank of `crd`: embeddings of all n training examples.

    Attributes:
      student: Moving averages of the embeddings of the student's head, `[n, units]`.
      teacher: The same for the teacher's head, `[n, units]`.
      normalizers: Two estimates `[2]`, above 0, of the sum of the exponentiated scores
        of an example over the bank: for the student's embeddings against the teacher's
        bank, and for the teacher's against the student's. None: computed from each
        batch (as in `crd_normalizers`, but for any temperature).
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
    estimation distinguishes the same example (the positive) from K others (the
    negatives), for the student against the teacher and for the teacher against the
    student.

    Args:
      student: Unit embeddings `[batch, units]`, one array.
      teacher: Unit embeddings `[batch, units]`, one array; they receive a gradient too,
        for the teacher's embedding head.
      bank: Memory bank of the embeddings of all examples, with their normalizers.
      indices: Rows of the bank for each example, integers `[batch, K + 1]`: the
        positive in column 0, the negatives in the others.
      temperature: Divisor of the inner products, above 0.

    Returns:
      A scalar in nats: the loss of the positive plus those of the K negatives, mean
      over the batch, summed over the two directions.

    Raises:
      ValueError: Embeddings of different shapes, a bank with another number of units,
        indices that are not integers `[batch, K + 1]`, or a temperature that is not
        above 0 and finite. (An index out of range of the bank makes the loss NaN.)

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020, eqs. 17 to 19; the bank is that
      of the released code.

    Departures: (1) the temperature is that of the released code; the paper has 0.1
      outside ImageNet. As in the code, the noise is 1/n for each negative, although no
      negatives of the example's own class are drawn.
    """
    temperature = _checks.as_number("temperature", temperature, student.dtype, above=0)
    bank = _check_bank(bank, student.shape[1])
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
    """Computes the CRD loss with negatives that the whole batch shares.

    As `crd`, but with one set of negatives for all examples and a weight for each
    example and negative: how often it was drawn, or the expectation of that number; 0
    for negatives of the example's own class. It is several times faster, since no rows
    are gathered for each example.

    Args:
      student: Unit embeddings `[batch, units]`, one array.
      teacher: Unit embeddings `[batch, units]`, one array; they receive a gradient too.
      bank: Memory bank of the embeddings of all examples, with their normalizers.
      index: Row of the bank for each example (its positive), integers `[batch]`.
      negatives: Rows of the bank, integers `[R]`; None: all rows.
      weights: Weight of each negative for each example, `[batch, R]`, not negative.
        None: 1.
      temperature: Divisor of the inner products, above 0.

    Returns:
      A scalar in nats: the value of `crd` if the weights are the counts of drawn
      negatives; its mean over all draws if they are the expected counts.

    Raises:
      ValueError: Embeddings of different shapes, a bank with another number of units,
        an index or weights of another batch, or a temperature that is not above 0 and
        finite. (Rows out of range of the bank and negative weights make the loss NaN.)

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020, eqs. 17 to 19.
    """
    temperature = _checks.as_number("temperature", temperature, student.dtype, above=0)
    bank = _check_bank(bank, student.shape[1])
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
    """Computes the contribution of some rows of a bank to `crd`.

    For banks that are divided over devices: the contributions add up to the loss.

    Args:
      student: Unit embeddings `[batch, units]`.
      teacher: Unit embeddings `[batch, units]`.
      rows: R rows of the bank, with the normalizers of the whole bank.
      positives: Index among these rows of each example's positive, integers `[batch]`;
        R if it is not among them. (Any other number gives NaN.)
      negatives: Number of times each row is a negative of each example, `[batch, R]`.
      counts: Number of negatives of each example among all rows, `[batch]`.
      n: Number of rows of the whole bank.
      temperature: As for `crd`.

    Returns:
      A scalar in nats: its sum over the parts of the bank is `crd` (or `crd_shared`) of
      the whole bank.

    Raises:
      ValueError: Embeddings of different shapes, rows with another number of units or
        without normalizers, or positives that are not integers.

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020, eqs. 17 to 19.
    """
    student, teacher = _embeddings(student, teacher)
    temperature = _checks.as_number("temperature", temperature, student.dtype, above=0)
    if rows.normalizers is None:
        raise ValueError("expected the normalizers of the whole bank, got None")
    rows, size = _check_bank(rows, student.shape[1]), len(rows.student)
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
    """Computes the contribution of some rows to a bank's normalizers.

    It has no gradient.

    Args:
      student: Unit embeddings `[batch, units]`.
      teacher: Unit embeddings `[batch, units]`.
      rows: R rows of the bank.
      weights: Weight of each row for each example, `[batch, R]`.
      temperature: As for `crd`.

    Returns:
      Weighted sums of exponentiated scores, `[2]`. The sums over all rows of the bank,
      divided by the sum of the weights and multiplied by the number of rows of the
      bank, are its `normalizers`.

    Raises:
      ValueError: Embeddings of different shapes, or rows with another number of units.
    """
    student, teacher = _embeddings(student, teacher)
    temperature = _checks.as_number("temperature", temperature, student.dtype, above=0)
    rows = _check_bank(rows, student.shape[1])
    weights = _weights(weights, student.dtype)

    def one(anchors, keys):
        scores = _geometry.inner(anchors, keys.astype(anchors.dtype))
        scores = _checks.nan_unless(jnp.isfinite(scores), scores)
        # A row of weight 0 may be padding, with any score.
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

    The released code computes them from the first batch and keeps them. In float32 they
    overflow at temperatures below about 0.012, and the loss is then NaN.

    Args:
      student: Unit embeddings `[batch, units]`.
      teacher: Unit embeddings `[batch, units]`.
      bank: Memory bank; only its embeddings are used.
      indices: Rows of the bank, integers `[batch, K + 1]` for each example or `[R]` for
        all examples; None: all rows.
      temperature: As for `crd`.

    Returns:
      The mean exponentiated score times the number of rows of the bank, `[2]`: for the
      student's embeddings and for the teacher's.

    Raises:
      ValueError: Embeddings of different shapes, a bank with another number of units,
        or indices that are not integers. (An index out of range of the bank makes the
        normalizers NaN.)
    """
    student, teacher = _embeddings(student, teacher)
    temperature = _checks.as_number("temperature", temperature, student.dtype, above=0)
    bank = _check_bank(bank, student.shape[1])
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
      bank: The old bank.
      student: Unit embeddings `[batch, units]`.
      teacher: Unit embeddings `[batch, units]`.
      index: Row of the bank for each example, integers `[batch]`.
      momentum: Weight of the old row in the new one, from 0 to 1; the new row is then
        scaled to a unit vector.

    Returns:
      The new bank, without a gradient, with the old normalizers.

    Raises:
      ValueError: Embeddings of different shapes, a bank with another number of units,
        an index that is not integers `[batch]`, or a momentum that is not from 0 to 1.
        (An index out of range of the bank writes NaN.)
    """
    index, valid = _rows_of(bank, index)
    # JAX would drop writes out of range, and no NaN would be seen.
    index = jnp.minimum(index, len(bank.student) - 1)
    return _move_rows(bank, student, teacher, index, valid, momentum)


def crd_update_rows(
    rows: Bank, student: Array, teacher: Array, index: Array, *, momentum: float = 0.5
) -> Bank:
    """Updates some rows of a bank: `crd_update_bank` for banks divided over devices.

    Args:
      rows: R rows of the old bank.
      student: Unit embeddings `[batch, units]`.
      teacher: Unit embeddings `[batch, units]`.
      index: Index among these rows of each example's row, integers `[batch]`; R if it
        is not among them. (Any other number writes NaN.)
      momentum: As for `crd_update_bank`.

    Returns:
      The new rows, without a gradient, with the old normalizers.

    Raises:
      ValueError: As `crd_update_bank`.
    """
    size = len(rows.student)
    _checks.check_integers("index", index)
    index = _indices.places(index, size + 1)
    valid = index <= size
    index = jnp.where(valid, index, 0)
    return _move_rows(rows, student, teacher, index, jnp.all(valid), momentum)


def _move_rows(
    bank: Bank,
    student: Array,
    teacher: Array,
    index: Array,
    valid: Array,
    momentum: float | Array,
) -> Bank:
    """Updates the rows at the index; indices beyond the last row are skipped.

    If `valid` is false, NaN is written to all of them.
    """
    student, teacher = _embeddings(student, teacher)
    bank = _check_bank(bank, student.shape[1])
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
    """Sums the losses of both directions, each net against the bank of the other."""
    own, other = (None, None) if bank.normalizers is None else bank.normalizers
    first = direction(student, bank.teacher, own)
    return first + direction(teacher, bank.student, other)


def _embeddings(student: Array, teacher: Array) -> tuple[Array, Array]:
    """Checks embeddings and returns both sides in the student's compute dtype."""
    shapes = jnp.shape(student), jnp.shape(teacher)
    if expected := _rows_of_same_shape(*shapes):
        raise ValueError(f"{expected}, got student {shapes[0]} and teacher {shapes[1]}")
    student, teacher = map(_checks.as_activations, (student, teacher))
    dtype = _geometry.compute_dtype(student)
    return student.astype(dtype), teacher.astype(dtype)


def _check_bank(bank: Bank, units: int) -> Bank:
    """Checks the shapes of a bank and returns it as JAX arrays."""
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
    """Returns row indices of the bank, and whether all of them are in range."""
    n = len(bank.student)
    _checks.check_integers("rows of the bank", indices)
    indices = _indices.places(indices, n)
    return indices, jnp.all(indices < n)


def _weights(weights: Array, dtype: jnp.dtype) -> Array:
    """Converts weights to a dtype; NaN for negative weights."""
    weights = jnp.asarray(weights)
    _checks.check_real("weights", weights.dtype)
    weights = weights.astype(dtype)
    return jnp.where(weights < 0, jnp.nan, weights)


def _log_normalizer(normalizer: Array | None, scores: Array, n: int) -> Array:
    """Returns the logarithm of a normalizer; None: of an estimate from the scores.

    NaN for a normalizer that is not above 0 and finite.
    """
    if normalizer is None:
        scores = jax.lax.stop_gradient(scores)
        return jax.nn.logsumexp(scores) + math.log(n / scores.size)
    logarithm = jnp.log(normalizer).astype(scores.dtype)
    return _checks.nan_unless(jnp.isfinite(logarithm), logarithm)


def _scores(anchors: Array, keys: Array, indices: Array) -> Array:
    """Computes inner products `[batch, K + 1]` with rows `[batch, K + 1]` of the keys.

    They are computed in one matrix product with all n keys, in which on a CPU about ten
    rows cost as much as one gathered row. A small share of the rows is gathered.
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


# Cost of a gathered row, in rows of a matrix product.
_GATHER = 10


def _nce(*scores_and_numbers) -> Array:
    """Returns the batch mean of the losses of `_nce_each`, positives plus negatives."""
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
      positives: Scores `[batch]` of the positives.
      negatives: Scores `[batch, R]` of the negatives.
      weights: Weights `[batch, R]` of the negatives; None: 1.
      count: Number of negatives of an example, `[]` or `[batch]`.
      log_normalizer: Logarithm of the normalizer, a scalar.
      n: Number of rows of the bank.

    Returns:
      The loss of the positive and the summed loss of the negatives of each example,
      both `[batch]`; NaN for an example with a score that is not finite.
    """
    epsilon = 1e-7  # As in the released code.
    noise = count / n
    threshold = log_normalizer + jnp.log(noise + epsilon)
    finite = jnp.isfinite(positives + jnp.sum(negatives, axis=1))
    threshold = _checks.nan_unless(finite, threshold)
    losses = jax.nn.softplus(negatives - jnp.reshape(threshold, (-1, 1)))
    if weights is not None:
        losses = losses * weights
    # The released code has no epsilon in the numerator of the negatives.
    left_out = count * jnp.log1p(epsilon / jnp.where(noise > 0, noise, 1))
    return (
        jax.nn.softplus(threshold - positives) + left_out,
        jnp.sum(losses, axis=1),
    )
