"""Whose turn it is on the network: one request at a time, and none whose time is over."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from gluonseg.errors import BusyError


@dataclass
class Job:
    """A request in a backend. ``deadline`` is monotonic, and the same clock in all processes."""

    job_id: int
    deadline: float
    is_begun: bool = False
    is_cancelled: bool = False
    """Nobody waits for the answer any more."""

    def begin(self) -> None:
        """Begin, or go on with another part of the picture.

        Raises:
            BusyError: nobody waits for it, or the deadline has passed before it was begun.
        """
        if self.is_cancelled or (not self.is_begun and time.monotonic() > self.deadline):
            raise BusyError("the request has waited too long and was not computed: try again in a second")
        self.is_begun = True


class Turn:
    """A lock for the engine. A thread that works on a job is refused once the job's time is over."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs = threading.local()

    @contextlib.contextmanager
    def working_on(self, job: Job) -> Iterator[None]:
        """What this thread computes meanwhile is for ``job``."""
        self._jobs.job = job
        try:
            yield
        finally:
            self._jobs.job = None

    def __enter__(self) -> None:
        self._lock.acquire()
        job: Job | None = getattr(self._jobs, "job", None)
        try:
            if job is not None:
                job.begin()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._lock.release()
