"""Objectives of logits: what the teacher makes of the classes."""

import jax
import jax.numpy as jnp

from rdljax import _geometry, _layerwise

Array = jax.Array


@_layerwise.single(_layerwise.same_shape)
def kd(student: Array, teacher: Array, *, temperature: float = 4.0) -> Array:
    """Knowledge distillation (KD).

    Compares the class probabilities of student and teacher, both softened by a
    temperature: their Kullback-Leibler divergence, times the squared temperature so
    that the gradient's size does not depend on it.

    Args:
      student: Logits `[batch, ..., classes]`, one array.
      teacher: Logits of the same shape.
      temperature: What the logits are divided by, above 0.

    Returns:
      A scalar, in nats times the squared temperature: the mean over the batch.

    Raises:
      ValueError: Not one array on either side, different shapes, or a temperature that
        is not above 0.

    References:
      Hinton, Vinyals & Dean, `Distilling the Knowledge in a Neural Network
      <https://arxiv.org/abs/1503.02531>`_, 2015, section 2.
    """
    _layerwise.check_above_zero("temperature", temperature)
    student, teacher = (jax.nn.log_softmax(x / temperature) for x in (student, teacher))
    return jnp.mean(_divergence(student, teacher)) * temperature**2


def _divergence(student: Array, teacher: Array) -> Array:
    """Kullback-Leibler divergence `[batch, ...]` of log-probabilities, in nats."""
    probability = jnp.exp(teacher)
    # A class that the teacher excludes (a logit of -inf) contributes nothing.
    difference = jnp.where(probability > 0, teacher - student, 0)
    return jnp.sum(probability * difference, axis=-1)


def _same_logits(student: tuple, teacher: tuple) -> str | None:
    if len(student) != 2 or student != teacher:
        return "expected logits [batch, classes] of the same shape on both sides"
    return None


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
    """Decoupled knowledge distillation (DKD).

    Compares apart what `kd` mixes: the probability of the right class against all
    others together, and the probabilities among the others.

    Args:
      student: Logits `[batch, classes]`, one array.
      teacher: Logits of the same shape.
      labels: The right class of each example, integers `[batch]`.
      alpha: Weight of the right class's part.
      beta: Weight of the others' part.
      temperature: What the logits are divided by, above 0.

    Returns:
      A scalar, in nats times the squared temperature: the mean over the batch.

    Raises:
      ValueError: Not one array on either side, different shapes, labels of another
        batch, or a temperature that is not above 0.

    References:
      Zhao et al., `Decoupled Knowledge Distillation
      <https://arxiv.org/abs/2203.08679>`_, CVPR 2022.
    """
    _layerwise.check_above_zero("temperature", temperature)
    if jnp.shape(labels) != student.shape[:1]:
        raise ValueError(
            f"expected logits [batch, classes] and labels [batch], got "
            f"{student.shape} and {jnp.shape(labels)}"
        )
    right = jax.nn.one_hot(labels, student.shape[1], dtype=bool)

    def split(logits):
        log_all = jax.nn.log_softmax(logits / temperature)
        target = jnp.sum(jnp.where(right, log_all, 0), axis=1)
        others = jnp.where(right, -jnp.inf, log_all)
        rest = jax.nn.logsumexp(others, axis=1)
        return jnp.stack([target, rest], axis=1), jax.nn.log_softmax(others)

    (target, others), (t_target, t_others) = split(student), split(teacher)
    value = alpha * _divergence(target, t_target) + beta * _divergence(others, t_others)
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
    """Distillation from a stronger teacher (DIST).

    Compares class probabilities by correlation, not value: of an example over the
    classes, and of a class over the examples.

    Args:
      student: Logits `[batch, classes]`, one array.
      teacher: Logits of the same shape.
      beta: Weight of the relation between classes.
      gamma: Weight of the relation within a class.
      temperature: What the logits are divided by, above 0.

    Returns:
      A scalar in [0, 2 (beta + gamma)] times the squared temperature.

    Raises:
      ValueError: Not one array on either side, different shapes, or a temperature that
        is not above 0.

    References:
      Huang et al., `Knowledge Distillation from A Stronger Teacher
      <https://arxiv.org/abs/2205.10536>`_, NeurIPS 2022.
    """
    _layerwise.check_above_zero("temperature", temperature)
    student, teacher = (jax.nn.softmax(x / temperature) for x in (student, teacher))
    between = _one_minus_correlation(student, teacher)
    within = _one_minus_correlation(student.T, teacher.T)
    return (beta * between + gamma * within) * temperature**2


def _one_minus_correlation(x: Array, y: Array) -> Array:
    """Mean over the rows of one minus Pearson's correlation, as half a squared norm."""
    x, y = (_geometry.unit_rows(_geometry.centre_rows(a)) for a in (x, y))
    return jnp.mean(jnp.sum((x - y) ** 2, axis=1)) / 2
