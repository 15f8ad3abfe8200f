"""Methods: which objective, between which layers, with which weight, in which phase."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import command, data, methods, weights
from experiments import config as configs
from experiments.config import functions
from experiments.results import folder as results_folder
from experiments.training import (
    checks,
    experiment,
    interrupts,
    optimizers,
    rehearsal,
)
from experiments.training import context as contexts
from rdljax import errors, mmd, nets, objectives, rdm, training
from rdljax.training import _params
from tests import quick
from tests import test_experiments as experiments

B = 8
LABELS = np.arange(40) % 4
CONFIG = configs.make(
    teacher="resnet14",
    student="resnet8",
    layers=("stage1", "stage3:pooled"),
    weights=(),
)


def activations(name, seed):
    """Of a net, by layer, with forms before ReLU; of the right shapes."""
    net = nets.build(name, 4)
    images = jnp.zeros((B, 16, 16, 3))
    shapes = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), images)[0])
    rng = np.random.default_rng(seed)
    return {
        layer: rng.normal(0.5, 1, x.shape).astype(np.float32)
        for layer, x in shapes.items()
    }


STUDENT, TEACHER = activations("resnet8", 0), activations("resnet14", 1)
BATCH = {"label": LABELS[:B], "index": np.arange(B)}


def plan(method, **changes):
    config = configs.change(CONFIG, **changes)
    inputs = methods.TermInputs(config, LABELS, steps=100)
    return methods.plan(inputs, method)


def total(phase, student, teacher):
    """The weighted sum of a phase's terms but the task's, with drawn parameters."""
    found = 0.0
    for name, (weight, term) in phase.terms.items():
        if name != "task":
            params, state = term.init(jax.random.key(0), student, teacher)
            loss, _ = term.apply(params, state, student, teacher, BATCH)
            found += (weight(0) if callable(weight) else weight) * loss
    return found


def values(*of, teacher=TEACHER):
    """What phases are worth, or functions of student and teacher: in one program."""
    forms = [
        functools.partial(total, one) if isinstance(one, training.Phase) else one
        for one in of
    ]
    found = jax.jit(lambda *nets: [form(*nets) for form in forms])(STUDENT, teacher)
    return np.array(found, float)


def layers(student, teacher, *names):
    return [(student[name], teacher[name]) for name in names]


STAGES = ("stage1", "stage2", "stage3")


def over(objective, *names, **numbers):
    """An objective's sum over layers."""

    def of(student, teacher):
        pairs = layers(student, teacher, *names)
        return sum(objective(*pair, **numbers) for pair in pairs)

    return of


# Of each method without trained parts, what its terms are worth beside the task.
WORTH = {
    "kd": over(objectives.kd, "logits", temperature=4.0),
    "dkd": lambda s, t: objectives.dkd(s["logits"], t["logits"], BATCH["label"]),
    "dist": over(objectives.dist, "logits"),
    "at": lambda *nets: 1000 * over(objectives.at, *STAGES)(*nets),
    "nst": lambda *nets: 50 * over(objectives.nst, *STAGES)(*nets),
    "nst_linear": lambda *nets: (
        50 * over(objectives.nst, *STAGES, kernel=mmd.Linear())(*nets)
    ),
    "nst_gaussian": lambda *nets: (
        50 * over(objectives.nst, *STAGES, kernel=mmd.Gaussian(1.0, mmd.by_mean))(*nets)
    ),
    "sp": lambda *nets: 3000 * over(objectives.sp, "stage3")(*nets),
    "pkt": lambda *nets: 30000 * over(objectives.pkt, "pooled")(*nets),
    "rkd": lambda *nets: (
        25 * over(objectives.rkd_distance, "pooled")(*nets)
        + 50 * over(objectives.rkd_angle, "pooled")(*nets)
    ),
    "cka": over(objectives.cka, "pooled"),
    "kdsvd": lambda *nets: objectives.kdsvd(
        *map(tuple, zip(*layers(*nets, *STAGES), strict=True))
    ),
    "rdl": lambda s, t: (
        objectives.rdl(s["stage1"], t["stage1"])
        + objectives.rdl(s["stage3"], t["pooled"])
    ),
    "kd+sp": lambda *nets: WORTH["kd"](*nets) + WORTH["sp"](*nets),
}


class TestPlan:
    @pytest.mark.parametrize("method", WORTH)
    def test_a_method_is_worth_what_its_objectives_are(self, method):
        (phase,) = plan(method)
        assert phase.epochs == CONFIG.training.epochs and phase.terms["task"][0] == 1.0
        np.testing.assert_allclose(*values(phase, WORTH[method]), rtol=1e-5)

    def test_the_weights_are_repdistillers(self):
        # scripts/run_cifar_distill.sh of RepDistiller: -b of each method.
        released = {
            **{"hint": 100, "at": 1000, "sp": 3000, "cc": 0.02, "vid": 1, "rkd": 1},
            **{"pkt": 30000, "ft": 200, "nst": 50, "crd": 0.8},
        }
        for method, weight in released.items():
            found = [w for k, (w, _) in plan(method)[-1].terms.items() if k != "task"]
            shares = [25, 50] if method == "rkd" else [1]
            assert found == [weight * share for share in shares]

    def test_every_part_has_a_plan_that_trains_all_its_parameters(self):
        for method in methods.PARTS:
            phases = plan(method)
            trained = {path for phase in phases for path in phase.trains}
            for phase in phases:
                for name, (_, term) in phase.terms.items():
                    init = functools.partial(term.init, jax.random.key(0))
                    params, _ = jax.eval_shape(init, STUDENT, TEACHER)
                    for path, _ in _params.leaves_of({name: params}):
                        below = [_params.is_below(path, one) for one in trained]
                        assert any(below), (method, path)

    def test_weights_are_of_a_part_or_of_a_part_in_one_method(self):
        weights = ("kd=3", "kd/task=0.1", "kd/kd=0.9", "task=2", "rdl=5")
        alone, both = (plan(m, weights=weights)[0].terms for m in ("kd", "kd+rdl"))
        assert [alone[name][0] for name in ("task", "kd")] == [0.1, 0.9]
        assert {name: weight for name, (weight, _) in both.items()} == {
            **{"task": 2.0, "kd": 3.0, "rdl/stage1": 5.0, "rdl/stage3:pooled": 5.0}
        }

    def test_the_order_of_a_methods_parts_does_not_matter(self):
        (phase,) = plan("rdl+kd", weights=("kd+rdl/kd=7", "kd=3"))
        assert phase.terms["kd"][0] == 7.0

    def test_what_each_part_compares(self):
        # What RepDistiller's helper/loops.py gives to each criterion: `feat[1:-1]` are
        # stages, `feat[-2]` the last map, `feat[-1]` pooled, `feat[:-1]` stem and
        # stages, `feat[2]` the hint.
        stages = [(name, name) for name in STAGES]
        before = [(f"{name}_preact", f"{name}_preact") for name in STAGES]
        both = lambda name: [(name, name)]  # noqa: E731
        want = {
            **dict.fromkeys(("at", "kdsvd", "nst", "vid"), stages),
            **dict.fromkeys(("nst_gaussian", "nst_linear"), stages),
            **dict.fromkeys(("cc", "cka", "crd", "pkt", "rkd"), both("pooled")),
            **dict.fromkeys(("dist", "dkd", "kd"), both("logits")),
            **dict.fromkeys(("ft", "sp"), both("stage3")),
            **{"ab": before, "fsp": [*both("stem"), *stages], "hint": both("stage2")},
            "rdl": [("stage1", "stage1"), ("stage3", "pooled")],
        }
        assert {k: part.pairs(CONFIG) for k, part in methods.PARTS.items()} == want

    def test_one_layer_may_be_compared_with_two(self):
        (phase,) = plan("at", maps=("stage1", "stage1:stage2"))
        pairs = ("stage1", "stage1"), ("stage1", "stage2")
        want = lambda s, t: sum(objectives.at(s[x], t[y]) for x, y in pairs)  # noqa: E731
        own, want = values(phase, want)
        np.testing.assert_allclose(own, 1000 * want, rtol=1e-5)

    @pytest.mark.parametrize(
        ("weight", "message"),
        [
            ("kd", "PART=NUMBER"),
            ("kd=-1", "0 or more"),
            ("kd=nan", "0 or more"),
            ("kd=1 kd=2", "each given once"),
            ("human_it=1", "no part of a method 'human_it'"),
            ("kdd=1", "did you mean 'kd'"),
            ("kd+rdll/kd=1", "did you mean 'rdl'"),
            ("kd/rdl=1", "no part of kd 'rdl'"),
            ("a/kd/kd=1", "METHOD/PART"),
        ],
    )
    def test_a_wrong_weight_is_said(self, weight, message):
        config = configs.make(methods=("kd", "rdl"), weights=tuple(weight.split()))
        with pytest.raises(
            (command.UsageError, errors.UnknownName), match=f"(?i){message}"
        ):
            checks.check(config)

    def test_stages_are_those_that_both_nets_have(self):
        config = configs.change(CONFIG, teacher="cifar_cnn")
        assert [own for own, _ in methods.stages(config)] == list(STAGES)
        chosen = configs.change(CONFIG, maps=("stage1:stage2",))
        assert methods.stages(chosen) == [("stage1", "stage2")]
        assert methods.teacher_layers(configs.change(chosen, methods=("at", "kd"))) == [
            *("logits", "stage2")
        ]

    def test_crd_is_told_what_to_contrast_with(self):
        all_changes = (
            {"crd_negatives": 4},
            {"crd_negatives": 64},
            {"crd_temperature": 0.5},
            {"crd_negatives": 4, "crd_sampling": "per_example"},
            {"crd_negatives": 4, "crd_sampling": "per_batch"},
            {"crd_negatives": 4, "crd_any_class": True},
            {"crd_negatives": 4, "crd_relax": True},
        )
        seen = values(*(plan("crd", **changes)[0] for changes in all_changes))
        few, many, *_ = seen
        assert few < many
        assert len({round(x, 6) for x in seen}) == len(seen) and np.isfinite(seen).all()


class TestPhases:
    def test_ab_and_fsp_come_before_the_task_and_ft_does_both(self):
        for method, trains in (("ab", ("student", "ab")), ("fsp", ("student",))):
            start, main = plan(method, student="resnet14", start_epochs=7)
            assert (set(start.terms), start.epochs) == ({method}, 7)
            assert start.trains == trains and main.trains == ("student",)
            assert set(main.terms) == {"task"}
        start, main = plan("ft+kd")
        assert (set(start.terms), start.trains) == ({"ft"}, ("ft/paraphraser",))
        assert set(main.terms) == {"task", "ft", "kd"}
        assert main.trains == ("student", "ft/translator")

    def test_ab_compares_what_is_before_relu(self):
        assert methods.PARTS["ab"].pairs(CONFIG) == [
            (f"{stage}_preact", f"{stage}_preact") for stage in STAGES
        ]
        start, _ = plan("ab")
        names = [f"{stage}_preact" for stage in STAGES]

        def want(*nets):
            return objectives.ab(*map(tuple, zip(*layers(*nets, *names), strict=True)))

        np.testing.assert_allclose(*values(start, want), rtol=1e-5)


def ensemble(count):
    found = {}
    for i in range(count):
        own = activations("resnet14", 10 + i)
        found |= {f"{i}/{layer}": x for layer, x in own.items()}
    return found


def rates(steps, **settings):
    """The learning rates of a training of 4 epochs of 5 steps, by the steps of SGD."""
    settings = {"momentum": 0.0, "weight_decay": 0.0, "clip": None, **settings}
    chosen = configs.make(learning_rate=0.2, **settings).optimizer
    optimizer = optimizers.make_optimizer(chosen, 4, 5)
    params, gradient = {"w": np.float32(3.0)}, {"w": np.float32(1.0)}
    state, found = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for _ in range(steps):
        taken, state = update(gradient, state, params)
        found.append(-float(taken["w"]))
    return np.array(found)


class TestOptimizers:
    def test_schedules(self):
        np.testing.assert_allclose(rates(20, schedule="constant"), 0.2, rtol=1e-6)
        linear = rates(21, schedule="linear")
        np.testing.assert_allclose(linear, 0.2 * (1 - np.arange(21) / 20), atol=1e-6)
        falling = rates(21, schedule="exponential")
        np.testing.assert_allclose(falling, 0.2 * 0.01 ** (np.arange(21) / 20), 1e-5)
        curved = rates(21, schedule="polynomial")
        expected = 0.2 * (1 - np.arange(21) / 20) ** 2
        np.testing.assert_allclose(curved, expected, atol=1e-6)
        warmed = rates(26, schedule="warmup_exponential")
        np.testing.assert_allclose(warmed[:5], 0.2 * np.arange(5) / 5, atol=1e-6)
        np.testing.assert_allclose(warmed[5:], falling, rtol=1e-5)
        for name in ("cosine_onecycle", "linear_onecycle"):
            found = rates(20, schedule=name)
            # It rises to the largest rate at 3/10 of the steps, and falls below its
            # beginning.
            assert np.argmax(found) == 6
            np.testing.assert_allclose(found[6], 0.2, rtol=1e-6)
            assert (np.diff(found[:7]) > 0).all() and (np.diff(found[6:]) < 0).all()
            assert 0 <= found[-1] < found[0] < 0.05

    def test_adamw(self):
        """One step is the rate, whatever the gradient, and the decay of its own."""
        chosen = configs.make(
            optimizer="adamw",
            **{"learning_rate": 0.01, "schedule": "constant", "clip": None},
            **{"momentum": 0.8, "weight_decay": 0.5},
        ).optimizer
        params = {"w": np.array([2.0, -4.0], np.float32)}
        gradient = {"w": np.array([3.0, -0.5], np.float32)}
        for start, decay in ((False, 0.5), (True, 0.0)):
            optimizer = optimizers.make_optimizer(chosen, 4, 5, start=start)
            state = optimizer.init(params)
            taken, state = optimizer.update(gradient, state, params)
            expected = -0.01 * (np.sign(gradient["w"]) + decay * params["w"])
            np.testing.assert_allclose(taken["w"], expected, rtol=1e-5)
            # The decay of the mean of gradients: after one of 0 it is 0.8 of what it
            # was, corrected by 0.8 * 0.2 / (1 - 0.8**2).
            taken, _ = optimizer.update({"w": np.zeros(2, np.float32)}, state, params)
            mean = 0.8 * 0.2 * gradient["w"] / (1 - 0.8**2)
            square = 0.999 * 0.001 * gradient["w"] ** 2 / (1 - 0.999**2)
            expected = -0.01 * (mean / np.sqrt(square) + decay * params["w"])
            np.testing.assert_allclose(taken["w"], expected, rtol=1e-4)

    def test_a_teachers_rate(self):
        config = configs.make(teacher_learning_rate=0.4, clip=None, weight_decay=0.0)
        chosen = configs.change(config, schedule="constant", momentum=0.0).optimizer
        params = {"w": np.float32(3.0)}
        for teaches, rate in ((True, 0.4), (False, 0.1)):
            optimizer = optimizers.make_optimizer(chosen, 4, 5, teaches=teaches)
            state = optimizer.init(params)
            taken, _ = optimizer.update({"w": np.float32(1.0)}, state, params)
            np.testing.assert_allclose(taken["w"], -rate, rtol=1e-6)


def test_a_start_up_has_a_constant_rate_and_no_weight_decay():
    config = configs.make(momentum=0.0, learning_rate=0.2, clip=None)
    optimizer = optimizers.make_optimizer(config.optimizer, 4, 5, start=True)
    params, gradient = {"w": np.float32(3.0)}, {"w": np.float32(1.0)}
    state, steps = optimizer.init(params), []
    update = jax.jit(optimizer.update)
    for _ in range(20):
        taken, state = update(gradient, state, params)
        steps.append(float(taken["w"]))
    np.testing.assert_allclose(steps, -0.2, rtol=1e-6)


class TestEnsemble:
    def test_kd_and_rdl_learn_from_the_mean_and_others_from_each(self):
        distance = functions.DISTANCES[CONFIG.rdl.distance]

        def kd(student, taught):
            mean = sum(jax.nn.softmax(taught[f"{i}/logits"] / 4) for i in range(3)) / 3
            return objectives.kd(student["logits"], 4 * jnp.log(mean), temperature=4.0)

        def rdl(student, taught):
            want = 0.0
            for own, other in (("stage1", "stage1"), ("stage3", "pooled")):
                rdms = [
                    rdm.compute(taught[f"{i}/{other}"], distance=distance)
                    for i in range(3)
                ]
                want += objectives.rdl_target(student[own], sum(rdms) / 3)
            return want

        def sp(student, taught):
            each = [taught[f"{i}/stage3"] for i in (0, 1, 2)]
            return 3000 * sum(objectives.sp(student["stage3"], one) for one in each)

        phases = [plan(method, ensemble=3)[0] for method in ("kd", "rdl", "sp")]
        found = values(*phases, kd, rdl, sp, teacher=ensemble(3))
        np.testing.assert_allclose(found[:3], found[3:], rtol=1e-5)

    def test_its_layers_are_named_by_teacher(self):
        config = configs.change(CONFIG, ensemble=2, methods=("kd",))
        assert methods.teacher_layers(config) == ["0/logits", "1/logits"]
        _, main = plan("ft", ensemble=2)
        assert main.trains == ("student", "ft/0/translator", "ft/1/translator")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"pairs": 9}, "all pairs"),
            ({"teacher_from": "there"}, "trained here"),
            ({"teacher": None}, "trained here|and there is none"),
        ],
    )
    def test_what_it_cannot_do_is_said(self, change, message):
        with pytest.raises(command.UsageError, match=message):
            checks.check(configs.make(ensemble=2, **change))


# ---- whole runs

# MLPs compile quickly, but have no maps.
SMALL = {
    "teacher": "mlp",
    "student": "mlp",
    "layers": ("pooled", "logits"),
    "train_per_class": 20,
    "epochs": 2,
    "teacher_epochs": 1,
    "start_epochs": 2,
    "seeds": 1,
    "weights": ("hint=1",),
}


class TestRun:
    @pytest.fixture(autouse=True)
    def patch(self):
        """Runs are not rehearsed and draw nothing."""
        with quick.runs() as patch:
            yield patch

    def go(self, folder, looks=10**6, **changes):
        config = configs.load("mnist_rdl", **(SMALL | changes), out=str(folder))
        interrupt = experiments.Countdown(looks)
        return experiment.run("mnist_rdl", config, interrupt)

    def test_a_start_up_is_resumed(self, tmp_path):
        """That of connectors, between layers of MLPs."""
        changes = {"methods": ("ab",), "train_per_class": 8, "batch": 40}
        changes["teacher_from"] = experiments.drawn_teacher(tmp_path / "teacher")
        unbroken = self.go(tmp_path / "a", **changes)
        # In the start-up's second epoch.
        with pytest.raises(interrupts.Interrupted, match="ab-seed0/start-up"):
            self.go(tmp_path / "b", 3, **changes)
        resumed = self.go(tmp_path / "b", **changes, resume=True)
        for side in (unbroken, resumed):
            side["methods"]["ab"].pop("seconds")
        assert unbroken["methods"] == resumed["methods"]
        begun, ended = (
            [
                experiments.stored(tmp_path / side / "ab-seed0" / part)
                for side in ("a", "b")
            ]
            for part in (results_folder.START_UP_FOLDER, "")
        )
        assert begun[0] == begun[1] and ended[0] == ended[1]
        moved = [k for k in begun[0] if "student" in k and "opt_state" not in k]
        assert moved and any(begun[0][k] != ended[0][k] for k in moved)

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("few", "looks"),
        [
            # Two steps an epoch, and four.
            ({"train_per_class": 8, "batch": 40}, (1, 3 + 3)),
            ({}, (2, 4 + 5)),
        ],
        ids=["two", "four"],
    )
    def test_a_start_up_is_resumed_and_the_paraphraser_then_frozen(
        self, few, looks, tmp_path
    ):
        name = "mnist_cnn_small"
        changes = {"methods": ("ft",), "student": name, "hint_layer": "stage2"}
        changes |= {
            "teacher_from": experiments.drawn_teacher(tmp_path / "teacher", name)
        }
        changes |= few
        unbroken = self.go(tmp_path / "a", **changes)
        # In the start-up's first epoch, and in the main phase's second.
        places = ("ft-seed0/start-up", "ft-seed0")
        for look, stopped in zip(looks, places, strict=True):
            with pytest.raises(interrupts.Interrupted, match=stopped):
                self.go(tmp_path / "b", look, **changes, resume=True)
        resumed = self.go(tmp_path / "b", **changes, resume=True)
        for side in (unbroken, resumed):
            side["methods"]["ft"].pop("seconds")
        assert unbroken["methods"] == resumed["methods"]
        ends = [experiments.stored(tmp_path / side / "ft-seed0") for side in ("a", "b")]
        assert ends[0] == ends[1]
        whole, broken_off = (
            json.loads((tmp_path / side / "ft-seed0" / "result.json").read_text())
            for side in ("a", "b")
        )
        assert len(whole["start_up"]) == len(whole["history"]) == 2
        assert whole["start_up"] == broken_off["start_up"] != whole["history"]
        start = experiments.stored(
            tmp_path / "a" / "ft-seed0" / results_folder.START_UP_FOLDER
        )
        kept = [k for k in start if "opt_state" not in k]
        frozen = [k for k in kept if "paraphraser" in k]
        moved = [k for k in kept if "student" in k]
        assert frozen and all(start[k] == ends[0][k] for k in frozen)
        assert moved and any(start[k] != ends[0][k] for k in moved)

    @pytest.mark.parametrize(
        "changes",
        [
            {"methods": ("kd+rdl",), "epochs": 1},
            pytest.param(
                {"methods": ("rdl", "kd"), "teacher_epochs": 2}, marks=pytest.mark.slow
            ),
        ],
        ids=["at-once", "apart"],
    )
    def test_an_ensemble_teaches(self, changes, tmp_path):
        changes, method = {**changes, "ensemble": 2}, changes["methods"][-1]
        found = self.go(tmp_path / "run", **changes)
        errors, rdms = [], []
        for seed in range(2):
            own = tmp_path / "run" / f"teacher-seed{seed}"
            errors.append(json.loads((own / "result.json").read_text())["test_error"])
            with np.load(own / "rdms.npz") as arrays:
                rdms.append(arrays["pooled"])
        assert errors[0] != errors[1]
        with np.load(tmp_path / "run" / f"{method}-seed0" / "rdms.npz") as arrays:
            own = arrays["pooled"]
        want = np.corrcoef(own, np.mean(rdms, axis=0))[0, 1]
        dataset, probabilities = data.load("digits", train_per_class=20), 0.0
        for seed in range(2):
            kept = weights.load(tmp_path / "run" / f"teacher-seed{seed}" / "weights")
            images = data.normalise(dataset, dataset.test.image)
            logits = jax.jit(kept.net(dataset).apply)(kept.variables, images)["logits"]
            exponentials = np.exp(np.asarray(logits, float))
            probabilities += exponentials / exponentials.sum(axis=1, keepdims=True)
        wrong = probabilities.argmax(axis=1) != dataset.test.label
        assert found["teacher"]["test_error"] == pytest.approx(100 * wrong.mean())
        assert found["teacher"]["members"] == errors
        table = (tmp_path / "run" / "table.md").read_text()
        assert "2 teachers mlp (" in table
        agreement = found["methods"][method]["agreement_by_layer"]["pooled"]["mean"]
        assert agreement == pytest.approx(want, abs=1e-4)
        # Resumed, the same is read again.
        (tmp_path / "run" / "result.json").unlink()
        again = self.go(tmp_path / "run", **changes, resume=True)
        assert again["teacher"] == found["teacher"]

    @pytest.mark.parametrize("epochs", [1, pytest.param(2, marks=pytest.mark.slow)])
    def test_a_teacher_learns_its_task_whatever_students_do(self, epochs, tmp_path):
        changes = {"weights": ("task=0",), "epochs": epochs}
        found = self.go(tmp_path / "run", methods=("plain",), **changes)
        history = json.loads((tmp_path / "run/teacher/result.json").read_text())
        assert history["history"][0]["loss"] > 1.0
        student = json.loads((tmp_path / "run/plain-seed0/result.json").read_text())
        assert student["history"][0]["loss"] == 0.0
        # More seeds and methods go on from there, fewer do not.
        again = changes | {"resume": True}
        more = self.go(tmp_path / "run", methods=("plain", "kd"), seeds=2, **again)
        assert len(more["methods"]["kd"]["test_error"]["values"]) == 2
        first = more["methods"]["plain"]["test_error"]["values"][0]
        assert first == found["methods"]["plain"]["test_error"]["mean"]
        with pytest.raises(command.UsageError, match="seeds 2 there and 1 here"):
            self.go(tmp_path / "run", methods=("plain", "kd"), **again)

    def test_rdms_over_training_end_with_the_final_ones(self, tmp_path):
        changes = {"methods": ("plain",), "teacher": None, "epochs": 3, "seeds": 2}
        self.go(tmp_path / "run", **changes)
        own = tmp_path / "run" / "plain-seed0"
        files = sorted(path.name for path in (own / "rdms").iterdir())
        assert files == [f"epoch-000{i}.npz" for i in (1, 2, 3)]
        assert not (tmp_path / "run" / "plain-seed1" / "rdms").exists()
        with (
            np.load(own / "rdms" / files[-1]) as last,
            np.load(own / "rdms.npz") as every,
        ):
            # 200 stimuli sorted by class, of which the first 10 of each 20 are kept.
            kept = np.arange(200)[np.arange(200) % 20 < 10]
            for layer in ("stage1", "logits"):
                square = np.asarray(rdm.square(every[layer]))
                upper = np.triu_indices(len(kept), 1)
                want = square[np.ix_(kept, kept)][upper]
                assert last[layer].shape == (4950,)
                np.testing.assert_allclose(last[layer], want, rtol=2e-3, atol=1e-4)

    def test_a_teacher_of_another_task_cannot_teach_by_kd(self, tmp_path, patch):
        patch.setattr(rehearsal, "rehearse", quick.rehearse)
        made = tmp_path / "data"
        three_classes(made)
        changes = {"data": "tiny", "data_dir": str(made), "train_per_class": None}
        changes["teacher_from"] = experiments.drawn_teacher(tmp_path / "digits")
        with pytest.raises(command.UsageError, match="kd cannot be trained: kd"):
            self.go(tmp_path / "kd", methods=("kd",), **changes)
        # All others are accepted.
        others = {"methods": ("rdl+crd", "sp+cka"), "layers": ("stage1", "pooled")}
        config = configs.load("mnist_rdl", **(SMALL | changes | others))
        config, inputs = contexts.trained_elsewhere(config)
        quick.rehearse(config, contexts.load(config), inputs)

    @pytest.mark.slow
    @pytest.mark.parametrize("whole", [False, True])
    def test_a_teacher_of_another_task_teaches_all_but_kd(self, whole, tmp_path, patch):
        if whole:
            self.go(tmp_path / "digits", methods=("plain",), epochs=1)
            there = str(tmp_path / "digits" / "teacher" / "weights")
        else:
            there = experiments.drawn_teacher(tmp_path / "digits")
        made = tmp_path / "data"
        three_classes(made)
        changes = {
            **{"data": "tiny", "data_dir": str(made), "train_per_class": None},
            **{"teacher_from": there, "layers": ("stage1", "pooled")},
            "epochs": 2 if whole else 1,
        }
        taught = ("plain", "rdl", "crd") if whole else ("rdl+crd",)
        found = self.go(tmp_path / "three", methods=taught, **changes)
        assert set(found["methods"]) == set(taught)
        assert found["teacher"] == {"test_error": None}
        table = (tmp_path / "three" / "table.md").read_text()
        assert "of another task" in table
        patch.setattr(rehearsal, "rehearse", quick.rehearse)
        with pytest.raises(command.UsageError, match="kd cannot be trained: kd"):
            self.go(tmp_path / "kd", methods=("kd",), **changes)


def test_the_flags_that_set_layers():
    assert {part.pairs for part in methods.PARTS.values()} == {
        *methods.LAYER_FLAGS,
        methods._logits,
    }
    flags = {flag.removeprefix("--") for flag in methods.LAYER_FLAGS.values()}
    assert flags <= configs.FIELDS.keys()
    assert methods.layer_flags("hint") == "--hint_layer (hint)"
    assert methods.layer_flags("kd+rdl+at") == "--layers (rdl), --maps (at)"
    assert methods.layer_flags("kd") == methods.layer_flags("plain") == ""


class TestSharedSeeds:
    def said(self, **changes):
        alike = {"teacher": "mlp", "student": "mlp"}
        return checks.shared_seeds(configs.make(alike | changes))

    def test_other_nets_do_not_begin_alike(self):
        assert checks.shared_seeds(configs.make()) is None
        assert self.said(teacher=None) is None
        assert self.said(teacher_from="folder") is None
        assert self.said(student_from="folder") is None
        assert self.said(modality="luminance") is None

    def test_the_same_net_does(self):
        assert "same net, mlp: students of seed 0 begin" in self.said()
        assert "students of seeds 0 to 2 begin" in self.said(ensemble=5)
        assert "students of seeds 0 to 1 begin" in self.said(ensemble=2)

    def test_a_plain_student_trained_as_the_teacher_is_the_teacher(self):
        same = "plain-seed0 repeats the teacher's training"
        assert same in self.said() and same in self.said(teacher_learning_rate=0.1)
        for other in (
            {"epochs": 3},
            {"dtype": "bfloat16"},
            {"teacher_learning_rate": 0.2},
            {"weights": ("task=0.5",)},
            {"methods": ("kd",)},
        ):
            assert same not in self.said(**other)
            assert "begin" in self.said(**other)


def three_classes(folder):
    """A TFDS set of 160 and 40 images of three classes, 28 x 28."""
    pytest.importorskip("tensorflow_datasets")
    from tests import test_data

    splits = {
        "train": test_data._examples(160, size=28),
        "test": test_data._examples(40, size=28),
    }
    test_data._write(folder, "tiny", splits)
