"""Ending a job early: the wish to, which the job looks for in every update, validation batch and scored photo."""

from __future__ import annotations

import signal


class Stopped(BaseException):
    """The job was asked to stop. Not an Exception: what carries on after errors must not carry on after this."""


class Stop:
    """A wish to stop, made by a signal handler or another thread with :meth:`request`."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def request(self, number: int) -> None:
        """Ask for the stop, because of the signal ``number``; the first one counts."""
        self.signal = self.signal or signal.Signals(number)

    @property
    def is_requested(self) -> bool:
        return self.signal is not None

    @property
    def name(self) -> str:
        """The signal's name, for people."""
        return self.signal.name if self.signal else ""

    def check(self) -> None:
        """Raise Stopped when the stop is asked for; to be called where the job can end."""
        if self.is_requested:
            raise Stopped
