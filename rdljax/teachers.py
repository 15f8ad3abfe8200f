"""Makes teachers, the sources of the targets of a step.

A teacher consists of arrays (`arrays`, an argument of the compiled step and never a
constant in it) and a pure function from these and a batch to a dict of activations.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rdljax import _checks, _indices, errors, rdm
from rdljax._types import Batch, NetLike

Array = jax.Array


class Teacher(NamedTuple):
    """A source of targets.

    Attributes:
      arrays: Pytree of the teacher's arrays: parameters, stored activations, RDMs.
      targets: Function `targets(arrays, batch) -> {layer: [batch, ...]}`, without a
        gradient.
    """

    arrays: Any
    targets: Callable[[Any, Batch], dict[str, Array]]


def net(module: NetLike, variables: Any, *, inputs: str = "image") -> Teacher:
    """Makes a teacher from a net that runs in each step, in evaluation mode.

    Args:
      module: Net, a Flax module whose `apply(variables, images, train=False)` returns a
        dict of activations.
      variables: Variables of the module: parameters and, if any, running statistics.
      inputs: Entry of the batch, or of its `extra_images`, with the net's input.
    """

    def targets(arrays, batch):
        images = {**batch.get("extra_images", {}), **batch}[inputs]
        return lax.stop_gradient(module.apply(arrays, images, train=False))

    return Teacher(variables, targets)


def cached(activations: Mapping[str, Array], *, index: str = "index") -> Teacher:
    """Makes a teacher from stored activations, so that the net need not run.

    Args:
      activations: Dict of the activations of each layer, `[images, ...]`, as from
        `cache`.
      index: Entry of the batch with the indices of its images, by which activations are
        looked up: they do not depend on the view's crops and flips.

    Returns:
      The teacher. It returns NaN for an index out of range, and float32 for stored
      integers.
    """

    def targets(arrays, batch):
        return jax.tree.map(lambda x: _rows(index, x, batch[index]), arrays)

    return Teacher(dict(activations), targets)


def rdms(measured: Mapping[str, Array], *, stimulus: str = "stimulus") -> Teacher:
    """Makes a teacher from measured RDMs, for `terms.rdl_target` and `rdl_subjects`.

    For each stimulus of the batch it returns a row of the RDM: the distances to all
    stimuli. So the batch may hold any of the stimuli, divided over the devices like
    images.

    Args:
      measured: Dict of condensed RDMs, `[pairs]` for `terms.rdl_target`, or `[subjects,
        pairs]` for `terms.rdl_subjects`. NaN: not measured.
      stimulus: Entry of the batch with the indices of its stimuli,
        `[stimuli in the batch]`.

    Returns:
      The teacher. Its layers are `[stimuli in the batch, n]`, or `[stimuli in the
      batch, subjects, n]`; NaN for an index out of range.

    Raises:
      ValueError: A number of distances that no RDM has, or RDMs of different numbers of
        stimuli.
    """
    sizes = {name: rdm.stimuli(np.shape(x)[-1]) for name, x in measured.items()}
    if len({*sizes.values()}) > 1 or any(np.ndim(x) > 2 for x in measured.values()):
        shapes = {name: np.shape(x) for name, x in measured.items()}
        raise ValueError(
            f"expected RDMs [pairs] or [subjects, pairs] of the same stimuli, got "
            f"{shapes}"
        )

    def rows(distances):
        distances = jnp.asarray(distances)
        if distances.ndim == 1:
            return rdm.square(distances)
        return jnp.stack([rdm.square(one) for one in distances], axis=1)

    def targets(arrays, batch):
        return jax.tree.map(lambda x: _rows(stimulus, x, batch[stimulus]), arrays)

    return Teacher({name: rows(x) for name, x in measured.items()}, targets)


def labels(classes: int, *, label: str = "label", layer: str = "label") -> Teacher:
    """Makes a teacher from the labels only, as one-hot codes.

    The cosine distance of two codes is 0 within a class and 1 between classes: a
    categorical model RDM, for `terms.rdl`.

    Args:
      classes: Number of classes, two or more.
      label: Entry of the batch with the classes, `[batch]`; a label out of range gives
        NaN.
      layer: Name of the layer of codes.

    Raises:
      ValueError: The number of classes is not a whole number of two or more.
    """
    classes = _checks.as_count("number of classes", classes, at_least=2)

    def targets(arrays, batch):
        _checks.check_integers(label, batch[label])
        found = _indices.places(batch[label], classes)
        codes = jax.nn.one_hot(found, classes)
        # Not codes times NaN: XLA simplifies products with codes of 0 and 1.
        return {layer: jnp.where((found < classes)[..., None], codes, jnp.nan)}

    return Teacher((), targets)


def from_batch(*, entry: str = "targets") -> Teacher:
    """Makes a teacher from targets in the batch, for targets too large for the device.

    Args:
      entry: Entry of the batch with the targets, `{layer: [batch, ...]}`, as from
        `activations.batch_reader`; the view has to pass it on.
    """

    def targets(arrays, batch):
        return dict(batch[entry])

    return Teacher((), targets)


def cache(
    teacher: Teacher,
    see: Callable[[Array], Batch],
    images: int,
    layers: Sequence[str],
    *,
    chunk: int = 500,
) -> dict[str, Array]:
    """Computes a teacher's activations for all training images, for `cached`.

    Args:
      teacher: The teacher.
      see: Function from indices of images to the teacher's batch.
      images: Number of images.
      layers: Names of the layers.
      chunk: Number of images at a time.

    Returns:
      Dict of the activations of each layer, `[images, ...]`.

    Raises:
      UnknownName: The teacher does not have one of the layers.
      ValueError: `images` or `chunk` is not a whole number of 1 or more.
    """
    images = _checks.as_count("number of images", images)
    chunk = _checks.as_count("chunk", chunk)
    run_teacher = compile_targets(teacher, layers)
    parts = [
        run_teacher(teacher.arrays, see(jnp.arange(at, min(at + chunk, images))))
        for at in range(0, images, chunk)
    ]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def compile_targets(
    teacher: Teacher, layers: Sequence[str], dtype: Any = None
) -> Callable[[Any, Batch], dict[str, Array]]:
    """Returns a compiled function `(arrays, batch)` to a teacher's activations.

    Args:
      teacher: The teacher.
      layers: Names of the layers.
      dtype: Dtype of the activations. None: the teacher's own.

    Raises:
      UnknownName: From the returned function, for a layer that the teacher does not
        have.
    """

    @jax.jit
    def run_teacher(arrays, batch):
        targets = teacher.targets(arrays, batch)
        for layer in layers:
            errors.check_name("layer", layer, targets)
        return {layer: jnp.asarray(targets[layer], dtype) for layer in layers}

    return run_teacher


def ensemble(teachers: Mapping[str, Teacher]) -> Teacher:
    """Makes one teacher from several; its layers are called `name/layer`.

    It is for `terms.per_teacher` (a loss for each teacher), and for `terms.kd_mean` and
    `terms.rdl_mean` (the mean of their targets). Teachers may have different inputs.

    Args:
      teachers: Dict of teachers by name; names have no slash.

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


def merge(*teachers: Teacher) -> Teacher:
    """Makes one teacher from several whose layers have different names.

    Raises:
      ValueError: From `targets`, if two teachers have a layer of the same name.
    """

    def targets(arrays, batch):
        found: dict[str, Array] = {}
        for teacher, own in zip(teachers, arrays, strict=True):
            own_targets = teacher.targets(own, batch)
            if twice := sorted(found.keys() & own_targets.keys()):
                raise ValueError(
                    f"two teachers have a layer {twice[0]!r}: see ensemble"
                )
            found |= own_targets
        return found

    return Teacher(tuple(teacher.arrays for teacher in teachers), targets)


def none() -> Teacher:
    """Makes a teacher without targets, for a net that only learns its task."""
    return Teacher((), lambda arrays, batch: {})


def _rows(name: str, x: Array, indices: Array) -> Array:
    """Returns rows by their indices; NaN for an index out of range."""
    _checks.check_integers(name, indices)
    return _indices.rows(x, indices)
