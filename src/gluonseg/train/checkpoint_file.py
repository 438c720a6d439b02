"""The files of checkpoints: each there whole or not at all, and verified before anything in it is parsed.

A checkpoint is one ``.params`` file, ``checkpoint-<epoch>-<sha256 of the file>.params``. One file, because SageMaker
copies the folder to S3 file by file while the job runs: of two that belong together, one could be missing.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gluonseg.digest import hash_file
from gluonseg.errors import UserError
from gluonseg.models.params_file import iter_params

_log = logging.getLogger(__name__)
KEPT = 2
"""So many checkpoints stay: should the newest be damaged, there is the one before."""
_NAME = re.compile(r"checkpoint-(\d{6,})-([0-9a-f]{64})\.params", re.ASCII)
_PARTIAL = ".checkpoint.{}.partial"
_NO_FOLDER_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EBADF, errno.ENOSYS)
"""What file systems say that write files through to the disk, but not folders: FUSE, SMB."""
RESUMED = "Resuming from checkpoint %s after epoch %d, %.1f s of training, peak memory %.1f MB"
"""The line that the log of a job has when it goes on; :func:`find_resumed` reads it."""
_RESUMED_LINE = re.compile(
    r"Resuming from checkpoint .* after epoch (\d+), (\d+\.\d) s of training, peak memory (\d+\.\d) MB$"
)


class CheckpointFile(NamedTuple):
    """A file that has the name of a checkpoint; ``epoch`` and ``sha256`` (hex) are what the name says."""

    path: Path
    epoch: int
    sha256: str

    def is_whole(self) -> bool:
        """Whether the bytes are those that were written. Raises OSError when they cannot be read."""
        return hash_file(self.path) == self.sha256


class CheckpointFolder:
    """The checkpoints in ``folder``; made by :func:`open_checkpoints`. Files of other names are left alone."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor
        self._good: list[Path] = []

    def find_files(self) -> list[CheckpointFile]:
        """Checkpoints by name, the last epoch first."""
        found = [(path, _NAME.fullmatch(path.name)) for path in self.folder.iterdir()]
        files = [
            CheckpointFile(path, int(match[1]), match[2])
            for path, match in found
            if match and path.is_file() and not path.is_symlink()
        ]
        return sorted(files, key=lambda file: (file.epoch, file.sha256), reverse=True)

    def note_good(self, file: CheckpointFile) -> None:
        """The job goes on from this one: it stays until there are enough newer ones."""
        self._good = [file.path]

    def write(self, epoch: int, arrays: Mapping[str, Any]) -> Path:
        """Write a checkpoint of ``arrays`` (numpy or MXNet) and remove those that are no longer needed.

        Raises:
            OSError: it could not be written; nothing of it is left, and what was there before is. Or it is there, but
                could not be written through to the disk.
        """
        partial = self.folder / _PARTIAL.format(os.getpid())
        try:
            path = self.folder / f"checkpoint-{epoch:06}-{_write_file(partial, arrays)}.params"
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        try:
            self._sync()
        finally:  # whatever the disk says to that: the file is there
            self._good = [*self._good, path][-KEPT:]
            self._remove_others()
        return path

    def _sync(self) -> None:
        """Write the folder through: a new name outlives a power failure only then."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            if error.errno not in _NO_FOLDER_SYNC:
                raise

    def _remove_others(self) -> None:
        for file in self.find_files():
            if file.path not in self._good:
                file.path.unlink(missing_ok=True)

    def remove_partial(self) -> None:
        """Remove what a job that was killed while it wrote has left."""
        for path in self.folder.glob(_PARTIAL.format("*")):
            path.unlink(missing_ok=True)


@contextmanager
def open_checkpoints(folder: Path | None) -> Iterator[CheckpointFolder | None]:
    """Make ``folder`` if it is not there, and keep every other job out of it; None gives None.

    Raises:
        UserError: it cannot be written to, or another process keeps its checkpoints there.
    """
    if folder is None:
        yield None
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / _PARTIAL.format(f"{os.getpid()}.probe")
        try:
            probe.touch()
        finally:
            probe.unlink(missing_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UserError(f"the folder of the checkpoints, {folder}, cannot be used: {_explain(error)}") from None
    try:
        _lock(folder, descriptor)
        checkpoints = CheckpointFolder(folder, descriptor)
        checkpoints.remove_partial()
        yield checkpoints
    finally:
        os.close(descriptor)


def _explain(error: OSError) -> str:
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a file is in its place; remove that file, or name another folder"
    return f"{error.strerror}; give uid {os.geteuid()} a folder that it can write to, or train without checkpoints"


def _lock(folder: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UserError(
            f"another process keeps its checkpoints in {folder}; wait for its end, or name another folder"
        ) from None
    except OSError:  # some network file systems have no locks
        _log.warning("%s cannot be locked; see that no other job keeps its checkpoints there", folder)


def compute_size(arrays: Mapping[str, Any]) -> int:
    """Bytes of a checkpoint of ``arrays``, names and headers left out."""
    return sum(prod(array.shape) * np.dtype(array.dtype).itemsize for array in arrays.values())


def _write_file(path: Path, arrays: Mapping[str, Any]) -> str:
    """Write a ``.params`` file through to the disk; returns the sha256 (hex) of what was meant to be written."""
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for piece in iter_params(arrays):
            digest.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


class Resumed(NamedTuple):
    """The epoch after which a job has gone on, and what the training took up to there: seconds, MB at most."""

    epoch: int
    seconds: float
    peak_mb: float


def find_resumed(line: str) -> Resumed | None:
    """What a log line tells of a job that goes on; None for any other line."""
    found = _RESUMED_LINE.search(line)
    return Resumed(int(found[1]), float(found[2]), float(found[3])) if found else None
