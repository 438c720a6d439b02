"""Reading every image and mask once, and noting what the label doctor needs to know of each."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from PIL import Image

from gluonseg.data.decode import decode_image, decode_label, find_orientation, read_bytes
from gluonseg.data.pairs import Pair
from gluonseg.errors import ImageError

Progress = Callable[[int, int], None]
"""Called with (pairs read, pairs in all)."""
_WINDOW = 256
"""Pairs handed to the threads at a time; one that waits costs 1.7 kB."""


@dataclass
class PairFacts:
    """What was found in the image and the mask of one pair of ``split``.

    Sizes are (height, width) of the pixels as stored, None for a file that cannot be used; ``problems`` then says
    why. ``orientation`` is EXIF's, 1 to 8; ``label_counts`` gives the pixels of each label that occurs; hashes are
    sha256 (hex) of the files.
    """

    split: str
    pair: Pair
    image_size: tuple[int, int] | None = None
    orientation: int = 1
    image_hash: str = "-"
    label_size: tuple[int, int] | None = None
    label_counts: dict[int, int] = field(default_factory=dict)
    label_hash: str = "-"
    problems: list[str] = field(default_factory=list)

    @property
    def image_name(self) -> str:
        """``train/a.jpg``: channel and file, short enough for a message."""
        return f"{self.split}/{self.pair.image.name}"

    @property
    def label_name(self) -> str:
        """``train_annotation/a.png``."""
        return f"{self.split}_annotation/{self.pair.label.name}"


def _scan_image(facts: PairFacts, max_pixels: int) -> None:
    data = read_bytes(facts.pair.image, facts.image_name)
    height, width = decode_image(data, facts.image_name, max_pixels=max_pixels).shape[:2]
    facts.image_size, facts.orientation = (height, width), find_orientation(data)
    facts.image_hash = hashlib.sha256(data).hexdigest()


def _scan_label(facts: PairFacts, max_pixels: int) -> None:
    data = read_bytes(facts.pair.label, facts.label_name)
    label_hw = decode_label(data, facts.label_name, max_pixels=max_pixels)
    # Pillow counts in place; numpy's bincount would first make eight bytes of every pixel.
    counts = Image.fromarray(label_hw).histogram()
    facts.label_size = (label_hw.shape[0], label_hw.shape[1])
    facts.label_counts = {label: count for label, count in enumerate(counts) if count}
    facts.label_hash = hashlib.sha256(data).hexdigest()


def scan_pairs(
    pairs: Sequence[tuple[str, Pair]], *, max_pixels: int, workers: int, progress: Progress | None = None
) -> list[PairFacts]:
    """Return the facts of every (split, pair), in the given order, read by ``workers`` threads."""

    def scan(item: tuple[str, Pair]) -> PairFacts:
        facts = PairFacts(*item)
        for scan_file in (_scan_image, _scan_label):
            try:
                scan_file(facts, max_pixels)
            except ImageError as error:
                facts.problems.append(str(error))
        return facts

    found = []
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(pairs), _WINDOW):
            for facts in pool.map(scan, pairs[start : start + _WINDOW]):
                found.append(facts)
                if progress is not None:
                    progress(len(found), len(pairs))
    return found
