"""Computes the geometry of charts: intervals, curves and maps, for the templates."""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from experiments.results import markdown, plots

# The size of a chart, and the edges of its plot: left, top, right, bottom.
CHART, PLOT = (526, 290), (48, 8, 512, 250)
# The size of a map.
MAP = 300
# The dash patterns of lines, used in turn when all colours have been used, and those of
# nets that are no method of the run.
DASHES = ("none", "2 4", "10 4 2 4")
OTHERS = {"teacher": "6 4", "before": "1 4"}
# The largest number of points of a line that are marked, and the longest name in a
# chart, in letters.
MARKED, LONGEST = 12, 22


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
    longest = max((len(shorten(name)) for name, *_ in found), default=0)
    left, right = 16 + 9 * longest, 412

    def x(value):
        return f"{left + (right - left) * (value - low) / (high - low):.1f}"

    drawn = []
    for place, (name, own, ring) in enumerate(found):
        published_text = "" if ring is None else f", published {ring:+.2f}"
        drawn.append(
            {
                "name": shorten(name),
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


def shorten(name: str, longest: int = LONGEST) -> str:
    """Returns a name of at most so many letters, "…" in place of those left out."""
    return name if len(name) <= longest else f"{name[: longest - 1]}…"


def styles(names: Iterable[str]) -> dict[str, str]:
    """Returns the style of the line of each method: a colour and a dash pattern."""
    found, place = {}, 0
    for name in names:
        found[name] = f"--line:var(--muted);--dash:{OTHERS.get(name)}"
        if name not in OTHERS:
            cycle, colour = divmod(place, len(plots.COLOURS))
            dash = DASHES[cycle % len(DASHES)]
            found[name] = f"--line:var(--c{colour});--dash:{dash}"
            place += 1
    return found


def charts(panels: Sequence[dict], first: int = 0) -> dict[str, Any]:
    """Returns the charts of curves, and the styles of their lines.

    Args:
      panels: The curves, from `numbers.curves` or `measured.curves`.
      first: The number of the first chart among all charts of the page.

    Returns:
      `looks`, the styles of lines by name, and `charts`.
    """
    names = dict.fromkeys(line["name"] for panel in panels for line in panel["series"])
    return {
        "looks": styles(names),
        "charts": [_chart(panel, number) for number, panel in enumerate(panels, first)],
    }


def _chart(panel: dict, number: int) -> dict[str, Any]:
    """Returns a chart, by epoch or by layer."""
    series, (left, _, right, _) = panel["series"], PLOT
    count = max((len(line["mean"]) for line in series), default=1)
    ceiling = panel.get("ceiling") or []
    values = [v for line in series for v in line["low"] + line["high"]] + ceiling
    levels, y = _vertical(values, logarithmic=not panel.get("linear"))

    def x(place):
        part = place / (count - 1) if count > 1 else 0.5
        return round(left + (right - left) * part, 1)

    lines = []
    for place, line in enumerate(series):
        # (At the only epoch, methods stand beside each other.)
        apart = (right - left) * ((place + 1) / (len(series) + 1) - 0.5)
        shift = 0.0 if count > 1 else apart
        drawn = _line(line, functools.partial(_shifted, x, shift), y)
        lines.append({"name": line["name"], **drawn})
    return {
        "label": panel["label"],
        "axis": panel["axis"],
        "number": number,
        "count": count,
        "size": CHART,
        "plot": PLOT,
        "levels": levels,
        "ceiling": ceiling and [y(value) for value in ceiling[::-1]],
        "ticks": _ticks(panel, count, x),
        "lines": lines,
    }


def _shifted(x: Callable[[int], float], by: float, place: int) -> float:
    return round(x(place) + by, 1)


def _line(line: dict, x: Callable, y: Callable) -> dict[str, Any]:
    """Returns the paths of the mean and of the range of seeds, and marked points."""

    def points(kind):
        values = enumerate(line[kind])
        return [(x(place), y(value)) for place, value in values if value is not None]

    def path(places):
        return "L".join(f"{x} {y}" for x, y in places)

    mean, ups, downs = (points(kind) for kind in ("mean", "high", "low"))
    alone = len(mean) == 1
    return {
        "band": ups != downs and not alone and f"M{path(ups)}L{path(downs[::-1])}Z",
        "range": ups != downs and alone and f"M{path(ups)}L{path(downs)}",
        "mean": f"M{path(mean)}" if mean else "",
        "marks": mean if len(mean) <= MARKED else [],
    }


def _vertical(
    values: Sequence[float | None], *, logarithmic: bool
) -> tuple[list[dict], Callable[[float], float]]:
    """Returns the labels of a vertical axis, and the height of a value.

    On a logarithmic axis 0 is drawn on the lower edge.
    """
    _, top, _, bottom = PLOT
    if logarithmic:
        positive = [value for value in values if value]
        low, high = min(positive, default=1.0) / 1.05, max(positive, default=1.0) * 1.05
        shown = _logarithmic(low, high)
    else:
        known = [value for value in values if value is not None] or [0.0, 1.0]
        pad = 0.05 * (max(known) - min(known)) or 0.5
        low, high = min(known) - pad, max(known) + pad
        shown = _linear(low, high)

    def y(value):
        up = (value - low) / (high - low)
        if logarithmic:
            up = math.log(max(value, low) / low) / math.log(high / low)
        return round(bottom - (bottom - top) * up, 1)

    return [{"value": value, "y": y(value)} for value in shown], y


def _ticks(panel: dict, count: int, x: Callable) -> list[dict[str, Any]]:
    """Returns the labels of the horizontal axis."""
    names, first = panel.get("names"), panel.get("first", 1)
    left, _, right, _ = PLOT
    if names is None:
        last = first + count - 1
        whole = {first, *(int(t) for t in _linear(first, last) if t == int(t))}
        shown = [(epoch - first, str(epoch)) for epoch in sorted(whole)]
    else:
        # (A letter is about 7 units wide.)
        longest = max((right - left) // (7 * count), 2)
        shown = [(place, shorten(name, longest)) for place, name in enumerate(names)]
    found = []
    for place, words in shown:
        # (A name at the right edge ends there.)
        anchor = "end" if names is not None and place == count - 1 > 0 else "middle"
        found.append({"words": words, "x": x(place), "anchor": anchor})
    return found


def map_of(places: Mapping[str, Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Returns the positions of points in a square map.

    Args:
      places: Places in the plane, one or more by name.

    Returns:
      `size`, and `points`: the positions by name.
    """
    every = [place for own in places.values() for place in own]
    middles = [(max(of) + min(of)) / 2 for of in zip(*every, strict=True)]
    half = max((max(of) - min(of)) / 2 for of in zip(*every, strict=True)) or 1.0
    scale = (MAP / 2 - 16) / half

    def position(place):
        x, y = (scale * (at - m) for at, m in zip(place, middles, strict=True))
        return round(MAP / 2 + x, 1), round(MAP / 2 - y, 1)

    return {
        "size": MAP,
        "points": {name: [*map(position, own)] for name, own in places.items()},
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
