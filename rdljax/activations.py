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

A folder from `write` has an `.npy` file for each layer, with one row for each image;
`manifest.json` with a description of them; and `chunks.jsonl` with a line for each
chunk of images that has been written, with the SHA-256 of its rows in each layer. Only
one process may write at a time. If it is killed, all chunks with a line are complete,
and no others are used.
"""

import collections
import contextlib
import hashlib
import json
import operator
import os
import pathlib
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rdljax import _extras, errors, files, teachers

_FORMAT = 1
_MANIFEST, _CHUNKS = "manifest.json", "chunks.jsonl"
# The file by which a process of `experiments` locks a folder (`experiments.locks`).
_LOCK = ".rdljax.lock"
# The arrays of a file that are not activations.
_INDEX, _IDS = "index", "ids"
_READERS = {
    ".npz": files.npz,
    ".h5": files.hdf5,
    ".hdf5": files.hdf5,
    ".safetensors": files.safetensors,
    ".npy": files.npy,
}
_LAYOUTS = ("NHWC", "NCHW")


def _is_float(dtype: Any) -> bool:
    # JAX has no floats of more than 8 bytes.
    return jnp.issubdtype(dtype, jnp.floating) and dtype.itemsize <= 8


def _names_float(value: Any) -> bool:
    try:
        return isinstance(value, str) and _is_float(jnp.dtype(value))
    except TypeError:
        return False


# The fields of a manifest in addition to its hash and format.
_FIELDS = {
    "images": files.COUNT,
    "chunk": files.COUNT,
    "layout?": ("NHWC or NCHW", lambda x: x in _LAYOUTS),
    "layers": {
        ...: {"shape": [files.COUNT], "dtype": ("that of real numbers", _names_float)}
    },
    "about": dict,
}


class Stored(NamedTuple):
    """Activations of a whole data set.

    Attributes:
      layers: Dict of the activations of each layer, `[images, ...]`, for maps
        `[images, height, width, channels]`; memory-mapped if they are from `write` or
        from an `.npy` file.
      about: The description given to `write`; empty for a file of another program.
    """

    layers: Mapping[str, np.ndarray]
    about: dict[str, Any]


class OtherActivations(ValueError):
    """An error: a folder to write to holds other activations or something else."""


def write(
    folder: str | os.PathLike,
    teacher: teachers.Teacher,
    see: Callable[[jax.Array], teachers.Batch],
    images: int,
    layers: Sequence[str],
    *,
    chunk: int = 500,
    about: Mapping[str, Any] | None = None,
    dtype: Any = None,
    layout: str = "NHWC",
    quiet: bool = False,
) -> Stored:
    """Runs a teacher on each image once and stores its activations.

    After an interruption, the same call continues after the last complete chunk. Chunks
    damaged in the meantime are computed again. If nothing is missing, the teacher does
    not run.

    Args:
      folder: Path of the folder; it is created if it does not exist.
      teacher: The teacher.
      see: Function from indices of images to the teacher's batch.
      images: Number of images.
      layers: Names of the layers.
      chunk: Number of images at a time.
      about: Description of the teacher and the images, as JSON, such as their
        fingerprints: only this distinguishes two teachers with the same layers.
      dtype: Dtype of the stored activations, such as `jnp.float16`. None: the
        teacher's own.
      layout: Layout of the teacher's maps: "NHWC", or "NCHW" for
        `[batch, channels, height, width]`. They are stored as NHWC: layers with four
        axes are transposed, all others (vectors, tokens `[batch, tokens, channels]`,
        volumes) are stored unchanged.
      quiet: Whether to hide the progress bar (of tqdm).

    Raises:
      UnknownName: The teacher does not have a layer, or the layout is unknown.
      OtherActivations: The folder holds other activations, other files or links; the
        message has the differences.
      CannotRead: The manifest of the folder is damaged.
      ValueError: No image, layer or chunk; or a layer that is not finite, does not have
        one row for each image, or is not of floating point.
      ImportError: tqdm is not installed, and `quiet` is not set.
    """
    if not quiet:
        with _extras.needed("tqdm", "a progress bar (quiet=False)"):
            import tqdm
    errors.check_name("layout", layout, _LAYOUTS)
    folder, layers = files.as_path(folder), list(layers)
    images, chunk = operator.index(images), operator.index(chunk)
    _check_counts(images, chunk, layers)
    own = teachers.compile_targets(teacher, layers, dtype)

    def run_teacher(arrays, batch):
        return _channels_last(own(arrays, batch), layout)

    forms = jax.eval_shape(run_teacher, teacher.arrays, see(jnp.arange(1)))

    def compute(rows):
        batch = see(jnp.arange(rows.start, rows.stop))
        found = jax.device_get(run_teacher(teacher.arrays, batch))
        _check_finite(found, rows.start)
        return {layer: x.tobytes() for layer, x in found.items()}

    manifest = {
        "format": _FORMAT,
        "images": images,
        "chunk": chunk,
        "layout": layout,
        "layers": {layer: _form(layer, forms[layer], images) for layer in layers},
        # As it will be read: with strings as keys and lists in place of tuples.
        "about": json.loads(json.dumps(dict(about or {}))),
    }
    _begin(folder, manifest)
    mapped = _layer_files(folder, manifest)
    firsts: Iterable[int] = range(0, images, chunk)
    if not quiet:
        firsts = tqdm.tqdm(firsts, unit=" chunks", desc=folder.name)
    chunks = (slice(first, min(first + chunk, images)) for first in firsts)
    _write_chunks(folder, mapped, chunks, compute)
    return Stored(mapped, manifest["about"])


def read(
    path: str | os.PathLike,
    *,
    images: int | None = None,
    ids: Sequence[Any] | None = None,
    layers: Sequence[str] | None = None,
    layout: str = "NHWC",
    verify: bool = True,
    limit: int | None = files.LIMIT,
) -> Stored:
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
    errors.check_name("layout", layout, _LAYOUTS)
    path = files.as_path(path)
    if ids is not None:
        ids = _plain(ids)
        images = len(ids) if images is None else images
    if path.is_dir():
        kept, stored_ids = _read_folder(path, layers, layout, verify), None
    elif not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    else:
        others = (_INDEX,) if ids is None else (_INDEX, _IDS)
        kept, stored_ids = _read_file(path, layers, layout, others, images, limit)
    if not kept.layers:
        raise errors.CannotRead(
            f"{path} holds no array of activations, or none is selected"
        )
    rows = len(next(iter(kept.layers.values())))
    if images is not None and rows != images:
        raise errors.CannotRead(f"{path} has {rows} rows, expected {images}")
    if ids is not None:
        _check_ids(path, stored_ids, ids)
    return kept


def teacher(stored: Stored, *, index: str = "index") -> teachers.Teacher:
    """Makes a teacher that holds the activations on the device.

    Args:
      stored: Activations from `write` or `read`.
      index: Entry of the batch with the indices of its images.
    """
    arrays = {layer: jnp.asarray(x) for layer, x in stored.layers.items()}
    return teachers.cached(arrays, index=index)


def batch_reader(stored: Stored) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Returns a function from indices `[...]` to their rows `{layer: [..., ...]}`.

    For `teachers.from_batch`. Only these rows of a memory map are read.
    """

    def rows(index):
        return {layer: x[np.asarray(index)] for layer, x in stored.layers.items()}

    return rows


def _channels_last(layers: Mapping[str, Any], layout: str) -> dict[str, Any]:
    """Transposes maps `[images, C, H, W]` to NHWC, if the layout is NCHW."""
    turned = layout == "NCHW"
    return {
        layer: x.transpose(0, 2, 3, 1) if turned and x.ndim == 4 else x
        for layer, x in layers.items()
    }


# ---- folders


def _path(folder: pathlib.Path, layer: str) -> pathlib.Path:
    return folder / f"{urllib.parse.quote(layer, safe='')}.npy"


def _form(layer: str, x: jax.ShapeDtypeStruct, images: int) -> dict[str, Any]:
    """Returns shape and dtype of a layer, from the activations for one image."""
    if x.shape[:1] != (1,) or not x.size or not _is_float(x.dtype):
        raise ValueError(
            f"the teacher's layer {layer!r} is {x.dtype}{list(x.shape)} for one image: "
            "expected a row of floating-point numbers"
        )
    return {"shape": [images, *x.shape[1:]], "dtype": str(x.dtype)}


def _content(layers: Mapping[str, np.ndarray], rows: slice) -> dict[str, bytes]:
    return {layer: x[rows].tobytes() for layer, x in layers.items()}


def _sha256(content: Mapping[str, bytes]) -> dict[str, str]:
    return {k: hashlib.sha256(x).hexdigest() for k, x in content.items()}


def _begin(folder: pathlib.Path, manifest: Mapping[str, Any]) -> None:
    """Writes the manifest, or checks an existing one."""
    if (folder / _MANIFEST).exists():
        found, wanted = _facts(_manifest(folder)), _facts(manifest)
        differing = [
            f"{key}: stored {found.get(key, 'nothing')}, "
            f"expected {wanted.get(key, 'nothing')}"
            for key in wanted | found
            if wanted.get(key) != found.get(key)
        ]
        if differing:
            lines = [f"{folder} holds other activations:", *differing]
            raise OtherActivations("\n  ".join(lines))
        return
    holds = folder.exists() and (
        not folder.is_dir()
        or any(x.name != _LOCK and not files.is_draft(x) for x in folder.iterdir())
    )
    if holds:
        raise OtherActivations(f"{folder} exists already and holds something else")
    folder.mkdir(parents=True, exist_ok=True)
    words = {**manifest, "sha256": files.sha256_of_words(manifest)}
    files.write(folder / _MANIFEST, json.dumps(words))


def _check_counts(images: int, chunk: int, layers: Sequence[str]) -> None:
    if images < 1 or chunk < 1 or not layers:
        raise ValueError(
            f"expected 1 or more, got {images} images, {len(layers)} layers and chunks "
            f"of {chunk}"
        )


def _write_chunks(
    folder: pathlib.Path,
    mapped: Mapping[str, np.memmap],
    chunks: Iterable[slice],
    compute: Callable[[slice], dict[str, bytes]],
) -> None:
    """Computes and writes the chunks that are missing or damaged.

    Args:
      folder: The folder.
      mapped: Memory-mapped file of each layer.
      chunks: Rows of each chunk.
      compute: Function from rows to their content in each layer.
    """
    known = _chunks(folder)
    with (folder / _CHUNKS).open("ab") as lines:
        for rows in chunks:
            first = rows.start
            if first in known and known[first] == _sha256(_content(mapped, rows)):
                continue
            content = compute(rows)
            # Not through the memory map, which kills the process on a full disk.
            for layer, x in mapped.items():
                with _path(folder, layer).open("r+b") as file:
                    file.seek(x.offset + first * x[:1].nbytes)
                    file.write(content[layer])
            line = json.dumps({"first": first, "sha256": _sha256(content)})
            # The newline comes first, since the previous line may be incomplete.
            lines.write(f"\n{line}".encode())
            lines.flush()


def _check_finite(layers: Mapping[str, np.ndarray], first: int) -> None:
    """Checks that a teacher's activations are finite.

    Args:
      layers: Activations of each layer.
      first: Index of the image in their first row.
    """
    for layer, x in layers.items():
        if (row := _not_finite(x)) is not None:
            raise ValueError(
                f"the teacher's layer {layer!r} is not finite in {x.dtype} for "
                f"image {first + row}"
            )


def _facts(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Returns the contents of a manifest by which two folders are compared, as text."""
    layers, about = manifest["layers"].items(), manifest["about"].items()
    return {
        "images": str(manifest["images"]),
        "chunk": str(manifest["chunk"]),
        "layout": _layout(manifest),
        **{f"layer {k!r}": f"{x['dtype']}{x['shape'][1:]}" for k, x in layers},
        **{f"about {k!r}": json.dumps(x, sort_keys=True) for k, x in about},
    }


def _layout(manifest: Mapping[str, Any]) -> str:
    """Returns the layout given to `write`; older manifests do not have it."""
    return manifest.get("layout", "NHWC")


def _manifest(folder: pathlib.Path) -> dict[str, Any]:
    if not (folder / _MANIFEST).exists():
        raise errors.CannotRead(
            f"{folder} has no {_MANIFEST}: `write` did not write it"
        )
    try:
        manifest = files.words(folder / _MANIFEST)
        whole = manifest["sha256"] == files.sha256_of_words(manifest)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise errors.CannotRead(
            f"{folder} is damaged: {_MANIFEST} cannot be read ({files.brief(error)})"
        ) from error
    if not whole:
        raise errors.CannotRead(f"{folder} is damaged: {_MANIFEST} was changed")
    if manifest.get("format") != _FORMAT:
        raise errors.CannotRead(
            f"{folder} is stored in format {manifest.get('format')}, and this version "
            f"of rdljax reads format {_FORMAT}"
        )
    wrong = files.misfit(manifest, _FIELDS, _MANIFEST)
    images = manifest.get("images")
    if not wrong and any(
        x["shape"][:1] != [images] for x in manifest["layers"].values()
    ):
        wrong = f"{_MANIFEST} has a layer without {images} rows"
    if wrong:
        raise errors.CannotRead(f"{folder} is damaged: {wrong}")
    return manifest


def _chunks(folder: pathlib.Path) -> dict[int, dict[str, str]]:
    """Reads the SHA-256 of each layer of each chunk, by the chunk's first image.

    If a chunk has several lines, the last one counts.
    """
    found, path = {}, folder / _CHUNKS
    if path.is_file():
        for line in path.read_bytes().splitlines():
            # Incomplete and changed lines are skipped.
            with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
                entry = json.loads(line)
                found[entry["first"]] = dict(entry["sha256"])
    return found


def _layer_files(
    folder: pathlib.Path, manifest: Mapping[str, Any]
) -> dict[str, np.memmap]:
    """Returns the files of the layers, after checking that no path is a link."""
    layers = manifest["layers"]
    for path in (folder / _CHUNKS, *(_path(folder, layer) for layer in layers)):
        if path.is_symlink() or (path.exists() and not path.is_file()):
            raise OtherActivations(f"{path} is no file: nothing is written there")
    return {layer: _open_or_create(folder, manifest, layer) for layer in layers}


def _open_or_create(
    folder: pathlib.Path, manifest: Mapping[str, Any], layer: str
) -> np.memmap:
    """Returns the file of a layer; creates it if it is missing or damaged."""
    try:
        return _open_mapped(folder, manifest, layer)
    except errors.CannotRead:
        form = manifest["layers"][layer]
        np.lib.format.open_memmap(
            _path(folder, layer),
            mode="w+",
            dtype=_as_stored(form["dtype"]),
            shape=tuple(form["shape"]),
        )
    return _open_mapped(folder, manifest, layer)


def _as_stored(dtype: str) -> np.dtype:
    """Returns the dtype as NumPy writes it: raw bytes for bfloat16 and similar ones."""
    return np.dtype(jnp.dtype(dtype).str)


def _open_mapped(
    folder: pathlib.Path, manifest: Mapping[str, Any], layer: str
) -> np.memmap:
    form, path = manifest["layers"][layer], _path(folder, layer)
    try:
        if not path.is_file():
            raise FileNotFoundError("there is no such file")
        x = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:  # Damaged files raise errors of many kinds.
        raise errors.CannotRead(
            f"{folder} is damaged: {path.name} ({files.brief(error)})"
        ) from error
    expected = form["shape"], _as_stored(form["dtype"]), True
    if (list(x.shape), x.dtype, x.flags.c_contiguous) != expected:
        raise errors.CannotRead(
            f"{folder} is damaged: {path.name} is {x.dtype}{x.shape}"
        )
    return x.view(jnp.dtype(form["dtype"]))


def _read_folder(
    folder: pathlib.Path, layers: Sequence[str] | None, layout: str, verify: bool
) -> Stored:
    manifest = _manifest(folder)
    layers, known = _select(manifest["layers"], layers), _chunks(folder)
    images, chunk = manifest["images"], manifest["chunk"]
    # Only chunks with a line, not all chunks of the manifest.
    ends = {
        at: min(at + chunk, images) for at in known if at in range(0, images, chunk)
    }
    there = sum(end - at for at, end in ends.items())
    if there < images:
        raise errors.CannotRead(
            f"{folder} is unfinished: it has {there} of {images} images; to continue, "
            "call `write` with the same arguments"
        )
    mapped = {layer: _open_mapped(folder, manifest, layer) for layer in layers}
    for at, end in sorted(ends.items()) if verify else ():
        for layer, digest in _sha256(_content(mapped, slice(at, end))).items():
            if known[at].get(layer) != digest:
                raise errors.CannotRead(
                    f"{folder} is damaged: images {at} to {end - 1} of layer {layer!r} "
                    "were changed; to compute them again, call `write` with the same "
                    "arguments"
                )
    if _layout(manifest) != "NCHW":
        mapped = _channels_last(mapped, layout)
    return Stored(mapped, manifest["about"])


# ---- files of other programs


def _read_file(
    path: pathlib.Path,
    layers: Sequence[str] | None,
    layout: str,
    others: Sequence[str],
    images: int | None,
    limit: int | None,
) -> tuple[Stored, np.ndarray | None]:
    """Reads the activations, and the array `ids` if it is among the others."""
    suffix = files.suffix(path)
    if suffix not in _READERS:
        raise errors.CannotRead(
            f"{path} is not a folder and does not end with {', '.join(_READERS)}"
        )

    def choose(shapes):
        known = [name for name in shapes if name not in (_INDEX, _IDS)]
        chosen = [*_select(known, layers), *(x for x in others if x in shapes)]
        most = max((shapes[name][0] for name in chosen if shapes[name]), default=0)
        if images is not None and most > images:  # They may not fit into memory.
            raise errors.CannotRead(f"{path} has {most} rows, expected {images}")
        return chosen

    arrays = _READERS[suffix](path, choose, limit)
    of_rows = {name: arrays.pop(name) for name in others if name in arrays}
    _check_rows(path, arrays, of_rows)
    for name, x in arrays.items():
        if (row := _not_finite(x)) is not None:
            raise errors.CannotRead(f"{path}: {name!r} is not finite in row {row}")
        # The file may have the byte order of another machine.
        arrays[name] = x.astype(x.dtype.newbyteorder("="), copy=False)
    ids = of_rows.get(_IDS)
    if _INDEX in of_rows:
        places = _places(path, of_rows[_INDEX])
        arrays = {name: x[places] for name, x in arrays.items()}
        ids = None if ids is None else ids[places]
    return Stored(_channels_last(arrays, layout), {}), ids


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
        if not _is_float(x.dtype):
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


def _select(known: Iterable[str], layers: Sequence[str] | None) -> list[str]:
    for layer in layers or ():
        errors.check_name("layer", layer, known)
    return list(known if layers is None else layers)


def _not_finite(x: np.ndarray) -> int | None:
    """Returns the first row with infinity or NaN; None if there is none."""
    finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
    return None if finite.all() else int(np.argmin(finite))


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


def _plain(ids: Sequence[Any] | np.ndarray) -> list[Any]:
    """Returns a list of Python numbers and strings from a list or an array."""
    ids = ids.tolist() if isinstance(ids, np.ndarray) else list(ids)
    return [x.decode(errors="replace") if isinstance(x, bytes) else x for x in ids]


def _check_ids(path: pathlib.Path, stored: np.ndarray | None, ids: list[Any]) -> None:
    if stored is None:
        raise errors.CannotRead(f"{path} has no array {_IDS!r} to compare")
    found = _plain(stored)
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
