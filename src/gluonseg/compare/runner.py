"""A comparison from start to end: each run is trained, then scored, and kept once it is finished."""

from __future__ import annotations

import multiprocessing
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from types import FrameType
from typing import Any

from gluonseg.compare.child import CHECKPOINT_FOLDER, MODEL_FOLDER, RunError, run_step, score_run, train_run
from gluonseg.compare.plan import ComparisonPlan, Run, check_folder, write_comparison
from gluonseg.compare.progress import Display, Progress
from gluonseg.report.page import write_comparison_report
from gluonseg.report.record import FAILED, FINISHED, RunRecord, describe_training, read_record, write_record
from gluonseg.sagemaker.stop_signal import STOP_SIGNALS, handling_signals
from gluonseg.train.data import check_job_data
from gluonseg.train.folder_lock import hold_folder

STOP_PATIENCE_S = 120.0
"""A training that is asked to stop has as long as SageMaker gives it."""


class Interrupted(BaseException):
    """The signal ``number`` asked the comparison to stop. Not an Exception, like KeyboardInterrupt."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def _interrupt(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


def call_in_process(step: Callable[..., Any], display: Display, *arguments: Any) -> Any:
    """Call a step of :mod:`gluonseg.compare.child` in a process of its own; returns what it returns.

    Raises:
        RunError: the step failed, or its process was killed.
        Interrupted: a signal came. The process gets SIGTERM; it is killed after STOP_PATIENCE_S, or at a second signal.
    """
    spawn = multiprocessing.get_context("spawn")
    receiver, sender = spawn.Pipe(duplex=False)
    process = spawn.Process(target=run_step, args=(step, sender, *arguments))
    process.start()
    sender.close()
    try:
        while isinstance(message := _receive(receiver), Progress):
            display.show(message)
        process.join()
        if message is None:
            raise RunError(describe_end(process.exitcode or 0))
        if isinstance(message, RunError):
            raise message
        return message
    except Interrupted:
        process.terminate()
        display.say("stopping; once more stops at once")
        process.join(STOP_PATIENCE_S)
        raise
    finally:
        process.kill()  # does nothing when it has ended
        process.join()


def _receive(pipe: Connection) -> Any:
    """What a process sends next; None once it has ended."""
    try:
        return pipe.recv()
    except (EOFError, OSError):  # OSError: while it sent something
        return None


def describe_end(exit_code: int) -> str:
    """How a process ended that has sent no reason."""
    if exit_code >= 0:
        return f"the process ended with exit code {exit_code}"
    hint = "; the machine may have run out of memory" if exit_code == -signal.SIGKILL else ""
    return f"the process was killed by {signal.Signals(-exit_code).name}{hint}"


def make_run(plan: ComparisonPlan, run: Run, display: Display) -> RunRecord:
    """Train and score a run, going on from its checkpoints; write its record, which says what went wrong."""
    folder = plan.find_run_folder(run)
    checkpoints = folder / CHECKPOINT_FOLDER
    checkpoints.mkdir(parents=True, exist_ok=True)
    varied = {"algorithm": run.algorithm, "backbone": run.backbone, "seed": str(run.seed)}
    end: dict[str, Any] = {"status": FAILED}
    start = time.monotonic()
    try:
        earlier_seconds, end["train_peak_mb"] = call_in_process(
            train_run, display, plan.channels, folder, {**plan.given, **varied}
        )
        end["train_seconds"] = earlier_seconds + time.monotonic() - start
        display.set_activity("scoring")
        end["score"] = call_in_process(score_run, display, plan.channels, folder)
        end["status"] = FINISHED
    except RunError as error:
        end["error"] = str(error)
    record = run.build_record(**end, **describe_training(folder / MODEL_FOLDER, plan.settings))
    write_record(folder, record)
    if record.status == FINISHED:
        shutil.rmtree(checkpoints, ignore_errors=True)
    return record


def _estimate_seconds(run: Run, done: Mapping[Run, RunRecord]) -> float | None:
    """Seconds that a run will take: those of another seed of the same model, if there is one."""
    same = [record.train_seconds for other, record in done.items() if other[:2] == run[:2] and record.train_seconds]
    return same[-1] if same else None


def _run_all(plan: ComparisonPlan, display: Display) -> list[RunRecord]:
    """Make the runs that are not finished, one after the other, and write the report after each."""
    found = {run: read_record(plan.find_run_folder(run)) for run in plan.runs}
    done = {run: record for run, record in found.items() if record and record.status == FINISHED}
    if done:
        display.say(f"{len(done)} of {len(plan.runs)} runs are finished already and kept")
    for number, run in enumerate(plan.runs, 1):
        if run in done:
            continue
        rest = [_estimate_seconds(other, done) for other in plan.runs[number:] if other not in done]
        display.start(f"run {number} of {len(plan.runs)}, {run.title}", rest)
        done[run] = record = make_run(plan, run, display)
        display.say(f"{run.title} failed: {record.error}" if record.error else f"{run.title} finished")
        if number < len(plan.runs):
            with suppress(Exception):  # the other runs are made, and the last report will say what is wrong
                write_comparison_report(plan.folder)
    return [done[run] for run in plan.runs]


def run_comparison(
    plan: ComparisonPlan, display: Display, progress: Callable[[int, int], None] | None = None
) -> list[RunRecord]:
    """Make every run that is not finished yet, and the report; returns the records of all.

    ``progress`` is called with (done, total) photos while the data is checked, before anything is written.

    Raises:
        UserError: the data or the folder cannot be used, and nothing was run; or the report cannot be written.
        Interrupted: a signal asked for the end; finished runs are kept.
    """
    check_folder(plan)
    check = check_job_data(plan.hyperparameters, plan.channels, progress)
    check.raise_for_errors()
    plan.folder.mkdir(parents=True, exist_ok=True)
    with (
        hold_folder(plan.folder, "writes a comparison to"),
        handling_signals(STOP_SIGNALS, _interrupt),
        closing(display),
    ):
        write_comparison(plan, check)
        records = _run_all(plan, display)
        write_comparison_report(plan.folder)
        return records
