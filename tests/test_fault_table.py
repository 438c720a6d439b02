"""docs/reliability.md names tests that exist."""

from __future__ import annotations

from repository import ROOT


def test_every_fault_names_its_tests() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text("utf-8")
    table = page.split("| what is wrong |")[1].splitlines()[2:]
    named = {name for row in table for name in row.split("|")[3].strip().split(", ")}
    assert len(named) > 20
    assert named <= {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
