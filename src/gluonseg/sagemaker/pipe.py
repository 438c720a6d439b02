"""The records of a channel in Pipe mode: SageMaker writes them as RecordIO into a named pipe, ``<channel>_<epoch>``.

MXNet's own reader waits in C for bytes that never come, deaf to a stop, and takes a record whose last part is missing
for the end of the stream. The pipes:
https://docs.aws.amazon.com/sagemaker/latest/dg/your-algorithms-training-algo-running-container.html; RecordIO:
https://github.com/dmlc/dmlc-core/blob/main/include/dmlc/recordio.h
"""

from __future__ import annotations

import io
import os
import select
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from gluonseg.errors import DataError
from gluonseg.train.stop import Stop

WAIT_S = 300.0
"""Longest wait, in seconds, for a pipe and for each of its next bytes; AWS's own reader gives up after 60 s."""
_STEP_S = 0.1
"""Seconds between two looks for the pipe and for a stop."""
_BUFFER_BYTES = 1 << 20
_MAGIC = struct.pack("<I", 0xCED7230A)
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)


class _Pipe(io.RawIOBase):
    """The bytes of a pipe, each waited for; a stop or too long a wait ends the reading."""

    def __init__(self, channel: str, path: Path, stop: Stop) -> None:
        self._channel, self._path, self._stop = channel, path, stop
        self._count = 0
        self._descriptor = self._open()
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN)

    def _open(self) -> int:
        deadline_s = time.monotonic() + WAIT_S
        while True:
            self._stop.check()
            try:
                # Without O_NONBLOCK the open would wait, deaf to a stop, for somebody who writes.
                return os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except FileNotFoundError:
                if time.monotonic() > deadline_s:
                    raise DataError(
                        f"channel {self._channel}: the pipe {self._path} has not come within {WAIT_S:g} s; only "
                        'SageMaker makes one: start the job again there, elsewhere give input_mode="File"'
                    ) from None
            time.sleep(_STEP_S)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # the buffered reader gives a memoryview
        """Wait for bytes, and read what there is; 0 at the end of the stream."""
        deadline_s = time.monotonic() + WAIT_S
        # Before the first writer has come a read would say that the stream is at its end; poll does not.
        while not self._poll.poll(_STEP_S * 1000):
            self._stop.check()
            if time.monotonic() > deadline_s:
                raise DataError(
                    f"channel {self._channel}: no byte came through the pipe {self._path} for {WAIT_S:g} s, after "
                    f"{self._count} bytes; check that the role may read every file of the manifest, and try again"
                )
        self._stop.check()
        size = os.readv(self._descriptor, [buffer])
        self._count += size
        return size

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def iter_records(channel: str, path: Path, stop: Stop) -> Iterator[bytes]:
    """The records that come through the pipe at ``path``, until its writer closes it.

    Raises:
        DataError: there is no pipe, or no next byte, within WAIT_S; the bytes are no RecordIO, or end within a record.
        Stopped: the stop is asked for.
    """
    with io.BufferedReader(_Pipe(channel, path, stop), _BUFFER_BYTES) as stream:
        try:
            yield from parse_records(stream)
        except ValueError as error:
            raise DataError(f"channel {channel}: {error}") from None


def parse_records(stream: BinaryIO | io.BufferedReader) -> Iterator[bytes]:
    """The records of a RecordIO stream; raises ValueError for bytes that are none, and for a record that is cut.

    A writer cuts a record where its bytes would look like the beginning of another one: the parts have flags of their
    own, and the magic number that was between them is left out.
    """
    parts: list[bytes] = []
    number = 1
    while header := stream.read(8):
        if header[:4] != _MAGIC[: len(header)]:
            raise ValueError(
                f"record {number} does not begin as RecordIO does, its first bytes are {header[:4]!r}; "
                'give record_wrapping="RecordIO" and s3_data_type="AugmentedManifestFile"'
            )
        word = int.from_bytes(header[4:], "little")
        flag, length = word >> 29, word & (1 << 29) - 1
        payload = stream.read(length + -length % 4)
        if len(header) < 8 or len(payload) < length + -length % 4:
            raise _describe_cut(number)
        if flag > _LAST or (flag in (_MIDDLE, _LAST)) != bool(parts):
            raise ValueError(f"record {number} is no RecordIO: a part of flag {flag} after {len(parts)} parts")
        parts.append(payload[:length])
        if flag in (_WHOLE, _LAST):
            yield _MAGIC.join(parts)
            parts = []
            number += 1
    if parts:
        raise _describe_cut(number)


def _describe_cut(number: int) -> ValueError:
    return ValueError(f"the stream ends within record {number}; start the job again, and see its log for the reason")
