"""What can be known to be wrong of a config before it is run."""

import dataclasses
import os
from collections.abc import Sequence

from experiments import command, methods
from experiments import config as configs
from rdljax import errors, nets

# What a number must be: in words, and from where to below where. Beyond these limits
# a count does not fit int32, or a product of two numbers is 0 or infinite in float32.
_COUNT = "1 or more", 1, 10**9
_POSITIVE = "above 0", 1e-15, 1e15
_WEIGHT = "0 or more", 0.0, 1e15
RANGES: dict[str, tuple[str, float, float]] = {
    "train_per_class": _COUNT,
    "crop": ("0 or more", 0, 10**9),
    "seeds": _COUNT,
    "together": _COUNT,
    "pairs": _COUNT,
    "layer_weights": _WEIGHT,
    "kd_temperature": _POSITIVE,
    "ensemble": ("1 or more", 1, 100),
    "start_epochs": _COUNT,
    "crd_temperature": _POSITIVE,
    "crd_negatives": _COUNT,
    "brain_weight": _WEIGHT,
    "held_out": ("above 0", 1e-6, 1.0),
    "stimuli": ("3 or more", 3, 10**9),
    "resize": ("1 or more", 1, 10**4),
    "epochs": _COUNT,
    "teacher_epochs": _COUNT,
    "batch": _COUNT,
    "micro_batches": _COUNT,
    "learning_rate": ("above 0", 1e-30, 1e30),
    "teacher_learning_rate": ("above 0", 1e-30, 1e30),
    "momentum": ("0 or more", 0.0, 1.0),
    "weight_decay": _WEIGHT,
    "clip": _POSITIVE,
}


def check(config: configs.Config, measured: Sequence[str] = ()) -> None:
    """Raises `UnknownName` or `UsageError` for what can be known before the run.

    Args:
      config: The settings.
      measured: The names of the RDMs of `brain`.
    """
    if config.teacher is not None:
        errors.check_name("net", config.teacher, nets.NETS)
    errors.check_name("net", config.student, nets.NETS)
    for field in ("distance", "brain_distance"):
        errors.check_name("distance", getattr(config, field), configs.DISTANCES)
    errors.check_name("comparison", config.comparison, configs.COMPARISONS)
    errors.check_name("comparison", config.brain_comparison, configs.BRAIN_COMPARISONS)
    student = nets.build(config.student, 1)
    for method in config.methods:
        parts = method.split("+")
        for term in parts:
            name, at, layer = term.partition("@")
            known = ["plain", *methods.PARTS, *measured]
            kind = "part of a method"
            kind += "" if config.brain else ", without --brain=FILE,"
            errors.check_name(kind, name if name in measured else term, known)
            if at:
                errors.check_name(f"layer of {config.student}", layer, student.layers)
            if name in measured and config.micro_batches > 1:
                raise command.UsageError(
                    f"{term} takes stimuli, which micro_batches=1 sees"
                )
            if term not in methods.PARTS:
                continue
            if config.teacher is None and not config.activations:
                raise command.UsageError(f"{term} takes a teacher, and there is none")
        if len(set(parts)) != len(parts) or ("plain" in parts and len(parts) > 1):
            raise command.UsageError(
                f"{method} is not a method: plain, or parts, each once"
            )
    methods.check_weights(config)
    used = {name: None for method in config.methods for name in methods.parts(method)}
    compared = [methods.pair(layer) for layer in config.layers]
    for own, other in compared:
        errors.check_name(f"layer of {config.student}", own, student.layers)
        if config.teacher is not None:
            layers = nets.build(config.teacher, 1).layers
            errors.check_name(f"layer of {config.teacher}", other, layers)
    for own, other in (x for name in used for x in methods.PARTS[name].pairs(config)):
        _check_layer(config.student, own)
        if config.teacher is not None:
            _check_layer(config.teacher, other)
    for layer in config.brain_layers:
        errors.check_name(f"layer of {config.student}", layer, student.layers)
    if config.brain is not None:
        for name in config.brain_rdms:
            errors.check_name("RDM", name, measured)
    if config.brain_ceiling and config.brain_subjects != "each":
        raise command.UsageError(
            "brain_ceiling is of each subject's RDM: it goes with brain_subjects=each"
        )
    if config.brain_ceiling and config.brain_comparison.startswith("MSE"):
        raise command.UsageError(
            "brain_ceiling takes a brain_comparison with a similarity"
        )
    if config.stream and config.driver == "epoch":
        raise command.UsageError("driver=epoch would stream an epoch's images at once")
    if config.compilation_cache:
        folder = command.path("compilation_cache", config.compilation_cache)
        if folder.exists() and not folder.is_dir():
            raise command.UsageError(
                f"compilation_cache must be a folder, {folder} is none"
            )
    if config.resume and config.overwrite:
        raise command.UsageError("resume and overwrite exclude each other")
    if config.ensemble > 1:
        _check_ensemble(config)
    for field in ("methods", "layers", "maps", "brain_rdms", "brain_layers"):
        chosen = getattr(config, field)
        if chosen is None:
            continue
        if not chosen or len(set(chosen)) != len(chosen):
            raise command.UsageError(
                f"{field} must name one or more, each once, got {chosen}"
            )
    shares = config.layer_weights
    if shares is not None and len(shares) != len(config.layers):
        raise command.UsageError(
            f"expected a weight for each layer of {config.layers}, got "
            f"{config.layer_weights}"
        )
    for field, (words, low, high) in RANGES.items():
        given = getattr(config, field)
        for number in given if isinstance(given, tuple) else (given,):
            # (Not a number is in no range.)
            if number is not None and not low <= number < high:
                raise command.UsageError(
                    f"{field} must be {words} and below {high:g}, got {number}"
                )
    for method in config.methods:
        _check_own_name(config, method, measured)
    most = config.batch * (config.batch - 1) // 2
    if config.pairs is not None and config.pairs > most:
        raise command.UsageError(
            f"pairs must be at most the {most} of a batch of {config.batch}, got "
            f"{config.pairs}; without pairs all are compared"
        )


def _check_own_name(
    config: configs.Config, method: str, measured: Sequence[str]
) -> None:
    """Raises `UsageError` for a method whose RDMs or folders have others' names."""
    names = {part.partition("@")[0] for part in method.split("+")} & {*measured}
    layers = methods.taught(dataclasses.replace(config, methods=(method,)))
    if both := sorted(names & {*layers}):
        raise command.UsageError(
            f"{method}: the RDM {both[0]} has the name of a layer of the teacher"
        )
    folder = f"{method}-seed{config.seeds - 1}"
    if (size := len(os.fsencode(folder))) > 255:
        raise command.UsageError(
            f"the name of a method, with its seed, must be at most 255 bytes, a "
            f"folder's, got {size}: {method[:50]}..."
        )


def _check_layer(net: str, layer: str) -> None:
    """Raises `UnknownName` for what is no layer, nor one before its ReLU."""
    built = nets.build(net, 1)
    known = list(dict.fromkeys([*built.layers, *built.preactivations]))
    errors.check_name(f"layer of {net}", layer, known)


def _check_ensemble(config: configs.Config) -> None:
    """Raises `UsageError` for what an ensemble of teachers cannot do."""
    if config.teacher is None or config.teacher_from is not None:
        raise command.UsageError("an ensemble is of teachers that are trained here")
    if config.pairs is not None:
        raise command.UsageError(
            "the mean RDM of an ensemble has all pairs: it goes with pairs=None"
        )
