"""The real photos that some tests need; they are no part of the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from repository import ROOT


def find_pet_photos() -> Path:
    """The folder of the Oxford-IIIT Pet data: below GLUONSEG_TEST_DATA, or ../shared/data; skips where it is not."""
    folder = Path(os.environ.get("GLUONSEG_TEST_DATA") or ROOT.parent / "shared" / "data") / "oxford_pets"
    if not folder.is_dir():
        pytest.skip(f"the pet photos are not at {folder} (set GLUONSEG_TEST_DATA)")
    return folder
