"""Which mask belongs to which image: matching two channels by file name."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

IMAGE_EXTENSIONS = (".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp")
LABEL_EXTENSIONS = (".png", ".gif", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class Pair:
    """One image and its mask; ``name`` is what both are called without folder and extension."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class Matching:
    """What matching two folders found: the pairs, sorted by name, and everything that was left over."""

    pairs: tuple[Pair, ...]
    images_without_mask: tuple[str, ...] = ()
    masks_without_image: tuple[str, ...] = ()
    ambiguous: tuple[str, ...] = ()
    skipped: tuple[Path, ...] = field(default=())


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name in ("Thumbs.db", "__MACOSX")


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a symbolic link to itself
        return False


def list_folder(folder: Path, extensions: Iterable[str]) -> tuple[list[Path], list[Path]]:
    """Return (regular files with one of ``extensions``, everything else that is not hidden).

    Folders inside are not entered: an S3 prefix without a trailing slash brings the neighbouring
    channel along as a folder, and its files are not this channel's.
    """
    wanted: list[Path] = []
    other: list[Path] = []
    valid = tuple(extensions)
    with os.scandir(folder) as entries:
        for entry in entries:
            if _is_hidden(entry.name):
                continue
            path = folder / entry.name
            is_wanted = path.suffix.lower() in valid and _is_file(entry)
            (wanted if is_wanted else other).append(path)
    return sorted(wanted), sorted(other)


def _group_by_stem(paths: Iterable[Path]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(path.stem, []).append(path)
    return groups


def match_pairs(image_folder: Path, label_folder: Path) -> Matching:
    """Match ``a.jpg`` with ``a.png``, by the exact name without extension.

    Two files of one name in the same folder (``a.jpg`` and ``a.JPG``) are ambiguous and match nothing.
    Raises OSError when a folder cannot be listed.
    """
    image_files, other_images = list_folder(image_folder, IMAGE_EXTENSIONS)
    label_files, other_labels = list_folder(label_folder, LABEL_EXTENSIONS)
    images, labels = _group_by_stem(image_files), _group_by_stem(label_files)
    ambiguous = sorted(stem for group in (images, labels) for stem, paths in group.items() if len(paths) > 1)
    both = sorted(stem for stem in images.keys() & labels.keys() if stem not in ambiguous)
    return Matching(
        pairs=tuple(Pair(stem, images[stem][0], labels[stem][0]) for stem in both),
        images_without_mask=tuple(sorted(images.keys() - labels.keys())),
        masks_without_image=tuple(sorted(labels.keys() - images.keys())),
        ambiguous=tuple(ambiguous),
        skipped=tuple(other_images + other_labels),
    )
