"""Saves and restores checkpoints with orbax, checked by hashes.

A checkpoint is a folder named by its step, `directory/1200`. It holds a flat dictionary
from the path of each leaf to its array, written by orbax (`state/`), and
`manifest.json`: the caller's description, the version of this format, shape, dtype and
SHA-256 of every leaf, the SHA-256 of every file, and that of the manifest itself. All
of these are checked before anything is returned: orbax alone silently casts to another
dtype, and restores a flipped byte as another number.

Only one process at a time may write to a directory, on a mounted file system; if a
program has several processes, the first one writes, and all must have access to the
directory. The newest step is kept, and the one before it in case the newest is damaged.
A checkpoint is written in `directory/.writing` and then renamed: if the process is
killed, it is complete or absent. (Data lost in a power cut is detected by the hashes.)
"""

import contextlib
import hashlib
import json
import operator
import os
import pathlib
import shutil
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from rdljax import _extras, files

with _extras.needed("orbax-checkpoint", "rdljax.checkpoints"):
    import orbax.checkpoint as ocp
    import tensorstore

PyTree = Any

# 2: a manifest with hashes. 1: an orbax item `about` and no hashes.
_FORMAT = 2
_MANIFEST = "manifest.json"
_STATE = "state"
_WRITING = ".writing"
_REPLACED = "replaced "
# The fields of a manifest in addition to its hash and format.
_FIELDS = {
    "leaves": {...: {"shape": [files.SIZE], "dtype": str, "sha256": str}},
    "files": {...: str},
    "about": ("any JSON", lambda _: True),
}
# The largest number of words of a typed key.
_KEY = 16


class CheckpointMismatch(ValueError):
    """Raised if the stored state does not have the expected structure."""


class CheckpointDamaged(ValueError):
    """Raised if a checkpoint was changed since it was saved, or cannot be read."""


class CheckpointNotWritten(OSError):
    """Raised if a checkpoint could not be written; earlier ones are unchanged."""


def _folder(directory: str | os.PathLike) -> pathlib.Path:
    return files.as_path(directory).absolute()


def _is_checkpoint(folder: pathlib.Path) -> bool:
    """Returns whether a folder is a checkpoint, complete or damaged."""
    of_orbax = (f"{_STATE}/{name}" for name in ("_METADATA", "manifest.ocdbt"))
    return any((folder / name).exists() for name in (_MANIFEST, *of_orbax))


def _steps(folder: pathlib.Path) -> list[int]:
    """Lists the stored steps, oldest first.

    Other folders with numbers as names are left out.
    """
    if not folder.is_dir():
        return []
    _put_back(folder)
    found = [f for f in folder.iterdir() if f.name.isdecimal() and _is_checkpoint(f)]
    return sorted(int(f.name) for f in found if f.name == str(int(f.name)))


def _put_back(folder: pathlib.Path) -> None:
    """Undoes a replacement that was interrupted between its two renames."""
    if (folder / _WRITING).is_symlink():  # Not made by this module.
        return
    for replaced in folder.glob(f"{_WRITING}/{_REPLACED}*"):
        place = folder / replaced.name.removeprefix(_REPLACED)
        # Several processes may do this at the same time.
        with contextlib.suppress(OSError):
            if not place.exists():
                replaced.rename(place)


def _orbax() -> ocp.Checkpointer:
    # Each process acts alone here: one writes, all read.
    me = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=str(me)
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)
    return ocp.Checkpointer(handler, multiprocessing_options=options)


def _leaves(tree: PyTree) -> dict[str, Any]:
    """Returns the leaves by path, such as `.params['Dense_0']['kernel']`."""
    flat, _ = jax.tree.flatten_with_path(tree)
    leaves = {jax.tree_util.keystr(path): leaf for path, leaf in flat}
    if len(leaves) != len(flat):
        raise ValueError("two leaves of the state have the same path")
    return leaves


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(getattr(leaf, "dtype", None), jax.dtypes.prng_key)


def _describe(leaf: Any) -> dict[str, Any]:
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    # The name has no byte order, since arrays are stored in that of this machine.
    dtype = leaf.dtype.name if isinstance(leaf.dtype, np.dtype) else str(leaf.dtype)
    return {"shape": list(leaf.shape), "dtype": dtype}


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(np.atleast_1d(array).view(np.uint8).data).hexdigest()


def _sha256_of_files(folder: pathlib.Path) -> dict[str, str]:
    """Returns the SHA-256 of each file below a folder, except the manifest, by path."""
    hashes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path != folder / _MANIFEST:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            hashes[path.relative_to(folder).as_posix()] = digest
    return hashes


def _to_host(leaves: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns NumPy arrays; typed keys become arrays of their words.

    In the byte order of this machine, the only one that can be restored.
    """
    leaves = {
        path: jax.random.key_data(leaf) if _is_key(leaf) else leaf
        for path, leaf in leaves.items()
    }
    arrays = {
        path: np.asarray(leaf, order="C")
        for path, leaf in jax.device_get(leaves).items()
    }
    for path, array in arrays.items():
        masked = isinstance(leaves[path], np.ma.MaskedArray)
        if masked or not _is_stored(array.dtype):
            raise TypeError(
                "a checkpoint holds numbers of a dtype that can be restored, and "
                f"{path} is {type(leaves[path])} of {array.dtype}"
            )
    return {
        path: array.astype(array.dtype.newbyteorder("="), copy=False)
        for path, array in arrays.items()
    }


def _is_stored(dtype: np.dtype) -> bool:
    """Returns whether TensorStore, which orbax uses, supports the dtype."""
    try:
        tensorstore.dtype(dtype.name)
    except ValueError:
        return False
    return True


def _as_like(like: Any, stored: np.ndarray) -> Any:
    """Converts a stored array to the kind of leaf of `like`."""
    if isinstance(like, np.ndarray):
        return stored
    if isinstance(like, np.generic):
        return stored[()]
    if isinstance(like, (bool, int, float, complex)):
        return stored.item()
    if _is_key(like):
        impl = jax.random.key_impl(jnp.empty((), like.dtype))
        return jax.random.wrap_key_data(jnp.asarray(stored), impl=impl)
    if like.weak_type and stored.ndim == 0:
        # Unlike a weakly typed scalar, a strongly typed one would promote bfloat16.
        return jnp.asarray(stored.item())
    array = jnp.asarray(stored)
    # Without jax_enable_x64 JAX has no 64-bit array, and would cast to 32 bits.
    return array if array.dtype == stored.dtype else stored


def _empty_like(like: Any) -> Any:
    """Returns a leaf without elements, since orbax does not store these."""
    if isinstance(like, np.ndarray):
        return np.empty_like(like)
    return jnp.empty(like.shape, like.dtype)


def _brief(leaf: dict[str, Any] | None) -> str:
    return "nothing" if leaf is None else f"{leaf['dtype']}{leaf['shape']}"


def _check(
    manifest: dict[str, Any], wanted: Mapping[str, Any], where: pathlib.Path
) -> None:
    """Raises `CheckpointMismatch` unless the manifest has the expected leaves."""
    stored = {
        path: {key: leaf[key] for key in ("shape", "dtype")}
        for path, leaf in manifest["leaves"].items()
    }
    wanted = {path: _describe(leaf) for path, leaf in wanted.items()}
    differing = [
        f"{path or 'the state'}: stored {_brief(stored.get(path))}, "
        f"expected {_brief(wanted.get(path))}"
        for path in wanted | stored
        if stored.get(path) != wanted.get(path)
    ]
    if differing:
        raise CheckpointMismatch("\n  ".join([f"{where} does not fit:", *differing]))


def _newest_first(folder: pathlib.Path, step: int | None) -> list[int]:
    """Returns the steps to try in turn, newest first; or only the given step."""
    steps = _steps(folder)
    if not steps:
        raise FileNotFoundError(f"there is no checkpoint in {folder}")
    if step is None:
        return steps[::-1]
    step = operator.index(step)
    if step not in steps:
        raise FileNotFoundError(f"{folder} has no step {step}, it has steps {steps}")
    return [step]


def _first_whole(
    folder: pathlib.Path,
    step: int | None,
    read: Callable[[pathlib.Path], Any],
    tell: Callable[[str], Any],
) -> tuple[Any, int]:
    """Returns the result of `read` for the newest undamaged step, and this step."""
    damages = []
    for found in _newest_first(folder, step):
        try:
            result = read(folder / str(found))
        except CheckpointDamaged as damage:
            damages.append(str(damage))
        else:
            for words in damages:
                tell(f"{words}; step {found} is used")
            return result, found
    raise CheckpointDamaged("\n  ".join(damages))


def _manifest(where: pathlib.Path) -> dict[str, Any]:
    """Returns the manifest of a checkpoint, after checking it and all files.

    Raises:
      CheckpointDamaged: The manifest or a file is missing or changed.
      CheckpointMismatch: Another version of rdljax wrote the checkpoint.
    """
    try:
        manifest = files.read_json(where / _MANIFEST)
        whole = manifest["sha256"] == files.sha256_of_manifest(manifest)
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        if (where / "about").is_dir():
            raise CheckpointMismatch(
                f"{where} is stored in format 1, and this version of rdljax reads "
                f"format {_FORMAT}"
            ) from error
        raise CheckpointDamaged(
            f"{where} is damaged: its manifest cannot be read ({_first_line(error)})"
        ) from error
    if not whole:
        raise CheckpointDamaged(f"{where} is damaged: its manifest was changed")
    if manifest.get("format") != _FORMAT:
        raise CheckpointMismatch(
            f"{where} is stored in format {manifest.get('format')}, and this version "
            f"of rdljax reads format {_FORMAT}"
        )
    if wrong := files.describe_mismatch(manifest, _FIELDS, _MANIFEST):
        raise CheckpointDamaged(f"{where} is damaged: {wrong}")
    for path in where.rglob("*"):
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise CheckpointDamaged(
                f"{where} is damaged: {path.name} is not a regular file"
            )
    # Checked before orbax reads them, since its threads would print tracebacks.
    found = _sha256_of_files(where)
    for path, digest in manifest["files"].items():
        if found.get(path) != digest:
            what = "was changed" if path in found else "is missing"
            raise CheckpointDamaged(f"{where} is damaged: {path} {what}")
    return manifest


def _arrays(
    where: pathlib.Path, leaves: Mapping[str, Mapping[str, Any]]
) -> dict[str, np.ndarray]:
    """Reads the arrays of a checkpoint by path; empty arrays are not stored.

    Raises:
      CheckpointDamaged: An array is not as it was saved.
    """
    expected = {path for path, leaf in leaves.items() if 0 not in leaf["shape"]}
    try:
        with _orbax() as checkpointer:
            told = checkpointer.metadata(where / _STATE).item_metadata.items()
            # Shapes are checked first: only arrays of the manifest are read.
            fitting = {k for k, x in told if k in expected and _fits(x, leaves[k])}
            if len(told) != len(fitting) or fitting != expected:
                raise ValueError("its arrays are not those of its manifest")
            args = ocp.args.StandardRestore()
            arrays = checkpointer.restore(where / _STATE, args=args)
        arrays = {path: np.asarray(x, order="C") for path, x in arrays.items()}
    except Exception as error:  # Damaged files raise errors of many kinds.
        raise CheckpointDamaged(f"{where} is damaged: {_first_line(error)}") from error
    for path, array in arrays.items():
        if _sha256(array) != leaves[path]["sha256"]:
            raise CheckpointDamaged(f"{where} is damaged: {path} was changed")
    return arrays


def _fits(array: Any, leaf: Mapping[str, Any]) -> bool:
    """Returns whether shape and dtype in orbax's metadata are those of the manifest."""
    shape, dtype = list(array.shape), str(array.dtype)
    if leaf["dtype"].startswith("key<"):
        *shape, words = shape
        return words <= _KEY and (shape, dtype) == (leaf["shape"], "uint32")
    return (shape, dtype) == (leaf["shape"], leaf["dtype"])


def _first_line(error: Exception) -> str:
    words = str(error).strip().splitlines()
    return f"{type(error).__name__}: {words[0][:200]}" if words else repr(error)


def save(
    directory: str | os.PathLike, step: int, state: PyTree, about: dict[str, Any]
) -> None:
    """Saves a state as the checkpoint of a step, and waits until it is written.

    The step is kept, and the newest undamaged step before it; older ones are removed. A
    step that is already stored is replaced. With several processes (`jax.distributed`),
    all must call with the same state; the first writes, and all wait for it.

    Args:
      directory: Folder of the checkpoints; it is created if it does not exist.
      step: Number of the step, 0 or more.
      state: Pytree of JAX and NumPy arrays, typed keys and Python numbers, with at
        least one element in all. Arrays may be replicated or sharded over this
        process's devices. Arrays of another byte order are restored in that of this
        machine.
      about: Further information (a configuration, metrics), as JSON: tuples are
        restored as lists, and keys as strings.

    Raises:
      ValueError: The step is negative, or the state has no element.
      TypeError: A leaf holds no numbers, or numbers that cannot be restored (times,
        uint4, float128, masked arrays), or `about` is not JSON.
      FileExistsError: A folder that is not a checkpoint has the name of the step.
      CheckpointNotWritten: The file system failed, for example because the disk is
        full; raised in every process.
    """
    step = operator.index(step)
    if step < 0:
        raise ValueError(f"a step is 0 or more, not {step}")
    leaves = _leaves(state)
    arrays = _to_host(leaves)
    manifest = {
        "format": _FORMAT,
        "leaves": {
            path: _describe(leaf) | {"sha256": _sha256(arrays[path])}
            for path, leaf in leaves.items()
        },
        "about": about,
    }
    # As it will be read: with strings as keys and lists in place of tuples.
    manifest = json.loads(json.dumps(manifest))
    arrays = {path: array for path, array in arrays.items() if array.size}
    if not arrays:
        raise ValueError("the state has no element to store")
    folder, failure = _folder(directory), None
    if jax.process_index() == 0:
        try:
            _store(folder, step, arrays, manifest)
        except OSError as error:
            failure = error
    if jax.process_count() > 1:
        failed = multihost_utils.broadcast_one_to_all(np.int32(failure is not None))
        if failed and failure is None:
            failure = CheckpointNotWritten(
                f"the first process could not write step {step}"
            )
    if failure is not None:
        raise failure


def _store(
    folder: pathlib.Path,
    step: int,
    arrays: dict[str, np.ndarray],
    manifest: dict[str, Any],
) -> None:
    """Writes a checkpoint to a temporary folder and then moves it to its place.

    If the process is killed between two renames, `_put_back` restores the old one.
    """
    place, aside = folder / str(step), folder / _WRITING
    if aside.is_symlink():  # Nothing is written through a link.
        aside.unlink()
    _put_back(folder)
    if place.exists() and not _is_checkpoint(place):
        raise FileExistsError(
            f"cannot write {place}: a folder that is not a checkpoint has this name"
        )
    try:
        shutil.rmtree(aside, ignore_errors=True)
        draft = aside / str(step)
        draft.mkdir(parents=True)
        with _orbax() as checkpointer:
            checkpointer.save(draft / _STATE, args=ocp.args.StandardSave(arrays))
        manifest["files"] = _sha256_of_files(draft)
        manifest["sha256"] = files.sha256_of_manifest(manifest)
        (draft / _MANIFEST).write_text(json.dumps(manifest))
        if place.exists():
            place.rename(aside / f"{_REPLACED}{step}")
        draft.rename(place)
        for old in _superseded(folder, step):
            # Moved first, since a removal can be interrupted and a rename cannot.
            (folder / str(old)).rename(aside / f"removed {old}")
    except Exception as error:  # TensorStore raises errors of many kinds.
        raise CheckpointNotWritten(
            f"{place} could not be written: {_first_line(error)}"
        ) from error
    finally:
        _put_back(folder)
        shutil.rmtree(aside, ignore_errors=True)


def _superseded(folder: pathlib.Path, step: int) -> list[int]:
    """Returns the steps before the saved one, except the newest undamaged one."""
    before = [old for old in _steps(folder) if old < step]
    for i, old in reversed(list(enumerate(before))):
        with contextlib.suppress(CheckpointDamaged, CheckpointMismatch):
            _manifest(folder / str(old))
            return before[:i] + before[i + 1 :]
    return []


def restore(
    directory: str | os.PathLike,
    like: PyTree | Callable[[dict[str, Any]], PyTree],
    step: int | None = None,
    *,
    tell: Callable[[str], Any] = warnings.warn,
) -> tuple[PyTree, dict[str, Any], int]:
    """Restores a checkpoint exactly, in the structure of a given state.

    If no step is given and the newest is damaged, the one before is restored.

    Args:
      directory: Folder of the checkpoints.
      like: A state of the expected structure: arrays, or shapes and dtypes
        (`jax.ShapeDtypeStruct`). NumPy arrays and Python numbers are restored as such,
        typed keys as keys of the same kind, all others as JAX arrays not committed to a
        device, so that any mapped step takes them. Or a function that returns such a
        state from the `about` given to `save`.
      step: The step to restore. None: the newest.
      tell: Function that receives messages about damaged checkpoints that are skipped.

    Returns:
      The state, the `about` given to `save`, and the step.

    Raises:
      FileNotFoundError: There is no checkpoint, or none of the given step.
      CheckpointMismatch: A leaf is missing or unexpected, a shape or a dtype differs,
        or another version of rdljax wrote the checkpoint.
      CheckpointDamaged: No step is as it was saved.
    """

    def read(where):
        manifest = _manifest(where)
        form = like(manifest["about"]) if callable(like) else like
        wanted = _leaves(form)
        _check(manifest, wanted, where)
        arrays = _arrays(where, manifest["leaves"])
        restored = [
            _empty_like(leaf) if 0 in np.shape(leaf) else _as_like(leaf, arrays[path])
            for path, leaf in wanted.items()
        ]
        state = jax.tree.unflatten(jax.tree.structure(form), restored)
        return state, manifest["about"]

    folder = _folder(directory)
    (state, told), found = _first_whole(folder, step, read, tell)
    return state, told, found


def about(
    directory: str | os.PathLike,
    step: int | None = None,
    *,
    tell: Callable[[str], Any] = warnings.warn,
) -> dict[str, Any]:
    """Returns the `about` given to `save`, after checking the hashes of all files.

    Args:
      directory: Folder of the checkpoints.
      step: The step. None: the newest.
      tell: As for `restore`.

    Raises:
      FileNotFoundError: There is no checkpoint, or none of the given step.
      CheckpointDamaged: No checkpoint is as it was written.
    """
    folder = _folder(directory)
    return _first_whole(folder, step, _manifest, tell)[0]["about"]


def latest(directory: str | os.PathLike) -> int | None:
    """Returns the newest step in a directory, damaged or not; None if there is none.

    Args:
      directory: Folder of the checkpoints; it need not exist.
    """
    return max(_steps(_folder(directory)), default=None)
