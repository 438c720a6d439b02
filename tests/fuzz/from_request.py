"""What a client sends: a body that is a picture, or none."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .target import Check, Target, check, check_error

_INSIDE = re.compile(r"0x[0-9a-f]{6}|Traceback|site-packages|/usr/|/home/|/root/|\.py\b|object at|[Pp]illow|libjpeg")


def _check_reply(error: BaseException) -> None:
    check_error(error)
    text = str(error)
    check(text.isprintable() and len(text) < 300, "a reply is one short line")
    check(not _INSIDE.search(text), f"a reply tells nothing of the inside: {text}")


def _build_request() -> Check:
    """A body of a request, as a picture and as a mask."""
    from PIL import Image

    from gluonseg.data.decode import decode_image, decode_label, find_orientation
    from gluonseg.errors import ImageError, RequestError
    from gluonseg.serve.codec import decode_request

    Image.init()
    limit = 1 << 20

    def run(data: bytes) -> None:
        try:
            image = decode_request(data, limit)
            check(image.ndim == 3 and image.shape[2] == 3 and image.dtype == "uint8", "a picture is RGB, uint8")
            check(0 < image.shape[0] * image.shape[1] <= limit, "a picture is no larger than the limit")
        except (RequestError, ImageError) as error:
            _check_reply(error)
        for decode in (decode_image, decode_label):
            try:
                decode(data, "the file", max_pixels=limit)
            except ImageError as error:
                _check_reply(error)
        check(1 <= find_orientation(data) <= 8, "an orientation is 1 to 8")

    return run


def _seed_request() -> Iterable[bytes]:
    import numpy as np
    from PIL import Image

    from hostile_picture import OTHER_FORMATS, build_png
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
    yield build_png(2, 1, depth=16, colour=2, rows=bytes(13))
    yield build_png(30_000, 30_000)
    yield from OTHER_FORMATS.values()


REQUEST = Target(_build_request, _seed_request, ("gluonseg", "PIL"))
