"""What the label doctor judges: the facts of all pairs, and how their labels are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from gluonseg.data.check.scan import PairFacts
from gluonseg.data.decode import PhotoRange
from gluonseg.data.label_channel import LabelMaps
from gluonseg.labels import IGNORE, UNKNOWN, UInt8Array

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Examined:
    """The facts of all pairs, and how their labels are read.

    ``given_classes`` is what the user says num_classes is, None when unknown; ``num_classes`` is that or a guess.
    """

    facts: Sequence[PairFacts]
    splits: tuple[str, ...]
    maps: LabelMaps
    num_classes: int
    given_classes: int | None
    names: Sequence[str]
    ignore_label: int
    crop_size: int | None
    max_pixels: int
    photo_range: PhotoRange

    @cached_property
    def label_totals(self) -> dict[str, dict[int, int]]:
        """split -> pixels of each raw label that occurs there, in the order of the labels."""
        totals = {split: np.zeros(256, dtype=np.int64) for split in self.splits}
        for item in self.facts:
            for label, count in item.label_counts.items():
                totals[item.split][label] += count
        return {split: {int(n): int(counts[n]) for n in np.flatnonzero(counts)} for split, counts in totals.items()}

    @cached_property
    def totals(self) -> dict[str, Int64Array]:
        """split -> pixels of each of 256 class ids; IGNORE and UNKNOWN are counted too."""
        totals = {split: np.zeros(256, dtype=np.int64) for split in self.splits}
        for split, labels in self.label_totals.items():
            for label, count in labels.items():
                totals[split][self.table(split)[label]] += count
        return totals

    @property
    def histogram(self) -> dict[str, Int64Array]:
        """split -> pixels of every class; pixels of labels out of range are not counted."""
        return {split: counts[: self.num_classes] for split, counts in self.totals.items()}

    def of(self, split: str) -> Iterable[PairFacts]:
        """Facts of the pairs of one split."""
        return (item for item in self.facts if item.split == split)

    def table(self, split: str) -> UInt8Array:
        """The class id of each of the 256 labels in ``split``."""
        return self.maps.choose(split).table

    def find_classes(self, split: str) -> list[int]:
        """The class ids that occur in the masks of ``split``."""
        return [int(class_id) for class_id in np.flatnonzero(self.histogram[split])]

    def find_bad(self, split: str) -> list[int]:
        """The labels in the masks of ``split`` that are neither a class nor ignored."""
        table = self.table(split)
        is_bad = (table != IGNORE) & ((table >= self.num_classes) | (table == UNKNOWN))
        return [label for label in self.label_totals[split] if is_bad[label]]

    def has_default_map(self, split: str) -> bool:
        """Whether the labels of ``split`` are taken for class ids as they are."""
        return self.maps.choose(split).description == {"scale": 1}

    def group_by_map(self, splits: Iterable[str]) -> list[list[str]]:
        """``splits`` in groups that are read with the same label map."""
        groups: dict[bytes, list[str]] = {}
        for split in splits:
            groups.setdefault(self.table(split).tobytes(), []).append(split)
        return list(groups.values())

    def is_ignored(self, item: PairFacts) -> bool:
        """Whether the mask was read, and every pixel of it is ignored."""
        return {int(self.table(item.split)[label]) for label in item.label_counts} == {IGNORE}

    def name(self, class_id: int) -> str:
        """``1 (pet)``, or ``1`` when nobody named the class."""
        name = self.names[class_id] if class_id < len(self.names) else ""
        return str(class_id) if name in ("", f"class_{class_id}") else f"{class_id} ({name})"
