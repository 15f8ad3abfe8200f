"""Defines errors that a program may want to catch.

================= =====================================================================
error             raised if
================= =====================================================================
`UnknownName`     a name (of a net, a layer, a data set, ...) does not exist
`CannotRead`      a file cannot be read or written here, or holds more than arrays
`MissingPackage`  a package of one of the extras of rdljax is not installed
`WeightsMismatch` weights from a file are not those of the net
================= =====================================================================

Errors of a single module are defined there: `checkpoints.CheckpointDamaged`,
`CheckpointMismatch` and `CheckpointNotWritten`, `activations.OtherActivations`,
`training.ProcessesDiffer`.
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

# The largest number of lines in a message about weights, which may differ in hundreds.
_LINES = 20


class UnknownName(ValueError):
    """Raised if a name does not exist; the message has the closest existing name.

    Args:
      kind: Kind of the name, such as "net".
      name: The name.
      known: All existing names of this kind.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        known = list(known)
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "."
        super().__init__(
            f"there is no {kind} {name!r}{hint} Known: {', '.join(known) or 'none'}"
        )


class CannotRead(ValueError):
    """Raised if a file holds more than arrays, or cannot be read or written here."""


class MissingPackage(ImportError):
    """Raised if a package is missing; the message has the command to install it."""


class WeightsMismatch(ValueError):
    """Raised if weights are not those of the net.

    Attributes:
      wrong: All differences, one line for each; the message has the first of them.
    """

    def __init__(self, name: str, wrong: Sequence[str]):
        self.wrong = list(wrong)
        lines = self.wrong[:_LINES]
        if len(self.wrong) > _LINES:
            lines.append(f"and {len(self.wrong) - _LINES} more")
        super().__init__("\n  ".join([f"these are not the weights of {name}:", *lines]))


def check_name(kind: str, name: str, known: Iterable[str]) -> None:
    """Checks that a name exists.

    Args:
      kind: Kind of the name, such as "net".
      name: The name.
      known: All existing names of this kind.

    Raises:
      UnknownName: The name is not one of them.
    """
    known = list(known)
    if name not in known:
        raise UnknownName(kind, name, known)
