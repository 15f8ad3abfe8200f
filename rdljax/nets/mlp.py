"""Defines a multilayer perceptron."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from rdljax.nets import _initializers, _layers

Array = jax.Array


class MLP(_layers.Net):
    """A multilayer perceptron: hidden layers with ReLU on the flattened image.

    The last hidden layer is `pooled`, those before it are `stage1`, `stage2`, ...

    Attributes:
      widths: Width of each hidden layer, one or more.
      normalize: Whether batch normalisation comes before each ReLU.
    """

    widths: tuple[int, ...] = (256, 64)
    normalize: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        """Returns the names of the activations in depth order."""
        return (*_layers.names(len(self.widths) - 1), "pooled", "logits")

    @property
    def preactivations(self) -> tuple[str, ...]:
        """Returns the names of the stages before their ReLU, in depth order."""
        return _layers.names(len(self.widths) - 1, "_preact")

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the activations of images `[batch, ...]`."""
        norm, out = self._norm(train), {}
        x = jnp.reshape(images, (images.shape[0], -1))
        for i, width in enumerate(self.widths):
            x = nn.Dense(
                width,
                use_bias=not self.normalize,
                dtype=self.dtype,
                kernel_init=_initializers.lecun,
                name=f"hidden{i + 1}",
            )(x)
            if self.normalize:
                x = norm(name=f"norm{i + 1}")(x)
            if i < len(self.preactivations):
                out[self.preactivations[i]] = x
            x = out[self.layers[i]] = nn.relu(x)
        out["logits"] = self._logits(x, _initializers.lecun)
        return out
