"""SIGKILL of the process that has the model, under load, again and again: what fails, and how soon it is back.

``python -m tests.drills.model_death [--count 30]``. The third death within a minute ends the server, as it should; so
each server has two, and its start is measured, too.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from pathlib import Path
from statistics import median

from drills.client import PING, TIMEOUT_S, Outcome, ask, describe, find_failures, run_closed
from drills.overload import draw_questions, open_server
from drills.verdict import Verdict, judge, judge_none, run_drill
from local_server import ServerProcess
from process_tree import find_model_processes

CLIENTS = 4
DEATHS_PER_SERVER = 2
_RETRY_S = 0.25


async def _wait_until_back(port: int) -> float:
    """Wait until /ping says something else than 200, and then until it says 200; the seconds that it took."""
    start = time.monotonic()
    for is_back in (False, True):
        while ((await ask(port, PING)).status == 200) != is_back and time.monotonic() < start + TIMEOUT_S:
            await asyncio.sleep(0.01)
    return time.monotonic() - start


async def _kill(server: ServerProcess, delay_s: float) -> tuple[float, list[Outcome]]:
    """Kill the process while clients ask; the seconds until there is another one, and all requests."""
    is_over = asyncio.Event()
    clients = run_closed(server.port, draw_questions(server), CLIENTS, is_over.is_set, _RETRY_S)
    asking = asyncio.create_task(clients)
    await asyncio.sleep(delay_s)
    os.kill(find_model_processes(server.process.pid)[0], signal.SIGKILL)
    seconds = await _wait_until_back(server.port)
    await asyncio.sleep(2 * _RETRY_S)
    is_over.set()
    return seconds, await asking


def drill(folder: Path, count: int, stand_in: float = 0.0) -> list[Verdict]:
    """Start as many servers as it takes."""
    draw, starts, deaths = random.Random(0), list[float](), list[tuple[float, list[Outcome]]]()
    while len(deaths) < count:
        start = time.monotonic()
        with open_server(folder, stand_in) as server:
            starts.append(time.monotonic() - start)
            for _ in range(min(DEATHS_PER_SERVER, count - len(deaths))):
                deaths.append(asyncio.run(_kill(server, draw.uniform(0.3, 1.0))))
    outcomes = [one for _, some in deaths for one in some]
    answers = [one for one in outcomes if one.status]
    lost = max(len(find_failures(some, may_refuse=True)) for _, some in deaths)
    seconds = [one for one, _ in deaths]
    return [
        judge_none("wrong answers", find_failures(answers, may_refuse=True), answers),
        judge("requests lost in one death", lost, 1),
        judge("back, at worst, beyond a start", max(seconds) - median(starts), 3, "s"),
        Verdict("a start, and back, in the middle", f"{median(starts):.2f} s, {median(seconds):.2f} s"),
        Verdict(f"requests of {CLIENTS} clients around {len(deaths)} deaths", describe(outcomes)),
    ]


if __name__ == "__main__":
    sys.exit(run_drill("model_death", __doc__, drill, count=30))
