"""One of the things that are compared, as a process of its own that measures itself when it is asked to.

A process of its own, because thread counts are settled when a library is imported and memory is counted by
process; kept alive between rounds, because what is loaded once must not be measured each time. The two
sides talk in lines of JSON over pipes; whatever a library prints goes to standard error.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

Measurement = Mapping[str, float]
ROOT = Path(__file__).parent.parent


class VariantError(RuntimeError):
    """A variant has ended, or said nothing that can be understood."""


class Variant:
    """A running variant; a context manager that ends it.

    ``module`` is run as ``python -m module arguments...`` from the repository's root, with ``environ`` on top of the
    environment.
    """

    def __init__(
        self,
        name: str,
        module: str,
        arguments: Sequence[str] = (),
        *,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=ROOT,
            env={**os.environ, **(environ or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.ready = self._read()
        except BaseException:
            self.close()
            raise

    def run(self) -> dict[str, float]:
        """Measure one round; what the keys mean is up to the variant, ``seconds`` and ``cpu_seconds`` are there."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, float]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise VariantError(f"{self.name} has ended with code {self._process.wait()}; its messages are above")
        content: dict[str, float] = json.loads(line)
        return content

    def close(self) -> None:
        """End the process, which takes the end of its input as a goodbye."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Variant:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()


def get_cpu_seconds() -> float:
    """CPU time of this process and of its children that have ended, user and system."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def read_peak_bytes() -> int:
    """The most memory that this process has ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def serve_rounds(run: Callable[[], Mapping[str, Any] | None], ready: Mapping[str, Any] | None = None) -> None:
    """Called by a variant once it is loaded and warm: ``run`` is one round, and may return numbers of its own."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # from here on a print of a library does not get among the answers
    _answer(answers, ready or {})
    for _ in sys.stdin:
        cpu, start = get_cpu_seconds(), time.perf_counter()
        found = run() or {}
        seconds, cpu_seconds = time.perf_counter() - start, get_cpu_seconds() - cpu
        peak = {"peak_bytes": read_peak_bytes()}
        _answer(answers, {"seconds": seconds, "cpu_seconds": cpu_seconds, **peak, **found})


def _answer(answers: Any, content: Mapping[str, Any]) -> None:
    answers.write(json.dumps(content) + "\n")
    answers.flush()
