"""Each drill of the server for a moment, with a stand-in for the model: it runs, and nothing that it watches is broken.

Figures that a busy machine can spoil are judged by the long runs only.
"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import pytest

from drills import drain, memory, overload, slow_clients, worker_death
from drills.verdict import Verdict, judge
from stand_in_server import stand_in


def check(verdicts: list[Verdict], *words: str) -> None:
    """Those verdicts hold whose promise has one of the words; each word is that of a verdict."""
    found = [one for one in verdicts if any(word in one.promise for word in words)]
    assert len(found) >= len(words)
    assert [one for one in found if not one.holds] == []


@pytest.mark.fault(family=61, outcome="SIGTERM under load: every request that was taken is answered", inputs=2)
def test_drain(tmp_path: Path) -> None:
    draw = random.Random(1)
    verdicts = drain.judge_drains([drain.run_drill(tmp_path, draw) for _ in range(2)])
    assert [one for one in verdicts if not one.holds] == []


def test_overload(tmp_path: Path) -> None:
    with overload.open_server(tmp_path, 0.05) as server:
        seen = asyncio.run(overload.run_overload(server, seconds=4, factor=10, peak_s=2))
    check(overload.judge_overload(seen), "accepted", "not the right 200", "/ping says 200")
    refused = [one for one in seen.outcomes if one.status == 503]
    assert len(refused) > len(seen.outcomes) / 2


@pytest.mark.fault(family=60, outcome="200 clients with a byte a second change nothing for others", inputs=600)
@pytest.mark.parametrize("kind", ["head", "body", "read"])
def test_slow_clients(tmp_path: Path, kind: str) -> None:
    with stand_in(tmp_path, STAND_IN_SECONDS=str(slow_clients.SERVICE_S)) as server:
        siege = asyncio.run(slow_clients.run_siege(server, kind, 200, seconds=1, rounds=1))
    check(slow_clients.judge_siege(siege, 200), "connected", "failed")
    assert siege.loss < 0.5


@pytest.mark.parametrize("of_worker", [False, True])
def test_worker_death(tmp_path: Path, of_worker: bool) -> None:
    start = time.monotonic()
    with overload.open_server(tmp_path, 0.05) as server:
        starts = [time.monotonic() - start]
        deaths = asyncio.run(worker_death.run_deaths(server, of_worker, random.Random(0)))
    check(worker_death.judge_deaths(deaths, starts, of_worker), "failed", "wrong answers", "left a process")


def test_memory_notices_a_leak_and_wrong_answers(tmp_path: Path) -> None:
    with memory.open_leaking(tmp_path, is_real=False) as server:
        soak = asyncio.run(memory.run_soak(server, seconds=8, peak_s=1, sample_s=0.2))
    check(memory.judge_soak(soak), "wrong masks", "good requests", "bad requests", "descriptors", "threads")
    grows, figures = memory.is_growing(soak)
    assert grows, figures


def test_the_slope_of_a_line_and_of_noise() -> None:
    times = [float(second) for second in range(600)]
    draw = random.Random(0)
    noise = [draw.gauss(0, 1) for _ in times]
    rising = [5 + 0.25 * second + wobble for second, wobble in zip(times, noise, strict=True)]
    assert memory.compute_slope(times, rising)[0] == pytest.approx(0.25, abs=0.002)
    slope, half = memory.compute_slope(times, noise)
    assert abs(slope) < half < 0.005


def test_a_bar_holds_on_the_right_side() -> None:
    assert [judge("x", value, 2).holds for value in (1, 2, 3)] == [True, True, False]
    assert [judge("x", value, 2, at_least=True).holds for value in (1, 2, 3)] == [False, True, True]
    assert not judge("x", float("nan"), 2).holds
