"""Arrays in files of any program, read without running code that a file may hold."""

import contextlib
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from rdljax import _extras, _names

# From the names of all arrays of a file to those that are read.
Choose = Callable[[Iterable[str]], Iterable[str]]


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
