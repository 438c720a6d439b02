"""Bytes to pixels: every kind of picture and mask, and everything that is not one."""

from __future__ import annotations

import contextlib
import io
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gluonseg.data.dataset import Dataset
from gluonseg.data.decode import (
    FORMATS,
    LABEL_FORMATS,
    REQUEST_FORMATS,
    decode_image,
    decode_label,
    find_orientation,
    is_jpeg,
    read_image,
    read_label,
)
from gluonseg.data.pairs import Pair
from gluonseg.errors import ImageError, ImageTooLargeError, UnsupportedImageError
from gluonseg.labels import default_label_map
from gluonseg.models.folder.card import build_card
from gluonseg.predict.batch import find_images, iter_written
from gluonseg.predict.predictor import Predictor
from gluonseg.serve.codec import decode_request
from hostile_picture import build_png, insert_chunk
from picture import UInt8Array, draw_noise, encode_picture

COLOUR = draw_noise(13, 17)
GREY = COLOUR[..., 0]
GREY_COLOUR = np.dstack([GREY] * 3)
LABELS = (np.arange(13 * 17).reshape(13, 17) % 5).astype(np.uint8)


def _palette() -> Image.Image:
    picture = Image.fromarray(LABELS)
    # Neither in order nor grey: a reader that takes colours for labels gets other numbers.
    picture.putpalette([255 - value // 3 for value in range(768)])
    return picture


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        *((encode_picture(COLOUR, file_format), COLOUR) for file_format in ("PNG", "BMP", "TIFF")),
        (encode_picture(GREY), GREY_COLOUR),
        (encode_picture(Image.fromarray(GREY).convert("LA")), GREY_COLOUR),
        (encode_picture(Image.fromarray(GREY.astype(np.uint16) * 256 + 77)), GREY_COLOUR),
        (encode_picture(Image.merge("RGBA", [Image.fromarray(GREY)] * 4)), GREY_COLOUR),
        (encode_picture(_palette()), np.array(_palette().convert("RGB"))),
        (encode_picture(_palette(), transparency=bytes([0, 128, 255])), np.array(_palette().convert("RGB"))),
        (encode_picture(_palette(), "GIF", transparency=2), np.array(_palette().convert("RGB"))),
    ],
    ids=[
        "PNG",
        "BMP",
        "TIFF",
        "grey",
        "grey with alpha",
        "16-bit grey",
        "with alpha",
        "palette",
        "clear palette",
        "clear GIF",
    ],
)
def test_every_kind_becomes_rgb(data: bytes, expected: UInt8Array) -> None:
    assert np.array_equal(decode_image(data), expected)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpegs_of_every_kind(mode: str) -> None:
    smooth = Image.fromarray(np.full((20, 30, 3), 120, np.uint8)).convert(mode)
    decoded = decode_image(encode_picture(smooth, "JPEG", progressive=True))
    assert decoded.shape == (20, 30, 3)
    assert np.abs(decoded.astype(int) - 120).max() <= 4


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.fromarray(np.full((5, 6, 3), value, np.uint8)) for value in (10, 200)]
    for file_format in ("GIF", "PNG", "WEBP"):
        options = {"lossless": True} if file_format == "WEBP" else {}
        data = encode_picture(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
        assert (decode_image(data) == 10).all()


def test_jpegs_with_two_pictures_are_read_wherever_jpegs_are() -> None:
    picture = Image.fromarray(np.full((8, 8, 3), 90, np.uint8))
    data = encode_picture(picture, "MPO", save_all=True, append_images=[picture])
    with Image.open(io.BytesIO(data)) as opened:
        assert opened.format == "MPO"
    assert decode_image(data, formats=REQUEST_FORMATS).shape == (8, 8, 3)


@pytest.mark.parametrize(
    "data",
    [
        encode_picture(_palette()),
        encode_picture(_palette(), "PNG", bits=4),
        encode_picture(_palette(), "PNG", transparency=0),
        encode_picture(_palette(), "TIFF"),
        encode_picture(LABELS),
        encode_picture(Image.merge("LA", [Image.fromarray(LABELS), Image.fromarray(GREY)])),
        encode_picture(Image.merge("RGB", [Image.fromarray(LABELS)] * 3)),
        encode_picture(Image.merge("RGBA", [*[Image.fromarray(LABELS)] * 3, Image.fromarray(GREY)])),
        encode_picture(Image.fromarray(LABELS.astype(np.uint16))),
    ],
    ids=["P", "P4", "P-transparent", "P-tiff", "L", "LA", "RGB", "RGBA", "I16"],
)
def test_labels_are_the_numbers_in_the_file(data: bytes) -> None:
    decoded = decode_label(data)
    assert np.array_equal(decoded, LABELS)
    assert decoded.dtype == np.uint8


def test_one_bit_masks_are_0_and_1() -> None:
    assert decode_label(encode_picture(Image.fromarray(LABELS > 2))).tolist() == (LABELS > 2).astype(int).tolist()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (encode_picture(COLOUR), r"is a colour mask \(221 colours\).*--by colour"),
        (encode_picture(Image.fromarray(LABELS.astype(np.uint16) + 300)), "is a 16-bit mask with labels up to 304"),
        (build_png(2, 1, depth=16, colour=2, rows=bytes(13)), "is a 16-bit mask in colour or with alpha"),
        (build_png(2, 1, depth=16, colour=4, rows=bytes(9)), "is a 16-bit mask in colour or with alpha"),
        (encode_picture(LABELS, "JPEG"), "is not a picture in one of the formats PNG, GIF, BMP, TIFF"),
        (encode_picture(Image.fromarray(COLOUR).convert("CMYK"), "TIFF"), "has colour mode CMYK"),
    ],
    ids=["colour", "16-bit", "16-bit colour", "16-bit alpha", "JPEG", "CMYK"],
)
def test_masks_that_hold_no_labels(data: bytes, words: str) -> None:
    with pytest.raises(ImageError, match=f"a.png {words}"):
        decode_label(data, "a.png")


def test_formats_outside_the_list_are_unsupported() -> None:
    for file_format, formats in (("ICO", FORMATS), ("PPM", FORMATS), ("BMP", REQUEST_FORMATS)):
        with pytest.raises(UnsupportedImageError, match=f"formats {', '.join(formats)}"):
            decode_image(encode_picture(COLOUR, file_format), formats=formats)


LONG = zlib.compress(bytes(3 << 20))
CHUNKS = {
    "compressed text": (b"zTXt", b"plan\0\0" + LONG),
    "international text": (b"iTXt", b"plan\0\1\0en\0plan\0" + LONG),
    "colour profile": (b"iCCP", b"sRGB\0\0" + LONG),
    "plain text": (b"tEXt", b"plan\0" + bytes(65 << 20)),
    "XMP": (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + bytes(65 << 20)),
    "a colour profile of an unknown kind": (b"iCCP", b"sRGB\0\7" + LONG),
    "too short a gamma": (b"cHRM", b"\0"),
    "too short a transparency": (b"tRNS", b""),
}


@pytest.mark.parametrize("after_pixels", [False, True])
@pytest.mark.parametrize(("kind", "content"), CHUNKS.values(), ids=CHUNKS)
def test_what_a_png_says_besides_its_pixels_plays_no_part(kind: bytes, content: bytes, after_pixels: bool) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = insert_chunk(encode_picture(COLOUR, exif=exif), kind, content, after_pixels=after_pixels)
    assert np.array_equal(decode_image(photo, formats=REQUEST_FORMATS), COLOUR)
    assert find_orientation(photo) == 6
    assert np.array_equal(decode_label(insert_chunk(encode_picture(LABELS), kind, content)), LABELS)


def test_an_orientation_in_the_xmp_of_a_png_is_told() -> None:
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<rdf:Description tiff:Orientation="8"/>'
    assert find_orientation(insert_chunk(encode_picture(COLOUR), b"iTXt", xmp)) == 8


@pytest.mark.parametrize("share", [0.1, 0.9])
@pytest.mark.parametrize("file_format", FORMATS)
def test_cut_off_files_are_refused(file_format: str, share: float) -> None:
    data = encode_picture(draw_noise(64, 64), file_format)
    with pytest.raises(ImageError):
        decode_image(data[: int(len(data) * share)])


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_limit_of_pixels_holds_for_every_format(file_format: str) -> None:
    data = encode_picture(COLOUR, file_format)
    assert decode_image(data, max_pixels=221).shape == COLOUR.shape
    with pytest.raises(ImageTooLargeError, match="has 17x13 pixels, the limit is 220 in all; make it smaller"):
        decode_image(data, max_pixels=220)


@pytest.mark.parametrize(("side", "words"), [(8_000, "8000x8000 pixels, the limit is"), (30_000, "more than")])
def test_large_pictures_are_refused_by_their_header(side: int, words: str) -> None:
    with pytest.raises(ImageTooLargeError, match=f"has {words} 50000000 .*; make it smaller"):
        decode_image(build_png(side, side))


ORIENTED: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0}, "PNG": {}, "TIFF": {}, "WEBP": {"lossless": True},
}  # fmt: skip
"""Formats with EXIF, and the options that keep pixels."""


def _encode_turned(picture: UInt8Array, file_format: str, value: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encode_picture(picture, file_format, exif=exif, **ORIENTED[file_format])


@pytest.mark.parametrize("value", range(10))
@pytest.mark.parametrize("file_format", ORIENTED)
def test_an_orientation_is_told_and_not_applied(file_format: str, value: int) -> None:
    data = _encode_turned(COLOUR, file_format, value)
    assert find_orientation(data) == (value if 1 <= value <= 8 else 1)
    plain = decode_image(encode_picture(COLOUR, file_format, **ORIENTED[file_format]))
    assert np.array_equal(decode_image(data), plain)
    if file_format in REQUEST_FORMATS:
        assert np.array_equal(decode_request(data, COLOUR.size), plain)
    if file_format in LABEL_FORMATS:
        assert np.array_equal(decode_label(_encode_turned(LABELS, file_format, value)), LABELS)


@pytest.mark.parametrize("value", range(1, 9))
def test_the_kinds_of_tiff_that_pillow_turns(value: int) -> None:
    deep = GREY.astype(np.uint16) << 8
    for picture in (_palette(), Image.fromarray(GREY), Image.fromarray(LABELS > 2), Image.fromarray(deep)):
        for compression in ("raw", "tiff_deflate"):
            tags = {274: value}
            data = encode_picture(picture, "TIFF", tiffinfo=tags, compression=compression)
            plain = encode_picture(picture, "TIFF", compression=compression)
            assert np.array_equal(decode_image(data), decode_image(plain))


@pytest.mark.parametrize("file_format", ORIENTED)
def test_training_and_prediction_see_the_pixels_as_stored(file_format: str, tmp_path: Path) -> None:
    photo, mask = tmp_path / "a.bin", tmp_path / "a.tif"
    photo.write_bytes(_encode_turned(COLOUR, file_format, 6))
    mask.write_bytes(_encode_turned(LABELS, "TIFF", 6))
    image, class_ids = Dataset([Pair("a", photo, mask)], default_label_map()).read(0)
    assert (image.shape, class_ids.shape) == (COLOUR.shape, LABELS.shape)
    assert np.array_equal(class_ids, LABELS)
    predictor = SimpleNamespace(card=build_card("fcn", "resnet-18", 3), predict_mask=lambda image: image[..., 0] % 3)
    (written,) = iter_written(cast(Predictor, predictor), [photo], tmp_path / "out")
    assert written.mask is not None
    assert np.array_equal(read_label(written.mask), image[..., 0] % 3)


SEEDS = [
    encode_picture(COLOUR, "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0"),
    encode_picture(_palette()),
    encode_picture(_palette(), "GIF"),
    encode_picture(_palette(), "BMP"),
    encode_picture(GREY, "TIFF"),
    encode_picture(COLOUR, "WEBP"),
]


@given(
    data=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 399), st.integers(0, 255)), max_size=6),
    keep=st.integers(0, 1000),
)
def test_damaged_bytes_give_pixels_or_an_image_error(data: bytes, changes: list[tuple[int, int]], keep: int) -> None:
    broken = bytearray(data)
    for position, value in changes:
        broken[position % len(broken)] = value
    broken = broken[:keep] if keep < 500 else broken
    for decode in (decode_image, decode_label):
        with contextlib.suppress(ImageError):
            assert decode(bytes(broken)).dtype == np.uint8
    assert 1 <= find_orientation(bytes(broken)) <= 8


def test_files_are_named_in_errors(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.jpg cannot be read: No such file"):
        read_image(tmp_path / "gone.jpg")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ImageError, match=r"a\.png is empty \(0 bytes\)"):
        read_label(tmp_path / "a.png")


def test_jpegs_are_found_by_their_content(tmp_path: Path) -> None:
    jpeg = encode_picture(COLOUR, "JPEG")
    for name in ("a.jfif", "b.JPE", "c", "d.image", "e.jpg", "e.jpg.bak", "e.old", ".f"):
        (tmp_path / name).write_bytes(jpeg)
    (tmp_path / "g.txt").write_text("no picture")
    (tmp_path / "h.jfif").mkdir()
    assert [path.name for path in find_images([tmp_path])] == ["a.jfif", "b.JPE", "c", "d.image", "e.jpg"]
    assert read_image(tmp_path / "a.jfif").shape == COLOUR.shape
    assert not is_jpeg(tmp_path / "missing")


def test_a_decoders_words_about_its_process_are_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError("<_io.BytesIO object at 0x7f3a5c1d2e30>")

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ImageError, match=r"^a.jpg is damaged: it cannot be decoded$"):
        decode_image(b"\xff\xd8\xff", "a.jpg")
