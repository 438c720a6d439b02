"""Reading every image and mask once, and noting what the label doctor needs to know of each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from gluonseg.data.decode import decode_image, decode_label, find_orientation, read_bytes
from gluonseg.data.pairs import Pair
from gluonseg.errors import ImageError

Progress = Callable[[int, int], None]
"""Called with (pairs read, pairs in all)."""

_WINDOW = 256  # pairs handed to the threads at a time: keeps memory flat for a million files


@dataclass(frozen=True)
class ImageFacts:
    """Of one photo: (height, width) of the stored pixels, EXIF orientation 1..8, sha256 of the file."""

    size: tuple[int, int]
    orientation: int
    sha256: str


@dataclass(frozen=True)
class LabelFacts:
    """Of one mask: (height, width), pixels of each label that occurs, sha256 of the file."""

    size: tuple[int, int]
    pixels: dict[int, int]
    sha256: str


@dataclass(frozen=True)
class PairFacts:
    """Of one pair of ``split``; ``image`` or ``label`` is None when ``problems`` says why it cannot be used."""

    split: str
    pair: Pair
    image: ImageFacts | None
    label: LabelFacts | None
    problems: tuple[str, ...] = field(default=())

    @property
    def image_name(self) -> str:
        """``train/a.jpg``: channel and file, short enough for a message."""
        return f"{self.split}/{self.pair.image.name}"

    @property
    def label_name(self) -> str:
        """``train_annotation/a.png``."""
        return f"{self.split}_annotation/{self.pair.label.name}"


def _scan_image(path: Path, name: str, max_pixels: int) -> ImageFacts:
    data = _read_named(path, name)
    height, width = decode_image(data, name, max_pixels=max_pixels).shape[:2]
    return ImageFacts((height, width), find_orientation(data), hashlib.sha256(data).hexdigest())


def _scan_label(path: Path, name: str, max_pixels: int) -> LabelFacts:
    data = _read_named(path, name)
    label_hw = decode_label(data, name, max_pixels=max_pixels)
    # Pillow counts in place; numpy's bincount would first make eight bytes of every pixel.
    counts = Image.fromarray(label_hw).histogram()
    pixels = {label: count for label, count in enumerate(counts) if count}
    return LabelFacts((label_hw.shape[0], label_hw.shape[1]), pixels, hashlib.sha256(data).hexdigest())


def _read_named(path: Path, name: str) -> bytes:
    try:
        return read_bytes(path)
    except ImageError as error:
        raise ImageError(str(error).replace(str(path), name)) from None


def scan_pair(split: str, pair: Pair, max_pixels: int) -> PairFacts:
    """Read and decode one pair; whatever is wrong with a file ends in ``problems``, not in an exception."""
    blank = PairFacts(split, pair, None, None)
    image: ImageFacts | None = None
    label: LabelFacts | None = None
    problems = []
    try:
        image = _scan_image(pair.image, blank.image_name, max_pixels)
    except ImageError as error:
        problems.append(str(error))
    try:
        label = _scan_label(pair.label, blank.label_name, max_pixels)
    except ImageError as error:
        problems.append(str(error))
    return PairFacts(split, pair, image, label, tuple(problems))


def scan_pairs(
    pairs: Sequence[tuple[str, Pair]], *, max_pixels: int, workers: int, progress: Progress | None = None
) -> Iterator[PairFacts]:
    """Yield the facts of every (split, pair) in the given order, read by ``workers`` threads."""
    done = 0
    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        for start in range(0, len(pairs), _WINDOW):
            window = pairs[start : start + _WINDOW]
            for facts in pool.map(lambda item: scan_pair(item[0], item[1], max_pixels), window):
                done += 1
                if progress is not None:
                    progress(done, len(pairs))
                yield facts
