"""Pictures and masks that are damaged, of another kind, too large, or made to keep a decoder busy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gluonseg.data.decode import FORMATS, decode_image, decode_label
from gluonseg.errors import ImageError, ImageTooLargeError
from hostile_picture import OTHER_FORMATS, build_bombs, build_floods, build_scan_flood, build_tiff
from measured import measure_bytes
from picture import draw_noise, encode_picture
from small_data import HEIGHT, WIDTH, SmallData

IMPORT = "from gluonseg.data.decode import decode_image, decode_label"
MAX_SECONDS, MAX_MB = 1.0, 64.0
FLOOD_BYTES = 20 << 20
"""The largest body that a server takes by default."""


@pytest.fixture
def data(tmp_path: Path) -> SmallData:
    return SmallData(tmp_path)


CUTS = (0, 1, 2, 3, 10, 25, 50, 75, 90, 99)


@pytest.mark.fault(family=7, outcome="refused before training, the file named", inputs=4 * len(CUTS))
@pytest.mark.parametrize("percent", CUTS)
@pytest.mark.parametrize("channel", ["train", "train_annotation", "validation", "validation_annotation"])
def test_files_that_end_early_are_found_before_training(data: SmallData, channel: str, percent: int) -> None:
    path = min(data.path(channel).iterdir())
    content = path.read_bytes()
    # Behind the pixels of a PNG are two checksums and a mark, which a file that was cut off may lack.
    end = content.index(b"IEND") - 12 if path.suffix == ".png" else len(content)
    os.truncate(path, end * percent // 100)
    (error,) = data.check().errors
    assert error.kind == "unreadable"
    assert f"{channel}/{path.name} is " in str(error)


@pytest.mark.fault(family=7, outcome="refused: a wrong checksum of the header or of the pixels", inputs=2)
@pytest.mark.parametrize(("chunk", "offset"), [(b"IHDR", 0), (b"IDAT", -1)])
def test_a_wrong_checksum(data: SmallData, chunk: bytes, offset: int) -> None:
    """Of the header that of the chunk, of the pixels that of what is compressed, at its end."""
    path = data.path("train_annotation/t0.png")
    content = bytearray(path.read_bytes())
    at = content.index(chunk)
    length = int.from_bytes(content[at - 4 : at], "big")
    content[at + 4 + length + offset] ^= 1
    path.write_bytes(content)
    (error,) = data.check().errors
    assert "train_annotation/t0.png is damaged" in str(error)


@pytest.mark.fault(family=8, outcome="refused: not a picture in one of the formats", inputs=2 * len(OTHER_FORMATS))
@pytest.mark.parametrize("content", OTHER_FORMATS.values(), ids=OTHER_FORMATS.keys())
def test_other_files_are_refused_whatever_they_are_called(data: SmallData, content: bytes) -> None:
    data.path("train/t0.jpg").write_bytes(content)
    data.path("train_annotation/t1.png").write_bytes(content)
    (error,) = data.check().errors
    assert "2 files cannot be used" in str(error)
    for name in ("train/t0.jpg", "train_annotation/t1.png"):
        assert f"{name} is not a picture in one of the formats" in str(error)


@pytest.mark.fault(family=8, outcome="accepted: the content counts, not the extension", inputs=4)
@pytest.mark.parametrize("file_format", ["PNG", "GIF", "BMP", "TIFF"])
def test_a_picture_of_another_format_than_its_name_says(data: SmallData, file_format: str) -> None:
    data.image("train", "t0.jpg", draw_noise(HEIGHT, WIDTH), format=file_format)
    data.mask("train", "t0.png", np.zeros((HEIGHT, WIDTH), np.uint8), format=file_format)
    assert data.check().errors == ()


KINDS: dict[str, Callable[[], Image.Image]] = {
    "grey": lambda: Image.new("L", (WIDTH, HEIGHT), 9),
    "1 bit": lambda: Image.new("1", (WIDTH, HEIGHT), 1),
    "palette": lambda: Image.new("P", (WIDTH, HEIGHT), 3),
    "alpha": lambda: Image.new("RGBA", (WIDTH, HEIGHT), (9, 9, 9, 0)),
    "grey with alpha": lambda: Image.new("LA", (WIDTH, HEIGHT), (9, 0)),
    "16 bits": lambda: Image.fromarray(np.full((HEIGHT, WIDTH), 40_000, np.uint16)),
}


@pytest.mark.fault(family=12, outcome="accepted: every kind of picture becomes RGB", inputs=len(KINDS) + 1)
@pytest.mark.parametrize("build", [*KINDS.values(), None], ids=[*KINDS, "CMYK JPEG"])
def test_every_kind_of_picture_is_taken(data: SmallData, build: Callable[[], Image.Image] | None) -> None:
    if build is None:
        Image.new("CMYK", (WIDTH, HEIGHT), (9, 9, 9, 9)).save(data.path("train/t0.jpg"))
    else:
        build().save(data.path("train/t0.jpg"), "PNG")
    report = data.check()
    assert report.errors == ()
    assert report.sizes["train"][0] == (HEIGHT, WIDTH)


@pytest.mark.fault(family=12, outcome="accepted: pictures of one pixel a side", inputs=3)
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 20_000), (20_000, 1)])
def test_pictures_of_extreme_shape(data: SmallData, height: int, width: int) -> None:
    data.image("train", "t0.jpg", np.zeros((height, width, 3), np.uint8))
    data.mask("train", "t0.png", np.zeros((height, width), np.uint8))
    assert data.check().errors == ()


MASKS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "colour": (draw_noise(HEIGHT, WIDTH), {}, "is a colour mask"),
    "colour with alpha": (np.dstack([draw_noise(HEIGHT, WIDTH)[..., [0, 1, 2, 0]]]), {}, "is a colour mask"),
    "JPEG": (np.zeros((HEIGHT, WIDTH), np.uint8), {"format": "JPEG"}, "is not a picture in one of the formats PNG"),
    "WebP": (np.zeros((HEIGHT, WIDTH, 3), np.uint8), {"format": "WEBP"}, "is not a picture in one of the formats PNG"),
    "16 bits": (np.full((HEIGHT, WIDTH), 256, np.uint16), {}, "is a 16-bit mask with labels up to 256"),
}


@pytest.mark.fault(family=9, outcome="refused: what kind it is, and which is needed", inputs=len(MASKS))
@pytest.mark.parametrize(("mask", "options", "words"), MASKS.values(), ids=MASKS.keys())
def test_masks_of_kinds_that_hold_no_labels(data: SmallData, mask: Any, options: dict[str, Any], words: str) -> None:
    data.mask("train", "t0.png", mask, **options)
    (error,) = data.check().errors
    assert f"train_annotation/t0.png {words}" in str(error)


@pytest.mark.fault(family=9, outcome="accepted: palette by index, 1 bit, grey with alpha, interlaced", inputs=4)
def test_masks_of_every_kind_that_holds_labels() -> None:
    labels = (np.arange(48).reshape(6, 8) % 2).astype(np.uint8)
    palette = Image.fromarray(labels)
    palette.putpalette([200, 0, 0, 0, 200, 0] + [7] * 762)
    alpha = Image.merge("LA", [Image.fromarray(labels), Image.new("L", (8, 6), 9)])
    pictures = (palette, Image.fromarray(labels > 0), alpha, Image.merge("RGB", [Image.fromarray(labels)] * 3))
    for picture in pictures:
        assert np.array_equal(decode_label(encode_picture(picture)), labels)


@pytest.fixture(scope="module")
def taken() -> dict[str, Any]:
    """What every hostile picture takes, all measured in one process."""
    files = {**build_floods(FLOOD_BYTES), **build_bombs()}
    files["JPEG of 500 scans of 4000 x 4000"] = build_scan_flood(4000, 500)
    files["TIFF with a tile of 16384 x 16384"] = build_tiff(8, 16_384)
    return measure_bytes(IMPORT, "decode_image(path.read_bytes())", files)


FLOODS = tuple(build_floods(64))
SLOW = ("JPEG of 500 scans of 4000 x 4000", "TIFF with a tile of 16384 x 16384")
BOMBS = (
    "PNG of 30000 x 30000",
    "PNG of 2147483647 x 1",
    "PNG of 1 x 2147483647",
    "PNG of 65535 x 65535, 16 bits",
    "PNG with a profile of 64 MB",
    "PNG with a text of 64 MB",
    "PNG with pixels of 64 MB",
    "BMP of 60000 x 60000",
    "GIF of 65535 x 65535",
    "JPEG of 65500 x 65500",
)
HARMLESS = ("PNG with pixels of 64 MB",)
"""What is too much is not unpacked, and the picture is a good one."""


@pytest.mark.fault(family=53, outcome="refused within 1 s and 64 MB: JPEGs of too many parts", inputs=7)
@pytest.mark.parametrize("name", [*(name for name in FLOODS if "JPEG" in name), SLOW[0]])
def test_floods_of_jpeg_parts(taken: dict[str, Any], name: str) -> None:
    _check_refused(taken[name])


@pytest.mark.fault(family=54, outcome="refused within 1 s and 64 MB: PNGs of too many parts", inputs=4)
@pytest.mark.parametrize("name", [name for name in FLOODS if "PNG" in name])
def test_floods_of_png_parts(taken: dict[str, Any], name: str) -> None:
    _check_refused(taken[name])


@pytest.mark.fault(family=12, outcome="refused within 1 s and 64 MB, by the header", inputs=len(BOMBS) + 1)
@pytest.mark.parametrize("name", [*BOMBS, SLOW[1]])
def test_bombs(taken: dict[str, Any], name: str) -> None:
    if name in HARMLESS:
        assert (taken[name].seconds, taken[name].peak_mb) < (MAX_SECONDS, MAX_MB)
    else:
        _check_refused(taken[name])


def _check_refused(found: Any) -> None:
    assert found.outcome.startswith(("ImageError: ", "ImageTooLargeError: "))
    assert found.seconds < MAX_SECONDS
    # The file itself, which is read to be refused, is no more than the flood.
    assert found.peak_mb < MAX_MB + FLOOD_BYTES / 2**20


@pytest.mark.fault(family=12, outcome="refused by the header, before a pixel is decoded", inputs=len(FORMATS))
@pytest.mark.parametrize("file_format", FORMATS)
def test_the_limit_of_pixels_holds_for_every_format(file_format: str) -> None:
    content = encode_picture(draw_noise(20, 30), file_format)
    assert decode_image(content, max_pixels=600).shape == (20, 30, 3)
    with pytest.raises(ImageTooLargeError, match="has 30x20 pixels, the limit is 599"):
        decode_image(content, max_pixels=599)


USUAL = {
    "progressive of 10 scans, 4000 x 4000": lambda: build_scan_flood(4000, 1),
    "100 scans, 200 x 200": lambda: build_scan_flood(200, 100),
    "255 segments of a profile": lambda: encode_picture(draw_noise(8, 8), "JPEG", icc_profile=bytes(255 * 65_000)),
    "3000 rows, a chunk each": lambda: _build_png_of_rows(3000),
}


def _build_png_of_rows(count: int) -> bytes:
    import zlib

    from hostile_picture import PNG_START, build_chunk

    deflate = zlib.compressobj()
    rows = [deflate.compress(bytes(9)) + deflate.flush(zlib.Z_SYNC_FLUSH) for _ in range(count)]
    header = build_chunk(b"IHDR", b"".join(n.to_bytes(4, "big") for n in (8, count)) + b"\x08\0\0\0\0")
    pixels = b"".join(build_chunk(b"IDAT", row) for row in [*rows, deflate.flush()])
    return PNG_START + header + pixels + build_chunk(b"IEND")


@pytest.mark.parametrize("build", USUAL.values(), ids=USUAL.keys())
def test_what_cameras_and_encoders_write_is_within_the_limits(build: Callable[[], bytes]) -> None:
    assert decode_image(build()).ndim == 3


WORDS_OF_DECODERS = (
    OSError("cannot identify image file <_io.BytesIO object at 0x7f3a5c1d2e30>"),
    OSError("/usr/lib/python3.11/site-packages/PIL/x.py is missing"),
    ValueError("line one\nline two"),
    MemoryError(),
    SyntaxError("broken \x1b[31m chunk"),
    RuntimeError("x" * 10_000),
)


@pytest.mark.parametrize("error", WORDS_OF_DECODERS, ids=range(len(WORDS_OF_DECODERS)))
def test_what_a_decoder_says_is_told_without_the_inside_of_the_process(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(ImageError, match="the picture is damaged: ") as caught:
        decode_image(b"\xff\xd8\xff", "the picture")
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 140
    assert not any(word in text for word in ("0x", "/", "object"))
