"""Writes the page of `python -m benchmarks`: one HTML file that needs no other files.

(Its template is `page.html`.)
"""

import base64
import io
import itertools
import pathlib
from typing import Any

import jinja2
import matplotlib.figure
from matplotlib import ticker

from benchmarks import limits, measure, report, verdicts

# The value, the height, and whether the value is stable.
Mark = tuple[float, float, bool]

HERE = pathlib.Path(__file__).parent
MARKERS = "osD^vP*"
# The limits with which speeds are compared, by unit.
LIMITS = {"GFLOP/s": "gemm-float32, GFLOP/s", "GB/s": "copy-float32, GB/s"}
# The style classes of cells with a verdict.
CLASSES = {"target met": "target", "floor met": "floor", "missed": "missed"}
READING = (
    "Times are medians; ratios are to the first contender of a case. A ratio is "
    "unstable (a hollow mark) if the ratio of the medians and that of the best samples "
    f"differ by more than {100 * measure.DISAGREEMENT:.0f} %. Shares are of the larger "
    "limit, before or after: more than 100 % if other processes slowed that down."
)


def page(results: dict) -> str:
    """Returns the complete page in HTML.

    Args:
      results: The content of `benchmarks.json`.
    """
    found = results["benchmarks"]
    measured = {name: x for name, x in found.items() if not name.startswith("limits")}
    cases = [case for x in found.values() for case in x["cases"]]
    template = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    ).get_template("page.html")
    return template.render(
        about=report.about({**results, "cases": cases}),
        command=results["command"],
        problems=results["problems"],
        overview=_overview(measured),
        reading=READING,
        limits=_limits(results["limits"]),
        classes=CLASSES,
        parts=[_part(name, x, results["limits"]) for name, x in measured.items()],
    )


def _part(name: str, found: dict, speeds: dict) -> dict[str, Any]:
    """Returns the figure and the tables of a benchmark; `png` is "" without cases."""
    cases = [case for case in found["cases"] if case["contenders"]]
    if not cases:
        return {"name": name, "png": ""}
    return {
        "name": name,
        "command": found["command"],
        "about": report.about(found),
        "png": base64.b64encode(picture(cases)).decode(),
        "tables": [
            # (Without the column of goals, which have their own table.)
            *([row[:-1] for row in rows] for rows in report.tabulated(cases)),
            _goals(cases),
            _facts(cases, speeds),
        ],
    }


# ---- tables


def _overview(measured: dict[str, dict]) -> list[list[str]]:
    """Returns the rows of a table that counts the cases and goals of each benchmark."""
    rows = [["benchmark", "cases", "failed", *CLASSES, "not judged"]]
    for name, found in measured.items():
        goals = [g["verdict"] for case in found["cases"] for g in case["goals"]]
        failed = [case for case in found["cases"] if case["error"]]
        judged = [goals.count(verdict) for verdict in CLASSES]
        counts = len(found["cases"]), len(failed), *judged, len(goals) - sum(judged)
        rows.append([name, *map(str, counts)])
    return rows


def _limits(speeds: dict) -> list[list[str]]:
    """Returns the rows of a table with the limits before and after the benchmarks."""
    rows = [["limit", "before", "after", "after over before"]]
    for name, found in speeds.items():
        before, after = found["before"], found["after"]
        drift = after / before if before and after else None
        rows.append([name, *map(_number, (before, after, drift))])
    return rows


def _goals(cases: list[dict]) -> list[list[str]]:
    words = ("name", "contender", "quantity")
    numbers = ("measured", "floor", "target")
    rows = [["case", "goal", *words[1:], *numbers, "verdict"]]
    for case in cases:
        for goal in case["goals"]:
            cells = [goal[key] for key in words] + [_number(goal[x]) for x in numbers]
            rows.append([case["case"], *cells, goal["verdict"]])
    return rows


def _facts(cases: list[dict], speeds: dict) -> list[list[str]]:
    """Returns the rows of a table with facts and speeds, and shares of the limits."""
    found = {
        (case["case"], name): _facts_of(entry, speeds)
        for case in cases
        for name, entry in case["contenders"].items()
    }
    columns = list(dict.fromkeys(key for facts in found.values() for key in facts))
    rows = [
        [*names, *(facts.get(column, "") for column in columns)]
        for names, facts in found.items()
        if facts
    ]
    return [["case", "contender", *columns], *rows]


def _facts_of(entry: dict, speeds: dict) -> dict[str, str]:
    facts = {k: _number(x) for k, x in entry.items() if k not in verdicts.MEASURED}
    for unit, speed in limits.speeds(entry).items():
        facts[unit] = _number(speed)
        known = [x for x in speeds.get(LIMITS[unit], {}).values() if x]
        if known:
            facts[f"share of {LIMITS[unit]}"] = f"{100 * speed / max(known):.0f} %"
    return facts


def _number(x: float | None) -> str:
    if x is None:
        return "–"
    return f"{x:,.4g}" if abs(x) < 1000 else f"{x:,.0f}"


# ---- figures


def picture(cases: list[dict]) -> bytes:
    """Draws times and, if there are any, ratios to the reference, as a PNG.

    A row is a case, a mark a contender. Unstable ratios are hollow; a bar is the floor
    of a goal.

    Args:
      cases: The cases of `runner.run` that have contenders.
    """
    times: dict[str, list[Mark]] = {}
    ratios: dict[str, list[Mark]] = {}
    for row, case in enumerate(cases):
        middle = (len(case["contenders"]) - 1) / 2
        for i, (name, entry) in enumerate(case["contenders"].items()):
            height = row + 0.13 * (i - middle)  # (So that no mark hides another.)
            times.setdefault(name, []).append((entry["median_ms"], height, True))
            # (The ratio of the reference is 1.)
            found = entry.get("ratio", {"medians": 1.0, "stable": True})
            point = found["medians"], height, found["stable"]
            ratios.setdefault(name, []).append(point)
    panels = [("milliseconds a call (median)", times)]
    if any(len(case["contenders"]) > 1 for case in cases):
        panels.append(("time over that of the case's first contender", ratios))
    height = 1.3 + 0.32 * len(cases) + 0.22 * -(-len(times) // 5)
    figure = matplotlib.figure.Figure((5.5 * len(panels), height), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (label, points) in zip(axes, panels, strict=True):
        _draw(axis, points)
        axis.set_xlabel(label)
    if panels[1:]:
        _draw_floors(axes[1], cases)
    axes[0].set_yticks(range(len(cases)), [case["case"] for case in cases])
    axes[0].set_ylim(len(cases) - 0.5, -0.5)
    known: dict[str, Any] = {}
    for axis in reversed(axes):  # (The times are last: their marks are not hollow.)
        handles, labels = axis.get_legend_handles_labels()
        known |= dict(zip(labels, handles, strict=True))
    where: dict[str, Any] = {"loc": "outside upper left", "ncols": 5}
    figure.legend(known.values(), known, **where, frameon=False, fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    return file.getvalue()


def _draw(axis, points: dict[str, list[Mark]]) -> None:
    """Draws marks on a logarithmic axis."""
    looks = zip(itertools.cycle(MARKERS), itertools.cycle(range(10)), strict=False)
    for (name, marks), (marker, color) in zip(points.items(), looks, strict=False):
        values, heights, stable = zip(*marks, strict=True)
        axis.scatter(
            values,
            heights,
            s=30,
            marker=marker,
            edgecolors=f"C{color}",
            facecolors=[f"C{color}" if x else "none" for x in stable],
            label=name,
            zorder=3,
        )
    every = [value for marks in points.values() for value, _, _ in marks]
    low, high = min(every) / 2, max(every) * 2
    axis.set(xscale="log", xlim=(low, high))
    digits = (1, 2, 5) if high / low < 300 else (1,)
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=digits, numticks=20))
    axis.xaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize=9)


def _draw_floors(axis, cases: list[dict]) -> None:
    """Draws the reference's ratio, 1, and the floors of goals."""
    axis.axvline(1, color="black", linewidth=0.8)
    floors = [
        (goal["floor"], row)
        for row, case in enumerate(cases)
        for goal in case["goals"]
        if goal["quantity"] == "time" and goal["measured"] is not None
    ]
    if floors:
        axis.scatter(
            *zip(*floors, strict=True),
            marker="|",
            s=200,
            color="black",
            label="floor of a goal",
        )
