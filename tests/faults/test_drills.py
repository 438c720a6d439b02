"""Drills of a training, each once; ``python -m tests.drills.NAME`` repeats them. Only a kill is part of the suite."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from drills import kill


def test_a_killed_training_ends_as_one_that_was_not(tmp_path: Path) -> None:
    found = kill.kill_at_random(kill.prepare(tmp_path, epochs=2), seed=0, number=1)
    assert found.checkpoint == "each update"
    assert found.problem == ""


@pytest.mark.slow
def test_a_stopped_training_goes_on_to_the_same_end(tmp_path: Path) -> None:
    found = kill.kill_at_random(kill.prepare(tmp_path, epochs=2), seed=0, number=0, signal_number=signal.SIGTERM)
    assert found.problem == ""
