"""A long soak at 70 % of what the server can do, with 1 % of bad requests: every answer checked, and no growth.

``python -m tests.drills.memory [--minutes 30]``. Then the same with a leak of 10 kB a request, which must be noticed.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from drills.client import Outcome, Question, describe_errors, pick, run_closed, run_open
from drills.overload import add_stand_in, draw_questions, open_server
from drills.verdict import Verdict, conclude, judge, judge_none
from local_server import ServerProcess
from picture import draw_noise, encode_picture
from process_tree import Usage, read_usage
from raw_client import build_request
from served_model import prepare_base
from stand_in_server import starting

LEAK_BYTES = 10_000
LOAD = 0.7
BAD_SHARE = 0.01
_WARM_UP = 1 / 3
"""Share of the soak before growth counts: allocators and caches settle."""
_BAR_MB_H = 1.0
_BLOCKS = 12
_TWO_SIDED_95 = 2.23
"""Student's t for the ten degrees of freedom that are left."""


@dataclass(frozen=True)
class Soak:
    """What was seen; ``samples`` are (seconds, usage)."""

    outcomes: list[Outcome]
    bad: list[Outcome]
    samples: list[tuple[float, Usage]]

    @property
    def settled(self) -> list[tuple[float, Usage]]:
        return self.samples[int(len(self.samples) * _WARM_UP) :]


def compute_slope(times: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Slope of the straight line through the values, and half of its 95 % interval, a unit of time.

    Neighbouring samples are alike, so they are first averaged in blocks of time.
    """
    size = max(1, len(times) // _BLOCKS)
    blocks = [slice(start, start + size) for start in range(0, len(times) - size + 1, size)]
    xs, ys = [mean(times[block]) for block in blocks], [mean(values[block]) for block in blocks]
    centre, level = mean(xs), mean(ys)
    spread = sum((x - centre) ** 2 for x in xs)
    slope = sum((x - centre) * (y - level) for x, y in zip(xs, ys, strict=True)) / spread
    rest = sum((y - level - slope * (x - centre)) ** 2 for x, y in zip(xs, ys, strict=True))
    return slope, _TWO_SIDED_95 * math.sqrt(rest / max(1, len(xs) - 2) / spread)


def _build_bad() -> list[Question]:
    picture = encode_picture(draw_noise(50, 60))
    close = {"Connection": "close"}
    return [
        Question(build_request(picture[:2000], **close), 400),
        Question(build_request(b"", **close), 400),
        Question(build_request(b"no picture", **close), 415),
        Question(build_request(picture, Accept="image/jpeg", Connection="close"), 406),
        Question(build_request(picture, path="/models", **close), 404),
        Question(build_request(bytes(1000), Content_Length="99999999", Connection="close"), 413),
        Question(b"POST /invocations HTTP/1.1\r\nbroken\r\n\r\n", 400),
    ]


async def _sample(server: ServerProcess, seconds: float, interval_s: float) -> list[tuple[float, Usage]]:
    start = time.monotonic()
    samples = []
    while (now := time.monotonic() - start) < seconds:
        samples.append((now, read_usage(server.process.pid)))
        await asyncio.sleep(interval_s)
    return samples


async def run_soak(server: ServerProcess, seconds: float, peak_s: float, sample_s: float = 2.0) -> Soak:
    """Measure the peak, then keep to a share of it."""
    questions = draw_questions(server)
    peak = len(pick(await run_closed(server.port, questions, 4, peak_s), 200)) / peak_s
    bad, outcomes, samples = await asyncio.gather(
        run_open(server.port, _build_bad(), BAD_SHARE * LOAD * peak, seconds, seed=1),
        run_open(server.port, questions, LOAD * peak, seconds),
        _sample(server, seconds, sample_s),
    )
    return Soak(outcomes, bad, samples)


def is_growing(soak: Soak) -> tuple[bool, str]:
    """Whether memory grows by more than the bar allows, and by more than chance; and the figures."""
    hours = [seconds / 3600 for seconds, _ in soak.settled]
    slope, half = compute_slope(hours, [usage.memory / 1e6 for _, usage in soak.settled])
    return slope - half > 0 and slope > _BAR_MB_H, f"{slope:+.2f} +- {half:.2f} MB an hour"


def judge_soak(soak: Soak) -> list[Verdict]:
    """What was promised, and what was seen."""
    grows, figures = is_growing(soak)
    wrong = [one for one in [*soak.outcomes, *soak.bad] if one.status == 200 and not one.is_right]
    failed = [one for one in soak.outcomes if one.status != 200]
    bad = [one for one in soak.bad if one.status == 200 or one.status >= 500 or not one.is_right or not one.status]
    first, last = soak.settled[0][1], [usage for _, usage in soak.settled[-5:]]
    descriptors = min(usage.descriptors for usage in last) - first.descriptors
    threads = min(usage.threads for usage in last) - first.threads
    return [
        judge_none("wrong masks", len(wrong), len(soak.outcomes)),
        judge_none("good requests without a mask", len(failed), len(soak.outcomes), describe_errors(failed)),
        judge_none("bad requests without their status", len(bad), len(soak.bad)),
        Verdict(f"memory grows by {_BAR_MB_H:g} MB an hour at most, or not beyond chance", figures, not grows),
        judge("descriptors more than at first", descriptors, 0),
        judge("threads more than at first", threads, 0),
    ]


@contextmanager
def open_leaking(folder: Path, is_real: bool) -> Iterator[ServerProcess]:
    """The same server with a leak in its model."""
    variables = {"STAND_IN_LEAK": str(LEAK_BYTES)}
    variables.update({"STAND_IN_FOR_REAL": "1"} if is_real else {"STAND_IN_SECONDS": "0.02"})
    with starting(prepare_base(folder / "ml") if is_real else folder, **variables) as server:
        server.wait_until_served()
        yield server


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills.memory", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--control-minutes", type=float, default=5)
    add_stand_in(parser)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with open_server(folder, options.stand_in) as server:
            soak = asyncio.run(run_soak(server, 60 * options.minutes, 10))
        with open_leaking(folder, options.stand_in is None) as server:
            control = asyncio.run(run_soak(server, 60 * options.control_minutes, 10))
    grows, figures = is_growing(control)
    verdicts = [*judge_soak(soak), Verdict(f"a leak of {LEAK_BYTES} bytes a request is noticed", figures, grows)]
    usage = soak.samples[-1][1]
    notes = [
        f"{len(soak.outcomes)} good and {len(soak.bad)} bad requests in {options.minutes:g} minutes; at the end "
        f"{usage.memory / 1e6:.0f} MB, {usage.descriptors} descriptors, {usage.threads} threads"
    ]
    return conclude("memory", verdicts, notes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
