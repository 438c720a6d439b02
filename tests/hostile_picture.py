"""PNGs whose header says anything, and files of kinds that are not taken."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _build_chunk(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def build_png(
    width: int, height: int, *, depth: int = 8, colour: int = 0, interlaced: bool = False, rows: bytes = b""
) -> bytes:
    """A PNG with this header; ``rows`` are its pixels before they are compressed, each row with its filter's byte."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    chunks = {b"IHDR": header, b"IDAT": zlib.compress(rows), b"IEND": b""}
    return SIGNATURE + b"".join(_build_chunk(kind, content) for kind, content in chunks.items())


def insert_chunk(png: bytes, kind: bytes, content: bytes, *, after_pixels: bool = False) -> bytes:
    """``png`` with one more chunk, right after IHDR or right before IEND."""
    place = len(png) - 12 if after_pixels else len(SIGNATURE) + 25
    return png[:place] + _build_chunk(kind, content) + png[place:]


OTHER_FORMATS: Mapping[str, bytes] = {
    "PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(300),
    "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:9/"/></svg>',
    "zip": b"PK\3\4" + bytes(300),
    "NumPy": b"\x93NUMPY\1\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }" + bytes(60),
    "JSON": b'{"instances": [{"b64": "/9j/4AAQ"}]}',
}
"""Files that other programs, and other parts of Pillow, would open."""
