"""What reading hostile files takes: time and memory, measured in a process of its own."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from program import build_environment, run_program

_PROGRAM = """
import json, sys, time
from pathlib import Path

def read_peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024

def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")

setup, call, names = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
space = {"Path": Path}
exec(setup, space)
found = {}
for name in names:
    space["path"] = Path(name)
    forget_peak()
    before, start = read_peak(), time.monotonic()
    try:
        eval(call, space)
        outcome = ""
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    found[name] = [outcome, time.monotonic() - start, read_peak() - before]
print("FOUND", json.dumps(found))
"""


class Taken(NamedTuple):
    """The error that reading ended in (``""`` for none), seconds, and MB that the process grew by at its peak."""

    outcome: str
    seconds: float
    peak_mb: float


def measure(setup: str, call: str, paths: Mapping[str, Path]) -> dict[str, Taken]:
    """Evaluate ``call``, in which ``path`` is each of ``paths`` in turn, after ``setup``, in one new process."""
    names = json.dumps([str(path) for path in paths.values()])
    done = run_program([sys.executable, "-c", _PROGRAM, setup, call, names], build_environment(OMP_NUM_THREADS="1"))
    if done.returncode or "FOUND" not in done.stdout:
        raise RuntimeError(done.stdout)
    found = json.loads(done.stdout.split("FOUND")[1])
    return {name: Taken(*found[str(path)]) for name, path in paths.items()}


def measure_bytes(setup: str, call: str, files: Mapping[str, bytes]) -> dict[str, Taken]:
    """As :func:`measure`, of files with this content."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: Path(folder, str(number)) for number, name in enumerate(files)}
        for name, content in files.items():
            paths[name].write_bytes(content)
        return measure(setup, call, paths)
