"""Holds what the figures have in common: colours, sizes of text, new panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rdljax import _extras

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can distinguish, too.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Shapes of points, for what comes after seven colours.
MARKERS = "osD^v*P"
# Of names below an axis, in points; titles and labels of axes are larger.
SMALL, NORMAL = 8, 9
# Of pairs that were not measured, and of noise ceilings.
GREY = "0.88"


def new_figure(size: tuple[float, float]) -> Figure:
    """Returns a new figure of pyplot.

    Args:
      size: Its width and height in inches.

    Raises:
      MissingPackage: matplotlib is not installed.
    """
    with _extras.needed("matplotlib", "rdljax.plots"):
        from matplotlib import pyplot as plt
    return plt.figure(figsize=size, layout="constrained", facecolor="white")


def panel(axes: Axes | None, size: tuple[float, float]) -> Axes:
    """Returns the axes, or those of a new figure of this size if they are None."""
    return new_figure(size).subplots() if axes is None else axes


def tidy(axes: Axes, grid: str) -> None:
    """Takes away two of the frame's sides; draws faint lines across the axis `grid`."""
    axes.grid(axis=grid, alpha=0.25, linewidth=0.5)  # type: ignore[arg-type]
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=SMALL)


def name_ticks(
    axes: Axes, places: Sequence[float] | np.ndarray, names: Sequence[Any] | np.ndarray
) -> None:
    """Names places on the x axis, upright if the names do not fit side by side."""
    words = [str(name) for name in names]
    lengths = np.array([len(word) + 1 for word in words if word])
    at = [place for place, word in zip(places, words, strict=True) if word]
    # About 16 characters of the smaller size are an inch wide.
    width = 16 * axes.get_window_extent().width / axes.figure.dpi
    low, high = axes.get_xlim()
    free = np.diff(at) * width / (high - low)
    crowded = (free < (lengths[1:] + lengths[:-1]) / 2).any()
    axes.set_xticks(places, words, fontsize=SMALL, rotation=90 if crowded else 0)


def legend(axes: Axes) -> None:
    """Places the legend to the right of the panel."""
    axes.legend(
        loc="upper left",
        bbox_to_anchor=(1, 1),
        frameon=False,
        fontsize=SMALL,
        borderaxespad=0.2,
    )
