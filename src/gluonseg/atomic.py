"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from gluonseg.errors import StorageError

BUFFER_BYTES = 1 << 20
"""A file of parameters has hundreds of small pieces."""
_FIXES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or raise the quota",
    errno.EFBIG: "raise the limit of the size of a file (ulimit -f)",
    errno.EROFS: "mount a folder there that can be written to",
    errno.EIO: "use another disk",
}
"""What the disk says that no program can help, and what can be done."""


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
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if error.errno not in _FIXES:
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


def find_storage_error(error: BaseException) -> StorageError | None:
    """The same for people, when it is the disk that is at fault; else None."""
    if not isinstance(error, OSError) or error.errno not in _FIXES:
        return None
    return StorageError(f"{error.filename or 'a file'} cannot be used: {error.strerror}; {_FIXES[error.errno]}")


def describe_refusal(path: Path, error: OSError, size: int) -> str:
    """Why ``size`` bytes could not be written to ``path``, and what can be done."""
    free = ""
    with suppress(OSError):
        free = f" and {shutil.disk_usage(path.parent).free} are free"
    return f"{path} cannot be written: {error.strerror}; it needs {size} bytes{free}; {find_fix(error)}"


def find_fix(error: OSError) -> str:
    """What can be done where a file or folder cannot be written because of ``error``."""
    if isinstance(error, PermissionError):
        return f"give the folder to uid {os.geteuid()}"
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a file is in its place, remove it"
    return _FIXES.get(error.errno or 0, "use another folder")
