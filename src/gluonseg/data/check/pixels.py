"""The label doctor's look at pixels: files that cannot be read, sizes, labels, classes. Pure, on noted facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from gluonseg.data.check.diagnosis import BLACK_AND_WHITE, diagnose_labels
from gluonseg.data.check.findings import Finding, build_findings
from gluonseg.data.check.scan import PairFacts
from gluonseg.data.label_channel import LabelMaps
from gluonseg.labels import IGNORE, UNKNOWN, UInt8Array
from gluonseg.text import join_names

Int64Array = npt.NDArray[np.int64]

DOMINANT_SHARE = 0.95
_SWAPPING_ORIENTATIONS = (5, 6, 7, 8)


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

    @cached_property
    def totals(self) -> dict[str, Int64Array]:
        """split -> pixels of each of 256 class ids; IGNORE and UNKNOWN are counted too."""
        totals = {split: np.zeros(256, dtype=np.int64) for split in self.splits}
        for item in self.facts:
            for label, count in item.label_counts.items():
                totals[item.split][self.table(item)[label]] += count
        return totals

    @property
    def histogram(self) -> dict[str, Int64Array]:
        """split -> pixels of every class; pixels of labels out of range are not counted."""
        return {split: counts[: self.num_classes] for split, counts in self.totals.items()}

    def of(self, split: str) -> Iterable[PairFacts]:
        """Facts of the pairs of one split."""
        return (item for item in self.facts if item.split == split)

    def table(self, item: PairFacts) -> UInt8Array:
        """The class id of each of the 256 labels, in the split of ``item``."""
        return self.maps.choose(item.split).table

    @cached_property
    def bad_labels(self) -> list[tuple[PairFacts, dict[int, int]]]:
        """Each mask with labels that are neither a class nor ignored, and the pixels of each of these labels."""
        found = []
        for item in self.facts:
            table = self.table(item)
            is_bad = (table != IGNORE) & ((table >= self.num_classes) | (table == UNKNOWN))
            bad = {label: count for label, count in item.label_counts.items() if is_bad[label]}
            found += [(item, bad)] if bad else []
        return found

    def is_ignored(self, item: PairFacts) -> bool:
        """Whether the mask was read, and every pixel of it is ignored."""
        return {int(self.table(item)[label]) for label in item.label_counts} == {IGNORE}

    def name(self, class_id: int) -> str:
        """``1 (pet)``, or ``1`` when nobody named the class."""
        name = self.names[class_id] if class_id < len(self.names) else ""
        return str(class_id) if name in ("", f"class_{class_id}") else f"{class_id} ({name})"

    def diagnose(self) -> Finding | None:
        """The likeliest mistake behind all raw labels that occur, read without a label map."""
        labels = {label for item in self.facts for label in item.label_counts}
        return diagnose_labels(labels, self.given_classes, self.ignore_label)

    @property
    def has_default_maps(self) -> bool:
        """Whether labels are taken for class ids as they are."""
        return all(label_map.description == {"scale": 1} for label_map in (self.maps.train, self.maps.validation))


def find_pixel_errors(examined: Examined) -> list[Finding]:
    """Everything that stops a training, the most important first."""
    problems = [problem for item in examined.facts for problem in item.problems]
    return [
        *build_findings("unreadable", "{n} files cannot be used", problems),
        *build_findings("size_mismatch", "{n} masks differ in size from their image", _iter_mismatches(examined)),
        *_find_map_out_of_range(examined),
        *_find_out_of_range(examined),
        *_find_all_ignored(examined),
        *_find_mistake(examined, fatal=True),
    ]


def find_pixel_warnings(examined: Examined) -> list[Finding]:
    """Everything a person should look at before training."""
    ignored = [item.label_name for item in examined.facts if examined.is_ignored(item)]
    turned = [item.image_name for item in examined.facts if item.orientation != 1]
    return [
        *_find_mistake(examined, fatal=False),
        *build_findings("ignored_mask", "{n} masks are ignored on every pixel", ignored),
        *_find_class_gaps(examined),
        *_find_dominant(examined),
        *_find_duplicates(examined),
        *build_findings(
            "orientation",
            "{n} images have an EXIF orientation",
            turned,
            "It is not applied: masks must lie on the pixels as stored",
        ),
        *_find_small(examined),
    ]


def _iter_mismatches(examined: Examined) -> Iterable[str]:
    for item in examined.facts:
        if item.image_size is None or item.label_size is None or item.image_size == item.label_size:
            continue
        (height, width), (label_height, label_width) = item.image_size, item.label_size
        line = f"{item.image_name} is {width}x{height}, {item.label_name} is {label_width}x{label_height}"
        if (height, width) == (label_width, label_height):
            line += " (the sides are swapped)"
            if item.orientation in _SWAPPING_ORIENTATIONS:
                line += (
                    f": the image has EXIF orientation {item.orientation}, which is not applied; "
                    "save the image upright without it, or turn the mask to lie on the stored pixels"
                )
        yield line


def _find_map_out_of_range(examined: Examined) -> list[Finding]:
    lines = []
    for name, label_map in (("train", examined.maps.train), ("validation", examined.maps.validation)):
        if "map" in label_map.description and examined.given_classes is not None:
            class_ids = {int(class_id) for class_id in label_map.table} - {IGNORE, UNKNOWN}
            high = [str(class_id) for class_id in sorted(class_ids) if class_id >= examined.num_classes]
            if high:
                lines.append(f"{name}_label_map.json gives the class {join_names(high, 12)}")
    fix = f"Classes are 0 to {examined.num_classes - 1} (num_classes={examined.num_classes})"
    return build_findings("label_map_range", "a label map does not fit num_classes", lines, fix)


def _find_out_of_range(examined: Examined) -> list[Finding]:
    lines, totals = [], Counter[int]()
    for item, bad in examined.bad_labels:
        totals.update(bad)
        listed = [f"label {label} on {count} pixels" for label, count in bad.items()]
        lines.append(f"{item.label_name} has {join_names(listed, 3)}")
    valid = f"0 to {examined.num_classes - 1} and {IGNORE}" if examined.has_default_maps else "those of the label map"
    text = (
        f"{{n}} masks hold labels out of range (label {join_names(map(str, sorted(totals)), 12)}; "
        f"{sum(totals.values())} pixels in all; valid are {valid})"
    )
    return build_findings("out_of_range", text, lines, _fix_out_of_range(examined))


def _fix_out_of_range(examined: Examined) -> str:
    if not examined.has_default_maps:
        return 'Add them to the label map, as {"map": {..., "255": LABEL}} for one that is not scored'
    diagnosis = examined.diagnose()
    return f"{diagnosis.text[0].upper()}{diagnosis.text[1:]}. {diagnosis.fix}" if diagnosis else "Correct the masks"


def _find_all_ignored(examined: Examined) -> list[Finding]:
    found = []
    for split in examined.splits:
        masks = [item for item in examined.of(split) if item.label_counts]
        if masks and all(examined.is_ignored(item) for item in masks):
            text = (
                f"every pixel of every mask of {split}_annotation is ignored, nothing is left to learn from or to score"
            )
            found.append(Finding("all_ignored", text, fix="Check the masks and the label map"))
    return found


def _find_mistake(examined: Examined, *, fatal: bool) -> list[Finding]:
    """The likeliest mistake behind the labels; it is fatal when a single class is left to learn."""
    if not examined.has_default_maps or examined.bad_labels:
        return []  # when labels are out of range, that error gives the mistake as its fix
    found = examined.diagnose()
    return [found] if found and (found.kind == BLACK_AND_WHITE) == fatal else []


def _find_class_gaps(examined: Examined) -> list[Finding]:
    seen = {split: set(np.flatnonzero(counts).tolist()) for split, counts in examined.histogram.items()}
    everywhere = set[int]().union(*seen.values())
    if len(everywhere) == 1:
        (class_id,) = everywhere
        background = ": they are all background" if class_id == 0 else ""
        text = f"class {examined.name(class_id)} is the only one in all masks{background}"
        fix = "Look at a mask; were the right files, and the right label map, given?"
        return [Finding("single_class", text, fix=fix)]
    only_validation = sorted(everywhere - seen.get("train", everywhere))
    never = [class_id for class_id in range(examined.num_classes) if everywhere and class_id not in everywhere]
    return [
        *build_findings(
            "only_in_validation",
            "{n} classes occur in validation only, so they cannot be learnt",
            map(examined.name, only_validation),
        ),
        *build_findings(
            "never_seen", "{n} classes occur in no mask; validation:mIOU counts them as 0", map(examined.name, never)
        ),
    ]


def _find_dominant(examined: Examined) -> list[Finding]:
    counts = examined.histogram.get("train", np.zeros(1, dtype=np.int64))
    total, top = int(counts.sum()), int(counts.argmax())
    if not DOMINANT_SHARE * total < counts[top] < total:
        return []
    text = f"class {examined.name(top)} covers {100 * float(counts[top]) / total:.1f} % of the training pixels"
    fix = (
        "Pixel accuracy will look good whatever is learnt: watch the IoU of each class; class_weights=balanced may help"
    )
    return [Finding("dominant_class", text, fix=fix)]


def _find_duplicates(examined: Examined) -> list[Finding]:
    train = {item.image_hash: item.image_name for item in examined.of("train") if item.image_size}
    twins = [
        f"{train[item.image_hash]} and {item.image_name}"
        for item in examined.of("validation")
        if item.image_hash in train
    ]
    fix = "The validation result will look better than it is"
    return build_findings("duplicate", "{n} images are in train and in validation, byte for byte", twins, fix)


def _find_small(examined: Examined) -> list[Finding]:
    crop = examined.crop_size or 0
    names = [item.image_name for item in examined.of("train") if item.image_size and min(item.image_size) < crop]
    fix = "They are enlarged or padded"
    return build_findings("small", f"{{n}} training images have a side shorter than crop_size={crop}", names, fix)
