"""Reads activations from files of other programs."""

import collections
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rdljax import errors, files
from rdljax.activations import _store
from rdljax.activations._store import Store

# The arrays of a file that are not activations.
_INDEX, _IDS = "index", "ids"
_READERS = {
    ".npz": files.npz,
    ".h5": files.hdf5,
    ".hdf5": files.hdf5,
    ".safetensors": files.safetensors,
    ".npy": files.npy,
}


def read(
    path: pathlib.Path,
    layers: Sequence[str] | None,
    layout: str,
    *,
    images: int | None,
    with_ids: bool,
    limit: int | None,
) -> tuple[Store, np.ndarray | None]:
    """Reads the activations, and with `with_ids` the array `ids` if there is one."""
    suffix = files.suffix(path)
    if suffix not in _READERS:
        raise errors.CannotRead(
            f"{path} is not a folder and does not end with {', '.join(_READERS)}"
        )

    others = (_INDEX, _IDS) if with_ids else (_INDEX,)

    def choose(shapes):
        known = [name for name in shapes if name not in (_INDEX, _IDS)]
        chosen = [*_store.select(known, layers), *(x for x in others if x in shapes)]
        most = max((shapes[name][0] for name in chosen if shapes[name]), default=0)
        if images is not None and most > images:  # They may not fit into memory.
            raise errors.CannotRead(f"{path} has {most} rows, expected {images}")
        return chosen

    arrays = _READERS[suffix](path, choose, limit)
    of_rows = {name: arrays.pop(name) for name in others if name in arrays}
    _check_rows(path, arrays, of_rows)
    for name, x in arrays.items():
        if (row := _store.not_finite(x)) is not None:
            raise errors.CannotRead(f"{path}: {name!r} is not finite in row {row}")
        # The file may have the byte order of another machine.
        arrays[name] = x.astype(x.dtype.newbyteorder("="), copy=False)
    ids = of_rows.get(_IDS)
    if _INDEX in of_rows:
        places = _places(path, of_rows[_INDEX])
        arrays = {name: x[places] for name, x in arrays.items()}
        ids = None if ids is None else ids[places]
    return Store(_store.channels_last(arrays, layout), {}), ids


def _check_rows(
    path: pathlib.Path,
    layers: Mapping[str, np.ndarray],
    of_rows: Mapping[str, np.ndarray],
) -> None:
    """Checks that all layers are of floating point and have the same number of rows.

    Args:
      path: Path of the file.
      layers: Activations of each layer, `[images, ...]`.
      of_rows: The arrays `[images]` that describe the rows, by name.
    """
    for name, x in layers.items():
        if not _store.is_float(x.dtype):
            raise errors.CannotRead(
                f"{path}: {name!r} is {x.dtype}, and activations are floating-point "
                "numbers; select the layers to read by `layers`"
            )
        if not x.size or not x.ndim:
            raise errors.CannotRead(
                f"{path}: {name!r} is {list(x.shape)}, without a row"
            )
    for name, x in of_rows.items():
        if x.ndim != 1:
            raise errors.CannotRead(
                f"{path}: {name!r} is {list(x.shape)}, not one value for each row"
            )
    counts = {name: len(x) for name, x in {**layers, **of_rows}.items()}
    if len(set(counts.values())) > 1:
        each = ", ".join(f"{name!r} {count}" for name, count in counts.items())
        raise errors.CannotRead(f"{path} has different numbers of rows: {each}")


def _places(path: pathlib.Path, index: np.ndarray) -> np.ndarray:
    """Returns the row of each image."""
    if not np.issubdtype(index.dtype, np.integer):
        raise errors.CannotRead(
            f"{path}: {_INDEX!r} is {index.dtype}, expected integers"
        )
    places, count = np.argsort(index), len(index)
    if not np.array_equal(index[places], np.arange(count)):
        times = collections.Counter(index.tolist())
        first = next(i for i in range(count) if times[i] != 1)
        raise errors.CannotRead(
            f"{path}: {_INDEX!r} must have each of 0 to {count - 1} once: {first} "
            f"occurs {times[first]} times"
        )
    return places


def plain(ids: Sequence[Any] | np.ndarray) -> list[Any]:
    """Returns a list of Python numbers and strings from a list or an array."""
    ids = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    return [x.decode(errors="replace") if isinstance(x, bytes) else x for x in ids]


def check_ids(path: pathlib.Path, stored: np.ndarray | None, ids: list[Any]) -> None:
    """Checks that a file has the expected identifiers of images, in the same order.

    Args:
      path: Path of the file, for messages.
      stored: The array `ids` of the file, `[images]`; None: it has none.
      ids: The expected identifiers.

    Raises:
      CannotRead: Identifiers are missing, or in another order.
    """
    if stored is None:
        raise errors.CannotRead(f"{path} has no array {_IDS!r} to compare")
    found = plain(stored)
    if found == ids:
        return
    if missing := list(collections.Counter(ids) - collections.Counter(found)):
        few = ", ".join(map(repr, missing[:3]))
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise errors.CannotRead(f"{path} has other ids: {few}{more} missing")
    row = next(i for i, x in enumerate(found) if x != ids[i])
    raise errors.CannotRead(
        f"{path} has the same ids in another order: row {row} is {found[row]!r}, "
        f"expected {ids[row]!r}; with an array {_INDEX!r} the rows would be sorted"
    )
