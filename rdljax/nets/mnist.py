"""Defines the convolutional net of the RDL prototype."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rdljax.nets import _initializers, _layers

Array = jax.Array


class MnistCNN(_layers.Net):
    """Two convolutions, each with ReLU and max-pooling, and a hidden layer.

    As in the first author's prototype (github.com/patrick-mcclure/rdl, 2015,
    MNIST/model.lua): on 32 x 32 images, 5 x 5 valid convolutions, pooling 3 x 3 with
    stride 3 and then 2 x 2 with stride 2. The pre-activations are pooled too: pooling
    before the ReLU gives the same result, since the ReLU is monotone.

    Attributes:
      maps: Numbers of output channels of the two convolutions.
      units: Width of the hidden layer.
    """

    maps: tuple[int, int] = (32, 64)
    units: int = 500

    layers = (*_layers.names(2), "pooled", "logits")
    preactivations = _layers.names(2, "_preact")

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the activations of images `[batch, height, width, channels]`."""
        del train  # The net is the same in training.
        out, x = {}, images
        for i, (width, window) in enumerate(zip(self.maps, (3, 2), strict=True)):
            convolve = nn.Conv(
                width,
                (5, 5),
                padding="VALID",
                dtype=self.dtype,
                kernel_init=_initializers.lecun,
                name=f"conv{i + 1}",
            )
            before = _layers.max_pool(convolve(x), window)
            out[f"stage{i + 1}_preact"] = before
            x = out[f"stage{i + 1}"] = nn.relu(before)
        x = jnp.reshape(x, (x.shape[0], -1))
        x = nn.Dense(
            self.units,
            dtype=self.dtype,
            kernel_init=_initializers.lecun,
            name="hidden",
        )(x)
        x = out["pooled"] = nn.relu(x)
        out["logits"] = self._logits(x, _initializers.lecun)
        return out
