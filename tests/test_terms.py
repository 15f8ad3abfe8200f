"""Terms: pure, composable, and trained to the last leaf."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rdljax import errors, objectives, rdm, teachers, terms
from rdljax.terms import negatives

B = 8


def draw(shape, seed):
    values = np.random.default_rng(seed).normal(0.5, 1, (B, *shape))
    return jnp.asarray(np.maximum(values, 0), jnp.float32)


STUDENT = {
    "stage1": draw((4, 4, 3), 0),
    "stage2": draw((2, 2, 5), 1),
    "pooled": draw((6,), 2),
    "logits": draw((10,), 3),
}
TEACHER = {
    "stage1": draw((4, 4, 7), 4),
    "stage2": draw((4, 4, 5), 5),
    "pooled": draw((9,), 6),
    "logits": draw((10,), 7),
}
TEACHER |= {
    "a/logits": draw((10,), 8),
    "b/logits": draw((10,), 9),
    "a/pooled": draw((9,), 10),
    "b/pooled": draw((6,), 11),
}
LABELS = np.arange(B) % 3
BATCH = {
    "label": jnp.asarray(LABELS),
    "index": jnp.arange(B),
    "contrast_index": jnp.asarray(np.random.default_rng(0).integers(0, B, (B, 5))),
}
LAYERS = {"stage1": "stage1", "pooled": "pooled"}

TERMS = {
    "task": terms.cross_entropy(),
    "kd": terms.on_layers(
        "logits", terms.from_objective(objectives.kd, temperature=2.0)
    ),
    "dkd": terms.on_layers("logits", terms.with_labels(objectives.dkd, beta=2.0)),
    "hint": terms.on_layers(("stage1", "stage2"), terms.hint()),
    "hints": terms.on_layers({"stage2": "stage1", "pooled": "pooled"}, terms.hint()),
    "rdl": terms.on_layers(LAYERS, terms.rdl()),
    "rdl pairs": terms.on_layers(LAYERS, terms.rdl(pairs=50)),
    "global": terms.over_global_batch(terms.on_layers("pooled", terms.rdl(pairs=9))),
    "in order": terms.on_layers(["stage1", ("stage2", "pooled")], terms.rdl()),
    "hint as RepDistiller's": terms.on_layers(
        ("stage1", "stage2"), terms.hint(normalize=True, activation=jax.nn.relu)
    ),
    "vid": terms.on_layers(
        {"stage1": "stage2", "stage2": "stage1", "pooled": "pooled"}, terms.vid()
    ),
    "ab": terms.on_layers(
        [("stage1", "stage1"), ("stage2", "stage2"), ("logits", "logits")], terms.ab()
    ),
    "ft": terms.on_layers(("stage1", "stage1"), terms.ft()),
    "ft, smaller": terms.on_layers(
        ("stage2", "stage1"), terms.ft(objective=objectives.ft_repdistiller)
    ),
    "ft, start": terms.pretraining(terms.on_layers(("stage1", "stage1"), terms.ft())),
    "global cc": terms.over_global_batch(
        terms.on_layers("pooled", terms.cc(features=4))
    ),
    "crd": terms.on_layers(
        "pooled", terms.crd(B, negatives.per_example(12, LABELS), features=4)
    ),
    "crd, no labels": terms.on_layers(
        "pooled", terms.crd(B, negatives.per_example(12), features=4)
    ),
    "crd, relax": terms.on_layers(
        "pooled",
        terms.crd(B, negatives.per_example(12, LABELS, relax=True), features=4),
    ),
    "crd, given": terms.on_layers(
        "pooled", terms.crd(B, negatives.from_batch(), features=4)
    ),
    "crd, expected": terms.on_layers(
        "pooled", terms.crd(B, negatives.expectation(12, LABELS), features=4)
    ),
    "crd, shared": terms.on_layers(
        "pooled", terms.crd(B, negatives.per_batch(6, LABELS), features=4)
    ),
    "global crd of batch": terms.over_global_batch(
        terms.on_layers("pooled", terms.crd_of_batch(features=4))
    ),
    "against two": terms.per_teacher(
        ["a", "b"], terms.on_layers("pooled", terms.hint()), weights=(1.0, 0.5)
    ),
    "crd against two": terms.per_teacher(
        ["a", "b"],
        terms.on_layers("pooled", terms.crd(B, negatives.per_example(12), features=4)),
    ),
    "kd, mean": terms.on_layers(("logits", ["a/logits", "b/logits"]), terms.kd_mean()),
    "global rdl, mean": terms.over_global_batch(
        terms.on_layers(("pooled", ["a/pooled", "b/pooled"]), terms.rdl_mean())
    ),
}
# What the term's own phase trains, where it is not all of its parameters.
TRAINS = {
    "ft": ("translator",),
    "ft, smaller": ("translator",),
    "ft, start": ("paraphraser",),
}
# Terms whose phase does not train the student.
OF_TEACHER_ALONE = ("ft, start",)


def split(tree, devices):
    """Each `[B, ...]` as `[devices, B / devices, ...]`."""
    return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), tree)


def made(term, *activations):
    """What a term begins with, but for kernels drawn by NumPy.

    (To compile JAX's draws would take most of the time here.)
    """

    @jax.jit
    def init(key):
        params, state = term.init(key, *activations)
        undrawn = lambda path, x: jnp.zeros_like(x) if is_kernel(path) else x  # noqa: E731
        return jax.tree.map_with_path(undrawn, params), state

    def is_kernel(path):
        return isinstance(path[-1], jax.tree_util.DictKey) and path[-1].key == "kernel"

    random = np.random.default_rng(0)

    def drawn(path, x):
        if not is_kernel(path):
            return x
        numbers = random.normal(0, np.prod(x.shape[:-1]) ** -0.5, x.shape)
        return jnp.asarray(numbers, x.dtype)

    params, state = init(jax.random.key(0))
    return jax.tree.map_with_path(drawn, params), state


@functools.cache
def started(name):
    return made(TERMS[name], STUDENT, TEACHER)


def start(name):
    return jax.tree.map(lambda x: x, started(name))


def run(term, params, state, student=STUDENT, teacher=TEACHER, batch=BATCH):
    """What a term answers, by one compiled program."""
    return jax.jit(term.apply)(params, state, student, teacher, batch)


@functools.cache
def computed(name):
    """By one program: what a term answers, its gradients, and those over devices."""
    term = TERMS[name]
    if name in ("rdl", "rdl pairs", "in order"):
        divided = terms.over_global_batch(term)
    else:
        divided = term

    @jax.jit
    def compute(params, state, student, teacher, batch):
        def loss(params, student, teacher):
            return term.apply(params, state, student, teacher, batch)

        def local(student, teacher, batch):
            def loss(params, student):
                return divided.apply(params, state, student, teacher, batch, "d")[0]

            both = jax.value_and_grad(loss, argnums=(0, 1))
            value, (own, wrt) = both(params, student)
            return jax.lax.pmean((value, own), "d"), wrt

        whole = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
        parts = split((student, teacher, batch), 4)
        found = jax.vmap(local, axis_name="d")(*parts)
        return *whole(params, student, teacher), found

    (loss, new), *found = compute(*start(name), STUDENT, TEACHER, BATCH)
    return loss, new, *jax.device_get(found)


def value_of(name):
    return computed(name)[0]


def assert_traced_alike(one, other, *given):
    """Asserts that two traces are of the same operations and the same constants."""
    first, second = (jax.make_jaxpr(f)(*given) for f in (one, other))
    assert str(first) == str(second)
    for a, b in zip(first.consts, second.consts, strict=True):
        np.testing.assert_array_equal(a, b)


def assert_the_same_without_compilation(name):
    expected, _ = TERMS[name].apply(*start(name), STUDENT, TEACHER, BATCH)
    np.testing.assert_allclose(computed(name)[0], expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["task", "kd", "hint"])
def test_a_compiled_term_is_the_same(name):
    assert_the_same_without_compilation(name)


# Of these other tests have what is their own: the negatives (those over devices are in
# test_devices.py), an order of layers, a memory for each teacher. And over devices
# "rdl pairs" is "global".
ALIKE = ("crd, no labels", "crd, relax", "crd, given", "crd, expected")
ALIKE += ("in order", "global", "crd against two")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n in ALIKE)) for n in TERMS],
)
class TestEveryTerm:
    def test_init_looks_at_shapes_alone(self, name):
        shapes = jax.eval_shape(lambda: (STUDENT, TEACHER))
        init, key = TERMS[name].init, jax.random.key(0)
        assert_traced_alike(
            lambda key: init(key, STUDENT, TEACHER), lambda key: init(key, *shapes), key
        )

    def test_apply_answers_a_loss_and_a_state(self, name):
        loss, new, *_ = computed(name)
        assert loss.shape == () and np.isfinite(loss)
        assert jax.tree.structure(new) == jax.tree.structure(start(name)[1])

    def test_apply_is_pure(self, name):
        apply, given = TERMS[name].apply, (*start(name), STUDENT, TEACHER, BATCH)
        assert_traced_alike(lambda *a: apply(*a), lambda *a: apply(*a), *given)

    @pytest.mark.slow
    def test_a_compiled_term_is_the_same(self, name):
        assert_the_same_without_compilation(name)

    def test_every_leaf_of_params_receives_a_gradient(self, name):
        params, gradient = start(name)[0], computed(name)[2][0]
        for part in TRAINS.get(name, [None]):
            trained = gradient if part is None else gradient[part]
            for path, leaf in jax.tree.leaves_with_path(trained):
                assert abs(leaf).max() > 1e-7, path
        for part in set(params) - set(TRAINS[name]) if name in TRAINS else ():
            assert not any(leaf.any() for leaf in jax.tree.leaves(gradient[part]))

    def test_student_gets_a_gradient_and_teacher_none(self, name):
        student, teacher = computed(name)[2][1:]
        moves = any(leaf.any() for leaf in jax.tree.leaves(student))
        assert moves != (name in OF_TEACHER_ALONE)
        assert not any(leaf.any() for leaf in jax.tree.leaves(teacher))

    def test_the_gradient_over_devices_is_that_of_the_global_batch(self, name):
        loss, _, expected, ((value, own), student) = computed(name)
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
        close(value[0], loss)
        jax.tree.map(lambda a, b: close(a[0], b), own, expected[0])
        # A device's loss is the mean over its part or, gathered, the whole loss once on
        # every device: either way four times what its rows contribute.
        jax.tree.map(
            lambda a, b: close(a.reshape(b.shape) / 4, b), student, expected[1]
        )


def test_relations_within_each_device_are_another_loss():
    params, state = start("rdl")
    apply = functools.partial(TERMS["rdl"].apply, params, state)
    whole, _ = jax.jit(apply)(STUDENT, TEACHER, BATCH)
    parts, _ = jax.jit(jax.vmap(apply))(*split((STUDENT, TEACHER, BATCH), 2))
    assert abs(jnp.mean(parts) - whole) > 0.01


def test_cross_entropy_is_that_of_optax():
    loss, _ = TERMS["task"].apply({}, terms.State(), STUDENT, {}, BATCH)
    expected = optax.softmax_cross_entropy_with_integer_labels(
        STUDENT["logits"], BATCH["label"]
    ).mean()
    np.testing.assert_allclose(loss, expected)


def test_labelled_objectives_see_the_labels_of_the_batch():
    found, _ = TERMS["dkd"].apply(*start("dkd"), STUDENT, TEACHER, BATCH)
    logits = STUDENT["logits"], TEACHER["logits"]
    expected = objectives.dkd(*logits, BATCH["label"], beta=2.0)
    np.testing.assert_allclose(found, expected)


class TestBetween:
    def test_a_name_is_that_layer_of_both(self):
        expected = objectives.kd(STUDENT["logits"], TEACHER["logits"], temperature=2.0)
        found, _ = TERMS["kd"].apply(*start("kd"), STUDENT, TEACHER, BATCH)
        np.testing.assert_allclose(found, expected)

    def test_a_dict_is_those_layers_as_dicts(self):
        rdl = jax.jit(objectives.rdl)
        expected = sum(rdl(STUDENT[k], TEACHER[k]) for k in LAYERS)
        np.testing.assert_allclose(value_of("rdl"), expected, rtol=1e-6)

    def test_a_list_is_those_layers_in_order(self):
        seen = []

        def objective(student, teacher):
            seen.append((student, teacher))
            return jnp.zeros(())

        term = terms.on_layers(
            ["stage1", ("stage2", "pooled")], terms.from_objective(objective)
        )
        term.apply({}, terms.State(), STUDENT, TEACHER, BATCH)
        ((student, teacher),) = seen
        assert isinstance(student, tuple) and isinstance(teacher, tuple)
        assert [x.shape[1:] for x in student] == [(4, 4, 3), (2, 2, 5)]
        assert [x.shape[1:] for x in teacher] == [(4, 4, 7), (9,)]

    @pytest.mark.parametrize(
        ("pairs", "message"),
        [
            ("stag1", "student layer 'stag1'; did you mean 'stage1'"),
            (("stage1", "poled"), "teacher layer 'poled'; did you mean 'pooled'"),
            ({"stage1": "x9"}, "teacher layer 'x9'. Known: stage1"),
            (["pooled", "loggits"], "student layer 'loggits'; did you mean 'logits'"),
        ],
    )
    def test_an_unknown_layer_is_named_with_its_nearest(self, pairs, message):
        term = terms.on_layers(pairs, terms.rdl())
        with pytest.raises(errors.UnknownName, match=message):
            made(term, STUDENT, TEACHER)
        with pytest.raises(errors.UnknownName, match=message):
            term.apply({}, terms.State(), STUDENT, TEACHER, BATCH)


class TestHint:
    def test_has_a_regressor_a_layer(self):
        params, _ = start("hints")
        assert set(params) == {"stage2", "pooled"}
        assert params["pooled"]["Dense_0"]["kernel"].shape == (6, 9)

    @pytest.mark.parametrize(
        ("student", "teacher"),
        [({"a": (5,)}, {"a": (2, 2, 3)}), ({"a": (5,)}, {"b": (5,)})],
    )
    def test_layers_that_no_regressor_joins(self, student, teacher):
        make = lambda shapes: {k: draw(s, 0) for k, s in shapes.items()}  # noqa: E731
        with pytest.raises(ValueError, match="^hint: "):
            terms.hint().init(jax.random.key(0), make(student), make(teacher))

    def test_tokens(self):
        student, teacher = {"a": draw((3, 5), 0)}, {"a": draw((3, 7), 1)}
        term = terms.hint()
        params, state = made(term, student, teacher)
        loss, _ = run(term, params, state, student, teacher)
        assert params["a"]["Dense_0"]["kernel"].shape == (5, 7) and loss > 0

    def test_training_the_regressor_lowers_the_loss(self):
        params, state = start("hint")
        form = lambda p: TERMS["hint"].apply(p, state, STUDENT, TEACHER, BATCH)[0]  # noqa: E731

        @jax.jit
        def step(params):
            value, gradient = jax.value_and_grad(form)(params)
            return jax.tree.map(lambda x, g: x - 0.1 * g, params, gradient), value

        params, before = step(params)
        for _ in range(50):
            params, value = step(params)
        assert value < 0.5 * before


def released(name):
    path = pathlib.Path(__file__).parent / "reference" / "repdistiller.npz"
    with np.load(path) as cases:
        return {
            key.removeprefix(f"{name}/"): jnp.asarray(cases[key])
            for key in cases.files
            if key.startswith(f"{name}/")
        }


def close_to_largest(found, expected):
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=1e-8 * np.abs(expected).max()
    )


class TestVID:
    def test_equals_the_released_code_with_its_weights(self, float64):
        case = released("vid")
        params = {
            "mean": {f"Dense_{i}": {"kernel": case[f"weight{i}"]} for i in range(3)},
            "log_scale": case["log_scale"],
        }
        term = terms.vid()

        def form(params, student):
            return term.apply(params, terms.State(), student, case["teacher"], {})[0]

        gradients = jax.jit(jax.value_and_grad(form, argnums=(0, 1)))
        value, (own, student) = gradients(params, case["student"])
        np.testing.assert_allclose(value, case["value"], rtol=1e-9)
        close_to_largest(student, case["grad_student"])
        close_to_largest(own["log_scale"], case["grad_log_scale"])
        for i in range(3):
            found = own["mean"][f"Dense_{i}"]["kernel"]
            close_to_largest(found, case[f"grad_weight{i}"])

    def test_the_first_variance(self, float64):
        params, _ = made(TERMS["vid"], STUDENT, TEACHER)
        for scale in jax.tree.leaves(params["log_scale"]):
            np.testing.assert_allclose(jax.nn.softplus(scale) + 1e-5, 5, rtol=1e-6)

    def test_the_variance_learns_what_cannot_be_predicted(self):
        # The best variance of a channel is its mean squared error.
        term = terms.vid()
        student, teacher = np.zeros((B, 2), np.float32), np.float32([[2.0, 0.1]])
        teacher = np.concatenate([teacher, -teacher] * (B // 2))
        params, state = made(term, student, teacher)
        form = lambda p: term.apply(p, state, student, teacher, {})[0]  # noqa: E731
        step = jax.jit(
            lambda p: jax.tree.map(lambda x, g: x - 0.5 * g, p, jax.grad(form)(p))
        )
        for _ in range(3000):
            params = step(params)
        found = jax.nn.softplus(params["log_scale"])
        np.testing.assert_allclose(found, [4.0, 0.01], rtol=0.05)


class TestAB:
    def test_no_connector_between_layers_of_the_same_shape(self):
        params, _ = start("ab")
        assert params[2] == {} and set(params[0]) == {"Conv_0", "BatchNorm_0"}

    def test_a_teacher_map_larger_than_any_convolution_makes(self):
        student, teacher = (draw((3, 3, 2), 0),), (draw((5, 5, 4), 1),)
        params, state = made(terms.ab(), student, teacher)
        loss, _ = run(terms.ab(), params, state, student, teacher)
        assert jnp.isfinite(loss) and loss > 0


class TestFT:
    def test_the_start_up_trains_the_paraphraser_to_reconstruct(self):
        params, state = start("ft, start")
        form = lambda p: TERMS["ft, start"].apply(p, state, STUDENT, TEACHER, BATCH)[0]  # noqa: E731
        tx = optax.adam(1e-2)
        optimizer = tx.init(params)

        @jax.jit
        def step(params, optimizer):
            value, gradient = jax.value_and_grad(form)(params)
            updates, optimizer = tx.update(gradient, optimizer)
            return optax.apply_updates(params, updates), optimizer, value

        params, optimizer, before = step(params, optimizer)
        for _ in range(300):
            params, optimizer, value = step(params, optimizer)
        assert value < 0.3 * before

    def test_a_factor_has_a_share_of_the_teachers_channels(self):
        term = terms.on_layers(("stage1", "stage1"), terms.ft(rate=0.3))
        params, _ = made(term, STUDENT, TEACHER)
        assert params["translator"]["Conv_2"]["kernel"].shape == (3, 3, 2, 2)

    def test_maps_alone(self):
        with pytest.raises(ValueError, match=r"ft: expected maps.*\(8, 6\).*\(8, 9\)"):
            terms.on_layers("pooled", terms.ft()).init(
                jax.random.key(0), STUDENT, TEACHER
            )

    def test_other_terms_have_no_start_up(self):
        with pytest.raises(ValueError, match="no pretraining"):
            terms.pretraining(TERMS["hint"])


class TestCRD:
    def test_equals_the_released_code_over_two_steps(self, float64):
        case = released("crd")
        term = terms.crd(40, negatives.from_batch(), features=16)
        params = {
            side: {
                "Dense_0": {
                    part: case[f"embed_{side}_{part}"] for part in ("kernel", "bias")
                }
            }
            for side in ("student", "teacher")
        }
        ones = np.ones((12, 7)), np.ones((12, 11))
        _, state = jax.jit(term.init)(jax.random.key(0), *ones)
        bank = objectives.Bank(
            case["bank_student0"], case["bank_teacher0"], jnp.zeros(2)
        )
        state = terms.State({**state.replicated, "bank": bank})
        both = jax.value_and_grad(term.apply, argnums=(0, 2), has_aux=True)
        gradients = jax.jit(both)
        for step in ("step0", "step1"):
            now = {k: case[f"{step}/{k}"] for k in ("student", "teacher")}
            batch = {k: case[f"{step}/{k}"] for k in ("index", "contrast_index")}

            (value, state), (own, student) = gradients(
                params, state, now["student"], now["teacher"], batch
            )
            np.testing.assert_allclose(value, case[f"{step}/value"], rtol=1e-9)
            close_to_largest(student, case[f"{step}/grad_student"])
            for side in ("student", "teacher"):
                found = own[side]["Dense_0"]["kernel"]
                close_to_largest(found, case[f"{step}/grad_embed_{side}_kernel"])
                found = getattr(state.replicated["bank"], side)
                close_to_largest(found, case[f"{step}/bank_{side}"])
            found = state.replicated["bank"].normalizers
            close_to_largest(found, case[f"{step}/normalizers"])

    # (Those of the others are in test_devices.py, on one device and on eight.)
    @pytest.mark.parametrize(
        "name",
        [
            *("crd", "crd, given"),
            *(
                pytest.param(name, marks=pytest.mark.slow)
                for name in ("crd, relax", "crd, expected", "crd, shared")
            ),
        ],
    )
    def test_banks_and_normalizers_do_not_depend_on_the_devices(self, name):
        params, state = start(name)
        apply = functools.partial(TERMS[name].apply, params, state)
        mapped = jax.vmap(functools.partial(apply, axis_name="d"), axis_name="d")

        @jax.jit
        def both(*seen):
            return apply(*seen)[1], mapped(*split(seen, 4))[1]

        whole, parts = jax.device_get(both(STUDENT, TEACHER, BATCH))
        for one in range(4):
            mine = jax.tree.map(lambda x, i=one: x[i], parts.replicated["bank"])
            jax.tree.map(
                functools.partial(np.testing.assert_allclose, rtol=1e-5),
                mine,
                whole.replicated["bank"],
            )

    def test_normalizers_are_those_of_the_first_batch(self):
        params, state = start("crd")
        apply = jax.jit(TERMS["crd"].apply)
        found = []
        for _ in range(3):
            _, state = apply(params, state, STUDENT, TEACHER, BATCH)
            found.append(state.replicated["bank"].normalizers)
        assert (found[0] > 0).all()
        np.testing.assert_array_equal(found[0], found[1])
        np.testing.assert_array_equal(found[0], found[2])

    @pytest.mark.parametrize("term", [terms.crd, terms.crd_sharded])
    @pytest.mark.parametrize(
        ("policy", "devices"),
        [
            *((p, 2) for p in ("many", "expected")),
            ("few", 1),
            *(
                pytest.param(p, 2, marks=pytest.mark.slow)
                for p in ("given", "few", "shared")
            ),
            *(
                pytest.param(p, 1, marks=pytest.mark.slow)
                for p in ("given", "many", "expected", "shared")
            ),
        ],
    )
    def test_banks_are_updated_where_they_lie(self, term, policy, devices):
        n, features, labels = 5000, 256, np.arange(5000) % 3
        choose = {
            "given": negatives.from_batch(),
            "few": negatives.per_example(4, labels),  # gathered
            "many": negatives.per_example(n // 5, labels),  # by a product with all
            "expected": negatives.expectation(4, labels),
            "shared": negatives.per_batch(4, labels),
        }[policy]
        term = terms.on_layers("pooled", term(n, choose, features=features))
        of_one = jax.tree.map(lambda x: x[:2], (STUDENT, TEACHER, BATCH))
        params, state = jax.eval_shape(term.init, jax.random.key(0), *of_one[:2])
        several = lambda tree: jax.tree.map(  # noqa: E731
            lambda x: jax.ShapeDtypeStruct((devices, *x.shape), x.dtype), tree
        )

        def step(state, params, student, teacher, batch, axis_name=None):
            return jax.value_and_grad(term.apply, argnums=(0, 2), has_aux=True)(
                params, state, student, teacher, batch, axis_name
            )

        if devices == 1:
            mapped, given = jax.jit(step, donate_argnums=0), (state, params, *of_one)
        else:
            mapped = jax.pmap(
                functools.partial(step, axis_name="device"),
                axis_name="device",
                donate_argnums=0,
                devices=jax.devices()[:devices],
            )
            rows = jax.eval_shape(
                lambda rows: jax.tree.map(lambda x: x[: n // devices], rows),
                state.per_device,
            )
            given = several((terms.State(state.replicated, rows), params, *of_one))
        memory = mapped.lower(*given).compile().memory_analysis()
        banks = 2 * 4 * n * features // (1 if state.replicated.get("bank") else devices)
        assert memory.alias_size_in_bytes >= banks
        assert memory.temp_size_in_bytes < banks / 4

    def test_each_step_draws_anew_and_moves_the_rows_of_the_batch_alone(self):
        params, state = start("crd, no labels")
        part = jax.tree.map(lambda x: x[2:5], (STUDENT, TEACHER, BATCH))
        first, after = run(TERMS["crd, no labels"], params, state, *part)
        second, _ = run(
            TERMS["crd, no labels"],
            params,
            terms.State(state.replicated | {"key": after.replicated["key"]}),
            *part,
        )
        assert first != second
        for side in ("student", "teacher"):
            before, now = (
                np.asarray(getattr(s.replicated["bank"], side)) for s in (state, after)
            )
            moved = (before != now).any(axis=1)
            np.testing.assert_array_equal(moved, [0, 0, 1, 1, 1, 0, 0, 0])
            np.testing.assert_allclose(np.linalg.norm(now[2:5], axis=1), 1, rtol=1e-6)

    def test_training_the_heads_tells_examples_apart(self):
        term = terms.on_layers(
            "pooled", terms.crd(B, negatives.expectation(100, LABELS), features=4)
        )
        params, state = made(term, STUDENT, TEACHER)

        @jax.jit
        def step(params, state):
            def loss(p):
                return term.apply(p, state, STUDENT, TEACHER, BATCH)

            (value, state), gradient = jax.value_and_grad(loss, has_aux=True)(params)
            moved = jax.tree.map(lambda x, g: x - 0.02 * g, params, gradient)
            return moved, state, value

        losses = []
        for _ in range(300):
            params, state, value = step(params, state)
            losses.append(float(value))
        assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])

    def test_a_batch_of_one_class_is_finite_without_a_bank(self):
        term = terms.on_layers("pooled", terms.crd_of_batch(features=4))
        params, state = made(term, STUDENT, TEACHER)
        batch = {"label": jnp.zeros(B, int)}
        form = lambda p: term.apply(p, state, STUDENT, TEACHER, batch)[0]  # noqa: E731
        value, gradient = jax.jit(jax.value_and_grad(form))(params)
        assert np.isfinite(value)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))

    @pytest.mark.parametrize(
        "make",
        [
            lambda: TestCRD.apply(terms.crd(B, negatives.per_example(3, LABELS[:-1]))),
            lambda: TestCRD.apply(terms.crd(B, negatives.expectation(3, LABELS[:-1]))),
            lambda: TestCRD.apply(terms.crd(B, negatives.per_batch(3, LABELS[:-1]))),
        ],
    )
    def test_a_label_for_each_training_example(self, make):
        with pytest.raises(ValueError, match=r"each of 8 training examples.*\(7,\)"):
            make()

    @staticmethod
    def apply(term):
        return TestCRD.run(terms.on_layers("pooled", term))

    @staticmethod
    def run(term):
        params, state = made(term, STUDENT, TEACHER)
        return run(term, params, state)


class TestValues:
    """Each term is its objective of what its parts make, written out."""

    def test_an_embedding_of_both_sides_for_cc(self):
        params, _ = start("global cc")
        found = value_of("global cc")
        s, t = (
            x["pooled"] @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"][None]
            for x, p in ((STUDENT, params["student"]), (TEACHER, params["teacher"]))
        )
        expected = objectives.cc_repdistiller(s, t)
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_the_margin_and_the_normalised_connector_of_ab(self):
        pairs = [("stage1", "stage1"), ("logits", "logits")]
        term = terms.on_layers(pairs, terms.ab(margin=0.3))
        params, state = made(term, STUDENT, TEACHER)
        found, _ = run(term, params, state)
        x = STUDENT["stage1"] @ params[0]["Conv_0"]["kernel"][0, 0]
        x = x - x.mean(axis=(0, 1, 2), keepdims=True)
        x = x / jnp.sqrt((x**2).mean(axis=(0, 1, 2), keepdims=True) + 1e-5)
        expected = objectives.ab(
            [x, STUDENT["logits"]],
            [TEACHER["stage1"], TEACHER["logits"]],
            margin=0.3,
        )
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    def test_the_hint_of_repdistiller_is_normalised_and_rectified(self):
        term = terms.on_layers("pooled", terms.hint(normalize=True, activation=abs))
        params, state = made(term, STUDENT, TEACHER)
        found, _ = run(term, params, state)
        x = STUDENT["pooled"] @ params["Dense_0"]["kernel"]
        x = (x - x.mean(axis=0)[None]) / jnp.sqrt(x.var(axis=0) + 1e-5)[None]
        expected = jnp.mean((jnp.abs(x) - TEACHER["pooled"]) ** 2)
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    def test_translator_and_paraphraser_of_ft(self):
        params, _ = start("ft")
        found = value_of("ft")

        def encode(x, params, normalize):
            for i in range(3):
                own = params[f"Conv_{i}"]
                x = jax.lax.conv_general_dilated(
                    x,
                    own["kernel"],
                    (1, 1),
                    "SAME",
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
                if normalize:
                    x = x - x.mean(axis=(0, 1, 2), keepdims=True)
                    x = x / jnp.sqrt((x**2).mean(axis=(0, 1, 2), keepdims=True) + 1e-5)
                else:
                    x = x + own["bias"][None, None, None]
                x = jnp.where(x > 0, x, 0.1 * x)
            return x

        factor = encode(STUDENT["stage1"], params["translator"], True)
        own = params["paraphraser"]["encoder"]
        target = encode(TEACHER["stage1"], own, False)
        expected = objectives.ft(factor, target)
        np.testing.assert_allclose(found, expected, rtol=1e-4)

    def test_vid_takes_a_vector_beside_maps_as_a_map_of_one_position(self):
        term = terms.on_layers(("pooled", "stage2"), terms.vid())
        params, state = made(term, STUDENT, TEACHER)
        loss, _ = run(term, params, state)
        x, t = (np.asarray(v, float) for v in (STUDENT["pooled"], TEACHER["stage2"]))
        for i in range(3):
            x = x @ np.asarray(params["mean"][f"Dense_{i}"]["kernel"], float)
            x = np.maximum(x, 0) if i < 2 else x
        variance = np.log1p(np.exp(np.asarray(params["log_scale"], float))) + 1e-5
        error = (x - t.mean(axis=(1, 2))) ** 2
        want = np.mean(0.5 * (error / variance + np.log(variance)))
        np.testing.assert_allclose(loss, want, rtol=1e-5)

    def test_vid_with_another_smallest_variance(self):
        term = terms.on_layers("pooled", terms.vid(variance=2.0, epsilon=0.5))
        params, state = made(term, STUDENT, TEACHER)
        found, _ = run(term, params, state)
        x = STUDENT["pooled"]
        for i in range(3):
            x = x @ params["mean"][f"Dense_{i}"]["kernel"]
            x = jnp.maximum(x, 0) if i < 2 else x
        expected = jnp.mean((x - TEACHER["pooled"]) ** 2 / 2 + jnp.log(2.0)) / 2
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_the_momentum_of_the_banks(self):
        term = terms.on_layers(
            "pooled", terms.crd(B, negatives.from_batch(), features=4, momentum=0.9)
        )
        params, state = made(term, STUDENT, TEACHER)
        _, after = run(term, params, state)
        own = params["student"]["Dense_0"]
        z = STUDENT["pooled"] @ own["kernel"] + own["bias"][None]
        z = z / jnp.linalg.norm(z, axis=1, keepdims=True)
        mixed = 0.9 * state.replicated["bank"].student + 0.1 * z
        expected = mixed / jnp.linalg.norm(mixed, axis=1, keepdims=True)
        found = after.replicated["bank"].student
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    @pytest.mark.parametrize("label", ["label", None])
    def test_the_batch_as_its_own_bank(self, label):
        term = terms.on_layers(
            "pooled", terms.crd_of_batch(features=4, temperature=0.5, label=label)
        )
        params, state = made(term, STUDENT, TEACHER)
        found, _ = run(term, params, state)
        s, t = (
            x["pooled"] @ p["Dense_0"]["kernel"] + p["Dense_0"]["bias"][None]
            for x, p in ((STUDENT, params["student"]), (TEACHER, params["teacher"]))
        )
        s, t = (
            np.asarray(x / jnp.linalg.norm(x, axis=1, keepdims=True), np.float64)
            for x in (s, t)
        )
        labels = np.arange(B) if label is None else LABELS
        total = 0.0
        for anchors, keys in ((s, t), (t, s)):
            p = np.exp(anchors @ keys.T / 0.5)
            p = p / (p.mean() * B)
            for i in range(B):
                others = labels != labels[i]
                noise = others.sum() / B
                total -= np.log(p[i, i] / (p[i, i] + noise))
                total -= np.sum(np.log(noise / (p[i, others] + noise)))
        np.testing.assert_allclose(found, total / B, rtol=1e-4)


class TestWrongCalls:
    def start(self, layers, term):
        return terms.on_layers(layers, term).init(jax.random.key(0), STUDENT, TEACHER)

    def test_one_layer_is_embedded(self):
        for term in (terms.cc(), terms.crd(B, negatives.from_batch())):
            with pytest.raises(ValueError, match="one layer to embed, got dict"):
                self.start({"pooled": "pooled"}, term)
        with pytest.raises(ValueError, match="ft: expected maps.*student dict"):
            self.start({"stage1": "stage1"}, terms.ft())

    def test_negatives_are_chosen_by_a_function(self):
        with pytest.raises(ValueError, match="rdljax.terms.negatives, got 16384"):
            terms.crd(B, 16384)

    def test_a_batch_without_index(self):
        term = TERMS["crd, given"]
        batch = {"contrast_index": BATCH["contrast_index"]}
        with pytest.raises(errors.UnknownName, match="entry of the batch 'index'"):
            term.apply(*start("crd, given"), STUDENT, TEACHER, batch)

    @pytest.mark.parametrize(("variance", "epsilon"), [(0.0, 1e-5), (1.0, 0.0)])
    def test_variances_are_above_zero(self, variance, epsilon):
        with pytest.raises(ValueError, match="of vid must be .* above .*, got [01].0"):
            terms.vid(variance=variance, epsilon=epsilon)

    def test_a_large_first_variance(self):
        term = terms.on_layers("pooled", terms.vid(variance=1000.0))
        params, _ = made(term, STUDENT, TEACHER)
        np.testing.assert_allclose(params["log_scale"], 1000, rtol=1e-4)

    def test_a_weight_for_each_target_of_one_shape(self):
        layers = ("logits", ["a/logits", "b/logits"])
        with pytest.raises(ValueError, match="a weight for each"):
            TestCRD.run(terms.on_layers(layers, terms.kd_mean(weights=(1, 2, 3))))
        layers = ("logits", ["a/logits", "pooled"])
        with pytest.raises(ValueError, match="targets of one shape"):
            TestCRD.run(terms.on_layers(layers, terms.kd_mean()))

    def test_a_teacher_named_twice(self):
        with pytest.raises(ValueError, match="a weight for each of"):
            terms.per_teacher(["a", "a"], TERMS["kd"])


class TestSeveralTeachers:
    def test_against_each_is_the_weighted_sum(self):
        params, _ = start("against two")
        assert set(params) == {"a", "b"}
        found = value_of("against two")
        one = lambda name: terms.hint().apply(  # noqa: E731
            params[name],
            terms.State(),
            STUDENT["pooled"],
            TEACHER[f"{name}/pooled"],
            BATCH,
        )[0]
        np.testing.assert_allclose(found, one("a") + 0.5 * one("b"), rtol=1e-6)

    def test_each_has_a_memory_of_its_own(self):
        params, state = start("crd against two")
        banks = {name: s["bank"] for name, s in state.replicated.items()}
        assert (banks["a"].student != banks["b"].student).any()
        _, after = run(TERMS["crd against two"], params, state)
        for name in ("a", "b"):
            now = after.replicated[name]["bank"]
            assert (now.teacher != banks[name].teacher).all()

    def test_the_mean_of_probabilities(self):
        p = [jax.nn.softmax(TEACHER[f"{n}/logits"] / 4) for n in ("a", "b")]
        q = jax.nn.log_softmax(STUDENT["logits"] / 4)
        mean = (p[0] + p[1]) / 2
        expected = 16 * jnp.mean(jnp.sum(mean * (jnp.log(mean) - q), axis=1))
        np.testing.assert_allclose(value_of("kd, mean"), expected, rtol=1e-5)

    def test_the_weighted_mean_of_rdms(self):
        @jax.jit
        def of_rdms(weights, teacher):
            rdms = [rdm.compute(teacher[f"{n}/pooled"]) for n in ("a", "b")]
            target = weights[0] * rdms[0] + weights[1] * rdms[1]
            return objectives.rdl_target(STUDENT["pooled"], target)

        expected = of_rdms((0.5, 0.5), TEACHER)
        np.testing.assert_allclose(value_of("global rdl, mean"), expected, rtol=1e-5)
        term = terms.on_layers(
            ("logits", ["a/logits", "b/logits"]), terms.kd_mean(weights=(3, 1))
        )
        p = [jax.nn.softmax(TEACHER[f"{n}/logits"] / 4) for n in ("a", "b")]
        logits = 4 * jnp.log(0.75 * p[0] + 0.25 * p[1])
        found, _ = term.apply({}, terms.State(), STUDENT, TEACHER, BATCH)
        kd = objectives.kd(STUDENT["logits"], logits)
        np.testing.assert_allclose(found, kd, rtol=1e-5)
        term = terms.on_layers(
            ("pooled", ["a/pooled", "b/pooled"]), terms.rdl_mean(weights=(3, 1))
        )
        found, _ = run(term, {}, terms.State())
        expected = of_rdms((0.75, 0.25), TEACHER)
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_an_unknown_teacher_is_named_with_its_nearest(self):
        teacher = {"first/logits": TEACHER["logits"]}
        term = terms.per_teacher(["frist"], TERMS["kd"])
        with pytest.raises(errors.UnknownName, match="did you mean 'first'"):
            term.init(jax.random.key(0), STUDENT, teacher)

    @pytest.mark.parametrize("weights", [(1.0,), (1.0, 2.0, 3.0)])
    def test_a_weight_for_each_teacher(self, weights):
        with pytest.raises(ValueError, match="a weight for each of"):
            terms.per_teacher(["a", "b"], TERMS["kd"], weights)


class TestRandomPairs:
    def test_each_step_draws_anew(self):
        params, state = start("rdl pairs")
        losses = []
        for _ in range(3):
            loss, state = run(TERMS["rdl pairs"], params, state)
            losses.append(float(loss))
        assert len(set(losses)) == 3

    def test_many_pairs_approach_all_of_them(self):
        term = terms.on_layers(
            "pooled", terms.rdl(pairs=20_000, comparison=rdm.comparisons.MSE())
        )
        params, state = made(term, STUDENT, TEACHER)
        found, _ = run(term, params, state)
        mse = functools.partial(objectives.rdl, comparison=rdm.comparisons.MSE())
        expected = jax.jit(mse)(STUDENT["pooled"], TEACHER["pooled"])
        np.testing.assert_allclose(found, expected, rtol=0.05)

    def test_all_devices_draw_the_same_pairs(self):
        params, state = start("global")
        apply = functools.partial(TERMS["global"].apply, params, state, axis_name="d")
        parts = split((STUDENT, TEACHER, BATCH), 4)
        losses, states = jax.jit(jax.vmap(apply, axis_name="d"))(*parts)
        whole, after = run(TERMS["global"], params, state)
        np.testing.assert_allclose(losses, jnp.full(4, whole), rtol=1e-5)
        keys = jax.random.key_data(states.replicated)
        np.testing.assert_array_equal(keys, [jax.random.key_data(after.replicated)] * 4)


class TestTeachers:
    def test_a_net_answers_its_activations_without_a_gradient(self):
        class Double:
            def apply(self, variables, images, train):
                assert not train
                return {"logits": variables["w"] * images}

        teacher = teachers.net(Double(), {"w": jnp.array(2.0)})
        batch = {"image": jnp.ones((3, 1))}
        seen = teacher.targets(teacher.arrays, batch)
        np.testing.assert_array_equal(seen["logits"], 2)
        gradient = jax.grad(lambda a: teacher.targets(a, batch)["logits"].sum())
        assert gradient(teacher.arrays)["w"] == 0

    def test_a_net_may_see_another_input_than_the_student(self):
        class Same:
            def apply(self, variables, images, train):
                return {"logits": images}

        teacher = teachers.net(Same(), {}, inputs="sound")
        batch = {"image": jnp.zeros(3), "sound": jnp.ones(3)}
        assert teacher.targets(teacher.arrays, batch)["logits"].all()

    def test_several_teachers_are_one_with_their_names_before_the_layers(self):
        class Scale:
            def apply(self, variables, images, train):
                return {"logits": variables * images}

        teacher = teachers.ensemble(
            {
                "a": teachers.net(Scale(), jnp.array(2.0)),
                "b": teachers.net(Scale(), jnp.array(3.0), inputs="sound"),
            }
        )
        batch = {"image": jnp.ones(3), "sound": jnp.full(3, 5.0)}
        seen = teacher.targets(teacher.arrays, batch)
        assert set(seen) == {"a/logits", "b/logits"}
        np.testing.assert_array_equal(seen["a/logits"], 2)
        np.testing.assert_array_equal(seen["b/logits"], 15)

    @pytest.mark.parametrize("names", [[], ["a/b"]])
    def test_several_teachers_have_plain_names(self, names):
        with pytest.raises(ValueError, match="names without a slash"):
            teachers.ensemble({name: teachers.none() for name in names})

    def test_nobody_teaches_nothing(self):
        teacher = teachers.none()
        assert teacher.targets(teacher.arrays, {}) == {}


class TestOutOfRange:
    """Labels and indices that are none give NaN, inside jit and outside."""

    def test_labels_of_the_task(self):
        run = jax.jit(TERMS["task"].apply)
        given = {}, terms.State(), STUDENT, {}
        for wrong in (-1, -10, 10, 255):
            labels = LABELS.copy()
            labels[3] = wrong
            assert np.isnan(run(*given, {"label": labels})[0])
        assert np.isnan(TERMS["task"].apply(*given, {"label": labels})[0])
        assert np.isfinite(run(*given, {"label": LABELS})[0])
        with pytest.raises(ValueError, match="the label must be integers, got float"):
            run(*given, {"label": LABELS * 1.0})

    def test_labels_of_few_bits_among_many_classes(self):
        logits = np.random.default_rng(0).normal(0, 2, (3, 300))
        labels = np.array([255, 0, 44], np.uint8)
        found, _ = jax.jit(TERMS["task"].apply)(
            {}, terms.State(), {"logits": logits}, {}, {"label": labels}
        )
        own = logits[np.arange(3), labels]
        expected = np.mean(np.log(np.exp(logits).sum(axis=1)) - own)
        np.testing.assert_allclose(found, expected, rtol=1e-5)

    def test_what_teachers_look_up(self):
        stored = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
        measured = np.arange(1, 7, dtype=np.float32)
        teacher = teachers.merge(
            teachers.labels(4, label="index"),
            teachers.cached({"stored": stored, "counts": np.arange(4)}),
            teachers.rdms({"rdm": measured}, stimulus="index"),
        )
        run = jax.jit(lambda index: teacher.targets(teacher.arrays, {"index": index}))
        square = np.zeros((4, 4), np.float32)
        square[np.triu_indices(4, 1)] = measured
        known = {
            "label": np.eye(4),
            "stored": stored,
            "counts": np.arange(4.0),
            "rdm": square + square.T,
        }
        for wrong in (-1, -4, 4, 1000):
            index = np.array([2, wrong, 0])
            outside = teacher.targets(teacher.arrays, {"index": index})
            for name, rows in [*run(index).items(), *outside.items()]:
                np.testing.assert_array_equal(rows[0], known[name][2])
                np.testing.assert_array_equal(rows[2], known[name][0])
                assert np.isnan(rows[1]).all(), name

    def test_stimuli_of_measured_rdms(self):
        # (Even where pairs that were not measured are left out.)
        term = terms.on_layers(
            ("pooled", "rdm"), terms.rdl_target(stimulus="index", missing=True)
        )
        measured = np.abs(np.random.default_rng(1).normal(size=(B, B)))
        run = jax.jit(term.apply)
        given = {}, terms.State(), STUDENT, {"rdm": (measured + measured.T)[:B]}
        assert np.isfinite(run(*given, {"index": np.arange(B)})[0])
        for wrong in (-1, B, 99):
            index = np.append(np.arange(B - 1), wrong)
            assert np.isnan(run(*given, {"index": index})[0])
        assert np.isnan(term.apply(*given, {"index": index})[0])

    @pytest.mark.parametrize(
        ("make", "policy"),
        [
            pytest.param(make, policy, marks=[] if now else [pytest.mark.slow])
            for make, policies in (
                (terms.crd, ("given",)),
                (terms.crd_sharded, ("given", "shared")),
            )
            for policy in ("given", "drawn", "expected", "shared")
            for now in [policy in policies]
        ],
    )
    def test_examples_of_a_bank(self, make, policy):
        choose = {
            "given": negatives.from_batch(),
            "drawn": negatives.per_example(3, LABELS, relax=True),
            "expected": negatives.expectation(3, LABELS, relax=True),
            "shared": negatives.per_batch(3, LABELS, relax=True),
        }[policy]
        term = terms.on_layers("pooled", make(B, choose, features=4))
        params, state = made(term, STUDENT, TEACHER)
        run = jax.jit(term.apply)

        def result(**changed):
            batch = BATCH | changed
            loss, after = run(params, state, STUDENT, TEACHER, batch)
            return loss, [x for x in jax.tree.leaves(after) if x.shape == (B, 4)]

        loss, banks = result()
        assert np.isfinite(loss) and all(np.isfinite(bank).all() for bank in banks)
        for wrong in (-1, B, 50):
            changes = [{"index": BATCH["index"].at[3].set(wrong)}]
            if policy == "given":
                drawn = BATCH["contrast_index"]
                changes += [
                    {"contrast_index": drawn.at[2, k].set(wrong)} for k in (0, 3)
                ]
            for changed in changes:
                loss, banks = result(**changed)
                assert np.isnan(loss), changed
                assert all(np.isnan(bank).any() for bank in banks)


class TestNumbers:
    @pytest.mark.parametrize(
        "wrong", [np.float32(-2), np.array(np.nan), -1, np.float64(np.inf), "a", True]
    )
    def test_out_of_range(self, wrong):
        choose = negatives.from_batch()
        for make in (
            lambda x: terms.vid(variance=x),
            lambda x: terms.vid(epsilon=x),
            lambda x: terms.ft(rate=x),
            lambda x: terms.cc(features=x),
            lambda x: terms.crd(x, choose),
            lambda x: terms.crd_sharded(x, choose),
            lambda x: terms.crd(B, choose, features=x),
            lambda x: terms.crd(B, choose, temperature=x),
            lambda x: terms.crd_sharded(B, choose, momentum=x),
            lambda x: terms.crd_of_batch(temperature=x),
            lambda x: terms.kd_mean(temperature=x),
            lambda x: terms.rdl(pairs=x),
            lambda x: teachers.labels(x),
            lambda x: teachers.cache(teachers.none(), None, x, []),
            lambda x: teachers.cache(teachers.none(), None, 3, [], chunk=x),
        ):
            with pytest.raises(ValueError, match=r"must be a .* number .*, got "):
                make(wrong)

    def test_others(self):
        with pytest.raises(ValueError, match=r"momentum must be .*at most 1, got 1.5"):
            terms.crd(B, negatives.from_batch(), momentum=1.5)
        with pytest.raises(ValueError, match="number of classes must be .* 2 or more"):
            teachers.labels(1)
        with pytest.raises(ValueError, match="weight of b must be a finite number"):
            terms.per_teacher(["a", "b"], TERMS["kd"], (1.0, np.nan))
        term = terms.kd_mean(weights=(1.0, np.float32(-1)))
        term = terms.on_layers(("logits", ["a/logits", "b/logits"]), term)
        with pytest.raises(ValueError, match="weight of a target must be .*or more"):
            term.apply({}, terms.State(), STUDENT, TEACHER, BATCH)


def test_the_batch_as_its_own_bank_at_a_low_temperature():
    term = terms.on_layers("pooled", terms.crd_of_batch(features=4, temperature=0.004))
    params, state = made(term, STUDENT, TEACHER)
    form = jax.value_and_grad(lambda *a: term.apply(*a)[0])
    value, gradient = jax.jit(form)(params, state, STUDENT, TEACHER, BATCH)
    z = [
        np.asarray(x["pooled"], float) @ np.asarray(p["Dense_0"]["kernel"], float)
        for x, p in ((STUDENT, params["student"]), (TEACHER, params["teacher"]))
    ]
    s, t = (x / np.linalg.norm(x, axis=1)[:, None] for x in z)
    total = 0.0
    for anchors, keys in ((s, t), (t, s)):
        p = np.exp(anchors @ keys.T / 0.004)
        p = p / (p.mean() * B)
        for i in range(B):
            others = LABELS[i] != LABELS
            noise = others.sum() / B
            total += np.log1p((noise + 1e-7) / p[i, i])
            total += np.sum(np.log1p(p[i, others] / noise))
    np.testing.assert_allclose(value, total / B, rtol=1e-3)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def check_promotion(names, student, teacher):
    """Traces terms, gradients too, where no dtype is promoted without being told."""
    own = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, student), STUDENT)
    others = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, teacher), TEACHER)
    for name in names:
        term = TERMS[name]
        apply = jax.value_and_grad(term.apply, argnums=(0, 2), has_aux=True)
        params, state = jax.eval_shape(lambda name=name: start(name))
        with jax.numpy_dtype_promotion("strict"):
            (_, after), _ = jax.eval_shape(apply, params, state, own, others, BATCH)
            jax.eval_shape(term.init, jax.random.key(0), own, others)
        before, now = (jax.tree.map(lambda x: x.dtype, x) for x in (state, after))
        assert now == before, name


# One of each kind.
FEW = ("kd", "vid", "ab", "crd, relax", "global crd of batch", "kd, mean")


@pytest.mark.parametrize(
    "names", [FEW, pytest.param(tuple(TERMS), marks=pytest.mark.slow)]
)
class TestPromotion:
    def test_is_told(self, names):
        check_promotion(names, jnp.bfloat16, jnp.float32)

    def test_is_told_in_double_precision(self, names):
        with jax.enable_x64(True):
            check_promotion(names, np.float64, np.float32)
