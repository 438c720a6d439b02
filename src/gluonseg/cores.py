"""How many cores this process may use, and the thread count MXNet is told.

MXNet reads ``OMP_NUM_THREADS`` once, when it is imported, and takes one thread when nothing is set (at
twice the time on two cores); in a container it would otherwise count the cores of the whole host. So
:func:`set_thread_count` runs before ``import mxnet``.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from gluonseg.errors import UserError

_CGROUP = Path("/sys/fs/cgroup")


def _read_numbers(path: Path) -> list[float]:
    try:
        words = path.read_text(encoding="ascii").split()
    except (OSError, UnicodeDecodeError):
        return []
    return [math.inf if word == "max" else float(word) for word in words if word == "max" or word.lstrip("-").isdigit()]


def compute_quota_cores(cgroup: Path = _CGROUP) -> float:
    """Cores granted by the CPU quota of the control group (v2, else v1); infinite without a quota."""
    limits = _read_numbers(cgroup / "cpu.max")
    if not limits:
        limits = [*_read_numbers(cgroup / "cpu/cpu.cfs_quota_us"), *_read_numbers(cgroup / "cpu/cpu.cfs_period_us")]
    if len(limits) != 2 or limits[0] <= 0 or limits[1] <= 0:
        return math.inf
    return limits[0] / limits[1]


def count_usable_cores(cgroup: Path = _CGROUP) -> int:
    """Cores this process may use: the affinity mask, cut by the control group's quota, at least 1."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, compute_quota_cores(cgroup))))


def read_thread_count() -> int | None:
    """What ``OMP_NUM_THREADS`` says, None when it is not set; UserError when it is no number."""
    given = os.environ.get("OMP_NUM_THREADS", "").strip()
    if not given:
        return None
    first = given.split(",")[0]
    if not first.isdigit() or int(first) < 1:
        raise UserError(f"OMP_NUM_THREADS must be a whole number of at least 1, got {given!r}")
    return int(first)


def set_thread_count(count: int | None = None) -> int:
    """Settle the OpenMP threads of MXNet and return their number; call it before MXNet is imported.

    An ``OMP_NUM_THREADS`` that is set already wins over ``count``; without both, the usable cores.
    """
    given = read_thread_count()
    if given is not None:
        return given
    chosen = count or count_usable_cores()
    if "mxnet" in sys.modules:
        raise RuntimeError("the thread count has to be set before mxnet is imported")
    os.environ["OMP_NUM_THREADS"] = str(chosen)
    return chosen
