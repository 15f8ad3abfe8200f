"""Defines residual nets for CIFAR and for ImageNet, and wide residual nets."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax

from rdljax.nets import _convolutions, _layers

Array = jax.Array


class Basic(nn.Module):
    """Two 3 x 3 convolutions with a shortcut, without the last ReLU.

    Attributes:
      width: Number of output channels.
      stride: Stride of the first convolution.
      unit: Function that makes a convolution with normalisation (`_layers.Unit`).
    """

    width: int
    stride: int
    unit: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[batch, H, W, C]` to `[batch, H / stride, W / stride, width]`."""
        y = self.unit(self.width, 3, self.stride, activation=nn.relu, name="unit1")(x)
        y = self.unit(self.width, 3, name="unit2")(y)
        return y + _shortcut(self, x, self.width)


class Bottleneck(nn.Module):
    """Convolutions of size 1, 3 and 1 with a shortcut, without the last ReLU.

    The middle one has the stride, as in PyTorch's nets (in He et al. 2016 the first).

    Attributes:
      width: Number of inner channels; the output has four times as many.
      stride: Stride of the middle convolution.
      unit: As in `Basic`.
    """

    width: int
    stride: int
    unit: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[batch, H, W, C]` to `[batch, H / stride, W / stride, 4 width]`."""
        y = self.unit(self.width, 1, activation=nn.relu, name="unit1")(x)
        y = self.unit(self.width, 3, self.stride, activation=nn.relu, name="unit2")(y)
        y = self.unit(4 * self.width, 1, name="unit3")(y)
        return y + _shortcut(self, x, 4 * self.width)


def _shortcut(block: Basic | Bottleneck, x: Array, width: int) -> Array:
    if block.stride == 1 and x.shape[-1] == width:
        return x
    return block.unit(width, 1, block.stride, name="shortcut")(x)


class ResNet(_layers.Net):
    """A residual net; stages after the first halve height and width.

    Attributes:
      counts: Number of blocks of each stage.
      widths: Width of the blocks of each stage.
      stem: Number of channels of the first convolution.
      block: `Basic` or `Bottleneck`.
      large: Whether the images are of ImageNet's size: the first convolution is then
        7 x 7 with stride 2, and the stem ends with 3 x 3 max-pooling with stride 2.

    References:
      He et al., `Deep Residual Learning for Image Recognition
      <https://arxiv.org/abs/1512.03385>`_, CVPR 2016.
    """

    counts: tuple[int, ...] = (1, 1, 1)
    widths: tuple[int, ...] = (16, 32, 64)
    stem: int = 16
    block: Callable[..., nn.Module] = Basic
    large: bool = False

    @property
    def layers(self) -> tuple[str, ...]:
        """Returns the names of the activations in depth order."""
        return ("stem", *_layers.names(len(self.counts)), "pooled", "logits")

    @property
    def preactivations(self) -> tuple[str, ...]:
        """Returns the names of the stages before their last ReLU, in depth order."""
        return _layers.names(len(self.counts), "_preact")

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the activations of images `[batch, height, width, channels]`."""
        unit, out = self._unit(train), {}
        size, stride = (7, 2) if self.large else (3, 1)
        x = unit(self.stem, size, stride, activation=nn.relu, name="stem")(images)
        if self.large:
            x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        out["stem"] = x
        block = functools.partial(self.block, unit=unit)
        sizes = zip(
            _layers.names(len(self.counts)), self.counts, self.widths, strict=True
        )
        stages = (
            _layers.Stage(block, count, width, 2 if i else 1, name=name)
            for i, (name, count, width) in enumerate(sizes)
        )
        x = _layers.through(stages, x, out)
        out["pooled"] = _layers.mean_pool(x)
        out["logits"] = self._logits(out["pooled"])
        return out


class _WideBlock(nn.Module):
    """Two convolutions, each after normalisation and ReLU, with a shortcut."""

    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Returns the sum and the output of the first normalisation."""
        before = self.norm(name="norm1")(x)
        y = nn.relu(before)
        if x.shape[-1] != self.width:
            x = self.conv(self.width, 1, self.stride, name="shortcut")(y)
        y = self.conv(self.width, 3, self.stride, name="conv1")(y)
        y = nn.relu(self.norm(name="norm2")(y))
        return x + self.conv(self.width, 3, name="conv2")(y), before


class _WideStage(nn.Module):
    """A sequence of blocks; the first has the stride."""

    count: int
    width: int
    stride: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Returns the last sum and the output of the first normalisation."""
        for i in range(self.count):
            stride = self.stride if i == 0 else 1
            block = _WideBlock(
                self.width, stride, self.conv, self.norm, name=f"block{i}"
            )
            x, before = block(_convolutions.compute_once(x) if i else x)
            if i == 0:
                first = before
        return x, first


class WideResNet(_layers.Net):
    """A wide residual net: normalisation before convolutions, without dropout.

    `stem` is the output of the first convolution and the stages are the sums before
    normalisation, as in RepDistiller; `stage1_preact`, ... are the outputs of the next
    normalisation.

    Attributes:
      count: Number of blocks in each of the three stages: depth `6 count + 4`.
      widening: Factor of the widths 16, 32 and 64.

    References:
      Zagoruyko & Komodakis, `Wide Residual Networks
      <https://arxiv.org/abs/1605.07146>`_, BMVC 2016.
    """

    count: int = 2
    widening: int = 1

    layers = ("stem", *_layers.names(3), "pooled", "logits")
    preactivations = _layers.names(3, "_preact")

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the activations of images `[batch, height, width, channels]`."""
        conv, norm = self._conv(), self._norm(train)
        x = conv(16, name="stem")(images)
        out = {"stem": x}
        for i in range(3):
            width, stride = 16 * self.widening * 2**i, 1 if i == 0 else 2
            stage = _WideStage(
                self.count, width, stride, conv, norm, name=f"stage{i + 1}"
            )
            x, before = stage(x)
            if i > 0:
                out[f"stage{i}_preact"] = before
            out[f"stage{i + 1}"] = x
        x = out["stage3_preact"] = norm(name="norm")(x)
        out["pooled"] = _layers.mean_pool(nn.relu(x))
        out["logits"] = self._logits(out["pooled"])
        return out
