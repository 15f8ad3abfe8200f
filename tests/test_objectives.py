"""Every objective against a slow NumPy form of its paper, and by its promises.

A row of `CASES` buys an objective all the tests of this file; a name in
`objectives.__all__` without a row fails.
"""

import functools
import inspect
import pathlib
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import test_util

from rdljax import objectives, rdm
from rdljax.rdm import comparisons, distances


def kd_slow(student, teacher, temperature=4.0):
    def softmax(x):
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)

    total = 0.0
    for s, t in zip(
        softmax(student / temperature), softmax(teacher / temperature), strict=True
    ):
        total += np.sum(t * np.log(t / s))
    return total / len(student) * temperature**2


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


def rdl_target_slow(student, target, weights=None):
    own = rdm_slow(student)
    if weights is None:
        return 1 - np.corrcoef(own, target)[0, 1]
    covariance = np.cov(own, target, aweights=weights)
    return 1 - covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])


class Case(NamedTuple):
    """An objective with its oracle and what is promised of it.

    Attributes:
      name: Of the objective.
      slow: Its NumPy form, of the same positional arguments.
      student: Shape of the student's activations.
      teacher: Shape of the teacher's.
      numbers: Keyword arguments of the objective.
      extra: Positional arguments beyond the two activations.
      wrong: Pairs of shapes that must be refused.
      layers: Whether it takes pytrees.
      equal_is_zero: Whether its value is 0 for equal activations.
      of_batch: Whether both sides have the batch first, in any order.
    """

    name: str
    slow: Callable
    student: tuple
    teacher: tuple
    numbers: dict = {}
    extra: tuple = ()
    wrong: tuple = ()
    layers: bool = True
    equal_is_zero: bool = True
    of_batch: bool = True


MAPS = (6, 4, 4, 3)
BATCHES = (((6, 5), (4, 5)), ((6,), (6,)), ((6, 5), ()))
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
]


def ids(case):
    return f"{case.name}-{case.student}"


every = pytest.mark.parametrize("case", CASES, ids=ids)
with_layers = pytest.mark.parametrize("case", [c for c in CASES if c.layers], ids=ids)


def draw(shape, seed, dtype=np.float64):
    # Positive, so that it may be an RDM too, and some exact zeros, as after a ReLU.
    return np.maximum(np.random.default_rng(seed).normal(0.7, 1, shape), 0).astype(
        dtype
    )


def pair(case, dtype=np.float64, seed=0):
    return draw(case.student, seed, dtype), draw(case.teacher, seed + 100, dtype)


def bound(case):
    """The case's objective as a function of student and teacher."""
    objective = getattr(objectives, case.name)
    return lambda student, teacher: objective(
        student, teacher, *case.extra, **case.numbers
    )


def test_every_objective_has_a_case():
    assert {case.name for case in CASES} == set(objectives.__all__)


def test_the_table_at_the_head_lists_every_objective():
    rows = re.findall(r"^`(\w+)`  +", inspect.getdoc(objectives), re.MULTILINE)
    assert sorted(rows) == sorted(objectives.__all__)


@every
def test_equals_the_slow_form(float64, case):
    student, teacher = pair(case)
    expected = case.slow(student, teacher, *case.extra)
    np.testing.assert_allclose(bound(case)(student, teacher), expected, rtol=1e-10)


@every
def test_is_a_scalar_of_the_compute_dtype(case):
    for dtype in (jnp.float32, jnp.bfloat16, jnp.float16):
        student, teacher = (jnp.asarray(x, dtype) for x in pair(case))
        value, gradient = jax.value_and_grad(bound(case))(student, teacher)
        assert value.shape == () and value.dtype == jnp.float32
        assert gradient.dtype == dtype and jnp.isfinite(gradient).all()


@every
def test_bfloat16_is_computed_in_float32(case):
    student, teacher = (jnp.asarray(x, jnp.bfloat16) for x in pair(case))
    value = bound(case)(student, teacher)
    rounded = (np.asarray(x, np.float64) for x in (student, teacher))
    np.testing.assert_allclose(value, case.slow(*rounded, *case.extra), rtol=2e-5)


@every
def test_gradient_is_numerical(float64, case):
    student, teacher = pair(case)
    form = lambda s: bound(case)(s, teacher)  # noqa: E731
    test_util.check_grads(form, (jnp.asarray(student),), order=1, modes=["rev"])


@every
def test_teacher_gets_no_gradient(case):
    student, teacher = pair(case, np.float32)
    gradient = jax.grad(bound(case), argnums=1)(jnp.asarray(student), teacher)
    assert not gradient.any()


@every
def test_the_same_under_every_transformation(case):
    form = bound(case)
    pairs = [pair(case, np.float32, seed) for seed in range(8)]
    expected = np.array([form(s, t) for s, t in pairs])
    students, teachers = (jnp.stack(side) for side in zip(*pairs, strict=True))
    found = {
        "jit": jnp.stack([jax.jit(form)(s, t) for s, t in pairs]),
        "vmap": jax.vmap(form)(students, teachers),
        "pmap": jax.pmap(form)(students, teachers),
        "scan": jax.lax.scan(lambda _, x: (0, form(*x)), 0, (students, teachers))[1],
        "checkpoint": jnp.stack([jax.checkpoint(form)(s, t) for s, t in pairs]),
        "shard_map": jax.jit(
            jax.shard_map(
                lambda s, t: form(s[0], t[0])[None],
                mesh=jax.make_mesh(
                    (8,), ("d",), axis_types=(jax.sharding.AxisType.Auto,)
                ),
                in_specs=jax.P("d"),
                out_specs=jax.P("d"),
            )
        )(students, teachers),
    }
    for name, values in found.items():
        np.testing.assert_allclose(values, expected, rtol=2e-5, err_msg=name)


@every
def test_one_trace_for_one_shape(case):
    traces = []

    @jax.jit
    def form(student, teacher):
        traces.append(case.name)
        return bound(case)(student, teacher)

    for seed in range(3):
        form(*pair(case, np.float32, seed))
    assert len(traces) == 1


@with_layers
@pytest.mark.parametrize("tree", [dict, tuple, list])
def test_two_layers_are_the_sum_of_each(float64, case, tree):
    first, second = pair(case), pair(case, seed=1)
    if tree is dict:
        student, teacher = (
            {"a": x, "b": y} for x, y in zip(first, second, strict=True)
        )
    else:
        student, teacher = (tree(x) for x in zip(first, second, strict=True))
    form = bound(case)
    np.testing.assert_allclose(form(student, teacher), form(*first) + form(*second))


@every
def test_order_of_the_batch_means_nothing(float64, case):
    if not case.of_batch:
        return
    student, teacher = pair(case)
    order = np.random.default_rng(0).permutation(len(student))
    form = bound(case)
    found = form(student[order], teacher[order])
    np.testing.assert_allclose(found, form(student, teacher))


@every
def test_zero_at_equality(case):
    if not case.equal_is_zero:
        return
    student, _ = pair(case, np.float32)
    value, gradient = jax.value_and_grad(bound(case))(jnp.asarray(student), student)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


DEGENERATE = {
    "dead channel": lambda x: x.at[..., 0].set(0),
    "zero row": lambda x: x.at[1].set(0),
    "duplicate rows": lambda x: x.at[1].set(x[0]),
    "constant batch": lambda x: jnp.full_like(x, 0.1),
    "all zero": jnp.zeros_like,
    "tiny": lambda x: 1e-6 * x,
    "large": lambda x: 1e4 * x,
}


@every
@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("sides", ["student", "teacher", "both"])
def test_finite_at_degenerate_activations(case, kind, sides):
    student, teacher = (jnp.asarray(x) for x in pair(case, np.float32))
    if sides != "teacher":
        student = DEGENERATE[kind](student)
    if sides != "student":
        teacher = DEGENERATE[kind](teacher)
    value, gradient = jax.value_and_grad(bound(case))(student, teacher)
    assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


@every
def test_batch_of_two(case):
    if case.extra or not case.of_batch:
        return
    student, teacher = (jnp.asarray(x[:2]) for x in pair(case, np.float32))
    value, gradient = jax.value_and_grad(bound(case))(student, teacher)
    assert jnp.isfinite(value) and jnp.isfinite(gradient).all()


@every
def test_wrong_shapes_are_refused_by_name(case):
    for student, teacher in case.wrong:
        with pytest.raises(ValueError, match=case.name) as error:
            bound(case)(np.ones(student), np.ones(teacher))
        message = str(error.value)
        assert str(student) in message and str(teacher) in message
        # Before tracing, too: no error of JAX's own.
        with pytest.raises(ValueError, match=case.name):
            jax.jit(bound(case))(np.ones(student), np.ones(teacher))


@with_layers
def test_errors_name_the_layer(case):
    student, teacher = pair(case)
    bad = np.ones((student.shape[0] + 1, 2))
    with pytest.raises(ValueError, match=f"{case.name}, layer 'deep/b'"):
        bound(case)(
            {"a": student, "deep": {"b": bad}}, {"a": teacher, "deep": {"b": teacher}}
        )


@with_layers
def test_different_layers_are_refused_with_both_lists(case):
    student, teacher = pair(case)
    with pytest.raises(ValueError, match=rf"{case.name}.*\[a, b\].*\[a, c\]"):
        bound(case)({"a": student, "b": student}, {"a": teacher, "c": teacher})
    with pytest.raises(ValueError, match=rf"{case.name}.*\[a\].*one array"):
        bound(case)({"a": student}, teacher)
    with pytest.raises(ValueError, match=f"{case.name}.*no layer"):
        bound(case)({}, {})


def test_logits_are_one_array():
    x = np.ones((3, 4))
    with pytest.raises(ValueError, match="kd: the student must be one array"):
        objectives.kd({"logits": x}, x)
    with pytest.raises(ValueError, match="kd: the teacher must be one array"):
        objectives.kd(x, [x, x])


class TestKD:
    def test_equals_the_released_code(self, float64):
        # RepDistiller, distiller_zoo/KD.py at commit b84f547, torch 2.13.0, float64.
        path = pathlib.Path(__file__).parent / "reference" / "repdistiller_kd.npz"
        case = np.load(path)
        form = functools.partial(
            objectives.kd, teacher=case["teacher"], temperature=case["temperature"]
        )
        value, gradient = jax.value_and_grad(form)(jnp.asarray(case["student"]))
        np.testing.assert_allclose(value, case["value"], rtol=1e-9)
        largest = np.abs(case["grad_student"]).max()
        np.testing.assert_allclose(
            gradient, case["grad_student"], rtol=0, atol=1e-8 * largest
        )

    def test_a_class_that_the_teacher_excludes(self):
        teacher = jnp.array([[0.0, 1.0, -jnp.inf]])
        student = jnp.array([[1.0, 0.0, 3.0]])
        value, gradient = jax.value_and_grad(objectives.kd)(student, teacher)
        assert jnp.isfinite(value) and jnp.isfinite(gradient).all()
        smallest = jnp.array([[0.0, 1.0, -1e9]])
        np.testing.assert_allclose(value, objectives.kd(student, smallest), rtol=1e-6)

    def test_a_temperature_is_above_zero(self):
        with pytest.raises(ValueError, match="kd: the temperature must be above 0"):
            objectives.kd(np.ones((2, 3)), np.ones((2, 3)), temperature=0.0)

    def test_extreme_logits(self):
        student, teacher = jnp.array([[1e4, -1e4]]), jnp.array([[-1e4, 1e4]])
        value = objectives.kd(student, teacher, temperature=1.0)
        np.testing.assert_allclose(value, 2e4)


class TestRDL:
    def test_blind_to_scale_and_rotation(self, float64):
        student, teacher = draw((8, 5), 0), draw((8, 5), 1)
        rotation, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(5, 5)))
        moved = 3 * student @ rotation + 7
        form = functools.partial(objectives.rdl, distance=distances.MeanSquared())
        np.testing.assert_allclose(form(moved, teacher), form(student, teacher))
        assert form(moved, student) < 1e-12

    def test_all_pairs_given_are_all_pairs(self, float64):
        student, teacher = draw((8, 5), 0), draw((8, 6), 1)
        pairs = np.stack(np.triu_indices(8, 1))
        np.testing.assert_allclose(
            objectives.rdl(student, teacher, pairs), objectives.rdl(student, teacher)
        )

    @pytest.mark.parametrize("distance", sorted(distances.__all__))
    @pytest.mark.parametrize("comparison", sorted(comparisons.__all__))
    def test_any_distance_with_any_comparison(self, distance, comparison):
        make = getattr(distances, distance)
        made = make(np.eye(5)) if distance == "Mahalanobis" else make()
        student, teacher = (jnp.asarray(draw((8, 5), s, np.float32)) for s in (0, 1))
        value, gradient = jax.value_and_grad(objectives.rdl)(
            student,
            teacher,
            distance=made,
            comparison=getattr(comparisons, comparison)(),
        )
        assert value > 0 and gradient.any() and jnp.isfinite(gradient).all()

    def test_gradient_descent_finds_the_teachers_geometry(self):
        teacher = jnp.asarray(draw((10, 4), 1, np.float32))
        student = jnp.asarray(draw((10, 4), 0, np.float32))
        step = jax.jit(lambda s: s - 0.3 * jax.grad(objectives.rdl)(s, teacher))
        before = objectives.rdl(student, teacher)
        for _ in range(300):
            student = step(student)
        assert objectives.rdl(student, teacher) < 0.05 * before

    def test_a_given_rdm_is_as_good_a_teacher_as_a_net(self, float64):
        student, teacher = draw((8, 5), 0), draw((8, 6), 1)
        target = rdm.compute(teacher)
        np.testing.assert_allclose(
            objectives.rdl_target(student, target), objectives.rdl(student, teacher)
        )

    def test_missing_pairs_are_masked(self, float64):
        student, target = draw((6, 5), 0), np.array(draw(15, 1))
        keep = np.arange(15) % 3 > 0
        target[~keep] = np.nan
        form = lambda s: objectives.rdl_target(s, target, keep)  # noqa: E731
        value, gradient = jax.value_and_grad(form)(jnp.asarray(student))
        own = rdm_slow(student)
        expected = 1 - np.corrcoef(own[keep], target[keep])[0, 1]
        np.testing.assert_allclose(value, expected)
        assert jnp.isfinite(gradient).all()

    def test_wrong_weights(self):
        with pytest.raises(ValueError, match=r"rdl_target.*\(15,\).*\(14,\)"):
            objectives.rdl_target(np.ones((6, 5)), np.ones(15), np.ones(14))

    @pytest.mark.parametrize(
        ("pairs", "message"),
        [
            (np.ones((2, 3)), r"integers \[2, p\].*float32 \(2, 3\)"),
            (np.ones((3, 2), int), r"integers \[2, p\].*\(3, 2\)"),
            (np.ones((2, 0), int), r"p of 1 or more.*\(2, 0\)"),
            (np.array([[0, 1], [2, 6]]), "stimuli 0 to 5, got 0 to 6"),
            (np.array([[0, -1], [2, 4]]), "stimuli 0 to 5, got -1 to 4"),
        ],
    )
    def test_wrong_pairs_are_refused_with_objective_and_layer(self, pairs, message):
        x = {"a": np.ones((6, 5))}
        with pytest.raises(ValueError, match=f"rdl, layer 'a': .*{message}"):
            objectives.rdl(x, x, pairs)

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
        target = rdm.compute(teacher)
        np.testing.assert_array_equal(
            objectives.rdl_target(student=student, target=target, weights=None),
            objectives.rdl_target(student, target),
        )
        np.testing.assert_array_equal(
            objectives.rdl(teacher=teacher, student=student),
            objectives.rdl(student, teacher),
        )

    def test_the_prototypes_scale_fixes_ignore_the_teachers_scale(self, float64):
        student, teacher = draw((8, 5), 0), draw((8, 6), 1)
        for scale in ("by_maximum", "by_norm", "by_least_squares"):
            form = functools.partial(
                objectives.rdl,
                distance=distances.MeanSquared(),
                comparison=comparisons.MSE(getattr(comparisons, scale)),
            )
            np.testing.assert_allclose(
                form(student, 5 * teacher), form(student, teacher)
            )
