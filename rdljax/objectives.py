"""Objectives: pure functions from activations of a student and a teacher to a scalar.

================= ========================================= ===========================
objective         what is compared                          paper
================= ========================================= ===========================
`kd`              softened class probabilities              Hinton et al. 2015
`dkd`             the right class and the others apart      Zhao et al. 2022
`dist`            correlations within and between classes   Huang et al. 2022
`hint`            activations, unit by unit                 Romero et al. 2015
`at`              where the energy of a map lies            Zagoruyko & Komodakis 2017
`vid`             activations, under a Gaussian             Ahn et al. 2019
`ab`              which units are active                    Heo et al. 2019
`ft`              factors of two translators                Kim et al. 2018
`ft_repdistiller` where the energy of two factors lies      Tian et al. 2020
`fsp`             products of successive layers             Yim et al. 2017
`rdl`             representational distance matrices        McClure & Kriegeskorte 2016
`rdl_target`      a student's RDM with a measured one       McClure & Kriegeskorte 2016
`sp`              similarities of each example to all       Tung & Mori 2019
`pkt`             probabilities of the others as neighbours Passalis & Tefas 2018
`rkd_distance`    distances relative to their mean          Park et al. 2019
`rkd_angle`       angles of three examples                  Park et al. 2019
`cc`              correlations under a Gaussian kernel      Peng et al. 2019
`cc_repdistiller` errors of successive examples             Tian et al. 2020
`cka`             centred Gram matrices                     Kornblith et al. 2019
================= ========================================= ===========================

Conventions. Positional arguments are data, keyword-only arguments are chosen numbers
and functions. Student and teacher are arrays `[batch, ...]` or, unless said otherwise,
pytrees of such arrays with the same structure; the value is then the sum over the
layers. `kd`, `dkd` and `dist` take arrays only; `ab` and `fsp` take sequences of layers
in depth order, which they weight or relate. Every objective is computed in at least
float32, is differentiable in the student, and holds the teacher fixed (but for
`cc_repdistiller`, which trains that side too). A wrong call raises `ValueError` with
the names of objective and layer and both shapes. All work under `jit`, `grad`, `vmap`,
`pmap`, `shard_map`, `scan` and `checkpoint`, and need jax alone.
"""

import math

import jax
import jax.numpy as jnp

from rdljax import _geometry, _layerwise, rdm

__all__ = [
    "ab",
    "at",
    "cc",
    "cc_repdistiller",
    "cka",
    "dist",
    "dkd",
    "fsp",
    "ft",
    "ft_repdistiller",
    "hint",
    "kd",
    "pkt",
    "rdl",
    "rdl_target",
    "rkd_angle",
    "rkd_distance",
    "sp",
    "vid",
]

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
    return jnp.mean(_divergence(student, teacher)) * temperature**2


def _divergence(student: Array, teacher: Array) -> Array:
    """Kullback-Leibler divergence `[batch, ...]` of log-probabilities, in nats."""
    probability = jnp.exp(teacher)
    # A class that the teacher excludes (a logit of -inf) contributes nothing.
    difference = jnp.where(probability > 0, teacher - student, 0)
    return jnp.sum(probability * difference, axis=-1)


@_layerwise.single(_layerwise.same_shape)
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
      ValueError: Not one array on either side, different shapes, or labels of another.

    References:
      Zhao et al., `Decoupled Knowledge Distillation
      <https://arxiv.org/abs/2203.08679>`_, CVPR 2022.
    """
    if student.ndim != 2 or jnp.shape(labels) != student.shape[:1]:
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


@_layerwise.single(_layerwise.same_shape)
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
      ValueError: Not one array on either side, or different shapes.

    References:
      Huang et al., `Knowledge Distillation from A Stronger Teacher
      <https://arxiv.org/abs/2205.10536>`_, NeurIPS 2022.
    """
    student, teacher = (jax.nn.softmax(x / temperature) for x in (student, teacher))
    between = _one_minus_correlation(student, teacher)
    within = _one_minus_correlation(student.T, teacher.T)
    return (beta * between + gamma * within) * temperature**2


def _one_minus_correlation(x: Array, y: Array) -> Array:
    """Mean over the rows of one minus Pearson's correlation, as half a squared norm."""
    x, y = (_geometry.unit_rows(_geometry.centre_rows(a)) for a in (x, y))
    return jnp.mean(jnp.sum((x - y) ** 2, axis=1)) / 2


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


@_layerwise.layerwise(_layerwise.maps)
def at(student: Array, teacher: Array, *, power: int = 2) -> Array:
    """Attention transfer (AT).

    Compares where in a map the energy lies: the mean over channels of a power of the
    activations, as a unit vector over positions. Maps of different size are pooled to
    the smaller.

    Args:
      student: Maps `[batch, H, W, C]`.
      teacher: Maps of the same batch; sizes and channels may differ.
      power: Of the activations' magnitude.

    Returns:
      A scalar: the mean squared difference over batch and positions, summed over
      layers.

    Raises:
      ValueError: Not maps of the same batch.

    References:
      Zagoruyko & Komodakis, `Paying More Attention to Attention
      <https://arxiv.org/abs/1612.03928>`_, ICLR 2017.

    Departures: (1) the mean squared difference, as in the authors' code, where the
      paper has the norm of the difference.
    """
    student, teacher = _geometry.pool_to_smaller(student, teacher)
    return jnp.mean((_energy(student, power) - _energy(teacher, power)) ** 2)


def _energy(x: Array, power: int = 2) -> Array:
    """Maps `[batch, H, W, C]` as unit vectors `[batch, H W]` of energy by position."""
    energy = jnp.mean(jnp.abs(x) ** power, axis=3)
    return _geometry.unit_rows(_geometry.flatten(energy))


@_layerwise.layerwise(_layerwise.same_shape, paired=("log_scale",))
def vid(
    student: Array, teacher: Array, log_scale: Array, *, epsilon: float = 1e-5
) -> Array:
    """Variational information distillation (VID).

    Compares activations under a Gaussian: a bound on the information that the student
    has of the teacher. Mean and scale are trained.

    Args:
      student: The mean `[batch, ..., C]` that a regressor predicts from the student.
      teacher: Activations of the same shape.
      log_scale: `[C]`, paired with the layers; the variance is
        `softplus(log_scale) + epsilon`.
      epsilon: The smallest variance.

    Returns:
      A scalar in nats: the mean over batch and units of half the squared difference by
      the variance plus half the log variance, summed over layers. It may be negative.

    Raises:
      ValueError: Different shapes, or a log scale that is not `[C]`.

    References:
      Ahn et al., `Variational Information Distillation for Knowledge Transfer
      <https://arxiv.org/abs/1904.05835>`_, CVPR 2019.
    """
    if jnp.shape(log_scale) != student.shape[-1:]:
        raise ValueError(
            f"expected a log scale {student.shape[-1:]} for activations "
            f"{student.shape}, got {jnp.shape(log_scale)}"
        )
    variance = jax.nn.softplus(jnp.asarray(log_scale, student.dtype)) + epsilon
    variance = jnp.reshape(variance, (1,) * (student.ndim - 1) + (-1,))
    return jnp.mean((student - teacher) ** 2 / variance + jnp.log(variance)) / 2


@_layerwise.in_depth_order(_layerwise.same_shape)
def ab(student: tuple, teacher: tuple, *, margin: float = 1.0) -> Array:
    """Activation boundaries (AB).

    Compares which units are active: a student's unit on the wrong side of zero, or
    within a margin of it, is pushed to the teacher's side.

    Args:
      student: A sequence of activations before their ReLU, `[batch, ...]`, in depth
        order.
      teacher: The same of the teacher, of the same shapes.
      margin: How far beyond zero a unit is pushed.

    Returns:
      A scalar: the squared excess summed over units, mean over the batch, times 3/1000;
      the last layer counts 1, the one before it 1/2, and so on.

    Raises:
      ValueError: Not sequences, or different shapes.

    References:
      Heo et al., `Knowledge Transfer via Distillation of Activation Boundaries
      <https://arxiv.org/abs/1811.03233>`_, AAAI 2019; weights of the authors'
      code.
    """
    total = 0.0
    pairs = zip(reversed(student), reversed(teacher), strict=True)
    for depth, (s, t) in enumerate(pairs):
        excess = jnp.where(
            t > 0, jnp.maximum(margin - s, 0), jnp.maximum(s + margin, 0)
        )
        total += jnp.sum(excess**2) / s.shape[0] * 0.5**depth
    return total * 3 / 1000


@_layerwise.layerwise(_layerwise.same_shape)
def ft(student: Array, teacher: Array) -> Array:
    """Factor transfer (FT).

    Compares the factors that a translator makes of the student and a paraphraser of the
    teacher, each as a unit vector.

    Args:
      student: Factors `[batch, ...]`.
      teacher: Factors of the same shape.

    Returns:
      A scalar: the mean absolute difference over batch and units, summed over layers.

    Raises:
      ValueError: Different shapes.

    References:
      Kim, Park & Kwak, `Paraphrasing Complex Network: Network Compression via Factor
      Transfer <https://arxiv.org/abs/1802.04977>`_, NeurIPS 2018.
    """
    student, teacher = (
        _geometry.unit_rows(_geometry.flatten(x)) for x in (student, teacher)
    )
    return jnp.mean(jnp.abs(student - teacher))


@_layerwise.layerwise(_layerwise.maps)
def ft_repdistiller(student: Array, teacher: Array) -> Array:
    """Factor transfer as RepDistiller has it.

    Compares where in the factors the energy lies, as `at` does, by absolute difference.

    Args:
      student: Factors `[batch, H, W, C]`.
      teacher: Factors of the same batch; sizes and channels may differ.

    Returns:
      A scalar: the mean absolute difference over batch and positions, summed over
      layers.

    Raises:
      ValueError: Not maps of the same batch.

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020, released code.
    """
    student, teacher = _geometry.pool_to_smaller(student, teacher)
    return jnp.mean(jnp.abs(_energy(student) - _energy(teacher)))


@_layerwise.in_depth_order(_layerwise.maps_of_same_channels)
def fsp(student: tuple, teacher: tuple) -> Array:
    """Flow of the solution procedure (FSP).

    Compares how successive layers go together: the products of their channels, averaged
    over positions. The larger of two successive maps is pooled to the smaller.

    Args:
      student: A sequence of two maps `[batch, H, W, C]` or more, in depth order.
      teacher: The same of the teacher, of the same channels.

    Returns:
      A scalar: the mean squared difference over batch and channel pairs, summed over
      successive layers.

    Raises:
      ValueError: Not sequences of two or more, or different channels.

    References:
      Yim et al., `A Gift from Knowledge Distillation
      <https://doi.org/10.1109/CVPR.2017.754>`_, CVPR 2017.
    """
    if len(student) < 2:
        raise ValueError(f"expected two layers or more, got {len(student)}")

    def flows(layers):
        for lower, upper in zip(layers[:-1], layers[1:], strict=True):
            lower, upper = _geometry.pool_to_smaller(lower, upper)
            positions = lower.shape[1] * lower.shape[2]
            yield (
                jnp.einsum(
                    "bhwc,bhwd->bcd", lower, upper, precision=jax.lax.Precision.HIGHEST
                )
                / positions
            )

    pairs = zip(flows(student), flows(teacher), strict=True)
    return sum(jnp.mean((s - t) ** 2) for s, t in pairs)


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


@_layerwise.layerwise(_layerwise.same_batch)
def sp(student: Array, teacher: Array) -> Array:
    """Similarity-preserving distillation (SP).

    Compares how similar each example is to all of the batch: rows of the Gram matrix,
    as unit vectors.

    Args:
      student: Activations `[batch, ...]`, flattened to units.
      teacher: Activations `[batch, ...]` of the same examples.

    Returns:
      A scalar: the mean squared difference over ordered pairs, summed over layers.

    Raises:
      ValueError: Different batch.

    References:
      Tung & Mori, `Similarity-Preserving Knowledge Distillation
      <https://arxiv.org/abs/1907.09682>`_, ICCV 2019.
    """

    def similarities(x):
        x = _geometry.flatten(x)
        return _geometry.unit_rows(_geometry.inner(x, x))

    return jnp.mean((similarities(student) - similarities(teacher)) ** 2)


@_layerwise.layerwise(_layerwise.same_batch)
def pkt(student: Array, teacher: Array, *, epsilon: float = 1e-7) -> Array:
    """Probabilistic knowledge transfer (PKT).

    Compares, for each example, the probability of the others under a cosine kernel.

    Args:
      student: Activations `[batch, ...]`, flattened to units.
      teacher: Activations `[batch, ...]` of the same examples.
      epsilon: Added to norms, and to probabilities in the ratio.

    Returns:
      A scalar in nats: the mean over ordered pairs of the terms of the Kullback-Leibler
      divergence, summed over layers.

    Raises:
      ValueError: Different batch.

    References:
      Passalis & Tefas, `Learning Deep Representations with Probabilistic Knowledge
      Transfer <https://arxiv.org/abs/1803.10837>`_, ECCV 2018.
    """

    def probabilities(x):
        x = _geometry.flatten(x)
        norms = _geometry.safe_sqrt(jnp.sum(x * x, axis=1, keepdims=True))
        # A zero row has cosine 0 with all, and no direction to follow.
        x = jnp.where(norms > 0, x / (jnp.where(norms > 0, norms, 1) + epsilon), 0)
        # Rounding may take the cosine of opposite rows below -1.
        kernel = jnp.maximum(1 + _geometry.inner(x, x), 0) / 2
        return kernel / jnp.sum(kernel, axis=1, keepdims=True)

    s, t = probabilities(student), probabilities(teacher)
    return jnp.mean(t * jnp.log((t + epsilon) / (s + epsilon)))


@_layerwise.layerwise(_same_batch_with_pairs)
def rkd_distance(student: Array, teacher: Array) -> Array:
    """Relational distillation of distances (RKD-D).

    Compares the Euclidean distances of the batch, each net's divided by their mean.

    Args:
      student: Activations `[batch, ...]`, flattened to units.
      teacher: Activations `[batch, ...]` of the same examples.

    Returns:
      A scalar: the mean Huber loss over ordered pairs, each example with itself
      included, summed over layers.

    Raises:
      ValueError: Different batch, or fewer than two examples.

    References:
      Park et al., `Relational Knowledge Distillation
      <https://arxiv.org/abs/1904.05068>`_, CVPR 2019.
    """

    def relative(x):
        squared = _geometry.squared_distances(_geometry.flatten(x))
        distances = _geometry.safe_sqrt(squared)
        total, count = jnp.sum(distances), jnp.sum(distances > 0)
        return distances * jnp.where(
            total > 0, count / jnp.where(total > 0, total, 1), 0
        )

    return jnp.mean(_huber(relative(student) - relative(teacher)))


@_layerwise.layerwise(_same_batch_with_pairs)
def rkd_angle(student: Array, teacher: Array) -> Array:
    """Relational distillation of angles (RKD-A).

    Compares the cosines of the angles that every three examples form.

    Args:
      student: Activations `[batch, ...]`, flattened to units.
      teacher: Activations `[batch, ...]` of the same examples.

    Returns:
      A scalar: the mean Huber loss over ordered triples, degenerate ones (angle 0 of an
      example with itself) included, summed over layers.

    Raises:
      ValueError: Different batch, or fewer than two examples.

    References:
      Park et al., `Relational Knowledge Distillation
      <https://arxiv.org/abs/1904.05068>`_, CVPR 2019.
    """

    def cosines(x):
        # At vertex i: <x_j - x_i, x_k - x_i>, from the Gram matrix alone.
        x = _geometry.flatten(x)
        x = x - jnp.mean(x, axis=0, keepdims=True)
        gram = _geometry.inner(x, x)
        norms = jnp.diagonal(gram)
        products = gram[None] - gram[:, :, None] - gram[:, None, :]
        products = products + norms[:, None, None]
        scale = _geometry.safe_rsqrt(_geometry.squared_distances(x))
        return products * scale[:, :, None] * scale[:, None, :]

    return jnp.mean(_huber(cosines(student) - cosines(teacher)))


def _huber(x: Array) -> Array:
    """Half the square up to 1, linear beyond."""
    inside = jnp.minimum(jnp.abs(x), 1)
    return inside * (jnp.abs(x) - inside / 2)


@_layerwise.layerwise(_layerwise.same_batch)
def cc(student: Array, teacher: Array, *, gamma: float = 0.4, order: int = 2) -> Array:
    """Correlation congruence (CC).

    Compares how examples correlate under a Gaussian kernel, in its Taylor series.

    Args:
      student: Embeddings `[batch, ...]`, flattened to units and scaled to unit length.
      teacher: Embeddings `[batch, ...]` of the same examples.
      gamma: The kernel's precision.
      order: The last power of the series.

    Returns:
      A scalar: the mean squared difference over ordered pairs, summed over layers.

    Raises:
      ValueError: Different batch.

    References:
      Peng et al., `Correlation Congruence for Knowledge Distillation
      <https://arxiv.org/abs/1904.01802>`_, ICCV 2019.
    """

    def correlations(x):
        x = _geometry.unit_rows(_geometry.flatten(x))
        gram = _geometry.inner(x, x)
        series = (
            (2 * gamma) ** p / math.factorial(p) * gram**p for p in range(order + 1)
        )
        return math.exp(-2 * gamma) * sum(series)

    return jnp.mean((correlations(student) - correlations(teacher)) ** 2)


@_layerwise.layerwise(_layerwise.same_shape, teacher_is_fixed=False)
def cc_repdistiller(student: Array, teacher: Array) -> Array:
    """Correlation congruence as RepDistiller has it.

    Not the paper's: correlates the absolute errors of successive examples. Both sides
    receive a gradient, as both have a trained embedding there.

    Args:
      student: Embeddings `[batch, units]`.
      teacher: Embeddings of the same shape.

    Returns:
      A scalar: the inner product of the errors of examples i and i + 1, mean over i,
      summed over layers. It depends on the order of the batch.

    Raises:
      ValueError: Different shapes.

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020, released code.
    """
    error = jnp.abs(_geometry.flatten(student) - _geometry.flatten(teacher))
    return jnp.sum(error[:-1] * error[1:]) / max(error.shape[0] - 1, 1)


@_layerwise.layerwise(_layerwise.same_batch)
def cka(student: Array, teacher: Array) -> Array:
    """Centred kernel alignment (CKA), linear, as a loss.

    Compares the Gram matrices of the centred batch by their cosine: blind to rotation
    and scale.

    Args:
      student: Activations `[batch, ...]`, flattened to units.
      teacher: Activations `[batch, ...]` of the same examples.

    Returns:
      A scalar in [0, 1], 0 for equal geometry: 1 - CKA, summed over layers.

    Raises:
      ValueError: Different batch.

    References:
      Kornblith et al., `Similarity of Neural Network Representations Revisited
      <https://arxiv.org/abs/1905.00414>`_, ICML 2019.
    """

    def gram(x):
        x = _geometry.flatten(x)
        x = x - jnp.mean(x, axis=0, keepdims=True)
        return _geometry.unit_rows(_geometry.inner(x, x).reshape(1, -1))

    return jnp.sum((gram(student) - gram(teacher)) ** 2) / 2
