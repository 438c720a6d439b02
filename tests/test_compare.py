"""``gluonseg compare``: the runs, what is kept of them, what is refused; with real trainings of seconds."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from gluonseg.cli import main
from gluonseg.compare import child, runner
from gluonseg.compare.child import RunError
from gluonseg.compare.plan import build_comparison, find_stored_comparison
from gluonseg.compare.progress import Display, Progress, format_seconds
from gluonseg.compare.runner import Interrupted, call_in_process, run_comparison
from gluonseg.data.channel import find_channels
from gluonseg.errors import UserError
from gluonseg.metrics import Confusion
from gluonseg.predict.score import Score
from gluonseg.report.record import FAILED, FINISHED, read_record
from gluonseg.sagemaker.stop_signal import STOP_SIGNALS, handling_signals
from gluonseg.train.folder_lock import hold_folder
from gluonseg.train.listener import EpochResult
from job_layout import HYPERPARAMETERS, draw_channels, train_once
from process_tree import find_model_processes, is_running
from program import build_environment, check_one_line

Capture = pytest.CaptureFixture[str]
GIVEN = {name: value for name, value in HYPERPARAMETERS.items() if name != "backbone"}
RUN = "fcn_resnet-18_seed1"
PSP = "psp_resnet-18_seed1"
SCORE = Score(["a", "b"], [[3, 1], [0, 2]], 0.5, [], 10, 0.1, [40, 40], 5.0, 200.0, 300.0)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def channels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_channels(tmp_path_factory.getbasetemp())


def _build_command(channels: Path, out: Path, *options: str) -> list[str]:
    lists = ["--algorithms", "fcn,psp", "--backbones", "resnet-18", "--seeds", "1"]
    shared = [f"--{name}={value}" for name, value in GIVEN.items()]
    return ["compare", str(channels), "--out", str(out), *lists, *shared, *options]


class _Compared(NamedTuple):
    channels: Path
    out: Path
    done: subprocess.CompletedProcess[str]

    def find(self, name: str) -> Path:
        return self.out / "runs" / name


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, channels: Path) -> _Compared:
    """A comparison in which FCN trains and PSP fails: the model channel holds an FCN."""
    base = tmp_path_factory.mktemp("compared")
    data, out = shutil.copytree(channels, base / "channels"), base / "out"
    shutil.copytree(train_once(tmp_path_factory.getbasetemp())[0].model, data / "model")
    command = [sys.executable, "-m", "gluonseg", *_build_command(data, out)]
    environment = build_environment(OMP_NUM_THREADS="1")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    return _Compared(data, out, done)


def test_one_trains_and_the_other_fails(compared: _Compared) -> None:
    done = compared.done
    assert done.returncode == 1, done.stderr
    lines = done.stderr.splitlines()
    assert "run 1 of 2, fcn resnet-18 seed 1, reading the data" in lines
    epoch = re.compile(r"run 1 of 2, fcn resnet-18 seed 1, epoch 1/1, mIOU 0\.\d{3}, \d+ s left")
    assert any(epoch.fullmatch(line) for line in lines)
    assert "run 1 of 2, fcn resnet-18 seed 1, scoring" in lines
    reason = "the model channel holds fcn on resnet-18, the hyperparameters ask for psp on resnet-18"
    assert lines[-2].startswith(f"gluonseg: psp resnet-18 seed 1 failed: {reason}")
    assert lines[-2].endswith(f"see {compared.find(PSP) / 'log.txt'}")
    assert f"gluonseg: {reason}" in (compared.find(PSP) / "log.txt").read_text()
    assert lines[-1] == "gluonseg: 1 of 2 runs failed; the same command tries them again"
    assert re.search(r"^1  FCN resnet-18 +1  0\.\d{3} ", done.stdout, re.MULTILINE)
    assert done.stdout.endswith(f"the report is in {compared.out / 'report.html'}\n")
    assert (compared.out / "report.html").is_file()


def test_what_is_kept_of_a_comparison(compared: _Compared) -> None:
    failed, record = read_record(compared.find(PSP)), read_record(compared.find(RUN))
    assert failed is not None
    assert (failed.status, failed.score) == (FAILED, None)
    assert failed.error.startswith("the model channel holds fcn on resnet-18")
    assert record is not None
    assert (record.status, record.error) == (FINISHED, "")
    assert (record.algorithm, record.backbone, record.seed) == ("fcn", "resnet-18", 1)
    assert record.train_seconds > 1
    assert 100 < record.train_peak_mb < 10_000
    assert [entry["epoch"] for entry in record.epochs] == [0]
    assert record.versions["mxnet"].startswith("1.9")
    assert record.score is not None
    assert min(record.score.latency_ms, record.score.images_per_second) > 0
    assert record.score.prediction_peak_mb > 50
    assert len(record.score.photos) == len(list((compared.find(RUN) / "masks").iterdir())) == 6
    assert not (compared.find(RUN) / "checkpoints").exists()
    card = json.loads((compared.find(RUN) / "model" / "model_card.json").read_text())
    assert card["hyperparameters"] == record.hyperparameters

    found = find_stored_comparison(compared.out)
    assert found is not None
    assert found["runs"] == [("fcn", "resnet-18", 1), ("psp", "resnet-18", 1)]
    assert found["hyperparameters"]["crop_size"] == "32"
    assert not {"algorithm", "backbone", "seed"} & found["hyperparameters"].keys()
    assert found["class_names"] == ["background", "disc", "box", "triangle"]
    assert found["data"]["num_training_samples"] == 18
    assert found["hardware"]["cores"] >= 1


class _Processes:
    """Stands in for the processes of the runs: ``steps`` are those that were made, ``errors`` what they raise."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.errors: dict[str, RunError] = {}

    def call(self, step: object, _display: Display, _channels: object, folder: Path, *_hyperparameters: object) -> Any:
        name = f"{folder.name.partition('_')[0]} {'score' if step is child.score_run else 'train'}"
        self.steps.append(name)
        if name in self.errors:
            raise self.errors[name]
        if step is child.score_run:
            return SCORE
        (folder / "checkpoints" / "checkpoint-000001.params").touch()
        return 12.5, 900.5

    def take_steps(self) -> list[str]:
        steps, self.steps = self.steps, []
        return steps


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> _Processes:
    stand_in = _Processes()
    monkeypatch.setattr(runner, "call_in_process", stand_in.call)
    return stand_in


def test_finished_runs_are_kept_and_failed_ones_made_again(
    channels: Path, tmp_path: Path, processes: _Processes
) -> None:
    processes.errors["psp score"] = RunError("out of memory")
    lists = {"algorithms": "fcn,psp", "backbones": "resnet-18", "seeds": "1"}
    plan = build_comparison(channels, find_channels(channels), tmp_path / "out", lists, GIVEN)
    stream = io.StringIO()
    finished, failed = run_comparison(plan, Display(stream))
    assert (finished.status, finished.score, finished.error) == (FINISHED, SCORE, "")
    assert (failed.status, failed.score, failed.error) == (FAILED, None, "out of memory")
    assert 12.5 < failed.train_seconds < 13.5, "the time of an earlier process counts"
    assert failed.train_peak_mb == 900.5
    assert processes.take_steps() == ["fcn train", "fcn score", "psp train", "psp score"]
    assert [(plan.find_run_folder(run) / "checkpoints").exists() for run in plan.runs] == [False, True]
    assert "psp resnet-18 seed 1 failed: out of memory\n" in stream.getvalue()

    processes.errors.clear()
    again = run_comparison(plan, Display(stream))
    assert [record.status for record in again] == [FINISHED, FINISHED]
    assert again[0] == finished
    assert processes.take_steps() == ["psp train", "psp score"]
    assert "1 of 2 runs are finished already and kept\n" in stream.getvalue()


def test_a_report_that_cannot_be_written_keeps_no_run_from_being_made(
    channels: Path, tmp_path: Path, processes: _Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "write_comparison_report", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        main(_build_command(channels, tmp_path / "out"))
    assert processes.take_steps() == ["fcn train", "fcn score", "psp train", "psp score"]


@pytest.mark.usefixtures("processes")
def test_runs_may_be_added_while_settings_and_data_may_not_change(
    channels: Path, tmp_path: Path, capsys: Capture
) -> None:
    out, data = tmp_path / "out", tmp_path / "data"
    assert main(_build_command(channels, out)) == 0
    before = (out / "comparison.json").read_text()
    capsys.readouterr()
    assert main(_build_command(channels, out, "--epochs", "7", "--class_weights", "balanced")) == 2
    words = "epochs was 1, now it is 7; class_weights was not set, now it is balanced"
    check_one_line(capsys, "has other settings", words, "choose another --out")
    for split in ("train", "validation"):
        shutil.copytree(channels, data)
        photo = min((data / split).iterdir())
        with Image.open(photo) as picture:
            turned = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        turned.save(photo)
        assert main(_build_command(data, out)) == 2
        check_one_line(capsys, f"the data in {data} is not that of the comparison in {out}")
        shutil.rmtree(data)
    assert (out / "comparison.json").read_text() == before

    options = ["--algorithms", "psp", "--backbones", "resnet-34", "--learning_rate", "1e-2"]
    assert main(_build_command(channels, out, *options)) == 0
    found = find_stored_comparison(out)
    assert found is not None
    assert found["runs"][1:] == [("psp", "resnet-18", 1), ("psp", "resnet-34", 1)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--algorithms", "fcn,pps"], "; got 'pps' (did you mean psp?)"),
        (["--algorithms", "fcn, psp,fcn"], "--algorithms has fcn twice"),
        (["--seeds", "1,x"], "--seeds: seed must be a whole number"),
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


@pytest.mark.usefixtures("processes")
def test_a_second_comparison_in_the_folder_is_refused(channels: Path, tmp_path: Path, capsys: Capture) -> None:
    with hold_folder(tmp_path, "writes a comparison to"):
        assert main(_build_command(channels, tmp_path)) == 2
    check_one_line(capsys, f"another process writes a comparison to {tmp_path}; wait for its end")


def test_ctrl_c(channels: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gluonseg", *_build_command(channels, tmp_path / "out", "--epochs", "500")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "epoch 1/500" in line:
                break
        (training,) = find_model_processes(process.pid)
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    lines = err.splitlines()
    assert lines.count("stopping; once more stops at once") == 1
    assert lines[-1] == "gluonseg: stopped; the same command goes on after the last epoch that is finished"
    assert time.monotonic() - start < 20
    assert not is_running(training)
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


def _call(step: Callable[..., Any], folder: Path, stream: io.StringIO) -> Any:
    return call_in_process(step, Display(stream), {}, folder)


def _print_and_return(_channels: object, folder: Path, _send: child.SendProgress) -> str:
    sys.stdout.write("printed\n")
    return folder.name


def _send_and_die(_channels: object, _folder: Path, send: child.SendProgress) -> None:
    send(Progress(epochs=2, done=1))
    os.kill(os.getpid(), signal.SIGKILL)


def _ignore_sigterm(_channels: object, _folder: Path, _send: child.SendProgress) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(0.3)
    os.kill(os.getppid(), signal.SIGINT)
    time.sleep(60)


def test_a_step_returns_its_value_and_prints_into_the_log(tmp_path: Path) -> None:
    for _ in range(2):
        assert _call(_print_and_return, tmp_path, io.StringIO()) == tmp_path.name
    assert (tmp_path / "log.txt").read_text() == "printed\n" * 2


def test_a_step_that_is_killed(tmp_path: Path) -> None:
    stream = io.StringIO()
    with pytest.raises(RunError, match="killed by SIGKILL; the machine may have run out of memory"):
        _call(_send_and_die, tmp_path, stream)
    assert "epoch 1/2" in stream.getvalue()


def test_a_second_signal_kills(tmp_path: Path) -> None:
    start, stream = time.monotonic(), io.StringIO()
    with handling_signals(STOP_SIGNALS, runner._interrupt), pytest.raises(Interrupted) as caught:
        _call(_ignore_sigterm, tmp_path, stream)
    assert caught.value.number == signal.SIGINT
    assert stream.getvalue() == "stopping; once more stops at once\n"
    assert time.monotonic() - start < 15


@pytest.mark.parametrize(
    ("error", "line", "log"),
    [
        (UserError("crop_size is wrong\nand more"), "crop_size is wrong", "gluonseg: crop_size is wrong\nand more\n"),
        (MemoryError("Stack trace:\n  3 GB\n"), "3 GB", "Traceback"),
    ],
)
def test_a_step_says_why_it_fails(error: Exception, line: str, log: str, capsys: Capture) -> None:
    def fail() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert str(child.describe_error(caught.value)) == line
    assert log in capsys.readouterr().err


def _build_result(epoch: int) -> EpochResult:
    return EpochResult(epoch, 0.1, 1.0, 2.0, Confusion.empty(2), 3.0)


def test_progress_of_a_training_that_goes_on() -> None:
    """Of what is left: a quarter of it took a quarter of the time."""
    stream, now = io.StringIO(), [0.0]
    display = Display(stream, clock=lambda: now[0])
    display.start("run 1 of 1", [])
    sent: list[Progress] = []
    reporter = child.ProgressSender(sent.append)
    reporter.on_start(10, 20)
    reporter.on_resume([_build_result(epoch) for epoch in range(6)])
    reporter.on_update(6, 5, 8, 0.1)
    reporter.on_epoch(_build_result(6), True)
    assert [progress.share for progress in sent] == [0, 0, 1 / 16, 1 / 4]
    now[0] = 30.0
    for progress in sent:
        display.show(progress)
    line = f"run 1 of 1, epoch 7/10, mIOU {_build_result(6).miou:.3f}, 2 min left"
    assert stream.getvalue().splitlines() == ["run 1 of 1, reading the data", line]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_line_on_a_terminal() -> None:
    stream, now = _Terminal(), [0.0]
    display = Display(stream, clock=lambda: now[0])
    display.start("run 2 of 6, fcn resnet-18 seed 1", [None, 50.0])
    now[0] = 100.0
    display.show(Progress(epochs=4, iterations=10, done=1, iteration=10, miou=0.6123))
    display.say("stays")
    display.set_activity("scoring")
    display.close()
    assert stream.getvalue().count("\n") == 1
    shown = [text.strip() for text in re.split(r"[\r\n]", stream.getvalue()) if text.strip()]
    assert shown[-3] == "stays"
    line = "run 2 of 6, fcn resnet-18 seed 1"
    assert shown[-2].startswith(f"{line}, epoch 2/4, mIOU 0.612, 6 min left")
    assert shown[-1].startswith(f"{line}, scoring")


def test_seconds_are_shown_in_round_numbers() -> None:
    assert [format_seconds(x) for x in (3.4, 100, 5400, 7500)] == ["3 s", "2 min", "1 h 30 min", "2 h 05 min"]


def test_reports_anew(compared: _Compared, tmp_path: Path, capsys: Capture) -> None:
    for folder, options in ((compared.out, []), (compared.find(RUN), ["--channels", str(compared.channels)])):
        (folder / "report.html").unlink(missing_ok=True)
        assert main(["report", str(folder), *options]) == 0
        assert capsys.readouterr().out == f"the report is in {folder / 'report.html'}\n"
        assert (folder / "report.html").is_file()
    assert main(["report", str(compared.out), "--channels", str(compared.channels)]) == 2
    check_one_line(capsys, "a comparison knows its channels")
    assert main(["report", str(tmp_path)]) == 2
    check_one_line(capsys, "holds no comparison, no run and no model")


def test_who_starts_a_comparison_does_not_load_mxnet() -> None:
    source = "import sys, gluonseg.compare.runner; print('mxnet' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout == "False\n"
