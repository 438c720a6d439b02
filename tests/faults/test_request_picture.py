"""Pictures in requests that are unusual, too large or of other kinds; what is cut or empty is in test_codec."""

from __future__ import annotations

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

NOISE = Image.fromarray(draw_noise(20, 30))
JPEG, PNG = encode_picture(NOISE, "JPEG"), encode_picture(NOISE)
SIZE = struct.pack(">HH", 20, 30)
CIRCLE = b"\xff\xe1\0\x16Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0"


def find_status(body: bytes) -> int:
    """The status a body is answered with; a picture that is taken has the pixels that Pillow, used plainly, finds."""
    try:
        found = decode_request(body, DEFAULT_MAX_PIXELS)
    except ImageError as error:
        return error.status
    np.testing.assert_array_equal(found, np.array(Image.open(io.BytesIO(body)).convert("RGB")))
    return 200


PICTURES = {
    "JPEG with restart markers": (encode_picture(NOISE, "JPEG", restart_marker_blocks=1), 200),
    "JPEG with EXIF in a circle": (JPEG[:2] + CIRCLE + JPEG[2:], 200),
    "JPEG with a zip behind it": (JPEG + OTHER_FORMATS["zip"], 200),
    "JPEG of 12 bits": (JPEG.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c", 1), 400),
    "JPEG of height 0": (JPEG.replace(SIZE, struct.pack(">HH", 0, 30), 1), 400),
    "JPEG of 65535 x 65535": (JPEG.replace(SIZE, b"\xff\xff\xff\xff", 1), 413),
    "PNG, interlaced": (build_png(1, 1, colour=2, interlaced=True, rows=b"\0\1\2\3"), 200),
    "PNG of 1 bit": (encode_picture(NOISE.convert("1")), 200),
    "PNG of 0 x 0": (build_png(0, 0), 400),
    "PNG without pixels": (PNG[:33], 400),
    "PNG of 2^31 - 1 x 2^31 - 1": (build_png(2**31 - 1, 2**31 - 1), 413),
    "JPEG after a byte": (b"\0" + JPEG, 415),
    "GIF": (encode_picture(NOISE, "GIF"), 415),
    "an address": (b"http://127.0.0.1:9/picture.png", 415),
    **{name: (content, 415) for name, content in OTHER_FORMATS.items()},
}


@pytest.mark.parametrize(("body", "status"), PICTURES.values(), ids=PICTURES)
def test_status(body: bytes, status: int) -> None:
    assert find_status(body) == status
