"""Defines the base class and the layers of the nets."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp

from rdljax import _extras, _pruned
from rdljax.nets import _convolutions, _initializers

# The first module of this package that imports flax.
with _extras.needed("flax", "rdljax.nets"):
    import flax.linen as nn

Array = jax.Array
Activation = Callable[[Array], Array]


class Net(nn.Module):
    """The base class of all nets.

    Called with images `[batch, height, width, channels]` and `train`, a net returns a
    dict with the activations named in `layers` and in `preactivations`.

    Attributes:
      classes: Number of logits.
      dtype: Dtype of the activations. Parameters, running statistics and logits are
        always float32.
      axis_name: Name of the mapped axis of devices over which batch normalisation
        computes its statistics in training. None: the statistics of each device.

    Running variances average the biased variance of the batches; those of PyTorch
    average n / (n - 1) times it, with n values per channel.
    """

    classes: int
    dtype: Any = jnp.float32
    axis_name: str | None = None

    # Overridden in subclasses by an attribute or a property.
    @property
    def layers(self) -> tuple[str, ...]:
        """Returns the names of the activations in depth order."""
        return ()

    @property
    def preactivations(self) -> tuple[str, ...]:
        """Returns the names of the pre-activations of the stages, in depth order.

        They are for objectives that compare signs (`ab`).
        """
        return ()

    @nn.nowrap
    def init(self, rngs: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns new variables, like `flax.linen.Module.init`.

        The activations are not computed, which saves the compilation of an operation
        for each layer.
        """
        run = super().init
        return _pruned.evaluate(lambda rngs: run(rngs, *args, **kwargs), rngs)

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

    def _logits(self, pooled: Array, kernel_init=_initializers.lecun_third) -> Array:
        # Logits are at least float32, since a softmax follows.
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
    kernel_init=_initializers.he,
    padding: Any = None,
    dtype: Any = jnp.float32,
    name: str | None = None,
) -> nn.Conv:
    """Makes a square convolution, by default with the same padding on all sides.

    ("SAME" with stride 2 in Flax and TensorFlow pads on one side only, which gives
    other outputs than PyTorch.)
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
      features: Number of output channels.
      size: Height and width of the kernel.
      stride: Stride of the convolution.
      groups: Number of groups of channels.
      activation: Activation function at the end, or None.
      conv: Function that makes the convolution.
      norm: Function that makes the normalisation.
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
    """A sequence of blocks, each followed by ReLU.

    Attributes:
      block: Function `block(width, stride, name=...)` that makes a block without its
        last ReLU.
      count: Number of blocks.
      width: Width of the blocks: inner or output channels, depending on the block.
      stride: Stride of the first block.
    """

    block: Callable[..., nn.Module]
    count: int
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Array) -> tuple[Array, Array]:
        """Returns the activations of the last block after and before its ReLU."""
        for i in range(self.count):
            stride, x = (1, _convolutions.compute_once(x)) if i else (self.stride, x)
            before = self.block(self.width, stride, name=f"block{i}")(x)
            x = nn.relu(before)
        return x, before


def through(stages: Iterable[nn.Module], x: Array, out: dict[str, Array]) -> Array:
    """Applies several stages and stores the output of each by its name.

    Args:
      stages: Modules that return their activations after and before the last ReLU.
      x: Input of the first stage.
      out: Dict that receives `stage1`, `stage1_preact`, `stage2`, ...
    """
    for stage in stages:
        x, before = stage(x)
        out[str(stage.name)], out[f"{stage.name}_preact"] = x, before
    return x


def max_pool(x: Array, size: int) -> Array:
    """Pools `[batch, H, W, C]` by the maximum over windows without overlap.

    Like `nn.max_pool`, but its gradient is three times faster on the CPU, and is
    divided equally among equal maxima instead of going to the first.
    """
    height, width = x.shape[1] // size, x.shape[2] // size
    x = x[:, : height * size, : width * size]
    x = jnp.reshape(x, (x.shape[0], height, size, width, size, x.shape[3]))
    return jnp.max(x, axis=(2, 4))


def mean_pool(x: Array) -> Array:
    """Returns the mean of `[batch, H, W, C]` over positions: `[batch, C]`."""
    return jnp.mean(x, axis=(1, 2))


def shuffle(x: Array, groups: int) -> Array:
    """Shuffles channels: the first of each group, then the second of each group, ..."""
    shape = x.shape
    x = jnp.reshape(x, (*shape[:-1], groups, shape[-1] // groups))
    return jnp.reshape(jnp.swapaxes(x, -1, -2), shape)


def names(count: int, suffix: str = "") -> tuple[str, ...]:
    """Returns the names `stage1`, `stage2`, ... with a suffix."""
    return tuple(f"stage{i + 1}{suffix}" for i in range(count))
