"""Renders the HTML of a page from its numbers.

Templates are in `templates`; `page.css` and `page.js` are included in every page. The
templates escape all texts, and the script shows texts by `textContent`.
"""

import functools
import json
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jinja2
import markupsafe

from experiments.brain import markdown as brain_markdown
from experiments.results import markdown, plots, verdict

HERE = pathlib.Path(__file__).parent
# The size of a chart, and the edges of its plot: left, top, right, bottom.
CHART, PLOT = (520, 290), (48, 8, 512, 250)
# The dash patterns of lines, used in turn when all colours have been used.
DASHES = ("none", "2 4", "10 4 2 4")

PROTOCOL = """The result is the test error at the last epoch. Test images are read once,
at the end; choices are made on validation images. Students of the same seed begin with
the same weights and see the same batches."""
DIFFERENCE = """Difference: test error minus that of {}, in points, paired over seeds,
with its 95 % t interval. McNemar: seeds with p < 0.05 after Holm’s correction over all
tests."""


def run_page(summary: dict, numbers: dict[str, Any], unknown: str) -> str:
    """Returns the page of a run.

    Args:
      summary: The content of its `result.json`.
      numbers: The numbers for the script, from `numbers.run_numbers`.
      unknown: The reason why there are no confusion matrices; "" if there are some.
    """
    config, baseline = summary["config"], summary["baseline"]
    columns, rows = methods(summary)
    keys = ["method", "seed", "only_second", "only_first", "p_value", "holm"]
    return _render(
        "run.html",
        numbers,
        title=f"{config['name']}, {config['data']}",
        verdict=verdict.sentence(summary),
        note=f"Data: {summary['data']}",
        protocol_texts=protocol(summary),
        difference=DIFFERENCE.format(baseline),
        baseline=baseline,
        methods_columns=columns,
        methods_rows=rows,
        differences=intervals(summary, summary["methods"]),
        tests_rows=[
            [f"{test[k]:.3g}" if k in keys[4:] else test[k] for k in keys]
            for test in summary["mcnemar"]
        ],
        curves=charts(numbers["curves"]),
        has_rdms=bool(numbers["rdms"]),
        has_similarity=bool(numbers["similarity"]),
        unknown=unknown,
        of_brain=brain_markdown.table(summary),
        versions=", ".join(f"{k} {v}" for k, v in summary["versions"].items()),
        device=summary["device"],
        settings_rows=[[name, json.dumps(value)] for name, value in config.items()],
    )


def table_page(given: dict, curves: dict[int, list], links: dict[int, str]) -> str:
    """Returns the page of a table of runs.

    Args:
      given: The content of `table.json`.
      curves: The learning curves, from `numbers.curves`, of the columns with a run, by
        the column's number.
      links: The links to the pages of columns' runs, by the column's number.
    """
    rows, columns = given["rows"], []
    drawn: list[dict] = []
    for place, column in enumerate(given["columns"]):
        own = curves.get(place)
        columns.append(
            {
                **{key: column[key] for key in ("name", "data", "folder")},
                "drawn": intervals(column, rows),
                "link": links.get(place),
                "curves": None if own is None else charts(own, first=len(drawn)),
            }
        )
        drawn += own or []
    return _render(
        "table.html",
        {"curves": drawn},
        title=given["name"],
        verdict="",
        note=given["note"],
        difference=DIFFERENCE.format("the baseline"),
        columns=columns,
        errors_rows=[
            (name, [cell(column, name) for column in given["columns"]])
            for name in ("teacher", *rows)
        ],
        changed=given["differences"],
        missing=list(given["missing"]),
    )


@functools.cache
def _templates() -> jinja2.Environment:
    """Returns the templates of this package, which escape all inserted texts."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates", encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )


def _render(template: str, numbers: dict[str, Any], **given: Any) -> str:
    """Returns a complete page.

    Args:
      template: The name of a template.
      numbers: The numbers for the script.
      **given: The variables of the template.
    """
    # ("<" is escaped below, so that no text in the numbers can end the script.)
    inside = json.dumps(numbers, allow_nan=False, separators=(",", ":"))
    page = (
        _templates()
        .get_template(template)
        .render(
            **given,
            colours=plots.COLOURS,
            style=markupsafe.Markup((HERE / "page.css").read_text("utf-8")),
            script=markupsafe.Markup((HERE / "page.js").read_text("utf-8")),
            numbers=markupsafe.Markup(inside.replace("<", "\\u003c")),
        )
    )
    return page + "\n"


def protocol(summary: dict) -> list[str]:
    """Returns sentences that describe nets and training."""
    config, source = summary["config"], summary.get("teacher_source")
    texts = []
    if summary["teacher"] is not None:
        origin = count_noun(config["teacher_epochs"], "epoch")
        if source is not None:
            origin = f"from {source.get('file') or source['run']}, not trained here"
        error = summary["teacher"]["test_error"]
        how_well = "of another task" if error is None else f"{error:.2f} % test error"
        count = f"{config['ensemble']} of them" if config["ensemble"] > 1 else "one"
        texts = [
            f"Teacher {config['teacher']}, {count} for all students: {origin}; "
            f"{how_well}.",
            f"RDMs: {config['distance']} distances in {', '.join(config['layers'])}, "
            f"compared by {config['comparison']}.",
        ]
    student = (
        f"Student {config['student']}: {count_noun(config['epochs'], 'epoch')}, "
        f"{count_noun(config['seeds'], 'seed')}, batch {config['batch']}, "
        f"{config.get('optimizer', 'sgd')}, learning rate "
        f"{config['learning_rate']:g}, momentum {config['momentum']:g}, weight decay "
        f"{config['weight_decay']:g}."
    )
    return [*texts, student, PROTOCOL]


def count_noun(number: int, noun: str) -> str:
    """Returns a number with its noun, in the singular for 1."""
    return f"{number} {noun}{'s' * (number != 1)}"


def methods(summary: dict) -> tuple[list[str], list[list[str]]]:
    """Returns the columns and rows of the table of a run's methods."""
    tests, taught = summary["mcnemar"], summary["teacher"]
    kinds = [] if taught is None else ["pearson", "spearman"]
    columns = ["method", "test error, %", "difference", "McNemar"]
    columns += [f"agreement, {kind.capitalize()}" for kind in kinds]
    columns, rows = [*columns, "seconds a run"], []
    if taught is not None:
        error = taught["test_error"]
        first = ["teacher", "–" if error is None else f"{error:.2f}"]
        rows.append(first + ["–"] * (len(columns) - 2))
    for name, own in summary["methods"].items():
        row = [name, markdown.plus_minus(own["test_error"], 2)]
        row += [markdown.interval(own.get("difference"))]
        row += [markdown.significant(name, tests)]
        row += [markdown.plus_minus(own["agreement"][kind], 3) for kind in kinds]
        rows.append([*row, markdown.plus_minus(own["seconds"], 1)])
    return columns, rows


def cell(column: dict, name: str) -> dict[str, Any]:
    """Returns the error of a method in a column of a table, and the lines under it.

    Returns:
      `text`, and `lines`, each a style class and a text.
    """
    own, lines = column["methods"].get(name), []
    text = "–" if own is None else markdown.plus_minus(own["test_error"], 2)
    if name == "teacher" and column["teacher"] is not None:
        error = column["teacher"]["test_error"]
        text = "of another task" if error is None else f"{error:.2f}"
    if name in column["published"]:
        lines.append(("", f"published {100 - column['published'][name]:.2f}"))
    if own is not None and "difference" in own:
        low, high = (own["difference"][k] or 0.0 for k in ("low", "high"))
        look, sign = "", ""
        if low > 0 or high < 0:
            look, sign = ("bad", "▲ ") if low > 0 else ("good", "▼ ")
        lines.append((look, f"{sign}{markdown.interval(own['difference'])}"))
        known = markdown.significant(name, column["mcnemar"])
        lines.append(("", f"McNemar {known}"))
    return {"text": text, "lines": lines}


# ---- the geometry of charts


def intervals(column: dict, rows: Iterable[str]) -> dict[str, Any]:
    """Returns the positions of differences from the baseline in a chart 420 units wide.

    Args:
      column: A run's summary, or a column of a table.
      rows: The names of the methods.

    Returns:
      `left` and `bottom` of the plot, `ticks`, and `rows`: for each difference its
      point, the ends of its interval, and the ring of the published difference.
    """
    published, found = column.get("published", {}), []
    base = published.get(column["baseline"])
    for name in rows:
        own = column["methods"].get(name, {}).get("difference")
        if own is not None:
            known = None not in (base, published.get(name))
            found.append((name, own, base - published[name] if known else None))
    ends = [0.0, *(own[k] for _, own, _ in found for k in ("mean", "low", "high"))]
    ends = [end for end in (*ends, *(ring for *_, ring in found)) if end is not None]
    pad = 0.06 * (max(ends) - min(ends)) or 1.0
    low, high = min(ends) - pad, max(ends) + pad
    left, right = 16 + 8 * max((len(name) for name, *_ in found), default=0), 412

    def x(value):
        return f"{left + (right - left) * (value - low) / (high - low):.1f}"

    drawn = []
    for place, (name, own, ring) in enumerate(found):
        published_text = "" if ring is None else f", published {ring:+.2f}"
        drawn.append(
            {
                "name": name,
                "words": f"{name}: {markdown.interval(own)}{published_text}",
                "x": x(own["mean"]),
                "y": 19 + 22 * place,
                "ends": own["low"] is not None and [x(own["low"]), x(own["high"])],
                "ring": None if ring is None else x(ring),
            }
        )
    return {
        "left": left,
        "bottom": 8 + 22 * len(found),
        "ticks": [{"value": tick, "x": x(tick)} for tick in _linear(low, high)],
        "rows": drawn,
    }


def charts(panels: Sequence[dict], first: int = 0) -> dict[str, Any]:
    """Returns the charts of learning curves, and the styles of their lines.

    Args:
      panels: The learning curves, from `numbers.curves`.
      first: The number of the first chart among all charts of the page.

    Returns:
      `looks`, the styles of lines by name, and `charts`.
    """
    names = dict.fromkeys(line["name"] for panel in panels for line in panel["series"])
    looks = dict.fromkeys(names, "--line:var(--muted);--dash:6 4")
    for place, name in enumerate(name for name in names if name != "teacher"):
        cycle, colour = divmod(place, len(plots.COLOURS))
        dash = DASHES[cycle % len(DASHES)]
        looks[name] = f"--line:var(--c{colour});--dash:{dash}"
    return {
        "looks": looks,
        "charts": [_chart(panel, number) for number, panel in enumerate(panels, first)],
    }


def _chart(panel: dict, number: int) -> dict[str, Any]:
    """Returns a chart by epoch, with a logarithmic axis."""
    series, (left, top, right, bottom) = panel["series"], PLOT
    values = [v for line in series for v in line["low"] + line["high"] if v]
    low, high = min(values, default=1.0) / 1.05, max(values, default=1.0) * 1.05
    epochs = max((len(line["mean"]) for line in series), default=1)

    def x(epoch):
        return round(left + (right - left) * (epoch - 1) / max(epochs - 1, 1), 1)

    def y(value):
        # (0 is drawn on the lower edge.)
        up = math.log(max(value, low) / low) / math.log(high / low)
        return round(bottom - (bottom - top) * up, 1)

    def path(values):
        return "L".join(f"{x(i)} {y(v)}" for i, v in values if v is not None)

    lines = []
    for line in series:
        mean, ups, downs = ([*enumerate(line[k], 1)] for k in ("mean", "high", "low"))
        lines.append(
            {
                "name": line["name"],
                "band": ups != downs and f"M{path(ups)}L{path(downs[::-1])}Z",
                # (A line of one point is visible through its round caps, as a dot.)
                "mean": f"M{path(mean)}{'' if mean[1:] else 'h0'}",
                "dot": not mean[1:],
            }
        )
    whole = sorted({1, *(int(t) for t in _linear(1, epochs) if t == int(t))})
    return {
        "label": panel["label"],
        "number": number,
        "epochs": epochs,
        "size": CHART,
        "plot": PLOT,
        "levels": [{"value": t, "y": y(t)} for t in _logarithmic(low, high)],
        "ticks": [{"epoch": epoch, "x": x(epoch)} for epoch in whole],
        "lines": lines,
    }


def _linear(low: float, high: float) -> list[float]:
    """Returns three to nine round numbers in a range."""
    rough = (high - low) / 8 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [float(f"{i * step:.6g}") for i in range(first, last + 1)]


def _logarithmic(low: float, high: float) -> list[float]:
    """Returns three or more round numbers for a logarithmic axis."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{s * 10.0**p:.6g}") for p in powers for s in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    return ticks if len(ticks) >= 3 else _linear(low, high)
