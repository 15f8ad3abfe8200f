"""Splits parameters into those that a phase trains and those that stay fixed."""

from typing import Any

import jax

from rdljax import errors
from rdljax.training.state import Phase, Replicated

Array = jax.Array
PyTree = Any


def variables(now: Replicated, params: dict[str, PyTree]) -> dict[str, PyTree]:
    """Returns the student's Flax variables."""
    return {"params": params["student"], **now.model_state}


def trains_student(phase: Phase) -> bool:
    """Returns whether a phase trains any parameter of the student."""
    return phase.trains is None or any(
        path.split("/")[0] == "student" for path in phase.trains
    )


def partition(params: dict[str, PyTree], phase: Phase) -> tuple[PyTree, PyTree]:
    """Splits parameters into trained and fixed ones, with None for the other kind."""
    trains = ("student", *phase.terms) if phase.trains is None else phase.trains
    for name in phase.trains or ():
        # A term may have no parameters, such as `ab` between maps of the same shape.
        empty = name in params and not jax.tree.leaves(params[name])
        if not empty and not any(is_below(path, name) for path, _ in leaves_of(params)):
            raise errors.UnknownName("parameter to train", name, params)
    leaves = leaves_of(params)
    structure: Any = jax.tree_util.tree_structure(params)
    mine = [any(is_below(path, name) for name in trains) for path, _ in leaves]
    trained = [x if yes else None for (_, x), yes in zip(leaves, mine, strict=True)]
    frozen = [None if yes else x for (_, x), yes in zip(leaves, mine, strict=True)]
    return structure.unflatten(trained), structure.unflatten(frozen)


def leaves_of(params: dict[str, PyTree]) -> list[tuple[tuple[str, str], Array]]:
    """Returns each leaf with its path and its term's name (which may have a slash)."""
    return [
        (
            (path[0].key, jax.tree_util.keystr(path[1:], simple=True, separator="/")),
            leaf,
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    ]


def is_below(path: tuple[str, str], name: str) -> bool:
    """Returns whether a leaf (of `leaves_of`) has the given name or is below it."""
    term, inside = path
    if name == term:
        return True
    return name.startswith(f"{term}/") and f"{inside}/".startswith(
        f"{name.removeprefix(f'{term}/')}/"
    )


def combine(trained: PyTree, frozen: PyTree) -> PyTree:
    """Merges the two parts from `partition`."""
    return jax.tree.map(
        lambda t, f: f if t is None else t,
        trained,
        frozen,
        is_leaf=lambda x: x is None,
    )
