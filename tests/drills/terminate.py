"""SIGTERM in every phase of a training: a model that loads and a whole checkpoint, within 30 seconds.

``python -m tests.drills.terminate [--count 10] [--jobs 1] [--seed 0]`` makes so many stops in each phase. Each stopped
training runs again afterwards, and has to end as one that was never interrupted.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from drills.record import say, write_record
from drills.training import (
    EPOCHS,
    UPDATES,
    Outcome,
    describe_difference,
    draw_data,
    find_position,
    lay_out,
    list_checkpoints,
    list_leftovers,
    loads,
    read_outcome,
    run_to_end,
    running,
)
from gluonseg.train.checkpoint_file import CheckpointFile
from job_layout import Job

LIMIT_S = 30.0
"""SageMaker gives 120; the steps of this training take less than one."""


@dataclass(frozen=True)
class Phase:
    """When SIGTERM comes: up to ``delay_s`` after the line ``pattern``; what is made slow to be hit; what is there."""

    pattern: str
    delay_s: float
    slow: tuple[str, ...] = ()
    is_second_run: bool = False


def _slow(*words: str) -> tuple[str, ...]:
    return ("--slow", *words)


PHASES: Mapping[str, Phase] = MappingProxyType(
    {
        "data scan": Phase("SLOW scan_pair", 1.5, _slow("gluonseg.data.scan", "-", "scan_pair", "1", "0.1"), True),
        "first step": Phase("LRScheduler setup", 0.4),
        "mid step": Phase(r"epoch: \d, iterations: \d .*learning_rate", 3.0),
        "validation": Phase("SLOW predict", 1.0, _slow("gluonseg.train.step", "Stepper", "predict", "2", "1")),
        "checkpoint write": Phase(
            "SLOW _write_file", 1.5, _slow("gluonseg.train.checkpoint_file", "-", "_write_file", "3", "0.8")
        ),
        "export": Phase("Serializing model to .*model_algo-1", 1.5),
    }
)


@dataclass(frozen=True)
class Stopped:
    """One stop: what came of it. ``lost`` are updates that are done again; ``problem`` is empty when all is well."""

    phase: str
    seconds: float
    code: int
    done: int
    lost: int
    problem: str


@dataclass(frozen=True)
class Drill:
    """What all stops share."""

    folder: Path
    data: Path
    expected: Outcome


def prepare(folder: Path) -> Drill:
    """Run the training that nobody interrupts."""
    data = draw_data(folder)
    job = lay_out(folder / "whole", data)
    code, log = run_to_end(job, "whole")
    if code:
        raise RuntimeError(f"the uninterrupted training ended with {code}:\n{log}")
    return Drill(folder, data, read_outcome(job, log))


def _position(file: CheckpointFile) -> int:
    return file.epochs * UPDATES + file.updates


def _check(job: Job, code: int, seconds: float, log: str, done: int) -> tuple[int, str]:
    """Updates lost, and what is wrong with what a stop has left."""
    problems = []
    if code:
        problems.append(f"exit code {code}")
    if seconds > LIMIT_S:
        problems.append("too late")
    if (job.base / "output" / "failure").exists() or "Traceback" in log:
        problems.append("a failure")
    if not loads(job):
        problems.append("no model")
    files = list_checkpoints(job)
    if not all(file.is_whole() for file in files):
        problems.append("a damaged checkpoint")
    if done and not files:
        problems.append("no checkpoint")
    return max(0, done - (_position(files[0]) if files else 0)), ", ".join(problems)


def stop_once(drill: Drill, seed: int, what: tuple[str, int]) -> Stopped:
    """Stop a training in a phase, look at what it leaves, and let it go on to its end."""
    name, number = what
    phase, rng = PHASES[name], random.Random(f"{seed} {name} {number}")
    job = lay_out(drill.folder / f"{name.replace(' ', '-')}{number}", drill.data)
    if phase.is_second_run:  # a job that has a model and a checkpoint already
        with running(job, "begun") as begun:
            begun.wait_for(r"completed \S+ % of epochs")
            begun.stop(signal.SIGTERM)
    with running(job, "stopped", *phase.slow) as run:
        if not run.wait_for(phase.pattern):
            raise RuntimeError(f"the training ended before {phase.pattern}:\n{run.log}")
        time.sleep(rng.uniform(0, phase.delay_s))
        code, seconds = run.stop(signal.SIGTERM)
        log = run.log
    done = min(find_position(log), EPOCHS * UPDATES)
    lost, problem = _check(job, code, seconds, log, done)
    if not problem:
        after, log_after = run_to_end(job, "resumed")
        problem = f"then {after}" if after else describe_difference(read_outcome(job, log_after), drill.expected)
        problem = problem or ", ".join(list_leftovers(job))
    shutil.rmtree(job.base)
    return Stopped(name, round(seconds, 2), code, done, lost, problem)


def summarise(stops: Sequence[Stopped]) -> list[dict[str, object]]:
    """A row for each phase."""
    rows = []
    for name in dict.fromkeys(stop.phase for stop in stops):
        of_phase = [stop for stop in stops if stop.phase == name]
        seconds = sorted(stop.seconds for stop in of_phase)
        rows.append(
            {
                "phase": name,
                "stops": len(of_phase),
                "good": sum(not stop.problem for stop in of_phase),
                "exit codes": ", ".join(sorted({str(stop.code) for stop in of_phase})),
                "seconds, median": seconds[len(seconds) // 2],
                "most": seconds[-1],
                "updates lost, most": max(stop.lost for stop in of_phase),
            }
        )
    return rows


def run(count: int, jobs: int = 1, seed: int = 0, phases: Sequence[str] = tuple(PHASES)) -> list[Stopped]:
    """Make the drill; see the module."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory(prefix="drill-terminate-") as name, ThreadPoolExecutor(jobs) as pool:
        drill = prepare(Path(name))
        stops = []
        for stop in pool.map(partial(stop_once, drill, seed), [(name, n) for name in phases for n in range(count)]):
            stops.append(stop)
            say(f"{len(stops)} {stop}")
    return stops


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.monotonic()
    stops = run(options.count, options.jobs, options.seed)
    command = f"python -m tests.drills.terminate --count {options.count}"
    write_record("terminate", command, summarise(stops), [asdict(stop) for stop in stops], start)
    return int(any(stop.problem for stop in stops))


if __name__ == "__main__":
    sys.exit(main())
