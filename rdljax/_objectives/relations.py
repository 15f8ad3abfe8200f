"""Defines objectives of relations: distances, angles and similarities of examples."""

import math

import jax
import jax.numpy as jnp

from rdljax import _checks, _geometry, _layerwise

Array = jax.Array


def _same_batch_with_pairs(student: tuple, teacher: tuple) -> str | None:
    if _layerwise.same_batch(student, teacher) is None and student[0] > 1:
        return None
    return "expected [batch, ...] with the same batch of two or more on both sides"


@_layerwise.layerwise(_layerwise.same_batch)
def sp(student: Array, teacher: Array) -> Array:
    """Computes the similarity-preserving distillation loss (SP).

    Compares the similarity of each example to all of the batch: rows of the Gram
    matrix, as unit vectors.

    Args:
      student: Activations `[batch, ...]`, flattened to units.
      teacher: Activations `[batch, ...]` of the same examples.

    Returns:
      A scalar: the mean squared difference over ordered pairs, summed over layers.

    Raises:
      ValueError: Different batch sizes.

    References:
      Tung & Mori, `Similarity-Preserving Knowledge Distillation
      <https://arxiv.org/abs/1907.09682>`_, ICCV 2019.
    """

    def similarities(x):
        return _geometry.gram(_geometry.in_own_unit(_geometry.flatten(x)))

    difference = _geometry.difference_of_unit_rows(
        similarities(student), similarities(teacher)
    )
    return jnp.mean(difference**2)


@_layerwise.layerwise(_layerwise.same_batch)
def pkt(student: Array, teacher: Array, *, epsilon: float = 1e-7) -> Array:
    """Computes the probabilistic knowledge transfer loss (PKT).

    Compares, for each example, the probabilities of the others under a cosine kernel.

    Args:
      student: Activations `[batch, ...]`, flattened to units.
      teacher: Activations `[batch, ...]` of the same examples.
      epsilon: Constant added to norms, and to probabilities in ratios; not negative.

    Returns:
      A scalar in nats: the mean over ordered pairs of the terms of the Kullback-Leibler
      divergence, summed over layers.

    Raises:
      ValueError: Different batch sizes, or a negative epsilon.

    References:
      Passalis & Tefas, `Learning Deep Representations with Probabilistic Knowledge
      Transfer <https://arxiv.org/abs/1803.10837>`_, ECCV 2018.
    """
    epsilon = _checks.as_number("epsilon", epsilon, student.dtype, at_least=0)

    def probabilities(x):
        return _geometry.kernel_probabilities(
            _geometry.gram(_geometry.directions(x, epsilon))
        )

    s, t = probabilities(student), probabilities(teacher)
    return jnp.mean(t * jnp.log((t + epsilon) / (s + epsilon)))


@_layerwise.layerwise(_same_batch_with_pairs)
def rkd_distance(student: Array, teacher: Array) -> Array:
    """Computes the relational distillation loss of distances (RKD-D).

    Compares the Euclidean distances in the batch, divided by their mean in each net.

    Args:
      student: Activations `[batch, ...]`, flattened to units.
      teacher: Activations `[batch, ...]` of the same examples.

    Returns:
      A scalar: the mean Huber loss over ordered pairs, including each example with
      itself, summed over layers.

    In float32, distances below about a thousandth of the spread of the batch are not
    resolved, since they come from a Gram matrix: in tighter clusters the gradient has
    an error of a tenth or more, and distances below their rounding error are 0. Units
    that are constant in the batch, up to rounding, are left out.

    Raises:
      ValueError: Different batch sizes, or fewer than two examples.

    References:
      Park et al., `Relational Knowledge Distillation
      <https://arxiv.org/abs/1904.05068>`_, CVPR 2019.
    """

    def relative(x):
        squared = _geometry.squared_distances_from(_geometry.gram(_centre(x)))
        distances = _geometry.safe_sqrt(squared)
        mean = jnp.sum(distances) / (len(x) * (len(x) - 1))
        return distances * _geometry.safe_inverse(mean)

    return jnp.mean(_geometry.huber(relative(student) - relative(teacher)))


def _centre(x: Array) -> Array:
    """Flattens activations to rows, scales them by a power of two and centres them.

    For objectives that do not depend on the scale. Units that are constant in the
    batch, up to rounding, become 0.
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
      A scalar: the mean Huber loss over ordered triples, summed over layers. Triples
      with repeated examples are included: the cosine is 0 if the vertex equals one of
      the other two, and 1 if only the other two are equal.

    In float32, distances below about a thousandth of the spread of the batch are not
    resolved, since they come from a Gram matrix: in tighter clusters the gradient has
    an error of a tenth or more, and distances below their rounding error are 0. Units
    that are constant in the batch, up to rounding, are left out.

    Raises:
      ValueError: Different batch sizes, or fewer than two examples.

    References:
      Park et al., `Relational Knowledge Distillation
      <https://arxiv.org/abs/1904.05068>`_, CVPR 2019.
    """

    def products_and_scales(x):
        gram = _geometry.gram(_centre(x))
        return gram, _geometry.safe_rsqrt(_geometry.squared_distances_from(gram))

    return _angles(*products_and_scales(student), *products_and_scales(teacher))


@jax.custom_jvp
def _angles(gram: Array, scale: Array, gram_t: Array, scale_t: Array) -> Array:
    """Computes the mean Huber loss of all cosines.

    The arguments are Gram matrices and inverse distances, both `[n, n]`: the cosine at
    vertex i is `<x_j - x_i, x_k - x_i>`, which follows from the Gram matrix, times the
    two inverse distances. Value and gradient come from one pass over blocks of
    vertices, so that no `[n, n, n]` array is stored.
    """
    return _angles_pass(gram, scale, gram_t, scale_t)[0]


def _angles_pass(
    gram: Array, scale: Array, gram_t: Array, scale_t: Array
) -> tuple[Array, Array, Array]:
    """Returns the value of `_angles` and its gradients in `gram` and `scale`."""
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
            jnp.sum(_geometry.huber(difference)),
            by_edges,
            jnp.sum(by_edges, axis=1),
            jnp.sum(slope * own, axis=1),
        )

    def add(carry, vertices):
        total, by_gram = carry
        values, by_edges, *rows = jax.vmap(at_vertex)(vertices % n)
        if n % block:  # The last block is padded.
            real = vertices < n
            values = jnp.where(real, values, 0)
            by_edges = jnp.where(real[:, None, None], by_edges, 0)
        return (total + jnp.sum(values), by_gram + jnp.sum(by_edges, axis=0)), rows

    block = min(n, 8)
    vertices = jnp.arange(-(-n // block) * block).reshape(-1, block)
    # Not jnp.zeros: under shard_map a carry must vary over devices as its inputs do.
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
    # The teacher's Gram matrix and scales are fixed and have no tangents.
    value, by_gram, by_scale = _angles_pass(*primals)
    return value, jnp.sum(by_gram * tangents[0]) + jnp.sum(by_scale * tangents[1])


@_layerwise.layerwise(_layerwise.same_batch)
def cc(student: Array, teacher: Array, *, gamma: float = 0.4, order: int = 2) -> Array:
    """Computes the correlation congruence loss (CC).

    Compares the correlations of examples under the Taylor series of a Gaussian kernel.

    Args:
      student: Embeddings `[batch, ...]`, flattened to units and scaled to unit length.
      teacher: Embeddings `[batch, ...]` of the same examples.
      gamma: Precision of the kernel, above 0.
      order: Last power of the series, 1 or more.

    Returns:
      A scalar: the mean squared difference over ordered pairs, summed over layers.

    Raises:
      ValueError: Different batch sizes, a gamma of 0 or less, or an order that is not a
        whole number of 1 or more.

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
    """Computes the correlation congruence loss of RepDistiller.

    It differs from that of the paper: it correlates the absolute errors of successive
    examples. Both sides receive a gradient, since both have a trained embedding.

    Args:
      student: Embeddings `[batch, units]`.
      teacher: Embeddings of the same shape.

    Returns:
      A scalar: the inner product of the errors of examples i and i + 1, mean over i,
      summed over layers. It depends on the order of the examples in the batch.

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

    Compares the Gram matrices of the centred batch by their cosine: invariant to
    rotation and scale. Units that are constant in the batch, up to rounding, are left
    out.

    Args:
      student: Activations `[batch, ...]`, flattened to units.
      teacher: Activations `[batch, ...]` of the same examples.

    Returns:
      A scalar, 1 - CKA, summed over layers: in [0, 1] for each layer up to rounding, 0
      for equal geometry. It is 1 if all examples of one side are equal, and 0 if those
      of both sides are.

    Raises:
      ValueError: Different batch sizes.

    References:
      Kornblith et al., `Similarity of Neural Network Representations Revisited
      <https://arxiv.org/abs/1905.00414>`_, ICML 2019.
    """

    def gram(x):
        return _geometry.gram(_centre(x)).reshape(1, -1)

    return _geometry.one_minus_cosines(gram(student), gram(teacher))[0]
