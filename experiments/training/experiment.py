"""Runs one experiment and writes its results folder."""

import shlex
import sys

import jax

from experiments import brain, command, data, display, locks, weights
from experiments import config as configs
from experiments.brain import markdown as brain_markdown
from experiments.brain import plots as brain_plots
from experiments.results import aggregate, markdown, plots
from experiments.results import folder as results_folder
from experiments.training import checks, interrupts, recording, rehearsal, teaching
from experiments.training import context as contexts
from rdljax import files


def run(name: str, config: configs.Config, interrupt: interrupts.Interrupt) -> dict:
    """Runs the experiment and writes its results folder.

    Args:
      name: The name of the config.
      config: The settings.
      interrupt: The request to stop.

    Returns:
      The content of `result.json`.

    Raises:
      UnknownName: If a name in the config is not known.
      UsageError: If a setting is not allowed, the data are missing, or the folder is
        not free.
      Interrupted: If the run was stopped; the folder can be resumed.
    """
    config, inputs = contexts.trained_elsewhere(config)
    checks.check(config, brain.names(config))
    dataset = contexts.load(config)
    inputs = contexts.with_measurements(config, dataset, inputs)
    rehearsal.rehearse(config, dataset, inputs)
    with locks.hold(results_folder.find_path(name, config)):
        return _run(name, config, dataset, inputs, interrupt)


def _run(
    name: str,
    config: configs.Config,
    dataset: data.Dataset,
    inputs: contexts.Inputs,
    interrupt: interrupts.Interrupt,
) -> dict:
    """Runs the experiment, with its folder locked."""
    fingerprints = {**contexts.fingerprint(dataset), **inputs.fingerprints()}
    folder = results_folder.claim(name, config, fingerprints)
    if summary := results_folder.read_finished(folder, name, config):
        print(f"{folder} is finished:\n\n{as_markdown(summary)}")
        if broken := recording.without_weights(folder, config):
            print(
                f"{folder} has no weights of {', '.join(broken)}: if result.json is "
                "deleted, --resume writes them from the checkpoints of these nets, or "
                "trains the nets again",
                file=sys.stderr,
            )
        return summary
    print(f"{dataset.name}: {dataset.note}\nDevices: {_device()}. Results: {folder}.")
    if said := checks.shared_seeds(config):
        print(said, file=sys.stderr)

    total = steps(config, dataset, inputs)
    with display.progress_bar(total=total, unit="step", smoothing=0.05) as bar:
        context = contexts.build_context(
            config, dataset, folder, interrupt, bar, inputs
        )
        results = teaching.train_all(context)
    return _write(name, context, results)


def _write(name: str, context: contexts.Context, results: list[dict]) -> dict:
    """Writes tables and pictures of a run; returns the content of `result.json`."""
    config, dataset, folder = context.config, context.dataset, context.folder
    inputs = context.inputs
    summary = {
        "config": {"name": name, **configs.flat(config)},
        "teacher_source": _source(inputs.teacher),
        "data": dataset.note,
        "class_names": dataset.class_names,
        "versions": recording.versions(),
        "device": _device(),
        "seconds": sum(result["seconds"] for result in results),
        **aggregate.summarise(results, dataset.test.label),
    }
    written: list[str] = [results_folder.RunFile.RESULT, results_folder.RunFile.TABLE]
    written += plots.pictures(folder, results, dataset.test.label[context.stimuli])
    if inputs.measured is not None:
        seen = recording.read_brain_rdms(context, results)
        own = config, inputs.measured, seen
        summary["brain"] = brain.summarise(*own, summary["baseline"])
        written += brain_plots.pictures(folder, *own, summary)
    text = as_markdown(summary)
    files.write(folder / results_folder.RunFile.TABLE, text)
    files.write_json(folder / results_folder.RunFile.RESULT, summary)
    report = shlex.join([*command.again("experiments.report"), str(folder)])
    print(
        f"\n{text}\n{folder}: {', '.join(written)}\nA page with curves and RDMs: "
        f"{report}"
    )
    return summary


def _device() -> str:
    """Returns the number and the kind of the devices."""
    return f"{jax.device_count()} x {jax.devices()[0].device_kind}"


def as_markdown(summary: dict) -> str:
    """Returns a summary as Markdown."""
    return markdown.table(summary) + brain_markdown.table(summary)


def steps(
    config: configs.Config, dataset: data.Dataset, inputs: contexts.Inputs
) -> int:
    """Returns the total number of steps of all nets that a run trains."""
    students = data.for_students(dataset, config.data.student_per_class)
    plans = [contexts.plan(config, students, inputs, m) for m in config.method.names]
    epochs = sum(phase.epochs for plan in plans for phase in plan)
    batch = config.training.batch
    total = config.training.seeds * epochs * (len(students.train.label) // batch)
    if config.nets.teacher is not None and inputs.teacher is None:
        taught = config.nets.ensemble * config.training.teacher_epochs
        total += taught * (len(dataset.train.label) // batch)
    return total


def _source(trained: weights.TrainedNet | None) -> dict[str, str] | None:
    """Returns the source and fingerprint of a teacher that is not trained here."""
    if trained is None:
        return None
    return {**trained.source, "fingerprint": trained.fingerprint}
