"""Decodes image files with Pillow: crops, resizes and converts their channels.

Images that vary in size are resized to a common size: evaluation uses their centre
crops (`centre_crop`), training random crops (`random_box`, `crop_and_resize`).
"""

import io
import math
from collections.abc import Callable

import numpy as np
import PIL.Image

# Ranges for random crops: the fraction of the image's area, and width over height.
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
# Pillow's modes, by the number of channels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# Pillow's modes of 32 bits, for which the value of white is unknown, except in these
# formats: their pixels have 16 bits (for PNG, newer versions use the mode "I;16").
WIDE, SIXTEEN = ("I", "F"), ("PNG", "PPM")
# The formats that are decoded. (For EPS, Pillow would run Ghostscript.)
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# The largest number of pixels of an image: a few kilobytes can expand to gigabytes.
LARGEST = 2**26
_BILINEAR = PIL.Image.Resampling.BILINEAR


class Damaged(OSError):
    """An error for a record that cannot be read or decoded; the message names it."""


class UnknownMode(Damaged, ValueError):
    """An error for an image whose mode cannot be converted to 8 bits per channel."""


def centre_crop(image: PIL.Image.Image, side: int) -> PIL.Image.Image:
    """Returns the centre crop of a resized image, for evaluation.

    The shorter side is first scaled to 8/7 of `side`: to 256 for 224 pixels, as is
    usual for ImageNet.

    Args:
      image: Any image.
      side: The height and width of the crop, in pixels.
    """
    shorter, least = round(side * 256 / 224), min(image.size)
    size = [pixels * shorter // least for pixels in image.size]
    left, top = (round((pixels - side) / 2) for pixels in size)
    return image.resize(size, _BILINEAR).crop((left, top, left + side, top + side))


def random_box(
    width: int, height: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draws a random crop of an image: its area and its aspect ratio, then its place.

    Area, logarithm of the aspect ratio, and place are uniform. A crop that does not fit
    is drawn again, up to ten times in all; after that the crop is the largest one in
    the centre with an allowed aspect ratio.

    Args:
      width: The width of the image, in pixels.
      height: The height of the image, in pixels.
      rng: The generator of the random numbers.

    Returns:
      Left, top, width and height of the crop, in pixels.

    References:
      Szegedy et al. (2015), section 6: 8 % to 100 % of the area, aspect ratios 3/4 to
      4/3.
    """
    for _ in range(10):
        area = width * height * rng.uniform(*AREA)
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        own = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 1 <= own[0] <= width and 1 <= own[1] <= height:
            left = rng.integers(width - own[0], endpoint=True)
            top = rng.integers(height - own[1], endpoint=True)
            return int(left), int(top), *own
    own = min(width, round(height * ASPECT[1])), min(height, round(width / ASPECT[0]))
    return (width - own[0]) // 2, (height - own[1]) // 2, *own


def crop_and_resize(
    image: PIL.Image.Image, box: tuple[int, int, int, int], side: int, mode: str
) -> PIL.Image.Image:
    """Returns a crop of an image, resized to `side` x `side` pixels.

    Args:
      image: An image that is opened and not decoded yet.
      box: The left, top, width and height of the crop, in pixels.
      side: The height and width of the result.
      mode: One of `MODES`.
    """
    left, top, width, height = box
    whole = image.size
    # A JPEG that is much larger than needed is decoded at 1/2, 1/4 or 1/8 of its size.
    enough = math.ceil(whole[0] * side / width), math.ceil(whole[1] * side / height)
    drafted = image.draft(None, enough)
    scale = 1.0 if drafted is None else drafted[1][2] / whole[0]
    corners = [scale * x for x in (left, top, left + width, top + height)]
    # (A list, not a tuple: for a tuple that is the whole image, of this size, Pillow
    # would skip resampling, which rounds colours under alpha.)
    seen = convert_mode(image, mode)
    return seen.resize((side, side), _BILINEAR, box=corners)  # type: ignore[arg-type]


def pad(image: np.ndarray) -> np.ndarray:
    """Pads images `[N, 28, 28, C]` with black to 32x32; returns others unchanged."""
    if image.shape[1:3] != (28, 28):
        return image
    return np.pad(image, ((0, 0), (2, 2), (2, 2), (0, 0)))


def convert_mode(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    """Converts an image to the mode that its data set declares, with 8 bits a channel.

    Palette colours are looked up, 16 bits are reduced to the upper byte, 1 bit becomes
    0 or 255, CMYK becomes RGB, grey becomes three equal channels, and RGB becomes luma
    (Rec. 601: 0.299 red, 0.587 green, 0.114 blue). Alpha is dropped unless the mode has
    it, as in TensorFlow's decoder and torchvision's loader: no background is blended
    in, and the colours are the stored ones. For several frames the first is used.

    Args:
      image: An opened image.
      mode: One of `MODES`.

    Raises:
      UnknownMode: If there is no such conversion, or the value of white is unknown.
    """
    if image.mode == mode:
        return image
    image.load()  # (So that damage is reported rather than an unknown conversion.)
    own = image.mode
    try:
        if own in WIDE and image.format not in SIXTEEN:
            raise ValueError("the value of white is unknown")
        if own.startswith("I"):
            image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif own in ("P", "PA"):
            image = image.convert("RGBA")
        return image.convert(mode)
    except ValueError as error:
        words = f"its mode {own!r} does not become {mode!r}: {error}"
        raise UnknownMode(words) from error


def open_image(encoded: bytes) -> PIL.Image.Image:
    """Opens an encoded image of one of `FORMATS`, without decoding its pixels.

    Raises:
      PIL.UnidentifiedImageError: If the bytes are not an image of these formats.
    """
    return PIL.Image.open(io.BytesIO(encoded), formats=FORMATS)


def pixels_of(
    encoded: bytes, see: Callable[[PIL.Image.Image], PIL.Image.Image]
) -> np.ndarray:
    """Returns the pixels of `see(image)` for an encoded image, uint8 `[H, W, C]`."""
    with open_image(encoded) as image:
        if math.prod(image.size) > LARGEST:
            raise ValueError(
                f"its {math.prod(image.size):,} pixels are more than {LARGEST:,} "
                "(decoding.LARGEST)"
            )
        pixels = np.asarray(see(image))
    return pixels.reshape(*pixels.shape[:2], -1)
