"""Each drill of a training once, in small; ``python -m tests.drills.NAME`` makes them large."""

from __future__ import annotations

from pathlib import Path

import pytest

from drills import disk_full, kill, terminate
from drills.fault import COMPILER


@pytest.mark.fault(family=37, outcome="killed at any moment it ends as if never interrupted, bit for bit")
def test_kill(tmp_path: Path) -> None:
    drill = kill.prepare(tmp_path, epochs=2, repeats=1)
    found = kill.kill_at_random(drill, seed=0, number=1)
    assert found.kind == "each update"
    assert found.differs == ""


@pytest.mark.fault(family=43, outcome="SIGTERM: a model that loads, a whole checkpoint, code 0")
def test_terminate() -> None:
    (found,) = terminate.run(count=1, phases=("mid step",))
    assert found.problem == ""


@pytest.mark.skipif(COMPILER is None, reason="calls are made to fail by a library written in C")
@pytest.mark.fault(family=45, outcome="nothing is half written, a message with path and bytes, then on")
def test_disk_full() -> None:
    (found,) = disk_full.run(("ENOSPC",), chosen=1)
    assert found.problem == ""
