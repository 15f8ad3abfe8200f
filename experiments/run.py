"""Runs an experiment: `python -m experiments.run NAME --field=value ...`.

Trains a teacher, the same student by several methods and seeds, and reports what became
of the test error and of the representations. NAME is a file of `experiments/configs`.
"""

import dataclasses
import functools
import importlib
import os
import shlex
import sys
from collections.abc import Callable

# Emulated CPU devices wait forever for each other when XLA has too few threads (before
# jax 0.12); must be set before jax is imported.
os.environ.setdefault("PJRT_NPROC", "32")

import jax
import optax
import tqdm
import tyro

from experiments import (
    brain,
    brain_report,
    checks,
    data,
    findings,
    locks,
    loop,
    methods,
    programs,
    trainings,
    weights,
)
from experiments import command as commands
from experiments import config as configs
from experiments import context as contexts
from experiments import results as results_folder
from rdljax import activations, checkpoints, files, teachers, training


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line.

    Returns:
      The exit status: 0 done, 1 it cannot go on (the loss is not finite, the disk is
      full), 2 a wrong call; stopped by a signal 128 and its number: 130 for Ctrl-C.
    """
    arguments = commands.line(arguments)

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
        return stopped.status


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
    """Returns the config's name and the config, from `NAME --field=value ...`.

    Raises:
      UnknownName: Of a config, or of a field.
      SystemExit: A value of the wrong type (2), or `--help` (0).
    """
    name, changes = commands.first(arguments, __doc__, "Configs", configs.names())
    config = configs.load(name)
    commands.check_keys(changes, [field.name for field in dataclasses.fields(config)])
    note = importlib.import_module(f"experiments.configs.{name}").__doc__
    program = f"python -m experiments.run {name}"
    return name, tyro.cli(
        configs.Config, default=config, args=changes, prog=program, description=note
    )


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
    config, given = contexts.trained_elsewhere(config)
    checks.check(config, brain.names(config))
    dataset = contexts.load(config)
    given = contexts.with_measurements(config, dataset, given)
    rehearse(config, dataset, given)
    with locks.held(results_folder.place(name, config)):
        return _run(name, config, dataset, given, interrupt)


def _run(
    name: str,
    config: configs.Config,
    dataset: data.Dataset,
    given: contexts.Inputs,
    interrupt: loop.Interrupt,
) -> dict:
    """`run`, where nobody else writes to the folder."""
    fingerprints = {**contexts.fingerprint(dataset), **given.fingerprints()}
    folder = results_folder.claim(name, config, fingerprints)
    if summary := results_folder.finished(folder, name, config):
        print(f"{folder} is finished:\n\n{described(summary)}")
        if broken := trainings.without_weights(folder, config):
            print(
                f"{folder} has no weights of {', '.join(broken)}: where result.json is "
                "deleted, --resume writes them from the checkpoints of these nets, or "
                "trains them anew",
                file=sys.stderr,
            )
        return summary
    device = f"{jax.device_count()} x {jax.devices()[0].device_kind}"
    print(f"{dataset.name}: {dataset.note}\nDevices: {device}. Results: {folder}.")

    steps = len(dataset.train.label) // config.batch
    total = steps * epochs(config, dataset, given)
    with tqdm.tqdm(total=total, unit="step", smoothing=0.05) as bar:
        context = contexts.build_context(config, dataset, folder, interrupt, bar, given)
        results = trainings.train_all(context)
    summary = {
        "config": {"name": name, **dataclasses.asdict(config)},
        "teacher_source": _source(given.teacher),
        "data": dataset.note,
        "versions": trainings.versions(),
        "device": device,
        "seconds": sum(result["seconds"] for result in results),
        **findings.summarise(results, dataset.test.label),
    }
    written = ["result.json", "table.md", "rdms.png", "learning_curves.png"]
    findings.pictures(folder, results, dataset.test.label[context.stimuli])
    if given.measured is not None:
        seen = trainings.of_brain(context, results)
        own = config, given.measured, seen
        summary["brain"] = brain.summarise(*own, summary["baseline"])
        written += brain_report.pictures(folder, *own, summary)
    text = described(summary)
    files.write(folder / "table.md", text)
    loop.write_json(folder / "result.json", summary)
    print(f"\n{text}\n{folder}: {', '.join(written)}")
    return summary


def described(summary: dict) -> str:
    """Returns a summary as Markdown."""
    return findings.table(summary) + brain_report.table(summary)


def epochs(
    config: configs.Config, dataset: data.Dataset, given: contexts.Inputs
) -> int:
    """Returns the epochs of all nets that a run trains."""
    plans = [contexts.plan(config, dataset, given, method) for method in config.methods]
    total = config.seeds * sum(phase.epochs for plan in plans for phase in plan)
    if config.teacher is not None and given.teacher is None:
        total += config.ensemble * config.teacher_epochs
    return total


def _source(trained: weights.Trained | None) -> dict[str, str] | None:
    """Where a teacher comes from that is not trained here, and what its weights are."""
    if trained is None:
        return None
    return {**trained.source, "fingerprint": trained.fingerprint}


def rehearse(
    config: configs.Config,
    dataset: data.Dataset,
    given: contexts.Inputs = contexts.Inputs(),  # noqa: B008 (a tuple)
) -> None:
    """Traces one step of every phase, so that what cannot work is said at once.

    Raises:
      UsageError: A step cannot be made with these settings.
    """
    own_teacher = given.teacher and given.teacher.net(dataset, other_classes=True)
    student = contexts.student(config, dataset, given)
    key, optimizer = jax.random.key(0), optax.sgd(1.0)
    train = dataset.train._asdict()
    if given.measured is not None:
        train["stimuli"] = given.measured.images[given.measured.shown]
    train = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), train)

    def taught(method, batch, seen):
        if given.activations is not None and methods.reads_teacher(method):
            batch["targets"] = activations.batch_reader(given.activations)(
                batch["index"]
            )
            return teachers.from_batch()
        if given.teacher is not None:
            return teachers.net(own_teacher, given.teacher.variables)
        if config.teacher is None:
            return teachers.none()
        net = contexts.teacher(config, dataset)
        source = teachers.net(net, net.init(key, seen))
        if names := methods.teacher_names(config):
            return teachers.ensemble(dict.fromkeys(names, source))
        return source

    def steps(method, plan, of_brain, train):
        batch, view = (
            contexts.first(config, given, method),
            contexts.view(config, dataset, method),
        )
        source = taught(method, batch, view(train, batch, key)["image"])
        source = teachers.merge(source, of_brain)
        arrays = training.Arrays(source.arrays, train)
        state = training.init(
            key, student, source, plan, view, arrays, batch, devices=1
        )
        if given.student is not None:
            state = contexts.begun(state, given.student)
        for phase in plan:
            state = training.begin_phase(state, phase, optimizer)
            step = training.make_step(student, source, phase, optimizer, view)
            state, _ = step(state, arrays, batch)
        return state

    for method in config.methods:
        try:
            plan = contexts.plan(config, dataset, given, method)
            of_brain = contexts.with_brain(config, given, teachers.none(), method)
            jax.eval_shape(functools.partial(steps, method, plan, of_brain), train)
        except ZeroDivisionError as error:
            raise commands.UsageError(
                f"images of {dataset.shape} are too small for "
                f"{config.teacher} or {config.student}"
            ) from error
        except commands.UsageError:
            raise
        except ValueError as error:
            raise commands.UsageError(f"{method} cannot be trained: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
