"""Runs of experiments without what takes half of the time of a small one."""

import contextlib
from collections.abc import Iterator

import pytest

from experiments.brain import plots as brain_plots
from experiments.results import plots
from experiments.training import rehearsal

rehearse, pictures = rehearsal.rehearse, plots.pictures


@contextlib.contextmanager
def runs() -> Iterator[pytest.MonkeyPatch]:
    """Lets runs begin without a rehearsal and end without pictures.

    Yields:
      The patch, which puts `rehearse` and `pictures` back where a test needs them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rehearsal, "rehearse", lambda *_: None)
        patch.setattr(plots, "pictures", lambda *_: [])
        patch.setattr(brain_plots, "pictures", lambda *_: [])
        yield patch
