"""The repository under test: where it is, and the commands and code that its pages show."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def read_blocks(page: str, language: str = "sh") -> list[str]:
    """The page's fenced blocks of this language; ``page`` is a path below the repository."""
    return re.findall(rf"^```{language}\n(.*?)^```$", (ROOT / page).read_text("utf-8"), flags=re.M | re.S)


def read_commands(page: str) -> list[str]:
    """The commands in the page's sh blocks, continued lines joined, comments dropped."""
    lines = [line.strip() for block in read_blocks(page) for line in block.replace("\\\n", " ").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]
