"""Computes the output of a net for many images: activations, logits, classes."""

import functools
from collections.abc import Callable

import jax
import numpy as np
import optax

from experiments import data
from experiments.weights import store
from rdljax import nets


@functools.partial(jax.jit, static_argnums=(0, 3))
def activations(
    net: nets.NetLike, variables: dict, images: store.Array, layers: tuple[str, ...]
) -> dict[str, store.Array]:
    """Returns the activations of some layers, in evaluation mode.

    Args:
      net: The net, which is hashable.
      variables: The variables of the net.
      images: The normalised images, `[N, H, W, C]`.
      layers: The names of the layers.

    Returns:
      The activations `[N, ...]`, by layer.
    """
    seen = net.apply(variables, images)
    return {name: seen[name] for name in layers}


def predict(
    net: nets.NetLike,
    variables: dict,
    dataset: data.Dataset,
    part: str,
    chunk: int = 500,
) -> tuple[np.ndarray, float]:
    """Returns predicted classes `[N]` and the mean cross-entropy of a part of the data.

    Args:
      net: The net.
      variables: The variables of the net.
      dataset: The data.
      part: The part of the data, "train", "validation" or "test".
      chunk: The number of images at a time.
    """
    split = getattr(dataset, part)
    return begin_predicting(net, variables, dataset, split, chunk)()


def begin_predicting(
    net: nets.NetLike,
    variables: dict,
    dataset: data.Dataset,
    split: data.Split,
    chunk: int = 500,
) -> Callable[[], tuple[np.ndarray, float]]:
    """Starts `predict` and returns immediately.

    Args:
      net: The net.
      variables: The variables of the net.
      dataset: The data set with the normalisation to apply.
      split: The images, which may be on the device.
      chunk: The number of images at a time.

    Returns:
      A function that waits for the result of `predict` and returns it.
    """
    under_way = _logits(net, variables, dataset, split, chunk)

    def wait():
        found = np.concatenate(under_way)
        losses = optax.losses.softmax_cross_entropy_with_integer_labels(
            found, split.label
        )
        return found.argmax(axis=1), float(losses.mean())

    return wait


def logits(
    net: nets.NetLike,
    variables: dict,
    dataset: data.Dataset,
    split: data.Split,
    chunk: int = 500,
) -> np.ndarray:
    """Returns a net's logits `[N, classes]`; arguments as for `begin_predicting`."""
    return np.concatenate(_logits(net, variables, dataset, split, chunk))


def _logits(net, variables, dataset, split, chunk) -> list[store.Array]:
    found = []
    for start in range(0, len(split.label), chunk):
        images = data.normalise(dataset, split.image[start : start + chunk])
        found.append(activations(net, variables, images, ("logits",))["logits"])
    return found


def accuracy(trained: store.TrainedNet, dataset: data.Dataset) -> float:
    """Returns the accuracy of a net on the test images, from 0 to 1."""
    predicted, _ = predict(trained.net(dataset), trained.variables, dataset, "test")
    return float(np.mean(predicted == dataset.test.label))
