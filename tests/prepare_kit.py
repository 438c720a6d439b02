"""What the tests of prepare share: tiny photos, masks of given values or colours, and reading what was written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from gluonseg.data.decode import PhotoRange, read_label
from gluonseg.data.prepare.core import DataSet, Report, Split, write_data_set
from real_photo import find_pet_photos

HEIGHT, WIDTH = 6, 8
Array = npt.NDArray[np.uint8]


def draw_photo(path: Path, size: tuple[int, int] = (HEIGHT, WIDTH), **options: Any) -> Path:
    """Save a photo of (height, width) in the format of its extension: reds down, greens across, its own blue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    down, across = np.meshgrid(*(np.linspace(0, 255, side) for side in size), indexing="ij")
    blue = np.full(size, sum(path.name.encode()) % 256)
    Image.fromarray(np.dstack([down, across, blue]).astype(np.uint8)).save(path, **options)
    return path


def stripes(*values: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Array:
    """A mask (H, W) whose columns take the values in turn."""
    return np.broadcast_to(np.resize(np.array(values, np.uint8), size[1]), size).copy()


def save_mask(path: Path, mask_hw: Array, palette: Sequence[tuple[int, int, int]] | None = None) -> Path:
    """Save a grey PNG, or with ``palette`` one whose pixels are indices of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(mask_hw)
    if palette is not None:
        picture.putpalette([value for colour in palette for value in colour])
    picture.save(path)
    return path


def save_colours(path: Path, mask_hw: Array, colours: Sequence[tuple[int, int, int]]) -> Path:
    """Save an RGB mask: the colour of each class id."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.array(colours, np.uint8)[mask_hw]).save(path)
    return path


def prepare(
    find: Callable[..., DataSet],
    source: Path,
    *,
    split: str = "",
    share: float = 0.5,
    photo_range: PhotoRange = (),
    **options: Any,
) -> Report:
    """Run a finder on ``source`` and write what it finds to ``out`` beside it."""
    out, by = source.parent / "out", Split(split, 0, share)
    return write_data_set(partial(find, source, **options), source, out, by, photo_range=photo_range)


def read_masks(report: Report) -> dict[str, Array]:
    """Name -> class ids (H, W) of every pair that was written; each has its photo."""
    paths = sorted(report.out.glob("*_annotation/*.png"))
    for path in paths:
        split = path.parent.name.removesuffix("_annotation")
        assert (report.out / split / f"{path.stem}.jpg").is_file()
    return {path.stem: read_label(path) for path in paths}


def read_names(report: Report, channel: str) -> list[str]:
    return sorted(path.stem for path in report.channel(channel).iterdir())


def read_class_names(report: Report) -> list[str]:
    names: list[str] = json.loads((report.channel("label_map") / "class_names.json").read_text())
    return names


def find_camvid_frames() -> Path:
    """The folder of CamVid's frames beside that of the pets; skips where it is not."""
    folder = find_pet_photos().parent / "camvid"
    if not folder.is_dir():
        pytest.skip(f"CamVid's frames are not at {folder} (set GLUONSEG_TEST_DATA)")
    return folder
