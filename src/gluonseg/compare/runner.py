"""A comparison from start to end: each run trained and scored in processes of their own, and kept when finished."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from gluonseg.atomic import write_text
from gluonseg.compare.child import Ended, StopSignals, run_child
from gluonseg.compare.hardware import describe_hardware
from gluonseg.compare.plan import Comparison, Run, check_data, check_folder, write_comparison
from gluonseg.compare.progress import Display
from gluonseg.compare.record import (
    FAILED,
    FINISHED,
    RunRecord,
    Score,
    describe_training,
    parse_score,
    read_json,
    read_record,
    write_record,
)
from gluonseg.compare.score import MODEL_FOLDER, SCORE_FILE
from gluonseg.errors import ModelError, UserError
from gluonseg.json_object import parse_json_object
from gluonseg.models.card import CARD_FILE, read_card
from gluonseg.train.checkpoint_file import find_resumed
from gluonseg.train.folder_lock import hold_folder

LOG_FILE = "log.txt"
CHECKPOINT_FOLDER = "checkpoints"
TRAINED_FILE = "trained.json"
"""Says that the training of a run is complete, and what it took: then only the scoring is left."""
_MAX_REASON = 500
_ERROR_LINE = re.compile(r"(?:\[[^]]* ERROR \d+\] )?(?:gluonseg|ClientError|AlgorithmError): (.+)")
_DIVERGED = re.compile(r"the training loss became \S+ at epoch|is no longer finite after epoch")
_MODEL_FILES = ("model_best.params", "hyperparams.json", "curves.json")
_Progress = Callable[[int, int], None]


class RunError(Exception):
    """A step of a run failed; the text says why, in one line. ``code`` is the exit code of its process."""

    def __init__(self, reason: str, code: int = 1) -> None:
        super().__init__(reason)
        self.code = code


def find_reason(log: str, code: int) -> str:
    """Why a step failed, in one line: the last words of its log, or the signal that killed it."""
    if code < 0:
        name = signal.Signals(-code).name
        hint = "; the machine may have run out of memory" if code == -signal.SIGKILL else ""
        return f"the process was killed by {name}{hint}"
    if code == 128 + signal.SIGTERM:
        return "the training was stopped by SIGTERM"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for line in reversed(lines):
        if found := _ERROR_LINE.match(line):
            return found[1][:_MAX_REASON]
    return lines[-1][:_MAX_REASON] if lines else f"the process ended with exit code {code}"


def hold_comparison(folder: Path) -> AbstractContextManager[int]:
    """Keep every other comparison out of ``folder``; UserError when there is one."""
    return hold_folder(folder, "writes a comparison to")


@dataclasses.dataclass(frozen=True)
class _Runner:
    """What the runs of a comparison share."""

    comparison: Comparison
    display: Display
    stop: StopSignals
    descriptor: int
    """Of the folder, which is locked: a run holds it, too, when this process is killed."""

    def make_run(self, run: Run) -> RunRecord:
        """Train and score; what went wrong is in the record, which is written in any case."""
        folder = self.comparison.find_run_folder(run)
        took = read_json(folder / TRAINED_FILE) if _holds_model(folder / MODEL_FOLDER) else None
        try:
            took = took or self._train(run, folder)
            self._score(folder)
            record = self._build_record(run, FINISHED, took, score=_read_score(folder / SCORE_FILE))
        except RunError as error:
            record = self._build_record(run, FAILED, took or {}, error=str(error))
        write_record(folder, record)
        if record.status == FINISHED:
            _remove_checkpoints(folder)
        return record

    def _build_record(self, run: Run, status: str, took: Mapping[str, float], **values: Any) -> RunRecord:
        model = self.comparison.find_run_folder(run) / MODEL_FOLDER
        return run.build_record(
            status,
            train_seconds=took.get("seconds", 0.0),
            train_peak_mb=took.get("peak_mb", 0.0),
            **describe_training(model, self.comparison.settings),
            **values,
        )

    def _train(self, run: Run, folder: Path) -> dict[str, float]:
        """Train, going on from the checkpoints of an interrupted run; without any, whatever one has left goes."""
        checkpoints = folder / CHECKPOINT_FOLDER
        if folder.exists() and not checkpoints.exists():
            shutil.rmtree(folder)
        checkpoints.mkdir(parents=True, exist_ok=True)
        (folder / TRAINED_FILE).unlink(missing_ok=True)
        given = {**self.comparison.given, "algorithm": run.algorithm, "backbone": run.backbone, "seed": str(run.seed)}
        options = [f"--{name}={value}" for name, value in given.items()]
        folders = [str(self.comparison.data), f"--output={folder}", f"--checkpoints={checkpoints}"]
        earlier = _Earlier()
        try:
            ended = self._run_step(folder, "gluonseg", "train", *folders, *options, on_line=earlier.read_line)
        except RunError as error:
            if _DIVERGED.search(str(error)):  # it would again
                _remove_checkpoints(folder)
            elif error.code == UserError.exit_code and any(checkpoints.iterdir()):
                raise RunError(f"{error}; its checkpoints are kept in {checkpoints}", error.code) from None
            raise
        took = {"seconds": earlier.seconds + ended.seconds, "peak_mb": max(earlier.peak_mb, ended.peak_mb)}
        write_text(folder / TRAINED_FILE, json.dumps(took) + "\n")
        return took

    def _score(self, folder: Path) -> None:
        self.display.set_activity("scoring")
        (folder / SCORE_FILE).unlink(missing_ok=True)
        try:
            self._run_step(folder, "gluonseg.compare.score", str(self.comparison.data), str(folder))
        except RunError as error:
            # From checkpoints a model is made again without training; without any it has to be the model's fault.
            is_cheap = (folder / CHECKPOINT_FOLDER).exists()
            if error.code == UserError.exit_code and (is_cheap or str(folder / MODEL_FOLDER) in str(error)):
                (folder / TRAINED_FILE).unlink(missing_ok=True)
            raise

    def write_report(self) -> str:
        """Write the reports of all that is there so far; returns why that failed, if it did."""
        try:
            self._run_step(self.comparison.folder, "gluonseg", "report", str(self.comparison.folder))
        except RunError as error:
            return str(error)
        (self.comparison.folder / LOG_FILE).unlink()
        return ""

    def _run_step(self, folder: Path, *arguments: str, on_line: Callable[[str], None] | None = None) -> Ended:
        """Run a module as a child; RunError when it fails."""

        def follow(lines: Sequence[str]) -> None:
            for line in lines:
                self.display.read_line(line)
                if on_line:
                    on_line(line)
            self.display.refresh()

        log = folder / LOG_FILE
        earlier = log.stat().st_size if log.exists() else 0
        ended = run_child(
            ["-m", *arguments],
            log,
            self.stop,
            keep_open=self.descriptor,
            on_lines=follow,
            on_stop=lambda: self.display.say("stopping; once more stops at once"),
        )
        if ended.code:
            with log.open("rb") as file:
                file.seek(earlier)
                raise RunError(find_reason(file.read().decode(errors="replace"), ended.code), ended.code)
        return ended


class _Earlier:
    """Seconds and peak memory of the training that a run had behind it when it went on, by its log."""

    def __init__(self) -> None:
        self.seconds = self.peak_mb = 0.0

    def read_line(self, line: str) -> None:
        if found := find_resumed(line):
            self.seconds, self.peak_mb = found.seconds, found.peak_mb


def _remove_checkpoints(folder: Path) -> None:
    shutil.rmtree(folder / CHECKPOINT_FOLDER, ignore_errors=True)


def _holds_model(folder: Path) -> bool:
    """Whether the files of a model are there; whether the parameters are whole is for the scoring to find out."""
    try:
        read_card(folder / CARD_FILE)
    except (ModelError, OSError):
        return False
    return all((folder / name).is_file() for name in _MODEL_FILES)


def _read_score(path: Path) -> Score:
    try:
        return parse_score(parse_json_object(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RunError(f"the score in {path} cannot be read: {error}") from None


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
        if run in done and done[run].status == FINISHED:
            _remove_checkpoints(comparison.find_run_folder(run))  # left when the end came just before that
            continue
        runner.stop.check()
        rest = [_estimate(other, done) for other in comparison.runs[number:] if other not in done]
        display.start(f"run {number} of {len(comparison.runs)}, {run.title}", "reading the data", rest)
        done[run] = runner.make_run(run)
        _tell_end(display, run, done[run])
        if number < len(comparison.runs):
            runner.write_report()
    return [done[run] for run in comparison.runs]


def _tell_end(display: Display, run: Run, record: RunRecord) -> None:
    text = f"failed: {record.error}" if record.status == FAILED else "finished"
    display.say(f"{run.title} {text}")


def run_comparison(
    comparison: Comparison, display: Display, progress: _Progress | None = None
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
    with hold_comparison(comparison.folder) as descriptor, StopSignals() as stop:
        write_comparison(comparison, check, describe_hardware())
        runner = _Runner(comparison, display, stop, descriptor)
        try:
            records = _run_all(runner)
            return records, runner.write_report()
        finally:
            display.clear()
