"""Checks methods and nets before training.

(Each group of settings checks its own values: `experiments.config`.)
"""

import os
from collections.abc import Sequence

from experiments import command, methods
from experiments import config as configs
from rdljax import errors, nets


def check(config: configs.Config, measured: Sequence[str] = ()) -> None:
    """Checks methods, nets and a brain's file against one another, before a run.

    Args:
      config: The settings; each group has checked its own values.
      measured: The names of the RDMs of `brain`.

    Raises:
      UnknownName: If a net, a part of a method, a layer or an RDM is not known.
      UsageError: If settings cannot be used together.
    """
    for net in (config.nets.student, config.nets.teacher):
        if net is not None:
            errors.check_name("net", net, nets.NETS)
    for method in config.method.names:
        _check_parts(config, method, measured)
    methods.check_weights(config)
    student, teacher = config.nets.student, config.nets.teacher
    layers = nets.build(student, 1).layers
    for own, other in map(methods.pair, config.rdl.layers):
        errors.check_name(f"layer of {student}", own, layers)
        if teacher is not None:
            of_teacher = nets.build(teacher, 1).layers
            errors.check_name(f"layer of {teacher}", other, of_teacher)
    used = {part for method in config.method.names for part in methods.parts(method)}
    for name in sorted(used):
        for own, other in methods.PARTS[name].pairs(config):
            _check_layer(student, own)
            if teacher is not None:
                _check_layer(teacher, other)
    for layer in config.brain.layers:
        errors.check_name(f"layer of {student}", layer, layers)
    if config.brain.file is not None:
        for name in config.brain.rdms:
            errors.check_name("RDM", name, measured)
    for method in config.method.names:
        _check_own_name(config, method, measured)


def shared_seeds(config: configs.Config) -> str | None:
    """Returns a warning if students have their teacher's initial weights, or None.

    They do if both are the same net, since the seeds of both are counted from 0.
    """
    own = config.nets
    elsewhere = own.teacher_from is not None or own.student_from is not None
    teacher = own.teacher, own.teacher_modality
    if elsewhere or teacher != (own.student, own.modality):
        return None
    most = min(own.ensemble, config.training.seeds) - 1
    which = "seed 0 begin" if not most else f"seeds 0 to {most} begin"
    said = (
        f"teacher and students are the same net, {own.student}: students of "
        f"{which} with the initial weights of the teacher of that seed"
    )
    if config.data.student_per_class is None:
        said += ", and see the same batches"
    if "plain" in config.method.names and _trains_alike(config):
        said += "; plain-seed0 repeats the teacher's training"
    return f"{said}. Students of other seeds (--seeds) do not."


def _trains_alike(config: configs.Config) -> bool:
    """Returns whether a teacher and plain students of the same net train equally."""
    optimizer, own = config.optimizer, config.training
    rates = (None, optimizer.learning_rate)
    return (
        own.epochs == own.teacher_epochs
        and config.data.student_per_class is None
        and own.dtype == "float32"
        and optimizer.teacher_learning_rate in rates
        and methods.weight(config, "plain", "task") == 1.0
    )


def _check_parts(config: configs.Config, method: str, measured: Sequence[str]) -> None:
    """Checks that a method has known parts, and that their inputs are there."""
    student, parts = config.nets.student, method.split("+")
    kind = "part of a method"
    kind += "" if config.brain.file else ", without --brain=FILE,"
    known = ["plain", *methods.PARTS, *measured]
    for term in parts:
        name, at, layer = term.partition("@")
        errors.check_name(kind, name if name in measured else term, known)
        if at:
            layers = nets.build(student, 1).layers
            errors.check_name(f"layer of {student}", layer, layers)
        if name in measured and config.training.micro_batches > 1:
            raise command.UsageError(
                f"{term} takes stimuli, which requires micro_batches=1"
            )
        taught = config.nets.teacher is not None or config.training.activations
        if term in methods.PARTS and not taught:
            raise command.UsageError(f"{term} needs a teacher, and there is none")
    if len(set(parts)) != len(parts) or ("plain" in parts and len(parts) > 1):
        raise command.UsageError(
            f"{method} is not a method: use plain, or parts, each once"
        )


def _check_own_name(
    config: configs.Config, method: str, measured: Sequence[str]
) -> None:
    """Raises `UsageError` if the names of a method's RDMs or folders are not free."""
    names = {part.partition("@")[0] for part in method.split("+")} & {*measured}
    layers = methods.teacher_layers(configs.change(config, methods=(method,)))
    if both := sorted(names & {*layers}):
        raise command.UsageError(
            f"{method}: the RDM {both[0]} has the name of a layer of the teacher"
        )
    folder = f"{method}-seed{config.training.seeds - 1}"
    if (size := len(os.fsencode(folder))) > 255:
        raise command.UsageError(
            f"the name of a method, with its seed, is the name of a folder and must be "
            f"at most 255 bytes, got {size}: {method[:50]}..."
        )


def _check_layer(net: str, layer: str) -> None:
    """Raises `UnknownName` unless the name is that of a layer or a preactivation."""
    built = nets.build(net, 1)
    known = list(dict.fromkeys([*built.layers, *built.preactivations]))
    errors.check_name(f"layer of {net}", layer, known)
