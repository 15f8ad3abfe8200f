"""Reads the original files of MNIST, Fashion-MNIST and CIFAR; lists their URLs."""

import dataclasses
import io
import math
import pathlib
import struct
import tarfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.data import downloads


class Split(NamedTuple):
    """The examples of a split.

    Attributes:
      image: The images, uint8 `[N, H, W]` or `[N, H, W, 3]`.
      labels: The classes, uint8 `[N]`, by the name of TFDS's feature.
    """

    image: np.ndarray
    labels: Mapping[str, np.ndarray]


class Content(NamedTuple):
    """The content of the original files.

    Attributes:
      splits: The splits "train" and "test".
      names: The names of the classes by the name of TFDS's feature, if the files have
        them.
    """

    splits: Mapping[str, Split]
    names: Mapping[str, list[str]]


@dataclasses.dataclass(frozen=True)
class Source:
    """The location of the files of a data set, and their accepted SHA-256 sums.

    Attributes:
      url: The folder of the original files.
      files: The accepted SHA-256 sums, of a file or of its unpacked content, by the
        name of the file.
      read: The function from the data set's name and the files by name to their
        content.
      augmentation: The usual `crop` and `flip` of `views.view`; None for neither.
    """

    url: str
    files: Mapping[str, tuple[str, ...]]
    read: Callable[[str, Mapping[str, pathlib.Path]], Content]
    augmentation: Mapping[str, Any] | None = None


def read_mnist(name: str, files: Mapping[str, pathlib.Path]) -> Content:
    """Returns the content of four files in MNIST's format."""
    splits = {"train": "train", "test": "t10k"}
    return Content({k: _pairs(name, files, v) for k, v in splits.items()}, {})


def read_cifar10(name: str, files: Mapping[str, pathlib.Path]) -> Content:
    """Returns the content of CIFAR-10's binary archive."""
    train = [f"data_batch_{i}.bin" for i in range(1, 6)]
    return _read_cifar(
        name, files, train, ["test_batch.bin"], {"label": "batches.meta.txt"}
    )


def read_cifar100(name: str, files: Mapping[str, pathlib.Path]) -> Content:
    """Returns the content of CIFAR-100's binary archive."""
    names = {
        "coarse_label": "coarse_label_names.txt",
        "label": "fine_label_names.txt",
    }
    return _read_cifar(name, files, ["train.bin"], ["test.bin"], names)


# He et al. 2016, section 4.2.
CIFAR_AUGMENTATION = {"crop": 4, "flip": True}
# All data sets that `experiments.prepare` prepares, by name. The sums are from
# tensorflow_datasets/url_checksums/NAME.txt. Fashion-MNIST's second sums are those
# of the unpacked files: distributions compress them again (Debian's
# dataset-fashion-mnist drops name and time from gzip's header).
SOURCES = {
    "mnist": Source(
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
        {
            "train-images-idx3-ubyte.gz": (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            "train-labels-idx1-ubyte.gz": (
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            "t10k-images-idx3-ubyte.gz": (
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        },
        read_mnist,
    ),
    "fashion_mnist": Source(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        {
            "train-images-idx3-ubyte.gz": (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            ),
            "train-labels-idx1-ubyte.gz": (
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            ),
            "t10k-images-idx3-ubyte.gz": (
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
                "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            ),
        },
        read_mnist,
    ),
    "cifar10": Source(
        "https://www.cs.toronto.edu/~kriz/",
        {
            "cifar-10-binary.tar.gz": (
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        },
        read_cifar10,
        CIFAR_AUGMENTATION,
    ),
    "cifar100": Source(
        "https://www.cs.toronto.edu/~kriz/",
        {
            "cifar-100-binary.tar.gz": (
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
        },
        read_cifar100,
        CIFAR_AUGMENTATION,
    ),
}


def parse_idx(content: bytes, dimensions: int) -> np.ndarray:
    """Parses the format of MNIST's files (described at yann.lecun.com/exdb/mnist).

    Args:
      content: The bytes: two zero bytes, the type (8 for uint8), the number of
        dimensions, their sizes as big-endian int32, the values.
      dimensions: The expected number of dimensions.

    Returns:
      An array uint8 with that number of dimensions.

    Raises:
      CannotPrepare: If the type, the number of dimensions or the length is wrong.
    """
    magic = bytes((0, 0, 8, dimensions))
    if content[:4] != magic:
        raise downloads.CannotPrepare(
            f"not an IDX file: {content[:4]!r} instead of {magic!r}"
        )
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise downloads.CannotPrepare(f"a truncated IDX file of {len(content)} bytes")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise downloads.CannotPrepare(
            f"an IDX file that is too short or too long: {len(content) - start} "
            f"values for the shape {shape}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _pairs(name: str, files: Mapping[str, pathlib.Path], prefix: str) -> Split:
    """Returns one split of a data set in MNIST's format."""
    parsed = []
    for part, dimensions in (("images-idx3", 3), ("labels-idx1", 1)):
        file = f"{prefix}-{part}-ubyte.gz"
        content = downloads.unpack(files[file], SOURCES[name].files[file])
        try:
            parsed.append(parse_idx(content, dimensions))
        except downloads.CannotPrepare as error:
            raise downloads.CannotPrepare(f"{files[file]}: {error}") from error
    images, labels = parsed
    if images.shape != (len(labels), 28, 28) or labels.max() > 9:
        raise downloads.CannotPrepare(
            f"{name}, {prefix}: images {images.shape} and labels {labels.shape} up to "
            f"{labels.max()} are not N images of 28x28 pixels in ten classes"
        )
    return Split(images, {"label": labels})


def _read_cifar(
    name: str,
    files: Mapping[str, pathlib.Path],
    train: Sequence[str],
    test: Sequence[str],
    names: Mapping[str, str],
) -> Content:
    """Returns the content of a binary archive of CIFAR.

    Args:
      name: The name of the data set.
      files: The archive, by its name.
      train: The names of the files with the training images.
      test: The names of the files with the test images. In each file an image is a byte
        for each label, then 32 x 32 red values, row by row, the green and the blue
        ones.
      names: The names of the files with the classes' names, by feature, in the order
        of the bytes.
    """
    ((file, path),) = files.items()
    content = downloads.unpack(path, SOURCES[name].files[file])
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            members = {
                pathlib.PurePosixPath(member.name).name: archive.extractfile(member)
                for member in archive.getmembers()
                if member.isfile()
            }
            held = {
                member: opened.read()
                for member, opened in members.items()
                if opened is not None
            }
    except (tarfile.TarError, EOFError) as error:
        raise downloads.CannotPrepare(f"{path} is not an archive: {error}") from error
    lacks = [
        member for member in (*train, *test, *names.values()) if member not in held
    ]
    if lacks:
        raise downloads.CannotPrepare(f"{path} lacks {', '.join(lacks)}")
    classes = {key: held[member].decode().split() for key, member in names.items()}

    def split(members):
        records = b"".join(held[member] for member in members)
        length = len(names) + 3 * 32 * 32
        if not records or len(records) % length:
            raise downloads.CannotPrepare(
                f"{path}: {', '.join(members)} are {len(records)} bytes, not records "
                f"of {length}"
            )
        every = np.frombuffer(records, np.uint8).reshape(-1, length)
        image = every[:, len(names) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = {key: every[:, i] for i, key in enumerate(names)}
        for key, label in labels.items():
            if label.max() >= len(classes[key]):
                raise downloads.CannotPrepare(
                    f"{path}: a {key} of {label.max()}, with {len(classes[key])} names"
                )
        return Split(image, labels)

    return Content({"train": split(train), "test": split(test)}, classes)
