"""Defines the annotations of a setting's field, and checks the fields of a group.

A field's annotation has its flag (`arg(name=...)`) if that differs from its name, a
`Range` of numbers, and `NAMES` or `PATH`.
"""

import dataclasses
import functools
import typing
from typing import NamedTuple

from experiments import command
from rdljax import errors


class Range(NamedTuple):
    """The allowed values of a number, or of each number of a tuple.

    Attributes:
      words: A description of the allowed values, for messages.
      low: The smallest allowed value.
      high: The upper limit, which is not allowed itself. Outside the limits below a
        count does not fit into int32, or a product of two numbers is 0 or infinite in
        float32.
    """

    words: str
    low: float
    high: float


COUNT = Range("1 or more", 1, 10**9)
POSITIVE = Range("above 0", 1e-15, 1e15)
WEIGHT = Range("0 or more", 0.0, 1e15)
RATE = Range("above 0", 1e-30, 1e30)
NAMES = "one or more names, each once"  # Marks a setting with several names.
PATH = "a path"  # Marks a setting that names a file or folder that a run reads.


class Field(NamedTuple):
    """A setting.

    Attributes:
      flag: The name on the command line, in files and in messages.
      group: The name of the setting's group, a field of `Config`.
      name: The name of the field in its group.
      range: The allowed numbers; None if there is no limit.
      names: Whether the value is one or more names without repetition.
      path: Whether the value is the path of a file or folder that a run reads.
      choices: The allowed values of a `Literal`; empty for any other type.
    """

    flag: str
    group: str
    name: str
    range: Range | None
    names: bool
    path: bool
    choices: tuple[str, ...] = ()


@functools.cache
def of_group(group: type, name: str = "") -> tuple[Field, ...]:
    """Returns the settings of a group, as described by their annotations."""
    found = []
    hints = typing.get_type_hints(group, include_extras=True)
    for field in dataclasses.fields(group):
        marks = getattr(hints[field.name], "__metadata__", ())
        ranges = [mark for mark in marks if isinstance(mark, Range)]
        flags = [mark.name for mark in marks if getattr(mark, "name", None)]
        kind = typing.get_args(hints[field.name])[0] if marks else hints[field.name]
        is_literal = typing.get_origin(kind) is typing.Literal
        found.append(
            Field(
                flag=(flags or [field.name])[0],
                group=name,
                name=field.name,
                range=ranges[0] if ranges else None,
                names=NAMES in marks,
                path=PATH in marks,
                choices=typing.get_args(kind) if is_literal else (),
            )
        )
    return tuple(found)


class Settings:
    """A group of settings, which checks its values when it is constructed."""

    def __post_init__(self):
        """Checks the settings as far as that is possible without data or nets.

        Raises:
          UsageError: If a value is not allowed, or is an unknown name.
        """
        try:
            self.check_fields()
            self.check()
        except errors.UnknownName as error:
            # (UnknownName is a ValueError, which tyro would catch and print in a box.)
            raise command.UsageError(str(error)) from error

    def check(self) -> None:
        """Checks combinations of a group's fields."""

    def check_fields(self) -> None:
        """Checks each field: its choices, its range, and that names do not repeat."""
        group: type = type(self)
        for field in of_group(group):
            given = getattr(self, field.name)
            several = given if isinstance(given, tuple) else (given,)
            if field.choices:
                errors.check_name(field.flag, given, field.choices)
            if field.range is not None:
                words, low, high = field.range
                for number in several:
                    # (The comparison is written so that NaN is refused.)
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
