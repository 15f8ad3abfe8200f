"""What an experiment reports: tables and pictures."""

import itertools
import pathlib

import numpy as np

from rdljax import files, statistics


def summarise(results: list[dict], labels: np.ndarray) -> dict:
    """Returns the numbers of the table.

    Args:
      results: Of each run, the teacher's first, if a net teaches.
      labels: Of the test images.

    Returns:
      `teacher`: its test error, or None. `methods`: for each, the test error of every
      seed with mean and spread, the same at the best epoch on the validation images,
      agreement by layer, and, but for the baseline, McNemar's test against it seed
      by seed (Holm's correction over all of them) and the paired difference over seeds.
    """
    by_method: dict[str, list[dict]] = {}
    teacher, students = _sides(results)
    for result in students:
        by_method.setdefault(result["method"], []).append(result)
    baseline = "plain" if "plain" in by_method else next(iter(by_method))
    methods = {name: _method(runs) for name, runs in by_method.items()}
    tests = []
    for name, runs in by_method.items():
        if name == baseline:
            continue
        for own, plain in zip(runs, by_method[baseline], strict=True):
            test = statistics.mcnemar(labels, own["predicted"], plain["predicted"])
            tests.append({"method": name, "seed": own["seed"], **test._asdict()})
        errors = ([run["test_error"] for run in r] for r in (runs, by_method[baseline]))
        difference = statistics.paired_difference(*errors)
        methods[name]["difference"] = {
            k: _number(v) for k, v in difference._asdict().items()
        }
    if tests:
        corrected = statistics.holm([test["p_value"] for test in tests])
        for test, p in zip(tests, corrected, strict=True):
            test["holm"] = float(p)
    return {
        "teacher": teacher
        and {k: teacher[k] for k in ("test_error", "members") if k in teacher},
        "baseline": baseline,
        "methods": methods,
        "mcnemar": tests,
    }


def _sides(results: list[dict]) -> tuple[dict | None, list[dict]]:
    """Returns the teacher's result, if a net teaches, and the students'."""
    if results[0]["method"] == "teacher":
        return results[0], results[1:]
    return None, results


def _method(runs: list[dict]) -> dict:
    return {
        "test_error": _spread([run["test_error"] for run in runs]),
        "validation_error": _spread(
            [run["history"][-1]["validation_error"] for run in runs]
        ),
        "best_validation_error": _spread(
            [min(e["validation_error"] for e in run["history"]) for run in runs]
        ),
        **({} if "agreement" not in runs[0] else _agreement(runs)),
        "seconds": _spread([run["seconds"] for run in runs]),
    }


def _agreement(runs: list[dict]) -> dict:
    """With the teacher's RDMs, of the mean over layers and by layer."""
    layers = runs[0]["agreement"]
    means = {
        kind: _spread(
            [np.mean([r["agreement"][k][kind] for k in layers]) for r in runs]
        )
        for kind in ("pearson", "spearman")
    }
    by_layer = {
        k: _spread([r["agreement"][k]["pearson"] for r in runs]) for k in layers
    }
    return {"agreement": means, "agreement_by_layer": by_layer}


def _spread(values: list[float]) -> dict:
    mean, std, _ = statistics.spread(values)
    return {
        "mean": _number(mean),
        "std": _number(std),
        "values": [_number(float(v)) for v in values],
    }


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else value


def table(summary: dict) -> str:
    """Returns the summary as Markdown, for the terminal and the results folder.

    Args:
      summary: From `summarise`, with `config`, `data`, `device` and `seconds`.
    """
    methods, baseline = summary["methods"], summary["baseline"]
    parts = [_head(summary), _methods(summary)]
    if summary["teacher"] is not None:
        layers = summary["config"]["layers"]
        by_layer = [
            [name, *(plus_minus(of["agreement_by_layer"][k], 3) for k in layers)]
            for name, of in methods.items()
        ]
        parts += [
            "Agreement (Pearson) by layer:",
            grid(["method", *layers], by_layer),
        ]
    parts += mcnemar(summary["mcnemar"], baseline)
    parts.append(f"Training took {summary['seconds']:.0f} s on {summary['device']}.")
    return "\n\n".join(parts) + "\n"


def _head(summary: dict) -> str:
    config, source = summary["config"], summary.get("teacher_source")
    origin = f"after {config['teacher_epochs']} epochs"
    if source is not None:
        origin = f"(from {source.get('file') or source['run']}, not trained here)"
    teacher, agreement = "", ""
    if summary["teacher"] is not None:
        error = summary["teacher"]["test_error"]
        how_well = "of another task" if error is None else f"{error:.2f} % test error"
        who = f"Teacher {config['teacher']}"
        if members := summary["teacher"].get("members"):
            each = ", ".join(f"{error:.2f}" for error in members)
            who = f"{len(members)} teachers {config['teacher']} ({each} %), together"
        teacher = f"{who}: {how_well} {origin}. "
        agreement = (
            " Agreement: correlation of student's and teacher's RDMs of test images "
            f"({config['distance']}), mean over {', '.join(config['layers'])}."
        )
    return "\n".join(
        [
            f"Data: {summary['data']}",
            f"{teacher}Student "
            f"{config['student']}: {config['epochs']} epochs, {config['seeds']} seeds.",
            f"Difference: test error minus that of {summary['baseline']}, paired over "
            "seeds, with its 95 % t interval. McNemar: seeds with p < 0.05 after "
            f"Holm's correction over all tests.{agreement}",
        ]
    )


def _methods(summary: dict) -> str:
    tests = summary["mcnemar"]
    taught = summary["teacher"] is not None
    columns = ["method", "test error, %", "difference", "McNemar"]
    columns += ["agreement, Pearson", "Spearman"] if taught else []
    rows = []
    for name, of in summary["methods"].items():
        row = [
            name,
            plus_minus(of["test_error"], 2),
            interval(of.get("difference")),
            significant(name, tests),
        ]
        if taught:
            row += [plus_minus(of["agreement"][k], 3) for k in ("pearson", "spearman")]
        rows.append([*row, plus_minus(of["seconds"], 1)])
    return grid([*columns, "seconds a run"], rows)


def plus_minus(spread: dict, digits: int) -> str:
    """Returns a mean and its deviation, as far as there are such."""
    if spread["mean"] is None:
        return "–"
    if spread["std"] is None:
        return f"{spread['mean']:.{digits}f}"
    return f"{spread['mean']:.{digits}f} ± {spread['std']:.{digits}f}"


def interval(difference: dict | None, digits: int = 2) -> str:
    """Returns a paired difference with its interval, as far as there is one."""
    if difference is None:
        return "–"
    mean, *ends = (difference[key] for key in ("mean", "low", "high"))
    if None in ends:
        return f"{mean:+.{digits}f}"
    low, high = (f"{end:+.{digits}f}" for end in ends)
    return f"{mean:+.{digits}f} [{low}, {high}]"


def significant(name: str, tests: list[dict]) -> str:
    """In how many seeds McNemar's test tells a method from the baseline."""
    mine = [test["holm"] < 0.05 for test in tests if test["method"] == name]
    return f"{sum(mine)} of {len(mine)}" if mine else "–"


def mcnemar(tests: list[dict], baseline: str) -> list[str]:
    """McNemar's tests of all methods and seeds as Markdown: words and a table."""
    if not tests:
        return []
    rows = [
        [t["method"], t["seed"], t["only_second"], t["only_first"]]
        + [f"{t['p_value']:.3g}", f"{t['holm']:.3g}"]
        for t in tests
    ]
    only = [f"right: only {baseline}", "only the method"]
    return [
        f"McNemar's test against {baseline}, seed by seed:",
        grid(["method", "seed", *only, "p", "p, Holm"], rows),
    ]


def grid(columns: list[str], rows: list[list]) -> str:
    """Returns a Markdown table whose source is aligned too."""
    cells = [[str(cell) for cell in row] for row in (columns, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


# Okabe and Ito's colours, told apart by colour-blind readers too.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def pictures(folder: pathlib.Path, results: list[dict], labels: np.ndarray) -> None:
    """Saves `rdms.png` and `learning_curves.png`.

    Args:
      folder: Where to.
      results: Of each run, the teacher's first, if a net teaches.
      labels: Classes of the stimuli of the RDMs, sorted.
    """
    _rdms(folder / "rdms.png", results, labels)
    _learning_curves(folder / "learning_curves.png", results)


def _rdms(path: pathlib.Path, results: list[dict], labels: np.ndarray) -> None:
    """Draws a row a layer, a column a net (seed 0): percentiles of the distances."""
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
    save(figure, path)


def _learning_curves(path: pathlib.Path, results: list[dict]) -> None:
    """Validation error and training loss of the task, mean and range over seeds."""
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
                "marker": "o" if len(epochs) == 1 else None,  # No line is seen then.
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
    figure.suptitle("Mean over seeds; band: from the best to the worst", fontsize=9)
    save(figure, path)


def save(figure, path: pathlib.Path, dpi: int = 150) -> None:
    """Writes a figure as a PNG file, whole or not at all, and closes it."""
    from matplotlib import pyplot as plt

    with files.draft(path) as file:
        figure.savefig(file, format="png", dpi=dpi)
    plt.close(figure)
