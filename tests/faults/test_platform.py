"""Odd machines: no HOME, no user, no locale, few files, no shared memory, a log that nobody takes, clocks that jump."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from conftest import RunJob
from drills.training import Running, running
from gluonseg.predict.predictor import load_predictor
from gluonseg.sagemaker.log import LogLines
from job_layout import TRAIN, Job, draw_channels, lay_out_job
from program import build_environment, run_program

is_root = os.geteuid() == 0
needs_mount = pytest.mark.skipif(not is_root or not shutil.which("unshare"), reason="mounting needs root and unshare")
needs_user = pytest.mark.skipif(not is_root or not shutil.which("setpriv"), reason="another uid needs root and setpriv")


USER = ("setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")


def _give_away(job: Job) -> None:
    """Give a job to a uid that no passwd file knows, with a way to it and to the photos that it links to."""
    for path in (job.base, *job.base.rglob("*")):
        os.chown(path, 54321, 54321, follow_symlinks=False)
    for path in (job.base, job.channel("train").resolve()):
        for folder in path.parents:
            if folder.stat().st_uid == os.geteuid() and len(folder.parts) > 2:
                folder.chmod(folder.stat().st_mode | 0o011)


@pytest.fixture
def job(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A job of one epoch."""
    return lay_out_job(tmp_path / "ml", draw_channels(tmp_path_factory.getbasetemp()), link=True)


def _check_good(job: Job, code: int, log: str) -> None:
    assert code == 0, log
    assert job.read_failure() is None
    assert "Traceback" not in log
    metrics = json.loads((job.model / "model_card.json").read_text())["metrics"]
    assert "whole_image" in metrics, log
    assert {"model_best.params", "model.onnx", "curves.png"} <= {path.name for path in job.model.iterdir()}


def _run(job: Job, prefix: Sequence[str] = (), environment: Mapping[str, str] | None = None) -> tuple[int, str]:
    given = {"OMP_NUM_THREADS": "1", "SAGEMAKER_BASE_DIR": str(job.base), "PYTHONDONTWRITEBYTECODE": "1"}
    if "PYTHONPATH" in os.environ:
        given["PYTHONPATH"] = os.environ["PYTHONPATH"]
    variables = build_environment(**given) if environment is None else {**given, **environment}
    done = run_program([*prefix, sys.executable, str(TRAIN)], variables, timeout=120)
    return done.returncode, done.stdout


@needs_mount
@needs_user
@pytest.mark.fault(family=46, outcome="trains as ever: all at once", inputs=1)
@pytest.mark.fault(family=44, outcome="trains as ever: all at once", inputs=1)
def test_everything_odd_at_once(job: Job) -> None:
    """No home, no name for the uid, no capabilities, no shared memory, few files, one core, an odd locale and zone."""
    _give_away(job)
    core = min(os.sched_getaffinity(0))
    script = f'mount -t tmpfs -o size=4k tmpfs /dev/shm && ulimit -n 64 && exec taskset -c {core} {" ".join(USER)} "$@"'
    environment = {"PATH": os.environ["PATH"], "LC_ALL": "C", "TZ": ":/etc/passwd", "HOME": "/nonexistent"}
    _check_good(job, *_run(job, ["unshare", "--mount", "sh", "-c", script, "sh"], environment))


@pytest.mark.slow
@pytest.mark.fault(family=46, outcome="trains as ever", inputs=5)
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"PATH": os.environ["PATH"], "HOME": "/nonexistent/home"},
        {"PATH": os.environ["PATH"], "LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PATH": os.environ["PATH"], "TZ": "Pacific/Chatham", "LANG": "xx_YY.utf-99"},
        {"PATH": os.environ["PATH"], "TZ": ":/etc/passwd", "TERM": "", "COLUMNS": "0"},
    ],
    ids=["empty", "no home", "C", "odd zone and locale", "broken zone"],
)
def test_environments(job: Job, environment: dict[str, str]) -> None:
    photo = min(job.channel("train").iterdir())
    assert photo.is_file()
    _check_good(job, *_run(job, environment=environment))


@pytest.mark.slow
@pytest.mark.fault(family=46, outcome="trains as ever: names that are not ASCII, in a locale that has nothing else")
def test_other_alphabets_in_the_c_locale(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    job = lay_out_job(tmp_path / "ml", draw_channels(tmp_path_factory.getbasetemp()), class_names="地, круг, ☐, Δ")
    for split in ("train", "validation"):
        for channel in (split, f"{split}_annotation"):
            path = min(job.channel(channel).iterdir())
            path.rename(path.with_name(f"фото ☐{path.suffix}"))
    _check_good(job, *_run(job, environment={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}))
    card = json.loads((job.model / "model_card.json").read_text(encoding="utf-8"))
    assert card["class_names"] == ["地", "круг", "☐", "Δ"]


@pytest.mark.slow
@needs_user
@pytest.mark.fault(family=46, outcome="trains as ever: a uid that no passwd file knows, without capabilities")
def test_a_uid_that_nobody_knows(job: Job) -> None:
    _give_away(job)
    _check_good(job, *_run(job, USER, {"HOME": "/", "PATH": os.environ["PATH"]}))


@pytest.mark.slow
@needs_mount
@pytest.mark.fault(family=46, outcome="trains as ever: a root file system that is read-only but for /tmp and the job")
def test_a_read_only_root(job: Job) -> None:
    script = (
        'mount --bind "$1" "$1" && mount -t tmpfs tmpfs /mnt && mount -o remount,bind,ro / && '
        'shift && export TMPDIR=/mnt && exec "$@"'
    )
    code, log = _run(job, ["unshare", "--mount", "sh", "-c", script, "sh", str(job.base)])
    _check_good(job, code, log)


@pytest.mark.slow
@needs_mount
@pytest.mark.fault(family=44, outcome="trains as ever", inputs=2)
@pytest.mark.parametrize("options", ["ro", "size=4k"], ids=["read-only", "full"])
def test_no_shared_memory(job: Job, options: str) -> None:
    script = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"'
    _check_good(job, *_run(job, ["unshare", "--mount", "sh", "-c", script, "sh"]))


@pytest.mark.slow
@pytest.mark.fault(family=44, outcome="trains as ever", inputs=3)
@pytest.mark.parametrize(
    "limit",
    ["ulimit -n 64", "ulimit -s 1024", "ulimit -c 0; ulimit -l 0"],
    ids=["64 files", "1 MB of stack", "no locked memory"],
)
def test_small_limits(job: Job, limit: str) -> None:
    _check_good(job, *_run(job, ["sh", "-c", f'{limit}; exec "$@"', "sh"]))


@pytest.mark.slow
@pytest.mark.fault(family=44, outcome="trains as ever, with as many threads as cores")
@pytest.mark.skipif(not shutil.which("taskset"), reason="one core of several is chosen with taskset")
def test_one_core(job: Job) -> None:
    core = min(os.sched_getaffinity(0))
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": ""}
    _check_good(job, *_run(job, ["taskset", "-c", str(core)], environment))


@pytest.mark.fault(family=45, outcome="trains as ever: the log is lost, nothing else", inputs=2)
@pytest.mark.parametrize("stream", ["full", "closed"])
def test_a_log_that_cannot_be_written(job: Job, stream: str) -> None:
    target = ">/dev/full 2>&1" if stream == "full" else ">&- 2>&-"
    code, log = _run(job, ["sh", "-c", f'exec "$@" {target}', "sh"])
    _check_good(job, code, log)


@pytest.mark.fault(family=43, outcome="trains as ever: the log is lost, nothing else")
def test_nobody_reads_the_log_any_more(job: Job) -> None:
    environment = build_environment(OMP_NUM_THREADS="1", SAGEMAKER_BASE_DIR=str(job.base))
    command = [sys.executable, str(TRAIN)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert b"entrypoint" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr
        errors = process.stderr.read().decode()
    _check_good(job, process.returncode, errors)
    assert errors == ""


@pytest.fixture
def long_run(job: Job) -> Iterator[Running]:
    """A training of more epochs than any test waits for."""
    job.set_hyperparameters(epochs="2000", mini_batch_size="2", _logging_frequency="1")
    with running(job, "long") as run:
        yield run


@pytest.mark.fault(family=43, outcome="goes on where it was")
def test_stopped_and_continued(long_run: Running) -> None:
    long_run.wait_for("epoch: 0, iterations: 2 ")
    long_run.process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    before = long_run.log
    time.sleep(1)
    assert long_run.log == before
    long_run.process.send_signal(signal.SIGCONT)
    long_run.wait_for("epoch: 1, iterations: 2 ")
    code, seconds = long_run.stop(signal.SIGTERM)
    assert (code, seconds < 15) == (0, True)


@pytest.mark.slow
@pytest.mark.fault(family=43, outcome="ends as with SIGTERM")
def test_hung_up(job: Job, long_run: Running) -> None:
    long_run.wait_for("epoch: 0, iterations: 2 ")
    code, seconds = long_run.stop(signal.SIGHUP)
    assert (code, seconds < 15) == (0, True), long_run.log
    assert "Stopped by SIGHUP" in long_run.log
    assert load_predictor(job.model).card.num_classes == 4


@pytest.mark.slow
@pytest.mark.fault(family=43, outcome="trains as ever: nohup's ignored SIGHUP stays ignored")
def test_hung_up_under_nohup(job: Job) -> None:
    job.set_hyperparameters(_logging_frequency="1")
    script = 'trap "" HUP; exec "$@"'
    environment = build_environment(OMP_NUM_THREADS="1", SAGEMAKER_BASE_DIR=str(job.base))
    log_file = job.base.parent / "log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(["sh", "-c", script, "sh", sys.executable, str(TRAIN)], env=environment, stdout=log)
    run = Running(process, log_file)
    assert run.wait_for("iterations: 1 ")
    process.send_signal(signal.SIGHUP)
    _check_good(job, process.wait(120), run.log)


@pytest.mark.fault(family=46, outcome="trains as ever; speeds and times in the log stay true", inputs=2)
@pytest.mark.parametrize("step_s", [86_400.0, -86_400.0], ids=["forward", "back"])
def test_a_clock_that_jumps(
    run_tiny: RunJob, step_s: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    clock = time.time
    count_update = LogLines.on_update

    def jump(lines: LogLines, *update: Any) -> None:
        monkeypatch.setattr("gluonseg.sagemaker.log.time.time", lambda: clock() + step_s)
        count_update(lines, *update)

    monkeypatch.setattr(LogLines, "on_update", jump)
    outcome = run_tiny({"epochs": "1"})
    assert len(outcome.results) == 1
    speeds = [float(text) for text in re.findall(r"speed: (\S+) samples/sec", caplog.text)]
    assert len(speeds) > 2
    assert all(0 < speed < 1e6 for speed in speeds)
    lines = [json.loads(text) for text in re.findall(r"#metrics (.*)", caplog.text)]
    assert abs(lines[-1]["EndTime"] - lines[-1]["StartTime"]) > 80_000
    totals = [line["Metrics"][name]["sum"] for line, name in zip(lines[-2:], ("update.time", "totaltime"), strict=True)]
    assert all(0 < milliseconds < 600_000 for milliseconds in totals)


RESOURCES: dict[str, tuple[object, str | None]] = {
    "empty": ({}, None),
    "no hosts": ({"current_host": "algo-1"}, None),
    "hosts not a list": ({"current_host": "algo-1", "hosts": "algo-1"}, "is not among hosts"),
    "hosts null": ({"current_host": "algo-1", "hosts": None}, "is not among hosts"),
    "hosts empty": ({"current_host": "algo-1", "hosts": []}, "is not among hosts"),
    "current host null": ({"current_host": None, "hosts": ["algo-1"]}, "is not among hosts"),
    "current host a list": ({"current_host": ["algo-1"], "hosts": ["algo-1"]}, "is not among hosts"),
    "twice": ({"current_host": "algo-1", "hosts": ["algo-1", "algo-1"]}, "the job has 2 hosts"),
    "two": ({"current_host": "algo-2", "hosts": ["algo-1", "algo-2"]}, "the job has 2 hosts"),
    "a line end": ({"current_host": "a\nb", "hosts": ["algo-1"]}, "is not among hosts"),
}


@pytest.mark.fault(family=47, outcome="refused, naming the file, or taken for a job of one host")
@pytest.mark.parametrize(("content", "words"), RESOURCES.values(), ids=RESOURCES.keys())
def test_resource_configurations(job: Job, content: object, words: str | None) -> None:
    from gluonseg.errors import UserError
    from gluonseg.sagemaker.contract import read_contract

    job.write_config("resourceconfig", content)
    if words is None:
        assert read_contract(job.base).host == "algo-1"
        return
    with pytest.raises(UserError, match=words) as caught:
        read_contract(job.base)
    assert str(caught.value).isprintable()


@pytest.mark.fault(family=48, outcome="refused (2), naming what was given", inputs=3)
@pytest.mark.parametrize("arguments", [("extra",), ("--help",), ("train",)])
def test_arguments(job: Job, arguments: tuple[str, ...]) -> None:
    run = job.run(*arguments)
    assert run.code == 2
    assert f"train takes no arguments, got ['{arguments[0]}']" in run.log
    assert list(job.model.iterdir()) == []


@pytest.mark.fault(family=48, outcome="trains anew: what the first job left is replaced")
def test_trained_twice_in_one_container(job: Job) -> None:
    first = job.run()
    _check_good(job, first.code, first.log)
    before = {path.name: path.stat().st_mtime_ns for path in job.model.iterdir()}
    second = job.run()
    _check_good(job, second.code, second.log)
    after = {path.name: path.stat().st_mtime_ns for path in job.model.iterdir()}
    assert before.keys() == after.keys()
    assert all(after[name] > before[name] for name in before)


@pytest.mark.fault(family=48, outcome="refused (2): another process writes its model there")
def test_two_trainings_at_once(job: Job) -> None:
    job.set_hyperparameters(epochs="2000", _logging_frequency="1")
    with running(job, "first") as first:
        first.wait_for("iterations: 1 ")
        second = job.run()
        assert first.process.poll() is None
        assert second.code == 2, second.log
        assert f"another process writes its model to {job.model}; wait for its end" in second.log
        assert first.stop(signal.SIGTERM)[0] == 0
    assert load_predictor(job.model).card.num_classes == 4
