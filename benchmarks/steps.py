"""What a loss adds to a training step (goal P14).

Each case is a step of `rdljax.training` with the task, KD and one more loss (`with`)
over the same step with the task and KD alone (`without`). The student is a ResNet-8x4
on 64 images of 32 x 32 in 100 classes. The targets are given, of the shapes that a
ResNet-32x4 answers, so that no time goes into a teacher. Every loss stands between the
layers that RepDistiller compares with it.
"""

import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax

from benchmarks import measure
from rdljax import negatives, nets, objectives, teachers, terms, training

Array = jax.Array

STAGES = ("stage1", "stage2", "stage3")
# CRD's bank, and how many negatives an example has.
EXAMPLES, NEGATIVES = 50_000, 16_384


def rkd(student: Array, teacher: Array) -> Array:
    """RKD with the weights of the released code."""
    by_distance = objectives.rkd_distance(student, teacher)
    return 25 * by_distance + 50 * objectives.rkd_angle(student, teacher)


def _between(layers, objective) -> terms.Term:
    return terms.between(layers, terms.plain(objective))


def _crd(choose: Callable[..., negatives.Negatives]) -> terms.Term:
    labels = np.arange(EXAMPLES) % 100
    return terms.between("pooled", terms.crd(EXAMPLES, choose(NEGATIVES, labels)))


_EACH_STAGE = dict(zip(STAGES, STAGES, strict=True))
# The stages before their last ReLU.
_INPUTS = [f"{stage}_preact" for stage in STAGES]

LOSSES = {
    "dkd": lambda: terms.between("logits", terms.labelled(objectives.dkd)),
    "dist": lambda: _between("logits", objectives.dist),
    "hint": lambda: terms.between("stage2", terms.hint()),
    "at": lambda: _between(_EACH_STAGE, objectives.at),
    "nst": lambda: _between(_EACH_STAGE, objectives.nst),
    "vid": lambda: terms.between(_EACH_STAGE, terms.vid()),
    "ab": lambda: terms.between(_INPUTS, terms.ab()),
    "ft": lambda: terms.between(("stage3", "stage3"), terms.ft()),
    "fsp": lambda: _between(["stem", *STAGES], objectives.fsp),
    "kdsvd": lambda: _between(list(STAGES), objectives.kdsvd),
    "rdl": lambda: terms.between({**_EACH_STAGE, "pooled": "pooled"}, terms.rdl()),
    "sp": lambda: _between("stage3", objectives.sp),
    "pkt": lambda: _between("pooled", objectives.pkt),
    "rkd": lambda: _between("pooled", rkd),
    "cc": lambda: _between("pooled", objectives.cc),
    "cc_repdistiller": lambda: terms.between("pooled", terms.cc()),
    "cka": lambda: _between("stage3", objectives.cka),
    "crd": lambda: _crd(negatives.drawn),
    "crd-expected": lambda: _crd(negatives.expected),
    "crd-shared": lambda: _crd(negatives.shared),
}

# The loss may make the step longer by so much, the smaller the better.
GOAL = measure.Goal("P14", "with", floor=1.25, target=1.10)


def build(name: str, options: measure.Options) -> measure.Case:
    """The step with and without a loss."""
    batch = 64 if options.batch is None else options.batch
    contenders = {
        "without": lambda: measure.stepping(*step({}, batch)),
        "with": lambda: measure.stepping(*step({name: LOSSES[name]()}, batch)),
    }
    goals = (GOAL,) if options.batch is None else ()
    return measure.Case(contenders, goals, tolerance=None, memory=False)


def step(further: Mapping[str, terms.Term], batch: int) -> tuple[Callable, Any, Any]:
    """A training step with the task, KD and further terms.

    Args:
      further: The further terms, by name.
      batch: Images a step.

    Returns:
      `step(state, arrays) -> (state, metrics)`, the first state, and the arrays.
    """
    kd = terms.plain(objectives.kd, temperature=4.0)
    loss = {"task": terms.cross_entropy(), "kd": terms.between("logits", kd), **further}
    phase = training.Phase({name: (1.0, term) for name, term in loss.items()}, epochs=1)
    net = nets.build("resnet8x4", 100)
    optimizer = optax.sgd(0.05, momentum=0.9, nesterov=True)
    images = example_data(batch)
    seen = jax.eval_shape(net.init_with_output, jax.random.key(0), images["image"])[0]
    taught = teachers.Teacher(example_targets(seen), lambda arrays, batch: arrays)

    def view(data, batch, key):
        return data

    arrays = training.Arrays(taught.arrays, images)
    state = training.init(
        jax.random.key(0), net, taught, [phase], view, arrays, {}, devices=1
    )
    state = training.start(state, phase, optimizer)
    body = training.body(net, taught, phase, optimizer, view)
    return functools.partial(body, batch={}), state, arrays


def example_data(batch: int) -> dict[str, np.ndarray]:
    """A batch of random images, with their classes and places in the data set."""
    random = np.random.default_rng(0)
    return {
        "image": random.standard_normal((batch, 32, 32, 3), np.float32),
        "label": random.integers(100, size=batch, dtype=np.int32),
        "index": random.permutation(EXAMPLES)[:batch].astype(np.int32),
    }


def example_targets(seen: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """Random activations of these shapes; not below 0 where a ReLU comes last."""
    random = np.random.default_rng(1)
    drawn = {k: random.standard_normal(x.shape, np.float32) for k, x in seen.items()}
    signed = {*_INPUTS, "logits"}
    return {k: x if k in signed else np.maximum(x, 0) for k, x in drawn.items()}


main = functools.partial(
    measure.main, "benchmarks.steps", build, LOSSES, measure.Options
)

if __name__ == "__main__":
    sys.exit(main())
