"""What a drill of the server has found: promises, the figures seen, and whether they hold."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from drills.client import Outcome, describe
from drills.record import say, write_file


@dataclass(frozen=True)
class Verdict:
    """A promise and what was seen; where ``holds`` is None, a figure without a promise."""

    promise: str
    seen: str
    holds: bool | None = None


def judge(promise: str, value: float, bar: float, unit: str = "", *, at_least: bool = False) -> Verdict:
    """A figure that may be ``bar`` at most, or must be that at least."""
    holds = value >= bar if at_least else value <= bar
    words = f"{value:.4g} {unit}".strip()
    return Verdict(f"{promise} {'>=' if at_least else '<='} {bar:g} {unit}".strip(), words, holds)


def judge_none(promise: str, found: Sequence[Outcome], among: Sequence[Outcome]) -> Verdict:
    """Something that must not happen to any of some requests; nothing is shown when there were none."""
    words = f"{len(found)} of {len(among)}{f' ({describe(found)})' if found else ''}"
    return Verdict(f"{promise}: 0", words, bool(among) and not found)


def run_drill(name: str, text: str | None, drill: Callable[..., list[Verdict]], **defaults: float) -> int:
    """Run a drill with the command's options, print the table, write the file; 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog=f"python -m tests.drills.{name}", description=text)
    for option, default in defaults.items():
        parser.add_argument(f"--{option.replace('_', '-')}", type=type(default), default=default)
    with tempfile.TemporaryDirectory() as folder:
        verdicts = drill(Path(folder), **vars(parser.parse_args()))
    width = max(len(one.promise) for one in verdicts)
    words = {True: "ok", False: "FAIL", None: ""}
    say("\n".join(f"{words[one.holds]:4} {one.promise:<{width}}  {one.seen}" for one in verdicts))
    write_file(name, " ".join([parser.prog, *sys.argv[1:]]), verdicts=[asdict(one) for one in verdicts])
    return 1 if any(one.holds is False for one in verdicts) else 0
