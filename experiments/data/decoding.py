"""Images from their files: decoded with Pillow, cut, and brought to a set's channels.

Images that vary in size are brought to one: evaluation sees their middle (`middle`),
training random parts of them (`random_box`, `part`).
"""

import io
import math
from collections.abc import Callable

import numpy as np
import PIL.Image

# Of random parts: the share of the image's area, and width over height.
AREA, ASPECT = (0.08, 1.0), (3 / 4, 4 / 3)
# What Pillow calls images of so many channels.
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
# What it calls pixels of 32 bits, of which nothing says which are white, but in these
# formats: theirs have 16 (and are called "I;16" too, as newer versions do of PNG).
WIDE, SIXTEEN = ("I", "F"), ("PNG", "PPM")
# The formats that are decoded. (Of EPS, say, Pillow has Ghostscript run the program.)
FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Pixels of the largest image that is decoded: few kilobytes may stand for gigabytes.
LARGEST = 2**26
_BILINEAR = PIL.Image.Resampling.BILINEAR


class Damaged(OSError):
    """An error for a record that cannot be read or decoded; the message names it."""


class UnknownMode(Damaged, ValueError):
    """An error for an image without 8 bits a channel that cannot be brought to them."""


def middle(image: PIL.Image.Image, side: int) -> PIL.Image.Image:
    """Returns the middle of an image whose shorter side is scaled, for evaluation.

    It is scaled to 8/7 of `side`: to 256 for 224 pixels, as is usual for ImageNet.

    Args:
      image: Any image.
      side: The height and width of the part that is seen.
    """
    shorter, least = round(side * 256 / 224), min(image.size)
    size = [pixels * shorter // least for pixels in image.size]
    left, top = (round((pixels - side) / 2) for pixels in size)
    return image.resize(size, _BILINEAR).crop((left, top, left + side, top + side))


def random_box(
    width: int, height: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draws a part of an image: its area and its aspect, then its place.

    Area, logarithm of the aspect, and place are uniform. A part that does not fit is
    drawn again, ten times in all; then it is the largest part in the middle whose
    aspect is allowed.

    Args:
      width: The width of the image, in pixels.
      height: The height of the image, in pixels.
      rng: The generator of the random numbers.

    Returns:
      Left, top, width and height of the part, in pixels.

    References:
      Szegedy et al. (2015), section 6: 8 % to 100 % of the area, aspects 3/4 to 4/3.
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


def part(
    image: PIL.Image.Image, box: tuple[int, int, int, int], side: int, mode: str
) -> PIL.Image.Image:
    """Returns a part of an image, brought to `side` x `side` pixels.

    Args:
      image: An image that is opened and not decoded yet.
      box: The left, top, width and height of the part, in pixels.
      side: The height and width of the result.
      mode: One of `MODES`.
    """
    left, top, width, height = box
    whole = image.size
    # A JPEG much larger than needed is decoded at a half, a quarter or an eighth.
    enough = math.ceil(whole[0] * side / width), math.ceil(whole[1] * side / height)
    drafted = image.draft(None, enough)
    scale = 1.0 if drafted is None else drafted[1][2] / whole[0]
    corners = [scale * x for x in (left, top, left + width, top + height)]
    # (Pillow takes a list too. A tuple that names the whole image, where that has this
    # size, would not be resampled, which rounds colours under alpha.)
    seen = in_mode(image, mode)
    return seen.resize((side, side), _BILINEAR, box=corners)  # type: ignore[arg-type]


def pad(image: np.ndarray) -> np.ndarray:
    """Pads images `[N, 28, 28, C]` with black to 32x32; others stay as they are."""
    if image.shape[1:3] != (28, 28):
        return image
    return np.pad(image, ((0, 0), (2, 2), (2, 2), (0, 0)))


def in_mode(image: PIL.Image.Image, mode: str) -> PIL.Image.Image:
    """Returns an image in the mode that its set declares, with 8 bits a channel.

    Colours are looked up in the palette, 16 bits keep the upper byte, 1 bit is 0 or
    255, ink (CMYK) becomes light, grey three equal channels, colours their luma (Rec.
    601: 0.299 red, 0.587 green, 0.114 blue). Where alpha is not asked for it is left
    out, as TensorFlow's decoder and torchvision's loader do: there is no background,
    and the colours are those that are stored. Of several frames the first is seen.

    Args:
      image: An opened image.
      mode: One of `MODES`.

    Raises:
      UnknownMode: There is no such conversion, or nothing says which number is white.
    """
    if image.mode == mode:
        return image
    image.load()  # (What is damaged is told before what cannot be converted.)
    own = image.mode
    try:
        if own in WIDE and image.format not in SIXTEEN:
            raise ValueError("nothing says which number is white")
        if own.startswith("I"):
            image = PIL.Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
        elif own in ("P", "PA"):
            image = image.convert("RGBA")
        return image.convert(mode)
    except ValueError as error:
        words = f"its mode {own!r} does not become {mode!r}: {error}"
        raise UnknownMode(words) from error


def open_image(encoded: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(encoded), formats=FORMATS)


def pixels_of(
    encoded: bytes, see: Callable[[PIL.Image.Image], PIL.Image.Image]
) -> np.ndarray:
    """Returns the pixels of an image as `see` makes it, uint8 `[H, W, C]`."""
    with open_image(encoded) as image:
        if math.prod(image.size) > LARGEST:
            raise ValueError(
                f"its {math.prod(image.size):,} pixels are more than {LARGEST:,} "
                "(decoding.LARGEST)"
            )
        pixels = np.asarray(see(image))
    return pixels.reshape(*pixels.shape[:2], -1)
