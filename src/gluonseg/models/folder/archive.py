"""Reading a model.tar.gz, which may come from anywhere: only wanted files are written, and sizes have limits."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import IO, cast

from gluonseg.errors import ModelError, StorageError
from gluonseg.files import describe_refusal, open_regular
from gluonseg.text import shorten

MAX_TOTAL_BYTES = 4 << 30
"""Limit of all members together. Unwanted members count, because they have to be decompressed, too."""
_MAX_READ = 1 << 16
"""Bytes that are read at a time. No header is longer, nor are the zeros behind the last member."""


class _Unzipped(gzip.GzipFile):
    """Refuses headers that are too long: :mod:`tarfile` reads each as a whole, whatever length it claims."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_READ:
            raise tarfile.ReadError("its headers are too long")
        return super().read(size)


def _write(source: IO[bytes], path: Path, size: int) -> None:
    try:
        with source, path.open("wb") as target:
            shutil.copyfileobj(source, target, _MAX_READ)
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        raise StorageError(describe_refusal(path, error, size)) from None


def _copy(unzipped: _Unzipped, archive: Path, wanted: Collection[str], folder: Path) -> list[str]:
    names: list[str] = []
    total = 0
    with tarfile.open(fileobj=unzipped, mode="r:") as tar:
        for member in tar:
            shown = shorten(ascii(member.name))
            total += member.size
            if member.size < 0 or total > MAX_TOTAL_BYTES:
                raise ModelError(f"{archive} unpacks to more than {MAX_TOTAL_BYTES} bytes at {shown}; no model does")
            name = member.name.removeprefix("./")
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


def copy_members(archive: Path, wanted: Collection[str], folder: Path) -> list[str]:
    """Copy the members of ``archive``, a model.tar.gz, whose names are in ``wanted`` to ``folder``.

    ``wanted`` are bare file names; those in the archive may have ``./`` in front. Returns the names of all members.

    Raises:
        ModelError: it is no gzip-compressed tar, is damaged, is larger than the limit, or a wanted member is a link or
            device.
        StorageError: there is no room in ``folder``.
    """
    try:
        with open_regular(archive) as stream, _Unzipped(fileobj=stream) as unzipped:
            return _copy(unzipped, archive, wanted, folder)
    # ValueError, LookupError and RecursionError: tarfile on the header of a sparse file, or on many headers in a row.
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, LookupError, RecursionError) as error:
        reason = (getattr(error, "strerror", None) or str(error) or "it is damaged").splitlines()[0]
        raise ModelError(f"{archive} is not a usable model.tar.gz: {reason}") from None
