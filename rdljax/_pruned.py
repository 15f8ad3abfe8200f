"""Evaluates functions without the operations that their results do not depend on.

The variables of a net depend on the shapes of its activations, not on their values. But
`init` of Flax runs the net, and each operation of a new shape compiles a program. (To
compile all of it as one program takes as long: XLA spends most of the time on the
random numbers.)
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.interpreters import partial_eval

PyTree = Any


def evaluate(function: Callable[..., PyTree], *args: PyTree) -> PyTree:
    """Returns `function(*args)`, computed with the operations that it depends on.

    The values are those of `function(*args)` without jit. If an argument is traced, the
    function is called as usual.

    Args:
      function: Function of arrays that returns a pytree of arrays, without side
        effects.
      *args: Pytrees of arrays.
    """
    leaves = jax.tree.leaves(args)
    if any(isinstance(x, jax.core.Tracer) for x in leaves):
        return function(*args)
    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*args)
    jaxpr, _ = partial_eval.dce_jaxpr(closed.jaxpr, True, instantiate=True)
    values = jax.core.eval_jaxpr(jaxpr, closed.consts, *leaves)
    return jax.tree.unflatten(jax.tree.structure(shapes), values)
