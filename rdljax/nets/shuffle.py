"""Defines ShuffleNets for images of CIFAR's size, as in RepDistiller."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp

from rdljax.nets import _initializers, _layers

Array = jax.Array


class _Grouped(nn.Module):
    """ShuffleNet's block, without its last ReLU.

    With stride 2 the pooled input is appended to the channels; otherwise the input is
    added.

    Attributes:
      width: Number of output channels.
      stride: Stride of the middle convolution.
      groups: Number of groups of the first and the last convolution.
      unit: Function that makes a convolution with normalisation (`_layers.Unit`).
    """

    width: int
    stride: int
    groups: int
    unit: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[batch, H, W, C]` to `[batch, H / stride, W / stride, width]`."""
        width = self.width - (x.shape[-1] if self.stride == 2 else 0)
        inner, groups = width // 4, self.groups
        # The stem's 24 channels are too few for groups.
        first = 1 if x.shape[-1] == 24 else groups
        y = self.unit(inner, 1, 1, first, activation=nn.relu, name="unit1")(x)
        y = _layers.shuffle(y, first)
        middle = self.unit(
            inner, 3, self.stride, inner, activation=nn.relu, name="unit2"
        )
        y = self.unit(width, 1, 1, groups, name="unit3")(middle(y))
        if self.stride == 1:
            return x + y
        x = nn.avg_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        return jnp.concatenate([y, x], axis=-1)


class ShuffleNetV1(_layers.Net):
    """ShuffleNet with three groups and a 1 x 1 stem.

    References:
      Zhang et al., `ShuffleNet <https://arxiv.org/abs/1707.01083>`_, CVPR 2018.
    """

    layers = ("stem", *_layers.names(3), "pooled", "logits")
    preactivations = _layers.names(3, "_preact")

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the activations of images `[batch, height, width, channels]`."""
        unit = self._unit(train, kernel_init=_initializers.lecun_third)
        x = unit(24, 1, activation=nn.relu, name="stem")(images)
        out = {"stem": x}
        block = functools.partial(_Grouped, groups=3, unit=unit)
        sizes = zip(_layers.names(3), (240, 480, 960), (4, 8, 4), strict=True)
        stages = (
            _layers.Stage(block, count, width, 2, name=name)
            for name, width, count in sizes
        )
        x = _layers.through(stages, x, out)
        out["pooled"] = _layers.mean_pool(x)
        out["logits"] = self._logits(out["pooled"])
        return out


class _Down(nn.Module):
    """ShuffleNetV2's block that halves the map: two branches over all channels."""

    width: int
    unit: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[batch, H, W, C]` to `[batch, H / 2, W / 2, width]`."""
        channels, half = x.shape[-1], self.width // 2
        active = functools.partial(self.unit, activation=nn.relu)
        left = self.unit(channels, 3, 2, channels, name="unit1")(x)
        left = active(half, 1, name="unit2")(left)
        right = active(half, 1, name="unit3")(x)
        right = self.unit(half, 3, 2, half, name="unit4")(right)
        right = active(half, 1, name="unit5")(right)
        return _layers.shuffle(jnp.concatenate([left, right], axis=-1), 2)


class _Split(nn.Module):
    """ShuffleNetV2's block: half of the channels pass unchanged."""

    unit: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Returns maps `[batch, H, W, C]` after ReLU and shuffling, and before both."""
        kept, y = jnp.split(x, 2, axis=-1)
        half = y.shape[-1]
        y = self.unit(half, 1, activation=nn.relu, name="unit1")(y)
        y = self.unit(half, 3, 1, half, name="unit2")(y)
        y = self.unit(half, 1, name="unit3")(y)
        before = jnp.concatenate([kept, y], axis=-1)
        x = jnp.concatenate([kept, nn.relu(y)], axis=-1)
        return _layers.shuffle(x, 2), before


class _SplitStage(nn.Module):
    """A block that halves the map, followed by further blocks."""

    width: int
    count: int
    unit: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Returns the activations of the last block."""
        x = _Down(self.width, self.unit, name="block0")(x)
        for i in range(self.count):
            x, before = _Split(self.unit, name=f"block{i + 1}")(x)
        return x, before


class ShuffleNetV2(_layers.Net):
    """ShuffleNetV2 of width 1, with a 1 x 1 stem.

    The pre-activation of a stage is before the ReLU only in the half of the channels
    that its last block computes, and before the shuffling of channels.

    References:
      Ma et al., `ShuffleNet V2 <https://arxiv.org/abs/1807.11164>`_, ECCV 2018.
    """

    layers = ("stem", *_layers.names(3), "pooled", "logits")
    preactivations = _layers.names(3, "_preact")

    @nn.compact
    def __call__(self, images: Array, train: bool = False) -> dict[str, Array]:
        """Returns the activations of images `[batch, height, width, channels]`."""
        unit = self._unit(train, kernel_init=_initializers.lecun_third)
        x = unit(24, 1, activation=nn.relu, name="stem")(images)
        out = {"stem": x}
        sizes = zip(_layers.names(3), (116, 232, 464), (3, 7, 3), strict=True)
        stages = (
            _SplitStage(width, count, unit, name=name) for name, width, count in sizes
        )
        x = _layers.through(stages, x, out)
        x = unit(1024, 1, activation=nn.relu, name="head")(x)
        out["pooled"] = _layers.mean_pool(x)
        out["logits"] = self._logits(out["pooled"])
        return out
