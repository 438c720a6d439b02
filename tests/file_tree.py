"""Folders and archives: what is in them, and members that no folder would give."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any


def read_files(folder: Path) -> dict[str, bytes]:
    """Every file below ``folder``: its path there, in order, and its content."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def add_member(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields: Any) -> None:
    """Add a member of any name; ``fields`` are those of its header, as type and linkname of a link."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(content))
