"""Small modules that terms train: they bring a layer to another's shape.

Batch normalisation in them is by the statistics of the batch, over all devices where
`axis_name` names their axis: they are only ever used in training.
"""

from collections.abc import Callable

import flax.linen as nn
import jax

Array = jax.Array


class Regressor(nn.Module):
    """A linear map from activations of one shape to the width of another.

    Vectors `[batch, units]` and tokens `[batch, T, units]` by a dense layer. Maps
    `[batch, H, W, C]` by a convolution that takes the student's height and width as
    near the teacher's as it can: 3 x 3 with stride 2 where the student's map is twice
    as large, 4 x 4 transposed with stride 2 where it is half as large, valid and of the
    right size where it is otherwise larger (1 x 1 where equal). Where it is otherwise
    smaller, 1 x 1: the objective pools the teacher. The sizes are FitNets' (Romero et
    al. 2015) in RepDistiller's rules.

    Attributes:
      shape: The teacher's shape without the batch: `(..., units)` or `(H, W, C)`.
      normalize: Whether batch normalisation follows.
      activation: What is applied last, if anything.
      axis_name: The devices' axis, if the batch is spread over one.
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
        # Normalisation would take away a bias, which no gradient would then reach.
        use_bias = not self.normalize
        if x.ndim != 4:
            return nn.Dense(self.shape[-1], use_bias=use_bias)(x)
        size, target = x.shape[1:3], self.shape[:2]
        channels = self.shape[2]
        if all(s == 2 * t for s, t in zip(size, target, strict=True)):
            return nn.Conv(
                channels, (3, 3), strides=(2, 2), padding=1, use_bias=use_bias
            )(x)
        if all(2 * s == t for s, t in zip(size, target, strict=True)):
            return nn.ConvTranspose(
                channels, (4, 4), strides=(2, 2), use_bias=use_bias
            )(x)
        if all(s >= t for s, t in zip(size, target, strict=True)):
            window = tuple(1 + s - t for s, t in zip(size, target, strict=True))
            return nn.Conv(channels, window, padding="VALID", use_bias=use_bias)(x)
        return nn.Conv(channels, (1, 1), use_bias=use_bias)(x)


class Pointwise(nn.Module):
    """Three dense layers over the channels of each position, without biases.

    Attributes:
      width: Units of the result, and of the two layers before it, which end in ReLU.
    """

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[..., channels]` to `[..., width]`."""
        rows = x.reshape(-1, x.shape[-1])
        for _ in range(2):
            rows = nn.relu(nn.Dense(self.width, use_bias=False)(rows))
        rows = nn.Dense(self.width, use_bias=False)(rows)
        return rows.reshape(*x.shape[:-1], self.width)


class Embedding(nn.Module):
    """A linear map of flattened activations.

    Attributes:
      width: Units of the result.
    """

    width: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Maps `[batch, ...]` to `[batch, width]`."""
        return nn.Dense(self.width)(x.reshape(x.shape[0], -1))


class Coder(nn.Module):
    """Three 3 x 3 convolutions, each with a leaky ReLU of slope 0.1.

    Attributes:
      channels: Of the three layers.
      transposed: Whether the convolutions are transposed.
      normalize: Whether batch normalisation follows each.
      axis_name: The devices' axis, if the batch is spread over one.
    """

    channels: tuple[int, int, int]
    transposed: bool = False
    normalize: bool = False
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Applies the convolutions to `[batch, H, W, C]`; maps keep their size."""
        convolution = nn.ConvTranspose if self.transposed else nn.Conv
        for channels in self.channels:
            x = convolution(channels, (3, 3), use_bias=not self.normalize)(x)
            if self.normalize:
                x = nn.BatchNorm(use_running_average=False, axis_name=self.axis_name)(x)
            x = nn.leaky_relu(x, 0.1)
        return x
