"""Defines plain ports of the objectives' formulas, for comparison in benchmarks.

They follow the released PyTorch code (RepDistiller's, or the authors' own) line by
line, without optimisation. Arguments and values are those of `rdljax.objectives`;
degenerate inputs, shapes and dtypes are not checked.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array


def _rows(x: Array) -> Array:
    return x.reshape(x.shape[0], -1)


def _unit(x: Array, axis: int = 1) -> Array:
    """Divides x by its norm, as `torch.nn.functional.normalize` does."""
    norm = jnp.sqrt(jnp.sum(x**2, axis=axis, keepdims=True))
    return x / jnp.maximum(norm, 1e-12)


def _vectors(x: Array) -> Array:
    """Reshapes maps `[batch, H, W, C]` to vectors of positions `[batch, C, H W]`."""
    return jnp.swapaxes(x.reshape(x.shape[0], -1, x.shape[3]), 1, 2)


def _huber(x: Array) -> Array:
    size = jnp.abs(x)
    return jnp.where(size < 1, x**2 / 2, size - 0.5)


# ---- logits


def kd(student: Array, teacher: Array, temperature: float = 4.0) -> Array:
    """Returns the divergence of softened class probabilities."""
    s, t = (jax.nn.log_softmax(x / temperature) for x in (student, teacher))
    return jnp.sum(jnp.exp(t) * (t - s)) * temperature**2 / student.shape[0]


def dkd(student: Array, teacher: Array, labels: Array) -> Array:
    """Returns the sum of the divergences of the right class and of the other classes.

    For the other classes the right class is masked by -1000.
    """
    right = jax.nn.one_hot(labels, student.shape[1])

    def divergence(s, t):
        return jnp.sum(t * (jnp.log(t) - jnp.log(s))) / student.shape[0] * 4**2

    def binary(logits):
        p = jnp.sum(jax.nn.softmax(logits / 4) * right, axis=1)
        return jnp.stack([p, 1 - p], axis=1)

    others = (jax.nn.log_softmax(x / 4 - 1000 * right) for x in (student, teacher))
    s, t = others
    rest = jnp.sum(jnp.exp(t) * (t - s)) / student.shape[0] * 4**2
    return divergence(binary(student), binary(teacher)) + 8 * rest


def dist(student: Array, teacher: Array) -> Array:
    """Returns one minus correlations of class probabilities, over rows and columns."""
    s, t = jax.nn.softmax(student), jax.nn.softmax(teacher)

    def correlation(x, y):
        x, y = (z - jnp.mean(z, axis=1, keepdims=True) for z in (x, y))
        norms = jnp.linalg.norm(x, axis=1) * jnp.linalg.norm(y, axis=1)
        return jnp.mean(jnp.sum(x * y, axis=1) / (norms + 1e-8))

    return (1 - correlation(s, t)) + (1 - correlation(s.T, t.T))


# ---- one layer, example by example


def hint(student: Array, teacher: Array) -> Array:
    """Returns the mean squared error."""
    return jnp.mean((student - teacher) ** 2)


def _attention(x: Array) -> Array:
    return _unit(_rows(jnp.mean(x**2, axis=3)))


def at(student: Array, teacher: Array) -> Array:
    """Returns the mean squared difference of normalised energies."""
    return jnp.mean((_attention(student) - _attention(teacher)) ** 2)


def ft_repdistiller(student: Array, teacher: Array) -> Array:
    """Returns the mean absolute difference of normalised energies."""
    return jnp.mean(jnp.abs(_attention(student) - _attention(teacher)))


def ft(student: Array, teacher: Array) -> Array:
    """Returns the mean absolute difference of normalised factors."""
    return jnp.mean(jnp.abs(_unit(_rows(student)) - _unit(_rows(teacher))))


def vid(student: Array, teacher: Array, log_scale: Array, *weights: Array) -> Array:
    """Returns the Gaussian bound, after 1 x 1 convolutions with ReLUs between them."""
    for i, weight in enumerate(weights):
        student = jax.nn.relu(student) if i else student
        student = lax.conv_general_dilated(
            student,
            weight[None, None],
            window_strides=(1, 1),
            padding="VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
    variance = jnp.log(1 + jnp.exp(log_scale)) + 1e-5
    return jnp.mean(((student - teacher) ** 2 / variance + jnp.log(variance)) / 2)


def nst(student: Array, teacher: Array) -> Array:
    """Returns the MMD over channels, by a product `[batch, C, C, H W]` of all pairs."""
    s, t = _unit(_vectors(student), 2), _unit(_vectors(teacher), 2)

    def kernel(x, y):
        return jnp.mean(jnp.sum(x[:, None] * y[:, :, None], axis=3) ** 2)

    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


def nst_by_grams(student: Array, teacher: Array) -> Array:
    """Computes `nst` by three Gram matrices `[batch, C, C]`."""
    s, t = _unit(_vectors(student), 2), _unit(_vectors(teacher), 2)

    def kernel(x, y):
        return jnp.mean(jnp.einsum("bcm,bdm->bcd", x, y) ** 2)

    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


def nst_linear(student: Array, teacher: Array) -> Array:
    """Computes `nst` with the linear kernel."""
    s, t = _unit(_vectors(student), 2), _unit(_vectors(teacher), 2)

    def kernel(x, y):
        return jnp.mean(jnp.sum(x[:, None] * y[:, :, None], axis=3))

    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


def nst_gaussian(student: Array, teacher: Array) -> Array:
    """Computes `nst` with the Gaussian kernel of width 1."""
    s, t = _unit(_vectors(student), 2), _unit(_vectors(teacher), 2)

    def kernel(x, y):
        squared = jnp.sum((x[:, None] - y[:, :, None]) ** 2, axis=3)
        return jnp.mean(jnp.exp(-squared / 2))

    return kernel(t, t) + kernel(s, s) - 2 * kernel(s, t)


# ---- several layers


def ab(student: list[Array], teacher: list[Array]) -> Array:
    """Returns squares of inputs on the wrong side of zero, or within 1 of it."""
    total: Any = 0.0
    for i, (s, t) in enumerate(zip(student, teacher, strict=True)):
        wrong = (s + 1) ** 2 * ((s > -1) & (t <= 0))
        wrong += (s - 1) ** 2 * ((s <= 1) & (t > 0))
        total += jnp.sum(wrong) * 2.0 ** (i - len(student) + 1)
    return total / student[0].shape[0] / 1000 * 3


def fsp(student: list[Array], teacher: list[Array]) -> Array:
    """Returns squared differences of flows, by a product `[batch, C, C, H W]`."""

    def flow(layers):
        lower, upper = map(_vectors, layers)
        return jnp.mean(lower[:, None] * upper[:, :, None], axis=3)

    return jnp.mean((flow(student) - flow(teacher)) ** 2)


def kdsvd(student: list[Array], teacher: list[Array]) -> Array:
    """Returns squared differences of relations between layers' singular vectors.

    The vectors are computed by the full decomposition.
    """

    def decomposed(x, count):
        # One at a time: on the CPU two batched decompositions can wait for each other
        # forever.
        form = functools.partial(jnp.linalg.svd, full_matrices=False)
        _, values, vectors = lax.map(form, _rows_of_positions(x))
        vectors = jnp.swapaxes(vectors, 1, 2)
        return _unit(values[:, :count]), _unit(vectors[:, :, :count])

    total: Any = 0.0
    before: tuple[Array, Array] | None = None
    for s, t in zip(student, teacher, strict=True):
        (values, t), (_, s) = decomposed(t, 1), decomposed(s, 4)
        cosine = jnp.einsum("bcn,bcm->bnm", s, t)
        size = jnp.abs(cosine)
        nearest = size == jnp.max(size, axis=1, keepdims=True)
        s = jnp.einsum("bcn,bnm->bcm", s, jnp.where(nearest, jnp.sign(cosine), 0))
        s, t = s * values[:, None], t * values[:, None]
        if before is not None:
            related = (
                jnp.exp(-((now[:, :, None] - then[:, None]) ** 2) / 8)
                for now, then in zip((s, t), before, strict=True)
            )
            total += jnp.sum(jnp.subtract(*related) ** 2)
        before = s, t
    return total / student[0].shape[0]


def _rows_of_positions(x: Array) -> Array:
    return x.reshape(x.shape[0], -1, x.shape[3])


# ---- relations between examples


def rdl(student: Array, teacher: Array) -> Array:
    """Returns one minus the correlation of the cosine distances of all pairs."""

    def distances(x):
        x = _unit(_rows(x))
        return (1 - x @ x.T)[np.triu_indices(len(x), 1)]

    s, t = (d - jnp.mean(d) for d in map(distances, (student, teacher)))
    return 1 - s @ t / (jnp.linalg.norm(s) * jnp.linalg.norm(t))


def sp(student: Array, teacher: Array) -> Array:
    """Returns squared differences of Gram matrices with normalised rows."""

    def similarities(x):
        return _unit(_rows(x) @ _rows(x).T)

    difference = similarities(student) - similarities(teacher)
    return jnp.sum(difference**2) / student.shape[0] ** 2


def pkt(student: Array, teacher: Array) -> Array:
    """Returns the divergence of cosines, normalised to probabilities."""

    def probabilities(x):
        x = x / (jnp.sqrt(jnp.sum(x**2, axis=1, keepdims=True)) + 1e-7)
        kernel = (x @ x.T + 1) / 2
        return kernel / jnp.sum(kernel, axis=1, keepdims=True)

    s, t = probabilities(student), probabilities(teacher)
    return jnp.mean(t * jnp.log((t + 1e-7) / (s + 1e-7)))


def rkd(student: Array, teacher: Array) -> Array:
    """Returns 25 times the loss of distances plus 50 times that of angles.

    Angles are computed from differences `[batch, batch, units]`.
    """
    diagonal = jnp.eye(student.shape[0], dtype=bool)

    def distances(x):
        norms = jnp.sum(x**2, axis=1)
        squared = norms[:, None] + norms[None, :] - 2 * (x @ x.T)
        found = jnp.where(diagonal, 0, jnp.sqrt(jnp.maximum(squared, 1e-12)))
        return found / (jnp.sum(found) / jnp.sum(found > 0))

    def cosines(x):
        difference = x[None] - x[:, None]
        # The norm of an example's difference from itself has no gradient.
        squared = jnp.sum(difference**2, axis=2)
        norms = jnp.sqrt(jnp.where(diagonal, 1, squared))
        unit = difference / norms[:, :, None]
        return jnp.einsum("ijd,ikd->ijk", unit, unit)

    by_distance, by_angle = (
        jnp.mean(_huber(form(student) - form(teacher))) for form in (distances, cosines)
    )
    return 25 * by_distance + 50 * by_angle


def cc(student: Array, teacher: Array) -> Array:
    """Returns squared differences of Gaussian kernels of unit embeddings.

    A kernel is approximated by its Taylor series to degree 2.
    """

    def correlations(x):
        gram = _unit(x) @ _unit(x).T
        series = (0.8**p / math.factorial(p) * gram**p for p in range(3))
        return math.exp(-0.8) * sum(series)

    return jnp.mean((correlations(student) - correlations(teacher)) ** 2)


def cc_repdistiller(student: Array, teacher: Array) -> Array:
    """Returns the mean of sums of products of successive absolute errors."""
    error = jnp.abs(student - teacher)
    return jnp.mean(jnp.sum(error[:-1] * error[1:], axis=1))


def cka(student: Array, teacher: Array) -> Array:
    """Returns one minus the cosine of Gram matrices, centred by matrix products."""
    n = student.shape[0]
    centre = jnp.eye(n) - 1 / n

    def gram(x):
        return centre @ (_rows(x) @ _rows(x).T) @ centre

    s, t = gram(student), gram(teacher)
    return 1 - jnp.sum(s * t) / (jnp.linalg.norm(s) * jnp.linalg.norm(t))


# ---- CRD


class Bank(NamedTuple):
    """The memory of CRD: embeddings `[n, d]` of both nets, and both normalizers."""

    student: Array
    teacher: Array
    normalizers: Array


def _contrast(scores: Array, m: float, n: int, weights: Array | float = 1.0) -> Array:
    """Returns the loss of noise-contrastive estimation.

    Args:
      scores: The exponentiated scores `[batch, 1 + negatives]`, the positive first.
      m: The number of negatives.
      n: The number of examples.
      weights: The weight of each negative.
    """
    noise = m / n
    positive, negatives = scores[:, 0], scores[:, 1:]
    right = jnp.log(positive / (positive + noise + 1e-7))
    wrong = jnp.log(noise / (negatives + noise + 1e-7))
    return -(jnp.sum(right) + jnp.sum(weights * wrong)) / len(scores)


def crd(student: Array, teacher: Array, bank: Bank, indices: Array) -> Array:
    """Returns the loss of CRD; gathers `[batch, K + 1, d]` from both banks."""
    m, n = indices.shape[1] - 1, len(bank.student)

    def side(anchor, rows, normalizer):
        scores = jnp.exp(jnp.einsum("bkd,bd->bk", rows[indices], anchor) / 0.07)
        return _contrast(scores / normalizer, m, n)

    return side(student, bank.teacher, bank.normalizers[0]) + side(
        teacher, bank.student, bank.normalizers[1]
    )


def crd_expected(
    student: Array, teacher: Array, bank: Bank, index: Array, m: float
) -> Array:
    """Returns the loss of CRD with all rows as negatives, each with weight m / n."""
    n = len(bank.student)

    def side(anchor, rows, normalizer):
        scores = jnp.exp(anchor @ rows.T / 0.07) / normalizer
        positive = jnp.take_along_axis(scores, index[:, None], axis=1)
        return _contrast(jnp.concatenate([positive, scores], axis=1), m, n, m / n)

    return side(student, bank.teacher, bank.normalizers[0]) + side(
        teacher, bank.student, bank.normalizers[1]
    )


def crd_shared(
    student: Array, teacher: Array, bank: Bank, index: Array, negatives: Array
) -> Array:
    """Returns the loss of CRD with the same K negatives, gathered for each example."""
    shared = jnp.broadcast_to(negatives, (len(index), len(negatives)))
    indices = jnp.concatenate([index[:, None], shared], axis=1)
    return crd(student, teacher, bank, indices)


def normalizers(student: Array, teacher: Array, bank: Bank, indices: Array) -> Array:
    """Returns the mean exponentiated score times the number of rows, for each bank."""

    def side(anchor, rows):
        scores = jnp.take_along_axis(anchor @ rows.T, indices, axis=1)
        return jnp.mean(jnp.exp(scores / 0.07)) * len(rows)

    return jnp.stack([side(student, bank.teacher), side(teacher, bank.student)])


def update_bank(bank: Bank, student: Array, teacher: Array, index: Array) -> Bank:
    """Returns the bank with the batch's rows moved halfway to the new embeddings.

    The rows are normalised again.
    """

    def moved(rows, new):
        new = 0.5 * rows[index] + 0.5 * new
        return rows.at[index].set(new / jnp.linalg.norm(new, axis=1, keepdims=True))

    return Bank(
        moved(bank.student, student), moved(bank.teacher, teacher), bank.normalizers
    )
