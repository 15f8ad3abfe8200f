"""Every objective against a slow NumPy form of its paper, and by its promises.

A row of `CASES` buys an objective all the tests of this file; a name in the table at
the head of `objectives` without a row fails. What costs a program of its own runs for
the first row of an objective, and for its siblings with `-m slow`.

Nearly all runs in one program for a case and a dtype: operation by operation, as many
programs are compiled as there are operations and shapes.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util
from jax.experimental import checkify

from rdljax import _geometry, mmd, objectives, rdm
from rdljax._objectives import features
from rdljax.rdm import comparisons, distances
from tests.losses import LOSSES


def kd_slow(student, teacher, temperature=4.0):
    s, t = (softmax_slow(x / temperature) for x in (student, teacher))
    return np.sum(t * np.log(t / s)) / len(student) * temperature**2


def hint_slow(student, teacher):
    return np.mean((student - teacher) ** 2)


def hint_pooled_slow(student, teacher):
    """A student map of twice the teacher's size: means of 2 x 2 windows."""
    b, h, w, c = teacher.shape
    pooled = student.reshape(b, h, 2, w, 2, c).mean(axis=(2, 4))
    return np.mean((pooled - teacher) ** 2)


def cosine_slow(x, y):
    return 1 - x @ y / np.linalg.norm(x) / np.linalg.norm(y)


def mean_squared_slow(x, y):
    return np.mean((x - y) ** 2)


def rdm_slow(x, pairs=None, distance=cosine_slow):
    n = len(x)
    if pairs is None:
        pairs = np.array([(i, j) for i in range(n) for j in range(i + 1, n)]).T
    x = x.reshape(n, -1)
    return np.array([distance(x[i], x[j]) for i, j in pairs.T])


def rdl_slow(student, teacher, pairs=None):
    return 1 - np.corrcoef(rdm_slow(student, pairs), rdm_slow(teacher, pairs))[0, 1]


def rdl_mse_slow(student, teacher):
    s, t = (rdm_slow(x, distance=mean_squared_slow) for x in (student, teacher))
    return np.mean((s - t) ** 2)


def rdl_cosine_slow(student, teacher):
    return cosine_slow(rdm_slow(student), rdm_slow(teacher))


def rdl_subjects_slow(student, targets, weights=None):
    each = [weights] * len(targets)
    pairs = zip(targets, each, strict=True)
    return np.mean([rdl_target_slow(student, *one) for one in pairs])


def rdl_target_slow(student, target, weights=None):
    own = rdm_slow(student)
    if weights is None:
        return 1 - np.corrcoef(own, target)[0, 1]
    covariance = np.cov(own, target, aweights=weights)
    return 1 - covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])


def softmax_slow(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def dkd_slow(student, teacher, labels, alpha=1.0, beta=8.0, temperature=4.0):
    def kl(t, s):
        return np.sum(t * np.log(t / s))

    total = 0.0
    sides = student / temperature, teacher / temperature
    for s, t, y in zip(*sides, labels, strict=True):
        p, q = softmax_slow(s), softmax_slow(t)
        right = kl(np.array([q[y], 1 - q[y]]), np.array([p[y], 1 - p[y]]))
        others = kl(softmax_slow(np.delete(t, y)), softmax_slow(np.delete(s, y)))
        total += alpha * right + beta * others
    return total / len(student) * temperature**2


def dist_slow(student, teacher, beta=1.0, gamma=1.0, temperature=1.0):
    s, t = (softmax_slow(x / temperature) for x in (student, teacher))
    between = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s, t, strict=True)]
    within = [1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s.T, t.T, strict=True)]
    return (beta * np.mean(between) + gamma * np.mean(within)) * temperature**2


def energy_slow(x, power=2):
    maps = (np.abs(x) ** power).mean(axis=3).reshape(len(x), -1)
    return np.array([row / np.linalg.norm(row) for row in maps])


def at_slow(student, teacher, power=2):
    return np.mean((energy_slow(student, power) - energy_slow(teacher, power)) ** 2)


def ft_slow(student, teacher):
    s, t = (x.reshape(len(x), -1) for x in (student, teacher))
    s, t = (x / np.linalg.norm(x, axis=1)[:, None] for x in (s, t))
    return np.mean(np.abs(s - t))


def ft_repdistiller_slow(student, teacher):
    return np.mean(np.abs(energy_slow(student) - energy_slow(teacher)))


def vid_slow(student, teacher, log_scale, epsilon=1e-5):
    variance = np.log(1 + np.exp(log_scale)) + epsilon
    return np.mean(((student - teacher) ** 2 / variance + np.log(variance)) / 2)


def ab_slow(student, teacher, margin=1.0):
    total = 0.0
    for depth, (s, t) in enumerate(zip(student[::-1], teacher[::-1], strict=True)):
        for unit, target in zip(s.ravel(), t.ravel(), strict=True):
            excess = margin - unit if target > 0 else unit + margin
            total += max(excess, 0) ** 2 / 2**depth
    return total / len(student[0]) * 3 / 1000


def fsp_slow(student, teacher):
    def flow(lower, upper):
        b, h, w, c = lower.shape
        total = np.zeros((b, c, upper.shape[3]))
        for i in range(h):
            for j in range(w):
                total += lower[:, i, j, :, None] * upper[:, i, j, None, :]
        return total / (h * w)

    return sum(
        np.mean((flow(*student[i : i + 2]) - flow(*teacher[i : i + 2])) ** 2)
        for i in range(len(student) - 1)
    )


def sp_slow(student, teacher):
    def rows(x):
        gram = x.reshape(len(x), -1) @ x.reshape(len(x), -1).T
        return gram / np.linalg.norm(gram, axis=1, keepdims=True)

    return np.mean((rows(student) - rows(teacher)) ** 2)


def pkt_slow(student, teacher, epsilon=1e-7):
    def probabilities(x):
        unit = x / (np.linalg.norm(x, axis=1, keepdims=True) + epsilon)
        kernel = (1 + unit @ unit.T) / 2
        return kernel / kernel.sum(axis=1, keepdims=True)

    s, t = probabilities(student), probabilities(teacher)
    return np.mean(t * np.log((t + epsilon) / (s + epsilon)))


def huber_slow(x):
    return np.where(np.abs(x) < 1, x**2 / 2, np.abs(x) - 0.5)


def rkd_distance_slow(student, teacher):
    def relative(x):
        d = np.array([[np.linalg.norm(a - b) for a in x] for b in x])
        return d / d[d > 0].mean()

    return np.mean(huber_slow(relative(student) - relative(teacher)))


def rkd_angle_slow(student, teacher):
    def cosine(x, i, j, k):
        a, b = x[j] - x[i], x[k] - x[i]
        norms = np.linalg.norm(a) * np.linalg.norm(b)
        return a @ b / norms if norms > 0 else 0.0

    n = len(student)
    triples = [(i, j, k) for i in range(n) for j in range(n) for k in range(n)]
    differences = [cosine(student, *t) - cosine(teacher, *t) for t in triples]
    return np.mean(huber_slow(np.array(differences)))


def cc_slow(student, teacher, gamma=0.4, order=2):
    """The Taylor series of exp(-gamma |a - b|^2), |a| = |b| = 1."""

    def kernel(x):
        unit = x / np.linalg.norm(x, axis=1, keepdims=True)
        g = 2 * gamma * unit @ unit.T
        terms, series = np.ones_like(g), np.ones_like(g)
        for power in range(1, order + 1):
            terms = terms * g / power
            series = series + terms
        return np.exp(-2 * gamma) * series

    return np.mean((kernel(student) - kernel(teacher)) ** 2)


def cc_repdistiller_slow(student, teacher):
    error = np.abs(student - teacher)
    n = len(error)
    return sum(error[i] @ error[i + 1] for i in range(n - 1)) / (n - 1)


def cka_slow(student, teacher):
    x, y = (a - a.mean(axis=0) for a in (student, teacher))

    def hsic(a, b):
        return np.linalg.norm(a.T @ b) ** 2

    return 1 - hsic(x, y) / np.sqrt(hsic(x, x) * hsic(y, y))


def nst_slow(student, teacher, kernel=lambda a, b: (a @ b) ** 2, biased=True):
    def mean(xs, ys, same):
        pairs = [
            kernel(x, y)
            for i, x in enumerate(xs)
            for j, y in enumerate(ys)
            if biased or not same or i != j
        ]
        return np.mean(pairs)

    total = 0.0
    for s, t in zip(student, teacher, strict=True):
        a, b = (x.reshape(-1, x.shape[-1]).T for x in (s, t))
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
        total += mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
    return total / len(student)


def gaussian_slow(a, b):
    return np.exp(-np.sum((a - b) ** 2) / (2 * 0.7**2))


def kdsvd_slow(student, teacher, k=1):
    def directions(x, count):
        matrix = x.reshape(-1, x.shape[-1])
        _, values, vectors = np.linalg.svd(matrix, full_matrices=False)
        return vectors[:count], values[:count]

    total = 0.0
    for example in range(len(student[0])):
        before = None
        for s, t in zip(student, teacher, strict=True):
            targets, values = directions(t[example], k)
            values = values / np.linalg.norm(values)
            candidates, _ = directions(s[example], k + 3)
            own, other = [], []
            for target, value in zip(targets, values, strict=True):
                target = target * np.sign(target.sum())
                cosines = candidates @ target
                best = np.argmax(np.abs(cosines))
                own.append(value * np.sign(cosines[best]) * candidates[best])
                other.append(value * target)
            for i in range(k) if before else ():
                related = [
                    np.exp(-((now[i][:, None] - old[i][None, :]) ** 2) / 8)
                    for now, old in zip((own, other), before, strict=True)
                ]
                total += np.sum((related[0] - related[1]) ** 2)
            before = own, other
    return total / len(student[0])


def crd_slow(student, teacher, bank, indices, temperature=0.07):
    """As the paper has it: the critic's probability that a pair is a joint one."""
    n, negatives = len(bank.student), indices.shape[1] - 1
    total = 0.0
    for anchors, keys, z in (
        (student, bank.teacher, bank.normalizers[0]),
        (teacher, bank.student, bank.normalizers[1]),
    ):
        for anchor, rows in zip(anchors, indices, strict=True):
            p = np.exp(keys[rows] @ anchor / temperature) / z
            noise = negatives / n
            total -= np.log(p[0] / (p[0] + noise + 1e-7))
            total -= np.sum(np.log(noise / (p[1:] + noise + 1e-7)))
    return total / len(student)


def crd_shared_slow(
    student, teacher, bank, index, negatives=None, weights=None, temperature=0.07
):
    """The same examples drawn as often as the weights say (which are whole numbers)."""
    rows = np.arange(len(bank.student)) if negatives is None else negatives
    if weights is None:
        weights = np.ones((len(student), len(rows)))
    drawn = [np.repeat(rows, own.astype(int)) for own in weights]
    return np.mean(
        [
            crd_slow(s[None], t[None], bank, np.append(i, others)[None], temperature)
            for s, t, i, others in zip(student, teacher, index, drawn, strict=True)
        ]
    )


class Case(NamedTuple):
    """An objective with its oracle and what is promised of it.

    Attributes:
      name: Of the objective.
      slow: Its NumPy form, of the same positional arguments.
      student: Shape of the student's activations; a list of shapes for a sequence.
      teacher: Shape of the teacher's, likewise.
      numbers: Keyword arguments of the objective.
      extra: Positional arguments beyond the two activations.
      wrong: Pairs of shapes that must be refused.
      layers: Whether it takes pytrees.
      equal_is_zero: Whether its value is 0 for equal activations.
      of_batch: Whether both sides have the batch first, in any order.
      paired: Whether `extra` is a trained array for each layer.
      teacher_is_fixed: Whether the teacher receives no gradient.
      smooth: Whether it has a gradient at equality (an absolute difference has none).
    """

    name: str
    slow: Callable
    student: tuple | list
    teacher: tuple | list
    numbers: dict = {}
    extra: tuple = ()
    wrong: tuple = ()
    layers: bool = True
    equal_is_zero: bool = True
    of_batch: bool = True
    paired: bool = False
    teacher_is_fixed: bool = True
    smooth: bool = True


MAPS = (6, 4, 4, 3)
FEW = (6, 2, 2, 9)  # positions, fewer than channels
BATCHES = (((6, 5), (4, 5)), ((6,), (6,)), ((6, 5), ()))
RANDOM = np.random.default_rng(7)
BANK = objectives.Bank(
    RANDOM.normal(0, 0.3, (8, 5)), RANDOM.normal(0, 0.3, (8, 5)), np.array([30.0, 5.0])
)
DRAWN = RANDOM.integers(0, 8, (6, 5))
COUNTS = RANDOM.integers(0, 3, (6, 4)).astype(np.float64)
CONTRAST = {
    "layers": False,
    "equal_is_zero": False,
    "of_batch": False,
    "teacher_is_fixed": False,
}
# The same objectives with other numbers than the defaults.
OTHER_NUMBERS = [
    (
        "dkd",
        dkd_slow,
        (6, 10),
        {"alpha": 0.5, "beta": 2.0, "temperature": 1.5},
        {
            "extra": (np.array([0, 9, 3, 3, 1, 7]),),
            "layers": False,
            "of_batch": False,
        },
    ),
    (
        "dist",
        dist_slow,
        (6, 10),
        {"beta": 0.5, "gamma": 2.0, "temperature": 1.5},
        {"layers": False},
    ),
    (
        "vid",
        vid_slow,
        MAPS,
        {"epsilon": 0.3},
        {
            "extra": (np.array([-1.0, 0.5, 4.99]),),
            "paired": True,
            "equal_is_zero": False,
        },
    ),
    ("ab", ab_slow, [(6, 4), (6, 2, 3)], {"margin": 0.4}, {"equal_is_zero": False}),
    ("pkt", pkt_slow, (6, 5), {"epsilon": 1e-2}, {"smooth": False}),
    ("cc", cc_slow, (6, 5), {"gamma": 0.7, "order": 3}, {}),
    (
        "crd",
        crd_slow,
        (6, 5),
        {"temperature": 0.5},
        {"extra": (BANK, DRAWN)} | CONTRAST,
    ),
    (
        "crd_shared",
        crd_shared_slow,
        (6, 5),
        {"temperature": 0.5},
        {"extra": (BANK, DRAWN[:, 0])} | CONTRAST,
    ),
]
CASES = [
    Case(
        "kd",
        kd_slow,
        (6, 10),
        (6, 10),
        layers=False,
        wrong=(((6, 10), (6, 9)), *BATCHES),
    ),
    Case(
        "kd",
        functools.partial(kd_slow, temperature=1.5),
        (6, 10),
        (6, 10),
        numbers={"temperature": 1.5},
        layers=False,
    ),
    Case("hint", hint_slow, (6, 7), (6, 7), wrong=(((6, 7), (6, 8)), *BATCHES)),
    Case(
        "hint",
        hint_pooled_slow,
        (6, 8, 4, 3),
        (6, 4, 2, 3),
        wrong=((MAPS, (6, 4, 4, 5)), (MAPS, (6, 48)), (MAPS, (5, 4, 4, 3))),
        equal_is_zero=False,
    ),
    Case("hint", hint_slow, MAPS, MAPS),
    Case("rdl", rdl_slow, (6, 5), (6, 9), wrong=(*BATCHES, ((1, 5), (1, 5)))),
    Case("rdl", rdl_slow, MAPS, (6, 9)),
    Case(
        "rdl",
        rdl_slow,
        (6, 5),
        (6, 9),
        extra=(np.array([[0, 1, 0, 4, 2], [5, 2, 3, 5, 4]]),),
        of_batch=False,
    ),
    Case(
        "rdl",
        rdl_mse_slow,
        (6, 5),
        (6, 9),
        numbers={
            "distance": distances.MeanSquared(),
            "comparison": comparisons.MSE(),
        },
    ),
    Case(
        "rdl",
        rdl_cosine_slow,
        (6, 5),
        (6, 9),
        numbers={"comparison": comparisons.Cosine()},
    ),
    Case(
        "rdl_target",
        rdl_target_slow,
        (6, 5),
        (15,),
        wrong=(((6, 5), (14,)), ((6, 5), (6, 6)), ((1, 5), (1,)), ((), ())),
        equal_is_zero=False,
        of_batch=False,
    ),
    Case(
        "rdl_target",
        rdl_target_slow,
        MAPS,
        (15,),
        extra=(np.arange(15.0) % 4,),
        equal_is_zero=False,
        of_batch=False,
    ),
    Case(
        "rdl_subjects",
        rdl_subjects_slow,
        (6, 5),
        (2, 15),
        wrong=(((6, 5), (15,)), ((6, 5), (0, 15)), ((6, 5), (2, 14)), ((1, 5), (2, 1))),
        equal_is_zero=False,
        of_batch=False,
    ),
    Case(
        "dkd",
        dkd_slow,
        (6, 10),
        (6, 10),
        extra=(np.array([0, 9, 3, 3, 1, 7]),),
        layers=False,
        of_batch=False,
        wrong=(((6, 10), (6, 9)), *BATCHES),
    ),
    Case(
        "dist",
        dist_slow,
        (6, 10),
        (6, 10),
        layers=False,
        wrong=(((6, 10), (6, 9)), *BATCHES),
    ),
    Case(
        "at", at_slow, MAPS, (6, 4, 4, 5), wrong=((MAPS, (6, 5)), (MAPS, (5, 4, 4, 3)))
    ),
    Case(
        "at",
        functools.partial(at_slow, power=3),
        MAPS,
        (6, 4, 4, 5),
        numbers={"power": 3},
    ),
    Case(
        "ft",
        ft_slow,
        MAPS,
        MAPS,
        wrong=((MAPS, (6, 4, 4, 5)), *BATCHES),
        smooth=False,
    ),
    Case(
        "ft_repdistiller",
        ft_repdistiller_slow,
        MAPS,
        (6, 4, 4, 5),
        wrong=((MAPS, (6, 5)), (MAPS, (5, 4, 4, 3))),
        smooth=False,
    ),
    Case(
        "vid",
        vid_slow,
        MAPS,
        MAPS,
        extra=(np.array([-1.0, 0.5, 4.99]),),
        paired=True,
        equal_is_zero=False,
        wrong=((MAPS, (6, 4, 4, 5)), *BATCHES),
    ),
    Case("ab", ab_slow, [(6, 4), (6, 2, 3)], [(6, 4), (6, 2, 3)], equal_is_zero=False),
    Case(
        "fsp",
        fsp_slow,
        [(6, 4, 3, 2), (6, 4, 3, 5), (6, 4, 3, 1)],
        [(6, 4, 3, 2), (6, 4, 3, 5), (6, 4, 3, 1)],
    ),
    Case("sp", sp_slow, (6, 5), (6, 9), wrong=BATCHES),
    Case("sp", sp_slow, MAPS, (6, 9)),
    Case("pkt", pkt_slow, (6, 5), (6, 9), wrong=BATCHES),
    Case("rkd_distance", rkd_distance_slow, (6, 5), (6, 9), wrong=BATCHES),
    Case("rkd_angle", rkd_angle_slow, (6, 5), (6, 9), wrong=BATCHES),
    Case("cc", cc_slow, (6, 5), (6, 9), wrong=BATCHES),
    Case(
        "cc_repdistiller",
        cc_repdistiller_slow,
        (6, 5),
        (6, 5),
        wrong=(((6, 7), (6, 8)), *BATCHES),
        of_batch=False,
        teacher_is_fixed=False,
    ),
    Case("cka", cka_slow, (6, 5), (6, 9), wrong=BATCHES),
    *(
        Case(
            name,
            functools.partial(slow, **numbers),
            student,
            student,
            numbers=numbers,
            **about,
        )
        for name, slow, student, numbers, about in OTHER_NUMBERS
    ),
    Case("nst", nst_slow, MAPS, MAPS),
    Case("nst", nst_slow, MAPS, (6, 4, 4, 5), wrong=((MAPS, (6, 5)), (MAPS, FEW[1:]))),
    Case("nst", nst_slow, FEW, (6, 2, 2, 7)),
    Case(
        "nst",
        functools.partial(nst_slow, kernel=lambda a, b: (a @ b + 0.5) ** 2),
        FEW,
        (6, 2, 2, 5),
        numbers={"kernel": mmd.Polynomial(offset=0.5)},
    ),
    Case(
        "nst",
        functools.partial(nst_slow, kernel=lambda a, b: a @ b),
        MAPS,
        (6, 4, 4, 5),
        numbers={"kernel": mmd.Linear()},
    ),
    Case(
        "nst",
        functools.partial(nst_slow, kernel=gaussian_slow, biased=False),
        MAPS,
        (6, 4, 4, 5),
        numbers={"kernel": mmd.Gaussian(0.7), "estimate": mmd.unbiased},
        equal_is_zero=False,
    ),
    Case(
        "kdsvd",
        kdsvd_slow,
        [(6, 4, 3, 5), (6, 2, 4, 4)],
        [(6, 4, 3, 5), (6, 3, 3, 4)],
    ),
    Case(
        "kdsvd",
        functools.partial(kdsvd_slow, k=2),
        [(6, 4, 3, 5), (6, 3, 2, 6), (6, 2, 2, 4)],
        [(6, 4, 3, 5), (6, 3, 2, 6), (6, 2, 2, 4)],
        numbers={"k": 2},
    ),
    Case(
        "crd",
        crd_slow,
        (6, 5),
        (6, 5),
        extra=(BANK, DRAWN),
        wrong=(((6, 5), (6, 4)), ((6, 4), (6, 4)), ((5, 5), (5, 5)), *BATCHES),
        **CONTRAST,
    ),
    Case(
        "crd_shared",
        crd_shared_slow,
        (6, 5),
        (6, 5),
        extra=(BANK, DRAWN[:, 0]),
        wrong=(((6, 5), (6, 4)), ((6, 4), (6, 4)), ((5, 5), (5, 5)), *BATCHES),
        **CONTRAST,
    ),
    Case(
        "crd_shared",
        crd_shared_slow,
        (6, 5),
        (6, 5),
        extra=(BANK, DRAWN[:, 0], np.array([1, 4, 2, 7]), COUNTS),
        **CONTRAST,
    ),
]


def ids(case):
    return f"{case.name}-{case.student}"


SLOW = pytest.mark.slow


def firsts(cases, now=tuple(LOSSES)):
    """The first case of each objective now, all others with `-m slow`."""
    first = {case.name: case for case in reversed(cases) if case.name in now}
    return [
        case if case is first.get(case.name) else pytest.param(case, marks=SLOW)
        for case in cases
    ]


# One array, layers, and a sequence: what comes before all objectives knows these three.
KINDS = ("kd", "hint", "ab")


def parametrize(cases):
    return pytest.mark.parametrize("case", cases, ids=ids)


SEQUENCES = ("ab", "fsp", "kdsvd")
LAYERED = [case for case in CASES if case.layers and case.name not in SEQUENCES]
OF_BATCH = [case for case in CASES if case.of_batch]
every = parametrize(CASES)
first_of_every = parametrize(firsts(CASES))


def draw(shape, seed, dtype=np.float64, lowest=0.0):
    if isinstance(shape, list):
        return [draw(one, seed + 10 * i, dtype, lowest) for i, one in enumerate(shape)]
    # Positive, so that it may be an RDM too, and some exact zeros, as after a ReLU.
    values = np.random.default_rng(seed).normal(0.7, 1, shape)
    return np.maximum(values, lowest).astype(dtype)


def pair(case, dtype=np.float64, seed=0, lowest=0.0):
    return (
        draw(case.student, seed, dtype, lowest),
        draw(case.teacher, seed + 100, dtype, lowest),
    )


def each(change, *trees):
    return jax.tree.map(change, *trees)


def finite(*trees):
    leaves = map(np.asarray, jax.tree.leaves(trees))
    return all(np.isfinite(leaf).all() for leaf in leaves)


def bound(case):
    """The case's objective as a function of student and teacher."""
    objective = getattr(objectives, case.name)

    def form(student, teacher):
        # A trained array has the structure of the layers, which tests choose. Copies:
        # an array that jax 0.10 saw in single precision may come back rounded.
        extra = [
            each(lambda _, a=a: a.copy(), student) if case.paired else each(np.copy, a)
            for a in case.extra
        ]
        return objective(student, teacher, *extra, **case.numbers)

    return form


traced = []


@functools.cache
def compiled(place):
    """Value and both gradients of the case at that place of the table."""

    def form(student, teacher):
        traced.append(place)
        return bound(CASES[place])(student, teacher)

    return jax.jit(jax.value_and_grad(form, argnums=(0, 1)))


def value_and_gradients(case, student, teacher):
    (place,) = (i for i, other in enumerate(CASES) if other is case)
    return compiled(place)(student, teacher)


def value_and_gradient(case, student, teacher):
    value, (gradient, _) = value_and_gradients(case, student, teacher)
    return value, gradient


def check_gradient(value_and_gradient, x):
    """The gradient against small steps, in one random direction."""

    def pull(x):
        value, gradient = value_and_gradient(x)
        return value, lambda given: (each(lambda leaf: given * leaf, gradient),)

    test_util.check_vjp(lambda x: value_and_gradient(x)[0], pull, (x,))


def test_every_objective_has_a_case():
    assert {case.name for case in CASES} == set(LOSSES)


def test_the_table_at_the_head_lists_every_objective():
    bank = {"Bank", "crd_normalizers", "crd_update_bank"}
    bank |= {"crd_exponentials_of_rows", "crd_of_rows", "crd_update_rows"}
    assert objectives.__all__ == sorted({*LOSSES, *bank})
    assert len(LOSSES) == len(set(LOSSES))
    for name in bank:
        assert f"`{name}`" in objectives.__doc__


@every
def test_equals_the_slow_form(float64, case):
    student, teacher = pair(case)
    expected = case.slow(student, teacher, *case.extra)
    value, _ = value_and_gradient(case, student, teacher)
    np.testing.assert_allclose(value, expected, rtol=1e-10)


def check_dtypes(case, dtype):
    student, teacher = each(lambda x: x.astype(dtype), pair(case))
    value, gradient = value_and_gradient(case, student, teacher)
    assert value.shape == () and value.dtype == jnp.float32
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(gradient))
    assert finite(gradient)


@first_of_every
def test_is_a_scalar_of_the_compute_dtype(case):
    check_dtypes(case, jnp.float32)


@first_of_every
def test_is_a_scalar_of_float32_for_bfloat16(case):
    check_dtypes(case, jnp.bfloat16)


@parametrize(firsts(CASES, now=KINDS))
def test_is_a_scalar_of_float32_for_float16(case):
    check_dtypes(case, jnp.float16)


@first_of_every
def test_bfloat16_is_computed_in_float32(case):
    student, teacher = each(lambda x: x.astype(jnp.bfloat16), pair(case))
    value, _ = value_and_gradient(case, student, teacher)
    rounded = each(lambda x: np.asarray(x, np.float64), (student, teacher))
    np.testing.assert_allclose(value, case.slow(*rounded, *case.extra), rtol=5e-5)


@every
def test_gradient_is_numerical(float64, case):
    # Without exact zeros, where an absolute difference has no gradient, and from a draw
    # that is not within a numerical step of one.
    student, teacher = pair(case, lowest=-np.inf, seed=1)
    check_gradient(lambda s: value_and_gradient(case, s, teacher), student)


@every
def test_teacher_gets_a_gradient_only_where_its_paper_trains_it(case):
    _, (_, gradient) = value_and_gradients(case, *pair(case, np.float32))
    moves = any(leaf.any() for leaf in jax.tree.leaves(gradient))
    assert moves != case.teacher_is_fixed


def eight_pairs(case):
    """Students and teachers, stacked, and the pairs that they are made of."""
    pairs = [pair(case, np.float32, seed) for seed in range(8)]
    return *each(lambda *x: np.stack(x), *pairs), pairs


def same_values(values, expected, name):
    np.testing.assert_allclose(values, expected, rtol=2e-5, atol=1e-7, err_msg=name)


# (Those that look at values where these are known, and one of each kind.)
@parametrize(firsts(CASES, now=("crd", "dkd", "kd", "nst", "rdl", "rdl_target", "vid")))
def test_the_same_without_jit(case):
    student, teacher = pair(case, np.float32)
    expected, _ = value_and_gradient(case, student, teacher)
    with jax.debug_nans(True):
        same_values(bound(case)(student, teacher), expected, "no jit")


def over_devices(form, count):
    """`form` of a device's own students and of teachers that are the same on all."""
    mesh = jax.make_mesh((count,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
    specs = jax.P("d"), jax.P()
    return jax.jit(jax.shard_map(form, mesh=mesh, in_specs=specs, out_specs=jax.P("d")))


# (One of each kind, and those with loops or derivatives of their own.)
@parametrize(
    firsts(CASES, now=("ab", "crd", "hint", "kd", "kdsvd", "nst", "rdl", "rkd_angle"))
)
def test_the_same_with_gradients_under_all_transformations_at_once(case):
    """Rematerialised, vectorised, in a scan, over devices; each alone follows."""
    form = jax.vmap(jax.value_and_grad(jax.checkpoint(bound(case))))

    def local(students, teachers):
        pairs = each(lambda x: x.reshape(2, 2, *x.shape[1:]), (students, teachers))
        found = jax.lax.scan(lambda _, pair: (0, form(*pair)), 0, pairs)[1]
        return each(lambda x: x.reshape(4, *x.shape[2:]), found)

    students, teachers, pairs = eight_pairs(case)
    teachers = each(lambda x: x[:4], teachers)
    found = over_devices(local, 2)(students, teachers)
    pairs = [(pairs[i][0], pairs[i % 4][1]) for i in range(8)]
    compare_gradients(case, found, pairs, "all")


@parametrize(firsts(CASES, now=KINDS))
def test_the_same_under_pmap(case):
    students, teachers, pairs = eight_pairs(case)
    expected = np.array([value_and_gradient(case, *one)[0] for one in pairs])
    same_values(jax.pmap(bound(case))(students, teachers), expected, "pmap")


@pytest.mark.slow
@every
def test_the_same_in_a_scan(case):
    form = bound(case)
    students, teachers, pairs = eight_pairs(case)
    scan = jax.jit(lambda *x: jax.lax.scan(lambda _, x: (0, form(*x)), 0, x)[1])
    expected = [value_and_gradient(case, *one)[0] for one in pairs]
    same_values(scan(students, teachers), np.array(expected), "scan")


@pytest.mark.slow
@every
def test_the_same_with_gradients_under_vmap(case):
    students, teachers, pairs = eight_pairs(case)
    form = jax.jit(jax.vmap(jax.value_and_grad(bound(case))))
    compare_gradients(case, form(students, teachers), pairs, "vmap")


@pytest.mark.slow
@every
def test_the_same_with_gradients_over_devices_and_rematerialised(case):
    form = jax.value_and_grad(jax.checkpoint(bound(case)))

    def local(students, teacher):
        one = form(each(lambda x: x[0], students), teacher)
        return each(lambda x: x[None], one)

    students, _, pairs = eight_pairs(case)
    teacher = pairs[0][1]
    found = over_devices(local, 8)(students, teacher)
    pairs = [(student, teacher) for student, _ in pairs]
    compare_gradients(case, found, pairs, "shard_map")


def compare_gradients(case, found, pairs, name):
    """Values and gradients of all pairs against those of one pair at a time."""
    one = [value_and_gradient(case, *pair) for pair in pairs]
    values, gradients = each(lambda *x: np.stack(x), *one)
    same_values(found[0], values, name)
    leaves = jax.tree.leaves(found[1]), jax.tree.leaves(gradients)
    for a, b in zip(*leaves, strict=True):
        limit = 1e-4 * np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=limit, err_msg=name)


@every
def test_one_trace_for_one_shape(case):
    value_and_gradient(case, *pair(case, np.float32))
    before = len(traced)
    for seed in (1, 2):
        value_and_gradient(case, *pair(case, np.float32, seed))
    assert len(traced) == before


def check_two_layers(case, *trees):
    sides = pair(case), pair(case, seed=1)
    expected = sum(value_and_gradient(case, *one)[0] for one in sides)
    students, teachers = zip(*sides, strict=True)
    form = jax.jit(bound(case))
    for tree in trees:
        np.testing.assert_allclose(form(tree(students), tree(teachers)), expected)


@parametrize(firsts(LAYERED))
def test_two_layers_are_the_sum_of_each(float64, case):
    # (What adds layers is one function for all objectives.)
    others = (tuple, list) if case.name == "hint" else ()
    check_two_layers(case, lambda x: dict(zip("ab", x, strict=True)), *others)


@pytest.mark.slow
@parametrize([case for case in LAYERED if case.name != "hint"])
def test_two_layers_in_a_tuple_or_a_list(float64, case):
    check_two_layers(case, tuple, list)


@parametrize(OF_BATCH)
def test_order_of_the_batch_means_nothing(float64, case):
    sides = pair(case)
    order = np.random.default_rng(0).permutation(6)
    found, _ = value_and_gradient(case, *each(lambda x: x[order], sides))
    np.testing.assert_allclose(found, value_and_gradient(case, *sides)[0])


@parametrize(firsts([case for case in CASES if case.equal_is_zero]))
def test_zero_at_equality(case):
    student, _ = pair(case, np.float32)
    value, gradient = value_and_gradient(case, student, student)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    if case.smooth:
        for leaf in jax.tree.leaves(gradient):
            np.testing.assert_allclose(leaf, 0, atol=1e-6)


@pytest.mark.parametrize("name", ["at", "ft", "ft_repdistiller", "sp", "cka"])
def test_exactly_zero_at_equality(optimized, name):
    """Also with fused multiply-adds, which round one of two equal products only."""
    maps = np.random.default_rng(0).normal(size=(6, 4, 4, 3)).astype(np.float32)
    both = jax.jit(jax.value_and_grad(getattr(objectives, name)))
    value, gradient = both(maps, maps)
    assert value == 0 and not gradient.any()


def with_row(x, value):
    x = x.copy()
    x[1] = value
    return x


DEGENERATE = {
    "dead channel": lambda x: np.where(np.arange(x.shape[-1]) > 0, x, np.float32(0)),
    "zero row": lambda x: with_row(x, 0),
    "duplicate rows": lambda x: with_row(x, x[0]),
    "constant batch": lambda x: np.full_like(x, 0.1),
    "all zero": np.zeros_like,
    "tiny": lambda x: np.float32(1e-6) * x,
    "large": lambda x: np.float32(1e4) * x,
}


@every
def test_finite_at_degenerate_activations(case):
    student, teacher = pair(case, np.float32)
    failed = []
    for kind, change in DEGENERATE.items():
        s, t = each(change, student), each(change, teacher)
        sides = {"student": (s, teacher), "teacher": (student, t), "both": (s, t)}
        failed += [
            f"{kind}, {side}"
            for side, both in sides.items()
            if not finite(value_and_gradient(case, *both))
        ]
    assert not failed


def scaled(factor, *trees):
    return each(lambda x: (x * factor).astype(x.dtype), *trees)


def check_scales(case, dtype, large):
    """Value and gradient against the slow form, of either side or both."""
    sides = pair(case, dtype)
    _, usual = value_and_gradient(case, *sides)
    failed = []
    for factors in [(large, 1), (1, 1 / large), (1 / large, large)]:
        own, other = (scaled(f, x) for f, x in zip(factors, sides, strict=True))
        value, gradient = value_and_gradient(case, own, other)
        # Pkt's epsilon is in the units of the activations; all others have no unit.
        truth = (own, other) if case.name == "pkt" else sides
        expected = case.slow(*each(np.float64, truth), *case.extra)
        good = abs(value - expected) <= 1e-3 * abs(expected)
        if case.name != "pkt":
            leaves = jax.tree.leaves(gradient), jax.tree.leaves(usual)
            for a, b in zip(*leaves, strict=True):
                error = np.abs(np.asarray(a, np.float64) * factors[0] - b).max()
                good &= error <= 1e-3 * np.abs(b).max()
        if not good:
            failed.append((factors, value, expected))
    assert not failed


ANY_SCALE = "at cc cka ft ft_repdistiller kdsvd nst pkt rkd_angle rkd_distance sp"
OF_ANY_SCALE = firsts([case for case in CASES if case.name in ANY_SCALE.split()])


@parametrize(OF_ANY_SCALE)
def test_right_at_every_scale(case):
    check_scales(case, np.float32, 1e30)
    check_scales(case, np.float32, 1e21)


@pytest.mark.slow
@parametrize(OF_ANY_SCALE)
def test_right_at_every_scale_in_double_precision(float64, case):
    check_scales(case, np.float64, 1e150)


# (Objective, side, number) whose value is finite, or infinite with a finite gradient: a
# logit of -inf excludes the class.
EXCLUDES = {(name, side, -np.inf) for name in ("kd", "dkd", "dist") for side in (0, 1)}


@every
def test_what_is_not_finite_is_seen_in_value_and_gradient(case):
    failed = []
    for side in (0, 1):
        for number in (np.nan, np.inf, -np.inf):
            sides = list(pair(case, np.float32))
            bad = jax.tree.leaves(sides[side])[0]  # (The first of a sequence.)
            bad[(1,) * bad.ndim] = number
            value, gradients = value_and_gradients(case, *sides)
            seen = not np.isfinite(value) and not finite(gradients)
            if seen == ((case.name, side, number) in EXCLUDES):
                failed.append((side, number, value))
    assert not failed


@pytest.mark.parametrize("name", ["cka", "dist"])
def test_a_constant_student_is_as_far_as_can_be(name):
    """As in `rdm`; up to rounding, and where its mean has an error of its own."""
    form = jax.jit(jax.value_and_grad(getattr(objectives, name)))
    other = draw((13, 6), 1, np.float32)
    for number in (0, 1, 0.1, 3.7, 1e-30, 1e30):
        same = np.full((13, 6), number, np.float32)
        if name == "cka":
            same[4] = np.nextafter(same[4], np.float32(2 * number))
        largest = {"cka": 1, "dist": 2}[name]
        for pair in ((same, other), (other, same)):
            value, gradient = form(*pair)
            np.testing.assert_allclose(value, largest, rtol=1e-6)
            np.testing.assert_allclose(gradient, 0, atol=1e-7)
        assert form(same, same[::-1])[0] == 0


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle"])
def test_rounding_is_no_geometry(name):
    """Rows alike but for the last digit are rows alike."""
    form = jax.jit(jax.value_and_grad(getattr(objectives, name)))
    other = draw((13, 6), 1, np.float32)
    rounded = np.full((13, 6), 0.7, np.float32)
    rounded[::2, 1:4] = np.nextafter(rounded[::2, 1:4], np.float32(1))
    expected, _ = form(np.zeros_like(rounded), other)
    value, gradient = form(rounded, other)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert not gradient.any()


def test_maps_with_channels_first_are_refused_where_sizes_show_it():
    student, teacher = np.ones((2, 16, 7, 7)), np.ones((2, 64, 7, 7))
    for name in ("hint", "at", "nst", "ft_repdistiller"):
        with pytest.raises(ValueError, match=rf"^{name}: .*NHWC.*\(2, 16, 7, 7\)"):
            getattr(objectives, name)(student, teacher)
    lower = np.ones((2, 16, 14, 14))
    with pytest.raises(ValueError, match="^fsp: .*NHWC.*16 x 14 to 16 x 7"):
        objectives.fsp([lower, student], [lower, student])
    with pytest.raises(ValueError, match="^at: expected maps.*NHWC"):
        objectives.at(student, teacher[:, 0])


NUMBERS = [
    *(("at", "power", number) for number in (np.float32(0.5), np.nan, "2", 2j, True)),
    *(("pkt", "epsilon", number) for number in (-1e-9, np.array(np.inf), None)),
    *(("cc", "gamma", number) for number in (0, np.float32(-0.4), np.ones(2))),
    *(("cc", "order", number) for number in (-1, 0, 2.0, np.array([2]))),
    *(("vid", "epsilon", number) for number in (np.array(-1.0), np.nan)),
    *(("ab", "margin", number) for number in (np.float32(-1), np.inf)),
    *(("kdsvd", "k", number) for number in (0, np.int8(-1), 1.0, True)),
]


@pytest.mark.parametrize(("name", "number", "value"), NUMBERS)
def test_numbers_are_checked(name, number, value):
    case = next(case for case in CASES if case.name == name)
    with pytest.raises(ValueError, match=rf"^{name}.*the {number} must be"):
        getattr(objectives, name)(*pair(case), *case.extra, **{number: value})


def test_traced_numbers_out_of_range_give_nan():
    maps, rows = draw(MAPS, 0, np.float32), draw((6, 5), 1, np.float32)

    @jax.jit
    @jax.vmap
    def form(number):
        student = jnp.asarray(maps)
        return (
            objectives.at(student, maps[::-1], power=number),
            objectives.pkt(rows, rows[::-1], epsilon=number),
            objectives.cc(rows, rows[::-1], gamma=number),
            objectives.vid(student, maps[::-1], np.zeros(3), epsilon=number),
            objectives.ab([student], [maps[::-1]], margin=number),
            objectives.nst(student, maps[::-1], kernel=mmd.Gaussian(number)),
        ), (
            objectives.at(student, maps[::-1], power=2),
            objectives.cc(rows, rows[::-1], gamma=2),
        )

    values, known = form(np.array([2, -1, np.nan, np.inf], np.float32))
    good, *bad = np.array(values).T
    np.testing.assert_allclose(good[[0, 2]], np.array(known)[:, 0], rtol=1e-5)
    assert np.isfinite(good).all() and np.isnan(bad).all()


def test_activations_are_real_numbers_of_any_size():
    x = RANDOM.integers(0, 5, (4, 3)) * 2**33
    y = draw((4, 3), 0, np.float32)
    exact = x.astype(np.float32)
    values = jax.jit(lambda y: [objectives.sp(a, y) for a in (x, exact)])(y)
    np.testing.assert_allclose(*values, rtol=1e-6)
    for wrong in (x * 1j, x.astype(str)):
        with pytest.raises(ValueError, match="^sp: expected activations that are real"):
            objectives.sp(wrong, y)
        with pytest.raises(ValueError, match="^kd: expected activations that are real"):
            objectives.kd(y, wrong)
        with pytest.raises(ValueError, match="^ab, layer '0': expected activations"):
            objectives.ab([wrong], [y])


def check_promotion(case, dtype, teachers):
    sides = zip(pair(case), (dtype, teachers), strict=True)
    student, teacher = (each(lambda x, d=d: x.astype(d), side) for side, d in sides)
    form = jax.value_and_grad(bound(case))
    with jax.numpy_dtype_promotion("strict"):
        value, gradient = jax.eval_shape(form, student, teacher)
    assert value.dtype == _geometry.compute_dtype(jnp.zeros(0, dtype))
    assert {x.dtype for x in jax.tree.leaves(gradient)} == {jnp.dtype(dtype)}


@first_of_every
def test_sides_of_two_dtypes_under_strict_promotion(case):
    check_promotion(case, jnp.bfloat16, np.float32)


@first_of_every
def test_sides_of_two_dtypes_under_strict_promotion_in_double_precision(float64, case):
    check_promotion(case, np.float32, np.float64)


@parametrize(firsts(OF_BATCH))
def test_batch_of_two(case):
    two = each(lambda x: x[:2], pair(case, np.float32))
    value, gradient = value_and_gradient(case, *two)
    assert finite(value, gradient)
    if case.slow is rdl_slow:  # By Pearson: one distance correlates with nothing.
        assert value == 0 and not gradient.any()


def test_batch_of_two_with_labels_or_a_bank():
    for case in CASES:
        if case.name not in ("dkd", "crd", "crd_shared"):
            continue
        student, teacher = each(lambda x: jnp.asarray(x[:2]), pair(case, np.float32))
        extra = [
            x[:2] if isinstance(x, np.ndarray) and len(x) == 6 else x
            for x in case.extra
        ]
        objective = getattr(objectives, case.name)
        form = jax.jit(jax.value_and_grad(objective))
        assert finite(form(student, teacher, *extra))


@parametrize([case for case in CASES if case.wrong])
def test_wrong_shapes_are_refused_by_name(case):
    for student, teacher in case.wrong:
        with pytest.raises(ValueError, match=case.name) as error:
            bound(case)(np.ones(student), np.ones(teacher))
        message = str(error.value)
        assert str(student) in message and str(teacher) in message
        # Before tracing, too: no error of JAX's own.
        with pytest.raises(ValueError, match=case.name):
            jax.jit(bound(case))(np.ones(student), np.ones(teacher))


@parametrize(LAYERED)
def test_errors_name_the_layer(case):
    student, teacher = pair(case)
    bad = np.ones((student.shape[0] + 1, 2))
    with pytest.raises(ValueError, match=f"{case.name}, layer 'deep/b'"):
        # (Traced alone: the first layer has nothing wrong.)
        jax.eval_shape(
            bound(case),
            {"a": student, "deep": {"b": bad}},
            {"a": teacher, "deep": {"b": teacher}},
        )


@parametrize(LAYERED)
def test_different_layers_are_refused_with_both_lists(case):
    student, teacher = pair(case)
    with pytest.raises(ValueError, match=rf"{case.name}.*\[a, b\].*\[a, c\]"):
        bound(case)({"a": student, "b": student}, {"a": teacher, "c": teacher})
    with pytest.raises(ValueError, match=rf"{case.name}.*\[a\].*one array"):
        bound(case)({"a": student}, teacher)
    with pytest.raises(ValueError, match=f"{case.name}.*no layer"):
        bound(case)({}, {})


@pytest.mark.parametrize("name", ["kd", "dkd", "dist", "crd"])
def test_logits_and_embeddings_are_one_array(name):
    x = np.ones((3, 4))
    labels = {"dkd": [np.zeros(3, int)], "crd": [BANK, DRAWN]}.get(name, [])
    with pytest.raises(ValueError, match=f"{name}: the student must be one array"):
        getattr(objectives, name)({"logits": x}, x, *labels)
    with pytest.raises(ValueError, match=f"{name}: the teacher must be one array"):
        getattr(objectives, name)(x, [x, x], *labels)


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_dict_has_no_depth_order(name):
    x = {"stage1": np.ones(MAPS), "stage2": np.ones(MAPS)}
    with pytest.raises(ValueError, match=f"{name}: the student must be a sequence"):
        getattr(objectives, name)(x, x)
    layers = list(x.values())
    with pytest.raises(ValueError, match=f"{name}, layer '1': .*(channels|shape)"):
        getattr(objectives, name)(layers, [np.ones(MAPS), np.ones((6, 4, 4, 5))])
    with pytest.raises(ValueError, match=rf"{name}: .*same layers.*\[0, 1\].*\[0\]"):
        getattr(objectives, name)(layers, layers[:1])
    with pytest.raises(ValueError, match=f"{name}, layer '0': expected"):
        getattr(objectives, name)([np.ones(6), *layers], [np.ones(6), *layers])
    mixed = [np.ones(MAPS), np.ones((2, 4, 4, 3))]
    with pytest.raises(ValueError, match=f"{name}: layers of different batch sizes"):
        getattr(objectives, name)(mixed, mixed)


@pytest.mark.parametrize("name", ["fsp", "kdsvd"])
def test_what_relates_layers_wants_two_or_more(name):
    with pytest.raises(ValueError, match=f"{name}: expected two layers or more, got 1"):
        getattr(objectives, name)([np.ones(MAPS)], [np.ones(MAPS)])


def test_dkd_wants_a_label_an_example():
    x = np.ones((3, 4))
    with pytest.raises(ValueError, match=r"dkd: .*\(3, 4\) and \(2,\)"):
        objectives.dkd(x, x, np.zeros(2, int))


class TestVID:
    def test_wrong_log_scale(self):
        with pytest.raises(ValueError, match=r"vid: .*\(3,\).*got \(4,\)"):
            objectives.vid(np.ones(MAPS), np.ones(MAPS), np.ones(4))

    def test_a_log_scale_a_layer(self):
        x = {"a": np.ones(MAPS), "b": np.ones(MAPS)}
        with pytest.raises(ValueError, match=r"vid: trained arrays.*\[a, b\].*\[a\]"):
            objectives.vid(x, x, {"a": np.ones(3)})

    def test_the_log_scale_receives_its_gradient(self, float64):
        case = released("vid")
        form = jax.jit(jax.grad(objectives.vid, argnums=2))
        gradient = form(case["mean"], case["teacher"], case["log_scale"])
        close_to_largest(gradient, case["grad_log_scale"])


def released(name):
    """A case of RepDistiller's code at commit b84f547, torch 2.13.0, float64."""
    path = pathlib.Path(__file__).parent / "reference" / "repdistiller.npz"
    with np.load(path) as cases:
        found = {
            key.removeprefix(f"{name}/"): cases[key]
            for key in cases.files
            if key.startswith(f"{name}/")
        }
    sequence = sorted(k for k in found if k.startswith("student/"))
    for side in ("student", "teacher", "grad_student") if sequence else ():
        found[side] = [found[f"{side}/{i}"] for i in range(len(sequence))]
    return found


def close_to_largest(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-8 * np.abs(b).max())


RELEASED = {
    "kd": objectives.kd,
    "at/same": objectives.at,
    "at/unequal": objectives.at,
    "at/teacher_larger": objectives.at,
    "nst/same": objectives.nst,
    "nst/unequal": objectives.nst,
    "nst/teacher_larger": objectives.nst,
    "ab": objectives.ab,
    "ft": objectives.ft_repdistiller,
    "fsp": objectives.fsp,
    "sp": objectives.sp,
    "pkt": objectives.pkt,
    "rkd": lambda s, t: (
        25 * objectives.rkd_distance(s, t) + 50 * objectives.rkd_angle(s, t)
    ),
    "rkd_distance": objectives.rkd_distance,
    "rkd_angle": objectives.rkd_angle,
    "cc": objectives.cc_repdistiller,
}


@pytest.mark.parametrize("name", RELEASED)
def test_equals_the_released_code(float64, name):
    case = released(name)
    student = each(jnp.asarray, case["student"])
    form = jax.jit(jax.value_and_grad(RELEASED[name]))
    value, gradient = form(student, case["teacher"])
    np.testing.assert_allclose(value, case["value"], rtol=1e-9)
    close_to_largest(gradient, case["grad_student"])


def test_every_released_case_is_compared():
    path = pathlib.Path(__file__).parent / "reference" / "repdistiller.npz"
    with np.load(path) as cases:
        names = {key.partition("/")[0] for key in cases.files}
    # The last three have tests of their own below; their terms are in test_terms.
    compared = {name.partition("/")[0] for name in RELEASED} | {"vid", "kdsvd", "crd"}
    assert names == compared


def test_vid_equals_the_released_code(float64):
    case = released("vid")
    form = jax.jit(objectives.vid)
    value = form(case["mean"], case["teacher"], case["log_scale"])
    np.testing.assert_allclose(value, case["value"], rtol=1e-9)


def test_cc_repdistiller_trains_the_teachers_side_as_released(float64):
    case = released("cc")
    form = jax.jit(jax.grad(objectives.cc_repdistiller, argnums=1))
    gradient = form(case["student"], case["teacher"])
    close_to_largest(gradient, case["grad_teacher"])


class TestNST:
    @pytest.mark.parametrize("channels", [64, 8])
    def test_near_convergence_one_difference_keeps_what_three_means_lose(
        self, channels
    ):
        teacher = draw((4, 4, 4, channels), 0, np.float32)
        student = teacher + np.float32(1e-4) * draw(teacher.shape, 1, np.float32)
        expected = nst_slow(*(np.asarray(x, np.float64) for x in (student, teacher)))
        value = jax.jit(objectives.nst)(student, teacher)
        np.testing.assert_allclose(value, expected, rtol=1e-3)

        @jax.jit
        def three_means(s, t):
            a, b = (x.reshape(4, 16, channels) for x in (s, t))
            a, b = (x / jnp.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
            k = lambda u, v: jnp.mean(jnp.einsum("bmc,bmd->bcd", u, v) ** 2)  # noqa: E731
            return k(a, a) + k(b, b) - 2 * k(a, b)

        assert abs(three_means(student, teacher) / expected - 1) > 0.05

    @pytest.mark.parametrize("kernel", [mmd.Polynomial, "polynomial"])
    def test_what_is_no_kernel_is_refused(self, kernel):
        with pytest.raises(ValueError, match=r"nst: .*Polynomial\(\) with its paren"):
            objectives.nst(np.ones(MAPS), np.ones(MAPS), kernel=kernel)

    def test_an_unbiased_estimate_needs_two_channels(self):
        one = np.ones((2, 3, 3, 1))
        with pytest.raises(ValueError, match="nst: expected two rows or more"):
            objectives.nst(one, one, estimate=mmd.unbiased)


@jax.jit
def kdsvd_of_one(student, teacher):
    """Value and gradient for a net whose two layers have the same activations."""
    form = lambda s: objectives.kdsvd([s, s], [teacher, teacher])  # noqa: E731
    return jax.value_and_grad(form)(student)


class TestKDSVD:
    @pytest.mark.parametrize("gap", [1e-3, 1e-4, 1e-5, 1e-6])
    def test_close_singular_values_in_float32(self, gap):
        rotation, _ = np.linalg.qr(RANDOM.normal(size=(4, 4)))
        matrix = np.diag([1.0, 1 - gap, 0.5, 0.2]) @ rotation
        x = matrix.reshape(1, 2, 2, 4).astype(np.float32)
        value, gradient = kdsvd_of_one(x, x)
        assert value == 0 and not gradient.any()
        vectors, _ = features._singular(x, 2)
        np.testing.assert_allclose(vectors @ vectors.mT, np.eye(2)[None], atol=2e-3)

    def test_equals_the_released_code_for_its_signs(self, float64, monkeypatch):
        case = released("kdsvd")
        # The signs, relative to ours, that the released run's LAPACK gave the teacher's
        # first singular vector of each example in the three layers.
        first = np.where(np.isin(np.arange(12), [4, 11]), 1.0, -1.0)
        signs = iter([first, -np.ones(12), np.ones(12)])
        ours = features._orient
        monkeypatch.setattr(
            features, "_orient", lambda v: ours(v) * next(signs)[:, None, None]
        )
        student = each(jnp.asarray, case["student"])
        form = jax.jit(jax.value_and_grad(objectives.kdsvd))
        value, gradient = form(student, case["teacher"])
        np.testing.assert_allclose(value, case["value"], rtol=1e-9)
        # The bound: 1e-8, as for all others; singular values here are well apart.
        close_to_largest(gradient, case["grad_student"])

    def test_equal_singular_values_have_a_finite_gradient(self):
        square = np.stack([np.eye(4, dtype=np.float32).reshape(2, 2, 4)] * 2)
        teacher = draw((2, 2, 2, 4), 0, np.float32)
        value, gradient = kdsvd_of_one(square, teacher)
        assert jnp.isfinite(value) and jnp.isfinite(gradient).all()

    def test_close_singular_values_change_the_gradient_by_their_gap(self, float64):
        # The stated bound: a relative gap g of the squared singular values magnifies
        # rounding errors by 1/g.
        rotation, _ = np.linalg.qr(RANDOM.normal(size=(4, 4)))
        matrix = np.diag([1.0, 1 - 1e-4, 0.5, 0.2]) @ rotation
        student = matrix.reshape(1, 2, 2, 4)
        teacher = draw((1, 2, 2, 4), 3)
        form = lambda s: kdsvd_of_one(s, teacher)  # noqa: E731
        direction = RANDOM.normal(size=student.shape)
        slope = np.vdot(form(student)[1], direction)
        step = 1e-8
        above, below = (form(student + sign * step * direction)[0] for sign in (1, -1))
        numeric = above - below
        np.testing.assert_allclose(slope, numeric / (2 * step), rtol=1e-4)

    def test_second_derivatives(self, float64):
        student, teacher = draw((1, 2, 2, 3), 0, lowest=-9), draw((1, 2, 2, 3), 1)
        moves = RANDOM.normal(size=(2, *student.shape))

        @jax.jit
        def slopes(student):
            gradient = lambda s: kdsvd_of_one(s, teacher)[1]  # noqa: E731
            along, both = jax.jvp(gradient, (student,), (moves[0],))
            value = lambda s: kdsvd_of_one(s, teacher)[0]  # noqa: E731
            forward = jax.jvp(value, (student,), (moves[0],))[1]
            return jnp.vdot(along, moves[0]), forward, both

        _, _, both = slopes(student)
        step = 1e-6
        below, above = (slopes(student + sign * step * moves[1]) for sign in (-1, 1))
        numeric = (above[0] - below[0]) / (2 * step)
        np.testing.assert_allclose(np.vdot(both, moves[1]), numeric, rtol=1e-6)
        np.testing.assert_allclose(above[1], above[0], rtol=1e-10)

    def test_more_vectors_than_the_teacher_has(self):
        x = [np.ones((2, 2, 1, 5))] * 2
        with pytest.raises(ValueError, match=r"kdsvd: .*\(2, 2, 1, 5\).*got 3"):
            objectives.kdsvd(x, x, k=3)


def fresh_bank():
    """A copy: an array that jax 0.10 saw in single precision may come back rounded."""
    return each(np.copy, BANK)


normalizers = jax.jit(objectives.crd_normalizers)
update_bank = jax.jit(objectives.crd_update_bank, static_argnames="momentum")


class TestCRD:
    def embedded(self, x, kernel, bias):
        z = x @ kernel + bias[None, :]
        return z / jnp.linalg.norm(z, axis=1, keepdims=True)

    def test_equals_the_released_code_over_two_steps(self, float64):
        case = each(jnp.asarray, released("crd"))
        bank = objectives.Bank(case["bank_student0"], case["bank_teacher0"], None)
        kernels = [case[f"embed_{side}_kernel"] for side in ("student", "teacher")]
        for step in ("step0", "step1"):
            now = {
                key.removeprefix(f"{step}/"): value
                for key, value in case.items()
                if key.startswith(step)
            }

            def form(student, own, other, bank=bank, now=now):
                s = self.embedded(student, own, case["embed_student_bias"])
                t = self.embedded(now["teacher"], other, case["embed_teacher_bias"])
                indices = now["contrast_index"]
                if bank.normalizers is None:
                    found = objectives.crd_normalizers(s, t, bank, indices)
                    bank = bank._replace(normalizers=found)
                return objectives.crd(s, t, bank, indices), (s, t, bank)

            run = jax.jit(jax.value_and_grad(form, argnums=(0, 1, 2), has_aux=True))
            (value, (s, t, bank)), gradients = run(now["student"], *kernels)
            np.testing.assert_allclose(value, now["value"], rtol=1e-9)
            names = ("student", "embed_student_kernel", "embed_teacher_kernel")
            close_to_largest(gradients, tuple(now[f"grad_{name}"] for name in names))
            bank = update_bank(bank, s, t, now["index"])
            close_to_largest(bank.student, now["bank_student"])
            close_to_largest(bank.teacher, now["bank_teacher"])
            close_to_largest(bank.normalizers, now["normalizers"])

    def test_counts_are_the_drawn_negatives(self, float64):
        s, t = draw((6, 5), 0), draw((6, 5), 1)
        counts = np.stack([np.bincount(row[1:], minlength=8) for row in DRAWN])
        bank = fresh_bank()
        shared = jax.jit(
            lambda s, t: objectives.crd_shared(s, t, bank, DRAWN[:, 0], None, counts)
        )
        drawn = jax.jit(lambda s, t: objectives.crd(s, t, bank, DRAWN))
        np.testing.assert_allclose(shared(s, t), drawn(s, t))

    def test_expected_counts_are_the_mean_over_draws(self, float64):
        s, t = draw((6, 5), 0), draw((6, 5), 1)
        random = np.random.default_rng(0)
        draws = random.integers(0, 8, (4000, 6, 4))
        positives = np.broadcast_to(np.arange(6)[:, None], (4000, 6, 1))
        indices = np.concatenate([positives, draws], axis=2)
        bank = fresh_bank()
        drawn = jax.jit(jax.vmap(lambda i: objectives.crd(s, t, bank, i)))(indices)
        exact = jax.jit(objectives.crd_shared)(
            s, t, bank, np.arange(6), None, np.full((6, 8), 4 / 8)
        )
        error = np.std(drawn) / np.sqrt(len(draws))
        assert abs(np.mean(drawn) - exact) < 4 * error < 0.02 * exact

    def test_normalizers_of_all_or_some_rows(self, float64):
        s, t = draw((6, 5), 0), draw((6, 5), 1)
        scores = np.exp(s @ BANK.teacher.T / 0.07), np.exp(t @ BANK.student.T / 0.07)
        bank = fresh_bank()
        every = normalizers(s, t, bank)
        np.testing.assert_allclose(every, [8 * np.mean(x) for x in scores])
        some = normalizers(s, t, bank, np.array([1, 5]))
        np.testing.assert_allclose(some, [8 * np.mean(x[:, [1, 5]]) for x in scores])

    def test_few_of_many_rows_are_gathered_with_the_same_value(self, float64):
        bank = objectives.Bank(*RANDOM.normal(0, 0.3, (2, 500, 5)), np.ones(2))
        indices = RANDOM.integers(0, 500, (6, 5))
        s, t = draw((6, 5), 0), draw((6, 5), 1)
        value = jax.jit(objectives.crd)(s, t, bank, indices)
        np.testing.assert_allclose(value, crd_slow(s, t, bank, indices))
        found = normalizers(s, t, bank, indices)
        scores = np.exp(np.einsum("bu,bku->bk", s, bank.teacher[indices]) / 0.07)
        np.testing.assert_allclose(found[0], 500 * scores.mean())

    def test_normalizers_of_bfloat16_embeddings_are_computed_in_float32(self):
        s, t = (draw((6, 5), i).astype(jnp.bfloat16) for i in (0, 1))
        # (One program: two may differ in the last bit on another machine.)
        found, exact = jax.jit(
            lambda s, t: (
                normalizers(s, t, fresh_bank()),
                normalizers(*(x.astype(jnp.float32) for x in (s, t)), fresh_bank()),
            )
        )(s, t)
        np.testing.assert_allclose(found, exact)

    def test_a_bank_row_moves_to_the_new_embedding(self, float64):
        s, t = draw((3, 5), 0), draw((3, 5), 1)
        index = np.array([6, 0, 3])
        bank = update_bank(fresh_bank(), s, t, index, momentum=0.25)
        mixed = 0.25 * BANK.student[index] + 0.75 * s
        expected = BANK.student.copy()
        expected[index] = mixed / np.linalg.norm(mixed, axis=1, keepdims=True)
        np.testing.assert_allclose(bank.student, expected)
        np.testing.assert_array_equal(bank.normalizers, BANK.normalizers)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"indices": DRAWN[:5]}, r"indices \[batch, K \+ 1\], not \(5, 5\)"),
            ({"indices": DRAWN[:, :1]}, r"not \(6, 1\)"),
            ({"indices": DRAWN[:, 0]}, r"not \(6,\)"),
            ({"bank": BANK._replace(student=np.ones((8, 4)))}, r"not \(8, 4\) and"),
            ({"bank": BANK._replace(teacher=np.ones((7, 5)))}, r"and \(7, 5\)"),
            ({"bank": BANK._replace(normalizers=np.ones(3))}, r"normalizers \(2,\)"),
            ({"indices": DRAWN * 1.0}, "bank must be integers, got float"),
            ({"temperature": 0.0}, "temperature must be .* above 0, got 0.0"),
        ],
    )
    def test_wrong_banks_and_indices(self, change, message):
        x = np.ones((6, 5))
        arguments = {"bank": BANK, "indices": DRAWN} | change
        with pytest.raises(ValueError, match=f"^crd: .*{message}"):
            objectives.crd(x, x, **arguments)

    def test_a_row_that_the_bank_does_not_have(self):
        student, teacher = draw((6, 5), 0), draw((6, 5), 1)
        assert np.isnan(jax.jit(objectives.crd)(student, teacher, BANK, DRAWN + 1))

    def test_wrong_weights(self):
        x = np.ones((6, 5))
        with pytest.raises(ValueError, match=r"^crd_shared: .*\[batch, 8\].*\(6, 7\)"):
            objectives.crd_shared(x, x, BANK, np.arange(6), weights=np.ones((6, 7)))


class TestRKD:
    def test_equal_rows_count_as_in_the_released_code(self, float64):
        student, teacher = draw((6, 5), 0), draw((6, 5), 1)
        student[3] = student[1]

        def relative(x):
            d = np.array([[np.linalg.norm(a - b) for a in x] for b in x])
            return d / (d.sum() / 30)

        expected = np.mean(huber_slow(relative(student) - relative(teacher)))
        found = jax.jit(objectives.rkd_distance)(student, teacher)
        np.testing.assert_allclose(found, expected)

    @pytest.mark.parametrize("n", [1300, 2048])
    def test_a_large_batch_can_be_traced(self, n):
        x = jax.ShapeDtypeStruct((n, 4), jnp.float32)
        for form in (objectives.rkd_angle, objectives.rkd_distance):
            jax.eval_shape(jax.value_and_grad(form), x, x)

    def test_angles_have_a_forward_derivative_and_a_second_one(self, float64):
        student, teacher, move = (draw((4, 3), seed, lowest=-9) for seed in (0, 1, 2))
        form = lambda s: objectives.rkd_angle(s, teacher)  # noqa: E731

        @jax.jit
        def derivatives(s):
            gradient = jax.grad(form)
            slope = lambda s: jax.jvp(form, (s,), (move,))[1]  # noqa: E731
            along = lambda s: jnp.vdot(gradient(s), move)  # noqa: E731
            forward, both = (jax.jvp(f, (s,), (move,))[1] for f in (slope, gradient))
            of_gradient = both, jax.grad(slope)(s), jax.grad(along)(s)
            return form(s), (slope(s), along(s)), gradient(s), of_gradient, forward

        step = 1e-5
        _, slopes, _, of_gradient, forward = derivatives(student)
        below, above = (derivatives(student + sign * step * move) for sign in (-1, 1))
        numeric, of_numeric = ((above[i] - below[i]) / (2 * step) for i in (0, 2))
        np.testing.assert_allclose(slopes, 2 * [numeric], rtol=1e-6)
        limit = 1e-6 * np.abs(of_numeric).max()
        for found in of_gradient:
            np.testing.assert_allclose(found, of_numeric, rtol=0, atol=limit)
        np.testing.assert_allclose(forward, np.vdot(of_numeric, move), rtol=1e-6)

    @pytest.mark.slow
    def test_angles_pass_the_check_of_jax_in_random_directions(self, float64):
        student, teacher = draw((4, 3), 0), draw((4, 3), 1)
        form = jax.jit(lambda s: objectives.rkd_angle(s, teacher))
        test_util.check_grads(form, (student,), order=2, modes=["fwd", "rev"])

    @pytest.mark.parametrize("n", [7, 8, 19])
    def test_blocks_of_vertices_cover_all_of_them(self, float64, n):
        student, teacher = draw((n, 5), 0), draw((n, 9), 1)
        form = jax.jit(jax.value_and_grad(lambda s: objectives.rkd_angle(s, teacher)))
        value, _ = form(student)
        np.testing.assert_allclose(value, rkd_angle_slow(student, teacher))
        check_gradient(form, student)


class TestKD:
    def test_a_class_that_the_teacher_excludes(self):
        teacher = np.array([[0, 1, -np.inf]], np.float32)
        student = np.array([[1, 0, 3]], np.float32)
        form = jax.jit(jax.value_and_grad(objectives.kd))
        value, gradient = form(student, teacher)
        assert finite(value, gradient)
        smallest = np.array([[0, 1, -1e9]], np.float32)
        np.testing.assert_allclose(value, form(student, smallest)[0], rtol=1e-6)

    def test_a_temperature_is_above_zero(self):
        with pytest.raises(ValueError, match="kd: the temperature must be .* above 0"):
            objectives.kd(np.ones((2, 3)), np.ones((2, 3)), temperature=0.0)

    def test_extreme_logits(self):
        student = np.array([[1e4, -1e4]], np.float32)
        value = jax.jit(objectives.kd)(student, -student, temperature=1.0)
        np.testing.assert_allclose(value, 2e4)


COMPARISONS = sorted(
    name
    for name in comparisons.__all__
    if dataclasses.is_dataclass(getattr(comparisons, name))
)
DISTANCES = sorted({*distances.__all__} - {"Distance", "Embedded"})


class TestRDL:
    def test_blind_to_scale_and_rotation(self, float64):
        student, teacher = draw((8, 5), 0), draw((8, 5), 1)
        rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))
        moved = 3 * student @ rotation + 7
        rdl = functools.partial(objectives.rdl, distance=distances.MeanSquared())
        form = jax.jit(rdl)
        np.testing.assert_allclose(form(moved, teacher), form(student, teacher))
        assert form(moved, student) < 1e-12

    def test_all_pairs_given_are_all_pairs(self, float64):
        student, teacher = draw((8, 5), 0), draw((8, 6), 1)
        pairs = np.stack(np.triu_indices(8, 1))
        form = jax.jit(lambda *x: (objectives.rdl(*x), objectives.rdl(*x, pairs)))
        np.testing.assert_allclose(*form(student, teacher))

    @pytest.mark.parametrize(
        ("distance", "comparison"),
        [
            # Each of both now, all pairs of them with `-m slow`.
            pytest.param(d, c, marks=[SLOW] if (i - j) % len(DISTANCES) else [])
            for i, d in enumerate(DISTANCES)
            for j, c in enumerate(COMPARISONS)
        ],
    )
    def test_any_distance_with_any_comparison(self, distance, comparison):
        make = getattr(distances, distance)
        made = make(np.eye(5)) if distance == "Mahalanobis" else make()
        student, teacher = (draw((8, 5), s, np.float32) for s in (0, 1))
        value, gradient = jax.jit(jax.value_and_grad(objectives.rdl))(
            student,
            teacher,
            distance=made,
            comparison=getattr(comparisons, comparison)(),
        )
        assert value > 0 and jnp.isfinite(gradient).all()
        # Ranks change in steps: what compares them has a gradient of zero.
        assert gradient.any() != (comparison in ("KendallTauA", "RhoA", "Spearman"))

    def test_gradient_descent_finds_the_teachers_geometry(self):
        teacher = draw((10, 4), 1, np.float32)
        student = draw((10, 4), 0, np.float32)
        form = jax.jit(jax.value_and_grad(objectives.rdl))
        before, _ = form(student, teacher)
        for _ in range(300):
            student = student - 0.3 * form(student, teacher)[1]
        assert form(student, teacher)[0] < 0.05 * before

    def test_a_given_rdm_is_as_good_a_teacher_as_a_net(self, float64):
        student, teacher = draw((8, 5), 0), draw((8, 6), 1)

        @jax.jit
        def both(student, teacher):
            target = rdm.compute(teacher)
            from_net = objectives.rdl(student, teacher)
            return objectives.rdl_target(student, target), from_net

        np.testing.assert_allclose(*both(student, teacher))

    def test_of_squared_distances_at_any_scale(self):
        rng = np.random.default_rng(7)
        x, target = rng.normal(size=(6, 5)).astype(np.float32), rng.gamma(2, size=15)
        squared = rdm.distances.SquaredEuclidean()
        form = jax.jit(functools.partial(objectives.rdl_target, distance=squared))
        expected = form(x, target)
        assert 0.1 < expected < 1.9
        for scale in (1e-25, 1e25):
            np.testing.assert_allclose(form(scale * x, target), expected, rtol=1e-5)

    def test_missing_pairs_are_masked(self, float64):
        student, target = draw((6, 5), 0), np.array(draw(15, 1))
        keep = np.arange(15) % 3 > 0
        target[~keep] = np.nan
        form = jax.jit(jax.value_and_grad(objectives.rdl_target))
        value, gradient = form(student, target, keep)
        own = rdm_slow(student)
        expected = 1 - np.corrcoef(own[keep], target[keep])[0, 1]
        np.testing.assert_allclose(value, expected)
        assert jnp.isfinite(gradient).all()

    def test_numbers_of_subjects_known_and_traced(self, float64):
        student, targets = draw((6, 5), 0), np.stack([draw(15, s) for s in (1, 2)])
        weights = 1.0 + np.arange(30).reshape(2, 15) % 4
        given = (weights, np.array([0.2, 0.6]), np.array([0.5, 0.9]))
        alone = [
            rdl_target_slow(student, *one) for one in zip(targets, weights, strict=True)
        ]
        expected = np.average(1 - (1 - np.array(alone)) / given[2], weights=given[1])
        # Constants of what is traced are known.
        targets, constants = jnp.asarray(targets), each(jnp.asarray, given)

        @jax.jit
        def values(student, weights, subjects, ceiling):
            form = lambda w, s, c: objectives.rdl_subjects(  # noqa: E731
                student, targets, w, subject_weights=s, ceiling=c
            )
            return form(weights, subjects, ceiling), form(*constants)

        np.testing.assert_allclose(values(student, *given), [expected] * 2)
        for place, number in [(0, np.nan), (1, -1), (1, np.nan), (2, 0), (2, -1)]:
            wrong = [np.copy(x) for x in given]
            wrong[place].flat[0] = number
            found, known = values(student, *wrong)
            assert not np.isfinite(found)
            np.testing.assert_allclose(known, expected)

    def test_wrong_weights(self):
        with pytest.raises(ValueError, match=r"rdl_target.*\(15,\).*\(14,\)"):
            objectives.rdl_target(np.ones((6, 5)), np.ones(15), np.ones(14))

    @pytest.mark.parametrize(
        ("pairs", "message"),
        [
            (np.ones((2, 3)), r"integers \[2, p\].*float32 \(2, 3\)"),
            (np.ones((3, 2), int), r"integers \[2, p\].*\(3, 2\)"),
            (np.ones((2, 0), int), r"p of 1 or more.*\(2, 0\)"),
        ],
    )
    def test_wrong_pairs_are_refused_with_objective_and_layer(self, pairs, message):
        x = {"a": np.ones((6, 5))}
        with pytest.raises(ValueError, match=f"rdl, layer 'a': .*{message}"):
            objectives.rdl(x, x, pairs)

    @pytest.mark.parametrize("wrong", [6, -1])
    def test_pairs_of_no_stimulus(self, wrong):
        student, teacher = draw((6, 5), 0), draw((6, 5), 1)
        pairs = np.array([[0, 1, 2], [2, wrong, 4]])
        compare = jax.jit(objectives.rdl)
        assert np.isnan(compare(student, teacher, pairs))
        assert np.isfinite(compare(student, teacher, np.abs(pairs) % 6))

    @pytest.mark.parametrize(
        ("numbers", "message"),
        [
            ({"distance": distances.Cosine}, r"rdm.distances, such as Cosine\(\) with"),
            (
                {"distance": "cosine"},
                r"rdm.distances, such as Cosine\(\), got 'cosine'",
            ),
            ({"comparison": comparisons.MSE}, r"such as MSE\(\) with its parentheses"),
            ({"comparison": "pearson"}, r"rdm.comparisons, such as Pearson\(\)"),
            ({"distance": distances.Mahalanobis(np.eye(3))}, r"\(5, 5\).*\(3, 3\)"),
        ],
    )
    def test_what_is_no_distance_or_comparison_is_refused(self, numbers, message):
        x = np.ones((6, 5))
        with pytest.raises(ValueError, match=f"^rdl: .*{message}"):
            objectives.rdl(x, x, **numbers)
        if "comparison" in numbers:
            with pytest.raises(ValueError, match=f"^rdl_target: .*{message}"):
                objectives.rdl_target(x, np.ones(15), **numbers)

    def test_every_argument_may_be_named(self, float64):
        student, teacher = draw((6, 5), 0), draw((6, 7), 1)
        target = rdm_slow(teacher)
        form = jax.jit(objectives.rdl_target)
        np.testing.assert_array_equal(
            form(student=student, target=target, weights=None), form(student, target)
        )
        form = jax.jit(objectives.rdl)
        np.testing.assert_array_equal(
            form(teacher=teacher, student=student), form(student, teacher)
        )

    def test_the_prototypes_scale_fixes_ignore_the_teachers_scale(self, float64):
        student, teacher = draw((8, 5), 0), draw((8, 6), 1)
        for scale in ("by_maximum", "by_norm", "by_least_squares"):
            rdl = functools.partial(
                objectives.rdl,
                distance=distances.MeanSquared(),
                comparison=comparisons.MSE(getattr(comparisons, scale)),
            )
            form = jax.jit(rdl)
            np.testing.assert_allclose(
                form(student, 5 * teacher), form(student, teacher)
            )


class TestLogitsAndContrast:
    """What is out of range, not finite or of another dtype, in one program for all."""

    S, T = np.random.default_rng(20).normal(0, 1.5, (2, 6, 5)).astype(np.float32)
    GIVEN = {
        "labels": np.array([4, 0, 2, 2, 1, 3]),
        "indices": DRAWN,
        "index": np.array([5, 0, 7, 2, 1, 3]),
        "negatives": np.array([1, 4, 2, 7]),
        "weights": COUNTS.astype(np.float32),
        "temperature": 0.5,
        "momentum": 0.25,
    }
    TAKEN_FROM = {  # What an outcome depends on, besides the temperature.
        "kd": (),
        "dkd": ("labels",),
        "dist": (),
        "crd": ("indices",),
        "crd of the batch's own normalizers": ("indices",),
        "crd_shared": ("index", "negatives", "weights"),
        "crd_of_rows": ("index", "weights"),
        "normalizers": ("indices",),
        "exponentials_of_rows": ("weights",),
        "update_bank": ("index", "momentum"),
        "update_rows": ("index", "momentum"),
    }

    @staticmethod
    def outcomes(s, t, given, names=tuple(TAKEN_FROM)):
        """By name, what is computed of embeddings (or logits) and of what is given."""
        bank = each(lambda x: jnp.asarray(x, jnp.float32), fresh_bank())
        # (jit sorts what is given by name.)
        ordered = map(given.get, TestLogitsAndContrast.GIVEN)
        labels, indices, index, negatives, weights, softness, momentum = ordered
        wide = jnp.concatenate([weights, weights], axis=1)
        numbers = {"temperature": softness}
        moving = {"momentum": momentum}
        own = bank._replace(normalizers=None)
        forms = (
            lambda: objectives.kd(s, t, **numbers),
            lambda: objectives.dkd(s, t, labels, **numbers),
            lambda: objectives.dist(s, t, **numbers),
            lambda: objectives.crd(s, t, bank, indices, **numbers),
            lambda: objectives.crd(s, t, own, indices, **numbers),
            lambda: objectives.crd_shared(
                s, t, bank, index, negatives, weights, **numbers
            ),
            lambda: objectives.crd_of_rows(
                s, t, bank, index, wide, jnp.sum(wide, axis=1), n=20, **numbers
            ),
            lambda: objectives.crd_normalizers(s, t, bank, indices, **numbers),
            lambda: objectives.crd_exponentials_of_rows(s, t, bank, wide, **numbers),
            lambda: objectives.crd_update_bank(bank, s, t, index, **moving)[:2],
            lambda: objectives.crd_update_rows(bank, s, t, index, **moving)[:2],
        )
        named = dict(zip(TestLogitsAndContrast.TAKEN_FROM, forms, strict=True))
        return {
            name: sum(map(jnp.sum, jax.tree.leaves(named[name]()))) for name in names
        }

    @staticmethod
    @functools.cache
    def compiled():
        """The outcomes, and of the losses the gradients by both sides."""
        losses = tuple(TestLogitsAndContrast.TAKEN_FROM)[:7]

        def form(s, t, given):
            def one(s, t, name):
                return TestLogitsAndContrast.outcomes(s, t, given, (name,))[name]

            slopes = {k: jax.grad(one, argnums=(0, 1))(s, t, k) for k in losses}
            return TestLogitsAndContrast.outcomes(s, t, given), slopes

        return jax.jit(form)

    def run(self, s=S, t=T, **changed):
        return jax.device_get(self.compiled()(s, t, self.GIVEN | changed))

    def not_finite(self, *arguments, **changed):
        found, _ = self.run(*arguments, **changed)
        return {name for name, value in found.items() if not np.isfinite(value)}

    @pytest.mark.parametrize(
        ("given", "size"),
        [("labels", 5), ("indices", 8), ("index", 8), ("negatives", 8)],
    )
    def test_an_index_out_of_range_is_nan(self, given, size):
        assert not self.not_finite()
        for wrong in (-1, -6, size, size + 1, 100_000):
            changed = self.GIVEN[given].copy()
            changed.flat[-1] = wrong
            expected = {k for k, names in self.TAKEN_FROM.items() if given in names}
            if wrong == size:  # That is where rows are elsewhere.
                expected -= {"crd_of_rows", "update_rows"}
            assert self.not_finite(**{given: changed}) == expected, wrong

    @pytest.mark.parametrize("given", ["labels", "indices", "index", "negatives"])
    def test_an_index_is_an_integer(self, given):
        known = self.GIVEN | {given: self.GIVEN[given] * 1.0}
        form = functools.partial(self.outcomes, given=known)
        with pytest.raises(ValueError, match="must be integers, got float"):
            jax.eval_shape(form, self.S, self.T)

    def test_an_index_out_of_range_is_nan_outside_jit_too(self):
        labels = self.GIVEN["labels"].copy()
        for wrong in (-1, 9, 2**32):
            labels = labels.astype(np.int64)
            labels[0] = wrong
            assert np.isnan(objectives.dkd(self.S, self.T, labels))

    def test_labels_of_few_bits_among_many_classes(self):
        s, t = np.random.default_rng(3).normal(0, 1, (2, 3, 300))
        labels = np.array([255, 0, 44], np.uint8)
        found = jax.jit(objectives.dkd)(s, t, labels)
        expected = dkd_slow(s, t, labels.astype(int))
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_nan_and_infinity_are_not_lost(self, value):
        for side in (0, 1):
            both = [self.S.copy(), self.T.copy()]
            both[side][2, 3] = value
            found, slopes = self.run(*both)
            for name in found:
                excludes = value == -np.inf and name in ("kd", "dkd", "dist")
                if excludes and (name == "dist" or side == 1):
                    continue
                assert not np.isfinite(found[name]), (name, side)
                if name in slopes and not excludes:
                    # (Teachers of logits are held fixed.)
                    own = slopes[name][0 if name in ("kd", "dkd", "dist") else side]
                    assert not np.isfinite(own).all(), (name, side)

    def test_a_class_that_the_teacher_excludes(self):
        excluded, nearly = self.T.copy(), self.T.copy().astype(np.float64)
        excluded[2, 3], nearly[2, 3] = -np.inf, -200.0
        s, labels = self.S.astype(np.float64), self.GIVEN["labels"]
        found, slopes = self.run(self.S, excluded)
        for name, expected in {
            "kd": kd_slow(s, nearly, 0.5),
            "dkd": dkd_slow(s, nearly, labels, temperature=0.5),
            "dist": dist_slow(s, nearly, temperature=0.5),
        }.items():
            np.testing.assert_allclose(found[name], expected, rtol=1e-5)
            assert np.isfinite(slopes[name][0]).all()

    def test_a_teacher_that_excludes_all_but_the_right_class(self):
        only = np.full_like(self.T, -np.inf)
        labels = self.GIVEN["labels"]
        only[np.arange(6), labels] = 1
        found, slopes = self.run(self.S, only)
        p = softmax_slow(self.S.astype(np.float64) / 0.5)[np.arange(6), labels]
        expected = -np.mean(np.log(p)) * 0.25
        np.testing.assert_allclose(found["kd"], expected, rtol=1e-5)
        # There are no others to compare.
        np.testing.assert_allclose(found["dkd"], expected, rtol=1e-5)
        assert np.isfinite(slopes["dkd"][0]).all()

    @pytest.mark.parametrize("temperature", [0.0, -0.5, np.inf, np.nan])
    def test_a_temperature_out_of_range_is_nan_where_it_is_traced(self, temperature):
        expected = set(self.TAKEN_FROM) - {"update_bank", "update_rows"}
        assert self.not_finite(temperature=temperature) == expected

    def test_other_numbers_out_of_range_are_nan_where_they_are_traced(self):
        for momentum in (-0.1, 1.5, np.nan):
            found = self.not_finite(momentum=momentum)
            assert found == {"update_bank", "update_rows"}
        weights = self.GIVEN["weights"].copy()
        weights[1, 2] = -1
        expected = {"crd_shared", "crd_of_rows", "exponentials_of_rows"}
        assert self.not_finite(weights=weights) == expected

    @pytest.mark.parametrize(
        "wrong",
        [0.0, np.float32(-2), np.array(np.inf), np.float64(np.nan), "4", True, 1j],
    )
    def test_numbers_out_of_range_are_refused_where_they_are_known(self, wrong):
        for name, names in self.TAKEN_FROM.items():
            number = "momentum" if "momentum" in names else "temperature"
            if number == "momentum" and wrong == 0.0:
                continue
            form = functools.partial(
                self.outcomes, given=self.GIVEN | {number: wrong}, names=(name,)
            )
            with pytest.raises(ValueError, match=f"the {number} must be a finite num"):
                jax.eval_shape(form, self.S, self.T)
        for number in ("alpha", "beta", "gamma"):
            form = objectives.dist if number == "gamma" else objectives.dkd
            extra = () if number == "gamma" else (self.GIVEN["labels"],)
            if wrong not in (0.0, np.float32(-2)):
                with pytest.raises(ValueError, match=f"{number} must be a finite numb"):
                    form(self.S, self.T, *extra, **{number: wrong})

    def test_normalizers_of_the_batch_do_not_overflow(self):
        """Where those that are remembered do, the loss is NaN."""
        unit = [x / np.linalg.norm(x, axis=1)[:, None] for x in (self.S, self.T)]
        s, t = (x.astype(np.float64) for x in unit)
        scores = [
            np.exp(np.einsum("bu,bku->bk", a, keys[DRAWN]) / 0.004)
            for a, keys in ((s, BANK.teacher), (t, BANK.student))
        ]
        bank = BANK._replace(normalizers=np.array([8 * x.mean() for x in scores]))
        assert max(bank.normalizers) > 1e40
        found, _ = self.run(*unit, temperature=0.004)
        expected = crd_slow(s, t, bank, DRAWN, 0.004)
        own = found["crd of the batch's own normalizers"]
        np.testing.assert_allclose(own, expected, rtol=1e-4)

        @jax.jit
        def remembered(s, t):
            own = objectives.crd_normalizers(
                s, t, fresh_bank(), DRAWN, temperature=0.004
            )
            fixed = fresh_bank()._replace(normalizers=own)
            return objectives.crd(s, t, fixed, DRAWN, temperature=0.004)

        assert np.isnan(remembered(*unit))

    @pytest.mark.parametrize(
        "form", [objectives.crd_update_bank, objectives.crd_update_rows]
    )
    def test_a_bank_wants_a_row_of_either_side_for_each_example(self, form):
        x, index = np.ones((6, 5)), np.arange(6)
        for s, t, i in (
            (x, x[:1], index),
            (x[:1], x, index),
            (x, x[:, :1], index),
            (x, x, index[:1]),
            (x, x, index[:, None]),
            (x, x, 3),
        ):
            with pytest.raises(ValueError, match=r"expected (embeddings|an index)"):
                form(BANK, s, t, i)

    @pytest.mark.parametrize("name", ["kd", "dkd", "dist"])
    def test_one_class_is_refused(self, name):
        labels = [np.zeros(3, int)] * (name == "dkd")
        for x in (np.ones((3, 1)), np.ones((3, 0))):
            with pytest.raises(ValueError, match=f"{name}: .*two classes or more"):
                getattr(objectives, name)(x, x, *labels)

    def test_kd_is_the_mean_over_tokens(self):
        s, t = np.random.default_rng(5).normal(0, 2, (2, 3, 4, 7))
        expected = kd_slow(s.reshape(12, 7), t.reshape(12, 7))
        np.testing.assert_allclose(jax.jit(objectives.kd)(s, t), expected, rtol=1e-5)

    def check_promotion(self, student, teacher):
        """Traces all forms where no dtype is promoted without being told."""
        shapes = (jax.ShapeDtypeStruct((6, 5), dtype) for dtype in (student, teacher))
        given = self.GIVEN | {"temperature": np.float64(2), "momentum": np.float16(0.5)}
        with jax.numpy_dtype_promotion("strict"):
            found = jax.eval_shape(lambda s, t: self.outcomes(s, t, given), *shapes)
        wide = jnp.float64 if student == np.float64 else jnp.float32
        for name, value in found.items():
            expected = jnp.float32 if name.startswith("update") else wide
            assert value.dtype == expected, name

    def test_no_dtype_is_promoted_without_being_told(self):
        self.check_promotion(jnp.bfloat16, jnp.float32)
        with jax.enable_x64(True):
            self.check_promotion(np.float64, np.float32)
            self.check_promotion(np.float32, np.float64)

    def test_nothing_is_nan_on_the_way(self):
        """As `JAX_DEBUG_NANS` asks, of all operations in one program."""

        @jax.jit
        @functools.partial(checkify.checkify, errors=checkify.nan_checks)
        def form(s, t, labels):
            parts = objectives.kd(s, t), objectives.dkd(s, t, labels)
            return sum(parts) + objectives.dist(s, t)

        excluded = self.T.copy()
        excluded[1, 3] = -np.inf
        labels = self.GIVEN["labels"]
        for teacher in (self.T, excluded):
            error, value = form(self.S, teacher, labels)
            error.throw()
            assert np.isfinite(value)
