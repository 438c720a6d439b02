"""How far a comparison is, on one display for all its runs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, TextIO

from tqdm import tqdm

_LEAST_SHARE = 0.02
"""Before this share of a training is done, its time so far is mostly that of the start, and says little."""


@dataclasses.dataclass(frozen=True)
class Progress:
    """Where a training is: ``done`` of ``epochs`` epochs, and ``iteration`` of ``iterations`` updates of the next one.

    A checkpoint has brought ``resumed`` of the epochs; ``miou`` is that of the last one.
    """

    epochs: int = 0
    iterations: int = 1
    resumed: int = 0
    done: int = 0
    iteration: int = 0
    miou: float | None = None

    @property
    def share(self) -> float:
        """Share of what this process has to train that is done, 0 to 1."""
        done = self.done - self.resumed + self.iteration / max(1, self.iterations)
        return min(1.0, done / max(1, self.epochs - self.resumed))


def format_seconds(seconds: float) -> str:
    """``40 s``, ``12 min``, ``3 h 05 min``."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


class Display:
    """Shows on ``stream`` how far a comparison is: one line with a bar on a terminal, else a line an epoch."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._clock = clock
        self._bar: Any = None
        self._title = ""
        self._progress = Progress()
        self._start = 0.0
        self._rest_s: Sequence[float | None] = ()

    def start(self, title: str, rest_s: Sequence[float | None]) -> None:
        """Begin a run, which reads the data first.

        ``rest_s`` are the seconds that each of the runs after it will take; None: as long as this one.
        """
        self._title, self._rest_s, self._start = title, rest_s, self._clock()
        self._progress = Progress()
        if self._stream.isatty() and self._bar is None:
            form: dict[str, Any] = {"bar_format": "{desc} {bar:20}", "dynamic_ncols": True, "leave": False}
            self._bar = tqdm(total=1.0, file=self._stream, desc=title, miniters=0, **form)
        self.set_activity("reading the data")

    def set_activity(self, activity: str) -> None:
        """Show what the run does when it does not train."""
        if self._bar is None:
            self.say(f"{self._title}, {activity}")
        else:
            self._bar.n = self._progress.share
            self._bar.set_description_str(f"{self._title}, {activity}")

    def show(self, progress: Progress) -> None:
        """Show where the training of the run is now."""
        ends_epoch = progress.done > max(self._progress.done, progress.resumed)
        self._progress = progress
        if self._bar is not None:
            self._bar.set_description_str(self._describe(min(progress.done + 1, progress.epochs)), refresh=False)
            self._bar.update(progress.share - self._bar.n)
        elif ends_epoch:
            self.say(self._describe(progress.done))

    def _describe(self, epoch: int) -> str:
        """Run, epoch, mIOU so far, time left for all runs."""
        progress = self._progress
        parts = [self._title, f"epoch {epoch}/{progress.epochs}"]
        if progress.miou is not None:
            parts.append(f"mIOU {progress.miou:.3f}")
        if progress.share >= _LEAST_SHARE:
            elapsed = self._clock() - self._start
            whole = elapsed / progress.share
            rest = sum(whole if seconds is None else seconds for seconds in self._rest_s)
            parts.append(f"{format_seconds(whole - elapsed + rest)} left")
        return ", ".join(parts)

    def say(self, line: str) -> None:
        """Write a line that stays."""
        tqdm.write(line, file=self._stream)
        self._stream.flush()

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
