"""The label doctor's look at pixels: files that cannot be read, sizes, labels, classes. Pure, on noted facts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gluonseg.data.check.diagnosis import BLACK_AND_WHITE, diagnose_labels
from gluonseg.data.check.findings import Finding, build_finding, join_labels
from gluonseg.data.check.scan import PairFacts
from gluonseg.data.label_channel import LabelMaps
from gluonseg.labels import IGNORE, UNKNOWN

Int64Array = npt.NDArray[np.int64]

DOMINANT_SHARE = 0.95
MAX_SCALED_PIXELS = 100_000_000
"""Of a photo after it was scaled for validation."""
_SWAPPING_ORIENTATIONS = (5, 6, 7, 8)


@dataclass(frozen=True)
class Examined:
    """Facts of all pairs beside the pixels of every class in each split."""

    facts: Sequence[PairFacts]
    maps: LabelMaps
    num_classes: int
    given_classes: int | None
    names: Sequence[str]
    ignore_label: int
    crop_size: int | None
    splits: tuple[str, ...]
    histogram: Mapping[str, Int64Array]
    ignored: Mapping[str, int]

    @staticmethod
    def build(
        facts: Sequence[PairFacts],
        maps: LabelMaps,
        num_classes: int,
        given_classes: int | None,
        names: Sequence[str],
        ignore_label: int,
        crop_size: int | None,
        splits: tuple[str, ...],
    ) -> Examined:
        """Count the pixels of every class; those of labels out of range are in no count."""
        histogram, ignored = {}, {}
        for split in splits:
            totals = np.zeros(256, dtype=np.int64)
            for item in facts:
                if item.split == split:
                    for class_id, count in _count_classes(item, maps).items():
                        totals[class_id] += count
            histogram[split], ignored[split] = totals[:num_classes], int(totals[IGNORE])
        return Examined(
            facts, maps, num_classes, given_classes, names, ignore_label, crop_size, splits, histogram, ignored
        )

    def of(self, split: str) -> Iterable[PairFacts]:
        """Facts of the pairs of one split."""
        return (item for item in self.facts if item.split == split)

    def name(self, class_id: int) -> str:
        """``1 (pet)``, or ``1`` when nobody named the class."""
        name = self.names[class_id] if class_id < len(self.names) else ""
        return str(class_id) if name in ("", f"class_{class_id}") else f"{class_id} ({name})"

    @property
    def labels(self) -> set[int]:
        """Raw labels that occur anywhere."""
        return {label for item in self.facts if item.label for label in item.label.pixels}

    @property
    def has_default_maps(self) -> bool:
        """Whether labels are taken for class ids as they are."""
        return all(label_map.description == {"scale": 1} for label_map in (self.maps.train, self.maps.validation))


def _count_classes(item: PairFacts, maps: LabelMaps) -> dict[int, int]:
    counts: dict[int, int] = {}
    table = (maps.train if item.split == "train" else maps.validation).table
    for label, count in (item.label.pixels if item.label else {}).items():
        class_id = int(table[label])
        counts[class_id] = counts.get(class_id, 0) + count
    return counts


def find_pixel_errors(examined: Examined) -> list[Finding]:
    """Everything that stops a training, the most important first."""
    problems = [problem for item in examined.facts for problem in item.problems]
    candidates = (
        build_finding("unreadable", "{n} files cannot be used", problems),
        build_finding("size_mismatch", "{n} masks differ in size from their image", _iter_mismatches(examined)),
        _find_thin(examined),
        _find_map_out_of_range(examined),
        _find_out_of_range(examined),
        *(_find_all_ignored(examined, split) for split in examined.splits),
        _find_mistake(examined, fatal=True),
    )
    return [finding for finding in candidates if finding is not None]


def _find_thin(examined: Examined) -> Finding | None:
    """Photos whose short side, scaled to the crop as validation does it, makes the long one take all memory."""
    size = examined.crop_size or 0
    lines = [
        f"{item.image_name} is {item.image.size[1]}x{item.image.size[0]}"
        for item in examined.facts
        if item.image and size * size * max(item.image.size) > MAX_SCALED_PIXELS * min(item.image.size)
    ]
    text = f"{{n}} photos are too thin: with a short side of crop_size {size}, over {MAX_SCALED_PIXELS} pixels"
    return build_finding("thin", text, lines, fix="Cut them into pieces, remove them, or lower crop_size")


def find_pixel_warnings(examined: Examined) -> list[Finding]:
    """Everything a person should look at before training."""
    candidates = (
        _find_mistake(examined, fatal=False),
        _find_ignored_masks(examined),
        *_find_class_gaps(examined),
        _find_dominant(examined),
        _find_duplicates(examined),
        _find_orientations(examined),
        _find_small(examined),
    )
    return [finding for finding in candidates if finding is not None]


def _iter_mismatches(examined: Examined) -> Iterable[str]:
    for item in examined.facts:
        if item.image is None or item.label is None or item.image.size == item.label.size:
            continue
        (height, width), (label_height, label_width) = item.image.size, item.label.size
        line = f"{item.image_name} is {width}x{height}, {item.label_name} is {label_width}x{label_height}"
        if item.image.size == item.label.size[::-1]:
            line += " (the sides are swapped)"
            if item.image.orientation in _SWAPPING_ORIENTATIONS:
                line += (
                    f": the image has EXIF orientation {item.image.orientation}, which is not applied; "
                    "save the image upright without it, or turn the mask to lie on the stored pixels"
                )
        yield line


def _find_map_out_of_range(examined: Examined) -> Finding | None:
    if examined.given_classes is None:
        return None
    lines = []
    for name, label_map in (("train", examined.maps.train), ("validation", examined.maps.validation)):
        if "map" in label_map.description:
            class_ids = {int(class_id) for class_id in label_map.table} - {IGNORE, UNKNOWN}
            high = sorted(class_id for class_id in class_ids if class_id >= examined.num_classes)
            if high:
                lines.append(f"{name}_label_map.json gives the class {join_labels(high)}")
            elif not class_ids:
                lines.append(f"{name}_label_map.json gives no class at all, everything is ignored")
    fix = f"Classes are 0 to {examined.num_classes - 1} (num_classes={examined.num_classes})"
    return build_finding("label_map_range", "a label map does not fit num_classes", lines, fix)


def _list_bad_labels(examined: Examined, item: PairFacts) -> dict[int, int]:
    table = (examined.maps.train if item.split == "train" else examined.maps.validation).table
    pixels = item.label.pixels if item.label else {}
    return {
        label: count
        for label, count in pixels.items()
        if table[label] != IGNORE and (table[label] >= examined.num_classes or table[label] == UNKNOWN)
    }


def _find_out_of_range(examined: Examined) -> Finding | None:
    lines, totals = [], dict[int, int]()
    for item in examined.facts:
        bad = _list_bad_labels(examined, item)
        for label, count in bad.items():
            totals[label] = totals.get(label, 0) + count
        if bad:
            listed = ", ".join(f"label {label} on {count} pixels" for label, count in list(bad.items())[:3])
            lines.append(f"{item.label_name} has {listed}" + (f" and {len(bad) - 3} more" if len(bad) > 3 else ""))
    valid = f"0 to {examined.num_classes - 1} and {IGNORE}" if examined.has_default_maps else "those of the label map"
    text = (
        f"{{n}} masks hold labels out of range (label {join_labels(sorted(totals))}; "
        f"{sum(totals.values())} pixels in all; valid are {valid})"
    )
    return build_finding("out_of_range", text, lines, _fix_out_of_range(examined))


def _fix_out_of_range(examined: Examined) -> str:
    if not examined.has_default_maps:
        return 'Add them to the label map, as {"map": {..., "255": LABEL}} for one that is not scored'
    diagnosis = diagnose_labels(examined.labels, examined.given_classes, examined.ignore_label)
    return f"{diagnosis.text[0].upper()}{diagnosis.text[1:]}. {diagnosis.fix}" if diagnosis else "Correct the masks"


def _find_all_ignored(examined: Examined, split: str) -> Finding | None:
    readable = any(item.label for item in examined.of(split))
    in_range = not any(_list_bad_labels(examined, item) for item in examined.of(split))
    if not readable or not in_range or examined.histogram[split].any():
        return None
    text = f"every pixel of every mask of {split}_annotation is ignored, nothing is left to learn from or to score"
    return Finding("all_ignored", text, fix="Check the masks and the label map")


def _find_mistake(examined: Examined, *, fatal: bool) -> Finding | None:
    """The likeliest mistake behind the labels; fatal is one that leaves a single class to learn."""
    if not examined.has_default_maps or any(_list_bad_labels(examined, item) for item in examined.facts):
        return None  # with labels out of range it is the fix of that error
    found = diagnose_labels(examined.labels, examined.given_classes, examined.ignore_label)
    return found if found and (found.kind == BLACK_AND_WHITE) == fatal else None


def _find_ignored_masks(examined: Examined) -> Finding | None:
    names = [
        item.label_name
        for item in examined.facts
        if item.label and set(_count_classes(item, examined.maps)) == {IGNORE}
    ]
    return build_finding("ignored_mask", "{n} masks are ignored on every pixel", names)


def _find_class_gaps(examined: Examined) -> list[Finding | None]:
    seen = {split: {int(c) for c in np.flatnonzero(examined.histogram[split])} for split in examined.splits}
    everywhere = set[int]().union(*seen.values())
    if len(everywhere) == 1:
        return [_describe_single_class(examined, everywhere.pop())]
    train = seen.get("train", everywhere)
    only_validation = [examined.name(class_id) for class_id in sorted(everywhere - train)]
    never = [examined.name(c) for c in range(examined.num_classes) if everywhere and c not in everywhere]
    return [
        build_finding(
            "only_in_validation", "{n} classes occur in validation only, so they cannot be learnt", only_validation
        ),
        build_finding("never_seen", "{n} classes occur in no mask; validation:mIOU counts them as 0", never),
    ]


def _describe_single_class(examined: Examined, class_id: int) -> Finding:
    if class_id == 0:
        text = "class 0 is the only one in all masks: they are all background"
    else:
        text = f"class {examined.name(class_id)} is the only one in all masks"
    return Finding("single_class", text, fix="Look at a mask; were the right files, and the right label map, given?")


def _find_dominant(examined: Examined) -> Finding | None:
    if "train" not in examined.splits:
        return None
    counts = examined.histogram["train"]
    total, top = int(counts.sum()), int(counts.argmax())
    if total == 0 or counts[top] == total or counts[top] <= DOMINANT_SHARE * total:
        return None
    share = 100 * float(counts[top]) / total
    fix = (
        "Pixel accuracy will look good whatever is learnt: watch the IoU of each class; class_weights=balanced may help"
    )
    return Finding("dominant_class", f"class {examined.name(top)} covers {share:.1f} % of the training pixels", fix=fix)


def _find_duplicates(examined: Examined) -> Finding | None:
    train = {item.image.sha256: item.image_name for item in examined.of("train") if item.image}
    twins = [
        f"{train[item.image.sha256]} and {item.image_name}"
        for item in examined.of("validation")
        if item.image and item.image.sha256 in train
    ]
    fix = "The validation result will look better than it is"
    return build_finding("duplicate", "{n} images are in train and in validation, byte for byte", twins, fix)


def _find_orientations(examined: Examined) -> Finding | None:
    names = [item.image_name for item in examined.facts if item.image and item.image.orientation != 1]
    fix = "It is not applied: masks must lie on the pixels as stored"
    return build_finding("orientation", "{n} images have an EXIF orientation", names, fix)


def _find_small(examined: Examined) -> Finding | None:
    crop = examined.crop_size
    if crop is None:
        return None
    names = [item.image_name for item in examined.of("train") if item.image and min(item.image.size) < crop]
    fix = "They are enlarged or padded"
    return build_finding("small", f"{{n}} training images have a side shorter than crop_size={crop}", names, fix)
