"""One SageMaker training job, from /opt/ml to exit code, as ``container/train`` runs it.

``gluonseg train`` calls :func:`train_channels`, too.

A job without its own script trains with gluonseg. A job with one (``sagemaker_program``) is handed to the
sagemaker-training toolkit, which runs it in the same environment with gluonseg importable.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from gluonseg.errors import UserError, describe_failure
from gluonseg.files import find_storage_error, write_text
from gluonseg.machine.limits import set_thread_count
from gluonseg.sagemaker.contract import (
    TrainingContract,
    check_temporary_folder,
    find_base,
    prepare_folders,
    read_contract,
)
from gluonseg.sagemaker.hosts import joining_hosts
from gluonseg.sagemaker.log import (
    LogLines,
    ProgressBar,
    ProgressLine,
    ProgressLog,
    configure_logging,
    is_watched,
    log_whole_image,
    shorten_values,
)
from gluonseg.sagemaker.spool import spool_channels
from gluonseg.sagemaker.stop_signal import handling_signals, stop_before_script, stop_script, stopping_job
from gluonseg.train.group import Group
from gluonseg.train.stop import Stop, Stopped

if TYPE_CHECKING:
    from gluonseg.hyperparameters import Hyperparameters
    from gluonseg.train.job import JobOutcome
    from gluonseg.train.listener import Listener
    from gluonseg.train.writer import ModelWriter

_log = logging.getLogger(__name__)
USER_SITE = Path(__file__).with_name("user_site")
"""Holds the sitecustomize that lets a user's own script import mxnet on the numpy of today."""


def run_entry_point() -> None:
    """Run the job's own script; the toolkit calls this, and writes the failure file from what it raises."""
    from sagemaker_training import entry_point, environment, process

    class Runner(process.ProcessRunner):  # type: ignore[misc]  # the toolkit has no types
        def _setup(self) -> None:
            """Called by the toolkit when all is installed that the script needs."""
            signal.signal(signal.SIGTERM, stop_script)

        def _create_command(self) -> list[str]:
            *start, last = super()._create_command()
            # Without exec this shell would stay, die of SIGTERM, and end the job before the script has ended.
            return [*start, f"exec {last}"] if start == ["/bin/sh", "-c"] else [*start, last]

    job = environment.Environment()
    arguments, variables = job.to_cmd_args(), job.to_env_vars()
    runner = Runner(job.user_entry_point, arguments, variables, processes_per_host=1)
    if len(job.hosts) == 1:
        # The toolkit waits for minutes until each host's name is known; on one host there is nothing to wait for.
        os.environ.setdefault("SM_STUDIO_LOCAL_MODE", "true")
    try:
        # Without capture_error the failure file would hold the command, and not the script's error.
        entry_point.run(
            job.module_dir, job.user_entry_point, arguments, variables, capture_error=True, runner_type=runner
        )
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the toolkit writes how the script has ended


def _run_user_script(base: Path) -> int:
    """Let the toolkit run the job's own script; it writes the failure file and decides the exit code."""
    set_thread_count()
    sys.path.insert(0, str(USER_SITE))
    os.environ.setdefault("SAGEMAKER_TRAINING_MODULE", f"{run_entry_point.__module__}:{run_entry_point.__name__}")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The script's output passes through here; a log is read while the job runs.
        sys.stdout.reconfigure(line_buffering=True)
    from sagemaker_training import trainer

    code: object = 0
    with handling_signals([signal.SIGTERM], stop_before_script):
        try:
            trainer.train()
        except SystemExit as end:
            code = end.code or 0
    # The toolkit also ends with 0 when the script failed and the failure file could not be written.
    if not code and not (base / "output" / "success").is_file():
        raise RuntimeError(f"the script failed, or {base / 'output'} cannot be written to; see the log above")
    return code if isinstance(code, int) else 1


def train_channels(
    hyperparameters: Mapping[str, Any],
    channels: Mapping[str, Path],
    base: Path,
    host: str = "algo-1",
    stop: Stop | None = None,
    checkpoints: Path | None = None,
    listeners: Sequence[Listener] = (),
    fetch_channels: Callable[[], Mapping[str, Path]] = dict,
    group: Group | None = None,
) -> JobOutcome:
    """Train on channel folders; the model goes to ``base/model``, curves also to ``base/output/data``.

    ``stop`` lets a signal handler or another thread end the training early; Stopped is raised when that is before there
    is a model. With ``checkpoints``, a folder, the training goes on from the last checkpoint there. ``listeners`` get
    the events of the training, after the log and the writer of the model. ``fetch_channels`` gives channels besides
    ``channels``; it is called after all checks that need no data. ``group`` are the hosts that train together; only the
    first of them logs and reports.
    """
    group = group or Group((host,))
    set_thread_count()
    # MXNet loads here, after the number of its threads is settled.
    from gluonseg.train.job import JobSettings, run_job

    def build_listeners(hp: Hyperparameters, writer: ModelWriter) -> Sequence[Listener]:
        if group.rank:
            return [writer]
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
        None if group.rank else base / "output" / "data",
        checkpoints,
        check_progress=ProgressLog("Checked %d of %d photos and masks"),
        evaluation_progress=ProgressLog("Evaluated %d of %d photos"),
        stop=stop or Stop(),
        fetch_channels=fetch_channels,
        group=group,
    )
    outcome = run_job(settings, build_listeners)
    if outcome.confusion is not None and not group.rank:
        log_whole_image(host, outcome.confusion, outcome.card.class_names)
    return outcome


def _report_failure(base: Path, error: Exception) -> int:
    """Log why the job failed and write the failure file, which SageMaker shows; returns the exit code."""
    error = find_storage_error(error) or error
    text, code = describe_failure(error)
    trace = "" if isinstance(error, UserError) else "\n" + "".join(traceback.format_exception(error)).rstrip()
    _write_failure(base, text, trace)
    return code


def _write_failure(base: Path, text: str, trace: str = "") -> None:
    _log.error("%s%s", text, trace)
    try:
        (base / "output").mkdir(parents=True, exist_ok=True)
        write_text(base / "output" / "failure", text)
    except (OSError, UserError) as refusal:
        _log.error("the failure file cannot be written: %s", refusal)


def run_training(base: Path) -> int:
    """Run the job in ``base`` and return the exit code: 0, 2 for what the user can fix, 1 for the rest.

    SIGTERM, SIGINT and SIGHUP stop the job, also with 0.
    """
    stop = Stop()
    try:
        prepare_folders(base)
        check_temporary_folder()
        contract = read_contract(base)
        if contract.has_user_script:
            return _run_user_script(base)
        with suppress(Stopped), stopping_job(stop), ExitStack() as stack:
            _train(base, contract, stop, stack)
    except Exception as error:
        return _report_failure(base, error)
    return 0


def _train(base: Path, contract: TrainingContract, stop: Stop, stack: ExitStack) -> None:
    """Train the job in ``base``; ``stack`` gets what is to be removed after it."""
    spool = Path(stack.enter_context(TemporaryDirectory(prefix="gluonseg-pipes-")))
    output, group, checkpoints = base, Group((contract.host,)), contract.checkpoints
    if len(contract.hosts) > 1:
        end = partial(_end_with_host, base)
        options = contract.interface, contract.sharded, stop, end
        group = stack.enter_context(joining_hosts(contract.hosts, contract.host, *options))
    if group.rank:
        text = "The log of this training is that of %s; of this host %s warnings follow, and how it ends"
        _log.info(text, group.names[0], contract.host)
        logging.getLogger().setLevel(logging.WARNING)
        # SageMaker makes one archive of what all hosts leave: those after the first leave nothing.
        output, checkpoints = Path(stack.enter_context(TemporaryDirectory(prefix="gluonseg-host-"))), None
    fetch = partial(spool_channels, contract.pipes, spool, stop)
    hyperparameters, channels = contract.hyperparameters, contract.channels
    train_channels(
        hyperparameters, channels, output, contract.host, stop, checkpoints, fetch_channels=fetch, group=group
    )


def _end_with_host(base: Path, host: str, text: str, code: int) -> None:
    """End this process because another host has ended: its job is over, and MPI would wait for it for ever."""
    if code:
        kind, _, reason = text.partition(": ")
        _write_failure(base, f"{kind}: on the host {host}: {reason}")
    else:
        _log.warning("This host ends with the host %s: %s", host, text)
    logging.shutdown()
    os._exit(code)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of ``container/train``."""
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
    return run_training(base)
