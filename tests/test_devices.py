"""Every objective and term: the same on one device, on two and on eight.

Values, the gradients of student and terms, and three steps of the optimizer, with a
student that normalises its batch. The terms of a group stand together in one step, on
one device and on eight; each alone, on two devices too, in the slow tests.
"""

import functools
import inspect
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rdljax import mmd, objectives, rdm, teachers, terms, training
from rdljax.terms import negatives
from tests.losses import LOSSES

# Eight devices have one example each, and do not divide the rows of a bank.
N, BATCH, CLASSES = 42, 8, 4
MAPS = ("stage1", "stage2")
LABELS = np.arange(N) % CLASSES


class Net(nn.Module):
    """A net of dense layers that answers maps, features and logits."""

    width: int
    axis_name: str | None = None

    @nn.compact
    def __call__(self, images, train=False):
        # (In the dtype of the images: in float64 everything is.)
        dtype = images.dtype
        dense = functools.partial(nn.Dense, param_dtype=dtype)

        def stage(x, size):
            x = dense(size * size * self.width, use_bias=False)(x)
            x = nn.BatchNorm(
                use_running_average=not train,
                axis_name=self.axis_name,
                dtype=dtype,
                param_dtype=dtype,
            )(x)
            return nn.tanh(x)

        first = stage(images.reshape(len(images), -1), 4)
        second = stage(first, 2)
        pooled = dense(self.width)(second)
        shape = (len(images), 2, 2, self.width)
        return {
            "stage1": first.reshape(len(images), 4, 4, self.width),
            "stage2": second.reshape(shape),
            "pooled": pooled,
            "logits": dense(CLASSES)(pooled),
        }


def globally(term):
    return terms.over_global_batch(term)


def plain(layers, objective, **numbers):
    return terms.on_layers(layers, terms.from_objective(objective, **numbers))


ALIKE = dict(zip(MAPS, MAPS, strict=True))
# By the name of what is tested, the term as a user would put it into a plan.
PER_EXAMPLE = {
    "kd": lambda: plain("logits", objectives.kd),
    "dkd": lambda: terms.on_layers("logits", terms.with_labels(objectives.dkd)),
    "at": lambda: plain(ALIKE, objectives.at),
    "nst": lambda: plain(ALIKE, objectives.nst),
    "nst gaussian": lambda: plain("stage1", objectives.nst, kernel=mmd.Gaussian()),
    "hint": lambda: terms.on_layers(ALIKE, terms.hint()),
    "vid": lambda: terms.on_layers(ALIKE, terms.vid()),
    "ft": lambda: terms.on_layers(("stage2", "stage2"), terms.ft()),
    "ft_repdistiller": lambda: terms.on_layers(
        ("stage2", "stage2"), terms.ft(objective=objectives.ft_repdistiller)
    ),
    "fsp": lambda: plain([("stage1", "same1"), ("stage2", "same2")], objectives.fsp),
    "ab": lambda: terms.on_layers([(layer, layer) for layer in MAPS], terms.ab()),
    "hint normalised": lambda: terms.on_layers(
        ALIKE, terms.hint(normalize=True, activation=nn.relu)
    ),
    "kdsvd": lambda: plain(
        [("stage1", "same1"), ("stage2", "same2")], objectives.kdsvd
    ),
    "kd_mean": lambda: terms.on_layers(("logits", ["logits", "same"]), terms.kd_mean()),
    "crd": lambda: crd(terms.crd, negatives.per_example(12, LABELS)),
    "crd relaxed": lambda: crd(
        terms.crd, negatives.per_example(12, LABELS, relax=True)
    ),
    "crd_shared": lambda: crd(terms.crd, negatives.expectation(12, LABELS)),
    "crd shared draw": lambda: crd(terms.crd, negatives.per_batch(12, LABELS)),
    "crd_sharded": lambda: crd(terms.crd_sharded, negatives.per_example(12, LABELS)),
    "crd_sharded all": lambda: crd(terms.crd_sharded, negatives.expectation(12)),
    "crd_sharded few": lambda: crd(terms.crd_sharded, negatives.per_batch(12, LABELS)),
}
RELATIONAL = {
    "dist": lambda: plain("logits", objectives.dist),
    "sp": lambda: plain(ALIKE, objectives.sp),
    "pkt": lambda: plain("pooled", objectives.pkt),
    "rkd_distance": lambda: plain("pooled", objectives.rkd_distance),
    "rkd_angle": lambda: plain("pooled", objectives.rkd_angle),
    "cc": lambda: plain("pooled", objectives.cc),
    "cc_repdistiller": lambda: terms.on_layers("pooled", terms.cc(features=6)),
    "cka": lambda: plain("pooled", objectives.cka),
    "rdl": lambda: terms.on_layers({**ALIKE, "pooled": "pooled"}, terms.rdl()),
    "rdl pairs": lambda: terms.on_layers("pooled", terms.rdl(pairs=30)),
    "rdl correlation": lambda: terms.on_layers(
        "stage1", terms.rdl(distance=rdm.distances.Correlation())
    ),
    "rdl moments": lambda: terms.on_layers(
        "pooled",
        terms.rdl(distance=rdm.distances.MeanSquared(), form=rdm.forms.Moments()),
    ),
    "rdl_mean": lambda: terms.on_layers(
        ("pooled", ["pooled", "same"]), terms.rdl_mean()
    ),
    "rdl_target": lambda: terms.on_layers(
        "pooled",
        terms.from_objective(lambda s, t: objectives.rdl_target(s, rdm.compute(t))),
    ),
    "rdl_target rows": lambda: terms.on_layers(
        ("pooled", "rows"), terms.rdl_target(stimulus="index")
    ),
    "rdl_subjects": lambda: terms.on_layers(
        ("pooled", "subjects"), terms.rdl_subjects(stimulus="index", ceiling=0.8)
    ),
    "crd_of_batch": lambda: terms.on_layers("pooled", terms.crd_of_batch(features=6)),
}
CASES = {
    **PER_EXAMPLE,
    **{name: lambda make=make: globally(make()) for name, make in RELATIONAL.items()},
}
# A decomposition of nearly equal singular values: its gradient divides by their
# differences, and rounding grows as it does.
TOLERANCE = {"kdsvd": {np.float32: 5e-3, np.float64: 1e-8}}


def crd(make, choose):
    return terms.on_layers("pooled", make(N, choose, features=6))


def test_every_objective_and_every_factory_of_terms_has_a_case():
    assert {name.split()[0] for name in CASES} >= set(LOSSES)
    cases = inspect.getsource(inspect.getmodule(data)).split("def crd(")[0]
    elsewhere = ("pretraining", "per_teacher", "over_global_batch", "cross_entropy")
    elsewhere += ("wrap_applies",)
    for name, maker in vars(terms).items():
        makes = getattr(maker, "__annotations__", {}).get("return") is terms.Term
        if makes and name not in elsewhere and name[0] != "_":
            assert f"terms.{name}" in cases, name


def data(dtype):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(N, 3, 3, 1)).astype(dtype)
    return {"image": image, "label": LABELS.astype(np.int32)}


def view(data, batch, key):
    index = batch["index"]
    return {name: x[index] for name, x in data.items()} | {"index": index}


def teacher(dtype):
    """Activations that are wider than the student's, and some of its shapes."""
    rng = np.random.default_rng(1)
    shapes = {"stage1": (4, 4, 6), "stage2": (2, 2, 6), "pooled": (6,)}
    shapes |= {"same1": (4, 4, 4), "same2": (2, 2, 4), "same": (4,), "logits": (4,)}
    # As the rows of RDMs of all images, of one subject and of three.
    shapes |= {"rows": (N,), "subjects": (3, N)}
    made = {k: rng.normal(size=(N, *v)).astype(dtype) for k, v in shapes.items()}
    return teachers.Teacher(
        made, lambda arrays, batch: {k: x[batch["index"]] for k, x in arrays.items()}
    )


def of_dtype(tree, dtype):
    """The tree with every float of that dtype: regressors and banks are float32."""
    return jax.tree.map(
        lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree
    )


def go(loss, devices, dtype=np.float32, steps=4, place=None):
    """Some steps on so many devices, or with no mapped axis at all.

    The loss is a term by name, or one term, which is then called "x". The fourth batch
    is of one class.

    Returns:
      The gradients of the first step, the metrics of each, and the last state.
    """
    chosen = jax.local_devices()[:devices]
    net, source = Net(4, training.AXIS if devices else None), teacher(dtype)
    loss = {"x": loss} if isinstance(loss, terms.Term) else loss
    weighted = {name: (1 / len(loss), term) for name, term in loss.items()}
    phase = training.Phase({"task": (1.0, terms.cross_entropy()), **weighted}, 1)
    # The momentum of a first step is its gradient.
    optimizer = optax.sgd(0.05, momentum=0.9)
    arrays = training.Arrays(source.arrays, data(dtype))
    rng = np.random.default_rng(2)
    drawn = [rng.permutation(N)[:BATCH] for _ in range(3)]
    drawn.append(np.flatnonzero(LABELS == 0)[:BATCH])
    batches = [{"index": index.astype(np.int32)} for index in drawn[:steps]]
    state = training.init(
        jax.random.key(0),
        net,
        source,
        [phase],
        view,
        arrays,
        batches[0],
        devices=devices or 1,
    )
    state = training.begin_phase(of_dtype(state, dtype), phase, optimizer)
    body = training.make_step(net, source, phase, optimizer, view)
    if devices:
        step = training.pmap(body, chosen)
        arrays = training.replicate(arrays, chosen)
    else:
        step = jax.jit(body)
        state = state._replace(
            per_device=jax.tree.map(lambda x: x[0], state.per_device)
        )
    metrics, gradients = [], None
    for batch in batches:
        batch = training.shard(batch, devices) if devices else batch
        if place:
            state, arrays, batch = place(state, arrays, batch)
        state, metric = step(state, arrays, batch)
        gradients = gradients or jax.device_get(state.replicated.opt_state[0].trace)
        metrics.append(jax.device_get(metric))
    rows = jax.tree.map(
        lambda x: np.reshape(x, (-1, x.shape[-1]))[:N], jax.device_get(state.per_device)
    )
    keyless = jax.tree.map(
        lambda x: x if jnp.issubdtype(x.dtype, jnp.number) else jax.random.key_data(x),
        state.replicated,
    )
    return gradients, metrics, (jax.device_get(keyless), rows)


def assert_same(found, expected, tolerance):
    """To the tolerance of each leaf's largest entry."""

    def compare(path, a, b):
        largest = np.max(np.abs(b), initial=0)
        assert np.isfinite(a).all() and np.isfinite(b).all()
        assert a.shape == b.shape and a.dtype == b.dtype
        np.testing.assert_allclose(
            a,
            b,
            rtol=0,
            # (Beside that, what rounding leaves of a gradient that is 0.)
            atol=tolerance * (largest + 1e-3),
            err_msg=jax.tree_util.keystr(path),
        )

    jax.tree_util.tree_map_with_path(compare, found, expected)


def together(names):
    """Terms for one step. (Where a name has a space, JAX wants another.)."""
    return {name.replace(" ", "-"): CASES[name]() for name in names}


@functools.cache
def on_one(group):
    """A group's steps on one device in double precision, which its tests switch on."""
    return go(together((GROUPS | FEW)[group]), 1, np.float64)


def agree(make, dtype, tolerance, several, one=None):
    """On several devices as on one."""
    one = one or go(make(), 1, dtype)
    for metrics in one[1]:
        assert all(np.isfinite(value) for value in metrics.values())
    assert all(value != 0 and value.dtype == dtype for value in one[1][0].values())
    for devices in several:
        assert_same(go(make(), devices, dtype), one, tolerance)


# In no group, as `TestStimuliOfAllDevices` and the banks below have what is their own.
ALONE = ["crd relaxed", "rdl correlation", "rdl moments"]
# `kdsvd` has a tolerance of its own.
GROUPS = {
    "per example": [n for n in PER_EXAMPLE if "crd" not in n and n != "kdsvd"],
    "contrast": [n for n in PER_EXAMPLE if "crd" in n and n not in ALONE],
    "relational": [n for n in RELATIONAL if n not in ALONE],
    "kdsvd": ["kdsvd"],
}
# Of each kind of term one: what is gathered before an objective is the same for all.
FEW = {
    "few per example": ["kd", "hint normalised", "vid", "ft", "ab"],
    "few in contrast": ["crd", "crd_shared", "crd_sharded", "crd_sharded all"],
    "few relations": ["sp", "cc_repdistiller", "rdl", "rdl pairs", "rdl_target rows"],
}


def test_every_case_is_in_one_group():
    assert sorted(sum(GROUPS.values(), ALONE)) == sorted(CASES)


class TestOneAndEightDevices:
    @pytest.mark.parametrize(
        "group",
        [
            *FEW,
            "kdsvd",
            *(pytest.param(g, marks=pytest.mark.slow) for g in [*GROUPS][:3]),
        ],
    )
    def test_in_double_precision(self, group, float64):
        tolerance = TOLERANCE.get(group, {}).get(np.float64, 1e-10)
        make = functools.partial(together, (GROUPS | FEW)[group])
        agree(make, np.float64, tolerance, [8], on_one(group))

    # Double precision shows more. (In single precision the steps of test_training.py,
    # the banks below and the automatic sharding are on several devices too.)
    @pytest.mark.slow
    def test_in_single_precision(self):
        names = ("hint", "rdl", "rdl pairs", "crd", "sp")
        agree(lambda: together(names), np.float32, 1e-4, [8])


@pytest.mark.slow
class TestOneTwoAndEightDevices:
    """Each alone."""

    @pytest.mark.parametrize("name", CASES)
    def test_in_single_precision(self, name):
        self.agree(name, np.float32, 1e-4)

    @pytest.mark.parametrize("name", CASES)
    def test_in_double_precision(self, name, float64):
        self.agree(name, np.float64, 1e-10)

    def agree(self, name, dtype, tolerance):
        tolerance = TOLERANCE.get(name, {}).get(dtype, tolerance)
        agree(CASES[name], dtype, tolerance, [2, 8])


@pytest.mark.slow
def test_of_each_device_alone_a_relational_loss_is_another(float64):
    # The mean over devices of a loss that is of each device: so what says above that
    # several devices are as one says something.
    devices, rng, source = 4, np.random.default_rng(3), teacher(np.float64)
    shapes = {"stage1": (4, 4, 4), "stage2": (2, 2, 4), "pooled": (4,), "logits": (4,)}
    student = {layer: rng.normal(size=(BATCH, *s)) for layer, s in shapes.items()}
    batch = view(data(np.float64), {"index": np.arange(BATCH)}, None)
    given = student, source.targets(source.arrays, batch), batch
    parts = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), given)

    @jax.jit
    def values(given, parts):
        found = {}
        for name, make in RELATIONAL.items():
            term = make()
            begun = of_dtype(term.init(jax.random.key(0), *given[:2]), np.float64)
            value = lambda *x, t=term, begun=begun: t.apply(*begun, *x)[0]  # noqa: E731
            found[name] = value(*given), jnp.mean(jax.vmap(value)(*parts))
        return found

    for name, (right, own) in values(given, parts).items():
        assert abs(own - right) > 0.02 * abs(right), name


@pytest.mark.slow
def test_of_each_device_alone_a_trained_relational_loss_is_another(float64):
    # Likewise of what a step on the devices says.
    own = {name.replace(" ", "-"): make() for name, make in RELATIONAL.items()}
    _, (found,), _ = go(own, 4, np.float64, steps=1)
    _, (right,), _ = go(together(RELATIONAL), 1, np.float64, steps=1)
    for name in own:
        assert abs(found[name] - right[name]) > 0.02 * abs(right[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("name", RELATIONAL)
def test_of_each_device_alone_a_relational_gradient_is_another(name):
    found, _, _ = go(RELATIONAL[name](), 4, steps=1)
    expected, _, _ = go(CASES[name](), 1, steps=1)
    own, right = (
        np.concatenate([x.ravel() for x in jax.tree.leaves(g["student"])])
        for g in (found, expected)
    )
    assert np.linalg.norm(own - right) > 0.02 * np.linalg.norm(right)


@functools.cache
def banks(make, devices, names):
    """Steps with ways to choose negatives, a bank for each."""
    chosen = {
        "drawn": negatives.per_example(12, LABELS),
        "relaxed": negatives.per_example(12, relax=True, labels=LABELS),
        "expected": negatives.expectation(12, LABELS),
        "all": negatives.expectation(12),
        "shared": negatives.per_batch(12, LABELS),
    }
    return go({name: crd(make, chosen[name]) for name in names}, devices)


POLICIES = ("drawn", "relaxed", "expected", "shared")


@pytest.mark.parametrize(
    ("devices", "names"),
    [
        (8, ("relaxed", "expected")),
        *(
            pytest.param(devices, (*POLICIES, "all"), marks=pytest.mark.slow)
            for devices in (0, 2, 8)
        ),
    ],
)
def test_a_divided_bank_is_the_bank(devices, names):
    _, expected, (state, _) = banks(terms.crd, 0, names)
    _, found, (divided, rows) = banks(terms.crd_sharded, devices, names)
    assert_same(found, expected, 1e-4)
    assert rows.keys() == {"task", *names}
    for name in names:
        bank = state.terms[name]["bank"]
        assert_same(rows[name], (bank.student, bank.teacher), 1e-4)
        assert_same(divided.terms[name]["normalizers"], bank.normalizers, 1e-4)
    assert_same(divided.params, state.params, 1e-4)


class TestStimuliOfAllDevices:
    """Discrepancies for which no device needs all activations."""

    DEVICES, ROWS = 8, 24
    # Every distance and every comparison; of both units one that is blind to scales and
    # one that is not. What is summed over devices depends on no more.
    CASES = {
        (5, 3): (("Cosine", "Pearson"), ("SquaredEuclidean", "MSE")),
        (4, 4): (("Correlation", "Cosine"), ("MeanSquared", "MSE")),
    }
    CROSSED = tuple(
        (distance, comparison)
        for distance in ("Cosine", "Correlation", "MeanSquared", "SquaredEuclidean")
        for comparison in ("MSE", "Cosine", "Pearson")
    )

    def agree(self, cases, form, units, check):
        """Checks value and gradient on eight devices against those on one.

        All cases are one program.

        Args:
          cases: The names of a distance and of a comparison, for each.
          form: The form on the devices.
          units: Of student and of teacher.
          check: Is called with each case's program on a device, as text.
        """
        rng = np.random.default_rng(0)
        n = self.DEVICES * self.ROWS
        # (Not negative: rates have to be.)
        whole = tuple(rng.exponential(size=(n, p)) for p in units)
        split = [x.reshape(self.DEVICES, self.ROWS, -1) for x in whole]

        def gradients(case, form, axis_name=None):
            distance, comparison = case
            loss = functools.partial(
                rdm.discrepancy,
                distance=getattr(rdm.distances, distance)(),
                comparison=getattr(rdm.comparisons, comparison)(),
                form=form,
                axis_name=axis_name,
            )
            return jax.value_and_grad(loss, argnums=(0, 1))

        mapped = [gradients(case, form, "d") for case in cases]
        for one in mapped:
            one_of_each = [x[0] for x in split]
            check(str(jax.make_jaxpr(one, axis_env=[("d", 8)])(*one_of_each)))

        @jax.jit
        def both(split, whole):
            found = [jax.vmap(one, axis_name="d")(*split) for one in mapped]
            dense = [gradients(case, rdm.forms.Dense()) for case in cases]
            return found, [one(*whole) for one in dense]

        for (values, gradients), expected in zip(*both(split, whole), strict=True):
            np.testing.assert_allclose(values, values[0], rtol=1e-12)
            np.testing.assert_allclose(values[0], expected[0], rtol=1e-10)
            for gradient, right in zip(gradients, expected[1], strict=True):
                # As `pmean` of that of shared parameters: each row has one device.
                gradient = np.reshape(gradient, (n, -1)) / self.DEVICES
                np.testing.assert_allclose(gradient, right, rtol=1e-8, atol=1e-12)

    @pytest.mark.parametrize("units", [(5, 3), (4, 4)])
    @pytest.mark.parametrize(
        "crossed", [False, pytest.param(True, marks=pytest.mark.slow)]
    )
    def test_are_those_of_all_stimuli(self, crossed, units, float64):
        def check(moved):
            assert "psum" in moved and "all_gather" not in moved

        cases = self.CROSSED if crossed else self.CASES[units]
        self.agree(cases, rdm.forms.Moments(), units, check)

    def test_under_pmap_the_gradient_of_what_is_shared(self, float64):
        rng = np.random.default_rng(1)
        x, teacher = (rng.normal(size=(8, self.ROWS, p)) for p in (7, 3))
        weights = rng.normal(size=(7, 4))
        numbers = {"distance": rdm.distances.MeanSquared(), "form": rdm.forms.Moments()}

        def loss(weights, x, teacher, **over):
            return rdm.discrepancy(jnp.tanh(x @ weights), teacher, **numbers, **over)

        def step(weights, x, teacher):
            value, gradient = jax.value_and_grad(loss)(
                weights, x, teacher, axis_name="d"
            )
            return jax.lax.pmean((value, gradient), "d")

        assert rdm.forms._moments_move_less(
            *(jax.ShapeDtypeStruct((self.ROWS, p), float) for p in (4, 3)),
            rdm.distances.MeanSquared(),
            8,
        )
        found = jax.pmap(step, "d", in_axes=(None, 0, 0), out_axes=None)(
            weights, x, teacher
        )
        expected = jax.jit(jax.value_and_grad(loss))(
            weights, x.reshape(-1, 7), teacher.reshape(-1, 3)
        )
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-10)
        np.testing.assert_allclose(found[1], expected[1], rtol=1e-8, atol=1e-12)

    @pytest.mark.parametrize(
        "cases",
        [
            [("Correlation", "Pearson"), ("MeanSquared", "MSE")],
            pytest.param(
                [("Correlation", "MSE"), ("MeanSquared", "Pearson")],
                marks=pytest.mark.slow,
            ),
        ],
    )
    def test_of_wide_layers_products_are_summed(self, cases, float64):
        def check(moved):
            assert "all_to_all" in moved
            # (What is gathered is a number of each stimulus: its rounding.)
            gathered = set(re.findall(r"\[([\d,]*)\] = all_gather", moved))
            assert gathered <= {f"{8 * self.ROWS}"}

        # Neither side's units divide by the devices.
        self.agree(cases, rdm.forms.Dense(), (1001, 700), check)

    def test_moments_of_wide_layers_are_gathered(self, float64):
        def check(moved):
            assert "all_gather" in moved

        self.agree([("Cosine", "Pearson")], rdm.forms.Moments(), (60, 70), check)

    @pytest.mark.parametrize(
        "cases",
        [
            [("Euclidean", "Pearson"), ("PoissonKL", "MSE")],
            pytest.param(
                [
                    (distance, comparison)
                    for distance in ("Cosine", "MeanSquared", "Euclidean", "PoissonKL")
                    for comparison in ("MSE", "Cosine", "Pearson")
                ],
                marks=pytest.mark.slow,
            ),
        ],
        ids=len,
    )
    def test_of_too_many_to_be_gathered_blocks_go_around(
        self, cases, monkeypatch, float64
    ):
        def check(moved):
            assert "ppermute" in moved and "all_gather" not in moved

        monkeypatch.setattr(rdm.forms, "GATHERED", 1)
        self.agree(cases, None, (5, 3), check)

    @pytest.mark.parametrize("gathered", [1, 2**28], ids=["ring", "rows"])
    def test_of_eight_devices_they_are_those_of_one(
        self, gathered, monkeypatch, float64
    ):
        monkeypatch.setattr(rdm.forms, "GATHERED", gathered)
        rng = np.random.default_rng(2)
        x, teacher = (rng.normal(size=(8 * 3, p)) for p in (5, 3))
        mesh = jax.sharding.Mesh(np.array(jax.devices()[:8]), "d")
        loss = functools.partial(rdm.discrepancy, axis_name="d")
        found = jax.jit(
            jax.shard_map(
                jax.value_and_grad(loss, argnums=(0, 1)),
                mesh=mesh,
                in_specs=jax.P("d"),
                out_specs=(jax.P(), jax.P("d")),
                check_vma=False,
            )
        )(x, teacher)
        expected = jax.value_and_grad(rdm.discrepancy, argnums=(0, 1))(x, teacher)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-10)
        for gradient, right in zip(found[1], expected[1], strict=True):
            np.testing.assert_allclose(gradient / 8, right, rtol=1e-8, atol=1e-12)

    def test_what_is_too_much_to_be_gathered(self):
        def moved(rows, units):
            loss = functools.partial(rdm.discrepancy, axis_name="d")
            x = jax.ShapeDtypeStruct((rows, units), np.float32)
            return str(jax.make_jaxpr(loss, axis_env=[("d", 64)])(x, x))

        # 2 x 64 x 64 x 32,768 numbers are 2**28.
        assert "all_gather" in moved(64, 32_768)
        assert "all_gather" not in moved(64, 32_769)
        assert "ppermute" in moved(64, 32_769)

    def test_by_default_few_stimuli_are_gathered_and_many_are_not(self):
        def moved(rows):
            loss = functools.partial(rdm.discrepancy, axis_name="d")
            x = jax.ShapeDtypeStruct((rows, 8), np.float32)
            return str(jax.make_jaxpr(loss, axis_env=[("d", 8)])(x, x))

        assert "all_gather" in moved(rdm.forms.DENSE // 8)
        assert "all_gather" not in moved(rdm.forms.DENSE // 8 + 1)


@pytest.mark.parametrize(
    "names",
    [
        ("rdl", "crd"),
        pytest.param(("rdl", "sp", "crd", "vid", "kd"), marks=pytest.mark.slow),
    ],
    ids=len,
)
def test_automatic_sharding_needs_no_axis(names):
    """The step in jit, the batch sharded over a mesh: the compiler gathers."""
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,),
                         devices=jax.devices()[:4])  # fmt: skip
    where = jax.sharding.NamedSharding(mesh, jax.P("d"))
    everywhere = jax.sharding.NamedSharding(mesh, jax.P())

    def place(state, arrays, batch):
        state, arrays = jax.device_put((state, arrays), everywhere)
        return state, arrays, jax.device_put(batch, where)

    expected = go(together(names), 1)
    for metrics in expected[1]:
        assert all(x != 0 and x.dtype == np.float32 for x in metrics.values())
    assert_same(go(together(names), 0, place=place), expected, 1e-4)


def test_an_explicit_mesh_is_refused_by_jax_and_can_be_left():
    mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Explicit,),
                         devices=jax.devices()[:4])  # fmt: skip
    x = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    y = np.tanh(x)
    rdl = jax.jit(objectives.rdl)
    expected = rdl(x, y)
    with jax.set_mesh(mesh):
        sharded = jax.device_put((x, y), jax.P("d"))
        with pytest.raises(Exception, match="[Ss]hard"):
            rdl(*sharded)
        whole = jax.sharding.reshard(sharded, jax.P())
        np.testing.assert_allclose(rdl(*whole), expected, rtol=1e-5)


def test_an_empty_batch_is_refused():
    empty = jnp.zeros((0, 4))
    with pytest.raises(ValueError, match="batch of one example or more"):
        objectives.hint(empty, empty)
    with pytest.raises(ValueError, match="kd: expected a batch of one example"):
        objectives.kd(empty, empty)
    none = {"index": np.arange(0)}
    source, task = teacher(np.float32), {"task": (1.0, terms.cross_entropy())}
    arrays = training.Arrays(source.arrays, data(np.float32))
    with pytest.raises(ValueError, match="one image or more, got none"):
        training.init(
            jax.random.key(0),
            Net(4),
            source,
            [training.Phase(task, 1)],
            view,
            arrays,
            none,
        )
    with pytest.raises(ValueError, match="batch of 0 is not divisible by 2 devices"):
        training.shard({"index": np.arange(0)}, 2)


def test_too_few_stimuli_on_all_devices_are_refused():
    one = jnp.ones((1, 1, 3))
    loss = functools.partial(rdm.discrepancy, axis_name="d")
    with pytest.raises(ValueError, match="3|three"):
        jax.vmap(loss, axis_name="d")(one, one)


def test_a_term_takes_two_examples_on_all_devices():
    term = terms.over_global_batch(terms.rdl(comparison=rdm.comparisons.MSE()))
    apply = functools.partial(term.apply, {}, terms.State(), axis_name="d")
    run = jax.vmap(lambda s, t: apply(s, t, {})[0], axis_name="d")
    student, teacher = np.eye(2)[:, None], np.ones((2, 1, 2))
    # Of right angles and of none: the cosine distances are 1 and 0.
    np.testing.assert_allclose(run(student, teacher), [1, 1], rtol=1e-6)
    with pytest.raises(ValueError, match="rdl: expected a batch of two or more"):
        run(student[:1], teacher[:1])


def test_one_seed_is_one_result():
    first, second = (go(CASES["crd_sharded"](), 8, steps=2) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, second)
