"""The fuzzer's targets, on their seeds and random changes of them; ``python -m tests.fuzz TARGET`` looks further."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from fuzz.register import TARGETS

CHANGES = 30


def _change(seed: bytes, rng: random.Random) -> bytes:
    """A few bytes turned over, dropped, doubled or put in."""
    content = bytearray(seed)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(content) + 1)
        kind = rng.randrange(4)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del content[at : at + rng.randint(1, 8)]
        elif kind == 2:
            content[at:at] = content[at : at + rng.randint(1, 32)]
        else:
            content[at:at] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", rng.randbytes(3)])
    return bytes(content)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_and_random_changes_of_them(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run, seeds, rng = TARGETS[name].build(), list(TARGETS[name].seeds()), random.Random(name)
    for data in [*seeds, *(_change(rng.choice(seeds), rng) for _ in range(CHANGES))]:
        start = time.monotonic()
        run(data)
        assert time.monotonic() - start < 10, data
