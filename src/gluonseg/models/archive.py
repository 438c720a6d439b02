"""Reading a model.tar.gz member by member: it comes from outside, so nothing in it chooses what is written where.

Only members of known names are written, each under that name, and every byte that is decompressed on the way counts:
an archive that grows out of proportion, or that holds what a model's archive never does, is refused where that shows.
"""

from __future__ import annotations

import tarfile
import unicodedata
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from gluonseg.disk_error import describe_refusal
from gluonseg.errors import ModelError, StorageError
from gluonseg.printable import shorten
from gluonseg.regular_file import open_regular

MAX_MEMBERS = 4096
MAX_MEMBER_BYTES = 2 << 30
MAX_TOTAL_BYTES = 4 << 30
"""Of all members together, those that are passed over included, as each has to be decompressed."""
FREE_BYTES, MAX_RATIO = 32 << 20, 50
"""Past so many bytes an archive may unpack to at most so many times its own length. Parameters shrink by a tenth."""
MAX_STREAMS = 100_000
"""Gzip files that may follow each other in one: programs that compress in parallel write one for each 64 kB or more."""
_BLOCK = 1 << 16
_HEADER = 512
_MAX_HEADER, _MAX_LONG_HEADERS = 4096, 1 << 16
"""Longest extended header, and all that are longer than usual together. The tar format lets them be of any length;
tarfile reads each as a whole, and takes a time that grows with the square of it."""
_GZIP = 31
"""zlib's number for a gzip header and checksum around the data."""
_MAX_SHOWN = 80


class _Unzipped:
    """The decompressed bytes of a gzip file, forwards only, as a file for :mod:`tarfile`."""

    def __init__(self, stream: BinaryIO, archive: Path) -> None:
        self._stream = stream
        self._archive = archive
        self._inflater = zlib.decompressobj(_GZIP)
        self._packed = b""
        self._buffer = b""
        self._consumed = 0
        self._produced = 0
        self._position = 0
        self._long_headers = 0
        self._streams = 1

    def tell(self) -> int:
        return self._position

    def seek(self, position: int) -> None:
        """Pass over what is before ``position``."""
        if position < self._position:  # only a length below zero leads there
            raise ValueError("a member has no length")
        for _ in self.iter_blocks(position - self._position):
            pass

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes of headers; fewer at the end only."""
        if size > _HEADER:
            self._long_headers += size
        if not 0 <= size <= _MAX_HEADER or self._long_headers > _MAX_LONG_HEADERS:
            raise ValueError("its headers are too long")
        return b"".join(self.iter_blocks(size))

    def iter_blocks(self, size: int) -> Iterator[bytes]:
        """The next ``size`` bytes, or as many as there are, piece by piece."""
        while size > 0 and (self._buffer or self._fill()):
            block, self._buffer = self._buffer[:size], self._buffer[size:]
            size -= len(block)
            self._position += len(block)
            yield block

    def check_end(self) -> None:
        """Read what is left: only at its end does a compressed file tell whether it is undamaged."""
        for _ in self.iter_blocks(MAX_TOTAL_BYTES):
            pass

    def _fill(self) -> bool:
        """Decompress another block; False at the end of the file. Raises EOFError and zlib.error."""
        while not self._buffer:
            if self._inflater.eof:
                rest = (self._inflater.unused_data or self._read_packed()).lstrip(b"\0")
                if not rest:
                    return False
                self._streams += 1
                if self._streams > MAX_STREAMS:
                    raise ValueError("it has too many parts")
                self._inflater, self._packed = zlib.decompressobj(_GZIP), rest
            packed = self._packed or self._read_packed()
            if not packed:
                raise EOFError("it ends too early")
            self._buffer = self._inflater.decompress(packed, _BLOCK)
            self._packed = self._inflater.unconsumed_tail
            self._produced += len(self._buffer)
            self._check_proportion()
        return True

    def _read_packed(self) -> bytes:
        try:
            packed = self._stream.read(_BLOCK)
        except OSError as error:
            # Here, so that it is not taken for one of the disk that the members are written to.
            raise ModelError(f"{self._archive} cannot be read: {error.strerror or error}") from None
        self._consumed += len(packed)
        return packed

    def _check_proportion(self) -> None:
        if self._produced > MAX_TOTAL_BYTES:
            raise ModelError(f"{self._archive} unpacks to more than {MAX_TOTAL_BYTES} bytes; that is no model archive")
        if self._produced > FREE_BYTES + MAX_RATIO * self._consumed:
            raise ModelError(f"{self._archive} unpacks to over {MAX_RATIO} times its size; that is no model archive")


class _Header(tarfile.TarInfo):
    """A member's header, or zeros at the end of the archive; :mod:`tarfile` takes damage there for the end, too."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise EOFError(f"it ends too early, or a header is damaged ({error})") from None


def _check_member(member: tarfile.TarInfo, archive: Path) -> None:
    """Raise ModelError for a member that no archive of a model has."""
    shown = shorten(ascii(member.name), _MAX_SHOWN)
    # NFKC turns letters that only look like dots and slashes into them.
    name = unicodedata.normalize("NFKC", member.name).replace("\\", "/")
    if name.startswith("/") or name[1:3] == ":/" or ".." in PurePosixPath(name).parts:
        raise ModelError(f"{archive} holds {shown}, which leads out of it; nothing of it is read")
    if member.issparse() or not (member.isreg() or member.isdir()):
        raise ModelError(
            f"{shown} in {archive} is not a regular file; links are not followed, and devices, pipes and sparse files "
            "have no place in a model archive"
        )
    if member.size < 0:
        raise ModelError(f"{shown} in {archive} has no length; the archive is damaged")
    if member.isreg() and member.size > MAX_MEMBER_BYTES:
        raise ModelError(f"{shown} in {archive} has {member.size} bytes, the limit is {MAX_MEMBER_BYTES}")


def _write(stream: _Unzipped, member: tarfile.TarInfo, path: Path) -> None:
    stream.seek(member.offset_data)
    try:
        with path.open("xb") as target:
            for block in stream.iter_blocks(member.size):
                target.write(block)
            if target.tell() != member.size:
                raise EOFError("it ends inside a member")
    except OSError as error:
        raise StorageError(describe_refusal(path, error, member.size)) from None


def _copy(stream: _Unzipped, archive: Path, wanted: Collection[str], folder: Path) -> list[str]:
    names = []
    with tarfile.open(fileobj=stream, mode="r:", tarinfo=_Header) as tar:  # type: ignore[call-overload]  # all that it uses is there
        for number, member in enumerate(tar):
            if number >= MAX_MEMBERS:
                raise ModelError(f"{archive} has more than {MAX_MEMBERS} members; that is no model archive")
            _check_member(member, archive)
            name = member.name.removeprefix("./")
            if name in wanted:
                if not member.isreg():
                    raise ModelError(f"{name} in {archive} is not a regular file")
                if name in names:
                    raise ModelError(f"{archive} holds {name} twice; which one is meant, it does not tell")
                _write(stream, member, folder / name)
            names.append(name)
    stream.check_end()
    return names


def copy_members(archive: Path, wanted: Collection[str], folder: Path) -> list[str]:
    """Copy the members of ``archive``, a model.tar.gz, whose names are in ``wanted`` to ``folder``.

    ``wanted`` are bare file names; those in the archive may have ``./`` in front. Returns the names of all members.

    Raises:
        ModelError: it is no gzip-compressed tar, is damaged, larger than the limits, or holds what no archive of a
            model does: links, devices, names that lead out, a file twice.
        StorageError: there is no room in ``folder``.
    """
    with _opening(archive) as stream:
        return _copy(_Unzipped(stream, archive), archive, wanted, folder)


@contextmanager
def _opening(archive: Path) -> Iterator[BinaryIO]:
    try:
        with open_regular(archive, follow=False) as stream:
            yield stream
    except RecursionError:
        raise ModelError(f"{archive} is not a usable model.tar.gz: its headers are too long") from None
    # LookupError: tarfile takes it for granted that the header of a sparse file is whole.
    except (tarfile.TarError, EOFError, zlib.error, OSError, ValueError, LookupError) as error:
        reason = (getattr(error, "strerror", None) or str(error) or "it is damaged").splitlines()[0]
        raise ModelError(f"{archive} is not a usable model.tar.gz: {reason}") from None
