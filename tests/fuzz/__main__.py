"""Fuzz one target: ``python -m tests.fuzz TARGET [CORPUS] [OPTION...]``; options are libFuzzer's.

``-max_total_time=1800`` fuzzes for half an hour. CORPUS is a folder in which inputs that reached something new are
kept; without it they are thrown away. An input that breaks a promise is written to the current folder.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from .register import TARGETS


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    name, *rest = sys.argv[1:] or [""]
    if name not in TARGETS:
        sys.exit(f"{__doc__}\nTARGET is one of {', '.join(TARGETS)}.")
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: it has wheels for Python 3.11 to 3.14 on Linux, x86_64")
    target = TARGETS[name]
    with atheris.instrument_imports(include=list(target.watched)):
        run = target.build()
    with tempfile.TemporaryDirectory(prefix="gluonseg-fuzz-") as scratch:
        for number, seed in enumerate(target.seeds()):
            Path(scratch, f"seed-{number:03}").write_bytes(seed)
        corpus = [word for word in rest if not word.startswith("-")]
        options = ["-timeout=10", "-rss_limit_mb=2048", f"-max_len={target.max_length}"]
        given = [word for word in rest if word.startswith("-")]
        # libFuzzer writes to the first folder and only reads the others.
        atheris.Setup([sys.argv[0], *options, *given, *corpus, scratch], run)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
