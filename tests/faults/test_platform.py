"""Odd machines: no home, no name for the uid, few files, no shared memory, one core, a log that nobody reads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from job_layout import TRAIN, Job, draw_channels, lay_out_job
from program import build_environment, run_program

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


def _check_good(job: Job, code: int | None, log: str) -> None:
    assert code == 0, log
    assert job.read_failure() is None
    assert "Traceback" not in log
    metrics = json.loads((job.model / "model_card.json").read_text())["metrics"]
    assert "whole_image" in metrics, log
    assert {"model_best.params", "model.onnx", "curves.png"} <= {path.name for path in job.model.iterdir()}


@pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("setpriv"),
    reason="mounting, and a uid of its own, need root, unshare and setpriv",
)
def test_everything_odd_at_once(job: Job) -> None:
    """No home, no name for the uid, no capabilities, no shared memory, few files, one core, an odd locale and zone."""
    _give_away(job)
    core = min(os.sched_getaffinity(0))
    script = f'mount -t tmpfs -o size=4k tmpfs /dev/shm && ulimit -n 64 && exec taskset -c {core} {" ".join(USER)} "$@"'
    environment = {
        **{name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ},
        **{"LC_ALL": "C", "TZ": ":/etc/passwd", "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"},
        **{"OMP_NUM_THREADS": "1", "SAGEMAKER_BASE_DIR": str(job.base)},
    }
    command = ["unshare", "--mount", "sh", "-c", script, "sh", sys.executable, str(TRAIN)]
    done = run_program(command, environment, timeout=120)
    _check_good(job, done.returncode, done.stdout)


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
