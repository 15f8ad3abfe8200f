"""Defines all settings, in groups: their fields, documentation and ranges.

A group checks its values when it is constructed.
"""

import dataclasses
from typing import Annotated, Literal

from tyro.conf import arg

from experiments import command
from experiments.config import choices
from experiments.config.fields import (
    COUNT,
    NAMES,
    PATH,
    POSITIVE,
    RATE,
    WEIGHT,
    Range,
    Settings,
)

Modality = Literal["image", "luminance", "chrominance"]


@dataclasses.dataclass(frozen=True)
class Data(Settings):
    """Images, and how they are cropped, mirrored and resized."""

    name: Annotated[str, arg(name="data")] = "digits"
    """`digits`, or the name of a TFDS image set."""
    folder: Annotated[str | None, arg(name="data_dir"), PATH] = None
    """The folder that holds the TFDS sets."""
    train_per_class: Annotated[int | None, COUNT] = None
    """The number of training images of each class that are kept; None keeps all."""
    student_per_class: Annotated[int | None, COUNT] = None
    """The number of training images of each class on which students are trained; the
    teacher is trained on all that are kept. None for the same images."""
    crop: Annotated[int | None, Range("0 or more", 0, 10**9)] = None
    """The padding of random crops in pixels; None for the default of the data set
    (random crops of varying size, where images vary in size)."""
    flip: bool | None = None
    """Mirror images at random; None for the default of the data set."""
    resize: Annotated[int | None, Range("1 or more", 1, 10**4)] = None
    """The height and width in pixels to which images, and stimuli, are resized. Where
    images vary in size, training uses random crops and evaluation the centre crop."""


@dataclasses.dataclass(frozen=True)
class Nets(Settings):
    """The teacher's net and the students'."""

    teacher: str | None = "mnist_cnn"
    """The teacher's net; with `teacher_from` that folder determines the net. None for
    no teacher."""
    teacher_from: Annotated[str | None, PATH] = None
    """A folder of weights, from experiments.import_torch or from another run
    (RESULTS/teacher/weights), used as the teacher, which is then not trained."""
    student: str = "mnist_cnn_small"
    """The students' net; with `student_from` that folder determines the net."""
    student_from: Annotated[str | None, PATH] = None
    """A folder of initial weights of the students, as for `teacher_from`."""
    ensemble: Annotated[int, Range("1 or more", 1, 100)] = 1
    """The number of teachers, seeds 0, 1, ...: KD learns from the mean of their class
    probabilities, RDL from the mean of their RDMs, other methods from each teacher."""
    modality: Modality = "image"
    """The channels of a colour image that students see: all of them, or L
    (luminance), or a and b (chrominance) of CIE L*a*b*."""
    teacher_modality: Modality = "image"
    """The channels that a teacher sees, if it is trained here."""

    def check(self) -> None:
        """Checks that an ensemble is trained here; `training.checks` checks names."""
        trained_here = self.teacher is not None and self.teacher_from is None
        if self.ensemble > 1 and not trained_here:
            raise command.UsageError(
                "an ensemble needs teachers that are trained here: it cannot be "
                "combined with teacher=None or teacher_from"
            )


@dataclasses.dataclass(frozen=True)
class Method(Settings):
    """The methods by which students learn, in addition to the task."""

    names: Annotated[tuple[str, ...], arg(name="methods"), NAMES] = (
        *("plain", "rdl", "kd", "kd+rdl"),
    )
    """The methods: `plain`, or parts joined by `+`: ab, at, cc, cka, crd, dist, dkd,
    fsp, ft, hint, kd, kdsvd, nst, nst_gaussian, nst_linear, pkt, rdl, rkd, sp, vid,
    and with `brain` the names of its RDMs (documentation: "A brain as the teacher"),
    such as human_it, human_it@stage1 (in that layer only) and human_it_shuffled."""
    weights: tuple[str, ...] = ()
    """Weights of parts: PART=NUMBER, or for one method METHOD/PART=NUMBER, such as
    at=500 or kd/task=0.1. Defaults are RepDistiller's (`experiments.methods`), and 1
    for the task, KD and RDL (in each layer)."""
    maps: Annotated[tuple[str, ...] | None, NAMES] = None
    """The layers, or student:teacher, that the parts for feature maps compare (ab, at,
    fsp, ft, kdsvd, nst, sp, vid; ft and sp use only the last one); None for the stages
    that both nets have."""
    vector: str = "pooled"
    """The layer that cc, cka, crd, pkt and rkd compare."""
    hint_layer: str = "stage2"
    """The layer that the hint compares."""
    start_epochs: Annotated[int, COUNT] = 30
    """The number of epochs of the start-up phase of ab, fsp and ft."""
    kd_temperature: Annotated[float, POSITIVE] = 4.0
    """The temperature by which KD divides the logits."""


@dataclasses.dataclass(frozen=True)
class RDL(Settings):
    """Representational distance learning."""

    layers: Annotated[tuple[str, ...], NAMES] = ("stage1", "stage2", "pooled", "logits")
    """The layers that are compared, or student:teacher where their names differ."""
    distance: choices.Distance = "Cosine"
    """The distance between two images, from `rdljax.rdm.distances`."""
    comparison: choices.Comparison = "Pearson"
    """The comparison of two RDMs, from `rdljax.rdm.comparisons`."""
    pairs: Annotated[int | None, COUNT] = None
    """The number of random pairs that are compared in each step; None for all pairs of
    the batch."""
    layer_weights: Annotated[tuple[float, ...] | None, WEIGHT] = None
    """A factor on the weight for each layer; None for 1 each."""
    decay: Annotated[bool, arg(name="rdl_decay")] = False
    """Let the weight decay linearly to 0 at the last step."""

    def check(self) -> None:
        """Checks the number of layer weights."""
        shares = self.layer_weights
        if shares is not None and len(shares) != len(self.layers):
            raise command.UsageError(
                f"expected a weight for each layer of {self.layers}, got {shares}"
            )


@dataclasses.dataclass(frozen=True)
class CRD(Settings):
    """Contrastive representation distillation."""

    temperature: Annotated[float, arg(name="crd_temperature"), POSITIVE] = 0.07
    """The temperature by which scores are divided."""
    negatives: Annotated[int, arg(name="crd_negatives"), COUNT] = 16384
    """The number of images that an image is contrasted with."""
    sampling: Annotated[choices.Sampling, arg(name="crd_sampling")] = "expectation"
    """How negatives are chosen: drawn `per_example`, as in the released code;
    `expectation`, all images weighted by their expected number of draws; `bernoulli`,
    whether an image is a negative is drawn for each image, which suits accelerators; or
    `per_batch`, drawn once for the batch."""
    any_class: Annotated[bool, arg(name="crd_any_class")] = False
    """Allow negatives of the image's own class, too."""
    relax: Annotated[bool, arg(name="crd_relax")] = False
    """Allow another image of the class as the positive."""


@dataclasses.dataclass(frozen=True)
class Brain(Settings):
    """A brain as the teacher."""

    file: Annotated[str | None, arg(name="brain"), PATH] = None
    """A file of stimuli and their measured RDMs."""
    rdms: Annotated[tuple[str, ...], arg(name="brain_rdms"), NAMES] = ("human_it",)
    """The RDMs with which a net's agreement on held-out stimuli is reported."""
    layers: Annotated[tuple[str, ...], arg(name="brain_layers"), NAMES] = ("pooled",)
    """The student's layers that are compared with the measured RDMs."""
    distance: Annotated[choices.Distance, arg(name="brain_distance")] = "Correlation"
    """The distance between two stimuli in the student, from `rdljax.rdm.distances`."""
    comparison: Annotated[choices.BrainComparison, arg(name="brain_comparison")] = (
        "Pearson"
    )
    """The comparison of the student's RDM with the brain's, from
    `rdljax.rdm.comparisons`."""
    weight: Annotated[float, arg(name="brain_weight"), WEIGHT] = 1.0
    """The weight of the comparison in each layer; the task has weight 1."""
    decay: Annotated[bool, arg(name="brain_decay")] = False
    """Let that weight decay linearly to 0 at the last step."""
    subjects: Annotated[Literal["mean", "each"], arg(name="brain_subjects")] = "mean"
    """With RDMs of several subjects, compare with their mean RDM, or with each RDM and
    average the comparisons."""
    reliability: Annotated[bool, arg(name="brain_reliability")] = False
    """Weight subjects by the agreement of their sessions."""
    ceiling: Annotated[bool, arg(name="brain_ceiling")] = False
    """With several subjects, measure the similarity with each in units of the noise
    ceiling."""
    signed: Annotated[bool, arg(name="brain_signed")] = False
    """Allow negative distances, such as crossvalidated ones."""
    held_out: Annotated[float, Range("above 0", 1e-6, 1.0)] = 0.5
    """The part of the stimuli that training never sees."""
    stimuli: Annotated[int | None, Range("3 or more", 3, 10**9)] = None
    """The number of stimuli in a step, over all devices, drawn from those that are not
    held out; None for their largest multiple of eight (for up to eight devices)."""

    def check(self) -> None:
        """Checks the settings that a noise ceiling requires."""
        if self.ceiling and self.subjects != "each":
            raise command.UsageError(
                "brain_ceiling is defined for single subjects: set brain_subjects=each"
            )
        if self.ceiling and self.comparison.startswith("MSE"):
            raise command.UsageError(
                "brain_ceiling requires a brain_comparison that has a similarity"
            )


@dataclasses.dataclass(frozen=True)
class Training(Settings):
    """The length of training, the batch, and the teacher's activations."""

    seeds: Annotated[int, COUNT] = 3
    """The number of students of each method, seeds 0, 1, ...; the teacher has seed
    0."""
    epochs: Annotated[int, COUNT] = 15
    """The number of epochs of a student."""
    teacher_epochs: Annotated[int, COUNT] = 15
    """The number of epochs of the teacher."""
    batch: Annotated[int, COUNT] = 64
    """The number of images in a step, over all devices."""
    micro_batches: Annotated[int, COUNT] = 1
    """The number of micro-batches in which a student sees its batch, one after the
    other, to save memory."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The precision of the student's activations; parameters and losses are float32."""
    same_batches: bool = False
    """Let all seeds see the same batches: they differ only in their weights, and the
    teacher's activations are computed once for all seeds of a program."""
    remember_teacher: bool | None = None
    """Compute the teacher's activations once for each training image, without crops
    and mirrors, and keep them; None does so if images are neither cropped nor mirrored
    and the activations fit in 1 GiB, over all devices."""
    activations: Annotated[str | None, PATH] = None
    """A folder in which these activations are stored, once for all runs, and from which
    each batch is read; or, without a teacher, a file of another program
    (`rdljax.activations`) whose rows, or whose `index`, are the training images in the
    order of the split."""


@dataclasses.dataclass(frozen=True)
class Optimizer(Settings):
    """The optimizer and its learning rate."""

    name: Annotated[choices.OptimizerName, arg(name="optimizer")] = "sgd"
    """SGD with momentum, or AdamW (which needs a learning rate such as 0.001)."""
    learning_rate: Annotated[float, RATE] = 0.1
    """The largest learning rate."""
    teacher_learning_rate: Annotated[float | None, RATE] = None
    """The teacher's largest learning rate; None for the students'."""
    schedule: choices.Schedule = "cosine"
    """The schedule of the learning rate: `cosine`, a warm-up in the first epoch and a
    cosine to 0; `steps`, as in RepDistiller, a tenth after 5/8, 6/8 and 7/8 of the
    epochs; `constant`; `linear` to 0; `polynomial`, the square of `linear`;
    `exponential` to a hundredth; `warmup_exponential`, the same after a warm-up in the
    first epoch; `cosine_onecycle` or `linear_onecycle`, optax's schedules of one
    cycle."""
    momentum: Annotated[float, Range("0 or more", 0.0, 1.0)] = 0.9
    """The momentum of SGD; for AdamW, the decay of the mean of gradients."""
    nesterov: bool = True
    """Use Nesterov momentum with SGD."""
    weight_decay: Annotated[float, WEIGHT] = 5e-4
    """The weight decay of all parameters: with SGD it is added to the gradient, with
    AdamW it is decoupled and multiplied by the learning rate."""
    clip: Annotated[float | None, POSITIVE] = 1.0
    """The largest norm of the gradient, to which larger gradients are scaled. None
    disables clipping."""


@dataclasses.dataclass(frozen=True)
class Runtime(Settings):
    """The results folder and the execution on devices; results do not depend on it."""

    out: str = "results/{config}-{data}"
    """The folder for results."""
    resume: bool = False
    """Continue the run in the folder, if it is a run of this config."""
    overwrite: bool = False
    """Delete the files of an earlier run in the folder. If the folder contains
    anything that a run does not write, nothing is deleted."""
    driver: Literal["auto", "step", "chunk", "epoch"] = "auto"
    """The steps in one call of the device: one step; a chunk of ten, unrolled as one
    program; or an epoch as a loop on the device; auto: epochs on accelerators, steps on
    a CPU."""
    seeds_per_program: Annotated[int | None, COUNT] = None
    """The number of seeds trained as one program; None for all that fit into an
    accelerator's memory, and one on a CPU."""
    stream: bool = False
    """Keep the images in the host's memory, for sets that do not fit on a device; or in
    their files, if they vary in size or take more than 4 GiB."""
    compilation_cache: str | None = None
    """A folder that keeps compiled programs for the next run; None for the user's cache
    on accelerators and no folder on a CPU, "" for no folder."""
    profile: bool = False
    """First measure where the time of each method's step goes, and write a trace."""

    def check(self) -> None:
        """Checks settings that exclude each other, and the compilation cache."""
        if self.stream and self.driver == "epoch":
            raise command.UsageError(
                "driver=epoch would stream an epoch's images at once; with --stream "
                "use driver=chunk or step"
            )
        if self.compilation_cache:
            folder = command.path("compilation_cache", self.compilation_cache)
            if folder.exists() and not folder.is_dir():
                raise command.UsageError(
                    f"compilation_cache must be a folder, but {folder} is a file"
                )
        if self.resume and self.overwrite:
            raise command.UsageError("resume and overwrite exclude each other")


@dataclasses.dataclass(frozen=True)
class Config(Settings):
    """One teacher, and the same student trained by several methods and seeds."""

    data: Data = Data()
    nets: Nets = Nets()
    method: Method = Method()
    rdl: RDL = RDL()
    crd: CRD = CRD()
    brain: Brain = Brain()
    training: Training = Training()
    optimizer: Optimizer = Optimizer()
    runtime: Runtime = Runtime()

    def check(self) -> None:
        """Checks combinations of settings of several groups."""
        batch, pairs = self.training.batch, self.rdl.pairs
        if pairs is not None and self.nets.ensemble > 1:
            raise command.UsageError(
                "the teachers' RDMs are averaged over all pairs: set pairs=None"
            )
        most = batch * (batch - 1) // 2
        if pairs is not None and pairs > most:
            raise command.UsageError(
                f"pairs must be at most {most}, the number of pairs in a batch of "
                f"{batch}, got {pairs}; pairs=None compares all"
            )
