"""A server with the stand-in for a model, in processes of its own, and what tests ask of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from local_server import ServerProcess, serving
from picture import draw_noise, encode_picture
from program import build_environment
from raw_client import Reply, build_request, exchange
from repository import ROOT

STAND_IN = str(ROOT / "tests" / "stand_in.py")
PNG = encode_picture(draw_noise(20, 30))
PING = build_request(b"", "/ping", "GET")
AT_ONCE_S = 0.5
"""A refusal takes a few milliseconds; this leaves room for a machine that is busy with other things."""


def _join_path() -> str:
    """The package and the tests, ahead of what PYTHONPATH says."""
    return os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])


def describe_stand_in(port: int, **variables: str) -> dict[str, str]:
    """The environment of such a server."""
    return build_environment(SAGEMAKER_BIND_TO_PORT=str(port), PYTHONPATH=_join_path(), **variables)


@contextmanager
def starting(folder: Path, *command: str, **variables: str) -> Iterator[ServerProcess]:
    """A server that has just been started."""
    with serving(folder, folder / "serve.log", *(command or (STAND_IN,)), PYTHONPATH=_join_path(), **variables) as one:
        yield one


@contextmanager
def stand_in(folder: Path, *command: str, **variables: str) -> Iterator[ServerProcess]:
    """A server that is ready."""
    with starting(folder, *command, **variables) as server:
        server.wait_until_served()
        yield server


def draw(number: int) -> bytes:
    """A picture that is not any other number's."""
    return encode_picture(draw_noise(20, 30, seed=number))


def post_all(server: ServerProcess, bodies: Sequence[bytes]) -> list[Future[Reply]]:
    """Send them all at once, each over a connection of its own."""
    pool = ThreadPoolExecutor(len(bodies))
    replies = [pool.submit(exchange, server.port, build_request(body)) for body in bodies]
    pool.shutdown(wait=False)
    return replies


def ping(server: ServerProcess) -> Reply:
    return exchange(server.port, PING, "GET")


def wait_until(is_so: Callable[[], bool], seconds: float = 20.0) -> float:
    """Wait until a function says so; the seconds that it took."""
    start = time.monotonic()
    while not is_so():
        assert time.monotonic() - start < seconds
        time.sleep(0.01)
    return time.monotonic() - start
