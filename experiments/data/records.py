"""Reads and decodes images in the files of a TFDS folder.

All at once (`load_images`) or, for data sets that do not fit into memory, such as
ImageNet, on demand: `Records` is used in place of an array of images; indexing reads
and decodes records, in threads. Images that vary in size are resized to a common size:
evaluation uses centre crops (`decoding.centre_crop`), training random crops
(`Records.cropped`). In both cases images are converted to the channels that their data
set declares (`decoding.convert_mode`).
"""

import concurrent.futures
import contextlib
import functools
import hashlib
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from experiments import display
from experiments.data import decoding
from rdljax import files

# The number of images that are decoded at a time.
THREADS = os.cpu_count() or 1
# The smallest number of records whose labels are cached; fewer are read each time.
KEPT = 20_000

# The number of records whose labels are read at a time.
_CHUNK = 4096


class VaryingSize(ValueError):
    """An error for images that vary in size, if no common size is given."""


class Source(NamedTuple):
    """A split of a TFDS folder.

    Attributes:
      examples: The examples by number, each with its `label` and its encoded `image`.
      files: The paths of the files that hold the examples.
      where: The name of the split, for messages.
    """

    examples: Any
    files: list[str]
    where: str


class Records:
    """Images of a split, an array-like uint8 `[N, H, W, C]` that stays in its files."""

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
        """Stores the source; nothing is read yet.

        Args:
          source: The examples and their files.
          frame: The height, width and channels of the images that indexing returns.
          varied: Whether the images in the files vary in size. Evaluation then uses
            centre crops, otherwise the whole image (padded by `decoding.pad` if it has
            28x28 pixels).
          random: Whether training uses random crops of images that vary in size.
          index: The numbers of the records, int `[N]`; None for all.
        """
        self.source, self.frame = source, frame
        self.varied, self.random = varied, varied and random
        self.index = np.arange(len(source.examples)) if index is None else index

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Returns number, height, width and channels of the images."""
        return (len(self.index), *self.frame)

    def __len__(self) -> int:
        return len(self.index)

    def __array__(self, *_, **__) -> np.ndarray:
        """Raises `TypeError`, since NumPy and JAX would decode all images."""
        raise TypeError(
            f"{self.source.where} is not loaded into memory: index it instead"
        )

    def __getitem__(self, key: Any) -> np.ndarray:
        """Returns the images at some places, with NumPy's rules of indexing.

        Returns:
          The images, uint8 `[..., H, W, C]`.

        Raises:
          Damaged: If an image cannot be decoded.
          IndexError: If there is no such image.
        """
        mode = decoding.MODES[self.frame[-1]]

        def see(image, _):
            whole = decoding.convert_mode(image, mode)
            return decoding.centre_crop(whole, self.frame[0]) if self.varied else whole

        return self._decode(np.asarray(self.index[key]), see)

    def cropped(self, index: np.ndarray, crop_seeds: np.ndarray) -> np.ndarray:
        """Returns a random crop of each image, resized to a square, for training.

        A crop depends only on `crop_seeds` and the record: not on the other images of
        the batch, on threads, or on earlier draws.

        Args:
          index: The places of the images as for indexing, int `[..., B]`.
          crop_seeds: The seed and the epoch for each B images, or for all, int
            `[..., 2]`.

        Returns:
          The crops, uint8 `[..., B, H, W, C]`.

        Raises:
          Damaged: If an image cannot be decoded.
        """
        record = np.asarray(self.index[index])
        seen = np.broadcast_to(np.asarray(crop_seeds)[..., None, :], (*record.shape, 2))
        # (The 1 makes these draws independent of those of the order of the images.)
        drawn = [
            (*seed, number, 1)
            for seed, number in zip(seen.reshape(-1, 2), record.flat, strict=True)
        ]
        side, mode = self.frame[0], decoding.MODES[self.frame[-1]]

        def see(image, i):
            (width, height), rng = image.size, np.random.default_rng(drawn[i])
            box = decoding.random_box(width, height, rng)
            return decoding.crop_and_resize(image, box, side, mode)

        return self._decode(record, see)

    def subset(self, index: np.ndarray) -> "Records":
        """Returns some of the images, chosen by their indices or by a mask."""
        return Records(
            self.source,
            self.frame,
            varied=self.varied,
            random=self.random,
            index=self.index[index],
        )

    @property
    def fingerprint(self) -> np.ndarray:
        """Returns the SHA-256, uint8 `[32]`, of indices and files (names and sizes)."""
        files = [(os.path.basename(f), os.stat(f).st_size) for f in self.source.files]
        digest = hashlib.sha256(repr((files, self.shape)).encode())
        digest.update(self.index.astype("<i8").tobytes())
        return np.frombuffer(digest.digest(), np.uint8)

    def _decode(
        self, record: np.ndarray, see: Callable[[PIL.Image.Image, int], PIL.Image.Image]
    ) -> np.ndarray:
        """Returns `see(image, i)` for the i-th record, for all records."""
        seen = np.empty((record.size, *self.frame), np.uint8)

        def decode(i, number):
            with _report_damage(self.source, number):
                encoded = self.source.examples[number]["image"]
                pixels = decoding.pixels_of(encoded, lambda image: see(image, i))
                seen[i] = decoding.pad(pixels[None])[0]

        for _ in _pool(THREADS).map(decode, range(record.size), record.flat):
            pass
        return seen.reshape(*record.shape, *self.frame)


def source(builder: Any, split: str, where: str) -> Source:
    """Returns a split of TFDS's builder.

    Args:
      builder: The builder of a TFDS folder.
      split: The name of the split.
      where: The name of the split in messages.

    Raises:
      NotImplementedError: If only TensorFlow reads it.
      ValueError: If the number of images is not that given in the folder, or a file is
        not in the folder.
    """
    import tensorflow_datasets as tfds

    files = list(map(os.fspath, builder.info.splits[split].filepaths))
    for file in files:
        if os.path.abspath(os.path.dirname(file)) != os.path.abspath(builder.data_dir):
            raise ValueError(f"{split!r} names {file}, which is not in the folder")
    skip = {"image": tfds.decode.SkipDecoding()}
    examples = builder.as_data_source(split, decoders=skip)
    if builder.info.file_format.value == "array_record":
        # TFDS trusts the number in its JSON, and would allocate memory for any number.
        count = len(type(examples.data_source)(files))
        if count != len(examples):
            raise ValueError(f"{count} images in {split!r}, not {len(examples)}")
    return Source(examples, files, where)


def load_images(
    source: Source, shape: tuple[int | None, int | None, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns all images of a split, decoded, and their labels.

    Args:
      source: The examples and their files.
      shape: The height, width and channels of the images; None for a size that the
        folder does not give.

    Returns:
      The images, uint8 `[N, H, W, C]`, and the labels, int32 `[N]`.

    Raises:
      Damaged: If an image cannot be decoded, or its size is not that given in the
        folder.
      VaryingSize: If the images vary in size.
    """
    *own, channels = shape

    def see(image):
        found = image.size[::-1]
        if any(x not in (None, y) for x, y in zip(own, found, strict=True)):
            raise ValueError(f"it has {found} pixels, the folder declares {tuple(own)}")
        return decoding.convert_mode(image, decoding.MODES[channels])

    examples = source.examples.__getitems__(range(len(source.examples)))

    def decode(number, example):
        with _report_damage(source, number):
            return decoding.pixels_of(example["image"], see)

    images = list(_pool(THREADS).map(decode, range(len(examples)), examples))
    check_one_size({image.shape for image in images}, source.where)
    label = [example["label"] for example in examples]
    return decoding.pad(np.stack(images)), np.array(label, np.int32)


def open_splits(
    sources: Sequence[Source],
    shape: tuple[int | None, int | None, int],
    *,
    size: int | None,
    in_memory: int | None,
    random_crops: bool,
) -> list[tuple[Records, np.ndarray]] | None:
    """Returns the images and labels of splits, or None if they should be loaded.

    Args:
      sources: The examples and files of the splits.
      shape: The height, width and channels of their images; None for a size that the
        folder does not give.
      size: The height and width for images that vary in size.
      in_memory: The largest number of bytes of decoded images that are loaded; None for
        no limit.
      random_crops: Whether training uses random crops of images that vary in size.

    Returns:
      For each split its images, and its labels int32 `[N]`.

    Raises:
      Damaged: If a record cannot be read.
      VaryingSize: If the images vary in size, and `size` or `in_memory` is None.
    """
    *own, channels = shape
    if None in own and None in (size, in_memory):
        # (To fail early: reading all images of a large set takes long.)
        few = range(min(100, len(sources[0].examples)))
        check_one_size(read_labels_and_sizes(sources[0], few)[1], sources[0].where)
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
    height, width = decoding.pad(np.empty((1, *seen, 1), np.uint8)).shape[1:3]
    frame = height, width, channels
    return [
        (Records(source, frame, varied=varied, random=random_crops), label)
        for source, (label, _) in zip(sources, found, strict=True)
    ]


def check_one_size(sizes: Iterable[tuple[int, ...]], where: str) -> None:
    """Raises `VaryingSize` if images differ in size."""
    if len(set(sizes)) > 1:
        raise VaryingSize(
            f"{where}: images of varying size (for example {sorted(sizes)[:3]}) cannot "
            "be loaded at once: stream them, resized to a common size (in an "
            "experiment, --stream --resize=224)"
        )


def labels(source: Source) -> tuple[np.ndarray, set[tuple[int, int]]]:
    """Returns the labels of all records, and the sizes of their images.

    This takes one pass over the files, without decoding. The labels and sizes of a
    large set are kept in the user's cache as long as the files do not change.

    Returns:
      The labels, int32 `[N]`, and the set of heights and widths.

    Raises:
      Damaged: If a record cannot be read.
    """
    count, kept = len(source.examples), _cache_path(source.files)
    # (An error: the cached file is missing or damaged.)
    with (
        contextlib.suppress(Exception),
        kept.open("rb") as file,
        np.load(file) as found,
    ):
        label, sizes = found["label"], found["sizes"]
        if label.shape == (count,) and label.dtype == np.int32:
            return label, set(map(tuple, sizes.tolist()))
    label, sizes = np.empty(count, np.int32), set()
    words = f"labels of {source.where}"
    with display.progress_bar(total=count, desc=words, delay=2) as bar:
        for start in range(0, count, _CHUNK):
            numbers = range(start, min(start + _CHUNK, count))
            label[start : numbers.stop], among = read_labels_and_sizes(source, numbers)
            sizes |= among
            bar.update(len(numbers))
    if count >= KEPT:
        with contextlib.suppress(OSError):  # The cache may be read-only, or full.
            kept.parent.mkdir(parents=True, exist_ok=True)
            with files.draft(kept) as draft:
                np.savez(draft, label=label, sizes=sorted(sizes))
    return label, sizes


def read_labels_and_sizes(
    source: Source, numbers: Sequence[int]
) -> tuple[list[int], set[tuple[int, int]]]:
    """Returns the labels of some records, and the set of sizes of their images.

    Raises:
      Damaged: If a record cannot be read.
    """

    def one(number):
        with _report_damage(source, number):
            example = source.examples[number]
            with decoding.open_image(example["image"]) as image:
                return int(example["label"]), image.size[::-1]

    found = list(_pool(THREADS).map(one, numbers))
    return [label for label, _ in found], {size for _, size in found}


@functools.cache
def _pool(threads: int) -> concurrent.futures.Executor:
    return concurrent.futures.ThreadPoolExecutor(threads, "decode")


@contextlib.contextmanager
def _report_damage(source: Source, number: int) -> Iterator[None]:
    """Raises an error that names the record that cannot be read or decoded."""
    try:
        yield
    except Exception as error:  # (A damaged record raises many kinds of errors.)
        why = "not an image" if isinstance(error, PIL.UnidentifiedImageError) else error
        kind = (
            decoding.UnknownMode
            if isinstance(error, decoding.UnknownMode)
            else decoding.Damaged
        )
        words = f"{source.where}: record {number} cannot be decoded ({why})"
        raise kind(words) from error


def _cache_path(files: Sequence[str]) -> pathlib.Path:
    """Returns the path for the cached labels of files, which changes with the files."""
    found = []
    for file in files:
        stat = os.stat(file)
        found.append((os.path.abspath(file), stat.st_size, stat.st_mtime_ns))
    digest = hashlib.sha256(repr(found).encode()).hexdigest()
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(cache, "rdljax", "labels", f"{digest}.npz")
