"""SIGKILL of the process that has the model, under load, again and again: what fails, and how soon it is back.

``python -m tests.drills.worker_death [--count 100] [--of backend|worker]``. The third death within a minute ends the
server, as it should; so each server dies twice, and its start is measured, too.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from drills.client import PING, Outcome, Question, ask, compute_percentile, describe_errors, pick
from drills.overload import add_stand_in, draw_questions, open_server
from drills.verdict import Verdict, conclude, judge, judge_all, judge_none
from local_server import ServerProcess
from process_tree import find_backends, find_worker, is_running, iter_tree

CLIENTS = 4
DEATHS = 2
"""Of a server."""
_RETRY_S = 0.25
_LIMIT_S = 60


@dataclass
class Death:
    """One kill, at ``begun`` (monotonic); ``seconds`` until /ping says 200 again."""

    begun: float
    seconds: float = 0.0
    left: bool = False
    outcomes: list[Outcome] = field(default_factory=list)
    pings: list[Outcome] = field(default_factory=list)

    @property
    def failures(self) -> list[Outcome]:
        return [one for one in self.outcomes if one.status not in (200, 503) or not one.is_right]


async def _keep_asking(
    server: ServerProcess, question: Question, outcomes: list[Outcome], is_over: asyncio.Event
) -> None:
    while not is_over.is_set():
        outcomes.append(await ask(server.port, question))
        if outcomes[-1].status != 200:
            await asyncio.sleep(_RETRY_S)


async def _ping_until_ready(server: ServerProcess, death: Death) -> None:
    """From the first 503 on, until there is a 200."""
    while time.monotonic() < death.begun + _LIMIT_S:
        death.pings.append(await ask(server.port, Question(PING)))
        if death.pings[-1].status == 200 and len(pick(death.pings, 503)):
            break
        await asyncio.sleep(0.01)
    death.seconds = time.monotonic() - death.begun


async def run_deaths(server: ServerProcess, of_worker: bool, draw: random.Random) -> list[Death]:
    """Kill it ``DEATHS`` times while clients ask."""
    deaths = []
    questions = draw_questions(server)
    for _ in range(DEATHS):
        outcomes: list[Outcome] = []
        is_over = asyncio.Event()
        clients = [
            asyncio.create_task(_keep_asking(server, questions[number % len(questions)], outcomes, is_over))
            for number in range(CLIENTS)
        ]
        await asyncio.sleep(draw.uniform(0.3, 1.0))
        master = server.process.pid
        victim = find_worker(master) if of_worker else find_backends(master)[0]
        before = list(iter_tree(victim))
        death = Death(time.monotonic(), outcomes=outcomes)
        os.kill(victim, signal.SIGKILL)
        await _ping_until_ready(server, death)
        await asyncio.sleep(0.3)
        is_over.set()
        await asyncio.gather(*clients)
        death.left = any(map(is_running, before))
        deaths.append(death)
    return deaths


def judge_deaths(deaths: Sequence[Death], starts: Sequence[float], of_worker: bool) -> list[Verdict]:
    """What was promised, and what was seen."""
    failures = [one for death in deaths for one in death.failures]
    pings = [one for death in deaths for one in death.pings]
    most = max(len(death.failures) for death in deaths)
    seconds = sorted(death.seconds for death in deaths)
    slow = seconds[int(0.99 * (len(seconds) - 1))]
    # The clients' connections end with the worker; with a backend nothing has to.
    bar = CLIENTS if of_worker else 1
    verdicts = [
        judge("requests that failed in one death", most, bar),
        judge_none("wrong answers", sum(one.status == 200 for one in failures), len(failures)),
        judge("median time until it serves again over a start", median(seconds) / median(starts), 1.5),
        judge("p99 of it over a start", slow / median(starts), 1.5),
        judge_all("/ping says 503 meanwhile", sum(bool(pick(death.pings, 503)) for death in deaths), len(deaths)),
        judge("/ping, p99", 1e3 * compute_percentile(pick(pings, 200, 503), 99), 200, "ms"),
        judge_none("deaths that left a process behind", sum(death.left for death in deaths), len(deaths)),
    ]
    if not of_worker:
        verdicts.append(judge_none("/ping without an answer", sum(not one.status for one in pings), len(pings)))
    return verdicts


def describe_deaths(deaths: Sequence[Death], starts: Sequence[float]) -> list[str]:
    """Figures without a promise."""
    outcomes = [one for death in deaths for one in death.outcomes]
    failures = [one for death in deaths for one in death.failures]
    seconds = [death.seconds for death in deaths]
    return [
        f"{len(deaths)} deaths, {CLIENTS} clients: {len(pick(outcomes, 200))} x 200, {len(pick(outcomes, 503))} x 503, "
        f"{len(failures)} failures ({describe_errors(failures)})",
        f"a start takes {median(starts):.2f} s (of {len(starts)}); it serves again after {median(seconds):.2f} s, "
        f"at worst {max(seconds):.2f} s",
    ]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills.worker_death", description=__doc__)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--of", choices=("backend", "worker"), default="backend")
    add_stand_in(parser)
    options = parser.parse_args(arguments)
    draw = random.Random(0)
    deaths: list[Death] = []
    starts = []
    with tempfile.TemporaryDirectory() as folder:
        with open_server(Path(folder), options.stand_in):  # fills the page cache
            pass
        while len(deaths) < options.count:
            start = time.monotonic()
            with open_server(Path(folder), options.stand_in) as server:
                starts.append(time.monotonic() - start)
                deaths += asyncio.run(run_deaths(server, options.of == "worker", draw))
    verdicts = judge_deaths(deaths, starts, options.of == "worker")
    return conclude("worker_death", verdicts, describe_deaths(deaths, starts))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
