"""Bytes to arrays: the one place where pictures and masks are decoded.

Training, evaluation, the command line and the server all come through here, so a picture has the same
pixels everywhere. Pictures become RGB, masks become raw labels; both keep the pixel grid as stored in
the file: **an EXIF orientation is not applied**, so a mask always lies on the pixels of its file.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from gluonseg.errors import ImageError, ImageTooLargeError, UnsupportedImageError
from gluonseg.files import read_regular
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

_SIGNATURES = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n"}
_PNG_DEPTH_OFFSET = 24
"""Where a PNG file says how many bits a sample has: in IHDR, which is always the first chunk."""
_PNG_CHUNKS = (b"eXIf", b"acTL", b"fcTL", b"fdAT")
"""Chunks that are read besides those whose names begin with a capital, which every reader needs: EXIF, animations."""
_PNG_XMP = b"iTXtXML:com.adobe.xmp\0\0"
"""The name and the beginning of a chunk with XMP that is not compressed; an orientation may be in it."""
_MAX_XMP_BYTES = 1 << 20
_MAX_COLOURS = 256
_PLAIN_WORDS = re.compile(r"[\w ,.;:()'-]{1,100}")
"""The form of a decoder's message that is shown: it has no room for an address or a path of this process."""


def _drop_metadata(data: bytes) -> bytes:
    """A PNG without the chunks that change neither its pixels nor its orientation; other files as they are.

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
        if name[:1].tobytes().isupper() or name in _PNG_CHUNKS or is_xmp:
            kept.append(view[start:end])
        start = end
    return b"".join(kept)


@contextmanager
def _opened(data: bytes, name: str, formats: tuple[str, ...], max_pixels: int) -> Iterator[Image.Image]:
    """Check the header of ``data``, yield its decoded picture, and turn every decoder error into an ImageError."""
    if not data:
        raise ImageError(f"{name} is empty (0 bytes)")
    # Importing gluoncv.data tells Pillow, for the whole process, to accept truncated files.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(io.BytesIO(_drop_metadata(data)), formats=formats) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise ImageTooLargeError(
                    f"{name} has {width}x{height} pixels, the limit is {max_pixels} in all; make it smaller"
                )
            picture.load()
            yield picture
    except UnidentifiedImageError:
        if any(data.startswith(start) for kind, start in _SIGNATURES.items() if kind in formats):
            raise ImageError(f"{name} is damaged: its header cannot be read") from None
        raise UnsupportedImageError(f"{name} is not a picture in one of the formats {', '.join(formats)}") from None
    except ImageError:
        raise
    except Image.DecompressionBombError:
        raise ImageTooLargeError(f"{name} has more than {max_pixels} pixels; make it smaller") from None
    except Exception as error:  # Pillow's decoders raise errors of almost any class when a file is damaged.
        reason = str(error) if _PLAIN_WORDS.fullmatch(str(error)) else "it cannot be decoded"
        raise ImageError(f"{name} is damaged: {reason}") from None


def decode_image(
    data: bytes,
    name: str = "image",
    *,
    formats: tuple[str, ...] = FORMATS,
    max_pixels: int = DEFAULT_MAX_PIXELS,
) -> UInt8Array:
    """Decode a picture to RGB, shape (H, W, 3) uint8.

    Grey becomes three equal channels, palettes are resolved, alpha is dropped, 16 bits become 8, of an
    animation the first frame is taken. The extension of the file plays no part.

    Raises:
        UnsupportedImageError: not a picture, or of another format.
        ImageTooLargeError: more than ``max_pixels`` pixels (found in the header, before decoding).
        ImageError: empty, truncated or damaged, or with 32 bits a value.
    """
    with _opened(data, name, formats, max_pixels) as picture:
        if picture.mode in ("F", "I"):  # which of its values is white is not known
            raise ImageError(f"{name} has 32 bits a value; save it with 8 bits, or 16")
        if picture.mode.startswith("I;16"):  # Pillow's own conversion would clip them to white
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        # convert() makes a copy even of an RGB picture.
        return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"), dtype=np.uint8)


def decode_label(data: bytes, name: str = "mask", *, max_pixels: int = DEFAULT_MAX_PIXELS) -> UInt8Array:
    """Decode a mask to raw labels, shape (H, W) uint8.

    Palette files give the index (not the colour), grey files the grey value, 1-bit files 0 and 1; alpha
    beside grey is dropped. Colour masks are accepted only when their three channels are equal.

    Raises:
        ImageError (and subclasses): as :func:`decode_image`, or when the file is in colour or 16-bit.
    """
    with _opened(data, name, LABEL_FORMATS, max_pixels) as picture:
        if picture.mode in ("1", "P", "L"):
            return np.array(picture, dtype=np.uint8)
        if picture.mode.startswith("I"):
            return _narrow_labels(picture, name)
        if picture.format == "PNG" and data[_PNG_DEPTH_OFFSET] == 16:
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
            "save it as a palette PNG (mode P) or a grey PNG whose pixel values are the class ids"
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


def read_image(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> UInt8Array:
    """Read the picture at ``path``, see :func:`decode_image`."""
    return decode_image(read_bytes(path), str(path), max_pixels=max_pixels)


def read_label(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> UInt8Array:
    """Read the mask at ``path``, see :func:`decode_label`."""
    return decode_label(read_bytes(path), str(path), max_pixels=max_pixels)


def find_orientation(data: bytes) -> int:
    """Return the EXIF orientation 1..8 of a picture, 1 when it has none or cannot be read."""
    try:
        with Image.open(io.BytesIO(_drop_metadata(data)), formats=FORMATS) as picture:
            value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as in _opened
        return 1
    return value if value in range(1, 9) else 1
