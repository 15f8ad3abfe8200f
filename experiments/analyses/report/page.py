"""Renders the HTML of a page from its numbers.

Templates are in `templates`; `page.css`, `page.js` and `stimuli.js` are included in
every page. The templates escape all texts, and the scripts show texts by `textContent`.
"""

import functools
import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jinja2
import markupsafe

from experiments import display
from experiments.analyses.report import charts
from experiments.brain import markdown as brain_markdown
from experiments.results import markdown, plots, verdict
from experiments.results import table as result_table

HERE = pathlib.Path(__file__).parent
# The suffix to the name of a measured RDM, since methods have the same names.
MEASURED = " (measured)"
SCRIPTS = ("page.js", "stimuli.js")

PROTOCOL = """The result is the test error at the last epoch. Test images are read once,
at the end; choices are made on validation images. Students of the same seed begin with
the same weights and see the same batches."""
DIFFERENCE = """Difference: test error minus that of {}, in points, paired over seeds,
with its 95 % t interval. McNemar: in how many seeds the method is better or worse
than {} (p < 0.05 after Holm’s correction over all tests)."""


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
        notes=[f"Data: {summary['data']}"],
        protocol_texts=protocol(summary),
        difference=DIFFERENCE.format(baseline, baseline),
        baseline=baseline,
        methods_columns=columns,
        methods_rows=rows,
        differences=charts.intervals(summary, summary["methods"]),
        tests_rows=[
            [f"{test[k]:.3g}" if k in keys[4:] else test[k] for k in keys]
            for test in summary["mcnemar"]
        ],
        charts=sections(numbers["curves"]),
        has_rdms=bool(numbers["rdms"]),
        has_teacher="teacher" in numbers["rdms"],
        has_similarity=bool(numbers["similarity"]),
        unknown=unknown,
        brain=_brain(summary, numbers),
        versions=", ".join(f"{k} {v}" for k, v in summary["versions"].items()),
        device=summary["device"],
        settings_rows=[[name, json.dumps(value)] for name, value in config.items()],
    )


def _brain(summary: dict, numbers: dict[str, Any]) -> dict[str, Any]:
    """Returns the variables of the sections about measured RDMs; empty without any."""
    found = numbers["brain"]
    if found is None:
        return {}
    maps = [(layer, charts.map_of(places)) for layer, places in found["maps"].items()]
    names = dict.fromkeys(name for _, drawn in maps for name in drawn["points"])
    looks = charts.styles(name for name in names if name not in found["measured"])
    for name in found["measured"]:
        # (It has the colour of the method that it teaches.)
        looks[name] = looks.get(name.removesuffix(MEASURED), "--line:var(--text)")
    return {
        "explanation": brain_markdown.explanation(summary),
        "tables": brain_markdown.tables(summary),
        "maps": maps,
        "measured": found["measured"],
        "looks": looks,
        "has_rdms": bool(found["layers"]),
        "first": next(iter(found["agreement"]), ""),
        "unknown": found["unknown"],
    }


def sections(panels: Sequence[dict]) -> dict[str, dict]:
    """Returns the charts of each section, from curves in the order of the sections."""
    found, first = {}, 0
    for name, own in itertools.groupby(panels, lambda panel: panel["section"]):
        found[name] = charts.charts([*own], first)
        first += len(found[name]["charts"])
    return found


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
                "verdict": verdict.sentence(column),
                "drawn": charts.intervals(column, rows),
                "link": links.get(place),
                "curves": None if own is None else charts.charts(own, len(drawn)),
            }
        )
        drawn += own or []
    title = result_table.title(given)
    return _render(
        "table.html",
        {"curves": drawn},
        title=title,
        verdict=verdict.sentence_of_table(given["columns"]),
        notes=[f"Table {given['name']}. {result_table.settings(given)}"],
        about=paragraphs(given["note"]) if given["note"].startswith(title) else [],
        difference=DIFFERENCE.format("the baseline", "the baseline"),
        columns=columns,
        errors_rows=[
            (name, [cell(column, name) for column in given["columns"]])
            for name in ("teacher", *rows)
        ],
        changed=given["differences"],
        missing=[f"{name}: {reason}" for name, reason in given["missing"].items()],
    )


def paragraphs(text: str) -> list[str]:
    """Returns the paragraphs of a docstring, without its first line."""
    _, *others = text.strip().split("\n\n")
    return [" ".join(own.split()) for own in others if own.strip()]


@functools.cache
def _templates() -> jinja2.Environment:
    """Returns the templates of this package, which escape all inserted texts."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates", encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    found.globals["numeric"] = numeric_columns
    return found


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
            script=markupsafe.Markup(
                "".join((HERE / name).read_text("utf-8") for name in SCRIPTS)
            ),
            numbers=markupsafe.Markup(inside.replace("<", "\\u003c")),
        )
    )
    return page + "\n"


def numeric_columns(rows: Sequence[Sequence]) -> list[bool]:
    """Returns whether each column of a table has only numbers."""
    columns = zip(*rows, strict=True)
    return [markdown.is_numeric([str(cell) for cell in own]) for own in columns]


def protocol(summary: dict) -> list[str]:
    """Returns sentences that describe nets and training."""
    config, source = summary["config"], summary.get("teacher_source")
    texts = []
    if summary["teacher"] is not None:
        origin = display.count_of(config["teacher_epochs"], "epoch")
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
        f"Student {config['student']}: "
        f"{display.count_of(config['epochs'], 'epoch')}, "
        f"{display.count_of(config['seeds'], 'seed')}, batch {config['batch']}, "
        f"{config.get('optimizer', 'sgd')}, learning rate "
        f"{config['learning_rate']:g}, momentum {config['momentum']:g}, weight decay "
        f"{config['weight_decay']:g}."
    )
    return [*texts, student, PROTOCOL]


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
        lines.append(("", f"McNemar: {known}"))
    return {"text": text, "lines": lines}
