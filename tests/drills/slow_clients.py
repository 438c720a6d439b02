"""200 clients that send a byte of a head or of a body a second, or read one, beside one client that behaves.

``python -m tests.drills.slow_clients [--rounds 3]``; rounds without and with them take turns.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from types import MappingProxyType

import numpy as np

from drills.client import TIMEOUT_S, find_failures, lasting, run_closed
from drills.overload import draw_questions, open_server
from drills.verdict import Verdict, judge, judge_none, run_drill
from local_server import ServerProcess
from picture import encode_picture
from raw_client import build_request

CLIENTS = 200
_LARGE = encode_picture(np.full((200, 200, 3), 200, np.uint8))
_READ = "read"
STARTS: Mapping[str, bytes] = MappingProxyType(
    {
        "head": b"POST /invocations HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        "body": build_request(b"", Content_Length="100000") + b"\xff\xd8",
        # 480 kB of probabilities.
        _READ: build_request(_LARGE, Accept="application/x-recordio-protobuf"),
    }
)


@contextlib.contextmanager
def besieging(port: int, kind: str) -> Iterator[list[socket.socket]]:
    """Slow clients that are connected. They come one after the other: those that read are computed for first."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(CLIENTS):
            one = stack.enter_context(socket.socket())
            one.settimeout(TIMEOUT_S)
            # As from afar: neither end's kernel takes a large part of an answer that is not read.
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)
            one.connect(("127.0.0.1", port))
            one.sendall(STARTS[kind])
            if kind != _READ or one.recv(12).endswith(b"200"):
                one.setblocking(False)
                clients.append(one)
        yield clients


async def _dawdle(clients: Sequence[socket.socket], kind: str) -> None:
    """Send or read a byte a second for each; never ends."""
    for one in itertools.cycle(clients):
        with contextlib.suppress(OSError):
            one.recv(1) if kind == _READ else one.send(b"a")
        await asyncio.sleep(1 / CLIENTS)


def _is_waiting(one: socket.socket, kind: str) -> bool:
    """Whether the server has left a slow client alone: it still sends to one that reads, and nothing to another."""
    try:
        return one.recv(1) != b"" and kind == _READ
    except OSError as error:
        return isinstance(error, BlockingIOError)


async def run_siege(server: ServerProcess, kind: str, seconds: float, rounds: int) -> list[Verdict]:
    """Rounds without and with slow clients in turn."""
    questions, alone, beside, waiting = draw_questions(server), [], [], CLIENTS
    for _ in range(rounds):
        alone.append(await run_closed(server.port, questions, 1, lasting(seconds)))
        with besieging(server.port, kind) as clients:
            dawdling = asyncio.create_task(_dawdle(clients, kind))
            beside.append(await run_closed(server.port, questions, 1, lasting(seconds)))
            dawdling.cancel()
            waiting = min(waiting, sum(_is_waiting(one, kind) for one in clients))
    outcomes = list(itertools.chain(*alone, *beside))
    rates = [median(map(len, some)) / seconds for some in (alone, beside)]
    return [
        judge(f"slow {kind}: the good client's answers, over those alone", rates[1] / rates[0], 0.8, at_least=True),
        judge_none(f"slow {kind}: its requests that failed", find_failures(outcomes), outcomes),
        judge(f"slow {kind}: slow clients until the end", waiting, CLIENTS, at_least=True),
        Verdict(f"slow {kind}: answers a second alone and beside them", f"{rates[0]:.1f}, {rates[1]:.1f}"),
    ]


def drill(folder: Path, rounds: int) -> list[Verdict]:
    """All kinds, one after the other, at one server."""
    with open_server(folder, stand_in=0.02) as server:
        sieges = [asyncio.run(run_siege(server, kind, 10, rounds)) for kind in STARTS]
    return list(itertools.chain(*sieges))


if __name__ == "__main__":
    sys.exit(run_drill("slow_clients", __doc__, drill, rounds=3))
