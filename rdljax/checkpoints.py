"""Checkpoints: orbax behind one door.

A checkpoint is a folder named by its step, `directory/1200`. It holds two orbax items:
`state`, a flat dictionary from a leaf's path to its array, and `about`, JSON with the
caller's own words, the version of this format, and the shape and dtype of every leaf.
That description is compared before a number is read, since orbax itself would cast to
another dtype without a word.

One process writes, at one time, to a directory on a mounted file system. The two newest
steps are kept. An interrupted save leaves a temporary folder that nobody takes for a
checkpoint; a later save removes it.
"""

import json
import operator
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

PyTree = Any

_FORMAT = 1
_REMOVED = ".removed"
_NAMES = ocp.path.step.standard_name_format()


class CheckpointMismatch(ValueError):
    """The state stored is not of the form that was asked for."""


class _Names(ocp.path.step.NameFormat):
    """The names orbax gives to steps, without numbered folders that are not ours.

    Orbax takes any folder `50` for step 50: it would be the newest, and it would be
    deleted when it is old.
    """

    def build_name(self, step: int) -> str:
        return _NAMES.build_name(step)

    def find_all(self, base_path: pathlib.Path) -> Iterator[ocp.path.step.Metadata]:
        return (m for m in _NAMES.find_all(base_path) if _is_checkpoint(m.path))

    def find_step(self, base_path: pathlib.Path, step: int) -> ocp.path.step.Metadata:
        return _NAMES.find_step(base_path, step)


def _is_checkpoint(folder: pathlib.Path) -> bool:
    return (folder / "state").is_dir() and (folder / "about").is_dir()


def _steps(folder: pathlib.Path) -> list[int]:
    return sorted(found.step for found in _Names().find_all(folder))


def _manager(folder: pathlib.Path, writes: bool) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=2,
        # A kill may cut a removal short; moving a folder away is done or not done.
        todelete_subdir=_REMOVED,
        step_name_format=_Names(),
        cleanup_tmp_directories=writes,
        enable_async_checkpointing=False,
    )
    return ocp.CheckpointManager(folder, options=options)


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
    return {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _to_host(leaves: dict[str, Any]) -> dict[str, np.ndarray]:
    """Returns NumPy arrays, typed keys as the words they are made of."""
    leaves = {
        path: jax.random.key_data(leaf) if _is_key(leaf) else leaf
        for path, leaf in leaves.items()
    }
    arrays = {path: np.asarray(leaf) for path, leaf in jax.device_get(leaves).items()}
    for path, array in arrays.items():
        if not (array.dtype == bool or jnp.issubdtype(array.dtype, np.number)):
            raise TypeError(
                f"a checkpoint holds numbers, and {path} is {type(leaves[path])}"
            )
    return arrays


def _as_like(like: Any, stored: np.ndarray) -> Any:
    """Returns stored numbers as the kind of leaf that `like` is."""
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
        # A strongly typed scalar would promote bfloat16 where a weak one does not.
        return jnp.asarray(stored.item())
    array = jnp.asarray(stored)
    # Without jax_enable_x64 JAX has no 64-bit array, and would cast to 32 bits.
    return array if array.dtype == stored.dtype else stored


def _empty_like(like: Any) -> Any:
    """Returns a leaf without elements, of which orbax stores none."""
    if isinstance(like, np.ndarray):
        return np.empty_like(like)
    return jnp.empty(like.shape, like.dtype)


def _brief(leaf: dict[str, Any] | None) -> str:
    return "nothing" if leaf is None else f"{leaf['dtype']}{leaf['shape']}"


def _check(record: dict[str, Any], wanted: dict[str, Any], where: pathlib.Path) -> None:
    """Raises `CheckpointMismatch` unless `record` describes the leaves wanted."""
    if record["format"] > _FORMAT:
        raise CheckpointMismatch(
            f"{where} is stored in format {record['format']}, and this version of "
            f"rdljax reads formats up to {_FORMAT}"
        )
    stored = record["leaves"]
    wanted = {path: _describe(leaf) for path, leaf in wanted.items()}
    differing = [
        f"{path or 'the state'}: stored {_brief(stored.get(path))}, "
        f"expected {_brief(wanted.get(path))}"
        for path in wanted | stored
        if stored.get(path) != wanted.get(path)
    ]
    if differing:
        raise CheckpointMismatch("\n  ".join([f"{where} does not fit:", *differing]))


def _write(folder: pathlib.Path, step: int, items: ocp.args.Composite) -> None:
    with _manager(folder, writes=True) as manager:
        # Unforced, orbax skips a step below the newest and only answers False.
        manager.save(step, args=items, force=True)
    shutil.rmtree(folder / _REMOVED, ignore_errors=True)


def _replace(folder: pathlib.Path, step: int, items: ocp.args.Composite) -> None:
    """Writes the new checkpoint aside, whole, and only then exchanges the two.

    A process killed between the two renames leaves both, whole, in `.replacing`.
    """
    aside = folder / ".replacing"
    shutil.rmtree(aside, ignore_errors=True)
    _write(aside, step, items)
    (folder / str(step)).rename(aside / "replaced")
    (aside / str(step)).rename(folder / str(step))
    shutil.rmtree(aside)


def _found(folder: pathlib.Path, step: int | None) -> int:
    """The step to read: the newest where none is asked for."""
    steps = _steps(folder)
    if not steps:
        raise FileNotFoundError(f"there is no checkpoint in {folder}")
    step = steps[-1] if step is None else operator.index(step)
    if step not in steps:
        raise FileNotFoundError(f"{folder} has no step {step}, it has {steps}")
    return step


def _record(manager: ocp.CheckpointManager, step: int) -> dict[str, Any]:
    return manager.restore(
        step, args=ocp.args.Composite(about=ocp.args.JsonRestore())
    ).about


def save(
    directory: str | os.PathLike, step: int, state: PyTree, about: dict[str, Any]
) -> None:
    """Stores a state as the checkpoint of a step, and waits until it is written.

    The two newest steps of the directory are kept, older ones are removed. A step that
    is stored already is replaced, once its successor is written.

    Args:
      directory: The folder that holds the checkpoints; it is made where it is missing.
      step: The number of the step, 0 or more.
      state: A pytree of jax and NumPy arrays, typed keys and Python numbers, at least
        one element in all. Arrays may be replicated or sharded over the devices.
      about: What else is to be known (a configuration, metrics), as JSON: tuples come
        back as lists, and keys as strings.

    Raises:
      ValueError: If the step is negative, or the state has no element.
      TypeError: If a leaf holds no numbers, or `about` is not JSON.
      FileExistsError: If a folder that is no checkpoint has the step's name.
    """
    step = operator.index(step)
    if step < 0:
        raise ValueError(f"a step is 0 or more, not {step}")
    leaves = _leaves(state)
    record = {
        "format": _FORMAT,
        "leaves": {path: _describe(leaf) for path, leaf in leaves.items()},
        "about": about,
    }
    # Orbax would find out in a thread, print its traceback and leave half a checkpoint.
    json.dumps(record)
    arrays = {path: array for path, array in _to_host(leaves).items() if array.size}
    if not arrays:
        raise ValueError("the state has no element to store")
    items = ocp.args.Composite(
        state=ocp.args.StandardSave(arrays), about=ocp.args.JsonSave(record)
    )
    folder = pathlib.Path(directory).absolute()
    if not (folder / str(step)).exists():
        _write(folder, step, items)
    elif _is_checkpoint(folder / str(step)):
        _replace(folder, step, items)
    else:
        raise FileExistsError(
            f"{folder / str(step)} is in the way: it is no checkpoint"
        )


def restore(
    directory: str | os.PathLike, like: PyTree, step: int | None = None
) -> tuple[PyTree, dict[str, Any], int]:
    """Reads a checkpoint back, bit by bit, into the form of a given state.

    Args:
      directory: The folder that holds the checkpoints.
      like: A state of the form wanted: arrays or `jax.ShapeDtypeStruct`s. NumPy arrays
        and Python numbers come back as such, typed keys as keys of the same kind, all
        else as jax arrays committed to no device, so that any mapped step takes them.
      step: The step to read; the newest when None.

    Returns:
      The state, what was told `about` it, and its step.

    Raises:
      FileNotFoundError: If there is no checkpoint, or none of that step.
      CheckpointMismatch: If a leaf is missing, one is too many, a shape or a dtype
        differs, or a newer version of rdljax wrote the checkpoint.
    """
    folder = pathlib.Path(directory).absolute()
    step = _found(folder, step)
    wanted = _leaves(like)
    with _manager(folder, writes=False) as manager:
        record = _record(manager, step)
        _check(record, wanted, folder / str(step))
        state = ocp.args.Composite(state=ocp.args.StandardRestore())
        arrays = manager.restore(step, args=state).state
    restored = [
        _empty_like(leaf) if 0 in np.shape(leaf) else _as_like(leaf, arrays[path])
        for path, leaf in wanted.items()
    ]
    return jax.tree.unflatten(jax.tree.structure(like), restored), record["about"], step


def about(directory: str | os.PathLike, step: int | None = None) -> dict[str, Any]:
    """Returns what `save` was told about a checkpoint, without reading its arrays.

    Args:
      directory: The folder that holds the checkpoints.
      step: The step; the newest when None.

    Raises:
      FileNotFoundError: If there is no checkpoint, or none of that step.
    """
    folder = pathlib.Path(directory).absolute()
    step = _found(folder, step)
    with _manager(folder, writes=False) as manager:
        return _record(manager, step)["about"]


def latest(directory: str | os.PathLike) -> int | None:
    """Returns the newest step that a directory holds, or None.

    Args:
      directory: The folder that holds the checkpoints; it need not exist.
    """
    return max(_steps(pathlib.Path(directory).absolute()), default=None)
