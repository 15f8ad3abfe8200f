"""Correlations between the logits of a net."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from experiments import command, data
from experiments.analyses import linear_probe
from experiments.results import markdown, plots
from rdljax import statistics


def load(config: Mapping, data_dir: str | None) -> data.Dataset:
    """Returns the images of a run.

    Args:
      config: Its settings.
      data_dir: Where they are now; None for where they were.

    Raises:
      UsageError: They are not there.
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
    return dataset if size is None else dataset._replace(size=(size, size))


def correlations(logits: np.ndarray) -> np.ndarray:
    """Returns Pearson's correlations between logits over images, `[classes, classes]`.

    Args:
      logits: `[N, classes]`. A logit that is the same for all images correlates with
        none, and not with itself: 0.
    """
    mean, deviation = linear_probe.moments(logits)
    standard = (logits - mean) / deviation
    return standard.T @ standard / len(logits)


def mean_difference(differences: np.ndarray) -> float:
    """Returns the mean over pairs of two classes (the diagonal is 1 in every net)."""
    return float(differences[np.triu_indices(len(differences), 1)].mean())


def spread(each: Sequence[np.ndarray]) -> dict:
    """Returns the mean difference of each seed, their mean and deviation."""
    values = [mean_difference(differences) for differences in each]
    mean, std, _ = statistics.spread(values)
    return {"mean": mean, "std": None if np.isnan(std) else std, "values": values}


def table(compared: dict) -> str:
    """Returns what `correlations.json` holds, as Markdown."""
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
    """Saves a panel a method, on one scale of colours.

    Args:
      path: Where to.
      shown: By method, absolute differences `[classes, classes]`.
      words: What they are of, for the title.
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
