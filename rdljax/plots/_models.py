"""Draws comparisons of models, and values over layers or epochs."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from rdljax.plots import _style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Interval = tuple[float, float]


class Comparison(Protocol):
    """What `draw_comparison` needs of an `inference.ModelComparison`."""

    comparison: str
    values: Mapping[str, float]
    ceiling: Interval

    def intervals(self) -> Mapping[str, Interval]:
        """Returns the interval of each model's value."""

    def test_above_zero(self) -> Mapping[str, float]:
        """Returns the p value of each model."""

    def test_pairs(self) -> Mapping[tuple[str, str], float]:
        """Returns the p value of every two models."""


def full_range(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the smallest and the largest value over seeds; `[seeds, n]` to `[n]`."""
    x = np.ma.masked_invalid(values)
    return x.min(axis=0).filled(np.nan), x.max(axis=0).filled(np.nan)


def t_interval(
    values: np.ndarray, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the two ends of Student's t interval of the mean over seeds.

    Args:
      values: Values `[seeds, n]` of two seeds or more.
      confidence: Confidence level of the interval.

    Returns:
      Two arrays `[n]`.
    """
    from scipy import stats

    seeds = len(values)
    half = stats.t.ppf((1 + confidence) / 2, seeds - 1) * stats.sem(values, axis=0)
    mean = np.mean(values, axis=0)
    return mean - half, mean + half


def draw_models(
    values: Mapping[str, npt.ArrayLike],
    axes: Axes | None = None,
    *,
    intervals: Mapping[str, Interval] | None = None,
    ceiling: Interval | None = None,
    marks: Mapping[str, str] | None = None,
    brackets: Sequence[tuple[str, str, str]] = (),
    label: str = "similarity",
) -> Axes:
    """Draws models side by side: their value, its interval and the noise ceiling.

    Which differences are significant is up to the caller, who gives marks and brackets:
    see `statistics.holm`, `paired_difference` and `mcnemar`.

    Args:
      values: For each model a value, or one for each seed or subject `[seeds]`: these
        are small points beside their mean.
      axes: The panel; None: a new figure.
      intervals: The two ends of each model's interval, as of `statistics.bootstrap`.
      ceiling: The lower and the upper bound of the noise ceiling, a grey band: see
        `statistics.noise_ceiling`.
      marks: Text above models, such as "*".
      brackets: Two models and the text above the line that joins them, such as
        ``("plain", "rdl", "p = 0.01")``.
      label: Name of the values.

    Returns:
      The panel.

    Raises:
      ValueError: There is no model, a value has another shape, or a mark, an interval
        or a bracket is of a model without a value.
    """
    points = {name: np.atleast_1d(np.asarray(x, float)) for name, x in values.items()}
    named = [*(intervals or ()), *(marks or ())]
    named += [name for bracket in brackets for name in bracket[:2]]
    shapes = {name: x.shape for name, x in points.items()}
    if not points or any(len(s) != 1 or not s[0] for s in shapes.values()):
        raise ValueError(f"draw_models takes numbers or arrays [seeds]: got {shapes}")
    if unknown := [name for name in named if name not in points]:
        raise ValueError(f"draw_models has no values of {unknown}: got {shapes}")
    axes = _style.panel(axes, (0.75 * len(points) + 1.2, 3.2))
    if ceiling is not None:
        _draw_ceiling(axes, ceiling)
    tops = {}
    for place, (name, own) in enumerate(points.items()):
        interval = (intervals or {}).get(name, (np.nan, np.nan))
        tops[name] = _draw_model(axes, place, own, interval)
        if marks and name in marks and np.isfinite(tops[name]):
            _write_above(axes, marks[name], (place, tops[name]), 3)
    _style.name_ticks(axes, range(len(points)), list(points))
    axes.set_xlim(-0.5, len(points) - 0.5)
    axes.set_ylabel(label, fontsize=_style.NORMAL)
    _style.tidy(axes, "y")
    axes.tick_params(axis="x", length=0)
    _draw_brackets(axes, list(points), tops, brackets, bool(marks), ceiling)
    return axes


def draw_comparison(
    result: Comparison, axes: Axes | None = None, *, alpha: float = 0.05
) -> Axes:
    """Draws the result of `inference.compare_models`.

    Lines are 95 % intervals, and the band is the noise ceiling. A star is above each
    model whose value is above 0, and a bracket joins every two models that differ, each
    with p < `alpha` after Holm's correction.

    Args:
      result: An `inference.ModelComparison`.
      axes: The panel; None: a new figure.
      alpha: Level of significance.

    Returns:
      The panel.
    """
    above, pairs = result.test_above_zero(), result.test_pairs()
    return draw_models(
        result.values,
        axes,
        intervals=result.intervals(),
        ceiling=result.ceiling if np.isfinite(result.ceiling).all() else None,
        marks={name: "*" for name, p in above.items() if p < alpha},
        brackets=[(*two, _in_words(p)) for two, p in pairs.items() if p < alpha],
        label=f"similarity ({result.comparison})",
    )


def _in_words(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.1g}"


def draw_curves(
    values: Mapping[str, npt.ArrayLike],
    axes: Axes | None = None,
    *,
    places: Sequence[Any] | np.ndarray | None = None,
    band: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] = full_range,
    ceiling: Interval | None = None,
    styles: Mapping[str, Mapping[str, Any]] | None = None,
    label: str = "",
    legend: bool = True,
) -> Axes:
    """Draws values over layers or epochs: a line for each method, the mean over seeds.

    Args:
      values: For each method, `[places]` or `[seeds, places]`. NaN is left out. A
        method with fewer places than others has the first of them.
      axes: The panel; None: a new figure.
      places: Names of the layers, or numbers such as epochs; None: 0, 1, ...
      band: A function of `[seeds, places]` that returns the two edges of the band
        around each line, such as `full_range` or `t_interval`. (One seed has none.)
      ceiling: The lower and the upper bound of the noise ceiling, a grey band.
      styles: Properties of the line, by method: ``{"teacher": {"linestyle": "--"}}``.
      label: Name of the values.
      legend: Whether to add a legend.

    Returns:
      The panel.

    Raises:
      ValueError: There is no method, or a shape does not fit the others.
    """
    lines: dict[str, Any] = {
        name: np.atleast_2d(np.asarray(x, float)) for name, x in values.items()
    }
    shapes = {name: np.shape(x) for name, x in values.items()}
    count = max((x.shape[-1] for x in lines.values()), default=0)
    x = np.arange(count) if places is None else np.asarray(places)
    if not count or x.shape != (count,) or any(y.ndim != 2 for y in lines.values()):
        raise ValueError(
            "draw_curves takes values [places] or [seeds, places], and the places of "
            f"the longest: got {shapes} and places of shape {x.shape}"
        )
    numbers = np.issubdtype(x.dtype, np.number)
    across = x if numbers else np.arange(count)
    axes = _style.panel(axes, (4.6, 3.1))
    if ceiling is not None:
        colour: dict[str, Any] = {"color": _style.GREY, "linewidth": 0, "zorder": 0}
        axes.axhspan(*ceiling, label="noise ceiling", **colour)
    colours = itertools.cycle(_style.COLOURS)
    for name, own in lines.items():
        style: dict[str, Any] = {"linewidth": 1.6, "markersize": 5}
        style |= (styles or {}).get(name, {})
        if "color" not in style:
            style["color"] = next(colours)
        if not numbers or own.shape[1] == 1:  # (One epoch makes no line.)
            style.setdefault("marker", "o")
        edges = band(own) if len(own) > 1 else None
        _draw_line(axes, across[: own.shape[1]], own, edges, label=name, **style)
    if numbers:
        if np.issubdtype(x.dtype, np.integer):
            axes.locator_params(axis="x", integer=True, min_n_ticks=1)
    else:
        axes.set_xlim(-0.3, count - 0.7)
        _style.name_ticks(axes, across, x)
    axes.set_ylabel(label, fontsize=_style.NORMAL)
    _style.tidy(axes, "both")
    if legend:
        _style.legend(axes)
    return axes


def _draw_ceiling(axes: Axes, ceiling: Interval) -> None:
    axes.axhspan(*ceiling, color=_style.GREY, linewidth=0, zorder=0)
    style: dict[str, Any] = {"color": "0.4", "fontsize": _style.SMALL}
    # In points from the left edge of the panel, above the band.
    style |= {"xycoords": axes.get_yaxis_transform(), "textcoords": "offset points"}
    axes.annotate("noise ceiling", (0, ceiling[1]), xytext=(3, 1), **style)


def _draw_model(axes: Axes, place: int, values: np.ndarray, interval: Interval):
    """Draws values, their mean and its interval; returns the highest point of them."""
    colour = _style.COLOURS[place % len(_style.COLOURS)]
    axes.plot([place, place], interval, color=colour, linewidth=2, zorder=2)
    mean = np.ma.filled(np.ma.masked_invalid(values).mean(), np.nan)
    axes.plot(place, mean, "o", color=colour, markersize=7, zorder=3)
    if len(values) > 1:
        beside = np.full(len(values), place + 0.18)
        axes.plot(beside, values, ".", color=colour, alpha=0.5, markersize=5)
    heights = [y for y in (*values, interval[1]) if np.isfinite(y)]
    return max(heights, default=-np.inf)


def _draw_line(axes: Axes, across, values, edges, **style: Any) -> None:
    """Draws the mean of values `[seeds, n]`, and a band between two edges `[n]`."""
    mean = np.ma.masked_invalid(values).mean(axis=0).filled(np.nan)
    axes.plot(across, mean, **style)
    if edges is not None:
        faint: dict[str, Any] = {"alpha": 0.15, "linewidth": 0}
        axes.fill_between(across, *edges, color=style["color"], **faint)


def _write_above(axes: Axes, words: str, place, points: float) -> None:
    """Writes words some points above a place."""
    style: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": _style.SMALL}
    axes.annotate(words, place, xytext=(0, points), textcoords="offset points", **style)


def _draw_brackets(axes, names, tops, brackets, marked, ceiling) -> None:
    """Draws brackets above all values, the shorter ones first, none over another."""
    low, high = axes.get_ylim()
    step = 0.09 * (high - low)
    top = max([low, *tops.values(), *(ceiling or ())])
    start = top + step * (0.5 + 0.8 * marked + 0.7 * (ceiling is not None))
    taken: list[list[tuple[int, int]]] = []
    spans = [
        (*sorted((names.index(a), names.index(b))), words) for a, b, words in brackets
    ]
    for first, last, words in sorted(spans, key=lambda span: span[1] - span[0]):
        free = (all(last < a or b < first for a, b in row) for row in [*taken, []])
        level = next(i for i, is_free in enumerate(free) if is_free)
        if level == len(taken):
            taken.append([])
        taken[level].append((first, last))
        height = start + 1.3 * step * level
        ends = [height - step / 4, height, height, height - step / 4]
        across = [first + 0.08, first + 0.08, last - 0.08, last - 0.08]
        axes.plot(across, ends, color="0.3", linewidth=0.8)
        _write_above(axes, words, ((first + last) / 2, height), 1)
    if taken:
        # The scale ends below the brackets, which have no value.
        axes.set_yticks([tick for tick in axes.get_yticks() if low <= tick <= high])
        axes.spines["left"].set_bounds(low, high)
    if taken or marked or ceiling is not None:
        axes.set_ylim(low, max(high, start + 1.3 * step * len(taken)))
