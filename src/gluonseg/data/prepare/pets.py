"""The Oxford-IIIT Pet dataset, from its original layout to the four channels.

Layout: ``images/NAME.jpg``, ``annotations/{list,trainval,test}.txt`` and ``annotations/trimaps/NAME.png``
with the labels 1 pet, 2 background, 3 border. https://www.robots.ox.ac.uk/~vgg/data/pets/
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gluonseg.data.decode import decode_label, read_bytes
from gluonseg.data.prepare.core import (
    DataSet,
    Example,
    Note,
    Progress,
    Report,
    Size,
    Split,
    write_data_set,
)
from gluonseg.data.prepare.pets_archive import find_archives, unpack_archives
from gluonseg.errors import DataError, ImageError
from gluonseg.labels import IGNORE, MAX_CLASSES, UNKNOWN, UInt8Array

CLASSES = ("trimap", "pet", "species", "breed")
PET, BACKGROUND, BORDER = 1, 2, 3
NO_LIST = "the photo is in no list"


class Record(NamedTuple):
    """One line of a list file. ``breed`` is 1..37 in the original, ``species`` 1 (cat) or 2 (dog)."""

    name: str
    breed: int
    species: int


def _parse_record(line: str, where: str) -> Record:
    with suppress(ValueError, IndexError):
        name, breed, species = line.split()[:3]
        if 1 <= int(breed) < MAX_CLASSES and int(species) in (1, 2):
            return Record(name, int(breed), int(species))
    valid = "'NAME BREED SPECIES ...' with breed 1 to 37 and species 1 or 2"
    raise DataError(f"{where}: expected {valid}, got {line.strip()[:80]!r}")


def read_records(path: Path) -> dict[str, Record]:
    """Read a list file, name -> record. Raises DataError when it is missing, empty or malformed."""
    if not path.is_file():
        raise DataError(f"{path} is missing; SOURCE must hold images/ and annotations/ of the Oxford-IIIT Pet dataset")
    lines = read_bytes(path).decode("utf-8", errors="replace").splitlines()
    records = [
        _parse_record(line, f"{path} line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip() and not line.startswith("#")
    ]
    if not records:
        raise DataError(f"{path} lists no photo")
    return {record.name: record for record in records}


def _read_official_split(annotations: Path) -> tuple[dict[str, Record], dict[str, str]]:
    train, validation = read_records(annotations / "trainval.txt"), read_records(annotations / "test.txt")
    both = sorted(train.keys() & validation.keys())
    if both:
        raise DataError(f"{annotations}: {both[0]} is in trainval.txt and in test.txt ({len(both)} such names)")
    return train | validation, dict.fromkeys(train, "train") | dict.fromkeys(validation, "validation")


class ClassScheme:
    """How trimap labels become class ids for one choice of ``classes``."""

    def __init__(self, classes: str, records: Iterable[Record]) -> None:
        self.classes = classes
        breeds = {record.breed: record.name.rpartition("_")[0] or record.name for record in records}
        # Numbered without gaps: a part of the dataset has only the classes of its own breeds.
        self.breed_ids = {breed: index for index, breed in enumerate(sorted(breeds), start=1)}
        self.names: tuple[str, ...] = {
            "trimap": ("pet", "background", "border"),
            "pet": ("background", "pet"),
            "species": ("background", "cat", "dog"),
            "breed": ("background", *(breeds[breed] for breed in sorted(breeds))),
        }[classes]

    def compute_mask(self, trimap_hw: UInt8Array, record: Record) -> UInt8Array:
        """Map a trimap (H, W) uint8 to class ids, :data:`IGNORE` where the border is not scored."""
        table = np.full(256, UNKNOWN, dtype=np.uint8)
        if self.classes == "trimap":
            table[[PET, BACKGROUND, BORDER]] = (0, 1, 2)
        else:
            pet = {"pet": 1, "species": record.species, "breed": self.breed_ids[record.breed]}[self.classes]
            table[[PET, BACKGROUND, BORDER]] = (pet, 0, IGNORE)
        mask_hw = table[trimap_hw]
        if (mask_hw == UNKNOWN).any():
            label = int(trimap_hw[mask_hw == UNKNOWN][0])
            raise ImageError(f"its trimap holds the label {label}; only 1 pet, 2 background and 3 border are valid")
        return mask_hw


def _read_mask(source: Path, record: Record, scheme: ClassScheme, _size: Size, _note: Note) -> UInt8Array:
    trimap = read_bytes(source / "annotations" / "trimaps" / f"{record.name}.png", "its trimap")
    return scheme.compute_mask(decode_label(trimap, "its trimap"), record)


@contextmanager
def _open_layout(source: Path, out: Path) -> Iterator[Path]:
    """Yield the folder that holds images/ and annotations/, unpacked beside ``out`` when SOURCE has the archives."""
    if (source / "annotations").is_dir() and (source / "images").is_dir():
        yield source
        return
    archives = find_archives(source)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.unpacked-", dir=out.parent) as folder:
        unpack_archives(archives, Path(folder))
        yield Path(folder)


def _find(layout: Path, classes: str, split: str) -> DataSet:
    if split == "official":
        records, splits = _read_official_split(layout / "annotations")
    else:
        records, splits = read_records(layout / "annotations" / "list.txt"), {}
    scheme = ClassScheme(classes, records.values())
    examples = [
        Example(
            name=f"{name}.jpg",
            read_photo=partial(read_bytes, layout / "images" / f"{name}.jpg", "its photo"),
            read_mask=partial(_read_mask, layout, record, scheme),
            split=splits.get(name, ""),
            group=record.breed,
        )
        for name, record in records.items()
    ]
    photos = sorted(path.stem for path in (layout / "images").glob("*.jpg") if not path.name.startswith("."))
    return DataSet(scheme.names, examples, left_out={name: NO_LIST for name in photos if name not in records})


def prepare_oxford_pets(
    source: Path,
    out: Path,
    *,
    classes: str = "trimap",
    split: str = "random",
    seed: int = 0,
    validation_share: float = 0.25,
    progress: Progress | None = None,
) -> Report:
    """Write the channels of the pet dataset (or of any dataset in its layout) to ``out``.

    Args:
        source: the folder with ``images/`` and ``annotations/``, or with ``images.tar.gz`` and
            ``annotations.tar.gz``.
        out: a new or empty folder, or one an earlier prepare command wrote; it is replaced as a whole.
        classes: ``trimap`` (pet, background, border), ``pet`` (background, pet), ``species`` (background,
            cat, dog) or ``breed`` (background and every breed that is listed); all but the first ignore the border.
        split: ``random`` (by ``seed``, the same share of every breed) or ``official`` (trainval.txt, test.txt).
        seed: chooses the pairs of a random split.
        validation_share: share of the pairs that a random split keeps for validation.
        progress: called with (photos done, photos in all).

    Raises:
        DataError: a choice, the source or ``out`` cannot be used. Single bad files do not stop it: they are
            left out and named in the report.
    """
    if classes not in CLASSES:
        raise DataError(f"classes must be one of {', '.join(CLASSES)}; got {classes!r}")
    with _open_layout(source, out.resolve()) as layout:
        by = Split(split, seed, validation_share)
        return write_data_set(partial(_find, layout, classes, split), source, out, by, progress)
