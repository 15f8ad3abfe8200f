"""Names the activations of a model, by the paths and the calls of its modules."""

import collections
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rdljax import errors

Array = jax.Array
PyTree = Any
Taps = Mapping[str, str] | Sequence[str]
# The outputs of each module, call by call, by path.
Outputs = dict[str, Sequence[PyTree]]


class Row(NamedTuple):
    """An activation that can be captured: path, module's class, shape and dtype."""

    path: str
    kind: str
    shape: tuple[int, ...]
    dtype: jnp.dtype


class Report(tuple[Row, ...]):
    """Rows in the order of computation; printed as a table."""

    def __str__(self):
        cells = [(r.path or '""', r.kind, str(r.shape), str(r.dtype)) for r in self]
        cells = [Row._fields, *cells]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [map(str.ljust, line, widths) for line in cells]
        return "\n".join("  ".join(line).rstrip() for line in lines)


class Place(NamedTuple):
    """The place of an activation among the outputs of modules."""

    path: str
    call: int
    leaf: int
    index: int | None  # type: ignore[assignment]  # On axis 0, if stacked.


class Called(NamedTuple):
    """A call of a module, with the shapes inside any transform."""

    path: str
    kind: str
    shapes: PyTree


# By name; None for a module whose outputs are not returned by its transform.
Sites = dict[str, tuple[Row, Place] | None]
# Names and places of captured activations.
Places = tuple[tuple[str, Place], ...]


def shapes_of(tree: PyTree) -> PyTree:
    """Returns the shapes and dtypes of the output of a module."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), _arrays(tree)
    )


def select(places: Places, outputs: Outputs) -> dict[str, Array]:
    """Returns the activations at the given places, by name.

    Raises:
      ValueError: A module was called less often than when the places were found.
    """

    def take(place):
        calls = outputs.get(place.path, ())
        if place.call >= len(calls):
            raise ValueError(
                f"{place.path!r} returned {len(calls)} outputs, expected more "
                f"than {place.call}: it is not called in this mode, or inside a "
                "transform that does not return the outputs of its modules"
            )
        leaf = jax.tree.leaves(calls[place.call])[place.leaf]
        if place.index is None:
            return leaf
        if place.index >= leaf.shape[0]:
            raise ValueError(
                f"{place.path!r} has {leaf.shape[0]} stacked outputs, expected "
                f"more than {place.index}"
            )
        return leaf[place.index]

    return {name: take(place) for name, place in places}


def by_path(sown: Mapping[tuple, PyTree], output: PyTree) -> Outputs:
    """Returns outputs and sown values of modules, and the model's output, by path."""
    found: Outputs = {}
    for path, values in sown.items():
        path = path[:-1] if path[-1] == "__call__" else path
        # A tuple, unless the module reduces sown values in another way.
        values = values if isinstance(values, tuple) else (values,)
        found["/".join(map(str, path))] = tuple(map(_arrays, values))
    return found | {"": (_arrays(output),)}


def name_outputs(log: list[Called], outputs: Outputs, kind: str) -> Sites:
    """Returns each output array by its name, in the order of the calls."""
    calls: collections.Counter[str] = collections.Counter()
    sites: Sites = {}
    for path, module, shapes in _in_order(log, outputs, kind):
        call = calls[path]
        calls[path] += 1
        # A transform may trace a call several times.
        if call >= len(outputs.get(path, ())):
            continue
        name = f"{path}#{call}" if call else path
        leaves = jax.tree_util.tree_leaves_with_path(outputs[path][call])
        pairs = zip(leaves, jax.tree.leaves(shapes), strict=True)
        for leaf, ((keys, got), own) in enumerate(pairs):
            simple = (jax.tree_util.keystr((key,), simple=True) for key in keys)
            part = name + "".join(f"[{key}]" for key in simple)
            parts: dict[str, int | None]
            if got.shape == own.shape:
                parts = {part: None}
            elif got.shape[1:] == own.shape:
                parts = {f"{part}[{k}]": k for k in range(got.shape[0])}
            else:
                parts = {}  # Stacked on an unknown axis.
            for tap, index in parts.items():
                row = Row(tap, module, own.shape, own.dtype)
                sites[tap] = row, Place(path, call, leaf, index)
    found = {site[1].path for site in sites.values() if site}
    return sites | dict.fromkeys(sorted({called.path for called in log} - found))


def _in_order(log: list[Called], outputs: Outputs, kind: str) -> list[Called]:
    """Returns all calls, with what modules sow, in the order of computation."""
    paths = {called.path for called in log}
    order = [called for called in log if called.path]
    order.append(Called("", kind, outputs[""][0]))
    for path, values in outputs.items():
        if path and path not in paths:
            # A module sows before it returns.
            parent = path.rpartition("/")[0]
            before = (i for i, other in enumerate(order) if other.path == parent)
            place = next(before, len(order) - 1)
            sown = [Called(path, "sow", shapes_of(value)) for value in values]
            order[place:place] = sown
    return order


def places_of(taps: Taps, sites: Sites) -> Places:
    """Returns names and places of captured activations, in order of computation."""
    if isinstance(taps, str):
        raise ValueError(f"expected a list or a dict of patterns, got {taps!r}")
    named: dict[str, str] = {}
    both = taps.items() if isinstance(taps, Mapping) else ((None, tap) for tap in taps)
    for name, pattern in both:
        matching = _matching(pattern, sites)
        paths = [path for path in matching if sites[path]]
        if not matching:
            raise errors.UnknownName("activation", pattern, sites)
        if not paths:
            raise ValueError(explain_loss(pattern))
        if name is not None and len(paths) > 1:
            raise ValueError(f"{pattern!r} is not one activation but {paths}")
        named |= {path if name is None else name: path for path in paths}
    order, places = list(sites), {tap: site[1] for tap, site in sites.items() if site}
    in_order = sorted(named.items(), key=lambda item: order.index(item[1]))
    return tuple((name, places[path]) for name, path in in_order)


def _matching(pattern: str, names: Sites) -> list[str]:
    """Returns the name equal to the pattern, or otherwise the names that it matches."""
    if pattern in names:
        return [pattern]
    globs = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    # Brackets are literal, since names contain them.
    parts = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    form = "".join(globs.get(part, re.escape(part)) for part in parts)
    return [name for name in names if name and re.fullmatch(form, name)]


def explain_loss(path: str) -> str:
    """Returns why the outputs of a module are lost, and what helps."""
    return (
        f"{path!r} is called inside a transform that does not return the outputs of "
        "its modules, or not on axis 0. Capture a module outside of it, or pass "
        'variable_axes={..., "intermediates": 0} to Linen\'s nn.scan or nn.vmap'
    )


def _arrays(tree: PyTree) -> PyTree:
    """Returns the output of a module with None for leaves such as strings."""
    numbers = jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct
    numbers |= bool | int | float | complex
    return jax.tree.map(lambda x: x if isinstance(x, numbers) else None, tree)
