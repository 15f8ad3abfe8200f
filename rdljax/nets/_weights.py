"""Checks that weights match a net: no entry may be missing or unexpected."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rdljax import errors, nets

Path = tuple[str, ...]
Shape = tuple[int, ...]
Arrays = Mapping[str, np.ndarray]


def shapes(name: str, classes: int) -> dict[Path, Shape]:
    """Returns the shapes of a net's variables, for images `[32, 32, 3]`.

    Args:
      name: Name of the net.
      classes: Number of logits.

    Returns:
      Dict of shapes by path, such as `("params", "stem", "conv", "kernel")`.
    """
    net = nets.build(name, classes)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), images)
    return {path: leaf.shape for path, leaf in leaves(variables).items()}


def with_channels_of(kernel: Any, shapes: Mapping[Path, Shape]) -> dict[Path, Shape]:
    """Returns the shapes for images with the number of channels of a first kernel.

    Args:
      kernel: First kernel `[H, W, channels, features]`. If its shape is wrong in other
        axes, the shapes are unchanged and `check` will report it.
      shapes: Shapes from `shapes`.
    """
    where = stem(shapes)
    height, width, _, features = shapes[where]
    match np.shape(kernel):
        case (h, w, channels, f) if (h, w, f) == (height, width, features):
            return {**shapes, where: (h, w, channels, f)}
    return dict(shapes)


def stem(shapes: Mapping[Path, Shape]) -> Path:
    """Returns the path of the kernel of the first convolution."""
    return next(p for p in shapes if p[1] in ("stem", "conv0") and p[-1] == "kernel")


def channels(variables: Mapping[str, Any]) -> int:
    """Returns the number of image channels for which variables were made."""
    found = {path: np.shape(leaf) for path, leaf in leaves(variables).items()}
    return found[stem(found)][2]


def leaves(variables: Mapping[str, Any]) -> dict[Path, Any]:
    """Returns the leaves of nested dicts by path."""
    flat = jax.tree_util.tree_leaves_with_path(variables)
    return {tuple(key.key for key in path): leaf for path, leaf in flat}


def nested(flat: Mapping[Path, Any]) -> dict[str, Any]:
    """Returns nested dicts from leaves by path."""
    tree: dict[str, Any] = {}
    for (*scopes, last), leaf in flat.items():
        place = tree
        for scope in scopes:
            place = place.setdefault(scope, {})
        place[last] = leaf
    return tree


def classes(name: str, bias: str, arrays: Arrays) -> int:
    """Returns the number of classes: the length of the last layer's bias.

    Raises:
      WeightsMismatch: There is no such vector.
    """
    if bias not in arrays or np.ndim(arrays[bias]) != 1:
        few = ", ".join(list(arrays)[:3])
        found = f"{len(arrays)} entries ({few}, ...)" if few else "no entry"
        raise errors.WeightsMismatch(
            name, [f"missing {bias}, the bias of the last layer, in {found}"]
        )
    return len(arrays[bias])


def check(name: str, expected: Mapping[str, Shape], arrays: Arrays) -> None:
    """Checks that entries match: none missing, unexpected, misshapen or not finite.

    Args:
      name: Name of the net, for the message.
      expected: Shape of each entry, by name.
      arrays: The entries, by name.

    Raises:
      WeightsMismatch: An entry does not match.
    """
    wrong = []
    for key in [*expected, *(key for key in arrays if key not in expected)]:
        shape = np.shape(arrays[key]) if key in arrays else None
        if shape is None:
            wrong.append(f"missing {key} {list(expected[key])}")
        elif key not in expected:
            wrong.append(f"unexpected {key} {list(shape)}")
        elif shape != expected[key]:
            wrong.append(f"{key} is {list(shape)}, expected {list(expected[key])}")
        elif not np.isfinite(arrays[key]).all():
            wrong.append(f"{key} is not finite")
    if wrong:
        raise errors.WeightsMismatch(name, wrong)
