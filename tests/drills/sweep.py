"""A process for each moment of the writing of checkpoints, which dies then; what is left in the folder is looked at.

A program of its own, run by the kill drill under the library of fault.c: ``sweep.py FOLDER LOG``. It prints a line of
JSON for each moment: name of the call, moment, what is wrong.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from drills.fault import MOMENTS, list_moments, read_calls
from gluonseg.train.checkpoint_file import open_checkpoints

EPOCHS = 4
"""So many checkpoints are written: the last two displace others."""


def write(folder: Path) -> None:
    """Write checkpoints that are larger than what Python keeps back, and some of it."""
    arrays = {f"array{number}": np.arange(number * 100_000, dtype="float32") for number in range(1, 5)}
    with open_checkpoints(folder) as checkpoints:
        for epochs in range(1, EPOCHS + 1):
            if checkpoints:
                checkpoints.write(epochs, 0, {**arrays, "epochs": np.array([epochs])})


def write_and_die(folder: Path, number: int, moment: str) -> None:
    """Write checkpoints in a process that dies in a call."""
    child = os.fork()
    if not child:
        ctypes.CDLL(os.environ["LD_PRELOAD"]).die_in_call(ctypes.c_long(number), MOMENTS.index(moment))
        write(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        raise RuntimeError(f"call {number} did not end the process, but {status}")


def find_problems(folder: Path) -> str:
    """What is wrong with a folder of checkpoints; a job that opens it removes what the dead one had not finished."""
    with open_checkpoints(folder) as checkpoints:
        files = checkpoints.find_files() if checkpoints else []
    words = [f"{file.path.name} is damaged" for file in files if not file.is_whole()]
    words += [f"{path.name} is left" for path in folder.iterdir() if path not in [file.path for file in files]]
    epochs = [file.epochs for file in files]
    if epochs != list(range(max(epochs, default=0), 0, -1))[: len(epochs)] or len(epochs) > 3:
        words.append(f"it has epochs {epochs}")
    return ", ".join(words)


def main() -> None:
    folder, log = Path(sys.argv[1]), Path(sys.argv[2])
    write(folder)
    calls = read_calls(log)
    for call, moment in list_moments(calls):
        shutil.rmtree(folder)
        write_and_die(folder, call.number, moment)
        sys.stdout.write(json.dumps([call.number, call.name, moment, find_problems(folder)]) + "\n")


if __name__ == "__main__":
    main()
