"""Lets any Python program import MXNet on the numpy of today, and writes its output line by line.

numpy is imported, and its removed names restored, only when the program imports MXNet or GluonCV. In script
mode Python's start-up finds this through ``sitecustomize`` on ``PYTHONPATH``, in the image through a ``.pth`` file.
"""

from __future__ import annotations

import io
import os
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


def buffer_lines() -> None:
    """Write a line of standard output once it is complete: a log is read while the program runs.

    SageMaker's toolkit makes a line of each piece that it reads, and PYTHONUNBUFFERED=1 makes pieces of a line.
    """
    if isinstance(sys.stdout, io.TextIOWrapper) and not os.environ.get("PYTHONUNBUFFERED"):
        sys.stdout.reconfigure(line_buffering=True)


sys.meta_path.insert(0, CompatFinder())
buffer_lines()
