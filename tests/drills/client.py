"""Clients of a server, many at a time in one event loop, and what became of each of their requests."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_HOST = "127.0.0.1"
REFUSED, LOST = "refused", "lost"
PING = b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Question:
    """A request and the answer that it must have."""

    data: bytes
    status: int = 200
    body: bytes | None = None
    """None: any."""


@dataclass(frozen=True)
class Outcome:
    """What became of a request; the times are monotonic. ``status`` 0: there was no answer, and ``error`` says why."""

    begun: float
    ended: float
    status: int
    error: str = ""
    is_right: bool = True
    """Whether an answer with the status that was asked for has the right body; or it is a 503 as it should be."""

    @property
    def seconds(self) -> float:
        return self.ended - self.begun


async def _read_answer(reader: asyncio.StreamReader) -> tuple[int, bool, bytes]:
    """Status, whether the client is told when to try again, and the body."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    size = int(head.partition(b"content-length: ")[2].split(b"\r\n", 1)[0])
    return int(head[9:12]), b"\r\nretry-after: " in head, await reader.readexactly(size)


async def ask(port: int, question: Question) -> Outcome:
    """Send one request over a connection of its own."""
    begun = time.monotonic()
    try:
        reader, writer = await asyncio.open_connection(_HOST, port)
    except OSError as error:
        return Outcome(begun, time.monotonic(), 0, f"{REFUSED}: {error}")
    try:
        # A server may answer, and stop to read, before it has all.
        with contextlib.suppress(ConnectionError):
            writer.write(question.data)
            await writer.drain()
        status, has_retry, body = await _read_answer(reader)
    except (OSError, asyncio.IncompleteReadError, ValueError) as error:
        return Outcome(begun, time.monotonic(), 0, f"{LOST}: {error!r}")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    is_right = has_retry if status == 503 else status == question.status and question.body in (None, body)
    return Outcome(begun, time.monotonic(), status, "", is_right)


async def run_closed(port: int, questions: Sequence[Question], clients: int, seconds: float) -> list[Outcome]:
    """Each client sends its next request when it has an answer."""
    until = time.monotonic() + seconds
    outcomes: list[Outcome] = []

    async def run_client(number: int) -> None:
        while time.monotonic() < until:
            outcomes.append(await ask(port, questions[number % len(questions)]))
            number += clients

    await asyncio.gather(*(run_client(number) for number in range(clients)))
    return outcomes


async def run_open(
    port: int, questions: Sequence[Question], rate: float, seconds: float, seed: int = 0
) -> list[Outcome]:
    """Requests come by chance (Poisson), ``rate`` a second, whatever becomes of the earlier ones."""
    draw = random.Random(seed)
    start = due = time.monotonic()
    tasks = []
    while (due := due + draw.expovariate(rate)) < start + seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(ask(port, draw.choice(questions))))
    return list(await asyncio.gather(*tasks))


async def run_pings(port: int, is_over: Callable[[], bool], interval_s: float = 0.05) -> list[Outcome]:
    """Ask /ping again and again."""
    outcomes = []
    while not is_over():
        outcomes.append(await ask(port, Question(PING)))
        await asyncio.sleep(interval_s)
    return outcomes


def pick(outcomes: Sequence[Outcome], *statuses: int) -> list[Outcome]:
    """Those with one of these statuses."""
    return [one for one in outcomes if one.status in statuses]


def compute_percentile(outcomes: Sequence[Outcome], percent: float) -> float:
    """Of the seconds; nan without outcomes."""
    ordered = sorted(one.seconds for one in outcomes)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else float("nan")


def describe_errors(outcomes: Sequence[Outcome]) -> str:
    """Each kind of failure, with its count."""
    texts = [one.error for one in outcomes if one.error]
    return "; ".join(f"{texts.count(text)} x {text}" for text in sorted(set(texts))) or "none"
