"""What the nets are made of."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from rdljax import _extras
from rdljax.nets import _convolutions

# The first of this package that takes flax.
with _extras.needed("flax", "rdljax.nets"):
    import flax.linen as nn

Array = jax.Array
Activation = Callable[[Array], Array]

# The first weights of convolutions and classifiers: He et al. 2015 by the outputs,
# PyTorch's default (uniform, of variance 1 / (3 inputs)), and what RepDistiller's VGG
# and MobileNetV2 give their last layer.
he = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
lecun_third = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
narrow = nn.initializers.normal(0.01)


class Net(nn.Module):
    """What all nets have.

    Called with images `[batch, height, width, channels]` and `train`, a net answers a
    dict with the activations named in `layers` and in `preactivations`.

    Attributes:
      classes: The number of logits.
      dtype: What activations are computed in. Parameters, running statistics and
        logits are float32 all the same.
      axis_name: The mapped axis of the devices over which batch normalisation takes
        its statistics in training; None for those of the device alone.

    Running variances are of the batch's variance as it is, where PyTorch's are of n /
    (n - 1) times that, with n numbers a channel.
    """

    classes: int
    dtype: Any = jnp.float32
    axis_name: str | None = None

    # Overridden, by an attribute or a property.
    @property
    def layers(self) -> tuple[str, ...]:
        """Returns the names of the activations in depth order."""
        return ()

    @property
    def preactivations(self) -> tuple[str, ...]:
        """Returns of each stage the name of what has no ReLU yet, in depth order.

        For the objectives that compare signs (`ab`).
        """
        return ()

    def _norm(self, train: bool, **changes) -> Callable[..., nn.BatchNorm]:
        defaults = {"momentum": 0.9, "epsilon": 1e-5, "dtype": self.dtype}
        return functools.partial(
            nn.BatchNorm,
            use_running_average=not train,
            axis_name=self.axis_name,
            **(defaults | changes),
        )

    def _conv(self, **changes) -> Callable[..., nn.Conv]:
        return functools.partial(conv, dtype=self.dtype, **changes)

    def _unit(self, train: bool, **changes) -> Callable[..., "Unit"]:
        return functools.partial(
            Unit, conv=self._conv(**changes), norm=self._norm(train)
        )

    def _logits(self, pooled: Array, kernel_init=lecun_third) -> Array:
        # Logits are worth float32: a softmax follows.
        return nn.Dense(
            self.classes,
            dtype=jnp.promote_types(self.dtype, jnp.float32),
            kernel_init=kernel_init,
            name="classifier",
        )(pooled)


def conv(
    features: int,
    size: int = 3,
    stride: int = 1,
    groups: int = 1,
    *,
    use_bias: bool = False,
    kernel_init=he,
    padding: Any = None,
    dtype: Any = jnp.float32,
    name: str | None = None,
) -> nn.Conv:
    """Makes a square convolution, padded alike on all sides unless told otherwise.

    (Flax's and TensorFlow's "SAME" with stride 2 pads on one side only: other outputs
    than PyTorch's.)
    """
    return nn.Conv(
        features,
        (size, size),
        stride,
        padding=(size - 1) // 2 if padding is None else padding,
        feature_group_count=groups,
        use_bias=use_bias,
        kernel_init=kernel_init,
        dtype=dtype,
        conv_general_dilated=_convolutions.conv_general_dilated,
        name=name,
    )


class Unit(nn.Module):
    """A convolution, batch normalisation and an activation.

    Attributes:
      features: Channels of the result.
      size: Height and width of the kernel.
      stride: Of the kernel.
      groups: Into how many groups the channels fall apart.
      activation: What is applied last, if anything.
      conv: Makes the convolution.
      norm: Makes the normalisation.
    """

    features: int
    size: int = 3
    stride: int = 1
    groups: int = 1
    activation: Activation | None = None
    conv: Callable[..., nn.Module] = conv
    norm: Callable[..., nn.Module] = nn.BatchNorm

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[batch, H, W, C]` to `[batch, H / stride, W / stride, features]`."""
        convolve = self.conv(
            self.features, self.size, self.stride, self.groups, name="conv"
        )
        x = self.norm(name="norm")(convolve(x))
        return x if self.activation is None else self.activation(x)


class Stage(nn.Module):
    """Blocks, each followed by ReLU, of which the first has the stride.

    Attributes:
      block: `block(width, stride, name=...)` makes a block without its last ReLU.
      count: How many.
      width: Channels within, or of the result, as the block takes it.
      stride: Of the first block.
    """

    block: Callable[..., nn.Module]
    count: int
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Returns the activations of the last block after its ReLU, and before it."""
        for i in range(self.count):
            stride, x = (1, _convolutions.kept(x)) if i else (self.stride, x)
            before = self.block(self.width, stride, name=f"block{i}")(x)
            x = nn.relu(before)
        return x, before


def through(stages: Iterable[nn.Module], x: Array, out: dict[str, Array]) -> Array:
    """Applies several stages, and notes the output of each by its name.

    Args:
      stages: Each answers its activations after the last ReLU and before it.
      x: What the first one sees.
      out: Where `stage1`, `stage1_preact`, `stage2`, ... are put.
    """
    for stage in stages:
        x, before = stage(x)
        out[str(stage.name)], out[f"{stage.name}_preact"] = x, before
    return x


def max_pool(x: Array, size: int) -> Array:
    """Pools `[batch, H, W, C]` by the maximum of windows that do not overlap.

    As `nn.max_pool`, but its gradient is three times faster on the CPU, and goes to
    equal largest numbers in equal parts, not to the first of them.
    """
    height, width = x.shape[1] // size, x.shape[2] // size
    x = x[:, : height * size, : width * size]
    x = jnp.reshape(x, (x.shape[0], height, size, width, size, x.shape[3]))
    return jnp.max(x, axis=(2, 4))


def mean_pool(x: Array) -> Array:
    """Averages `[batch, H, W, C]` over positions: `[batch, C]`."""
    return jnp.mean(x, axis=(1, 2))


def shuffle(x: Array, groups: int) -> Array:
    """Mixes the channels of groups: the first of each group, the second of each, ..."""
    shape = x.shape
    x = jnp.reshape(x, (*shape[:-1], groups, shape[-1] // groups))
    return jnp.reshape(jnp.swapaxes(x, -1, -2), shape)


def names(count: int, suffix: str = "") -> tuple[str, ...]:
    """Returns `stage1`, `stage2`, ... with a suffix."""
    return tuple(f"stage{i + 1}{suffix}" for i in range(count))
