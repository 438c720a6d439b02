"""A program in a process of its own, whose log grows in a file while a test looks on."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass
class LoggedProcess:
    """A process and its log."""

    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def log(self) -> str:
        return self.log_file.read_text(errors="replace")


@contextmanager
def start_logged(command: Sequence[str], log_file: Path, **variables: str) -> Iterator[subprocess.Popen[bytes]]:
    """Start a program with ``variables`` besides this process's; it is killed at the end."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **variables}, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait(timeout=60)
