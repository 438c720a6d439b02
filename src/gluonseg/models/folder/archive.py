"""Reading a model.tar.gz: it comes from outside, so nothing in it chooses what is written where."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from gluonseg.errors import ModelError, StorageError
from gluonseg.files import describe_refusal, open_regular
from gluonseg.text import shorten

MAX_MEMBER_BYTES = 2 << 30
MAX_TOTAL_BYTES = 4 << 30
"""Of all members together, those that are passed over included, as each has to be decompressed."""
_MAX_READ = 1 << 16
"""Bytes that are read at a time; more than a header, or the zeros behind the last member, ever has."""
_MAX_SHOWN = 80


class _Unzipped(gzip.GzipFile):
    """Refuses headers that are too long: :mod:`tarfile` reads each as a whole, whatever length it claims."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _MAX_READ:
            raise tarfile.ReadError("its headers are too long")
        return super().read(size)


def _check_member(member: tarfile.TarInfo, archive: Path) -> None:
    """Raise ModelError for a member that no archive of a model has."""
    shown = shorten(ascii(member.name), _MAX_SHOWN)
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise ModelError(f"{archive} holds {shown}, which leads out of it")
    if member.issparse() or not (member.isreg() or member.isdir()):
        raise ModelError(f"{shown} in {archive} is not a regular file; links are not followed")
    if not 0 <= member.size <= MAX_MEMBER_BYTES:
        raise ModelError(f"{shown} in {archive} has {member.size} bytes, the limit is {MAX_MEMBER_BYTES}")


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    source = tar.extractfile(member)
    if source is None:
        raise tarfile.ReadError(f"{path.name} is not a regular file")
    try:
        with source, path.open("xb") as target:
            shutil.copyfileobj(source, target, _MAX_READ)
    except gzip.BadGzipFile:
        raise
    except OSError as error:
        raise StorageError(describe_refusal(path, error, member.size)) from None


def _copy(unzipped: _Unzipped, archive: Path, wanted: Collection[str], folder: Path) -> list[str]:
    names: list[str] = []
    total = 0
    with tarfile.open(fileobj=unzipped, mode="r:") as tar:
        for member in tar:
            _check_member(member, archive)
            total += member.size
            if total > MAX_TOTAL_BYTES:
                raise ModelError(f"{archive} unpacks to more than {MAX_TOTAL_BYTES} bytes; that is no model archive")
            name = member.name.removeprefix("./")
            if name in wanted:
                if name in names:
                    raise ModelError(f"{archive} holds {name} twice; which one is meant, it does not tell")
                _write(tar, member, folder / name)
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
        ModelError: it is no gzip-compressed tar, is damaged, larger than the limits, or holds what no archive of a
            model does: links, devices, names that lead out, a file twice.
        StorageError: there is no room in ``folder``.
    """
    try:
        with open_regular(archive, follow=False) as stream, _Unzipped(fileobj=stream) as unzipped:
            return _copy(unzipped, archive, wanted, folder)
    # ValueError, LookupError and RecursionError: tarfile on the header of a sparse file, or on many headers in a row.
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, LookupError, RecursionError) as error:
        reason = (getattr(error, "strerror", None) or str(error) or "it is damaged").splitlines()[0]
        raise ModelError(f"{archive} is not a usable model.tar.gz: {reason}") from None
