"""Bytes to arrays: the one place where pictures and masks are decoded.

Training, evaluation, the command line and the server all come through here, so a picture has the same
pixels everywhere. Pictures become RGB, masks become raw labels; both keep the pixel grid as stored in
the file: **an EXIF orientation is not applied**, whatever the format, so a mask always lies on the pixels of its file.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.Image import Transpose
from PIL.TiffImagePlugin import TiffImageFile

from gluonseg.data import tiff
from gluonseg.errors import ImageError, ImageTooLargeError, UnsupportedImageError
from gluonseg.files import open_regular, read_regular
from gluonseg.labels import UInt8Array

FORMATS = ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")
"""Formats that are read, whatever the file is called; every other one is refused.

JPEG covers MPO, the JPEG with more than one picture that many cameras and phones write.
"""
REQUEST_FORMATS = ("JPEG", "PNG")
"""Formats the server takes."""
LABEL_FORMATS = ("PNG", "GIF", "BMP", "TIFF")
"""Formats of masks: lossless ones only, because JPEG changes labels."""

DEFAULT_MAX_PIXELS = 50_000_000
"""Largest picture, in pixels, that is decoded (7071 x 7071)."""
LARGEST_MAX_PIXELS = 178_956_970
"""Above this Pillow refuses a picture whatever limit it is given."""
MAX_FILE_BYTES = 1 << 30
"""Largest file that is read."""

JPEG_START = b"\xff\xd8\xff"
_SIGNATURES = {"JPEG": JPEG_START, "PNG": b"\x89PNG\r\n\x1a\n"}
_PNG_DEPTH_OFFSET = 24
"""Where a PNG file says how many bits a sample has: in IHDR, which is always the first chunk."""
_PNG_CHUNKS = (b"eXIf", b"acTL", b"fcTL", b"fdAT")
"""Chunks that are read besides those whose names begin with a capital, which every reader needs: EXIF, animations."""
_PNG_XMP = b"iTXtXML:com.adobe.xmp\0\0"
"""The name and the beginning of a chunk with XMP that is not compressed; an orientation may be in it."""
_MAX_XMP_BYTES = 1 << 20
_PNG_ORIENTATIONS = (b"eXIf", _PNG_XMP)
"""What a PNG with an orientation holds."""
_MAX_COLOURS = 256
PhotoRange = tuple[int, ...]
"""The values of photos of more than 8 bits that become black and white; empty for the first and last of their bits."""
UInt16Array = npt.NDArray[np.uint16]
_Answer = TypeVar("_Answer")

_SWAPPED = {
    f"{mode};16{order}": f"{mode};16{other}"
    for mode in ("RGB", "RGBA", "RGBX")
    for order, other in (("B", "L"), ("L", "B"), ("N", "B" if sys.byteorder == "little" else "L"))
}
"""Pillow's names of the order of bytes in a file -> that of the other order; N is this machine's."""
_UNTURNED = {
    2: Transpose.FLIP_LEFT_RIGHT, 3: Transpose.ROTATE_180, 4: Transpose.FLIP_TOP_BOTTOM, 5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_90, 7: Transpose.TRANSVERSE, 8: Transpose.ROTATE_270,
}  # fmt: skip
"""What gives the pixels as stored of a picture that was turned by its EXIF orientation."""
_PLAIN_WORDS = re.compile(r"[\w ,.;:()'-]{1,100}")
"""The form of a decoder's message that is shown: it has no room for an address or a path of this process."""


def _drop_metadata(data: bytes, also: tuple[bytes, ...]) -> bytes:
    """A PNG without the chunks that change neither its pixels nor its orientation, but for ``also``.

    Other files stay as they are.

    Texts and colour profiles are compressed. Pillow refuses a file in which one has more than a megabyte, as design
    programs write them; here nobody needs to know how long it is.
    """
    if not data.startswith(_SIGNATURES["PNG"]):
        return data
    view, start = memoryview(data), len(_SIGNATURES["PNG"])
    kept = [view[:start]]
    while start < len(data):
        length, name = int.from_bytes(view[start : start + 4], "big"), view[start + 4 : start + 8]
        end = start + 12 + length
        is_xmp = view[start + 4 : start + 4 + len(_PNG_XMP)] == _PNG_XMP and length <= _MAX_XMP_BYTES
        if name[:1].tobytes().isupper() or name in (*_PNG_CHUNKS, *also) or is_xmp:
            kept.append(view[start:end])
        start = end
    return b"".join(kept)


def open_picture(
    data: bytes, formats: tuple[str, ...] = FORMATS, chunks: tuple[bytes, ...] = ()
) -> ImageFile.ImageFile:
    """Open a file as Pillow does, with its errors, but for what a PNG says besides its pixels, and in ``chunks``."""
    # Importing gluoncv.data tells Pillow, for the whole process, to accept truncated files.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    return Image.open(io.BytesIO(_drop_metadata(data, chunks)), formats=formats)


class _Rules(NamedTuple):
    """What may be read: the formats, which layouts of TIFF, and what to do with a file of another layout."""

    formats: tuple[str, ...]
    is_fit: Callable[[tiff.Tags], bool]
    fix: str


_PHOTO_FIX = "save it as PNG, or as a grey or RGB TIFF of 8 bits"
_LABEL_RULES = _Rules(LABEL_FORMATS, tiff.has_label_values, "save it as a palette or grey PNG of 8 bits")


class _Opened(NamedTuple):
    """A decoded picture, and the bits of a sample in its file: 8 for fewer, too."""

    picture: Image.Image
    bits: int


def read_bits(picture: Image.Image, data: bytes) -> int:
    """Bits of a sample in the file ``data`` that ``picture`` was opened from; 8 for fewer, too."""
    if isinstance(picture, TiffImageFile):
        return max(8, tiff.count_bits(picture.tag_v2))
    return max(8, data[_PNG_DEPTH_OFFSET]) if picture.format == "PNG" else 8


def _load(picture: Image.Image) -> Image.Image:
    """Decode the pixels as they are stored: of all formats, Pillow turns TIFF alone by its orientation."""
    if not isinstance(picture, TiffImageFile):
        picture.load()
        return picture
    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
    picture.load()
    return picture.transpose(_UNTURNED[orientation]) if orientation in _UNTURNED else picture


def _take_low_bytes(picture: ImageFile.ImageFile, name: str) -> None:
    """Let Pillow, which keeps the high byte of colours of 16 bits, decode the low one: as if bytes were swapped."""
    # For planes Pillow chooses the order of bytes itself.
    is_in_planes, tiles = isinstance(picture, TiffImageFile) and tiff.is_in_planes(picture.tag_v2), []
    for tile in picture.tile:
        mode, *others = tile.args if isinstance(tile.args, tuple) else (tile.args,)
        if mode not in _SWAPPED or is_in_planes:
            raise ImageError(f"{name} has 16-bit colours that photo_range cannot scale; save it as a grey or RGB PNG")
        tiles.append(tile._replace(args=(_SWAPPED[mode], *others) if others else _SWAPPED[mode]))
    picture.tile = tiles


@contextmanager
def _opened(data: bytes, name: str, rules: _Rules, max_pixels: int, *, low_bytes: bool = False) -> Iterator[_Opened]:
    """Check the header of ``data``, yield its decoded picture, and turn every decoder error into an ImageError."""
    if not data:
        raise ImageError(f"{name} is empty (0 bytes)")
    try:
        with open_picture(data, rules.formats) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise ImageTooLargeError(
                    f"{name} has {width}x{height} pixels, the limit is {max_pixels} in all; "
                    "make it smaller, or raise max_pixels"
                )
            if isinstance(picture, TiffImageFile):
                _check_layout(picture.tag_v2, name, rules)
            bits = read_bits(picture, data)
            if low_bytes:
                _take_low_bytes(picture, name)
            yield _Opened(_load(picture), bits)
    except UnidentifiedImageError:
        raise _describe_unidentified(data, name, rules) from None
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageTooLargeError(f"{name} has more than {max_pixels} pixels; make it smaller") from None
    except Exception as error:  # Pillow's decoders raise errors of almost any class when a file is damaged.
        reason = str(error) if _PLAIN_WORDS.fullmatch(str(error)) else "it cannot be decoded"
        raise ImageError(f"{name} is damaged: {reason}") from None


def _check_layout(tags: tiff.Tags, name: str, rules: _Rules) -> None:
    if not tiff.can_trust(tags) or not rules.is_fit(tags):
        raise _refuse_layout(tags, name, rules)


def _refuse_layout(tags: tiff.Tags, name: str, rules: _Rules) -> ImageError:
    return UnsupportedImageError(f"{name} is a TIFF of {tiff.describe_layout(tags)}, which is not read; {rules.fix}")


def _describe_unidentified(data: bytes, name: str, rules: _Rules) -> ImageError:
    """Why Pillow does not know the file."""
    if "TIFF" in rules.formats and data.startswith(tiff.SIGNATURES):
        tags = tiff.read_tags(data)
        unread = UnsupportedImageError(f"{name} is a TIFF whose header cannot be read; {rules.fix}")
        return _refuse_layout(tags, name, rules) if tags else unread
    if any(data.startswith(start) for kind, start in _SIGNATURES.items() if kind in rules.formats):
        return ImageError(f"{name} is damaged: its header cannot be read")
    return UnsupportedImageError(f"{name} is not a picture in one of the formats {', '.join(rules.formats)}")


def decode_image(
    data: bytes,
    name: str = "image",
    *,
    formats: tuple[str, ...] = FORMATS,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    photo_range: PhotoRange = (),
) -> UInt8Array:
    """Decode a picture to RGB, shape (H, W, 3) uint8.

    Grey becomes three equal channels, palettes are resolved, alpha is dropped, of an animation the first frame is
    taken. Of values of more than 8 bits ``photo_range`` gives those that become black and white. The extension of the
    file plays no part.

    Raises:
        UnsupportedImageError: not a picture, of another format, or a TIFF of a layout that is not read.
        ImageTooLargeError: more than ``max_pixels`` pixels (found in the header, before decoding).
        ImageError: empty, truncated or damaged.
    """
    rules = _Rules(formats, tiff.has_photo_values, _PHOTO_FIX)
    with _opened(data, name, rules, max_pixels) as (picture, bits):
        is_deep = bits > 8 and bool(photo_range or picture.mode.startswith("I;16"))
        if not is_deep:
            # convert() makes a copy even of an RGB picture.
            return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"), dtype=np.uint8)
        values = _read_values(picture, data, name, rules, max_pixels)
    pixels = _scale_values(values, *(photo_range or (0, (1 << bits) - 1)))
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., np.newaxis], 3, axis=2)


def _read_values(picture: Image.Image, data: bytes, name: str, rules: _Rules, max_pixels: int) -> UInt16Array:
    """The values of a picture of more than 8 bits, (H, W) or (H, W, 3); ``picture`` is what Pillow makes of it."""
    if picture.mode.startswith("I;16"):
        return np.asarray(picture).astype(np.uint16)
    values = np.asarray(picture)[..., :3].astype(np.uint16) << np.uint16(8)
    with _opened(data, name, rules, max_pixels, low_bytes=True) as (low, _bits):
        values |= np.asarray(low)[..., :3]
    return values


def _scale_values(values: UInt16Array, low: int, high: int) -> UInt8Array:
    """The first value of the range becomes 0, the last one 255, and what is outside the nearer of them."""
    table = (np.arange(1 << 16, dtype=np.int64) - low) * 256 // (high - low + 1)
    return np.clip(table, 0, 255).astype(np.uint8).take(values)


def decode_label(data: bytes, name: str = "mask", *, max_pixels: int = DEFAULT_MAX_PIXELS) -> UInt8Array:
    """Decode a mask to raw labels, shape (H, W) uint8.

    Palette files give the index (not the colour), grey files the grey value, 1-bit files 0 and 1; alpha
    beside grey is dropped. Colour masks are accepted only when their three channels are equal.

    Raises:
        ImageError (and subclasses): as :func:`decode_image`, or when the file is in colour or 16-bit.
    """
    with _opened(data, name, _LABEL_RULES, max_pixels) as (picture, bits):
        if picture.mode in ("1", "P", "L"):
            return np.array(picture, dtype=np.uint8)
        if picture.mode.startswith("I"):
            return _narrow_labels(picture, name)
        if bits > 8:
            # Pillow keeps the high bytes only, so every small label would become 0.
            raise ImageError(
                f"{name} is a 16-bit mask in colour or with alpha; save it as an 8-bit palette or grey PNG"
            )
        if picture.mode in ("LA", "PA", "La"):
            return np.array(picture.getchannel(0), dtype=np.uint8)
        if picture.mode in ("RGB", "RGBA"):
            return _read_grey_colours(picture.convert("RGB"), name)
        raise ImageError(f"{name} has colour mode {picture.mode}; save it as a palette or grey PNG of labels")


def _read_grey_colours(picture: Image.Image, name: str) -> UInt8Array:
    """Labels of an RGB picture whose three channels are equal."""
    red, green, blue = (np.asarray(channel, dtype=np.uint8) for channel in picture.split())
    if (red != green).any() or (red != blue).any():
        colours = picture.getcolors(_MAX_COLOURS)
        number = len(colours) if colours else f"more than {_MAX_COLOURS}"
        raise ImageError(
            f"{name} is a colour mask ({number} colours), labels are needed: "
            "gluonseg prepare folders PHOTOS OUT --masks MASKS --by colour makes them"
        )
    return red.copy()


def _narrow_labels(picture: Image.Image, name: str) -> UInt8Array:
    labels = np.asarray(picture)
    if labels.min() < 0 or labels.max() > 255:
        raise ImageError(
            f"{name} is a 16-bit mask with labels up to {int(labels.max())}; labels must be 0 to 255 (8-bit PNG)"
        )
    return labels.astype(np.uint8)


def read_bytes(path: Path, name: str = "") -> bytes:
    """Read a regular file; a failing disk or missing permission becomes an ImageError with ``name`` or the path."""
    try:
        return read_regular(path, MAX_FILE_BYTES)
    except OSError as error:
        raise ImageError(f"{name or path} cannot be read: {error.strerror or error}") from None


def is_jpeg(path: Path) -> bool:
    """Whether a file that can be read begins as JPEG files do, whatever its name ends in."""
    with suppress(OSError), open_regular(path) as file:
        return file.read(len(JPEG_START)) == JPEG_START
    return False


def read_image(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS, photo_range: PhotoRange = ()) -> UInt8Array:
    """Read the picture at ``path``, see :func:`decode_image`."""
    return decode_image(read_bytes(path), str(path), max_pixels=max_pixels, photo_range=photo_range)


def read_label(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> UInt8Array:
    """Read the mask at ``path``, see :func:`decode_label`."""
    return decode_label(read_bytes(path), str(path), max_pixels=max_pixels)


# What else a file says; nothing is raised.


def ask(
    data: bytes, question: Callable[[Image.Image], _Answer], default: _Answer, chunks: tuple[bytes, ...] = ()
) -> _Answer:
    """What ``question`` finds in a picture, ``chunks`` of a PNG included; ``default`` for what is no picture."""
    try:
        with open_picture(data, chunks=chunks) as picture:
            return question(picture)
    except Exception:  # as in _opened
        return default


def find_orientation(data: bytes) -> int:
    """Return the EXIF orientation 1..8 of a picture, 1 when it has none or cannot be read."""
    if data.startswith(_SIGNATURES["PNG"]) and not any(mark in data for mark in _PNG_ORIENTATIONS):
        return 1  # Pillow would decode all pixels to look for one behind them
    value = ask(data, lambda picture: picture.getexif().get(ExifTags.Base.Orientation, 1), 1)
    return value if value in range(1, 9) else 1


def turn_upright(picture: Image.Image, orientation: int) -> Image.Image:
    """The picture as its EXIF orientation, 1 to 8, has it shown."""
    picture.getexif()[ExifTags.Base.Orientation] = orientation
    return ImageOps.exif_transpose(picture)


def find_value_range(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> PhotoRange | None:
    """The least and the greatest value in a photo of 16 bits; None for other files."""
    if ask(data, lambda picture: read_bits(picture, data), 8) < 16:
        return None
    rules = _Rules(FORMATS, tiff.has_photo_values, _PHOTO_FIX)
    try:
        with _opened(data, "", rules, max_pixels) as (picture, _bits):
            values = _read_values(picture, data, "", rules, max_pixels)
    except ImageError:
        return None
    return int(values.min()), int(values.max())


def suggest_photo_range(least: int, greatest: int) -> PhotoRange | None:
    """The ``photo_range`` for photos of 16 bits with values from ``least`` to ``greatest``; None when none is needed.

    Without one they would be dark, with the brightest pixel below half of white, or have less than a quarter of all
    levels. Where the values are close together beside how great they are, black is the least and white the greatest.
    """
    spread = greatest - least
    if greatest < 1 << 15 and (greatest < 256 or not 0 < spread < greatest // 4):
        return 0, max(255, (1 << greatest.bit_length()) - 1)
    return (least, greatest) if 0 < spread < 1 << 14 else None
