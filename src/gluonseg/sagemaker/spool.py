"""Pipe mode: the first epoch of each channel is copied to disk, and the job goes on as in File mode.

So the data are checked before anything is computed, every photo is scored whole, and a killed job goes on exactly:
SageMaker may give the photos in another order each time, so their files are named by what is in them.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gluonseg.data.channel import NEEDED_CHANNELS, SPLITS
from gluonseg.data.decode import JPEG_START
from gluonseg.errors import DataError, StorageError
from gluonseg.sagemaker.log import ProgressLog
from gluonseg.sagemaker.pipe import iter_records
from gluonseg.text import shorten
from gluonseg.train.stop import Stop

_log = logging.getLogger(__name__)
_ATTRIBUTES = 'attribute_names=["source-ref", "<mask>-ref"], the photo first'
_FIX = f'give s3_data_type="AugmentedManifestFile" and {_ATTRIBUTES}'
_DIGEST_LENGTH = 16
_MAX_TEXT = 1 << 16
_MB = 1_000_000
_FULL = (errno.ENOSPC, errno.EDQUOT)


def find_pipes(inputs: Mapping[str, Any]) -> list[str]:
    """The channels of inputdataconfig.json that are in Pipe mode: none, or train and validation.

    Raises:
        DataError: photos and masks cannot come through the pipes that the job has.
    """
    modes = {name: read_setting(config, "TrainingInputMode", "File") for name, config in inputs.items()}
    pipes = [name for name, mode in modes.items() if mode == "Pipe"]
    for name in pipes:
        if name not in NEEDED_CHANNELS:
            raise DataError(f'channel {name}: it is never read from a pipe; give it input_mode="File"')
        wrapper = read_setting(inputs[name], "RecordWrapperType", "None")
        if name in SPLITS and wrapper != "RecordIO":
            raise DataError(
                f"channel {name}: RecordWrapperType is {wrapper}, so nothing shows where a photo ends; "
                'give record_wrapping="RecordIO"'
            )
    for name in NEEDED_CHANNELS if pipes else ():
        if name not in SPLITS and name in inputs:
            split = name.removesuffix("_annotation")
            raise DataError(
                f"channel {name}: in Pipe mode the masks come with their photos; leave it out, and for {split} {_FIX}"
            )
        if name in SPLITS and name not in pipes:
            found = f"in {modes[name]} mode" if name in modes else "missing"
            raise DataError(f"channel {pipes[0]} is in Pipe mode, {name} is {found}; give both in the same mode")
    return pipes


def read_setting(config: Any, name: str, default: str) -> str:
    """The setting ``name`` of a channel in inputdataconfig.json."""
    return str(config.get(name) or default) if isinstance(config, dict) else default


class _Disk:
    """Writes files below a folder; on a full disk it counts what would have been needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._free_bytes = shutil.disk_usage(folder).free
        self._refusal: OSError | None = None
        self.count_bytes = 0

    def write(self, channel: str, name: str, content: bytes) -> None:
        self.count_bytes += len(content)
        if self._refusal:
            return
        path = self._folder / channel / name
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._refusal = error
            _log.warning("%s: %s; the rest is read only to tell how much room it needs", path, error.strerror)

    def check(self) -> None:
        """Raise StorageError when something had no room."""
        if self._refusal:
            raise StorageError(
                f"{self._folder}: {self._refusal.strerror}; photos and masks of all channels need "
                f"{self.count_bytes} bytes, {self._free_bytes} were free; give the job a larger volume_size (GB), or "
                "let TMPDIR in its environment name a folder on a larger disk"
            )


def spool_channels(pipes: Mapping[str, Path], folder: Path, stop: Stop) -> dict[str, Path]:
    """Copy what comes through the pipes of epoch 0 to disk; the channels of File mode, as folders in ``folder``.

    ``pipes`` has the path of each channel, without ``_0``. A photo and its mask have one name: 16 digits of the
    photo's sha256 and 16 of the mask's.

    Raises:
        DataError: the records are no photos and masks in turn, and everything of :func:`iter_records`.
        StorageError: the disk has no room for them; told is how much they need.
        Stopped: the stop is asked for.
    """
    if not pipes:
        return {}
    start_s, disk = time.monotonic(), _Disk(folder)
    text = "All photos and masks are copied to %s before the training begins; %d MB are free there"
    _log.info(text, folder, shutil.disk_usage(folder).free // _MB)
    for name, path in pipes.items():
        _log.info("The channel %r is in pipe input mode under %s.", name, path)
        count = _spool_channel(name, path.with_name(f"{name}_0"), disk, stop)
        _log.info("Read %d photos with their masks from channel %s", count, name)
    disk.check()
    _log.info("The copy has %.1f MB and took %.1f s", disk.count_bytes / _MB, time.monotonic() - start_s)
    return {name: folder / name for split in pipes for name in (split, f"{split}_annotation")}


def _spool_channel(channel: str, path: Path, disk: _Disk, stop: Stop) -> int:
    """Copy one channel; returns the number of photos."""
    copies: Counter[str] = Counter()
    progress = ProgressLog(f"Read %d photos from channel {channel}; the copy has %d MB")
    photo: bytes | None = None
    number = 0
    for number, record in enumerate(iter_records(channel, path, stop), 1):
        _check_no_text(channel, number, record)
        if photo is None:
            photo = record
            continue
        _check_mask(channel, number, photo, record)
        name = f"{_digest(photo)}-{_digest(record)}"
        copies[name] += 1
        if copies[name] > 1:  # the manifest has it more than once
            name += f"-{copies[name]}"
        disk.write(channel, f"{name}.jpg", photo)
        disk.write(f"{channel}_annotation", f"{name}.png", record)
        progress(number // 2, disk.count_bytes // _MB)
        photo = None
    if photo is not None:
        raise DataError(
            f"channel {channel}: {number} records came, an odd number: a photo is without its mask; "
            f"every line of the manifest needs both, {_FIX}"
        )
    if not number:
        raise DataError(f"channel {channel}: its pipe ended without a record; check that its manifest has lines")
    return number // 2


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:_DIGEST_LENGTH]


def _check_no_text(channel: str, number: int, record: bytes) -> None:
    """Raise DataError for a record that is the text of an attribute, and not the file that it names."""
    try:
        text = record.decode() if len(record) < _MAX_TEXT else ""
    except UnicodeDecodeError:
        return
    if text and all(character.isprintable() or character.isspace() for character in text):
        raise DataError(
            f"channel {channel}: record {number} is the text {shorten(text)!r}, and no picture; SageMaker sends the "
            f"file that an attribute names only when the attribute's name ends in -ref: give {_ATTRIBUTES}"
        )


def _check_mask(channel: str, number: int, photo: bytes, mask: bytes) -> None:
    """Raise DataError for a JPEG where a mask belongs."""
    if mask.startswith(JPEG_START):
        also = photo.startswith(JPEG_START)
        cause = "as the record before it is" if also else "and the one before it is none: they are the other way round"
        raise DataError(f"channel {channel}: record {number}, where a mask belongs, is a JPEG, {cause}; {_FIX}")
