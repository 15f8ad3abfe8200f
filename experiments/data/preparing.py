"""Prepares MNIST, Fashion-MNIST and CIFAR as TFDS folders, without TensorFlow.

    python -m experiments.prepare cifar100 --data_dir data

The original files are downloaded, or taken from --manual_dir, and checked against
their published SHA-256. TFDS's own builder then writes the folder, from the same names
and in the same order as with TensorFlow, so that `experiments.data.load` and
`tfds.data_source(NAME, data_dir=..., download=False)` both read it.
"""

import contextlib
import dataclasses
import gzip
import hashlib
import http.client
import io
import math
import os
import pathlib
import queue
import shutil
import struct
import tarfile
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments import command, locks
from rdljax import errors, files


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
      names: The names of the classes by the name of TFDS's feature, where the files
        tell them.
    """

    splits: Mapping[str, Split]
    names: Mapping[str, list[str]]


@dataclasses.dataclass(frozen=True)
class Source:
    """The place of the files of a data set, and the SHA-256 sums that are accepted.

    Attributes:
      url: The folder of the original files.
      files: The accepted SHA-256 sums, of a file or of its unpacked content, by the
        name of the file.
      read: The function from the data set's name and the files by name to their
        content.
    """

    url: str
    files: Mapping[str, tuple[str, ...]]
    read: Callable[[str, Mapping[str, pathlib.Path]], Content]


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


# From tensorflow_datasets/url_checksums/NAME.txt. Fashion-MNIST's
# second sums are those of the unpacked files: distributions pack them anew (Debian's
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
    ),
    "cifar100": Source(
        "https://www.cs.toronto.edu/~kriz/",
        {
            "cifar-100-binary.tar.gz": (
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
        },
        read_cifar100,
    ),
}


# Seconds a server may stay silent, and bytes a second that it sends at least.
PATIENCE = 10.0
SLOWEST = 10_000
# Bytes of the largest file that is downloaded, and of what it may unpack to before its
# sum is known. (The largest original has 170 MB, and unpacks to 186 MB.)
LARGEST = 2**28
# What the folder is called that a new one replaces, until it is there.
_REPLACED = "replaced"
# Seconds in which a process locks the hidden folder that it has made.
_UNLOCKED = 60.0


class CannotPrepare(ValueError):
    """An error for original files that are missing, unreachable or not original."""


def prepare(
    name: str,
    data_dir: str | os.PathLike[str],
    *,
    manual_dir: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
) -> pathlib.Path:
    """Writes the folder `data_dir/NAME/VERSION` in TFDS's array_record format.

    It appears whole or not at all: it is written to a hidden folder of `data_dir` and
    then renamed. Hidden folders that killed processes have left are removed; where one
    holds the folder that it was to replace, that is put back.

    Args:
      name: A key of `SOURCES`.
      data_dir: The folder of data sets; it is made where it is absent. Downloads are
        kept in `data_dir/downloads`.
      manual_dir: The folder of the original files; nothing is downloaded then.
      overwrite: Whether a folder that exists is replaced; it is kept otherwise.

    Returns:
      The folder.

    Raises:
      UnknownName: `name` is not a key of `SOURCES`.
      CannotPrepare: A file is missing, cannot be had, or is not the original one.
      RuntimeError: A path begins with the home folder of a user who has none.
    """
    errors.check_name("data set to prepare", name, SOURCES)
    import tensorflow_datasets as tfds

    data_dir = pathlib.Path(data_dir).expanduser()
    version = str(tfds.builder_cls(name).VERSION)
    folder = data_dir / name / version
    _remove_left(name, data_dir, folder)
    if folder.exists() and not overwrite:
        return folder
    if manual_dir is None:
        files = _downloaded(name, data_dir / "downloads" / name)
    else:
        files = _found(name, pathlib.Path(manual_dir).expanduser())
    content = SOURCES[name].read(name, files)
    data_dir.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix=f".{name}-", dir=data_dir) as scratch,
        locks.hold(pathlib.Path(scratch)),
    ):
        written = _write(name, content, pathlib.Path(scratch))
        folder.parent.mkdir(exist_ok=True)
        replaced = pathlib.Path(scratch) / _REPLACED
        if folder.exists():
            folder.rename(replaced)
        try:
            written.rename(folder)
        finally:
            _put_back(replaced, folder)
    return folder


def _remove_left(name: str, data_dir: pathlib.Path, folder: pathlib.Path) -> None:
    """Removes the hidden folders of a data set that no process writes any more."""
    for left in data_dir.glob(f".{name}-{'[a-z0-9_]' * 8}"):
        # (Or its process is alive, or it is another user's.)
        with contextlib.suppress(command.UsageError, OSError):
            found = {path.name for path in left.iterdir()}
            if left.is_symlink() or found - {_REPLACED, name, "downloads", locks.NAME}:
                continue
            age = time.time() - left.stat().st_mtime
            if found <= {locks.NAME} and age < _UNLOCKED:
                continue
            with locks.hold(left):
                _put_back(left / _REPLACED, folder)
                shutil.rmtree(left)


def _put_back(replaced: pathlib.Path, folder: pathlib.Path) -> None:
    """Renames a replaced folder back where the replacement was cut short."""
    if replaced.exists() and not folder.exists():
        replaced.rename(folder)


def unpack(path: pathlib.Path, accepted: tuple[str, ...]) -> bytes:
    """Reads a gzip file; the SHA-256 of the file or of its content must be accepted.

    Where the sum of the file is not among those accepted, no more than `LARGEST` bytes
    are unpacked to compare the sum of the content.

    Args:
      path: The path of the file.
      accepted: The accepted SHA-256 sums in hexadecimal.

    Returns:
      The content.

    Raises:
      CannotPrepare: It is another file.
    """
    with path.open("rb") as file:
        packed = hashlib.file_digest(file, "sha256").hexdigest()
    try:
        with gzip.open(path) as file:
            content = file.read(-1 if packed in accepted else LARGEST)
    except (OSError, EOFError, zlib.error):
        content = b""
    if not {packed, hashlib.sha256(content).hexdigest()} & set(accepted):
        raise CannotPrepare(
            f"{path} is not the original file: its SHA-256 is {packed}, "
            f"published is {accepted[0]}"
        )
    return content


def parse_idx(content: bytes, dimensions: int) -> np.ndarray:
    """Parses the format of MNIST's files (described at yann.lecun.com/exdb/mnist).

    Args:
      content: The bytes: two zero bytes, the type (8 for uint8), the number of
        dimensions, their sizes as big-endian int32, the values.
      dimensions: The expected number of dimensions.

    Returns:
      An array uint8 with that number of dimensions.

    Raises:
      CannotPrepare: The type, the number of dimensions or the length is another.
    """
    magic = bytes((0, 0, 8, dimensions))
    if content[:4] != magic:
        raise CannotPrepare(f"not an IDX file: {content[:4]!r} instead of {magic!r}")
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise CannotPrepare(f"a truncated IDX file of {len(content)} bytes")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise CannotPrepare(
            f"a truncated IDX file, or one with a surplus: {len(content) - start} "
            f"values for the shape {shape}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _found(name: str, manual_dir: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the original files in a folder, by name."""
    files = {file: manual_dir / file for file in SOURCES[name].files}
    missing = [file for file, path in files.items() if not path.is_file()]
    if missing:
        raise CannotPrepare(
            f"{manual_dir} lacks {', '.join(missing)} (from {SOURCES[name].url})"
        )
    return files


def _downloaded(name: str, cache: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the original files, downloaded where the cache lacks them, by name."""
    source = SOURCES[name]
    cache.mkdir(parents=True, exist_ok=True)
    for file, accepted in source.files.items():
        if (cache / file).exists():
            continue
        try:
            _download(source.url + file, cache / file, accepted)
        except (OSError, http.client.HTTPException) as error:
            raise CannotPrepare(
                f"cannot download {source.url}{file} ({error}). Without a network, put "
                f"{', '.join(source.files)} into a folder and name it with --manual_dir"
            ) from error
    return {file: cache / file for file in source.files}


def _download(url: str, path: pathlib.Path, accepted: tuple[str, ...]) -> None:
    """Downloads a file, which appears at `path` when it is whole and checked."""
    import tqdm

    with _open(url) as response, files.draft(path) as file:
        size = response.length
        if size is not None and size > LARGEST:
            raise OSError(_too_large(size))
        began = time.monotonic()
        shown = {"unit": "B", "unit_scale": True, "unit_divisor": 1024}
        with tqdm.tqdm(total=size, desc=path.name, **shown) as bar:
            while part := response.read1(2**20):
                bar.update(file.write(part))
                if file.tell() > LARGEST:
                    raise OSError(_too_large(file.tell()))
                seconds = time.monotonic() - began
                if file.tell() < SLOWEST * (seconds - PATIENCE):
                    raise TimeoutError(
                        f"{file.tell():,} bytes in {seconds:.0f} s are fewer than "
                        f"{SLOWEST:,} a second (preparing.SLOWEST)"
                    )
        file.flush()
        unpack(pathlib.Path(file.name), accepted)


def _too_large(size: int) -> str:
    return (
        f"it has {size:,} bytes or more, and no original has more than {LARGEST:,} "
        "(preparing.LARGEST)"
    )


def _open(url: str) -> http.client.HTTPResponse:
    """Opens a URL, or gives up after `PATIENCE` seconds.

    urllib's own timeout holds for each address of a server and not for the look-up of
    its name, which together take minutes on a machine without a network.
    """
    answer: queue.Queue[http.client.HTTPResponse | Exception] = queue.Queue()

    def ask():
        try:
            answer.put(urllib.request.urlopen(url, timeout=PATIENCE))
        except Exception as error:
            # An HTTPError is also the open page that explains it.
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            answer.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        response = answer.get(timeout=PATIENCE)
    except queue.Empty:
        raise TimeoutError(f"no answer within {PATIENCE:g} s") from None
    if isinstance(response, Exception):
        raise response
    return response


def _pairs(name: str, files: Mapping[str, pathlib.Path], prefix: str) -> Split:
    """Returns one split of a data set in MNIST's format."""
    parsed = []
    for part, dimensions in (("images-idx3", 3), ("labels-idx1", 1)):
        file = f"{prefix}-{part}-ubyte.gz"
        content = unpack(files[file], SOURCES[name].files[file])
        try:
            parsed.append(parse_idx(content, dimensions))
        except CannotPrepare as error:
            raise CannotPrepare(f"{files[file]}: {error}") from error
    images, labels = parsed
    if images.shape != (len(labels), 28, 28) or labels.max() > 9:
        raise CannotPrepare(
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
    content = unpack(path, SOURCES[name].files[file])
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
        raise CannotPrepare(f"{path} is no archive: {error}") from error
    lacks = [
        member for member in (*train, *test, *names.values()) if member not in held
    ]
    if lacks:
        raise CannotPrepare(f"{path} lacks {', '.join(lacks)}")
    classes = {key: held[member].decode().split() for key, member in names.items()}

    def split(members):
        records = b"".join(held[member] for member in members)
        length = len(names) + 3 * 32 * 32
        if not records or len(records) % length:
            raise CannotPrepare(
                f"{path}: {', '.join(members)} are {len(records)} bytes, not records "
                f"of {length}"
            )
        every = np.frombuffer(records, np.uint8).reshape(-1, length)
        image = every[:, len(names) :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        labels = {key: every[:, i] for i, key in enumerate(names)}
        for key, label in labels.items():
            if label.max() >= len(classes[key]):
                raise CannotPrepare(
                    f"{path}: a {key} of {label.max()}, with {len(classes[key])} names"
                )
        return Split(image, labels)

    return Content({"train": split(train), "test": split(test)}, classes)


def _write(name: str, content: Content, data_dir: pathlib.Path) -> pathlib.Path:
    """Writes a folder by TFDS's builder, from images and labels that are at hand."""
    import tensorflow_datasets as tfds
    import tqdm

    stock: Any = tfds.builder_cls(name)

    # (mypy does not see the keywords of a base that is known at run time alone.)
    class InMemory(stock, skip_registration=True):  # type: ignore[call-arg]
        # The folder is to say that TFDS's own builder reads it.
        __module__ = stock.__module__

        def _split_generators(self, dl_manager):
            for feature, classes in content.names.items():
                self.info.features[feature].names = classes
            return {split: self._generate_examples(split) for split in content.splits}

        def _generate_examples(self, split):
            images, labels = content.splits[split]
            progress = tqdm.tqdm(images, desc=f"{name} {split}")
            for index, image in enumerate(progress):
                # Bytes, since TFDS encodes arrays with TensorFlow. The index as key
                # gives the order that TFDS gives.
                example = {key: int(label[index]) for key, label in labels.items()}
                if "id" in self.info.features:
                    example["id"] = f"{split}_{index:05d}"
                yield index, {"image": _png(image), **example}

    InMemory.name = name
    builder = InMemory(data_dir=data_dir, file_format="array_record")
    tfds.disable_progress_bar()
    # It prints that it downloads, and the name of the folder before it is renamed.
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(download_dir=data_dir / "downloads")
    return pathlib.Path(builder.data_dir)


def _png(image: np.ndarray) -> bytes:
    """Returns an image uint8 `[H, W]` or `[H, W, 3]` as the bytes of a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(file, "PNG")
    return file.getvalue()
