"""Draws the initial weights of nets, with few programs to compile.

The values are those of Flax's initialisers (exactly with jax 0.10; with jax 0.12, which
multiplies in another order, up to the last bits). XLA takes up to a second to compile
random numbers of a shape with several axes, and a net has many shapes. Here they are
drawn in vectors of few lengths, of which each weight takes the beginning. (With JAX's
default generator, each number depends on the key and on its position only. With another
generator they are still random numbers of the same distribution.)
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Initializer = Callable[..., Array]

# Longer vectors are drawn in their own length: there are few of them.
LENGTHS = (2**16, 2**20)
DRAWS: dict[str, Callable[..., Array]] = {
    "normal": jax.random.normal,
    "truncated_normal": functools.partial(
        jax.random.truncated_normal, lower=-2, upper=2
    ),
    "uniform": functools.partial(jax.random.uniform, minval=-1),
}
# Standard deviation of the normal distribution that is truncated at -2 and 2.
TRUNCATED = 0.87962566103423978


def normal(deviation: float) -> Initializer:
    """Makes `flax.linen.initializers.normal`: mean 0 and a given standard deviation."""

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return _scaled("normal", key, shape, np.asarray(deviation, dtype))

    return init


def variance_scaling(scale: float, mode: str, distribution: str) -> Initializer:
    """Makes `flax.linen.initializers.variance_scaling`: variance `scale / fan`.

    Args:
      scale: Variance, times the number of inputs or outputs.
      mode: "fan_in" or "fan_out", whether inputs or outputs are counted.
      distribution: One of `DRAWS`.
    """
    axis = {"fan_in": -1, "fan_out": -2}[mode]

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        # In the same precision and order as in JAX, for the same values.
        variance = np.asarray(scale / (math.prod(shape) / shape[axis]), dtype)
        if distribution == "uniform":
            variance = 3 * variance
        factor = np.sqrt(variance)
        if distribution == "truncated_normal":
            factor = factor / np.asarray(TRUNCATED, dtype)
        return _scaled(distribution, key, shape, factor)

    return init


def _scaled(
    distribution: str, key: Array, shape: tuple[int, ...], factor: np.ndarray
) -> Array:
    """Returns random numbers of a shape times a factor, of the factor's dtype."""
    count = math.prod(shape)
    length = next((one for one in LENGTHS if one >= count), count)
    vector = _draw(distribution, key, length, factor.dtype)
    return _take(vector, factor, tuple(shape))


@functools.partial(jax.jit, static_argnums=(0, 2, 3))
def _draw(distribution: str, key: Array, length: int, dtype: Any) -> Array:
    return DRAWS[distribution](key, shape=(length,), dtype=dtype)


@functools.partial(jax.jit, static_argnums=2)
def _take(vector: Array, factor: Array, shape: tuple[int, ...]) -> Array:
    return jnp.reshape(vector[: math.prod(shape)], shape) * factor


# He et al. 2015 by the number of outputs, for convolutions.
he = variance_scaling(2.0, "fan_out", "normal")
# Flax's default.
lecun = variance_scaling(1.0, "fan_in", "truncated_normal")
# PyTorch's default (uniform, variance 1 / (3 inputs)).
lecun_third = variance_scaling(1 / 3, "fan_in", "uniform")
# That of the last layer of RepDistiller's VGG and MobileNetV2.
narrow = normal(0.01)
