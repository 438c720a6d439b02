"""Digests of files, read a block at a time."""

from __future__ import annotations

import hashlib
from pathlib import Path

_BLOCK = 1 << 20


def hash_file(path: Path) -> str:
    """sha256 (hex) of the bytes of a file; raises OSError when they cannot be read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
