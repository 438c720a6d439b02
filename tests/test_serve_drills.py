"""Each drill of the server for a moment, with a stand-in for the model: it runs, and nothing that it watches is broken.

Figures that a busy machine can spoil are judged by the long runs only.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from drills import drain, overload
from drills.verdict import Verdict, judge, judge_none


def check(verdicts: list[Verdict], *words: str) -> None:
    """Those verdicts hold whose promise has one of the words; each word is that of a verdict."""
    found = [one for one in verdicts if any(word in one.promise for word in words)]
    assert len(found) >= len(words)
    assert [one for one in found if not one.holds] == []


def test_drain(tmp_path: Path) -> None:
    check(drain.drill(tmp_path, count=2), "lost", "wrong answers", "exit codes", "longest end", "processes left")


def test_overload(tmp_path: Path) -> None:
    with overload.open_server(tmp_path, stand_in=0.02) as server:
        verdicts = asyncio.run(overload.run_overload(server, seconds=1.5, peak_s=0.5))
    check(verdicts, "neither right nor 503", "/ping does not say 200")
    assert [one for one in verdicts if " x 200, " in one.seen and " x 503" in one.seen]


def test_a_bar_holds_on_the_right_side() -> None:
    assert [judge("x", value, 2).holds for value in (1, 2, 3)] == [True, True, False]
    assert [judge("x", value, 2, at_least=True).holds for value in (1, 2, 3)] == [False, True, True]
    assert not judge("x", float("nan"), 2).holds
    assert not judge_none("x", [], []).holds
