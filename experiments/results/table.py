"""Writes the result of a table of experiments as JSON, Markdown, CSV and a figure."""

import csv
import enum
import io
import pathlib
import textwrap
from typing import Any

import numpy as np

from experiments import command as commands
from experiments import display, tables
from experiments.results import columns, markdown, plots
from rdljax import files


class TableFile(enum.StrEnum):
    """The files that a table writes in addition to its columns, in this order."""

    RECORD = "table.json"
    TEXT = "table.md"
    ROWS = "table.csv"
    FIGURE = "table.png"


# The note of a table in which all columns have other data or nets.
OTHERS = "data or nets are not those of the table, so there are no published numbers"


def gather(
    name: str,
    asked: tables.Table,
    summaries: dict[str, dict],
    missing: dict[str, str],
) -> dict[str, Any]:
    """Returns the table as the content of `table.json`.

    Args:
      name: The name of the table.
      asked: The table with the changes of the command line.
      summaries: The results of `experiment.run`, by column.
      missing: The reasons why the other columns were not run, by column.

    Returns:
      `columns`, a list with the numbers of each summary and the published ones; `rows`,
      the methods; `differences`; `missing`.
    """
    keys = ("config", "data", "device", "seconds", "teacher", "baseline", "methods")
    table, found = tables.load(name), []
    # (In the order of the table.)
    runs = {c: summaries[c]["config"] for c in table.columns if c in summaries}
    changed = {column: columns.changes(table, runs, column) for column in runs}
    for column in runs:
        own, summary = columns.name(table, column, changed[column]), summaries[column]
        published = table.columns[column].published if own == column else {}
        found.append(
            {
                "name": own,
                "folder": column,
                **{key: summary[key] for key in (*keys, "mcnemar", "versions")},
                "published": dict(published),
            }
        )
    rows = [m for of in asked.columns.values() for m in of.config.method.names]
    note, differences = tables.module(name).__doc__, list(table.differences)
    if found and all(of["name"] != of["folder"] for of in found):
        note = f"Other experiments than those of the table {name}\n\n{OTHERS}"
        differences = [OTHERS]
    return {
        "name": name,
        "note": note,
        "columns": found,
        "rows": list(dict.fromkeys(rows)),
        "differences": differences + columns.sentences(changed),
        "missing": missing,
    }


def write(folder: pathlib.Path, found: dict[str, Any]) -> None:
    """Writes the files of `TableFile`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write_json(folder / TableFile.RECORD, found)
        files.write(folder / TableFile.TEXT, text(found))
        rows = io.StringIO(newline="")
        csv.writer(rows).writerows(_rows(found))
        files.write(folder / TableFile.ROWS, rows.getvalue())
        if found["columns"]:
            picture(folder / TableFile.FIGURE, found)
    except OSError as error:
        raise commands.UsageError(f"cannot write to {folder}: {error}") from error


def title(found: dict[str, Any]) -> str:
    """Returns the title of the table, which says what was run."""
    first, *_ = found["note"].strip().splitlines()
    given = found["columns"]
    if not given or any(of["name"] == of["folder"] for of in given):
        return first
    sets = ", ".join(dict.fromkeys(of["config"]["data"] for of in given))
    run = {name for of in given for name in of["config"]["methods"]}
    methods = display.count_of(len(run), "method")
    return f"{methods} on {sets}, after the table {found['name']}"


def settings(found: dict[str, Any]) -> str:
    """Returns the data, nets, epochs and seeds of all columns in a sentence."""
    configs = [column["config"] for column in found["columns"]]
    if not configs:
        return "Nothing was run yet."
    nets = [f"{of['teacher']} → {of['student']}" for of in configs]
    words = {
        "Data": [of["data"] for of in configs],
        "nets": nets if len({*nets}) <= 3 else [f"{len({*nets})} pairs"],
        "epochs": [of["epochs"] for of in configs],
        "seeds": [of["seeds"] for of in configs],
    }
    parts = [
        f"{name}: {', '.join(map(str, dict.fromkeys(own)))}"
        for name, own in words.items()
    ]
    return f"{'; '.join(parts)}."


def text(found: dict[str, Any]) -> str:
    """Returns the table as Markdown."""
    given, rows = found["columns"], ["teacher", *found["rows"]]
    parts = [f"# {title(found)}"]
    for name, reason in found["missing"].items():
        parts.append(f"Not run: {name} ({reason}).")
    if given:
        names = [column["name"] for column in given]
        published = any(column["published"] for column in given)
        parts += [
            "Test accuracy, %, at the last epoch: mean ± standard deviation over seeds"
            f"{'; in brackets the published one' if published else ''}.",
            markdown.grid(["method", *names], _grid(rows, given, _accuracy)),
            "Difference of test accuracy from the baseline, paired over seeds, with "
            "its 95 % t interval; the number of seeds in which the method is better or "
            "worse by McNemar's test (p < 0.05 after Holm's correction within the "
            "column).",
            markdown.grid(["method", *names], _grid(rows, given, _difference)),
            "Validation accuracy, %: last epoch / best epoch.",
            markdown.grid(["method", *names], _grid(rows, given, _validation)),
        ]
    for column in given:
        config = column["config"]
        parts.append(
            f"{column['name']}: {config['teacher']} > {config['student']}, "
            f"{display.count_of(config['epochs'], 'epoch')}, "
            f"{display.count_of(config['seeds'], 'seed')}, batch {config['batch']}, "
            f"{config.get('optimizer', 'sgd')}, rate {config['learning_rate']}. "
            f"{column['data']} {column['seconds'] / 60:.0f} min of training on "
            f"{column['device']}."
        )
    if found["differences"]:
        lines = [f"- {sentence}" for sentence in found["differences"]]
        parts += ["Differences from the published setting:", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _grid(rows, columns, cell) -> list[list[str]]:
    cells = [[row, *(cell(column, row) for column in columns)] for row in rows]
    return [row for row in cells if any(x != "–" for x in row[1:])]


def _accuracy(column: dict, method: str) -> str:
    published = column["published"].get(method)
    published_text = "" if published is None else f" ({published:.2f})"
    if method == "teacher":
        error = column["teacher"] and column["teacher"]["test_error"]
        return ("–" if error is None else f"{100 - error:.2f}") + published_text
    of = column["methods"].get(method)
    if of is None:
        return "–" + published_text
    return markdown.plus_minus(_of_accuracy(of["test_error"]), 2) + published_text


def _of_accuracy(error: dict) -> dict:
    mean = error["mean"]
    return error | {"mean": None if mean is None else 100 - mean}


def _difference(column: dict, method: str) -> str:
    error = column["methods"].get(method, {}).get("difference")
    if error is None:
        return "–"
    ends = {"mean": "mean", "low": "high", "high": "low"}
    accuracy = {k: None if error[of] is None else -error[of] for k, of in ends.items()}
    seeds = markdown.significant(method, column["mcnemar"])
    return f"{markdown.interval(accuracy)}, {seeds}"


def _validation(column: dict, method: str) -> str:
    of = column["methods"].get(method)
    if of is None:
        return "–"
    last, best = (
        markdown.plus_minus(_of_accuracy(of[key]), 2)
        for key in ("validation_error", "best_validation_error")
    )
    return f"{last} / {best}"


def _rows(found: dict[str, Any]) -> list[list[Any]]:
    """Returns the rows of the CSV file: the header, and a row for each student."""
    head = ["column", "method", "seed", "test_accuracy", "validation_accuracy_last"]
    head += ["validation_accuracy_best", "only_right", "only_baseline_right"]
    rows = [[*head, "p", "p_holm", "seconds", "published"]]
    for column in found["columns"]:
        tests = {(t["method"], t["seed"]): t for t in column["mcnemar"]}
        for method, of in column["methods"].items():
            numbers = [
                of[key]["values"]
                for key in ("test_error", "validation_error", "best_validation_error")
            ]
            for seed, of_seed in enumerate(zip(*numbers, strict=True)):
                test = tests.get((method, seed), {})
                keys = ("only_first", "only_second", "p_value", "holm")
                rows.append(
                    [column["name"], method, seed]
                    + [round(100 - error, 6) for error in of_seed]
                    + [test.get(key, "") for key in keys]
                    + [round(of["seconds"]["values"][seed], 1)]
                    + [column["published"].get(method, "")]
                )
    return rows


def picture(path: pathlib.Path, found: dict[str, Any]) -> None:
    """Saves a figure with a panel for each column: accuracies, mean, published."""
    from matplotlib import pyplot as plt

    given = found["columns"]
    across = min(4, len(given))
    down = -(-len(given) // across)
    rows = [m for m in found["rows"] if any(m in c["methods"] for c in given)]
    figure, axes = plt.subplots(
        down,
        across,
        figsize=(max(5.8, 2.9 * across + 1.2), down * (0.26 * len(rows) + 1.1)),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis in axes.flat[len(given) :]:
        axis.set_visible(False)
    places = {method: i for i, method in enumerate(rows)}
    for axis, column in zip(axes.flat, given, strict=False):
        ours, blue, red = plots.COLOURS[0], plots.COLOURS[2], plots.COLOURS[1]
        for method, of in column["methods"].items():
            values = 100 - np.array(of["test_error"]["values"], float)
            at = places[method]
            axis.plot(values, np.full(len(values), at), ".", color=blue, alpha=0.45)
            axis.plot(values.mean(), at, "|", color=ours, markersize=11, mew=2)
        baseline = column["methods"].get(column["baseline"])
        if baseline is not None:
            mean = 100 - baseline["test_error"]["mean"]
            axis.axvline(mean, color=ours, linewidth=0.8, linestyle=":")
        for method, value in column["published"].items():
            if method in places:
                axis.plot(value, places[method], "D", color=red, mfc="none", ms=5)
        axis.set_title(textwrap.fill(column["name"], 40), fontsize=9)
        axis.set_yticks(range(len(rows)), rows, fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
        axis.grid(axis="x", alpha=0.25, linewidth=0.5)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].invert_yaxis()
    published = any(column["published"] for column in given)
    words = "Test accuracy, %: seeds, their mean (bar), the baseline's mean (dotted)"
    words += ", published (diamond)" if published else ""
    figure.suptitle(words, fontsize=9)
    plots.save(figure, path)
