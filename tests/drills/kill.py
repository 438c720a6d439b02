"""SIGKILL at random instants of a training, and inside the writing of its checkpoints: it must go on exactly.

``python -m tests.drills.kill [--count 200] [--boundaries 60] [--jobs 1] [--seed 0]``

Each kill is of a training of its own, which then runs again as SageMaker would start it, and is compared with one that
was never interrupted: sha256 of model_best.params, model_algo-1, model.onnx and the model's card, of all parameters and
optimizer states, and each metric line. Every process is ``container/train`` itself; every second one keeps a checkpoint
after each update instead of each epoch. A boundary is a kill before, inside or after a call that changes the folder of
the checkpoints.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from drills.fault import Call, Shim, build_library, extend_environment, list_moments, read_calls
from drills.record import say, write_record
from drills.training import (
    CONFIGURED,
    EPOCHS,
    SIGKILLED,
    UPDATES,
    Outcome,
    describe_difference,
    draw_data,
    find_position,
    find_resumed,
    lay_out,
    list_leftovers,
    list_metrics,
    read_outcome,
    run_to_end,
    running,
)
from job_layout import Job

EVERY_UPDATE = ("--interval", "0")
SWEEP = Path(__file__).with_name("sweep.py")


@dataclass(frozen=True)
class Kill:
    """One kill: where it was, the updates done by then, those lost, and in what the end differs from what it should be.

    ``differs`` is empty when nothing does.
    """

    kind: str
    where: str
    done: int
    lost: int
    differs: str


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


def prepare(folder: Path, epochs: int = EPOCHS, repeats: int = 2) -> Drill:
    """Run the training that nobody interrupts, more than once: it has to end in the same way by itself."""
    data, outcomes, seconds = draw_data(folder), [], 0.0
    for number in range(repeats):
        job = lay_out(folder / f"whole{number}", data, epochs=str(epochs))
        with running(job, "whole") as run:
            run.wait_for(CONFIGURED)
            start = time.monotonic()
            if code := run.process.wait(timeout=600):
                raise RuntimeError(f"the uninterrupted training ended with {code}:\n{run.log}")
            seconds = time.monotonic() - start
            outcomes.append(read_outcome(job, run.log))
        shutil.rmtree(job.base)
    if difference := describe_difference(outcomes[0], outcomes[-1]):
        raise RuntimeError(f"two uninterrupted trainings differ in {difference}")
    return Drill(folder, epochs, data, outcomes[0], seconds)


def _resume(drill: Drill, job: Job, kind: str, where: str, killed_log: str, options: Sequence[str]) -> Kill:
    """Run the killed training again, to its end."""
    code, log = run_to_end(job, "resumed", *options)
    done = find_position(killed_log)
    differs = f"exit code {code}" if code else describe_difference(read_outcome(job, log), drill.expected)
    before, after = list_metrics(killed_log), list_metrics(log)
    if before != list(drill.expected.metrics)[: len(before)] or len(before) + len(after) < len(drill.expected.metrics):
        differs += " metric lines before the kill"
    if leftovers := list_leftovers(job):
        differs += f" leftovers: {', '.join(leftovers)}"
    shutil.rmtree(job.base)
    return Kill(kind, where, done, max(0, done - find_resumed(log)), differs.strip())


def kill_at_random(drill: Drill, seed: int, number: int) -> Kill:
    """Kill a training at an instant between the reading of its data and its end, all of the same chance."""
    rng = random.Random(seed * 1_000_003 + number)
    options = EVERY_UPDATE if number % 2 else ()
    for attempt in itertools.count():
        job = drill.lay_out(f"kill{number}.{attempt}")
        with running(job, "killed", *options) as run:
            run.wait_for(CONFIGURED)
            delay = rng.uniform(0, drill.seconds)
            try:
                run.process.wait(delay)
            except subprocess.TimeoutExpired:
                run.stop(9)
                kind = "each update" if options else "each epoch"
                return _resume(drill, job, kind, f"{delay:.3f} s", run.log, options)
        shutil.rmtree(job.base)  # it was faster than the uninterrupted one
    raise AssertionError


def choose_boundaries(drill: Drill, library: Path, count: int) -> list[tuple[Call, str]]:
    """``count`` moments among all calls of a training that change the folder of its checkpoints, in even steps."""
    job = drill.lay_out("calls")
    log = drill.folder / "calls.txt"
    run_to_end(job, "calls", **Shim(library, (job.base / "checkpoints",)).list_to(log))
    shutil.rmtree(job.base)
    moments = list_moments(read_calls(log))
    step = max(1.0, len(moments) / count)
    return [moments[int((index + 0.5) * step)] for index in range(min(count, len(moments)))]


def kill_at_boundary(drill: Drill, library: Path, boundary: tuple[Call, str]) -> Kill:
    """Kill a training before, inside or after a call that changes the folder of its checkpoints."""
    call, moment = boundary
    job = drill.lay_out(f"boundary{call.number}{moment}")
    shim = Shim(library, (job.base / "checkpoints",))
    code, log = run_to_end(job, "killed", **shim.die_at(call.number, moment))
    if code != SIGKILLED:
        raise RuntimeError(f"call {call.number} did not end the training, but {code}:\n{log}")
    return _resume(drill, job, "boundary", f"{moment} call {call.number}, {call.name}", log, ())


def iter_folder_boundaries(folder: Path, library: Path) -> Iterator[Kill]:
    """All moments of a process that writes four checkpoints; after each the folder must hold whole ones alone."""
    log, target = folder / "writes.txt", folder / "writes"
    environment = extend_environment(Shim(library, (target,)).list_to(log))
    command = [sys.executable, str(SWEEP), str(target), str(log)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    for number, name, moment, problems in map(json.loads, done.stdout.splitlines()):
        yield Kill("folder", f"{moment} call {number}, {name}", 0, 0, problems)


def summarise(kills: Sequence[Kill]) -> list[dict[str, object]]:
    """A row for each kind of kill."""
    rows = []
    for kind in dict.fromkeys(kill.kind for kill in kills):
        of_kind = [kill for kill in kills if kill.kind == kind]
        lost = [kill.lost for kill in of_kind]
        rows.append(
            {
                "kills": kind,
                "number": len(of_kind),
                "equal": sum(not kill.differs for kill in of_kind),
                "updates lost, most": max(lost),
                "mean": round(sum(lost) / len(lost), 2),
            }
        )
    return rows


def run(count: int, boundaries: int, jobs: int = 1, seed: int = 0) -> list[Kill]:
    """Make the drill; see the module."""
    with tempfile.TemporaryDirectory(prefix="drill-kill-") as name, ThreadPoolExecutor(jobs) as pool:
        folder = Path(name)
        kills = []
        drill = prepare(folder)
        say(f"an uninterrupted training works for {drill.seconds:.1f} s; {UPDATES} updates in an epoch")
        for kill in pool.map(partial(kill_at_random, drill, seed), range(count)):
            kills.append(kill)
            say(f"{len(kills)} {kill}")
        if boundaries:
            library = build_library(folder)
            kills += iter_folder_boundaries(folder, library)
            chosen = choose_boundaries(drill, library, boundaries)
            for kill in pool.map(partial(kill_at_boundary, drill, library), chosen):
                kills.append(kill)
                say(f"{len(kills)} {kill}")
    return kills


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--boundaries", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    start = time.monotonic()
    kills = run(options.count, options.boundaries, options.jobs, options.seed)
    command = f"python -m tests.drills.kill --count {options.count} --boundaries {options.boundaries}"
    write_record("kill", command, summarise(kills), [asdict(kill) for kill in kills], start)
    return int(any(kill.differs for kill in kills))


if __name__ == "__main__":
    sys.exit(main())
