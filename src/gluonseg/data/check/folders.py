"""The label doctor's look at folders and names: what is missing, left over, or in the wrong place."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gluonseg.data.channel import OPTIONAL_CHANNELS
from gluonseg.data.check.findings import Finding, build_findings
from gluonseg.data.pairs import Matching, match_pairs
from gluonseg.text import find_nearest


def _describe_missing(channel: str, channels: Mapping[str, Path], needed: Sequence[str]) -> Finding:
    unknown = sorted(set(channels) - set(needed) - set(OPTIONAL_CHANNELS))
    nearest = find_nearest(channel, unknown)
    where = f" ({channels[channel]} is not a folder)" if channel in channels else ""
    fix = f"Is the channel {nearest} meant? Name it {channel}" if nearest else f"Needed are {', '.join(needed)}"
    return Finding("missing_channel", f"the channel {channel} is missing{where}", fix=fix)


def _describe_empty(channel: str, skipped: Iterable[Path]) -> Finding:
    if not channel.endswith("_annotation"):
        return Finding("empty_channel", f"the channel {channel} holds no images", fix="Check its S3 URI or folder")
    has_jpegs = any(path.suffix.lower() in (".jpg", ".jpeg") for path in skipped)
    fix = "Masks must be PNG files (JPEG changes labels)" if has_jpegs else "Check its S3 URI or folder"
    return Finding("empty_channel", f"the channel {channel} holds no masks", fix=fix)


def _hint_names(images: Iterable[str], masks: Iterable[str]) -> str:
    """Names are matched exactly; say so when only case, spaces or the Unicode form differ."""

    def fold(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold().strip()

    by_fold = {fold(name): name for name in masks}
    for image in images:
        mask = by_fold.get(fold(image))
        if mask is not None:
            return f"Names must be equal, {image!r} and {mask!r} are not (upper case, spaces or Unicode form differ)"
    return "Every image x.jpg needs its mask x.png, and the other way round"


def _check_matching(split: str, matching: Matching) -> list[Finding]:
    without_mask, without_image = matching.images_without_mask, matching.masks_without_image
    hint = _hint_names(without_mask, without_image)
    return [
        *build_findings(
            "ambiguous",
            f"{{n}} names stand for two files in {split} or {split}_annotation",
            matching.ambiguous,
            "Keep one file of each name (a.jpg and a.png, or a.jpg and a.JPG, are the same name)",
        ),
        *build_findings(
            "image_without_mask", f"{{n}} images of {split} have no mask in {split}_annotation", without_mask, hint
        ),
        *build_findings(
            "mask_without_image", f"{{n}} masks of {split}_annotation have no image in {split}", without_image, hint
        ),
    ]


def _match(split: str, channels: Mapping[str, Path]) -> tuple[Matching, list[Finding]]:
    images, labels = split, f"{split}_annotation"
    try:
        matching = match_pairs(channels[images], channels[labels])
    except OSError as error:
        return Matching(()), [Finding("unreadable_channel", f"the channel {split} cannot be listed: {error}")]
    if matching.pairs or matching.ambiguous:
        return matching, _check_matching(split, matching)
    empty = [
        _describe_empty(channel, (path for path in matching.skipped if path.parent == channels[channel]))
        for channel, found in ((images, matching.images_without_mask), (labels, matching.masks_without_image))
        if not found
    ]
    return matching, empty or _check_matching(split, matching)


def check_folders(channels: Mapping[str, Path], splits: Sequence[str]) -> tuple[dict[str, Matching], list[Finding]]:
    """Match the images and masks of every split that is there; return (split -> matching, errors)."""
    needed = [channel for split in splits for channel in (split, f"{split}_annotation")]
    missing = [channel for channel in needed if channel not in channels or not channels[channel].is_dir()]
    errors = [_describe_missing(channel, channels, needed) for channel in missing]
    matchings = {}
    for split in splits:
        if split not in missing and f"{split}_annotation" not in missing:
            matchings[split], found = _match(split, channels)
            errors += found
    return matchings, errors


def find_skipped(matchings: Mapping[str, Matching]) -> list[Finding]:
    """Warn of entries in the channels that are neither images nor masks."""
    paths = [path for matching in matchings.values() for path in matching.skipped]
    nested = [path for path in paths if path.name == f"{path.parent.name}_annotation" and path.is_dir()]
    others = [path for path in paths if path not in nested]
    return [
        *build_findings(
            "nested_channel",
            "a channel holds the next channel's folder",
            [f"{path.parent.name}/{path.name}" for path in nested],
            "Its files are not read. This comes from an S3 address without a slash at its end; it does no harm",
        ),
        *build_findings(
            "skipped",
            "{n} entries are not images and are skipped",
            [f"{path.parent.name}/{path.name}" for path in others],
            "Folders inside a channel are not entered" if any(path.is_dir() for path in others) else "",
        ),
    ]
