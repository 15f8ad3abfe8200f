"""Small modules that terms train: they bring a student's layer to a teacher's shape."""

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
    """

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """`[batch, ...]` in, `[batch, ...]` of the teacher's width out."""
        if x.ndim != 4:
            return nn.Dense(self.shape[-1])(x)
        size, target = x.shape[1:3], self.shape[:2]
        channels = self.shape[2]
        if all(s == 2 * t for s, t in zip(size, target, strict=True)):
            return nn.Conv(channels, (3, 3), strides=(2, 2), padding=1)(x)
        if all(2 * s == t for s, t in zip(size, target, strict=True)):
            return nn.ConvTranspose(channels, (4, 4), strides=(2, 2))(x)
        if all(s >= t for s, t in zip(size, target, strict=True)):
            window = tuple(1 + s - t for s, t in zip(size, target, strict=True))
            return nn.Conv(channels, window, padding="VALID")(x)
        return nn.Conv(channels, (1, 1))(x)
