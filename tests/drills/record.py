"""What a drill found: a table for people, and ``build/drills/NAME.json``, of one form for all drills."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gluonseg.machine.limits import count_usable_cores
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


def write_file(name: str, command: str, **found: object) -> Path:
    """Write the file of a drill: its command, the machine, and what was ``found``; returns its path."""
    content = {
        "drill": name,
        "command": command,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "cores": count_usable_cores(),
            "load": os.getloadavg()[2],
        },
        **found,
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def write_record(
    name: str, command: str, table: Sequence[Mapping[str, object]], rows: Sequence[Any], start: float
) -> None:
    """Print the table; write it, with all single results, to the file of the drill. ``start`` is of time.monotonic."""
    seconds = round(time.monotonic() - start, 1)
    path = write_file(name, command, seconds=seconds, table=list(table), rows=list(rows))
    say(f"\n{format_table(table)}\n\n{path}, after {seconds} s")
