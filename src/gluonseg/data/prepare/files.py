"""Finding the files of a data set: pictures below a folder, and text and lists as other tools write them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

from gluonseg.data.channel import MARKER
from gluonseg.data.decode import read_bytes
from gluonseg.data.pairs import IMAGE_EXTENSIONS, is_jpeg_of_another_name
from gluonseg.errors import DataError, ImageError
from gluonseg.text import join_names

NO_MASK = "the photo has no mask"
NO_PHOTO = "the mask has no photo"
IN_BOTH = "for training and for validation in the data's own lists, taken for validation"
SPLIT_FOLDERS = {
    **{"train": "train", "training": "train"},
    **{"val": "validation", "valid": "validation", "validation": "validation"},
}
"""Name of a folder or a subset, in small letters -> the split it stands for."""
_EXTENSIONS = (*IMAGE_EXTENSIONS, ".jfif")


def iter_paths(folder: Path) -> Iterator[Path]:
    """What lies at any depth below ``folder``, sorted, but what is hidden, and what a prepare command wrote.

    Raises DataError when it is not a folder.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    paths = sorted(folder.rglob("*"))
    prepared = {path.parent for path in paths if path.name == MARKER} - {folder}
    for path in paths:
        hidden = any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
        if not hidden and prepared.isdisjoint(path.parents):
            yield path


def _is_picture(path: Path) -> bool:
    """By its extension, and a JPEG by its content, unless it is a copy such as a.jpg.bak."""
    if path.suffix.lower() in _EXTENSIONS:
        return path.is_file()
    return is_jpeg_of_another_name(path)


def iter_pictures(folder: Path) -> Iterator[Path]:
    """The pictures of :func:`iter_paths`."""
    return filter(_is_picture, iter_paths(folder))


def index_stems(folder: Path) -> dict[str, Path]:
    """The pictures below ``folder`` by their paths in it without extension, ``/`` between the parts."""
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in iter_pictures(folder)}


def find_unpaired(photos: Mapping[str, Path], masks: Mapping[str, Path], root: Path) -> dict[str, str]:
    """Path below ``root`` -> reason, of the photos and masks whose stems the others lack."""
    left_out = {str(photos[stem].relative_to(root)): NO_MASK for stem in sorted(photos.keys() - masks.keys())}
    return left_out | {str(masks[stem].relative_to(root)): NO_PHOTO for stem in sorted(masks.keys() - photos.keys())}


def find_split(path: PurePath) -> str:
    """The split that a folder of ``path`` such as train/ or val/ names, or ""."""
    return next((SPLIT_FOLDERS[part.lower()] for part in path.parts[:-1] if part.lower() in SPLIT_FOLDERS), "")


def find_folder(source: Path, name: str) -> Path:
    """The folder ``name`` in ``source`` or at most two levels below it; DataError when there is none, or several."""
    found = [path for depth in ("", "*/", "*/*/") for path in sorted(source.glob(depth + name)) if path.is_dir()]
    if not found:
        raise DataError(f"{source} holds no folder {name}")
    if len(found) > 1:
        raise DataError(f"{source} holds several folders {name}, such as {found[0]} and {found[1]}; name one above it")
    return found[0]


class PictureFolder:
    """The pictures below a folder, found by the names that an annotation file gives them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._by_name: dict[str, list[Path]] = {}
        for path in iter_pictures(folder):
            self._by_name.setdefault(path.name, []).append(path)

    def find(self, name: str, hint: str = "") -> Path:
        """The picture that ``name`` stands for: the one whose path ends most like it.

        Args:
            name: a path as another machine wrote it, of which at least the last part is right.
            hint: a folder's name that decides where paths end alike, such as train2017.

        Raises:
            ImageError: there is none, or two are as good as each other.
        """
        wanted = PurePosixPath(name.replace("\\", "/")).parts
        found = self._by_name.get(wanted[-1], []) if wanted else []
        ranked = sorted(((_rate(path, wanted, hint), path) for path in found), reverse=True)
        if not ranked:
            there = f"which holds {join_names(sorted(self._by_name), 2) or 'no picture'}"
            raise ImageError(f"its photo is not below {self.folder}, {there}")
        if len(ranked) > 1 and ranked[0][0] == ranked[1][0]:
            raise ImageError(f"two photos below {self.folder} have its name")
        return ranked[0][1]


def _rate(path: Path, wanted: tuple[str, ...], hint: str) -> tuple[int, bool]:
    """How many parts at the end of ``path`` are those of ``wanted``, and whether ``hint`` is one of its folders."""
    alike = 0
    for mine, other in zip(reversed(path.parts), reversed(wanted), strict=False):
        if mine != other:
            break
        alike += 1
    return alike, hint in path.parts


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not blank, without blanks at their ends. Raises ImageError."""
    lines = read_bytes(path).decode("utf-8-sig", errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; raises DataError."""
    return parse_json(read_bytes(path), str(path))


def parse_json(text: bytes, source: str) -> dict[str, Any]:
    """The object in JSON text; DataError names ``source``."""
    try:
        content = json.loads(text.decode("utf-8-sig", errors="replace"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{source} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{source} holds a {type(content).__name__}, not an object")
    return content
