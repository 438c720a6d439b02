"""Pictures that are damaged, bombs, of other kinds, of odd sizes; and bodies that only name a picture."""

from __future__ import annotations

import base64
import functools
import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image, ImageFile

from faults.served import PICTURE, PNG, Served
from picture import draw_noise, encode_picture
from raw_client import Reply, build_request
from stand_in import encode_mask

LIMIT_S = 1.0
PHOTO = np.repeat(np.repeat(draw_noise(12, 15), 8, axis=0), 8, axis=1)
JPEG = encode_picture(PHOTO, "JPEG", quality=90)
_MEMORY_MB = 64


def post(served: Served, body: bytes) -> Reply:
    """The answer for a body, which comes soon: on a busy machine, at least once of three times."""
    for _ in range(3):
        reply = served.ask(build_request(body))
        if reply.seconds < LIMIT_S:
            return reply
    pytest.fail(f"{reply.seconds:.1f} s")


def decode_reference(body: bytes) -> bytes | None:
    """The answer that Pillow's decoder, used plainly, leads to; None when it refuses the picture."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return encode_mask(np.array(Image.open(io.BytesIO(body)).convert("RGB")))
    except (OSError, SyntaxError, ValueError):
        return None


def check_same_or_refused(served: Served, body: bytes, *others: int) -> int:
    """200 with the mask of the pixels that another decoder finds, or 400; returns the status."""
    reply = post(served, body)
    assert reply.status in (200, 400, *others), reply.body
    if reply.status == 200:
        assert reply.body == decode_reference(body)
    else:
        assert reply.read_error()
    return reply.status


def insert(body: bytes, *segments: bytes) -> bytes:
    """A JPEG file with more segments at its beginning."""
    return body[:2] + b"".join(segments) + body[2:]


def build_segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def build_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def build_png(width: int, height: int, depth: int, colour: int, pixels: bytes, *chunks: bytes) -> bytes:
    """A PNG file by hand: its header may say anything."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = [build_chunk(b"IHDR", header), *chunks, build_chunk(b"IDAT", pixels), build_chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


@pytest.mark.fault(family=53, outcome="200 with the whole picture's mask, or 400, within a second", inputs=100)
def test_a_jpeg_cut_at_every_hundredth(served: Served) -> None:
    statuses = [check_same_or_refused(served, JPEG[: len(JPEG) * percent // 100]) for percent in range(1, 101)]
    assert statuses[-1] == 200
    assert set(statuses[:98]) == {400}
    served.check_next()


@functools.cache
def _draw_jpegs() -> dict[str, bytes]:
    wide = PHOTO.repeat(3, axis=1)
    scan = JPEG[JPEG.index(b"\xff\xda") :]
    progressive = encode_picture(PHOTO, "JPEG", progressive=True)
    last_scan = progressive[progressive.rindex(b"\xff\xda") : -2]
    return {
        "progressive": progressive,
        "many scans": progressive[:-2] + last_scan * 2000 + b"\xff\xd9",
        "restart markers": encode_picture(wide, "JPEG", restart_marker_blocks=1),
        "restart flood": JPEG[:-2] + b"\xff\xd0" * 200_000 + b"\xff\xd9",
        "scan twice": JPEG[:-2] + scan,
        "arithmetic coding": JPEG.replace(b"\xff\xc0", b"\xff\xc9", 1),
        "lossless": JPEG.replace(b"\xff\xc0", b"\xff\xc3", 1),
        "12 bits": JPEG.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c", 1),
        "grey": encode_picture(Image.fromarray(PHOTO).convert("L"), "JPEG"),
        "CMYK": encode_picture(Image.fromarray(PHOTO).convert("CMYK"), "JPEG"),
        "RGB": encode_picture(PHOTO, "JPEG", keep_rgb=True),
        "4:2:0": encode_picture(PHOTO, "JPEG", subsampling=2),
        "comment of 64 kB": insert(JPEG, build_segment(0xFE, bytes(65_000))),
        "15 comments": insert(JPEG, *[build_segment(0xFE, bytes(65_000))] * 15),
        "10,000 comments": insert(JPEG, *[build_segment(0xFE, b"x")] * 10_000),
        "profile": insert(JPEG, *[build_segment(0xE2, b"ICC_PROFILE\0\1\x0f" + bytes(60_000))] * 15),
        "EXIF of nonsense": insert(JPEG, build_segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff")),
        "EXIF in a circle": insert(JPEG, build_segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0")),
        "thumbnail that is a bomb": insert(JPEG, build_segment(0xE0, b"JFXX\0\x10" + JPEG[:20_000])),
        "no tables": JPEG.replace(b"\xff\xdb", b"\xff\xfe"),
        "size 0": JPEG.replace(struct.pack(">HH", 96, 120), struct.pack(">HH", 0, 120), 1),
        "two pictures": JPEG + JPEG,
        "junk at the end": JPEG + b"x" * 100_000,
    }


@pytest.mark.fault(family=53, outcome="200 with the same mask as elsewhere, or 400, within a second", inputs=23)
@pytest.mark.parametrize("kind", _draw_jpegs())
def test_jpegs_of_all_kinds(served: Served, kind: str) -> None:
    check_same_or_refused(served, _draw_jpegs()[kind])
    served.check_next()


@pytest.mark.fault(family=53, outcome="413 by the header, within a second")
def test_a_jpeg_whose_header_says_65535_by_65535(served: Served) -> None:
    body = JPEG.replace(struct.pack(">HH", 96, 120), b"\xff\xff\xff\xff", 1)
    assert post(served, body).status == 413
    served.check_next()


@pytest.mark.fault(family=53, outcome="200; not applied, the mask lies on the stored pixels", inputs=8)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(served: Served, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    reply = post(served, encode_picture(PHOTO, "JPEG", quality=90, exif=exif))
    assert (reply.status, reply.body) == (200, decode_reference(JPEG))


@functools.cache
def _draw_bomb() -> bytes:
    return zlib.compress(bytes(200 << 20), 1)


def _build_text(kind: bytes, front: bytes) -> bytes:
    return build_png(1, 1, 8, 2, zlib.compress(b"\0" + bytes(3)), build_chunk(kind, front + _draw_bomb()))


@functools.cache
def _draw_pngs() -> dict[str, tuple[bytes, Sequence[int]]]:
    """All but the bombs, with what they may be answered with."""
    noise = Image.fromarray(PICTURE)
    zeros = zlib.compress(bytes(30_001) * 100, 9)
    row = zlib.compress(b"\0" + bytes(3))
    frames = [noise.resize((8, 8)).rotate(number) for number in range(300)]
    palette = noise.quantize(16)
    return {
        "2^31 x 1": (build_png(2**31, 1, 8, 2, row), (400, 413)),
        "2^31 - 1 x 2^31 - 1": (build_png(2**31 - 1, 2**31 - 1, 8, 2, row), (400, 413)),
        "30000 x 30000 zeros": (build_png(30_000, 30_000, 8, 0, zeros), (413,)),
        "7000 x 7000, cut": (build_png(7_000, 7_000, 8, 2, zlib.compress(bytes(100), 9)), (400,)),
        "0 x 0": (build_png(0, 0, 8, 2, row), (400,)),
        "10,000 texts": (build_png(1, 1, 8, 2, row, *[build_chunk(b"tEXt", b"a\0b")] * 10_000), (200, 400)),
        "1 x 1": (build_png(1, 1, 8, 2, row), (200,)),
        "wrong sum of IHDR": (PNG[:29] + b"\0\0\0\0" + PNG[33:], (400,)),
        "wrong sum of IDAT": (PNG[:-20] + b"\0\0\0\0" + PNG[-16:], (400,)),
        "IDAT twice over": (build_png(1, 1, 8, 2, row + row), (200, 400)),
        "depth 3": (build_png(1, 1, 3, 2, row), (400,)),
        "16 bits, grey": (encode_picture(Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257)), (200,)),
        "16 bits, RGB": (build_png(1, 1, 16, 2, zlib.compress(b"\0" + bytes(6))), (200,)),
        "interlaced 1 x 1": (PNG_INTERLACED, (200,)),
        "palette": (encode_picture(palette), (200,)),
        "palette missing": (build_png(1, 1, 8, 3, zlib.compress(b"\0\0")), (200, 400)),
        "transparency": (encode_picture(palette, transparency=3), (200,)),
        "alpha": (encode_picture(noise.convert("RGBA")), (200,)),
        "grey with alpha": (encode_picture(noise.convert("LA")), (200,)),
        "1 bit": (encode_picture(noise.convert("1")), (200,)),
        "300 frames": (encode_picture(noise.resize((8, 8)), save_all=True, append_images=frames), (200,)),
        "junk at the end": (PNG + bytes(900_000), (200,)),
        "nothing after IHDR": (PNG[:33], (400,)),
        "no IEND": (PNG[:-12], (200, 400)),
    }


PNG_INTERLACED = (
    b"\x89PNG\r\n\x1a\n"
    + build_chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 1))
    + build_chunk(b"IDAT", zlib.compress(b"\0\1\2\3"))
    + build_chunk(b"IEND", b"")
)


@pytest.mark.fault(family=54, outcome="200, 400 or 413 within a second, less than 64 MB of memory", inputs=24)
@pytest.mark.parametrize("kind", _draw_pngs())
def test_pngs_of_all_kinds(served: Served, kind: str) -> None:
    body, statuses = _draw_pngs()[kind]
    check_cheap(served, body, statuses)


@pytest.mark.fault(family=54, outcome="200 or 400 within a second, less than 64 MB of memory", inputs=4)
@pytest.mark.parametrize(
    ("kind", "front"),
    [(b"iCCP", b"x\0\0"), (b"zTXt", b"x\0\0"), (b"iTXt", b"x\0\1\0\0\0"), (b"IDAT", b"")],
    ids=["profile", "text", "international text", "pixels"],
)
def test_pngs_that_are_bombs(served: Served, kind: bytes, front: bytes) -> None:
    check_cheap(served, _build_text(kind, front), (200, 400))


def check_cheap(served: Served, body: bytes, statuses: Sequence[int]) -> None:
    before = served.forget_peak_mb()
    reply = post(served, body)
    assert reply.status in statuses, reply.body
    assert served.read_peak_mb() - before < _MEMORY_MB
    served.check_next()


@functools.cache
def _draw_others() -> dict[str, bytes]:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("picture.png", PNG)
    written = ("GIF", "BMP", "TIFF", "WEBP", "AVIF", "JPEG2000", "PDF", "EPS", "ICO", "PPM", "TGA", "PCX", "SGI", "DDS")
    by_pillow = {kind: encode_picture(PICTURE, kind) for kind in written if kind in _list_writers()}
    return by_pillow | {
        "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 8, 8, 8, 3) + bytes(300),
        "FITS": b"SIMPLE  =                    T".ljust(2880) + bytes(2880),
        "SVG": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        "DICOM": bytes(128) + b"DICM" + bytes(300),
        "zip": zipped.getvalue(),
        "HTML": b"<!DOCTYPE html><html></html>",
        "GIF that has a PNG in it": b"GIF89a" + PNG,
        "PDF that has a JPEG in it": b"%PDF-1.4\n" + JPEG,
        "JPEG after a byte": b"\0" + JPEG,
        "script": b"#!/bin/sh\ntouch /tmp/canary\n",
    }


def _list_writers() -> set[str]:
    Image.init()
    return set(Image.SAVE)


@pytest.mark.fault(family=55, outcome="415", inputs=24)
@pytest.mark.parametrize("kind", _draw_others())
def test_other_formats(served: Served, kind: str) -> None:
    reply = post(served, _draw_others()[kind])
    assert (reply.status, "JPEG or PNG" in reply.read_error()) == (415, True)
    served.check_next()


@pytest.mark.fault(family=55, outcome="a JPEG or PNG with something else behind it is that JPEG or PNG", inputs=2)
def test_polyglots(served: Served) -> None:
    for picture in (PNG, JPEG):
        reply = post(served, picture + _draw_others()["zip"])
        assert (reply.status, reply.body) == (200, decode_reference(picture))
    served.check_next()


@pytest.mark.fault(family=57, outcome="415; nothing is fetched", inputs=9)
@pytest.mark.parametrize(
    "body",
    [
        b"http://127.0.0.1:9/picture.png",
        b"https://localhost/picture.jpg",
        b"file:///etc/passwd",
        b"s3://bucket/picture.png",
        b"/etc/passwd",
        base64.b64encode(PNG),
        b"data:image/png;base64," + base64.b64encode(PNG),
        b'{"instances": [{"b64": "' + base64.b64encode(PNG) + b'"}]}',
        b'{"url": "http://169.254.169.254/latest/meta-data/"}',
    ],
    ids=["http", "https", "file", "s3", "path", "base64", "data", "instances", "metadata"],
)
def test_bodies_that_only_name_a_picture(served: Served, body: bytes) -> None:
    assert post(served, body).status == 415
    served.check_next()
