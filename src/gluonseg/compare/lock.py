"""One process at a time for a comparison's folder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gluonseg.errors import UserError

LOCK_FILE = ".lock"


class Lock:
    """A lock that is held. Child processes that get ``descriptor`` hold it, too, when this process is killed."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor

    def note(self, *children: int) -> None:
        """Name this process and those it has started, for whoever finds the folder locked."""
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, " ".join(str(pid) for pid in (os.getpid(), *children)).encode(), 0)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True  # it is somebody else's
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _describe_holder(descriptor: int) -> str:
    noted = [int(word) for word in os.pread(descriptor, 100, 0).split() if word.isdigit()]
    running = [pid for pid in noted if _is_running(pid)]
    return f"process {(running or noted)[0]}" if noted else "another process"


@contextmanager
def hold_lock(folder: Path) -> Iterator[Lock]:
    """Hold the lock of ``folder``, which has to exist.

    Raises:
        UserError: another process holds it; the text names it.
    """
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _describe_holder(descriptor)
            raise UserError(
                f"{folder} is in use: {holder} writes a comparison there; wait for its end, or choose another --out"
            ) from None
        lock = Lock(descriptor)
        lock.note()
        yield lock
    finally:
        os.close(descriptor)


def check_free(folder: Path) -> None:
    """Raise UserError when another process writes a comparison to ``folder``; changes nothing there."""
    if (folder / LOCK_FILE).exists():
        with hold_lock(folder):
            pass
