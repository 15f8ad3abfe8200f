"""Reads the weights of `cifar_cnn` from the Python package `cifar-10-model`.

    variables = from_keras.to_flax("cifar_cnn", from_keras.read("cnn_model.h5"))

The file is in the folder `trained_models` of the package. Images have values 0 to 255.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rdljax import errors, files
from rdljax.nets import _weights

# Layers of one kind are numbered in depth order; the first has no number.
_KINDS = {"conv": "conv2d", "norm": "batch_normalization", "hidden": "dense"}
_LEAVES = {
    "kernel": "kernel",
    "scale": "gamma",
    "bias": "bias",
    "mean": "moving_mean",
    "var": "moving_variance",
}


def to_flax(name: str, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Converts a net's Keras weights to Flax variables.

    Args:
      name: "cifar_cnn", the only such net.
      state: Arrays by name, such as `conv2d_1/kernel`, from `read`.

    Returns:
      `{"params": ..., "batch_stats": ...}`, float32.

    Raises:
      UnknownName: The name is another.
      WeightsMismatch: An entry is missing, unexpected, of another shape or not finite;
        the error lists all of them (`wrong`), its message the first twenty.
    """
    errors.check_name("net with weights in Keras", name, ["cifar_cnn"])
    classes = _weights.classes(name, "dense_2/bias", state)
    shapes = _weights.shapes(name, classes)
    _weights.check(name, {_name(path): s for path, s in shapes.items()}, state)
    return _weights.nested(
        {path: jnp.asarray(state[_name(path)], jnp.float32) for path in shapes}
    )


def read(
    path: str | os.PathLike, *, limit: int | None = files.LIMIT
) -> dict[str, np.ndarray]:
    """Reads the weights in a Keras file by name, without Keras.

    Args:
      path: An HDF5 file (`.h5`) written by `model.save`.
      limit: Largest size of the weights in bytes; or 20 times that of the file, if that
        is more. None: no limit.

    Raises:
      FileNotFoundError: The file does not exist.
      CannotRead: The file is not a Keras file, its weights are in other files, or they
        are larger than `limit`.
    """
    path = files.as_path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")

    def of_model(names):
        return [name for name in names if name.startswith("model_weights/")]

    arrays = files.hdf5(path, of_model, limit)
    if not arrays:
        raise errors.CannotRead(f"{path} is not a Keras file: it has no model_weights")
    # For example model_weights/conv2d/conv2d/kernel:0
    names = {key: key.partition(":")[0].split("/")[-2:] for key in arrays}
    return {"/".join(names[key]): x for key, x in arrays.items()}


def _name(path: _weights.Path) -> str:
    _, module, leaf = path
    if module == "classifier":
        return f"dense_2/{_LEAVES[leaf]}"
    kind, number = module[:-1], module[-1]
    layer = _KINDS[kind] if number == "0" else f"{_KINDS[kind]}_{number}"
    own = "beta" if kind == "norm" and leaf == "bias" else _LEAVES[leaf]
    return f"{layer}/{own}"
