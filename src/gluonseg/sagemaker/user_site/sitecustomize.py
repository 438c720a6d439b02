"""Lets a user's own script import MXNet on the numpy of today; Python runs this file at start-up.

It does so because this folder is on ``PYTHONPATH`` when a user's entry point runs. Start-up costs
nothing: numpy is imported, and its removed names restored, only when the script imports MXNet or
GluonCV. Another ``sitecustomize`` further down the path (the system's, the user's) runs as before.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType

_TRIGGERS = ("mxnet", "gluoncv")


class CompatFinder(MetaPathFinder):
    """Finds no module: it loads gluonseg.compat the first time somebody looks for MXNet or GluonCV."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None always, so that the import goes on as without this finder."""
        if fullname in _TRIGGERS and self in sys.meta_path:
            # First, because gluonseg.compat imports modules itself.
            sys.meta_path.remove(self)
            import gluonseg.compat  # noqa: F401
        return None


def run_next_sitecustomize(here: Path) -> None:
    """Run the ``sitecustomize`` that Python would have run if the folder ``here`` were not on the path."""
    others = [entry for entry in sys.path if Path(entry).resolve() != here]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(module_from_spec(spec))


sys.meta_path.insert(0, CompatFinder())
run_next_sitecustomize(Path(__file__).resolve().parent)
