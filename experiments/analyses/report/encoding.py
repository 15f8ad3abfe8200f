"""Encodes arrays for the script of a page."""

import base64
import functools
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

OVER_SEEDS: dict[str, Callable[..., np.ndarray]] = {
    "mean": np.mean,
    "low": np.min,
    "high": np.max,
}
# The largest number of stimuli or classes shown, and the size of a thumbnail in pixels.
MOST, TILE = 200, 40
# The byte of a percentile of 100 %, and that of a pair that was not measured.
FULL, MISSING = 254, 255


def over_seeds(values: Sequence[Sequence[float | None]]) -> dict[str, list]:
    """Returns the statistics of `OVER_SEEDS` of values `[seeds, N]`, as lists."""
    each = np.array(values, float)
    return {kind: round_numbers(of(each, axis=0)) for kind, of in OVER_SEEDS.items()}


def percentiles(distances: np.ndarray) -> str:
    """Returns the percentile of each distance of an RDM, a byte each, in base64.

    `FULL` is 100 %, and `MISSING` is a pair that was not measured (NaN), which does not
    count in the percentiles of others.

    Args:
      distances: The condensed RDM, `[pairs]`; for more than `MOST` stimuli only every
        second, third, ... stimulus is used.
    """
    from scipy import stats
    from scipy.spatial import distance

    every = -(-distance.num_obs_y(distances) // MOST)
    if every > 1:
        square = distance.squareform(distances, checks=False)
        distances = distance.squareform(square[::every, ::every], checks=False)
    measured = ~np.isnan(distances)
    coded = np.full(len(distances), MISSING, np.uint8)
    ranks = stats.rankdata(distances[measured])
    coded[measured] = (FULL * ranks / len(ranks)).round()
    return base64.b64encode(coded.tobytes()).decode()


def round_numbers(values: np.ndarray) -> Any:
    """Rounds numbers to four digits, as lists for JSON; None for NaN."""
    if values.ndim:
        return [round_numbers(of) for of in values]
    return float(f"{values:.4g}") if np.isfinite(values) else None


def sprite(images: Sequence[np.ndarray]) -> str:
    """Returns a PNG with all images in a row, in base64.

    Args:
      images: RGBA images, uint8 `[h, w, 4]`; each is fitted into `TILE` x `TILE`.
    """
    from PIL import Image

    row = Image.new("RGBA", (TILE * len(images), TILE))
    for place, pixels in enumerate(images):
        image = Image.fromarray(pixels)
        scale = TILE / max(image.size)
        image = image.resize([max(1, round(scale * side)) for side in image.size])
        row.paste(image, (TILE * place, 0))
    file = io.BytesIO()
    colours = row.quantize(256, method=Image.Quantize.FASTOCTREE)
    colours.save(file, "png", optimize=True)
    return base64.b64encode(file.getvalue()).decode()


@functools.cache
def viridis() -> str:
    """Returns the 256 colours of the colour map, three bytes each, in base64."""
    import matplotlib

    colours = matplotlib.colormaps["viridis"](np.arange(256), bytes=True)
    return base64.b64encode(colours[:, :3].tobytes()).decode()
