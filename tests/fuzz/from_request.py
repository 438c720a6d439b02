"""What a client sends: a body that is a picture, or none; and what it gets, read back as a client reads it."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import Any

from .target import Check, Target, check, check_error

_INSIDE = re.compile(r"0x[0-9a-f]{6}|Traceback|site-packages|/usr/|/home/|/root/|\.py\b|object at|[Pp]illow|libjpeg")


def _build_request() -> Check:
    """A body of a request, as a picture and as a mask."""
    from PIL import Image

    from gluonseg.data.decode import decode_image, decode_label, find_orientation
    from gluonseg.errors import ImageError, RequestError
    from gluonseg.serve.codec import decode_request

    Image.init()
    limit = 1 << 20

    def check_reply(error: BaseException) -> None:
        check_error(error)
        text = str(error)
        check(text.isprintable() and len(text) < 300, "a reply is one short line")
        check(not _INSIDE.search(text), f"a reply tells nothing of the inside: {text}")

    def run(data: bytes) -> None:
        try:
            image = decode_request(data, limit)
            check(image.ndim == 3 and image.shape[2] == 3 and image.dtype == "uint8", "a picture is RGB, uint8")
            check(0 < image.shape[0] * image.shape[1] <= limit, "a picture is no larger than the limit")
        except (RequestError, ImageError) as error:
            check_reply(error)
        for decode in (decode_image, decode_label):
            try:
                decode(data, "the file", max_pixels=limit)
            except ImageError as error:
                check_reply(error)
        check(1 <= find_orientation(data) <= 8, "an orientation is 1 to 8")

    return run


def _seed_request() -> Iterable[bytes]:
    import numpy as np
    from PIL import Image

    from hostile_picture import OTHER_FORMATS, build_bombs, build_floods, build_scan_flood, build_tiff
    from picture import draw_noise, encode_picture

    noise = draw_noise(9, 13)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield encode_picture(noise, "JPEG", exif=exif, comment=b"c", icc_profile=bytes(300))
    yield encode_picture(noise, "JPEG", progressive=True, subsampling=0)
    yield encode_picture(Image.fromarray(noise).convert("CMYK"), "JPEG")
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"):
        grey = np.asarray(Image.fromarray(noise).convert("L")).astype(np.uint16) * 200
        yield encode_picture(Image.fromarray(grey) if mode == "I;16" else Image.fromarray(noise).convert(mode))
    for file_format in ("GIF", "BMP", "TIFF", "WEBP"):
        yield encode_picture(noise, file_format)
    yield encode_picture(noise, "TIFF", compression="tiff_lzw")
    yield build_scan_flood(16, 30)
    yield build_tiff(8, 32)
    yield from OTHER_FORMATS.values()
    yield from build_floods(600).values()
    yield from (bomb for bomb in build_bombs().values() if len(bomb) < 5000)


def _build_recordio() -> Check:
    """An answer as RecordIO, read back by the protobuf library; what is read back is what was written."""
    import numpy as np

    from gluonseg.serve.recordio import FRAMING, encode_probabilities
    from notebook_client import parse_probabilities, read_record

    def run(data: bytes) -> None:
        if len(data) < 5:
            return
        classes, height, width = (1 + byte % 16 for byte in data[:3])
        limit = FRAMING + 4 + int.from_bytes(data[3:5], "little")
        values = np.resize(np.frombuffer(data[5:] or b"\0", np.uint8), 4 * classes * height * width)
        probabilities = values.view("<f4").reshape(classes, height, width)
        found = parse_probabilities(read_record(encode_probabilities(probabilities, limit)))
        check(found.shape == probabilities.shape, "the shape comes back")
        check(found.astype("<f4").tobytes() == _quieten(probabilities), "every bit of every value comes back")

    def _quieten(values: Any) -> bytes:
        """Reading through Python's floats makes a signalling NaN a quiet one."""
        with np.errstate(invalid="ignore"):
            quiet: bytes = (values.astype("f8").astype("<f4") if np.isnan(values).any() else values).tobytes()
        return quiet

    return run


def _seed_recordio() -> Iterable[bytes]:
    yield from (bytes(5), b"\1\2\3\0\0" + struct.pack("<6f", *range(6)), b"\x0f\x0f\x0f\xff\xff" + bytes(range(256)))
    # The number that divides records, among the values.
    yield b"\3\3\3\1\0" + b"\x0a\x23\xd7\xce" * 9


REQUEST = Target(_build_request, _seed_request, ("gluonseg", "PIL"))
RECORDIO = Target(_build_recordio, _seed_recordio, ("gluonseg", "notebook_client"), 1 << 10)
