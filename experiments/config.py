"""The settings of an experiment, and how the command line changes them.

A config is a frozen `Config` made by `experiments/presets/NAME.py`, whose docstring is
its lab note. Any field is changed by `--field=value`.
"""

import dataclasses
import importlib
import pathlib
from typing import Literal

from rdljax import errors, rdm

CONFIGS = pathlib.Path(__file__).parent / "presets"


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
    """Pad by so many pixels and crop at random; None for the data set's usual (random
    parts, where images vary in size)."""
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
    ensemble: int = 1
    """So many teachers, seeds 0, 1, ...: KD learns from the mean of their class
    probabilities, RDL from the mean of their RDMs, the others from each."""
    modality: Literal["image", "luminance", "chrominance"] = "image"
    """What students see of an image in colour: all, or L or a and b of CIE L*a*b*."""
    teacher_modality: Literal["image", "luminance", "chrominance"] = "image"
    """What a teacher sees of it that is trained here."""
    methods: tuple[str, ...] = ("plain", "rdl", "kd", "kd+rdl")
    """How students are trained: `plain`, or parts joined by `+`: ab, at, cc, cka, crd,
    dist, dkd, fsp, ft, hint, kd, kdsvd, nst, nst_gaussian, nst_linear, pkt, rdl, rkd,
    sp, vid, and with `brain` the names of its RDMs (docs/brain.md), such as human_it,
    human_it@stage1 (in that layer alone) and human_it_shuffled."""
    weights: tuple[str, ...] = ()
    """Weights of parts, PART=NUMBER, in one method METHOD/PART=NUMBER, such as at=500
    or kd/task=0.1; those not named are RepDistiller's (`experiments.methods`), 1 for
    the task, KD and RDL (in each layer)."""
    maps: tuple[str, ...] | None = None
    """What is compared by the parts that compare maps (ab, at, fsp, ft, kdsvd, nst, sp,
    vid; of these ft and sp take the last): names of layers, or student:teacher; None
    for the stages that both nets have."""
    vector: str = "pooled"
    """What is compared by cc, cka, crd, pkt and rkd."""
    hint_layer: str = "stage2"
    """What the hint compares."""
    start_epochs: int = 30
    """Epochs in which ab, fsp and ft start up, before the others."""
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
    layer_weights: tuple[float, ...] | None = None
    """A factor on RDL's weight for each layer; None for 1."""
    rdl_decay: bool = False
    """Let RDL's weight fall linearly to 0 at the last step."""
    kd_temperature: float = 4.0
    """What KD divides the logits by."""
    crd_temperature: float = 0.07
    """What CRD divides scores by."""
    crd_negatives: int = 16384
    """What CRD contrasts an image with."""
    crd_sampling: Literal["drawn", "expected", "shared"] = "expected"
    """How they are chosen: drawn for each image, as released; all, weighted by how
    often they would be drawn; or drawn for the whole batch."""
    crd_any_class: bool = False
    """Let them be of the image's own class, too."""
    crd_relax: bool = False
    """Let CRD's positive be another image of the class."""

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
    """Bring images, and stimuli, to that many pixels on each side. Where images vary in
    size training sees random parts of them, evaluation their middle."""
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
    each batch; or, without a teacher, a file of another program (`rdljax.activations`)
    whose rows, or whose `index`, are the training images in the order of the split."""
    learning_rate: float = 0.1
    """The largest."""
    teacher_learning_rate: float | None = None
    """The teacher's; None for the students'."""
    schedule: Literal["cosine", "steps"] = "cosine"
    """How it changes: reached in the first epoch, it falls to 0 along a cosine; or, as
    in RepDistiller, it falls to a tenth after 5/8, 6/8 and 7/8 of the epochs."""
    momentum: float = 0.9
    """Of SGD."""
    nesterov: bool = True
    """Whether it is Nesterov's."""
    weight_decay: float = 5e-4
    """Weight decay of all parameters."""
    clip: float | None = 1.0
    """The gradient's largest norm; longer ones are shortened. None for any."""

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
    together: int | None = None
    """Seeds trained as one program; None for all that fit into an accelerator's memory,
    and one on a CPU."""
    stream: bool = False
    """Leave the images with the host, for sets that a device cannot hold; in their
    files, where they vary in size or take more than 4 GiB."""
    compilation_cache: str | None = None
    """A folder for compiled programs, for the next run; None for the user's cache on
    accelerators and none on a CPU, "" for none."""
    profile: bool = False
    """Measure first where the time of each method's step goes, and write a trace."""


def names() -> list[str]:
    """Returns the names of all configs."""
    return sorted(p.stem for p in CONFIGS.glob("*.py") if p.stem != "__init__")


def load(name: str, **changes) -> Config:
    """Returns the config of that name.

    Args:
      name: Of a file in `experiments/presets`.
      **changes: Fields with other values.

    Raises:
      UnknownName: There is no such config.
    """
    errors.check_name("config", name, names())
    module = importlib.import_module(f"experiments.presets.{name}")
    return dataclasses.replace(module.get_config(), **changes)


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
