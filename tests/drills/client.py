"""Clients of a server, many at a time in one event loop, and what became of each of their requests."""

from __future__ import annotations

import asyncio
import contextlib
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

TIMEOUT_S = 60


@dataclass(frozen=True)
class Question:
    """A request that closes its connection, and the answer that it must have; any body if ``body`` is None."""

    data: bytes
    status: int = 200
    body: bytes | None = None


PING = Question(b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")


@dataclass(frozen=True)
class Outcome:
    """What became of a request; the times are monotonic. ``status`` 0: there was no answer, and ``error`` says why."""

    begun: float
    sent: float
    """When its first byte was sent, or it was clear that there is no connection."""
    ended: float
    status: int = 0
    is_right: bool = False
    """Whether it has the status and the body that it must have, or is a 503 that says when to try again."""
    error: str = ""


async def _read_answer(reader: asyncio.StreamReader, question: Question) -> tuple[int, bool]:
    """Status, and whether the answer is right."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    body = await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r\n", 1)[0]))
    status = int(head[9:12])
    if status == 503:
        return status, b"\r\nretry-after: " in head
    return status, status == question.status and question.body in (None, body)


async def ask(port: int, question: Question) -> Outcome:
    """Send one request over a connection of its own."""
    begun, sent = time.monotonic(), math.inf
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        with contextlib.closing(writer):
            writer.write(question.data)
            sent = time.monotonic()
            status, is_right = await asyncio.wait_for(_read_answer(reader, question), TIMEOUT_S)
    except (OSError, asyncio.IncompleteReadError, asyncio.TimeoutError) as error:
        ended = time.monotonic()
        return Outcome(begun, min(sent, ended), ended, error=type(error).__name__)
    return Outcome(begun, sent, time.monotonic(), status, is_right)


def lasting(seconds: float) -> Callable[[], bool]:
    """Says, for :func:`run_closed`, whether so many seconds are over."""
    until = time.monotonic() + seconds
    return lambda: time.monotonic() >= until


async def run_closed(
    port: int, questions: Sequence[Question], clients: int, is_over: Callable[[], bool], retry_s: float = 0.0
) -> list[Outcome]:
    """Each client sends its next request when it has an answer, or ``retry_s`` after it had none or a refusal."""
    outcomes: list[Outcome] = []

    async def run_client(number: int) -> None:
        while not is_over():
            outcomes.append(await ask(port, questions[number % len(questions)]))
            if outcomes[-1].status != 200:
                await asyncio.sleep(retry_s)

    await asyncio.gather(*(run_client(number) for number in range(clients)))
    return outcomes


async def run_open(port: int, questions: list[Question], rate: float, seconds: float, seed: int = 0) -> list[Outcome]:
    """Requests come by chance (Poisson), ``rate`` a second, whatever becomes of the earlier ones."""
    draw = random.Random(seed)
    start = due = time.monotonic()
    tasks = []
    while (due := due + draw.expovariate(rate)) < start + seconds:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        tasks.append(asyncio.create_task(ask(port, draw.choice(questions))))
    return list(await asyncio.gather(*tasks))


def find_failures(outcomes: Sequence[Outcome], *, may_refuse: bool = False) -> list[Outcome]:
    """Those that are not the right answer, nor a 503 as it should be where the server may refuse."""
    return [one for one in outcomes if not one.is_right or (one.status == 503 and not may_refuse)]


def compute_p99_ms(outcomes: Sequence[Outcome]) -> float:
    """Of a hundred, 99 did not take longer."""
    return 1e3 * float(np.percentile([one.ended - one.begun for one in outcomes], 99)) if outcomes else math.nan


def describe(outcomes: Sequence[Outcome]) -> str:
    """Each status or error, with its count."""
    texts = [one.error or str(one.status) for one in outcomes]
    return ", ".join(f"{texts.count(text)} x {text}" for text in sorted(set(texts))) or "none"
