"""Teachers: where the targets of a step come from.

A teacher is what it holds (`arrays`, an argument of the compiled step and never a
constant in it) and a pure function from them and a batch to a dict of activations.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rdljax import _checks, _indices, errors, rdm

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
    """Makes a teacher of a live net, in evaluation mode.

    Args:
      module: A Flax module whose `apply(variables, images, train=False)` answers a dict
        of activations.
      variables: Its variables: parameters and, if any, running statistics.
      inputs: The entry of the batch that the net sees, or of its `extra_images`.
    """

    def targets(arrays, batch):
        images = {**batch.get("extra_images", {}), **batch}[inputs]
        return lax.stop_gradient(module.apply(arrays, images, train=False))

    return Teacher(variables, targets)


def cached(activations: Mapping[str, Array], *, index: str = "index") -> Teacher:
    """Makes a teacher of its stored activations, so that it need not run.

    Args:
      activations: By layer `[images, ...]`, as from `cache`.
      index: The entry of the batch by which it is looked up: the view's crops and
        mirrors change nothing of it.

    Returns:
      The teacher. It returns NaN for an index that is no image, and float32 for
      integers.
    """

    def targets(arrays, batch):
        return jax.tree.map(lambda x: _rows(index, x, batch[index]), arrays)

    return Teacher(dict(activations), targets)


def rdms(measured: Mapping[str, Array], *, stimulus: str = "stimulus") -> Teacher:
    """Makes a teacher of measured RDMs, for `terms.rdl_target`.

    A stimulus of the batch is answered by its row: its distances to all stimuli. So
    the batch may hold any of them, divided over the devices as its images are.

    Args:
      measured: By name a condensed RDM `[pairs]`, or that of each subject `[subjects,
        pairs]`. NaN was not measured.
      stimulus: The entry of the batch `[stimuli in the batch]` that says which they
        are.

    Returns:
      The teacher. Its layers are `[stimuli in the batch, n]`, or `[stimuli in the
      batch, subjects, n]`, NaN for a number that is no stimulus.

    Raises:
      ValueError: No RDM has that many distances, or two are of different stimuli.
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
    """Makes a teacher of the labels alone: images of one class are alike.

    Answers one-hot codes, whose cosine distance is 0 within a class and 1 between two:
    a plain RDM of labels, for `terms.rdl`.

    Args:
      classes: Their number, two or more.
      label: The entry of the batch `[batch]` with the classes; the code of one that is
        none is NaN.
      layer: What the codes are called.

    Raises:
      ValueError: Not a whole number of classes, two or more.
    """
    classes = _checks.as_count("number of classes", classes, at_least=2)

    def targets(arrays, batch):
        _checks.check_integers(label, batch[label])
        found = _indices.places(batch[label], classes)
        codes = jax.nn.one_hot(found, classes)
        # (Not times NaN: XLA makes of 0 or 1 times a number that number or 0.)
        return {layer: jnp.where((found < classes)[..., None], codes, jnp.nan)}

    return Teacher((), targets)


def from_batch(*, entry: str = "targets") -> Teacher:
    """Makes a teacher of targets in the batch, which the device cannot hold.

    Args:
      entry: The entry of the batch with the targets, `{layer: [batch, ...]}`, as from
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
    """Computes a teacher's activations of all training images, for `cached`.

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
      ValueError: `images` or `chunk` is not a whole number of 1 or more.
    """
    images = _checks.as_count("number of images", images)
    chunk = _checks.as_count("chunk", chunk)
    answer = compile_targets(teacher, layers)
    parts = [
        answer(teacher.arrays, see(jnp.arange(at, min(at + chunk, images))))
        for at in range(0, images, chunk)
    ]
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def compile_targets(
    teacher: Teacher, layers: Sequence[str], dtype: Any = None
) -> Callable[[Any, Batch], dict[str, Array]]:
    """Compiles a teacher's activations in some layers: a function `(arrays, batch)`.

    Args:
      teacher: The teacher.
      layers: Of which layers.
      dtype: Of the answers; the teacher's own where None.

    Raises:
      UnknownName: From that function, a layer that the teacher does not have.
    """

    @jax.jit
    def answer(arrays, batch):
        targets = teacher.targets(arrays, batch)
        for layer in layers:
            errors.check_name("layer", layer, targets)
        return {layer: jnp.asarray(targets[layer], dtype) for layer in layers}

    return answer


def ensemble(teachers: Mapping[str, Teacher]) -> Teacher:
    """Makes one teacher of several, whose layers are called `name/layer`.

    For `terms.per_teacher` (each of them) and `terms.kd_mean` and `terms.rdl_mean` (the
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


def merge(*given: Teacher) -> Teacher:
    """Makes one teacher of several whose layers have different names.

    Raises:
      ValueError: From `targets`: two have a layer of one name.
    """

    def targets(arrays, batch):
        found: dict[str, Array] = {}
        for teacher, own in zip(given, arrays, strict=True):
            answered = teacher.targets(own, batch)
            if twice := sorted(found.keys() & answered.keys()):
                raise ValueError(
                    f"two teachers have a layer {twice[0]!r}: see ensemble"
                )
            found |= answered
        return found

    return Teacher(tuple(teacher.arrays for teacher in given), targets)


def none() -> Teacher:
    """Makes no teacher: for a net that learns its task alone."""
    return Teacher((), lambda arrays, batch: {})


def _rows(name: str, x: Array, indices: Array) -> Array:
    """Returns rows by their numbers; NaN where there is no such row."""
    _checks.check_integers(name, indices)
    return _indices.rows(x, indices)
