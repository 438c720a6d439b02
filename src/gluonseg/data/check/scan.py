"""Reading every image and mask once, and noting what the label doctor needs to know of each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from gluonseg.data.check.header import find_jpeg_size, find_pixels, is_colour, is_transparent, read_header
from gluonseg.data.decode import (
    PhotoRange,
    decode_image,
    decode_label,
    find_orientation,
    find_value_range,
    read_bytes,
)
from gluonseg.data.pairs import Pair
from gluonseg.errors import ImageError, ImageTooLargeError

Progress = Callable[[int, int], None]
"""Called with (pairs read, pairs in all)."""
WHOLE_RANGE: PhotoRange = (0, (1 << 16) - 1)
"""Black and white in a photo of 16 bits, when nothing else is said."""
_WINDOW = 256
"""Pairs handed to the threads at a time; one that waits costs 1.7 kB."""


@dataclass
class FileFacts:
    """What was found in one file of a pair; ``name`` is ``train/a.jpg``: channel and file, short for a message.

    ``size`` is (height, width) of the pixels as stored, None for a file that cannot be used; ``problem`` then says why.
    ``too_large`` are the pixels of a picture that was refused for their number; ``is_colour`` says that a mask was
    refused for its colours. ``hash`` is sha256 (hex) of the file. ``pages`` counts the pictures in the file;
    ``is_transparent`` says that transparency hides some of the pixels.
    """

    name: str
    size: tuple[int, int] | None = None
    hash: str = "-"
    problem: str = ""
    too_large: int = 0
    is_colour: bool = False
    pages: int = 1
    is_transparent: bool = False


@dataclass
class PairFacts:
    """What was found in the image and the mask of one pair of ``split``.

    ``orientation`` is EXIF's, 1 to 8. ``values`` are the least and the greatest value of an image of 16 bits, None for
    another one; ``is_flat`` says that all of them, though they differ, become one shade, and ``clipped`` which share
    becomes black or white because they are outside ``photo_range``. ``label_counts`` gives the pixels of each label
    that occurs; ``palette`` the colours of a mask with palette, three bytes an index.
    """

    split: str
    pair: Pair
    image: FileFacts = field(init=False)
    mask: FileFacts = field(init=False)
    orientation: int = 1
    values: tuple[int, ...] | None = None
    is_flat: bool = False
    clipped: float = 0.0
    label_counts: dict[int, int] = field(default_factory=dict)
    palette: bytes = b""

    def __post_init__(self) -> None:
        self.image = FileFacts(f"{self.split}/{self.pair.image.name}")
        self.mask = FileFacts(f"{self.split}_annotation/{self.pair.label.name}")

    @property
    def files(self) -> tuple[FileFacts, FileFacts]:
        return self.image, self.mask


class _Scanner:
    """Notes the facts of pairs; pictures above ``max_pixels`` are refused by their header."""

    def __init__(self, max_pixels: int, photo_range: PhotoRange) -> None:
        self._max_pixels, self._photo_range = max_pixels, photo_range

    def scan(self, split: str, pair: Pair) -> PairFacts:
        facts = PairFacts(split, pair)
        self._scan_image(facts)
        self._scan_mask(facts)
        return facts

    def _scan_image(self, facts: PairFacts) -> None:
        file, data = facts.image, b""
        try:
            data = read_bytes(facts.pair.image, file.name)
            size = find_jpeg_size(data, self._max_pixels) or self._scan_pixels(facts, data)
        except ImageError as error:
            _note_refusal(file, data, error)
            return
        _note_file(file, data, size)
        facts.orientation = find_orientation(data)

    def _scan_pixels(self, facts: PairFacts, data: bytes) -> tuple[int, int]:
        """Return the size of an image, and note its values when it has 16 bits."""
        limit, photo_range = self._max_pixels, self._photo_range
        image_hwc = decode_image(data, facts.image.name, max_pixels=limit, photo_range=photo_range)
        facts.values = find_value_range(data, max_pixels=limit)
        if facts.values:
            (least, greatest), (low, high) = facts.values, photo_range or WHOLE_RANGE
            facts.is_flat = least < greatest and bool(image_hwc.min() == image_hwc.max())
            black = np.count_nonzero(image_hwc == 0) if least < low else 0
            white = np.count_nonzero(image_hwc == 255) if greatest > high else 0
            facts.clipped = (black + white) / image_hwc.size
        return image_hwc.shape[0], image_hwc.shape[1]

    def _scan_mask(self, facts: PairFacts) -> None:
        file, data = facts.mask, b""
        try:
            data = read_bytes(facts.pair.label, file.name)
            label_hw = decode_label(data, file.name, max_pixels=self._max_pixels)
        except ImageError as error:
            _note_refusal(file, data, error)
            file.is_colour = is_colour(data)
            return
        facts.palette = _note_file(file, data, (label_hw.shape[0], label_hw.shape[1]))
        # Pillow counts in place; numpy's bincount would first make eight bytes of every pixel.
        counts = Image.fromarray(label_hw).histogram()
        facts.label_counts = {label: count for label, count in enumerate(counts) if count}


def _note_file(file: FileFacts, data: bytes, size: tuple[int, int]) -> bytes:
    """Note what both kinds of files can have; return the palette."""
    header = read_header(data)
    file.size, file.hash, file.pages = size, hashlib.sha256(data).hexdigest(), header.pages
    file.is_transparent = is_transparent(data)
    return header.palette


def _note_refusal(file: FileFacts, data: bytes, error: ImageError) -> None:
    file.problem = str(error)
    if isinstance(error, ImageTooLargeError):
        file.too_large = find_pixels(data)


def scan_pairs(
    pairs: Sequence[tuple[str, Pair]],
    *,
    max_pixels: int,
    photo_range: PhotoRange = (),
    workers: int,
    progress: Progress | None = None,
) -> list[PairFacts]:
    """Return the facts of every (split, pair), in the given order, read by ``workers`` threads."""
    scanner, found = _Scanner(max_pixels, photo_range), list[PairFacts]()
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(pairs), _WINDOW):
            for facts in pool.map(lambda item: scanner.scan(*item), pairs[start : start + _WINDOW]):
                found.append(facts)
                if progress is not None:
                    progress(len(found), len(pairs))
    return found
