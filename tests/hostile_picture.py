"""Pictures that no encoder writes: floods of parts, bombs, and files of other kinds."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping

from PIL import Image

from picture import draw_noise, encode_picture

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
PNG_START = b"\x89PNG\r\n\x1a\n"


def build_chunk(kind: bytes, content: bytes = b"") -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def build_png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 0, pixels: bytes = b"") -> bytes:
    """A PNG whose header says these things, with ``chunks`` after it and ``pixels`` compressed."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = build_chunk(b"IHDR", header) + b"".join(chunks) + build_chunk(b"IDAT", zlib.compress(pixels))
    return PNG_START + body + build_chunk(b"IEND")


def build_segment(marker: int, content: bytes = b"") -> bytes:
    """A segment of a JPEG."""
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def insert_segments(jpeg: bytes, segments: bytes) -> bytes:
    """``jpeg`` with more after its start."""
    return jpeg[:2] + segments + jpeg[2:]


def build_scan_flood(side: int, scans: int) -> bytes:
    """A progressive JPEG of one colour, a square, whose last scan comes ``scans`` times."""
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (10, 200, 30)).save(buffer, "JPEG", progressive=True, quality=50)
    data = buffer.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - 1) + EOI


def build_tiff(side: int, tile: int) -> bytes:
    """A TIFF, a square in RGB, of one tile that is larger than the picture, its pixels compressed."""
    pixels = zlib.compress(bytes(3 * tile * tile))
    start = 8 + 2 + 12 * 10 + 4
    entries = {
        256: (4, 1, side),
        257: (4, 1, side),
        258: (3, 3, start),
        259: (3, 1, 8),
        262: (3, 1, 2),
        277: (3, 1, 3),
        322: (4, 1, tile),
        323: (4, 1, tile),
        324: (4, 1, start + 8),
        325: (4, 1, len(pixels)),
    }
    fields = b"".join(struct.pack("<HHII", tag, *entry) for tag, entry in entries.items())
    directory = struct.pack("<H", len(entries)) + fields + bytes(4)
    return b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<4H", 8, 8, 8, 0) + pixels


def _build_gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0," + bytes(8) + b"\0\2\0;"


def build_floods(size: int) -> Mapping[str, bytes]:
    """Valid pictures of 64 pixels in files of about ``size`` bytes, most of it parts that say nothing."""
    jpeg, png = (encode_picture(draw_noise(8, 8), kind) for kind in ("JPEG", "PNG"))
    after_header, before_end = 8 + 25, len(png) - 12
    pixels = png.index(b"IDAT") - 4
    text = build_chunk(b"tEXt", b"a\0")
    return {
        "JPEG of empty APP0": insert_segments(jpeg, build_segment(0xE0) * (size // 4)),
        "JPEG of empty comments": insert_segments(jpeg, build_segment(0xFE) * (size // 4)),
        "JPEG of empty tables": insert_segments(jpeg, build_segment(0xDB) * (size // 4)),
        "JPEG of restart markers": insert_segments(jpeg, b"\xff\xd0" * (size // 2)),
        "JPEG of filling": insert_segments(jpeg, b"\xff" * size),
        "JPEG of zeros between segments": insert_segments(jpeg, build_segment(0xE0) + bytes(size)),
        "PNG of unknown chunks": png[:after_header] + build_chunk(b"abCd") * (size // 12) + png[after_header:],
        "PNG of texts": png[:after_header] + text * (size // len(text)) + png[after_header:],
        "PNG of empty pixels": png[:pixels] + build_chunk(b"IDAT") * (size // 12) + png[pixels:],
        "PNG of chunks after the pixels": png[:before_end] + build_chunk(b"abCd") * (size // 12) + png[before_end:],
    }


def build_bombs() -> Mapping[str, bytes]:
    """Small files that unpack to much, or say that they do."""
    zeros = zlib.compress(bytes(64 << 20), 9)
    profile = build_chunk(b"iCCP", b"name\0\0" + zeros)
    return {
        "PNG of 30000 x 30000": build_png(30_000, 30_000, pixels=bytes(1 << 20)),
        "PNG of 2147483647 x 1": build_png(2**31 - 1, 1),
        "PNG of 1 x 2147483647": build_png(1, 2**31 - 1),
        "PNG of 65535 x 65535, 16 bits": build_png(65_535, 65_535, depth=16, colour=6),
        "PNG with a profile of 64 MB": build_png(4, 4, profile, pixels=bytes(20)),
        "PNG with a text of 64 MB": build_png(4, 4, build_chunk(b"zTXt", b"name\0\0" + zeros), pixels=bytes(20)),
        "PNG with pixels of 64 MB": build_png(4, 4, pixels=bytes(64 << 20)),
        "BMP of 60000 x 60000": b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 60_000, 60_000, 1, 24, *[0] * 6),
        "GIF of 65535 x 65535": _build_gif(65_535, 65_535),
        "JPEG of 65500 x 65500": _build_large_jpeg(),
    }


def _build_large_jpeg() -> bytes:
    jpeg = bytearray(encode_picture(draw_noise(8, 8), "JPEG"))
    frame = jpeg.index(b"\xff\xc0") + 5
    jpeg[frame : frame + 4] = struct.pack(">HH", 65_500, 65_500)
    return bytes(jpeg)


OTHER_FORMATS: Mapping[str, bytes] = {
    "PDF": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n",
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 9, 9, 8, 3) + bytes(400),
    "FITS": b"".join(line.ljust(80) for line in (b"SIMPLE  =    T", b"BITPIX  =    8", b"NAXIS   =    0", b"END")),
    "ICO": b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0" + struct.pack("<II", 40, 22) + bytes(2000),
    "ICNS": b"icns" + struct.pack(">I", 16) + b"ic07" + struct.pack(">I", 8),
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(300),
    "AVIF": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf" + bytes(300),
    "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:9/"/></svg>',
    "DICOM": bytes(128) + b"DICM" + bytes(300),
    "DDS": b"DDS " + struct.pack("<I", 124) + bytes(400),
    "TGA": b"\0\0\2" + bytes(9) + struct.pack("<HHBB", 9, 9, 24, 0) + bytes(243),
    "PPM": b"P6 9 9 255\n" + bytes(243),
    "XBM": b"#define x_width 8\n#define x_height 8\nstatic char x_bits[] = {0,0,0,0,0,0,0,0};\n",
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(300),
    "FLI": bytes(4) + b"\x11\xaf\1\0\x09\0\x09\0\x08\0" + bytes(200),
    "zip": b"PK\3\4" + bytes(300),
    "gzip": b"\x1f\x8b\x08" + bytes(300),
    "NumPy": b"\x93NUMPY\1\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,), }" + bytes(60),
    "pickle": b"\x80\x04cos\nsystem\n(S'false'\ntR.",
    "HTML": b"<!doctype html><title>404</title>",
    "JSON": b'{"instances": [{"b64": "/9j/4AAQ"}]}',
    "ELF": b"\x7fELF\2\1\1" + bytes(300),
    "script": b"#!/bin/sh\nfalse\n",
    "file URL": b"file:///etc/passwd",
    "address": b"http://127.0.0.1:9/picture.jpg",
    "S3 address": b"s3://bucket/picture.jpg",
}
"""Files that other programs, and other parts of Pillow, would open."""
