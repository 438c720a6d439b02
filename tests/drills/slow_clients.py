"""200 clients that send or read a byte a second, beside one that behaves: how much of its work it gets done.

``python -m tests.drills.slow_clients [--clients 200] [--seconds 10] [--rounds 3]``; rounds without and with them take
turns. Three kinds: the head never ends, the body never ends, the answer is never read.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import MappingProxyType

import numpy as np

from drills.client import Question, pick, run_closed
from drills.verdict import Verdict, conclude, judge
from local_server import ServerProcess
from picture import draw_noise, encode_picture
from raw_client import build_request
from stand_in import encode_mask
from stand_in_server import stand_in

SERVICE_S = 0.02
_INTERVAL_S = 1.0
_LARGE = encode_picture(np.full((400, 400, 3), 200, np.uint8))
_STARTS: Mapping[str, tuple[bytes, bytes]] = MappingProxyType(
    {
        "head": (b"POST /invocations HTTP/1.1\r\nHost: x\r\nX-Slow: ", b"a"),
        "body": (build_request(b"", Content_Length="100000") + b"\xff\xd8", b"a"),
        # 1.9 MB of probabilities; after that nothing is sent, and a byte a second is read.
        "read": (build_request(_LARGE, Accept="application/x-recordio-protobuf"), b""),
    }
)


class SlowClient:
    """One of them, on a connection of its own; it comes again when the server has let it go."""

    def __init__(self, port: int, kind: str) -> None:
        self.is_connected = False
        self._port, self._kind = port, kind

    async def run(self) -> None:
        """Never ends."""
        loop = asyncio.get_running_loop()
        start, more = _STARTS[self._kind]
        while True:
            with contextlib.suppress(OSError), socket.socket() as one:
                one.setblocking(False)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                await loop.sock_connect(one, ("127.0.0.1", self._port))
                await loop.sock_sendall(one, start)
                await self._dawdle(one, more)
            self.is_connected = False
            await asyncio.sleep(_INTERVAL_S)

    async def _dawdle(self, one: socket.socket, more: bytes) -> None:
        loop = asyncio.get_running_loop()
        self.is_connected = True
        while True:
            await asyncio.sleep(_INTERVAL_S)
            if more:
                await loop.sock_sendall(one, more)
                with contextlib.suppress(BlockingIOError):
                    one.recv(4096)  # what the server says when it has had enough
                    return
            elif not await loop.sock_recv(one, 1):
                return


@asynccontextmanager
async def besieged(port: int, kind: str, count: int) -> AsyncIterator[list[SlowClient]]:
    """``count`` slow clients, all of them connected."""
    clients = [SlowClient(port, kind) for _ in range(count)]
    tasks = [asyncio.create_task(client.run()) for client in clients]
    try:
        for _ in range(600):
            if all(client.is_connected for client in clients):
                break
            await asyncio.sleep(0.05)
        # Until what the third kind has asked for is computed.
        await asyncio.sleep(max(2.0, 1.5 * count * SERVICE_S) if kind == "read" else 0.5)
        yield clients
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True)
class Siege:
    """Answers a second that the good client had, without and with slow ones, and how many of those there were."""

    kind: str
    alone: list[float]
    besieged: list[float]
    connected: int
    failures: int

    @property
    def loss(self) -> float:
        """Share of the good client's work that it did not get done."""
        return 1 - median(self.besieged) / median(self.alone)


async def run_siege(server: ServerProcess, kind: str, count: int, seconds: float, rounds: int) -> Siege:
    """Rounds in turn."""
    picture = draw_noise(60, 80)
    questions = [Question(build_request(encode_picture(picture), Connection="close"), body=encode_mask(picture))]
    alone, under, connected, failures = [], [], count, 0
    await run_closed(server.port, questions, 1, 1)
    for _ in range(rounds):
        outcomes = await run_closed(server.port, questions, 1, seconds)
        alone.append(len(pick(outcomes, 200)) / seconds)
        async with besieged(server.port, kind, count) as clients:
            connected = min(connected, sum(client.is_connected for client in clients))
            found = await run_closed(server.port, questions, 1, seconds)
        under.append(len(pick(found, 200)) / seconds)
        failures += sum(one.status != 200 or not one.is_right for one in [*outcomes, *found])
    return Siege(kind, alone, under, connected, failures)


def judge_siege(siege: Siege, count: int) -> list[Verdict]:
    """What was promised, and what was seen."""
    return [
        judge(f"slow {siege.kind}: work that the good client did not get done", round(100 * siege.loss, 2), 5, "%"),
        judge(f"slow {siege.kind}: slow clients connected", siege.connected, count, at_least=True),
        judge(f"slow {siege.kind}: the good client's requests that failed", siege.failures, 0),
    ]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills.slow_clients", description=__doc__)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    sieges = []
    with tempfile.TemporaryDirectory() as folder, stand_in(Path(folder), STAND_IN_SECONDS=str(SERVICE_S)) as server:
        for kind in _STARTS:
            siege = run_siege(server, kind, options.clients, options.seconds, options.rounds)
            sieges.append(asyncio.run(siege))
    notes = [
        f"slow {one.kind}: {median(one.alone):.1f} answers a second alone, {median(one.besieged):.1f} beside them"
        for one in sieges
    ]
    return conclude("slow_clients", [verdict for one in sieges for verdict in judge_siege(one, options.clients)], notes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
