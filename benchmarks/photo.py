"""Photos to measure on: real ones where a folder is named, drawn ones of the same sizes elsewhere."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

DATA_VARIABLE = "GLUONSEG_BENCH_DATA"
"""Folder with images/ and annotations/trimaps/ of the Oxford-IIIT Pet data set."""


def find_pets() -> Path | None:
    """The folder of the Oxford-IIIT Pet data set, if one is named and there."""
    named = os.environ.get(DATA_VARIABLE)
    folder = Path(named) if named else None
    return folder if folder and (folder / "annotations" / "trimaps").is_dir() else None


def prepare_channels(folder: Path, count: int = 128) -> Path:
    """Channels train, train_annotation, ... in ``folder``, in SageMaker's layout; made once.

    Of the pets where they are; else of drawn photos with a side of about 400 pixels, ``count`` in all.
    """
    if (folder / "train_annotation").is_dir():
        return folder
    pets = find_pets()
    if pets:
        from gluonseg.data.oxford_pets import prepare_oxford_pets

        prepare_oxford_pets(pets, folder, classes="trimap", split="random", seed=0, validation_share=0.25)
    else:
        from gluonseg.data.synthetic import prepare_synthetic

        prepare_synthetic(folder, count=count, size=400, seed=0)
    return folder


def describe_files(paths: Sequence[Path]) -> dict[str, object]:
    """How many files, and one sha256 over the sha256 of each, for a reader who wants to repeat the measurement."""
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths))
    return {"count": len(paths), "sha256": digest.hexdigest()}
