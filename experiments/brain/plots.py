"""Draws figures of the agreement of a run's nets with a brain."""

import pathlib
from collections.abc import Sequence

import numpy as np

from experiments import brain
from experiments import config as configs
from experiments.results import plots as results_plots
from experiments.results.folder import RunFile
from rdljax import plots, rdm


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
    every = np.arange(len(stimuli.images))
    brains = {name: _mean(stimuli, name, every) for name in config.brain.rdms}
    nets = [r for r in results if r["seed"] == 0]
    layers = brain.layers(config)
    first = config.brain.rdms[0]
    rows = []
    for layer in layers:
        row = dict(brains)
        for net in nets:
            there = found["rdms"][first]["agreement"][net["method"]][layer]
            r = there["pearson"]["mean"]
            row[f"{net['method']}\nheld out r = {r:.2f}"] = net["brain"][layer]
        rows.append(row)
    figure = plots.draw_rdms(*rows, names=layers)
    figure.suptitle(
        f"All {len(every)} stimuli in the order of the file; nets of seed 0; r: with "
        f"{first}, mean over seeds",
        fontsize=8,
    )
    results_plots.save(figure, path, palette=True)


def _mds(path, config, stimuli, results) -> None:
    """Saves thumbnails of the stimuli, arranged by multidimensional scaling."""
    from matplotlib import pyplot as plt

    every = np.arange(len(stimuli.images))
    layer = brain.layers(config)[-1]
    reference = plots.classical_mds(_mean(stimuli, config.brain.rdms[0], every))
    panels = [(config.brain.rdms[0], reference)]
    for net in results:
        if net["seed"] == 0:
            own = plots.align(plots.classical_mds(net["brain"][layer]), reference)
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
    images = [plots.cut_out(image) for image in stimuli.thumbnails]
    for axis, (title, places) in zip(axes.flat, panels, strict=False):
        plots.draw_points(places, axis, images=images)
        axis.set_title(title, fontsize=10)
    figure.suptitle(
        "Similar stimuli are close together: classical multidimensional scaling, "
        "rotated to match the first panel; nets of seed 0",
        fontsize=10,
    )
    results_plots.save(figure, path, dpi=130)


def _mean(stimuli, name: str, places: np.ndarray) -> np.ndarray:
    """Returns the mean RDM over subjects, for some stimuli."""
    return rdm.subjects.mean_over_subjects(
        rdm.subjects.select(stimuli.rdms[name], places)
    )


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
            plots.draw_curves(values, axis, ceiling=ceiling, legend=False)
            axis.set_title(f"{name}, {layer}", fontsize=9)
        row[0].set_ylabel("Pearson, held-out stimuli", fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel("epoch", fontsize=9)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside right center", frameon=False, fontsize=8
    )
    figure.suptitle("Mean over seeds; band: worst to best seed", fontsize=9)
    results_plots.save(figure, path)


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
