"""All settings, in groups: their fields, documentation and ranges.

A group checks itself when it is made.
"""

import dataclasses
from typing import Annotated, Literal

from tyro.conf import arg

from experiments import command
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
from rdljax import errors, nets, rdm

DISTANCES: dict[str, rdm.distances.Distance] = {
    "Correlation": rdm.distances.Correlation(),
    "Cosine": rdm.distances.Cosine(),
    "Euclidean": rdm.distances.Euclidean(),
    "MeanSquared": rdm.distances.MeanSquared(),
    "PoissonKL": rdm.distances.PoissonKL(),
    "SquaredEuclidean": rdm.distances.SquaredEuclidean(),
}

COMPARISONS: dict[str, rdm.comparisons.Comparison] = {
    "Cosine": rdm.comparisons.Cosine(),
    "MSE": rdm.comparisons.MSE(),
    "MSE_least_squares": rdm.comparisons.MSE(rdm.comparisons.by_least_squares),
    "MSE_maximum": rdm.comparisons.MSE(rdm.comparisons.by_maximum),
    "MSE_norm": rdm.comparisons.MSE(rdm.comparisons.by_norm),
    "Pearson": rdm.comparisons.Pearson(),
}

BRAIN_COMPARISONS: dict[str, rdm.comparisons.Comparison] = {
    **COMPARISONS,
    "SoftKendall": rdm.comparisons.SoftKendall(),
    "SoftSpearman": rdm.comparisons.SoftSpearman(),
    "WhitenedCosine": rdm.comparisons.WhitenedCosine(),
    "WhitenedPearson": rdm.comparisons.WhitenedPearson(),
}

Modality = Literal["image", "luminance", "chrominance"]
Schedule = Literal[
    "cosine",
    "steps",
    "constant",
    "linear",
    "exponential",
    "cosine_onecycle",
    "linear_onecycle",
]


@dataclasses.dataclass(frozen=True)
class Data(Settings):
    """Images, and what is seen of them."""

    name: Annotated[str, arg(name="data")] = "digits"
    """`digits`, or the name of a TFDS image set."""
    folder: Annotated[str | None, arg(name="data_dir"), PATH] = None
    """The folder that holds the TFDS sets."""
    train_per_class: Annotated[int | None, COUNT] = None
    """The number of training images of each class that are kept; None keeps all."""
    crop: Annotated[int | None, Range("0 or more", 0, 10**9)] = None
    """The number of pixels of padding of random crops; None for the data set's usual
    (random parts, where images vary in size)."""
    flip: bool | None = None
    """Mirror at random; None for the data set's usual."""
    resize: Annotated[int | None, Range("1 or more", 1, 10**4)] = None
    """Height and width in pixels that images, and stimuli, are brought to. Where images
    vary in size training sees random parts of them, evaluation their middle."""


@dataclasses.dataclass(frozen=True)
class Nets(Settings):
    """The teacher's net and the students'."""

    teacher: str | None = "mnist_cnn"
    """The teacher's net; where `teacher_from` is given, that folder says which. None:
    no net teaches."""
    teacher_from: Annotated[str | None, PATH] = None
    """A folder of weights, from experiments.import_torch or from another run
    (RESULTS/teacher/weights): the teacher, which is then not trained."""
    student: str = "mnist_cnn_small"
    """The students' net; where `student_from` is given, that folder says which."""
    student_from: Annotated[str | None, PATH] = None
    """A folder of weights, as for `teacher_from`, with which students begin."""
    ensemble: Annotated[int, Range("1 or more", 1, 100)] = 1
    """The number of teachers, seeds 0, 1, ...: KD learns from the mean of their class
    probabilities, RDL from the mean of their RDMs, the others from each."""
    modality: Modality = "image"
    """What students see of an image in colour: all, or L or a and b of CIE L*a*b*."""
    teacher_modality: Modality = "image"
    """What a teacher sees of it that is trained here."""

    def check(self) -> None:
        """Checks the names of the nets, and that an ensemble is trained here."""
        if self.teacher is not None and self.teacher_from is None:
            errors.check_name("net", self.teacher, nets.NETS)
        if self.student_from is None:
            errors.check_name("net", self.student, nets.NETS)
        trained_here = self.teacher is not None and self.teacher_from is None
        if self.ensemble > 1 and not trained_here:
            raise command.UsageError("an ensemble is of teachers that are trained here")


@dataclasses.dataclass(frozen=True)
class Method(Settings):
    """What students learn from, in addition to the task."""

    names: Annotated[tuple[str, ...], arg(name="methods"), NAMES] = (
        *("plain", "rdl", "kd", "kd+rdl"),
    )
    """How students are trained: `plain`, or parts joined by `+`: ab, at, cc, cka, crd,
    dist, dkd, fsp, ft, hint, kd, kdsvd, nst, nst_gaussian, nst_linear, pkt, rdl, rkd,
    sp, vid, and with `brain` the names of its RDMs (docs/brain.md), such as human_it,
    human_it@stage1 (in that layer alone) and human_it_shuffled."""
    weights: tuple[str, ...] = ()
    """Weights of parts, PART=NUMBER, in one method METHOD/PART=NUMBER, such as at=500
    or kd/task=0.1; those not named are RepDistiller's (`experiments.methods`), 1 for
    the task, KD and RDL (in each layer)."""
    maps: Annotated[tuple[str, ...] | None, NAMES] = None
    """The layers that are compared by the parts that compare maps (ab, at, fsp, ft,
    kdsvd, nst, sp, vid; of these ft and sp take the last), or student:teacher; None for
    the stages that both nets have."""
    vector: str = "pooled"
    """The layer that is compared by cc, cka, crd, pkt and rkd."""
    hint_layer: str = "stage2"
    """The layer that is compared by the hint."""
    start_epochs: Annotated[int, COUNT] = 30
    """The number of epochs in which ab, fsp and ft start up, before the others."""
    kd_temperature: Annotated[float, POSITIVE] = 4.0
    """The temperature by which KD divides the logits."""


@dataclasses.dataclass(frozen=True)
class RDL(Settings):
    """Representational distance learning."""

    layers: Annotated[tuple[str, ...], NAMES] = ("stage1", "stage2", "pooled", "logits")
    """The layers that are compared, or student:teacher where they differ."""
    distance: str = "Cosine"
    """The distance of two images, of `rdljax.rdm.distances`."""
    comparison: str = "Pearson"
    """The comparison of two RDMs, of `rdljax.rdm.comparisons`."""
    pairs: Annotated[int | None, COUNT] = None
    """The number of random pairs that are compared in each step; None for all of the
    batch."""
    layer_weights: Annotated[tuple[float, ...] | None, WEIGHT] = None
    """A factor on the weight for each layer; None for 1."""
    decay: Annotated[bool, arg(name="rdl_decay")] = False
    """Let the weight fall linearly to 0 at the last step."""

    def check(self) -> None:
        """Checks the names, and that each layer has a weight."""
        errors.check_name("distance", self.distance, DISTANCES)
        errors.check_name("comparison", self.comparison, COMPARISONS)
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
    sampling: Annotated[
        Literal["drawn", "expected", "independent", "shared"], arg(name="crd_sampling")
    ] = "expected"
    """How they are chosen: drawn for each image, as released; all, weighted by how
    often they would be drawn; each drawn by itself, which suits accelerators; or drawn
    for the whole batch."""
    any_class: Annotated[bool, arg(name="crd_any_class")] = False
    """Let them be of the image's own class, too."""
    relax: Annotated[bool, arg(name="crd_relax")] = False
    """Let the positive be another image of the class."""


@dataclasses.dataclass(frozen=True)
class Brain(Settings):
    """A brain as the teacher."""

    file: Annotated[str | None, arg(name="brain"), PATH] = None
    """A file of stimuli and their measured RDMs."""
    rdms: Annotated[tuple[str, ...], arg(name="brain_rdms"), NAMES] = ("human_it",)
    """The RDMs with which a net's agreement on held-out stimuli is reported."""
    layers: Annotated[tuple[str, ...], arg(name="brain_layers"), NAMES] = ("pooled",)
    """The student's layers that are compared with them."""
    distance: Annotated[str, arg(name="brain_distance")] = "Correlation"
    """The distance of two stimuli in the student, of `rdljax.rdm.distances`."""
    comparison: Annotated[str, arg(name="brain_comparison")] = "Pearson"
    """The comparison of the student's RDM with the brain's, of
    `rdljax.rdm.comparisons`."""
    weight: Annotated[float, arg(name="brain_weight"), WEIGHT] = 1.0
    """The weight of the comparison in each layer, next to the task's 1."""
    decay: Annotated[bool, arg(name="brain_decay")] = False
    """Let that weight fall linearly to 0 at the last step."""
    subjects: Annotated[Literal["mean", "each"], arg(name="brain_subjects")] = "mean"
    """With RDMs of several subjects, compare with their mean, or with each and take the
    mean of the comparisons."""
    reliability: Annotated[bool, arg(name="brain_reliability")] = False
    """Weigh subjects by how well their sessions agree."""
    ceiling: Annotated[bool, arg(name="brain_ceiling")] = False
    """With several subjects, measure the similarity with each in units of the noise
    ceiling."""
    signed: Annotated[bool, arg(name="brain_signed")] = False
    """Let distances be below 0, as crossvalidated ones may."""
    held_out: Annotated[float, Range("above 0", 1e-6, 1.0)] = 0.5
    """The part of the stimuli that training never sees."""
    stimuli: Annotated[int | None, Range("3 or more", 3, 10**9)] = None
    """The number of stimuli in a step, over all devices, drawn from those that are not
    held out; None for as many of them as eight devices divide."""

    def check(self) -> None:
        """Checks the names, and what a ceiling goes with."""
        errors.check_name("distance", self.distance, DISTANCES)
        errors.check_name("comparison", self.comparison, BRAIN_COMPARISONS)
        if self.ceiling and self.subjects != "each":
            raise command.UsageError(
                "brain_ceiling is of each subject's RDM: it goes with "
                "brain_subjects=each"
            )
        if self.ceiling and self.comparison.startswith("MSE"):
            raise command.UsageError(
                "brain_ceiling takes a brain_comparison with a similarity"
            )


@dataclasses.dataclass(frozen=True)
class Training(Settings):
    """How long nets are trained, and what a step sees."""

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
    """The number of parts in which a student sees its batch, one after the other, for
    less memory."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The precision of the student's activations; parameters and losses are float32."""
    same_batches: bool = False
    """Let all seeds see the same batches: they differ in their weights alone, and a
    teacher looks once at what students that go together see."""
    remember_teacher: bool | None = None
    """Let the teacher look once at each training image, without crops and mirrors, and
    remember its activations; None where images are not cropped or mirrored and 1 GiB
    holds them, over all devices."""
    activations: Annotated[str | None, PATH] = None
    """A folder in which those activations are stored, once for all runs, and read from
    with each batch; or, without a teacher, a file of another program
    (`rdljax.activations`) whose rows, or whose `index`, are the training images in the
    order of the split."""


@dataclasses.dataclass(frozen=True)
class Optimizer(Settings):
    """How parameters change."""

    name: Annotated[Literal["sgd", "adamw"], arg(name="optimizer")] = "sgd"
    """SGD with momentum, or AdamW (which needs a learning rate such as 0.001)."""
    learning_rate: Annotated[float, RATE] = 0.1
    """The largest learning rate."""
    teacher_learning_rate: Annotated[float | None, RATE] = None
    """The teacher's; None for the students'."""
    schedule: Schedule = "cosine"
    """How the learning rate changes: reached in the first epoch, it falls to 0 along a
    cosine; or, as in RepDistiller, it falls to a tenth after 5/8, 6/8 and 7/8 of the
    epochs; or it is constant; or it falls to 0 along a line, or by equal factors to a
    hundredth; or it follows `optax.cosine_onecycle_schedule` or
    `optax.linear_onecycle_schedule`."""
    momentum: Annotated[float, Range("0 or more", 0.0, 1.0)] = 0.9
    """The momentum of SGD; of AdamW, the decay of the mean of gradients."""
    nesterov: bool = True
    """Let SGD's momentum be Nesterov's."""
    weight_decay: Annotated[float, WEIGHT] = 5e-4
    """The weight decay of all parameters: of SGD a part of the gradient, of AdamW a
    step of its own, times the learning rate."""
    clip: Annotated[float | None, POSITIVE] = 1.0
    """The largest norm of the gradient; longer ones are shortened. None disables
    clipping."""


@dataclasses.dataclass(frozen=True)
class Runtime(Settings):
    """Where results go, and how steps reach the devices: no number depends on it."""

    out: str = "results/{config}-{data}"
    """The folder for results."""
    resume: bool = False
    """Continue what the folder holds, if it holds this config's run."""
    overwrite: bool = False
    """Delete what an earlier run left in the folder: what a run writes, and nothing
    where something else lies in it."""
    driver: Literal["auto", "step", "chunk", "epoch"] = "auto"
    """How steps reach the device: one by one, ten written out as one program, or an
    epoch as a loop on the device; auto: epochs on accelerators, steps on a CPU."""
    together: Annotated[int | None, COUNT] = None
    """The number of seeds trained as one program; None for all that fit into an
    accelerator's memory, and one on a CPU."""
    stream: bool = False
    """Leave the images with the host, for sets that a device cannot hold; in their
    files, where they vary in size or take more than 4 GiB."""
    compilation_cache: str | None = None
    """A folder for compiled programs, for the next run; None for the user's cache on
    accelerators and none on a CPU, "" for none."""
    profile: bool = False
    """Measure first where the time of each method's step goes, and write a trace."""

    def check(self) -> None:
        """Checks that no settings exclude each other, and the folder of programs."""
        if self.stream and self.driver == "epoch":
            raise command.UsageError(
                "driver=epoch would stream an epoch's images at once"
            )
        if self.compilation_cache:
            folder = command.path("compilation_cache", self.compilation_cache)
            if folder.exists() and not folder.is_dir():
                raise command.UsageError(
                    f"compilation_cache must be a folder, {folder} is none"
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
        """Checks what settings of several groups say together."""
        batch, pairs = self.training.batch, self.rdl.pairs
        if pairs is not None and self.nets.ensemble > 1:
            raise command.UsageError(
                "the mean RDM of an ensemble has all pairs: it goes with pairs=None"
            )
        most = batch * (batch - 1) // 2
        if pairs is not None and pairs > most:
            raise command.UsageError(
                f"pairs must be at most the {most} of a batch of {batch}, got {pairs}; "
                "without pairs all are compared"
            )
