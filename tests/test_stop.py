"""SIGTERM, SIGINT, SIGHUP and SIGKILL to real training processes: what they leave."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from gluonseg.models.params_file import read_arrays
from gluonseg.predict.predictor import load_predictor
from gluonseg.sagemaker.stop_signal import find_children, find_receivers, stopping_job
from gluonseg.train.stop import Stop
from job_layout import HYPERPARAMETERS, TRAIN, Job, draw_channels, lay_out_job
from logged_process import LoggedProcess, start_logged

FILES = {"model_best.params", "model_algo-1", "hyperparams.json", "model_card.json", "model_symbol.json",
         "model_manifest.json", "curves.json"}  # fmt: skip
EPOCH_END = r"completed \S+ % of epochs"
# container/train with one thing in it made slow: the rest of the process is as it is.
SLOW = """
import sys, time
from importlib import import_module

def slow_down(module, owner, name, when, seconds):
    holder = getattr(import_module(module), owner) if owner else import_module(module)
    fast, calls = getattr(holder, name), [0]
    def slow(*arguments, **options):
        calls[0] += 1
        if calls[0] >= when:
            print("SLOW", name, flush=True)
            time.sleep(seconds)
        return fast(*arguments, **options)
    setattr(holder, name, slow)

slow_down({slow})
from gluonseg.{module} import main
sys.exit(main())
"""
SLOW_CHECK = '"gluonseg.data.scan", "", "scan_pair", 5, 1'
SLOW_UPDATE = '"gluonseg.train.step", "Stepper", "update", 22, 600'
SLOW_PREDICTION = '"gluonseg.predict.predictor", "Predictor", "predict_mask", 2, 0.3'
SLOW_FILE = '"gluonseg.train.result", "ResultFolder", "{name}", 1, 0.5'
PID_1 = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
needs_pid_1 = pytest.mark.skipif(
    not shutil.which("unshare") or os.geteuid() != 0, reason="a process of number 1 needs unshare and root"
)
SCRIPT = """
import json, os, signal, sys, time

def stop(number, frame):
    with open(os.path.join(os.environ["SM_MODEL_DIR"], "stopped.json"), "w") as file:
        json.dump(number, file)
    sys.exit({code})

found = f"{{int(signal.getsignal(signal.SIGTERM))}} {{len(signal.pthread_sigmask(signal.SIG_BLOCK, []))}}\\n"
if {handles}:
    signal.signal(signal.SIGTERM, stop)
sys.stdout.write("RUNNING " + found)
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
        while not (children := find_children(self.process.pid)):
            time.sleep(0.005)
        return children[0]

    def stop(self, *numbers: int, pid: int | None = None) -> int:
        """Send the signals, 0.2 s apart, and return the exit code."""
        for number in numbers:
            assert self.process.poll() is None, self.log
            os.kill(pid or self.process.pid, number)
            time.sleep(0.2)
        return self.process.wait(timeout=60)


@contextmanager
def _start(command: list[str], log_file: Path, **variables: str) -> Iterator[Running]:
    with start_logged(command, log_file, **{"OMP_NUM_THREADS": "1", **variables}) as process:
        yield Running(process, log_file)


@contextmanager
def _run(job: Job, *, slow: str = "", prefix: tuple[str, ...] = ()) -> Iterator[Running]:
    """Run ``container/train`` on the job; ``slow`` says what is slowed down."""
    program = ["-c", SLOW.format(slow=slow, module="sagemaker.job")] if slow else [str(TRAIN)]
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


def _check_model(job: Job, epochs: int | None = None) -> Mapping[str, object]:
    """The model folder is complete, and its model predicts; returns the card's metrics."""
    metrics: Mapping[str, object] = json.loads((job.model / "model_card.json").read_text())["metrics"]
    curves = json.loads((job.model / "curves.json").read_text())
    assert len(curves) == metrics["epochs"] == (len(curves) if epochs is None else epochs)
    names = {path.name for path in job.model.iterdir()}
    assert names - {"model.onnx"} == (FILES | {"curves.png"} if curves else FILES)
    assert json.loads((job.model / "hyperparams.json").read_text())["num_classes"] == "4"
    assert load_predictor(job.model).predict_mask(np.zeros((30, 50, 3), dtype=np.uint8)).shape == (30, 50)
    best, last = (read_arrays(job.model / name) for name in ("model_best.params", "model_algo-1"))
    assert best.keys() == last.keys()
    assert all(np.isfinite(array).all() for array in (*best.values(), *last.values()))
    assert (job.base / "output" / "data" / "curves.json").is_file()
    return metrics


def _check_stopped(job: Job, running: Running, code: int, words: str) -> None:
    """Ended with 0, one line on what was done, and nothing that looks like a failure."""
    assert code == 0, running.log
    assert len(re.findall(r"Stopped by SIG", running.log)) == 1, running.log
    assert re.search(words, running.log), running.log
    assert "Traceback" not in running.log
    assert "ERROR" not in running.log
    assert job.read_failure() is None


def _leave_earlier_model(job: Job) -> dict[str, str]:
    """Files of an earlier job."""
    for name in FILES:
        (job.model / name).write_text(f"earlier {name}")
    return {path.name: path.read_text() for path in job.model.iterdir()}


@pytest.mark.fault(family=43, outcome="a model, code 0")
def test_in_the_first_epoch_the_parameters_as_they_are_are_kept(job: Job) -> None:
    _leave_earlier_model(job)
    with _run(job) as running:
        running.wait_for("epoch: 0, iterations: 2 ")
        code = running.stop(signal.SIGTERM)
    _check_stopped(job, running, code, "Stopped by SIGTERM in the first epoch: .* as they were")
    assert _check_model(job, epochs=0) == {"epochs": 0, "stopped_by": "SIGTERM"}
    assert (job.model / "model_best.params").read_bytes() == (job.model / "model_algo-1").read_bytes()


@pytest.mark.fault(family=43, outcome="a model and a checkpoint, code 0")
def test_after_epochs_the_best_one_and_the_last_parameters_are_kept(job: Job) -> None:
    checkpoints = job.base / "checkpoints"
    checkpoints.mkdir()
    with _run(job) as running:
        running.wait_for(EPOCH_END, count=2)
        code = running.stop(signal.SIGTERM)
    words = r"Stopped by SIGTERM after epoch \d+: model_best.params is of epoch \d+, model_algo-1 has .* as they were"
    _check_stopped(job, running, code, words)
    metrics = _check_model(job)
    assert metrics["stopped_by"] == "SIGTERM"
    assert isinstance(metrics["epochs"], int)
    assert metrics["epochs"] >= 2
    assert "whole_image" not in metrics
    assert "Evaluating" not in running.log
    files = sorted(path.name for path in checkpoints.iterdir())
    assert len(files) == 2
    assert files[-1].startswith(f"checkpoint-{metrics['epochs'] - 1:06}-"), "that of the last whole epoch is there"


@pytest.mark.fault(family=43, outcome="code 0; an earlier model stays")
@pytest.mark.parametrize(
    ("slow", "line"), [("", "Docker entrypoint called"), (SLOW_CHECK, "SLOW scan_pair")], ids=["start", "data check"]
)
def test_before_training_an_earlier_model_is_left_alone(job: Job, slow: str, line: str) -> None:
    earlier = _leave_earlier_model(job)
    with _run(job, slow=slow) as running:
        running.wait_for(line)
        code = running.stop(signal.SIGTERM)
    words = "before training had begun: (there is no model|the model in .* is as it was)"
    _check_stopped(job, running, code, words)
    assert {path.name: path.read_text() for path in job.model.iterdir()} == earlier


@pytest.mark.fault(family=43, outcome="a model without scores, code 0")
def test_during_the_evaluation_the_model_is_complete_already(job: Job) -> None:
    job.set_hyperparameters(epochs="1")
    with _run(job, slow=SLOW_PREDICTION) as running:
        running.wait_for("SLOW predict_mask")
        code = running.stop(signal.SIGTERM)
    _check_stopped(job, running, code, "is complete, but not scored on whole images")
    metrics = _check_model(job, epochs=1)
    assert metrics["best_epoch"] == 0
    assert "whole_image" not in metrics


@pytest.mark.fault(family=43, outcome="the second of a kind ends the job at once; the best model so far loads")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_the_job_at_once(job: Job, number: signal.Signals) -> None:
    with _run(job, slow=SLOW_UPDATE) as running:
        running.wait_for("SLOW update")
        assert running.stop(number, number) == 128 + number, running.log
    assert "Traceback" not in running.log
    assert load_predictor(job.model).card.num_classes == 4


@pytest.mark.fault(family=43, outcome="the best model so far loads")
def test_sigkill_leaves_the_best_model_so_far(job: Job) -> None:
    with _run(job) as running:
        running.wait_for(EPOCH_END, count=2)
        assert running.stop(signal.SIGKILL) == -signal.SIGKILL
    assert load_predictor(job.model).card.num_classes == 4
    # What it was writing goes with the next job.
    (job.model / ".model_best.params.1.partial").write_bytes(b"part")
    job.set_hyperparameters(epochs="1")
    assert job.run().code == 0
    _check_model(job, epochs=1)


@pytest.mark.fault(family=43, outcome="a model, code 0")
@needs_pid_1
def test_as_the_first_process_of_a_container(job: Job) -> None:
    """The kernel keeps signals that have no handler from it."""
    with _run(job, prefix=PID_1) as running:
        running.wait_for(EPOCH_END)
        code = running.stop(signal.SIGTERM, pid=running.find_first())
    _check_stopped(job, running, code, "Stopped by SIGTERM after epoch")
    _check_model(job)


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


def test_a_job_that_has_failed_is_not_stopped_any_more(job: Job) -> None:
    job.set_hyperparameters(epochs="none of them")
    with _run(job, slow='"gluonseg.sagemaker.job", "", "write_failure", 1, 1') as running:
        running.wait_for("SLOW write_failure")
        code = running.stop(signal.SIGTERM, signal.SIGINT)
    assert code == 2, running.log
    assert "epochs must be" in (job.read_failure() or "")


@pytest.mark.parametrize(
    ("step", "words", "is_in_card"),
    [
        ("_draw_curves", "is complete, but not scored", False),
        ("_write", "Stopped by SIGTERM after epoch 0: .* as they were", True),
    ],
)
def test_a_stop_while_the_last_files_are_written(job: Job, step: str, words: str, is_in_card: bool) -> None:
    """The card says what the log says."""
    job.set_hyperparameters(epochs="1")
    with _run(job, slow=SLOW_FILE.format(name=step)) as running:
        running.wait_for(f"SLOW {step}")
        code = running.stop(signal.SIGTERM)
    _check_stopped(job, running, code, words)
    metrics = _check_model(job, epochs=1)
    assert ("stopped_by" in metrics) == is_in_card
    assert "whole_image" not in metrics


@pytest.mark.fault(family=43, outcome="a model, code of the signal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_command_stops_with_the_code_of_the_signal(data: Path, tmp_path: Path, number: signal.Signals) -> None:
    with _start_command(data, tmp_path) as running:
        running.wait_for(EPOCH_END)
        assert running.stop(number) == 128 + number, running.log
    assert f"Stopped by {number.name}" in running.log
    assert "Traceback" not in running.log
    _check_model(Job(tmp_path / "out"))


def test_ctrl_c_before_training_ends_the_command(data: Path, tmp_path: Path) -> None:
    with _start_command(data, tmp_path, slow=SLOW_CHECK) as running:
        running.wait_for("SLOW scan_pair")
        assert running.stop(signal.SIGINT) == 130, running.log
    assert "before training had begun" in running.log
    assert "Traceback" not in running.log
    assert not (tmp_path / "out" / "model").exists()


@contextmanager
def _start_command(data: Path, folder: Path, slow: str = "") -> Iterator[Running]:
    program = ["-c", SLOW.format(slow=slow, module="cli")] if slow else ["-m", "gluonseg"]
    given = {**HYPERPARAMETERS, "epochs": "2000"}
    options = [text for name, value in given.items() for text in (f"--{name}", value)]
    command = [sys.executable, *program, "train", str(data), "--output", str(folder / "out"), *options]
    with _start(command, folder / "command.log") as running:
        yield running


def _lay_out_script(job: Job, handles: bool, code: int = 0) -> None:
    source = job.base.parent / "source"
    source.mkdir()
    (source / "train.py").write_text(SCRIPT.format(handles=handles, code=code))
    job.write_config("hyperparameters", {"sagemaker_program": "train.py", "sagemaker_submit_directory": str(source)})


@pytest.mark.parametrize(
    ("handles", "code", "failure"), [(True, 0, None), (True, 7, "ExitCode 7"), (False, 0, "ExitCode -15")]
)
def test_a_users_script_hears_of_the_stop_and_decides_the_end(
    job: Job, handles: bool, code: int, failure: str | None
) -> None:
    _lay_out_script(job, handles=handles, code=code)
    with _run(job) as running:
        running.wait_for("RUNNING 0 0")  # the default action, and nothing blocked
        found = running.stop(signal.SIGTERM)
    assert found == (1 if failure else 0), running.log
    assert (job.model / "stopped.json").is_file() == handles
    told = job.read_failure()
    assert told is None if failure is None else failure in (told or "")


def test_a_stop_while_the_scripts_requirements_are_installed(job: Job) -> None:
    """pip ends, too, and its end is not the job's failure."""
    _lay_out_script(job, handles=True)
    with socket.create_server(("127.0.0.1", 0)) as index:
        text = f"--index-url http://127.0.0.1:{index.getsockname()[1]}/simple\nnowhere\n"
        (job.base.parent / "source" / "requirements.txt").write_text(text)
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


def test_a_stop_after_a_script_has_failed_changes_nothing(job: Job) -> None:
    _lay_out_script(job, handles=False)
    (job.base.parent / "source" / "train.py").write_text("raise ValueError('the seventh photo')")
    with _run(job, slow='"sagemaker_training.files", "", "write_failure_file", 1, 1') as running:
        running.wait_for("SLOW write_failure_file")
        assert running.stop(signal.SIGTERM) == 1, running.log
    assert "Stopped" not in running.log
    assert "the seventh photo" in (job.read_failure() or "")


def test_the_program_of_a_shell_script_hears_of_the_stop(job: Job) -> None:
    _lay_out_script(job, handles=True)
    source = job.base.parent / "source"
    (source / "train.py").rename(source / "program.py")
    (source / "train.sh").write_text(f"#!/bin/sh\n{sys.executable} program.py\n")
    job.set_hyperparameters(sagemaker_program="train.sh")
    with _run(job) as running:
        running.wait_for("RUNNING 0 0")
        assert running.stop(signal.SIGTERM) == 1, running.log
    assert json.loads((job.model / "stopped.json").read_text()) == signal.SIGTERM
    assert "ExitCode -15" in (job.read_failure() or "")


@pytest.mark.parametrize(
    ("program", "count"),
    [
        ("sleep 600 & sleep 600 & wait", 3),
        ("trap : TERM; sleep 600 & sleep 600 & wait", 1),
        (f"exec {sys.executable} -c 'import subprocess; subprocess.run([\"sleep\", \"600\"])'", 1),
    ],
    ids=["shell", "shell with a trap", "Python"],
)
def test_only_a_shell_that_does_not_listen_is_looked_behind(program: str, count: int) -> None:
    with subprocess.Popen(["sh", "-c", program], start_new_session=True) as process:
        try:
            while len(find_children(process.pid)) < 1 + ("&" in program):
                time.sleep(0.01)
            assert len(find_receivers(process.pid)) == count
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


def test_a_program_that_trains_in_a_thread_keeps_its_signals() -> None:
    before, found = signal.getsignal(signal.SIGTERM), []

    def train() -> None:
        with stopping_job(Stop()):
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [before]
