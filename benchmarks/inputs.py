"""Photos to measure on: real ones where a folder is named, else drawn ones."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gluonseg.data.prepare.pets import prepare_oxford_pets
from gluonseg.data.prepare.synthetic import prepare_synthetic
from gluonseg.errors import DataError

DATA_VARIABLE = "GLUONSEG_BENCH_DATA"
"""Folder with images/ and annotations/ of the Oxford-IIIT Pet data set; ``make bench DATA=...`` sets it."""
PHOTO_SIZE = (600, 400)
_COUNT, _SIDE = 128, 400


def find_pets() -> Path | None:
    """The folder of the Oxford-IIIT Pet data set, None when none is named.

    Raises DataError when the folder that is named is not the data set: drawn photos in its place would go unnoticed.
    """
    named = os.environ.get(DATA_VARIABLE)
    if not named:
        return None
    folder = Path(named).resolve()
    parts = (folder / "annotations" / "list.txt").is_file(), (folder / "annotations" / "trimaps").is_dir()
    if not all(parts) or next((folder / "images").glob("*.jpg"), None) is None:
        raise DataError(
            f"DATA: {folder} is not the unpacked Oxford-IIIT Pet data set: expected images/NAME.jpg, "
            "annotations/list.txt and annotations/trimaps/NAME.png in it"
        )
    return folder


def name_source() -> str:
    """``drawn``, or ``pets-`` and eight digits for the folder: part of the name of every file made of these photos."""
    pets = find_pets()
    return f"pets-{hashlib.sha256(os.fsencode(pets)).hexdigest()[:8]}" if pets else "drawn"


def prepare_channels(scratch: Path) -> Path:
    """A folder with channels train, train_annotation, ... in SageMaker's layout; made once a source."""
    folder, pets = scratch / f"channels-{name_source()}", find_pets()
    if (folder / "train_annotation").is_dir():
        return folder
    if pets:
        prepare_oxford_pets(pets, folder, classes="trimap", split="random", seed=0, validation_share=0.25)
    else:
        prepare_synthetic(folder, count=_COUNT, size=_SIDE, seed=0)
    return folder


def prepare_photo(scratch: Path, size: tuple[int, int] = PHOTO_SIZE) -> Path:
    """A JPEG file of ``size`` (width, height): a pet's photo where pets are named, else smooth noise."""
    pets = find_pets()
    path = scratch / "photo-{}-{}x{}.jpg".format(name_source(), *size)
    if pets:
        picture = Image.open(min((pets / "images").glob("*.jpg"))).convert("RGB")
    else:
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    scratch.mkdir(parents=True, exist_ok=True)
    picture.resize(size, Image.Resampling.BICUBIC).save(path, "JPEG", quality=90)
    return path


def describe_data(scratch: Path) -> dict[str, Any]:
    """The source, and of what the stages made of it the number of files and one sha256 over the sha256 of each."""
    source = name_source()
    made = [*(scratch / f"channels-{source}").rglob("*"), *scratch.glob(f"photo-{source}-*.jpg")]
    digests = [hashlib.sha256(path.read_bytes()).digest() for path in sorted(made) if path.is_file()]
    return {"source": source, "files": len(digests), "sha256": hashlib.sha256(b"".join(digests)).hexdigest()}
