"""A server as a process, timed until it is up, its memory read; and clients of it, each with one request at a time."""

from __future__ import annotations

import http.client
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil  # type: ignore[import-untyped]

from benchmarks.variant import ROOT, Measurement

INVOCATIONS = "/invocations"
_START_LIMIT_S, _STOP_LIMIT_S, _ANSWER_LIMIT_S = 180, 40, 600
_PORTS = range(20_000, 30_000)
"""Below those that the system gives away by itself, some of which servers refuse."""

T = TypeVar("T")


class ServiceError(RuntimeError):
    """A server has ended, has not come up, or has answered with something other than a mask."""


def find_free_port() -> int:
    """A port of this machine that nobody listens on."""
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise ServiceError(f"all ports from {_PORTS[0]} to {_PORTS[-1]} are taken")


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ping")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Service:
    """A running server, started in ``folder``; a context manager that stops it.

    ``ready_s`` is the time from its start to the first 200 of /ping.
    """

    def __init__(
        self,
        command: Sequence[str],
        port: int,
        *,
        log: Path,
        environ: Mapping[str, str] | None = None,
        folder: Path = ROOT,
    ) -> None:
        self.port, self._log = port, log
        start = time.perf_counter()
        with log.open("wb") as output:
            self._process = psutil.Popen(
                command, cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            self._wait(start)
        except BaseException:
            self.close()
            raise
        self.ready_s = time.perf_counter() - start

    def _wait(self, start: float) -> None:
        while not _is_ready(self.port):
            if self._process.poll() is not None or time.perf_counter() - start > _START_LIMIT_S:
                tail = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise ServiceError(f"the server did not come up; the end of its log:\n{tail}")
            time.sleep(0.02)

    def _find_processes(self) -> list[Any]:
        return [self._process, *self._process.children(recursive=True)]

    def read_pss_mb(self) -> float:
        """Megabytes of memory of all its processes, shared pages counted once; ServiceError when it has ended."""
        if self._process.poll() is not None:
            raise ServiceError(f"the server has ended with code {self._process.returncode}; its log is {self._log}")
        found = 0
        for process in self._find_processes():
            with suppress(psutil.NoSuchProcess):
                found += process.memory_full_info().pss
        return found / 1e6

    def read_idle_pss_mb(self, patience_s: float = 60) -> float:
        """The same, once it has stayed within a hundredth for two seconds: no process loads anything any more."""
        deadline = time.monotonic() + patience_s
        earlier, now = 0.0, self.read_pss_mb()
        while abs(now - earlier) > 0.01 * now and time.monotonic() < deadline:
            time.sleep(2)
            earlier, now = now, self.read_pss_mb()
        return now

    def watch_pss_mb(self, work: Callable[[], T]) -> tuple[T, float]:
        """What ``work`` returns, and the most memory that is seen while it runs."""
        with ThreadPoolExecutor(1) as pool:
            running, most = pool.submit(work), self.read_pss_mb()
            while not running.done():
                wait([running], 0.2)
                most = max(most, self.read_pss_mb())
        return running.result(), most

    def close(self) -> None:
        """SIGTERM, and SIGKILL for what is left of it after a while."""
        if self._process.poll() is not None:
            return
        left = self._find_processes()
        for stop, limit_s in (("terminate", _STOP_LIMIT_S), ("kill", 10)):
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    getattr(process, stop)()
            _, left = psutil.wait_procs(left, limit_s)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_details: object) -> None:
        self.close()


def start_gluonseg(model: Path, log: Path) -> Service:
    """``gluonseg serve`` as shipped."""
    port = find_free_port()
    command = (sys.executable, "-m", "gluonseg", "serve", "--model", str(model), "--host", "127.0.0.1")
    return Service([*command, "--port", str(port)], port, log=log)


def ask(
    port: int, photo: Path, clients: int = 1, requests: int = 1, path: str = INVOCATIONS
) -> list[tuple[float, bytes]]:
    """``clients`` send the photo ``requests`` times each, all at a time; the seconds of each answer, and its mask."""
    body = photo.read_bytes()

    def run(_: int) -> list[tuple[float, bytes]]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_LIMIT_S)
        answers = []
        for _ in range(requests):
            start = time.perf_counter()
            connection.request("POST", path, body, {"Content-Type": "image/jpeg", "Accept": "image/png"})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise ServiceError(f"status {answer.status}: {content[:300]!r}")
            answers.append((time.perf_counter() - start, content))
        connection.close()
        return answers

    with ThreadPoolExecutor(clients) as pool:
        return [answer for answers in pool.map(run, range(clients)) for answer in answers]


def measure_rate(port: int, photo: Path, clients: int, requests: int = 1, path: str = INVOCATIONS) -> Measurement:
    """Photos a second."""
    start = time.perf_counter()
    ask(port, photo, clients, requests, path)
    return {"rate": clients * requests / (time.perf_counter() - start)}
