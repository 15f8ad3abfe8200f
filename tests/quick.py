"""Runs of experiments without what takes half of the time of a small one."""

import contextlib
from collections.abc import Iterator

import pytest

from experiments import brain_report, findings, run

rehearse, pictures = run.rehearse, findings.pictures


@contextlib.contextmanager
def runs() -> Iterator[pytest.MonkeyPatch]:
    """Lets runs begin without a rehearsal and end without pictures.

    Yields:
      The patch, which puts `rehearse` and `pictures` back where a test needs them.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "rehearse", lambda *_: None)
        patch.setattr(findings, "pictures", lambda *_: None)
        patch.setattr(brain_report, "pictures", lambda *_: [])
        yield patch
