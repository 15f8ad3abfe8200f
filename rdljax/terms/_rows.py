"""Computes relational objectives of a global batch, divided by rows over devices.

`objective(student, teacher, axis_name=..., **numbers)` takes the activations on one
device and returns the mean over the pairs of its examples with those of all devices.
The mean over the devices is the value of the objective of the same name for the global
batch, and the mean of the gradients is its gradient. Each device computes and stores
only its rows of each matrix of pairs.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from rdljax import _checks, _geometry, _layerwise, objectives

Array = jax.Array


def _with_all(x: Array, axis_name: str) -> Array:
    """Computes inner products of this device's rows with all rows: `[n, devices n]`."""
    return _geometry.inner(x, lax.all_gather(x, axis_name, tiled=True))


@_layerwise.layerwise(_layerwise.same_batch)
def sp(student: Array, teacher: Array, *, axis_name: str) -> Array:
    """Computes the contribution of a device's rows to `objectives.sp`."""

    def similarities(x):
        x = _geometry.flatten(x)
        return _with_all(x / lax.pmax(_geometry.power_of_two(x), axis_name), axis_name)

    difference = _geometry.difference_of_unit_rows(
        similarities(student), similarities(teacher)
    )
    return jnp.mean(difference**2)


@_layerwise.layerwise(_layerwise.same_batch)
def pkt(
    student: Array, teacher: Array, *, axis_name: str, epsilon: float = 1e-7
) -> Array:
    """Computes the contribution of a device's rows to `objectives.pkt`."""
    epsilon = _checks.as_number("epsilon", epsilon, student.dtype, at_least=0)

    def probabilities(x):
        x = _geometry.directions(x, epsilon)
        return _geometry.kernel_probabilities(_with_all(x, axis_name))

    s, t = probabilities(student), probabilities(teacher)
    return jnp.mean(t * jnp.log((t + epsilon) / (s + epsilon)))


@_layerwise.layerwise(_layerwise.same_batch)
def rkd_distance(student: Array, teacher: Array, *, axis_name: str) -> Array:
    """Computes the contribution of a device's rows to `objectives.rkd_distance`."""
    n = len(student)
    first = lax.axis_index(axis_name) * n

    def relative(x):
        x = _geometry.flatten(x)
        x = x / lax.pmax(_geometry.power_of_two(x), axis_name)
        every = _geometry.centre(lax.all_gather(x, axis_name, tiled=True), axis=0)
        own = lax.dynamic_slice_in_dim(every, first, n)
        norms, own_norms = (jnp.sum(a * a, axis=1) for a in (every, own))
        both = own_norms[:, None] + norms[None, :]
        squared = both - 2 * _geometry.inner(own, every)
        # As in `_geometry.squared_distances_from`.
        same = (first + jnp.arange(n))[:, None] == jnp.arange(len(every))[None, :]
        rounding = 4 * jnp.finfo(both.dtype).eps * both
        distances = _geometry.safe_sqrt(
            jnp.where(same | (squared < rounding), 0, squared)
        )
        pairs = len(every) * (len(every) - 1)
        mean = lax.psum(jnp.sum(distances), axis_name) / pairs
        return distances * _geometry.safe_inverse(mean)

    return jnp.mean(_geometry.huber(relative(student) - relative(teacher)))


OF_ROWS: dict[Callable[..., Array], Callable[..., Array]] = {
    objectives.sp: sp,
    objectives.pkt: pkt,
    objectives.rkd_distance: rkd_distance,
}
