"""Draws figures of the result of a run."""

import io
import pathlib

import numpy as np

from experiments.results.folder import RunFile
from rdljax import files, plots

COLOURS = plots.COLOURS


def pictures(
    folder: pathlib.Path, results: list[dict], labels: np.ndarray
) -> list[str]:
    """Saves a figure of RDMs and one of learning curves.

    Args:
      folder: The folder for the figures.
      results: The results of all nets, the teacher's first, if there is one.
      labels: The classes of the stimuli of the RDMs, sorted.

    Returns:
      The names of the files.
    """
    _rdms(folder / RunFile.RDMS, results, labels)
    _learning_curves(folder / RunFile.LEARNING_CURVES, results)
    return [RunFile.RDMS, RunFile.LEARNING_CURVES]


def _rdms(path: pathlib.Path, results: list[dict], labels: np.ndarray) -> None:
    """Draws RDMs: a row for each layer, a column for each net of seed 0."""
    shown = [r for r in results if r["seed"] == 0]
    rows, names = [], []
    for depth, layers in enumerate(zip(*(r["compared"] for r in shown), strict=True)):
        row = {}
        for result, layer in zip(shown, layers, strict=True):
            title = result["method"]
            if "agreement" in result:
                r = list(result["agreement"].values())[depth]["pearson"]
                title += f", r = {r:.2f}"
            row[title] = result["rdms"][layer]
        rows.append(row)
        names.append(layers[-1])
    save(plots.draw_rdms(*rows, names=names, labels=labels), path, palette=True)


def _learning_curves(path: pathlib.Path, results: list[dict]) -> None:
    """Draws validation error and training loss: mean and range over seeds."""
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    by_method: dict[str, list[list[dict]]] = {}
    for result in results:
        # A teacher that was trained elsewhere has no history.
        if result["history"]:
            by_method.setdefault(result["method"], []).append(result["history"])
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    panels = (
        ("validation_error", "validation error, %"),
        ("task", "cross-entropy on training images, nats"),
    )
    teacher = {"teacher": {"color": "0.6", "linestyle": "--"}}
    for axis, (key, label) in zip(axes, panels, strict=True):
        values = {
            method: np.array([[e[key] for e in run] for run in runs], float)
            for method, runs in by_method.items()
        }
        epochs = 1 + np.arange(max(x.shape[1] for x in values.values()))
        plots.draw_curves(values, axis, places=epochs, styles=teacher, legend=False)
        axis.set(xlabel="epoch", ylabel=label, yscale="log")
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=20))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(ticker.NullLocator())
    axes[0].legend(frameon=False, fontsize=9)
    figure.suptitle("Mean over seeds; band: worst to best seed", fontsize=9)
    save(figure, path)


def save(figure, path: pathlib.Path, dpi: int = 150, *, palette: bool = False) -> None:
    """Writes a figure as a PNG file, completely or not at all, and closes it.

    Args:
      figure: The figure.
      path: The path of the file.
      dpi: The number of dots per inch.
      palette: Whether to use 256 colours, so that pictures of matrices take a third of
        the bytes.
    """
    from matplotlib import pyplot as plt
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=dpi)
    plt.close(figure)
    with files.draft(path) as file:
        if not palette:
            file.write(drawn.getvalue())
            return
        image = Image.open(drawn).convert("RGB")
        image = image.quantize(256, method=Image.Quantize.FASTOCTREE)
        image.save(file, format="png", optimize=True)
