"""The files of checkpoints: each there whole or not at all, and verified before anything in it is parsed.

A checkpoint is one ``.params`` file: ``checkpoint-<epoch>-<sha256 of the file>.params`` after that epoch, and
``checkpoint-<epoch>-<updates>-<sha256 of the file>.params`` after so many updates of it. One file, because SageMaker
copies the folder to S3 file by file while the job runs: of two that belong together, one could be missing.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gluonseg.errors import ModelError, UserError
from gluonseg.files import BUFFER_BYTES, find_fix, hash_file, parse_json_object, sync
from gluonseg.models.params import iter_params, read_arrays
from gluonseg.train.folder_lock import hold_folder

_log = logging.getLogger(__name__)
KEPT = 2
"""So many checkpoints stay: should the newest be damaged, there is the one before."""
_NAME = re.compile(r"checkpoint-(\d{6,18})-(?:(\d{6,18})-)?([0-9a-f]{64})\.params", re.ASCII)
_PARTIAL = ".checkpoint.{}.partial"
_JSON = "json"
"""Name of the array that has the bytes of the JSON."""


class CheckpointFile(NamedTuple):
    """A file that has the name of a checkpoint after ``epochs`` whole epochs and ``updates`` of the next one.

    These and ``sha256`` (hex) are what the name says.
    """

    path: Path
    epochs: int
    updates: int
    sha256: str

    def is_whole(self) -> bool:
        """Whether the bytes are those that were written. Raises OSError when they cannot be read."""
        return hash_file(self.path) == self.sha256

    def read(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON.

        Raises:
            ValueError or KeyError: it is damaged, or not what :meth:`CheckpointFolder.write` writes.
            UserError: it cannot be read, which does not say that it is damaged.
        """
        try:
            if not self.is_whole():
                raise ValueError("its checksum is not that of its name")
            arrays = read_arrays(self.path)
        except (OSError, ModelError) as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise ValueError(str(error)) from None
            raise UserError(
                f"the checkpoint {self.path} cannot be read: {cause.strerror} (errno {cause.errno}); mend that, or "
                "move it away to go on from the one before"
            ) from None
        return arrays, parse_json_object(arrays.pop(_JSON).tobytes())


class CheckpointFolder:
    """The checkpoints in ``folder``; made by :func:`open_checkpoints`. Files of other names are left alone."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor
        self._good: list[Path] = []

    def find_files(self) -> list[CheckpointFile]:
        """Checkpoints by name, the one that is furthest first."""
        found = [_parse_name(path) for path in self.folder.iterdir() if path.is_file() and not path.is_symlink()]
        files = [file for file in found if file]
        return sorted(files, key=lambda file: (file.epochs, file.updates, file.sha256), reverse=True)

    def note_good(self, file: CheckpointFile) -> None:
        """The job goes on from this one: it stays until there are enough newer ones."""
        self._good = [file.path]

    def write(self, epochs: int, updates: int, arrays: Mapping[str, Any], text: str = "{}") -> Path:
        """Write a checkpoint of ``arrays`` (numpy or MXNet) and ``text`` (JSON), and remove those no longer needed.

        It is one after ``epochs`` whole epochs and ``updates`` updates of the next one.

        Raises:
            OSError: it could not be written; nothing of it is left, and what was there before is. Or it is there, but
                could not be written through to the disk.
        """
        partial = self.folder / _PARTIAL.format(os.getpid())
        position = f"{epochs:06}-{updates:06}" if updates else f"{epochs - 1:06}"
        try:
            path = self.folder / f"checkpoint-{position}-{_write_file(partial, arrays, text)}.params"
            os.replace(partial, path)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        try:
            sync(self._descriptor)  # a new name outlives a power failure only then
        finally:  # whatever the disk says to that: the file is there
            self._good = [*self._good, path][-KEPT:]
            self._remove_others()
        return path

    def _remove_others(self) -> None:
        for file in self.find_files():
            if file.path not in self._good:
                try:
                    file.path.unlink(missing_ok=True)
                except OSError as error:
                    _log.warning("The checkpoint %s is no longer needed, and cannot be removed: %s", file.path, error)


def _write_file(path: Path, arrays: Mapping[str, Any], text: str) -> str:
    """Write a ``.params`` file through to the disk; returns the sha256 (hex) of what was meant to be written."""
    digest = hashlib.sha256()
    with path.open("wb", buffering=BUFFER_BYTES) as file:
        for piece in iter_params({_JSON: np.frombuffer(text.encode(), dtype=np.uint8), **arrays}):
            digest.update(piece)
            file.write(piece)
        file.flush()
        sync(file.fileno())
    return digest.hexdigest()


def _parse_name(path: Path) -> CheckpointFile | None:
    match = _NAME.fullmatch(path.name)
    if match is None:
        return None
    epoch, updates, sha256 = int(match[1]), int(match[2] or 0), match[3]
    return CheckpointFile(path, epoch if updates else epoch + 1, updates, sha256)


def describe_position(epochs: int, updates: int) -> str:
    """Where in the training a checkpoint is, in words."""
    return f"after update {updates} of epoch {epochs}" if updates else f"after epoch {epochs - 1}"


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
        _try_out(folder)
        held = ExitStack()
        descriptor = held.enter_context(hold_folder(folder, "keeps its checkpoints in"))
    except OSError as error:
        fix = f"{find_fix(error)}, or train without checkpoints"
        raise UserError(f"the folder of the checkpoints, {folder}, cannot be used: {error.strerror}; {fix}") from None
    with held:
        for path in folder.glob(_PARTIAL.format("*")):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                _log.warning("%s is left of a job that was killed, and cannot be removed: %s", path, error.strerror)
        yield CheckpointFolder(folder, descriptor)


def _try_out(folder: Path) -> None:
    """Do with a small file what is done with each checkpoint: not every file system can rename. Raises OSError."""
    names = [folder / _PARTIAL.format(f"{os.getpid()}.{word}") for word in ("probe", "renamed")]
    try:
        _write_file(names[0], {}, "{}")
        os.replace(*names)
    finally:
        for name in names:
            name.unlink(missing_ok=True)
