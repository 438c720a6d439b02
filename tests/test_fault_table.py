"""docs/reliability.md has the table that the tests' marks give."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from program import build_environment, run_program
from repository import ROOT


def test_the_page_has_the_table_of_the_tests(tmp_path: Path) -> None:
    """If not: make fault-table."""
    page = Path(shutil.copy(ROOT / "docs" / "reliability.md", tmp_path))
    options = ["--collect-only", "-q", "-m", "fault", "-p", "fault_table", "--fault-table", str(page)]
    environment = build_environment("PYTEST_", PYTHONPATH=str(ROOT / "tests"))
    done = run_program([sys.executable, "-m", "pytest", *options], environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout
    assert page.read_text("utf-8") == (ROOT / "docs" / "reliability.md").read_text("utf-8")
