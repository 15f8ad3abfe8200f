"""Defines small modules that terms train, to map a layer to the shape of another.

Their batch normalisation always uses the statistics of the batch, over all devices if
`axis_name` is given, since they are only used in training.
"""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax

from rdljax.nets import _initializers

Array = jax.Array

# Flax's layers with its default initialiser, which compiles fewer programs here.
_Dense = functools.partial(nn.Dense, kernel_init=_initializers.lecun)
_Conv = functools.partial(nn.Conv, kernel_init=_initializers.lecun)
_ConvTranspose = functools.partial(nn.ConvTranspose, kernel_init=_initializers.lecun)


class Regressor(nn.Module):
    """A linear map from activations of one shape to the width of another.

    Vectors `[batch, units]` and tokens `[batch, T, units]` are mapped by a dense layer.
    Maps `[batch, H, W, C]` are mapped by a convolution that brings the student's height
    and width as close as possible to the teacher's: 3 x 3 with stride 2 if the
    student's map is twice as large; 4 x 4 transposed with stride 2 if it is half as
    large; without padding and with the matching kernel size if it is otherwise larger
    or equal (1 x 1 if equal); 1 x 1 if it is otherwise smaller, and the objective then
    pools the teacher. The sizes are those of FitNets (Romero et al. 2015) by
    RepDistiller's rules.

    Attributes:
      shape: The teacher's shape without the batch: `(..., units)` or `(H, W, C)`.
      normalize: Whether batch normalisation follows.
      activation: Activation function at the end, or None.
      axis_name: Name of the mapped axis of the devices, if the batch is divided.
    """

    shape: tuple[int, ...]
    normalize: bool = False
    activation: Callable[[Array], Array] | None = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[batch, ...]` to `[batch, ...]` of the teacher's width."""
        x = self._linear(x)
        if self.normalize:
            x = nn.BatchNorm(use_running_average=False, axis_name=self.axis_name)(x)
        return x if self.activation is None else self.activation(x)

    def _linear(self, x: Array) -> Array:
        # Normalisation would remove a bias, which would have no gradient.
        use_bias = not self.normalize
        if x.ndim != 4:
            return _Dense(self.shape[-1], use_bias=use_bias)(x)
        size, target = x.shape[1:3], self.shape[:2]
        channels = self.shape[2]
        if all(s == 2 * t for s, t in zip(size, target, strict=True)):
            return _Conv(
                channels, (3, 3), strides=(2, 2), padding=1, use_bias=use_bias
            )(x)
        if all(2 * s == t for s, t in zip(size, target, strict=True)):
            return _ConvTranspose(channels, (4, 4), strides=(2, 2), use_bias=use_bias)(
                x
            )
        if all(s >= t for s, t in zip(size, target, strict=True)):
            window = tuple(1 + s - t for s, t in zip(size, target, strict=True))
            return _Conv(channels, window, padding="VALID", use_bias=use_bias)(x)
        return _Conv(channels, (1, 1), use_bias=use_bias)(x)


class Pointwise(nn.Module):
    """Three dense layers over the channels of each position, without biases.

    Attributes:
      width: Number of units of each layer; the first two end with a ReLU.
    """

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[..., channels]` to `[..., width]`."""
        rows = x.reshape(-1, x.shape[-1])
        for _ in range(2):
            rows = nn.relu(_Dense(self.width, use_bias=False)(rows))
        rows = _Dense(self.width, use_bias=False)(rows)
        return rows.reshape(*x.shape[:-1], self.width)


class Embedding(nn.Module):
    """A linear map of flattened activations.

    Attributes:
      width: Number of output units.
    """

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[batch, ...]` to `[batch, width]`."""
        return _Dense(self.width)(x.reshape(x.shape[0], -1))


class Coder(nn.Module):
    """Three 3 x 3 convolutions, each with a leaky ReLU of slope 0.1.

    Attributes:
      channels: Numbers of channels of the three layers.
      transposed: Whether the convolutions are transposed.
      normalize: Whether batch normalisation follows each.
      axis_name: Name of the mapped axis of the devices, if the batch is divided.
    """

    channels: tuple[int, int, int]
    transposed: bool = False
    normalize: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Applies the convolutions to `[batch, H, W, C]`; maps keep their size."""
        convolution = _ConvTranspose if self.transposed else _Conv
        for channels in self.channels:
            x = convolution(channels, (3, 3), use_bias=not self.normalize)(x)
            if self.normalize:
                x = nn.BatchNorm(use_running_average=False, axis_name=self.axis_name)(x)
            x = nn.leaky_relu(x, 0.1)
        return x
