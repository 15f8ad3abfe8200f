"""Draws matrices: RDMs and similarities of layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rdljax import rdm
from rdljax.plots import _style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

Transform = Callable[[np.ndarray], np.ndarray]
# Up to these numbers, groups of stimuli have names, and cells of a heat map values.
NAMED_GROUPS, WRITTEN_CELLS = 20, 150


def condensed(name: str, distances: npt.ArrayLike) -> np.ndarray:
    """Converts an RDM `[pairs]` or `[n, n]` to `[pairs]`, float64.

    Raises:
      ValueError: Another shape, a matrix that is not symmetric, or no number.
    """
    x = np.asarray(distances, np.float64)
    if x.ndim == 2 and x.shape[0] == x.shape[1] >= 2:
        upper = np.triu_indices(len(x), 1)
        if not np.allclose(x[upper], x.T[upper], equal_nan=True):
            raise ValueError(f"{name} takes a symmetric RDM, this {x.shape} is not")
        x = x[upper]
    if x.ndim != 1:
        raise ValueError(f"{name} takes an RDM [pairs] or [n, n]: got {x.shape}")
    rdm.stimuli(x.size)
    if not np.isfinite(x).any():
        raise ValueError(f"{name} takes an RDM with a finite distance: got none")
    return np.where(np.isfinite(x), x, np.nan)


def percentiles(distances: npt.ArrayLike) -> np.ndarray:
    """Returns the percentile of each distance: 100 times its rank, over their number.

    Equal distances have their mean rank; NaN stays NaN.

    Args:
      distances: An RDM, `[pairs]` or `[n, n]`.

    Returns:
      Percentiles `[pairs]`, above 0 and up to 100.

    Raises:
      ValueError: The array is not an RDM.

    References:
      Nili, Wingfield, Walther, Su, Marslen-Wilson & Kriegeskorte, A toolbox for
      representational similarity analysis, PLoS Computational Biology 10, 2014.
    """
    from scipy import stats

    x = condensed("percentiles", distances)
    return 100 * stats.rankdata(x, nan_policy="omit") / np.isfinite(x).sum()


def correlate_rdms(first: npt.ArrayLike, second: npt.ArrayLike) -> np.ndarray:
    """Computes Pearson's correlation of each RDM of one list with each of another.

    Args:
      first: Condensed RDMs `[a, pairs]`.
      second: Condensed RDMs `[b, pairs]` of the same stimuli.

    Returns:
      Correlations `[a, b]`. Pairs with NaN in either RDM are left out; the correlation
      with a constant RDM is NaN.

    Raises:
      ValueError: The shapes are others.
    """
    rows, columns = np.asarray(first), np.asarray(second)
    if rows.ndim != 2 or columns.ndim != 2 or rows.shape[1] != columns.shape[1]:
        raise ValueError(
            f"correlate_rdms takes RDMs [a, pairs] and [b, pairs]: got {rows.shape} "
            f"and {columns.shape}"
        )
    (x, in_x), (y, in_y) = _centred(rows), _centred(columns)
    # Means over the pairs that both RDMs have.
    with np.errstate(invalid="ignore", divide="ignore"):
        pairs = in_x @ in_y.T
        mean_x, mean_y = x @ in_y.T / pairs, in_x @ y.T / pairs
        variance_x = _variance(x**2 @ in_y.T / pairs, mean_x)
        variance_y = _variance(in_x @ (y**2).T / pairs, mean_y)
        covariance = x @ y.T / pairs - mean_x * mean_y
        correlations = covariance / np.sqrt(variance_x * variance_y)
    return np.clip(correlations, -1, 1)


def _centred(rdms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns RDMs of mean 0 and maximum 1, 0 for NaN, and which pairs are known."""
    x = np.where(known := np.isfinite(rdms), rdms, 0).astype(np.float64)
    x, counts = _to_maximum_1(x), np.maximum(known.sum(axis=1, keepdims=True), 1)
    x = np.where(known, x - x.sum(axis=1, keepdims=True) / counts, 0)
    # (Of a constant RDM only rounding is left.)
    x = np.where(np.abs(x).max(axis=1, keepdims=True, initial=0) < 1e-13, 0, x)
    return _to_maximum_1(x), known.astype(np.float64)


def _to_maximum_1(x: np.ndarray) -> np.ndarray:
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0)
    return x / np.where(largest == 0, 1, largest)


def _variance(mean_of_squares: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Returns variances, NaN for those that are not more than rounding."""
    variance = mean_of_squares - mean**2
    return np.where(variance > 1e-14 * mean_of_squares, variance, np.nan)


def draw_rdm(
    distances: npt.ArrayLike,
    axes: Axes | None = None,
    *,
    labels: Sequence[Any] | np.ndarray | None = None,
    transform: Transform | None = percentiles,
    limits: tuple[float, float] | None = None,
    colour_bar: bool = True,
) -> Axes:
    """Draws an RDM as a matrix of colours; pairs that were not measured are grey.

    Args:
      distances: An RDM, `[pairs]` or `[n, n]`.
      axes: The panel; None: a new figure.
      labels: The class or name of each stimulus `[n]`. Neighbours with the same label
        are a group, with lines around it and its name once (up to 20 groups).
      transform: A function of `[pairs]` that is applied before drawing. None: the
        distances themselves.
      limits: The smallest and the largest value on the scale of colours. None: 0 to 100
        for percentiles, otherwise all values and 0.
      colour_bar: Whether to add the scale of colours.

    Returns:
      The panel.

    Raises:
      ValueError: The array is not an RDM, or the number of labels is another.
    """
    (shown,), limits = _shown("draw_rdm", [distances], transform, limits)
    _check_labels("draw_rdm", shown, labels)
    axes = _style.panel(axes, (4, 3.3))
    image = _draw(axes, shown, labels, limits)
    if colour_bar:
        _add_colour_bar(axes.figure, image, axes, transform)
    return axes


def draw_rdms(
    *rows: Mapping[str, npt.ArrayLike],
    names: Sequence[str] | None = None,
    labels: Sequence[Any] | np.ndarray | None = None,
    transform: Transform | None = percentiles,
    limits: tuple[float, float] | None = None,
    reference: str | None = None,
    size: float = 2.1,
) -> Figure:
    """Draws RDMs of the same stimuli side by side, on one scale of colours.

    Args:
      *rows: For each row of panels, RDMs by their titles, as in `draw_rdm`.
      names: Names of the rows, such as layers.
      labels: The class or name of each stimulus `[n]`, as in `draw_rdm`.
      transform: As in `draw_rdm`.
      limits: As in `draw_rdm`.
      reference: The title of the RDM whose correlation (Pearson's, over the distances
        themselves) with each other RDM of its row is written below that.
      size: The side of a panel in inches.

    Returns:
      A new figure.

    Raises:
      ValueError: There is no RDM, an array is not an RDM, or RDMs, labels, names or
        `reference` do not fit together.
    """
    given = [distances for row in rows for distances in row.values()]
    if not given or (names is not None and len(names) != len(rows)):
        raise ValueError(
            f"draw_rdms takes RDMs, and a name for each row: got {len(given)} RDMs in "
            f"{len(rows)} rows, and the names {names}"
        )
    if reference is not None and any(reference not in row for row in rows):
        titles = [list(row) for row in rows]
        raise ValueError(f"draw_rdms has no reference {reference!r} in {titles}")
    shown, limits = _shown("draw_rdms", given, transform, limits)
    _check_labels("draw_rdms", shown[0], labels)
    if len({x.size for x in shown}) > 1:
        raise ValueError(
            f"draw_rdms takes RDMs of the same stimuli: got {[x.size for x in shown]} "
            "pairs"
        )
    most = max(map(len, rows))
    height = (size + 0.45 + 0.2 * (reference is not None)) * len(rows)
    figure = _style.new_figure(((size + 0.2) * most + 0.8, height))
    panels = figure.subplots(len(rows), most, squeeze=False)
    values = iter(shown)
    for place, row in enumerate(rows):
        for axes, title in zip(panels[place], row, strict=False):
            image = _draw(axes, next(values), labels, limits)
            axes.set_title(title, fontsize=_style.NORMAL)
            if reference is not None and title != reference:
                pair = ([condensed("", row[name])] for name in (title, reference))
                r = correlate_rdms(*pair).item()
                axes.set_xlabel(f"r = {r:.2f}", fontsize=_style.NORMAL)
        for axes in panels[place, len(row) :]:
            axes.set_axis_off()
        if names is not None:
            panels[place, 0].set_ylabel(names[place], fontsize=_style.NORMAL)
    _add_colour_bar(figure, image, panels, transform)
    return figure


def draw_similarity(
    values: npt.ArrayLike,
    axes: Axes | None = None,
    *,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    limits: tuple[float, float] = (0, 1),
    label: str = "correlation of RDMs",
) -> Axes:
    """Draws a heat map, such as the similarity of each layer of a net with another's.

    Up to 150 cells have their value in them, with two decimals.

    Args:
      values: Similarities `[rows, columns]`; NaN is grey.
      axes: The panel; None: a new figure.
      rows: Names of the rows.
      columns: Names of the columns.
      limits: The smallest and the largest value on the scale of colours.
      label: Name of the values.

    Returns:
      The panel.

    Raises:
      ValueError: The array is not a matrix, or the number of names is another.
    """
    x = np.asarray(values, np.float64)
    sizes = [None if names is None else len(names) for names in (rows, columns)]
    if (
        x.ndim != 2
        or not x.size
        or any(n not in (None, m) for n, m in zip(sizes, x.shape, strict=True))
    ):
        raise ValueError(
            "draw_similarity takes a matrix [rows, columns] and a name for each row "
            f"and column: got {x.shape} and {sizes} names"
        )
    height, width = (0.5 + 0.5 * min(n, 14) for n in x.shape)
    axes = _style.panel(axes, (width + 1.9, height + 0.6))
    image = _imshow(axes, x, limits)
    if x.size <= WRITTEN_CELLS:
        brightness = image.to_rgba(x)[..., :3] @ np.array([0.3, 0.6, 0.1])
        style: dict[str, Any] = {"ha": "center", "va": "center"}
        style["fontsize"] = _style.SMALL
        for row, column in np.argwhere(np.isfinite(x)):
            colour = "black" if brightness[row, column] > 0.5 else "white"
            words = f"{x[row, column]:.2f}"
            axes.text(column, row, words, color=colour, **style)
    axes.tick_params(length=0, labelsize=_style.SMALL)
    if columns is not None:
        _style.name_ticks(axes, range(len(columns)), columns)
    if rows is not None:
        axes.set_yticks(range(len(rows)), rows)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label(label, fontsize=_style.SMALL)
    bar.ax.tick_params(labelsize=_style.SMALL)
    return axes


def _shown(name, given, transform, limits):
    """Returns what is drawn of each RDM, and the limits of the colours for all."""
    shown = [condensed(name, distances) for distances in given]
    if transform is not None:
        shown = [transform(x) for x in shown]
    if limits is None and transform is percentiles:
        limits = 0, 100
    if limits is None:
        low, high = (f([f(x) for x in shown]) for f in (np.nanmin, np.nanmax))
        limits = min(low, 0), max(high, 0)
    return shown, limits


def _check_labels(name, shown, labels):
    if labels is not None and np.shape(labels) != (n := rdm.stimuli(shown.size),):
        raise ValueError(
            f"{name} takes a label for each of {n} stimuli: got {np.shape(labels)}"
        )


def _draw(axes: Axes, shown: np.ndarray, labels, limits) -> AxesImage:
    from scipy.spatial import distance

    image = _imshow(axes, distance.squareform(shown, checks=False), limits)
    axes.set_xticks([])
    axes.set_yticks([])
    if labels is not None:
        labels = np.asarray(labels)
        starts = np.flatnonzero(np.r_[True, labels[1:] != labels[:-1]])
        ends = np.r_[starts[1:], len(labels)]
        few = len(starts) <= NAMED_GROUPS
        names = [labels[i] if few else "" for i in starts]
        middles = (starts + ends) / 2 - 0.5
        if few and len(starts) < len(labels):
            lines: dict[str, Any] = {"color": "white", "linewidth": 0.6}
            for start in starts[1:]:
                axes.axvline(start - 0.5, **lines)
                axes.axhline(start - 0.5, **lines)
        _style.name_ticks(axes, middles, names)
        axes.set_yticks(middles, names, fontsize=_style.SMALL)
        axes.tick_params(length=0, pad=2)
    return image


def _imshow(axes: Axes, values: np.ndarray, limits) -> AxesImage:
    low, high = limits
    axes.set_facecolor(_style.GREY)
    return axes.imshow(
        np.ma.masked_invalid(values), cmap="viridis", vmin=low, vmax=high
    )


def _add_colour_bar(figure, image, axes, transform) -> None:
    words = {None: "distance", percentiles: "percentile of the distance"}
    several = isinstance(axes, np.ndarray)
    bar = figure.colorbar(image, ax=axes, shrink=0.6 if several else 0.8, pad=0.02)
    bar.set_label(words.get(transform, "transformed distance"), fontsize=_style.SMALL)
    bar.ax.tick_params(labelsize=_style.SMALL)
