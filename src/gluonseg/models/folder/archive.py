"""Reading a model.tar.gz or .tar, which may come from anywhere: only wanted files are written, sizes have limits."""

from __future__ import annotations

import gzip
import io
import shutil
import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, BinaryIO, cast

from gluonseg.errors import ModelError, StorageError
from gluonseg.files import describe_refusal, open_regular
from gluonseg.text import shorten

MAX_TOTAL_BYTES = 4 << 30
"""Limit of all members together. Unwanted members count, because they have to be decompressed, too."""
_FORMATS = {
    b"PK": "zip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"7z\xbc\xaf": "7z", b"Rar!": "rar", b"\x28\xb5\x2f\xfd": "zstd",
}  # fmt: skip
"""How other archives begin."""
_MAX_READ = 1 << 16
"""Bytes that are read at a time. No header is longer, nor are the zeros behind the last member."""


def _check_size(size: int | None) -> int:
    """Refuse headers that are too long: :mod:`tarfile` reads each as a whole, whatever length it claims."""
    if size is None or not 0 <= size <= _MAX_READ:
        raise tarfile.ReadError("its headers are too long")
    return size


class _Unzipped(gzip.GzipFile):
    def read(self, size: int | None = -1) -> bytes:
        return super().read(_check_size(size))


class _Plain(io.BufferedReader):
    def read(self, size: int | None = -1) -> bytes:
        return super().read(_check_size(size))


def _write(source: IO[bytes], path: Path, size: int) -> None:
    try:
        with source, path.open("wb") as target:
            shutil.copyfileobj(source, target, _MAX_READ)
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        raise StorageError(describe_refusal(path, error, size)) from None


def _copy(unzipped: _Unzipped | _Plain, archive: Path, wanted: Collection[str], folder: Path, top: str) -> list[str]:
    names: list[str] = []
    total = 0
    with tarfile.open(fileobj=unzipped, mode="r:") as tar:
        for member in tar:
            shown = shorten(ascii(member.name))
            total += member.size
            if member.size < 0 or total > MAX_TOTAL_BYTES:
                raise ModelError(f"{archive} unpacks to more than {MAX_TOTAL_BYTES} bytes at {shown}; no model does")
            name = member.name.removeprefix("./").removeprefix(top)
            if name in wanted:
                if not member.isreg() or member.issparse():
                    raise ModelError(f"{shown} in {archive} is not a regular file; links are not followed")
                _write(cast(IO[bytes], tar.extractfile(member)), folder / name, member.size)
            names.append(name)
    # tarfile takes a missing or damaged header for the end, where there are two blocks of zeros. To read to the end of
    # the file also compares the checksum.
    rest = unzipped.read(_MAX_READ)
    if not tarfile.BLOCKSIZE <= len(rest) < _MAX_READ or rest.strip(b"\0"):
        raise EOFError("it ends too early, or a header is damaged")
    return names


def _open_tar(stream: BinaryIO) -> _Unzipped | _Plain:
    """The tar in ``stream``, which gzip has compressed or, as browsers unpack what they fetch, not."""
    raw = cast(io.FileIO, cast(io.BufferedReader, stream).raw)
    start = raw.read(tarfile.BLOCKSIZE) or b""
    raw.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return _Unzipped(fileobj=stream)
    if start[257:262] == b"ustar":
        return _Plain(raw)
    kind = next((f": it is a {kind} archive" for begin, kind in _FORMATS.items() if start.startswith(begin)), "")
    raise tarfile.ReadError(f"it is no tar, with or without gzip{kind}" if start else "it is empty")


def copy_members(archive: Path, wanted: Collection[str], folder: Path, top: str = "") -> list[str]:
    """Copy the members of ``archive``, a model.tar.gz, whose names are in ``wanted`` to ``folder``.

    ``wanted`` are bare file names; those in the archive may have ``./`` in front, and then ``top``. Returns the names
    of all members, without both.

    Raises:
        ModelError: it is no tar (gzip-compressed or plain), is damaged, is larger than the limit, or a wanted member is
            a link or device.
        StorageError: there is no room in ``folder``.
    """
    try:
        with open_regular(archive) as stream, _open_tar(stream) as unzipped:
            return _copy(unzipped, archive, wanted, folder, top)
    # ValueError, LookupError and RecursionError: tarfile on the header of a sparse file, or on many headers in a row.
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, LookupError, RecursionError) as error:
        reason = (getattr(error, "strerror", None) or str(error) or "it is damaged").splitlines()[0]
        raise ModelError(f"{archive} is not a usable model.tar.gz: {reason}") from None
