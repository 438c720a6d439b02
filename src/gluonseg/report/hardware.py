"""The machine that a comparison runs on, as a report tells it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from gluonseg.machine.gpu import find_gpus
from gluonseg.machine.limits import count_usable_cores

_CPU_INFO = Path("/proc/cpuinfo")


def _find_processor() -> str:
    lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines() if _CPU_INFO.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _read_load() -> float | None:
    """Processes that ran or waited over the last minute; None where the system does not tell."""
    try:
        return round(os.getloadavg()[0], 1)
    except OSError:
        return None


def describe_hardware() -> dict[str, Any]:
    """The machine as it is now.

    ``processor``, ``cores`` that may be used, ``memory_gb`` of the machine, ``devices``: the GPUs, or ``cpu``,
    ``threads`` of a training or a prediction, and ``load``, which slows all of them when it is above ``cores``.
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _find_processor(),
        "cores": count_usable_cores(),
        "threads": os.environ.get("OMP_NUM_THREADS") or count_usable_cores(),
        "memory_gb": round(memory / (1 << 30), 1),
        "devices": "; ".join(str(gpu) for gpu in find_gpus().usable) or "cpu",
        **({} if (load := _read_load()) is None else {"load": load}),
    }
