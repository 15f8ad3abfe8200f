"""Computes the correlations between the logits of a net."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import command, data
from experiments import options as command_options
from experiments.analyses import frozen_features, runs
from experiments.results import aggregate, markdown, plots
from experiments.results import folder as results_folder
from experiments.training import recording
from rdljax import files


def run(options: command_options.Correlations) -> None:
    """Compares all students of a run with its teacher; writes a figure and numbers.

    Args:
      options: The settings.

    Raises:
      UsageError: If the run, its data, or the file to write cannot be used.
    """
    folder, summary = runs.read_run(options.results)
    config = summary["config"]
    _check(options, folder, config)
    written = _place(options, folder)
    dataset = load(config, options.data_dir)
    teacher, students = _teacher_and_students(folder, summary, dataset)
    found = differences(teacher, students, dataset)
    compared = {
        "run": config,
        "data": dataset.note,
        "test_images": len(dataset.test.label),
        "versions": recording.versions(),
        "methods": {name: spread(each) for name, each in found.items()},
    }
    text = table(compared)
    out, record, page = written
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        shown = {name: each[options.seed] for name, each in found.items()}
        picture(out, shown, f"{config['data']}, seed {options.seed}")
        files.write_json(record, compared)
        files.write(page, text)
    except OSError as error:
        raise command.UsageError(f"cannot write {out}: {error}") from error
    print(f"{text}\n{', '.join(map(str, written))}")


def _check(
    options: command_options.Correlations, folder: pathlib.Path, config: Mapping
) -> None:
    """Raises `UsageError` if a run has no teacher, or no students of that seed."""
    if config["teacher"] is None:
        raise command.UsageError(f"the run of {folder} has no teacher")
    if not 0 <= options.seed < config["seeds"]:
        raise command.UsageError(
            f"seed must be from 0 to {config['seeds'] - 1}, got {options.seed}"
        )


def _place(
    options: command_options.Correlations, folder: pathlib.Path
) -> list[pathlib.Path]:
    """Returns the paths of the figure, its numbers, and their table.

    Raises:
      UsageError: If one exists, or the figure's name does not end in .png.
    """
    own, *others = results_folder.CORRELATIONS_SUFFIXES
    default = str(folder / f"{results_folder.CORRELATIONS}{own}")
    out = command.path("out", default if options.out is None else options.out)
    if out.suffix.lower() != own:
        raise command.UsageError(f"out must be a file {own}, got {out}")
    written = [out, *(out.with_suffix(suffix) for suffix in others)]
    for file in written:
        if file.exists() and not options.overwrite:
            raise command.UsageError(f"{file} exists; --overwrite replaces it")
    return written


def _teacher_and_students(
    folder: pathlib.Path, summary: dict, dataset: data.Dataset
) -> tuple[runs.Net, list[runs.Net]]:
    """Returns the teacher of a run, and its students.

    Raises:
      UsageError: If a net is missing, or there is no single teacher with the students'
        task.
    """
    every = runs.trained_nets(folder, summary)
    teacher, *others = (net for net in every if net.method == "teacher")
    if others or teacher.trained.classes != dataset.classes:
        raise command.UsageError(
            f"the run of {folder} has no single teacher of the students' task"
        )
    return teacher, [net for net in every if net.method != "teacher"]


def differences(
    teacher: runs.Net,
    students: Sequence[runs.Net],
    dataset: data.Dataset,
) -> dict[str, list[np.ndarray]]:
    """Returns the absolute differences of correlations, by method, for each seed."""
    taught = _correlations_of(teacher, dataset)
    found: dict[str, list[np.ndarray]] = {}
    for student in students:
        own = np.abs(taught - _correlations_of(student, dataset))
        found.setdefault(student.method, []).append(own)
    return found


def _correlations_of(net: runs.Net, dataset: data.Dataset) -> np.ndarray:
    """Returns the correlations of a net's logits over the test images."""
    images: Any = dataset.test.image
    variables = net.trained.variables
    own = net.trained.net(dataset)
    logits = frozen_features.extract(own, variables, dataset, images, "logits")
    return correlations(logits)


def load(config: Mapping, data_dir: str | None) -> data.Dataset:
    """Returns the images of a run.

    Args:
      config: The settings of the run.
      data_dir: The folder that now holds the images; None for that of the run.

    Raises:
      UsageError: If the images are missing.
    """
    try:
        dataset = data.load(
            config["data"],
            data_dir or config["data_dir"],
            train_per_class=config["train_per_class"],
        )
    except ValueError as error:
        raise command.UsageError(str(error)) from error
    size = config["resize"]
    if size is None:
        return dataset
    return dataclasses.replace(dataset, size=(size, size))


def correlations(logits: np.ndarray) -> np.ndarray:
    """Returns Pearson's correlations between logits over images, `[classes, classes]`.

    Args:
      logits: The logits, `[N, classes]`. A logit that is the same for all images has
        correlation 0 with all logits, including itself.
    """
    mean, deviation = frozen_features.moments(logits)
    standard = (logits - mean) / deviation
    return standard.T @ standard / len(logits)


def mean_difference(differences: np.ndarray) -> float:
    """Returns the mean over pairs of different classes."""
    return float(differences[np.triu_indices(len(differences), 1)].mean())


def spread(each: Sequence[np.ndarray]) -> dict[str, Any]:
    """Returns the `mean` over seeds of mean differences, their `std` and `values`."""
    values = [mean_difference(differences) for differences in each]
    return aggregate.spread(values) | {"values": values}


def table(compared: dict) -> str:
    """Returns the content of `correlations.json` in Markdown."""
    config = compared["run"]
    rows = [
        [
            name,
            markdown.plus_minus(of, 4),
            ", ".join(f"{value:.4f}" for value in of["values"]),
        ]
        for name, of in compared["methods"].items()
    ]
    return (
        f"Data: {compared['data']}\n"
        f"Correlations between the logits of two classes over "
        f"{compared['test_images']:,} test images: the absolute difference of teacher "
        f"({config['teacher']}) and student ({config['student']}), mean over pairs of "
        "classes.\n\n"
        f"{markdown.grid(['method', 'difference', 'of each seed'], rows)}\n"
    )


def picture(path: pathlib.Path, shown: Mapping[str, np.ndarray], words: str) -> None:
    """Saves a figure with a panel for each method, with a common colour scale.

    Args:
      path: The path of the figure.
      shown: The absolute differences `[classes, classes]`, by method.
      words: The title.
    """
    from matplotlib import pyplot as plt

    columns = min(4, len(shown))
    rows = -(-len(shown) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.6 * columns + 0.9, 2.75 * rows + 0.5),
        squeeze=False,
        layout="constrained",
    )
    largest = max(differences.max() for differences in shown.values())
    for axis in axes.flat[len(shown) :]:
        axis.set_axis_off()
    for axis, (name, differences) in zip(axes.flat, shown.items(), strict=False):
        classes = len(differences)
        image = axis.imshow(differences, cmap="magma", vmin=0, vmax=largest or 1)
        ticks = range(0, classes, 1 if classes <= 20 else 20)
        axis.set_xticks(ticks)
        axis.set_yticks(ticks)
        axis.tick_params(length=2, pad=1, labelsize=6)
        axis.set_title(f"{name}: mean {mean_difference(differences):.3f}", fontsize=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.8, pad=0.01)
    bar.set_label("correlation between logits,\n|teacher − student|", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(words, fontsize=9)
    plots.save(figure, path)
