"""One job at a time for a folder."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gluonseg.errors import UserError

_log = logging.getLogger(__name__)


@contextmanager
def hold_folder(folder: Path, use: str) -> Iterator[int]:
    """Lock an existing ``folder`` against every other job, until the block or the process ends; yields its descriptor.

    ``use`` is what a job does with the folder, for the messages: ``writes its model to``.

    Raises:
        UserError: another process has it.
        OSError: it cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process {use} {folder}; wait for its end, or name another folder") from None
        except OSError:  # some network file systems have no locks
            _log.warning("%s cannot be locked; see that no other job %s it", folder, use)
        yield descriptor
    finally:
        os.close(descriptor)
