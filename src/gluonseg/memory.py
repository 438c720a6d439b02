"""How much memory the processes of this container, or of this machine, may have together."""

from __future__ import annotations

from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_MEMINFO = Path("/proc/meminfo")


def find_memory_limit(cgroup: Path = _CGROUP, meminfo: Path = _MEMINFO) -> int | None:
    """Bytes that may be held before the kernel ends a process; None where that cannot be told.

    The limit of the control group (v2, else v1), where it is below the machine's memory; what may be swapped counts.
    """
    machine = _read_meminfo(meminfo)
    memory, swap = machine.get("MemTotal"), machine.get("SwapTotal", 0)
    if memory is None:
        return None
    limit = _read_bytes(cgroup / "memory.max") or _read_bytes(cgroup / "memory" / "memory.limit_in_bytes")
    return min(memory, limit or memory) + swap


def _read_bytes(path: Path) -> int | None:
    """None when there is no such file, or no limit in it."""
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return int(text) if text.isdigit() else None


def _read_meminfo(path: Path) -> dict[str, int]:
    """Bytes by name."""
    try:
        lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    except (OSError, UnicodeDecodeError):
        return {}
    return {words[0].rstrip(":"): int(words[1]) << 10 for words in lines if words[2:] == ["kB"] and words[1].isdigit()}
