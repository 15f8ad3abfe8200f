"""Runs an experiment: `python -m experiments.run NAME --field=value ...`.

Trains a teacher, the same student by several methods and seeds, and reports what became
of the test error and of the representations. NAME is a file of `experiments/configs`.
"""

import dataclasses
import functools
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
from experiments import command as commands
from experiments import config as configs
from experiments import data, loop, profile, programs, report, weights
from experiments import results as results_folder
from rdljax import checkpoints, nets, rdm, statistics, teachers, training

# Test images whose RDMs are reported and shown, over all classes.
STIMULI = 200
# Bytes that a teacher's answers may take without being asked for.
REMEMBERED = 2**30


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


class Lab(NamedTuple):
    """What the runs of one experiment share.

    Attributes:
      config: The settings.
      dataset: The images.
      stimuli: Indices of the test images whose RDMs are reported, sorted by class.
      folder: The results folder.
      interrupt: Whether to stop.
      bar: The progress bar.
      train: The training images and labels, on the devices; empty if they stream.
      validation: The validation images, on a device.
      trained: The teacher, if it was trained elsewhere.
    """

    config: configs.Config
    dataset: data.Dataset
    stimuli: np.ndarray
    folder: pathlib.Path
    interrupt: loop.Interrupt
    bar: tqdm.tqdm
    train: dict[str, jax.Array]
    validation: data.Split
    trained: weights.Trained | None = None

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
    trained = None
    if config.teacher_from is not None:
        trained = weights.load(config.teacher_from)
        config = dataclasses.replace(config, teacher=trained.name)
    configs.check(config)
    dataset = load(config)
    rehearse(config, dataset, trained)
    folder = results_folder.claim(
        name, config, None if trained is None else trained.fingerprint
    )
    if (folder / "result.json").exists():
        summary = json.loads((folder / "result.json").read_text())
        print(f"{folder} is finished:\n\n{report.table(summary)}")
        return summary
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(f"{dataset.name}: {dataset.note}\nDevices: {device}. Results: {folder}.")

    steps = len(dataset.train.label) // config.batch
    epochs = len(config.methods) * config.seeds * config.epochs
    epochs += config.teacher_epochs if trained is None else 0
    with tqdm.tqdm(total=steps * epochs, unit="step", smoothing=0.05) as bar:
        lab = furnish(config, dataset, folder, interrupt, bar, trained)
        results = train_all(lab)
    summary = {
        "config": {"name": name, **dataclasses.asdict(config)},
        "teacher_source": _source(trained),
        "data": dataset.note,
        "versions": versions(),
        "device": device,
        "seconds": sum(result["seconds"] for result in results),
        **report.summarise(results, dataset.test.label),
    }
    text = report.table(summary)
    (folder / "table.md").write_text(text)
    report.pictures(folder, results, dataset.test.label[lab.stimuli])
    loop.write_json(folder / "result.json", summary)
    print(f"\n{text}\n{folder}: result.json, table.md, rdms.png, learning_curves.png")
    return summary


def furnish(
    config: configs.Config,
    dataset: data.Dataset,
    folder: pathlib.Path,
    interrupt: loop.Interrupt,
    bar: tqdm.tqdm,
    trained: weights.Trained | None = None,
) -> Lab:
    """A lab, with the images where they belong."""
    train, held_out = dataset.train._asdict(), dataset.validation
    return Lab(
        config,
        dataset,
        stimuli(dataset.test),
        folder,
        interrupt,
        bar,
        {} if config.stream else training.replicate(train),
        held_out if config.stream else _on_device(held_out),
        trained,
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
            config.data, config.data_dir, train_per_class=config.train_per_class
        )
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
    trained: weights.Trained | None = None,
) -> None:
    """Traces one step of every method, so that what cannot work is said at once.

    Raises:
      UsageError: A step cannot be made with these settings.
    """
    own_teacher = None if trained is None else trained.net(dataset)
    teacher_net = nets.build(config.teacher, dataset.classes)
    student = nets.build(config.student, dataset.classes, dtype=jnp.dtype(config.dtype))
    index = {"index": np.arange(config.batch, dtype=np.int32)}
    key, optimizer = jax.random.key(0), optax.sgd(1.0)
    train = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, dataset.train._asdict()))

    def step(method, train):
        view = make_view(config, dataset)
        seen = view(train, index, key)["image"]
        if trained is None:
            teacher = teachers.net(teacher_net, teacher_net.init(key, seen))
        else:
            teacher = teachers.net(own_teacher, trained.variables)
        phase = training.Phase(configs.weighted_terms(config, method, 1), 1)
        arrays = training.Arrays(teacher.arrays, train)
        state = training.init(
            key, student, teacher, [phase], view, arrays, index, devices=1
        )
        state = training.start(state, phase, optimizer)
        return training.body(student, teacher, phase, optimizer, view)(
            state, arrays, index
        )

    for method in config.methods:
        try:
            jax.eval_shape(functools.partial(step, method), train)
        except ZeroDivisionError as error:
            raise configs.UsageError(
                f"images of {dataset.train.image.shape[1:]} are too small for "
                f"{config.teacher} or {config.student}"
            ) from error
        except ValueError as error:
            raise configs.UsageError(f"{method} cannot be trained: {error}") from error


def _source(trained: weights.Trained | None) -> dict[str, str] | None:
    """Where a teacher comes from that is not trained here, and what its weights are."""
    if trained is None:
        return None
    return {**trained.source, "fingerprint": trained.fingerprint}


def stimuli(test: data.Split, count: int = STIMULI) -> np.ndarray:
    """Indices of the first test images of each class, as many of each, by class."""
    classes = np.unique(test.label)
    per_class = max(2, count // len(classes))
    return np.concatenate(
        [np.flatnonzero(test.label == c)[:per_class] for c in classes]
    )


class Recipe(NamedTuple):
    """How a net is trained by a method, compiled once for all seeds."""

    net: nn.Module
    epochs: int
    method: loop.Method


def train_all(lab: Lab) -> list[dict]:
    """Trains the teacher and every student; answers the results, the teacher first."""
    config, classes = lab.config, lab.dataset.classes
    programs.keep_compiled(config.compilation_cache)
    if lab.trained is None:
        net = nets.build(config.teacher, classes, axis_name=training.AXIS)
        nobody = teachers.nobody()
        recipe = prepare(lab, net, nobody, "plain", config.teacher_epochs, "teacher")
        together(lab, recipe, 1)
        ((result, variables),) = train(lab, "teacher", recipe, [0])
    else:
        net, variables = lab.trained.net(lab.dataset), lab.trained.variables
        (lab.folder / "teacher").mkdir(exist_ok=True)
        result = recorded(lab, "teacher", 0, net, variables, [], 0.0)
    results = [result]
    teacher = remembered(lab, teachers.net(net, variables))
    student = nets.build(
        config.student, classes, dtype=jnp.dtype(config.dtype), axis_name=training.AXIS
    )
    for method in config.methods:
        recipe = prepare(lab, student, teacher, method, config.epochs)
        seeds = range(config.seeds)
        done = all(
            (lab.folder / _folder(method, i) / "result.json").exists() for i in seeds
        )
        size = 1 if done else together(lab, recipe, config.seeds)
        for at in seeds[::size]:
            for result, _ in train(lab, method, recipe, seeds[at : at + size]):
                rdms = (result["rdms"], results[0]["rdms"])
                results.append(result | {"agreement": agreement(config, *rdms)})
    return results


def remembered(lab: Lab, teacher: teachers.Teacher) -> teachers.Teacher:
    """A teacher that need not run for each batch, where the config wants one."""
    config, layers = lab.config, configs.taught(lab.config)
    view, images = data.view(lab.dataset), len(lab.dataset.train.label)
    key = jax.random.key(0)
    load = feed(lab)

    def see(index):
        return view(lab.train, load(np.asarray(index)), key)

    wanted = config.remember_teacher
    if wanted is None:
        seen = jax.eval_shape(view, lab.train, load(np.arange(1)), key)
        taught = jax.eval_shape(teacher.targets, teacher.arrays, seen)
        size = sum(4 * taught[layer].size for layer in layers) * images
        fits = size * jax.local_device_count() <= REMEMBERED
        wanted = fits and not any(augmentation(config).values())
    if not (wanted and layers):
        return teacher
    return teachers.remembered(teachers.remember(teacher, see, images, layers))


def feed(lab: Lab) -> Callable[[np.ndarray], training.Batch]:
    """From indices of training images to what a step is given."""
    if lab.config.stream:
        return data.from_host(lab.dataset.train)
    return lambda index: {"index": index}


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
    phase = training.Phase(configs.weighted_terms(config, method, steps), epochs)
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, warmup_steps=steps_an_epoch, decay_steps=steps + 1
    )
    optimizer = optax.chain(
        # Without it KD's large first gradients kill the small student's ReLUs.
        optax.clip_by_global_norm(config.clip),
        optax.add_decayed_weights(config.weight_decay),
        optax.sgd(rate, config.momentum, nesterov=True),
    )
    view, load = make_view(config, dataset), feed(lab)
    parts = {"micro_batches": config.micro_batches}
    step = training.body(net, teacher, phase, optimizer, view, **parts)
    driver = programs.driver(config.driver, steps_an_epoch, stream=config.stream)
    arrays = training.Arrays(training.replicate(teacher.arrays), lab.train)

    def begin(seed, devices):
        batch = load(np.arange(config.batch, dtype=np.int32))
        key = jax.random.key(seed)
        view_key = jax.random.key(0) if config.same_batches else None
        state = training.init(
            key, net, teacher, [phase], view, arrays, batch, devices, view_key
        )
        return training.start(state, phase, optimizer)

    def evaluate(state):
        wait = weights.predicting(net, variables(state), dataset, lab.validation)

        def metrics():
            predicted, loss = wait()
            error = 100 * np.mean(predicted != lab.validation.label)
            return {"validation_error": float(error), "validation_loss": loss}

        return metrics

    take = programs.Programs(
        name or method, step, unrolled=driver.unrolled, tell=lab.tell
    )
    folder = lab.folder / "profile" / (name or method)
    if config.profile and not (folder / "profile.json").exists():
        batch = training.shard(load(np.arange(config.batch, dtype=np.int32)))
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
    return Recipe(net, epochs, how)


def together(lab: Lab, recipe: Recipe, seeds: int) -> int:
    """How many seeds go together: as many as are wanted, or the part of them that fits.

    To know what a step takes is to compile it, so that no training waits for that.

    Raises:
      OutOfMemory: Not one fits.
    """
    config, how = lab.config, recipe.method
    size = programs.trainings(config.together, seeds)
    state = jax.eval_shape(lambda: how.begin(0, jax.device_count()))
    one = how.feed(np.zeros(config.batch, np.int32))
    while True:
        several = size > 1 and not how.same_view
        steps = (how.chunk, size) if several else (how.chunk,)
        each = (
            jax.local_device_count(),
            *steps,
            config.batch // jax.local_device_count(),
        )
        states = [state] * size
        stacked = functools.partial(training.stacked, same_view=how.same_view)
        given = (
            state if size == 1 else jax.eval_shape(stacked, states),
            how.arrays,
            {
                name: jax.ShapeDtypeStruct((*each, *x.shape[1:]), x.dtype)
                for name, x in one.items()
            },
        )
        if size == 1:
            how.take.check(*given)
            return size
        if how.take.fit(*given, share=programs.SHARE):
            return size
        lab.tell(f"{size} seeds together do not fit into the memory")
        size = -(-size // 2)


def make_view(config: configs.Config, dataset: data.Dataset) -> training.View:
    """The view of the images, augmented as is usual or as the config says."""
    return data.view(dataset, **augmentation(config))


def augmentation(config: configs.Config) -> dict[str, Any]:
    """How images are cropped and mirrored."""
    chosen = {"crop": config.crop, "flip": config.flip}
    chosen = {k: v for k, v in chosen.items() if v is not None}
    return data.augmentation(config.data) | chosen


def train(
    lab: Lab, name: str, recipe: Recipe, seeds: Sequence[int]
) -> list[tuple[dict, dict]]:
    """Trains nets together and measures them; answers their results and variables."""
    fitted = fit(lab, {_folder(name, seed): seed for seed in seeds}, recipe)
    return [
        (recorded(lab, name, seed, recipe.net, *trained), trained[0])
        for seed, trained in zip(seeds, fitted, strict=True)
    ]


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
    mean, std = (tuple(x / 255 for x in of) for of in (dataset.mean, dataset.std))
    net = weights.Trained(
        config.teacher if name == "teacher" else config.student,
        dataset.classes,
        dataset.train.image.shape[1:],
        trained,
        (mean, std),
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
