"""The convolutional net of the RDL prototype."""

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


def _max_pool(x: Array, size: int) -> Array:
    """Max-pooling of `[batch, H, W, C]` over windows that do not overlap.

    As `nn.max_pool`, but its gradient is three times faster on the CPU.
    """
    height, width = x.shape[1] // size, x.shape[2] // size
    x = x[:, : height * size, : width * size]
    x = jnp.reshape(x, (x.shape[0], height, size, width, size, x.shape[3]))
    return jnp.max(x, axis=(2, 4))


class MnistCNN(nn.Module):
    """Two convolutions, each with ReLU and max-pooling, and a hidden layer.

    As in the first author's prototype (github.com/patrick-mcclure/rdl, 2015,
    MNIST/model.lua): on 32 x 32 images, 5 x 5 valid convolutions, pooling 3 x 3 with
    stride 3 and then 2 x 2 with stride 2.

    Attributes:
      classes: The number of logits.
      maps: Output channels of the two convolutions.
      units: Width of the hidden layer.
    """

    classes: int
    maps: tuple[int, int] = (32, 64)
    units: int = 500

    layers = ("stage1", "stage2", "pooled", "logits")

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Activations of images `[batch, height, width, channels]`."""
        del train  # The net is the same in training.
        out = {}
        x = nn.Conv(self.maps[0], (5, 5), padding="VALID", name="conv1")(images)
        x = out["stage1"] = _max_pool(nn.relu(x), 3)
        x = nn.Conv(self.maps[1], (5, 5), padding="VALID", name="conv2")(x)
        x = out["stage2"] = _max_pool(nn.relu(x), 2)
        x = jnp.reshape(x, (x.shape[0], -1))
        x = out["pooled"] = nn.relu(nn.Dense(self.units, name="hidden")(x))
        out["logits"] = nn.Dense(self.classes, name="classifier")(x)
        return out
