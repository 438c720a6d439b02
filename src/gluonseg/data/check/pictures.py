"""The label doctor's look at files: what cannot be read, does not fit, or is dropped. Pure, on noted facts."""

from __future__ import annotations

from collections.abc import Iterable

from gluonseg.data.check.examined import Examined
from gluonseg.data.check.findings import Finding, build_findings
from gluonseg.data.decode import LARGEST_MAX_PIXELS

_SWAPPING_ORIENTATIONS = (5, 6, 7, 8)
_DARK = 128
"""Photos of more than 8 bits are too dark when none of their values, as read, reaches half of white."""
_BRIGHTEN = "Save them with 8 bits, the highest value as 255"


def find_file_errors(examined: Examined) -> list[Finding]:
    """Files that stop a training, the most important first."""
    files = [file for item in examined.facts for file in item.files]
    problems = [file.problem for file in files if file.problem and not file.too_large]
    too_large = [file for file in files if file.too_large]
    needed = max((file.too_large for file in too_large), default=0)
    raised = f"Set max_pixels to {needed}, or make" if needed <= LARGEST_MAX_PIXELS else "Make"
    return [
        *build_findings("unreadable", "{n} files cannot be used", problems),
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
        *_find_black(examined),
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


def _describe_deep(examined: Examined) -> tuple[list[str], int, int]:
    """Names of the images of more than 8 bits, the highest value of all as read (0 to 255), and that in the files."""
    deep = [(item.image.name, item.brightest) for item in examined.facts if item.brightest is not None]
    brightest = max((value for _, value in deep), default=_DARK)
    return [name for name, _ in deep], brightest, 256 * brightest + 255


def _find_black(examined: Examined) -> list[Finding]:
    names, brightest, highest = _describe_deep(examined)
    text = f"{{n}} images have 16 bits and no value above {highest}: the high byte is taken, so they are black"
    return build_findings("black", text, names if brightest == 0 else (), _BRIGHTEN)


def _find_dark(examined: Examined) -> list[Finding]:
    names, brightest, highest = _describe_deep(examined)
    text = f"{{n}} images have 16 bits and no value above {highest}: the high byte is taken, so they are dark"
    return build_findings("dark", text, names if 0 < brightest < _DARK else (), _BRIGHTEN)


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
