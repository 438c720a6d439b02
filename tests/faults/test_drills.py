"""Each drill of a training once, in small; ``python -m tests.drills.NAME`` makes them large."""

from __future__ import annotations

import pytest

from drills import disk_full, kill, terminate
from drills.fault import COMPILER

pytestmark = pytest.mark.skipif(COMPILER is None, reason="calls are made to fail by a library written in C")


@pytest.mark.fault(family=37, outcome="killed at any moment it ends as if never interrupted, bit for bit", inputs=3)
def test_kill() -> None:
    kills = kill.run(count=2, boundaries=1, is_exhaustive=False, repeats=1)
    assert [found.kind for found in kills] == ["each epoch", "each update", "boundary"]
    assert [found.differs for found in kills] == [""] * 3


@pytest.mark.fault(family=43, outcome="SIGTERM: a model that loads, a whole checkpoint, code 0, in 15 s", inputs=2)
def test_terminate() -> None:
    stops = terminate.run(count=1, phases=("mid step", "checkpoint write"))
    assert [found.problem for found in stops] == ["", ""]


@pytest.mark.fault(family=45, outcome="nothing is half written, a message with path and bytes, then on", inputs=3)
def test_disk_full() -> None:
    faults = disk_full.run(("ENOSPC", "EROFS", "EIO"), chosen=1)
    assert [found.problem for found in faults] == [""] * 3
