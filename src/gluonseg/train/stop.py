"""Ending a job early on request: the job looks for the request in every update, validation batch and scored photo."""

from __future__ import annotations

import signal


class Stopped(BaseException):
    """The job was asked to stop. Not an Exception: code that goes on after an error must not go on after this."""


class Stop:
    """A request to stop, made by a signal handler or another thread; ``signal`` is its reason, None before it."""

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
        """Name of the signal, such as SIGTERM."""
        return self.signal.name if self.signal else ""

    def check(self) -> None:
        """Raise Stopped when the stop is asked for; call it where the job can end."""
        if self.is_requested:
            raise Stopped
