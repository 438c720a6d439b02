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
JPEG = encode_picture(NOISE, "JPEG")
SIZE = struct.pack(">HH", 20, 30)
CIRCLE = b"\xff\xe1\0\x16Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0"


PICTURES = {
    "JPEG with EXIF in a circle": (JPEG[:2] + CIRCLE + JPEG[2:], 200),
    "JPEG with a zip behind it": (JPEG + OTHER_FORMATS["zip"], 200),
    "JPEG of 65535 x 65535": (JPEG.replace(SIZE, b"\xff\xff\xff\xff", 1), 413),
    "PNG, interlaced": (build_png(1, 1, colour=2, interlaced=True, rows=b"\0\1\2\3"), 200),
    "PNG of 1 bit": (encode_picture(NOISE.convert("1")), 200),
    "PNG of 0 x 0": (build_png(0, 0), 400),
    "PNG of 2^31 - 1 x 2^31 - 1": (build_png(2**31 - 1, 2**31 - 1), 413),
    "GIF": (encode_picture(NOISE, "GIF"), 415),
    **{name: (content, 415) for name, content in OTHER_FORMATS.items()},
}


@pytest.mark.parametrize(("body", "status"), PICTURES.values(), ids=PICTURES)
def test_status(body: bytes, status: int) -> None:
    """A picture that is taken has the pixels that Pillow, used plainly, finds."""
    if status == 200:
        expected = np.array(Image.open(io.BytesIO(body)).convert("RGB"))
        np.testing.assert_array_equal(decode_request(body, DEFAULT_MAX_PIXELS), expected)
        return
    with pytest.raises(ImageError) as caught:
        decode_request(body, DEFAULT_MAX_PIXELS)
    assert caught.value.status == status
