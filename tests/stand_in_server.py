"""A server with the stand-in for a model, in processes of its own, and what tests ask of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from local_server import ServerProcess, serving
from raw_client import Reply, build_request, exchange
from repository import ROOT

STAND_IN = str(ROOT / "tests" / "stand_in.py")
_PATH = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])


@contextmanager
def starting(folder: Path, *command: str, **variables: str) -> Iterator[ServerProcess]:
    """A server that has just been started."""
    with serving(folder, folder / "serve.log", *(command or (STAND_IN,)), PYTHONPATH=_PATH, **variables) as one:
        yield one


@contextmanager
def stand_in(folder: Path, *command: str, **variables: str) -> Iterator[ServerProcess]:
    """A server that is ready."""
    with starting(folder, *command, **variables) as server:
        server.wait_until_served()
        yield server


def post_all(server: ServerProcess, bodies: Sequence[bytes]) -> list[Future[Reply]]:
    """Send them all at once, each over a connection of its own."""
    pool = ThreadPoolExecutor(len(bodies))
    replies = [pool.submit(exchange, server.port, build_request(body)) for body in bodies]
    pool.shutdown(wait=False)
    return replies


def ping(server: ServerProcess) -> Reply:
    return exchange(server.port, build_request(b"", "/ping", "GET"), "GET")


def wait_until(is_so: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until ``is_so`` says so."""
    start = time.monotonic()
    while not is_so():
        assert time.monotonic() - start < seconds
        time.sleep(0.01)
