"""Fuzz a target of faults/test_fuzz.py, guided by coverage: ``python tests/fuzz.py TARGET [CORPUS] [OPTION...]``.

Options are libFuzzer's, as ``-max_total_time=1800`` for half an hour. CORPUS is a folder in which inputs that reached
something new are kept. An input that breaks a promise is written to the current folder.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris  # it has wheels for Python 3.11 to 3.14 on Linux, x86_64

with atheris.instrument_imports(include=["gluonseg", "json", "PIL", "tarfile"]):
    from faults.test_fuzz import TARGETS, run


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    name, *rest = sys.argv[1:] or [""]
    if name not in TARGETS:
        sys.exit(f"{__doc__}\nTARGET is one of {', '.join(TARGETS)}.")
    with tempfile.TemporaryDirectory(prefix="gluonseg-fuzz-") as scratch:
        for number, seed in enumerate(TARGETS[name].seeds):
            Path(scratch, f"seed-{number:03}").write_bytes(seed)
        corpus = [word for word in rest if not word.startswith("-")]
        options = ["-timeout=10", "-rss_limit_mb=2048", *(word for word in rest if word.startswith("-"))]
        # libFuzzer writes to the first folder and only reads the others.
        atheris.Setup([sys.argv[0], *options, *corpus, scratch], lambda data: run(TARGETS[name], data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
