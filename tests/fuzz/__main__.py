"""``python -m tests.fuzz TARGET... --seconds N``: fuzz the targets one after the other, and print a table."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

from drills.record import write_file

from .register import TARGETS
from .run import Figures, run_fuzzer


def _print_row(*cells: object) -> None:
    name, *others = cells
    print(f"{name!s:<16}" + "".join(f"{cell!s:>12}" for cell in others), flush=True)  # noqa: T201  this is its output


def _describe(found: dict[str, Figures]) -> dict[str, object]:
    return {"targets": {name: figures._asdict() for name, figures in found.items()}}


def main() -> int:
    """Fuzz, and return 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)} (default: all)")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default 60)")
    parser.add_argument("--corpus", type=Path, help="folder to keep inputs in that reached something new")
    parser.add_argument("--findings", type=Path, default=Path("build/fuzz"), help="folder for inputs that broke one")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.targets if name not in TARGETS]
    if unknown:
        parser.error(f"there is no target {unknown[0]}; there are {', '.join(TARGETS)}")
    if importlib.util.find_spec("atheris") is None:
        parser.error("atheris is not installed: it has wheels for Python 3.11 to 3.14 on Linux, x86_64")
    _print_row("target", "seconds", "executions", "coverage", "features", "corpus", "bytes")
    found: dict[str, Figures] = {}
    for name in arguments.targets or TARGETS:
        corpus = arguments.corpus / name if arguments.corpus else None
        figures = found[name] = run_fuzzer(name, arguments.seconds, corpus, arguments.findings)
        _print_row(name, arguments.seconds, *figures[:5])
        write_file("fuzz", f"python -m tests.fuzz {' '.join(found)} --seconds {arguments.seconds}", **_describe(found))
        if figures.problem:
            print(f"{name} broke:\n{figures.problem}", file=sys.stderr)  # noqa: T201
    return 1 if any(figures.problem for figures in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
