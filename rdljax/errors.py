"""Errors that a program may want to catch.

================= =====================================================================
error             when
================= =====================================================================
`UnknownName`     a name (of a net, a layer, a data set, ...) is not among the known
`CannotRead`      a file cannot be read or written here, or holds more than arrays
`MissingPackage`  a package is not installed that an extra of rdljax brings
`WeightsMismatch` weights from a file are not those of the net
================= =====================================================================

Errors of one module alone stand there: `checkpoints.CheckpointDamaged` and its
siblings, `activations.OtherActivations`, `training.ProcessesDiffer`.
"""

import difflib
from collections.abc import Iterable, Sequence

__all__ = [
    "CannotRead",
    "MissingPackage",
    "UnknownName",
    "WeightsMismatch",
    "check_name",
]

# The lines of a message about another net's weights, which may differ in hundreds.
_LINES = 20


class UnknownName(ValueError):
    """A name is not among the known ones; the message has the nearest of them.

    Args:
      kind: What the name is of, such as "net".
      name: The name that was given.
      known: All names of that kind.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        known = list(known)
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        super().__init__(
            f"there is no {kind} {name!r}{hint} Known: {', '.join(known) or 'none'}"
        )


class CannotRead(ValueError):
    """A file holds more than arrays, or cannot be read or written here."""


class MissingPackage(ImportError):
    """A package is not installed; the message has the command that installs it."""


class WeightsMismatch(ValueError):
    """Weights are not those of the net.

    Attributes:
      wrong: All differences, a line each; the message has the first of them.
    """

    def __init__(self, name: str, wrong: Sequence[str]):
        self.wrong = list(wrong)
        lines = self.wrong[:_LINES]
        if len(self.wrong) > _LINES:
            lines.append(f"and {len(self.wrong) - _LINES} more")
        super().__init__("\n  ".join([f"these are not the weights of {name}:", *lines]))


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Raises `UnknownName` unless a name is one of the known ones.

    Args:
      kind: What the name is of, such as "net".
      name: The name to check.
      known: All names of that kind.
    """
    known = list(known)
    if name not in known:
        raise UnknownName(kind, name, known)
