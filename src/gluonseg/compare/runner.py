"""A comparison from start to end: each run trained and scored in processes of their own, and kept when finished."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gluonseg.atomic import write_text
from gluonseg.compare.child import Ended, StopSignals, run_child
from gluonseg.compare.hardware import describe_hardware
from gluonseg.compare.lock import Lock, check_free, hold_lock
from gluonseg.compare.plan import Comparison, Run, check_data, check_folder, write_comparison
from gluonseg.compare.progress import Display
from gluonseg.compare.record import FAILED, FINISHED, RunRecord, Score, parse_score, read_record, write_record
from gluonseg.compare.score import SCORE_FILE
from gluonseg.json_object import parse_json_object

LOG_FILE = "log.txt"
TRAINED_FILE = "trained.json"
"""Says that the training of a run is complete, and what it took: then only the scoring is left."""
_MAX_REASON = 500
_ERROR_LINE = re.compile(r"(?:\[[^]]* ERROR \d+\] )?(?:gluonseg|ClientError|AlgorithmError): (.+)")
_Progress = Callable[[int, int], None]


class RunError(Exception):
    """A step of a run failed; the text says why, in one line."""


def _read_json(path: Path) -> Any:
    """The content of a JSON file; None where it is missing or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


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


@dataclasses.dataclass(frozen=True)
class _Runner:
    """What the runs of a comparison share."""

    comparison: Comparison
    display: Display
    stop: StopSignals
    lock: Lock

    def make_run(self, run: Run) -> RunRecord:
        """Train and score; what went wrong is in the record, which is written in any case."""
        folder = self.comparison.find_run_folder(run)
        took = _read_json(folder / TRAINED_FILE)
        try:
            took = took or self._train(run, folder)
            self._score(folder)
            record = self._build_record(run, FINISHED, took, score=_read_score(folder / SCORE_FILE))
        except RunError as error:
            record = self._build_record(run, FAILED, took or {}, error=str(error))
        write_record(folder, record)
        return record

    def _build_record(self, run: Run, status: str, took: Mapping[str, float], **values: Any) -> RunRecord:
        model = self.comparison.find_run_folder(run) / "model"
        return run.build_record(
            status,
            train_seconds=took.get("seconds", 0.0),
            train_peak_mb=took.get("peak_mb", 0.0),
            epochs=_read_json(model / "curves.json") or [],
            hyperparameters=_read_json(model / "hyperparams.json") or self.comparison.settings,
            versions=(_read_json(model / "model_card.json") or {}).get("versions", {}),
            **values,
        )

    def _train(self, run: Run, folder: Path) -> dict[str, float]:
        """Train from the start; whatever an interrupted or failed run has left goes."""
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        given = {**self.comparison.given, "algorithm": run.algorithm, "backbone": run.backbone, "seed": str(run.seed)}
        options = [f"--{name}={value}" for name, value in given.items()]
        ended = self._run_step(folder, "gluonseg", "train", str(self.comparison.data), f"--output={folder}", *options)
        took = {"seconds": ended.seconds, "peak_mb": ended.peak_mb}
        write_text(folder / TRAINED_FILE, json.dumps(took) + "\n")
        return took

    def _score(self, folder: Path) -> None:
        self.display.set_activity("scoring")
        (folder / SCORE_FILE).unlink(missing_ok=True)
        self._run_step(folder, "gluonseg.compare.score", str(self.comparison.data), str(folder))

    def write_report(self) -> str:
        """Write the reports of all that is there so far; returns why that failed, if it did."""
        try:
            self._run_step(self.comparison.folder, "gluonseg", "report", str(self.comparison.folder))
        except RunError as error:
            return str(error)
        (self.comparison.folder / LOG_FILE).unlink()
        return ""

    def _run_step(self, folder: Path, *arguments: str) -> Ended:
        """Run a module as a child; RunError when it fails."""
        log = folder / LOG_FILE
        earlier = log.stat().st_size if log.exists() else 0
        ended = run_child(
            ["-m", *arguments],
            log,
            self.stop,
            keep_open=self.lock.descriptor,
            on_start=self.lock.note,
            on_lines=self._follow,
            on_stop=lambda: self.display.say("stopping; once more stops at once"),
        )
        if ended.code:
            with log.open("rb") as file:
                file.seek(earlier)
                raise RunError(find_reason(file.read().decode(errors="replace"), ended.code))
        return ended

    def _follow(self, lines: Sequence[str]) -> None:
        for line in lines:
            self.display.read_line(line)
        self.display.refresh()


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
    check_free(comparison.folder)
    check = check_data(comparison, progress)
    comparison.folder.mkdir(parents=True, exist_ok=True)
    with hold_lock(comparison.folder) as lock, StopSignals() as stop:
        write_comparison(comparison, check, describe_hardware())
        runner = _Runner(comparison, display, stop, lock)
        try:
            records = _run_all(runner)
            return records, runner.write_report()
        finally:
            display.clear()
