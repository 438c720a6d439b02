"""The files of checkpoints: each there whole or not at all, and verified before anything in it is parsed.

A checkpoint is one ``.params`` file: ``checkpoint-<epoch>-<sha256 of the file>.params`` after that epoch, and
``checkpoint-<epoch>-<updates>-<sha256 of the file>.params`` after so many updates of it. One file, because SageMaker
copies the folder to S3 file by file while the job runs: of two that belong together, one could be missing.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gluonseg.errors import UserError
from gluonseg.files import find_fix, hash_file, parse_json_object, sync, write_pieces
from gluonseg.models.params import compute_size, iter_params, read_arrays
from gluonseg.train.folder_lock import hold_folder

KEPT = 2
"""So many checkpoints stay: when the newest is damaged, the job goes on from the one before."""
_NAME = re.compile(r"checkpoint-(\d{6,18})-(?:(\d{6,18})-)?([0-9a-f]{64})\.params", re.ASCII)
_JSON = "json"
"""Name of the array that has the bytes of the JSON."""


class CheckpointFile(NamedTuple):
    """A file that has the name of a checkpoint after ``epochs`` whole epochs and ``updates`` of the next one.

    ``epochs``, ``updates`` and ``sha256`` (hex) are what the name says.
    """

    path: Path
    epochs: int
    updates: int
    sha256: str

    def is_whole(self) -> bool:
        """Whether the bytes are those that were written; raises OSError when they cannot be read."""
        return hash_file(self.path) == self.sha256

    def read(self) -> tuple[dict[str, npt.NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON of a file that is whole."""
        arrays = read_arrays(self.path)
        return arrays, parse_json_object(arrays.pop(_JSON).tobytes())


class CheckpointFolder:
    """The checkpoints in ``folder``; made by :func:`open_checkpoints`. Files of other names are left alone."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder = folder
        self._descriptor = descriptor
        self._good: list[Path] = []

    def find_files(self) -> list[CheckpointFile]:
        """Checkpoints by name, the furthest one first."""
        files = []
        for path in self.folder.iterdir():
            if (match := _NAME.fullmatch(path.name)) and path.is_file():
                epoch, updates = int(match[1]), int(match[2] or 0)
                files.append(CheckpointFile(path, epoch if updates else epoch + 1, updates, match[3]))
        return sorted(files, key=lambda file: (file.epochs, file.updates, file.sha256), reverse=True)

    def note_good(self, file: CheckpointFile) -> None:
        """The job goes on from ``file``, which stays until there are enough newer ones."""
        self._good = [file.path]

    def write(self, epochs: int, updates: int, arrays: Mapping[str, Any], text: str = "{}") -> Path:
        """Write a checkpoint of ``arrays`` (numpy or MXNet) and ``text`` (JSON), and remove those no longer needed.

        It is one after ``epochs`` whole epochs and ``updates`` updates of the next one.

        Raises:
            StorageError or OSError: it could not be written; the earlier checkpoints are as they were.
        """
        content = {_JSON: np.frombuffer(text.encode(), dtype=np.uint8), **arrays}
        digest = hashlib.sha256()
        for piece in iter_params(content):
            digest.update(piece)
        position = f"{epochs:06}-{updates:06}" if updates else f"{epochs - 1:06}"
        path = self.folder / f"checkpoint-{position}-{digest.hexdigest()}.params"
        write_pieces(path, iter_params(content), compute_size(content))
        sync(self._descriptor)  # a new name outlives a power failure only then
        self._good = [*self._good, path][-KEPT:]
        for file in self.find_files():
            if file.path not in self._good:
                file.path.unlink()
        return path


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
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        fix = f"{find_fix(error)}, or train without checkpoints"
        raise UserError(f"the folder of the checkpoints, {folder}, cannot be used: {error.strerror}; {fix}") from None
    with hold_folder(folder, "keeps its checkpoints in") as descriptor:
        for path in folder.glob(".checkpoint*.partial"):  # of a job that was killed while it wrote one
            path.unlink()
        yield CheckpointFolder(folder, descriptor)
