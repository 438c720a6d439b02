"""SIGTERM, SIGINT and SIGHUP to trainings and to users' scripts: what they leave."""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import pytest

from conftest import RunJob
from gluonseg.cli import main
from gluonseg.models.params import read_arrays
from gluonseg.predict.predictor import Predictor, load_predictor
from gluonseg.sagemaker.stop_signal import find_receivers, stopping_job
from gluonseg.train.result import ResultFolder
from gluonseg.train.step import Stepper
from gluonseg.train.stop import Stop
from job_layout import HYPERPARAMETERS, TRAIN, Job, draw_channels, lay_out_job
from program import LoggedProcess, start_logged

FILES = {"model_best.params", "model_algo-1", "hyperparams.json", "model_card.json", "model_symbol.json",
         "model_manifest.json", "curves.json"}  # fmt: skip
EPOCH_END = r"completed \S+ % of epochs"
SLOW = """
import sys, time
from itertools import count
from gluonseg.sagemaker.job import main
from gluonseg.train.step import Stepper

def hang(*arguments, fast=Stepper.update, calls=count(1)):
    if next(calls) == 20:
        print("SLOW", flush=True)
        time.sleep(600)
    return fast(*arguments)

Stepper.update = hang
sys.exit(main())
"""
PID_1 = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
needs_pid_1 = pytest.mark.skipif(
    not shutil.which("unshare") or os.geteuid() != 0, reason="a process of number 1 needs unshare and root"
)
SCRIPT = """
import json, os, signal, sys, time

def stop(number, frame):
    with open(os.path.join(os.environ["SM_MODEL_DIR"], "stopped.json"), "w") as file:
        json.dump(number, file)
    sys.exit(0)

found = f"{int(signal.getsignal(signal.SIGTERM))} {len(signal.pthread_sigmask(signal.SIG_BLOCK, []))}"
signal.signal(signal.SIGTERM, stop)
sys.stdout.write(f"RUNNING {found}\\n")  # in one piece, which the toolkit makes a line of
sys.stdout.flush()
time.sleep(600)
"""


class Running(LoggedProcess):
    """A job that runs."""

    def wait_for(self, pattern: str, count: int = 1, timeout_s: float = 120.0) -> None:
        """Wait until the log has ``pattern`` that often."""
        deadline = time.monotonic() + timeout_s
        while len(re.findall(pattern, self.log)) < count:
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.005)

    def find_first(self) -> int:
        """Process id of the child that ``unshare`` has made."""
        while not (children := psutil.Process(self.process.pid).children()):
            time.sleep(0.005)
        return int(children[0].pid)

    def stop(self, *numbers: int, pid: int | None = None) -> int:
        """Send the signals, 0.2 s apart, to the process or to ``pid``, and return the exit code."""
        for number in numbers:
            assert self.process.poll() is None, self.log
            os.kill(pid or self.process.pid, number)
            time.sleep(0.2)
        return self.process.wait(timeout=60)


@contextmanager
def _start(command: list[str], log_file: Path, **variables: str) -> Iterator[Running]:
    with start_logged(command, log_file, **variables) as process:
        yield Running(process, log_file)


@contextmanager
def _run(job: Job, *, slow: bool = False, prefix: tuple[str, ...] = ()) -> Iterator[Running]:
    """Run ``container/train`` on the job, or with ``slow`` the same job until it hangs in its third epoch."""
    program = ["-c", SLOW] if slow else [str(TRAIN)]
    log_file = job.base.parent / "train.log"
    with _start([*prefix, sys.executable, *program], log_file, SAGEMAKER_BASE_DIR=str(job.base)) as running:
        yield running


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_channels(tmp_path_factory.getbasetemp())


@pytest.fixture
def job(data: Path, tmp_path: Path) -> Job:
    """A job of more epochs than any test waits for, with 9 updates in each."""
    return lay_out_job(tmp_path / "ml", data, link=True, epochs="2000", mini_batch_size="2", _logging_frequency="1")


def _check_model(model: Path) -> Mapping[str, object]:
    """The folder is complete, and its model predicts; returns the card's metrics."""
    metrics: Mapping[str, object] = json.loads((model / "model_card.json").read_text())["metrics"]
    curves = json.loads((model / "curves.json").read_text())
    assert len(curves) == metrics["epochs"]
    assert "whole_image" not in metrics
    names = {path.name for path in model.iterdir()}
    assert names - {"model.onnx"} == (FILES | {"curves.png"} if curves else FILES)
    assert json.loads((model / "hyperparams.json").read_text())["num_classes"] == "4"
    assert load_predictor(model).predict_mask(np.zeros((30, 50, 3), dtype=np.uint8)).shape == (30, 50)
    best, last = (read_arrays(model / name) for name in ("model_best.params", "model_algo-1"))
    assert best.keys() == last.keys()
    assert all(np.isfinite(array).all() for array in (*best.values(), *last.values()))
    return metrics


# --- at every point of a job, in this process


def _call_at(patch: pytest.MonkeyPatch, owner: type, name: str, call: int, action: Callable[[], object]) -> None:
    """Do ``action`` before the method is called for the time ``call``, counted from 1."""
    method, calls = getattr(owner, name), itertools.count(1)

    def act(*arguments: Any, **options: Any) -> Any:
        if next(calls) == call:
            action()
        return method(*arguments, **options)

    patch.setattr(owner, name, act)


def test_in_the_first_epoch_the_parameters_as_they_are_are_kept(
    run_tiny: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for name in FILES:
        (model / name).write_text(f"earlier {name}")
    (model / ".model_best.params.1.partial").write_bytes(b"of a job that was killed")
    caplog.set_level(logging.INFO)
    stop = Stop()
    _call_at(monkeypatch, Stepper, "update", 2, lambda: stop.request(signal.SIGTERM))
    run_tiny(stop=stop)
    assert "Stopped by SIGTERM in the first epoch: model_best.params and model_algo-1 have the par" in caplog.text
    assert _check_model(model) == {"epochs": 0, "stopped_by": "SIGTERM"}
    assert (model / "model_best.params").read_bytes() == (model / "model_algo-1").read_bytes()


@pytest.mark.parametrize(
    ("owner", "name", "words", "is_in_card"),
    [
        (Predictor, "predict_mask", "is complete, but not scored on whole images", False),
        (ResultFolder, "_write", "Stopped by SIGTERM after epoch 0: .* as they were", True),
    ],
)
def test_a_stop_after_the_last_epoch(
    run_tiny: RunJob, tmp_path: Path, owner: type, name: str, words: str, is_in_card: bool,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """The card says what the log says."""
    caplog.set_level(logging.INFO)
    stop = Stop()
    _call_at(monkeypatch, owner, name, 1, lambda: stop.request(signal.SIGTERM))
    run_tiny({"epochs": "1"}, stop=stop)
    monkeypatch.undo()
    assert len(re.findall(r"Stopped by SIG", caplog.text)) == 1
    assert re.search(words, caplog.text)
    metrics = _check_model(tmp_path / "model")
    assert ("stopped_by" in metrics) == is_in_card
    assert (metrics["epochs"], metrics["best_epoch"]) == (1, 0)


# --- processes


@needs_pid_1
def test_after_epochs_the_best_one_and_the_last_parameters_are_kept(job: Job) -> None:
    """As the first process of a container: the kernel keeps signals that have no handler from it.

    It ends with 0, one line on what was done, and nothing that looks like a failure.
    """
    checkpoints = job.base / "checkpoints"
    checkpoints.mkdir()
    with _run(job, prefix=PID_1) as running:
        running.wait_for(EPOCH_END, count=2)
        code = running.stop(signal.SIGTERM, pid=running.find_first())
    words = r"Stopped by SIGTERM after epoch \d+: model_best.params is of epoch \d+, model_algo-1 has .* as they were"
    assert code == 0, running.log
    assert re.search(words, running.log), running.log
    assert running.log.count("Stopped by SIG") == 1, running.log
    assert not re.search("Traceback|ERROR|Evaluating", running.log)
    assert job.read_failure() is None
    metrics = _check_model(job.model)
    epochs = len(json.loads((job.model / "curves.json").read_text()))
    assert epochs >= 2
    assert metrics["stopped_by"] == "SIGTERM"
    files = sorted(path.name for path in checkpoints.iterdir())
    assert len(files) == 2
    assert files[-1].startswith(f"checkpoint-{epochs - 1:06}-"), "that of the last whole epoch is there"


def test_a_second_signal_ends_the_job_at_once(job: Job) -> None:
    """Within an update that would take ten minutes; the best model so far is left."""
    with _run(job, slow=True) as running:
        running.wait_for("SLOW")
        code = running.stop(signal.SIGTERM, signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert "Traceback" not in running.log
    assert load_predictor(job.model).card.num_classes == 4


@needs_pid_1
@pytest.mark.parametrize("program", ["train", "serve"])
def test_a_stop_while_the_first_process_loads_gluonseg(program: str, tmp_path: Path) -> None:
    (tmp_path / "gluonseg").mkdir()
    (tmp_path / "gluonseg" / "__init__.py").write_text("import time\nprint('LOADING', flush=True)\ntime.sleep(600)\n")
    command = [*PID_1, sys.executable, str(TRAIN.with_name(program))]
    with _start(command, tmp_path / "log", PYTHONPATH=str(tmp_path)) as running:
        running.wait_for("LOADING")
        code = running.stop(signal.SIGTERM, pid=running.find_first())
    assert code == 0, running.log
    before = "training had begun: there is no model" if program == "train" else "the server had started"
    assert running.log == f"LOADING\nStopped by SIGTERM before {before}\n"


def test_the_command_stops_with_the_code_of_the_signal(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("gluonseg.sagemaker.log.configure_logging", lambda: None)
    _call_at(monkeypatch, Stepper, "update", 2, lambda: signal.raise_signal(signal.SIGINT))
    options = [text for name, value in HYPERPARAMETERS.items() for text in (f"--{name}", value)]
    assert main(["train", str(data), "--output", str(tmp_path), *options]) == 128 + signal.SIGINT
    assert "Stopped by SIGINT" in caplog.text
    _check_model(tmp_path / "model")


def _lay_out_script(job: Job) -> Path:
    """Let the job run SCRIPT; returns its folder."""
    source = job.base.parent / "source"
    source.mkdir()
    (source / "train.py").write_text(SCRIPT)
    (source / "train.sh").write_text(f"#!/bin/sh\n{sys.executable} train.py\n")
    job.write_config("hyperparameters", {"sagemaker_program": "train.py", "sagemaker_submit_directory": str(source)})
    return source


@pytest.mark.parametrize("program", ["train.py", "train.sh"])
def test_a_users_script_gets_the_signal_and_decides_the_end(job: Job, program: str) -> None:
    """The shell of a shell script dies of it, which fails the job."""
    _lay_out_script(job)
    job.set_hyperparameters(sagemaker_program=program)
    with _run(job) as running:
        running.wait_for("RUNNING 0 0")  # the default action, and nothing blocked
        assert running.stop(signal.SIGTERM) == (program == "train.sh"), running.log
    assert json.loads((job.model / "stopped.json").read_text()) == signal.SIGTERM
    failure = job.read_failure()
    assert failure is None if program == "train.py" else "ExitCode -15" in (failure or "")


def test_a_stop_while_the_scripts_requirements_are_installed(job: Job) -> None:
    """pip ends, too, and its end is not the job's failure."""
    source = _lay_out_script(job)
    with socket.create_server(("127.0.0.1", 0)) as index:
        text = f"--index-url http://127.0.0.1:{index.getsockname()[1]}/simple\nnowhere\n"
        (source / "requirements.txt").write_text(text)
        with _run(job) as running:
            connection, _ = index.accept()
            code = running.stop(signal.SIGTERM)
        with connection:
            connection.settimeout(10)
            while connection.recv(1 << 16):
                pass
    assert code == 0, running.log
    assert "before the script had begun" in running.log
    assert "RUNNING" not in running.log
    assert job.read_failure() is None


@pytest.mark.parametrize(
    ("program", "count"),
    [
        ("sleep 600 & sleep 600 & wait", 3),
        ("trap : TERM; sleep 600 & sleep 600 & wait", 1),
        (f'exec {sys.executable} -c \'import subprocess; subprocess.run(["sleep", "600"])\'', 1),
    ],
    ids=["shell", "shell with a trap", "Python"],
)
def test_only_a_shell_without_a_trap_is_looked_behind(program: str, count: int) -> None:
    with subprocess.Popen(["sh", "-c", program], start_new_session=True) as process:
        shell = psutil.Process(process.pid)
        try:
            while len(shell.children()) < 1 + ("&" in program):
                time.sleep(0.01)
            assert len(find_receivers(shell)) == count
        finally:
            os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.parametrize(("hangup", "name"), [(signal.SIG_DFL, "SIGHUP"), (signal.SIG_IGN, "SIGTERM")])
def test_signals_are_heard_in_the_block_only_and_an_ignored_one_is_not(hangup: signal.Handlers, name: str) -> None:
    numbers = (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM, signal.SIGINT)  # a terminal may send two of them
    earlier = signal.signal(signal.SIGHUP, hangup)
    try:
        before, stop = [signal.getsignal(number) for number in numbers], Stop()
        with stopping_job(stop):
            for number in numbers:
                signal.raise_signal(number)
        assert stop.name == name
        assert [signal.getsignal(number) for number in numbers] == before
    finally:
        signal.signal(signal.SIGHUP, earlier)
