"""Draws figures of the result of a run."""

import io
import itertools
import pathlib

import numpy as np

from experiments.results.folder import RunFile
from rdljax import files

# Okabe and Ito's colours, which colour-blind readers can distinguish, too.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


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
    from matplotlib import pyplot as plt
    from scipy import stats
    from scipy.spatial import distance

    shown = [r for r in results if r["seed"] == 0]
    pairs = list(zip(*(r["compared"] for r in shown), strict=True))
    figure, axes = plt.subplots(
        len(pairs),
        len(shown),
        figsize=(2.1 * len(shown) + 0.9, 2.15 * len(pairs) + 0.4),
        squeeze=False,
        layout="constrained",
    )
    classes, starts, counts = np.unique(labels, return_index=True, return_counts=True)
    middles = starts + counts / 2 - 0.5
    names = classes if len(classes) <= 20 else [""] * len(classes)
    for depth, (row, layers) in enumerate(zip(axes, pairs, strict=True)):
        for axis, result, layer in zip(row, shown, layers, strict=True):
            distances = result["rdms"][layer]
            percent = 100 * stats.rankdata(distances) / len(distances)
            image = axis.imshow(
                distance.squareform(percent), cmap="viridis", vmin=0, vmax=100
            )
            axis.set_xticks(middles, names, fontsize=6)
            axis.set_yticks(middles, names, fontsize=6)
            axis.tick_params(length=0, pad=1)
            title = result["method"]
            if "agreement" in result:
                r = list(result["agreement"].values())[depth]["pearson"]
                title += f", r = {r:.2f}"
            axis.set_title(title, fontsize=8)
        row[0].set_ylabel(layers[-1], fontsize=9)
    bar = figure.colorbar(image, ax=axes, shrink=0.5, pad=0.01)
    bar.set_label("percentile of the distance", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    save(figure, path, palette=True)


def _learning_curves(path: pathlib.Path, results: list[dict]) -> None:
    """Draws validation error and training loss: mean and range over seeds."""
    from matplotlib import pyplot as plt
    from matplotlib import ticker

    by_method: dict[str, list[list[dict]]] = {}
    for result in results:
        # A teacher that was trained elsewhere has no history.
        if result["history"]:
            by_method.setdefault(result["method"], []).append(result["history"])
    students = [name for name in by_method if name != "teacher"]
    colours = dict(zip(students, itertools.cycle(COLOURS), strict=False))
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    panels = (
        ("validation_error", "validation error, %"),
        ("task", "cross-entropy on training images, nats"),
    )
    for axis, (key, label) in zip(axes, panels, strict=True):
        for name, runs in by_method.items():
            values = np.array([[e[key] for e in run] for run in runs], float)
            epochs = 1 + np.arange(values.shape[1])
            style = {
                "color": colours.get(name, "0.6"),
                "linestyle": "--" if name == "teacher" else "-",
                "marker": "o" if len(epochs) == 1 else None,  # (There is no line then.)
            }
            axis.plot(epochs, values.mean(0), label=name, linewidth=1.6, **style)
            if len(values) > 1:
                band = values.min(0), values.max(0)
                axis.fill_between(epochs, *band, color=style["color"], alpha=0.15, lw=0)
        axis.set(xlabel="epoch", ylabel=label, yscale="log")
        axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=20))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_locator(ticker.NullLocator())
        whole = ticker.MaxNLocator(integer=True, min_n_ticks=1)
        axis.xaxis.set_major_locator(whole)
        axis.grid(alpha=0.25, linewidth=0.5)
        axis.spines[["top", "right"]].set_visible(False)
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
