"""A name that nobody knows is answered with the nearest one that is known."""

import difflib
from collections.abc import Iterable


class UnknownName(ValueError):
    """A name (of a net, a layer, a data set, ...) that is not among the known ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        known = list(known)
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        super().__init__(
            f"there is no {kind} {name!r}{hint} Known: {', '.join(known) or 'none'}"
        )


def check(kind: str, name: str, known: Iterable[str]) -> None:
    """Raises `UnknownName` unless `name` is one of `known`."""
    known = list(known)
    if name not in known:
        raise UnknownName(kind, name, known)
