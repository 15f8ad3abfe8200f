"""From a context to trained nets and their results."""

import dataclasses
import functools
import importlib.metadata
import pathlib
import platform
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import rdljax
from experiments import (
    brain,
    command,
    data,
    locks,
    loop,
    methods,
    profile,
    programs,
    weights,
)
from experiments import config as configs
from experiments import context as contexts
from experiments import results as results_folder
from rdljax import activations, checkpoints, files, rdm, statistics, teachers, training

# Bytes that a teacher's answers may take without being asked for.
REMEMBERED = 2**30
# What students are called before they are trained, and a net in its start-up.
BEFORE, START = "before", "start-up"

Context = contexts.Context


class Recipe(NamedTuple):
    """How a net is trained by a method, compiled once for all seeds.

    Attributes:
      net: The net.
      phases: How each phase of the method is trained, and its epochs.
      begun: By seed, the state at the end of the phase before; filled by `fit`.
      shown: Stimuli in a step.
    """

    net: Any
    phases: list[tuple[loop.Trainer, int]]
    begun: dict[int, training.TrainState]
    shown: int = 0


class Outcome(NamedTuple):
    """A net at the end of its training.

    Attributes:
      variables: Its parameters and statistics.
      history: Each epoch's metrics; none of a net that was trained elsewhere.
      start_up: Those of the phases before the one with the task.
      seconds: Of its training.
    """

    variables: dict
    history: Sequence[loop.Metrics] = ()
    start_up: Sequence[loop.Metrics] = ()
    seconds: float = 0.0


# ---- all nets of a run


def train_all(context: Context) -> list[dict]:
    """Trains the teacher and every student; answers the results, the teacher first."""
    config, given = context.config, context.given
    programs.keep_compiled(config.compilation_cache)
    results, teacher, context = _teach(context)
    taught_by = results[0]["rdms"] if results else None
    student = contexts.student(config, context.dataset, given, training.AXIS)
    diverged = []
    for method in config.methods:
        source = teacher if methods.reads_teacher(method) else teachers.none()
        source = contexts.with_brain(config, given, source, method)
        recipe = prepare(context, student, source, method)
        seeds = range(config.seeds)
        done = all(
            (context.folder / folder(method, i) / "result.json").exists() for i in seeds
        )
        size = 1 if done else seeds_per_program(context, recipe, config.seeds)
        for at in seeds[::size]:
            try:
                trained = train(context, method, recipe, seeds[at : at + size])
            except loop.Diverged as error:
                diverged.append(str(error))
                continue
            for result, _ in trained:
                if taught_by is not None:
                    result["agreement"] = agreement(config, result["rdms"], taught_by)
                results.append(result)
    if diverged:
        # (All others are trained by now.)
        raise loop.Diverged("\n".join(diverged))
    return results


def _teach(context: Context) -> tuple[list[dict], teachers.Teacher, Context]:
    """The teacher's result, if a net teaches, the teacher, and the context with it."""
    config, given, nobody = context.config, context.given, teachers.none()
    if config.teacher is None:
        if given.activations is None:
            return [], nobody, context
        return [], *remembered(context, nobody)
    if given.teacher is not None:
        net = given.teacher.net(context.dataset, other_classes=True)
        outcome = Outcome(given.teacher.variables)
        (context.folder / "teacher").mkdir(exist_ok=True)
        result = recorded(context, "teacher", 0, net, outcome)
        return [result], *remembered(context, teachers.net(net, outcome.variables))
    net = contexts.teacher(config, context.dataset, training.AXIS)
    recipe = prepare(context, net, nobody, "plain", "teacher")
    seeds_per_program(context, recipe, 1)
    members = []
    for seed in range(config.ensemble):
        members += train(context, "teacher", recipe, [seed])
    taught = [teachers.net(net, variables) for _, variables in members]
    if config.ensemble == 1:
        ((result, _),) = members
        return [result], *remembered(context, *taught)
    teacher = teachers.ensemble(
        dict(zip(methods.teacher_names(config), taught, strict=True))
    )
    return [_ensemble(context, net, members)], *remembered(context, teacher)


def _ensemble(context: Context, net: Any, members: list[tuple[dict, dict]]) -> dict:
    """The result of several teachers: their mean probabilities and mean RDMs."""
    results = [result for result, _ in members]
    images = context.dataset.test
    probabilities = 0.0
    for _, variables in members:
        logits = weights.logits(net, variables, context.dataset, images)
        probabilities = probabilities + np.asarray(jax.nn.softmax(logits))
    correct = probabilities.argmax(axis=1) == images.label
    return results[0] | {
        "test_error": float(100 * np.mean(~correct)),
        "predicted": probabilities.argmax(axis=1).tolist(),
        "correct": correct.astype(int).tolist(),
        "rdms": {
            layer: np.mean([result["rdms"][layer] for result in results], axis=0)
            for layer in net.layers
        },
        "seconds": sum(result["seconds"] for result in results),
        "members": [result["test_error"] for result in results],
    }


def remembered(
    context: Context, teacher: teachers.Teacher
) -> tuple[teachers.Teacher, Context]:
    """Returns a teacher that need not run for each batch, where the config wants one.

    Returns:
      The teacher, and the context with what is stored of it.

    Raises:
      UsageError: `activations` holds something else.
    """
    config, layers = context.config, methods.taught(context.config)
    view, images = data.view(context.dataset), len(context.dataset.train.label)
    key = jax.random.key(0)
    load = contexts.feed(context)

    def see(index):
        return view(context.train, load(np.asarray(index)), key)

    def heed():
        if context.interrupt.requested:
            raise loop.Interrupted(f"waiting for {config.activations}")

    if config.activations is not None and layers:
        kept = context.given.activations
        if kept is None:
            place = command.path("activations", config.activations)
            about = {
                "net": config.teacher,
                "teacher": weights.fingerprint(teacher.arrays),
                "images": weights.fingerprint(
                    data.identity(context.dataset.train.image)
                ),
                "size": context.dataset.shape,
                "normalised": (context.dataset.mean, context.dataset.std),
                "seen": context.given.teacher and context.given.teacher.normalisation,
            }
            try:
                with locks.turn(place, context.tell, heed):
                    kept = activations.write(
                        place, teacher, see, images, layers, about=about
                    )
            except ValueError as error:
                raise command.UsageError(f"activations: {error}") from error
        return teachers.from_batch(), context._replace(
            taught=activations.batch_reader(kept)
        )
    wanted = config.remember_teacher
    if wanted is None:
        seen = jax.eval_shape(view, context.train, load(np.arange(1)), key)
        taught = jax.eval_shape(teacher.targets, teacher.arrays, seen)
        size = sum(4 * taught[layer].size for layer in layers) * images
        fits = size * jax.local_device_count() <= REMEMBERED
        drawn = any(contexts.augmentation(config, context.dataset).values())
        drawn = drawn or data.crops_at_random(context.dataset.train.image)
        wanted = fits and not drawn
    if not (wanted and layers):
        return teacher, context
    kept = teachers.cache(teacher, see, images, layers)
    return teachers.cached(kept), context


# ---- how a method trains


def prepare(
    context: Context,
    net: Any,
    teacher: teachers.Teacher,
    method: str,
    name: str | None = None,
) -> Recipe:
    """Returns what the runs of a method share, its programs above all.

    Args:
      context: Settings and data.
      net: What is trained.
      teacher: Where its targets come from.
      method: `plain`, or parts of `experiments.methods` joined by `+`.
      name: In messages and folders; the method's by default. A "teacher" begins as
        drawn and has epochs and a learning rate of its own.
    """
    config, dataset, name = context.config, context.dataset, name or method
    teaches = name == "teacher"
    # (The weights are the students': a teacher learns its task.)
    own = dataclasses.replace(config, weights=()) if teaches else config
    plan = contexts.plan(own, dataset, context.given, method)
    view, load = contexts.view(config, dataset, method), contexts.feed(context, method)
    example = load(
        np.concatenate([*contexts.first(config, context.given, method).values()])
    )
    begins = None if teaches else context.given.student
    parts = {"micro_batches": config.micro_batches}
    arrays = training.Arrays(training.replicate(teacher.arrays), context.train)
    steps_an_epoch = len(dataset.train.label) // config.batch
    driver = programs.driver(config.driver, steps_an_epoch, stream=config.stream)
    started: dict[int, training.TrainState] = {}

    def trained(phase: training.Phase, epochs: int, last: bool) -> loop.Trainer:
        optimizer = optimizer_of(config, teaches, epochs, steps_an_epoch, last)
        step = training.make_step(net, teacher, phase, optimizer, view, **parts)

        def begin(seed, devices):
            if last and seed in started:
                # (Copied: the first step takes what it is given.)
                state = jax.tree.map(_copy, started[seed])
                return training.begin_phase(state, phase, optimizer)
            key = jax.random.key(seed)
            view_key = jax.random.key(0) if config.same_batches else None
            state = training.init(
                key, net, teacher, plan, view, arrays, example, devices, view_key
            )
            if begins is not None:
                state = contexts.begun(state, begins)
            return training.begin_phase(state, phase, optimizer)

        def evaluate(state, job, epoch):
            own = variables(state)
            wait = weights.predicting(net, own, dataset, context.validation)
            of_brain = rdms = None
            if context.given.measured is not None and not teaches:
                of_brain = brain.rdms(config, context.given.measured, dataset, net, own)
            if last and job.seed == 0 and _is_recorded(epoch, job.epochs):
                rdms = _rdms(context, net, own)

            def metrics():
                predicted, loss = wait()
                error = 100 * np.mean(predicted != context.validation.label)
                found = {"validation_error": float(error), "validation_loss": loss}
                if of_brain is not None:
                    found |= brain.progress(config, context.given.measured, of_brain())
                if rdms is not None:
                    _record(job.folder / "rdms", epoch, context, rdms)
                return found

            return metrics

        take = programs.Programs(
            name, step, unrolled=driver.unrolled, tell=context.tell
        )
        place = context.folder / "profile" / name
        if last and config.profile and not (place / "profile.json").exists():
            measured = profile.measure(
                *(net, teacher, phase, optimizer, view),
                begin(0, jax.device_count()),
                arrays,
                training.shard(example),
                place,
                **parts,
            )
            context.bar.write(f"{name}:\n\n{measured.table()}\n\n{place}")
        return loop.Trainer(
            begin,
            arrays,
            take,
            driver.chunk,
            training.pmap(
                training.make_finite_check(net, teacher, phase, view, **parts)
            ),
            evaluate,
            net.layers,
            config.same_batches,
            load,
        )

    epochs = [phase.epochs for phase in plan]
    if teaches:
        epochs = [config.teacher_epochs]
    phases = [
        (trained(phase, count, i == len(plan) - 1), count)
        for i, (phase, count) in enumerate(zip(plan, epochs, strict=True))
    ]
    return Recipe(net, phases, started, len(example.get("stimulus", ())))


def _copy(x: jax.Array) -> jax.Array:
    if not jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        return jnp.copy(x)
    words = jnp.copy(jax.random.key_data(x))
    return jax.random.wrap_key_data(words, impl=jax.random.key_impl(x))


def optimizer_of(
    config: configs.Config,
    teaches: bool,
    epochs: int,
    steps_an_epoch: int,
    last: bool = True,
) -> optax.GradientTransformation:
    """Returns the optimizer of a phase.

    Args:
      config: The settings.
      teaches: Whether it is the teacher's.
      epochs: Of the phase.
      steps_an_epoch: How many there are.
      last: Whether it is the phase with the task; a start-up has a constant rate and no
        weight decay, under which what it does not reach would shrink.
    """
    peak, steps = config.learning_rate, epochs * steps_an_epoch
    if teaches and config.teacher_learning_rate is not None:
        peak = config.teacher_learning_rate
    if not last:
        rate = peak
    elif config.schedule == "steps":
        drops = {steps * eighths // 8: 0.1 for eighths in (5, 6, 7)}
        rate = optax.piecewise_constant_schedule(peak, drops)
    else:
        rate = optax.warmup_cosine_decay_schedule(
            0.0, peak, warmup_steps=steps_an_epoch, decay_steps=steps + 1
        )
    # Without clipping KD's large first gradients kill a small student's ReLUs.
    clip = [] if config.clip is None else [optax.clip_by_global_norm(config.clip)]
    decay = [optax.add_decayed_weights(config.weight_decay)] if last else []
    sgd = optax.sgd(rate, config.momentum, nesterov=config.nesterov)
    return optax.chain(*clip, *decay, sgd)


def seeds_per_program(context: Context, recipe: Recipe, seeds: int) -> int:
    """How many seeds go together: as many as are wanted, or the part of them that fits.

    To know what a step takes is to compile it, so that no training waits for that.

    Raises:
      OutOfMemory: Not one fits.
    """
    sizes = [_together(context, how, recipe.shown, seeds) for how, _ in recipe.phases]
    return min(sizes)


def _together(context: Context, how: loop.Trainer, shown: int, seeds: int) -> int:
    config = context.config
    size = programs.trainings(config.together, seeds)
    state = jax.eval_shape(lambda: how.begin(0, jax.device_count()))
    one = how.feed(np.zeros(config.batch + shown, np.int32))
    while True:
        several = size > 1 and not how.same_view
        steps = (how.chunk, size) if several else (how.chunk,)
        states = [state] * size
        stacked = functools.partial(training.stack_trainings, same_view=how.same_view)
        given = (
            state if size == 1 else jax.eval_shape(stacked, states),
            how.arrays,
            jax.tree.map(functools.partial(_divided, steps), one),
        )
        if size == 1:
            how.step_fn.check(*given)
            return size
        if how.step_fn.fits_in_memory(*given, share=programs.SHARE):
            return size
        context.tell(f"{size} seeds together do not fit into the memory")
        size = -(-size // 2)


def _divided(steps: tuple[int, ...], x: np.ndarray) -> jax.ShapeDtypeStruct:
    """The form of several steps' entries of a batch, divided over the devices."""
    devices = jax.local_device_count()
    shape = (devices, *steps, len(x) // devices, *x.shape[1:])
    return jax.ShapeDtypeStruct(shape, x.dtype)


# ---- training and measuring


def train(
    context: Context, name: str, recipe: Recipe, seeds: Sequence[int]
) -> list[tuple[dict, dict]]:
    """Trains nets together and measures them; answers their results and variables."""
    ensemble = context.config.ensemble
    runs = {folder(name, seed, ensemble): seed for seed in seeds}
    fitted = fit(context, runs, recipe)
    if context.given.measured is not None and name != "teacher":
        for seed in seeds:
            _look_before(context, recipe, seed)
    return [
        (recorded(context, name, seed, recipe.net, outcome), outcome.variables)
        for seed, outcome in zip(seeds, fitted, strict=True)
    ]


def folder(name: str, seed: int, ensemble: int = 1) -> str:
    """Of a net, in the results folder; of an ensemble each teacher has its own."""
    alone = name == "teacher" and ensemble == 1
    return name if alone else f"{name}-seed{seed}"


def fit(context: Context, runs: dict[str, int], recipe: Recipe) -> list[Outcome]:
    """Trains nets together.

    Args:
      context: Settings and data.
      runs: By name, the seed.
      recipe: How.
    """
    seconds = dict.fromkeys(runs, 0.0)
    started = {name: [] for name in runs}
    for i, (how, epochs) in enumerate(recipe.phases):
        last = i == len(recipe.phases) - 1
        names = runs if last else {f"{name}/{START}": s for name, s in runs.items()}
        fitted = _fit(context, names, how, epochs, recipe.shown)
        for name, own in zip(runs, fitted, strict=True):
            seconds[name] += own.seconds
            if not last:
                started[name] += own.history
                recipe.begun[runs[name]] = own.state
    recipe.begun.clear()
    return [
        Outcome(variables(own.state), own.history, started[name], seconds[name])
        for name, own in zip(runs, fitted, strict=True)
    ]


def _fit(
    context: Context, runs: dict[str, int], how: loop.Trainer, epochs: int, shown: int
) -> list[loop.Fitted]:
    """Trains one phase of `fit`."""
    jobs = [
        loop.Job(
            name=name,
            folder=context.folder / name,
            seed=seed,
            order=0 if context.config.same_batches else seed,
            epochs=epochs,
            examples=len(context.dataset.train.label),
            batch=context.config.batch,
            settings=results_folder.settings(context.config),
            stimuli=len(context.given.measured.shown) if shown else 0,
            shown=shown,
        )
        for name, seed in runs.items()
    ]
    for job in jobs:
        job.folder.mkdir(parents=True, exist_ok=True)
        _check_checkpoint(job)
    context.bar.set_description(
        ", ".join(runs) if len(runs) < 3 else f"{jobs[0].name}, ..."
    )

    def advance(steps, history):
        context.bar.update(steps)
        if history:
            error = history[-1]["validation_error"]
            context.bar.set_postfix_str(
                f"validation error {error:.1f} %", refresh=False
            )

    with how.step_fn.advised():
        return loop.fit(jobs, how, context.interrupt, advance)


def _check_checkpoint(job: loop.Job) -> None:
    """Raises `CheckpointMismatch` where what a job would go on from is another's."""
    if checkpoints.latest(job.checkpoint) is None:
        return
    # (What is damaged is told where it is read.)
    about = checkpoints.about(job.checkpoint, tell=lambda words: None)
    try:
        results_folder.check_checkpoint(about, job.name, job.settings)
    except ValueError as error:
        raise checkpoints.CheckpointMismatch(f"{job.checkpoint}: {error}") from error


def without_weights(folder_of_run: pathlib.Path, config: configs.Config) -> list[str]:
    """The nets of a finished run that it trained and that are no longer there."""
    trained = [(method, i) for method in config.methods for i in range(config.seeds)]
    if config.teacher is not None and config.teacher_from is None:
        trained += [("teacher", seed) for seed in range(config.ensemble)]
    names = [folder(name, seed, config.ensemble) for name, seed in trained]
    return [name for name in names if not _has_weights(folder_of_run / name)]


def _has_weights(net: pathlib.Path) -> bool:
    return checkpoints.latest(net / "weights") is not None


def recorded(
    context: Context,
    name: str,
    seed: int,
    net: Any,
    outcome: Outcome,
) -> dict:
    """Returns the result of a trained net: measured and written, or read again.

    Of a net that was trained here and whose weights are gone it is written again.
    """
    own = outcome.variables
    place = context.folder / folder(name, seed, context.config.ensemble)
    record = place / "result.json"
    if outcome.history and record.exists() and not _has_weights(place):
        context.tell(f"{place} has a result and no weights: both are written again")
        record.unlink()
    if not record.exists():
        if outcome.history:
            keep(context, name, own, place / "weights")
        measured = measure(context, net, own)
        _savez(place / "rdms.npz", measured.pop("rdms"))
        if context.given.measured is not None and name != "teacher":
            of_brain = brain.rdms(
                context.config, context.given.measured, context.dataset, net, own
            )
            _savez(place / "brain.npz", of_brain())
        about = {"method": name, "seed": seed, "seconds": outcome.seconds}
        about |= {"versions": versions(), "compared": compared(context.config, name)}
        about |= {"config": dataclasses.asdict(context.config)}
        about |= {"history": outcome.history, "start_up": outcome.start_up}
        loop.write_json(record, about | measured)
    try:
        result = files.words(record)
        results_folder.check_net(result, name, seed, context.config)
        result["rdms"] = files.npz(place / "rdms.npz", lambda _: net.layers)
    except Exception as error:  # What is damaged fails in many ways.
        raise command.UsageError(
            f"{record} or rdms.npz beside it is damaged ({error!r}); where the first "
            "is deleted, --resume measures the net again"
        ) from error
    return result


def _savez(path: pathlib.Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes an .npz file whole or not at all."""
    with files.draft(path) as file:
        np.savez(file, **arrays)


def keep(context: Context, name: str, trained: dict, place: pathlib.Path) -> None:
    """Writes a trained net to a folder that `--teacher_from` takes."""
    config, dataset = context.config, context.dataset
    normalisation = tuple(
        tuple(x / 255 for x in of) for of in (dataset.mean, dataset.std)
    )
    modality = config.teacher_modality if name == "teacher" else config.modality
    if name != "teacher" and context.given.student is not None:
        normalisation = context.given.student.normalisation or normalisation
        modality = context.given.student.modality
    net = weights.Trained(
        config.teacher if name == "teacher" else config.student,
        dataset.classes,
        dataset.shape,
        trained,
        normalisation,
        {"run": str(place.parent), "data": dataset.note},
        modality,
    )
    weights.save(net, place)


def compared(config: configs.Config, name: str) -> list[str]:
    """Returns the layers of a net whose RDMs are compared."""
    pairs = map(methods.pair, config.layers)
    return [other if name == "teacher" else own for own, other in pairs]


def variables(state: training.TrainState) -> dict:
    """Returns the student's Flax variables in a training state."""
    now = state.replicated
    return {"params": now.params["student"], **now.model_state}


def measure(context: Context, net: Any, trained: dict) -> dict:
    """Returns what a trained net does on the test images: read once, at the end.

    Returns:
      `test_error` in percent; `predicted` classes and `correct` (0 or 1), a list over
      the test images, all None of a net of another task; `rdms`, by layer the condensed
      RDM of the stimuli.
    """
    test, rdms = context.dataset.test, _rdms(context, net, trained)
    found = weights.logits(net, trained, context.dataset, test)
    rdms = {layer: np.asarray(x) for layer, x in rdms.items()}
    if found.shape[1] != context.dataset.classes:
        nothing = dict.fromkeys(("test_error", "predicted", "correct"))
        return nothing | {"rdms": rdms}
    predicted = found.argmax(axis=1)
    correct = predicted == test.label
    return {
        "test_error": float(100 * np.mean(~correct)),
        "predicted": predicted.tolist(),
        "correct": correct.astype(int).tolist(),
        "rdms": rdms,
    }


def _rdms(context: Context, net: Any, trained: dict) -> dict[str, jax.Array]:
    """By layer, the RDM of the stimuli; under way."""
    images = data.normalise(
        context.dataset, context.dataset.test.image[context.stimuli]
    )
    seen = weights.activations(net, trained, images, net.layers)
    distance = configs.DISTANCES[context.config.distance]
    return {name: _rdm(x, distance=distance) for name, x in seen.items()}


# (In jit: what answers the same for all images has an RDM too, of zeros.)
_rdm = jax.jit(rdm.compute)


def _is_recorded(epoch: int, epochs: int) -> bool:
    """Whether an epoch's RDMs are kept: the first, second, fourth, ... and the last."""
    return epoch & (epoch - 1) == 0 or epoch == epochs


def _record(
    place: pathlib.Path, epoch: int, context: Context, rdms: dict[str, jax.Array]
) -> None:
    """Keeps the RDMs of half of the stimuli of each class at an epoch's end."""
    label = context.dataset.test.label[context.stimuli]
    half = np.concatenate(
        [
            np.flatnonzero(label == one)[: max(1, np.sum(label == one) // 2)]
            for one in np.unique(label)
        ]
    )
    rows, columns = (half[i] for i in np.triu_indices(len(half), 1))
    n = len(label)
    at = rows * n - rows * (rows + 1) // 2 + columns - rows - 1
    place.mkdir(exist_ok=True)
    kept = {name: np.asarray(x)[at] for name, x in rdms.items()}
    _savez(place / f"epoch-{epoch:04d}.npz", kept)


def agreement(config: configs.Config, student: dict, teacher: dict) -> dict:
    """Returns how a student's RDMs correlate with the teacher's.

    Args:
      config: The settings, for the pairs of layers.
      student: By layer, the condensed RDM `[pairs]`.
      teacher: The same of the teacher, for the same stimuli.

    Returns:
      For each entry of `config.layers`, `pearson` and `spearman`.
    """
    found = {}
    for layer in config.layers:
        own, other = methods.pair(layer)
        pearson, spearman = statistics.rdm_agreement(student[own], teacher[other])
        found[layer] = {"pearson": pearson, "spearman": spearman}
    return found


def versions() -> dict[str, str]:
    """Returns the versions of what the numbers depend on."""
    packages = ("jax", "jaxlib", "flax", "optax", "numpy", "pillow")
    found = {name: importlib.metadata.version(name) for name in packages}
    return {"python": platform.python_version(), "rdljax": rdljax.__version__, **found}


# ---- what a brain says of them


def _look_before(context: Context, recipe: Recipe, seed: int) -> None:
    """Keeps the RDMs of the stimuli in the student of a seed before it is trained."""
    file = context.folder / f"{BEFORE}-seed{seed}.npz"
    if not file.exists():
        (how, _), *_ = recipe.phases
        begun = variables(how.begin(seed, jax.device_count()))
        own = (context.dataset, recipe.net, begun)
        _savez(file, brain.rdms(context.config, context.given.measured, *own)())


def of_brain(context: Context, results: list[dict]) -> list[dict]:
    """Of each student, before its training and after, its RDMs of the stimuli."""
    found, layers = [], brain.layers(context.config)
    places = {
        (BEFORE, seed): context.folder / f"{BEFORE}-seed{seed}.npz"
        for seed in range(context.config.seeds)
    }
    histories = {}
    for result in results:
        if result["method"] != "teacher":
            key = result["method"], result["seed"]
            places[key] = context.folder / folder(*key) / "brain.npz"
            histories[key] = result["history"]
    for (method, seed), file in places.items():
        try:
            own = files.npz(file, lambda _: layers)
        except Exception as error:  # What is damaged fails in many ways.
            raise command.UsageError(
                f"{file} is damaged ({error!r}); where it is deleted, and result.json "
                "beside it, --resume measures the net again"
            ) from error
        history = histories.get((method, seed), [])
        found.append({"method": method, "seed": seed, "brain": own, "history": history})
    return found
