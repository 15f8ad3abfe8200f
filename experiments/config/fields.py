"""What the field of a setting says of itself, and how a group checks its fields.

A field's annotation has its flag (`arg(name=...)`) if that is another than its name, a
`Range` of numbers, and `NAMES` or `PATH`.
"""

import dataclasses
import functools
import typing
from typing import NamedTuple

from experiments import command
from rdljax import errors


class Range(NamedTuple):
    """The numbers that a setting may be, each of them where it has several.

    Attributes:
      words: What they are, for messages.
      low: The smallest.
      high: All are below it. Beyond these limits a count does not fit into int32, or a
        product of two numbers is 0 or infinite in float32.
    """

    words: str
    low: float
    high: float


COUNT = Range("1 or more", 1, 10**9)
POSITIVE = Range("above 0", 1e-15, 1e15)
WEIGHT = Range("0 or more", 0.0, 1e15)
RATE = Range("above 0", 1e-30, 1e30)
NAMES = "one or more names, each once"  # Of a setting with several names.
PATH = "a path"  # Of a setting that names a file or folder that a run reads.


class Field(NamedTuple):
    """A setting.

    Attributes:
      flag: Its name on the command line, and wherever settings are written.
      group: The field of `Config` that it lies in.
      name: Its own there.
      range: The numbers that it may be, if any are excluded.
      names: Whether it has one or more names, each once.
      path: Whether it names a file or folder that a run reads.
    """

    flag: str
    group: str
    name: str
    range: Range | None
    names: bool
    path: bool


@functools.cache
def of_group(group: type, name: str = "") -> tuple[Field, ...]:
    """Returns the settings of a group, by what their annotations say."""
    found = []
    hints = typing.get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        marks = getattr(hints[field.name], "__metadata__", ())
        ranges = [mark for mark in marks if isinstance(mark, Range)]
        flags = [mark.name for mark in marks if getattr(mark, "name", None)]
        found.append(
            Field(
                flag=(flags or [field.name])[0],
                group=name,
                name=field.name,
                range=ranges[0] if ranges else None,
                names=NAMES in marks,
                path=PATH in marks,
            )
        )
    return tuple(found)


class Settings:
    """A group of settings, which checks itself when it is made."""

    def __post_init__(self):
        """Checks what can be known from these settings alone.

        Raises:
          UsageError: A setting is impossible, or names something unknown.
        """
        try:
            self.check_fields()
            self.check()
        except errors.UnknownName as error:
            # (A ValueError, which tyro would catch and frame.)
            raise command.UsageError(str(error)) from error

    def check(self) -> None:
        """Checks what a group's fields say together."""

    def check_fields(self) -> None:
        """Checks each field by the range in its annotation, and that names differ."""
        group: type = type(self)
        for field in of_group(group):
            given = getattr(self, field.name)
            several = given if isinstance(given, tuple) else (given,)
            if field.range is not None:
                words, low, high = field.range
                for number in several:
                    # (Not a number is in no range.)
                    if number is not None and not low <= number < high:
                        raise command.UsageError(
                            f"{field.flag} must be {words} and below {high:g}, got "
                            f"{number}"
                        )
            named = field.names and given is not None
            if named and (not given or len(set(given)) != len(given)):
                raise command.UsageError(
                    f"{field.flag} must name one or more, each once, got {given}"
                )
