"""A multilayer perceptron."""

import flax.linen as nn
import jax
import jax.numpy as jnp

Array = jax.Array


class MLP(nn.Module):
    """Hidden layers with ReLU, over the flattened image.

    The last hidden layer is `pooled`, those before it are `stage1`, `stage2`, ...

    Attributes:
      classes: The number of logits.
      widths: Width of each hidden layer, one or more.
    """

    classes: int
    widths: tuple[int, ...] = (256, 64)

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of the activations in depth order."""
        stages = tuple(f"stage{i}" for i in range(1, len(self.widths)))
        return (*stages, "pooled", "logits")

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Activations of images `[batch, ...]`."""
        del train  # The net is the same in training.
        out = {}
        x = jnp.reshape(images, (images.shape[0], -1))
        for i, width in enumerate(self.widths):
            x = out[self.layers[i]] = nn.relu(nn.Dense(width, name=f"hidden{i + 1}")(x))
        out["logits"] = nn.Dense(self.classes, name="classifier")(x)
        return out
