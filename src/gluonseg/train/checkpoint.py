"""Checkpoints: all that the rest of a training depends on, so that a killed job goes on exactly.

The photos of an update, their augmentation, its learning rate and its dropout depend on the seed and the update's
number alone; what is left is parameters, the optimizer's states, the number of updates and what they have given so far.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import resource
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt

from gluonseg.errors import ModelError, UserError
from gluonseg.json_object import parse_json_object
from gluonseg.metrics import Confusion
from gluonseg.models.params_file import compute_size, read_arrays
from gluonseg.train.checkpoint_file import RESUMED, CheckpointFile, CheckpointFolder, describe_position
from gluonseg.train.checkpoint_state import collect_arrays, collect_counts, restore_state
from gluonseg.train.freeze import ALL_PHASE, HEAD_PHASE
from gluonseg.train.listener import EpochPart, EpochResult
from gluonseg.train.plan import Plan
from gluonseg.train.writer import ModelWriter, describe_versions

_log = logging.getLogger(__name__)
Array = npt.NDArray[Any]
_FORMAT = 2
INTERVAL_S = 600.0
"""In an epoch that takes longer than this there is a checkpoint now and then; so much work is lost at most."""
_FREE = ("_workers", "_logging_frequency", "_hybrid", "_num_kv_servers", "tensorboard")
"""Hyperparameters that no number of the training depends on."""
_DAMAGE = (ModelError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError)
"""What reading a checkpoint raises whose content is not what :meth:`Checkpoint.save` writes."""
_THREADS = "OMP_NUM_THREADS"
_NUMBERS = ("learning_rate", "train_loss", "train_throughput", "validation_throughput")
_MB = 1 << 20 if sys.platform == "darwin" else 1 << 10  # ru_maxrss is in bytes there, in KiB elsewhere


@dataclasses.dataclass(frozen=True)
class Identity:
    """What has to be the same for a job to go on from a checkpoint."""

    hyperparameters: Mapping[str, str]
    versions: Mapping[str, str]
    class_names: Sequence[str]
    devices: str
    training_data: str
    validation_data: str
    start: str

    def describe_differences(self, now: Identity) -> list[str]:
        """What of this is different ``now``, in words."""
        words = []
        for old, new in ((self.hyperparameters, now.hyperparameters), (self.versions, now.versions)):
            for name in dict.fromkeys([*old, *new]):
                if old.get(name) != new.get(name):
                    words.append(f"{name} was {old.get(name, 'not set')}, now it is {new.get(name, 'not set')}")
        old_names, new_names = list(self.class_names), list(now.class_names)
        if old_names != new_names and not any(word.startswith("class_names ") for word in words):
            words.append(f"the class names were {', '.join(old_names)}, now they are {', '.join(new_names)}")
        if self.devices != now.devices:
            words.append(f"the devices were {self.devices}, now they are {now.devices}")
        if self.training_data != now.training_data:
            words.append("the training photos, masks or label map have changed")
        if self.validation_data != now.validation_data:
            words.append("the validation photos, masks or label map have changed")
        if not words and self.start != now.start:
            words.append("the starting values have changed: another model channel, or other pretrained weights")
        return words


def build_identity(plan: Plan, start: Mapping[str, Any]) -> Identity:
    """The identity of a job; ``start`` are its starting values, NDArrays by name."""
    kinds = [device.device_type for device in plan.devices]
    settings, prints = plan.hyperparameters.to_strings(), plan.check.fingerprints
    return Identity(
        hyperparameters={name: text for name, text in settings.items() if name not in _FREE},
        versions=describe_versions(),
        class_names=plan.class_names,
        devices=", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)),
        training_data=_hash_pieces([prints["train"].encode(), plan.maps.train.table.tobytes()]),
        validation_data=_hash_pieces([prints["validation"].encode(), plan.maps.validation.table.tobytes()]),
        start=_hash_pieces(piece for name, array in start.items() for piece in (name.encode(), array.asnumpy())),
    )


def _hash_pieces(pieces: Iterable[Any]) -> str:
    """sha256 (hex) over the hashes of the pieces, so that it matters where one ends."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(hashlib.sha256(piece).digest())
    return digest.hexdigest()


class Checkpoint:
    """Saves ``network`` and ``trainer``, and puts them back; ``writer`` has what each epoch gave."""

    def __init__(
        self, folder: CheckpointFolder, identity: Identity, network: Any, trainer: Any, writer: ModelWriter
    ) -> None:
        self._folder = folder
        self._identity = identity
        self._network = network
        self._trainer = trainer
        self._writer = writer
        self._start = self._saved_at = time.monotonic()
        self._saved: tuple[int, int] | None = None
        self.best: Mapping[str, Any] = {}
        """Parameters of the best epoch so far, float32 on the CPU."""
        self.seconds = 0.0
        """Time spent before this process, up to the checkpoint that it went on from."""
        self._peak_mb = 0.0

    def is_due(self) -> bool:
        """Whether the last checkpoint, or the beginning, is so long ago that there should be one inside the epoch."""
        return time.monotonic() - self._saved_at >= INTERVAL_S

    def save(self, results: Sequence[EpochResult], part: EpochPart) -> None:
        """Write a checkpoint of all epochs of ``results`` and of ``part`` of the next, unless it is there already.

        A training that has no room for it goes on without.
        """
        position = len(results), part.updates
        if position in (self._saved, (0, 0)):
            return
        arrays = self._collect(results, part)
        try:
            self._folder.write(*position, arrays)
            self._saved = position
        except OSError as error:
            _log.warning(
                "The checkpoint %s cannot be written to %s, where it needs %.1f MB: %s; training goes on, "
                "and the checkpoints that are there stay",
                describe_position(*position),
                self._folder.folder,
                compute_size(arrays) / 1e6,
                error.strerror,
            )
        self._saved_at = time.monotonic()

    def _collect(self, results: Sequence[EpochResult], part: EpochPart) -> dict[str, Any]:
        is_best = _is_best(results, part)
        if is_best:
            self.best = self._writer.last
        arrays = {
            "json": np.frombuffer(json.dumps(self._describe(results, part)).encode(), dtype=np.uint8),
            **collect_arrays(self._network, self._trainer),
        }
        if results:
            arrays["confusion"] = np.stack([result.confusion.matrix for result in results])
        if not is_best:  # else they are the parameters
            arrays |= {f"best/{name}": array for name, array in self.best.items()}
        return arrays

    def _describe(self, results: Sequence[EpochResult], part: EpochPart) -> dict[str, Any]:
        epochs = [{**vars(result), "confusion": None} for result in results]
        return {
            "format": _FORMAT,
            "identity": dataclasses.asdict(self._identity),
            "threads": os.environ.get(_THREADS),
            "seconds": self.seconds + time.monotonic() - self._start,
            "peak_mb": max(self._peak_mb, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MB),
            "epochs": epochs,
            "part": dataclasses.asdict(part),
            "optimizer": collect_counts(self._network, self._trainer),
        }

    def resume(self) -> tuple[list[EpochResult], EpochPart]:
        """Put everything back as it was; the whole epochs' results, none when there is no checkpoint, and the next's.

        Raises:
            UserError: all checkpoints are damaged, one cannot be read, or they are of another job.
        """
        files = self._folder.find_files()
        num_classes = int(self._identity.hyperparameters["num_classes"])
        for file in files:
            try:
                arrays, content = _read(file)
                self._check_identity(content)
                results = _parse_results(arrays.get("confusion"), content, num_classes)
                part = _parse_part(content["part"])
                if (len(results), part.updates) != (file.epochs, file.updates):
                    raise ValueError(f"it is one {describe_position(len(results), part.updates)}")
                self._restore(arrays, content, results, part)
            except _DAMAGE as error:
                _log.warning("The checkpoint %s cannot be used: %s", file.path, _describe_damage(error))
                continue
            self._folder.note_good(file)
            self._saved = file.epochs, file.updates
            _log.info(RESUMED, file.path, describe_position(*self._saved), self.seconds, self._peak_mb)
            return results, part
        if files:
            raise UserError(
                f"all {len(files)} checkpoints in {self._folder.folder} are damaged; bring back one that is not, "
                "or remove them to start from the first epoch"
            )
        return [], EpochPart()

    def _check_identity(self, content: Mapping[str, Any]) -> None:
        earlier = Identity(**content["identity"]) if content["format"] == _FORMAT else None
        if earlier is None:
            words = [f"their format is {content['format']}, this program reads {_FORMAT}"]
        else:
            words = earlier.describe_differences(self._identity)
        if words:
            raise UserError(
                f"the checkpoints in {self._folder.folder} are of another job: {'; '.join(words)}. Give the same "
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

    def _restore(
        self, arrays: Mapping[str, Array], content: Mapping[str, Any], results: list[EpochResult], part: EpochPart
    ) -> None:
        """Put everything back; ValueError, before anything is changed, when it does not fit."""
        best = {name.removeprefix("best/"): array for name, array in arrays.items() if name.startswith("best/")}
        is_best = _is_best(results, part)
        has_best = bool(results) and not is_best
        expected = {name: (array.shape, "float32") for name, array in self._writer.last.items()} if has_best else {}
        if {name: (array.shape, array.dtype.name) for name, array in best.items()} != expected:
            raise ValueError("the parameters of its best epoch are not those of the network")
        for name, array in arrays.items():
            if name.startswith(("parameter/", "best/")) and not np.isfinite(array).all():
                raise ValueError(f"{name} is not finite")
        seconds, peak_mb = (_parse_number(content, name) for name in ("seconds", "peak_mb"))
        restore_state(self._network, self._trainer, arrays, content["optimizer"])
        self.seconds, self._peak_mb = seconds, peak_mb
        self._writer.resume(results)
        self.best = {name: mx.nd.array(array, dtype=array.dtype) for name, array in best.items()}
        if is_best:
            self.best = self._writer.last


def _parse_results(confusions: Array | None, content: Mapping[str, Any], num_classes: int) -> list[EpochResult]:
    """The results of all whole epochs; ValueError when they are not what a training gives."""
    entries = content["epochs"]
    shape = (len(entries), num_classes, num_classes)
    if confusions is None and entries == []:
        return []
    if confusions is None or not entries:
        raise ValueError("its confusions are not counts of its epochs")
    if confusions.shape != shape or confusions.dtype != np.int64 or confusions.min() < 0:
        raise ValueError(f"its confusions are {confusions.dtype} {confusions.shape}, not counts {shape}")
    return [
        EpochResult(**{**_check_entry(entry, epoch), "confusion": Confusion(matrix.astype(np.int64))})
        for epoch, (entry, matrix) in enumerate(zip(entries, confusions, strict=True))
    ]


def _check_entry(entry: Mapping[str, Any], epoch: int) -> Mapping[str, Any]:
    if type(entry["epoch"]) is not int or entry["epoch"] != epoch:
        raise ValueError(f"epoch {entry['epoch']!r} is in the place of epoch {epoch}")
    for name in _NUMBERS:
        _parse_number(entry, name)
    if entry["phase"] not in (None, HEAD_PHASE, ALL_PHASE):
        raise ValueError(f"epoch {epoch} has phase {entry['phase']!r}")
    return entry


def _parse_part(entry: Mapping[str, Any]) -> EpochPart:
    """What an epoch has given so far; ValueError when it is not what a training gives."""
    counts = {name: entry[name] for name in ("updates", "samples")}
    if not all(type(count) is int and count >= 0 for count in counts.values()):
        raise ValueError(f"the counts of its last epoch are {counts}")
    return EpochPart(**counts, loss=_parse_number(entry, "loss"), seconds=_parse_number(entry, "seconds"))


def _parse_number(entry: Mapping[str, Any], name: str) -> float:
    value = entry[name]
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}, not a number")
    return float(value)


def _is_best(results: Sequence[EpochResult], part: EpochPart) -> bool:
    """Whether the parameters are those of the best epoch: the first one of the highest mIOU."""
    if not results or part.updates:
        return False
    return max(range(len(results)), key=lambda number: results[number].miou) == len(results) - 1


def _read(file: CheckpointFile) -> tuple[dict[str, Array], dict[str, Any]]:
    """Arrays and JSON of a checkpoint; UserError when it cannot be read, which does not say that it is damaged."""
    try:
        if not file.is_whole():
            raise ValueError("its checksum is not that of its name")
        arrays = read_arrays(file.path)
    except (OSError, ModelError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError):
            raise
        raise UserError(
            f"the checkpoint {file.path} cannot be read: {cause.strerror} (errno {cause.errno}); mend that, or move it "
            "away to go on from the one before"
        ) from None
    return arrays, parse_json_object(arrays["json"].tobytes())


def _describe_damage(error: Exception) -> str:
    return f"it lacks {error}" if isinstance(error, KeyError) else str(error)
