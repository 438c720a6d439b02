"""The label doctor's look at files: what cannot be read, does not fit, or is dropped. Pure, on noted facts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from gluonseg.data.check.examined import Examined
from gluonseg.data.check.findings import Finding, build_findings
from gluonseg.data.check.scan import WHOLE_RANGE, PairFacts
from gluonseg.data.decode import LARGEST_MAX_PIXELS, PhotoRange, suggest_photo_range

CONVERT = "gluonseg prepare folders DATA OUT --masks DATA --by colour"
"""The command that turns colours into labels; DATA holds the channels."""
_SWAPPING_ORIENTATIONS = (5, 6, 7, 8)
_MOST = 0.5
"""Share of pixels outside photo_range, from which on it is told."""


def find_file_errors(examined: Examined) -> list[Finding]:
    """Files that stop a training, the most important first."""
    files = [file for item in examined.facts for file in item.files]
    problems = [file.problem for file in files if file.problem and not (file.too_large or file.is_colour)]
    too_large = [file for file in files if file.too_large]
    needed = max((file.too_large for file in too_large), default=0)
    raised = f"Set max_pixels to {needed}, or make" if needed <= LARGEST_MAX_PIXELS else "Make"
    return [
        *build_findings("unreadable", "{n} files cannot be used", problems),
        *build_findings(
            "colour",
            "{n} masks are in colour, and labels are needed",
            [file.name for file in files if file.is_colour and not file.too_large],
            f"{CONVERT} converts them; a program that makes palettes numbers the colours anew in each file",
        ),
        *build_findings(
            "too_large",
            f"{{n}} pictures have more than max_pixels={examined.max_pixels} pixels",
            [f"{file.name} has {file.too_large}" for file in too_large],
            f"{raised} both smaller, the mask by the nearest pixel",
        ),
        *build_findings(
            "size_mismatch",
            "{n} masks differ in size from their image",
            _iter_mismatches(examined),
            "Make each mask again at the size of its image, or resize it by the nearest pixel",
        ),
        *_find_flat(examined),
    ]


def find_file_warnings(examined: Examined) -> list[Finding]:
    """What a training drops of the files, or does with them, that a person may not expect."""
    files = [file for item in examined.facts for file in item.files]
    return [
        *_find_dark(examined),
        *build_findings(
            "pages",
            "{n} files hold several pictures, and only the first of each is read",
            [f"{file.name} has {file.pages}" for file in files if file.pages > 1],
            "Save each picture that is meant as a file of its own, with a mask of its own",
        ),
        *build_findings(
            "transparent",
            "{n} files have transparent pixels",
            [file.name for file in files if file.is_transparent],
            "Transparency is dropped: the colours and labels below it count. Where a mask means pixels that are not "
            "scored, write 255 there",
        ),
        *build_findings(
            "orientation",
            "{n} images have an EXIF orientation",
            [item.image.name for item in examined.facts if item.orientation != 1],
            "It is not applied: masks must lie on the pixels as stored",
        ),
        *_find_duplicates(examined),
        *_find_small(examined),
    ]


def _iter_mismatches(examined: Examined) -> Iterable[str]:
    for item in examined.facts:
        if item.image.size is None or item.mask.size is None or item.image.size == item.mask.size:
            continue
        (height, width), (mask_height, mask_width) = item.image.size, item.mask.size
        line = f"{item.image.name} is {width}x{height}, {item.mask.name} is {mask_width}x{mask_height}"
        if (height, width) == (mask_width, mask_height):
            line += " (the sides are swapped)"
            if item.orientation in _SWAPPING_ORIENTATIONS:
                line += (
                    f": the image has EXIF orientation {item.orientation}, which is not applied; "
                    "save the image upright without it, or turn the mask to lie on the stored pixels"
                )
        yield line


def _find_flat(examined: Examined) -> list[Finding]:
    """Photos of 16 bits of which nothing is left to see; each is judged by itself, the range that mends it by all."""
    return _describe_deep(examined, "flat", "of one shade all over", [item for item in examined.facts if item.is_flat])


def _find_dark(examined: Examined) -> list[Finding]:
    deep = [item for item in examined.facts if item.values]
    if any(item.is_flat for item in deep):  # the error says it
        return []
    if examined.photo_range:
        clipped = [item for item in deep if item.clipped > _MOST]
        return _describe_deep(examined, "clipped", "black or white on more than half of all pixels", clipped)
    return _describe_deep(examined, "dark", "dark, or without contrast,", deep) if _suggest_range(deep) else []


def _suggest_range(items: Iterable[PairFacts]) -> PhotoRange | None:
    values = [value for item in items for value in item.values or ()]
    return suggest_photo_range(min(values), max(values)) if values else None


def _describe_deep(examined: Examined, kind: str, effect: str, items: Sequence[PairFacts]) -> list[Finding]:
    """A finding on photos of 16 bits, with the ``photo_range`` that mends it, where one fits all such photos."""
    values = [value for item in items for value in item.values or ()] or [0]
    low, high = examined.photo_range or WHOLE_RANGE
    text = f"{{n}} images have 16 bits with values from {min(values)} to {max(values)}: {effect} with {low} as black"
    first, last = _suggest_range(item for item in examined.facts if item.values) or WHOLE_RANGE
    # A level of 8 bits stands for (last - first + 1) / 256 values.
    spreads = [np.ptp(item.values) for item in examined.facts if item.values]
    is_fit = all(256 * spread > last - first for spread in spreads if spread)
    fix = f'Set photo_range to "{first}, {last}", or save' if is_fit else "No photo_range fits all images: save"
    fix += " them with 8 bits, each from its darkest to its brightest value"
    return build_findings(kind, f"{text} and {high} as white", [item.image.name for item in items], fix)


def _find_duplicates(examined: Examined) -> list[Finding]:
    train = {item.image.hash: item.image.name for item in examined.of("train") if item.image.size}
    twins = [
        f"{train[item.image.hash]} and {item.image.name}"
        for item in examined.of("validation")
        if item.image.hash in train
    ]
    fix = "The validation result will look better than it is: keep each image in one of them"
    return build_findings("duplicate", "{n} images are in train and in validation, byte for byte", twins, fix)


def _find_small(examined: Examined) -> list[Finding]:
    crop = examined.crop_size or 0
    names = [item.image.name for item in examined.of("train") if item.image.size and min(item.image.size) < crop]
    fix = "They are enlarged or padded"
    return build_findings("small", f"{{n}} training images have a side shorter than crop_size={crop}", names, fix)
