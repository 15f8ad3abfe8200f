"""Files: written whole or not at all, and read without trust in who wrote them.

No code that a file may hold is run, nothing is read from other files than the one that
was named, and no link is followed on writing.
"""

import contextlib
import functools
import glob
import hashlib
import json
import os
import pathlib
import re
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from rdljax import _extras, _names

try:
    import fcntl
except ImportError:  # On Windows, where drafts of killed processes stay.
    fcntl = None

# From the names of all arrays of a file to those that are read.
Choose = Callable[[Iterable[str]], Iterable[str]]


# How the names of drafts begin.
_DRAFT = ".partial-"

# What PyTorch's reader of weights met, which stands behind lines of advice.
_MET = re.compile(
    r"Weights only load failed.*?"
    r"(?:WeightsUnpickler error:\s*|(?=Trying to load |Unsupported ))"
    r"(?P<what>.*?)(?= was not |\. Please |$)",
    re.DOTALL | re.MULTILINE,
)


class CannotRead(ValueError):
    """A file that holds more than arrays, or that cannot be read or written here."""


def as_path(path: str | os.PathLike) -> pathlib.Path:
    """Returns a path to read or to write, with `~` as the home folder of its user.

    Where there is no such user, it is as it was: a file may be called `~kept.npz`.
    """
    return pathlib.Path(os.path.expanduser(path))


def suffix(path: pathlib.Path) -> str:
    """Returns the end of a file's name that tells its kind, as `.npz`, of any case."""
    return path.suffix.lower()


def needs(package: str, path: pathlib.Path) -> CannotRead:
    """What to say where an optional package is absent."""
    return CannotRead(_extras.missing(package, str(path)))


def brief(error: Exception) -> str:
    """What an error says in a line: of PyTorch's advice, only what it met."""
    text = re.sub(r"\x1b\[\d*m", "", str(error)).strip()
    met = _MET.match(text)
    text = met.group("what") if met else text.partition("\n")[0].strip()
    return f"{type(error).__name__}: {text[:200]}"


def sha256_of_words(manifest: Mapping[str, Any]) -> str:
    """Of a manifest, without its own hash."""
    words = {key: value for key, value in manifest.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def write(path: str | os.PathLike, content: str | bytes) -> None:
    """Writes a file whole or not at all: see `draft`. Text is written in UTF-8."""
    with draft(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


@contextlib.contextmanager
def draft(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file that appears at `path` when all of it is written, or not at all.

    What was there before stays until then, and for good if the block raises. It is a
    new file in the same folder that is renamed: a link at `path` is replaced, and what
    it points to is not touched. Drafts of the file that killed processes have left are
    removed.

        with draft("rdms.npz") as file:
            np.savez(file, **rdms)
        with draft("figure.pdf") as file:
            figure.savefig(file.name)  # The name ends as that of `path` does.

    Args:
      path: Of the file; its folder is there.

    Raises:
      OSError: It cannot be written, or something is there that is no file, such as a
        folder or a device.
    """
    path = as_path(path)
    if path.exists() and not path.is_file():
        raise OSError(f"{path} is no file: nothing can be written there")
    _remove_drafts(path)
    # (Of a long name the end: the longest that a folder takes would be too long.)
    name = path.with_name(f"{_DRAFT}{secrets.token_hex(4)}-{path.name[-50:]}")
    # (Not by `tempfile`, whose files nobody else may read. O_EXCL follows no link.)
    opener = functools.partial(_open, flags=os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        with open(os.fspath(name), "w+b", opener=opener) as file:
            _lock(file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
        name.replace(path)
    finally:
        name.unlink(missing_ok=True)


def is_draft(path: pathlib.Path) -> bool:
    """Returns whether a name is one that `draft` gives, which a kill may leave."""
    return path.name.startswith(_DRAFT)


def _remove_drafts(path: pathlib.Path) -> None:
    """Removes the drafts of a file that no process writes any more."""
    if fcntl is None:
        return
    opener = functools.partial(_open, flags=os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    random = "[0-9a-f]" * 8
    for left in path.parent.glob(f"{_DRAFT}{random}-{glob.escape(path.name[-50:])}"):
        # (What cannot be opened or removed is another's.)
        with contextlib.suppress(OSError), open(left, "rb", opener=opener) as file:
            if _lock(file.fileno()):
                left.unlink()


def _open(path: str, _: int, *, flags: int) -> int:
    return os.open(path, flags, 0o666)


def _lock(file: int) -> bool:
    """Locks an open file until it is closed; False where another process has it."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # Also of file systems that have no locks.
        return False
    return True


def npz(path: pathlib.Path, choose: Choose = list) -> dict[str, np.ndarray]:
    """The chosen arrays of an .npz file."""
    with (
        _telling(f"{path} is not an .npz file of arrays"),
        path.open("rb") as file,
        np.load(file, allow_pickle=False) as arrays,
    ):
        return {name: arrays[name] for name in choose(arrays)}


def npy(path: pathlib.Path, choose: Choose = list) -> dict[str, np.ndarray]:
    """The array of an .npy file, memory-mapped, by the file's name without `.npy`."""
    with _telling(f"{path} is not an .npy file of an array"):
        arrays = {path.stem: np.lib.format.open_memmap(path, mode="r")}
        return {name: arrays[name] for name in choose(arrays)}


def safetensors(path: pathlib.Path, choose: Choose = list) -> dict[str, np.ndarray]:
    """The chosen arrays of a .safetensors file."""
    package = package_safetensors(path)
    with (
        _telling(f"{path} is not a .safetensors file that NumPy can hold"),
        package.safe_open(path, framework="numpy") as file,
    ):
        return {name: file.get_tensor(name) for name in choose(file.keys())}


def hdf5(
    path: pathlib.Path, choose: Choose = list, *, attributes: bool = False
) -> dict[str, np.ndarray]:
    """The chosen arrays of an HDF5 file; the names of groups are joined by "/".

    With `attributes`, those of groups and arrays are among them, named alike.
    """
    h5py = package_h5py(path)
    found = {}

    def take(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item
        if attributes:
            found.update({f"{name}/{key}": x for key, x in item.attrs.items()})

    def value(item):
        return np.asarray(item[()] if isinstance(item, h5py.Dataset) else item)

    with _telling(f"{path} is not an HDF5 file of arrays"), h5py.File(path) as file:
        file.visititems(take)
        return {name: value(found[name]) for name in choose(found)}


def package_h5py(path: pathlib.Path) -> Any:
    """The package, or what to say of a file where it is absent."""
    try:
        import h5py
    except ImportError as error:
        raise needs("h5py", path) from error
    return h5py


def package_safetensors(path: pathlib.Path) -> Any:
    """The package, or what to say of a file where it is absent."""
    try:
        import safetensors.numpy
    except ImportError as error:
        raise needs("safetensors", path) from error
    return safetensors


@contextlib.contextmanager
def _telling(what: str) -> Iterator[None]:
    """Tells what a file is not.

    What a damaged file makes a parser raise has no end: whatever it is, it is told with
    the file's name.
    """
    try:
        yield
    except (_names.UnknownName, CannotRead):
        raise
    except Exception as error:
        raise CannotRead(f"{what}: {brief(error)}") from error
