"""``gluonseg compare``: the runs, what is kept of them, what is refused; with real trainings of seconds."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mxnet as mx
import psutil  # type: ignore[import-untyped]
import pytest
from PIL import Image

from gluonseg.cli import main
from gluonseg.compare.child import Ended, Interrupted, StopSignals, run_child
from gluonseg.compare.plan import Run, read_comparison
from gluonseg.compare.progress import Display, TrainingState, estimate_left, format_seconds
from gluonseg.compare.record import FAILED, FINISHED, read_record
from gluonseg.compare.runner import RunError, _Runner, find_reason, hold_comparison
from gluonseg.errors import TrainingDivergedError, UserError
from gluonseg.train.step import check_finite, check_finite_parameters
from job_layout import HYPERPARAMETERS, draw_channels, train_once
from program import check_one_line

Capture = pytest.CaptureFixture[str]
SHARED = [f"--{name}={value}" for name, value in HYPERPARAMETERS.items() if name != "backbone"]
RUN = "fcn_resnet-18_seed1"
PSP = "psp_resnet-18_seed1"
TOOK = "12.5 s of training, peak memory 900.5 MB"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_channels(tmp_path_factory.getbasetemp())


def _build_command(channels: Path, out: Path, *options: str) -> list[str]:
    lists = ["--algorithms", "fcn,psp", "--backbones", "resnet-18", "--seeds", "1"]
    return ["compare", str(channels), "--out", str(out), *lists, *SHARED, *options]


class _Compared:
    """A comparison in which FCN trains and PSP fails: the model channel holds an FCN."""

    def __init__(self, base: Path, channels: Path, model: Path) -> None:
        self.channels, self.out = base / "channels", base / "out"
        shutil.copytree(channels, self.channels)
        shutil.copytree(model, self.channels / "model")
        self.first = self.run()

    def run(self) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gluonseg", *_build_command(self.channels, self.out)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)

    def find(self, name: str) -> Path:
        return self.out / "runs" / name


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, channels: Path) -> Iterator[_Compared]:
    model = train_once(tmp_path_factory.getbasetemp())[0].model
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield _Compared(tmp_path_factory.mktemp("compared"), channels, model)


def test_one_trains_and_the_other_fails(compared: _Compared) -> None:
    done = compared.first
    assert done.returncode == 1, done.stderr
    lines = done.stderr.splitlines()
    assert "run 1 of 2, fcn resnet-18 seed 1, reading the data" in lines
    epoch = re.compile(r"run 1 of 2, fcn resnet-18 seed 1, epoch 1/1, mIOU 0\.\d{3}, \d+ s left")
    assert any(epoch.fullmatch(line) for line in lines)
    assert "run 1 of 2, fcn resnet-18 seed 1, scoring" in lines
    reason = "the model channel holds fcn on resnet-18, the hyperparameters ask for psp on resnet-18"
    assert lines[-2].startswith(f"gluonseg: psp resnet-18 seed 1 failed: {reason}")
    assert lines[-2].endswith(f"see {compared.find(PSP) / 'log.txt'}")
    assert lines[-1] == "gluonseg: 1 of 2 runs failed; the same command tries them again"
    assert re.search(r"^1  FCN resnet-18 +1  0\.\d{3} ", done.stdout, re.MULTILINE)
    assert done.stdout.endswith(f"the report is in {compared.out / 'report.html'}\n")
    assert (compared.out / "report.html").is_file()


def test_record_of_a_finished_run(compared: _Compared) -> None:
    record = read_record(compared.find(RUN))
    assert record is not None
    assert (record.status, record.error) == (FINISHED, "")
    assert (record.algorithm, record.backbone, record.seed) == ("fcn", "resnet-18", 1)
    assert record.train_seconds > 1
    assert not (compared.find(RUN) / "checkpoints").exists()
    assert 100 < record.train_peak_mb < 10_000
    assert [entry["epoch"] for entry in record.epochs] == [0]
    assert record.hyperparameters["crop_size"] == "32"
    assert record.versions["mxnet"].startswith("1.9")
    assert record.score is not None
    assert len(record.score.photos) == 6
    card = json.loads((compared.find(RUN) / "model" / "model_card.json").read_text())
    assert card["hyperparameters"] == record.hyperparameters


def test_record_of_a_failed_run(compared: _Compared) -> None:
    record = read_record(compared.find(PSP))
    assert record is not None
    assert record.status == FAILED
    assert record.error.startswith("the model channel holds fcn on resnet-18")
    assert record.score is None


def test_what_a_comparison_remembers(compared: _Compared) -> None:
    found = read_comparison(compared.out)
    assert found is not None
    assert found["runs"] == [("fcn", "resnet-18", 1), ("psp", "resnet-18", 1)]
    assert found["hyperparameters"]["crop_size"] == "32"
    assert not {"algorithm", "backbone", "seed"} & found["hyperparameters"].keys()
    assert found["class_names"] == ["background", "disc", "box", "triangle"]
    assert found["data"]["num_training_samples"] == 18
    assert found["hardware"]["cores"] >= 1


def test_a_trained_run_is_scored_and_not_trained_again(compared: _Compared) -> None:
    parameters = compared.find(RUN) / "model" / "model_best.params"
    written = parameters.stat().st_mtime_ns
    (compared.find(RUN) / "run.json").unlink()  # as after a stop while it was scored
    again = compared.run()
    assert again.returncode == 1
    assert "run 1 of 2, fcn resnet-18 seed 1, scoring" in again.stderr
    assert "seed 1, epoch" not in again.stderr
    assert parameters.stat().st_mtime_ns == written
    record = read_record(compared.find(RUN))
    assert record is not None
    assert record.status == FINISHED
    assert record.train_seconds > 1


def test_a_finished_run_is_kept_and_a_failed_one_made_again(compared: _Compared) -> None:
    left, needed = (compared.find(name) / "checkpoints" / "checkpoint-000003.params" for name in (RUN, PSP))
    for path in (left, needed):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    kept = (compared.find(RUN) / "run.json").stat().st_mtime_ns
    failed = (compared.find(PSP) / "run.json").stat().st_mtime_ns
    again = compared.run()
    assert "1 of 2 runs are finished already and kept" in again.stderr
    assert "psp resnet-18 seed 1 failed: " in again.stderr
    assert (compared.find(RUN) / "run.json").stat().st_mtime_ns == kept
    assert (compared.find(PSP) / "run.json").stat().st_mtime_ns > failed
    assert not left.parent.exists(), "the end came just before it was removed"
    assert needed.exists(), "hours of training are in it, and what failed can be mended"
    record = read_record(compared.find(PSP))
    assert record is not None
    assert record.error.endswith(f"; its checkpoints are kept in {needed.parent}")


class _Steps:
    """A runner whose steps are these functions by the module's name, instead of processes."""

    def __init__(self, patch: pytest.MonkeyPatch, folder: Path, **steps: Callable[..., Ended]) -> None:
        def run_step(_runner: object, _folder: Path, *arguments: str, on_line: Any = None) -> Ended:
            return steps[arguments[0].rpartition(".")[2]](on_line)

        patch.setattr(_Runner, "_run_step", run_step)
        comparison = SimpleNamespace(find_run_folder=lambda _run: folder, given={}, data=folder, settings={})
        self.runner: Any = _Runner(comparison, Display(io.StringIO()), StopSignals(), None)  # type: ignore[arg-type]
        self.run = Run("fcn", "resnet-18", 1)


def _fail(text: str) -> Callable[..., Ended]:
    def step(_on_line: object) -> Ended:
        raise RunError(text, 2)

    return step


@pytest.mark.parametrize("value", ["nan", "parameter"])
def test_checkpoints_of_a_training_that_diverged_are_removed(
    tmp_path: Path, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = mx.gluon.nn.Dense(1, in_units=1)
    network.initialize(mx.init.Constant(float("inf")))
    with pytest.raises(TrainingDivergedError) as caught:
        check_finite(float(value), 3, 4) if value == "nan" else check_finite_parameters(network, mx.cpu(), 3, 4)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    (folder / "checkpoint-000003.params").touch()
    steps = _Steps(monkeypatch, tmp_path, gluonseg=_fail(str(caught.value)))
    assert steps.runner.make_run(steps.run).error == str(caught.value)
    assert not folder.exists()


def test_what_a_training_took_is_that_of_all_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(on_line: Callable[[str], None]) -> Ended:
        on_line("Resuming from checkpoint /a/b.params after epoch 5, " + TOOK)
        return Ended(0, 5.0, 300.0)

    steps = _Steps(monkeypatch, tmp_path, gluonseg=train, score=_fail("no photo"))
    record = steps.runner.make_run(steps.run)
    assert (record.train_seconds, record.train_peak_mb, record.error) == (17.5, 900.5, "no photo")


def test_a_run_whose_model_is_lost_is_trained_again(
    compared: _Compared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shutil.copytree(compared.find(RUN), tmp_path / "run")
    reason = f"{folder / 'model' / 'model_best.params'} is no usable MXNet parameter file"
    steps = _Steps(monkeypatch, folder, gluonseg=_fail("trained again"), score=_fail(reason))
    assert steps.runner.make_run(steps.run).error == reason
    assert steps.runner.make_run(steps.run).error == "trained again", "each try would fail like the first one"

    folder = shutil.copytree(compared.find(RUN), tmp_path / "other")
    (folder / "model" / "model_card.json").unlink()
    steps = _Steps(monkeypatch, folder, gluonseg=_fail("trained again"), score=_fail("no model"))
    assert steps.runner.make_run(steps.run).error == "trained again"

    folder = shutil.copytree(compared.find(RUN), tmp_path / "photos")
    steps = _Steps(monkeypatch, folder, gluonseg=_fail("trained again"), score=_fail("a photo is missing"))
    assert [steps.runner.make_run(steps.run).error for _ in range(2)] == ["a photo is missing"] * 2


def test_a_run_may_be_added_while_settings_may_not_change(compared: _Compared, capsys: Capture) -> None:
    before = (compared.out / "comparison.json").read_text()
    assert main(_build_command(compared.channels, compared.out, "--epochs", "7", "--class_weights", "balanced")) == 2
    words = "epochs was 1, now it is 7; class_weights was not set, now it is balanced"
    check_one_line(capsys, "has other settings", words, "choose another --out")
    assert (compared.out / "comparison.json").read_text() == before

    options = ["--algorithms", "psp", "--backbones", "resnet-34", "--learning_rate", "1e-2"]
    assert main(_build_command(compared.channels, compared.out, *options)) == 1
    assert "psp resnet-34 seed 1 failed" in capsys.readouterr().err
    found = read_comparison(compared.out)
    assert found is not None
    assert found["runs"][1:] == [("psp", "resnet-18", 1), ("psp", "resnet-34", 1)]


@pytest.mark.parametrize("split", ["train", "validation"])
def test_other_data_is_refused(compared: _Compared, split: str, tmp_path: Path, capsys: Capture) -> None:
    data = shutil.copytree(compared.channels, tmp_path / "data")
    photo = min((data / split).iterdir())
    with Image.open(photo) as picture:
        turned = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned.save(photo)
    assert main(_build_command(data, compared.out)) == 2
    title = {"train": "training", "validation": "validation"}[split]
    captured = capsys.readouterr().err
    assert f"the {title} data in {data} is not that of the comparison in {compared.out}" in captured


def test_the_log_of_a_training_gives_the_progress(compared: _Compared) -> None:
    state = TrainingState()
    ends = [state.read_line(line) for line in (compared.find(RUN) / "log.txt").read_text().splitlines()]
    record = read_record(compared.find(RUN))
    assert record is not None
    assert sum(ends) == len(record.epochs) == state.done == state.epochs == 1
    assert state.miou == pytest.approx(record.epochs[0]["validation"]["mIOU_builtin"])
    assert state.share == 1


@pytest.mark.parametrize("place", ["after epoch 5", "after update 3 of epoch 6"])
def test_progress_of_a_training_that_goes_on(place: str) -> None:
    """Of what is left: a quarter of it took a quarter of the time."""
    state = TrainingState()
    state.read_line(f"[x INFO 1] Resuming from checkpoint /a/checkpoint-000005.params {place}, {TOOK}")
    state.read_line("[x INFO 1] LRScheduler setup: iters per epoch: 10, num_epochs 10")
    assert (state.done, state.share) == (6, 0)
    state.read_line("[x INFO 1] #quality_metric. host: algo-1, epoch: 6, validation mIOU: 0.6123 .")
    assert (state.done, state.share) == (7, 0.25)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--algorithms", "fcn,pps"], "; got 'pps' (did you mean psp?)"),
        (["--algorithms", "fcn,"], "--algorithms: algorithm is empty"),
        (["--algorithms", "fcn, psp,fcn"], "--algorithms has fcn twice"),
        (["--backbones", "resnet18"], "did you mean resnet-18?"),
        (["--seeds", "1,x"], "--seeds: seed must be a whole number"),
        (["--seeds", "1,2,1.0"], "--seeds has 1 twice"),
        (["--seeds", "None"], "--seeds: None is no value"),
        (["--algorithm", "fcn"], "--algorithm is --algorithms here, with commas between the values"),
        (["--algoritms", "fcn"], "did you mean --algorithms?"),
        (["--crop_sise", "32"], "did you mean crop_size?"),
        (["--crop_size", "1"], "crop_size must be a whole number, greater than 16 and at most 16384; got '1'"),
    ],
)
def test_wrong_options(channels: Path, tmp_path: Path, options: list[str], words: str, capsys: Capture) -> None:
    assert main(_build_command(channels, tmp_path / "out", *options)) == 2
    check_one_line(capsys, words)
    assert not (tmp_path / "out").exists()


def test_bad_data_stops_at_once(channels: Path, tmp_path: Path, capsys: Capture) -> None:
    data = shutil.copytree(channels, tmp_path / "data")
    photo = min((data / "train").iterdir())
    photo.write_bytes(b"")
    assert main(_build_command(data, tmp_path / "out")) == 2
    assert f"{photo.name} is empty (0 bytes)" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_folders_that_are_refused(channels: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(_build_command(channels, channels / "out")) == 2
    check_one_line(capsys, "is inside the folder of the channels")
    (tmp_path / "notes.txt").write_text("mine")
    assert main(_build_command(channels, tmp_path)) == 2
    check_one_line(capsys, f"--out {tmp_path} is not empty and holds no comparison")
    assert main(_build_command(channels, tmp_path / "notes.txt")) == 2
    check_one_line(capsys, "notes.txt is a file")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "comparison.json").write_text('{"format_version": 1}')
    assert main(_build_command(channels, tmp_path / "broken")) == 2
    check_one_line(capsys, "comparison.json is damaged")


def test_a_second_comparison_in_the_folder_is_refused(channels: Path, tmp_path: Path, capsys: Capture) -> None:
    with hold_comparison(tmp_path):
        assert main(_build_command(channels, tmp_path)) == 2
    check_one_line(capsys, f"another process writes a comparison to {tmp_path}; wait for its end")
    with hold_comparison(tmp_path):
        pass


def test_a_run_that_outlives_its_comparison_holds_the_lock(tmp_path: Path) -> None:
    with hold_comparison(tmp_path) as descriptor:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[descriptor])
    with pytest.raises(UserError, match="another process writes"), hold_comparison(tmp_path):
        pass
    child.communicate(b"\n")
    with hold_comparison(tmp_path):
        pass


def test_ctrl_c(channels: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gluonseg", *_build_command(channels, tmp_path / "out", "--epochs", "500")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch 1/500" in line:
                break
        (child,) = psutil.Process(process.pid).children()
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    lines = err.splitlines()
    assert lines.count("stopping; once more stops at once") == 1
    assert lines[-1] == "gluonseg: stopped; the same command goes on after the last epoch that is finished"
    assert time.monotonic() - start < 20
    assert not child.is_running()
    run = tmp_path / "out" / "runs" / RUN
    assert "Stopped by SIGTERM" in (run / "log.txt").read_text()
    assert (run / "model" / "model_best.params").is_file()
    assert read_record(run) is None

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        epochs = (found for line in process.stderr if (found := re.search(r"epoch (\d+)/500", line)))
        assert int(next(epochs)[1]) > 1, "it has begun anew"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert (run / "log.txt").read_text().count("Resuming from checkpoint") == 1


def _run_python(code: str, folder: Path, stop: StopSignals) -> tuple[int, float, list[str]]:
    lines: list[str] = []
    with (folder / "open").open("w") as file:
        ended = run_child(
            ["-c", code],
            folder / "log.txt",
            stop,
            keep_open=file.fileno(),
            on_lines=lines.extend,
            on_stop=lambda: lines.append("stopping"),
        )
    return ended.code, ended.peak_mb, lines


MEASURE = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from gluonseg.compare.child import StopSignals
from test_compare import _run_python
with StopSignals() as stop:
    print(_run_python("x = b'x' * (300 << 20)", Path({folder!r}), stop)[1])
"""


def test_the_memory_of_a_child_is_measured(tmp_path: Path) -> None:
    """In a process of its own, as the command is: Linux counts what the parent had when it made the child."""
    code = MEASURE.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 300 < float(done.stdout) < 400


def test_a_child_is_followed(tmp_path: Path) -> None:
    with StopSignals() as stop:
        code, _, lines = _run_python("print('one'); print('two'); exit(3)", tmp_path, stop)
        assert (code, lines) == (3, ["one", "two"])
        code, _, lines = _run_python("import os; os.kill(os.getpid(), 9)", tmp_path, stop)
        assert (code, lines) == (-9, [])
    assert find_reason("", code) == "the process was killed by SIGKILL; the machine may have run out of memory"


def test_a_second_signal_kills(tmp_path: Path) -> None:
    code = "import signal, os, time; signal.signal(15, signal.SIG_IGN); os.kill(os.getppid(), 1); " \
        "time.sleep(1); os.kill(os.getppid(), 15); time.sleep(60)"  # fmt: skip
    start = time.monotonic()
    with StopSignals() as stop, pytest.raises(Interrupted) as caught:
        _run_python(code, tmp_path, stop)
    assert caught.value.number == signal.SIGHUP
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("[01/01/2026 00:00:00 INFO 1] x\ngluonseg: crop_size is wrong\n", "crop_size is wrong"),
        ("[01/01/2026 00:00:00 ERROR 1] ClientError: no photos\n", "no photos"),
        ('Traceback (most recent call last):\n  File "x", line 1\nMemoryError: 3 GB\n\n', "MemoryError: 3 GB"),
        ("", "the process ended with exit code 1"),
    ],
)
def test_reason_of_a_failure(log: str, reason: str) -> None:
    assert find_reason(log, 1) == reason


def test_report_anew(compared: _Compared, tmp_path: Path, capsys: Capture) -> None:
    (compared.out / "report.html").unlink(missing_ok=True)
    assert main(["report", str(compared.out)]) == 0
    assert capsys.readouterr().out == f"the report is in {compared.out / 'report.html'}\n"
    assert (compared.out / "report.html").is_file()
    assert main(["report", str(compared.out), "--channels", str(compared.channels)]) == 2
    check_one_line(capsys, "a comparison knows its channels")
    assert main(["report", str(tmp_path)]) == 2
    check_one_line(capsys, "holds no comparison, no run and no model")


def test_report_of_one_run_and_of_one_model(compared: _Compared, tmp_path: Path, capsys: Capture) -> None:
    model = shutil.copytree(compared.find(RUN) / "model", tmp_path / "model")
    for folder in (compared.find(RUN), model):
        assert main(["report", str(folder), "--channels", str(compared.channels)]) == 0
        assert capsys.readouterr().out == f"the report is in {folder / 'report.html'}\n"
        assert (folder / "report.html").is_file()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_line_on_a_terminal() -> None:
    stream, now = _Terminal(), [0.0]
    display = Display(stream, clock=lambda: now[0])
    display.start("run 2 of 6, fcn resnet-18 seed 1", "reading the data", [None, 50.0])
    display.read_line("[x INFO 1] LRScheduler setup: iters per epoch: 10, num_epochs 4")
    now[0] = 100.0
    display.read_line("[x INFO 1] #quality_metric. host: algo-1, epoch: 0, validation mIOU: 0.6123 .")
    display.read_line("[x INFO 1] #progress_notice. epoch: 1, iterations: 10 speed: 3 samples/sec learning_rate: 0.1")
    display.refresh()
    display.refresh()
    display.say("done")
    shown = stream.getvalue().split("\r\x1b[K")
    line = "run 2 of 6, fcn resnet-18 seed 1, epoch 2/4, mIOU 0.612, 6 min left"
    assert shown == ["", "run 2 of 6, fcn resnet-18 seed 1, reading the data", line, "done\n"]


def test_time_left() -> None:
    assert estimate_left(0.001, 10.0, []) is None
    assert estimate_left(0.25, 10.0, [None, 7.0]) == pytest.approx(30 + 40 + 7)
    assert [format_seconds(x) for x in (3.4, 100, 5400, 7500)] == ["3 s", "2 min", "1 h 30 min", "2 h 05 min"]
