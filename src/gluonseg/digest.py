"""Digests of files, read a block at a time."""

from __future__ import annotations

import hashlib
from pathlib import Path

from gluonseg.regular_file import open_regular

_BLOCK = 1 << 20


def hash_file(path: Path, *, follow: bool = True) -> str:
    """sha256 (hex) of the bytes of a regular file; raises OSError as :func:`gluonseg.regular_file.open_regular`."""
    digest = hashlib.sha256()
    with open_regular(path, follow=follow) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
