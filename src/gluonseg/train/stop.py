"""Ending a job early on request: the job looks for the request in every update, validation batch and scored photo."""

from __future__ import annotations

import signal


class Stopped(BaseException):
    """The job was asked to stop. Not an Exception: code that goes on after an error must not go on after this."""


class Stop:
    """A request to stop, made by a signal handler or another thread.

    ``signal`` is the reason of the stop, None before it. Several hosts have to end a training after the same update:
    with ``is_shared`` a request is only kept in ``asked``, until :meth:`settle` tells what all hosts say.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.asked: signal.Signals | None = None
        self.is_shared = False

    def request(self, number: int) -> None:
        """Ask for the stop, because of the signal ``number``; the first one counts."""
        self.asked = self.asked or signal.Signals(number)
        if not self.is_shared:
            self.signal = self.asked

    def settle(self, is_asked: bool) -> None:
        """Stop if ``is_asked``, which is whether one of the hosts was asked to."""
        if is_asked:
            self.signal = self.asked or signal.SIGTERM

    @property
    def is_requested(self) -> bool:
        return self.signal is not None

    @property
    def name(self) -> str:
        """Name of the signal, such as SIGTERM."""
        return self.signal.name if self.signal else ""

    def check(self) -> None:
        """Raise Stopped when the stop is asked for; call it where the job can end."""
        if self.is_requested:
            raise Stopped
