"""SIGTERM while clients keep asking, again and again: no request that was begun before it is lost.

``python -m tests.drills.drain [--count 200]``; a drill takes about two seconds.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from drills.client import Outcome, describe, find_failures, run_closed
from drills.overload import draw_questions, open_server
from drills.verdict import Verdict, judge, judge_none, run_drill
from local_server import ServerProcess
from process_tree import is_running, iter_tree

CLIENTS = 8
LIMIT_S = 25


@dataclass(frozen=True)
class Drain:
    """One server's end: ``seconds`` after the signal, which was sent at ``signalled`` (monotonic)."""

    signalled: float
    seconds: float
    exit_code: int
    processes_left: int
    outcomes: list[Outcome]


async def _drain(server: ServerProcess, delay_s: float) -> Drain:
    tree = list(iter_tree(server.process.pid))
    clients = run_closed(server.port, draw_questions(server), CLIENTS, lambda: not server.is_running(), retry_s=0.02)
    asking = asyncio.create_task(clients)
    await asyncio.sleep(delay_s)
    signalled = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    exit_code = await asyncio.to_thread(server.process.wait, 2 * LIMIT_S)
    seconds = time.monotonic() - signalled
    await asyncio.sleep(0.3)  # multiprocessing's helper ends a moment after the server
    return Drain(signalled, seconds, exit_code, sum(map(is_running, tree)), await asking)


def drill(folder: Path, count: int) -> list[Verdict]:
    """Start a server, let it be asked, stop it; again and again."""
    draw, drains = random.Random(0), list[Drain]()
    for _ in range(count):
        with open_server(folder, stand_in=draw.choice((0.005, 0.02, 0.1))) as server:
            drains.append(asyncio.run(_drain(server, draw.uniform(0.05, 0.4))))
    before = [one for drain in drains for one in drain.outcomes if one.sent < drain.signalled]
    after = [one for drain in drains for one in drain.outcomes if one.sent >= drain.signalled]
    waiting = sum(one.sent < drain.signalled <= one.ended for drain in drains for one in drain.outcomes)
    answers = [one for one in [*before, *after] if one.status]
    return [
        judge_none("requests that were begun before the signal and lost", find_failures(before), before),
        judge_none("wrong answers", find_failures(answers, may_refuse=True), answers),
        judge("exit codes other than 0", sum(drain.exit_code != 0 for drain in drains), 0),
        judge("the longest end", max(drain.seconds for drain in drains), LIMIT_S, "s"),
        judge("processes left", sum(drain.processes_left for drain in drains), 0),
        Verdict("requests that were unanswered when the signal came", str(waiting)),
        Verdict("those that were begun after it", describe(after)),
    ]


if __name__ == "__main__":
    sys.exit(run_drill("drain", __doc__, drill, count=200))
