"""Saves and loads trained nets: folders with weights and the input normalisation."""

import dataclasses
import hashlib
import math
import os
import pathlib
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np

from experiments import command, data, display
from experiments.data import colour
from rdljax import checkpoints, errors, files, nets
from rdljax.nets import from_keras, from_torch

Array = jax.Array
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
# The nets for images of 224 x 224 pixels.
IMAGENET = (
    "resnet18_imagenet",
    "resnet34_imagenet",
    "resnet50_imagenet",
    "efficientnet_lite0",
)
# RepDistiller's mean and standard deviation for CIFAR-100 (dataset/cifar100.py).
CIFAR100 = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
# Mean and standard deviation, of pixels from 0 to 1, used in training released weights.
NORMALISATIONS: dict[str, Normalisation] = {
    "cifar_cnn": ((0.0,) * 3, (1 / 255,) * 3),
    **dict.fromkeys(IMAGENET, ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
    "efficientnet_lite0": ((127 / 255,) * 3, (128 / 255,) * 3),
}


@dataclasses.dataclass(frozen=True)
class Renormalised:
    """A net for images with another normalisation than that of its training.

    Attributes:
      net: The net.
      scale: The factor of each channel.
      shift: The summand of each channel: the net sees `scale * images + shift`.
    """

    net: nets.NetLike
    scale: tuple[float, ...]
    shift: tuple[float, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Returns the names of the net's layers."""
        return self.net.layers

    def init(self, key: Array, images: Array) -> Any:
        """Returns the net's initial variables."""
        return self.net.init(key, images)

    def apply(self, variables: Any, images: Array, **options) -> Any:
        """Returns the net's activations."""
        shape = (1, 1, 1, -1)
        scale, shift = (jnp.asarray(x).reshape(shape) for x in (self.scale, self.shift))
        return self.net.apply(variables, scale * images + shift, **options)


def fingerprint(arrays: Any) -> str:
    """Returns the SHA-256 of a pytree of arrays and their paths."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        digest.update(jax.tree_util.keystr(path).encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class TrainedNet:
    """A trained net.

    Attributes:
      name: The name of the net.
      classes: The number of its logits.
      shape: The shape of its images, `(height, width, channels)`.
      variables: The Flax variables of the net.
      normalisation: The mean of each channel that is subtracted from pixels between 0
        and 1, and the standard deviation by which they are then divided; None for those
        of the data's training images.
      source: The origin of the weights, such as a `file` and its `sha256`.
      modality: The part of an image that the net sees (`experiments.data.colour`).
    """

    name: str
    classes: int
    shape: tuple[int, int, int]
    variables: Any
    normalisation: Normalisation | None
    source: dict[str, str]
    modality: str = colour.IMAGE

    @property
    def fingerprint(self) -> str:
        """Returns the SHA-256 of the variables and their paths."""
        return fingerprint(self.variables)

    def net(self, dataset: data.Dataset, other_classes: bool = False) -> Any:
        """Returns the net for images normalised by `data.normalise`.

        Args:
          dataset: The data set.
          other_classes: Whether the data set may have other classes than the net.

        Raises:
          UsageError: If the images do not fit the net, or the classes differ.
        """
        if self.classes != dataset.classes and not other_classes:
            raise command.UsageError(
                f"{self.name} has "
                f"{display.count_of(self.classes, 'class', 'classes')} and "
                f"{dataset.name} has {dataset.classes}"
            )
        size = dataset.shape
        if size[-1] != self.shape[-1]:
            raise command.UsageError(
                f"{self.name} sees images of "
                f"{display.count_of(self.shape[-1], 'channel')}, {dataset.name} has "
                f"{size[-1]}"
            )
        net = nets.build(self.name, self.classes)
        try:
            seen = (1, *size[:2], colour.channels(self.modality, size[-1]))
            images = jax.ShapeDtypeStruct(seen, jnp.float32)
            jax.eval_shape(net.apply, self.variables, images)
        except (flax.errors.FlaxError, ZeroDivisionError) as error:
            raise command.UsageError(
                f"{self.name} was made for images of {list(self.shape)}, "
                f"{dataset.name} has {list(size)}"
            ) from error
        return self.wrap_net(dataset, net)

    def wrap_net(self, dataset: data.Dataset, net: nets.NetLike) -> Any:
        """Wraps a net for images normalised by `data.normalise`.

        Args:
          dataset: The data set.
          net: The net of the weights, which may have other classes or another dtype.
        """
        if self.modality != colour.IMAGE:
            return colour.select_channels(self.modality, net, dataset)
        if self.normalisation is None:
            return net
        pairs = zip(dataset.mean, dataset.std, *self.normalisation, strict=True)
        # From ((pixel - m) / s) to (pixel / 255 - mean) / std.
        both = [(s / 255 / std, (m / 255 - mean) / std) for m, s, mean, std in pairs]
        return Renormalised(net, *map(tuple, zip(*both, strict=True)))

    def initial_variables(self, drawn: dict) -> dict:
        """Returns the initial variables of a training that continues from this net.

        They are the variables of this net, except for a classifier of other classes,
        which is that of `drawn`.

        Args:
          drawn: The random initial variables of the net to be trained.

        Raises:
          UsageError: If more than the classifier differs.
        """

        def own(path, x):
            place = [key.key for key in path]
            given = self.variables
            for key in place:
                given = given.get(key, {})
            if np.shape(given) == x.shape:
                return jnp.array(given, x.dtype)
            if "classifier" in place:
                return x
            raise command.UsageError(
                f"the weights of {self.name} do not fit this student: "
                f"{'/'.join(place)} is {np.shape(given)} there and {x.shape} here"
            )

        return jax.tree_util.tree_map_with_path(own, drawn)


def read(
    name: str, file: str | os.PathLike, normalisation: Normalisation | None = None
) -> TrainedNet:
    """Returns a net with the weights of another program's file.

    Args:
      name: The name of the net.
      file: The path of a file for `from_torch.read`, or of a Keras file (`.h5`).
      normalisation: The normalisation as in `TrainedNet`; None for that in
        `NORMALISATIONS`, or for RepDistiller's if there are 100 classes.

    Raises:
      UsageError: If the normalisation is not valid, or has another number of channels.
      UnknownName: If there is no such net, or none with weights of other programs.
      FileNotFoundError: If there is no such file.
      CannotRead: If the file cannot be read, or has anything except arrays.
      WeightsMismatch: If the weights are not those of the net.
    """
    errors.check_name("net", name, nets.NETS)
    path = pathlib.Path(file).expanduser()
    keras = path.suffix.lower() in (".h5", ".hdf5")
    source = from_keras if keras else from_torch
    variables = source.to_flax(name, source.read(path))
    classes = variables["params"]["classifier"]["bias"].size
    channels = from_torch.channels(variables)
    large = name in IMAGENET
    if normalisation is None and channels == 3:
        usual = CIFAR100 if classes == 100 and not large else None
        normalisation = NORMALISATIONS.get(name, usual)
    if normalisation is not None:
        _check(normalisation, channels)
    return TrainedNet(
        name,
        classes,
        (224, 224, channels) if large else (32, 32, channels),
        variables,
        normalisation,
        {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()},
    )


def _check(normalisation: Normalisation, channels: int) -> None:
    mean, std = normalisation
    finite = all(map(math.isfinite, (*mean, *std)))
    if not (len(mean) == len(std) == channels and finite and min(std) > 0):
        raise command.UsageError(
            f"expected mean and std of {display.count_of(channels, 'channel')}, and no "
            f"std of 0 or less, got mean {list(mean)} and std {list(std)}"
        )


def _is_normalisation(value: Any) -> bool:
    wrong = files.describe_mismatch(value, [[("a number", _is_number)]], "")
    return value is None or (not wrong and len(value) == 2)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


# The fields of a folder's record of its net.
_FIELDS = {
    "name": ("the name of a net", lambda x: isinstance(x, str) and x in nets.NETS),
    "classes": files.COUNT,
    "shape": (
        "height, width and channels",
        lambda x: isinstance(x, list) and len(x) == 3,
    ),
    "normalisation": ("mean and std of each channel, or null", _is_normalisation),
    "source": {...: str},
    "modality?": (
        "a part of images",
        lambda x: x in (colour.IMAGE, *colour.PARTS),
    ),
}


def save(trained: TrainedNet, folder: str | os.PathLike) -> None:
    """Writes a net to a folder, as a checkpoint of step 0."""
    about = {**vars(trained), "kind": "weights"}
    del about["variables"]
    checkpoints.save(folder, 0, trained.variables, about)


def load(folder: str | os.PathLike, *, limit: int | None = files.LIMIT) -> TrainedNet:
    """Reads a net from its folder.

    Args:
      folder: The folder that `save` wrote.
      limit: The number of bytes that the variables may take, or 20 times the bytes of
        the folder if that is more; None disables the limit.

    Raises:
      UsageError: If the folder has no such net, or a net that exceeds the limit.
    """
    folder = command.path("the folder of weights", os.fspath(folder))
    try:
        about = checkpoints.about(folder)
        if not isinstance(about, dict) or about.get("kind") != "weights":
            raise ValueError(f"{folder} is a checkpoint of a run")
        wrong = files.describe_mismatch(about, _FIELDS, "it")
        wrong = wrong or files.describe_mismatch(
            about["shape"], [files.COUNT], "it.shape"
        )
        if wrong:
            raise ValueError(wrong)
        net = nets.build(about["name"], about["classes"])
        *size, channels = about["shape"]
        modality = about.get("modality", colour.IMAGE)
        seen = (1, *size, colour.channels(modality, channels))
        images = jax.ShapeDtypeStruct(seen, jnp.float32)
        like = jax.eval_shape(net.init, jax.random.key(0), images)
        asked = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(like))
        own = sum(x.stat().st_size for x in folder.rglob("*") if x.is_file())
        files.check_size(folder, asked, limit, own)
        variables, about, _ = checkpoints.restore(folder, like)
        shape, normalisation = tuple(about["shape"]), about["normalisation"]
        if normalisation is not None:
            normalisation = tuple(map(tuple, normalisation))
            _check(normalisation, shape[-1])
        if not about["source"].keys() & {"file", "run"}:
            raise ValueError("its record has no source")
    except Exception as error:  # (A damaged file raises many kinds of errors.)
        raise command.UsageError(
            f"{folder} holds no weights: a run leaves such a folder for each net, and "
            f"python -m experiments.import_torch NAME FILE writes one ({error})"
        ) from error
    return TrainedNet(
        about["name"],
        about["classes"],
        shape,
        variables,
        normalisation,
        about["source"],
        modality,
    )


def describe_normalisation(normalisation: Normalisation | None) -> str:
    """Returns a description of a normalisation."""
    if normalisation is None:
        return "the mean and deviation of the data's training images"
    mean, std = (", ".join(f"{x:.4g}" for x in numbers) for numbers in normalisation)
    return f"mean ({mean}) and std ({std}) of pixels from 0 to 1"
