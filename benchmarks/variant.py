"""Programs that are compared, each a process of its own, measured in rounds that take turns.

A process of its own, because a library settles its number of threads when it is imported, and because memory is counted
by process. It stays alive between rounds, because what is loaded once must not be measured each time. Parent and child
send each other lines of JSON over pipes; what a library prints goes to standard error.

This module needs only the standard library: some programs run in an environment without gluonseg.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
THREADS = "OMP_NUM_THREADS"
ROUNDS = 7
"""Counted rounds; one more comes first and is dropped. Fewer than six are too few for a 95 % interval."""

Measurement = Mapping[str, Any]
Series = Mapping[str, Sequence[Measurement]]
"""The measurements of each program, round by round."""


class VariantError(RuntimeError):
    """A program that is compared has ended."""


class Variant:
    """``python -m MODULE ARGUMENT ...``, run in the repository's folder while the context is open.

    Without ``threads`` the program takes its own default. ``python`` is the Python of another environment.
    """

    def __init__(self, *command: str, threads: int | None = None, python: str = sys.executable) -> None:
        self._command = (python, "-m", *command)
        self._environ = {name: value for name, value in os.environ.items() if name != THREADS}
        if threads:
            self._environ[THREADS] = str(threads)

    def __enter__(self) -> Variant:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, cwd=ROOT, env=self._environ, stdin=pipe, stdout=pipe, text=True)
        self.ready = self._read()
        return self

    def __exit__(self, *_details: object) -> None:
        self._process.communicate()  # it ends when its standard input does

    def run(self) -> Measurement:
        """Measure one round: the keys that :func:`serve_rounds` names, and those of the program itself."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return {**self.ready, **self._read()}

    def _read(self) -> Measurement:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()
            command = " ".join(self._command[2:])
            raise VariantError(f"{command} has ended with code {self._process.returncode}; its messages are above")
        found: Measurement = json.loads(line)
        return found


def run_rounds(runs: Mapping[str, Callable[[], Measurement]], rounds: int = ROUNDS) -> Series:
    """A B C, A B C, ...; the measurements of the first round are dropped."""
    found = [{name: run() for name, run in runs.items()} for _ in range(1 + rounds)][1:]
    return {name: [measurements[name] for measurements in found] for name in runs}


def compare(variants: Mapping[str, Variant]) -> Series:
    """Start all programs, and measure them in turn."""
    with ExitStack() as stack:
        return run_rounds({name: stack.enter_context(variant).run for name, variant in variants.items()})


def pick(series: Series, key: str, ours: str, theirs: str) -> tuple[list[float], list[float]]:
    """One number of each round of two programs."""
    return [found[key] for found in series[ours]], [found[key] for found in series[theirs]]


def get_peak_mb() -> float:
    """The most memory that this process has ever had resident, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _get_cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def serve_rounds(run: Callable[[], Measurement | None], ready: Measurement | None = None, count: int = 1) -> None:
    """Called by a program once it is loaded and warm; measures ``run`` whenever the parent asks for it.

    A round handles ``count`` photos or steps, or the ``count`` that ``run`` returns; ``rate`` is how many a second,
    ``cpu_rate`` how many in a second of CPU time.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not get among the answers
    print(json.dumps(ready or {}), file=answers, flush=True)
    for _ in sys.stdin:
        cpu, start = _get_cpu_seconds(), time.perf_counter()
        found = {"count": count, **(run() or {})}
        seconds, cpu_seconds = time.perf_counter() - start, _get_cpu_seconds() - cpu
        found |= {"seconds": seconds, "rate": found["count"] / seconds, "cpu_rate": found["count"] / cpu_seconds}
        print(json.dumps({**found, "peak_mb": get_peak_mb()}), file=answers, flush=True)
