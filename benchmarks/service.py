"""A server as a process: started, timed until it is up, its memory, stopped."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from benchmarks.variant import ROOT

START_LIMIT_S = 180
_POLL_S = 0.02
_PORTS = range(20_000, 30_000)
_STOP_LIMIT_S = 40
_MEMORY_POLL_S = 0.2
_PROC = Path("/proc")
NO_CONNECTION, NO_STATUS = 0, -1
"""In place of a status: nobody has answered; what was answered is not HTTP."""

T = TypeVar("T")


class ServiceError(RuntimeError):
    """A server has ended, or not come up, or cannot be measured."""


def find_free_port() -> int:
    """A port of this machine that nobody listens on, below those that the system gives away by itself.

    Some servers refuse those.
    """
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            return port
    raise ServiceError(f"all ports from {_PORTS[0]} to {_PORTS[-1]} are taken")


def _ping(port: int) -> int:
    """Status of GET /ping, or what stands for it. By hand: a client that is heavy would take from the server."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as one:
            one.sendall(b"GET /ping HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = one.recv(12)
    except OSError:
        return NO_CONNECTION
    words = answer.split()
    if not words:
        return NO_CONNECTION
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else NO_STATUS


def _iter_tree(pid: int) -> Iterator[int]:
    """The process and all its descendants; raises ServiceError where /proc does not tell them."""
    yield pid
    folder = _PROC / str(pid) / "task"
    try:
        threads = os.listdir(folder)
    except OSError:  # it has just ended
        return
    for thread in threads:
        for child in _read_proc(folder / thread, "children").split():
            yield from _iter_tree(int(child))


def _read_proc(folder: Path, name: str) -> str:
    """A file about a process or thread; empty when that has just ended.

    Raises ServiceError where there is no such file or it may not be read: the memory would be counted as none.
    """
    try:
        return (folder / name).read_text(encoding="ascii")
    except ProcessLookupError:
        return ""
    except OSError as error:
        # Looked for afterwards: what is there now was there when its file was not.
        if folder.is_dir():
            raise ServiceError(f"the memory of a server cannot be told on this system: {error}") from error
        return ""


def _read_pss(pid: int) -> int:
    lines = _read_proc(_PROC / str(pid), "smaps_rollup").splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


class Service:
    """A running server, in a process group of its own, started in ``folder``; a context manager that stops it.

    ``ready_s`` is the time from its start to the first 200 of /ping, ``early`` what it said before that: statuses,
    :data:`NO_CONNECTION`, :data:`NO_STATUS`.
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
        self.port = port
        self._log = log
        start = time.perf_counter()
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.early: list[int] = []
        try:
            self.ready_s = self._wait(start)
        except BaseException:
            self.close()
            raise

    def _wait(self, start: float) -> float:
        while time.perf_counter() - start < START_LIMIT_S:
            status = _ping(self.port)
            if status == 200:
                return time.perf_counter() - start
            self.early.append(status)
            if self._process.poll() is not None:
                break
            time.sleep(_POLL_S)
        tail = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise ServiceError(f"the server did not come up; the end of its log:\n{tail}")

    def read_pss(self) -> int:
        """Bytes of memory of all its processes, shared pages counted once.

        Raises ServiceError when it has ended, or when this system does not tell the memory of each of its processes.
        """
        if self._process.poll() is not None:
            raise ServiceError(f"the server has ended with code {self._process.returncode}; its log is {self._log}")
        found = sum(_read_pss(pid) for pid in _iter_tree(self._process.pid))
        if not found:
            raise ServiceError("the memory of a server cannot be told on this system, or it has just ended")
        return found

    def watch_pss(self, work: Callable[[], T]) -> tuple[T, int]:
        """What ``work`` returns, and the most memory that is seen while it runs."""
        with ThreadPoolExecutor(1) as pool:
            running, most = pool.submit(work), self.read_pss()
            while not running.done():
                wait([running], _MEMORY_POLL_S)
                most = max(most, self.read_pss())
        return running.result(), most

    def read_idle_pss(self, patience_s: float = 60) -> int:
        """The same, once it has stayed within a hundredth for two seconds: no process loads anything any more."""
        deadline = time.monotonic() + patience_s
        earlier, now = 0, self.read_pss()
        while abs(now - earlier) > 0.01 * now and time.monotonic() < deadline:
            time.sleep(2)
            earlier, now = now, self.read_pss()
        return now

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """All its processes stand still, so that what they do at rest slows nobody down."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    def close(self) -> None:
        """SIGTERM, and SIGKILL for what is left of it after a while."""
        for number, limit_s in ((signal.SIGTERM, _STOP_LIMIT_S), (signal.SIGKILL, 10)):
            deadline = time.monotonic() + limit_s
            if self._signal(number):
                return
            while time.monotonic() < deadline:
                self._process.poll()  # a process that has ended is in its group until somebody asks for its code
                if self._signal(0):
                    return
                time.sleep(0.05)

    def _signal(self, number: int) -> bool:
        """Send a signal to all processes of the group; returns whether there are none."""
        try:
            os.killpg(self._process.pid, number)
        except ProcessLookupError:
            return True
        return False

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.close()


def start_gluonseg(model: Path, log: Path) -> Service:
    """``gluonseg serve`` as shipped: no variable of the environment tells it anything."""
    port = find_free_port()
    command = (sys.executable, "-m", "gluonseg", "serve", "--model", str(model), "--host", "127.0.0.1")
    return Service([*command, "--port", str(port)], port, log=log)
