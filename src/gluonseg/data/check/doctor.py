"""The label doctor: reads every image and mask once and says what is wrong, where, and what to do.

``gluonseg check`` prints its report; training runs it first and stops on errors, before any compute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gluonseg.data.channel import SPLITS
from gluonseg.data.check.classes import FEW_CLASSES, find_class_errors, find_class_warnings
from gluonseg.data.check.colours import find_colours
from gluonseg.data.check.examined import Examined
from gluonseg.data.check.findings import Finding
from gluonseg.data.check.folders import check_folders, find_skipped, find_unknown
from gluonseg.data.check.pictures import find_file_errors, find_file_warnings
from gluonseg.data.check.scan import PairFacts, Progress, scan_pairs
from gluonseg.data.decode import DEFAULT_MAX_PIXELS, PhotoRange
from gluonseg.data.label_channel import TRAIN_FILE, VALIDATION_FILE, LabelMaps, default_label_maps
from gluonseg.data.pairs import Pair
from gluonseg.errors import DataError
from gluonseg.labels import IGNORE, MAX_CLASSES, UNKNOWN, default_class_names
from gluonseg.machine.limits import count_usable_cores

Int64Array = npt.NDArray[np.int64]

_HEADLINE_EXAMPLES = 2


@dataclass(frozen=True)
class CheckReport:
    """What the label doctor found.

    ``histogram`` and ``ignored`` give, for each split, the pixels of every class (int64, one entry a
    class) and those that are not scored; ``sizes`` the (height, width) of every image that was read; ``pairs`` are
    what a training reads, by ``label_maps``; ``fingerprints`` change when any name or byte of the data of that split
    does. ``shards`` has the numbers of photos of all hosts, for splits of which each host of a training has its own.
    ``num_classes`` is what the caller gave, or what the masks suggest when ``is_suggested``.
    """

    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    num_classes: int
    is_suggested: bool
    class_names: tuple[str, ...]
    histogram: Mapping[str, Int64Array]
    ignored: Mapping[str, int]
    sizes: Mapping[str, tuple[tuple[int, int], ...]]
    pairs: Mapping[str, tuple[Pair, ...]]
    label_maps: LabelMaps
    fingerprints: Mapping[str, str]
    skipped: tuple[Path, ...] = field(default=())
    shards: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def num_train(self) -> int:
        return self._count("train")

    @property
    def num_validation(self) -> int:
        return self._count("validation")

    def _count(self, split: str) -> int:
        """The photos of all hosts."""
        return sum(self.shards.get(split, ())) or len(self.pairs.get(split, ()))

    def raise_for_errors(self) -> None:
        """Raise DataError with every error, the most important first; a short form of all comes before the details."""
        if not self.errors:
            return
        lines = [error.describe(_HEADLINE_EXAMPLES) for error in self.errors]
        details = [str(error) for error in self.errors if error.total > _HEADLINE_EXAMPLES]
        if details:
            lines += ["In detail:", *details]
        raise DataError("\n".join(lines))


def check_channels(
    channels: Mapping[str, Path],
    *,
    num_classes: int | None = None,
    label_maps: LabelMaps | None = None,
    ignore_label: int = IGNORE,
    crop_size: int | None = None,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    photo_range: PhotoRange = (),
    workers: int | None = None,
    splits: Sequence[str] = SPLITS,
    progress: Progress | None = None,
) -> CheckReport:
    """Read everything in ``channels`` once and report.

    Args:
        channels: channel name -> folder; ``train``, ``train_annotation``, ``validation`` and
            ``validation_annotation`` are needed (those of ``splits``).
        num_classes: None suggests a number from the labels that occur.
        label_maps: from :func:`gluonseg.data.label_channel.read_label_maps`; None means no label maps.
        crop_size: what training will crop to, in pixels; None leaves the warning of small images out.
        max_pixels: larger pictures are refused by their header.
        photo_range: the values of 16-bit photos that become black and white; empty for 0 and 65535.
        workers: reading threads; None takes the cores this process may use.

    Nothing is raised for bad data: it is all in the report, see :meth:`CheckReport.raise_for_errors`.
    """
    maps = label_maps or default_label_maps(ignore_label)
    matchings, errors = check_folders(channels, splits)
    pairs = [(split, pair) for split, matching in matchings.items() for pair in matching.pairs]
    facts = scan_pairs(
        pairs,
        max_pixels=max_pixels,
        photo_range=photo_range,
        workers=workers or count_usable_cores(),
        progress=progress,
    )
    suggested = _suggest_num_classes(facts, maps)
    classes = num_classes or suggested
    names, name_errors = _name_classes(maps, classes, num_classes, suggested)
    splits = tuple(matchings)
    options = names, ignore_label, crop_size, max_pixels, photo_range
    examined = Examined(facts, splits, maps, classes, num_classes, *options)
    colour_errors, colour_warnings = find_colours(examined)
    return CheckReport(
        errors=(*errors, *name_errors, *find_file_errors(examined), *colour_errors, *find_class_errors(examined)),
        warnings=(
            *find_class_warnings(examined),
            *colour_warnings,
            *find_unknown(channels),
            *find_skipped(matchings),
            *_find_unused(maps),
            *find_file_warnings(examined),
        ),
        num_classes=classes,
        is_suggested=num_classes is None,
        class_names=names,
        histogram=examined.histogram,
        ignored={split: int(counts[IGNORE]) for split, counts in examined.totals.items()},
        sizes={split: tuple(item.image.size for item in examined.of(split) if item.image.size) for split in matchings},
        pairs={split: matching.pairs for split, matching in matchings.items()},
        label_maps=maps,
        fingerprints={split: _compute_fingerprint(examined.of(split)) for split in matchings},
        skipped=tuple(path for matching in matchings.values() for path in matching.skipped),
    )


def _suggest_num_classes(facts: Sequence[PairFacts], maps: LabelMaps) -> int:
    """Return the highest class id that occurs, plus one; at least 2."""
    class_ids = {int(maps.choose(item.split).table[label]) for item in facts for label in item.label_counts}
    return min(MAX_CLASSES, max((class_ids - {IGNORE, UNKNOWN}) | {1}) + 1)


def _compute_fingerprint(facts: Iterable[PairFacts]) -> str:
    """sha256 (hex) over names and file hashes of the pairs, which come in the order of their names."""
    lines = (f"{item.pair.name!r} {item.image.hash} {item.mask.hash}\n" for item in facts)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _name_classes(
    maps: LabelMaps, classes: int, given: int | None, needed: int
) -> tuple[tuple[str, ...], list[Finding]]:
    """The names of all classes, and what is wrong with them; ``needed`` is the number of classes by the masks."""
    names = maps.class_names
    if names is None:
        return tuple(default_class_names(classes)), []
    if len(names) == classes:
        return tuple(names), []
    if given is None:  # a class that never occurs still has its name
        return tuple([*names, *default_class_names(classes)[len(names) :]][:classes]), []
    text = f"class_names.json names {len(names)} classes, num_classes is {classes}"
    fix = f"Set num_classes to {len(names)}, or" if len(names) >= needed else "The masks have more:"
    return tuple(default_class_names(classes)), [Finding("class_names", text, fix=f"{fix} give {classes} names")]


def _find_unused(maps: LabelMaps) -> list[Finding]:
    findings = []
    if maps.unused:
        fix = "Label maps are train_label_map.json and validation_label_map.json, names are class_names.json"
        findings.append(Finding("unused_label_map", "label_map holds what is not read", maps.unused, 1, fix))
    if (maps.train.table != maps.validation.table).any():
        text = "train and validation masks are read with different label maps"
        fix = ""
        if maps.missing:
            (other,) = {TRAIN_FILE, VALIDATION_FILE} - set(maps.missing)
            fix = (
                f"{maps.missing[0]} is missing, labels are class ids there: if the masks are alike, copy {other} to it"
            )
        findings.append(Finding("different_label_maps", text, fix=fix))
    return findings


def _format_sizes(report: CheckReport, split: str, count: int) -> str:
    sizes = np.array(report.sizes.get(split, ()), dtype=np.int64).reshape(-1, 2)
    if not len(sizes):
        return f"{split}: {count} pairs"
    (low_h, low_w), (mid_h, mid_w), (high_h, high_w) = sizes.min(0), np.median(sizes, axis=0), sizes.max(0)
    spread = f"width {low_w} to {high_w} (median {mid_w:.0f}), height {low_h} to {high_h} (median {mid_h:.0f})"
    return f"{split}: {count} pairs, {spread}"


def _format_histogram(report: CheckReport) -> list[str]:
    """One row a class: pixels and share of the scored pixels, in train and in validation."""
    splits = [split for split in report.histogram if report.histogram[split].any() or report.ignored[split]]
    rows = [("class", *(f"{split} pixels" for split in splits))]
    for class_id, name in enumerate(report.class_names):
        cells = (_format_share(report.histogram[split], class_id) for split in splits)
        rows.append((f"{class_id} {name}", *cells))
    rows.append(("ignored", *(f"{report.ignored[split]:,}" + " " * 9 for split in splits)))
    first = max(len(row[0]) for row in rows)
    return ["  ".join([row[0].ljust(first), *(cell.rjust(24) for cell in row[1:])]) for row in rows] if splits else []


def _format_share(histogram: Int64Array, class_id: int) -> str:
    count, total = int(histogram[class_id]), int(histogram.sum())
    return f"{count:,} {100 * count / total if total else 0:6.2f} %"


def _format_findings(title: str, findings: Sequence[Finding]) -> list[str]:
    return ["", f"{title}: {len(findings)}", *(f"  - {finding}" for finding in findings)] if findings else []


def _format_verdict(report: CheckReport) -> str:
    if report.errors:
        return "the data cannot be used until the errors are corrected"
    few = [warning.text for warning in report.warnings if warning.kind == FEW_CLASSES]
    return f"the data can be used, but {few[0]}" if few else "the data can be used"


def format_report(report: CheckReport) -> str:
    """Return the report as text for people: sizes, class histogram, warnings, errors, and the verdict last."""
    lines = [
        _format_sizes(report, "train", report.num_train),
        _format_sizes(report, "validation", report.num_validation),
        "",
        *_format_histogram(report),
        *_format_findings("warnings", report.warnings),
        *_format_findings("errors", report.errors),
        "",
    ]
    if report.is_suggested and any(counts.any() for counts in report.histogram.values()):
        lines.append(f"num_classes was not given; by the labels that occur it would be {report.num_classes}")
    lines.append(_format_verdict(report))
    return "\n".join(lines)
