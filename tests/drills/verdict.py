"""What a drill of the server has found: promises, the figures seen, and whether they hold."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from drills.record import say, write_file


@dataclass(frozen=True)
class Verdict:
    """A promise and what was seen."""

    promise: str
    seen: str
    holds: bool


def judge(promise: str, value: float, bar: float, unit: str = "", *, at_least: bool = False) -> Verdict:
    """A figure that may be ``bar`` at most, or must be that at least."""
    holds = value >= bar if at_least else value <= bar
    words = f"{value:.4g} {unit}".strip()
    return Verdict(f"{promise} {'>=' if at_least else '<='} {bar:g} {unit}".strip(), words, holds)


def judge_none(promise: str, found: int, among: int, detail: str = "") -> Verdict:
    """Something that must not happen, not once."""
    return Verdict(f"{promise}: 0", f"{found} of {among}{f' ({detail})' if found and detail else ''}", found == 0)


def judge_all(promise: str, found: int, among: int) -> Verdict:
    """Something that must happen every time."""
    return Verdict(f"{promise}: all", f"{found} of {among}", found == among)


def conclude(name: str, verdicts: Sequence[Verdict], notes: Sequence[str] = ()) -> int:
    """Print the table and write the file; returns the exit code, 1 when a promise was broken."""
    width = max(len(verdict.promise) for verdict in verdicts)
    lines = [f"{'ok  ' if one.holds else 'FAIL'} {one.promise:<{width}}  {one.seen}" for one in verdicts]
    say("\n".join([*lines, *notes]))
    command = " ".join([f"python -m tests.drills.{name}", *sys.argv[1:]])
    write_file(name, command, verdicts=[asdict(verdict) for verdict in verdicts], notes=list(notes))
    return 0 if all(verdict.holds for verdict in verdicts) else 1
