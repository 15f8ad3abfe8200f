"""Loads the data and the nets of an experiment."""

import dataclasses
import hashlib
import pathlib
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments import brain, command, data, display, methods, weights
from experiments import config as configs
from experiments.data import colour, sets
from experiments.training import interrupts
from rdljax import activations, errors, nets, teachers, training

StoredActivations = activations.Store
Feed = Callable[[data.Batches], training.Batch]
T = TypeVar("T")

# The number of test images whose RDMs are reported and shown, over all classes.
STIMULI = 200


def not_none(value: T | None) -> T:
    """Returns a value whose type allows None, but which is not None.

    Raises:
      TypeError: If it is None.
    """
    if value is None:
        raise TypeError("expected a value, got None")
    return value


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The inputs of an experiment other than images.

    Attributes:
      teacher: The teacher, if it was trained elsewhere.
      student: The students' initial net, if it was trained elsewhere.
      measured: The stimuli and their measured RDMs.
      activations: The teacher's activations of all training images, from a file.
    """

    teacher: weights.TrainedNet | None = None
    student: weights.TrainedNet | None = None
    measured: brain.Brain | None = None
    activations: StoredActivations | None = None

    def fingerprints(self) -> dict[str, str]:
        """Returns fingerprints of the inputs, which are compared when a run resumes."""
        found = {}
        if self.teacher is not None:
            found["teacher_weights"] = self.teacher.fingerprint
        if self.student is not None:
            found["student_weights"] = self.student.fingerprint
        if self.measured is not None:
            found["brain_file"] = self.measured.fingerprint
        if self.activations is not None:
            found["activations_file"] = self.activations.about["sha256"]
        return found


@dataclasses.dataclass(frozen=True)
class Context:
    """The settings, images and other inputs shared by the runs of one experiment.

    Attributes:
      config: The settings.
      dataset: The images.
      stimuli: The indices of the test images whose RDMs are reported, sorted by class.
      folder: The results folder.
      interrupt: The request to stop.
      bar: The progress bar.
      train: The training images and labels, if they do not stream, and stimuli, on the
        devices.
      validation: The validation images, on a device unless they stream.
      inputs: The inputs other than images.
      stored_targets: The function from indices of training images to the teacher's
        stored activations by layer; None if they are not stored.
    """

    config: configs.Config
    dataset: data.Dataset
    stimuli: np.ndarray
    folder: pathlib.Path
    interrupt: interrupts.Interrupt
    bar: tqdm.tqdm
    train: dict[str, jax.Array]
    validation: data.Split
    inputs: Inputs = Inputs()
    stored_targets: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None

    @property
    def steps_an_epoch(self) -> int:
        """Returns the number of steps of an epoch."""
        return len(self.dataset.train.label) // self.config.training.batch

    def print_message(self, words: str) -> None:
        """Prints a message above the progress bar, to stderr, apart from results."""
        self.bar.write(words, file=sys.stderr)


def load(config: configs.Config) -> data.Dataset:
    """Loads the data set of a config.

    Raises:
      UsageError: If it is missing, or the settings do not fit its images.
    """
    try:
        dataset = data.load(
            config.data.name,
            config.data.folder,
            train_per_class=config.data.train_per_class,
            size=config.data.resize,
            in_memory=sets.IN_MEMORY if config.runtime.stream else None,
            random_crops=config.data.crop is None,
        )
        if config.data.resize is not None:
            square = config.data.resize, config.data.resize
            dataset = dataclasses.replace(dataset, size=square)
        students = data.for_students(dataset, config.data.student_per_class)
    except ValueError as error:
        raise command.UsageError(str(error)) from error
    _check_fits(config, dataset, students)
    if students is not dataset:
        note = (
            f"{dataset.note} Students are trained on {len(students.train.label):,} of "
            f"them, {config.data.student_per_class} of each class."
        )
        dataset = dataclasses.replace(dataset, note=note)
    return dataset


def _check_fits(
    config: configs.Config, dataset: data.Dataset, students: data.Dataset
) -> None:
    """Raises `UsageError` if settings do not fit the images or the devices."""
    images, devices = len(students.train.label), jax.local_device_count()
    batch, parts = config.training.batch, config.training.micro_batches
    if images < batch or batch % devices:
        raise command.UsageError(
            f"a batch of {batch} is impossible with "
            f"{display.count_of(images, 'training image')} on "
            f"{display.count_of(devices, 'device')}: it must be at most the number of "
            "images and divisible by the number of devices"
        )
    if batch // devices % parts:
        raise command.UsageError(
            f"a batch of {display.count_of(batch // devices, 'image')} on a device "
            f"does not divide into {parts} micro-batches"
        )
    size = min(dataset.train.image.shape[1:3])
    if (config.data.crop or 0) >= size:
        raise command.UsageError(
            f"crop must be below the {size} pixels of an image, got {config.data.crop}"
        )
    for field in ("modality", "teacher_modality"):
        seen = getattr(config.nets, field)
        if seen != colour.IMAGE and dataset.shape[-1] != 3:
            raise command.UsageError(
                f"{field}={seen} needs images in colour, {dataset.name} has "
                f"{display.count_of(dataset.shape[-1], 'channel')}"
            )
    epochs = max(
        config.training.epochs,
        config.training.teacher_epochs,
        config.method.start_epochs,
    )
    steps = len(dataset.train.label) // batch
    if steps * epochs >= 2**31:
        raise command.UsageError(
            f"epochs, start_epochs and teacher_epochs must be fewer than 2**31 steps, "
            f"got {display.count_of(epochs, 'epoch')} of {steps}"
        )


def fingerprint(dataset: data.Dataset) -> dict[str, str]:
    """Returns a fingerprint of the images, which is compared when a run resumes.

    Returns:
      A SHA-256 of all splits, by its key in `results.folder.IMAGES`. For streamed
      images it depends on the names and sizes of the files.
    """
    digest, kind = hashlib.sha256(), "images"
    for split in (dataset.train, dataset.validation, dataset.test):
        images = data.identity(split.image)
        if images is not split.image:
            kind = "image_files"
        for array in map(np.ascontiguousarray, (images, split.label)):
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.data)
    return {kind: digest.hexdigest()}


def trained_elsewhere(config: configs.Config) -> tuple[configs.Config, Inputs]:
    """Loads the nets that a config takes from folders.

    Returns:
      The config with the names and modalities of these nets, and the nets.

    Raises:
      UsageError: If a folder has no weights, or weights of another modality.
    """
    inputs = Inputs()
    if config.nets.teacher_from is not None:
        trained = weights.load(config.nets.teacher_from)
        inputs = dataclasses.replace(inputs, teacher=trained)
        seen = _modality("teacher_modality", config, trained)
        config = configs.change(config, teacher=trained.name, teacher_modality=seen)
    if config.nets.student_from is not None:
        trained = weights.load(config.nets.student_from)
        inputs = dataclasses.replace(inputs, student=trained)
        seen = _modality("modality", config, trained)
        config = configs.change(config, student=trained.name, modality=seen)
    return config, inputs


def _modality(field: str, config: configs.Config, trained: weights.TrainedNet) -> str:
    """Returns the modality of a net that was trained elsewhere.

    Raises:
      UsageError: If the config sets another modality.
    """
    asked = getattr(config.nets, field)
    if asked not in (colour.IMAGE, trained.modality):
        raise command.UsageError(
            f"{field}={asked}, but the weights of {trained.name} are of a net that "
            f"sees {trained.modality}"
        )
    return trained.modality


def with_measurements(
    config: configs.Config, dataset: data.Dataset, inputs: Inputs
) -> Inputs:
    """Adds to the inputs the RDMs and the activations that a config names.

    Raises:
      UsageError: If they cannot be read, or are not of these images.
    """
    measured = None if config.brain.file is None else brain.load(config, dataset)
    stored = _activations(config, dataset)
    return dataclasses.replace(inputs, measured=measured, activations=stored)


def _activations(
    config: configs.Config, dataset: data.Dataset
) -> activations.Store | None:
    """Returns the teacher's activations, if `activations` is a file and not a folder.

    Raises:
      UsageError: If it cannot be read, or is not of these images or layers.
    """
    if config.training.activations is None:
        return None
    path = command.path("activations", config.training.activations)
    if not path.is_file():
        if config.nets.teacher is None:
            raise command.UsageError(
                f"without a teacher, activations must be a file, got {path}"
            )
        return None
    if config.nets.teacher is not None:
        raise command.UsageError(
            f"{path} replaces the teacher's net: activations from a file require "
            "--teacher=None"
        )
    layers = methods.teacher_layers(config)
    try:
        images = len(
            data.for_students(dataset, config.data.student_per_class).train.label
        )
        found = activations.read(path, images=images, layers=layers)
    except (errors.CannotRead, OSError) as error:
        raise command.UsageError(f"activations: {error}") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return found._replace(about={"sha256": digest})


def build_context(
    config: configs.Config,
    dataset: data.Dataset,
    folder: pathlib.Path,
    interrupt: interrupts.Interrupt,
    bar: tqdm.tqdm,
    inputs: Inputs = Inputs(),  # noqa: B008 (it is frozen)
) -> Context:
    """Returns a context, with the images on the devices unless they stream."""
    held_out = dataset.validation
    return Context(
        config,
        dataset,
        stimuli(dataset.test),
        folder,
        interrupt,
        bar,
        _train_arrays(config, dataset, inputs),
        held_out if config.runtime.stream else _on_device(held_out),
        inputs,
    )


def _train_arrays(
    config: configs.Config, dataset: data.Dataset, inputs: Inputs
) -> dict[str, jax.Array]:
    """Returns the arrays of `Context.train`, on the devices."""
    train = {} if config.runtime.stream else data.on_device(dataset.train)
    if inputs.measured is not None:
        train["stimuli"] = inputs.measured.images[inputs.measured.shown]
    return training.replicate(train)


def for_students(context: Context) -> Context:
    """Returns the context in which students are trained: with their training images."""
    config = context.config
    dataset = data.for_students(context.dataset, config.data.student_per_class)
    if dataset is context.dataset:
        return context
    train = _train_arrays(config, dataset, context.inputs)
    return dataclasses.replace(context, dataset=dataset, train=train)


def _on_device(split: data.Split) -> data.Split:
    return split._replace(image=jnp.asarray(split.image))


def stimuli(test: data.Split, count: int = STIMULI) -> np.ndarray:
    """Returns the indices of the first test images of each class, equally many of each.

    They are sorted by class. If `count` is less than two images for each class, only
    every second, third, ... class is used.
    """
    classes = np.unique(test.label)
    classes = classes[:: max(1, 2 * len(classes) // count)]
    per_class = max(2, count // len(classes))
    return np.concatenate(
        [np.flatnonzero(test.label == c)[:per_class] for c in classes]
    )


# ---- nets


def student(
    config: configs.Config,
    dataset: data.Dataset,
    inputs: Inputs,
    axis_name: str | None = None,
) -> Any:
    """Returns the students' net, for images with the normalisation of the data set."""
    net = nets.build(
        config.nets.student,
        dataset.classes,
        dtype=jnp.dtype(config.training.dtype),
        axis_name=axis_name,
    )
    if inputs.student is not None:
        return inputs.student.wrap_net(dataset, net)
    return colour.select_channels(config.nets.modality, net, dataset)


def teacher(
    config: configs.Config, dataset: data.Dataset, axis_name: str | None = None
) -> Any:
    """Returns the net of a teacher that is trained here."""
    net = nets.build(
        not_none(config.nets.teacher), dataset.classes, axis_name=axis_name
    )
    return colour.select_channels(config.nets.teacher_modality, net, dataset)


def with_weights(
    state: training.TrainState, trained: weights.TrainedNet
) -> training.TrainState:
    """Returns an initial state whose student has the weights of a trained net."""
    now = state.replicated
    own = trained.initial_variables(training.student_variables(state))
    params = now.params | {"student": own.pop("params")}
    return state._replace(replicated=now._replace(params=params, model_state=own))


# ---- losses


def plan(
    config: configs.Config, dataset: data.Dataset, inputs: Inputs, method: str
) -> list[training.Phase]:
    """Returns the phases of a method, including its terms of measured RDMs."""
    steps = config.training.epochs * (len(dataset.train.label) // config.training.batch)
    return methods.plan(
        methods.TermInputs(config, dataset.train.label, steps),
        method,
        lambda part: brain.weighted_terms(
            config, not_none(inputs.measured), steps, part
        ),
    )


def with_brain(
    config: configs.Config, inputs: Inputs, teacher: teachers.Teacher, method: str
) -> teachers.Teacher:
    """Returns a teacher, merged with the measured RDMs that a method reads."""
    if not brain.parts(method):
        return teacher
    return teachers.merge(
        teacher, brain.teacher(config, not_none(inputs.measured), method)
    )


# ---- batches


def first_batches(config: configs.Config, inputs: Inputs, method: str) -> data.Batches:
    """Returns the batch of one step with the first images, and stimuli, in order."""
    stimulus = None
    if brain.parts(method):
        shown = brain.size(config, not_none(inputs.measured))
        stimulus = np.arange(shown, dtype=np.int32)
    return data.Batches(np.arange(config.training.batch, dtype=np.int32), stimulus)


def feed(context: Context, method: str = "plain") -> Feed:
    """Returns a function from `data.Batches` to the input of steps."""
    images = (
        data.from_host(context.dataset.train) if context.config.runtime.stream else None
    )
    reads_targets = methods.reads_teacher(method)
    stored_targets = context.stored_targets if reads_targets else None

    def load(batches):
        index = batches.image
        entries: dict[str, Any] = {"index": index}
        if images is not None:
            entries = images(index, batches.crop_seeds)
        if batches.stimulus is not None:
            entries["stimulus"] = batches.stimulus
        if stored_targets is not None:
            entries["targets"] = stored_targets(index)
        return entries

    return load


def view(
    config: configs.Config, dataset: data.Dataset, method: str = "plain"
) -> training.View:
    """Returns the view of the images, with the usual or the config's augmentation.

    For a method that learns from a brain it has the stimuli, too.
    """
    seen = data.view(dataset, **augmentation(config, dataset))
    return brain.with_stimuli(seen, dataset) if brain.parts(method) else seen


def augmentation(config: configs.Config, dataset: data.Dataset) -> dict[str, Any]:
    """Returns the crop and flip of images: the config's, or else the usual ones."""
    chosen = {"crop": config.data.crop, "flip": config.data.flip}
    chosen = {k: v for k, v in chosen.items() if v is not None}
    return data.augmentation(dataset) | chosen
