"""A disk that is full, read-only or broken from some call on: nothing is half written, and the next run goes on.

``python -m tests.drills.disk_full [--errors ENOSPC EROFS EIO] [--stride 1]``

A training that has one epoch behind it runs the others; from its call number 0, 1, 2 ... that changes a file of model,
output, checkpoints or the temporary folder on, all such calls fail. Then the disk is well again, and it runs once more.
"""

from __future__ import annotations

import argparse
import errno
import io
import itertools
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from drills.fault import Call, Shim, build_library, read_calls
from drills.record import say, write_record
from drills.training import (
    Outcome,
    describe_difference,
    draw_data,
    lay_out,
    list_checkpoints,
    list_leftovers,
    read_outcome,
    run_to_end,
    running,
)
from gluonseg.errors import UserError
from gluonseg.models.folder.artifact import read_folder
from gluonseg.models.params import read_arrays
from job_layout import Job

ERRORS = ("ENOSPC", "EROFS", "EIO")
_BYTES = re.compile(r"needs \d+ bytes")
_FILES = ("open", "write", "fsync")
"""Calls that write a file; when one of them fails, the message has the size of the file."""


@dataclass(frozen=True)
class Fault:
    """One run on a disk that fails from a call on: its exit code, and what is wrong; empty when all is well."""

    error: str
    call: Call
    code: int
    problem: str


@dataclass(frozen=True)
class Drill:
    """What all runs share; ``begun`` is a job that was killed after its first epoch."""

    folder: Path
    expected: Outcome
    begun: Path
    library: Path
    calls: Sequence[Call]


def _copy(begun: Path, base: Path) -> Job:
    """A copy that takes no room: no file is ever changed in place."""
    shutil.copytree(begun, base, symlinks=True, copy_function=os.link)
    (base / "tmp").mkdir()
    return Job(base)


def _build_shim(library: Path, job: Job) -> Shim:
    return Shim(library, tuple(job.base / name for name in ("model", "output", "checkpoints", "tmp")))


def prepare(folder: Path) -> Drill:
    """Run the training that nobody interrupts, and one killed after an epoch; list the calls of its next run."""
    library, data = build_library(folder), draw_data(folder)
    whole, begun = lay_out(folder / "whole", data, epochs="2"), lay_out(folder / "begun", data, epochs="2")
    code, log = run_to_end(whole, "whole")
    if code:
        raise RuntimeError(f"the uninterrupted training ended with {code}:\n{log}")
    with running(begun, "begun") as run:
        while not list((begun.base / "checkpoints").glob("checkpoint-*")) and run.process.poll() is None:
            time.sleep(0.01)
        run.stop(signal.SIGKILL)
    job = _copy(begun.base, folder / "calls")
    code, log_of_calls = run_to_end(
        job, "calls", TMPDIR=str(job.base / "tmp"), **_build_shim(library, job).list_to(folder / "calls.txt")
    )
    outcome = read_outcome(whole, log)
    if code or describe_difference(read_outcome(job, log_of_calls), outcome):
        raise RuntimeError(f"the training that went on ended with {code}, or in another way:\n{log_of_calls}")
    return Drill(folder, outcome, begun.base, library, read_calls(folder / "calls.txt"))


def fail_once(drill: Drill, error: str, number: int) -> Fault:
    """Run the training on a disk that fails from a call on, look at what it leaves, and run it again."""
    call = drill.calls[number]
    job = _copy(drill.begun, drill.folder / f"{error}{number}")
    shim = _build_shim(drill.library, job)
    variables = {"TMPDIR": str(job.base / "tmp"), **shim.fail_from(number, getattr(errno, error))}
    code, log = run_to_end(job, "failed", **variables)
    problems = [*_check_folders(job), *_check_message(job, code, log, error, call)]
    shutil.rmtree(job.base / "tmp")
    (job.base / "tmp").mkdir()
    after, log_after = run_to_end(job, "after", TMPDIR=str(job.base / "tmp"))
    if after:
        problems.append(f"the next run ended with {after}")
    elif difference := describe_difference(read_outcome(job, log_after), drill.expected):
        problems.append(f"the next run differs in {difference}")
    problems += [f"{name} is left" for name in list_leftovers(job)]
    if not re.search("Resuming from checkpoint|nothing is left to do", log_after):
        problems.append("the next run began anew")
    if problems:
        say(f"{log}\n{log_after}")
    shutil.rmtree(job.base)
    return Fault(error, call._replace(path=str(Path(call.path).name)), code, ", ".join(problems))


def _check_folders(job: Job) -> list[str]:
    """What is wrong with the files that a run has left, those with the name of a partial file left out."""
    problems = [f"{file.path.name} is damaged" for file in list_checkpoints(job) if not file.is_whole()]
    if not list_checkpoints(job):
        problems.append("no checkpoint is left")
    for path in job.model.iterdir():
        if not path.name.startswith(".") and not _is_whole(path):
            problems.append(f"{path.name} is half written")
    try:
        read_folder(job.model)
    except UserError as error:
        if list(job.model.glob("model*")):
            problems.append(f"the model cannot be read: {error}")
    return problems


def _is_whole(path: Path) -> bool:
    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".png":
            with Image.open(io.BytesIO(path.read_bytes())) as picture:
                picture.load()
        elif path.suffix != ".onnx":  # that is compared with MXNet before it is written
            read_arrays(path)
    except (ValueError, OSError, UserError):
        return False
    return True


def _check_message(job: Job, code: int, log: str, error: str, call: Call) -> list[str]:
    """What is wrong with the log of a run on such a disk."""
    problems, reason = [], os.strerror(getattr(errno, error))
    if code not in (0, 2):
        problems.append(f"exit code {code}")
    if "Traceback" in log:
        problems.append("a trace")
    told = [line for line in log.splitlines() if reason in line and str(job.base) in line]
    if code and not told:
        problems.append("no reason, or no path")
    is_file = call.name in _FILES and ".partial" in call.path
    if code and is_file and not any(_BYTES.search(line) for line in told):
        problems.append("no number of bytes")
    return problems


def summarise(faults: Sequence[Fault]) -> list[dict[str, object]]:
    """A row for each error."""
    rows: list[dict[str, object]] = []
    for error in dict.fromkeys(fault.error for fault in faults):
        of_error = [fault for fault in faults if fault.error == error]
        good, refused = sum(not fault.problem for fault in of_error), sum(fault.code == 2 for fault in of_error)
        rows.append({"error": error, "calls": len(of_error), "good": good, "refused (2)": refused})
    return rows


def run(folder: Path, errors: Sequence[str] = ERRORS, stride: int = 1, is_short: bool = False) -> list[Fault]:
    """Make the drill; see the module. Every ``stride``-th call fails; with ``is_short``, the first of a large write."""
    drill, faults = prepare(folder), []
    say(f"{len(drill.calls)} calls that change files")
    numbers = [call.number for call in drill.calls[::stride] if not is_short or call.size > 1 << 20]
    for error, number in itertools.product(errors, numbers[:1] if is_short else numbers):
        faults.append(fail_once(drill, error, number))
        say(f"{len(faults)} of {len(errors) * len(numbers)} {faults[-1]}")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--errors", nargs="+", default=list(ERRORS), choices=ERRORS)
    parser.add_argument("--stride", type=int, default=1)
    options = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="drill-disk-") as name:
        faults = run(Path(name), options.errors, options.stride)
    command = f"python -m tests.drills.disk_full --errors {' '.join(options.errors)} --stride {options.stride}"
    write_record("disk_full", command, summarise(faults), [asdict(fault) for fault in faults], start)
    return int(any(fault.problem for fault in faults))


if __name__ == "__main__":
    sys.exit(main())
