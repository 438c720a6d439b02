"""The steps of a run, each in a process of its own: training, and scoring what it has trained.

A step's memory is then its own, and a step that is killed ends no other run. It sends its progress through a pipe and,
last, what it returns or a :class:`RunError`; everything it prints goes to the run's log.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from gluonseg.compare.progress import Progress
from gluonseg.errors import UserError
from gluonseg.machine.limits import read_peak_mb, set_thread_count
from gluonseg.predict.score import Score
from gluonseg.predict.scoring import score_model
from gluonseg.report.record import MASKS_FOLDER
from gluonseg.sagemaker.job import train_channels
from gluonseg.sagemaker.log import configure_logging
from gluonseg.sagemaker.stop_signal import stopping_job
from gluonseg.text import escape_line, escape_lines
from gluonseg.train.listener import EpochResult, Listener
from gluonseg.train.stop import Stop, Stopped

CHECKPOINT_FOLDER = "checkpoints"
MODEL_FOLDER = "model"
LOG_FILE = "log.txt"
_MAX_REASON = 500
SendProgress = Callable[[Progress], None]


class RunError(Exception):
    """A step failed; the text says why, in one line."""


class ProgressSender(Listener):
    """Sends the progress of a training with each of its events."""

    def __init__(self, send: SendProgress) -> None:
        self._send = send
        self._progress = Progress()

    def on_start(self, epochs: int, iterations: int) -> None:
        self._change(epochs=epochs, iterations=iterations)

    def on_resume(self, results: Sequence[EpochResult]) -> None:
        self._change(resumed=len(results), done=len(results))

    def on_update(self, epoch: int, iteration: int, samples: int, learning_rate: float) -> None:
        self._change(iteration=iteration)

    def on_epoch(self, result: EpochResult, is_best: bool) -> None:
        self._change(done=result.epoch + 1, iteration=0, miou=result.miou)

    def _change(self, **changes: Any) -> None:
        self._progress = dataclasses.replace(self._progress, **changes)
        self._send(self._progress)


def train_run(
    channels: Mapping[str, Path], run: Path, send: SendProgress, hyperparameters: Mapping[str, str]
) -> tuple[float, float]:
    """Train into the folder ``run``, going on from its checkpoints.

    Returns the seconds that earlier processes have trained, and the most memory, in MB, of them and this one.
    """
    configure_logging()
    stop, checkpoints = Stop(), run / CHECKPOINT_FOLDER
    with suppress(Stopped), stopping_job(stop):
        listeners = [ProgressSender(send)]
        outcome = train_channels(
            hyperparameters, channels, run, stop=stop, checkpoints=checkpoints, listeners=listeners
        )
    if stop.signal is not None:
        raise UserError(f"the training was stopped by {stop.name}")
    return outcome.earlier_seconds, max(outcome.earlier_peak_mb, read_peak_mb())


def score_run(channels: Mapping[str, Path], run: Path, _send: SendProgress) -> Score:
    """Score the model in the folder ``run`` on the validation photos, and write their masks there."""
    set_thread_count()
    return score_model(run / MODEL_FOLDER, channels, run / MASKS_FOLDER)


def run_step(
    step: Callable[..., Any], pipe: Connection, channels: Mapping[str, Path], run: Path, *arguments: Any
) -> None:
    """Call :func:`train_run` or :func:`score_run` in this process, which is there for it only."""
    os.setsid()  # Ctrl-C in the terminal is for the comparison, which then ends this process
    with (run / LOG_FILE).open("ab") as log:
        os.dup2(log.fileno(), sys.stdout.fileno())
        os.dup2(log.fileno(), sys.stderr.fileno())
    try:
        pipe.send(step(channels, run, pipe.send, *arguments))
    except Exception as error:
        pipe.send(describe_error(error))


def describe_error(error: Exception) -> RunError:
    """Print the whole error into the log; return one line of it."""
    if isinstance(error, UserError):
        sys.stderr.write(f"gluonseg: {escape_lines(str(error))}\n")
        line = str(error).partition("\n")[0]
    else:
        traceback.print_exception(error)
        line = traceback.format_exception_only(error)[-1].strip().splitlines()[-1].strip()
    return RunError(escape_line(line)[:_MAX_REASON])
