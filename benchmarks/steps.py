"""Measures the time that a loss adds to a training step (goal P14).

Each case compares a step of `rdljax.training` with the task, KD and another loss
(`with`) with the same step with only the task and KD (`without`). The student is a
ResNet-8x4 on 64 images of 32 x 32 in 100 classes. The targets are given, with the
shapes of a ResNet-32x4's activations, so that no time is spent on a teacher. Every loss
is between the layers that RepDistiller compares with it.

In the case `teacher` the loss is the task's, KD and RDL between two stages, and the
contenders differ in the source of the targets: `given` as above; `stored`, looked up on
the device; `mapped`, rows of a memory map in every batch; `live`, from a live
ResNet-32x4. `without` is the student with only the task.
"""

import atexit
import dataclasses
import functools
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import measure, runner
from rdljax import activations, nets, objectives, teachers, terms, training
from rdljax.terms import negatives

Array = jax.Array

STAGES = ("stage1", "stage2", "stage3")
# The number of rows of CRD's bank, and of negatives of an example.
EXAMPLES, NEGATIVES = 50_000, 16_384


def rkd(student: Array, teacher: Array) -> Array:
    """Returns the loss of RKD with the weights of the released code."""
    by_distance = objectives.rkd_distance(student, teacher)
    return 25 * by_distance + 50 * objectives.rkd_angle(student, teacher)


def _between(layers, objective) -> terms.Term:
    return terms.on_layers(layers, terms.from_objective(objective))


def _crd(choose: Callable[..., negatives.Negatives]) -> terms.Term:
    labels = np.arange(EXAMPLES) % 100
    return terms.on_layers("pooled", terms.crd(EXAMPLES, choose(NEGATIVES, labels)))


_EACH_STAGE = dict(zip(STAGES, STAGES, strict=True))
# The stages before their last ReLU.
_INPUTS = [f"{stage}_preact" for stage in STAGES]

LOSSES = {
    "dkd": lambda: terms.on_layers("logits", terms.with_labels(objectives.dkd)),
    "dist": lambda: _between("logits", objectives.dist),
    "hint": lambda: terms.on_layers("stage2", terms.hint()),
    "at": lambda: _between(_EACH_STAGE, objectives.at),
    "nst": lambda: _between(_EACH_STAGE, objectives.nst),
    "vid": lambda: terms.on_layers(_EACH_STAGE, terms.vid()),
    "ab": lambda: terms.on_layers(_INPUTS, terms.ab()),
    "ft": lambda: terms.on_layers(("stage3", "stage3"), terms.ft()),
    "fsp": lambda: _between(["stem", *STAGES], objectives.fsp),
    "kdsvd": lambda: _between(list(STAGES), objectives.kdsvd),
    "rdl": lambda: terms.on_layers({**_EACH_STAGE, "pooled": "pooled"}, terms.rdl()),
    "sp": lambda: _between("stage3", objectives.sp),
    "pkt": lambda: _between("pooled", objectives.pkt),
    "rkd": lambda: _between("pooled", rkd),
    "cc": lambda: _between("pooled", objectives.cc),
    "cc_repdistiller": lambda: terms.on_layers("pooled", terms.cc()),
    "cka": lambda: _between("stage3", objectives.cka),
    "crd": lambda: _crd(negatives.per_example),
    "crd-expected": lambda: _crd(negatives.expectation),
    "crd-shared": lambda: _crd(negatives.per_batch),
}

CASES = (*LOSSES, "teacher")
# The goals for the ratio of times; smaller is better.
GOAL = measure.Goal("P14", "with", floor=1.25, target=1.10)
STORED = measure.Goal("stored", "stored", floor=1.1, target=1.0)
# The number of images whose activations are stored, 0.2 MB each.
STORED_IMAGES = 512
# The stages that RDL compares in the case `teacher`.
TWO = ("stage2", "stage3")


def build(name: str, options: runner.Options) -> measure.Case:
    """Returns the case for a step with and without a loss."""
    batch = 64 if options.batch is None else options.batch
    if name == "teacher":
        goals = (STORED,) if options.batch is None else ()
        return measure.Case(_teachers(batch), goals, tolerance=None, memory=False)
    contenders = {
        "without": lambda: measure.stepping(*step({}, batch)),
        "with": lambda: measure.stepping(*step({name: LOSSES[name]()}, batch)),
    }
    goals = (GOAL,) if options.batch is None else ()
    return measure.Case(contenders, goals, tolerance=None, memory=False)


def step(further: Mapping[str, terms.Term], batch: int) -> tuple[Callable, Any, Any]:
    """Returns a training step with the task, KD and further terms.

    Args:
      further: The further terms, by name.
      batch: The number of images in a step.

    Returns:
      The step `step(state, arrays) -> (state, metrics)`, the initial state, and the
      arrays.
    """
    images = example_data(batch)
    taught = _given(example_targets(_seen("resnet8x4", images["image"])))
    body, state, arrays = _taught({"kd": _kd(), **further}, taught, images, {})
    return functools.partial(body, batch={}), state, arrays


def _kd() -> terms.Term:
    return terms.on_layers(
        "logits", terms.from_objective(objectives.kd, temperature=4.0)
    )


def _seen(name: str, images: np.ndarray) -> dict[str, jax.ShapeDtypeStruct]:
    net = nets.build(name, 100)
    return jax.eval_shape(net.init_with_output, jax.random.key(0), images)[0]


def _given(targets: Mapping[str, np.ndarray]) -> teachers.Teacher:
    return teachers.Teacher(targets, lambda arrays, batch: arrays)


def _taught(
    further: Mapping[str, terms.Term],
    teacher: teachers.Teacher,
    images: Mapping[str, np.ndarray],
    batch: Mapping[str, Any],
) -> tuple[training.Step, training.TrainState, training.Arrays]:
    """Returns a step with the task and further terms, its state, and its arrays.

    The batch of nets and terms has the images and the entries of `batch`.
    """
    loss = {"task": terms.cross_entropy(), **further}
    phase = training.Phase({name: (1.0, term) for name, term in loss.items()}, epochs=1)
    net = nets.build("resnet8x4", 100)
    optimizer = optax.sgd(0.05, momentum=0.9, nesterov=True)

    def view(data, batch, key):
        return {**data, **batch}

    arrays = training.Arrays(teacher.arrays, images)
    state = training.init(
        jax.random.key(0), net, teacher, [phase], view, arrays, batch, devices=1
    )
    state = training.begin_phase(state, phase, optimizer)
    return training.make_step(net, teacher, phase, optimizer, view), state, arrays


@dataclasses.dataclass(frozen=True)
class Source:
    """A source of the targets of a step.

    Attributes:
      teacher: The function that makes the teacher.
      bring: The function that returns the entries to add to each batch.
    """

    teacher: Callable[[], teachers.Teacher]
    bring: Callable[[], dict[str, Any]] = dict


def sources(images: Mapping[str, np.ndarray]) -> dict[str, Source]:
    """Returns the sources of targets for two stages and the logits, by name."""

    @functools.cache
    def kept():
        seen = _seen("resnet32x4", np.empty((STORED_IMAGES, 32, 32, 3), np.float32))
        targets = example_targets({layer: seen[layer] for layer in (*TWO, "logits")})
        drawn = teachers.cached(jax.tree.map(jnp.asarray, targets))
        folder = tempfile.mkdtemp()
        atexit.register(shutil.rmtree, folder, ignore_errors=True)

        def see(index):
            return {"index": index}

        return activations.write(
            folder, drawn, see, STORED_IMAGES, [*targets], quiet=True
        )

    def rows():
        return activations.batch_reader(kept())(images["index"])

    def live():
        net = nets.build("resnet32x4", 100)
        return teachers.net(net, net.init(jax.random.key(9), images["image"][:1]))

    return {
        "given": Source(lambda: _given(rows())),
        "stored": Source(lambda: activations.teacher(kept())),
        "mapped": Source(teachers.from_batch, lambda: {"targets": rows()}),
        "live": Source(live),
    }


def _teachers(batch: int) -> dict[str, Callable[[], measure.Contender]]:
    """Returns a contender for each source of targets, with the same loss.

    (`without` has only the loss of the task.)
    """
    images = example_data(batch, STORED_IMAGES)
    rdl = terms.on_layers(dict(zip(TWO, TWO, strict=True)), terms.rdl())
    further = {"kd": _kd(), "rdl": rdl}

    def contender(source, further):
        step, *rest = _taught(further, source.teacher(), images, source.bring())
        # Copied: donated NumPy memory would be shared with the next contender.
        state, arrays = jax.tree.map(jnp.array, rest)
        step = jax.jit(step, donate_argnums=0)
        step = step.lower(state, arrays, source.bring()).compile()

        def call():
            nonlocal state
            state, metrics = step(state, arrays, source.bring())
            return jax.block_until_ready(metrics)

        return measure.Contender(call)

    ways = {
        name: functools.partial(contender, source, further)
        for name, source in sources(images).items()
    }
    return ways | {"without": lambda: contender(Source(teachers.none), {})}


def example_data(batch: int, examples: int = EXAMPLES) -> dict[str, np.ndarray]:
    """Returns a batch of random images, with their classes and their indices."""
    random = np.random.default_rng(0)
    return {
        "image": random.standard_normal((batch, 32, 32, 3), np.float32),
        "label": random.integers(100, size=batch, dtype=np.int32),
        "index": random.permutation(examples)[:batch].astype(np.int32),
    }


def example_targets(seen: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, np.ndarray]:
    """Returns random activations of these shapes; 0 or more after a ReLU."""
    random = np.random.default_rng(1)
    drawn = {k: random.standard_normal(x.shape, np.float32) for k, x in seen.items()}
    signed = {*_INPUTS, "logits"}
    return {k: x if k in signed else np.maximum(x, 0) for k, x in drawn.items()}


main = functools.partial(runner.main, "benchmarks.steps", build, CASES, runner.Options)

if __name__ == "__main__":
    sys.exit(main())
