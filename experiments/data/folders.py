"""Reads image sets in folders that TFDS has prepared, without TensorFlow."""

import contextlib
import json
import logging
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from experiments import command
from experiments.data import decoding, originals, records, splits
from rdljax import errors, files

KNOWN = ("digits", *originals.SOURCES)
# The classes that a folder may name.
_OWN_FEATURE = re.compile(r"tensorflow_datasets\.core\.features\.\w+\.\w+", re.ASCII)


class UnknownSet(errors.UnknownName):
    """An error for an unknown data set; the message names the folder searched."""

    def __init__(self, name: str, known: Iterable[str], data_dir: str | None):
        """Adds the folder that was searched to the message.

        Args:
          name: The unknown name.
          known: All names of data sets, including those in the folder.
          data_dir: The folder that was searched; None if there was none to search.
        """
        super().__init__("data set", name, known)
        where = "no folder was searched, as no data_dir is given"
        if data_dir is not None:
            where = f"the folder {data_dir} was searched"
        self.args = (f"{self} ({where})",)


def _folders(data_dir: str | None) -> dict[str, pathlib.Path]:
    """Returns the data sets prepared in a folder: "name" or "name/config" -> folder.

    If there are several versions of a data set, the newest one is returned.
    """
    newest: dict[str, pathlib.Path] = {}
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


def find(name: str, data_dir: str | None) -> pathlib.Path:
    """Returns the folder of a data set.

    If it is missing, the error gives the command that prepares it, without delay.

    Raises:
      UnknownName: If the name is neither known nor a folder of `data_dir`.
      DataMissing: If the name is known, but its folder is missing.
    """
    folders = _folders(data_dir)
    if name in folders:
        return folders[name]
    if name not in KNOWN and not _tfds_knows(name):
        raise UnknownSet(name, dict.fromkeys((*KNOWN, *folders)), data_dir)
    where = data_dir or "DIR"
    lacks = f"{data_dir} holds no folder of it" if data_dir else "no data_dir is given"
    raise splits.DataMissing(
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
    """Returns instructions that prepare a data set as a folder that `load` can read."""
    if name in originals.SOURCES:
        return f"run `python -m experiments.prepare {name} --data_dir {data_dir}`"
    return (
        "on a machine with TensorFlow (`pip install tensorflow tensorflow-datasets`) "
        'run `python -c "import tensorflow_datasets as tfds; '
        f"tfds.builder('{name}', data_dir='{data_dir}', file_format='array_record')"
        f'.download_and_prepare()"` and copy the folder {name} from there to {data_dir}'
    )


def read(
    name: str, folder: pathlib.Path, **options
) -> tuple[str, tuple[str, ...], splits.Split, splits.Split]:
    """Reads a TFDS folder.

    Returns:
      The source, the names of the classes (their numbers if the folder has no names),
      training and test images.

    Raises:
      DataMissing: If a package is missing, or the folder is damaged, names classes that
        are not TFDS's own, or is in a format that only TensorFlow reads.
      ValueError: If the folder is not an image classification set that can be read.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise splits.DataMissing(
            f'{folder} is read by TFDS ({error}): pip install "rdljax[experiments]"'
        ) from error
    _check_runs_no_code(folder)
    with report_damage(folder):
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
    if len(shape) != 3 or shape[-1] not in decoding.MODES:
        raise ValueError(f"{folder}: {shape} is not the shape of images")
    try:
        held_out, train, test = _splits(folder, builder, shape, classes, **options)
    except NotImplementedError as error:
        raise splits.DataMissing(
            f"{folder} is in a format that only TensorFlow reads "
            f"({builder.info.file_format.value}); for one that needs none, "
            f"{_how(name, 'DIR')}"
        ) from error
    if classes > len(train.label):
        raise ValueError(
            f"{folder} has {classes} classes and only {len(train.label)} images to "
            "train on"
        )
    source = f"{len(train.label):,} training images of the TFDS folder, version "
    source += folder.name
    if held_out != "test":
        source += f", and its split '{held_out}' as test images since it has no 'test'"
        if "test" in builder.info.splits:
            source += " with labels"
    return source, tuple(features["label"].names), train, test


def _splits(
    folder: pathlib.Path,
    builder: Any,
    shape: tuple[int | None, int | None, int],
    classes: int,
    **options: Any,
) -> tuple[str, splits.Split, splits.Split]:
    """Returns the name of the split with test images, and training and test images.

    Args:
      folder: The folder.
      builder: TFDS's builder of the folder.
      shape: The declared shape of the images.
      classes: The number of classes.
      **options: Arguments of `records.open_splits`.

    Raises:
      DataMissing: If the folder is damaged.
      NotImplementedError: If it is in a format that only TensorFlow reads.
      ValueError: If a split is missing, or labels are out of range.
    """
    held = [s for s in ("test", "validation") if s in builder.info.splits]
    if not held or "train" not in builder.info.splits:
        raise ValueError(
            f"{folder} has the splits {list(builder.info.splits)}; needed are 'train' "
            "and 'test' or 'validation'"
        )
    with report_damage(folder):
        sources = {
            split: records.source(builder, split, f"{folder}, {split!r}")
            for split in ("train", *held)
        }
        if len(held) > 1:
            (first_label,), _ = records.read_labels_and_sizes(sources["test"], [0])
            if first_label < 0:  # (The labels of this test split are hidden.)
                del held[0]
        chosen = [sources["train"], sources[held[0]]]
        both: Sequence[tuple[Any, np.ndarray]] | None = records.open_splits(
            chosen, shape, **options
        )
    if both is None:
        with report_damage(folder):
            both = [records.load_images(source, shape) for source in chosen]
    for source, (_, label) in zip(chosen, both, strict=True):
        if label.min() < 0 or label.max() >= classes:
            raise ValueError(
                f"{source.where}: there are labels outside 0..{classes - 1}"
            )
    train, test = (splits.Split(*images_and_label) for images_and_label in both)
    return held[0], train, test


def _check_runs_no_code(folder: pathlib.Path) -> None:
    """Raises `DataMissing` for a folder that is damaged or names other classes."""
    with report_damage(folder):
        for path in folder.iterdir():
            if path.exists() and not (path.is_file() or path.is_dir()):
                raise ValueError(f"{path.name} is not a file")  # (Such as a pipe.)
        named = [*_classes(files.read_json(folder / "dataset_info.json"))]
        if (folder / "features.json").exists():
            named += _classes(files.read_json(folder / "features.json"))
    _check_classes(folder, named)


def _classes(words: Any) -> Iterator[str]:
    """Yields the Python classes that the JSON of a TFDS folder names, at any depth.

    TFDS imports the module of each class: of the features in features.json, of those
    that dataset_info.json may have, and of those in strings that contain JSON.
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
            raise splits.DataMissing(
                f"{folder} is refused: it names the class {name!r}, whose module TFDS "
                "would import, and only tensorflow_datasets.core.features is allowed: "
                "a data set may not run code"
            )


@contextlib.contextmanager
def report_damage(folder: pathlib.Path) -> Iterator[None]:
    """Raises `DataMissing` for a folder that cannot be read.

    TFDS's readers may raise anything for such a folder.
    """
    logger = logging.getLogger("absl")
    level = logger.level
    # (TFDS warns of empty splits.)
    logger.setLevel(logging.ERROR)
    try:
        yield
    except (NotImplementedError, decoding.UnknownMode, records.VaryingSize):
        raise  # The folder is not damaged; it needs TensorFlow, or other settings.
    except Exception as error:
        raise splits.DataMissing(
            f"{folder} is damaged ({error}): prepare it again"
        ) from error
    finally:
        logger.setLevel(level)
