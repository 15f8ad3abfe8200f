"""The settings of an experiment, and how the command line changes them.

A config is a frozen `Config` made by `experiments/configs/NAME.py`, whose docstring is
its lab note. Any field is changed by `--field=value`.
"""

import dataclasses
import importlib
import pathlib
from collections.abc import Callable, Sequence
from typing import Literal

import optax

from experiments import command
from experiments.command import UsageError
from rdljax import _names, nets, objectives, rdm, terms

CONFIGS = pathlib.Path(__file__).parent / "configs"


@dataclasses.dataclass(frozen=True)
class Config:
    """One teacher, and the same student trained by several methods and seeds."""

    data: str = "digits"
    """`digits`, or the name of a TFDS image set."""
    data_dir: str | None = None
    """The folder that holds the TFDS sets."""
    train_per_class: int | None = None
    """Keep so many training images of each class; None keeps all."""
    crop: int | None = None
    """Pad by so many pixels and crop at random; None for the data set's usual."""
    flip: bool | None = None
    """Mirror at random; None for the data set's usual."""

    teacher: str | None = "mnist_cnn"
    """The teacher's net; where `teacher_from` is given, that folder says which. None
    for no net that teaches."""
    teacher_from: str | None = None
    """A folder of weights, from experiments.import_torch or from another run
    (RESULTS/teacher/weights): the teacher, which is then not trained."""
    student: str = "mnist_cnn_small"
    """The students' net; where `student_from` is given, that folder says which."""
    student_from: str | None = None
    """A folder of weights, as for `teacher_from`, with which students begin."""
    methods: tuple[str, ...] = ("plain", "rdl", "kd", "kd+rdl")
    """How students are trained: `plain`, or terms joined by `+`: hint, kd, rdl, and
    with `brain` the names of its RDMs (docs/brain.md), such as human_it,
    human_it@stage1 (in that layer alone) and human_it_shuffled."""
    seeds: int = 3
    """Students of each method, seeds 0, 1, ...; the teacher has seed 0."""

    layers: tuple[str, ...] = ("stage1", "stage2", "pooled", "logits")
    """What RDL compares: names of layers, or student:teacher where they differ."""
    distance: str = "Cosine"
    """RDL's distance, of `rdljax.rdm.distances`."""
    comparison: str = "Pearson"
    """RDL's comparison of RDMs, of `rdljax.rdm.comparisons`."""
    pairs: int | None = None
    """Random pairs that RDL compares in each step; None for all of the batch."""
    rdl_weight: float = 1.0
    """Weight of RDL in each layer, beside the task's 1."""
    layer_weights: tuple[float, ...] | None = None
    """A factor on RDL's weight for each layer; None for 1."""
    rdl_decay: bool = False
    """Let RDL's weight fall linearly to 0 at the last step."""
    kd_weight: float = 1.0
    """Weight of KD."""
    kd_temperature: float = 4.0
    """What KD divides the logits by."""
    hint_layer: str = "stage2"
    """What the hint compares."""
    hint_weight: float = 1.0
    """Weight of the hint."""

    brain: str | None = None
    """A file of stimuli and their measured RDMs."""
    brain_rdms: tuple[str, ...] = ("human_it",)
    """The RDMs with which a net's agreement on held-out stimuli is reported."""
    brain_layers: tuple[str, ...] = ("pooled",)
    """The student's layers that are compared with them."""
    brain_distance: str = "Correlation"
    """Of two stimuli in the student, of `rdljax.rdm.distances`."""
    brain_comparison: str = "Pearson"
    """Of the student's RDM with the brain's, of `rdljax.rdm.comparisons`."""
    brain_weight: float = 1.0
    """Weight of the comparison in each layer, beside the task's 1."""
    brain_decay: bool = False
    """Let that weight fall linearly to 0 at the last step."""
    brain_subjects: Literal["mean", "each"] = "mean"
    """Of RDMs of several subjects, compare with their mean, or with each and take the
    mean."""
    brain_reliability: bool = False
    """Weigh subjects by how well their sessions agree."""
    brain_ceiling: bool = False
    """Of several subjects, measure the similarity with each in units of the noise
    ceiling."""
    brain_signed: bool = False
    """Let distances be below 0, as crossvalidated ones may."""
    held_out: float = 0.5
    """The part of the stimuli that training never sees."""
    stimuli: int | None = None
    """Stimuli in a step, over all devices, drawn from those that are not held out; None
    for as many of them as eight devices divide."""

    resize: int | None = None
    """Bring images, and stimuli, to that many pixels on each side."""
    epochs: int = 15
    """Epochs of a student."""
    teacher_epochs: int = 15
    """Epochs of the teacher."""
    batch: int = 64
    """Images in a step, over all devices."""
    micro_batches: int = 1
    """In how many a student sees its batch, one after the other, for less memory."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the student's activations; parameters and losses are float32."""
    same_batches: bool = False
    """Let all seeds see the same batches: they differ in their weights alone, and a
    teacher looks once at what students that go together see."""
    remember_teacher: bool | None = None
    """Let the teacher look once at each training image, without crops and mirrors, and
    remember its answers; None where images are not cropped or mirrored and 1 GiB holds
    them, over all devices."""
    activations: str | None = None
    """A folder in which those answers are stored, once for all runs, and read from with
    each batch; or, without a teacher, a file of another program (`rdljax.stored`) whose
    rows, or whose `index`, are the training images in the order of the split."""
    learning_rate: float = 0.1
    """The largest: reached in the first epoch, it then falls to 0 along a cosine."""
    momentum: float = 0.9
    """Nesterov's momentum."""
    weight_decay: float = 5e-4
    """Weight decay of all parameters."""
    clip: float = 1.0
    """The gradient's largest norm; longer ones are shortened."""

    out: str = "results/{config}-{data}"
    """The folder for results."""
    resume: bool = False
    """Continue what the folder holds, if it holds this config's run."""
    overwrite: bool = False
    """Delete what an earlier run left in the folder."""

    driver: Literal["auto", "step", "chunk", "epoch"] = "auto"
    """How steps reach the device: one by one, ten written out as one program, or an
    epoch as a loop on the device; auto: epochs on accelerators, steps on a CPU."""
    together: int | None = None
    """Seeds trained as one program; None for all that fit into an accelerator's memory,
    and one on a CPU."""
    stream: bool = False
    """Leave the images with the host, for sets that a device cannot hold."""
    compilation_cache: str | None = None
    """A folder for compiled programs, for the next run; None for the user's cache on
    accelerators and none on a CPU, "" for none."""
    profile: bool = False
    """Measure first where the time of each method's step goes, and write a trace."""


def names() -> list[str]:
    """The names of all configs."""
    return sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem != "__init__")


def load(name: str, **changes) -> Config:
    """The config of that name.

    Args:
      name: Of a file in `experiments/configs`.
      **changes: Fields with other values.

    Raises:
      UnknownName: There is no such config.
    """
    _names.check("config", name, names())
    module = importlib.import_module(f"experiments.configs.{name}")
    return dataclasses.replace(module.get_config(), **changes)


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
    "rdl_weight": _WEIGHT,
    "layer_weights": _WEIGHT,
    "kd_weight": _WEIGHT,
    "kd_temperature": _POSITIVE,
    "hint_weight": _WEIGHT,
    "brain_weight": _WEIGHT,
    "held_out": ("above 0", 1e-6, 1.0),
    "stimuli": ("3 or more", 3, 10**9),
    "resize": ("1 or more", 1, 10**4),
    "epochs": _COUNT,
    "teacher_epochs": _COUNT,
    "batch": _COUNT,
    "micro_batches": _COUNT,
    "learning_rate": ("above 0", 1e-30, 1e30),
    "momentum": ("0 or more", 0.0, 1.0),
    "weight_decay": _WEIGHT,
    "clip": _POSITIVE,
}


def check(config: Config, measured: Sequence[str] = ()) -> None:
    """Raises `UnknownName` or `UsageError` for what can be known before the run.

    Args:
      config: The settings.
      measured: The names of the RDMs of `brain`.
    """
    if config.teacher is not None:
        _names.check("net", config.teacher, nets.NETS)
    _names.check("net", config.student, nets.NETS)
    for field in ("distance", "brain_distance"):
        _names.check("distance", getattr(config, field), DISTANCES)
    _names.check("comparison", config.comparison, COMPARISONS)
    _names.check("comparison", config.brain_comparison, BRAIN_COMPARISONS)
    student = nets.build(config.student, 1)
    for method in config.methods:
        parts = method.split("+")
        for term in parts:
            name, at, layer = term.partition("@")
            known = ["plain", *TERMS, *measured]
            kind = "term" if config.brain else "term, without --brain=FILE,"
            _names.check(kind, name if name in measured else term, known)
            if at:
                _names.check(f"layer of {config.student}", layer, student.layers)
            if name in measured and config.micro_batches > 1:
                raise UsageError(f"{term} takes stimuli, which micro_batches=1 sees")
            if term in TAUGHT and config.teacher is None and not config.activations:
                raise UsageError(f"{term} takes a teacher, and there is none")
        if len(set(parts)) != len(parts) or ("plain" in parts and len(parts) > 1):
            raise UsageError(f"{method} is not a method: plain, or terms, each once")
    hints = any("hint" in method.split("+") for method in config.methods)
    for layer in (*config.layers, *([config.hint_layer] if hints else [])):
        own, other = pair(layer)
        _names.check(f"layer of {config.student}", own, student.layers)
        if config.teacher is not None:
            layers = nets.build(config.teacher, 1).layers
            _names.check(f"layer of {config.teacher}", other, layers)
    for layer in config.brain_layers:
        _names.check(f"layer of {config.student}", layer, student.layers)
    if config.brain is not None:
        for name in config.brain_rdms:
            _names.check("RDM", name, measured)
    if config.brain_ceiling and config.brain_subjects != "each":
        raise UsageError(
            "brain_ceiling is of each subject's RDM: it goes with brain_subjects=each"
        )
    if config.brain_ceiling and config.brain_comparison.startswith("MSE"):
        raise UsageError("brain_ceiling takes a brain_comparison with a similarity")
    if config.stream and config.driver == "epoch":
        raise UsageError("driver=epoch would stream an epoch's images at once")
    if config.compilation_cache:
        folder = command.path("compilation_cache", config.compilation_cache)
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"compilation_cache must be a folder, {folder} is none")
    if config.resume and config.overwrite:
        raise UsageError("resume and overwrite exclude each other")
    for field in ("methods", "layers", "brain_rdms", "brain_layers"):
        chosen = getattr(config, field)
        if not chosen or len(set(chosen)) != len(chosen):
            raise UsageError(f"{field} must name one or more, each once, got {chosen}")
    if len(_layer_weights(config)) != len(config.layers):
        raise UsageError(
            f"expected a weight for each layer of {config.layers}, got "
            f"{config.layer_weights}"
        )
    for field, (words, low, high) in RANGES.items():
        given = getattr(config, field)
        for number in given if isinstance(given, tuple) else (given,):
            # (Not a number is in no range.)
            if number is not None and not low <= number < high:
                raise UsageError(
                    f"{field} must be {words} and below {high:g}, got {number}"
                )
    most = config.batch * (config.batch - 1) // 2
    if config.pairs is not None and config.pairs > most:
        raise UsageError(
            f"pairs must be at most the {most} of a batch of {config.batch}, got "
            f"{config.pairs}; without pairs all are compared"
        )


Weighted = tuple[float | optax.Schedule, terms.Term]


def _kd(config: Config, steps: int) -> dict[str, Weighted]:
    term = terms.plain(objectives.kd, temperature=config.kd_temperature)
    return {"kd": (config.kd_weight, terms.between("logits", term))}


def _hint(config: Config, steps: int) -> dict[str, Weighted]:
    term = terms.between(pair(config.hint_layer), terms.hint())
    return {"hint": (config.hint_weight, term)}


def _rdl(config: Config, steps: int) -> dict[str, Weighted]:
    term = terms.rdl(
        pairs=config.pairs,
        distance=DISTANCES[config.distance],
        comparison=COMPARISONS[config.comparison],
    )
    loss = {}
    for layer, share in zip(config.layers, _layer_weights(config), strict=True):
        weight = config.rdl_weight * share
        if config.rdl_decay:
            weight = optax.linear_schedule(weight, 0.0, steps)
        between = terms.between(pair(layer), term)
        loss[f"rdl/{layer}"] = (weight, terms.over_global_batch(between))
    return loss


# What a method can be made of: from a config and the number of steps to weighted terms.
TERMS: dict[str, Callable[[Config, int], dict[str, Weighted]]] = {
    "hint": _hint,
    "kd": _kd,
    "rdl": _rdl,
}

# Of each, the layers of the teacher that it reads.
TAUGHT: dict[str, Callable[[Config], tuple[str, ...]]] = {
    "hint": lambda config: (pair(config.hint_layer)[1],),
    "kd": lambda config: ("logits",),
    "rdl": lambda config: tuple(pair(layer)[1] for layer in config.layers),
}

DISTANCES = {
    "Correlation": rdm.distances.Correlation(),
    "Cosine": rdm.distances.Cosine(),
    "Euclidean": rdm.distances.Euclidean(),
    "MeanSquared": rdm.distances.MeanSquared(),
    "PoissonKL": rdm.distances.PoissonKL(),
    "SquaredEuclidean": rdm.distances.SquaredEuclidean(),
}

COMPARISONS = {
    "Cosine": rdm.comparisons.Cosine(),
    "MSE": rdm.comparisons.MSE(),
    "MSE_least_squares": rdm.comparisons.MSE(rdm.comparisons.by_least_squares),
    "MSE_maximum": rdm.comparisons.MSE(rdm.comparisons.by_maximum),
    "MSE_norm": rdm.comparisons.MSE(rdm.comparisons.by_norm),
    "Pearson": rdm.comparisons.Pearson(),
}

BRAIN_COMPARISONS = {
    **COMPARISONS,
    "SoftKendall": rdm.comparisons.SoftKendall(),
    "SoftSpearman": rdm.comparisons.SoftSpearman(),
    "WhitenedCosine": rdm.comparisons.WhitenedCosine(),
    "WhitenedPearson": rdm.comparisons.WhitenedPearson(),
}


def weighted_terms(
    config: Config,
    method: str,
    steps: int,
    measured: Callable[[str], dict[str, Weighted]] | None = None,
) -> dict[str, Weighted]:
    """The loss of a method: the task, and the method's terms.

    Args:
      config: The settings.
      method: `plain`, or names of `TERMS` and of measured RDMs joined by `+`.
      steps: How many steps a student is trained, for schedules.
      measured: From a part of the method that is no name of `TERMS` to its terms.

    Returns:
      By name, the weight of each term (a number or a schedule) and the term.
    """
    loss: dict[str, Weighted] = {"task": (1.0, terms.cross_entropy())}
    for name in method.split("+"):
        if name in TERMS:
            loss |= TERMS[name](config, steps)
        elif name != "plain":
            of_brain = measured(name)
            if twice := sorted(of_brain.keys() & loss.keys()):
                raise UsageError(f"{method} has {twice[0]} twice")
            loss |= of_brain
    return loss


def reads_teacher(method: str) -> bool:
    """Whether any part of a method reads the activations of a teacher."""
    return not {*TAUGHT}.isdisjoint(method.split("+"))


def taught(config: Config) -> list[str]:
    """The layers of the teacher that any of the methods reads."""
    names = {name for method in config.methods for name in method.split("+")}
    return sorted(
        {layer for name in names & {*TAUGHT} for layer in TAUGHT[name](config)}
    )


def pair(layer: str) -> tuple[str, str]:
    """`stage2` as `("stage2", "stage2")`, `stage1:stage2` as `("stage1", "stage2")`."""
    student, colon, teacher = layer.partition(":")
    return student, teacher if colon else student


def _layer_weights(config: Config) -> tuple[float, ...]:
    if config.layer_weights is None:
        return (1.0,) * len(config.layers)
    return config.layer_weights
