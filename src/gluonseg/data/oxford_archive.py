"""The two archives of the Oxford-IIIT Pet dataset: fetching and unpacking them.

An archive comes from outside, so nothing in it chooses where it is written: members are read one by one,
only regular files of the known layout are kept, under their bare name, and sizes are capped.
"""

from __future__ import annotations

import gzip
import re
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path

from gluonseg.errors import DataError

ADDRESS = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"
ARCHIVES = ("images.tar.gz", "annotations.tar.gz")
MAX_MEMBER_BYTES = 64 * 2**20
MAX_ARCHIVE_BYTES = 4 * 2**30
MAX_MEMBERS = 200_000
MAX_HEADER_BYTES = 1 << 16
TIMEOUT_S = 30.0

_MEMBER = re.compile(
    r"(?:\./)?(?P<folder>images|annotations|annotations/trimaps)/(?P<file>[\w+-][\w.+ -]*\.(?:jpg|png|txt))"
)


def find_archives(source: Path) -> tuple[Path, ...]:
    """Return the paths of both archives, or raise DataError that says what SOURCE must hold."""
    paths = tuple(source / name for name in ARCHIVES)
    if all(path.is_file() for path in paths):
        return paths
    raise DataError(
        f"{source} holds neither the folders images/ and annotations/ nor the archives {' and '.join(ARCHIVES)}; "
        f"get the archives from {ADDRESS}"
    )


class _Header(tarfile.TarInfo):
    """A member's header; :mod:`tarfile` would read one that is longer than usual as a whole, whatever its length."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        if not (header.isreg() or header.isdir()) and header.size > MAX_HEADER_BYTES:
            raise DataError(f"{header.name[:80]!r} is a header of {header.size} bytes; that is not the pet dataset")
        return header


def _is_wanted(member: tarfile.TarInfo) -> re.Match[str] | None:
    # A sparse file of a few bytes can unpack to terabytes; links could lead anywhere.
    if not member.isreg() or member.issparse():
        return None
    return _MEMBER.fullmatch(member.name)


def _unpack_member(archive: tarfile.TarFile, member: tarfile.TarInfo, match: re.Match[str], out: Path) -> None:
    content = archive.extractfile(member)
    if content is None:
        return
    folder = out / match["folder"]
    folder.mkdir(parents=True, exist_ok=True)
    with content, (folder / match["file"]).open("wb") as target:
        shutil.copyfileobj(content, target)


def _unpack_archive(path: Path, out: Path) -> None:
    total = 0
    # By way of gzip: tarfile's own gzip reader takes a cut-off archive for one that ends there.
    with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=_Header) as archive:
        for count, member in enumerate(archive, start=1):
            total += member.size
            if member.size > MAX_MEMBER_BYTES or total > MAX_ARCHIVE_BYTES or count > MAX_MEMBERS:
                raise DataError(f"{path} is not the pet dataset: {member.name[:80]!r} goes past the size limits")
            match = _is_wanted(member)
            if match is not None:
                _unpack_member(archive, member, match, out)


def unpack_archives(archives: Sequence[Path], out: Path) -> None:
    """Unpack the files of the known layout from ``archives`` into ``out``; everything else is passed over.

    Raises:
        DataError: an archive is damaged, truncated, no gzip-compressed tar, or larger than the limits.
    """
    for path in archives:
        try:
            _unpack_archive(path, out)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, RecursionError, LookupError) as error:
            raise DataError(f"{path} is damaged or not a .tar.gz file ({error}); download it again") from None
        except OSError as error:
            raise DataError(f"{path} cannot be unpacked: {error}") from error


def download_oxford_pets(out: Path) -> Path:
    """Fetch both archives (about 800 MB) into the folder ``out`` and return it; files that are there are kept.

    Raises:
        DataError: the dataset's site cannot be reached, or the disk cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name in ARCHIVES:
        target = out / name
        if not target.is_file():
            _download(ADDRESS + name, target)
    return out


def _download(url: str, target: Path) -> None:
    part = target.with_name(target.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as answer, part.open("wb") as file:
            shutil.copyfileobj(answer, file)
            expected = answer.headers.get("Content-Length")
            if expected is not None and file.tell() != int(expected):
                raise OSError(f"the connection ended after {file.tell()} of {expected} bytes")
        part.replace(target)
    except (OSError, urllib.error.URLError) as error:
        part.unlink(missing_ok=True)
        reason = getattr(error, "reason", None) or error
        raise DataError(
            f"{url} cannot be downloaded ({reason}); download {' and '.join(ARCHIVES)} on a machine that can, "
            f"put them into {target.parent}, and give that folder as SOURCE"
        ) from None
