"""Trains the teacher and all students of a context, and returns their results."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from experiments import brain, command, data, locks, methods, weights
from experiments.results import folder as results_folder
from experiments.training import builder, fitting, interrupts, loop, programs, recording
from experiments.training import context as contexts
from rdljax import activations, nets, teachers, training

# The largest number of bytes of a teacher's activations that are kept by default.
REMEMBERED = 2**30


def train_all(context: contexts.Context) -> list[dict]:
    """Trains the teacher and every student; returns the results, the teacher's first.

    Raises:
      Diverged: If the loss of a net is not finite. If a student diverges, all others
        are trained before this is raised.
    """
    config, inputs = context.config, context.inputs
    programs.keep_compiled(config.runtime.compilation_cache)
    results, teacher, context = _teach(context)
    taught_by = results[0]["rdms"] if results else None
    student = contexts.student(config, context.dataset, inputs, training.AXIS)
    diverged = []
    for method in config.method.names:
        source = teacher if methods.reads_teacher(method) else teachers.none()
        source = contexts.with_brain(config, inputs, source, method)
        method_trainers = builder.prepare(context, student, source, method)
        seeds = range(config.training.seeds)
        places = [context.folder / results_folder.net_folder(method, i) for i in seeds]
        done = all((place / results_folder.NetFile.RESULT).exists() for place in places)
        size = 1
        if not done:
            size = builder.choose_seeds_per_program(
                context, method_trainers, len(seeds)
            )
        for at in seeds[::size]:
            try:
                trained = train(context, method, method_trainers, seeds[at : at + size])
            except loop.Diverged as error:
                diverged.append(str(error))
                continue
            for result, _ in trained:
                if taught_by is not None:
                    result["agreement"] = recording.agreement(
                        config, result["rdms"], taught_by
                    )
                results.append(result)
    if diverged:
        # (All other students have been trained.)
        raise loop.Diverged("\n".join(diverged))
    return results


def _teach(
    context: contexts.Context,
) -> tuple[list[dict], teachers.Teacher, contexts.Context]:
    """Trains or loads the teacher.

    Returns:
      The teacher's result, if there is a net, the teacher, and the context of the
      students, with the teacher's stored activations.
    """
    config, inputs, no_teacher = context.config, context.inputs, teachers.none()
    students = contexts.for_students(context)
    if config.nets.teacher is None:
        if inputs.activations is None:
            return [], no_teacher, students
        return [], *cache_teacher(students, no_teacher)
    if inputs.teacher is not None:
        net = inputs.teacher.net(context.dataset, other_classes=True)
        outcome = recording.Outcome(inputs.teacher.variables)
        (context.folder / results_folder.net_folder("teacher", 0)).mkdir(exist_ok=True)
        result = recording.record_net(context, "teacher", 0, net, outcome)
        return [result], *cache_teacher(students, teachers.net(net, outcome.variables))
    net = contexts.teacher(config, context.dataset, training.AXIS)
    method_trainers = builder.prepare(context, net, no_teacher, "plain", "teacher")
    builder.choose_seeds_per_program(context, method_trainers, 1)
    members = []
    for seed in range(config.nets.ensemble):
        members += train(context, "teacher", method_trainers, [seed])
    taught = [teachers.net(net, variables) for _, variables in members]
    if config.nets.ensemble == 1:
        ((result, _),) = members
        return [result], *cache_teacher(students, *taught)
    teacher = teachers.ensemble(
        dict(zip(methods.teacher_names(config), taught, strict=True))
    )
    return [_ensemble(context, net, members)], *cache_teacher(students, teacher)


def _ensemble(
    context: contexts.Context, net: nets.NetLike, members: list[tuple[dict, dict]]
) -> dict:
    """Returns the result of several teachers: mean probabilities and mean RDMs."""
    results = [result for result, _ in members]
    images = context.dataset.test
    total: np.ndarray | float = 0.0
    for _, variables in members:
        logits = weights.logits(net, variables, context.dataset, images)
        total = total + np.asarray(jax.nn.softmax(logits))
    probabilities = np.asarray(total)
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


def cache_teacher(
    context: contexts.Context, teacher: teachers.Teacher
) -> tuple[teachers.Teacher, contexts.Context]:
    """Computes and keeps the teacher's activations, if the config says so.

    Returns:
      The teacher, which then does not run for each batch, and the context with its
      stored activations.

    Raises:
      UsageError: If `activations` has something else.
    """
    config, layers = context.config, methods.teacher_layers(context.config)
    view, load = data.view(context.dataset), contexts.feed(context)
    key = jax.random.key(0)

    def see(index):
        return view(context.train, load(data.Batches(np.asarray(index))), key)

    if config.training.activations is not None and layers:
        kept = context.inputs.activations
        if kept is None:
            kept = _store_activations(context, teacher, see, layers)
        reader = activations.batch_reader(kept)
        context = dataclasses.replace(context, stored_targets=reader)
        return teachers.from_batch(), context
    wanted = config.training.remember_teacher
    if wanted is None:
        first = load(data.Batches(np.arange(1)))
        wanted = _is_worth_a_cache(context, teacher, view, first, layers)
    if not (wanted and layers):
        return teacher, context
    images = len(context.dataset.train.label)
    return teachers.cached(teachers.cache(teacher, see, images, layers)), context


def _store_activations(
    context: contexts.Context,
    teacher: teachers.Teacher,
    see: Callable[[Any], training.Batch],
    layers: Sequence[str],
) -> activations.Store:
    """Returns the teacher's activations of all training images, from a folder.

    If they are missing, they are written, by one process at a time.

    Args:
      context: The settings and data.
      teacher: The teacher.
      see: The function from indices of training images to the batch that nets see.
      layers: The layers of the teacher.

    Raises:
      UsageError: If the folder has something else.
    """
    asked, dataset = context.config.training.activations, context.dataset
    normalisation = None
    if context.inputs.teacher is not None:
        normalisation = context.inputs.teacher.normalisation
    about = {
        "net": context.config.nets.teacher,
        "teacher": weights.fingerprint(teacher.arrays),
        "images": weights.fingerprint(data.identity(dataset.train.image)),
        "size": dataset.shape,
        "normalised": (dataset.mean, dataset.std),
        "seen": normalisation,
    }

    def handle_wait():
        if context.interrupt.requested:
            raise interrupts.Interrupted(f"waiting for {asked}")

    place = command.path("activations", contexts.not_none(asked))
    images = len(dataset.train.label)
    try:
        with locks.hold_when_free(place, context.print_message, handle_wait):
            return activations.write(place, teacher, see, images, layers, about=about)
    except ValueError as error:
        raise command.UsageError(f"activations: {error}") from error


def _is_worth_a_cache(
    context: contexts.Context,
    teacher: teachers.Teacher,
    view: training.View,
    batch: training.Batch,
    layers: Sequence[str],
) -> bool:
    """Returns whether images are not augmented, and the teacher's activations fit.

    Args:
      context: The settings and data.
      teacher: The teacher.
      view: The view of images without augmentation.
      batch: A batch of one image, for its shapes.
      layers: The layers of the teacher.
    """
    key, train = jax.random.key(0), context.dataset.train
    seen = jax.eval_shape(view, context.train, batch, key)
    taught = jax.eval_shape(teacher.targets, teacher.arrays, seen)
    size = sum(4 * taught[layer].size for layer in layers) * len(train.label)
    drawn = any(contexts.augmentation(context.config, context.dataset).values())
    drawn = drawn or data.crops_at_random(train.image)
    return size * jax.local_device_count() <= REMEMBERED and not drawn


def train(
    context: contexts.Context,
    name: str,
    method_trainers: builder.MethodTrainers,
    seeds: Sequence[int],
) -> list[tuple[dict, dict]]:
    """Trains nets together and measures them; returns their results and variables."""
    ensemble = context.config.nets.ensemble
    runs = {results_folder.net_folder(name, seed, ensemble): seed for seed in seeds}
    outcomes = fitting.fit(context, runs, method_trainers)
    if context.inputs.measured is not None and name != "teacher":
        for seed in seeds:
            _save_rdms_before(context, method_trainers, seed)
    return [
        (
            recording.record_net(
                context, name, seed, method_trainers.recipe.net, outcome
            ),
            outcome.variables,
        )
        for seed, outcome in zip(seeds, outcomes, strict=True)
    ]


def _save_rdms_before(
    context: contexts.Context, method_trainers: builder.MethodTrainers, seed: int
) -> None:
    """Writes the RDMs of the stimuli in a seed's student before its training."""
    file = context.folder / results_folder.BEFORE_FILE.format(seed=seed)
    if not file.exists():
        trainer = method_trainers.trainers[0]
        begun = training.student_variables(trainer.begin(seed, jax.device_count()))
        own = (context.dataset, method_trainers.recipe.net, begun)
        measured = contexts.not_none(context.inputs.measured)
        brain_rdms = brain.rdms(context.config, measured, *own)
        recording.save_arrays(file, brain_rdms())
