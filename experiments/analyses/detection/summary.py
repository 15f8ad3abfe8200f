"""Summarises a comparison of detectors as numbers, a table and a figure."""

import math
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from experiments import display
from experiments.analyses.detection import canvas, centernet
from experiments.results import aggregate, markdown, plots
from rdljax import statistics

# The smallest score of detections in the figure, and its number of canvases.
SHOWN_SCORE, SHOWN = 0.3, 5


def summarise(results: list[dict], sources: dict[str, str]) -> dict[str, dict]:
    """Returns means and standard deviations over seeds, and all runs, by backbone.

    Args:
      results: The results of all backbones and seeds.
      sources: The source of each backbone, by name; the first is the baseline.

    Returns:
      The summary of each backbone. All except the baseline have the `difference` of
      `map` from the baseline's, paired over seeds.
    """
    runs = {name: [r for r in results if r["backbone"] == name] for name in sources}
    first = next(iter(runs))
    found = {}
    for name, own in runs.items():
        found[name] = {
            "source": sources[name],
            **{key: own[0][key] for key in ("net", "layer", "grid")},
            **{
                key: aggregate.spread([r[key] for r in own])
                for key in ("map", "map_strict", "seconds")
            },
            "ap": [
                None if None in of_class else aggregate.spread(of_class)
                for of_class in zip(*(_numbers(r["ap"]) for r in own), strict=True)
            ],
            "runs": [
                {k: v for k, v in r.items() if k not in ("shown", "settings")}
                for r in own
            ],
        }
        if name != first:
            own_map, other = ([r["map"] for r in of] for of in (own, runs[first]))
            difference = statistics.paired_difference(own_map, other)._asdict()
            found[name]["difference"] = dict(
                zip(difference, _numbers(difference.values()), strict=True)
            )
    return found


def _numbers(values: Iterable[float | None]) -> list[float | None]:
    """Returns numbers with None in place of NaN, which JSON does not have."""
    return [None if v is None or math.isnan(v) else float(v) for v in values]


def table(summary: dict) -> str:
    """Returns the summary in Markdown."""
    backbones, settings = summary["backbones"], summary["settings"]
    first = next(iter(backbones))
    kept = "frozen" if settings["frozen"] else "trained with the head"
    rows = [
        [
            name,
            f"{of['net']}, {of['layer']}, {of['grid']} x {of['grid']}",
            markdown.plus_minus(of["map"], 1),
            markdown.interval(of.get("difference"), 1),
            markdown.plus_minus(of["map_strict"], 1),
            markdown.plus_minus(of["seconds"], 0),
        ]
        for name, of in backbones.items()
    ]
    columns = ["backbone", "net, map and cells", "mAP at 0.5, %", "difference"]
    columns += ["mAP 0.5 to 0.95, %", "seconds a run"]
    classes = range(len(backbones[first]["ap"]))
    by_class = [
        [one]
        + [
            "–" if of["ap"][one] is None else markdown.plus_minus(of["ap"][one], 1)
            for of in backbones.values()
        ]
        for one in classes
    ]
    parts = [
        summary["note"],
        f"The backbone is {kept}: "
        f"{display.count_of(settings['epochs'], 'epoch')}, "
        f"{display.count_of(settings['seeds'], 'seed')}. mAP: average precision on "
        "test canvases, mean over classes; mean and standard deviation over seeds. "
        f"Difference: mAP at 0.5 minus that of {first}, paired over seeds, with its "
        "95 % t interval.",
        markdown.grid(columns, rows),
        "Average precision at an IoU of 0.5 by class, %:",
        markdown.grid(["class", *backbones], by_class),
    ]
    return "\n\n".join(parts) + "\n"


def picture(path: pathlib.Path, results: list[dict], canvases: canvas.Canvases) -> None:
    """Saves a figure of the first test canvases, with true and detected boxes.

    The detected boxes are those of each backbone's seed 0.

    Args:
      path: The path of the PNG file.
      results: The results of all runs.
      canvases: The canvases for testing.
    """
    from matplotlib import patches
    from matplotlib import pyplot as plt

    results = [r for r in results if r["seed"] == 0]
    count, size = min(SHOWN, len(canvases.label)), canvases.image.shape[1]
    figure, axes = plt.subplots(
        len(results),
        count,
        figsize=(2.4 * count + 0.3, 2.4 * len(results) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    styles: dict[str, dict[str, Any]] = {
        "true": {"edgecolor": "#56B4E9", "linewidth": 1.6},
        "detected": {"edgecolor": "#E69F00", "linewidth": 1.2, "linestyle": "--"},
    }
    written: dict[str, Any] = {"color": "#E69F00", "fontsize": 7, "clip_on": True}
    written["bbox"] = {"color": "black", "alpha": 0.5, "pad": 0.3}

    def mark(axis, box, kind):
        corner, end = np.split(np.asarray(box), 2)
        patch = patches.Rectangle(
            (corner[0], corner[1]), *(end - corner), fill=False, **styles[kind]
        )
        axis.add_patch(patch)

    for row, result in zip(axes, results, strict=True):
        found = centernet.Detections(*map(np.asarray, result["shown"]))
        for i, axis in enumerate(row):
            image = canvases.image[i]
            image = image[..., 0] if image.shape[-1] == 1 else image
            axis.imshow(image, "gray", vmin=0, vmax=255, extent=(0, size, size, 0))
            for box, label in zip(canvases.boxes[i], canvases.label[i], strict=True):
                if label != canvas.ABSENT:
                    mark(axis, box, "true")
            for box, label, score in zip(*(x[i] for x in found), strict=True):
                if score >= SHOWN_SCORE and label != canvas.ABSENT:
                    mark(axis, box, "detected")
                    text, top = f"{label} ({100 * score:.0f} %)", max(box[1], 0)
                    place = {"va": "bottom" if top > size / 12 else "top"}
                    axis.text(max(box[0], 0), top, text, **place, **written)
            axis.set(xticks=[], yticks=[], xlim=(0, size), ylim=(size, 0))
        row[0].set_ylabel(result["backbone"], fontsize=9)
    shown = [patches.Patch(fill=False, label=k, **style) for k, style in styles.items()]
    figure.legend(handles=shown, loc="outside lower center", ncols=2, frameon=False)
    plots.save(figure, path)
