"""RDMs compared without writing them down, against both matrices."""

import functools
import itertools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial import distance as scipy_distance

from rdljax import objectives, rdm
from rdljax.rdm import _moments, comparisons, distances, forms

COMPARISONS = {
    "MSE": comparisons.MSE(),
    "Cosine": comparisons.Cosine(),
    "Pearson": comparisons.Pearson(),
}


def precision(units):
    root = np.random.default_rng(5).normal(size=(units, units))
    return root @ root.T + np.eye(units)


DISTANCES = {
    name: functools.partial(getattr(distances, name))
    for name in distances.__all__
    if name not in ("Distance", "Embedded")
}
DISTANCES["Mahalanobis"] = lambda: distances.Mahalanobis(precision(6))


def sides(kind="of one width", n=50):
    """Activations of student and teacher, not negative."""
    dtype = np.float64 if jax.config.jax_enable_x64 else np.float32
    rng = np.random.default_rng(0)
    student = rng.gamma(2.0, size=(n, 6))
    teacher = {
        "of one width": lambda: rng.gamma(2.0, size=(n, 6)),
        "close": lambda: student + 0.01 * rng.gamma(2.0, size=(n, 6)),
        "wider": lambda: rng.gamma(2.0, size=(n, 9)),
    }[kind]()
    return student.astype(dtype), teacher.astype(dtype)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Blocks that divide no number of stimuli here."""
    monkeypatch.setattr(_moments, "BLOCK", 16)


@functools.partial(jax.jit, static_argnames="form")
def value_and_gradients(
    student,
    teacher,
    weights=None,
    distance=distances.Cosine(),
    comparison=comparisons.Pearson(),
    form=None,
):
    def discrepancy(student, teacher):
        chosen = {"distance": distance, "comparison": comparison, "form": form}
        return rdm.discrepancy(student, teacher, None, weights, **chosen)

    return jax.value_and_grad(discrepancy, argnums=(0, 1))(student, teacher)


discrepancy = jax.jit(rdm.discrepancy)


def compare(found, expected, tolerance):
    np.testing.assert_allclose(found[0], expected[0], rtol=tolerance)
    for a, b in zip(found[1], expected[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())


SLOW = pytest.mark.slow
# Comparisons with the plainest distance, and other distances with Pearson's. (That by
# cosines differs from Pearson's in one line, which `TestFloat32` has.)
PLAIN = [
    pytest.param(
        *("SquaredEuclidean", comparison),
        marks=[SLOW] if comparison == "Cosine" else [],
        id=f"SquaredEuclidean-{comparison}",
    )
    for comparison in COMPARISONS
]
EMBEDDED = [
    name for name in DISTANCES if isinstance(DISTANCES[name](), distances.Embedded)
]
# (A Mahalanobis distance is of one width.)
WIDER = [name for name in EMBEDDED if name != "Mahalanobis"]


def others(names, now=()):
    """Those named `now` now, all others with `-m slow`."""
    for name in names:
        if name != "SquaredEuclidean":
            marks = [] if name in now else [SLOW]
            yield pytest.param(name, "Pearson", marks=marks, id=f"{name}-Pearson")


def later(*values):
    """Values with `-m slow`."""
    return [pytest.param(value, marks=SLOW) for value in values]


parametrize = functools.partial(pytest.mark.parametrize, ("name", "comparison"))


class TestTheSameAsBothMatrices:
    """Distances with an embedding differ in it alone, and test_rdm has it."""

    def check(self, name, comparison, kind, form, weights=None):
        chosen = {"distance": DISTANCES[name](), "comparison": COMPARISONS[comparison]}
        dense, other = (
            value_and_gradients(*sides(kind), weights, form=form, **chosen)
            for form in (forms.Dense(), form)
        )
        compare(other, dense, 1e-9)

    def test_what_has_no_embedding_is_known(self):
        assert set(DISTANCES) - set(EMBEDDED) == {"Euclidean", "PoissonKL"}

    @parametrize([*PLAIN, *others(EMBEDDED, now=["Cosine"])])
    def test_moments(self, float64, name, comparison):
        for kind in ("of one width", "close"):
            self.check(name, comparison, kind, forms.Moments())

    @parametrize([*PLAIN, *others(WIDER)])
    def test_moments_of_other_widths(self, float64, name, comparison):
        self.check(name, comparison, "wider", forms.Moments())

    @parametrize([*PLAIN, *others(DISTANCES, now=["Cosine", "Euclidean", "PoissonKL"])])
    def test_tiles(self, float64, name, comparison):
        kind = "wider" if comparison == "MSE" else "of one width"
        self.check(name, comparison, kind, forms.Tiles(16))

    @parametrize([*PLAIN, *others(DISTANCES, now=["Euclidean"])])
    def test_weighted_tiles(self, float64, name, comparison):
        masking = np.random.default_rng(1).integers(0, 3, size=50 * 49 // 2) * 1.0
        kind = "wider" if comparison == "MSE" else "of one width"
        self.check(name, comparison, kind, forms.Tiles(16), masking)

    @pytest.mark.slow
    @parametrize([*PLAIN, *others(DISTANCES)])
    def test_tiles_of_other_widths(self, float64, name, comparison):
        masking = np.random.default_rng(1).integers(0, 3, size=50 * 49 // 2) * 1.0
        kind = "of one width" if name == "Mahalanobis" else "wider"
        for weights in (None, masking):
            self.check(name, comparison, kind, forms.Tiles(16), weights)


@pytest.mark.parametrize("block", [1, 7, 50, 512, *later(25, 49)])
def test_any_block(float64, block):
    dense, tiles = (
        value_and_gradients(*sides(), form=form)
        for form in (forms.Dense(), forms.Tiles(block))
    )
    compare(tiles, dense, 1e-9)


@pytest.mark.parametrize("form", [forms.Moments(), forms.Tiles(16)], ids=str)
@pytest.mark.parametrize("comparison", COMPARISONS)
class TestFloat32:
    def exact(self, student, teacher, comparison):
        with jax.enable_x64(True):
            return value_and_gradients(
                student.astype(np.float64),
                teacher.astype(np.float64),
                distance=distances.SquaredEuclidean(),
                comparison=COMPARISONS[comparison],
                form=forms.Dense(),
            )

    def sides(self, form):
        """Of one width for tiles, to which the widths are all one."""
        return sides("wider" if form == forms.Moments() else "of one width")

    @pytest.mark.parametrize("offset", [0.0, 100.0])
    @pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
    def test_accurate(self, form, comparison, offset, scale):
        student, teacher = (scale * (x + offset) for x in self.sides(form))
        found = value_and_gradients(
            student,
            teacher,
            distance=distances.SquaredEuclidean(),
            comparison=COMPARISONS[comparison],
            form=form,
        )
        compare(found, self.exact(student, teacher, comparison), 5e-5)

    @pytest.mark.parametrize("apart", [1e-1, 1e-3, 1e-5])
    def test_accurate_where_student_is_close(self, form, comparison, apart):
        student, noise = sides()
        teacher = (student + apart * noise).astype(np.float32)
        found = value_and_gradients(
            student,
            teacher,
            distance=distances.SquaredEuclidean(),
            comparison=COMPARISONS[comparison],
            form=form,
        )
        # Of the points' difference, rounding leaves so much.
        tolerance = 1e-3 + 4e-7 / apart
        compare(found, self.exact(student, teacher, comparison), tolerance)

    def chosen(self, comparison):
        """Cosine distances for one comparison; the others share their programs."""
        name = "Cosine" if comparison == "Pearson" else "SquaredEuclidean"
        return {"distance": DISTANCES[name](), "comparison": COMPARISONS[comparison]}

    def test_equal_and_degenerate(self, form, comparison):
        student, teacher = sides()
        flat = np.full_like(student, 0.1)
        one_zero = comparison != "MSE"
        for x, y, expected in (
            (student, student, 0),
            (0 * student, 0 * student, 0),
            (flat, 0 * student, 0),
            (0 * student, teacher, 1 if one_zero else None),
            (student, 0 * teacher, 1 if one_zero else None),
            (np.tile(student[:25], (2, 1)), teacher, None),
        ):
            value, gradients = value_and_gradients(
                x, y, form=form, **self.chosen(comparison)
            )
            assert np.isfinite(value)
            assert all(np.isfinite(g).all() for g in gradients)
            if expected is not None:
                np.testing.assert_allclose(value, expected, atol=1e-6)

    def test_what_is_not_finite_stays_so(self, form, comparison):
        student, teacher = sides()
        hole = np.where(
            np.arange(300).reshape(50, 6) == 20, np.float32(np.nan), student
        )
        for x, y in ((hole, teacher), (teacher, hole)):
            found = value_and_gradients(x, y, form=form, **self.chosen(comparison))
            assert np.isnan(found[0])

    def test_a_student_much_smaller_than_the_teacher(self, form, comparison):
        student, teacher = self.sides(form)
        chosen = {
            "distance": distances.SquaredEuclidean(),
            "comparison": COMPARISONS[comparison],
        }
        found = value_and_gradients(1e-4 * student, teacher, form=form, **chosen)
        compare(found, self.exact(1e-4 * student, teacher, comparison), 5e-5)

    @pytest.mark.slow
    def test_degenerate_or_not_finite_by_cosines(self, form, comparison, monkeypatch):
        """Cosine distances for the other comparisons too."""
        chosen = {
            "distance": distances.Cosine(),
            "comparison": COMPARISONS[comparison],
        }
        monkeypatch.setattr(self, "chosen", lambda _: chosen)
        self.test_equal_and_degenerate(form, comparison)
        self.test_what_is_not_finite_stays_so(form, comparison)


class TestRoundingIsNoDistance:
    """Rows that differ by a factor (and an offset) alone have one direction."""

    def rows(self, offset=0.0):
        rng = np.random.default_rng(8)
        factors, vector = rng.uniform(0.3, 7, (50, 1)), rng.normal(size=6)
        return (factors * vector + offset * rng.normal(size=(50, 1))).astype(np.float32)

    def check(self, form, name):
        rows = self.rows(offset=30.0 if name == "Correlation" else 0.0)
        chosen = {"distance": DISTANCES[name](), "form": form}
        value, gradients = value_and_gradients(rows, sides()[1], **chosen)
        np.testing.assert_allclose(value, 1, rtol=1e-6)
        assert not gradients[0].any()

    @pytest.mark.parametrize(
        "form", [forms.Dense(), forms.Moments(), forms.Tiles(16)], ids=str
    )
    def test_in_every_form(self, form):
        self.check(form, "Cosine")

    @pytest.mark.parametrize(
        "form", [forms.Dense(), *later(forms.Moments(), forms.Tiles(16))], ids=str
    )
    def test_of_rows_with_an_offset(self, form):
        self.check(form, "Correlation")

    def test_of_pairs_and_in_ranks(self):
        rows, pairs = self.rows(), np.array([[0, 7, 30], [9, 8, 49]])

        @jax.jit
        def run(x):
            own = rdm.compute(x)
            other = own.at[0].set(1.0)
            compared = rdm.compare(own, other, comparison=comparisons.Spearman())
            return own, rdm.compute(x, pairs), compared

        own, of_pairs, compared = run(rows)
        assert not own.any() and not of_pairs.any()
        np.testing.assert_allclose(compared, 1, rtol=1e-5)

    def test_what_is_resolved_is_kept(self):
        """Directions that are 1e-3 apart, and points 1e-5 of their offset."""
        noise = np.random.default_rng(9).normal(size=(50, 6))
        for rows, name in (
            (self.rows() * (1 + 1e-3 * noise), "Cosine"),
            (100 + 1e-3 * noise, "SquaredEuclidean"),
        ):
            rows = rows.astype(np.float32)
            found = compute(rows, distance=DISTANCES[name]())
            kind = "cosine" if name == "Cosine" else "sqeuclidean"
            expected = scipy_distance.pdist(rows.astype(np.float64), kind)
            np.testing.assert_allclose(found, expected, rtol=5e-2)


def test_pairs_of_one_distance_vary_in_no_form():
    """Weights may leave a constant RDM, whose distance is far from the others' mean."""
    n = 24
    student, teacher = (
        np.random.default_rng(k).normal(size=(2 * n, n)).astype(np.float32)
        for k in range(2)
    )
    student[:n] = 40 * np.eye(n)
    rows, columns = np.triu_indices(2 * n, 1)
    weights = ((rows < n) & (columns < n)).astype(np.float32)
    value, gradients = value_and_gradients(
        student,
        teacher,
        weights,
        distances.SquaredEuclidean(),
        form=forms.Tiles(16),
    )
    np.testing.assert_allclose(value, 1, rtol=1e-6)
    assert not gradients[0].any()


class TestUnits:
    """What is blind to the scale of an RDM is so to that of activations."""

    def check(self, name, form, scales):
        student, teacher = sides("wider" if form == forms.Moments() else "of one width")
        chosen = {"distance": DISTANCES[name](), "form": form}
        expected = value_and_gradients(student, teacher, **chosen)
        for first, second in scales:
            first, second = np.float32(first), np.float32(second)
            value, gradients = value_and_gradients(
                first * student, second * teacher, **chosen
            )
            found = (
                value,
                [g * s for g, s in zip(gradients, (first, second), strict=True)],
            )
            compare(found, expected, 1e-4)

    @pytest.mark.parametrize(
        "form", [forms.Dense(), forms.Moments(), forms.Tiles(16)], ids=str
    )
    def test_in_every_form(self, form):
        scales = [(2e-27, 3e-21), (5e22, 7e-30), (3e27, 4e25)]
        self.check("SquaredEuclidean", form, scales)

    @pytest.mark.parametrize(
        "name", ["Euclidean", *later("MeanSquared", "Mahalanobis")]
    )
    def test_of_every_distance(self, name):
        self.check(name, forms.Dense(), [(2e-27, 3e-21), (3e27, 4e25)])

    @pytest.mark.slow
    @pytest.mark.parametrize("name", [n for n in DISTANCES if n != "PoissonKL"])
    def test_of_every_distance_in_every_form(self, name):
        for form in (forms.Dense(), forms.Moments(), forms.Tiles(16)):
            if form != forms.Moments() or name in WIDER:
                self.check(name, form, [(1e-30, 1e27), (1e27, 1e-30), (1e-18, 1e20)])

    def test_equal_ones_are_so_however_large(self):
        student, _ = sides()
        for form in (forms.Dense(), forms.Moments(), forms.Tiles(16)):
            value, _ = value_and_gradients(
                np.float32(3e14) * student,
                np.float32(3e14) * student,
                distance=distances.SquaredEuclidean(),
                comparison=comparisons.MSE(),
                form=form,
            )
            assert value == 0


def broken(x):
    """The array with NaN, and with infinity, in one place: `[2, ...]`."""
    stack = np.stack([x, x])
    stack[0].flat[20], stack[1].flat[20] = np.nan, np.inf
    return stack


@jax.jit
def of_each(students, teachers, distance):
    def discrepancy(student, teacher):
        return rdm.discrepancy(student, teacher, distance=distance)

    return jax.vmap(jax.value_and_grad(discrepancy))(students, teachers)


@pytest.mark.parametrize(
    "name",
    [
        "Cosine",
        "Euclidean",
        "PoissonKL",
        *later("Correlation", "Mahalanobis", "MeanSquared", "SquaredEuclidean"),
    ],
)
def test_what_is_not_finite_on_either_side(name):
    student, teacher = sides()
    students = np.concatenate([broken(student), [student, student]])
    teachers = np.concatenate([[teacher, teacher], broken(teacher)])
    values, gradients = of_each(students, teachers, DISTANCES[name]())
    assert np.isnan(values).all()
    assert not np.isfinite(gradients).all(axis=(1, 2)).any()


class TestForwardMode:
    """Of any number of stimuli; lowered alone, by when JAX refuses what cannot be."""

    @pytest.mark.parametrize("n", [257, *later(256, 2049)])
    def test_of_what_is_written_down(self, n):
        x, y = (jax.ShapeDtypeStruct((n, 3), jnp.float32) for _ in range(2))
        pairs = n * (n - 1) // 2

        def second(form):
            gradient = jax.grad(lambda x, y: jnp.sum(form(x, y) ** 2))
            forward = jax.jit(lambda x, y: jax.jvp(gradient, (x, y), (x, y))[1])
            return forward.lower(x, y).out_info

        weights = np.ones(pairs, np.float32)
        assert second(lambda x, y: rdm.compute(x)).shape == (n, 3)
        assert second(
            lambda x, y: rdm.discrepancy(x, y, None, weights, form=forms.Dense())
        ).shape == (n, 3)


@pytest.mark.slow
@pytest.mark.parametrize("comparison", COMPARISONS)
def test_tiles_of_other_widths_in_float32(comparison, monkeypatch):
    tests, tiles = TestFloat32(), forms.Tiles(16)
    monkeypatch.setattr(tests, "sides", lambda _: sides("wider"))
    for offset, scale in itertools.product((0.0, 100.0), (1e-6, 1.0, 1e4)):
        tests.test_accurate(tiles, comparison, offset, scale)
    tests.test_a_student_much_smaller_than_the_teacher(tiles, comparison)


@pytest.mark.parametrize("form", [forms.Moments(), forms.Tiles(16)], ids=str)
@pytest.mark.parametrize("comparison", ["Pearson", *later("MSE", "Cosine")])
@pytest.mark.parametrize("kind", ["of one width", *later("wider")])
def test_half_precision(form, comparison, kind):
    student, teacher = (x.astype(jnp.bfloat16) for x in sides(kind))
    value, gradients = value_and_gradients(
        student, teacher, comparison=COMPARISONS[comparison], form=form
    )
    expected = value_and_gradients(
        student.astype(np.float32),
        teacher.astype(np.float32),
        comparison=COMPARISONS[comparison],
        form=forms.Dense(),
    )
    assert value.dtype == jnp.float32
    assert gradients[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(value, expected[0], rtol=1e-4)


class TestTransformations:
    def stacks(self):
        students, teachers = (
            np.stack([x + np.float32(i) for i in range(8)]) for x in sides()
        )
        students *= np.arange(1, 9, dtype=np.float32)[:, None, None] ** 0.5
        return students, teachers

    def over_devices(self, form, count):
        mesh = jax.make_mesh((count,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
        return jax.jit(
            jax.shard_map(form, mesh=mesh, in_specs=jax.P("d"), out_specs=jax.P("d"))
        )

    def check(self, objective, **found):
        once = jax.jit(jax.value_and_grad(objective))
        pairs = zip(*self.stacks(), strict=True)
        expected = jax.device_get([once(*pair) for pair in pairs])
        for name, (values, gradients) in jax.device_get(found).items():
            for i, (value, own) in enumerate(expected):
                np.testing.assert_allclose(values[i], value, rtol=2e-4, err_msg=name)
                limit = 2e-4 * np.abs(own).max()
                np.testing.assert_allclose(gradients[i], own, rtol=0, atol=limit)

    # (Both matrices are what test_objectives has under every transformation.)
    @pytest.mark.parametrize("form", [forms.Moments(), forms.Tiles(16)], ids=str)
    def test_the_same_under_all_at_once(self, form):
        """Rematerialised, vectorised, in a scan and over devices."""
        objective = functools.partial(rdm.discrepancy, form=form)
        gradient = jax.vmap(jax.value_and_grad(jax.checkpoint(objective)))

        def local(*stacks):
            pairs = [x.reshape(2, 2, *x.shape[1:]) for x in stacks]
            found = jax.lax.scan(lambda _, pair: (0, gradient(*pair)), 0, pairs)[1]
            return jax.tree.map(lambda x: x.reshape(4, *x.shape[2:]), found)

        self.check(objective, all=self.over_devices(local, 2)(*self.stacks()))

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "form", [forms.Dense(), forms.Moments(), forms.Tiles(16)], ids=str
    )
    def test_the_same_under_each(self, form):
        objective = functools.partial(rdm.discrepancy, form=form)
        gradient = jax.value_and_grad(objective)
        remade = jax.value_and_grad(jax.checkpoint(objective))
        stacks = self.stacks()

        def local(s, t):
            return jax.tree.map(lambda x: x[None], gradient(s[0], t[0]))

        self.check(
            objective,
            vmap=jax.jit(jax.vmap(gradient))(*stacks),
            pmap=jax.pmap(gradient)(*stacks),
            scan=jax.lax.scan(lambda _, x: (0, gradient(*x)), 0, stacks)[1],
            checkpoint=jax.jit(jax.vmap(remade))(*stacks),
            shard_map=self.over_devices(local, 8)(*stacks),
        )


def chosen(n, p, q, distance="Cosine", comparison="Pearson", weights=None):
    shapes = (jax.ShapeDtypeStruct((n, units), jnp.float32) for units in (p, q))
    return forms.choose(
        *shapes, weights, DISTANCES[distance](), getattr(comparisons, comparison)()
    )


def test_the_form_that_is_chosen():
    assert chosen(2048, 16, 16) == forms.Dense()
    assert chosen(2049, 16, 16) == forms.Moments()
    assert chosen(4096, 512, 512) == chosen(4096, 2048, 2048) == forms.Moments()
    assert chosen(4096, 2048, 2048, comparison="MSE") == forms.Tiles()
    assert chosen(4096, 8192, 512) == forms.Tiles()
    assert chosen(4096, 16, 16, "Euclidean") == forms.Tiles()
    assert chosen(4096, 16, 16, weights=0) == forms.Tiles()
    assert chosen(4096, 16, 16, comparison="Spearman") == forms.Dense()


def test_no_matrix_of_stimuli_is_built():
    n = 20_000
    x = jax.ShapeDtypeStruct((n, 16), jnp.float32)
    for distance in (distances.Cosine(), distances.Euclidean()):
        form = functools.partial(objectives.rdl, distance=distance)
        compiled = jax.jit(jax.value_and_grad(form)).lower(x, x).compile()
        used = compiled.memory_analysis().temp_size_in_bytes
        assert used < n * n * 4 / 100, f"{distance}: {used}"


def test_no_weight_at_all():
    student, teacher = sides()
    for form in (forms.Dense(), forms.Tiles(16)):
        value, gradients = value_and_gradients(
            student, teacher, np.zeros(1225, np.float32), form=form
        )
        assert value == 0 and not any(g.any() for g in gradients)


@pytest.mark.parametrize("name", ["Cosine", *later("Euclidean", "PoissonKL")])
def test_stimuli_in_a_period_that_divides_all_strides(float64, name):
    student, teacher = (1e-6 * np.tile(x[:10], (60, 1)) for x in sides("wider"))
    dense, tiles = (
        value_and_gradients(student, teacher, distance=DISTANCES[name](), form=form)
        for form in (forms.Dense(), forms.Tiles(512))
    )
    compare(tiles, dense, 1e-6)


def test_more_stimuli_than_int32_has_pairs(float64):
    # On a line d_ij = (i - j)^2 scaled, e_ij likewise of another line: known sums.
    n = 50_000
    line = np.arange(n, dtype=np.float64)[:, None] / n
    found = discrepancy(
        line,
        line**2,
        distance=distances.SquaredEuclidean(),
        comparison=comparisons.MSE(),
    )
    # Twice the integral of (x - y)^4 (1 - (x + y)^2)^2 over the unit square, halved.
    u = np.polynomial.legendre.leggauss(20)
    x, w = (u[0] + 1) / 2, u[1] / 2
    expected = np.sum(
        w[:, None]
        * w[None, :]
        * ((x[:, None] - x) ** 2 - (x[:, None] ** 2 - x**2) ** 2) ** 2
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.slow
def test_tiles_of_more_stimuli_than_int32_has_pairs():
    n = 50_000
    line = jnp.arange(n, dtype=jnp.float32)[:, None] / n
    values = [
        rdm.discrepancy(line, line**2, distance=distances.SquaredEuclidean(), form=form)
        for form in (forms.Moments(), forms.Tiles())
    ]
    np.testing.assert_allclose(*values, rtol=1e-4)


def test_pairs_are_gathered_some_at_a_time(float64, monkeypatch):
    student, teacher = sides("wider")
    pairs = rdm.sample_pairs(jax.random.key(0), 50, 301)
    form = jax.value_and_grad(lambda s: rdm.discrepancy(s, teacher, pairs))
    expected = jax.jit(form)(student)
    monkeypatch.setattr(distances, "GATHERED", 64)
    value, gradient = jax.jit(lambda s: form(s))(student)  # (Traced anew.)
    np.testing.assert_allclose(value, expected[0])
    np.testing.assert_allclose(gradient, expected[1], atol=1e-12)


def test_weighted_pairs(float64):
    student, teacher = sides("wider")
    pairs = np.array([[0, 3, 7, 2, 9], [1, 8, 9, 5, 11]])

    @jax.jit
    def both(student, teacher):
        weighted = rdm.discrepancy(student, teacher, pairs, np.array([1.0, 1, 0, 1, 1]))
        return weighted, rdm.discrepancy(student, teacher, np.delete(pairs, 2, axis=1))

    np.testing.assert_allclose(*both(student, teacher))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"form": forms.Moments}, r"Moments\(\) with its parentheses"),
        (
            {"form": forms.Moments(), "distance": distances.Euclidean()},
            "Moments does not support Euclidean",
        ),
        (
            {"form": forms.Tiles(), "comparison": comparisons.Spearman()},
            "Tiles does not support Spearman",
        ),
        (
            {"form": forms.Moments(), "weights": np.ones(1225)},
            "Moments does not support weights",
        ),
        (
            {
                "form": forms.Tiles(),
                "comparison": comparisons.MSE(comparisons.by_maximum),
            },
            "Tiles does not support MSE",
        ),
        (
            {"form": forms.Tiles(0)},
            "block of a tile must be a whole number of 1 or more",
        ),
        (
            {"form": forms.Tiles(2.5)},
            "block of a tile must be a whole number of 1 or more, got 2.5",
        ),
        ({"form": forms.Dense(-1)}, "refine must be a whole number of 0 or more"),
        (
            {"form": forms.Tiles(), "pairs": np.array([[0], [1]])},
            "either pairs or a form",
        ),
    ],
)
def test_what_has_no_such_form(options, message):
    with pytest.raises(ValueError, match=message):
        rdm.discrepancy(*sides(), **options)


compute = jax.jit(rdm.compute, static_argnames="refine")


class TestRefine:
    def clusters(self):
        """Ten clusters of four stimuli that are 1e-5 of the spread apart."""
        rng = np.random.default_rng(0)
        centres = np.repeat(rng.normal(size=(10, 6)), 4, axis=0)
        return (centres + 1e-5 * rng.normal(size=(40, 6))).astype(np.float32)

    @pytest.mark.parametrize("name", ["SquaredEuclidean", "Euclidean"])
    def test_near_duplicates(self, name):
        x = self.clusters()
        kind = "sqeuclidean" if name == "SquaredEuclidean" else "euclidean"
        expected = scipy_distance.pdist(x.astype(np.float64), kind)
        near = expected < np.median(expected) / 100
        assert near.sum() == 60
        plain = compute(x, distance=DISTANCES[name]())
        assert (np.abs(plain / expected - 1) > 0.05)[near].any()
        for count in (60, 100, 10_000):
            found = compute(x, distance=DISTANCES[name](), refine=count)
            np.testing.assert_allclose(found, expected, rtol=1e-4)
            np.testing.assert_allclose(found[~near], expected[~near], rtol=1e-5)

    def test_under_jit_and_in_a_loss(self, float64):
        x, teacher = self.clusters().astype(np.float64), sides("wider", 40)[1]
        expected = value_and_gradients(x, teacher, form=forms.Dense())
        refined = value_and_gradients(x, teacher, form=forms.Dense(refine=60))
        compare(refined, expected, 1e-6)


class TestLargerThanMemory:
    kinds = pytest.mark.parametrize("kind", ["of one width", "close", "wider"])

    def check(self, name, comparison, kind):
        student, teacher = sides(kind)
        chosen = {"distance": DISTANCES[name](), "comparison": COMPARISONS[comparison]}
        for size in (7, 50, 64):
            blocks = rdm.blocks_of(student, teacher, size)
            found = rdm.discrepancy_of_blocks(blocks, **chosen)
            expected = discrepancy(student, teacher, **chosen)
            np.testing.assert_allclose(found, expected, rtol=1e-8)

    @pytest.mark.parametrize("comparison", COMPARISONS)
    @kinds
    def test_equals_what_fits(self, float64, comparison, kind):
        # (The embedding is the same whatever compares.)
        other = ["Correlation"] if comparison == "Pearson" else []
        for name in ["SquaredEuclidean", *other]:
            self.check(name, comparison, kind)

    @pytest.mark.slow
    @pytest.mark.parametrize("comparison", ["MSE", "Cosine"])
    @kinds
    def test_correlations_equal_what_fits(self, float64, comparison, kind):
        self.check("Correlation", comparison, kind)

    def test_the_first_block_need_not_be_typical(self):
        student, teacher = sides("wider")
        student[7:] += 30
        found = rdm.discrepancy_of_blocks(
            rdm.blocks_of(student, teacher, 7), distance=distances.MeanSquared()
        )
        expected = discrepancy(student, teacher, distance=distances.MeanSquared())
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    def test_a_progress_bar_names_what_is_absent(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "tqdm", None)
        with pytest.raises(ImportError, match=r"progress=True.*pip install tqdm"):
            rdm.discrepancy_of_blocks([], progress=True)

    def test_in_any_units(self):
        student, teacher = sides("wider")
        chosen = {"distance": distances.SquaredEuclidean()}
        expected = discrepancy(student, teacher, **chosen)
        student, teacher = np.float32(2e-25) * student, np.float32(3e24) * teacher
        blocks = rdm.blocks_of(student, teacher, 7)
        found = rdm.discrepancy_of_blocks(blocks, **chosen)
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    @pytest.mark.parametrize("comparison", COMPARISONS)
    def test_the_first_blocks_may_be_constant(self, float64, comparison):
        student, teacher = sides("wider")
        student[:20] = student[0]
        chosen = {
            "distance": distances.SquaredEuclidean(),
            "comparison": COMPARISONS[comparison],
        }
        expected = discrepancy(student, teacher, **chosen)
        for size in (1, 10, 50):
            blocks = rdm.blocks_of(student, teacher, size)
            found = rdm.discrepancy_of_blocks(blocks, **chosen)
            np.testing.assert_allclose(found, expected, rtol=1e-8)

    def test_memory_mapped_files(self, tmp_path, capsys):
        arrays = sides("wider")
        mapped = []
        for name, array in zip(("student", "teacher"), arrays, strict=True):
            np.save(tmp_path / f"{name}.npy", array)
            mapped.append(np.load(tmp_path / f"{name}.npy", mmap_mode="r"))
        found = rdm.discrepancy_of_blocks(
            rdm.blocks_of(*mapped, size=7), stimuli=50, progress=True
        )
        np.testing.assert_allclose(found, discrepancy(*arrays), rtol=1e-4)
        assert "50/50" in capsys.readouterr().err

    def test_wrong_calls(self):
        student, teacher = sides()
        with pytest.raises(ValueError, match="50 of the student and 49"):
            rdm.blocks_of(student, teacher[:49])
        with pytest.raises(ValueError, match="of 1 or more, got 0"):
            rdm.blocks_of(student, teacher, 0)
        with pytest.raises(ValueError, match="whole number of 1 or more, got 1.5"):
            rdm.blocks_of(student, teacher, 1.5)
        with pytest.raises(ValueError, match="real numbers, got complex"):
            rdm.discrepancy_of_blocks([(1j * student, teacher)])
        for options in (
            {"distance": distances.Euclidean()},
            {"comparison": comparisons.Spearman()},
            {"comparison": comparisons.MSE(comparisons.by_norm)},
        ):
            with pytest.raises(ValueError, match="expected a distance with"):
                rdm.discrepancy_of_blocks([(student, teacher)], **options)
        with pytest.raises(ValueError, match="three stimuli or more, got 0"):
            rdm.discrepancy_of_blocks([])
        teacher[33, 0] = np.inf
        with pytest.raises(
            ValueError, match="from stimulus 20 on.*the first of them 13"
        ):
            rdm.discrepancy_of_blocks(rdm.blocks_of(student, teacher, 20))


def test_the_moments_are_those_of_the_distances(float64):
    student, teacher = sides("wider")
    noise = np.zeros(50)
    form = functools.partial(_moments.of_points, noises=[noise] * 2, own_scales=False)
    products, scale = jax.jit(form)(student, teacher)
    d, e = (scipy_distance.pdist(x, "sqeuclidean") / scale for x in (student, teacher))
    expected = comparisons.Products(
        np.mean(d - e),
        np.mean(e),
        np.var(d - e),
        np.cov(d - e, e, ddof=0)[0, 1],
        np.var(e),
        np.var(d),
    )
    np.testing.assert_allclose(products, expected)
