"""Calls the programs' entry points one after the other, in a process that is watched: see test_code_from_data.py.

The arguments are the path of a JSON list of [name, program, base, arguments], and where the exit codes go.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from audit_hook import CASE
from gluonseg.cli import main as run_gluonseg
from gluonseg.sagemaker.job import main as run_train


def _call(program: str, base: str, arguments: list[str]) -> int:
    os.environ["SAGEMAKER_BASE_DIR"] = base
    try:
        return run_train(arguments) if program == "train" else run_gluonseg(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def main() -> None:
    """Make every call, whatever the one before it ended with."""
    codes = {}
    for name, program, base, arguments in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        sys.audit(CASE, name)
        codes[name] = _call(program, base, arguments)
        Path(sys.argv[2]).write_text(json.dumps(codes), encoding="utf-8")


if __name__ == "__main__":
    main()
