"""Computes means over all pairs of stimuli of all devices, passing blocks in a ring.

No device ever holds all stimuli. The stimuli of each device are passed from device to
device, so that every device sees them once for the value and once for the gradient.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
Points = tuple[Array, ...]


class Settings(NamedTuple):
    """Static settings of the means.

    Attributes:
      between: Function `between(points, points, precision)` that returns distances
        `[n, m]`.
      terms: Function `terms(student, teacher, centres)` that returns the terms to be
        averaged.
      precision: Precision of the matrix products.
      axis: Name of the mapped axis of the devices.
    """

    between: Callable[..., Array]
    terms: Callable[..., tuple[Array, ...]]
    precision: lax.PrecisionLike
    axis: str


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def means(
    sides: tuple[Points, Points], constants: Any, settings: Settings
) -> tuple[Array, ...]:
    """Computes the means over the pairs of the stimuli of all devices.

    Args:
      sides: Points of this device's stimuli, from `distances.points`, of student and
        teacher.
      constants: Scales of both RDMs and their centres.
      settings: Static settings of the means.

    Returns:
      The means, the same on all devices.
    """
    n, dtype = len(sides[0][0]), sides[0][0].dtype

    def visit(sums, block, origin):
        places, others = _places(n, origin, settings.axis)
        counted = places[:, None] < others[None, :]
        parts = _parts(sides, block, constants, counted, settings)
        return tuple(map(jnp.add, sums, parts))

    row = jax.ShapeDtypeStruct((n,), dtype)
    count = len(jax.eval_shape(settings.terms, row, row, constants[1]))
    sums = _pass_around(visit, (jnp.zeros((), dtype),) * count, sides, settings.axis)
    return tuple(x / _pairs(n, settings.axis) for x in lax.psum(sums, settings.axis))


def _forward(sides, constants, settings):
    return means(sides, constants, settings), (sides, constants)


def _backward(settings: Settings, kept: Any, cotangents: tuple[Array, ...]) -> tuple:
    """Passes the blocks around again; each device uses the pairs of its own stimuli.

    A distance depends on both of its stimuli; each device computes the gradient with
    respect to its own.
    """
    sides, constants = kept
    n = len(sides[0][0])
    pairs = _pairs(n, settings.axis)
    cotangents = tuple(x / pairs for x in lax.psum(cotangents, settings.axis))

    def visit(gradient, block, origin):
        places, others = _places(n, origin, settings.axis)
        counted = places[:, None] != others[None, :]

        def weighted(own):
            parts = _parts(own, block, constants, counted, settings)
            return sum(c * x for c, x in zip(cotangents, parts, strict=True))

        return jax.tree.map(jnp.add, gradient, jax.grad(weighted)(sides))

    nothing = jax.tree.map(jnp.zeros_like, sides)
    gradient = _pass_around(visit, nothing, sides, settings.axis)
    return gradient, jax.tree.map(jnp.zeros_like, constants)


means.defvjp(_forward, _backward)


def _pass_around(visit: Callable, result: Any, block: Any, axis: str) -> Any:
    """Passes the block of every device to every device.

    Args:
      visit: Function `visit(result, block, origin)` that returns the result updated
        with the block of device `origin`.
      result: Initial result.
      block: Block of this device.
      axis: Name of the mapped axis of the devices.
    """
    devices, here = lax.axis_size(axis), lax.axis_index(axis)
    to_next = [(i, (i + 1) % devices) for i in range(devices)]

    def body(k, state):
        result, block = state
        result = visit(result, block, (here - k) % devices)
        return result, lax.ppermute(block, axis, to_next)

    result, _ = lax.fori_loop(0, devices, body, (result, block))
    return result


def _pairs(n: int, axis: str) -> float:
    """Returns the number of pairs of stimuli on all devices, with n stimuli on each."""
    everyone = n * lax.axis_size(axis)
    return everyone * (everyone - 1) / 2


def _places(n: int, origin: Array, axis: str) -> tuple[Array, Array]:
    """Returns the global indices of this device's stimuli and of those of a block."""
    own = lax.axis_index(axis) * n + jnp.arange(n)
    return own, origin * n + jnp.arange(n)


def _parts(
    own: tuple[Points, Points],
    block: tuple[Points, Points],
    constants: Any,
    counted: Array,
    settings: Settings,
) -> tuple[Array, ...]:
    """Returns the sums over pairs of this device's stimuli with those of a block."""
    scales, centres = constants
    student, teacher = (
        scale * settings.between(x, y, settings.precision)
        for scale, x, y in zip(scales, own, block, strict=True)
    )
    terms = settings.terms(student, teacher, centres)
    return tuple(jnp.sum(jnp.where(counted, x, 0)) for x in terms)
