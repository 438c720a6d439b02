"""The house: which part of the package may import which, and how many modules lie at its root."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from repository import ROOT

PACKAGE = ROOT / "src" / "gluonseg"
FLOORS = (
    "text", "errors", "files", "machine", "compat", "labels", "metrics", "parameter", "data", "models",
    "hyperparameters", "onnx", "predict", "export", "report", "train", "sagemaker", "compare", "serve",
    "app", "command", "cli",
)  # fmt: skip
"""The parts of the package from the lowest to the highest: each imports only parts before it."""


def _iter_imports(path: Path) -> Iterator[str]:
    """The parts of gluonseg that a module imports, wherever in the module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("gluonseg."))


def test_imports_point_down() -> None:
    wrong = []
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if part.startswith("__"):  # __init__ offers names of all floors, __main__ calls the program
            continue
        allowed = {"__version__", *FLOORS[: FLOORS.index(part) + 1]}
        wrong += [f"{path.relative_to(PACKAGE)} imports {one}" for one in _iter_imports(path) if one not in allowed]
    assert wrong == []


def test_ten_modules_at_the_root() -> None:
    assert len([path for path in PACKAGE.glob("*.py") if not path.stem.startswith("__")]) <= 10
