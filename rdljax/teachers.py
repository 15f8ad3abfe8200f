"""Teachers: where the targets of a step come from.

A teacher is what it holds (`arrays`, an argument of the compiled step and never a
constant in it) and a pure function from them and a batch to a dict of activations.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax import lax

Array = jax.Array
Batch = Mapping[str, Array]


class Teacher(NamedTuple):
    """A source of targets.

    Attributes:
      arrays: A pytree of what the teacher holds: parameters, stored activations, RDMs.
      targets: `targets(arrays, batch) -> {layer: [batch, ...]}`, without a gradient.
    """

    arrays: Any
    targets: Callable[[Any, Batch], dict[str, Array]]


def net(module, variables, *, inputs: str = "image") -> Teacher:
    """A live net, in evaluation mode.

    Args:
      module: A Flax module whose `apply(variables, images, train=False)` answers a dict
        of activations.
      variables: Its variables: parameters and, if any, running statistics.
      inputs: The entry of the batch that the net sees.
    """

    def targets(arrays, batch):
        return lax.stop_gradient(module.apply(arrays, batch[inputs], train=False))

    return Teacher(variables, targets)


def several(teachers: Mapping[str, Teacher]) -> Teacher:
    """Several teachers as one, whose layers are called `name/layer`.

    For `terms.against` (each of them) and `terms.kd_mean` and `terms.rdl_mean` (the
    mean of what they teach). They may see different inputs.

    Args:
      teachers: By name, without a slash.

    Raises:
      ValueError: No teacher, or a name with a slash.
    """
    if not teachers or any("/" in name for name in teachers):
        raise ValueError(
            f"expected teachers by names without a slash, got {list(teachers)}"
        )

    def targets(arrays, batch):
        return {
            f"{name}/{layer}": activations
            for name, teacher in teachers.items()
            for layer, activations in teacher.targets(arrays[name], batch).items()
        }

    return Teacher({name: t.arrays for name, t in teachers.items()}, targets)


def nobody() -> Teacher:
    """No teacher: a net that learns its task alone."""
    return Teacher((), lambda arrays, batch: {})
