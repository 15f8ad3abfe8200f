"""Defines methods: the parts of a student's loss, in addition to the task.

A method is `plain`, or parts joined by `+`, such as `kd+crd`. A part is an objective as
used in RepDistiller's comparison (Tian, Krishnan & Isola, Contrastive Representation
Distillation, ICLR 2020): between the same layers and, unless the config changes it,
with the same weight.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from experiments import command
from experiments import config as configs
from experiments.config import functions
from rdljax import errors, mmd, nets, objectives, terms, training
from rdljax.terms import negatives

Weighted = tuple[float | optax.Schedule, terms.Term]
Pair = tuple[str, str]


class TermInputs(NamedTuple):
    """The settings and numbers from which the terms of a method are made.

    Attributes:
      config: The settings.
      labels: The classes of the training images, `[N]`.
      steps: The number of training steps of a student, for schedules.
    """

    config: configs.Config
    labels: np.ndarray
    steps: int


@dataclasses.dataclass(frozen=True)
class Part:
    """An objective as a part of a method.

    Attributes:
      weight: The default weight; the task has weight 1.
      pairs: The function from the config to the pairs of layers of student and teacher
        that are compared.
      terms: The function from the inputs and the pairs to the terms by name, each with
        a factor on the weight.
      trains: The parameters of the part that are trained with the student: paths
        below the part's name, "" for all of them.
      first: The parameters of the part that are trained in its start-up phase, as
        paths, too; None if there is no such phase.
      alone: Whether the part is used in the start-up phase only, and trains the student
        there.
      decays: The function from the config to whether the weight of the part decays
        linearly to 0 at the last step; None if it never does.
    """

    weight: float
    pairs: Callable[[configs.Config], list[Pair]]
    terms: Callable[[TermInputs, list[Pair]], dict[str, Weighted]]
    trains: tuple[str, ...] = ()
    first: tuple[str, ...] | None = None
    alone: bool = False
    decays: Callable[[configs.Config], bool] | None = None


# ---- which layers


def pair(layer: str) -> Pair:
    """Returns the layers of student and teacher in `LAYER` or `STUDENT:TEACHER`.

    `stage2` gives `("stage2", "stage2")`, `stage1:stage2` gives `("stage1", "stage2")`.
    """
    student, colon, teacher = layer.partition(":")
    return student, teacher if colon else student


def stages(config: configs.Config) -> list[Pair]:
    """Returns the pairs of maps to compare: `maps`, or the stages that both nets have.

    Raises:
      UsageError: If the nets have no stage in common.
    """
    if config.method.maps is not None:
        return [pair(layer) for layer in config.method.maps]
    student, teacher = config.nets.student, config.nets.teacher
    own = nets.build(student, 1).layers
    other = own if teacher is None else nets.build(teacher, 1).layers
    common = [name for name in own if name.startswith("stage") and name in other]
    if not common:
        raise command.UsageError(
            f"{student} and {teacher} have no stage in common; --maps "
            "names layers, or student:teacher"
        )
    return [(name, name) for name in common]


def _logits(config: configs.Config) -> list[Pair]:
    return [("logits", "logits")]


def _hint_layers(config: configs.Config) -> list[Pair]:
    return [pair(config.method.hint_layer)]


def _last(config: configs.Config) -> list[Pair]:
    return stages(config)[-1:]


def _vector(config: configs.Config) -> list[Pair]:
    return [pair(config.method.vector)]


def _rdl_layers(config: configs.Config) -> list[Pair]:
    return [pair(layer) for layer in config.rdl.layers]


def _from_stem(config: configs.Config) -> list[Pair]:
    """Returns pairs of maps in depth order, after the stems if both nets have one."""
    names = [x for x in (config.nets.student, config.nets.teacher) if x is not None]
    has_stem = all("stem" in nets.build(name, 1).layers for name in names)
    found = stages(config)
    stem = ("stem", "stem")
    return [stem, *found] if has_stem and stem not in found else found


def _before_relu(config: configs.Config) -> list[Pair]:
    """Returns the pairs of maps before the last ReLU of their stages."""

    def of(name, layer):
        net = nets.build(name, 1)
        in_depth = [layer for layer in net.layers if layer.startswith("stage")]
        found = dict(zip(in_depth, net.preactivations, strict=False))
        errors.check_name(f"stage of {name} with a form before its ReLU", layer, found)
        return found[layer]

    teacher = config.nets.teacher or config.nets.student
    return [(of(config.nets.student, s), of(teacher, t)) for s, t in stages(config)]


# The flag that sets the layers of a part; parts that compare logits have none.
LAYER_FLAGS: dict[Callable[[configs.Config], list[Pair]], str] = {
    _hint_layers: "--hint_layer",
    _vector: "--vector",
    _rdl_layers: "--layers",
    **dict.fromkeys((stages, _last, _from_stem, _before_relu), "--maps"),
}


def layer_flags(method: str) -> str:
    """Returns the flags that set the layers of a method's parts, or ""."""
    found = {name: LAYER_FLAGS.get(PARTS[name].pairs) for name in parts(method)}
    return ", ".join(f"{flag} ({name})" for name, flag in found.items() if flag)


# ---- terms of parts


def teacher_names(config: configs.Config) -> list[str]:
    """Returns the names of the teachers of an ensemble; empty for a single teacher."""
    count = config.nets.ensemble
    return [str(i) for i in range(count)] if count > 1 else []


def _term_of_teachers(
    inputs: TermInputs, pairs, term: terms.Term, globally: bool = False
) -> terms.Term:
    """Returns a term between layers; for an ensemble, the mean over its teachers."""
    names, between = teacher_names(inputs.config), terms.on_layers(pairs, term)
    between = terms.over_global_batch(between) if globally else between
    return terms.per_teacher(names, between) if names else between


def _mean_of(inputs: TermInputs, layers: Pair, mean: terms.Term) -> terms.Term:
    """Returns a term that compares the student with the mean of an ensemble."""
    own, other = layers
    names = teacher_names(inputs.config)
    return terms.on_layers((own, [f"{name}/{other}" for name in names]), mean)


def _one(make: Callable[[TermInputs], terms.Term], globally: bool = False):
    """Returns a function that makes the term of one pair of layers.

    Args:
      make: The function that makes the term of two arrays.
      globally: Whether the term relates the examples of the batch to each other.
    """

    def of(inputs, pairs):
        (layers,) = pairs
        return {"": (1.0, _term_of_teachers(inputs, layers, make(inputs), globally))}

    return of


def _several(make: Callable[[TermInputs], terms.Term]):
    """Returns a function that makes the term of several pairs of layers.

    Args:
      make: The function that makes the term, a sum over the pairs in depth order or a
        relation between them.
    """

    def of(inputs, pairs):
        return {"": (1.0, _term_of_teachers(inputs, list(pairs), make(inputs)))}

    return of


def _kd(inputs: TermInputs, pairs: list[Pair]) -> dict[str, Weighted]:
    temperature = inputs.config.method.kd_temperature
    if inputs.config.nets.ensemble > 1:
        (layers,) = pairs
        mean = terms.kd_mean(temperature=temperature)
        return {"": (1.0, _mean_of(inputs, layers, mean))}
    return _one(lambda _: terms.from_objective(objectives.kd, temperature=temperature))(
        inputs, pairs
    )


def _rdl(inputs: TermInputs, pairs: list[Pair]) -> dict[str, Weighted]:
    config = inputs.config
    numbers: dict[str, Any] = {
        "distance": functions.DISTANCES[config.rdl.distance],
        "comparison": functions.COMPARISONS[config.rdl.comparison],
    }
    shares = config.rdl.layer_weights or (1.0,) * len(config.rdl.layers)
    found = {}
    for layer, layers, share in zip(config.rdl.layers, pairs, shares, strict=True):
        if config.nets.ensemble > 1:
            term = _mean_of(inputs, layers, terms.rdl_mean(**numbers))
        else:
            term = terms.on_layers(layers, terms.rdl(pairs=config.rdl.pairs, **numbers))
        found[layer] = (share, terms.over_global_batch(term))
    return found


def _rkd(inputs: TermInputs, pairs: list[Pair]) -> dict[str, Weighted]:
    (layers,) = pairs
    distance, angle = (
        _term_of_teachers(
            inputs, layers, terms.from_objective(objective), globally=True
        )
        for objective in (objectives.rkd_distance, objectives.rkd_angle)
    )
    return {"distance": (25.0, distance), "angle": (50.0, angle)}


def _crd(inputs: TermInputs) -> terms.Term:
    config, count = inputs.config, len(inputs.labels)
    choose = functions.SAMPLINGS[config.crd.sampling]
    wanted = config.crd.negatives
    if choose is negatives.per_batch:
        wanted = min(wanted, count)
    labels: Any = None if config.crd.any_class else inputs.labels
    chosen = choose(wanted, labels, relax=config.crd.relax)
    return terms.crd(count, chosen, temperature=config.crd.temperature)


def _nst(kernel):
    return _several(lambda _: terms.from_objective(objectives.nst, kernel=kernel))


def _below(part: str, paths: Sequence[str], config: configs.Config) -> tuple[str, ...]:
    """Returns the paths of a part's parameters; with an ensemble, of each teacher."""
    starts = [f"{part}/{name}" for name in teacher_names(config)] or [part]
    return tuple(f"{start}/{path}".rstrip("/") for start in starts for path in paths)


PARTS: dict[str, Part] = {
    "ab": Part(
        1.0, _before_relu, _several(lambda _: terms.ab()), first=("",), alone=True
    ),
    "at": Part(1000.0, stages, _several(lambda _: terms.from_objective(objectives.at))),
    "cc": Part(0.02, _vector, _one(lambda _: terms.cc(), True), ("",)),
    "cka": Part(
        1.0, _vector, _one(lambda _: terms.from_objective(objectives.cka), True)
    ),
    "crd": Part(0.8, _vector, _one(_crd), ("",)),
    "dist": Part(
        1.0, _logits, _one(lambda _: terms.from_objective(objectives.dist), True)
    ),
    "dkd": Part(1.0, _logits, _one(lambda _: terms.with_labels(objectives.dkd))),
    "fsp": Part(
        1.0,
        _from_stem,
        _several(lambda _: terms.from_objective(objectives.fsp)),
        first=(),
        alone=True,
    ),
    "ft": Part(
        200.0,
        _last,
        _one(lambda _: terms.ft(objective=objectives.ft_repdistiller)),
        ("translator",),
        ("paraphraser",),
    ),
    "hint": Part(
        100.0,
        _hint_layers,
        _one(lambda _: terms.hint(normalize=True, activation=jax.nn.relu)),
        ("",),
    ),
    "kd": Part(1.0, _logits, _kd),
    "kdsvd": Part(
        1.0, stages, _several(lambda _: terms.from_objective(objectives.kdsvd))
    ),
    "nst": Part(50.0, stages, _nst(mmd.Polynomial())),
    "nst_gaussian": Part(50.0, stages, _nst(mmd.Gaussian(1.0, mmd.by_mean))),
    "nst_linear": Part(50.0, stages, _nst(mmd.Linear())),
    "pkt": Part(
        30000.0, _vector, _one(lambda _: terms.from_objective(objectives.pkt), True)
    ),
    "rdl": Part(1.0, _rdl_layers, _rdl, decays=lambda config: config.rdl.decay),
    "rkd": Part(1.0, _vector, _rkd),
    "sp": Part(
        3000.0, _last, _one(lambda _: terms.from_objective(objectives.sp), True)
    ),
    "vid": Part(1.0, stages, _several(lambda _: terms.vid()), ("",)),
}


# ---- methods


def parts(method: str) -> list[str]:
    """Returns the names in a method that are in `PARTS`."""
    return [name for name in method.split("+") if name in PARTS]


def weight(config: configs.Config, method: str, part: str) -> float:
    """Returns the weight of a part, or of the `task`, in a method.

    It is the config's weight for this method, or else the config's weight for this
    part, or else the weight in `PARTS`; 1 for the task.
    """
    found = PARTS[part].weight if part in PARTS else 1.0
    for entry in sorted(config.method.weights, key=lambda entry: "/" in entry):
        name, _, number = entry.rpartition("=")
        *within, own = name.split("/")
        # (The order of a method's parts does not matter.)
        here = not within or {*within[0].split("+")} == {*method.split("+")}
        if own == part and here:
            found = float(number)
    return found


def check_weights(config: configs.Config) -> None:
    """Checks the config's entries for weights.

    Raises:
      UsageError: If an entry has another form, or is given twice.
      UnknownName: If an entry names an unknown part.
    """
    seen = set()
    for entry in config.method.weights:
        name, equals, number = entry.rpartition("=")
        *method, part = name.split("/")
        try:
            value = float(number)
        except ValueError:
            value = math.nan
        if not equals or len(method) > 1 or not 0 <= value < 1e15 or name in seen:
            raise command.UsageError(
                "a weight is PART=NUMBER or METHOD/PART=NUMBER, with a number of 0 or "
                f"more and below 1e+15, each given once, got {entry!r}"
            )
        seen.add(name)
        if method:
            # (The config need not have this method: a table's columns share weights.)
            within = method[0].split("+")
            for one in within:
                errors.check_name("part of a method", one, ["plain", *PARTS])
            errors.check_name(f"part of {method[0]}", part, ["task", *within])
        else:
            errors.check_name("part of a method", part, ["task", *PARTS])


def plan(
    inputs: TermInputs,
    method: str,
    measured: Callable[[str], dict[str, Weighted]] | None = None,
) -> list[training.Phase]:
    """Returns the phases in which a method trains a student; the last has the task.

    Args:
      inputs: The settings and numbers from which the terms are made.
      method: `plain`, or names of `PARTS` and of measured RDMs joined by `+`.
      measured: The function from a part of the method that is not in `PARTS`, a
        measured RDM, to its terms.

    Returns:
      One phase, or a start-up phase and that phase. Terms have names such as `kd`,
      `rdl/LAYER` and `rkd/angle`; each weight is a number or a schedule.

    Raises:
      UsageError: If the method has a term twice.
    """
    config = inputs.config
    loss: dict[str, Weighted] = {
        "task": (weight(config, method, "task"), terms.cross_entropy())
    }
    first: dict[str, Weighted] = {}
    trains, trained_first = ["student"], []
    for name in method.split("+"):
        if name in PARTS:
            part = PARTS[name]
            made = part.terms(inputs, part.pairs(config))
            made = _name_terms(name, weight(config, method, name), made, inputs)
            if part.first is not None:
                trained_first += ["student"] if part.alone else []
                trained_first += _below(name, part.first, config)
                first |= made if part.alone else _start_up_terms(made)
            if not part.alone:
                loss |= made
                trains += _below(name, part.trains, config)
        elif name != "plain":
            if measured is None:
                raise TypeError(
                    f"{name} is not a part of methods, and there are no measured RDMs"
                )
            of_brain = measured(name)
            if twice := sorted(of_brain.keys() & loss.keys()):
                raise command.UsageError(f"{method} has {twice[0]} twice")
            loss |= of_brain
    main = training.Phase(loss, config.training.epochs, tuple(trains))
    if not first:
        return [main]
    trained = tuple(dict.fromkeys(trained_first))
    return [training.Phase(first, config.method.start_epochs, trained), main]


def _start_up_terms(loss: dict[str, Weighted]) -> dict[str, Weighted]:
    """Returns the start-up terms (`terms.pretraining`) of terms that have them."""
    return {name: (1.0, terms.pretraining(term)) for name, (_, term) in loss.items()}


def _name_terms(
    part: str, factor: float, loss: dict[str, Weighted], inputs: TermInputs
) -> dict[str, Weighted]:
    """Returns terms, named by their part, with their weights."""
    found, decays = {}, PARTS[part].decays
    for name, (share, term) in loss.items():
        own = factor * share
        if decays is not None and decays(inputs.config):
            own = optax.linear_schedule(own, 0.0, inputs.steps)
        found[f"{part}/{name}" if name else part] = (own, term)
    return found


def reads_teacher(method: str) -> bool:
    """Returns whether any part of a method reads the activations of a teacher."""
    return bool(parts(method))


def teacher_layers(config: configs.Config) -> list[str]:
    """Returns the layers of the teacher that at least one method reads."""
    names = {name for method in config.method.names for name in parts(method)}
    layers = {other for name in names for _, other in PARTS[name].pairs(config)}
    prefixes = [f"{name}/" for name in teacher_names(config)] or [""]
    return sorted(prefix + layer for prefix in prefixes for layer in layers)
