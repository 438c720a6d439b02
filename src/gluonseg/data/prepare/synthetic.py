"""A small drawn dataset in the layout of the Oxford-IIIT Pet dataset.

It needs no download, goes through the same prepare command as the real one, and a small network learns it
in minutes: discs, boxes and triangles, each kind in its own family of colours, on a textured ground.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from gluonseg.data.channel import encode_jpeg
from gluonseg.data.prepare.core import Progress, Report
from gluonseg.data.prepare.pets import BACKGROUND, BORDER, PET, prepare_oxford_pets
from gluonseg.errors import DataError
from gluonseg.labels import UInt8Array

SHAPES = ("disc", "box", "triangle")
MIN_SIZE, MAX_SIZE = 24, 2048
MAX_COUNT = 9999

_BASE_COLOURS = {"disc": (205, 70, 60), "box": (60, 90, 205), "triangle": (65, 175, 80)}
_COLOUR_SPREAD = 35
_BORDER_FILTER = 3  # pixels, odd: the border label covers one pixel on each side of an edge


def _draw_texture(rng: np.random.Generator, height: int, width: int) -> Image.Image:
    """A greyish ground: coarse random patches, smoothly enlarged, of a random tint."""
    patches = rng.integers(70, 200, size=(max(2, height // 12), max(2, width // 12), 1))
    tint = rng.integers(-15, 16, size=3)
    coarse = np.clip(patches + tint, 0, 255).astype(np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def _draw_shape(rng: np.random.Generator, shape: str, shape_mask: Image.Image) -> None:
    """Draw one shape of random size, at a random place, in white."""
    short = min(shape_mask.size)
    shape_w, shape_h = (int(n) for n in rng.integers(short // 3, short * 2 // 3 + 1, size=2))
    left, top = int(rng.integers(0, shape_mask.width - shape_w)), int(rng.integers(0, shape_mask.height - shape_h))
    right, bottom = left + shape_w, top + shape_h
    draw = ImageDraw.Draw(shape_mask)
    if shape == "disc":
        draw.ellipse((left, top, right, bottom), fill=255)
    elif shape == "box":
        draw.rectangle((left, top, right, bottom), fill=255)
    else:
        draw.polygon([(left, bottom), (right, bottom), ((left + right) // 2, top)], fill=255)


def _compute_trimap(shape_mask: Image.Image) -> UInt8Array:
    grown = np.asarray(shape_mask.filter(ImageFilter.MaxFilter(_BORDER_FILTER)))
    shrunk = np.asarray(shape_mask.filter(ImageFilter.MinFilter(_BORDER_FILTER)))
    return np.where(shrunk > 0, PET, np.where(grown > 0, BORDER, BACKGROUND)).astype(np.uint8)


def draw_example(rng: np.random.Generator, shape: str, size: int) -> tuple[UInt8Array, UInt8Array]:
    """Draw one photo (H, W, 3) uint8 and its trimap (H, W) uint8; the sides are 3/4 to 5/4 of ``size``."""
    height, width = (int(side) for side in rng.integers(size * 3 // 4, size * 5 // 4 + 1, size=2))
    photo = _draw_texture(rng, height, width)
    shape_mask = Image.new("L", (width, height))
    for _ in range(int(rng.integers(1, 3))):
        _draw_shape(rng, shape, shape_mask)
    spread = rng.integers(-_COLOUR_SPREAD, _COLOUR_SPREAD + 1, size=3)
    red, green, blue = (int(value) for value in np.asarray(_BASE_COLOURS[shape]) + spread)
    photo.paste((red, green, blue), mask=shape_mask)
    noise = rng.normal(0, 8, size=(height, width, 3))
    noisy = np.clip(np.asarray(photo, dtype=np.float64) + noise, 0, 255).astype(np.uint8)
    return noisy, _compute_trimap(shape_mask)


def draw_oxford_layout(out: Path, *, count: int = 96, size: int = 96, seed: int = 0) -> Path:
    """Draw ``count`` photos with trimaps and list files into ``out`` and return it.

    Args:
        out: a folder that does not exist yet, or is empty.
        count: photos in all; the three shapes take turns.
        size: middle of the range of heights and widths, in pixels.
        seed: the same seed, count and size give the same pictures.

    Raises:
        DataError: count, size or seed is out of range.
    """
    least = 2 * len(SHAPES)
    if seed < 0 or not least <= count <= MAX_COUNT or not MIN_SIZE <= size <= MAX_SIZE:
        raise DataError(
            f"count must be {least} to {MAX_COUNT}, size {MIN_SIZE} to {MAX_SIZE}, and seed 0 or more; "
            f"got {count}, {size} and {seed}"
        )
    images, trimaps = out / "images", out / "annotations" / "trimaps"
    for folder in (images, trimaps):
        folder.mkdir(parents=True)
    lines = []
    for index in range(count):
        kind = index % len(SHAPES)
        name = f"{SHAPES[kind]}_{index // len(SHAPES) + 1}"
        photo, trimap = draw_example(np.random.default_rng([seed, index]), SHAPES[kind], size)
        (images / f"{name}.jpg").write_bytes(encode_jpeg(photo))
        Image.fromarray(trimap).save(trimaps / f"{name}.png")
        lines.append(f"{name} {kind + 1} {1 if kind == 0 else 2} {max(kind, 1)}\n")
    # As in the original: list.txt has all, trainval.txt and test.txt one half each.
    half = len(lines) // 2
    for file, part in (("list.txt", lines), ("trainval.txt", lines[:half]), ("test.txt", lines[half:])):
        (out / "annotations" / file).write_text("".join(part), encoding="utf-8")
    return out


def prepare_synthetic(
    out: Path,
    *,
    count: int = 96,
    size: int = 96,
    seed: int = 0,
    classes: str = "breed",
    progress: Progress | None = None,
) -> Report:
    """Write the channels of a drawn dataset to ``out``: background, disc, box and triangle.

    ``classes`` and ``progress`` are those of :func:`gluonseg.data.prepare.pets.prepare_oxford_pets`; the other
    arguments those of :func:`draw_oxford_layout`. Raises DataError as they do.
    """
    with tempfile.TemporaryDirectory(prefix="gluonseg-synthetic-") as folder:
        source = draw_oxford_layout(Path(folder), count=count, size=size, seed=seed)
        return prepare_oxford_pets(source, out, classes=classes, seed=seed, progress=progress)
