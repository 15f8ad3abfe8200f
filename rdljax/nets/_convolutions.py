"""What XLA is slow at on the CPU, in forms that it is fast at.

Elsewhere than on the CPU these are XLA's own operations. A training step on two cores:
MobileNetV2 and the ShuffleNets take 2.4 to 3.4 times less, a residual net of depth 110
takes 3.2 times less (benchmarks/README.md).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array


def conv_general_dilated(
    inputs: Array,
    kernel: Array,
    strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *,
    feature_group_count: int = 1,
    **options: Any,
) -> Array:
    """Computes `lax.conv_general_dilated`, for `nn.Conv` without dilation.

    On the CPU, a convolution channel by channel is a sum over the shifts of its kernel,
    and one of 1 x 1 in groups is a product of matrices for each group.

    Args:
      inputs: `[batch, H, W, channels]`.
      kernel: `[height, width, channels / groups, features]`.
      strides: Of height and width.
      padding: "SAME", "VALID", or before and after height and width.
      feature_group_count: The number of groups.
      **options: What else `lax.conv_general_dilated` is told.

    Returns:
      `[batch, H', W', features]`.
    """
    general: Callable[..., Array] = functools.partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=padding,
        feature_group_count=feature_group_count,
        **options,
    )
    if feature_group_count == 1:
        return general(inputs, kernel)
    if kernel.shape[2] == 1 and kernel.shape[3] == inputs.shape[3]:
        own = functools.partial(_shifted, strides=strides, padding=padding)
    elif kernel.shape[:2] == (1, 1) and tuple(strides) == (1, 1):
        own = functools.partial(_split, groups=feature_group_count)
    else:
        return general(inputs, kernel)
    return lax.platform_dependent(inputs, kernel, cpu=own, default=general)


def _shifted(inputs: Array, kernel: Array, *, strides, padding) -> Array:
    window = kernel.shape[:2]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(inputs.shape[1:3], window, strides, padding)
    x = jnp.pad(inputs, ((0, 0), *padding, (0, 0)))
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    # How far apart are the first and the last position that the kernel takes.
    reach = [
        (length - size) // stride * stride
        for length, size, stride in zip(x.shape[1:3], window, strides, strict=True)
    ]
    total: Any = 0
    for i in range(window[0]):
        for j in range(window[1]):
            start = (0, i, j, 0)
            end = (x.shape[0], i + reach[0] + 1, j + reach[1] + 1, x.shape[3])
            shifted = lax.slice(x, start, end, (1, *strides, 1))
            total += shifted * kernel[i, j].reshape(1, 1, 1, -1)
    return total.astype(inputs.dtype)


def _split(inputs: Array, kernel: Array, *, groups: int) -> Array:
    parts = zip(
        jnp.split(inputs, groups, axis=-1),
        jnp.split(kernel[0, 0], groups, axis=-1),
        strict=True,
    )
    return jnp.concatenate([x @ own for x, own in parts], axis=-1)


def kept(x: Array) -> Array:
    """Returns the same numbers, computed once.

    XLA on the CPU computes the sum of a block's input and output anew wherever it is
    read, and in it the sum of the block before, and so on: deep nets would take time
    in the square of their depth. It does not repeat divisions: this is one by 1, a 1
    that it does not see through.

    Args:
      x: `[batch, H, W, channels]`.
    """
    return lax.platform_dependent(x, cpu=_divided_by_one, default=lambda x: x)


def _divided_by_one(x: Array) -> Array:
    # A scalar: a divisor with axes would not do. Nothing is above infinity, not even
    # what is no number.
    first = lax.stop_gradient(x[0, 0, 0, 0])
    return x / (1 + (first > jnp.inf).astype(x.dtype))
