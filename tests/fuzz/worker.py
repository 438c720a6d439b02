"""The process that fuzzes: ``python -m tests.fuzz.worker TARGET CORPUS OPTION...``, options being libFuzzer's."""

from __future__ import annotations

import sys

import atheris

from .register import TARGETS


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    name, *rest = sys.argv[1:]
    target = TARGETS[name]
    with atheris.instrument_imports(include=list(target.watched)):
        run = target.build()
    atheris.Setup([sys.argv[0], *rest], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
