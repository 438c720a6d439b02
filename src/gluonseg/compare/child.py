"""The process of a run: it trains or scores, and tells the comparison about it in lines of JSON.

``python -m gluonseg.compare.child`` reads an object from standard input: ``channels`` and ``run``, both folders, and
``hyperparameters`` for a training; without them the model in ``run`` is scored. Each line on standard output is one:

* ``progress``: where the training is
* ``earlier_seconds``, ``peak_mb``: what the training took before this process, and the most memory of them all
* ``score``: what the scoring has found
* ``error``, ``kind``: why the process fails, in one line, and the class of a UserError
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from gluonseg.compare.progress import Progress
from gluonseg.data.channel import find_channels
from gluonseg.errors import UserError
from gluonseg.machine.limits import set_thread_count
from gluonseg.predict.scoring import read_peak_mb, score_model
from gluonseg.report.record import MASKS_FOLDER
from gluonseg.sagemaker.job import train_channels
from gluonseg.sagemaker.log import configure_logging
from gluonseg.sagemaker.stop_signal import stopping_job
from gluonseg.text import escape_line, escape_lines
from gluonseg.train.listener import EpochResult, Listener
from gluonseg.train.stop import Stop, Stopped

CHECKPOINT_FOLDER = "checkpoints"
MODEL_FOLDER = "model"
Tell = Callable[[dict[str, Any]], None]


class Reporter(Listener):
    """Tells where the training is."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._progress = Progress()

    def on_start(self, epochs: int, iterations: int) -> None:
        self._report(epochs=epochs, iterations=iterations)

    def on_resume(self, results: Sequence[EpochResult]) -> None:
        self._report(resumed=len(results), done=len(results))

    def on_update(self, epoch: int, iteration: int, samples: int, learning_rate: float) -> None:
        self._report(iteration=iteration)

    def on_epoch(self, result: EpochResult, is_best: bool) -> None:
        self._report(done=result.epoch + 1, iteration=0, miou=result.miou)

    def _report(self, **changes: Any) -> None:
        self._progress = dataclasses.replace(self._progress, **changes)
        self._tell({"progress": dataclasses.asdict(self._progress)})


def _train(channels: Path, run: Path, hyperparameters: dict[str, str], tell: Tell) -> int:
    """Train as the command does; returns the exit code."""
    configure_logging()
    stop = Stop()
    options: dict[str, Any] = {"checkpoints": run / CHECKPOINT_FOLDER, "listeners": [Reporter(tell)]}
    with suppress(Stopped), stopping_job(stop):
        outcome = train_channels(hyperparameters, find_channels(channels), run, stop=stop, **options)
        peak_mb = max(outcome.earlier_peak_mb, read_peak_mb())
        tell({"earlier_seconds": outcome.earlier_seconds, "peak_mb": peak_mb})
    return 0 if stop.signal is None else 128 + stop.signal


def _score(channels: Path, run: Path, tell: Tell) -> int:
    """Score the model, in a process without a training before it: its memory is part of the score."""
    set_thread_count()
    score = score_model(run / MODEL_FOLDER, find_channels(channels), run / MASKS_FOLDER)
    tell({"score": dataclasses.asdict(score)})
    return 0


def _tell_failure(error: Exception, tell: Tell) -> int:
    """Tell why the process fails; the log has it in full. Returns the exit code."""
    if isinstance(error, UserError):
        sys.stderr.write(f"gluonseg: {escape_lines(str(error))}\n")
        tell({"error": escape_line(str(error).partition("\n")[0]), "kind": type(error).__name__})
        return error.exit_code
    traceback.print_exception(error)
    tell({"error": escape_line(traceback.format_exception_only(error)[-1].strip().splitlines()[-1])})
    return 1


def run_step(task: Mapping[str, Any], tell: Tell) -> int:
    """Train or score, and ``tell`` what the module's docstring lists; returns the exit code."""
    channels, run = Path(task["channels"]), Path(task["run"])
    try:
        if "hyperparameters" in task:
            return _train(channels, run, task["hyperparameters"], tell)
        return _score(channels, run, tell)
    except Exception as error:
        return _tell_failure(error, tell)


def main() -> int:
    """Run the step that standard input names; returns the exit code."""
    output = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what others write to standard output belongs into the log

    def tell(content: dict[str, Any]) -> None:
        with suppress(BrokenPipeError):  # the comparison was killed: this run goes on to its end
            os.write(output, json.dumps(content).encode() + b"\n")

    text = sys.stdin.read()
    if not text:  # the comparison was stopped while it started this process
        return 1
    return run_step(json.loads(text), tell)


if __name__ == "__main__":
    sys.exit(main())
