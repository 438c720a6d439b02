"""The processes of a server: which they are, and what they use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Usage(NamedTuple):
    """Of a process and all its descendants."""

    memory: int
    """Bytes, what processes share counted once. Pages of files, such as libraries, are left out: how many of them count
    depends on who else has them open."""
    descriptors: int
    threads: int


def iter_tree(pid: int) -> Iterator[int]:
    """The process and all its descendants."""
    yield pid
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = thread.read_text(encoding="ascii").split()
        except OSError:
            continue
        for child in children:
            yield from iter_tree(int(child))


def find_model_processes(pid: int) -> list[int]:
    """The children of a server that have the model; another one cleans up after them."""
    commands = {child: Path(f"/proc/{child}/cmdline") for child in list(iter_tree(pid))[1:]}
    return [child for child, command in commands.items() if b"spawn_main" in command.read_bytes()]


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _read_memory(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:  # it has ended meanwhile
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith(("Pss_Anon:", "Pss_Shmem:")))


def read_usage(pid: int) -> Usage:
    """What the process and its descendants use now."""
    pids = [one for one in iter_tree(pid) if is_running(one)]
    return Usage(
        sum(_read_memory(one) for one in pids),
        sum(len(os.listdir(f"/proc/{one}/fd")) for one in pids),
        sum(len(os.listdir(f"/proc/{one}/task")) for one in pids),
    )
