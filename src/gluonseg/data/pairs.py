"""Which mask belongs to which image: matching two channels by file name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from gluonseg.data.decode import is_jpeg

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
    skipped: tuple[Path, ...] = ()


class Listing(NamedTuple):
    """The entries of a folder, each list sorted: ``wanted`` files, and ``other`` ones."""

    wanted: list[Path]
    other: list[Path]


def list_folder(folder: Path, extensions: Sequence[str]) -> Listing:
    """The entries of a folder that are not hidden; wanted are files with one of ``extensions``.

    Folders inside are not entered: an S3 prefix without a trailing slash brings the neighbouring
    channel along as a folder, and its files are not this channel's.
    """
    found = Listing([], [])
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(".") and path.name not in ("Thumbs.db", "__MACOSX"):
            is_wanted = path.suffix.lower() in extensions and path.is_file()
            (found.wanted if is_wanted else found.other).append(path)
    return found


def is_jpeg_of_another_name(path: Path) -> bool:
    """Whether a file without an extension of images is a JPEG, and no copy of an image such as ``a.jpg.bak``."""
    return Path(path.stem).suffix.lower() not in IMAGE_EXTENSIONS and is_jpeg(path)


def list_images(folder: Path) -> Listing:
    """The entries of a folder of images: wanted are those that :func:`list_folder` finds, and other JPEG files.

    A JPEG is one by its content, as ``a.jfif``. It is left out beside an image of its name, and as a copy of an image,
    ``a.jpg.bak``.
    """
    listing = list_folder(folder, IMAGE_EXTENSIONS)
    stems = {path.stem for path in listing.wanted}
    found = {path for path in listing.other if path.stem not in stems and is_jpeg_of_another_name(path)}
    others = [path for path in listing.other if path not in found]
    return Listing(sorted([*listing.wanted, *found]), others)


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
    in_images = list_images(image_folder)
    in_labels = list_folder(label_folder, LABEL_EXTENSIONS)
    images, labels = _group_by_stem(in_images.wanted), _group_by_stem(in_labels.wanted)
    ambiguous = {stem for group in (images, labels) for stem, paths in group.items() if len(paths) > 1}
    both = sorted(stem for stem in images.keys() & labels.keys() if stem not in ambiguous)
    return Matching(
        pairs=tuple(Pair(stem, images[stem][0], labels[stem][0]) for stem in both),
        images_without_mask=tuple(sorted(images.keys() - labels.keys())),
        masks_without_image=tuple(sorted(labels.keys() - images.keys())),
        ambiguous=tuple(sorted(ambiguous)),
        skipped=tuple(in_images.other + in_labels.other),
    )
