"""Objectives of relations: how the examples of a batch lie to each other."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from rdljax import _checks, _geometry, _layerwise, rdm

Array = jax.Array


def _same_batch_with_pairs(student: tuple, teacher: tuple) -> str | None:
    if _layerwise.same_batch(student, teacher) is None and student[0] > 1:
        return None
    return "expected [batch, ...] with the same batch of two or more on both sides"


@_layerwise.layerwise(_layerwise.same_batch)
def rdl(
    student: Array,
    teacher: Array,
    pairs: Array | None = None,
    *,
    distance: rdm.distances.Distance = rdm.distances.Cosine(),
    comparison: rdm.comparisons.Comparison = rdm.comparisons.Pearson(),
) -> Array:
    """Computes the representational distance learning loss (RDL).

    Compares representational distance matrices: how far apart the student holds every
    two examples of the batch, with how far apart the teacher holds them. The widths of
    the two layers may differ; no regressor is needed.

    The RDMs are held in memory in the fastest form for the batch; `rdm.discrepancy`
    takes one by name, and batches that are divided over devices. (Beyond 2,048 examples
    there is no forward-mode derivative.)

    A batch of two has one distance. What compares distances up to a shift, scale or
    order has nothing to compare then: the default, `Pearson`, is 0 for any student,
    with gradient 0. `MSE` compares the distance itself; else take three examples or
    more.

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
    if len(student) < 2:
        raise ValueError("expected a batch of two or more")
    return rdm.forms.discrepancy(student, teacher, pairs, None, distance, comparison)


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
    distance: rdm.distances.Distance = rdm.distances.Cosine(),
    comparison: rdm.comparisons.Comparison = rdm.comparisons.Pearson(),
) -> Array:
    """Computes the RDL loss towards a measured RDM (of a brain, say).

    As `rdl`, with the teacher's RDM given instead of its activations. `rdl_subjects`
    takes the RDM of each of several subjects.

    Args:
      student: Activations `[n, ...]` of the n stimuli of the RDM, in its order.
      target: The condensed RDM `[n (n - 1) / 2]`: the upper triangle row by row. Pairs
        of weight 0 may be NaN.
      weights: The weight of each pair, as the target, not negative, the same in every
        layer; 0 masks a pair. None: uniform weights.
      distance: The distance of two stimuli's activations in the student, one of
        `rdm.distances`.
      comparison: The comparison of two RDMs, one of `rdm.comparisons`.

    Returns:
      A scalar, 0 when the RDMs are equal; summed over layers.

    Raises:
      ValueError: A target or weights of another length than the student's RDM.

    References:
      McClure & Kriegeskorte, `Representational Distance Learning for Deep Neural
      Networks <https://doi.org/10.3389/fncom.2016.00131>`_, Front. Comput. Neurosci.
      10:131, 2016.
    """
    own = _rdm_of(student, distance, comparison)
    return rdm.compare(own, target, weights, comparison=comparison)


def _rdm_of(student: Array, distance, comparison) -> Array:
    """Returns the student's condensed RDM, in its own unit where that is the same."""
    if rdm.forms.blind_to_scale(distance, comparison):
        student = _geometry.in_own_unit(student)
    return rdm.forms.distances_of(student, None, distance)


def _condensed_of_subjects(student: tuple, targets: tuple) -> str | None:
    expected = student[0] * (student[0] - 1) // 2 if len(student) > 1 else 0
    if expected < 1 or len(targets) != 2 or targets[1] != expected or not targets[0]:
        return (
            f"expected [batch, ...] and the condensed RDM of each subject (subjects, "
            f"{expected})"
        )
    return None


@_layerwise.layerwise(_condensed_of_subjects)
def rdl_subjects(
    student: Array,
    targets: Array,
    weights: Array | None = None,
    *,
    distance: rdm.distances.Distance = rdm.distances.Cosine(),
    comparison: rdm.comparisons.Comparison = rdm.comparisons.Pearson(),
    subject_weights: Array | None = None,
    ceiling: Array | float | None = None,
) -> Array:
    """Computes the RDL loss towards the measured RDM of each of several subjects.

    The student is compared with each as by `rdl_target`, and the mean is taken.

    Args:
      student: Activations `[n, ...]` of the n stimuli of the RDMs, in their order.
      targets: The condensed RDM of each subject `[subjects, n (n - 1) / 2]`. Pairs of
        weight 0 may be NaN.
      weights: The weight of each pair, as the targets or as one subject's RDM, not
        negative, the same in every layer; 0 masks a pair. A subject all of whose pairs
        have weight 0 counts for nothing. None: uniform weights.
      distance: The distance of two stimuli's activations in the student, one of
        `rdm.distances`.
      comparison: The comparison of two RDMs, one of `rdm.comparisons`.
      subject_weights: The weight of each subject `[subjects]`, not negative, such as
        its reliability. None: uniform weights.
      ceiling: The similarity that a perfect student would have (`noise_ceiling` of
        `rdljax.statistics`), above 0, of all or of each subject `[subjects]`: noisy
        RDMs then ask no more than they can. For a comparison that is one minus a
        similarity s, the value is `1 - s / ceiling`: below 0 beyond the ceiling.

    Returns:
      A scalar, 0 when the RDMs are equal; summed over layers.

    Raises:
      ValueError: Targets or weights of another length than the student's RDM; weights
        or ceilings of another number of subjects; a ceiling of 0 or less, or one with
        `MSE`, which has no similarity.

    References:
      McClure & Kriegeskorte, `Representational Distance Learning for Deep Neural
      Networks <https://doi.org/10.3389/fncom.2016.00131>`_, Front. Comput. Neurosci.
      10:131, 2016; the ceiling is that of Nili et al., A toolbox for representational
      similarity analysis, PLoS Computational Biology 10, 2014.
    """
    own = _rdm_of(student, distance, comparison)
    measured = None
    if weights is not None and np.ndim(weights) > 1:
        weights = jnp.asarray(weights)
        _check_shape("row of weights", weights.shape[:1], {targets.shape[:1]})
        # (Not weights > 0: one that is NaN is to be found.)
        measured = (~(weights <= 0)).any(axis=1)
    compare = functools.partial(rdm.compare, own, comparison=comparison)
    by_subject = (0, None if measured is None else 0)
    values = jax.vmap(compare, in_axes=by_subject)(targets, weights)
    return _over_subjects(values, subject_weights, ceiling, comparison, measured)


def _over_subjects(values: Array, subjects, ceiling, comparison, measured) -> Array:
    """Returns the weighted mean over subjects, each in relation to its ceiling.

    Without those of whom no pair was measured.
    """
    if ceiling is not None:
        if isinstance(comparison, rdm.comparisons.MSE):
            raise ValueError("MSE has no similarity, so that it has no ceiling")
        _check_shape("ceiling", np.shape(ceiling), {(), values.shape})
        ceiling = jnp.asarray(
            _number_of_each("ceiling", ceiling, above=0), values.dtype
        )
        ceiling = _checks.nan_unless(ceiling > 0, ceiling)
        values = 1 - (1 - values) / ceiling
    if subjects is None and measured is None:
        return jnp.mean(values)
    if subjects is None:
        subjects = jnp.ones_like(values)
    else:
        _check_shape("weight", np.shape(subjects), {values.shape})
        subjects = _number_of_each("weight of a subject", subjects, at_least=0)
        if not isinstance(subjects, Array) and not np.any(subjects):
            raise ValueError(
                f"the weights of subjects must not all be 0, got {subjects}"
            )
        subjects = jnp.asarray(subjects, values.dtype)
        subjects = _checks.nan_unless(subjects >= 0, subjects)
    if measured is not None:
        subjects = jnp.where(measured, subjects, 0)
    total = jnp.sum(subjects)
    return jnp.sum(subjects * values) / jnp.where(total > 0, total, 1)


def _check_shape(name: str, given: tuple, shapes: set[tuple]) -> None:
    if given not in shapes:
        raise ValueError(
            f"expected a {name} for each of {max(shapes)[0]} subjects, got {given}"
        )


def _number_of_each(name: str, given, **limits):
    """Returns a number or one of each subject, checked."""
    _checks.check_number(name, given, several=True, **limits)
    return given


@_layerwise.layerwise(_layerwise.same_batch)
def sp(student: Array, teacher: Array) -> Array:
    """Computes the similarity-preserving distillation loss (SP).

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
        return _geometry.unit_rows(_geometry.gram(_geometry.in_own_unit(x)))

    return jnp.mean((similarities(student) - similarities(teacher)) ** 2)


@_layerwise.layerwise(_layerwise.same_batch)
def pkt(student: Array, teacher: Array, *, epsilon: float = 1e-7) -> Array:
    """Computes the probabilistic knowledge transfer loss (PKT).

    Compares, for each example, the probability of the others under a cosine kernel.

    Args:
      student: Activations `[batch, ...]`, flattened to units.
      teacher: Activations `[batch, ...]` of the same examples.
      epsilon: Added to norms, and to probabilities in the ratio; not negative.

    Returns:
      A scalar in nats: the mean over ordered pairs of the terms of the Kullback-Leibler
      divergence, summed over layers.

    Raises:
      ValueError: Different batch, or a negative epsilon.

    References:
      Passalis & Tefas, `Learning Deep Representations with Probabilistic Knowledge
      Transfer <https://arxiv.org/abs/1803.10837>`_, ECCV 2018.
    """
    epsilon = _checks.as_number("epsilon", epsilon, student.dtype, at_least=0)

    def probabilities(x):
        return kernel_probabilities(_geometry.gram(directions(x, epsilon)))

    s, t = probabilities(student), probabilities(teacher)
    return jnp.mean(t * jnp.log((t + epsilon) / (s + epsilon)))


def directions(x: Array, epsilon: Array | float) -> Array:
    """Returns activations as rows x / (|x| + epsilon).

    A zero row has cosine 0 with all, and no direction to follow.
    """
    x = _geometry.flatten(x)
    unit = _geometry.power_of_two(x, axis=1, keepdims=True)
    x = x / unit
    inverse = _geometry.safe_rsqrt(jnp.sum(x * x, axis=1, keepdims=True))
    return x * inverse / (1 + epsilon / unit * inverse)


def kernel_probabilities(cosines: Array) -> Array:
    """Returns rows of a cosine kernel `[n, m]`, each divided by its sum."""
    # Rounding may take the cosine of opposite rows below -1.
    kernel = jnp.maximum(1 + cosines, 0) / 2
    return kernel / jnp.sum(kernel, axis=1, keepdims=True)


@_layerwise.layerwise(_same_batch_with_pairs)
def rkd_distance(student: Array, teacher: Array) -> Array:
    """Computes the relational distillation loss of distances (RKD-D).

    Compares the Euclidean distances of the batch, each net's divided by their mean.

    Args:
      student: Activations `[batch, ...]`, flattened to units.
      teacher: Activations `[batch, ...]` of the same examples.

    Returns:
      A scalar: the mean Huber loss over ordered pairs, each example with itself
      included, summed over layers.

    In float32, distances below about a thousandth of the batch's spread are not
    resolved, since they come from a Gram matrix: among clusters tighter than that the
    gradient is off by a tenth and more, and below their own rounding they are 0. A unit
    that is constant in the batch, up to rounding, counts for nothing.

    Raises:
      ValueError: Different batch, or fewer than two examples.

    References:
      Park et al., `Relational Knowledge Distillation
      <https://arxiv.org/abs/1904.05068>`_, CVPR 2019.
    """

    def relative(x):
        squared = _geometry.squared_distances_from(_geometry.gram(_centred(x)))
        distances = _geometry.safe_sqrt(squared)
        mean = jnp.sum(distances) / (len(x) * (len(x) - 1))
        return distances * _geometry.safe_inverse(mean)

    return jnp.mean(huber(relative(student) - relative(teacher)))


def _centred(x: Array) -> Array:
    """Flattens activations to rows minus their mean, in a unit of their own.

    For what does not depend on the unit. A unit that is constant in the batch, up to
    rounding, is 0.
    """
    x = _geometry.flatten(x)
    return _geometry.centre(_geometry.in_own_unit(x), axis=0)


@_layerwise.layerwise(_same_batch_with_pairs)
def rkd_angle(student: Array, teacher: Array) -> Array:
    """Computes the relational distillation loss of angles (RKD-A).

    Compares the cosines of the angles that every three examples form.

    Args:
      student: Activations `[batch, ...]`, flattened to units.
      teacher: Activations `[batch, ...]` of the same examples.

    Returns:
      A scalar: the mean Huber loss over ordered triples, summed over layers. Triples of
      fewer than three examples count too: the cosine is 0 at a vertex that is one of
      the two others, and 1 between an example and itself.

    In float32, distances below about a thousandth of the batch's spread are not
    resolved, since they come from a Gram matrix: among clusters tighter than that the
    gradient is off by a tenth and more, and below their own rounding they are 0. A unit
    that is constant in the batch, up to rounding, counts for nothing.

    Raises:
      ValueError: Different batch, or fewer than two examples.

    References:
      Park et al., `Relational Knowledge Distillation
      <https://arxiv.org/abs/1904.05068>`_, CVPR 2019.
    """

    def products_and_scales(x):
        gram = _geometry.gram(_centred(x))
        return gram, _geometry.safe_rsqrt(_geometry.squared_distances_from(gram))

    return _angles(*products_and_scales(student), *products_and_scales(teacher))


@jax.custom_jvp
def _angles(gram: Array, scale: Array, gram_t: Array, scale_t: Array) -> Array:
    """Computes the mean Huber loss of all cosines, from Grams and inverse distances.

    The cosine at vertex i is `<x_j - x_i, x_k - x_i>`, which the Gram matrix has, times
    the two inverse distances `[n, n]`. Value and gradient come from one pass over the
    vertices, some at a time, so that no `[n, n, n]` array is kept.
    """
    return _angles_pass(gram, scale, gram_t, scale_t)[0]


def _angles_pass(
    gram: Array, scale: Array, gram_t: Array, scale_t: Array
) -> tuple[Array, Array, Array]:
    """Returns the value of `_angles`, and its gradients by `gram` and `scale`."""
    n = gram.shape[0]

    def at_vertex(i):
        def cosines(gram, scales):
            edges = gram - gram[i][:, None] - gram[i][None, :] + gram[i, i]
            return edges * scales

        scales = scale[i][:, None] * scale[i][None, :]
        own = cosines(gram, scales)
        difference = own - cosines(gram_t, scale_t[i][:, None] * scale_t[i][None, :])
        slope = jnp.clip(difference, -1, 1)
        by_edges = slope * scales
        return (
            jnp.sum(huber(difference)),
            by_edges,
            jnp.sum(by_edges, axis=1),
            jnp.sum(slope * own, axis=1),
        )

    def add(carry, vertices):
        total, by_gram = carry
        values, by_edges, *rows = jax.vmap(at_vertex)(vertices % n)
        if n % block:  # The last block has vertices that are none.
            real = vertices < n
            values = jnp.where(real, values, 0)
            by_edges = jnp.where(real[:, None, None], by_edges, 0)
        return (total + jnp.sum(values), by_gram + jnp.sum(by_edges, axis=0)), rows

    block = min(n, 8)
    vertices = jnp.arange(-(-n // block) * block).reshape(-1, block)
    # (Not jnp.zeros: under shard_map a carry must vary over the devices as its inputs.)
    nothing = 0 * (gram + gram_t)
    start = nothing[0, 0], nothing
    (total, by_gram), rows = jax.lax.scan(add, start, vertices)
    by_own, by_log_scale = (row.reshape(-1, n)[:n] for row in rows)
    by_gram = by_gram - 2 * by_own + jnp.diag(jnp.sum(by_own, axis=1))
    by_scale = 2 * by_log_scale * _geometry.safe_inverse(scale)
    count = float(n) ** 3
    return total / count, by_gram / count, by_scale / count


@_angles.defjvp
def _angles_jvp(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    # The teacher's two are fixed and have no tangent.
    value, by_gram, by_scale = _angles_pass(*primals)
    return value, jnp.sum(by_gram * tangents[0]) + jnp.sum(by_scale * tangents[1])


def huber(x: Array) -> Array:
    """Computes half the square up to 1, linear beyond."""
    inside = jnp.minimum(jnp.abs(x), 1)
    return inside * (jnp.abs(x) - inside / 2)


@_layerwise.layerwise(_layerwise.same_batch)
def cc(student: Array, teacher: Array, *, gamma: float = 0.4, order: int = 2) -> Array:
    """Computes the correlation congruence loss (CC).

    Compares how examples correlate under a Gaussian kernel, in its Taylor series.

    Args:
      student: Embeddings `[batch, ...]`, flattened to units and scaled to unit length.
      teacher: Embeddings `[batch, ...]` of the same examples.
      gamma: The kernel's precision, above 0.
      order: The last power of the series, 1 or more.

    Returns:
      A scalar: the mean squared difference over ordered pairs, summed over layers.

    Raises:
      ValueError: Different batch, a gamma of 0 or less, or an order that is not a whole
        number of 1 or more.

    References:
      Peng et al., `Correlation Congruence for Knowledge Distillation
      <https://arxiv.org/abs/1904.01802>`_, ICCV 2019.
    """
    gamma = _checks.as_number("gamma", gamma, student.dtype, above=0)
    order = _checks.as_count("order", order)

    def correlations(x):
        x = _geometry.unit_rows(_geometry.flatten(x))
        gram = _geometry.gram(x)
        series = (
            (2 * gamma) ** p / math.factorial(p) * gram**p for p in range(order + 1)
        )
        return jnp.exp(-2 * gamma) * sum(series)

    return jnp.mean((correlations(student) - correlations(teacher)) ** 2)


@_layerwise.layerwise(_layerwise.same_shape, teacher_is_fixed=False)
def cc_repdistiller(student: Array, teacher: Array) -> Array:
    """Computes the correlation congruence loss as RepDistiller has it.

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
    """Computes 1 minus the linear centred kernel alignment (CKA).

    Compares the Gram matrices of the centred batch by their cosine: blind to rotation
    and scale. Units that are constant in the batch, up to rounding, count for nothing.

    Args:
      student: Activations `[batch, ...]`, flattened to units.
      teacher: Activations `[batch, ...]` of the same examples.

    Returns:
      A scalar in [0, 1] but for rounding, 0 for equal geometry: 1 - CKA, summed over
      layers. Where the examples of one side are all alike it is 1, and 0 where those of
      both are.

    Raises:
      ValueError: Different batch.

    References:
      Kornblith et al., `Similarity of Neural Network Representations Revisited
      <https://arxiv.org/abs/1905.00414>`_, ICML 2019.
    """

    def gram(x):
        return _geometry.gram(_centred(x)).reshape(1, -1)

    return _geometry.one_minus_cosines(gram(student), gram(teacher))[0]
