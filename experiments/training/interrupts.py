"""Handles Ctrl-C and other signals that ask a training to stop."""

import signal

from experiments import command


class Interrupted(Exception):
    """An exception for a run that was stopped between two steps, with a checkpoint.

    Attributes:
      status: The exit status, 128 plus the number of the signal.
    """

    status = 130


class Interrupt:
    """A request to stop by Ctrl-C, SIGTERM or SIGHUP, obeyed between two steps.

    A second Ctrl-C stops at once. Other repeated signals change nothing: a closed
    terminal sends SIGHUP twice (by its shell and the kernel), systemd sends SIGTERM and
    SIGHUP.
    """

    def __init__(self):
        self.requested = False

    def __enter__(self) -> "Interrupt":
        self._status = Interrupted.status
        self._signals = command.handle_signals(self._request)
        self._signals.__enter__()
        return self

    def __exit__(self, _, error, __) -> None:
        self._signals.__exit__(None, None, None)
        if isinstance(error, Interrupted):
            error.status = self._status

    def _request(self, number: int) -> None:
        if not self.requested:
            self.requested, self._status = True, 128 + number
        elif number == signal.SIGINT:
            raise command.Stopped(number)
