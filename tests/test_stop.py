"""SIGTERM, SIGINT and SIGKILL to real training processes: what they leave, and how fast."""

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
from gluonseg.sagemaker.job import run_training
from gluonseg.sagemaker.stop_signal import find_children, find_receivers
from job_layout import HYPERPARAMETERS, TRAIN, Job, draw_channels, lay_out_job
from logged_process import LoggedProcess, start_logged

FILES = {"model_best.params", "model_algo-1", "hyperparams.json", "model_card.json", "model_symbol.json",
         "model_manifest.json"}  # fmt: skip
FILES |= {"curves.json"}
EPOCH_END = r"completed \S+ % of epochs"
LIMIT_S = 15.0
# container/train with one thing in it made slow: the rest of the process is as it is.
SLOW = """
import hashlib, os, sys, time
from importlib import import_module

def compute(_seconds):
    "For minutes, in one call of C: meanwhile no handler of a signal runs in the main thread."
    hashlib.pbkdf2_hmac("sha256", b"", b"", 600_000_000)

def slow_down(module, owner, name, when, seconds, wait=time.sleep):
    holder = getattr(import_module(module), owner) if owner else import_module(module)
    fast, calls = getattr(holder, name), [0]
    def slow(*arguments, **options):
        calls[0] += 1
        if calls[0] >= when:
            print("SLOW", name, flush=True)
            wait(seconds)
        return fast(*arguments, **options)
    setattr(holder, name, slow)

slow_down({slow})
from gluonseg.{module} import main
sys.exit(main())
"""
SLOW_CHECK = '"gluonseg.data.scan", "", "scan_pair", 5, 1'
SLOW_UPDATE = '"gluonseg.train.step", "Stepper", "update", {when}, 600'
LONG_UPDATE = '"gluonseg.train.step", "Stepper", "update", 1, 600, compute'
SLOW_PREDICTION = '"gluonseg.predict.predictor", "Predictor", "predict_mask", 2, {seconds}'
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

    def stop(self, *numbers: int, pid: int | None = None) -> tuple[int, float]:
        """Send the signals, 50 ms apart; the exit code, and the seconds from the first one to the end."""
        start = time.monotonic()
        for number in numbers:
            if self.process.poll() is None:
                os.kill(pid or self.process.pid, number)
            time.sleep(0.05)
        return self.process.wait(timeout=60), time.monotonic() - start


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


def _check_model(job: Job, epochs: int | None = None, *, is_drawn: bool = True) -> Mapping[str, object]:
    """The model folder is complete, and its model predicts; returns the card's metrics."""
    names = {path.name for path in job.model.iterdir()}
    assert names - {"curves.png", "model.onnx"} == FILES
    metrics: Mapping[str, object] = json.loads((job.model / "model_card.json").read_text())["metrics"]
    curves = json.loads((job.model / "curves.json").read_text())
    assert len(curves) == metrics["epochs"]
    assert ("curves.png" in names) == is_drawn
    if epochs is not None:
        assert len(curves) == epochs
    assert json.loads((job.model / "hyperparams.json").read_text())["num_classes"] == "4"
    mask = load_predictor(job.model).predict_mask(np.zeros((30, 50, 3), dtype=np.uint8))
    assert mask.shape == (30, 50)
    best, last = (read_arrays(job.model / name) for name in ("model_best.params", "model_algo-1"))
    assert best.keys() == last.keys()
    assert all(np.isfinite(array).all() for array in (*best.values(), *last.values()))
    assert (job.base / "output" / "data" / "curves.json").is_file()
    return metrics


def _check_stopped(job: Job, running: Running, code: int, seconds: float, words: str) -> None:
    """Ended in time, with 0, one line on what was done, and nothing that looks like a failure."""
    assert code == 0, running.log
    assert seconds < LIMIT_S
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


@pytest.mark.fault(family=43, outcome="a model within 15 s, code 0")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_in_the_first_epoch_the_parameters_as_they_are_are_kept(job: Job, number: signal.Signals) -> None:
    _leave_earlier_model(job)
    with _run(job) as running:
        running.wait_for("epoch: 0, iterations: 2 ")
        code, seconds = running.stop(number)
    _check_stopped(job, running, code, seconds, rf"Stopped by {number.name} in the first epoch: .* as they were")
    assert _check_model(job, epochs=0, is_drawn=False) == {"epochs": 0, "stopped_by": number.name}
    assert (job.model / "model_best.params").read_bytes() == (job.model / "model_algo-1").read_bytes()


@pytest.mark.fault(family=43, outcome="a model and a checkpoint within 15 s, code 0, however often it is sent")
def test_after_epochs_the_best_one_and_the_last_parameters_are_kept_whatever_else_is_sent(job: Job) -> None:
    checkpoints = job.base / "checkpoints"
    checkpoints.mkdir()
    with _run(job) as running:
        running.wait_for(EPOCH_END, count=2)
        code, seconds = running.stop(*[signal.SIGTERM] * 5)
    words = r"Stopped by SIGTERM after epoch \d+: model_best.params is of epoch \d+, model_algo-1 has .* as they were"
    _check_stopped(job, running, code, seconds, words)
    metrics = _check_model(job)
    assert metrics["stopped_by"] == "SIGTERM"
    assert isinstance(metrics["epochs"], int)
    assert metrics["epochs"] >= 2
    assert "whole_image" not in metrics
    assert "Evaluating" not in running.log
    files = sorted(path.name for path in checkpoints.iterdir())
    assert len(files) == 2
    assert files[-1].startswith(f"checkpoint-{metrics['epochs'] - 1:06}-"), "that of the last whole epoch is there"


@pytest.mark.fault(family=43, outcome="ends within 5 s, code 0; an earlier model stays")
@pytest.mark.parametrize(
    ("slow", "line"),
    [("", "Docker entrypoint called"), ("", "Merging with provided configuration"), (SLOW_CHECK, "SLOW scan_pair")],
    ids=["start", "import", "data check"],
)
def test_before_training_an_earlier_model_is_left_alone(job: Job, slow: str, line: str) -> None:
    earlier = _leave_earlier_model(job)
    with _run(job, slow=slow) as running:
        running.wait_for(line)
        code, seconds = running.stop(signal.SIGTERM, signal.SIGTERM)
    words = "before training had begun: (there is no model|the model in .* is as it was)"
    _check_stopped(job, running, code, seconds, words)
    assert seconds < 5
    assert {path.name: path.read_text() for path in job.model.iterdir()} == earlier


@pytest.mark.fault(family=43, outcome="a model within 5 s, code 0")
@pytest.mark.parametrize("seconds_each", [0.3, 600], ids=["photo by photo", "in one photo"])
def test_during_the_evaluation_the_model_is_complete_already(job: Job, seconds_each: float) -> None:
    job.set_hyperparameters(epochs="1")
    with _run(job, slow=SLOW_PREDICTION.format(seconds=seconds_each)) as running:
        running.wait_for("SLOW predict_mask")
        code, seconds = running.stop(signal.SIGTERM, signal.SIGTERM)
    _check_stopped(job, running, code, seconds, "is complete, but not scored on whole images")
    assert seconds < 5
    metrics = _check_model(job, epochs=1)
    assert metrics["best_epoch"] == 0
    assert "whole_image" not in metrics


@pytest.mark.fault(family=43, outcome="a model within 15 s, code 0")
def test_an_update_that_takes_longer_than_there_is_time(job: Job) -> None:
    """It keeps the main thread in C, as MXNet does with a large network on large crops."""
    with _run(job, slow=LONG_UPDATE) as running:
        running.wait_for("SLOW update")
        code, seconds = running.stop(signal.SIGTERM)
    _check_stopped(job, running, code, seconds, "in the first epoch: .* the last parameters kept, because")
    assert _check_model(job, epochs=0, is_drawn=False) == {"epochs": 0, "stopped_by": "SIGTERM"}


@pytest.mark.fault(family=43, outcome="a model within 15 s, code 0")
def test_a_hanging_update_after_epochs(job: Job) -> None:
    with _run(job, slow=SLOW_UPDATE.format(when=22)) as running:
        running.wait_for("SLOW update")
        code, seconds = running.stop(*[signal.SIGTERM] * 3)
    _check_stopped(job, running, code, seconds, "after epoch 1: .* the last parameters kept, because")
    metrics = _check_model(job, epochs=2, is_drawn=False)
    same = (job.model / "model_best.params").read_bytes() == (job.model / "model_algo-1").read_bytes()
    assert same == (metrics["best_epoch"] == 1)


@pytest.mark.fault(family=43, outcome="the best model so far loads")
def test_sigkill_leaves_the_best_model_so_far(job: Job) -> None:
    with _run(job) as running:
        running.wait_for(EPOCH_END, count=2)
        code, _ = running.stop(signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert load_predictor(job.model).card.num_classes == 4
    # What it was writing goes with the next job.
    (job.model / ".model_best.params.1.partial").write_bytes(b"part")
    job.set_hyperparameters(epochs="1")
    assert job.run().code == 0
    _check_model(job, epochs=1)


@pytest.mark.fault(family=43, outcome="a model within 15 s, code 0")
@needs_pid_1
def test_as_the_first_process_of_a_container(job: Job) -> None:
    """The kernel keeps signals that have no handler from it."""
    with _run(job, prefix=PID_1) as running:
        running.wait_for(EPOCH_END)
        code, seconds = running.stop(signal.SIGTERM, pid=running.find_first())
    _check_stopped(job, running, code, seconds, "Stopped by SIGTERM after epoch")
    _check_model(job)


@needs_pid_1
@pytest.mark.parametrize("program", ["train", "serve"])
def test_a_stop_while_the_first_process_loads_gluonseg(program: str, tmp_path: Path) -> None:
    (tmp_path / "gluonseg").mkdir()
    (tmp_path / "gluonseg" / "__init__.py").write_text("import time\nprint('LOADING', flush=True)\ntime.sleep(600)\n")
    command = [*PID_1, sys.executable, str(TRAIN.with_name(program))]
    with _start(command, tmp_path / "log", PYTHONPATH=str(tmp_path)) as running:
        running.wait_for("LOADING")
        code, seconds = running.stop(signal.SIGTERM, pid=running.find_first())
    assert (code, seconds < 2) == (0, True), running.log
    before = "training had begun: there is no model" if program == "train" else "the server had started"
    assert running.log == f"LOADING\nStopped by SIGTERM before {before}\n"


def test_a_job_that_has_failed_is_not_stopped_any_more(job: Job) -> None:
    job.set_hyperparameters(epochs="none of them")
    with _run(job, slow='"gluonseg.sagemaker.job", "", "write_failure", 1, 1') as running:
        running.wait_for("SLOW write_failure")
        code, _ = running.stop(signal.SIGTERM, signal.SIGINT)
    assert code == 2, running.log
    assert "epochs must be" in (job.read_failure() or "")


@pytest.mark.parametrize(
    ("step", "words", "is_in_card"),
    [
        ("_write_curves", "is complete, but not scored", False),
        ("_draw_curves", "is complete, but not scored", False),
        ("_write", "Stopped by SIGTERM after epoch 0: .* as they were", True),
    ],
)
def test_a_stop_while_the_last_files_are_written(job: Job, step: str, words: str, is_in_card: bool) -> None:
    """The card says what the log says."""
    job.set_hyperparameters(epochs="1")
    with _run(job, slow=SLOW_FILE.format(name=step)) as running:
        running.wait_for(f"SLOW {step}")
        code, seconds = running.stop(signal.SIGTERM)
    _check_stopped(job, running, code, seconds, words)
    metrics = _check_model(job, epochs=1)
    assert ("stopped_by" in metrics) == is_in_card
    assert "whole_image" not in metrics


def test_a_model_that_cannot_be_written_is_a_failure(job: Job) -> None:
    """Also when it is not the main thread that finds out."""
    with _run(job, slow=SLOW_UPDATE.format(when=2)) as running:
        running.wait_for("SLOW update")
        shutil.rmtree(job.model)
        code, seconds = running.stop(signal.SIGTERM)
    assert (code, seconds < LIMIT_S) == (1, True)
    failure = job.read_failure()
    assert failure is not None
    assert failure.startswith("AlgorithmError")


@pytest.mark.fault(family=43, outcome="a model within 15 s, code of the signal")
@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        ((signal.SIGINT,), 130),
        ((signal.SIGTERM,), 143),
        ((signal.SIGTERM, signal.SIGTERM), 143),
        ((signal.SIGHUP,), 129),
    ],
)
def test_the_command_stops_with_the_code_of_the_signal(
    data: Path, tmp_path: Path, numbers: tuple[int, ...], code: int
) -> None:
    with _start_command(data, tmp_path) as running:
        running.wait_for(EPOCH_END)
        found, seconds = running.stop(*numbers)
    assert (found, seconds < LIMIT_S) == (code, True), running.log
    assert "Stopped by SIG" in running.log
    assert "Traceback" not in running.log
    job = Job(tmp_path / "out")
    _check_model(job)


@pytest.mark.fault(family=43, outcome="ends within 2 s")
def test_a_second_ctrl_c_ends_the_command_at_once(data: Path, tmp_path: Path) -> None:
    with _start_command(data, tmp_path, slow=SLOW_UPDATE.format(when=2)) as running:
        running.wait_for("SLOW update")
        os.kill(running.process.pid, signal.SIGINT)
        running.wait_for("SIGINT: the job ends; once more ends it at once")
        code, seconds = running.stop(signal.SIGINT)
    assert (code, seconds < 2) == (130, True)
    assert "Traceback" not in running.log


def test_ctrl_c_before_training_ends_the_command(data: Path, tmp_path: Path) -> None:
    with _start_command(data, tmp_path, slow=SLOW_CHECK) as running:
        running.wait_for("SLOW scan_pair")
        code, seconds = running.stop(signal.SIGINT)
    assert (code, seconds < 5) == (130, True)
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


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (7, 1)])
def test_a_users_script_hears_of_the_stop_and_decides_the_end(job: Job, code: int, expected: int) -> None:
    _lay_out_script(job, handles=True, code=code)
    with _run(job) as running:
        running.wait_for("RUNNING 0 0")  # the default action, and nothing blocked
        found, seconds = running.stop(signal.SIGTERM)
    assert (found, seconds < LIMIT_S) == (expected, True), running.log
    assert json.loads((job.model / "stopped.json").read_text()) == signal.SIGTERM
    failure = job.read_failure()
    assert (failure is None) == (expected == 0)
    assert failure is None or "ExitCode 7" in failure


def test_a_users_script_that_does_not_expect_a_stop_dies_of_it(job: Job) -> None:
    _lay_out_script(job, handles=False)
    with _run(job) as running:
        running.wait_for("RUNNING 0 0")
        code, seconds = running.stop(signal.SIGTERM)
    assert (code, seconds < LIMIT_S) == (1, True), running.log
    failure = job.read_failure()
    assert failure is not None
    assert "ExitCode -15" in failure


def test_a_stop_before_a_users_script_runs(job: Job) -> None:
    _lay_out_script(job, handles=True)
    slow = '"sagemaker_training.entry_point", "", "run", 1, 600'
    with _run(job, slow=slow) as running:
        running.wait_for("SLOW run")
        code, seconds = running.stop(signal.SIGTERM)
    assert (code, seconds < 5) == (0, True), running.log
    assert "before the script had begun" in running.log


def test_a_stop_while_the_toolkit_is_loaded(job: Job) -> None:
    _lay_out_script(job, handles=True)
    with _run(job, slow='"gluonseg.sagemaker.job", "", "set_thread_count", 1, 600') as running:
        running.wait_for("SLOW set_thread_count")
        code, seconds = running.stop(signal.SIGTERM)
    assert (code, seconds < 5) == (0, True), running.log
    assert "before the script had begun" in running.log


def test_a_stop_while_the_scripts_requirements_are_installed(job: Job) -> None:
    """pip ends, too, and its end is not the job's failure."""
    _lay_out_script(job, handles=True)
    with socket.create_server(("127.0.0.1", 0)) as index:
        text = f"--index-url http://127.0.0.1:{index.getsockname()[1]}/simple\nnowhere\n"
        (job.base.parent / "source" / "requirements.txt").write_text(text)
        with _run(job) as running:
            connection, _ = index.accept()
            code, seconds = running.stop(signal.SIGTERM)
        with connection:
            connection.settimeout(10)
            while connection.recv(1 << 16):
                pass
    assert (code, seconds < 5) == (0, True), running.log
    assert "before the script had begun" in running.log
    assert "RUNNING" not in running.log
    assert job.read_failure() is None


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_stop_after_a_script_has_failed_changes_nothing(job: Job, when: str) -> None:
    """Neither before its failure file is written nor after that."""
    _lay_out_script(job, handles=False)
    (job.base.parent / "source" / "train.py").write_text("raise ValueError('the seventh photo')")
    call = "files.write_failure_file" if when == "before" else "trainer._exit_processes"
    module, name = call.split(".")
    with _run(job, slow=f'"sagemaker_training.{module}", "", "{name}", 1, 1') as running:
        running.wait_for(f"SLOW {name}")
        code, _ = running.stop(signal.SIGTERM)
    assert code == 1, running.log
    assert "Stopped" not in running.log
    assert "the seventh photo" in (job.read_failure() or "")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("{python} program.py", 1),
        ("exec {python} program.py", 0),
        ("trap 'kill $!; wait $!; exit 0' TERM\n{python} program.py & wait", 0),
    ],
    ids=["plain", "exec", "trap"],
)
def test_a_program_of_a_shell_script_hears_of_the_stop(job: Job, lines: str, expected: int) -> None:
    _lay_out_script(job, handles=True)
    source = job.base.parent / "source"
    (source / "train.py").rename(source / "program.py")
    (source / "train.sh").write_text(f"#!/bin/sh\n{lines.format(python=sys.executable)}\n")
    job.set_hyperparameters(sagemaker_program="train.sh")
    with _run(job) as running:
        running.wait_for("RUNNING 0 0")
        code, seconds = running.stop(signal.SIGTERM)
    assert (code, seconds < LIMIT_S) == (expected, True), running.log
    assert json.loads((job.model / "stopped.json").read_text()) == signal.SIGTERM
    assert ("ExitCode -15" in (job.read_failure() or "")) == bool(expected)


@pytest.fixture
def threads_are_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """MXNet is loaded in this process already, where a job would choose the number of its threads."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.usefixtures("threads_are_settled")
def test_signals_are_put_back_as_they_were(job: Job) -> None:
    job.set_hyperparameters(epochs="none of them")
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert run_training(job.base) == 2
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.usefixtures("threads_are_settled")
def test_a_program_that_trains_in_a_thread_keeps_its_signals(job: Job) -> None:
    job.set_hyperparameters(epochs="1")
    before, found = signal.getsignal(signal.SIGTERM), []
    thread = threading.Thread(target=lambda: found.append(run_training(job.base)))
    thread.start()
    while thread.is_alive():
        assert signal.getsignal(signal.SIGTERM) is before
        thread.join(0.05)
    assert found == [0]


def test_children_are_found() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in find_children()
        child.communicate(b"\n")
    assert child.pid not in find_children()


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
