"""The outer structure of JPEG and PNG files, walked before a decoder takes them apart.

Decoders go through every segment, chunk and scan of a file, however many there are: files of a few megabytes can be
made to keep one busy for an hour, or to fill the memory with their empty parts. What follows the limits here is done
in about a second.
"""

from __future__ import annotations

import re

from gluonseg.errors import ImageError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
MAX_SEGMENTS = 4096
"""Segments of a JPEG before its pixels. A colour profile takes up to 255, pictures of several lenses a few dozen."""
MAX_FILLING = 1024
"""Bytes between those segments that belong to none."""
MAX_CHUNKS, BYTES_A_CHUNK = 8192, 256
"""Chunks of a PNG: so many, and one more for so many bytes of the file."""
USUAL_SCANS, MAX_SCANS, SCANNED_PIXELS = 24, 1000, 1_000_000_000
"""Scans of a progressive JPEG. Encoders write 10; each goes over all pixels once more, so large pictures get fewer."""

USUAL_TILE, TILES = 1 << 20, 4
"""A tile of a TIFF: so many pixels, or so many times those of the picture. It is allocated whole."""

_MARKER = re.compile(rb"\xff([^\x00\xff])")
_SCAN = b"\xff\xda"
_START_OF_SCAN, _END = 0xDA, 0xD9
_ALONE = (0x01, *range(0xD0, 0xD9))
"""Markers without a length: TEM, RST0 to RST7, SOI."""


def check_structure(data: bytes, name: str) -> None:
    """Raise ImageError when a JPEG or PNG file has more parts than any picture needs; others are passed over."""
    if data.startswith(JPEG_SIGNATURE):
        _check_segments(data, name)
    elif data.startswith(PNG_SIGNATURE):
        _check_chunks(data, name)


def _find_next(data: bytes, marker: re.Match[bytes]) -> int:
    """Where the segment of ``marker`` ends."""
    if marker[1][0] in _ALONE:
        return marker.end()
    return marker.end() + max(2, int.from_bytes(data[marker.end() : marker.end() + 2], "big"))


def _check_segments(data: bytes, name: str) -> None:
    at, filling = 2, 0
    for _ in range(MAX_SEGMENTS):
        marker = _MARKER.search(data, at)
        if marker is None or marker[1][0] in (_START_OF_SCAN, _END):
            return
        filling += marker.start() - at
        if filling > MAX_FILLING:
            break
        at = _find_next(data, marker)
    raise ImageError(f"{name} is damaged: it has more than {MAX_SEGMENTS} segments before its pixels, or none of them")


def _check_chunks(data: bytes, name: str) -> None:
    at, limit = len(PNG_SIGNATURE), MAX_CHUNKS + len(data) // BYTES_A_CHUNK
    for _ in range(limit):
        if at + 8 > len(data) or data[at + 4 : at + 8] == b"IEND":
            return
        at += 12 + int.from_bytes(data[at : at + 4], "big")
    raise ImageError(f"{name} is damaged: it has more than {limit} chunks")


def check_scans(data: bytes, name: str, pixels: int) -> None:
    """Raise ImageError when a JPEG of ``pixels`` has too many scans for its size."""
    limit = min(MAX_SCANS, max(USUAL_SCANS, SCANNED_PIXELS // max(1, pixels)))
    # A count of the two bytes is quick and never too low; profiles and previews can hold them, too.
    if data.count(_SCAN) > limit and _count_scans(data, limit) > limit:
        raise ImageError(f"{name} has more than {limit} scans, too many for a picture of {pixels} pixels")


def check_tile(width: int, height: int, name: str, pixels: int) -> None:
    """Raise ImageError when the tiles of a TIFF of ``pixels`` are ``width`` x ``height``, and that is too large."""
    if width * height > max(USUAL_TILE, TILES * pixels):
        raise ImageError(f"{name} is damaged: its tiles of {width}x{height} pixels are larger than the picture")


def _count_scans(data: bytes, limit: int) -> int:
    """Scans of a JPEG; at most one more than ``limit``."""
    at, scans = 2, 0
    while scans <= limit:
        marker = _MARKER.search(data, at)
        if marker is None or marker[1][0] == _END:
            break
        scans += marker[1][0] == _START_OF_SCAN
        at = _find_next(data, marker)
    return scans
