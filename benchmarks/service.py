"""``gluonseg serve`` as a process, timed until it is up, its memory read; and clients of it, in threads."""

from __future__ import annotations

import http.client
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import psutil  # type: ignore[import-untyped]

from benchmarks.variant import ROOT, Measurement

_START_LIMIT_S, _STOP_LIMIT_S, _ANSWER_LIMIT_S = 180, 40, 600

T = TypeVar("T")


class ServiceError(RuntimeError):
    """The server has ended, has not come up, or has answered with something other than a mask."""


def _find_free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


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
    """``gluonseg serve`` as shipped, with the model in ``model``; a context manager that stops it.

    ``ready_s`` is the time from its start to the first 200 of /ping.
    """

    def __init__(self, model: Path, log: Path) -> None:
        self.port, self._log = _find_free_port(), log
        command = (sys.executable, "-m", "gluonseg", "serve", "--model", str(model), "--host", "127.0.0.1")
        start = time.perf_counter()
        with log.open("wb") as output:
            self._process = psutil.Popen(
                [*command, "--port", str(self.port)],
                cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip
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


def ask(port: int, photo: Path, clients: int = 1, requests: int = 1) -> list[float]:
    """``clients`` send the photo ``requests`` times each, all at a time; the seconds of each answer."""
    body = photo.read_bytes()

    def run(_: int) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_ANSWER_LIMIT_S)
        seconds = []
        for _ in range(requests):
            start = time.perf_counter()
            connection.request("POST", "/invocations", body, {"Content-Type": "image/jpeg", "Accept": "image/png"})
            answer = connection.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise ServiceError(f"status {answer.status}: {content[:300]!r}")
            seconds.append(time.perf_counter() - start)
        connection.close()
        return seconds

    with ThreadPoolExecutor(clients) as pool:
        return [one for seconds in pool.map(run, range(clients)) for one in seconds]


def measure_rate(port: int, photo: Path, clients: int, requests: int = 1) -> Measurement:
    """Photos a second."""
    start = time.perf_counter()
    ask(port, photo, clients, requests)
    return {"rate": clients * requests / (time.perf_counter() - start)}
