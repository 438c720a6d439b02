"""More clients than there are places, with /ping beside them; then ten times as many requests as can be answered.

``python -m tests.drills.overload [--minutes 2] [--stand-in SECONDS]``
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from drills.client import PING, Question, compute_p99_ms, describe, find_failures, lasting, run_closed, run_open
from drills.verdict import Verdict, judge, judge_none, run_drill
from local_server import ServerProcess, serving
from picture import draw_noise, encode_picture
from process_tree import Usage, read_usage
from raw_client import build_request, exchange
from served_model import prepare_base
from stand_in_server import starting

PEAK_CLIENTS, CROWD = 4, 32
FACTOR = 10
PING_RATE = 20.0
_SIZES = ((120, 160), (140, 140), (110, 180))


@contextmanager
def open_server(folder: Path, stand_in: float = 0.0) -> Iterator[ServerProcess]:
    """The server with a real network, or with a stand-in that takes ``stand_in`` seconds."""
    if stand_in:
        opened = starting(folder, STAND_IN_SECONDS=str(stand_in))
    else:
        opened = serving(prepare_base(folder / "ml"), folder / "serve.log")
    with opened as server:
        server.wait_until_served()
        yield server


def draw_questions(server: ServerProcess) -> list[Question]:
    """Photos of several sizes, with the masks that the server gives for them when it has nothing else to do."""
    photos = [encode_picture(draw_noise(*size, seed=number), "JPEG") for number, size in enumerate(_SIZES)]
    requests = [build_request(photo, Connection="close") for photo in photos]
    return [Question(request, body=exchange(server.port, request).body) for request in requests]


async def measure_peak(server: ServerProcess, questions: list[Question], seconds: float) -> float:
    """Answers a second to a few clients, of whom none is refused."""
    await run_closed(server.port, questions, PEAK_CLIENTS, lasting(seconds / 4))
    return len(await run_closed(server.port, questions, PEAK_CLIENTS, lasting(seconds))) / seconds


async def watch(server: ServerProcess, seconds: float, interval_s: float = 1.0) -> list[tuple[float, Usage]]:
    """What the server uses, with the seconds since the beginning."""
    start = time.monotonic()
    samples = []
    while (now := time.monotonic() - start) < seconds:
        samples.append((now, read_usage(server.process.pid)))
        await asyncio.sleep(interval_s)
    return samples


async def run_overload(server: ServerProcess, seconds: float, peak_s: float) -> list[Verdict]:
    """Measure the peak; let a crowd come; overload."""
    port, questions = server.port, draw_questions(server)
    peak = await measure_peak(server, questions, peak_s)
    crowd, crowd_pings = await asyncio.gather(
        run_closed(port, questions, CROWD, lasting(2 * peak_s)), run_open(port, [PING], PING_RATE, 2 * peak_s)
    )
    until = time.monotonic() + seconds
    outcomes, pings, samples = await asyncio.gather(
        run_open(port, questions, FACTOR * peak, seconds),
        run_open(port, [PING], PING_RATE, seconds, seed=1),
        watch(server, seconds),
    )
    answers, all_pings = [*crowd, *outcomes], [*crowd_pings, *pings]
    good, refused = ([one for one in outcomes if one.status == status] for status in (200, 503))
    p99s = [f"{compute_p99_ms(some):.0f} ms" for some in (good, refused, pings)]
    goodput = sum(one.ended <= until for one in good) / seconds
    memory = [usage.memory for _, usage in samples]
    growth = max(memory[len(memory) // 2 :]) / max(memory[: len(memory) // 2]) - 1
    return [
        judge(f"/ping beside {CROWD} clients, p99", compute_p99_ms(crowd_pings), 100, "ms"),
        judge(f"answers under {FACTOR} times the load, over the peak", goodput / peak, 0.95, at_least=True),
        judge_none("neither right nor 503 with Retry-After", find_failures(answers, may_refuse=True), answers),
        judge_none("/ping does not say 200", find_failures(all_pings), all_pings),
        judge("memory, second half over the first", 100 * growth, 3, "%"),
        Verdict(f"answers a second: peak, {FACTOR} times the load", f"{peak:.1f}, {goodput:.1f}"),
        Verdict(f"{CROWD} clients", describe(crowd)),
        Verdict(f"{FACTOR} times the load", describe(outcomes)),
        Verdict("p99 of answer, refusal, /ping", ", ".join(p99s)),
        Verdict("memory at most", f"{max(memory) / 1e6:.0f} MB"),
    ]


def drill(folder: Path, minutes: float, stand_in: float) -> list[Verdict]:
    """The drill with a server of its own."""
    with open_server(folder, stand_in) as server:
        return asyncio.run(run_overload(server, 60 * minutes, 15))


if __name__ == "__main__":
    sys.exit(run_drill("overload", __doc__, drill, minutes=2.0, stand_in=0.0))
