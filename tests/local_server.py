"""A server on this machine, in a process or a container: its port, requests to it, waiting until it answers."""

from __future__ import annotations

import http.client
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pytest

from program import build_environment
from repository import ROOT

SERVE = ROOT / "container" / "serve"


def find_free_port() -> int:
    """A port that is free at every address of this machine."""
    with socket.socket() as one:
        one.bind(("", 0))
        port: int = one.getsockname()[1]
    return port


class Answer(NamedTuple):
    """What came back."""

    status: int
    content_type: str
    body: bytes


class LocalServer(ABC):
    """A server that was started."""

    @abstractmethod
    def find_port(self) -> int:
        """Where it listens on 127.0.0.1."""

    @abstractmethod
    def is_running(self) -> bool:
        """Whether it has not ended."""

    @abstractmethod
    def read_log(self) -> str:
        """What it wrote until now."""

    def request(self, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        """POST ``body`` when there is one, GET otherwise."""
        connection = http.client.HTTPConnection("127.0.0.1", self.find_port(), timeout=60)
        try:
            connection.request("GET" if body is None else "POST", path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, response.getheader("Content-Type", ""), response.read())
        finally:
            connection.close()

    def wait_until_served(self, timeout_s: float = 120) -> list[int]:
        """Wait until /ping says 200; every status that it gave until then."""
        statuses: list[int] = []
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.is_running():
            with suppress(OSError, http.client.HTTPException):
                statuses.append(self.request("/ping").status)
                if statuses[-1] == 200:
                    return statuses
            time.sleep(0.05)
        pytest.fail(f"the server did not start:\n{self.read_log()}")


@dataclass(frozen=True)
class ServerProcess(LocalServer):
    """A server in a process of its own."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def find_port(self) -> int:
        return self.port

    def is_running(self) -> bool:
        return self.process.poll() is None

    def read_log(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def stop(self) -> int:
        """Send SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=40)


@contextmanager
def started_server(
    command: Sequence[str], port: int, log: Path, environment: Mapping[str, str], cwd: Path | None = None
) -> Iterator[ServerProcess]:
    """Run ``command``, which serves at ``port``; it has ended afterwards, whatever happened."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, cwd=cwd, stdout=output, stderr=output)
    try:
        yield ServerProcess(process, port, log)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(timeout=40)


@contextmanager
def serving(base: Path, log: Path, *command: str, **variables: str) -> Iterator[ServerProcess]:
    """Run ``container/serve``, or Python with the arguments ``command``, with ``base`` for /opt/ml."""
    port = find_free_port()
    environment = build_environment(
        SAGEMAKER_BASE_DIR=str(base), SAGEMAKER_BIND_TO_PORT=str(port), OMP_NUM_THREADS="1", **variables
    )
    with started_server([sys.executable, *(command or [str(SERVE)])], port, log, environment) as server:
        yield server
