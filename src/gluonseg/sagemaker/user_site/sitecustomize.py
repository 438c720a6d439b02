"""Python runs this file at start-up where its folder is on ``PYTHONPATH``: when a user's entry point runs.

Another ``sitecustomize`` further down the path (the system's, the user's) runs as before.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

import gluonseg_site  # noqa: F401  it stands beside this file


def run_next_sitecustomize(here: Path) -> None:
    """Run the ``sitecustomize`` that Python would have run if the folder ``here`` were not on the path."""
    others = [entry for entry in sys.path if Path(entry).resolve() != here]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


run_next_sitecustomize(Path(__file__).resolve().parent)
