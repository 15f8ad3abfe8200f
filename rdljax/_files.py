"""Arrays in files of any program, read without running code that a file may hold."""

import contextlib
import hashlib
import json
import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from rdljax import _extras, _names

# From the names of all arrays of a file to those that are read.
Choose = Callable[[Iterable[str]], Iterable[str]]


class CannotRead(ValueError):
    """A file that holds more than arrays, or that cannot be read or written here."""


def needs(package: str, path: pathlib.Path) -> CannotRead:
    """What to say where an optional package is absent."""
    return CannotRead(_extras.missing(package, str(path)))


def brief(error: Exception) -> str:
    """What an error says in a line: of PyTorch's advice, only what it met."""
    met = re.search(r"Unsupported \w+: .*?(?= was not|$)|[^\n]*", str(error))
    text = re.sub(r"\x1b\[\d*m", "", met.group()).strip()
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


def safetensors(path: pathlib.Path, choose: Choose = list) -> dict[str, np.ndarray]:
    """The chosen arrays of a .safetensors file."""
    package = package_safetensors(path)
    with (
        _telling(f"{path} is not a .safetensors file that NumPy can hold"),
        package.safe_open(path, framework="numpy") as file,
    ):
        return {name: file.get_tensor(name) for name in choose(file.keys())}


def hdf5(path: pathlib.Path, choose: Choose = list) -> dict[str, np.ndarray]:
    """The chosen arrays of an HDF5 file; the names of groups are joined by "/"."""
    try:
        import h5py
    except ImportError as error:
        raise needs("h5py", path) from error
    found = {}

    def take(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item

    with _telling(f"{path} is not an HDF5 file of arrays"), h5py.File(path) as file:
        file.visititems(take)
        return {name: np.asarray(found[name][()]) for name in choose(found)}


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
