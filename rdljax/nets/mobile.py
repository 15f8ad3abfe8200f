"""Defines nets of inverted residuals: MobileNetV2 and EfficientNet-Lite0."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from rdljax.nets import _initializers, _layers

Array = jax.Array


class _Inverted(nn.Module):
    """An inverted residual: expansion, depthwise convolution and linear projection.

    Attributes:
      width: Number of output channels.
      stride: Stride of the middle convolution.
      expansion: Factor from input to inner channels. None: no first convolution.
      unit: Function that makes a convolution with normalisation (`_layers.Unit`).
      size: Height and width of the middle kernel.
      activation: Activation function of the first two convolutions.
    """

    width: int
    stride: int
    expansion: int | None
    unit: Callable[..., nn.Module]
    size: int
    activation: _layers.Activation = nn.relu

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[batch, H, W, C]` to `[batch, H / stride, W / stride, width]`."""
        y, unit = x, functools.partial(self.unit, activation=self.activation)
        if self.expansion is not None:
            y = unit(self.expansion * x.shape[-1], 1, name="expand")(y)
        inner = y.shape[-1]
        y = unit(inner, self.size, self.stride, inner, name="depthwise")(y)
        y = self.unit(self.width, 1, name="project")(y)
        return x + y if self.stride == 1 and x.shape == y.shape else y


class _Stage(nn.Module):
    """A sequence of named blocks."""

    blocks: tuple[tuple[str, Callable[..., nn.Module]], ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Applies the blocks one after the other."""
        for name, block in self.blocks:
            x = block(name=name)(x)
        return x


def _through(
    stages: Sequence[tuple], x: Array, out: dict[str, Array], block: Callable[..., Any]
) -> Array:
    """Applies all stages and stores the output of each by its name.

    Args:
      stages: Groups of each stage: expansion, kernel size, channels, number of blocks,
        stride of the first block.
      x: Input of the first stage.
      out: Dict that receives `stage1`, `stage2`, ...
      block: `_Inverted` with the arguments that all blocks share.
    """
    number = 0
    for name, groups in zip(_layers.names(len(stages)), stages, strict=True):
        blocks = []
        for expansion, size, channels, count, stride in groups:
            own = functools.partial(block, channels, expansion=expansion, size=size)
            for i in range(count):
                made = functools.partial(own, stride=1 if i else stride)
                blocks.append((f"block{number}", made))
                number += 1
        x = out[name] = _Stage(tuple(blocks), name=name)(x)
    return x


class MobileNetV2(_layers.Net):
    """MobileNetV2 for images of CIFAR's size, as in RepDistiller.

    The stem halves height and width, and so do three of the seven groups of blocks.
    The stages end with linear projections without a ReLU, so that the stages themselves
    are pre-activations.

    All convolutions except the last have half the channels of the paper.

    References:
      Sandler et al., `MobileNetV2: Inverted Residuals and Linear Bottlenecks
      <https://arxiv.org/abs/1801.04381>`_, CVPR 2018, table 2.
    """

    layers = ("stem", *_layers.names(4), "pooled", "logits")
    preactivations = _layers.names(4)

    stages = (
        ((1, 3, 8, 1, 1), (6, 3, 12, 2, 1)),
        ((6, 3, 16, 3, 2),),
        ((6, 3, 32, 4, 2), (6, 3, 48, 3, 1)),
        ((6, 3, 80, 3, 2), (6, 3, 160, 1, 1)),
    )

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the activations of images `[batch, height, width, channels]`."""
        unit, out = self._unit(train), {}
        stem = unit(16, 3, 2, activation=nn.relu, name="stem")
        x = out["stem"] = stem(images)
        x = _through(self.stages, x, out, functools.partial(_Inverted, unit=unit))
        x = unit(1280, 1, activation=nn.relu, name="head")(x)
        out["pooled"] = _layers.mean_pool(x)
        out["logits"] = self._logits(out["pooled"], _initializers.narrow)
        return out


class EfficientNetLite0(_layers.Net):
    """EfficientNet-Lite0, for images of 224 x 224 pixels.

    A stage ends before each convolution with stride 2. The stages end with linear
    projections, so that the stages themselves are pre-activations. In training, dropout
    of a fifth of `pooled` comes before the last layer (`rngs={"dropout": key}`); unlike
    in the paper, whole blocks are not dropped.

    References:
      Tan & Le, `EfficientNet <https://arxiv.org/abs/1905.11946>`_, ICML 2019; without
      squeeze-and-excitation and with ReLU6: github.com/tensorflow/tpu,
      efficientnet/lite.
    """

    layers = ("stem", *_layers.names(5), "pooled", "logits")
    preactivations = _layers.names(5)

    stages = (
        ((None, 3, 16, 1, 1),),
        ((6, 3, 24, 2, 2),),
        ((6, 5, 40, 2, 2),),
        ((6, 3, 80, 3, 2), (6, 5, 112, 3, 1)),
        ((6, 5, 192, 4, 2), (6, 3, 320, 1, 1)),
    )

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the activations of images `[batch, height, width, channels]`."""
        # TensorFlow's padding, since the weights come from TensorFlow.
        unit, out = self._unit(train, padding="SAME"), {}
        unit = functools.partial(
            unit, norm=self._norm(train, epsilon=1e-3, momentum=0.99)
        )
        stem = unit(32, 3, 2, activation=nn.relu6, name="stem")
        x = out["stem"] = stem(images)
        block = functools.partial(_Inverted, unit=unit, activation=nn.relu6)
        x = _through(self.stages, x, out, block)
        x = unit(1280, 1, activation=nn.relu6, name="head")(x)
        out["pooled"] = _layers.mean_pool(x)
        x = nn.Dropout(0.2, deterministic=not train)(out["pooled"])
        out["logits"] = self._logits(x, _initializers.narrow)
        return out
