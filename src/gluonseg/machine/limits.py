"""The cores and the memory this process may use, and the number of threads that MXNet is told.

MXNet reads ``OMP_NUM_THREADS`` once, when it is imported, and takes one thread when nothing is set (twice the time on
two cores); in a container it would otherwise count the cores of the whole host. So :func:`set_thread_count` runs
before ``import mxnet``.
"""

from __future__ import annotations

import math
import os
import resource
import sys
from pathlib import Path

from gluonseg.errors import UserError

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")
_PROCESS_STATUS = Path("/proc/self/status")


def _read_lines(path: Path) -> list[list[str]]:
    """The words of every line of a small file of the kernel; none when it cannot be read."""
    try:
        return [line.split() for line in path.read_text(encoding="ascii", errors="replace").splitlines()]
    except OSError:
        return []


def _read_sizes(path: Path) -> dict[str, int]:
    """Bytes by name in a file of lines such as ``MemTotal:       24605032 kB``."""
    return {line[0]: int(line[1]) << 10 for line in _read_lines(path) if line[2:] == ["kB"] and line[1].isdigit()}


def _read_number(path: Path, position: int = 0) -> float:
    """A number in the first line of a file; infinite for ``max``, for -1, and without such a file."""
    words = [word for line in _read_lines(path)[:1] for word in line[position : position + 1]]
    return float(words[0]) if words and words[0].isdigit() else math.inf


def compute_quota_cores(cgroup: Path = _CGROUP) -> float:
    """Cores granted by the CPU quota of the control group (v2, else v1); infinite without a quota."""
    quota, period = _read_number(cgroup / "cpu.max"), _read_number(cgroup / "cpu.max", 1)
    if math.isinf(period):
        quota, period = (_read_number(cgroup / f"cpu/cpu.cfs_{name}_us") for name in ("quota", "period"))
    return quota / period if 0 < period < math.inf else math.inf


def count_usable_cores(cgroup: Path = _CGROUP) -> int:
    """Cores this process may use: the affinity mask, cut by the control group's quota, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, compute_quota_cores(cgroup))))


def read_thread_count() -> int | None:
    """The number in ``OMP_NUM_THREADS``, None when it is not set; UserError when it is not a number."""
    given = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not given:
        return None
    first = given.split(",")[0]
    if not first.isdigit() or int(first) < 1:
        raise UserError(f"OMP_NUM_THREADS must be a whole number of at least 1, got {given!r}")
    return int(first)


def set_thread_count(count: int | None = None) -> int:
    """Set the number of OpenMP threads of MXNet and return it; call it before MXNet is imported.

    An ``OMP_NUM_THREADS`` that is set already wins over ``count``; without both, it is the usable cores.
    """
    given = read_thread_count()
    if given is not None:
        return given
    chosen = count or count_usable_cores()
    if "mxnet" in sys.modules:
        raise RuntimeError("the thread count has to be set before mxnet is imported")
    os.environ["OMP_NUM_THREADS"] = str(chosen)
    return chosen


def find_memory_limit(cgroup: Path = _CGROUP, meminfo: Path = _MEMINFO) -> int | None:
    """Bytes that all processes together may hold before the kernel ends one; None where that cannot be told.

    It is the limit of the control group (v2, else v1) or the machine's memory, whichever is less, and the swap space.
    """
    machine = _read_sizes(meminfo)
    if "MemTotal:" not in machine:
        return None
    limits = (_read_number(cgroup / name) for name in ("memory.max", "memory/memory.limit_in_bytes"))
    return int(min(machine["MemTotal:"], *(limit for limit in limits if limit))) + machine.get("SwapTotal:", 0)


def read_peak_mb() -> float:
    """The most memory that this process has held so far, in MB (of 1024 * 1024 bytes)."""
    # A child that was forked inherits its parent's ru_maxrss; VmHWM begins anew with the program.
    peak = _read_sizes(_PROCESS_STATUS).get("VmHWM:")
    if peak is None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)
    return peak / (1 << 20)
