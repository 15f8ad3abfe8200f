"""Draws bootstrap samples, as numbers of copies."""

import numpy as np


def draw_counts(
    random: np.random.Generator, size: int, draws: int, *, fewest: int = 1
) -> np.ndarray:
    """Draws `size` of `size` things with replacement, `draws` times.

    Args:
      random: Generator of the draws.
      size: Number of things.
      draws: Number of draws.
      fewest: Draws with fewer different things are drawn again. (Those that remain vary
        less, and hardly at all if most are drawn again.)

    Returns:
      How many times each thing was drawn, `[draws, size]`.
    """
    counts = _draw(random, size, draws)
    while (few := np.count_nonzero(counts, axis=1) < fewest).any():
        counts[few] = _draw(random, size, few.sum())
    return counts


def _draw(random: np.random.Generator, size: int, draws: int) -> np.ndarray:
    places = random.integers(size, size=(draws, size))
    places += size * np.arange(draws)[:, None]
    return np.bincount(places.ravel(), minlength=draws * size).reshape(draws, size)
