"""The library of fault.c: programs that find the disk full or broken from a chosen call on."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).with_name("fault.c")
COMPILER = shutil.which("gcc") or shutil.which("cc")


class Call(NamedTuple):
    """A call of a program that changes files: its number, name, path and, of a write, the bytes."""

    number: int
    name: str
    path: str
    size: int


@dataclass(frozen=True)
class Shim:
    """The compiled library; calls on files below ``folders`` count."""

    library: Path
    folders: tuple[Path, ...]

    def _build(self, **settings: object) -> dict[str, str]:
        under = ":".join(str(folder) for folder in self.folders)
        named = {f"FAULT_{name.upper()}": str(value) for name, value in settings.items()}
        return {"LD_PRELOAD": str(self.library), "FAULT_UNDER": under, **named}

    def list_to(self, log: Path) -> Mapping[str, str]:
        """Environment in which nothing happens, but every call is written to ``log``; see :func:`read_calls`."""
        return self._build(log=log)

    def fail_from(self, number: int, error: int) -> Mapping[str, str]:
        """Environment in which that call and all later ones of its kind fail with an errno."""
        return self._build(at=number, error=error)


def build_library(folder: Path) -> Path:
    """Compile the library into ``folder``; RuntimeError where there is no compiler."""
    if COMPILER is None:
        raise RuntimeError("this drill needs a C compiler: apt-get install gcc")
    library = folder / "fault.so"
    command = [COMPILER, "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    return library


def read_calls(log: Path) -> list[Call]:
    """The calls of a program that ran in the environment of :meth:`Shim.list_to`."""
    calls = []
    for line in log.read_text().splitlines():
        number, name, *path, size = line.split(" ")
        calls.append(Call(int(number), name, " ".join(path), int(size)))
    return sorted(calls)
