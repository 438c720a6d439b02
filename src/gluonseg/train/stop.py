"""Ending a job early: the wish to, and what has to be done before the process may end."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path

_log = logging.getLogger(__name__)
PATIENCE_S = 4.0
"""How long a job that trains may take to come round to the wish: one update of a large network can take a minute."""
SHORT_PATIENCE_S = 2.0
"""The same while there is nothing to keep, or all of it is kept already."""
SAVE_PATIENCE_S = 8.0
"""How much longer the process may live for the sake of a checkpoint that is being written."""


class Stopped(BaseException):
    """The job was asked to stop. Not an Exception: what carries on after errors must not carry on after this."""


class Stop:
    """A wish to stop, made by any thread with :meth:`request`; the job looks for it with :meth:`check`.

    When the job does not come round to it within ``patience_s``, another thread calls :meth:`conclude` and ends the
    process. Up to :meth:`begin` a job has nothing to keep, after :meth:`end` it has kept all. ``saving`` is held while
    a checkpoint is written.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.patience_s = SHORT_PATIENCE_S
        self.saving = threading.Lock()
        self.earlier_model: Path | None = None
        """The folder of a model that was there before the job, which stays when the job does not begin."""
        self.checkpoints: Path | None = None
        """The folder of checkpoints that another run of the job has left."""
        self._conclude: Callable[[], None] | None = None
        self._is_told = False
        self._has_ended = threading.Event()

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

    @property
    def has_begun(self) -> bool:
        return self._conclude is not None

    def begin(self, conclude: Callable[[], None]) -> None:
        """From here on the job has a model to keep: ``conclude`` makes it complete, from whatever thread."""
        self.patience_s = PATIENCE_S
        self._conclude = conclude

    def end(self) -> None:
        """From here on all that has to be kept is kept."""
        self.patience_s = SHORT_PATIENCE_S
        self._has_ended.set()

    def wait_for_end(self, timeout_s: float) -> None:
        """Wait for :meth:`end`, but not for ever."""
        self._has_ended.wait(timeout_s)

    def conclude(self) -> None:
        """Do what has to be done before the process ends, and log what that was; a second call adds nothing."""
        if self._conclude is not None:
            self._conclude()
        elif not self._is_told:
            self._is_told = True
            kept = f"the model in {self.earlier_model} is as it was" if self.earlier_model else "there is no model"
            if self.checkpoints:
                kept += f"; the next run goes on from the checkpoints in {self.checkpoints}"
            _log.info("Stopped by %s before training had begun: %s", self.name, kept)
