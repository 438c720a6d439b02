"""Cores and OpenMP threads: affinity, container quotas, and what MXNet is told before it loads."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gluonseg.machine.limits import compute_quota_cores, count_usable_cores


def _write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cpu_cfs", "cpu.cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, math.inf),
        ({"cpu_max": "max 100000\n"}, math.inf),
        ({"cpu_max": "150000 100000\n"}, 1.5),
        ({"cpu_max": "50000 100000"}, 0.5),
        ({"cpu_max": "nonsense"}, math.inf),
        ({"cpu_max": "100000"}, math.inf),
        ({"cpu_max": "0 0"}, math.inf),
        ({"cpu__cpu_cfs_quota_us": "-1", "cpu__cpu_cfs_period_us": "100000"}, math.inf),
        ({"cpu__cpu_cfs_quota_us": "300000\n", "cpu__cpu_cfs_period_us": "100000\n"}, 3),
        ({"cpu__cpu_cfs_quota_us": "300000"}, math.inf),
    ],
)
def test_quota(tmp_path: Path, files: dict[str, str], cores: float) -> None:
    assert compute_quota_cores(_write(tmp_path, **files)) == cores


def test_usable_cores(tmp_path: Path) -> None:
    allowed = len(os.sched_getaffinity(0))
    assert count_usable_cores(tmp_path) == allowed
    assert count_usable_cores(_write(tmp_path, cpu_max="20000 100000")) == 1
    assert count_usable_cores(_write(tmp_path, cpu_max="99900000 100000")) == allowed


def _run(code: str, threads: str | None) -> tuple[str, str]:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = threads
    command = [sys.executable, "-c", f"import os\nfrom gluonseg.machine.limits import *\n{code}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout.strip(), done.stderr


SHOW = "; print(n, os.environ['OMP_NUM_THREADS'])"


def test_threads_are_the_usable_cores() -> None:
    expected = str(count_usable_cores())
    assert _run(f"n = set_thread_count(){SHOW}", None)[0].split() == [expected, expected]
    assert _run(f"n = set_thread_count(){SHOW}", " ")[0].split() == [expected, expected]


@pytest.mark.parametrize(("given", "count"), [("3", "3"), (" 5 ", "5"), ("4,2", "4")])
def test_what_the_user_set_wins(given: str, count: str) -> None:
    assert _run("print(set_thread_count(7))", given)[0] == count


def test_a_given_count() -> None:
    assert _run(f"n = set_thread_count(7){SHOW}", None)[0] == "7 7"


@pytest.mark.parametrize("given", ["many", "0", "-2", "1.5"])
def test_a_setting_that_is_no_number(given: str) -> None:
    message = _run("set_thread_count()", given)[1]
    assert f"UserError: OMP_NUM_THREADS must be a whole number of at least 1, got '{given}'" in message


def test_too_late_is_an_error() -> None:
    message = _run("import gluonseg, mxnet\nset_thread_count()", None)[1]
    assert "RuntimeError: the thread count has to be set before mxnet is imported" in message
