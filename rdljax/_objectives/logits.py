"""Defines objectives of logits: the teacher's predictions of the classes."""

import jax
import jax.numpy as jnp

from rdljax import _checks, _geometry, _indices, _layerwise

Array = jax.Array


def _logits(student: tuple, teacher: tuple) -> str | None:
    if student[-1:] in ((0,), (1,)):
        return "expected logits of two classes or more"
    return _layerwise.same_shape(student, teacher)


def _same_logits(student: tuple, teacher: tuple) -> str | None:
    if len(student) != 2 or student != teacher:
        return "expected logits [batch, classes] of the same shape on both sides"
    return _logits(student, teacher)


@_layerwise.single(_logits)
def kd(student: Array, teacher: Array, *, temperature: float = 4.0) -> Array:
    """Computes the knowledge distillation loss (KD).

    Compares the class probabilities of student and teacher, both softened by a
    temperature: their Kullback-Leibler divergence, times the squared temperature so
    that the size of the gradient does not depend on it. A class that the teacher
    excludes (a logit of -inf) contributes nothing.

    Args:
      student: Logits `[batch, ..., classes]`, one array.
      teacher: Logits of the same shape.
      temperature: Divisor of the logits, above 0.

    Returns:
      A scalar, in nats times the squared temperature: the mean over the batch and all
      axes between it and the classes. In `[batch, tokens, classes]` all tokens have the
      same weight, padding too: to leave tokens out, pass `[n, classes]` of the others.

    Raises:
      ValueError: Not one array for student and for teacher, different shapes, only one
        class, or a temperature that is not above 0 and finite.

    References:
      Hinton, Vinyals & Dean, `Distilling the Knowledge in a Neural Network
      <https://arxiv.org/abs/1503.02531>`_, 2015, section 2.
    """
    temperature = _checks.as_number("temperature", temperature, student.dtype, above=0)
    student, teacher = (jax.nn.log_softmax(x / temperature) for x in (student, teacher))
    return jnp.mean(_divergence(student, teacher)) * temperature**2


def _divergence(student: Array, teacher: Array) -> Array:
    """Computes Kullback-Leibler divergences `[batch, ...]`, in nats.

    The arguments are log-probabilities `[batch, ..., classes]`.
    """
    probability = jnp.exp(teacher)
    # A class that the teacher excludes (a logit of -inf) contributes nothing.
    excluded = probability <= 0
    student, teacher = (jnp.where(excluded, 0, x) for x in (student, teacher))
    return jnp.sum(probability * (teacher - student), axis=-1)


@_layerwise.single(_same_logits)
def dkd(
    student: Array,
    teacher: Array,
    labels: Array,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
) -> Array:
    """Computes the decoupled knowledge distillation loss (DKD).

    Compares separately two parts that `kd` mixes: the probability of the target class
    against that of all other classes together, and the probabilities among the others.

    Args:
      student: Logits `[batch, classes]`, one array.
      teacher: Logits of the same shape.
      labels: Target class of each example, integers `[batch]`. A label out of range
        makes the loss NaN.
      alpha: Weight of the part of the target class.
      beta: Weight of the part of the other classes.
      temperature: Divisor of the logits, above 0.

    Returns:
      A scalar, in nats times the squared temperature: the mean over the batch.

    Raises:
      ValueError: Not one array for student and for teacher, different shapes, only one
        class, labels that are not integers `[batch]`, or a temperature that is not
        above 0 and finite.

    References:
      Zhao et al., `Decoupled Knowledge Distillation
      <https://arxiv.org/abs/2203.08679>`_, CVPR 2022.
    """
    temperature = _checks.as_number("temperature", temperature, student.dtype, above=0)
    alpha = _checks.as_number("alpha", alpha, student.dtype)
    beta = _checks.as_number("beta", beta, student.dtype)
    batch, classes = student.shape
    if jnp.shape(labels) != (batch,):
        raise ValueError(
            f"expected logits [batch, classes] and labels [batch], got "
            f"{student.shape} and {jnp.shape(labels)}"
        )
    _checks.check_integers("labels", labels)
    labels = _indices.places(labels, classes)
    right = jax.nn.one_hot(labels, classes, dtype=bool)

    def split(logits):
        log_all = jax.nn.log_softmax(logits / temperature)
        target = jnp.sum(jnp.where(right, log_all, 0), axis=1)
        # Not -inf, whose differences are NaN; the exponential of this is 0 too.
        others = jnp.where(right, jnp.finfo(log_all.dtype).min / 2, log_all)
        rest = jax.nn.logsumexp(others, axis=1)
        others = jnp.where(right, 0, jax.nn.log_softmax(others))
        return jnp.stack([target, rest], axis=1), others

    (target, others), (t_target, t_others) = split(student), split(teacher)
    value = alpha * _divergence(target, t_target) + beta * _divergence(others, t_others)
    value = _checks.nan_unless(labels < classes, value)
    return jnp.mean(value) * temperature**2


@_layerwise.single(_same_logits)
def dist(
    student: Array,
    teacher: Array,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
) -> Array:
    """Computes the loss of distillation from a stronger teacher (DIST).

    Compares class probabilities by their correlation: over the classes for each
    example, and over the examples for each class.

    Args:
      student: Logits `[batch, classes]`, one array.
      teacher: Logits of the same shape.
      beta: Weight of the relation between classes.
      gamma: Weight of the relation within a class.
      temperature: Divisor of the logits, above 0.

    Returns:
      A scalar in [0, 2 (beta + gamma)] times the squared temperature.

    Raises:
      ValueError: Not one array for student and for teacher, different shapes, only one
        class, or a temperature that is not above 0 and finite.

    References:
      Huang et al., `Knowledge Distillation from A Stronger Teacher
      <https://arxiv.org/abs/2205.10536>`_, NeurIPS 2022.
    """
    temperature = _checks.as_number("temperature", temperature, student.dtype, above=0)
    beta = _checks.as_number("beta", beta, student.dtype)
    gamma = _checks.as_number("gamma", gamma, student.dtype)
    student, teacher = (jax.nn.softmax(x / temperature) for x in (student, teacher))
    between = _one_minus_correlation(student, teacher)
    within = _one_minus_correlation(student.T, teacher.T)
    return (beta * between + gamma * within) * temperature**2


def _one_minus_correlation(x: Array, y: Array) -> Array:
    """Returns the mean over rows of one minus Pearson's correlation.

    It counts as 1 if the row of one side is constant, and as 0 if those of both are.
    """
    x, y = map(_geometry.centre_rows, (x, y))
    return jnp.mean(_geometry.one_minus_cosines(x, y))
