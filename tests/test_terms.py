"""Terms: pure, composable, and trained to the last leaf."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rdljax import _names, objectives, rdm, teachers, terms

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
BATCH = {"label": jnp.arange(B) % 10, "index": jnp.arange(B)}
LAYERS = {"stage1": "stage1", "pooled": "pooled"}

TERMS = {
    "task": terms.cross_entropy(),
    "kd": terms.between("logits", terms.plain(objectives.kd, temperature=2.0)),
    "hint": terms.between(("stage1", "stage2"), terms.hint()),
    "hints": terms.between({"stage2": "stage1", "pooled": "pooled"}, terms.hint()),
    "rdl": terms.between(LAYERS, terms.rdl()),
    "rdl pairs": terms.between(LAYERS, terms.rdl(pairs=50)),
    "global": terms.over_global_batch(terms.between("pooled", terms.rdl(pairs=9))),
    "in order": terms.between(["stage1", ("stage2", "pooled")], terms.rdl()),
}


def split(tree, devices):
    """Each `[B, ...]` as `[devices, B / devices, ...]`."""
    return jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), tree)


def start(name, seed=0):
    return TERMS[name].init(jax.random.key(seed), STUDENT, TEACHER)


@pytest.mark.parametrize("name", TERMS)
class TestEveryTerm:
    def test_init_looks_at_shapes_alone(self, name):
        shapes = jax.eval_shape(lambda: (STUDENT, TEACHER))
        from_shapes = TERMS[name].init(jax.random.key(0), *shapes)
        same = jax.tree.map(
            lambda a, b: bool(jnp.array_equal(a, b)),
            *jax.tree.map(
                lambda x: (
                    jax.random.key_data(x)
                    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
                    else x
                ),
                (start(name), from_shapes),
            ),
        )
        assert all(jax.tree.leaves(same))

    def test_apply_is_pure(self, name):
        params, state = start(name)
        loss, new = TERMS[name].apply(params, state, STUDENT, TEACHER, BATCH)
        again, _ = TERMS[name].apply(params, state, STUDENT, TEACHER, BATCH)
        assert loss.shape == () and jnp.isfinite(loss) and loss == again
        assert jax.tree.structure(new) == jax.tree.structure(state)
        jitted, _ = jax.jit(TERMS[name].apply)(params, state, STUDENT, TEACHER, BATCH)
        np.testing.assert_allclose(jitted, loss, rtol=1e-5)

    def test_every_leaf_of_params_receives_a_gradient(self, name):
        params, state = start(name)
        form = lambda p: TERMS[name].apply(p, state, STUDENT, TEACHER, BATCH)[0]  # noqa: E731
        for leaf in jax.tree.leaves(jax.grad(form)(params)):
            assert leaf.any()

    def test_student_gets_a_gradient_and_teacher_none(self, name):
        params, state = start(name)

        def form(student, teacher):
            return TERMS[name].apply(params, state, student, teacher, BATCH)[0]

        student, teacher = jax.grad(form, argnums=(0, 1))(STUDENT, TEACHER)
        assert any(leaf.any() for leaf in jax.tree.leaves(student))
        assert not any(leaf.any() for leaf in jax.tree.leaves(teacher))

    def test_the_gradient_over_devices_is_that_of_the_global_batch(self, name):
        params, state = start(name)
        term = TERMS[name]
        if "rdl" in name or name == "in order":
            term = terms.over_global_batch(term)

        def loss(params, student, teacher, batch, axis_name=None):
            return term.apply(params, state, student, teacher, batch, axis_name)[0]

        expected = jax.value_and_grad(loss, argnums=(0, 1))(
            params, STUDENT, TEACHER, BATCH
        )

        def local(student, teacher, batch):
            value, (own, wrt) = jax.value_and_grad(loss, argnums=(0, 1))(
                params, student, teacher, batch, "d"
            )
            return jax.lax.pmean((value, own), "d"), wrt

        mapped = jax.vmap(local, axis_name="d")
        (value, own), student = mapped(*split((STUDENT, TEACHER, BATCH), 4))
        close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6)
        close(value[0], expected[0])
        jax.tree.map(lambda a, b: close(a[0], b), own, expected[1][0])
        # A device's loss is the mean over its part or, gathered, the whole loss once on
        # every device: either way four times what its rows contribute.
        jax.tree.map(
            lambda a, b: close(a.reshape(b.shape) / 4, b), student, expected[1][1]
        )


def test_relations_within_each_device_are_another_loss():
    params, state = start("rdl")
    apply = functools.partial(TERMS["rdl"].apply, params, state)
    whole, _ = apply(STUDENT, TEACHER, BATCH)
    parts, _ = jax.vmap(apply)(*split((STUDENT, TEACHER, BATCH), 2))
    assert abs(jnp.mean(parts) - whole) > 0.01


def test_cross_entropy_is_that_of_optax():
    loss, _ = TERMS["task"].apply({}, terms.State(), STUDENT, {}, BATCH)
    expected = optax.softmax_cross_entropy_with_integer_labels(
        STUDENT["logits"], BATCH["label"]
    ).mean()
    np.testing.assert_allclose(loss, expected)


class TestBetween:
    def value(self, name):
        params, state = start(name)
        return TERMS[name].apply(params, state, STUDENT, TEACHER, BATCH)[0]

    def test_a_name_is_that_layer_of_both(self):
        expected = objectives.kd(STUDENT["logits"], TEACHER["logits"], temperature=2.0)
        np.testing.assert_allclose(self.value("kd"), expected)

    def test_a_dict_is_those_layers_as_dicts(self):
        expected = sum(objectives.rdl(STUDENT[k], TEACHER[k]) for k in LAYERS)
        np.testing.assert_allclose(self.value("rdl"), expected, rtol=1e-6)

    def test_a_list_is_those_layers_in_order(self):
        seen = []

        def objective(student, teacher):
            seen.append((student, teacher))
            return jnp.zeros(())

        term = terms.between(["stage1", ("stage2", "pooled")], terms.plain(objective))
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
        term = terms.between(pairs, terms.rdl())
        with pytest.raises(_names.UnknownName, match=message):
            term.init(jax.random.key(0), STUDENT, TEACHER)
        with pytest.raises(_names.UnknownName, match=message):
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
        params, state = term.init(jax.random.key(0), student, teacher)
        loss, _ = term.apply(params, state, student, teacher, BATCH)
        assert params["a"]["Dense_0"]["kernel"].shape == (5, 7) and loss > 0

    def test_training_the_regressor_lowers_the_loss(self):
        params, state = start("hint")
        form = lambda p: TERMS["hint"].apply(p, state, STUDENT, TEACHER, BATCH)[0]  # noqa: E731
        step = jax.jit(
            lambda p: jax.tree.map(lambda x, g: x - 0.1 * g, p, jax.grad(form)(p))
        )
        before = form(params)
        for _ in range(50):
            params = step(params)
        assert form(params) < 0.5 * before


class TestRandomPairs:
    def test_each_step_draws_anew(self):
        params, state = start("rdl pairs")
        losses = []
        for _ in range(3):
            loss, state = TERMS["rdl pairs"].apply(
                params, state, STUDENT, TEACHER, BATCH
            )
            losses.append(float(loss))
        assert len(set(losses)) == 3

    def test_many_pairs_approach_all_of_them(self):
        term = terms.between(
            "pooled", terms.rdl(pairs=20_000, comparison=rdm.comparisons.MSE())
        )
        params, state = term.init(jax.random.key(0), STUDENT, TEACHER)
        found, _ = term.apply(params, state, STUDENT, TEACHER, BATCH)
        expected = objectives.rdl(
            STUDENT["pooled"], TEACHER["pooled"], comparison=rdm.comparisons.MSE()
        )
        np.testing.assert_allclose(found, expected, rtol=0.05)

    def test_all_devices_draw_the_same_pairs(self):
        params, state = start("global")
        apply = functools.partial(TERMS["global"].apply, params, state, axis_name="d")
        parts = split((STUDENT, TEACHER, BATCH), 4)
        losses, states = jax.vmap(apply, axis_name="d")(*parts)
        whole, after = TERMS["global"].apply(params, state, STUDENT, TEACHER, BATCH)
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

    def test_nobody_teaches_nothing(self):
        teacher = teachers.nobody()
        assert teacher.targets(teacher.arrays, {}) == {}
