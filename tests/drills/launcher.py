"""``container/train`` with a thing in it made slow, or checkpoints made frequent; the rest of the process is as it is.

``launcher.py [--interval SECONDS] [--slow MODULE OWNER NAME FROM SECONDS]``: ``--slow`` prints ``SLOW NAME`` and sleeps
in each call from the one of number ``FROM`` (from 1) on, before it goes through; an ``OWNER`` of ``-`` is none.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module
from typing import Any


def slow_down(module: str, owner: str, name: str, start: int, seconds: float) -> None:
    """Let a function, or with ``owner`` a method, sleep before what it does."""
    holder: Any = import_module(module)
    holder = holder if owner == "-" else getattr(holder, owner)
    fast, calls = getattr(holder, name), [0]

    def slow(*arguments: Any, **options: Any) -> Any:
        calls[0] += 1
        if calls[0] >= start:
            sys.stdout.write(f"SLOW {name}\n")
            sys.stdout.flush()
            time.sleep(seconds)
        return fast(*arguments, **options)

    setattr(holder, name, slow)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--interval", type=float)
    parser.add_argument("--slow", nargs=5, action="append", default=[])
    options = parser.parse_args()
    for module, owner, name, start, seconds in options.slow:
        slow_down(module, owner, name, int(start), float(seconds))
    if options.interval is not None:
        import_module("gluonseg.train.checkpoint").INTERVAL_S = options.interval  # type: ignore[attr-defined]
    from gluonseg.sagemaker.job import main as train

    return train([])


if __name__ == "__main__":
    sys.exit(main())
