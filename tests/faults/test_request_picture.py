"""Pictures in requests that are damaged, unusual, too large or of other kinds; and bodies that only name a picture."""

from __future__ import annotations

import base64
import io
import struct

import numpy as np
import pytest
from PIL import Image

from gluonseg.data.decode import DEFAULT_MAX_PIXELS
from gluonseg.errors import ImageError
from gluonseg.serve.codec import decode_request
from hostile_picture import OTHER_FORMATS, build_png
from picture import draw_noise, encode_picture

PHOTO = np.repeat(np.repeat(draw_noise(12, 15), 8, axis=0), 8, axis=1)
NOISE = Image.fromarray(draw_noise(20, 30))
JPEG = encode_picture(PHOTO, "JPEG", quality=90)
PNG = encode_picture(NOISE)
SIZE = struct.pack(">HH", 96, 120)
COMMENT = struct.pack(">BBH", 0xFF, 0xFE, 65_002) + bytes(65_000)
CIRCLE = b"\xff\xe1\0\x16Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0"


def find_status(body: bytes) -> int:
    """The status a body is answered with; a picture that is taken has the pixels that Pillow, used plainly, finds."""
    try:
        found = decode_request(body, DEFAULT_MAX_PIXELS)
    except ImageError as error:
        return error.status
    np.testing.assert_array_equal(found, np.array(Image.open(io.BytesIO(body)).convert("RGB")))
    return 200


JPEGS = {
    "restart markers": (encode_picture(PHOTO, "JPEG", restart_marker_blocks=1), 200),
    "4:2:0": (encode_picture(PHOTO, "JPEG", subsampling=2), 200),
    "profile of 255 segments": (encode_picture(PHOTO, "JPEG", icc_profile=bytes(255 * 65_000)), 200),
    "15 comments": (JPEG[:2] + 15 * COMMENT + JPEG[2:], 200),
    "EXIF in a circle": (JPEG[:2] + CIRCLE + JPEG[2:], 200),
    "two pictures": (JPEG + JPEG, 200),
    "zip behind it": (JPEG + OTHER_FORMATS["zip"], 200),
    "cut": (JPEG[:-20], 400),
    "12 bits": (JPEG.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c", 1), 400),
    "lossless": (JPEG.replace(b"\xff\xc0", b"\xff\xc3", 1), 400),
    "no tables": (JPEG.replace(b"\xff\xdb", b"\xff\xfe"), 400),
    "height 0": (JPEG.replace(SIZE, struct.pack(">HH", 0, 120), 1), 400),
    "zeros from the second half on": (JPEG[: len(JPEG) // 2].ljust(len(JPEG), b"\0"), 400),
    "65535 x 65535": (JPEG.replace(SIZE, b"\xff\xff\xff\xff", 1), 413),
}


@pytest.mark.fault(family=53, outcome="200 with the pixels it has elsewhere, 400, or 413 by the header")
@pytest.mark.parametrize(("body", "status"), JPEGS.values(), ids=JPEGS)
def test_jpegs_of_all_kinds(body: bytes, status: int) -> None:
    assert find_status(body) == status


PNGS = {
    "interlaced": (build_png(1, 1, colour=2, interlaced=True, rows=b"\0\1\2\3"), 200),
    "16 bits, RGB": (build_png(1, 1, depth=16, colour=2, rows=bytes(7)), 200),
    "1 bit": (encode_picture(NOISE.convert("1")), 200),
    "zip behind it": (PNG + OTHER_FORMATS["zip"], 200),
    "0 x 0": (build_png(0, 0), 400),
    "depth 3": (build_png(1, 1, depth=3), 400),
    "nothing after IHDR": (PNG[:33], 400),
    "7000 x 7000, cut": (build_png(7_000, 7_000, rows=bytes(100)), 400),
    "30000 x 30000": (build_png(30_000, 30_000), 413),
    "2^31 - 1 x 2^31 - 1": (build_png(2**31 - 1, 2**31 - 1), 413),
}


@pytest.mark.fault(family=54, outcome="200 with the pixels it has elsewhere, 400, or 413 by the header")
@pytest.mark.parametrize(("body", "status"), PNGS.values(), ids=PNGS)
def test_pngs_of_all_kinds(body: bytes, status: int) -> None:
    assert find_status(body) == status


OTHERS = {
    **OTHER_FORMATS,
    **{kind: encode_picture(NOISE, kind) for kind in ("GIF", "BMP", "TIFF", "WEBP")},
    "PDF that has a JPEG in it": b"%PDF-1.4\n" + JPEG,
    "JPEG after a byte": b"\0" + JPEG,
}


@pytest.mark.fault(family=55, outcome="415")
@pytest.mark.parametrize("body", OTHERS.values(), ids=OTHERS)
def test_other_formats(body: bytes) -> None:
    assert find_status(body) == 415


NAMES = {
    "address": b"http://127.0.0.1:9/picture.png",
    "S3": b"s3://bucket/picture.png",
    "path": b"/etc/passwd",
    "base64": base64.b64encode(PNG),
    "data": b"data:image/png;base64," + base64.b64encode(PNG),
}


@pytest.mark.fault(family=57, outcome="415")
@pytest.mark.parametrize("body", NAMES.values(), ids=NAMES)
def test_bodies_that_only_name_a_picture(body: bytes) -> None:
    assert find_status(body) == 415
