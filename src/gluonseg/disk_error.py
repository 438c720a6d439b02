"""Why something cannot be written, for people: what the disk says, and what they can do about it."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from gluonseg.errors import StorageError

_FIXES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or raise the quota",
    errno.EFBIG: "raise the limit of the size of a file (ulimit -f)",
    errno.EROFS: "mount a folder there that can be written to",
    errno.EIO: "use another disk",
}
"""What a disk says that no program can help, and what can be done."""


def is_of_disk(error: OSError) -> bool:
    """Whether the disk is full, read-only or broken."""
    return error.errno in _FIXES


def find_fix(error: OSError) -> str:
    """What can be done where a file or folder cannot be written because of ``error``."""
    if error.errno == errno.EACCES:
        return f"give the folder to uid {os.geteuid()}"
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a file is in its place, remove it"
    return _FIXES.get(error.errno or 0, "use another folder")


def find_storage_error(error: BaseException) -> StorageError | None:
    """The same for people, when it is the disk that is at fault; else None."""
    if not isinstance(error, OSError) or not is_of_disk(error):
        return None
    return StorageError(f"{error.filename or 'a file'} cannot be used: {error.strerror}; {find_fix(error)}")


def describe_refusal(path: Path, error: OSError, size: int) -> str:
    """Why ``size`` bytes could not be written to ``path``, and what can be done."""
    free = ""
    with suppress(OSError):
        free = f" and {shutil.disk_usage(path.parent).free} are free"
    return f"{path} cannot be written: {error.strerror}; it needs {size} bytes{free}; {find_fix(error)}"
