"""Cores, OpenMP threads and memory: affinity, container quotas, and what MXNet is told before it loads."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from gluonseg.errors import UserError
from gluonseg.machine.limits import (
    compute_quota_cores,
    count_usable_cores,
    find_memory_limit,
    read_peak_mb,
    read_thread_count,
    set_thread_count,
)
from program import run_source

QUOTA_V1, PERIOD_V1 = "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"
MEMORY_V2, MEMORY_V1 = "memory.max", "memory/memory.limit_in_bytes"
MEMINFO = "MemTotal:        8000 kB\nMemFree:  1 kB\nHugePages_Total:       0\nSwapTotal:       2000 kB\n"


def _write(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "nonsense"}, math.inf),
        ({"cpu.max": "150000 0"}, math.inf),
        ({QUOTA_V1: "-1", PERIOD_V1: "100000"}, math.inf),
        ({QUOTA_V1: "300000\n", PERIOD_V1: "100000\n"}, 3),
    ],
)
def test_quota(tmp_path: Path, files: Mapping[str, str], cores: float) -> None:
    assert compute_quota_cores(_write(tmp_path, files)) == cores


def test_usable_cores(tmp_path: Path) -> None:
    allowed = len(os.sched_getaffinity(0))
    assert count_usable_cores(tmp_path) == allowed
    assert count_usable_cores(_write(tmp_path, {"cpu.max": "20000 100000"})) == 1
    assert count_usable_cores(_write(tmp_path, {"cpu.max": "99900000 100000"})) == allowed


@pytest.mark.parametrize(
    ("given", "count", "threads"),
    [
        (None, None, count_usable_cores()),
        (" ", None, count_usable_cores()),
        (None, 7, 7),
        (" 5 ", 7, 5),  # what the user has set wins
        ("4,2", None, 4),
    ],
)
def test_threads(given: str | None, count: int | None, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given or "")
    monkeypatch.delitem(sys.modules, "mxnet", raising=False)
    assert set_thread_count(count) == threads == read_thread_count()


@pytest.mark.parametrize("given", ["many", "0", "-2"])
def test_a_setting_that_is_no_number(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    with pytest.raises(UserError, match=f"OMP_NUM_THREADS must be a whole number of at least 1, got '{given}'"):
        set_thread_count()


def test_too_late_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setitem(sys.modules, "mxnet", pytest)
    with pytest.raises(RuntimeError, match="the thread count has to be set before mxnet is imported"):
        set_thread_count()


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 10_000 << 10),
        ({MEMORY_V2: "max\n"}, 10_000 << 10),
        ({MEMORY_V2: "1048576\n"}, (1 << 20) + (2000 << 10)),
        ({MEMORY_V2: "99999999999\n"}, 10_000 << 10),
        ({MEMORY_V1: "1048576\n"}, (1 << 20) + (2000 << 10)),
        ({MEMORY_V1: "9223372036854771712\n"}, 10_000 << 10),
    ],
)
def test_memory_limit(tmp_path: Path, files: Mapping[str, str], limit: int) -> None:
    _write(tmp_path, {"meminfo": MEMINFO, **files})
    assert find_memory_limit(tmp_path, tmp_path / "meminfo") == limit


def test_a_machine_that_does_not_tell_its_memory(tmp_path: Path) -> None:
    assert find_memory_limit(tmp_path, tmp_path / "meminfo") is None
    _write(tmp_path, {"meminfo": "MemTotal: lots kB\nMemTotal\n"})
    assert find_memory_limit(tmp_path, tmp_path / "meminfo") is None
    here = find_memory_limit()
    assert here is None or here > 1 << 28


def test_peak_memory_counts_what_was_freed_and_not_the_parent() -> None:
    block = bytes(b"1" * (300 << 20))
    child = (
        "from gluonseg.machine.limits import read_peak_mb; block = b'1' * (100 << 20); del block; print(read_peak_mb())"
    )
    assert 100 < float(run_source(child, os.environ)) < 250
    del block
    assert read_peak_mb() > 300
