"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gluonseg.disk_error import describe_refusal, is_of_disk
from gluonseg.errors import StorageError

BUFFER_BYTES = 1 << 20
"""A file of parameters has hundreds of small pieces."""
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.ENOSYS)
"""What file systems say that cannot write folders through, or nothing at all: FUSE, SMB."""


def write_through(descriptor: int) -> None:
    """Have what was written to a file, or the names in a folder, on the disk when this returns, where that can be."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview], size: int) -> None:
    """Write ``pieces``, ``size`` bytes together, to ``path``, which is replaced in one step when all is on the disk.

    Raises:
        StorageError: the disk is full, read-only or broken; ``path`` is as it was, and nothing else is left.
        OSError: anything else, with the same outcome.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb", buffering=BUFFER_BYTES) as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            # Some file systems say only now that there is no room; and without it the name may outlive the content.
            write_through(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if not is_of_disk(error):
            raise
        raise StorageError(describe_refusal(path, error, size)) from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` in one step; raises as :func:`write_pieces`."""
    write_pieces(path, [content], len(content))


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8 to ``path`` in one step; raises as :func:`write_pieces`."""
    # The name of a file may hold bytes that are no text.
    write_bytes(path, text.encode(errors="backslashreplace"))
