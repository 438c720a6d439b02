"""The two archives of the Oxford-IIIT Pet dataset: fetching and unpacking them.

An archive comes from outside, so nothing in it chooses where it is written: members are read one by one, and only
regular files of the known layout are kept, under their bare name.
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


def _unpack_archive(path: Path, out: Path) -> None:
    # By way of gzip: tarfile's own gzip reader takes a cut-off archive for one that ends there.
    with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            match = _MEMBER.fullmatch(member.name)
            content = archive.extractfile(member) if match and member.isreg() else None
            if match and content:
                folder = out / match["folder"]
                folder.mkdir(parents=True, exist_ok=True)
                with content, (folder / match["file"]).open("wb") as target:
                    shutil.copyfileobj(content, target)


def unpack_archives(archives: Sequence[Path], out: Path) -> None:
    """Unpack the files of the known layout from ``archives`` into ``out``; everything else is passed over.

    Raises:
        DataError: an archive is damaged, truncated, or no gzip-compressed tar.
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
