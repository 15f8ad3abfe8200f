"""Defines objectives of features: the activations of single examples."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rdljax import _checks, _geometry, _layerwise, mmd

Array = jax.Array


@_layerwise.layerwise(_layerwise.same_shape_but_size)
def hint(student: Array, teacher: Array) -> Array:
    """Computes the hint loss of FitNets: the error of the activations themselves.

    Compares unit by unit. Maps of different size and the same aspect are first pooled,
    by adaptive averaging, to the smaller of the two. If the channels differ, the
    student's activations need a regressor first: `terms.hint` trains it.

    Args:
      student: Activations `[batch, ...]`.
      teacher: Activations of the same shape; for maps `[batch, H, W, C]` height and
        width may differ.

    Returns:
      A scalar: the mean squared difference over batch and units, summed over layers.

    Raises:
      ValueError: Different batch, rank, channels, or aspect.

    References:
      Romero et al., `FitNets: Hints for Thin Deep Nets
      <https://arxiv.org/abs/1412.6550>`_, ICLR 2015, eq. 3.

    Departures: (1) the mean, not half the sum of squares, as in RepDistiller; (2) maps
    are pooled, while the paper's regressor is a convolution that matches the sizes.
    """
    if student.ndim == 4:
        student, teacher = _geometry.pool_to_smaller(student, teacher)
    return jnp.mean((student - teacher) ** 2)


@_layerwise.layerwise(_layerwise.maps)
def at(student: Array, teacher: Array, *, power: int = 2) -> Array:
    """Computes the attention transfer loss (AT).

    Compares attention maps: the mean over channels of a power of the activations, as a
    unit vector over positions. Maps of different size are pooled to the smaller.

    Args:
      student: Maps `[batch, H, W, C]`.
      teacher: Maps of the same batch; sizes and channels may differ.
      power: Power of the magnitude of the activations, a number of 1 or more.

    Returns:
      A scalar: the mean squared difference over batch and positions, summed over
      layers.

    Raises:
      ValueError: Not maps of the same batch and aspect, or a power below 1.

    References:
      Zagoruyko & Komodakis, `Paying More Attention to Attention
      <https://arxiv.org/abs/1612.03928>`_, ICLR 2017.

    Departures: (1) the mean squared difference, as in the authors' code; the paper has
      the norm of the difference.
    """
    power = _checks.as_number("power", power, student.dtype, at_least=1)
    student, teacher = _geometry.pool_to_smaller(student, teacher)
    return jnp.mean(_difference_of_attention(student, teacher, power) ** 2)


def _difference_of_attention(student: Array, teacher: Array, power: int = 2) -> Array:
    """Computes the difference `[batch, H W]` of attention maps, as unit vectors."""

    def energies(x):
        x = _geometry.in_own_unit(x, axis=(1, 2, 3))
        return _geometry.flatten(jnp.sum(jnp.abs(x) ** power, axis=3))

    return _geometry.difference_of_unit_rows(energies(student), energies(teacher))


@_layerwise.layerwise(_layerwise.maps)
def nst(
    student: Array,
    teacher: Array,
    *,
    kernel: mmd.Kernel = mmd.Polynomial(),
    estimate: Callable[..., Array] = mmd.biased,
) -> Array:
    """Computes the neuron selectivity transfer loss (NST).

    Compares the distributions of neuron selectivity patterns. For each example, the map
    of every channel, as a unit vector over positions, is one sample, and the samples of
    the two nets are compared by maximum mean discrepancy. Maps of different size are
    pooled to the smaller.

    Args:
      student: Maps `[batch, H, W, C]`.
      teacher: Maps of the same batch; sizes and channels may differ.
      kernel: A kernel of `mmd`. Those of the paper are `mmd.Linear()`,
        `mmd.Polynomial()` and `mmd.Gaussian(...)`; with the polynomial kernel of degree
        2, a matrix of positions by positions replaces that of channels by channels if
        it costs less.
      estimate: Estimator of the squared discrepancy, `mmd.biased` or `mmd.unbiased`.

    Returns:
      A scalar: the mean over the batch of the squared discrepancy, summed over layers.

    Raises:
      ValueError: Not maps of the same batch and aspect, or an invalid kernel.

    References:
      Huang & Wang, `Like What You Like: Knowledge Distill via Neuron Selectivity
      Transfer <https://arxiv.org/abs/1707.01219>`_, 2017.

    Departures: (1) the squared discrepancy itself; the paper's loss has half of it; (2)
      a channel that is all zero stays zero.
    """
    student, teacher = _geometry.pool_to_smaller(student, teacher)

    def of_example(s, t):
        return estimate(s.T, t.T, kernel=kernel)

    draws = (_selectivities(student), _selectivities(teacher))
    return jnp.mean(jax.vmap(of_example)(*draws))


def _selectivities(x: Array) -> Array:
    """Scales maps to unit vectors over positions: `[batch, H W, C]`."""
    return _geometry.unit_rows(x.reshape(x.shape[0], -1, x.shape[3]))


@_layerwise.layerwise(_layerwise.same_shape, paired=("log_scale",))
def vid(
    student: Array, teacher: Array, log_scale: Array, *, epsilon: float = 1e-5
) -> Array:
    """Computes the variational information distillation loss (VID).

    Compares activations under a Gaussian whose mean and scale are trained: by the
    negative log-likelihood, up to a constant, which bounds the mutual information of
    student and teacher.

    Args:
      student: Mean `[batch, ..., C]` that a regressor predicts from the student.
      teacher: Activations of the same shape.
      log_scale: Log scale `[C]` of each layer, in the same structure as the layers; the
        variance is `softplus(log_scale) + epsilon`.
      epsilon: Smallest variance, not negative.

    Returns:
      A scalar in nats: the mean over batch and units of half the squared difference
      divided by the variance plus half the log variance, summed over layers. It may be
      negative.

    Raises:
      ValueError: Different shapes, a log scale that is not `[C]`, or a negative
        epsilon.

    References:
      Ahn et al., `Variational Information Distillation for Knowledge Transfer
      <https://arxiv.org/abs/1904.05835>`_, CVPR 2019.
    """
    if jnp.shape(log_scale) != student.shape[-1:]:
        raise ValueError(
            f"expected a log scale {student.shape[-1:]} for activations "
            f"{student.shape}, got {jnp.shape(log_scale)}"
        )
    epsilon = _checks.as_number("epsilon", epsilon, student.dtype, at_least=0)
    variance = jax.nn.softplus(jnp.asarray(log_scale, student.dtype)) + epsilon
    variance = jnp.reshape(variance, (1,) * (student.ndim - 1) + (-1,))
    return jnp.mean((student - teacher) ** 2 / variance + jnp.log(variance)) / 2


@_layerwise.in_depth_order(_layerwise.same_shape)
def ab(student: tuple, teacher: tuple, *, margin: float = 1.0) -> Array:
    """Computes the activation boundary loss (AB).

    Compares which units are active: a unit of the student on the wrong side of zero, or
    within a margin of it, is pushed to the teacher's side.

    Args:
      student: A sequence of activations before their ReLU, `[batch, ...]`, in depth
        order.
      teacher: A sequence of activations of the same shapes.
      margin: Distance beyond zero to which a unit is pushed, not negative.

    Returns:
      A scalar: the squared violation of the margin summed over units, mean over the
      batch, times 3/1000; the last layer has weight 1, the one before it 1/2, and so
      on.

    Raises:
      ValueError: Not sequences, different shapes, or a negative margin.

    References:
      Heo et al., `Knowledge Transfer via Distillation of Activation Boundaries
      <https://arxiv.org/abs/1811.03233>`_, AAAI 2019; weights of the authors'
      code.
    """
    margin = _checks.as_number("margin", margin, student[0].dtype, at_least=0)
    total: Any = 0.0
    pairs = zip(reversed(student), reversed(teacher), strict=True)
    for depth, (s, t) in enumerate(pairs):
        excess = jnp.where(
            t > 0, jnp.maximum(margin - s, 0), jnp.maximum(s + margin, 0)
        )
        # NaN would count as inactive, and infinity as on one side.
        excess = _checks.nan_unless(jnp.isfinite(s) & jnp.isfinite(t), excess)
        total += jnp.sum(excess**2) / s.shape[0] * 0.5**depth
    return total * 3 / 1000


@_layerwise.layerwise(_layerwise.same_shape)
def ft(student: Array, teacher: Array) -> Array:
    """Computes the factor transfer loss (FT).

    Compares factors, as unit vectors: those of a translator from the student and those
    of a paraphraser from the teacher.

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
    student, teacher = (_geometry.flatten(x) for x in (student, teacher))
    return jnp.mean(_absolute(_geometry.difference_of_unit_rows(student, teacher)))


@_layerwise.layerwise(_layerwise.maps)
def ft_repdistiller(student: Array, teacher: Array) -> Array:
    """Computes the factor transfer loss of RepDistiller.

    Compares the attention maps of factors, as in `at`, by their absolute difference.

    Args:
      student: Factors `[batch, H, W, C]`.
      teacher: Factors of the same batch; sizes and channels may differ.

    Returns:
      A scalar: the mean absolute difference over batch and positions, summed over
      layers.

    Raises:
      ValueError: Not maps of the same batch and aspect.

    References:
      Tian, Krishnan & Isola, `Contrastive Representation Distillation
      <https://arxiv.org/abs/1910.10699>`_, ICLR 2020, released code.
    """
    student, teacher = _geometry.pool_to_smaller(student, teacher)
    return jnp.mean(_absolute(_difference_of_attention(student, teacher)))


def _absolute(x: Array) -> Array:
    """Returns the magnitude, with gradient 0 at 0 and NaN at NaN.

    (The gradient of `jnp.abs` there is 1 or -1.)
    """
    return x * jnp.sign(x)


@_layerwise.in_depth_order(_layerwise.maps_of_same_channels)
def fsp(student: tuple, teacher: tuple) -> Array:
    """Computes the loss of the flow of the solution procedure (FSP).

    Compares the flow between successive layers: the products of their channels,
    averaged over positions. The larger of two successive maps is pooled to the smaller.

    Args:
      student: A sequence of two or more maps `[batch, H, W, C]`, in depth order.
      teacher: A sequence of the same number of maps, with the same channels.

    Returns:
      A scalar: the mean squared difference over batch and channel pairs, summed over
      successive layers.

    Raises:
      ValueError: Not sequences of two or more layers, different channels, or successive
        maps of different aspect.

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
    return jnp.asarray(sum(jnp.mean((s - t) ** 2) for s, t in pairs))


@_layerwise.in_depth_order(_layerwise.maps_of_same_channels)
def kdsvd(student: tuple, teacher: tuple, *, k: int = 1) -> Array:
    """Computes the loss of distillation by singular value decomposition (KDSVD).

    Compares the relation between the main directions of successive layers. For each
    example and layer, the matrix of positions by channels is summarised by its first
    right singular vectors; the relation of two successive layers is a Gaussian of the
    difference of their vectors, for each pair of channels.

    Args:
      student: A sequence of two or more maps `[batch, H, W, C]`, in depth order.
      teacher: A sequence of the same number of maps, with the same channels; sizes may
        differ.
      k: Number of singular vectors of each of the teacher's layers. Each is matched to
        the nearest of the student's first `k + 3`.

    Returns:
      A scalar: the squared difference summed over channel pairs and vectors, mean over
      the batch, summed over successive layers.

    Raises:
      ValueError: Not sequences of two or more layers, different channels, or a k above
        the number of singular vectors of the maps.

    References:
      Lee, Kim & Song, `Self-supervised Knowledge Distillation Using Singular Value
      Decomposition <https://arxiv.org/abs/1807.06819>`_, ECCV 2018; constants of
      RepDistiller's code.

    Departures: (1) the sign of a singular vector is arbitrary, but the value depends on
      it: here it makes the sum of the vector positive, while the released code keeps
      the sign that LAPACK returns; (2) if two squared singular values differ by less
      than the root of the precision (3e-4 of the largest in float32, 1e-8 in float64),
      so that rounding dominates the gradient of one vector along the other, this
      gradient is 0.
    """
    if len(student) < 2:
        raise ValueError(f"expected two layers or more, got {len(student)}")
    k = _checks.as_count("k", k)
    both = [_directions(s, t, k) for s, t in zip(student, teacher, strict=True)]
    students, teachers = zip(*both, strict=True)

    def relations(layers):
        for lower, upper in zip(layers[:-1], layers[1:], strict=True):
            difference = upper[:, :, :, None] - lower[:, :, None, :]
            yield jnp.exp(-(difference**2) / 8)

    pairs = zip(relations(students), relations(teachers), strict=True)
    return sum(jnp.sum((s - t) ** 2) for s, t in pairs) / student[0].shape[0]


def _directions(student: Array, teacher: Array, k: int) -> tuple[Array, Array]:
    """Returns the main directions `[batch, k, C]` of a layer, in the teacher's order.

    Each is a singular vector times the teacher's singular value; the k singular values
    are first scaled to a unit vector.
    """
    if not k <= min(teacher.shape[1] * teacher.shape[2], teacher.shape[3]):
        raise ValueError(f"expected a k that teacher {teacher.shape} has, got {k}")
    # k + 3 on both sides, so that equal student and teacher round in the same way.
    targets, squares = (x[:, :k] for x in _singular(teacher, k + 3))
    targets = _orient(targets)
    candidates, _ = _singular(student, k + 3)
    cosines = jnp.einsum(
        "bkc,bjc->bkj", targets, candidates, precision=jax.lax.Precision.HIGHEST
    )
    nearest = jnp.argmax(jnp.abs(cosines), axis=2)[:, :, None]
    signs = jnp.sign(jnp.take_along_axis(cosines, nearest, axis=2))
    matched = jnp.take_along_axis(candidates, nearest, axis=1) * signs
    scale = _geometry.unit_rows(_geometry.safe_sqrt(squares))[:, :, None]
    return matched * scale, targets * scale


def _orient(vectors: Array) -> Array:
    """Gives each of the vectors `[..., C]` the sign that makes its sum positive."""
    return jnp.where(jnp.sum(vectors, axis=-1, keepdims=True) < 0, -vectors, vectors)


@functools.partial(jax.jit, static_argnames="count")
def _singular(x: Array, count: int) -> tuple[Array, Array]:
    """Computes the first right singular vectors and squared singular values of maps.

    Each of the maps `[batch, H, W, C]` is scaled by its own power of two. The results
    are vectors `[batch, count, C]` and values `[batch, count]`, or fewer if the maps
    have fewer.
    """
    x = x.reshape(x.shape[0], -1, x.shape[3])
    x = _geometry.in_own_unit(x, axis=(1, 2))
    return _first(x, min(count, *x.shape[1:]))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _first(x: Array, count: int) -> tuple[Array, Array]:
    """Computes the first right singular vectors of `[b, n, C]`.

    They are `[b, count, C]`; the second result has their squared singular values.
    """
    values, vectors = jax.lax.platform_dependent(
        x,
        # One at a time: two batched decompositions can take all of XLA's CPU threads
        # and deadlock.
        cpu=functools.partial(jax.lax.map, _decompose),
        default=jax.vmap(_decompose),
    )
    return vectors[:, :count], values[:, :count]


def _decompose(x: Array) -> tuple[Array, Array]:
    """Computes squared singular values and right singular vectors of `[n, C]`.

    They follow from the eigenvalues and eigenvectors of the smaller Gram matrix, since
    an SVD takes 26 loops on a TPU. Vectors whose squared value is below the root of the
    precision times the largest are inaccurate, but have no gradient: see `kdsvd`.

    Returns:
      Squared values `[r]` and vectors `[r, C]`, the largest first, with r the smaller
      of n and C.
    """
    inner = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    wide = x.shape[0] < x.shape[1]
    squares, vectors = jnp.linalg.eigh(inner(x, x.T) if wide else inner(x.T, x))
    squares, vectors = jnp.maximum(squares[::-1], 0), vectors.T[::-1]
    if wide:
        vectors = _geometry.unit_rows(inner(vectors, x))
    return squares, vectors


@_first.defjvp
def _first_jvp(count: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple:
    """Differentiates `_first` by perturbation theory of the eigenvectors of x'x.

    The change of an eigenvector v along another one is the component of the change of
    x'x v along it, divided by the eigenvalue of v minus that of the other. All vectors
    come from `_first`, so that higher derivatives exist too.
    """
    (x,), (dx,) = primals, tangents
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    vectors, all_squares = _first(x, min(x.shape[1:]))
    squares, first = all_squares[:, :count], vectors[:, :count]
    gaps = squares[:, :, None] - all_squares[:, None, :]
    tolerance = jnp.finfo(x.dtype).eps ** 0.5 * all_squares[:, :1]
    apart = jnp.abs(gaps) > tolerance[:, :, None]
    inverse = jnp.where(apart, 1 / jnp.where(apart, gaps, 1), 0)
    alive = squares > tolerance
    outside = jnp.where(alive, 1 / jnp.where(alive, squares, 1), 0)[:, :, None]
    moved = sum(
        product("bkc,bnc,bnd->bkd", first, *both) for both in ((dx, x), (x, dx))
    )
    along = product("bkc,bjc->bkj", moved, vectors)
    change = product("bkj,bjc->bkc", inverse * along, vectors)
    change += outside * (moved - product("bkj,bjc->bkc", along, vectors))
    return (first, squares), (change, jnp.diagonal(along, axis1=1, axis2=2))
