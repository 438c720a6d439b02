"""SIGTERM while clients keep asking, again and again: nothing that was taken is lost, and nothing is left running.

``python -m tests.drills.drain [--count 1000]``; a drill takes about two seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drills.client import LOST, PING, Outcome, Question, ask, describe_errors, pick
from drills.verdict import Verdict, conclude, judge, judge_none
from local_server import ServerProcess
from picture import draw_noise, encode_picture
from process_tree import is_running, iter_tree
from raw_client import build_request
from stand_in import encode_mask
from stand_in_server import stand_in

CLIENTS = 8
LIMIT_S = 25
NOTICE_MS = 250
"""A signal passes two processes, which the machine may let wait for their turn."""


@dataclass(frozen=True)
class Drain:
    """One drill. ``taken`` requests were being answered when the signal came at ``signalled`` (monotonic)."""

    signalled: float
    seconds: float
    exit_code: int
    taken: int
    pings: list[Outcome]
    outcomes: list[Outcome]
    left: int

    @property
    def lost(self) -> list[Outcome]:
        return [one for one in self.outcomes if one.error.startswith(LOST) or not one.is_right or one.status == 500]

    @property
    def answered(self) -> int:
        """Answers after the signal."""
        return sum(one.status == 200 and one.ended >= self.signalled for one in self.outcomes)

    @property
    def notice_s(self) -> float:
        """How long after the signal the last /ping was sent that was answered with 200."""
        return max((one.begun - self.signalled for one in pick(self.pings, 200)), default=0.0)


async def _ask_until_refused(server: ServerProcess, question: Question, outcomes: list[Outcome]) -> None:
    while server.is_running():
        outcomes.append(await ask(server.port, question))
        if outcomes[-1].status == 0:
            return


async def _run(server: ServerProcess, delay_s: float) -> Drain:
    pictures = [draw_noise(24, 24 + number, seed=number) for number in range(CLIENTS)]
    questions = [
        Question(build_request(encode_picture(one), Connection="close"), body=encode_mask(one)) for one in pictures
    ]
    outcomes: list[Outcome] = []
    tree = list(iter_tree(server.process.pid))
    clients = [asyncio.create_task(_ask_until_refused(server, one, outcomes)) for one in questions]
    await asyncio.sleep(delay_s)
    start = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    pings = []
    while server.is_running() and time.monotonic() < start + 2 * LIMIT_S:
        pings.append(await ask(server.port, Question(PING, 503)))
        await asyncio.sleep(0.005)
    seconds = time.monotonic() - start
    await asyncio.gather(*clients)
    taken = re.search(r"stopping: (\d+) requests", server.read_log())
    count = int(taken[1]) if taken else -1
    left = sum(is_running(pid) for pid in tree)
    return Drain(start, seconds, server.process.wait(timeout=1), count, pings, outcomes, left)


def run_drill(folder: Path, draw: random.Random) -> Drain:
    """Start a server, let it be asked, stop it."""
    seconds, delay_s = draw.choice((0.005, 0.02, 0.1)), draw.uniform(0.05, 0.4)
    with stand_in(folder, STAND_IN_SECONDS=str(seconds)) as server:
        return asyncio.run(_run(server, delay_s))


def judge_drains(drains: Sequence[Drain]) -> list[Verdict]:
    """What was promised, and what was seen."""
    outcomes = [one for drain in drains for one in drain.outcomes]
    lost = [one for drain in drains for one in drain.lost]
    unanswered = sum(max(0, drain.taken - drain.answered) for drain in drains)
    taken = sum(drain.taken for drain in drains)
    return [
        judge_none("requests that were lost, or answered wrongly", len(lost), len(outcomes), describe_errors(lost)),
        judge_none("requests taken before the signal and not answered with 200", unanswered, taken),
        judge("such requests", taken, 1, at_least=True),
        judge("/ping says 200 after the signal for", 1e3 * max(drain.notice_s for drain in drains), NOTICE_MS, "ms"),
        judge("exit codes other than 0", sum(drain.exit_code != 0 for drain in drains), 0),
        judge("the longest end", max(drain.seconds for drain in drains), LIMIT_S, "s"),
        judge("processes left", sum(drain.left for drain in drains), 0),
    ]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.drills.drain", description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    draw = random.Random(options.seed)
    drains = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(options.count):
            drains.append(run_drill(Path(folder), draw))
            if drains[-1].lost:
                sys.stderr.write(f"drill {number}: {describe_errors(drains[-1].lost)}\n")
    ends = sorted(drain.seconds for drain in drains)
    statuses = [one.status for drain in drains for one in drain.outcomes]
    notes = [
        f"{len(drains)} drills, {CLIENTS} clients; median end after {ends[len(ends) // 2]:.2f} s; answers: "
        f"{statuses.count(200)} x 200, {statuses.count(503)} x 503, {statuses.count(0)} refused connections"
    ]
    return conclude("drain", judge_drains(drains), notes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
