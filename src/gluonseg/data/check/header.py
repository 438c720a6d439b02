"""What the header of a picture file says of the data in it that a training does not see."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from gluonseg.data import tiff
from gluonseg.data.decode import JPEG_START, ask, read_bits

_RGB_SIZE, _OPAQUE = 3, 255


class Header(NamedTuple):
    """``pages`` counts the pictures of the file.

    ``palette`` has three bytes an entry, red, green, blue, and none when the file has no palette.
    """

    pages: int = 1
    palette: bytes = b""


def read_header(data: bytes) -> Header:
    """Read the header of a picture; a JPEG, and what cannot be read, has nothing to tell.

    A JPEG with several pictures (MPO) has small or partial copies of the first, so nothing is lost with them.
    """

    def read(picture: Image.Image) -> Header:
        return Header(_count_pages(picture), _read_palette(picture))

    return Header() if data.startswith(JPEG_START) else ask(data, read, Header())


def find_jpeg_size(data: bytes, max_pixels: int) -> tuple[int, int] | None:
    """Return (height, width) of a JPEG that can be decoded; None for other files, and for those that decode refuses.

    It is decoded, but no array is made of it, which would take up to half of the time.
    """

    def load(picture: Image.Image) -> tuple[int, int] | None:
        width, height = picture.size
        if width * height > max_pixels:
            return None
        picture.load()
        return height, width

    return ask(data, load, None) if data.startswith(JPEG_START) else None


def find_pixels(data: bytes) -> int:
    """Return the pixels of a picture by its header, a JPEG's too; 0 when it cannot be read."""
    return ask(data, lambda picture: picture.size[0] * picture.size[1], 0)


def is_transparent(data: bytes) -> bool:
    """Whether any pixel of a picture is not opaque; decodes one that can have such pixels."""

    def look(picture: Image.Image) -> bool:
        return picture.has_transparency_data and any(picture.convert("RGBA").getchannel("A").histogram()[:_OPAQUE])

    return not data.startswith(JPEG_START) and ask(data, look, False, (b"tRNS",))


def is_colour(data: bytes) -> bool:
    """Whether a file is whole, and in colour with 8 bits a sample; decodes it."""

    def load(picture: Image.Image) -> bool:
        picture.load()
        return picture.mode in ("RGB", "RGBA") and read_bits(picture, data) == 8

    return ask(data, load, False)


def _count_pages(picture: Image.Image) -> int:
    """The pictures of a file; smaller copies of a TIFF's page are none."""
    count = int(getattr(picture, "n_frames", 1))
    if not isinstance(picture, TiffImageFile):
        return count
    pages = 1
    for index in range(1, count):
        picture.seek(index)
        pages += tiff.is_page(picture.tag_v2)
    return pages


def _read_palette(picture: Image.Image) -> bytes:
    if picture.mode != "P" or picture.palette is None:
        return b""
    return _convert_palette(*picture.palette.getdata())


@lru_cache(maxsize=256)  # most masks of a data set have the same one
def _convert_palette(mode: str, raw: bytes) -> bytes:
    """A palette of any form as RGB: a picture of one pixel turns it without decoding the file."""
    sample = Image.new("P", (1, 1))
    sample.putpalette(raw, mode)
    return bytes(sample.getpalette() or ())[: len(raw) // len(mode.partition(";")[0]) * _RGB_SIZE]
