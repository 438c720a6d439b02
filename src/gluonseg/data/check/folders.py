"""The label doctor's look at folders and names: what is missing, left over, or in the wrong place."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gluonseg.data.channel import OPTIONAL_CHANNELS
from gluonseg.data.check.findings import Finding, build_finding
from gluonseg.data.pairs import Matching, match_pairs
from gluonseg.text import find_nearest


def _describe_missing(channel: str, channels: Mapping[str, Path], needed: Sequence[str]) -> Finding:
    unknown = sorted(set(channels) - set(needed) - set(OPTIONAL_CHANNELS))
    nearest = find_nearest(channel, unknown)
    where = f" ({channels[channel]} is not a folder)" if channel in channels else ""
    fix = f"Is the channel {nearest} meant? Name it {channel}" if nearest else f"Needed are {', '.join(needed)}"
    return Finding("missing_channel", f"the channel {channel} is missing{where}", fix=fix)


def _describe_empty(channel: str, skipped: Iterable[Path]) -> Finding:
    jpegs = [path for path in skipped if path.suffix.lower() in (".jpg", ".jpeg")]
    is_annotation = channel.endswith("_annotation")
    fix = "Check the channel's S3 URI or folder"
    if is_annotation and jpegs:
        fix = "Masks must be PNG files (JPEG changes labels)"
    what = "masks" if is_annotation else "images"
    return Finding("empty_channel", f"the channel {channel} holds no {what}", fix=fix)


def _fold(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip()


def _hint_names(images: Iterable[str], masks: Iterable[str]) -> str:
    """Names are matched exactly; say so when only case, spaces or the Unicode form differ."""
    by_fold = {_fold(name): name for name in masks}
    for image in images:
        mask = by_fold.get(_fold(image))
        if mask is not None:
            return f"Names must be equal, {image!r} and {mask!r} are not (upper case, spaces or Unicode form differ)"
    return "Every image x.jpg needs its mask x.png, and the other way round"


def _check_matching(split: str, matching: Matching) -> list[Finding]:
    without_mask, without_image = matching.images_without_mask, matching.masks_without_image
    hint = _hint_names(without_mask, without_image)
    candidates = (
        build_finding(
            "link_out",
            "{n} entries are symbolic links that lead out of their channel, and are not followed",
            (f"{path.parent.name}/{path.name}" for path in matching.links),
            "Put the files themselves there; the channel's folder as a whole may be a link",
        ),
        build_finding(
            "ambiguous",
            f"{{n}} names stand for two files in {split} or {split}_annotation",
            matching.ambiguous,
            "Keep one file of each name (a.jpg and a.png, or a.jpg and a.JPG, are the same name)",
        ),
        build_finding(
            "image_without_mask", f"{{n}} images of {split} have no mask in {split}_annotation", without_mask, hint
        ),
        build_finding(
            "mask_without_image", f"{{n}} masks of {split}_annotation have no image in {split}", without_image, hint
        ),
    )
    return [finding for finding in candidates if finding is not None]


def _match(split: str, channels: Mapping[str, Path]) -> tuple[Matching, list[Finding]]:
    images, labels = split, f"{split}_annotation"
    try:
        matching = match_pairs(channels[images], channels[labels])
    except OSError as error:
        return Matching(()), [Finding("unreadable_channel", f"the channel {split} cannot be listed: {error}")]
    if matching.pairs or matching.ambiguous or matching.links:
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
    folders = [path for path in paths if path.is_dir()]
    nested = [path for path in folders if path.name == f"{path.parent.name}_annotation"]
    candidates = (
        build_finding(
            "nested_channel",
            "a channel holds the next channel's folder",
            [f"{path.parent.name}/{path.name}" for path in nested],
            "Its files are not read. This comes from an S3 address without a slash at its end; it does no harm",
        ),
        build_finding(
            "skipped",
            "{n} entries are not images and are skipped",
            [f"{path.parent.name}/{path.name}" for path in paths if path not in nested],
            "Folders inside a channel are not entered" if len(folders) > len(nested) else "",
        ),
    )
    return [finding for finding in candidates if finding is not None]
