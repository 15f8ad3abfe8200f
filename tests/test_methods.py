"""Methods: which objective, between which layers, with which weight, in which phase."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import (
    checks,
    command,
    data,
    loop,
    methods,
    run,
    trainings,
    weights,
)
from experiments import config as configs
from rdljax import _names, mmd, nets, objectives, rdm, training
from tests import quick
from tests import test_experiments as experiments

B = 8
LABELS = np.arange(40) % 4
CONFIG = configs.Config(
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
        layer: jnp.asarray(rng.normal(0.5, 1, x.shape), jnp.float32)
        for layer, x in shapes.items()
    }


STUDENT, TEACHER = activations("resnet8", 0), activations("resnet14", 1)
BATCH = {"label": jnp.asarray(LABELS[:B]), "index": jnp.arange(B)}


def plan(method, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    setting = methods.Setting(config, LABELS, steps=100)
    return methods.plan(setting, method)


def value(phase, teacher=TEACHER, but=("task",)):
    """The weighted sum of a phase's terms, each with drawn parameters."""
    total = 0.0
    for name, (weight, term) in phase.terms.items():
        if name not in but:
            params, state = term.init(jax.random.key(0), STUDENT, teacher)
            loss, _ = term.apply(params, state, STUDENT, teacher, BATCH)
            total += (weight(0) if callable(weight) else weight) * loss
    return float(total)


def layers(*names):
    return [(STUDENT[name], TEACHER[name]) for name in names]


STAGES = ("stage1", "stage2", "stage3")
# Of each method without trained parts, what its terms are worth beside the task.
WORTH = {
    "kd": lambda: objectives.kd(*layers("logits")[0], temperature=4.0),
    "dkd": lambda: objectives.dkd(*layers("logits")[0], BATCH["label"]),
    "dist": lambda: objectives.dist(*layers("logits")[0]),
    "at": lambda: 1000 * sum(objectives.at(*pair) for pair in layers(*STAGES)),
    "nst": lambda: 50 * sum(objectives.nst(*pair) for pair in layers(*STAGES)),
    "nst_linear": lambda: (
        50 * sum(objectives.nst(*x, kernel=mmd.Linear()) for x in layers(*STAGES))
    ),
    "nst_gaussian": lambda: (
        50
        * sum(
            objectives.nst(*x, kernel=mmd.Gaussian(1.0, mmd.by_mean))
            for x in layers(*STAGES)
        )
    ),
    "sp": lambda: 3000 * objectives.sp(*layers("stage3")[0]),
    "pkt": lambda: 30000 * objectives.pkt(*layers("pooled")[0]),
    "rkd": lambda: (
        25 * objectives.rkd_distance(*layers("pooled")[0])
        + 50 * objectives.rkd_angle(*layers("pooled")[0])
    ),
    "cka": lambda: objectives.cka(*layers("pooled")[0]),
    "kdsvd": lambda: objectives.kdsvd(*map(tuple, zip(*layers(*STAGES), strict=True))),
    "rdl": lambda: (
        objectives.rdl(*layers("stage1")[0])
        + objectives.rdl(STUDENT["stage3"], TEACHER["pooled"])
    ),
    "kd+sp": lambda: WORTH["kd"]() + WORTH["sp"](),
}


class TestPlan:
    @pytest.mark.parametrize("method", WORTH)
    def test_a_method_is_worth_what_its_objectives_are(self, method):
        (phase,) = plan(method)
        assert phase.epochs == CONFIG.epochs and phase.terms["task"][0] == 1.0
        np.testing.assert_allclose(value(phase), float(WORTH[method]()), rtol=1e-5)

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
                    params, _ = term.init(jax.random.key(0), STUDENT, TEACHER)
                    for path, _ in training._leaves({name: params}):
                        below = [training._is_below(path, one) for one in trained]
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
        want = sum(objectives.at(STUDENT[s], TEACHER[t]) for s, t in pairs)
        np.testing.assert_allclose(value(phase), 1000 * float(want), rtol=1e-5)

    @pytest.mark.parametrize(
        ("weight", "message"),
        [
            ("kd", "PART=NUMBER"),
            ("kd=-1", "0 or more"),
            ("kd=nan", "0 or more"),
            ("kd=1 kd=2", "each once"),
            ("human_it=1", "no part of a method 'human_it'"),
            ("kdd=1", "did you mean 'kd'"),
            ("kd+rdll/kd=1", "did you mean 'rdl'"),
            ("kd/rdl=1", "no part of kd 'rdl'"),
            ("a/kd/kd=1", "METHOD/PART"),
        ],
    )
    def test_a_wrong_weight_is_said(self, weight, message):
        config = configs.Config(methods=("kd", "rdl"), weights=tuple(weight.split()))
        with pytest.raises(
            (command.UsageError, _names.UnknownName), match=f"(?i){message}"
        ):
            checks.check(config)

    def test_stages_are_those_that_both_nets_have(self):
        config = dataclasses.replace(CONFIG, teacher="cifar_cnn")
        assert [own for own, _ in methods.stages(config)] == list(STAGES)
        chosen = dataclasses.replace(CONFIG, maps=("stage1:stage2",))
        assert methods.stages(chosen) == [("stage1", "stage2")]
        assert methods.taught(dataclasses.replace(chosen, methods=("at", "kd"))) == [
            *("logits", "stage2")
        ]

    def test_crd_is_told_what_to_contrast_with(self):
        seen = []

        def losses(**changes):
            (phase,) = plan("crd", **changes)
            seen.append(value(phase))
            return seen[-1]

        few, many = losses(crd_negatives=4), losses(crd_negatives=64)
        assert few < many
        assert losses(crd_temperature=0.5) != few
        for changes in (
            {"crd_sampling": "drawn"},
            {"crd_sampling": "shared"},
            {"crd_any_class": True},
            {"crd_relax": True},
        ):
            losses(crd_negatives=4, **changes)
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
        want = objectives.ab(
            *map(
                tuple,
                zip(*layers(*(f"{s}_preact" for s in STAGES)), strict=True),
            )
        )
        np.testing.assert_allclose(value(start), float(want), rtol=1e-5)


def ensemble(count):
    found = {}
    for i in range(count):
        own = activations("resnet14", 10 + i)
        found |= {f"{i}/{layer}": x for layer, x in own.items()}
    return found


def test_a_start_up_has_a_constant_rate_and_no_weight_decay():
    config = configs.Config(momentum=0.0, learning_rate=0.2, clip=None)
    optimizer = trainings.optimizer_of(config, False, 4, 5, last=False)
    params = {"w": jnp.float32(3.0)}
    state, steps = optimizer.init(params), []
    for _ in range(20):
        update, state = optimizer.update({"w": jnp.float32(1.0)}, state, params)
        steps.append(float(update["w"]))
    np.testing.assert_allclose(steps, -0.2, rtol=1e-6)


class TestEnsemble:
    def test_kd_and_rdl_learn_from_the_mean_and_others_from_each(self):
        taught = ensemble(3)
        mean = sum(jax.nn.softmax(taught[f"{i}/logits"] / 4) for i in range(3)) / 3
        want = objectives.kd(STUDENT["logits"], 4 * jnp.log(mean), temperature=4.0)
        (phase,) = plan("kd", ensemble=3)
        np.testing.assert_allclose(value(phase, taught), float(want), rtol=1e-5)

        distance = configs.DISTANCES[CONFIG.distance]
        want = 0.0
        for own, other in (("stage1", "stage1"), ("stage3", "pooled")):
            rdms = [
                rdm.compute(taught[f"{i}/{other}"], distance=distance) for i in range(3)
            ]
            want += objectives.rdl_target(STUDENT[own], sum(rdms) / 3)
        (phase,) = plan("rdl", ensemble=3)
        np.testing.assert_allclose(value(phase, taught), float(want), rtol=1e-5)

        (phase,) = plan("sp", ensemble=3)
        want = sum(
            objectives.sp(STUDENT["stage3"], taught[f"{i}/stage3"]) for i in (0, 1, 2)
        )
        np.testing.assert_allclose(value(phase, taught), 3000 * float(want), rtol=1e-5)

    def test_its_layers_are_named_by_teacher(self):
        config = dataclasses.replace(CONFIG, ensemble=2, methods=("kd",))
        assert methods.taught(config) == ["0/logits", "1/logits"]
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
        config = configs.Config(ensemble=2, **change)
        with pytest.raises(command.UsageError, match=message):
            checks.check(config)


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
        return run.run("mnist_rdl", config, interrupt)

    def test_a_start_up_is_resumed_and_the_paraphraser_then_frozen(self, tmp_path):
        # (The teacher is one as drawn, which need not be trained.)
        shape, name = (28, 28, 1), "mnist_cnn_small"
        net, images = nets.build(name, 10), jnp.zeros((1, *shape))
        drawn = jax.jit(net.init)(jax.random.key(0), images)
        kept = weights.Trained(name, 10, shape, drawn, None, {"run": "none"})
        weights.save(kept, tmp_path / "teacher")
        changes = {"methods": ("ft",), "student": name, "hint_layer": "stage2"}
        changes |= {"teacher_from": str(tmp_path / "teacher")}
        unbroken = self.go(tmp_path / "a", **changes)
        # In the start-up's first epoch, and in the main phase's second.
        for looks, stopped in ((2, "ft-seed0/start-up"), (4 + 5, "ft-seed0")):
            with pytest.raises(loop.Interrupted, match=stopped):
                self.go(tmp_path / "b", looks, **changes, resume=True)
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
        start = experiments.stored(tmp_path / "a" / "ft-seed0" / trainings.START)
        kept = [k for k in start if "opt_state" not in k]
        frozen = [k for k in kept if "paraphraser" in k]
        moved = [k for k in kept if "student" in k]
        assert frozen and all(start[k] == ends[0][k] for k in frozen)
        assert moved and any(start[k] != ends[0][k] for k in moved)

    def test_an_ensemble_teaches(self, tmp_path):
        found = self.go(
            tmp_path / "run", methods=("rdl", "kd"), ensemble=2, teacher_epochs=2
        )
        errors, rdms = [], []
        for seed in range(2):
            own = tmp_path / "run" / f"teacher-seed{seed}"
            errors.append(json.loads((own / "result.json").read_text())["test_error"])
            with np.load(own / "rdms.npz") as arrays:
                rdms.append(arrays["pooled"])
        assert errors[0] != errors[1]
        with np.load(tmp_path / "run" / "kd-seed0" / "rdms.npz") as arrays:
            own = arrays["pooled"]
        want = np.corrcoef(own, np.mean(rdms, axis=0))[0, 1]
        dataset, probabilities = data.load("digits", train_per_class=20), 0.0
        for seed in range(2):
            kept = weights.load(tmp_path / "run" / f"teacher-seed{seed}" / "weights")
            images = data.normalise(dataset, dataset.test.image)
            logits = kept.net(dataset).apply(kept.variables, images)["logits"]
            exponentials = np.exp(np.asarray(logits, float))
            probabilities += exponentials / exponentials.sum(axis=1, keepdims=True)
        wrong = probabilities.argmax(axis=1) != dataset.test.label
        assert found["teacher"]["test_error"] == pytest.approx(100 * wrong.mean())
        assert found["teacher"]["members"] == errors
        table = (tmp_path / "run" / "table.md").read_text()
        assert "2 teachers mlp (" in table
        agreement = found["methods"]["kd"]["agreement_by_layer"]["pooled"]["mean"]
        assert agreement == pytest.approx(want, abs=1e-4)
        # Resumed, the same is read again.
        (tmp_path / "run" / "result.json").unlink()
        again = self.go(
            tmp_path / "run",
            methods=("rdl", "kd"),
            ensemble=2,
            teacher_epochs=2,
            resume=True,
        )
        assert again["teacher"] == found["teacher"]

    def test_a_teacher_learns_its_task_whatever_students_do(self, tmp_path):
        found = self.go(tmp_path / "run", methods=("plain",), weights=("task=0",))
        history = json.loads((tmp_path / "run/teacher/result.json").read_text())
        assert history["history"][0]["loss"] > 1.0
        student = json.loads((tmp_path / "run/plain-seed0/result.json").read_text())
        assert student["history"][0]["loss"] == 0.0
        # More seeds and methods go on from there, fewer do not.
        again = {"weights": ("task=0",), "resume": True}
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
                square = np.asarray(rdm.square(jnp.asarray(every[layer])))
                want = np.asarray(rdm.condense(jnp.asarray(square[np.ix_(kept, kept)])))
                assert last[layer].shape == (4950,)
                np.testing.assert_allclose(last[layer], want, rtol=2e-3, atol=1e-4)

    def test_a_teacher_of_another_task_teaches_all_but_kd(self, tmp_path, patch):
        self.go(tmp_path / "digits", methods=("plain",), epochs=1)
        there = str(tmp_path / "digits" / "teacher" / "weights")
        made = tmp_path / "data"
        three_classes(made)
        changes = {
            **{"data": "tiny", "data_dir": str(made), "train_per_class": None},
            **{"teacher_from": there, "layers": ("stage1", "pooled")},
        }
        found = self.go(tmp_path / "three", methods=("plain", "rdl", "crd"), **changes)
        assert found["teacher"] == {"test_error": None}
        table = (tmp_path / "three" / "table.md").read_text()
        assert "of another task" in table
        patch.setattr(run, "rehearse", quick.rehearse)
        with pytest.raises(command.UsageError, match="kd cannot be trained: kd"):
            self.go(tmp_path / "kd", methods=("kd",), **changes)


def three_classes(folder):
    """A TFDS set of 160 and 40 images of three classes, 28 x 28."""
    pytest.importorskip("tensorflow_datasets")
    from tests import test_data

    splits = {
        "train": test_data._examples(160, size=28),
        "test": test_data._examples(40, size=28),
    }
    test_data._write(folder, "tiny", splits)
