"""Registers dataclasses as pytrees that are distinguished by their class.

`jax.tree_util.register_dataclass` is not enough: the structures of two such classes
with the same fields compare equal (jax 0.10 to 0.12), so that a jitted function traced
with `Cosine()` may sometimes run the same program for `Pearson()`.
"""

import dataclasses

import jax


def register(cls: type) -> type:
    """Registers a dataclass as a pytree; fields with metadata `static` are static."""
    fields = dataclasses.fields(cls)
    static = [f.name for f in fields if f.metadata.get("static", False)]
    data = [f.name for f in fields if f.name not in static]
    keys = [jax.tree_util.GetAttrKey(name) for name in data]

    def flatten(x):
        children = tuple(getattr(x, name) for name in data)
        return children, tuple(getattr(x, name) for name in static)

    def flatten_with_keys(x):
        children, structure = flatten(x)
        return tuple(zip(keys, children, strict=True)), structure

    def unflatten(structure, children):
        x: object = object.__new__(cls)
        # Not by __init__, since JAX may pass any objects as children.
        for name, value in zip((*data, *static), (*children, *structure), strict=True):
            object.__setattr__(x, name, value)
        return x

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    return cls
