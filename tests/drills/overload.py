"""Ten times as many requests as the server can answer, by chance, for minutes; then none any more.

``python -m tests.drills.overload [--minutes 10] [--factor 10] [--stand-in SECONDS]``
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from drills.client import (
    Outcome,
    Question,
    compute_percentile,
    describe_errors,
    pick,
    run_closed,
    run_open,
    run_pings,
)
from drills.verdict import Verdict, conclude, judge, judge_all, judge_none
from gluonseg.serve.settings import Settings
from local_server import ServerProcess, serving
from picture import draw_noise, encode_picture
from process_tree import read_usage
from raw_client import build_request, exchange
from served_model import prepare_base
from stand_in_server import stand_in

PEAK_CLIENTS = 4
_SIZES = ((120, 160), (140, 140), (110, 180))
_ACCEPT_S = 0.05


def add_stand_in(parser: argparse.ArgumentParser) -> None:
    """The option of drills that go with both kinds of :func:`open_server`."""
    parser.add_argument("--stand-in", type=float, metavar="SECONDS", help="a stand-in for the network, not a real one")


@contextmanager
def open_server(folder: Path, seconds: float | None) -> Iterator[ServerProcess]:
    """The server as shipped with a real network, or with a stand-in that takes ``seconds`` for a prediction."""
    if seconds is None:
        with serving(prepare_base(folder / "ml"), folder / "serve.log") as server:
            server.wait_until_served()
            yield server
    else:
        with stand_in(folder, STAND_IN_SECONDS=str(seconds)) as server:
            yield server


def draw_questions(server: ServerProcess) -> list[Question]:
    """Pictures of several sizes, with the masks that the server gives for them when it has nothing else to do."""
    questions = []
    for number, size in enumerate(_SIZES):
        data = build_request(encode_picture(draw_noise(*size, seed=number), "JPEG"), Connection="close")
        questions.append(Question(data, body=exchange(server.port, data).body))
    return questions


@dataclass(frozen=True)
class Overload:
    """What was seen; ``memory`` are bytes, one a second."""

    peak: float
    alone: list[Outcome]
    outcomes: list[Outcome]
    pings: list[Outcome]
    memory: list[int]
    seconds: float
    stopped: float
    after: list[Outcome]


async def _watch_memory(server: ServerProcess, is_over: asyncio.Event) -> list[int]:
    values = []
    while not is_over.is_set():
        values.append(read_usage(server.process.pid).memory)
        await asyncio.sleep(1.0)
    return values


async def run_overload(server: ServerProcess, seconds: float, factor: float, peak_s: float) -> Overload:
    """Measure the peak, overload, let it recover."""
    questions = draw_questions(server)
    await run_closed(server.port, questions, PEAK_CLIENTS, peak_s / 4)
    alone = await run_closed(server.port, questions, 1, peak_s / 2)
    peak = len(pick(await run_closed(server.port, questions, PEAK_CLIENTS, peak_s), 200)) / peak_s
    is_over = asyncio.Event()
    memory = asyncio.create_task(_watch_memory(server, is_over))
    pings = asyncio.create_task(run_pings(server.port, is_over.is_set))
    start = time.monotonic()
    outcomes = await run_open(server.port, questions, factor * peak, seconds)
    after = await run_closed(server.port, questions, 1, peak_s / 2)
    is_over.set()
    return Overload(peak, alone, outcomes, await pings, await memory, seconds, start + seconds, after)


def judge_overload(seen: Overload) -> list[Verdict]:
    """What was promised, and what was seen."""
    service_s = 1 / seen.peak
    good, refused = pick(seen.outcomes, 200), pick(seen.outcomes, 503)
    others = [one for one in seen.outcomes if one.status not in (200, 503) or not one.is_right]
    goodput = sum(one.ended <= seen.stopped for one in good) / seen.seconds
    half = len(seen.memory) // 2
    growth = max(seen.memory[half:]) / max(seen.memory[: max(1, half)]) - 1
    depth = Settings.max_requests
    alone = compute_percentile(seen.alone, 50)
    return [
        judge("goodput over the peak", goodput / seen.peak, 0.95, at_least=True),
        judge("accepted, p99", compute_percentile(good, 99), round(2 * (depth + 1) * service_s, 3), "s"),
        judge("refused, p99", 1e3 * compute_percentile(refused, 99), 50, "ms"),
        judge_none(
            "not the right 200, nor 503 with Retry-After", len(others), len(seen.outcomes), describe_errors(others)
        ),
        judge_all("/ping says 200", len(pick(seen.pings, 200)), len(seen.pings)),
        judge("/ping, p99", 1e3 * compute_percentile(seen.pings, 99), 200, "ms"),
        judge("memory, second half over the first", 100 * growth, 3, "%"),
        judge("first after the queue, beyond one alone", seen.after[0].seconds - alone, round(service_s, 3), "s"),
    ]


def describe_overload(seen: Overload) -> list[str]:
    """Figures without a promise."""
    drained = max(one.ended for one in pick(seen.outcomes, 200)) - seen.stopped
    return [
        f"peak {seen.peak:.2f} a second with {PEAK_CLIENTS} clients; in {seen.seconds:.0f} s "
        f"{len(pick(seen.outcomes, 200))} x 200 and {len(pick(seen.outcomes, 503))} x 503",
        f"accepted: p50 {compute_percentile(pick(seen.outcomes, 200), 50):.2f} s; refused: p50 "
        f"{1e3 * compute_percentile(pick(seen.outcomes, 503), 50):.1f} ms; /ping: p50 "
        f"{1e3 * compute_percentile(seen.pings, 50):.1f} ms, worst {1e3 * compute_percentile(seen.pings, 100):.0f} ms",
        f"the queue was empty {drained:.2f} s after the load ended; one alone takes "
        f"{1e3 * compute_percentile(seen.alone, 50):.0f} ms; memory {max(seen.memory) / 1e6:.0f} MB at most",
    ]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills.overload", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--factor", type=float, default=10)
    add_stand_in(parser)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, open_server(Path(folder), options.stand_in) as server:
        seen = asyncio.run(run_overload(server, 60 * options.minutes, options.factor, 15))
    return conclude("overload", judge_overload(seen), describe_overload(seen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
