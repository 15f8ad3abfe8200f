"""Defines stored activations, for folders and for files of other programs."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rdljax import errors

LAYOUTS = ("NHWC", "NCHW")


class Store(NamedTuple):
    """Activations of a whole data set.

    Attributes:
      layers: Dict of the activations of each layer, `[images, ...]`, for maps
        `[images, height, width, channels]`; memory-mapped if they are from `write` or
        from an `.npy` file.
      about: The description given to `write`; empty for a file of another program.
    """

    layers: Mapping[str, np.ndarray]
    about: dict[str, Any]


def is_float(dtype: Any) -> bool:
    """Returns whether a dtype is a floating-point type that JAX has (up to 8 bytes)."""
    return jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize <= 8


def channels_last(layers: Mapping[str, Any], layout: str) -> dict[str, Any]:
    """Transposes maps `[images, C, H, W]` to NHWC, if the layout is NCHW."""
    turned = layout == "NCHW"
    return {
        layer: x.transpose(0, 2, 3, 1) if turned and x.ndim == 4 else x
        for layer, x in layers.items()
    }


def select(known: Iterable[str], layers: Sequence[str] | None) -> list[str]:
    """Returns the names of the layers to read; None selects all that are known.

    Raises:
      UnknownName: A layer is not known.
    """
    for layer in layers or ():
        errors.check_name("layer", layer, known)
    return list(known if layers is None else layers)


def not_finite(x: np.ndarray) -> int | None:
    """Returns the first row with infinity or NaN; None if there is none."""
    finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
    return None if finite.all() else int(np.argmin(finite))
