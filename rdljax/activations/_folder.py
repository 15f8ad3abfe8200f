"""Writes and reads the files of a folder of activations."""

import contextlib
import hashlib
import json
import operator
import os
import pathlib
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rdljax import _extras, errors, files, teachers
from rdljax.activations import _store
from rdljax.activations._store import Store

_FORMAT = 1
_MANIFEST, _CHUNKS = "manifest.json", "chunks.jsonl"
# The file by which a process of `experiments` locks a folder (`experiments.locks`).
_LOCK = ".rdljax.lock"


def _names_float(value: Any) -> bool:
    try:
        return isinstance(value, str) and _store.is_float(jnp.dtype(value))
    except TypeError:
        return False


# The fields of a manifest in addition to its hash and format.
_FIELDS = {
    "images": files.COUNT,
    "chunk": files.COUNT,
    "layout?": ("NHWC or NCHW", lambda x: x in _store.LAYOUTS),
    "layers": {
        ...: {"shape": [files.COUNT], "dtype": ("that of real numbers", _names_float)}
    },
    "about": dict,
}


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
) -> Store:
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
    errors.check_name("layout", layout, _store.LAYOUTS)
    folder, layers = files.as_path(folder), list(layers)
    images, chunk = operator.index(images), operator.index(chunk)
    _check_counts(images, chunk, layers)
    own = teachers.compile_targets(teacher, layers, dtype)

    def run_teacher(arrays, batch):
        return _store.channels_last(own(arrays, batch), layout)

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
    return Store(mapped, manifest["about"])


def read(
    folder: pathlib.Path, layers: Sequence[str] | None, layout: str, verify: bool
) -> Store:
    """Returns the activations in a folder from `write`, memory-mapped.

    Args:
      folder: Path of the folder.
      layers: Names of the layers to read. None: all.
      layout: Layout of the teacher's maps, as for `activations.read`.
      verify: Whether to check the hashes, which reads all of the folder.

    Raises:
      UnknownName: A layer does not exist.
      CannotRead: The folder is unfinished or damaged.
    """
    manifest = _manifest(folder)
    layers, known = _store.select(manifest["layers"], layers), _chunks(folder)
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
        mapped = _store.channels_last(mapped, layout)
    return Store(mapped, manifest["about"])


def _path(folder: pathlib.Path, layer: str) -> pathlib.Path:
    return folder / f"{urllib.parse.quote(layer, safe='')}.npy"


def _form(layer: str, x: jax.ShapeDtypeStruct, images: int) -> dict[str, Any]:
    """Returns shape and dtype of a layer, from the activations for one image."""
    if x.shape[:1] != (1,) or not x.size or not _store.is_float(x.dtype):
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
    content = {**manifest, "sha256": files.sha256_of_manifest(manifest)}
    files.write(folder / _MANIFEST, json.dumps(content))


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
        if (row := _store.not_finite(x)) is not None:
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
        manifest = files.read_json(folder / _MANIFEST)
        whole = manifest["sha256"] == files.sha256_of_manifest(manifest)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise errors.CannotRead(
            f"{folder} is damaged: {_MANIFEST} cannot be read ({files.one_line(error)})"
        ) from error
    if not whole:
        raise errors.CannotRead(f"{folder} is damaged: {_MANIFEST} was changed")
    if manifest.get("format") != _FORMAT:
        raise errors.CannotRead(
            f"{folder} is stored in format {manifest.get('format')}, and this version "
            f"of rdljax reads format {_FORMAT}"
        )
    wrong = files.describe_mismatch(manifest, _FIELDS, _MANIFEST)
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
            raise OtherActivations(
                f"{path} is not a regular file: nothing is written there"
            )
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
            f"{folder} is damaged: {path.name} ({files.one_line(error)})"
        ) from error
    expected = form["shape"], _as_stored(form["dtype"]), True
    if (list(x.shape), x.dtype, x.flags.c_contiguous) != expected:
        raise errors.CannotRead(
            f"{folder} is damaged: {path.name} is {x.dtype}{x.shape}"
        )
    return x.view(jnp.dtype(form["dtype"]))
