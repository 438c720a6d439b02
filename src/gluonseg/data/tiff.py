"""TIFF: which of its many layouts are read rightly, and what a file is whose layout is not.

Tags and their values: TIFF 6.0, https://www.itu.int/itudoc/itu-t/com16/tiff-fx/docs/tiff6.pdf
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from PIL.TiffImagePlugin import ImageFileDirectory_v2

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA, _FORMAT = 258, 259, 262, 277, 284, 338, 339
_COLOURS = {
    0: "grey whose 0 is white", 1: "grey", 2: "RGB", 3: "palette", 4: "mask", 5: "CMYK", 6: "YCbCr", 8: "CIELAB",
    9: "ICCLAB", 32803: "a camera's raw pattern",
}  # fmt: skip
_SUBFILE = 254
_READ = (_BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANAR, _EXTRA, _FORMAT)
_BIG = 43
"""What the third byte of a BigTIFF is."""
_GREYS, _CHANNELS = (0, 1), (2, 5)
_ALPHA = 2
_ALPHAS = (1, _ALPHA)
"""What an extra sample is that is no band of its own; 1 has been multiplied into the colours."""
_UNSIGNED, _SIGNED = 1, 2
_FORMATS = {_UNSIGNED: "", _SIGNED: "signed", 3: "floating point"}
_COMPRESSIONS = {1: "not compressed", 6: "JPEG", 7: "JPEG", 50001: "WebP"}
_LOSSY = (6, 7)

Tags = Mapping[int, Any]
"""The values by the number of the tag."""


def read_tags(data: bytes) -> Tags:
    """The tags of the first page that say how it is laid out; empty when they cannot be read."""
    try:
        directory = ImageFileDirectory_v2(data[: 16 if data[2] == _BIG else 8])
        stream = io.BytesIO(data)
        stream.seek(directory.next)
        directory.load(stream)
        return {tag: directory[tag] for tag in _READ if tag in directory}
    except Exception:  # Pillow raises errors of almost any class when a file is damaged
        return {}


def _first(tags: Tags, tag: int, default: int) -> int:
    """The whole number of a tag, the first of several; ``default`` when there is none."""
    value = tags.get(tag, default)
    if isinstance(value, tuple):
        value = next(iter(value), default)
    return value if isinstance(value, int) else default


def count_bits(tags: Tags) -> int:
    """Bits of a sample."""
    return _first(tags, _BITS, 1)


def is_in_planes(tags: Tags) -> bool:
    """Whether all values of one colour come before those of the next."""
    return _first(tags, _PLANAR, 1) == 2 and _first(tags, _SAMPLES, 1) > 1


def describe_layout(tags: Tags) -> str:
    """``3 samples of 16 bits a pixel (RGB, in planes, not compressed)``."""
    samples = _first(tags, _SAMPLES, 1)
    colours, compression = _first(tags, _PHOTOMETRIC, 0), _first(tags, _COMPRESSION, 1)
    parts = [
        _COLOURS.get(colours, f"colours of kind {colours}"),
        _FORMATS.get(_first(tags, _FORMAT, 1), "of an unknown format"),
        "in planes" if is_in_planes(tags) else "",
        _COMPRESSIONS.get(compression, ""),
    ]
    plural = "s" if samples > 1 else ""
    return f"{samples} sample{plural} of {count_bits(tags)} bits a pixel ({', '.join(part for part in parts if part)})"


def can_trust(tags: Tags) -> bool:
    """Whether Pillow gives the right pixels of a file that it opens, and all of them.

    Tried with Pillow 13.0 on the combinations of bits, samples, planes, strips or tiles, byte order and compression,
    against the values that were written. Wrong were values of more than 8 bits in planes that are not compressed, and
    those whose 0 is white; bands beside the first grey one are left out, or end it.
    """
    samples, bits, colours = _first(tags, _SAMPLES, 1), count_bits(tags), _first(tags, _PHOTOMETRIC, 0)
    is_raw = _first(tags, _COMPRESSION, 1) == 1
    are_planes_known = bits <= 8 and colours in _CHANNELS and _first(tags, _EXTRA, _ALPHA) == _ALPHA
    if is_in_planes(tags) and (samples > 4 or (is_raw and not are_planes_known)):
        return False
    has_bands = colours in _GREYS and samples > 1 + (_first(tags, _EXTRA, 0) in _ALPHAS)
    return not has_bands and not (colours == 0 and bits > 8)


def has_photo_values(tags: Tags) -> bool:
    """Whether it is known which values are black and white: they are whole, not negative, of at most 16 bits."""
    return _first(tags, _FORMAT, _UNSIGNED) == _UNSIGNED and count_bits(tags) <= 16


def has_label_values(tags: Tags) -> bool:
    """Whether the values are labels as Pillow gives them: whole, not turned around, and compressed without loss."""
    bits, kind = count_bits(tags), _first(tags, _FORMAT, _UNSIGNED)
    is_turned = _first(tags, _PHOTOMETRIC, 0) == 0 and bits > 1
    is_whole = kind == _UNSIGNED or (kind == _SIGNED and bits > 8)
    return is_whole and not is_turned and _first(tags, _COMPRESSION, 1) not in _LOSSY


def is_page(tags: Tags) -> bool:
    """Whether a picture stands for itself, and is no smaller copy of another one nor a mask of its transparency."""
    return not _first(tags, _SUBFILE, 0) & 0b101
