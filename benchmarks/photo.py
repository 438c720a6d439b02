"""Photos to measure on: real ones where a folder is named, drawn ones of the same sizes elsewhere."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from gluonseg.errors import DataError

DATA_VARIABLE = "GLUONSEG_BENCH_DATA"
"""Folder with images/ and annotations/ of the Oxford-IIIT Pet data set; ``make bench DATA=...`` sets it."""
DRAWN = "drawn"
_COUNT, _SIDE = 128, 400


def find_pets() -> Path | None:
    """The folder of the Oxford-IIIT Pet data set, None when none is named.

    Raises DataError when the folder that is named is not the data set: drawn photos in its place would go unnoticed.
    """
    named = os.environ.get(DATA_VARIABLE)
    if not named:
        return None
    folder = Path(named)
    parts = (folder / "annotations" / "list.txt").is_file(), (folder / "annotations" / "trimaps").is_dir()
    if not all(parts) or next((folder / "images").glob("*.jpg"), None) is None:
        raise DataError(
            f"DATA: {folder} is not the unpacked Oxford-IIIT Pet data set: expected images/NAME.jpg, "
            "annotations/list.txt and annotations/trimaps/NAME.png in it"
        )
    return folder


def name_folder(kind: str, folder: Path) -> str:
    """``kind`` and eight digits for the path: what is made of one folder is not taken for what is made of another."""
    return f"{kind}-{hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:8]}"


def name_source() -> str:
    """``drawn``, or ``pets-`` and digits: part of the name of everything in the scratch folder that is made of it."""
    pets = find_pets()
    return name_folder("pets", pets) if pets else DRAWN


def _find_channels(scratch: Path) -> Path:
    return scratch / f"channels-{name_source()}"


def prepare_channels(scratch: Path) -> Path:
    """A folder with channels train, train_annotation, ... in SageMaker's layout; made once a source.

    Of the pets where they are named; else of drawn photos with a side of about 400 pixels.
    """
    folder = _find_channels(scratch)
    if (folder / "train_annotation").is_dir():
        return folder
    pets = find_pets()
    if pets:
        from gluonseg.data.oxford_pets import prepare_oxford_pets

        prepare_oxford_pets(pets, folder, classes="trimap", split="random", seed=0, validation_share=0.25)
    else:
        from gluonseg.data.synthetic import prepare_synthetic

        prepare_synthetic(folder, count=_COUNT, size=_SIDE, seed=0)
    return folder


def describe_files(paths: Sequence[Path]) -> dict[str, object]:
    """How many files, and one sha256 over the sha256 of each, for a reader who wants to repeat the measurement."""
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths))
    return {"count": len(paths), "sha256": digest.hexdigest()}


@functools.cache  # real channels are thousands of files
def describe_channels(folder: Path) -> dict[str, object]:
    """Count and sha256 of all files of a folder of channels, in the order of their paths."""
    return describe_files(sorted(path for path in folder.rglob("*") if path.is_file()))


def describe_data(scratch: Path) -> dict[str, object]:
    """The source, and what the stages have made of it: channels, and photos to send to a server."""
    found: dict[str, object] = {"source": name_source()}
    channels, photos = _find_channels(scratch), sorted(scratch.glob(f"photo-{name_source()}-*.jpg"))
    if (channels / "train_annotation").is_dir():
        found["channels"] = describe_channels(channels)
    if photos:
        found["photos"] = describe_files(photos)
    return found
