"""Faults that the tests have to find: `mutants.toml`, tried by `__main__.py`."""

import pathlib
import tomllib
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
LIST = pathlib.Path(__file__).with_name("mutants.toml")


class Mutant(NamedTuple):
    """A fault in one place.

    Attributes:
      name: What is wrong, in a few words.
      file: Where, from the root of the checkout.
      old: Text that stands there once.
      new: What takes its place.
      tests: Files of tests, the likeliest to find it first.
    """

    name: str
    file: str
    old: str
    new: str
    tests: list[str]

    def changed(self, root: pathlib.Path = ROOT) -> str:
        """Returns the file's text with the fault.

        Args:
          root: The checkout.

        Raises:
          ValueError: `old` does not stand there once.
        """
        text = (root / self.file).read_text()
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.name}: {self.file} has `old` {count} times")
        return text.replace(self.old, self.new)


def load() -> list[Mutant]:
    """Reads the list."""
    return [Mutant(**entry) for entry in tomllib.loads(LIST.read_text())["mutant"]]
