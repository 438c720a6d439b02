"""The label doctor's look at folders and names: what is missing, left over, or in the wrong place."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from PIL import Image

from gluonseg.data.channel import OPTIONAL_CHANNELS
from gluonseg.data.check.findings import Finding, build_findings
from gluonseg.data.check.names import find_affixes
from gluonseg.data.pairs import IMAGE_EXTENSIONS, LABEL_EXTENSIONS, Matching, match_pairs
from gluonseg.text import find_nearest, join_names

_ARCHIVES = (".tar", ".gz", ".tgz", ".zip", ".7z", ".rar", ".bz2", ".xz")
_IDENTIFIED = 5
"""Files of a channel without images whose content is looked at."""


def _describe_missing(channel: str, channels: Mapping[str, Path], needed: Sequence[str]) -> Finding:
    unknown = sorted(set(channels) - set(needed) - set(OPTIONAL_CHANNELS))
    nearest = find_nearest(channel, unknown)
    where = f" ({channels[channel]} is not a folder)" if channel in channels else ""
    deeper = [path for path in channels.values() if (path / channel).is_dir()]
    if nearest:
        fix = f"Is the channel {nearest} meant? Name it {channel}"
    elif deeper and not where:
        fix = f"There is one in {deeper[0]}: give the folder that holds it"
    else:
        found = f"; found are {join_names(channels)}" if channels else ""
        fix = f"Needed are {', '.join(needed)}{found}"
    return Finding("missing_channel", f"the channel {channel} is missing{where}", fix=fix)


# A channel without a single image or mask.


def _describe_empty(channel: str, skipped: Sequence[Path]) -> Finding:
    is_masks = channel.endswith("_annotation")
    what, extensions = ("masks", LABEL_EXTENSIONS) if is_masks else ("images", IMAGE_EXTENSIONS)
    files = [path for path in skipped if path.is_file()]
    folders = [path for path in skipped if path.is_dir()]
    held = [*_list_kinds(files), *(_describe_folder(path, extensions) for path in folders)]
    text = f"the channel {channel} holds no {what}" + (f", but {join_names(held)}" if held else "")
    return Finding("empty_channel", text, fix=_fix_empty(channel, is_masks, files, folders))


def _list_kinds(files: Iterable[Path]) -> list[str]:
    """``4 files named .jfif (a.jfif)``: each extension once."""
    kinds = Counter(path.suffix.lower() for path in files)
    names = {path.suffix.lower(): path.name for path in files}
    return [f"{count} files named {kind or 'without a dot'} ({names[kind]})" for kind, count in kinds.items()]


def _describe_folder(folder: Path, extensions: Sequence[str]) -> str:
    return f"the folder {folder.name} with {_count_inside(folder, extensions)} such files"


def _count_inside(folder: Path, extensions: Sequence[str]) -> int:
    """Files with one of ``extensions`` in the folder and its folders."""
    return sum(Path(name).suffix.lower() in extensions for _, _, names in os.walk(folder) for name in names)


def _fix_empty(channel: str, is_masks: bool, files: Sequence[Path], folders: Sequence[Path]) -> str:
    extensions = LABEL_EXTENSIONS if is_masks else IMAGE_EXTENSIONS
    kinds = {path.suffix.lower() for path in files}
    full = [path for path in folders if _count_inside(path, extensions)]
    if full:
        given = f"Give {channel}/{full[0].name} as the channel {channel}, or move" if len(full) == 1 else "Move"
        return f"Folders inside a channel are not entered. {given} the files up into {channel}"
    if kinds & set(_ARCHIVES):
        return f"Archives are not opened: unpack them, so that the files themselves lie in {channel}"
    if is_masks and kinds & {".jpg", ".jpeg", ".webp"}:
        return "Masks must be PNG files (JPEG changes labels)"
    formats = sorted({found for path in files[:_IDENTIFIED] if (found := _identify(path))})
    if formats:
        return f"By their content they are {join_names(formats)}: let their names end in one of {', '.join(extensions)}"
    if files:
        return f"Read are files whose names end in {', '.join(extensions)}"
    return "Check its S3 URI or folder"


def _identify(path: Path) -> str | None:
    """The format of a picture file by its content."""
    try:
        with Image.open(path) as picture:
            return picture.format
    except Exception:  # as in decode
        return None


# Names without a partner.


def _hint_names(images: Sequence[str], masks: Sequence[str]) -> str:
    """Names are matched exactly; say so when only case, spaces, the Unicode form, a beginning or an end differ."""

    def fold(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold().strip()

    by_fold = {fold(name): name for name in masks}
    for image in images:
        mask = by_fold.get(fold(image))
        if mask is not None:
            return f"Names must be equal, {image!r} and {mask!r} are not (upper case, spaces or Unicode form differ)"
    match = find_affixes(images, masks) if images and masks else None
    if match is None:
        return "Every image x.jpg needs its mask x.png, and the other way round"
    parts = [match.images.describe("images"), match.masks.describe("masks")]
    image, mask = match.example
    return (
        f"Take {' and '.join(part for part in parts if part)}, and {match.total} of {len(images)} images have their "
        f"mask ({mask!r} is that of {image!r})"
    )


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
        text = f"the channel {split} cannot be listed: {error}"
        return Matching(()), [Finding("unreadable_channel", text, fix=f"Let uid {os.geteuid()} read it")]
    if matching.pairs or matching.ambiguous:
        return matching, _check_matching(split, matching)
    empty = [
        _describe_empty(channel, [path for path in matching.skipped if path.parent == channels[channel]])
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
    folders = [path for path in paths if path not in nested and path.is_dir()]
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
            [f"{path.parent.name}/{path.name}" for path in paths if path not in nested and path not in folders],
        ),
        *build_findings(
            "skipped_folder",
            "{n} folders inside a channel are not entered",
            [
                f"{path.parent.name}/{path.name} holds {_count_inside(path, IMAGE_EXTENSIONS)} pictures"
                for path in folders
            ],
            "Move files that are meant up into the channel",
        ),
    ]
