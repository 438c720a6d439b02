"""Opening files that others put there: only regular ones, without waiting for a pipe, and of a size that fits."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: Path, *, follow: bool = True) -> BinaryIO:
    """Open a regular file to read; a link that stands in its place only with ``follow``.

    Raises:
        OSError: there is none, it cannot be read, or it is a link, a folder, a pipe, a socket or a device. Its
            ``strerror`` says which.
    """
    # O_NONBLOCK: the open of a pipe waits for a writer otherwise.
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
    """Read a regular file, see :func:`open_regular`, of at most ``max_bytes``; OSError also when it is larger."""
    with open_regular(path, follow=follow) as file:
        size = os.fstat(file.fileno()).st_size
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"it has {size} bytes, the limit is {max_bytes}", str(path))
        return file.read(size)


def leads_out(path: Path, folder: Path) -> bool:
    """Whether ``path`` is a symbolic link to something outside ``folder``, or to nothing that can be found."""
    if not path.is_symlink():
        return False
    try:
        return not path.resolve(strict=True).is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # it is broken, or leads to itself
        return True
