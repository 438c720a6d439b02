"""Lets any Python program import MXNet on the numpy of today, and costs its start-up nothing.

numpy is imported, and its removed names restored, only when the program imports MXNet or GluonCV. In script
mode Python's start-up finds this through ``sitecustomize`` on ``PYTHONPATH``, in the image through a ``.pth`` file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
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


sys.meta_path.insert(0, CompatFinder())
