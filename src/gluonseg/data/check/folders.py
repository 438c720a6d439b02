"""The label doctor's look at folders and names: what is missing, left over, or in the wrong place."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gluonseg.data.channel import NEEDED_CHANNELS, OPTIONAL_CHANNELS
from gluonseg.data.check.findings import Finding, build_findings
from gluonseg.data.check.names import find_affixes
from gluonseg.data.decode import LABEL_FORMATS, ask
from gluonseg.data.pairs import IMAGE_EXTENSIONS, LABEL_EXTENSIONS, Matching, list_folder, list_images, match_pairs
from gluonseg.text import find_nearest, join_names

_ARCHIVES = (".tar", ".gz", ".tgz", ".zip", ".7z", ".rar", ".bz2", ".xz")
_IDENTIFIED = 5
"""Files of a channel without images whose content is looked at."""
_HEADER_BYTES = 1 << 24


def _describe_missing(channel: str, channels: Mapping[str, Path], needed: Sequence[str]) -> Finding:
    nearest = find_nearest(channel, _list_unknown(channels))
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


def _list_unknown(channels: Iterable[str]) -> list[str]:
    return sorted(name for name in set(channels) - {*NEEDED_CHANNELS, *OPTIONAL_CHANNELS} if name[0] != ".")


def find_unknown(channels: Mapping[str, Path]) -> list[Finding]:
    """Warn of folders beside the channels, which may be channels whose name is misspelt."""
    unknown = _list_unknown(channels)
    free = [name for name in (*NEEDED_CHANNELS, *OPTIONAL_CHANNELS) if name not in channels]
    meant = [f"name {name} {nearest}" for name in unknown if (nearest := find_nearest(name, free))]
    fix = f"If it is meant as one, {' and '.join(meant)}" if meant else ""
    return build_findings("unknown_channel", "{n} folders are no channels and are not read", unknown, fix)


# A channel without a single image or mask.


def _describe_empty(channel: str, folder: Path, skipped: Iterable[Path]) -> Finding:
    is_masks = channel.endswith("_annotation")
    what = "masks" if is_masks else "images"
    mine = [path for path in skipped if path.parent == folder]
    files = [path for path in mine if path.is_file()]
    full = {deep: count for path in mine if path.is_dir() for deep, count in _find_full(path, is_masks).items()}
    held = [*_list_kinds(files), *(f"{count} in the folder {deep.relative_to(folder)}" for deep, count in full.items())]
    text = f"the channel {channel} holds no {what}" + (f", but {join_names(held)}" if held else "")
    if full:
        (deep, *others) = full
        given = "Move" if others else f"Give {channel}/{deep.relative_to(folder)} as the channel {channel}, or move"
        fix = f"Folders inside a channel are not entered. {given} the files up into {channel}"
    else:
        fix = _fix_files(channel, is_masks, files)
    return Finding("empty_channel", text, fix=fix)


def _list_kinds(files: Iterable[Path]) -> list[str]:
    """``4 files named .jfif (a.jfif)``: each extension once."""
    kinds = Counter(path.suffix.lower() for path in files)
    names = {path.suffix.lower(): path.name for path in files}
    return [f"{count} files named {kind or 'without a dot'} ({names[kind]})" for kind, count in kinds.items()]


def _find_full(folder: Path, is_masks: bool = False) -> dict[Path, int]:
    """The folder and those in it that hold images (or masks), and how many each."""
    deeper = sorted(Path(deep) for deep, _, _ in os.walk(folder))
    counts = {
        deep: len((list_folder(deep, LABEL_EXTENSIONS) if is_masks else list_images(deep)).wanted) for deep in deeper
    }
    return {deep: count for deep, count in counts.items() if count}


def _fix_files(channel: str, is_masks: bool, files: Sequence[Path]) -> str:
    """What to do with files of which none is named as an image (or mask)."""
    extensions = ", ".join(LABEL_EXTENSIONS if is_masks else IMAGE_EXTENSIONS)
    kinds = {path.suffix.lower() for path in files}
    if kinds & set(_ARCHIVES):
        return f"Archives are not opened: unpack them, so that the files themselves lie in {channel}"
    if is_masks and kinds & {".json", ".xml"}:
        return "gluonseg prepare makes masks of what drawing tools write: coco, cvat, labelme, ground-truth"
    formats = {found for path in files[:_IDENTIFIED] if (found := _identify(path))}
    if is_masks and formats - set(LABEL_FORMATS):
        return "Masks must be PNG files (JPEG changes labels)"
    if formats:
        return f"By their content they are {join_names(sorted(formats))}: let their names end in one of {extensions}"
    return f"Read are files whose names end in {extensions}" if files else "Check its S3 URI or folder"


def _identify(path: Path) -> str | None:
    """The format of a picture file by its content."""
    try:
        with path.open("rb") as file:
            return ask(file.read(_HEADER_BYTES), lambda picture: picture.format, None)
    except OSError:
        return None


# Names without a partner.


def _find_alike(images: Iterable[str], masks: Iterable[str]) -> str:
    """Names are matched exactly; say so when only case, spaces or the Unicode form differ, else ""."""

    def fold(name: str) -> str:
        return unicodedata.normalize("NFC", name).casefold().strip()

    by_fold = {fold(name): name for name in masks}
    for image in images:
        mask = by_fold.get(fold(image))
        if mask is not None:
            return f"Names must be equal, {image!r} and {mask!r} are not (upper case, spaces or Unicode form differ)"
    return ""


def suggest_names(images: Sequence[str], masks: Sequence[str]) -> tuple[str, int]:
    """How to name ``images`` and ``masks`` so that they match, and how many then do; 0 when unknown."""
    alike = _find_alike(images, masks)
    match = None if alike else find_affixes(images, masks)
    if match is None:
        return alike or "Every image x.jpg needs its mask x.png, and the other way round", 0
    image, mask = match.example
    text = f"Take {match.describe()}, and {match.total} of {len(images)} images have their mask"
    return f"{text} ({mask!r} is that of {image!r})", match.total


def _check_names(split: str, images: Sequence[str], masks: Sequence[str]) -> list[Finding]:
    """Images and masks without a partner."""
    fix, total = suggest_names(images, masks)
    if total:
        fix += "; gluonseg prepare folders DATA OUT --masks DATA does it"
        masks = () if total == len(masks) else masks  # then all is said of the images
    folder = f"{split}_annotation"
    return [
        *build_findings("image_without_mask", f"{{n}} images of {split} have no mask in {folder}", images, fix),
        *build_findings("mask_without_image", f"{{n}} masks of {folder} have no image in {split}", masks, fix),
    ]


def _check_matching(split: str, matching: Matching) -> list[Finding]:
    text = f"{{n}} names stand for two files in {split} or {split}_annotation"
    fix = "Keep one file of each name (a.jpg and a.png, or a.jpg and a.JPG, are the same name)"
    return [
        *build_findings("ambiguous", text, matching.ambiguous, fix),
        *_check_names(split, matching.images_without_mask, matching.masks_without_image),
    ]


def _match(split: str, channels: Mapping[str, Path]) -> tuple[Matching, list[Finding]]:
    images, labels = split, f"{split}_annotation"
    try:
        matching = match_pairs(channels[images], channels[labels])
    except OSError as error:
        text = f"the channel {split} cannot be listed: {error}"
        fix = f"Let uid {os.geteuid()} read it" if isinstance(error, PermissionError) else ""
        return Matching(()), [Finding("unreadable_channel", text, fix=fix)]
    if matching.pairs or matching.ambiguous:
        return matching, _check_matching(split, matching)
    empty = [
        _describe_empty(channel, channels[channel], matching.skipped)
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
            [f"{path.parent.name}/{path.name} holds {sum(_find_full(path).values())} pictures" for path in folders],
            "Move files that are meant up into the channel",
        ),
    ]
