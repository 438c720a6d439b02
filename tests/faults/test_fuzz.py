"""The fuzzer's targets: seeds and random changes of them everywhere, the fuzzer itself where it is installed."""

from __future__ import annotations

import importlib.util
import random
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from fuzz.register import TARGETS
from fuzz.run import parse_figures, run_fuzzer
from fuzz.target import Broken, Target, check
from repository import ROOT

CHANGES = 300
FAMILIES = {
    "request": 53,
    "label_map": 27,
    "hyperparameters": 21,
    "checkpoint": 37,
    "params": 31,
    "onnx": 33,
    "archive": 30,
    "card": 34,
}
OUTCOME = "a documented error, or a value that holds"


def _mark(name: str) -> Sequence[pytest.MarkDecorator]:
    return [pytest.mark.fault(family=FAMILIES[name], outcome=OUTCOME, inputs=CHANGES)]


PARAMETERS = [pytest.param(name, target, id=name, marks=_mark(name)) for name, target in TARGETS.items()]


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


@pytest.mark.parametrize(("name", "target"), PARAMETERS)
def test_seeds_and_random_changes_of_them(
    name: str, target: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run, seeds, rng = target.build(), list(target.seeds()), random.Random(name)
    for number in range(CHANGES):
        data = seeds[number] if number < len(seeds) else _change(rng.choice(seeds), rng)
        start = time.monotonic()
        run(data)
        assert time.monotonic() - start < 10, data


@pytest.mark.parametrize("name", TARGETS)
def test_the_fuzzer_finds_nothing_in_a_short_run(name: str) -> None:
    if importlib.util.find_spec("atheris") is None:
        pytest.skip("atheris is not installed: it has wheels for Linux on x86_64, Python 3.11 to 3.14")
    figures = run_fuzzer(name, 2)
    assert figures.problem == ""
    assert figures.executions > 50
    assert figures.coverage > 30


def test_a_target_that_breaks_is_reported() -> None:
    with pytest.raises(Broken, match="a promise"):
        check(False, "a promise")
    log = "#8\tINITED cov: 12 ft: 13 corp: 4/90b exec/s: 0\n#99 DONE cov: 15 ft: 20 corp: 6/1Kb\nBroken: a promise\n"
    figures = parse_figures(f"{log}stat::number_of_executed_units: 99\n", 77)
    assert figures[:5] == (99, 15, 20, 6, "1Kb")
    assert figures.problem.endswith("units: 99")
    assert parse_figures(log, 0).problem == ""


def test_every_target_has_its_seeds_made_by_code() -> None:
    assert all(len(list(target.seeds())) >= 3 for target in TARGETS.values())
    files = [path for path in (ROOT / "tests" / "fuzz").iterdir() if path.is_file()]
    assert {path.suffix for path in files} == {".py"}
