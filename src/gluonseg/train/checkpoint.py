"""Checkpoints: all that the rest of a training depends on, so that a killed job goes on exactly.

The photos of an update, their augmentation, its learning rate and its dropout depend on the seed and the update's
number alone. A checkpoint has the rest: parameters, the optimizer's states, the number of updates, and all results.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gluonseg.data.check.doctor import CheckReport
from gluonseg.errors import StorageError, UserError
from gluonseg.hyperparameters import Hyperparameters
from gluonseg.machine.limits import read_peak_mb
from gluonseg.metrics import Confusion
from gluonseg.models.params import convert_arrays
from gluonseg.train.checkpoint_file import CheckpointFile, CheckpointFolder, describe_position
from gluonseg.train.checkpoint_state import collect_arrays, collect_counts, restore_state
from gluonseg.train.group import Group
from gluonseg.train.listener import EpochPart, EpochResult
from gluonseg.train.writer import ModelWriter, describe_versions

_log = logging.getLogger(__name__)
Array = npt.NDArray[Any]
_State = tuple[dict[str, Array], dict[str, Any]]
"""Arrays and JSON of a checkpoint."""
_FORMAT = 3
INTERVAL_S = 600.0
"""Seconds from one checkpoint to the next inside a long epoch: a killed job loses that much work at most."""
_FREE = ("_workers", "_logging_frequency", "_hybrid", "_num_kv_servers", "tensorboard")
"""Hyperparameters that no number of the training depends on."""
_CHANGED = {
    "class names": "the class names were {old}, now they are {new}",
    "hosts": "the number of hosts was {old}, now it is {new}",
    "devices": "the devices were {old}, now they are {new}",
    "training data": "the training photos, masks or label map have changed",
    "validation data": "the validation photos, masks or label map have changed",
    "start": "the starting values have changed: another model channel, or other pretrained weights",
}
"""Words for a difference that the two values alone do not explain."""
_THREADS = "OMP_NUM_THREADS"


def build_identity(
    hp: Hyperparameters, check: CheckReport, devices: Sequence[Any], start: Mapping[str, Any], num_hosts: int
) -> dict[str, str]:
    """All that must be the same for a job to go on, and on all its hosts.

    ``start`` are its starting values, NDArrays by name.
    """
    kinds = [device.device_type for device in devices]
    prints, maps = check.fingerprints, check.label_maps
    return {
        **{name: text for name, text in hp.to_strings().items() if name not in _FREE},
        **describe_versions(),
        "class names": ", ".join(check.class_names),
        "hosts": str(num_hosts),
        "devices": ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)),
        "training data": _hash_pieces([prints["train"].encode(), maps.train.table.tobytes()]),
        "validation data": _hash_pieces([prints["validation"].encode(), maps.validation.table.tobytes()]),
        "start": _hash_pieces(piece for name, array in start.items() for piece in (name.encode(), array.asnumpy())),
    }


def _describe_differences(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """The differences between two identities, in words."""
    names = [name for name in dict.fromkeys([*old, *new]) if old.get(name) != new.get(name)]
    if len(names) > 1:  # then the starting values differ because of the others
        names = [name for name in names if name != "start"]
    template = "{name} was {old}, now it is {new}"
    return [
        _CHANGED.get(name, template).format(name=name, old=old.get(name, "not set"), new=new.get(name, "not set"))
        for name in names
    ]


def _hash_pieces(pieces: Iterable[Any]) -> str:
    """sha256 (hex) over the hashes of the pieces, so that it matters where one ends."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(hashlib.sha256(piece).digest())
    return digest.hexdigest()


class Checkpoint:
    """Saves ``network`` and ``trainer``, and puts them back; ``writer`` has the parameters after the last epoch.

    Of several hosts only the first has a ``folder``: their states are the same, and it gives them what it has found.
    """

    def __init__(
        self,
        folder: CheckpointFolder | None,
        identity: Mapping[str, str],
        network: Any,
        trainer: Any,
        writer: ModelWriter,
        group: Group,
    ) -> None:
        self._folder = folder
        self._group = group
        self._identity = identity
        self._network = network
        self._trainer = trainer
        self._writer = writer
        self._start = self._saved_at = time.monotonic()
        self._saved: tuple[int, int] | None = None
        self.best: Mapping[str, Any] = {}
        """Parameters of the best epoch so far, float32 on the CPU."""
        self.seconds = 0.0
        """Time of the training before the checkpoint that this process went on from."""
        self.peak_mb = 0.0
        """Peak memory of the training before that checkpoint."""

    def is_due(self) -> bool:
        """Whether it is time for a checkpoint inside the epoch."""
        return self._folder is not None and time.monotonic() - self._saved_at >= INTERVAL_S

    def save(self, results: Sequence[EpochResult], part: EpochPart) -> None:
        """Write a checkpoint of all epochs of ``results`` and of ``part`` of the next, unless it is there already.

        A training that has no room for a checkpoint goes on without it.
        """
        position = len(results), part.updates
        if not self._folder or position in (self._saved, (0, 0)):
            return
        arrays = self._collect(results, part)
        try:
            self._folder.write(*position, arrays, json.dumps(self._describe(results, part)))
            self._saved = position
        except (StorageError, OSError) as error:
            text = "There is no checkpoint %s, and those before it stay; training goes on: %s"
            _log.warning(text, describe_position(*position), error)
        self._saved_at = time.monotonic()

    def _collect(self, results: Sequence[EpochResult], part: EpochPart) -> dict[str, Any]:
        arrays = collect_arrays(self._network, self._trainer)
        if results:
            arrays["confusion"] = np.stack([result.confusion.matrix for result in results])
        if _is_best(results, part):  # then the parameters are those of the best epoch
            self.best = self._writer.last
        else:
            arrays |= {f"best/{name}": array for name, array in self.best.items()}
        return arrays

    def _describe(self, results: Sequence[EpochResult], part: EpochPart) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "identity": dict(self._identity),
            "threads": os.environ.get(_THREADS),
            "seconds": self.seconds + time.monotonic() - self._start,
            "peak_mb": max(self.peak_mb, read_peak_mb()),
            "epochs": [{**vars(result), "confusion": None} for result in results],
            "part": dataclasses.asdict(part),
            "optimizer": collect_counts(self._network, self._trainer),
        }

    def resume(self) -> tuple[list[EpochResult], EpochPart]:
        """Put everything back as it was; returns the results of the whole epochs, and the part of the next one.

        Without a checkpoint there are no results, and nothing is changed.

        Raises:
            UserError: all checkpoints are damaged, or they are of another job.
            OSError: one cannot be read; it may be whole all the same.
        """
        file, state = self._read(self._folder) if self._folder else (None, None)
        if self._group.size > 1:
            content = self._group.broadcast(file.path.read_bytes() if file else b"")
            state = state or _parse(content)
        return self._restore(*state) if state else ([], EpochPart())

    def _read(self, folder: CheckpointFolder) -> tuple[CheckpointFile, _State] | tuple[None, None]:
        """The newest checkpoint that is whole."""
        files = folder.find_files()
        for file in files:
            if not file.is_whole():
                _log.warning("The checkpoint %s cannot be used: its checksum is not that of its name", file.path)
                continue
            arrays, content = file.read()
            self._check_identity(folder, content)
            folder.note_good(file)
            self._saved = file.epochs, file.updates
            _log.info(
                "Resuming from checkpoint %s %s, %.1f s of training, peak memory %.1f MB",
                file.path,
                describe_position(*self._saved),
                content["seconds"],
                content["peak_mb"],
            )
            return file, (arrays, content)
        if files:
            raise UserError(
                f"all {len(files)} checkpoints in {folder.folder} are damaged; bring back one that is not, "
                "or remove them to start from the first epoch"
            )
        return None, None

    def _check_identity(self, folder: CheckpointFolder, content: Mapping[str, Any]) -> None:
        words = [f"their format is {content['format']}, this program reads {_FORMAT}"]
        if content["format"] == _FORMAT:
            words = _describe_differences({"hosts": "1", **content["identity"]}, self._identity)
        if words:
            raise UserError(
                f"the checkpoints in {folder.folder} are of another job: {'; '.join(words)}. Give the same "
                "settings and data to go on, name another folder, or remove them to start from the first epoch"
            )
        threads = os.environ.get(_THREADS)
        if content["threads"] != threads:
            _log.warning(
                "%s was %s, now it is %s: numbers may differ in the last digits from an uninterrupted training",
                _THREADS,
                content["threads"],
                threads,
            )

    def _restore(self, arrays: Mapping[str, Array], content: Mapping[str, Any]) -> tuple[list[EpochResult], EpochPart]:
        """Put everything back; the results of the whole epochs, and the part of the next one."""
        results = [
            EpochResult(**{**entry, "confusion": Confusion(matrix)})
            for entry, matrix in zip(content["epochs"], arrays.get("confusion", ()), strict=True)
        ]
        part = EpochPart(**content["part"])
        restore_state(self._network, self._trainer, arrays, content["optimizer"])
        self.seconds, self.peak_mb = content["seconds"], content["peak_mb"]
        self._writer.resume(results)
        best = {name.removeprefix("best/"): array for name, array in arrays.items() if name.startswith("best/")}
        self.best = self._writer.last if _is_best(results, part) else convert_arrays(best)
        return results, part


def _parse(content: bytes) -> _State | None:
    """What the bytes of a checkpoint hold; None without any."""
    if not content:
        return None
    with tempfile.NamedTemporaryFile(prefix="gluonseg-checkpoint-") as copy:
        copy.write(content)
        copy.flush()
        return CheckpointFile(Path(copy.name), 0, 0, "").read()


def _is_best(results: Sequence[EpochResult], part: EpochPart) -> bool:
    """Whether the parameters are those of the best epoch: the first one of the highest mIOU."""
    return bool(results) and not part.updates and all(results[-1].miou > earlier.miou for earlier in results[:-1])
