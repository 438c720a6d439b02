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
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError

from gluonseg.errors import ImageError, ImageTooLargeError, UnsupportedImageError
from gluonseg.files import read_regular

UInt8Array = npt.NDArray[np.uint8]

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
EXIF_ORIENTATION = 0x0112
MAX_FILE_BYTES = 1 << 30
"""Largest picture file that is read; larger ones hold more than :data:`LARGEST_MAX_PIXELS`, or something else."""
_SIGNATURES = {"JPEG": b"\xff\xd8\xff", "PNG": b"\x89PNG\r\n\x1a\n"}
PNG_DEPTH_OFFSET = 24
"""Where a PNG file says how many bits a sample has: in IHDR, which is always the first chunk."""

_INTERNAL = re.compile(r"0x[0-9a-f]{4}|[/\\<>]")
"""Found in words of a decoder that name addresses, paths and objects of the process."""
_MAX_REASON = 100


def _describe_damage(error: Exception) -> str:
    """The words of a decoder, if they are for people."""
    reason = str(error).partition("\n")[0]
    return reason[:_MAX_REASON] if reason.isprintable() and not _INTERNAL.search(reason) else "it cannot be decoded"


@contextmanager
def _opened(data: bytes, name: str, formats: tuple[str, ...], max_pixels: int) -> Iterator[Image.Image]:
    """Open ``data`` lazily, refuse it by header, and turn every decoder error into an ImageError."""
    if not data:
        raise ImageError(f"{name} is empty (0 bytes)")
    # Importing gluoncv.data tells Pillow, for the whole process, to accept truncated files.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with Image.open(io.BytesIO(data), formats=formats) as picture:
            width, height = picture.size
            if width * height > max_pixels:
                raise ImageTooLargeError(
                    f"{name} has {width}x{height} pixels, the limit is {max_pixels} in all; make it smaller"
                )
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
        raise ImageError(f"{name} is damaged: {_describe_damage(error)}") from None


def _high_byte(picture: Image.Image) -> Image.Image:
    """16-bit greys to 8 bits by their high byte; Pillow's own conversion would clip them to white."""
    values = np.asarray(picture).astype(np.int64)
    return Image.fromarray(np.clip(values >> 8, 0, 255).astype(np.uint8))


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
        picture.load()
        if picture.mode == "F" or (picture.mode == "I" and picture.format != "PNG"):
            # What is white in it, nobody knows.
            raise ImageError(f"{name} has 32 bits a value; save it with 8 bits, or 16")
        if picture.mode.startswith("I"):
            picture = _high_byte(picture)
        elif picture.mode == "P" and "transparency" in picture.info:
            # By way of RGBA: Pillow warns when palette transparency given as bytes is dropped directly.
            picture = picture.convert("RGBA")
        # Even to the mode that a picture has, convert() makes a copy.
        return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"), dtype=np.uint8)


def decode_label(data: bytes, name: str = "mask", *, max_pixels: int = DEFAULT_MAX_PIXELS) -> UInt8Array:
    """Decode a mask to raw labels, shape (H, W) uint8.

    Palette files give the index (not the colour), grey files the grey value, 1-bit files 0 and 1; alpha
    beside grey is dropped. Colour masks are accepted only when their three channels are equal.

    Raises:
        ImageError (and subclasses): as :func:`decode_image`, or when the file is in colour or 16-bit.
    """
    with _opened(data, name, LABEL_FORMATS, max_pixels) as picture:
        picture.load()
        if picture.mode in ("1", "P", "L"):
            return np.array(picture, dtype=np.uint8)
        if _has_cut_samples(data, picture):
            raise ImageError(
                f"{name} is a 16-bit mask in colour or with alpha; save it as an 8-bit palette or grey PNG"
            )
        if picture.mode in ("LA", "PA", "La"):
            return np.array(picture.getchannel(0), dtype=np.uint8)
        if picture.mode in ("RGB", "RGBA"):
            return _grey_of_colour(np.array(picture.convert("RGB")), name)
        if picture.mode.startswith("I"):
            return _narrow(np.asarray(picture).astype(np.int64), name)
        raise ImageError(f"{name} has colour mode {picture.mode}; save it as a palette or grey PNG of labels")


def _has_cut_samples(data: bytes, picture: Image.Image) -> bool:
    """Whether this is a 16-bit PNG of which Pillow keeps the high bytes only: every small label would read 0."""
    return picture.format == "PNG" and not picture.mode.startswith("I") and data[PNG_DEPTH_OFFSET] == 16


def _grey_of_colour(colour_hwc: UInt8Array, name: str) -> UInt8Array:
    if (colour_hwc[..., 0] != colour_hwc[..., 1]).any() or (colour_hwc[..., 0] != colour_hwc[..., 2]).any():
        colours = _count_colours(colour_hwc)
        raise ImageError(
            f"{name} is a colour mask ({colours} colours), labels are needed: "
            "save it as a palette PNG (mode P) or a grey PNG whose pixel values are the class ids"
        )
    return np.ascontiguousarray(colour_hwc[..., 0])


def _count_colours(colour_hwc: UInt8Array) -> int:
    """How many colours occur: by a table of all there are, as sorting a large photo takes a minute."""
    occurs = np.zeros(1 << 24, dtype=bool)
    for row in colour_hwc:  # All rows at once would take a gigabyte for a large photo.
        occurs[row @ np.array([1 << 16, 1 << 8, 1])] = True
    return int(np.count_nonzero(occurs))


def _narrow(labels: npt.NDArray[np.int64], name: str) -> UInt8Array:
    if labels.min() < 0 or labels.max() > 255:
        raise ImageError(
            f"{name} is a 16-bit mask with labels up to {int(labels.max())}; labels must be 0 to 255 (8-bit PNG)"
        )
    return labels.astype(np.uint8)


def read_bytes(path: Path) -> bytes:
    """Read a regular file; a failing disk or missing permission becomes an ImageError that names the path."""
    try:
        return read_regular(path, MAX_FILE_BYTES)
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from None


def read_image(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> UInt8Array:
    """Read the picture at ``path``, see :func:`decode_image`."""
    return decode_image(read_bytes(path), str(path), max_pixels=max_pixels)


def read_label(path: Path, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> UInt8Array:
    """Read the mask at ``path``, see :func:`decode_label`."""
    return decode_label(read_bytes(path), str(path), max_pixels=max_pixels)


def find_orientation(data: bytes) -> int:
    """Return the EXIF orientation 1..8 of a picture, 1 when it has none or cannot be read."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            value = picture.getexif().get(EXIF_ORIENTATION, 1)
    except Exception:  # as in _opened
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1
