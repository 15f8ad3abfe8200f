"""Computes sums over blocks of rows, with a gradient that stores only one block.

Sums over all pairs of stimuli (distances of RDMs, the mean of a kernel) are computed
tile by tile, sums over stimuli block by block. Autodiff of such a loop would store
every tile, or add a whole gradient array for each. Here the backward pass computes each
tile again and adds to the gradient of its rows in place.
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
    """Returns the first row of each block of n rows, `[blocks, 1]`, for `total`."""
    return np.arange(0, n, min(block, n), dtype=np.int32)[:, None]


def tiles(n: int, block: int) -> np.ndarray:
    """Returns first row and column of each tile, from the diagonal on: `[tiles, 2]`."""
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
      summand: Pure function that returns a pytree of float arrays. Traced values reach
        it only through `constants`, which count as constants in the gradient. For each
        column of `starts` it receives the place of that block,
        `(rows [block], fresh [block])`, and then, for each column, the points of these
        rows. If n is not a multiple of `block`, the last block overlaps the one before:
        `fresh` is False for rows of both.
      starts: First rows of the blocks, `[steps, blocks]`.
      block: Number of rows in a block; all rows if there are fewer.
      points: Pytree of arrays `[n, ...]`.
      constants: Pytree of the other inputs of the summand.

    Returns:
      The sum, a pytree like that of `summand`. If it is one scalar, its gradient is
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
    """Computes the sum and its gradient in the points.

    Without a cotangent the sum is one scalar; with one only the gradient is computed.
    """

    def add(carry, start):
        value, gradient = carry
        form = _at(summand, block, points, start, constants)
        own, pull = jax.vjp(form, *_cut(points, start, block))
        if cotangent is None:
            value = jax.tree.map(jnp.add, value, own)
        # Ones that vary over devices as the value does.
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
    """Returns zeros like the sum, which vary over devices as it does.

    (Under shard_map the carry of a scan must do so; plain zeros do not.)
    """
    form = _at(summand, block, points, starts[0], constants)
    value = jax.eval_shape(form, *_cut(points, starts[0], block))
    zero = sum(0 * x.reshape(-1)[0] for x in jax.tree.leaves((points, constants)))
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype) + zero, value)


def _cut(points: Tree, start: Array, block: int) -> list[Tree]:
    """Returns the rows of each block of a step."""
    return [
        jax.tree.map(lambda x, s=s: lax.dynamic_slice_in_dim(x, s, block), points)
        for s in start
    ]


def _at(summand, block, points, start, constants):
    """Returns the summand of a step, as a function of only its blocks."""
    n = jax.tree.leaves(points)[0].shape[0]
    places = []
    for first in start:
        # As dynamic_slice shifts a block that extends beyond the end.
        places.append(jnp.minimum(first, n - block) + np.arange(block, dtype=np.int32))
    fresh = [(rows, rows >= first) for rows, first in zip(places, start, strict=True)]
    return lambda *blocks: summand(constants, *fresh, *blocks)


def _add_rows(first: Array, block: int, whole: Array, part: Array) -> Array:
    own = lax.dynamic_slice_in_dim(whole, first, block)
    return lax.dynamic_update_slice_in_dim(whole, own + part, first, 0)
