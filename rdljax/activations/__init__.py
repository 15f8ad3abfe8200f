"""Stores a teacher's activations in files, and reads them, also from other programs.

    kept = activations.write("cache", teacher, see, 50_000, ["stage2", "logits"])
    kept = activations.read("activations.npz", images=50_000)
    source = activations.teacher(kept)  # on the device, by the batch's `index`

If they do not fit on the device, each batch has its own rows:

    rows, source = activations.batch_reader(kept), teachers.from_batch()
    batch = {"index": index, "targets": rows(index)}

Maps are `[images, height, width, channels]` (NHWC), as everywhere in this package;
`layout="NCHW"` transposes those of PyTorch and Equinox, `[images, channels, height,
width]`.

==================== ==================================================================
name                 contents
==================== ==================================================================
`Store`              the activations of a whole data set, by layer
`write`              runs a teacher once for each image, and writes a folder
`read`               a folder, or a file of another program
`teacher`            a teacher that holds all activations on the device
`batch_reader`       a function that reads the rows of a batch
`OtherActivations`   an error: the folder holds something else
==================== ==================================================================

A folder from `write` has an `.npy` file for each layer, with one row for each image;
`manifest.json` with a description of them; and `chunks.jsonl` with a line for each
chunk of images that has been written, with the SHA-256 of its rows in each layer. Only
one process may write at a time. If it is killed, all chunks with a line are complete,
and no others are used.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from rdljax import errors, files, teachers
from rdljax.activations import _file, _folder, _store
from rdljax.activations._folder import OtherActivations, write
from rdljax.activations._store import Store

__all__ = ["OtherActivations", "Store", "batch_reader", "read", "teacher", "write"]


def read(
    path: str | os.PathLike,
    *,
    images: int | None = None,
    ids: Sequence[Any] | None = None,
    layers: Sequence[str] | None = None,
    layout: str = "NHWC",
    verify: bool = True,
    limit: int | None = files.LIMIT,
) -> Store:
    """Reads activations from a folder of `write` or from a file of another program.

    No code from a file is run.

    Args:
      path: A folder from `write`; or an `.npz`, `.h5`, `.hdf5` or `.safetensors` file
        with an array `[images, ...]` for each layer. An optional array `index` has the
        image of the data set for each row, and rows are sorted by it. Or an `.npy` file
        with one such array; its layer has the name of the file, without `.npy`.
      images: Expected number of rows. None: that of `ids`, if given.
      ids: Expected array `ids` of the file, integers or strings: identifiers of the
        images, in the order of the data set. None: not checked.
      layers: Names of the layers to read. None: all.
      layout: Layout of the maps in the file, or of the teacher given to `write`:
        "NHWC", or "NCHW" for `[images, channels, height, width]`. The result is NHWC:
        arrays with four axes are transposed (once only: a folder records whether
        `write` has transposed them), all others are unchanged.
      verify: Whether to check the hashes of a folder, which reads all of it.
      limit: Largest size of the arrays of a compressed file in bytes; or 20 times that
        of the file, if that is more. None: no limit.

    Raises:
      FileNotFoundError: The file or folder does not exist.
      UnknownName: A layer does not exist, or the layout is unknown.
      CannotRead: The file is of another kind, holds more than arrays, is unfinished or
        damaged; its rows are not those of the data set; or its arrays are in other
        files (external or virtual data of HDF5) or larger than `limit`.
    """
    errors.check_name("layout", layout, _store.LAYOUTS)
    path = files.as_path(path)
    if ids is not None:
        ids = _file.plain(ids)
        images = len(ids) if images is None else images
    if path.is_dir():
        kept, stored_ids = _folder.read(path, layers, layout, verify), None
    elif not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    else:
        kept, stored_ids = _file.read(
            path, layers, layout, images=images, with_ids=ids is not None, limit=limit
        )
    if not kept.layers:
        raise errors.CannotRead(
            f"{path} holds no array of activations, or none is selected"
        )
    rows = len(next(iter(kept.layers.values())))
    if images is not None and rows != images:
        raise errors.CannotRead(f"{path} has {rows} rows, expected {images}")
    if ids is not None:
        _file.check_ids(path, stored_ids, ids)
    return kept


def teacher(stored: Store, *, index: str = "index") -> teachers.Teacher:
    """Makes a teacher that holds the activations on the device.

    Args:
      stored: Activations from `write` or `read`.
      index: Entry of the batch with the indices of its images.
    """
    arrays = {layer: jnp.asarray(x) for layer, x in stored.layers.items()}
    return teachers.cached(arrays, index=index)


def batch_reader(stored: Store) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Returns a function from indices `[...]` to their rows `{layer: [..., ...]}`.

    They are for `teachers.from_batch`. Only these rows of a memory map are read.
    """

    def rows(index):
        return {layer: x[np.asarray(index)] for layer, x in stored.layers.items()}

    return rows
