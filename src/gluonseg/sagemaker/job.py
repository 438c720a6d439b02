"""``container/train``: one SageMaker training job, from /opt/ml to exit code.

A job without its own script trains with gluonseg. A job with one (``sagemaker_program``) is handed to the
sagemaker-training toolkit, which runs it in the same environment with gluonseg importable.
"""

from __future__ import annotations

import io
import logging
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gluonseg.errors import FAILURE_LIMIT, UserError, describe_failure
from gluonseg.files import find_storage_error
from gluonseg.machine.limits import set_thread_count
from gluonseg.sagemaker.contract import find_base, find_temporary_folder, prepare_folders, read_contract
from gluonseg.sagemaker.log import (
    LogLines,
    ProgressBar,
    ProgressLine,
    ProgressLog,
    configure_logging,
    drop_unwritten,
    is_watched,
    log_whole_image,
    open_closed_streams,
    shorten_values,
)
from gluonseg.sagemaker.stop_signal import Script, passing_on_sigterm, stopping_job
from gluonseg.train.stop import Stop, Stopped

if TYPE_CHECKING:
    from gluonseg.hyperparameters import Hyperparameters
    from gluonseg.train.job import JobOutcome
    from gluonseg.train.listener import Listener
    from gluonseg.train.writer import ModelWriter

_log = logging.getLogger(__name__)
USER_SITE = Path(__file__).with_name("user_site")
"""Holds the sitecustomize that lets a user's own script import mxnet on the numpy of today."""
_SCRIPT: ContextVar[Script] = ContextVar("script")


def write_failure(base: Path, text: str) -> None:
    """Write the failure file, whose first 1024 characters SageMaker shows as FailureReason."""
    folder = base / "output"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # A file name in the text may hold bytes that are no UTF-8.
        (folder / "failure").write_text(text[:FAILURE_LIMIT], encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        _log.error("the failure file in %s cannot be written: %s", folder, error)


def run_entry_point() -> None:
    """Run the job's own script; the toolkit calls this, and writes the failure file from what it raises."""
    from sagemaker_training import entry_point, environment, process

    script = _SCRIPT.get()

    class Runner(process.ProcessRunner):  # type: ignore[misc]  # the toolkit has no types
        def _setup(self) -> None:
            """Called by the toolkit when all is installed that the script needs."""
            script.begin()

        def _create_command(self) -> list[str]:
            *start, last = super()._create_command()
            # Else some shells stay between, and die of a SIGTERM that the script would have ended well after.
            return [*start, f"exec {last}"] if start == ["/bin/sh", "-c"] else [*start, last]

    job = environment.Environment()
    arguments, variables = job.to_cmd_args(), job.to_env_vars()
    runner = Runner(job.user_entry_point, arguments, variables, processes_per_host=1)
    if len(job.hosts) == 1:
        # The toolkit looks every host up and waits for minutes until it is known; alone there is nobody to wait for.
        os.environ.setdefault("SM_STUDIO_LOCAL_MODE", "true")
    try:
        # capture_error: by default the failure file would hold the command, and not what the script died of.
        entry_point.run(
            job.module_dir, job.user_entry_point, arguments, variables, capture_error=True, runner_type=runner
        )
    finally:
        script.end()


def _run_user_script(base: Path, *, owns_process: bool) -> int:
    """Let the toolkit run the job's own entry point; it writes the failure file and decides the exit code."""
    script = Script()
    with passing_on_sigterm(script, owns_process=owns_process):
        code = _call_toolkit(script)
    output = base / "output"
    # The toolkit also ends with 0 when the script failed and the failure file could not be written.
    if not code and not (output / "success").is_file():
        raise RuntimeError(f"the script failed, or {output} cannot be written to; see the log above")
    return code


def _call_toolkit(script: Script) -> int:
    """Run the toolkit in this process; returns its exit code."""
    _SCRIPT.set(script)
    set_thread_count()
    sys.path.insert(0, str(USER_SITE))
    ours = f"{run_entry_point.__module__}:{run_entry_point.__name__}"
    if os.environ.setdefault("SAGEMAKER_TRAINING_MODULE", ours) != ours:
        script.begin()  # who brings a module of his own decides himself what is done before that
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The script's output passes through here; a log is read while the job runs.
        sys.stdout.reconfigure(line_buffering=True)
    from sagemaker_training import trainer

    try:
        trainer.train()
    except SystemExit as end:
        if end.code:
            return end.code if isinstance(end.code, int) else 1
    return 0


def train_channels(
    hyperparameters: Mapping[str, Any],
    channels: Mapping[str, Path],
    base: Path,
    host: str = "algo-1",
    stop: Stop | None = None,
    checkpoints: Path | None = None,
    listeners: Sequence[Listener] = (),
) -> JobOutcome:
    """Train on channel folders; the model goes to ``base/model``, curves also to ``base/output/data``.

    ``stop`` lets a signal handler or another thread end the training early; Stopped is raised when that is before there
    is a model. With ``checkpoints``, a folder, the training goes on from the last checkpoint there. ``listeners`` are
    told of the training, too.
    """
    set_thread_count()
    # MXNet loads here, after the number of its threads is settled.
    from gluonseg.train.job import JobSettings, run_job

    def build_listeners(hp: Hyperparameters, writer: ModelWriter) -> Sequence[Listener]:
        lines = LogLines(host, hp._logging_frequency)
        bar = [ProgressBar()] if is_watched() else []
        return [*bar, lines, writer, ProgressLine(lines), *listeners]

    _log.info("Merging with provided configuration: %s", shorten_values(hyperparameters))
    if checkpoints is None:
        _log.info("Checkpoint loading and saving are disabled.")
    else:
        _log.info("Checkpoints are kept in %s", checkpoints)
    if "test" in channels:
        _log.warning("The channel test is not used; score the model on it with gluonseg evaluate")
    else:
        _log.info("Test data is not provided.")
    settings = JobSettings(
        hyperparameters,
        channels,
        base / "model",
        base / "output" / "data",
        checkpoints,
        check_progress=ProgressLog("Checked %d of %d photos and masks"),
        evaluation_progress=ProgressLog("Evaluated %d of %d photos"),
        stop=stop or Stop(),
    )
    outcome = run_job(settings, build_listeners)
    if outcome.confusion is not None:
        log_whole_image(host, outcome.confusion, outcome.card.class_names)
    return outcome


def _report_failure(base: Path, error: Exception) -> int:
    """Log why the job failed and write the failure file; returns the exit code."""
    error = find_storage_error(error) or error
    text, code = describe_failure(error)
    trace = "" if isinstance(error, UserError) else "\n" + "".join(traceback.format_exception(error)).rstrip()
    _log.error("%s%s", text, trace)
    write_failure(base, text)
    return code


def run_training(base: Path, *, owns_process: bool = False) -> int:
    """Run the job in ``base`` and return the exit code: 0, 2 for what the user can fix, 1 for the rest.

    In the main thread SIGTERM, SIGINT and SIGHUP stop the job: also 0. Afterwards they mean what they meant before, or,
    when the process is there for this job only (``owns_process``), nothing: how it ends is settled.
    """
    stop = Stop()
    try:
        prepare_folders(base)
        find_temporary_folder()
        contract = read_contract(base)
        if contract.has_user_script:
            return _run_user_script(base, owns_process=owns_process)
        with suppress(Stopped), stopping_job(stop, owns_process=owns_process):
            hyperparameters, channels = contract.hyperparameters, contract.channels
            train_channels(hyperparameters, channels, base, contract.host, stop, contract.checkpoints)
    except Exception as error:
        return _report_failure(base, error)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``container/train``."""
    open_closed_streams()
    configure_logging()
    given = list(sys.argv[1:] if arguments is None else arguments)
    _log.info("Docker entrypoint called with argument(s): %s", " ".join(["train", *given]))
    if given:
        _log.error("train takes no arguments, got %s; hyperparameters belong into hyperparameters.json", given)
        return 2
    try:
        base = find_base()
    except UserError as error:
        _log.error("ClientError: %s", error)
        return error.exit_code
    try:
        return run_training(base, owns_process=True)
    finally:
        drop_unwritten()
