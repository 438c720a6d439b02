"""Programs in processes of their own: what they inherit, and how they ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

MAKE_VARIABLES = ("MAKE", "MFLAGS", "PYTHON", "DATA", "VENV")
"""Variables that a make which runs the tests would pass on to a make that a test runs."""


def build_environment(*dropped: str, **variables: str) -> dict[str, str]:
    """This process's variables without those whose names begin with one of ``dropped``, and with ``variables``."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith(dropped)}, **variables}


def run_program(
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    *,
    cwd: Path | None = None,
    timeout: float | None = 300,
) -> subprocess.CompletedProcess[str]:
    """Run it to its end; what it writes to stderr is in stdout, between the lines where it was written."""
    return subprocess.run(
        [str(word) for word in command],
        env=environment,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_source(source: str, environment: Mapping[str, str]) -> str:
    """Run a Python program that must end well; what it wrote to stdout."""
    done = subprocess.run([sys.executable, "-c", source], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@dataclass
class LoggedProcess:
    """A program that runs, and the file that its log grows in."""

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


def check_one_line(capsys: pytest.CaptureFixture[str], *words: str) -> None:
    """One line on standard error that starts with the command's name; nothing on standard output."""
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("gluonseg: ")
    assert captured.err.count("\n") == 1, captured.err
    for word in words:
        assert word in captured.err
