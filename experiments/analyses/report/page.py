"""The HTML of `experiments.report`, around the numbers that it finds.

`page.css` and `page.js` beside this file are put into every page. Texts from a folder
are escaped here, and go through `textContent` there.
"""

import html
import json
import math
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from experiments.brain import markdown as brain_markdown
from experiments.results import markdown, plots

HERE = pathlib.Path(__file__).parent
# A chart, and the plot in it: left, top, right, bottom.
CHART, PLOT = (520, 290), (48, 8, 512, 250)
# Of the lines after as many as there are colours.
DASHES = ("none", "2 4", "10 4 2 4")

PROTOCOL = """The result is the test error at the last epoch. Test images are read once,
at the end; choices are made on validation images. Students of the same seed begin with
the same weights and see the same batches."""
DIFFERENCE = """Difference: test error minus that of {}, in points, paired over seeds,
with its 95 % t interval. McNemar: seeds with p < 0.05 after Holm’s correction over all
tests."""
RDMS = """<p>Distances between activations of test images, sorted by class, as
percentiles within each matrix; nets of seed 0.</p>
<div class="controls"><label>Net <select id="rdm-net"></select></label>
<label>Layer <select id="rdm-layer"></select></label>
<label>Teacher’s layer <select id="rdm-other"></select></label>
<label class="wide">Epoch <output id="rdm-when"></output>
<input type="range" id="rdm-epoch" min="0" step="1"></label></div>
<div class="pair"><figure id="rdm-left"></figure><figure id="rdm-right"></figure></div>
<p class="bar"><span>alike</span><i id="rdm-bar"></i><span>unlike</span></p>
<p id="rdm-rho" role="status"></p>
<div class="scroll" tabindex="0"><table id="rdm-table"></table></div>"""
SIMILARITY = """<p>Correlation of the RDM of each layer of a student (rows) with that of
each layer of the teacher (columns) after training, mean over seeds. Framed: the layers
that the agreement above is of.</p>
<div class="controls"><label>Method <select id="similarity-method"></select></label>
<label>Correlation <select id="similarity-kind"><option value="pearson">Pearson</option>
<option value="spearman">Spearman</option></select></label></div>
<div class="scroll" tabindex="0"><table id="similarity-table"></table></div>"""
CONFUSION = """<p>Of the test images of a class (rows), the share in % predicted as
each class (columns), mean over seeds. What is right, the diagonal, has no colour.</p>
<div class="controls">
<label>Method <select id="confusion-method"></select></label></div>
<div class="pair"><figure id="confusion-left"></figure>
<figure id="confusion-right"></figure></div>"""


class Html(str):
    """What is HTML already."""


def escape(text: Any) -> Html:
    """Returns a text as HTML, in an attribute too."""
    return text if isinstance(text, Html) else Html(html.escape(str(text)))


class Section(NamedTuple):
    """A part of a page: anchor, heading, and HTML; left out where that is empty."""

    id: str
    title: str
    body: str


def of_run(summary: dict, numbers: dict[str, Any], unknown: str) -> str:
    """Returns the page of a run.

    Args:
      summary: What its `result.json` holds.
      numbers: For the script, from `report.of_run`.
      unknown: Why there are no confusion matrices.
    """
    config = summary["config"]
    left_out = "<p>Left out: {}.</p>"
    settings = ([name, json.dumps(value)] for name, value in config.items())
    versions = ", ".join(f"{k} {v}" for k, v in summary["versions"].items())
    end = f"""<p>{escape(versions)}; {escape(summary["device"])}.</p><details>
    <summary>All settings</summary>{table(["setting", "value"], settings)}</details>"""
    of_brain = brain_markdown.table(summary)
    of_brain = of_brain and f'<pre class="scroll">{escape(of_brain)}</pre>'
    rdms = RDMS if numbers["rdms"] else left_out.format("the nets left no RDMs")
    confusion = left_out.format(escape(unknown)) if unknown else CONFUSION
    sections = [
        Section("protocol", "Protocol", protocol(summary)),
        Section("methods", "Methods", methods(summary)),
        Section("curves", "Learning curves", charts(numbers["curves"])),
        Section("rdms", "RDMs over training", rdms),
        Section(
            "similarity", "Similarity of layers", numbers["similarity"] and SIMILARITY
        ),
        Section("confusion", "Confusion matrices", confusion),
        Section("brain", "Measured RDMs", of_brain),
        Section("settings", "Settings and versions", end),
    ]
    title = f"{config['name']}, {config['data']}"
    return document(title, f"Data: {summary['data']}", sections, numbers)


def of_table(given: dict, curves: dict[int, list], links: dict[int, str]) -> str:
    """Returns the page of a table of runs.

    Args:
      given: What `table.json` holds.
      curves: From `report.curves`, of the columns whose runs are there, by place.
      links: Where the pages of columns' runs lie, by place.
    """
    columns, rows = given["columns"], given["rows"]
    panels = "".join(
        f"<figure><figcaption>{escape(column['name'])}</figcaption>"
        f"{intervals(column, rows)}</figure>"
        for column in columns
    )
    panels = f"""<p>Points: test error minus that of the baseline, with its interval;
    left of the line is better. Rings: as published.</p>
    <div class="panels">{panels}</div>"""
    sections = [
        Section("errors", "Test errors", errors(columns, rows)),
        Section("differences", "Differences to the baseline", panels),
        Section("settings", "Other than as published", bullets(given["differences"])),
        Section("missing", "Not run yet", bullets(given["missing"])),
    ]
    drawn = []
    for place, column in enumerate(columns):
        body = f"<p>{escape(column['data'])}</p>"
        if place in links:
            body += f'<p><a href="{escape(links[place])}">The page of this run</a></p>'
        if place in curves:
            body += charts(curves[place], first=len(drawn))
            drawn += curves[place]
        else:
            body += f"<p>Its folder, {escape(column['folder'])}, is not there.</p>"
        sections.append(Section(f"column-{place}", column["name"], body))
    return document(given["name"], given["note"], sections, {"curves": drawn})


def document(
    title: str, note: str, sections: Sequence[Section], numbers: dict[str, Any]
) -> str:
    """Returns a whole page."""
    sections = [part for part in sections if part.body]
    contents = "".join(
        f'<li><a href="#{part.id}">{escape(part.title)}</a></li>' for part in sections
    )
    body = "\n".join(
        f'<section id="{part.id}"><h2>{escape(part.title)}</h2>\n{part.body}</section>'
        for part in sections
    )
    colours = "".join(f"--c{i}:{colour};" for i, colour in enumerate(plots.COLOURS))
    # (So that no text in it ends the script.)
    inside = json.dumps(numbers, allow_nan=False, separators=(",", ":"))
    inside = inside.replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>
:root {{{colours}}}
{(HERE / "page.css").read_text("utf-8")}</style>
</head>
<body>
<header><h1>{escape(title)}</h1><p>{escape(note)}</p></header>
<nav aria-label="Contents"><ol>{contents}</ol></nav>
<main>
{body}
</main>
<div id="tip" role="status" hidden></div>
<script type="application/json" id="numbers">{inside}</script>
<script>
{(HERE / "page.js").read_text("utf-8")}</script>
</body>
</html>
"""


def table(columns: Iterable[Any], rows: Iterable[Iterable[Any]]) -> Html:
    """Returns a table; the first cell of each row is its heading."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    head, body = f"<thead><tr>{head}</tr></thead>", ""
    for first, *rest in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        body += f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>\n'
    return Html(
        f'<div class="scroll" tabindex="0"><table>{head}<tbody>\n{body}</tbody></table>'
        "</div>"
    )


def bullets(texts: Iterable[Any]) -> str:
    """Returns a list of texts; nothing of none."""
    items = "".join(f"<li>{escape(text)}</li>" for text in texts)
    return items and f"<ul>{items}</ul>"


def protocol(summary: dict) -> str:
    """Nets and training in words."""
    config, source = summary["config"], summary.get("teacher_source")
    texts = []
    if summary["teacher"] is not None:
        origin = f"{config['teacher_epochs']} epochs"
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
        f"Student {config['student']}: {config['epochs']} epochs, {config['seeds']} "
        f"seeds, batch {config['batch']}, learning rate {config['learning_rate']:g}, "
        f"momentum {config['momentum']:g}, weight decay {config['weight_decay']:g}."
    )
    return bullets([*texts, student, PROTOCOL])


def methods(summary: dict) -> str:
    """Returns the table of a run, a picture of its differences, and McNemar's tests."""
    every, baseline, tests = (summary[k] for k in ("methods", "baseline", "mcnemar"))
    kinds = [] if summary["teacher"] is None else ["pearson", "spearman"]
    columns = ["method", "test error, %", "difference", "McNemar"]
    columns += [f"agreement, {kind.capitalize()}" for kind in kinds]
    columns, rows = [*columns, "seconds a run"], []
    if summary["teacher"] is not None:
        error = summary["teacher"]["test_error"]
        rows = [["teacher", "–" if error is None else f"{error:.2f}"]]
        rows[0] += ["–"] * (len(columns) - 2)
    for name, own in every.items():
        row = [name, markdown.plus_minus(own["test_error"], 2)]
        row += [markdown.interval(own.get("difference"))]
        row += [markdown.significant(name, tests)]
        row += [markdown.plus_minus(own["agreement"][kind], 3) for kind in kinds]
        rows.append([*row, markdown.plus_minus(own["seconds"], 1)])
    text = f"""<p>± is the standard deviation over seeds.
    {escape(DIFFERENCE.format(baseline))} Agreement: correlation of the student’s and
    the teacher’s RDMs of test images, mean over layers.</p>
    {table(columns, rows)}"""
    if tests:
        keys = ["method", "seed", "only_second", "only_first", "p_value", "holm"]
        rows = [[f"{t[k]:.3g}" if k in keys[4:] else t[k] for k in keys] for t in tests]
        columns = ["method", "seed", f"right: only {baseline}", "only the method"]
        text += f"""<figure class="narrow"><figcaption>Difference to {escape(baseline)},
        points</figcaption>{intervals(summary, every)}</figure>
        <details><summary>McNemar’s tests against {escape(baseline)}, seed by seed
        </summary>{table([*columns, "p", "p, Holm"], rows)}</details>"""
    return text


def errors(columns: Sequence[dict], rows: Sequence[str]) -> str:
    """Test errors of all columns, the published ones under them."""
    cells = ([name, *(_cell(c, name) for c in columns)] for name in ("teacher", *rows))
    return f"""<p>Test error in %, mean ± standard deviation over seeds; under it as
    published (100 minus the accuracy). {escape(DIFFERENCE.format("the baseline"))}
    ▼ better, ▲ worse: the interval is on one side of 0.</p>
    {table(["method", *(column["name"] for column in columns)], cells)}"""


def _cell(column: dict, name: str) -> Html:
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
    each = (f'<small class="{look}">{escape(line)}</small>' for look, line in lines)
    return Html(escape(text) + "".join(each))


def intervals(column: dict, rows: Iterable[str]) -> str:
    """A picture of differences to the baseline: points, intervals, published rings."""
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
    bottom = 8 + 22 * len(found)

    def x(value):
        return f"{left + (right - left) * (value - low) / (high - low):.1f}"

    marks = ""
    for tick in _linear(low, high):
        look = "grid" if tick else "zero"
        marks += f'<path class="{look}" d="M{x(tick)} 4V{bottom}"/>'
        marks += _text(x(tick), bottom + 16, f"{tick:g}", "middle")
    for place, (name, own, ring) in enumerate(found):
        y = 19 + 22 * place
        known = "" if ring is None else f", published {ring:+.2f}"
        words = escape(f"{name}: {markdown.interval(own)}{known}")
        marks += _text(left - 8, y + 4, name, "end") + f"<g><title>{words}</title>"
        if own["low"] is not None:
            ends = f"M{x(own['low'])} {y}H{x(own['high'])}"
            marks += f'<path class="interval" d="{ends}"/>'
        marks += f'<circle class="point" cx="{x(own["mean"])}" cy="{y}" r="4"/>'
        if ring is not None:
            marks += f'<circle class="ring" cx="{x(ring)}" cy="{y}" r="6"/>'
        marks += "</g>"
    label = "Differences to the baseline with their intervals"
    box = f'viewBox="0 0 420 {bottom + 22}" role="img" aria-label="{label}"'
    return f"<svg {box}>{marks}</svg>"


def charts(panels: Sequence[dict], first: int = 0) -> str:
    """Learning curves with a legend.

    Args:
      panels: From `report.curves`.
      first: The place of the first among all charts of the page.
    """
    names = dict.fromkeys(line["name"] for panel in panels for line in panel["series"])
    looks = {"teacher": "--line:var(--muted);--dash:6 4"}
    for place, name in enumerate(name for name in names if name != "teacher"):
        cycle, colour = divmod(place, len(plots.COLOURS))
        dash = DASHES[cycle % len(DASHES)]
        looks[name] = f"--line:var(--c{colour});--dash:{dash}"
    legend = "".join(
        f'<label style="{looks[name]}"><input type="checkbox" checked '
        f'value="{escape(name)}"><svg viewBox="0 0 26 8" aria-hidden="true">'
        f'<path class="line" d="M1 4H25"/></svg>{escape(name)}</label>'
        for name in names
    )
    figures = "".join(
        f"<figure><figcaption>{escape(panel['label'])}</figcaption>"
        f"{_chart(panel, looks, number)}</figure>"
        for number, panel in enumerate(panels, first)
    )
    return f"""<p>Mean over seeds; band: from the best to the worst.</p>
    <div class="lines"><div class="legend">{legend}</div>
    <div class="pair">{figures}</div></div>"""


def _chart(panel: dict, looks: dict[str, str], number: int) -> str:
    """Returns a chart by epoch, with a logarithmic axis."""
    series, (left, top, right, bottom) = panel["series"], PLOT
    values = [v for line in series for v in line["low"] + line["high"] if v]
    low, high = min(values, default=1.0) / 1.05, max(values, default=1.0) * 1.05
    epochs = max((len(line["mean"]) for line in series), default=1)

    def x(epoch):
        return round(left + (right - left) * (epoch - 1) / max(epochs - 1, 1), 1)

    def y(value):
        # (What is 0 lies on the lower edge.)
        up = math.log(max(value, low) / low) / math.log(high / low)
        return round(bottom - (bottom - top) * up, 1)

    def path(values):
        return "L".join(f"{x(i)} {y(v)}" for i, v in values if v is not None)

    marks = ""
    for tick in _logarithmic(low, high):
        marks += f'<path class="grid" d="M{left} {y(tick)}H{right}"/>'
        marks += _text(left - 6, y(tick) + 4, f"{tick:g}", "end")
    for epoch in sorted({1, *(int(t) for t in _linear(1, epochs) if t == int(t))}):
        marks += _text(x(epoch), bottom + 18, epoch, "middle")
    marks += _text(right, bottom + 36, "epoch", "end")
    for line in series:
        mean, ups, downs = ([*enumerate(line[k], 1)] for k in ("mean", "high", "low"))
        band = f'<path class="band" d="M{path(ups)}L{path(downs[::-1])}Z"/>'
        # (A line of one point is seen by its round end.)
        marks += (
            f'<g class="series" data-name="{escape(line["name"])}" '
            f'style="{looks[line["name"]]}">{band if ups != downs else ""}'
            f'<path class="line" d="M{path(mean)}{"" if mean[1:] else "h0"}"/></g>'
        )
    label = f"{escape(panel['label'])} by epoch; arrow keys tell the values"
    return f"""<svg class="chart" viewBox="0 0 {CHART[0]} {CHART[1]}" tabindex="0"
    role="img" aria-label="{label}" data-number="{number}" data-epochs="{epochs}"
    data-left="{left}" data-right="{right}">{marks}
    <path class="cursor" d="M0 {top}V{bottom}"/></svg>"""


def _text(x: Any, y: Any, text: Any, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _linear(low: float, high: float) -> list[float]:
    """Returns three to nine round numbers in a range."""
    rough = (high - low) / 8 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [float(f"{i * step:.6g}") for i in range(first, last + 1)]


def _logarithmic(low: float, high: float) -> list[float]:
    """Round numbers for a logarithmic axis, three or more."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [float(f"{s * 10.0**p:.6g}") for p in powers for s in (1, 2, 5)]
    ticks = [tick for tick in ticks if low <= tick <= high]
    return ticks if len(ticks) >= 3 else _linear(low, high)
