"""Draws stimuli and RDMs in a plane, by multidimensional scaling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rdljax.plots import _matrices, _style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Scaling = Callable[[np.ndarray], np.ndarray]


def classical_mds(distances: npt.ArrayLike, *, dimensions: int = 2) -> np.ndarray:
    """Returns places whose squared distances are close to given ones.

    By classical scaling: the same result for the same distances, whatever the seed.
    `SquaredEuclidean`, `MeanSquared`, `Mahalanobis`, `Cosine` and `Correlation` are
    squared distances of some points, up to a factor. Other distances, such as
    `Euclidean`, are squared first: `classical_mds(np.square(distances))`.

    Args:
      distances: An RDM of squared distances, `[pairs]` or `[n, n]`. The mean of the
        others takes the place of NaN. Negative (crossvalidated) ones are allowed.
      dimensions: Number of coordinates.

    Returns:
      Places `[n, dimensions]`, whose mean is 0, in the order of the variance of the
      coordinates. In each coordinate the place furthest from 0 is positive. A
      coordinate for which the distances leave no variance is 0.

    Raises:
      ValueError: The array is not an RDM, or has fewer stimuli than `dimensions`.

    References:
      Torgerson, Multidimensional scaling: I. Theory and method, Psychometrika 17, 1952.
    """
    from scipy.spatial import distance

    x = _matrices.condensed("classical_mds", distances)
    square = distance.squareform(np.where(np.isnan(x), np.nanmean(x), x))
    n = len(square)
    if not 1 <= dimensions <= n:
        raise ValueError(
            f"classical_mds takes 1 to {n} dimensions for {n} stimuli: got {dimensions}"
        )
    centre = np.eye(n) - 1 / n
    # (scikit-learn's `ClassicalMDS` takes square roots, which fails for negative
    # distances, and its `KernelPCA` refuses negative eigenvalues.)
    values, vectors = np.linalg.eigh(-centre @ square @ centre / 2)
    values, vectors = values[::-1][:dimensions], vectors[:, ::-1][:, :dimensions]
    places = vectors * np.sqrt(np.maximum(values, 0))
    furthest = np.abs(places).argmax(axis=0)
    return places * np.where(places[furthest, np.arange(dimensions)] < 0, -1, 1)


def align(places: npt.ArrayLike, reference: npt.ArrayLike) -> np.ndarray:
    """Rotates and reflects places to be as close to others as possible.

    Args:
      places: Places `[n, dimensions]`.
      reference: Where they should be, `[n, dimensions]`.

    Returns:
      The new places `[n, dimensions]`, with the reference's mean and its sum of
      squared distances from it.

    Raises:
      ValueError: The shapes differ.
    """
    from scipy import linalg

    x, y = np.asarray(places, np.float64), np.asarray(reference, np.float64)
    if x.shape != y.shape or x.ndim != 2:
        raise ValueError(
            f"align takes places [n, dimensions], twice: got {x.shape} and {y.shape}"
        )
    x, mean = x - x.mean(axis=0), y.mean(axis=0)
    rotation, _ = linalg.orthogonal_procrustes(x, y - mean)
    scale = np.linalg.norm(y - mean) / (np.linalg.norm(x) or 1)
    return scale * x @ rotation + mean


def cut_out(image: np.ndarray, *, tolerance: int = 11) -> np.ndarray:
    """Returns an image that is transparent where it has the colour of its corner.

    Args:
      image: An image, uint8 `[height, width, 3]` or `[height, width, 1]`.
      tolerance: Largest difference from the corner's colour, in any channel, of pixels
        that become transparent; from 0 to 255.

    Returns:
      An RGBA image, uint8 `[height, width, 4]`.

    Raises:
      ValueError: The shape or the type is another.
    """
    image = np.asarray(image)
    if image.ndim != 3 or image.shape[-1] not in (1, 3) or image.dtype != np.uint8:
        raise ValueError(
            "cut_out takes an image, uint8 [height, width, 1 or 3]: got "
            f"{image.dtype} {image.shape}"
        )
    pixels = np.broadcast_to(image, (*image.shape[:2], 3))
    difference = np.abs(pixels.astype(int) - pixels[0, 0].astype(int)).max(axis=-1)
    alpha = np.where(difference <= tolerance, 0, 255)
    return np.dstack([pixels, alpha.astype(np.uint8)])


def draw_mds(
    distances: npt.ArrayLike,
    axes: Axes | None = None,
    *,
    labels: Sequence[Any] | np.ndarray | None = None,
    images: Sequence[np.ndarray] | np.ndarray | None = None,
    scaling: Scaling = classical_mds,
) -> Axes:
    """Draws the stimuli of an RDM in a plane: similar ones are close together.

    Args:
      distances: An RDM, `[pairs]` or `[n, n]`.
      axes: The panel; None: a new figure.
      labels: As in `draw_points`.
      images: As in `draw_points`.
      scaling: A function of `[pairs]` that returns places `[n, 2]`.

    Returns:
      The panel.

    Raises:
      ValueError: The array is not an RDM, or the number of labels or images is another.
    """
    places = scaling(_matrices.condensed("draw_mds", distances))
    return draw_points(places, axes, labels=labels, images=images)


def draw_points(
    places: npt.ArrayLike,
    axes: Axes | None = None,
    *,
    labels: Sequence[Any] | np.ndarray | None = None,
    images: Sequence[np.ndarray] | np.ndarray | None = None,
    size: float = 0.06,
) -> Axes:
    """Draws stimuli at given places, with the same scale in both directions.

    Args:
      places: Places of the stimuli `[n, 2]`.
      axes: The panel; None: a new figure.
      labels: Classes `[n]`, as colours (after seven classes, also other shapes), with a
        legend. With images: the colours of their frames.
      images: Thumbnails in place of points, `[n]` of `[height, width]` (grey) or
        `[height, width, 3 or 4]`: uint8, or floats from 0 to 1.
      size: Longer side of a thumbnail, relative to that of the picture.

    Returns:
      The panel.

    Raises:
      ValueError: The places are not `[n, 2]`, or the number of labels or images is
        another.
    """
    x = np.asarray(places, np.float64)
    counts = [None if given is None else len(given) for given in (labels, images)]
    if x.ndim != 2 or x.shape[1] != 2 or any(n not in (None, len(x)) for n in counts):
        raise ValueError(
            f"draw_points takes places [n, 2], n labels and n images: got {x.shape}, "
            f"{counts[0]} labels and {counts[1]} images"
        )
    axes = _style.panel(axes, (4.4, 4))
    style: dict[str, Any]
    if images is None:
        for colour, marker, name, members in _classes(len(x), labels):
            style = {"color": colour, "marker": marker, "linewidths": 0, "label": name}
            axes.scatter(x[members, 0], x[members, 1], s=22, alpha=0.85, **style)
        axes.margins(0.07)
    else:
        frames = _draw_thumbnails(axes, x, images, size * np.ptp(x, axis=0).max())
        classes = () if labels is None else _classes(len(x), labels)
        for colour, _, name, members in classes:
            left, bottom, width, height = frames[members].T
            style = {"align": "edge", "edgecolor": colour, "fill": False}
            axes.bar(left, height, width, bottom, label=name, **style)
    _hide_scales(axes)
    if labels is not None:
        _style.legend(axes)
    return axes


def draw_rdm_map(
    rdms: Mapping[str, npt.ArrayLike],
    axes: Axes | None = None,
    *,
    layers: Sequence[str] | None = None,
    scaling: Scaling = classical_mds,
) -> Axes:
    """Draws several RDMs in a plane: those that correlate are close together.

    The distance of two RDMs is one minus Pearson's correlation. The layers of a net are
    joined by a line and numbered from 1.

    Args:
      rdms: For each name, one condensed RDM `[pairs]` or those of several layers
        `[layers, pairs]`, in the order of their depth; all of the same stimuli.
      axes: The panel; None: a new figure.
      layers: Names of the layers, which are written below the panel.
      scaling: A function of distances `[pairs]` that returns places `[n, 2]`.

    Returns:
      The panel.

    Raises:
      ValueError: The shapes are others, or there are fewer than three RDMs.
    """
    stacks = {name: np.asarray(x, np.float64) for name, x in rdms.items()}
    shapes = [x.shape for x in stacks.values()]
    pairs = {shape[-1] for shape in shapes if len(shape) in (1, 2)}
    wrong = len(pairs) != 1 or any(len(shape) not in (1, 2) for shape in shapes)
    if wrong or sum(len(np.atleast_2d(x)) for x in stacks.values()) < 3:
        raise ValueError(
            "draw_rdm_map takes three or more RDMs [pairs] or [layers, pairs] of the "
            f"same stimuli: got {shapes}"
        )
    every = np.concatenate([np.atleast_2d(x) for x in stacks.values()])
    distances = 1 - _matrices.correlate_rdms(every, every)
    places = scaling(_matrices.condensed("draw_rdm_map", distances))
    axes = _style.panel(axes, (4.8, 4))
    ends = np.cumsum([len(np.atleast_2d(x)) for x in stacks.values()])
    each = zip(stacks, np.split(places, ends[:-1]), strict=True)
    for i, (name, own) in enumerate(each):
        _draw_layers(axes, own, name, i)
    axes.margins(0.1)
    _hide_scales(axes)
    if layers is not None:
        words = ", ".join(f"{i} {layer}" for i, layer in enumerate(layers, 1))
        axes.set_xlabel(words, fontsize=_style.SMALL)
    _style.legend(axes)
    return axes


def _draw_layers(axes: Axes, places: np.ndarray, name: str, i: int) -> None:
    """Draws the layers of the net number i, joined and numbered from 1."""
    several = len(places) > 1
    cycle, colour = divmod(i, len(_style.COLOURS))
    style: dict[str, Any] = {
        "color": _style.COLOURS[colour],
        "marker": _style.MARKERS[cycle % len(_style.MARKERS)],
        "markersize": 10 if several else 8,
        "linewidth": 1.6,
        "zorder": 2 + i,
    }
    axes.plot(*places.T, label=name, **style)
    text: dict[str, Any] = {"ha": "center", "va": "center", "color": "white"}
    for depth, place in enumerate(places if several else (), 1):
        words = str(depth)
        axes.annotate(words, place, fontsize=_style.SMALL, zorder=2 + i, **text)


def _hide_scales(axes: Axes) -> None:
    """Gives both axes the same scale, without numbers."""
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xticks([])
    axes.set_yticks([])


def _classes(count: int, labels) -> Iterator[tuple[str, str, str | None, np.ndarray]]:
    """Yields the colour, shape and name of each class, and which stimuli it has."""
    if labels is None:
        yield _style.COLOURS[2], _style.MARKERS[0], None, np.arange(count)
        return
    names, members = np.unique(np.asarray(labels), return_inverse=True)
    for i, name in enumerate(names):
        cycle, colour = divmod(i, len(_style.COLOURS))
        marker = _style.MARKERS[cycle % len(_style.MARKERS)]
        yield _style.COLOURS[colour], marker, str(name), np.flatnonzero(members == i)


def _draw_thumbnails(axes: Axes, places, images, side: float) -> np.ndarray:
    """Draws images; returns their left and lower edges, widths and heights `[n, 4]`."""
    side = side or 1.0  # (All places may be the same.)
    frames = []
    for image, (x, y) in zip(images, places, strict=True):
        pixels = np.asarray(image)
        if pixels.ndim == 3 and pixels.shape[-1] == 1:
            pixels = pixels[..., 0]
        height, width = side * np.array(pixels.shape[:2]) / max(pixels.shape[:2])
        left, bottom = x - width / 2, y - height / 2
        largest = 255 if pixels.dtype == np.uint8 else 1
        grey: dict[str, Any] = (
            {"cmap": "gray", "vmin": 0, "vmax": largest} if pixels.ndim == 2 else {}
        )
        extent = (left, left + width, bottom, bottom + height)
        axes.imshow(pixels, extent=extent, zorder=2, **grey)
        frames.append((left, bottom, width, height))
    axes.use_sticky_edges = False  # (Images have no margins otherwise.)
    axes.margins(0.03)
    return np.array(frames)
