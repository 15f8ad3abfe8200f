"""Displays progress and numbers: bars, or lines where the output is not a terminal."""

import sys
from collections.abc import Iterable
from typing import Any

import tqdm

# Without a terminal, the least time between two lines of a bar.
SECONDS_BETWEEN_LINES = 30.0


def count_of(number: int, noun: str, plural: str | None = None) -> str:
    """Returns a number with its noun, such as "1 seed" or "1,000 images".

    Args:
      number: The number.
      noun: The noun in the singular.
      plural: The noun in the plural; None for the singular with an "s".
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def progress_bar(iterable: Iterable | None = None, **options: Any) -> tqdm.tqdm:
    """Makes a progress bar on stderr.

    If stderr is not a terminal, the bar is a line every half minute, and one at the
    end, so that a file or a log of a cluster can be read.

    Args:
      iterable: The items to count; None if they are counted by `update`.
      **options: Further arguments of `tqdm.tqdm`.
    """
    if sys.stderr.isatty():
        return tqdm.tqdm(iterable, **options)
    often = {"mininterval": SECONDS_BETWEEN_LINES, "miniters": 1, "maxinterval": 0}
    # (Below another bar, tqdm would move the cursor.)
    return _Lines(iterable, **often, **options, position=0)


class _Lines(tqdm.tqdm):
    """A progress bar that prints lines and never returns to the start of one."""

    @staticmethod
    def status_printer(file):
        def print_line(words: str) -> None:
            file.write(f"{words.strip()}\n")
            file.flush()

        return print_line

    def refresh(self, *_, **__) -> None:
        """Prints a line, if the last one is old enough."""
        now = self._time()
        # (A bar has neither when it is made, and needs no line then.)
        last = getattr(self, "last_line", getattr(self, "start_t", now))
        if now - last >= self.mininterval:
            self.last_line = now
            self.display()

    def clear(self, *_, **__) -> None:
        """Does nothing: lines stay."""

    def close(self) -> None:
        """Prints the last line, unless the bar ends before its `delay`."""
        if not self.disable and self._time() >= self.start_t + self.delay:
            self.display()
        self.sp = None  # (Or tqdm would end the bar with a line's start.)
        super().close()
