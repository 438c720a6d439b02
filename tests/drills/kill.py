"""SIGKILL, or with --stop SIGTERM, at random moments of a training: it must go on exactly.

``python -m tests.drills.kill [--count 20] [--seed 0] [--stop]``; 200 before a release.

Each kill is of a training of its own, which then runs again as SageMaker would start it, and is compared with one that
was never interrupted: sha256 of model_best.params, model_algo-1, model.onnx and the model's card, of all parameters and
optimizer states, and each metric line. Every process is ``container/train`` itself; every second one keeps a checkpoint
after each update instead of each epoch. SIGTERM must also leave exit code 0, a model that loads and a whole checkpoint.
"""

from __future__ import annotations

import argparse
import itertools
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from drills.record import say, write_record
from drills.training import (
    CONFIGURED,
    EPOCHS,
    Outcome,
    describe_difference,
    draw_data,
    find_position,
    find_resumed,
    lay_out,
    list_checkpoints,
    list_leftovers,
    list_metrics,
    loads,
    read_outcome,
    run_to_end,
    running,
)
from job_layout import Job

LIMIT_S = 30.0
"""For the end after SIGTERM. SageMaker gives 120; the steps of this training take less than one."""


@dataclass(frozen=True)
class Kill:
    """One kill: after how many seconds, how long the end took, the updates done by then, those lost, what is wrong."""

    checkpoint: str
    at: float
    seconds: float
    done: int
    lost: int
    problem: str


@dataclass(frozen=True)
class Drill:
    """What all kills share: the folder for their jobs, the uninterrupted training and how long it took to work."""

    folder: Path
    epochs: int
    data: Path
    expected: Outcome
    seconds: float

    def lay_out(self, name: str) -> Job:
        """A new job of the same training."""
        return lay_out(self.folder / name, self.data, epochs=str(self.epochs))


def prepare(folder: Path, epochs: int = EPOCHS) -> Drill:
    """Run the training that nobody interrupts."""
    data = draw_data(folder)
    job = lay_out(folder / "whole", data, epochs=str(epochs))
    with running(job, "whole") as run:
        run.wait_for(CONFIGURED)
        start = time.monotonic()
        if code := run.process.wait(timeout=600):
            raise RuntimeError(f"the uninterrupted training ended with {code}:\n{run.log}")
        return Drill(folder, epochs, data, read_outcome(job, run.log), time.monotonic() - start)


def _find_lost_metrics(drill: Drill, killed_log: str, log: str) -> str:
    before, expected = list_metrics(killed_log), list(drill.expected.metrics)
    is_same = before == expected[: len(before)] and len(before) + len(list_metrics(log)) >= len(expected)
    return "" if is_same else "metric lines before the kill"


def _check_stopped(job: Job, code: int, seconds: float, log: str) -> list[str]:
    """What is wrong with what SIGTERM has left."""
    done, files = find_position(log), list_checkpoints(job)
    found = {
        f"exit code {code}": code != 0,
        "too late": seconds > LIMIT_S,
        "a failure": (job.base / "output" / "failure").exists() or "Traceback" in log,
        "no model": done and not loads(job),
        "no checkpoint": done and not files,
        "a damaged checkpoint": not all(file.is_whole() for file in files),
    }
    return [problem for problem, is_so in found.items() if is_so]


def _check_resumed(drill: Drill, job: Job, each_update: bool) -> tuple[str, list[str]]:
    """Run the killed training again, to its end; its log, and what is wrong."""
    code, log = run_to_end(job, "resumed", each_update)
    differs = f"then exit code {code}" if code else describe_difference(read_outcome(job, log), drill.expected)
    return log, [differs, *list_leftovers(job)]


def kill_at_random(drill: Drill, seed: int, number: int, signal_number: int = signal.SIGKILL) -> Kill:
    """Kill a training at a moment between the reading of its data and its end, all of the same chance."""
    rng, each_update = random.Random(seed * 1_000_003 + number), number % 2 == 1
    for attempt in itertools.count():
        job = drill.lay_out(f"kill{number}.{attempt}")
        with running(job, "killed", each_update) as run:
            run.wait_for(CONFIGURED)
            delay, problems = rng.uniform(0, drill.seconds), []
            try:
                run.process.wait(delay)
            except subprocess.TimeoutExpired:
                code, seconds = run.stop(signal_number)
                if signal_number == signal.SIGTERM:
                    problems += _check_stopped(job, code, seconds, run.log)
                log, wrong = _check_resumed(drill, job, each_update)
                if signal_number == signal.SIGKILL:
                    wrong.append(_find_lost_metrics(drill, run.log, log))
                shutil.rmtree(job.base)
                done, kind = find_position(run.log), "each update" if each_update else "each epoch"
                problem = ", ".join(filter(None, problems + wrong))
                return Kill(kind, round(delay, 3), round(seconds, 2), done, max(0, done - find_resumed(log)), problem)
        shutil.rmtree(job.base)  # it was faster than the uninterrupted one
    raise AssertionError


def summarise(kills: Sequence[Kill]) -> list[dict[str, object]]:
    """A row for each kind of checkpoint."""
    rows: list[dict[str, object]] = []
    for kind in dict.fromkeys(kill.checkpoint for kill in kills):
        of_kind = [kill for kill in kills if kill.checkpoint == kind]
        good, lost = sum(not kill.problem for kill in of_kind), max(kill.lost for kill in of_kind)
        most = max(kill.seconds for kill in of_kind)
        rows.append({"checkpoint": kind, "kills": len(of_kind), "good": good, "updates lost": lost, "seconds": most})
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stop", action="store_true", help="with SIGTERM instead of SIGKILL")
    options = parser.parse_args()
    start, kills = time.monotonic(), []
    signal_number = signal.SIGTERM if options.stop else signal.SIGKILL
    with tempfile.TemporaryDirectory(prefix="drill-kill-") as folder:
        drill = prepare(Path(folder))
        for number in range(options.count):
            kills.append(kill_at_random(drill, options.seed, number, signal_number))
            say(f"{len(kills)} {kills[-1]}")
    name = "stop" if options.stop else "kill"
    command = f"python -m tests.drills.kill --count {options.count}{' --stop' if options.stop else ''}"
    write_record(name, command, summarise(kills), [asdict(kill) for kill in kills], start)
    return int(any(kill.problem for kill in kills))


if __name__ == "__main__":
    sys.exit(main())
