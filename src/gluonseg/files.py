"""Files: written whole or not at all, read only when they are regular, hashed, and what to do when the disk refuses."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from gluonseg.errors import StorageError
from gluonseg.text import shorten

BUFFER_BYTES = 1 << 20
"""A parameter file is written in hundreds of small pieces; the buffer joins them."""
_SYNC_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.ENOSYS)
"""Errors of fsync on file systems that do not have it, such as FUSE and SMB."""
_FIXES = {
    errno.ENOSPC: "make room there",
    errno.EDQUOT: "make room there, or raise the quota",
    errno.EFBIG: "raise the limit of the size of a file (ulimit -f)",
    errno.EROFS: "mount a folder there that can be written to",
    errno.EIO: "use another disk",
}
"""What a user can do about an error of the disk itself."""


def is_disk_error(error: OSError) -> bool:
    """Whether the disk is full, read-only or broken."""
    return error.errno in _FIXES


def find_fix(error: OSError) -> str:
    """What a user can do where a file or folder cannot be written because of ``error``."""
    if error.errno == errno.EACCES:
        return f"give the folder to uid {os.geteuid()}"
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a file is in its place, remove it"
    return _FIXES.get(error.errno or 0, "use another folder")


def find_storage_error(error: BaseException) -> StorageError | None:
    """``error`` as a StorageError with a fix when the disk is at fault, else None."""
    if not isinstance(error, OSError) or not is_disk_error(error):
        return None
    return StorageError(f"{error.filename or 'a file'} cannot be used: {error.strerror}; {find_fix(error)}")


def describe_refusal(path: Path, error: OSError, size: int) -> str:
    """Why ``size`` bytes could not be written to ``path``, and what a user can do."""
    free = ""
    with suppress(OSError):
        free = f" and {shutil.disk_usage(path.parent).free} are free"
    return f"{path} cannot be written: {error.strerror}; it needs {size} bytes{free}; {find_fix(error)}"


def sync(descriptor: int) -> None:
    """Wait until an open file, or the names in an open folder, are on the disk; a file system may have no such wait."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _SYNC_UNSUPPORTED:
            raise


def write_pieces(path: Path, pieces: Iterable[bytes | memoryview], size: int) -> None:
    """Write ``pieces``, ``size`` bytes together, to a new file that replaces ``path`` in one step.

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
            # A full disk may be reported only here, and without it a crash can leave the new name with no content.
            sync(file.fileno())
        os.replace(partial, path)
    except OSError as error:
        if not is_disk_error(error):
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
    # A file name in the text may hold bytes that are not UTF-8.
    write_bytes(path, text.encode(errors="backslashreplace"))


def open_regular(path: Path, *, follow: bool = True) -> BinaryIO:
    """Open a regular file to read; a symbolic link only with ``follow``.

    Raises:
        OSError: there is none, it cannot be read, or it is a link, a folder, a pipe, a socket or a device. Its
            ``strerror`` says which.
    """
    # Without O_NONBLOCK the open of a pipe waits until somebody writes to it.
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP and not follow:
            raise OSError(errno.ELOOP, "it is a symbolic link, which is not followed", str(path)) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, max_bytes: int, *, follow: bool = True) -> bytes:
    """Read a regular file of at most ``max_bytes``; raises OSError as :func:`open_regular`, and when it is larger."""
    with open_regular(path, follow=follow) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"it has {size} bytes, the limit is {max_bytes}", str(path))
        return file.read(size)


def hash_file(path: Path) -> str:
    """sha256 (hex) of the bytes of a regular file; raises OSError as :func:`open_regular`."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(BUFFER_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _refuse_number(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"the key {shorten(ascii(name))} appears twice")
        content[name] = value
    return content


def parse_json_object(data: bytes) -> dict[str, Any]:
    """Parse UTF-8 JSON (with or without a byte-order mark) that holds an object.

    Raises ValueError with what is wrong, also for a key that appears twice, NaN, and endless nesting.
    """
    try:
        content = json.loads(
            data.decode("utf-8-sig"), parse_constant=_refuse_number, object_pairs_hook=_refuse_duplicates
        )
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"it holds a {type(content).__name__}, not an object")
    return content
