"""Objectives: pure functions from activations of a student and a teacher to a scalar.

============== ========================================= ===============================
objective      what is compared                          paper
============== ========================================= ===============================
`kd`           softened class probabilities              Hinton, Vinyals & Dean 2015
`hint`         activations, unit by unit                 Romero et al. 2015 (FitNets)
`rdl`          representational distance matrices        McClure & Kriegeskorte 2016
`rdl_target`   a student's RDM with a measured one       McClure & Kriegeskorte 2016
============== ========================================= ===============================

Conventions. Positional arguments are data, keyword-only arguments are chosen numbers
and functions. Student and teacher are arrays `[batch, ...]` or, unless said otherwise,
pytrees of such arrays with the same structure; the value is then the sum over the
layers. Every objective is computed in at least float32, is differentiable in the
student, and holds the teacher fixed. A wrong call raises `ValueError` with the names of
objective and layer and both shapes. All work under `jit`, `grad`, `vmap`, `pmap`,
`shard_map`, `scan` and `checkpoint`, and need jax alone.
"""

import jax
import jax.numpy as jnp

from rdljax import _geometry, _layerwise, rdm

__all__ = ["hint", "kd", "rdl", "rdl_target"]

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
    if isinstance(temperature, int | float) and temperature <= 0:
        raise ValueError(f"the temperature must be above 0, got {temperature}")
    student, teacher = (jax.nn.log_softmax(x / temperature) for x in (student, teacher))
    probability = jnp.exp(teacher)
    # A class that the teacher excludes (a logit of -inf) contributes nothing.
    difference = jnp.where(probability > 0, teacher - student, 0)
    return jnp.mean(jnp.sum(probability * difference, axis=-1)) * temperature**2


@_layerwise.layerwise(_layerwise.same_shape_but_size)
def hint(student: Array, teacher: Array) -> Array:
    """Hint of FitNets: the activations themselves.

    Compares unit by unit. Maps of different size are first pooled, by adaptive
    averaging, to the smaller of the two. Where the channels differ a regressor comes
    first: `terms.hint` trains it.

    Args:
      student: Activations `[batch, ...]`.
      teacher: Activations of the same shape; of maps `[batch, H, W, C]` height and
        width may differ.

    Returns:
      A scalar: the mean squared difference over batch and units, summed over layers.

    Raises:
      ValueError: Different batch, rank, or channels.

    References:
      Romero et al., `FitNets: Hints for Thin Deep Nets
      <https://arxiv.org/abs/1412.6550>`_, ICLR 2015, eq. 3.

    Departures: (1) the mean, not half the sum of squares, as in RepDistiller; (2) maps
    are pooled where the paper's regressor is a convolution that fits the sizes.
    """
    if student.ndim == 4:
        student, teacher = _geometry.pool_to_smaller(student, teacher)
    return jnp.mean((student - teacher) ** 2)


def _same_batch_with_pairs(student: tuple, teacher: tuple) -> str | None:
    if _layerwise.same_batch(student, teacher) is None and student[0] > 1:
        return None
    return "expected [batch, ...] with the same batch of two or more on both sides"


@_layerwise.layerwise(_same_batch_with_pairs)
def rdl(
    student: Array,
    teacher: Array,
    pairs: Array | None = None,
    *,
    distance=rdm.distances.Cosine(),
    comparison=rdm.comparisons.Pearson(),
) -> Array:
    """Representational distance learning (RDL).

    Compares representational distance matrices: how far apart the student holds every
    two examples of the batch, with how far apart the teacher holds them. The widths of
    the two layers may differ; no regressor is needed.

    Args:
      student: Activations `[batch, ...]`, flattened to units.
      teacher: Activations `[batch, ...]` of the same examples.
      pairs: `[2, p]` pairs of examples to compare (`rdm.sample_pairs` draws them), the
        same in every layer; None for all pairs of the batch.
      distance: Of two examples' activations, one of `rdm.distances`.
      comparison: Of two RDMs, one of `rdm.comparisons`.

    Returns:
      A scalar, 0 when the RDMs are equal: in [0, 2] for `Pearson`, in squared units of
      the distance for `MSE`; summed over layers.

    Raises:
      ValueError: Different batch, fewer than two examples, pairs that are not `[2, p]`
        integers.

    References:
      McClure & Kriegeskorte, `Representational Distance Learning for Deep Neural
      Networks <https://doi.org/10.3389/fncom.2016.00131>`_, Front. Comput. Neurosci.
      10:131, 2016.

    Departures: (1) all pairs of the batch by default, where the first author's
    prototype draws 50; (2) the cosine distance by default, where the prototype takes
    the squared Euclidean: it was the best on validation images (experiments/README.md);
    (3) the default comparison ignores the scale of the two RDMs, where the prototype
    rescales the teacher's: `comparisons.MSE(scale=...)` has its three scale fixes; (4)
    the gradient is that of the value, where the prototype injects a signal of its own.
    """
    return rdm.discrepancy(
        student, teacher, pairs, distance=distance, comparison=comparison
    )


def _condensed_of_batch(student: tuple, target: tuple) -> str | None:
    expected = student[0] * (student[0] - 1) // 2 if len(student) > 1 else 0
    if expected < 1 or target != (expected,):
        return f"expected [batch, ...] and its condensed RDM ({expected},)"
    return None


@_layerwise.layerwise(_condensed_of_batch)
def rdl_target(
    student: Array,
    target: Array,
    weights: Array | None = None,
    *,
    distance=rdm.distances.Cosine(),
    comparison=rdm.comparisons.Pearson(),
) -> Array:
    """Representational distance learning from a measured RDM (of a brain, say).

    As `rdl`, with the teacher's RDM given instead of its activations.

    Args:
      student: Activations `[n, ...]` of the n stimuli of the RDM, in its order.
      target: The condensed RDM `[n (n - 1) / 2]`: the upper triangle row by row. Pairs
        of weight 0 may be NaN.
      weights: `[n (n - 1) / 2]`, not negative, the same in every layer: 0 masks a pair.
        None weighs all alike.
      distance: Of two stimuli's activations in the student, one of `rdm.distances`.
      comparison: Of two RDMs, one of `rdm.comparisons`.

    Returns:
      A scalar, 0 when the RDMs are equal; summed over layers.

    Raises:
      ValueError: A target or weights of another length than the student's RDM.

    References:
      McClure & Kriegeskorte, `Representational Distance Learning for Deep Neural
      Networks <https://doi.org/10.3389/fncom.2016.00131>`_, Front. Comput. Neurosci.
      10:131, 2016.
    """
    own = rdm.compute(student, distance=distance)
    return rdm.compare(own, target, weights, comparison=comparison)
