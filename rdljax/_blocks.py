"""Sums over blocks of rows, with a gradient that keeps no more than a block.

What is summed over all pairs of stimuli (an RDM's moments, a kernel's mean) is summed
tile by tile; what is summed over stimuli, block by block. Autodiff of such a loop would
keep every tile, or add a whole gradient array for each. Here the backward pass computes
a tile anew and adds to the rows it came from, in place.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array
Tree = Any


def rows(n: int, block: int) -> np.ndarray:
    """Returns the first row of every block of n rows: `[blocks, 1]`, for `total`."""
    return np.arange(0, n, min(block, n), dtype=np.int32)[:, None]


def tiles(n: int, block: int) -> np.ndarray:
    """Returns first row and column of every tile from the diagonal on: `[tiles, 2]`."""
    starts = rows(n, block)[:, 0]
    upper = np.triu_indices(len(starts))
    return np.stack([starts[i] for i in upper], axis=1)


def total(
    summand: Callable[..., Tree],
    starts: np.ndarray,
    block: int,
    points: Tree,
    constants: Tree = (),
) -> Tree:
    """Sums `summand(constants, *places, *blocks)` over blocks.

    Args:
      summand: A function without state of its own (traced values reach it through
        `constants`, which count as constants in the gradient). For every column of
        `starts` it receives the place of that block, `(rows [block], fresh [block])`,
        and then, for every column, the points' rows there. The last block of all
        overlaps the one before where the block does not divide n: `fresh` is False for
        rows that have been seen. It answers a pytree of float arrays.
      starts: First rows, `[steps, blocks]`.
      block: Rows in a block; all rows if there are fewer.
      points: A pytree of arrays `[n, ...]`.
      constants: A pytree of what else the summand needs.

    Returns:
      The sum, a pytree as `summand` answers. Where that is one scalar, its gradient is
      computed in the same pass as its value; otherwise in a second pass.
    """
    n = jax.tree.leaves(points)[0].shape[0]
    constants = jax.tree.map(jnp.asarray, constants)
    return _total(summand, min(block, n), starts, points, constants)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _total(summand, block, starts, points, constants):
    def add(carry, start):
        value = _at(summand, block, points, start, constants)(
            *_cut(points, start, block)
        )
        return jax.tree.map(jnp.add, carry, value), None

    nothing = _nothing_of_the_sum(summand, block, starts, points, constants)
    return lax.scan(add, nothing, starts)[0]


def _total_fwd(summand, block, starts, points, constants):
    form = functools.partial(_total, summand, block)
    shapes = jax.tree.leaves(jax.eval_shape(form, starts, points, constants))
    if [x.shape for x in shapes] == [()]:
        value, gradient = _value_and_gradient(summand, block, starts, points, constants)
        return value, (gradient, None, None)
    return form(starts, points, constants), (None, points, (starts, constants))


def _total_bwd(summand, block, residuals, cotangent):
    gradient, points, others = residuals
    if points is None:
        (scale,) = jax.tree.leaves(cotangent)
        return None, jax.tree.map(lambda g: scale * g, gradient), None
    starts, constants = others
    _, gradient = _value_and_gradient(
        summand, block, starts, points, constants, cotangent
    )
    return None, gradient, None


_total.defvjp(_total_fwd, _total_bwd)


def _value_and_gradient(summand, block, starts, points, constants, cotangent=None):
    """Computes the sum (of one scalar, without a cotangent) and its gradient.

    The gradient is that by the points.
    """

    def add(carry, start):
        value, gradient = carry
        form = _at(summand, block, points, start, constants)
        own, pull = jax.vjp(form, *_cut(points, start, block))
        if cotangent is None:
            value = jax.tree.map(jnp.add, value, own)
        # (Ones that vary over the devices as the value does.)
        ones = jax.tree.map(lambda x: 0 * x + 1, own)
        by_blocks = pull(ones if cotangent is None else cotangent)
        for first, by_block in zip(start, by_blocks, strict=True):
            gradient = jax.tree.map(
                functools.partial(_add_rows, first, block), gradient, by_block
            )
        return (value, gradient), None

    nothing = _nothing_of_the_sum(summand, block, starts, points, constants)
    start = (
        nothing if cotangent is None else (),
        jax.tree.map(lambda x: 0 * x, points),
    )
    return lax.scan(add, start, starts)[0]


def _nothing_of_the_sum(summand, block, starts, points, constants):
    """Returns zeros like the sum, which vary over the devices as it does.

    (Under shard_map a scan's carry must; plain zeros do not.)
    """
    form = _at(summand, block, points, starts[0], constants)
    value = jax.eval_shape(form, *_cut(points, starts[0], block))
    zero = sum(0 * x.reshape(-1)[0] for x in jax.tree.leaves((points, constants)))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype) + zero, value)


def _cut(points: Tree, start: Array, block: int) -> list[Tree]:
    """Returns the rows of every block of a step."""
    return [
        jax.tree.map(lambda x, s=s: lax.dynamic_slice_in_dim(x, s, block), points)
        for s in start
    ]


def _at(summand, block, points, start, constants):
    """Returns the summand of a step, as a function of its blocks alone."""
    n = jax.tree.leaves(points)[0].shape[0]
    places = []
    for first in start:
        # What dynamic_slice does with a block that would reach beyond the end.
        places.append(jnp.minimum(first, n - block) + np.arange(block, dtype=np.int32))
    fresh = [(rows, rows >= first) for rows, first in zip(places, start, strict=True)]
    return lambda *blocks: summand(constants, *fresh, *blocks)


def _add_rows(first: Array, block: int, whole: Array, part: Array) -> Array:
    own = lax.dynamic_slice_in_dim(whole, first, block)
    return lax.dynamic_update_slice_in_dim(whole, own + part, first, 0)
