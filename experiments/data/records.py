"""Images in the files of a TFDS folder, decoded with Pillow.

All at once (`loaded`) or, of sets that do not fit into memory, such as ImageNet, when
they are asked for: `Records` stands where an array of images stands; indexed, it reads
those records and decodes them, in threads. Images that vary in size are brought to one:
evaluation sees their middle (`middle`), training random parts of them
(`Records.cropped`). Either way an image is brought to the channels that its set
declares (`in_mode`).
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import io
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image
import tqdm

from rdljax import files

# How many images are decoded at a time.
THREADS = os.cpu_count() or 1
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
# The labels of fewer records are read anew each time.
KEPT = 20_000

# Records whose labels are read at a time.
_CHUNK = 4096
_BILINEAR = PIL.Image.Resampling.BILINEAR


class Damaged(OSError):
    """A record cannot be read or decoded; the message names it."""


class UnknownMode(Damaged, ValueError):
    """An image is none of 8 bits a channel, and cannot be brought to it."""


class VaryingSize(ValueError):
    """Images vary in size, and nothing says to which they are to be brought."""


class Source(NamedTuple):
    """A split of a TFDS folder.

    Attributes:
      examples: By number, each with its `label` and its `image`, still encoded.
      files: Those that hold them.
      where: Which it is, for messages.
    """

    examples: Any
    files: list[str]
    where: str


class Records:
    """Images of a split, like an array uint8 `[N, H, W, C]` that is never whole."""

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        source: Source,
        frame: tuple[int, int, int],
        *,
        varied: bool,
        random: bool,
        index: np.ndarray | None = None,
    ):
        """Reads nothing yet.

        Args:
          source: Where they are.
          frame: Height, width and channels of the images that are answered.
          varied: Whether those in the files vary in size. Evaluation then sees the
            middle of each, else all of it (of 28x28 pixels as `pad` pads it).
          random: Whether training sees random parts of images that vary in size.
          index: int `[N]`, the numbers of the records; None for all.
        """
        self.source, self.frame = source, frame
        self.varied, self.random = varied, varied and random
        self.index = np.arange(len(source.examples)) if index is None else index

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Returns number, height, width and channels."""
        return (len(self.index), *self.frame)

    def __len__(self) -> int:
        return len(self.index)

    def __array__(self, *_, **__) -> np.ndarray:
        """NumPy and JAX would decode every image."""
        raise TypeError(f"{self.source.where} is not loaded whole: index it")

    def __getitem__(self, key: Any) -> np.ndarray:
        """The images at the places that NumPy would choose, uint8 `[..., H, W, C]`.

        Raises:
          Damaged: One cannot be decoded.
          IndexError: There is no such image.
        """
        mode = MODES[self.frame[-1]]

        def see(image, _):
            whole = in_mode(image, mode)
            return middle(whole, self.frame[0]) if self.varied else whole

        return self._decoded(np.asarray(self.index[key]), see)

    def cropped(self, index: np.ndarray, when: np.ndarray) -> np.ndarray:
        """Returns what training sees: of each image a random part, brought to a square.

        A part follows from `when` and the record alone: not from the other images of
        the batch, nor from threads, nor from what was drawn before.

        Args:
          index: int `[..., B]`, places as for indexing.
          when: int `[..., 2]`, the seed and the epoch of each B images, or of all.

        Returns:
          uint8 `[..., B, H, W, C]`.

        Raises:
          Damaged: One cannot be decoded.
        """
        record = np.asarray(self.index[index])
        seen = np.broadcast_to(np.asarray(when)[..., None, :], (*record.shape, 2))
        # (The 1 keeps these draws apart from those of the order of the images.)
        drawn = [
            (*seed, number, 1)
            for seed, number in zip(seen.reshape(-1, 2), record.flat, strict=True)
        ]
        side, mode = self.frame[0], MODES[self.frame[-1]]

        def see(image, i):
            box = random_box(*image.size, np.random.default_rng(drawn[i]))
            return part(image, box, side, mode)

        return self._decoded(record, see)

    def taken(self, index: np.ndarray) -> "Records":
        """Returns some of the images, by places or by a mask."""
        return Records(
            self.source,
            self.frame,
            varied=self.varied,
            random=self.random,
            index=self.index[index],
        )

    @property
    def fingerprint(self) -> np.ndarray:
        """SHA-256, uint8 `[32]`, of what is seen: names and sizes of files, records."""
        files = [(os.path.basename(f), os.stat(f).st_size) for f in self.source.files]
        digest = hashlib.sha256(repr((files, self.shape)).encode())
        digest.update(self.index.astype("<i8").tobytes())
        return np.frombuffer(digest.digest(), np.uint8)

    def _decoded(
        self, record: np.ndarray, see: Callable[[PIL.Image.Image, int], PIL.Image.Image]
    ) -> np.ndarray:
        """Returns what `see(image, i)` makes of the i-th of the records."""
        seen = np.empty((record.size, *self.frame), np.uint8)

        def decode(i, number):
            with _or_damaged(self.source, number):
                encoded = self.source.examples[number]["image"]
                pixels = _decoded(encoded, lambda image: see(image, i))
                seen[i] = pad(pixels[None])[0]

        for _ in _pool(THREADS).map(decode, range(record.size), record.flat):
            pass
        return seen.reshape(*record.shape, *self.frame)


def source(builder: Any, split: str, where: str) -> Source:
    """Returns a split of TFDS's builder.

    Raises:
      NotImplementedError: Only TensorFlow reads it.
      ValueError: It has not as many images as the folder says.
    """
    import tensorflow_datasets as tfds

    files = list(map(os.fspath, builder.info.splits[split].filepaths))
    for file in files:
        if os.path.abspath(os.path.dirname(file)) != os.path.abspath(builder.data_dir):
            raise ValueError(f"{split!r} names {file}, which is not in the folder")
    skip = {"image": tfds.decode.SkipDecoding()}
    examples = builder.as_data_source(split, decoders=skip)
    if builder.info.file_format.value == "array_record":
        # TFDS believes the number in its JSON, and would make room for any.
        count = len(type(examples.data_source)(files))
        if count != len(examples):
            raise ValueError(f"{count} images in {split!r}, not {len(examples)}")
    return Source(examples, files, where)


def loaded(
    source: Source, shape: tuple[int | None, int | None, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images of a split, decoded, and their labels.

    Args:
      source: Where they are.
      shape: Height, width and channels of the images, with None for what the folder
        does not say.

    Returns:
      uint8 `[N, H, W, C]` and int32 `[N]`.

    Raises:
      Damaged: One cannot be decoded, or has another size than the folder says.
      VaryingSize: They vary in size.
    """
    *own, channels = shape

    def see(image):
        found = image.size[::-1]
        if any(x not in (None, y) for x, y in zip(own, found, strict=True)):
            raise ValueError(f"it has {found} pixels, the folder says {tuple(own)}")
        return in_mode(image, MODES[channels])

    examples = source.examples.__getitems__(range(len(source.examples)))

    def decode(number, example):
        with _or_damaged(source, number):
            return _decoded(example["image"], see)

    images = list(_pool(THREADS).map(decode, range(len(examples)), examples))
    check_one_size({image.shape for image in images}, source.where)
    label = [example["label"] for example in examples]
    return pad(np.stack(images)), np.array(label, np.int32)


def opened(
    sources: Sequence[Source],
    shape: tuple[int | None, int | None, int],
    *,
    size: int | None,
    in_memory: int | None,
    random_crops: bool,
) -> list[tuple[Records, np.ndarray]] | None:
    """The images and labels of splits, or None where they are to be loaded instead.

    Args:
      sources: Of the splits.
      shape: Of their images, with None for what the folder does not say.
      size: Height and width that images are brought to which vary in size.
      in_memory: Bytes of decoded images that are to be loaded; None for any number.
      random_crops: As `random` of `Records`.

    Raises:
      Damaged: A record cannot be read.
      VaryingSize: They vary in size, and `size` or `in_memory` is None.
    """
    *own, channels = shape
    if None in own and None in (size, in_memory):
        # (To say so at once: to look at all images of a large set takes long.)
        few = range(min(100, len(sources[0].examples)))
        check_one_size(look(sources[0], few)[1], sources[0].where)
    if in_memory is None:
        return None
    values = channels * sum(len(source.examples) for source in sources)
    known = [pixels for pixels in own if pixels is not None]
    if len(known) == len(own) and values * math.prod(known) <= in_memory:
        return None
    found = [labels(source) for source in sources]
    sizes = set().union(*(sizes for _, sizes in found))
    varied = len(sizes) > 1
    if varied and size is None:
        check_one_size(sizes, sources[0].where)
    seen = (size, size) if varied and size is not None else min(sizes)
    if not varied and values * math.prod(seen) <= in_memory:
        return None
    height, width = pad(np.empty((1, *seen, 1), np.uint8)).shape[1:3]
    frame = height, width, channels
    return [
        (Records(source, frame, varied=varied, random=random_crops), label)
        for source, (label, _) in zip(sources, found, strict=True)
    ]


def check_one_size(sizes: Iterable[tuple[int, ...]], where: str) -> None:
    """Raises `VaryingSize` where images differ in size."""
    if len(set(sizes)) > 1:
        raise VaryingSize(
            f"{where}: images of varying size (for example {sorted(sizes)[:3]}) are "
            "not loaded: they stream, brought to one size (in an experiment, --stream "
            "--resize=224)"
        )


def labels(source: Source) -> tuple[np.ndarray, set[tuple[int, int]]]:
    """The labels of all records, and the sizes of their images, which stay encoded.

    That takes a pass over the files. Of a large set, what was found is kept in the
    user's cache for as long as the files do not change.

    Returns:
      int32 `[N]`, and each height and width that occurs.

    Raises:
      Damaged: A record cannot be read.
    """
    count, kept = len(source.examples), _kept(source.files)
    # (It is absent, or damaged.)
    with (
        contextlib.suppress(Exception),
        kept.open("rb") as file,
        np.load(file) as found,
    ):
        label, sizes = found["label"], found["sizes"]
        if label.shape == (count,) and label.dtype == np.int32:
            return label, set(map(tuple, sizes.tolist()))
    label, sizes = np.empty(count, np.int32), set()
    with tqdm.tqdm(total=count, desc=f"labels of {source.where}", delay=2) as bar:
        for start in range(0, count, _CHUNK):
            numbers = range(start, min(start + _CHUNK, count))
            label[start : numbers.stop], among = look(source, numbers)
            sizes |= among
            bar.update(len(numbers))
    if count >= KEPT:
        with contextlib.suppress(OSError):  # The cache may be read-only, or full.
            kept.parent.mkdir(parents=True, exist_ok=True)
            with files.draft(kept) as draft:
                np.savez(draft, label=label, sizes=sorted(sizes))
    return label, sizes


def look(
    source: Source, numbers: Sequence[int]
) -> tuple[list[int], set[tuple[int, int]]]:
    """Returns the labels of some records, and each height and width of their images.

    Raises:
      Damaged: A record cannot be read.
    """

    def one(number):
        with _or_damaged(source, number):
            example = source.examples[number]
            with _opened(example["image"]) as image:
                return int(example["label"]), image.size[::-1]

    found = list(_pool(THREADS).map(one, numbers))
    return [label for label, _ in found], {size for _, size in found}


def middle(image: PIL.Image.Image, side: int) -> PIL.Image.Image:
    """What evaluation sees: the middle of an image whose shorter side is scaled.

    To 8/7 of `side`: to 256 for 224 pixels, as is usual for ImageNet.

    Args:
      image: Any image.
      side: Height and width of what is seen.
    """
    shorter, least = round(side * 256 / 224), min(image.size)
    size = [pixels * shorter // least for pixels in image.size]
    left, top = (round((pixels - side) / 2) for pixels in size)
    return image.resize(size, _BILINEAR).crop((left, top, left + side, top + side))


def random_box(
    width: int, height: int, rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Draws a part of an image: its area and its aspect, then its place.

    Area, logarithm of the aspect, and place are uniform. What does not fit is drawn
    again, ten times in all; then it is the largest part in the middle whose aspect is
    allowed.

    Args:
      width: Of the image, in pixels.
      height: Likewise.
      rng: What draws.

    Returns:
      Left, top, width and height of the part.

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
      image: Opened, not decoded yet.
      box: Left, top, width and height of the part.
      side: Height and width of what is seen.
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
      image: Opened.
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


@functools.cache
def _pool(threads: int) -> concurrent.futures.Executor:
    return concurrent.futures.ThreadPoolExecutor(threads, "decode")


def _opened(encoded: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(encoded), formats=FORMATS)


def _decoded(
    encoded: bytes, see: Callable[[PIL.Image.Image], PIL.Image.Image]
) -> np.ndarray:
    """Returns what is seen of an image, uint8 `[H, W, C]`."""
    with _opened(encoded) as image:
        if math.prod(image.size) > LARGEST:
            raise ValueError(
                f"its {math.prod(image.size):,} pixels are more than {LARGEST:,} "
                "(records.LARGEST)"
            )
        pixels = np.asarray(see(image))
    return pixels.reshape(*pixels.shape[:2], -1)


@contextlib.contextmanager
def _or_damaged(source: Source, number: int) -> Iterator[None]:
    """Names the record that cannot be read or decoded."""
    try:
        yield
    except Exception as error:  # What is damaged fails in many ways.
        why = "no image" if isinstance(error, PIL.UnidentifiedImageError) else error
        kind = UnknownMode if isinstance(error, UnknownMode) else Damaged
        words = f"{source.where}: record {number} cannot be decoded ({why})"
        raise kind(words) from error


def _kept(files: Sequence[str]) -> pathlib.Path:
    """Where the labels in files are kept: another place when the files change."""
    found = []
    for file in files:
        stat = os.stat(file)
        found.append((os.path.abspath(file), stat.st_size, stat.st_mtime_ns))
    digest = hashlib.sha256(repr(found).encode()).hexdigest()
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(cache, "rdljax", "labels", f"{digest}.npz")
