"""A comparison from start to end: each run trained and scored in processes of their own, and kept when finished."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from gluonseg.compare.child import CHECKPOINT_FOLDER, MODEL_FOLDER
from gluonseg.compare.plan import Comparison, Run, check_data, check_folder, write_comparison
from gluonseg.compare.progress import Display, Progress
from gluonseg.errors import ModelError, TrainingDivergedError, UserError
from gluonseg.files import write_text
from gluonseg.models.folder.card import CARD_FILE
from gluonseg.predict.score import Score, parse_score
from gluonseg.report.hardware import describe_hardware
from gluonseg.report.page import write_report
from gluonseg.report.record import FAILED, FINISHED, RunRecord, describe_training, read_json, read_record, write_record
from gluonseg.sagemaker.stop_signal import STOP_SIGNALS, handling_signals
from gluonseg.train.folder_lock import hold_folder

LOG_FILE = "log.txt"
TRAINED_FILE = "trained.json"
"""Says that the training of a run is complete, and what it took: then only the scoring is left."""
STOP_PATIENCE_S = 120.0
"""For a training that is asked to stop: as long as SageMaker gives it."""
_MAX_REASON = 500
_MODEL_FILES = ("model_best.params", "hyperparams.json", "curves.json", CARD_FILE)


class Interrupted(BaseException):
    """A signal asked the comparison to stop. Not an Exception, like KeyboardInterrupt."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


class RunError(Exception):
    """A process of a run failed; the text says why, in one line. ``kind`` is the class of a UserError."""

    def __init__(self, reason: str, kind: str = "") -> None:
        super().__init__(reason)
        self.kind = kind


def hold_comparison(folder: Path) -> AbstractContextManager[int]:
    """Keep every other comparison out of ``folder``; UserError when there is one."""
    return hold_folder(folder, "writes a comparison to")


def describe_end(code: int) -> str:
    """How a process ended that told no reason."""
    if code < 0:
        hint = "; the machine may have run out of memory" if code == -signal.SIGKILL else ""
        return f"the process was killed by {signal.Signals(-code).name}{hint}"
    if code == 128 + signal.SIGTERM:
        return "the training was stopped by SIGTERM"
    return f"the process ended with exit code {code}"


def run_child(task: Mapping[str, Any], log: Path, display: Display, keep_open: int) -> dict[str, Any]:
    """Let :mod:`gluonseg.compare.child` do ``task``, its output added to ``log``; returns what it told.

    The file ``keep_open`` stays open in it, so that a run holds the lock of the folder when this process is killed.

    Raises:
        RunError: the process failed.
        Interrupted: in this process. The other one gets SIGTERM, and is killed when it takes longer than
            STOP_PATIENCE_S or when another signal comes.
    """
    with (
        log.open("ab") as output,
        subprocess.Popen(
            [sys.executable, "-m", "gluonseg.compare.child"],
            # Else Python looks for modules first in the folder that it is started in, which may be anybody's.
            env={**os.environ, "PYTHONSAFEPATH": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,  # Ctrl-C in the terminal is not for it
            pass_fds=[keep_open],
        ) as process,
    ):
        try:
            assert process.stdin
            assert process.stdout
            with suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(json.dumps(task).encode())
            told = _follow(process.stdout, display)
            code = process.wait()
        except Interrupted:
            process.terminate()
            display.say("stopping; once more stops at once")
            with suppress(Interrupted, subprocess.TimeoutExpired):
                process.wait(STOP_PATIENCE_S)
            raise
        finally:
            process.kill()  # does nothing when it has ended
    if code:
        raise RunError(told.get("error", describe_end(code))[:_MAX_REASON], told.get("kind", ""))
    return told


def _follow(lines: Iterable[bytes], display: Display) -> dict[str, Any]:
    """Show the progress that a process tells of; returns the rest of what it tells."""
    told: dict[str, Any] = {}
    for line in lines:
        if line.endswith(b"\n"):  # else it was killed while it wrote
            told |= json.loads(line)
        if "progress" in told:
            display.show(Progress(**told.pop("progress")))
    return told


@dataclasses.dataclass(frozen=True)
class _Runner:
    """What the runs of a comparison share; ``descriptor`` is that of the folder, which is locked."""

    comparison: Comparison
    display: Display
    descriptor: int

    def make_run(self, run: Run) -> RunRecord:
        """Train and score; what went wrong is in the record, which is written in any case."""
        folder = self.comparison.find_run_folder(run)
        took: Mapping[str, float] = {}
        end: dict[str, Any]
        try:
            took = _find_trained(folder) or self._train(run, folder)
            end = {"status": FINISHED, "score": self._score(folder)}
        except RunError as error:
            end = {"status": FAILED, "error": str(error)}
        record = run.build_record(
            train_seconds=took.get("seconds", 0.0),
            train_peak_mb=took.get("peak_mb", 0.0),
            **describe_training(folder / MODEL_FOLDER, self.comparison.settings),
            **end,
        )
        if record.status == FINISHED:
            _remove_checkpoints(folder)
        write_record(folder, record)
        return record

    def _train(self, run: Run, folder: Path) -> dict[str, float]:
        """Train, going on from the checkpoints of an interrupted run; without any, whatever one has left goes."""
        checkpoints = folder / CHECKPOINT_FOLDER
        if folder.exists() and not checkpoints.exists():
            shutil.rmtree(folder)
        checkpoints.mkdir(parents=True, exist_ok=True)
        (folder / TRAINED_FILE).unlink(missing_ok=True)
        varied = {"algorithm": run.algorithm, "backbone": run.backbone, "seed": str(run.seed)}
        start = time.monotonic()
        try:
            told = self._run_child(folder, hyperparameters={**self.comparison.given, **varied})
        except RunError as error:
            if error.kind == TrainingDivergedError.__name__:  # it would again
                _remove_checkpoints(folder)
            elif error.kind and any(checkpoints.iterdir()):
                raise RunError(f"{error}; its checkpoints are kept in {checkpoints}") from None
            raise
        took = {"seconds": told["earlier_seconds"] + time.monotonic() - start, "peak_mb": told["peak_mb"]}
        write_text(folder / TRAINED_FILE, json.dumps(took) + "\n")
        return took

    def _score(self, folder: Path) -> Score:
        self.display.set_activity("scoring")
        try:
            return parse_score(self._run_child(folder)["score"])
        except RunError as error:
            if error.kind == ModelError.__name__:  # each try would fail like this one: the model is made again
                (folder / TRAINED_FILE).unlink()
            raise

    def _run_child(self, folder: Path, **options: Any) -> dict[str, Any]:
        task = {"channels": str(self.comparison.data), "run": str(folder), **options}
        return run_child(task, folder / LOG_FILE, self.display, self.descriptor)


def _remove_checkpoints(folder: Path) -> None:
    shutil.rmtree(folder / CHECKPOINT_FOLDER, ignore_errors=True)


def _find_trained(folder: Path) -> Any:
    """What a complete training took; None without one. Whether its parameters are whole, the scoring will find out."""
    has_model = all((folder / MODEL_FOLDER / name).is_file() for name in _MODEL_FILES)
    return read_json(folder / TRAINED_FILE) if has_model else None


def _write_report(folder: Path) -> str:
    """Write the reports of all that is there so far; returns why that failed, if it did."""
    try:
        write_report(folder)
    except Exception as error:  # whatever it is, the other runs are made
        return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return ""


def _estimate(run: Run, known: Mapping[Run, RunRecord]) -> float | None:
    """Seconds that a run will take: what a finished one of the same model took."""
    same = [record.train_seconds for other, record in known.items() if other[:2] == run[:2] and record.train_seconds]
    return same[-1] if same else None


def _run_all(runner: _Runner) -> list[RunRecord]:
    comparison, display = runner.comparison, runner.display
    found = {run: read_record(comparison.find_run_folder(run)) for run in comparison.runs}
    done = {run: record for run, record in found.items() if record and record.status == FINISHED}
    if done:
        display.say(f"{len(done)} of {len(comparison.runs)} runs are finished already and kept")
    for number, run in enumerate(comparison.runs, 1):
        if run in done:
            continue
        rest = [_estimate(other, done) for other in comparison.runs[number:] if other not in done]
        display.start(f"run {number} of {len(comparison.runs)}, {run.title}", rest)
        done[run] = record = runner.make_run(run)
        display.say(f"{run.title} failed: {record.error}" if record.error else f"{run.title} finished")
        if number < len(comparison.runs):
            _write_report(comparison.folder)
    return [done[run] for run in comparison.runs]


def run_comparison(
    comparison: Comparison, display: Display, progress: Callable[[int, int], None] | None = None
) -> tuple[list[RunRecord], str]:
    """Make every run that is not finished yet, and the report; returns the records and why there is no report.

    ``progress`` is told of (done, total) while the data is checked, before anything is written.

    Raises:
        UserError: the data or the folder cannot be used; nothing was run.
        Interrupted: a signal asked for the end; finished runs are kept.
    """
    check_folder(comparison)
    with hold_comparison(comparison.folder) if comparison.folder.is_dir() else nullcontext():
        pass  # free, or told before all photos are read
    check = check_data(comparison, progress)
    comparison.folder.mkdir(parents=True, exist_ok=True)
    with hold_comparison(comparison.folder) as descriptor, handling_signals(STOP_SIGNALS, _interrupt):
        write_comparison(comparison, check, describe_hardware())
        try:
            records = _run_all(_Runner(comparison, display, descriptor))
            return records, _write_report(comparison.folder)
        finally:
            display.close()
