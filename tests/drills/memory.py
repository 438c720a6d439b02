"""A long soak at 70 % of what the server can do, with 1 % of bad requests: every answer checked, and no growth.

``python -m tests.drills.memory [--minutes 30]``. Then, a sixth of that long, the same with a stand-in for the network
that leaks 10 kB a request, which must be noticed.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drills.client import Question, find_failures, run_open
from drills.overload import draw_questions, measure_peak, open_server, watch
from drills.verdict import Verdict, judge, judge_none, run_drill
from local_server import ServerProcess
from picture import draw_noise, encode_picture
from raw_client import build_request

LEAK_BYTES = 10_000
_BLOCKS = 12
_TWO_SIDED_95 = 2.23
"""Student's t for the ten degrees of freedom that are left."""


def compute_slope(times: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """Slope of the straight line through the means of neighbouring values, and half of its 95 % interval."""
    xs, ys = ([block.mean() for block in np.array_split(np.array(one), _BLOCKS)] for one in (times, values))
    (slope, _), covariance = np.polyfit(xs, ys, 1, cov=True)
    return float(slope), float(_TWO_SIDED_95 * np.sqrt(covariance[0, 0]))


def _build_bad() -> list[Question]:
    picture, close = encode_picture(draw_noise(50, 60)), {"Connection": "close"}
    return [
        Question(build_request(picture[:2000], **close), 400),
        Question(build_request(b"no picture", **close), 415),
        Question(build_request(picture, path="/models", **close), 404),
        Question(build_request(bytes(1000), Content_Length="99999999", Connection="close"), 413),
        Question(b"POST /invocations HTTP/1.1\r\nbroken\r\n\r\n", 400),
    ]


async def run_soak(server: ServerProcess, seconds: float, peak_s: float) -> list[Verdict]:
    """Measure the peak, then keep to a share of it. The first of the verdicts is about memory."""
    questions = draw_questions(server)
    rate = 0.7 * await measure_peak(server, questions, peak_s)
    good, bad, samples = await asyncio.gather(
        run_open(server.port, questions, rate, seconds),
        run_open(server.port, _build_bad(), 0.01 * rate, seconds, seed=1),
        watch(server, seconds, seconds / 200),
    )
    # In the first third allocators and caches settle.
    times, usages = zip(*samples[len(samples) // 3 :], strict=True)
    slope, half = compute_slope([one / 3600 for one in times], [usage.memory / 1e6 for usage in usages])
    growth = "memory grows by 1 MB an hour at most, or not beyond chance"
    # The clients have left; the server closes their connections within a second.
    resting = [usage for _, usage in await watch(server, 1, 0.05)]
    descriptors = min(usage.descriptors for usage in resting) - usages[0].descriptors
    threads = min(usage.threads for usage in resting) - usages[0].threads
    return [
        Verdict(growth, f"{slope:+.2f} +- {half:.2f} MB an hour", slope <= max(half, 1.0)),
        judge_none("good requests without the right mask", find_failures(good), good),
        judge_none("bad requests without their status", find_failures(bad), bad),
        judge("descriptors more than at first", descriptors, 0),
        judge("threads more than at first", threads, 0),
        Verdict("memory at the end", f"{usages[-1].memory / 1e6:.0f} MB"),
    ]


def drill(folder: Path, minutes: float) -> list[Verdict]:
    """The server, and then one that leaks."""
    with open_server(folder) as server:
        verdicts = asyncio.run(run_soak(server, 60 * minutes, 10))
    with open_server(folder, stand_in=0.02, leak=LEAK_BYTES) as server:
        leaking, *_ = asyncio.run(run_soak(server, 10 * minutes, 10))
    return [*verdicts, Verdict(f"a leak of {LEAK_BYTES} bytes a request is noticed", leaking.seen, not leaking.holds)]


if __name__ == "__main__":
    sys.exit(run_drill("memory", __doc__, drill, minutes=30.0))
