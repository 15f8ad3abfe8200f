"""Teachers: where the targets of a step come from.

A teacher is what it holds (`arrays`, an argument of the compiled step and never a
constant in it) and a pure function from them and a batch to a dict of activations.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rdljax import _names

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


def remembered(activations: Mapping[str, Array]) -> Teacher:
    """What a teacher answered for each training image, so that it need not run.

    Args:
      activations: By layer `[images, ...]`, as from `remember`. A batch is looked up by
        its entry `index`: the view's crops and mirrors change nothing of it.
    """

    def targets(arrays, batch):
        return jax.tree.map(lambda x: x[batch["index"]], arrays)

    return Teacher(dict(activations), targets)


def remember(
    teacher: Teacher,
    see: Callable[[Array], Batch],
    images: int,
    layers: Sequence[str],
    *,
    chunk: int = 500,
) -> dict[str, Array]:
    """What a teacher answers for each training image, for `remembered`.

    Args:
      teacher: The teacher.
      see: From indices of images to the batch that the teacher sees.
      images: How many there are.
      layers: Of which layers.
      chunk: Images at a time.

    Returns:
      By layer `[images, ...]`.

    Raises:
      UnknownName: The teacher has no such layer.
    """

    @jax.jit
    def answer(arrays, batch):
        targets = teacher.targets(arrays, batch)
        for layer in layers:
            _names.check("layer", layer, targets)
        return {layer: targets[layer] for layer in layers}

    parts = [
        answer(teacher.arrays, see(jnp.arange(at, min(at + chunk, images))))
        for at in range(0, images, chunk)
    ]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


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
