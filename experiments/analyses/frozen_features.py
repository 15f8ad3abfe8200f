"""Extracts the features of frozen nets for images of other data sets."""

import dataclasses

import numpy as np

from experiments import command, data, display, weights
from rdljax import nets, validate

# The weights of red, green and blue in luminance (Rec. 601).
LUMINANCE = (0.299, 0.587, 0.114)


def resize_to_net(
    dataset: data.Dataset, trained: weights.TrainedNet, few: int | None = None
) -> data.Dataset:
    """Converts a data set to the size and number of channels of a net's images.

    One channel becomes several by repetition, three become one by luminance (Rec. 601,
    rounded). Mean and standard deviation are converted in the same way; they are used
    for a net without its own normalisation. Images are resized later, bilinearly, by
    `data.normalise`.

    Args:
      dataset: The data set.
      trained: The net.
      few: The number of images of each split to keep; None keeps all.

    Raises:
      UsageError: If there is no conversion between the numbers of channels.
    """
    height, width, channels = trained.shape
    own = dataset.shape[-1]
    if own not in (1, channels) and (own, channels) != (3, 1):
        raise command.UsageError(
            f"{trained.name} sees images of {display.count_of(channels, 'channel')}, "
            f"{dataset.name} has {own}"
        )

    def convert(values):
        if own == 1:
            return np.repeat(values, channels, axis=-1)
        if own == channels:
            return values
        weights = np.array(LUMINANCE, np.float32)
        return np.einsum("...c,c->...", values, weights)[..., None]

    def split(part):
        images = np.round(convert(part.image[:few]))
        return data.Split(images.astype(np.uint8, copy=False), part.label[:few])

    return dataclasses.replace(
        dataset,
        train=split(dataset.train),
        validation=split(dataset.validation),
        test=split(dataset.test),
        mean=tuple(convert(np.array(dataset.mean)).tolist()),
        std=tuple(convert(np.array(dataset.std)).tolist()),
        size=(height, width),
    )


def extract(
    net: nets.NetLike,
    variables: dict,
    dataset: data.Dataset,
    images: np.ndarray,
    layer: str,
    chunk: int = 500,
) -> np.ndarray:
    """Returns the activations of a layer in evaluation mode, float64 `[N, units]`.

    Args:
      net: The net.
      variables: The net's variables.
      dataset: The data set with the normalisation to apply.
      images: The images, uint8 `[N, H, W, C]`.
      layer: The name of the layer; feature maps are flattened.
      chunk: The number of images at a time.

    Raises:
      UsageError: If activations are not finite.
    """
    every = []
    for start in range(0, len(images), chunk):
        seen = data.normalise(dataset, images[start : start + chunk])
        every.append(weights.activations(net, variables, seen, (layer,))[layer])
    found = np.concatenate(every).astype(np.float64).reshape(len(images), -1)
    try:
        return validate.activations(found, layer)
    except ValueError as error:
        raise command.UsageError(str(error)) from error


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns mean and standard deviation of each column of `[N, units]`.

    For a column that is constant, up to the rounding of float32, the standard deviation
    is infinite, so that standardised values are 0.
    """
    deviation = values.std(axis=0)
    varies = deviation > 1e-6 * np.abs(values).max(axis=0)
    return values.mean(axis=0), np.where(varies, deviation, np.inf)
