"""The two archives of the Oxford-IIIT Pet dataset: fetching and unpacking them."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import urllib.request
import zlib
from collections.abc import Sequence
from pathlib import Path

from gluonseg.errors import DataError

ADDRESS = "https://www.robots.ox.ac.uk/~vgg/data/pets/data/"
ARCHIVES = ("images.tar.gz", "annotations.tar.gz")
TIMEOUT_S = 30.0


def find_archives(source: Path) -> tuple[Path, ...]:
    """Return the paths of both archives, or raise DataError that says what SOURCE must hold."""
    paths = tuple(source / name for name in ARCHIVES)
    if all(path.is_file() for path in paths):
        return paths
    raise DataError(
        f"{source} holds neither the folders images/ and annotations/ nor the archives {' and '.join(ARCHIVES)}; "
        f"get the archives from {ADDRESS}"
    )


def unpack_archives(archives: Sequence[Path], out: Path) -> None:
    """Unpack ``archives`` into ``out``; no member can write outside of it.

    Raises:
        DataError: an archive is damaged, truncated, no gzip-compressed tar, or has members that lead out of ``out``.
    """
    for path in archives:
        try:
            # tarfile's own gzip reader takes an archive that was cut off for one that ends there; gzip does not.
            with gzip.open(path) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
                archive.extractall(out, filter="data")
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{path} is damaged or not a .tar.gz file ({error}); download it again") from None
        except OSError as error:
            raise DataError(f"{path} cannot be unpacked: {error}") from error


def download_oxford_pets(out: Path) -> Path:
    """Fetch both archives (about 800 MB) into the folder ``out`` and return it; files that are there are kept.

    Raises:
        DataError: the dataset's site cannot be reached, or the disk cannot be written.
    """
    out.mkdir(parents=True, exist_ok=True)
    for target in (out / name for name in ARCHIVES if not (out / name).is_file()):
        part = target.with_name(f"{target.name}.part")
        try:
            with urllib.request.urlopen(ADDRESS + target.name, timeout=TIMEOUT_S) as answer, part.open("wb") as file:
                shutil.copyfileobj(answer, file)
                if file.tell() != int(answer.headers.get("Content-Length", file.tell())):
                    raise OSError(f"the connection ended after {file.tell()} bytes")
            part.replace(target)
        except OSError as error:
            part.unlink(missing_ok=True)
            raise DataError(
                f"{ADDRESS}{target.name} cannot be downloaded ({getattr(error, 'reason', error)}); download "
                f"{' and '.join(ARCHIVES)} on a machine that can, put them into {out}, and give that folder as SOURCE"
            ) from None
    return out
