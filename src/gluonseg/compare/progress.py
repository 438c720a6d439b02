"""One display for all runs of a comparison, from the log lines of whichever is training."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from gluonseg.train.checkpoint_file import find_resumed

_START = re.compile(r"LRScheduler setup: iters per epoch: (\d+), num_epochs (\d+)")
_UPDATE = re.compile(r"#progress_notice\. epoch: (\d+), iterations: (\d+) .*learning_rate")
_MIOU = re.compile(r"#quality_metric\. .*epoch: (\d+), validation mIOU: (\S+) \.")
_LEAST_SHARE = 0.02  # before that an estimate is mostly of the time it took to start


class TrainingState:
    """Where a training is, by its log."""

    def __init__(self) -> None:
        self.epochs = 0
        self.done = 0
        self.miou: float | None = None
        self._iterations = 1
        self._iteration = 0
        self._resumed = 0

    def read_line(self, line: str) -> bool:
        """Take note of a line of the log; True when it ends an epoch."""
        if found := _UPDATE.search(line):
            self._iteration = int(found[2])
        elif found := _MIOU.search(line):
            self.done, self.miou, self._iteration = int(found[1]) + 1, float(found[2]), 0
            return True
        elif found := _START.search(line):
            self._iterations, self.epochs = max(1, int(found[1])), int(found[2])
        elif resumed := find_resumed(line):
            self._resumed = self.done = resumed.epochs
        return False

    @property
    def share(self) -> float:
        """Share of what this process has to train that is done, 0 to 1."""
        done = self.done - self._resumed + min(1.0, self._iteration / self._iterations)
        return min(1.0, done / max(1, self.epochs - self._resumed))


def format_seconds(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 05 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


def estimate_left(share: float, elapsed_s: float, rest_s: Sequence[float | None]) -> float | None:
    """Seconds until all runs are done, None when nothing can be said yet.

    ``rest_s`` are the times of the runs to come, as far as a run of the same model has shown; the others are
    taken to be as long as the one that is running.
    """
    if share < _LEAST_SHARE:
        return None
    whole = elapsed_s / share
    return whole - elapsed_s + sum(whole if other is None else other for other in rest_s)


class Display:
    """Shows on ``stream`` how far a comparison is: one line that changes on a terminal, else a line an epoch."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._clock = clock
        self._title = ""
        self._activity = ""
        self._state = TrainingState()
        self._start = 0.0
        self._rest: Sequence[float | None] = ()
        self._shown = ""

    def start(self, title: str, activity: str, rest_s: Sequence[float | None]) -> None:
        """A new run; ``title`` is its name, ``activity`` what happens before the first epoch."""
        self._title, self._rest = title, rest_s
        self._state, self._start = TrainingState(), self._clock()
        self.set_activity(activity)

    def set_activity(self, activity: str) -> None:
        """What happens when it is no epoch."""
        self._activity = activity
        if self._is_terminal:
            self.refresh()
        else:
            self.say(f"{self._title}, {activity}")

    def read_line(self, line: str) -> None:
        """Take note of a line of the training's log."""
        ends_epoch = self._state.read_line(line)
        if self._state.epochs:
            self._activity = ""
        if ends_epoch and not self._is_terminal:
            self.say(self.describe(self._state.done))

    def describe(self, epoch: int) -> str:
        """The line: run, epoch, mIOU so far, time left."""
        state = self._state
        parts = [self._title, self._activity or f"epoch {epoch}/{state.epochs}"]
        if state.miou is not None:
            parts.append(f"mIOU {state.miou:.3f}")
        left = estimate_left(state.share, self._clock() - self._start, self._rest)
        if left is not None:
            parts.append(f"{format_seconds(left)} left")
        return ", ".join(parts)

    def refresh(self) -> None:
        """Bring the line on a terminal up to date."""
        if not self._is_terminal:
            return
        line = self.describe(min(self._state.done + 1, self._state.epochs))
        line = line[: shutil.get_terminal_size().columns - 1]
        if line != self._shown:
            self._write(f"\r\x1b[K{line}")
            self._shown = line

    def say(self, line: str) -> None:
        """A line that stays."""
        self.clear()
        self._write(f"{line}\n")

    def clear(self) -> None:
        """Take the changing line away."""
        if self._shown:
            self._write("\r\x1b[K")
            self._shown = ""

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
