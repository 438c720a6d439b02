"""The machine that a comparison runs on, as a report tells it."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

from gluonseg.cores import count_usable_cores
from gluonseg.gpu import find_gpus

_CPU_INFO = Path("/proc/cpuinfo")


def _find_processor() -> str:
    lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines() if _CPU_INFO.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def describe_hardware() -> dict[str, Any]:
    """``processor``, ``cores`` that may be used, ``memory_gb`` of the machine, ``devices``: the GPUs, or ``cpu``."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": _find_processor(),
        "cores": count_usable_cores(),
        "memory_gb": round(memory / (1 << 30), 1),
        "devices": "; ".join(str(gpu) for gpu in find_gpus().usable) or "cpu",
    }
