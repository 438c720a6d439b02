"""What a drill found: a table for people, and ``build/drills/NAME.json`` for the page that tells of it."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from repository import ROOT

FOLDER = ROOT / "build" / "drills"


def say(text: str) -> None:
    """A line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def format_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of the same keys, in columns."""
    if not rows:
        return "(nothing)"
    lines = [list(rows[0]), *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]
    return "\n".join(text.rstrip() for text in texts)


def write_record(
    name: str, command: str, table: Sequence[Mapping[str, object]], rows: Sequence[Any], start: float
) -> None:
    """Print the table; write it, with all single results, to the file of the drill. ``start`` is of time.monotonic."""
    content = {
        "drill": name,
        "command": command,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "seconds": round(time.monotonic() - start, 1),
        "machine": {"python": platform.python_version(), "system": platform.platform(), "cores": os.cpu_count()},
        "table": list(table),
        "rows": list(rows),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    say(f"\n{format_table(table)}\n\n{path}, after {content['seconds']} s")
