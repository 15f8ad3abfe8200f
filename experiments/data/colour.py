"""Makes nets that see only the luminance, or the chrominance, of a colour image.

They serve transfer between modalities, such as from a teacher that sees luminance to a
student that sees chrominance (Tian, Krishnan & Isola, Contrastive Representation
Distillation, ICLR 2020, section 4.2).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from experiments.data import splits
from rdljax import nets

Array = jax.Array

# From linear sRGB to CIE XYZ, and its white point (D65; IEC 61966-2-1).
_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_WHITE = (0.95047, 1.0, 1.08883)

IMAGE = "image"
# The channels of L, a and b, and the numbers that are subtracted and divided by, so
# that natural images have standard deviations of about 1.
PARTS = {
    "luminance": (slice(0, 1), 50.0, 25.0),
    "chrominance": (slice(1, 3), 0.0, 15.0),
}


def channels(part: str, images: int) -> int:
    """Returns the number of channels that a net sees.

    Args:
      part: The part of an image: "image" or a key of `PARTS`.
      images: The number of channels of the images.
    """
    return images if part == IMAGE else len(range(3)[PARTS[part][0]])


def select_channels(part: str, net: nets.NetLike, dataset: splits.Dataset) -> Any:
    """Returns a net that takes images normalised by `data.normalise` and sees a part.

    Args:
      part: The part of an image: "image" or a key of `PARTS`.
      net: The net that sees that part.
      dataset: The data set with the mean and standard deviation of the images.
    """
    if part == IMAGE:
        return net
    return ChannelNet(net, part, dataset.mean, dataset.std)


@dataclasses.dataclass(frozen=True)
class ChannelNet:
    """A net that sees a part of normalised colour images.

    Attributes:
      net: The net, with one input channel for luminance and two for chrominance.
      part: The part, a key of `PARTS`.
      mean: The mean of each channel, from 0 to 255, with which images were normalised.
      std: The standard deviation of each channel, in the same units, likewise.
    """

    net: nets.NetLike
    part: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Returns the names of the net's layers."""
        return self.net.layers

    def init(self, key: Array, images: Array) -> Any:
        """Returns the net's initial variables."""
        return self.net.init(key, self._select(images))

    def apply(self, variables: Any, images: Array, **options) -> Any:
        """Returns the net's activations."""
        return self.net.apply(variables, self._select(images), **options)

    def _select(self, images: Array) -> Array:
        shape = (1, 1, 1, -1)
        mean, std = (jnp.asarray(x).reshape(shape) for x in (self.mean, self.std))
        which, shift, scale = PARTS[self.part]
        rgb = jnp.clip((images * std + mean) / 255, 0, 1)
        return (lab(rgb)[..., which] - shift) / scale


def lab(rgb: Array) -> Array:
    """Converts sRGB to CIE L*a*b*, with white point D65.

    Args:
      rgb: The colours `[..., 3]`, from 0 to 1.

    Returns:
      The colours `[..., 3]`: L from 0 to 100, a and b about -100 to 100.

    References:
      IEC 61966-2-1 (sRGB); CIE 15:2004 (L*a*b*).
    """
    linear = jnp.where(
        rgb <= 0.04045, rgb / 12.92, jnp.maximum((rgb + 0.055) / 1.055, 0) ** 2.4
    )
    to_xyz = jnp.asarray(_XYZ, rgb.dtype).T / jnp.asarray(_WHITE, rgb.dtype)[None, :]
    xyz = jnp.dot(linear, to_xyz, precision=lax.Precision.HIGHEST)
    threshold = (6 / 29) ** 3
    root = jnp.cbrt(jnp.maximum(xyz, threshold))
    f = jnp.where(xyz > threshold, root, xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)
