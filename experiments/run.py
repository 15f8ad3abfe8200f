"""Runs an experiment: `python -m experiments.run NAME --field=value ...`.

Trains a teacher, the same student by several methods and seeds, and reports what became
of the test error and of the representations. NAME is a file of `experiments/configs`.
"""

import dataclasses
import functools
import hashlib
import importlib
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

# Emulated CPU devices wait forever for each other when XLA has too few threads (before
# jax 0.12); must be set before jax is imported.
os.environ.setdefault("PJRT_NPROC", "32")

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import tqdm
import tyro

import rdljax
from experiments import (
    brain,
    brain_report,
    data,
    findings,
    loop,
    profile,
    programs,
    weights,
)
from experiments import command as commands
from experiments import config as configs
from experiments import results as results_folder
from rdljax import checkpoints, nets, rdm, statistics, stored, teachers, training

# Test images whose RDMs are reported and shown, over all classes.
STIMULI = 200
# Bytes that a teacher's answers may take without being asked for.
REMEMBERED = 2**30
# What students are called before they are trained.
BEFORE = "before"


def main(arguments: list[str] | None = None) -> int:
    """The command line.

    Returns:
      The exit status: 0 done, 1 it cannot go on (the loss is not finite, the disk is
      full), 2 a wrong call, 130 interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments

    def command():
        name, config = parse(arguments)
        with loop.Interrupt() as interrupt:
            run(name, config, interrupt)

    try:
        return answer(command)
    except loop.Interrupted as stopped:
        again = [a for a in arguments if a not in ("--overwrite", "--resume")]
        again = [sys.executable, "-m", "experiments.run", *again, "--resume"]
        print(f"\nstopped in {stopped}; to continue:", file=sys.stderr)
        print(shlex.join(again), file=sys.stderr)
        return 130


def answer(command: Callable[[], None]) -> int:
    """Runs a command that trains; 1 where that cannot go on, else `command.answer`."""
    try:
        return commands.answer(command)
    except (loop.Diverged, programs.OutOfMemory) as stopped:
        print(f"\nerror: {stopped}", file=sys.stderr)
    except jax.errors.JaxRuntimeError as error:
        if not programs.is_exhausted(error):
            raise
        first, *_ = str(error).splitlines()
        print(f"\nerror: the memory does not suffice: {first}", file=sys.stderr)
    except (checkpoints.CheckpointDamaged, checkpoints.CheckpointMismatch) as error:
        print(
            f"\nerror: {error}\nWhere that folder is deleted, the net is trained anew.",
            file=sys.stderr,
        )
    except OSError as error:
        print(f"\nerror: {error}; --resume goes on from here", file=sys.stderr)
    return 1


def parse(arguments: list[str]) -> tuple[str, configs.Config]:
    """The config's name and the config, from `NAME --field=value ...`.

    Raises:
      UnknownName: Of a config, or of a field.
      SystemExit: A value of the wrong type (2), or `--help` (0).
    """
    if not arguments or arguments[0].startswith("-"):
        known = ", ".join(configs.names())
        print(f"{__doc__}\nConfigs: {known}. Their settings: NAME --help.")
        sys.exit(0 if arguments and arguments[0] in ("-h", "--help") else 2)
    name, *changes = arguments
    config = configs.load(name)
    commands.check_keys(changes, [field.name for field in dataclasses.fields(config)])
    note = importlib.import_module(f"experiments.configs.{name}").__doc__
    program = f"python -m experiments.run {name}"
    return name, tyro.cli(
        configs.Config, default=config, args=changes, prog=program, description=note
    )


class Given(NamedTuple):
    """What an experiment is given besides images.

    Attributes:
      teacher: The teacher, if it was trained elsewhere.
      student: What students begin with, if it was trained elsewhere.
      measured: Stimuli and their RDMs.
      activations: The teacher's, of all training images, from a file.
    """

    teacher: weights.Trained | None = None
    student: weights.Trained | None = None
    measured: brain.Brain | None = None
    activations: stored.Stored | None = None


class Lab(NamedTuple):
    """What the runs of one experiment share.

    Attributes:
      config: The settings.
      dataset: The images.
      stimuli: Indices of the test images whose RDMs are reported, sorted by class.
      folder: The results folder.
      interrupt: Whether to stop.
      bar: The progress bar.
      train: The training images and labels, if they do not stream, and stimuli, on the
        devices.
      validation: The validation images, on a device.
      given: What there is besides images.
      taught: From indices of training images to what the teacher answered, by layer,
        where it is stored.
    """

    config: configs.Config
    dataset: data.Dataset
    stimuli: np.ndarray
    folder: pathlib.Path
    interrupt: loop.Interrupt
    bar: tqdm.tqdm
    train: dict[str, jax.Array]
    validation: data.Split
    given: Given = Given()
    taught: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None

    def tell(self, words: str) -> None:
        """Says something beside the progress bar, where results are not printed."""
        self.bar.write(words, file=sys.stderr)


def run(name: str, config: configs.Config, interrupt: loop.Interrupt) -> dict:
    """Runs the experiment and writes its results folder.

    Args:
      name: Of the config.
      config: The settings.
      interrupt: Whether to stop.

    Returns:
      What `result.json` holds.

    Raises:
      UnknownName: A name in the config is not known.
      UsageError: A setting is impossible, the data are missing, or the folder is taken.
      Interrupted: Stopped; the folder can be resumed.
    """
    teacher = student = None
    if config.teacher_from is not None:
        teacher = weights.load(config.teacher_from)
        config = dataclasses.replace(config, teacher=teacher.name)
    if config.student_from is not None:
        student = weights.load(config.student_from)
        config = dataclasses.replace(config, student=student.name)
    configs.check(config, brain.names(config))
    dataset = load(config)
    measured = None if config.brain is None else brain.load(config, dataset)
    given = Given(teacher, student, measured, _from_file(config, dataset))
    rehearse(config, dataset, given)
    folder = results_folder.claim(name, config, _fingerprints(given))
    if (folder / "result.json").exists():
        summary = json.loads((folder / "result.json").read_text())
        print(f"{folder} is finished:\n\n{described(summary)}")
        return summary
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(f"{dataset.name}: {dataset.note}\nDevices: {device}. Results: {folder}.")

    steps = len(dataset.train.label) // config.batch
    epochs = len(config.methods) * config.seeds * config.epochs
    epochs += config.teacher_epochs if _trains_teacher(config, given) else 0
    with tqdm.tqdm(total=steps * epochs, unit="step", smoothing=0.05) as bar:
        lab = furnish(config, dataset, folder, interrupt, bar, given)
        results = train_all(lab)
    summary = {
        "config": {"name": name, **dataclasses.asdict(config)},
        "teacher_source": _source(given.teacher),
        "data": dataset.note,
        "versions": versions(),
        "device": device,
        "seconds": sum(result["seconds"] for result in results),
        **findings.summarise(results, dataset.test.label),
    }
    written = ["result.json", "table.md", "rdms.png", "learning_curves.png"]
    findings.pictures(folder, results, dataset.test.label[lab.stimuli])
    if measured is not None:
        seen = _of_brain(lab, results)
        summary["brain"] = brain.summarise(config, measured, seen, summary["baseline"])
        written += brain_report.pictures(folder, config, measured, seen, summary)
    text = described(summary)
    (folder / "table.md").write_text(text)
    loop.write_json(folder / "result.json", summary)
    print(f"\n{text}\n{folder}: {', '.join(written)}")
    return summary


def described(summary: dict) -> str:
    """A summary as Markdown."""
    return findings.table(summary) + brain_report.table(summary)


def _fingerprints(given: Given) -> dict[str, str]:
    """What shows that a run is resumed with what it began with."""
    found = {
        "teacher_weights": given.teacher and given.teacher.fingerprint,
        "student_weights": given.student and given.student.fingerprint,
        "brain_file": given.measured and given.measured.fingerprint,
        "activations_file": given.activations and given.activations.about["sha256"],
    }
    return {name: of for name, of in found.items() if of is not None}


def _from_file(config: configs.Config, dataset: data.Dataset) -> stored.Stored | None:
    """The teacher's activations, if `activations` is a file and not a folder.

    Raises:
      UsageError: It cannot be read, or is not of these images or layers.
    """
    if config.activations is None:
        return None
    path = commands.path("activations", config.activations)
    if not path.is_file():
        if config.teacher is None:
            raise configs.UsageError(f"without a teacher activations is a file: {path}")
        return None
    if config.teacher is not None:
        raise configs.UsageError(
            f"{path} teaches in place of a net: activations of a file go with "
            "--teacher=None"
        )
    layers = configs.taught(config)
    try:
        found = stored.read(path, images=len(dataset.train.label), layers=layers)
    except (stored.CannotRead, OSError) as error:
        raise configs.UsageError(f"activations: {error}") from error
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return found._replace(about={"sha256": digest})


def _trains_teacher(config: configs.Config, given: Given) -> bool:
    return config.teacher is not None and given.teacher is None


def furnish(
    config: configs.Config,
    dataset: data.Dataset,
    folder: pathlib.Path,
    interrupt: loop.Interrupt,
    bar: tqdm.tqdm,
    given: Given = Given(),  # noqa: B008 (a tuple)
) -> Lab:
    """A lab, with the images where they belong."""
    train = {} if config.stream else dataset.train._asdict()
    if given.measured is not None:
        train["stimuli"] = given.measured.images[given.measured.shown]
    held_out = dataset.validation
    return Lab(
        config,
        dataset,
        stimuli(dataset.test),
        folder,
        interrupt,
        bar,
        training.replicate(train),
        held_out if config.stream else _on_device(held_out),
        given,
    )


def _on_device(split: data.Split) -> data.Split:
    return split._replace(image=jnp.asarray(split.image))


def load(config: configs.Config) -> data.Dataset:
    """The data set of a config.

    Raises:
      UsageError: It is not there, or the settings do not suit its images.
    """
    try:
        dataset = data.load(
            config.data,
            config.data_dir,
            train_per_class=config.train_per_class,
            size=config.resize,
            in_memory=data.IN_MEMORY if config.stream else None,
            random_crops=config.crop is None,
        )
        if config.resize is not None:
            dataset = dataset._replace(size=(config.resize,) * 2)
    except ValueError as error:
        raise configs.UsageError(str(error)) from error
    images, devices = len(dataset.train.label), jax.local_device_count()
    if images < config.batch or config.batch % devices:
        raise configs.UsageError(
            f"a batch of {config.batch} is impossible with {images} training images on "
            f"{devices} devices: it must fit into the one and divide by the other"
        )
    if config.batch // devices % config.micro_batches:
        raise configs.UsageError(
            f"a device's {config.batch // devices} images do not divide by "
            f"{config.micro_batches} micro-batches"
        )
    size = min(dataset.train.image.shape[1:3])
    if (config.crop or 0) >= size:
        raise configs.UsageError(
            f"crop must be below the {size} pixels of an image, got {config.crop}"
        )
    epochs = max(config.epochs, config.teacher_epochs)
    if images // config.batch * epochs >= 2**31:
        raise configs.UsageError(
            f"epochs and teacher_epochs must make below 2**31 steps, got {epochs} "
            f"epochs of {images // config.batch}"
        )
    return dataset


def rehearse(
    config: configs.Config,
    dataset: data.Dataset,
    given: Given = Given(),  # noqa: B008 (a tuple)
) -> None:
    """Traces one step of every method, so that what cannot work is said at once.

    Raises:
      UsageError: A step cannot be made with these settings.
    """
    own_teacher = given.teacher and given.teacher.net(dataset)
    student = _student(config, dataset, given)
    key, optimizer = jax.random.key(0), optax.sgd(1.0)
    train = dataset.train._asdict()
    if given.measured is not None:
        train["stimuli"] = given.measured.images[given.measured.shown]
    train = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), train)

    def step(method, loss, of_brain, train):
        batch, view = first(config, given, method), make_view(config, dataset, method)
        seen = view(train, batch, key)["image"]
        if given.activations is not None and configs.reads_teacher(method):
            batch["taught"] = stored.of_batch(given.activations)(batch["index"])
            source = teachers.brought()
        elif given.teacher is not None:
            source = teachers.net(own_teacher, given.teacher.variables)
        elif config.teacher is not None:
            net = nets.build(config.teacher, dataset.classes)
            source = teachers.net(net, net.init(key, seen))
        else:
            source = teachers.nobody()
        source = teachers.beside(source, of_brain)
        phase = training.Phase(loss, 1)
        arrays = training.Arrays(source.arrays, train)
        state = training.init(
            key, student, source, [phase], view, arrays, batch, devices=1
        )
        if given.student is not None:
            state = _begun(state, given.student)
        state = training.start(state, phase, optimizer)
        return training.body(student, source, phase, optimizer, view)(
            state, arrays, batch
        )

    for method in config.methods:
        try:
            loss = _weighted_terms(config, given, method, 1)
            of_brain = _with_brain(config, given, teachers.nobody(), method)
            jax.eval_shape(functools.partial(step, method, loss, of_brain), train)
        except ZeroDivisionError as error:
            raise configs.UsageError(
                f"images of {dataset.shape} are too small for "
                f"{config.teacher} or {config.student}"
            ) from error
        except configs.UsageError:
            raise
        except ValueError as error:
            raise configs.UsageError(f"{method} cannot be trained: {error}") from error


def _student(
    config: configs.Config,
    dataset: data.Dataset,
    given: Given,
    axis_name: str | None = None,
) -> Any:
    """The students' net, for images that are normalised as the data's are."""
    net = nets.build(
        config.student,
        dataset.classes,
        dtype=jnp.dtype(config.dtype),
        axis_name=axis_name,
    )
    return net if given.student is None else given.student.seeing(dataset, net)


def _begun(state: training.TrainState, begin: weights.Trained) -> training.TrainState:
    """A state whose student begins with given weights."""
    now = state.replicated
    own = begin.begun({"params": now.params["student"], **now.model_state})
    params = now.params | {"student": own.pop("params")}
    return state._replace(replicated=now._replace(params=params, model_state=own))


def _weighted_terms(
    config: configs.Config, given: Given, method: str, steps: int
) -> dict[str, configs.Weighted]:
    """The loss of a method, with what it takes from a brain."""
    of_brain = functools.partial(brain.weighted_terms, config, given.measured, steps)
    return configs.weighted_terms(config, method, steps, of_brain)


def _with_brain(
    config: configs.Config, given: Given, teacher: teachers.Teacher, method: str
) -> teachers.Teacher:
    """A teacher, and the RDMs that a method reads."""
    if not brain.parts(method):
        return teacher
    return teachers.beside(teacher, brain.teacher(config, given.measured, method))


def first(config: configs.Config, given: Given, method: str) -> training.Batch:
    """The first images, and stimuli, in their order: what a step is given."""
    batch = {"index": np.arange(config.batch, dtype=np.int32)}
    if brain.parts(method):
        shown = brain.size(config, given.measured)
        batch["stimulus"] = np.arange(shown, dtype=np.int32)
    return batch


def _source(trained: weights.Trained | None) -> dict[str, str] | None:
    """Where a teacher comes from that is not trained here, and what its weights are."""
    if trained is None:
        return None
    return {**trained.source, "fingerprint": trained.fingerprint}


def stimuli(test: data.Split, count: int = STIMULI) -> np.ndarray:
    """Indices of the first test images of each class, as many of each, by class.

    Of more classes than `count` has pairs of images, every second, third, ...
    """
    classes = np.unique(test.label)
    classes = classes[:: max(1, 2 * len(classes) // count)]
    per_class = max(2, count // len(classes))
    return np.concatenate(
        [np.flatnonzero(test.label == c)[:per_class] for c in classes]
    )


class Recipe(NamedTuple):
    """How a net is trained by a method, compiled once for all seeds."""

    net: nn.Module
    epochs: int
    method: loop.Method
    shown: int = 0  # Stimuli in a step.


def train_all(lab: Lab) -> list[dict]:
    """Trains the teacher and every student; answers the results, the teacher first."""
    config, classes = lab.config, lab.dataset.classes
    programs.keep_compiled(config.compilation_cache)
    given, results = lab.given, []
    teacher = teachers.nobody()
    if config.teacher is not None:
        if given.teacher is None:
            net = nets.build(config.teacher, classes, axis_name=training.AXIS)
            recipe = prepare(
                lab, net, teacher, "plain", config.teacher_epochs, "teacher"
            )
            together(lab, recipe, 1)
            ((result, variables),) = train(lab, "teacher", recipe, [0])
        else:
            net, variables = given.teacher.net(lab.dataset), given.teacher.variables
            (lab.folder / "teacher").mkdir(exist_ok=True)
            result = recorded(lab, "teacher", 0, net, variables, [], 0.0)
        results = [result]
        teacher, lab = remembered(lab, teachers.net(net, variables))
    elif given.activations is not None:
        teacher, lab = remembered(lab, teacher)
    student = _student(config, lab.dataset, given, training.AXIS)
    for method in config.methods:
        source = teacher if configs.reads_teacher(method) else teachers.nobody()
        source = _with_brain(config, given, source, method)
        recipe = prepare(lab, student, source, method, config.epochs)
        seeds = range(config.seeds)
        done = all(
            (lab.folder / _folder(method, i) / "result.json").exists() for i in seeds
        )
        size = 1 if done else together(lab, recipe, config.seeds)
        for at in seeds[::size]:
            for result, _ in train(lab, method, recipe, seeds[at : at + size]):
                if config.teacher is not None:
                    rdms = (result["rdms"], results[0]["rdms"])
                    result["agreement"] = agreement(config, *rdms)
                results.append(result)
    return results


def remembered(lab: Lab, teacher: teachers.Teacher) -> tuple[teachers.Teacher, Lab]:
    """A teacher that need not run for each batch, where the config wants one.

    Returns:
      The teacher, and the lab with what is stored of it.

    Raises:
      UsageError: `activations` holds something else.
    """
    config, layers = lab.config, configs.taught(lab.config)
    view, images = data.view(lab.dataset), len(lab.dataset.train.label)
    key = jax.random.key(0)
    load = feed(lab)

    def see(index):
        return view(lab.train, load(np.asarray(index)), key)

    if config.activations is not None and layers:
        kept = lab.given.activations
        if kept is None:
            folder = commands.path("activations", config.activations)
            about = {
                "net": config.teacher,
                "teacher": weights.fingerprint(teacher.arrays),
                "images": weights.fingerprint(data.identity(lab.dataset.train.image)),
                "size": lab.dataset.shape,
                "normalised": (lab.dataset.mean, lab.dataset.std),
                "seen": lab.given.teacher and lab.given.teacher.normalisation,
            }
            try:
                kept = stored.write(folder, teacher, see, images, layers, about=about)
            except ValueError as error:
                raise configs.UsageError(f"activations: {error}") from error
        return teachers.brought(), lab._replace(taught=stored.of_batch(kept))
    wanted = config.remember_teacher
    if wanted is None:
        seen = jax.eval_shape(view, lab.train, load(np.arange(1)), key)
        taught = jax.eval_shape(teacher.targets, teacher.arrays, seen)
        size = sum(4 * taught[layer].size for layer in layers) * images
        fits = size * jax.local_device_count() <= REMEMBERED
        drawn = any(augmentation(config, lab.dataset).values())
        drawn = drawn or data.crops_at_random(lab.dataset.train.image)
        wanted = fits and not drawn
    if not (wanted and layers):
        return teacher, lab
    kept = teachers.remember(teacher, see, images, layers)
    return teachers.remembered(kept), lab


def feed(lab: Lab, method: str = "plain") -> Callable[[np.ndarray], training.Batch]:
    """From indices of training images, and of stimuli, to what a step is given."""
    images = data.from_host(lab.dataset.train) if lab.config.stream else None
    shows = bool(brain.parts(method))
    taught = lab.taught if configs.reads_teacher(method) else None

    def load(index, when=None):
        entries = {}
        if shows:
            index, entries["stimulus"] = np.split(index, [lab.config.batch], axis=-1)
        entries |= {"index": index} if images is None else images(index, when)
        if taught is not None:
            entries["taught"] = taught(index)
        return entries

    return load


def prepare(
    lab: Lab,
    net: nn.Module,
    teacher: teachers.Teacher,
    method: str,
    epochs: int,
    name: str | None = None,
) -> Recipe:
    """What the runs of a method share, its programs above all.

    Args:
      lab: Settings and data.
      net: What is trained.
      teacher: Where its targets come from.
      method: `plain`, or names of `config.TERMS` joined by `+`.
      epochs: How long it is trained.
      name: In messages; the method's by default.
    """
    config, dataset = lab.config, lab.dataset
    steps_an_epoch = len(dataset.train.label) // config.batch
    steps = epochs * steps_an_epoch
    loss = _weighted_terms(config, lab.given, method, steps)
    phase = training.Phase(loss, epochs)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup_steps=steps_an_epoch, decay_steps=steps + 1
    )
    optimizer = optax.chain(
        # Without it KD's large first gradients kill the small student's ReLUs.
        optax.clip_by_global_norm(config.clip),
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(rate, config.momentum, nesterov=True),
    )
    view, load = make_view(config, dataset, method), feed(lab, method)
    example = load(np.concatenate([*first(config, lab.given, method).values()]))
    # (A teacher begins as drawn.)
    begins = None if name == "teacher" else lab.given.student
    parts = {"micro_batches": config.micro_batches}
    step = training.body(net, teacher, phase, optimizer, view, **parts)
    driver = programs.driver(config.driver, steps_an_epoch, stream=config.stream)
    arrays = training.Arrays(training.replicate(teacher.arrays), lab.train)

    def begin(seed, devices):
        key = jax.random.key(seed)
        view_key = jax.random.key(0) if config.same_batches else None
        state = training.init(
            key, net, teacher, [phase], view, arrays, example, devices, view_key
        )
        if begins is not None:
            state = _begun(state, begins)
        return training.start(state, phase, optimizer)

    def evaluate(state):
        wait = weights.predicting(net, variables(state), dataset, lab.validation)
        of_brain = None
        if lab.given.measured is not None and name != "teacher":
            own = (dataset, net, variables(state))
            of_brain = brain.rdms(config, lab.given.measured, *own)

        def metrics():
            predicted, loss = wait()
            error = 100 * np.mean(predicted != lab.validation.label)
            found = {"validation_error": float(error), "validation_loss": loss}
            if of_brain is not None:
                found |= brain.progress(config, lab.given.measured, of_brain())
            return found

        return metrics

    take = programs.Programs(
        name or method, step, unrolled=driver.unrolled, tell=lab.tell
    )
    folder = lab.folder / "profile" / (name or method)
    if config.profile and not (folder / "profile.json").exists():
        batch = training.shard(example)
        state = begin(0, jax.device_count())
        measured = profile.measure(
            net, teacher, phase, optimizer, view, state, arrays, batch, folder, **parts
        )
        lab.bar.write(f"{name or method}:\n\n{measured.table()}\n\n{folder}")
    how = loop.Method(
        begin,
        arrays,
        take,
        driver.chunk,
        training.pmap(training.examination(net, teacher, phase, view, **parts)),
        evaluate,
        net.layers,
        config.same_batches,
        load,
    )
    shown = len(example.get("stimulus", ()))
    return Recipe(net, epochs, how, shown)


def together(lab: Lab, recipe: Recipe, seeds: int) -> int:
    """How many seeds go together: as many as are wanted, or the part of them that fits.

    To know what a step takes is to compile it, so that no training waits for that.

    Raises:
      OutOfMemory: Not one fits.
    """
    config, how = lab.config, recipe.method
    size = programs.trainings(config.together, seeds)
    state = jax.eval_shape(lambda: how.begin(0, jax.device_count()))
    one = how.feed(np.zeros(config.batch + recipe.shown, np.int32))
    while True:
        several = size > 1 and not how.same_view
        steps = (how.chunk, size) if several else (how.chunk,)
        states = [state] * size
        stacked = functools.partial(training.stacked, same_view=how.same_view)
        given = (
            state if size == 1 else jax.eval_shape(stacked, states),
            how.arrays,
            jax.tree.map(functools.partial(_divided, steps), one),
        )
        if size == 1:
            how.take.check(*given)
            return size
        if how.take.fit(*given, share=programs.SHARE):
            return size
        lab.tell(f"{size} seeds together do not fit into the memory")
        size = -(-size // 2)


def _divided(steps: tuple[int, ...], x: np.ndarray) -> jax.ShapeDtypeStruct:
    """The form of several steps' entries of a batch, divided over the devices."""
    devices = jax.local_device_count()
    shape = (devices, *steps, len(x) // devices, *x.shape[1:])
    return jax.ShapeDtypeStruct(shape, x.dtype)


def make_view(
    config: configs.Config, dataset: data.Dataset, method: str = "plain"
) -> training.View:
    """The view of the images, augmented as is usual or as the config says.

    With it a method that learns from a brain sees its stimuli.
    """
    view = data.view(dataset, **augmentation(config, dataset))
    return brain.showing(view, dataset) if brain.parts(method) else view


def augmentation(config: configs.Config, dataset: data.Dataset) -> dict[str, Any]:
    """How images are cropped and mirrored."""
    chosen = {"crop": config.crop, "flip": config.flip}
    chosen = {k: v for k, v in chosen.items() if v is not None}
    return data.augmentation(dataset) | chosen


def train(
    lab: Lab, name: str, recipe: Recipe, seeds: Sequence[int]
) -> list[tuple[dict, dict]]:
    """Trains nets together and measures them; answers their results and variables."""
    fitted = fit(lab, {_folder(name, seed): seed for seed in seeds}, recipe)
    if lab.given.measured is not None and name != "teacher":
        for seed in seeds:
            _look_before(lab, recipe, seed)
    return [
        (recorded(lab, name, seed, recipe.net, *trained), trained[0])
        for seed, trained in zip(seeds, fitted, strict=True)
    ]


def _look_before(lab: Lab, recipe: Recipe, seed: int) -> None:
    """Keeps the RDMs of the stimuli in the student of a seed before it is trained."""
    file = lab.folder / f"{BEFORE}-seed{seed}.npz"
    if not file.exists():
        begun = variables(recipe.method.begin(seed, jax.device_count()))
        own = (lab.dataset, recipe.net, begun)
        np.savez(file, **brain.rdms(lab.config, lab.given.measured, *own)())


def _of_brain(lab: Lab, results: list[dict]) -> list[dict]:
    """Of each student, before its training and after, its RDMs of the stimuli."""
    found = []
    files = {
        (BEFORE, seed): lab.folder / f"{BEFORE}-seed{seed}.npz"
        for seed in range(lab.config.seeds)
    }
    histories = {}
    for result in results:
        if result["method"] != "teacher":
            key = result["method"], result["seed"]
            files[key] = lab.folder / _folder(*key) / "brain.npz"
            histories[key] = result["history"]
    for (method, seed), file in files.items():
        try:
            with file.open("rb") as opened, np.load(opened) as rdms:
                own = {layer: rdms[layer] for layer in brain.layers(lab.config)}
        except Exception as error:  # What is damaged fails in many ways.
            raise configs.UsageError(
                f"{file} is damaged ({error!r}); where it is deleted, and result.json "
                "beside it, --resume measures the net again"
            ) from error
        history = histories.get((method, seed), [])
        found.append({"method": method, "seed": seed, "brain": own, "history": history})
    return found


def _folder(name: str, seed: int) -> str:
    return name if name == "teacher" else f"{name}-seed{seed}"


def recorded(
    lab: Lab,
    name: str,
    seed: int,
    net: Any,
    trained: dict,
    history: list[loop.Metrics],
    seconds: float,
) -> dict:
    """The result of a trained net: measured and written, or read again."""
    folder = lab.folder / _folder(name, seed)
    record = folder / "result.json"
    if not record.exists():
        if history:
            keep(lab, name, trained, folder / "weights")
        measured = measure(lab, net, trained)
        np.savez(folder / "rdms.npz", **measured.pop("rdms"))
        if lab.given.measured is not None and name != "teacher":
            own = brain.rdms(lab.config, lab.given.measured, lab.dataset, net, trained)
            np.savez(folder / "brain.npz", **own())
        about = {"method": name, "seed": seed, "seconds": seconds}
        about |= {"versions": versions(), "compared": compared(lab.config, name)}
        about |= {"config": dataclasses.asdict(lab.config), "history": history}
        loop.write_json(record, about | measured)
    try:
        result = json.loads(record.read_text())
        # (Opened here: NumPy leaves a file open that it cannot read.)
        with (folder / "rdms.npz").open("rb") as file, np.load(file) as rdms:
            result["rdms"] = {layer: rdms[layer] for layer in net.layers}
    except Exception as error:  # What is damaged fails in many ways.
        raise configs.UsageError(
            f"{record} or rdms.npz beside it is damaged ({error!r}); where the first "
            "is deleted, --resume measures the net again"
        ) from error
    return result


def keep(lab: Lab, name: str, trained: dict, folder: pathlib.Path) -> None:
    """Writes a trained net to a folder that `--teacher_from` takes."""
    config, dataset = lab.config, lab.dataset
    normalisation = tuple(
        tuple(x / 255 for x in of) for of in (dataset.mean, dataset.std)
    )
    if name != "teacher" and lab.given.student is not None:
        normalisation = lab.given.student.normalisation or normalisation
    net = weights.Trained(
        config.teacher if name == "teacher" else config.student,
        dataset.classes,
        dataset.shape,
        trained,
        normalisation,
        {"run": str(folder.parent), "data": dataset.note},
    )
    weights.save(net, folder)


def fit(
    lab: Lab, runs: dict[str, int], recipe: Recipe
) -> list[tuple[dict, list[loop.Metrics], float]]:
    """Trains nets together.

    Args:
      lab: Settings and data.
      runs: By name, the seed.
      recipe: How.

    Returns:
      Of each its variables, each epoch's metrics and the seconds.
    """
    jobs = [
        loop.Job(
            name=name,
            folder=lab.folder / name,
            seed=seed,
            order=0 if lab.config.same_batches else seed,
            epochs=recipe.epochs,
            examples=len(lab.dataset.train.label),
            batch=lab.config.batch,
            settings=results_folder.settings(lab.config),
            stimuli=len(lab.given.measured.shown) if recipe.shown else 0,
            shown=recipe.shown,
        )
        for name, seed in runs.items()
    ]
    for job in jobs:
        job.folder.mkdir(exist_ok=True)
    lab.bar.set_description(
        ", ".join(runs) if len(runs) < 3 else f"{jobs[0].name}, ..."
    )

    def advance(steps, history):
        lab.bar.update(steps)
        if history:
            error = history[-1]["validation_error"]
            lab.bar.set_postfix_str(f"validation error {error:.1f} %", refresh=False)

    with recipe.method.take.advised():
        fitted = loop.fit(jobs, recipe.method, lab.interrupt, advance)
    return [(variables(f.state), f.history, f.seconds) for f in fitted]


def compared(config: configs.Config, name: str) -> list[str]:
    """The layers of a net whose RDMs are compared."""
    pairs = map(configs.pair, config.layers)
    return [other if name == "teacher" else own for own, other in pairs]


def variables(state: training.TrainState) -> dict:
    """The student's Flax variables in a training state."""
    now = state.replicated
    return {"params": now.params["student"], **now.model_state}


def measure(lab: Lab, net: nn.Module, trained: dict) -> dict:
    """What a trained net does on the test images: read once, at the end.

    Returns:
      `test_error` in percent; `predicted` classes and `correct` (0 or 1), a list over
      the test images; `rdms`, by layer the condensed RDM of the stimuli.
    """
    test = lab.dataset.test
    predicted, _ = weights.predict(net, trained, lab.dataset, "test")
    correct = predicted == test.label
    images = data.normalise(lab.dataset, test.image[lab.stimuli])
    seen = weights.activations(net, trained, images, net.layers)
    distance = configs.DISTANCES[lab.config.distance]
    return {
        "test_error": float(100 * np.mean(~correct)),
        "predicted": predicted.tolist(),
        "correct": correct.astype(int).tolist(),
        "rdms": {
            name: np.asarray(_rdm(x, distance=distance)) for name, x in seen.items()
        },
    }


# (In jit: what answers the same for all images has an RDM too, of zeros.)
_rdm = jax.jit(rdm.compute)


def agreement(config: configs.Config, student: dict, teacher: dict) -> dict:
    """How a student's RDMs correlate with the teacher's.

    Args:
      config: The settings, for the pairs of layers.
      student: By layer, the condensed RDM `[pairs]`.
      teacher: The same of the teacher, for the same stimuli.

    Returns:
      For each entry of `config.layers`, `pearson` and `spearman`.
    """
    found = {}
    for layer in config.layers:
        own, other = configs.pair(layer)
        pearson, spearman = statistics.rdm_agreement(student[own], teacher[other])
        found[layer] = {"pearson": pearson, "spearman": spearman}
    return found


def versions() -> dict[str, str]:
    """The versions of what the numbers depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "rdljax": rdljax.__version__, **found}


if __name__ == "__main__":
    sys.exit(main())
