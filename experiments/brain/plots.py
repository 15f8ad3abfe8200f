"""Draws figures of the agreement of a run's nets with a brain."""

import itertools
import pathlib
from collections.abc import Sequence

import numpy as np

from experiments import brain
from experiments import config as configs
from experiments.results import plots
from experiments.results.folder import RunFile
from rdljax import rdm


def pictures(
    folder: pathlib.Path,
    config: configs.Config,
    stimuli: brain.Brain,
    results: Sequence[dict],
    summary: dict,
) -> list[str]:
    """Saves a figure of RDMs, one of the stimuli in a plane, and one of agreement.

    Args:
      folder: The folder to write to.
      config: The settings.
      stimuli: The stimuli and their measured RDMs.
      results: The `method`, `seed`, `history` and `brain` (RDMs) of each student.
      summary: The summary of the run.

    Returns:
      The names of the files.
    """
    _rdms(folder / RunFile.BRAIN_RDMS, config, stimuli, results, summary["brain"])
    _mds(folder / RunFile.BRAIN_MDS, config, stimuli, results)
    _agreement(folder / RunFile.BRAIN_AGREEMENT, config, stimuli, results, summary)
    return [RunFile.BRAIN_RDMS, RunFile.BRAIN_MDS, RunFile.BRAIN_AGREEMENT]


def _rdms(path, config, stimuli, results, found) -> None:
    """Saves RDMs: a row for each layer; columns: the brain, then each net of seed 0."""
    from matplotlib import pyplot as plt
    from scipy import stats
    from scipy.spatial import distance

    every = np.arange(len(stimuli.images))
    brains = {name: _mean(stimuli, name, every) for name in config.brain.rdms}
    nets = [r for r in results if r["seed"] == 0]
    layers = brain.layers(config)
    columns = len(brains) + len(nets)
    figure, axes = plt.subplots(
        len(layers),
        columns,
        figsize=(1.9 * columns + 0.9, 2.05 * len(layers) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    first = config.brain.rdms[0]
    for row, layer in zip(axes, layers, strict=True):
        shown = [*brains.items()]
        for net in nets:
            there = found["rdms"][first]["agreement"][net["method"]][layer]
            r = there["pearson"]["mean"]
            shown.append(
                (f"{net['method']}\nheld out r = {r:.2f}", net["brain"][layer])
            )
        for axis, (title, distances) in zip(row, shown, strict=True):
            ranks = stats.rankdata(distances, nan_policy="omit")
            percent = 100 * ranks / np.isfinite(distances).sum()
            image = axis.imshow(
                distance.squareform(percent), cmap="viridis", vmin=0, vmax=100
            )
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_title(title, fontsize=7.5)
        row[0].set_ylabel(layer, fontsize=9)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.01)
    bar.set_label("percentile of the distance", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(
        f"All {len(every)} stimuli in the order of the file; nets of seed 0; r: with "
        f"{first}, mean over seeds",
        fontsize=8,
    )
    plots.save(figure, path, palette=True)


def _mds(path, config, stimuli, results) -> None:
    """Saves thumbnails of the stimuli, arranged by multidimensional scaling."""
    from matplotlib import offsetbox
    from matplotlib import pyplot as plt

    every = np.arange(len(stimuli.images))
    layer = brain.layers(config)[-1]
    reference = plane(_mean(stimuli, config.brain.rdms[0], every))
    panels = [(config.brain.rdms[0], reference)]
    for net in results:
        if net["seed"] == 0:
            own = align(plane(net["brain"][layer]), reference)
            panels.append((f"{net['method']}, {layer}", own))
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(4.3 * columns, 4.4 * rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    for axis, (title, places) in zip(axes.flat, panels, strict=False):
        axis.scatter(*places.T, s=0)
        for image, place in zip(stimuli.thumbnails, places, strict=True):
            zoom = 20 / max(image.shape[:2])
            box = offsetbox.OffsetImage(_cut_out(image), zoom=zoom)
            axis.add_artist(offsetbox.AnnotationBbox(box, place, frameon=False, pad=0))
        axis.set_title(title, fontsize=10)
        axis.set_aspect("equal", adjustable="datalim")
        axis.margins(0.07)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle(
        "Similar stimuli are close together: classical multidimensional scaling, "
        "rotated to match the first panel; nets of seed 0",
        fontsize=10,
    )
    plots.save(figure, path, dpi=130)


def _mean(stimuli, name: str, places: np.ndarray) -> np.ndarray:
    """Returns the mean RDM over subjects, for some stimuli."""
    return rdm.subjects.mean_over_subjects(
        rdm.subjects.select(stimuli.rdms[name], places)
    )


def _cut_out(image: np.ndarray) -> np.ndarray:
    """Returns an RGBA image, transparent where it has the colour of its corner."""
    pixels = image if image.shape[-1] == 3 else np.repeat(image, 3, axis=-1)
    like = np.abs(pixels.astype(int) - pixels[0, 0].astype(int)).max(axis=-1) < 12
    return np.dstack([pixels, np.where(like, 0, 255).astype(np.uint8)])


def plane(distances: np.ndarray) -> np.ndarray:
    """Returns places of the stimuli in a plane, `[n, 2]`, by classical scaling.

    The result has norm 1. The distances are taken as squared Euclidean ones, which most
    of `rdm.distances` are. Missing distances are replaced by the mean of the others.

    Args:
      distances: A condensed RDM `[pairs]`.

    References:
      Torgerson, Multidimensional scaling: I. Theory and method, Psychometrika 17, 1952.
    """
    from scipy.spatial import distance

    known = np.where(np.isnan(distances), np.nanmean(distances), distances)
    square = distance.squareform(known)
    centre = np.eye(len(square)) - 1 / len(square)
    # (scikit-learn's `ClassicalMDS` takes square roots, which fails for negative
    # distances, and its `KernelPCA` refuses negative eigenvalues.)
    values, vectors = np.linalg.eigh(-centre @ square @ centre / 2)
    places = vectors[:, :-3:-1] * np.sqrt(np.maximum(values[:-3:-1], 0))
    return places / (np.linalg.norm(places) or 1)


def align(places: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Rotates and reflects points to be as close to a reference as possible."""
    from scipy import linalg

    turned, _ = linalg.orthogonal_procrustes(places, reference)
    return places @ turned


def _agreement(path, config, stimuli, results, summary) -> None:
    """Saves held-out agreement by epoch: a panel for each layer and RDM."""
    from matplotlib import pyplot as plt

    layers, names = brain.layers(config), config.brain.rdms
    curves = _curves(config, stimuli, results)
    figure, axes = plt.subplots(
        len(names),
        len(layers),
        figsize=(3.4 * len(layers) + 0.8, 2.9 * len(names) + 0.5),
        squeeze=False,
        sharex=True,
        sharey="row",
        layout="constrained",
    )
    for row, name in zip(axes, names, strict=True):
        ceiling = summary["brain"]["rdms"][name]["ceilings"].get("pearson")
        for axis, layer in zip(row, layers, strict=True):
            key = f"held out: {name}/{layer}"
            values = {method: own[key] for method, own in curves.items()}
            _draw_curves(axis, values, ceiling)
            axis.set_title(f"{name}, {layer}", fontsize=9)
        row[0].set_ylabel("Pearson, held-out stimuli", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("epoch", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right center", frameon=False, fontsize=8
    )
    figure.suptitle("Mean over seeds; band: worst to best seed", fontsize=9)
    plots.save(figure, path)


def _curves(config, stimuli, results) -> dict[str, dict[str, np.ndarray]]:
    """Returns the held-out agreement of each method, by RDM and layer.

    Returns:
      By method and by key of the history, an array `[seeds, 1 + epochs]`, whose first
      column is before the training.
    """
    by_method: dict[str, list[dict]] = {}
    before = {}
    for result in results:
        if result["history"]:
            by_method.setdefault(result["method"], []).append(result)
        else:
            seen = brain.progress(config, stimuli, result["brain"])
            before[result["seed"]] = seen
    keys = [
        f"held out: {name}/{layer}"
        for name in config.brain.rdms
        for layer in brain.layers(config)
    ]
    return {
        method: {
            key: np.array(
                [[x[key] for x in (before[r["seed"]], *r["history"])] for r in runs],
                float,
            )
            for key in keys
        }
        for method, runs in by_method.items()
    }


def _draw_curves(axis, values: dict[str, np.ndarray], ceiling) -> None:
    """Draws the mean over seeds of each method, the range of seeds, and the ceiling.

    Args:
      axis: The panel.
      values: An array `[seeds, 1 + epochs]` by method.
      ceiling: The bounds of the noise ceiling; None if there is none.
    """
    from matplotlib import ticker

    if ceiling:
        axis.axhspan(*ceiling, color="0.88", lw=0, label="noise ceiling")
    for (method, own), colour in zip(values.items(), itertools.cycle(plots.COLOURS)):
        epochs = np.arange(own.shape[1])
        axis.plot(epochs, own.mean(0), label=method, color=colour, lw=1.6)
        if len(own) > 1:
            band = own.min(0), own.max(0)
            axis.fill_between(epochs, *band, color=colour, alpha=0.15, lw=0)
    axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axis.grid(alpha=0.25, linewidth=0.5)
    axis.spines[["top", "right"]].set_visible(False)
