"""Defines VGG nets with batch normalisation, for images of CIFAR's size."""

from collections.abc import Callable

import flax.linen as nn
import jax

from rdljax.nets import _initializers, _layers

Array = jax.Array

_WIDTHS = (64, 128, 256, 512, 512)


class _Stage(nn.Module):
    """A sequence of convolutions with normalisation; the last without its ReLU."""

    width: int
    count: int
    unit: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[batch, H, W, C]` to `[batch, H, W, width]`."""
        for i in range(self.count):
            x = self.unit(self.width, name=f"unit{i}")(nn.relu(x) if i else x)
        return x


class VGG(_layers.Net):
    """Five groups of 3 x 3 convolutions with poolings between, and one linear layer.

    The first group is `stem`, the others are `stage1` to `stage4`, each before its
    pooling. The fourth pooling is only used for images of 64 x 64 pixels or more (in
    RepDistiller, of exactly 64).

    Attributes:
      counts: Numbers of convolutions in the five groups.

    References:
      Simonyan & Zisserman, `Very Deep Convolutional Networks for Large-Scale Image
      Recognition <https://arxiv.org/abs/1409.1556>`_, ICLR 2015.
    """

    counts: tuple[int, int, int, int, int] = (1, 1, 1, 1, 1)

    layers = ("stem", *_layers.names(4), "pooled", "logits")
    preactivations = _layers.names(4, "_preact")

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the activations of images `[batch, height, width, channels]`."""
        unit, out, x = self._unit(train, use_bias=True), {}, images
        for i, (width, count) in enumerate(zip(_WIDTHS, self.counts, strict=True)):
            name = self.layers[i]
            if i in (1, 2, 3) or (i == 4 and images.shape[1] >= 64):
                x = _layers.max_pool(x, 2)
            x = _Stage(width, count, unit, name=name)(x)
            if i:
                out[f"{name}_preact"] = x
            x = out[name] = nn.relu(x)
        out["pooled"] = _layers.mean_pool(x)
        out["logits"] = self._logits(out["pooled"], _initializers.narrow)
        return out
