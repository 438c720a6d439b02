"""The label doctor on files: what is dropped of them, too large, too dark, or has a palette of its own."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gluonseg.data.check.header import Header, read_header
from gluonseg.labels import UInt8Array, voc_colours
from small_data import HEIGHT, WIDTH, SmallData

Change = Callable[[SmallData], object]
RNG = np.random.default_rng(7)
COLOURS = np.array([(0, 0, 0), (200, 30, 30), (30, 200, 30)], np.uint8)


@pytest.fixture
def data(tmp_path: Path) -> SmallData:
    return SmallData(tmp_path)


def _encode(pixels: npt.NDArray[Any], kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def _encode_pages(kind: str, *others: UInt8Array, **options: Any) -> bytes:
    """A picture and ``others`` in one file."""
    pages = [Image.fromarray(page) for page in others]
    buffer = io.BytesIO()
    first = RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(first).save(buffer, kind, save_all=True, append_images=pages, **options)
    return buffer.getvalue()


def _draw(number: int) -> list[UInt8Array]:
    return [RNG.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(number)]


@pytest.mark.parametrize(("kind", "options"), [("TIFF", {}), ("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {})])
def test_pages_are_counted(kind: str, options: dict[str, Any]) -> None:
    assert read_header(_encode_pages(kind, *_draw(2), **options)).pages == 3


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (_encode(np.zeros((4, 5), np.uint8), "PNG"), Header()),
        (_encode(np.zeros((4, 5, 3), np.uint8), "JPEG"), Header()),
        (b"\x89PNG\r\n\x1a\n and no more", Header()),
    ],
)
def test_headers(content: bytes, expected: Header) -> None:
    assert read_header(content) == expected


def test_a_palette_is_read_beside_a_text_that_pillow_refuses() -> None:
    picture, texts = Image.new("P", (4, 5)), PngInfo()
    picture.putpalette(COLOURS.ravel().tolist())
    texts.add_text("history", "a" * (2 << 20), zip=True)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=texts)
    assert read_header(buffer.getvalue()).palette[:9] == COLOURS.tobytes()


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
def test_palettes_are_read_in_every_format(kind: str) -> None:
    picture = Image.fromarray((np.arange(20) % 3).astype(np.uint8).reshape(4, 5))
    picture.putpalette(COLOURS.ravel().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    assert read_header(buffer.getvalue()).palette[:9] == COLOURS.tobytes()


def _store(name: str, content: bytes) -> Change:
    """Put a file in the place of the photo or mask of its name."""

    def change(data: SmallData) -> None:
        path = data.path(name)
        for other in path.parent.glob(f"{path.stem}.*"):
            other.unlink()
        path.write_bytes(content)

    return change


def _write_deep(highest: int, kind: str) -> Change:
    """Every photo in 16 bits, with values up to ``highest``."""

    def change(data: SmallData) -> None:
        for split in ("train", "validation"):
            for path in list(data.path(split).iterdir()):
                pixels = RNG.integers(0, highest, (HEIGHT, WIDTH), dtype=np.uint16, endpoint=True)
                pixels[0, 0] = highest
                path.unlink()
                path.with_suffix(kind).write_bytes(_encode(pixels, "PNG" if kind == ".png" else "TIFF"))

    return change


def _see_through(labels: UInt8Array) -> UInt8Array:
    """A mask as an RGBA picture, transparent where the label is 0."""
    return np.dstack([labels] * 3 + [np.where(labels, 255, 0).astype(np.uint8)])


RAMP = (np.arange(HEIGHT * WIDTH) % 3).astype(np.uint8).reshape(HEIGHT, WIDTH)
WARNINGS: list[tuple[Change, str, str]] = [
    (
        _store("train/t0.tif", _encode_pages("TIFF", *_draw(8))),
        "pages",
        "only the first .*: train/t0.tif has 9",
    ),
    (_store("train/t0.gif", _encode_pages("GIF", *_draw(3))), "pages", "train/t0.gif has 4. Save each picture"),
    (
        _store("train_annotation/t1.png", _encode(_see_through(RAMP), "PNG")),
        "transparent",
        "1 files have transparent pixels: train_annotation/t1.png. Transparency is dropped",
    ),
    (
        _write_deep(4095, ".tif"),
        "dark",
        "5 images have 16 bits with values from .* to 4095: dark, or without contrast",
    ),
    (_write_deep(1023, ".png"), "dark", 'Set photo_range to "0, 1023", or save'),
]


@pytest.mark.parametrize(("change", "kind", "words"), WARNINGS)
def test_what_is_dropped_is_told(data: SmallData, change: Change, kind: str, words: str) -> None:
    change(data)
    report = data.check()
    assert not report.errors
    (warning,) = report.warnings
    assert warning.kind == kind
    assert re.search(words, str(warning)), warning


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_entry_of_a_palette_is_told(data: SmallData, kind: str) -> None:
    picture = Image.fromarray(RAMP)
    picture.putpalette(COLOURS.ravel().tolist())
    buffer = io.BytesIO()
    picture.save(buffer, kind, transparency=2)
    name = f"train_annotation/t1.{kind.lower()}"
    _store(name, buffer.getvalue())(data)
    assert [(one.kind, one.examples) for one in data.check().warnings] == [("transparent", (name,))]


@pytest.mark.parametrize("highest", [1, 255])
def test_black_photos_are_refused(data: SmallData, highest: int) -> None:
    _write_deep(highest, ".png")(data)
    (error,) = data.check().errors
    assert f"to {highest}: of one shade all over with 0 as black and 65535 as white: train/t0.png" in str(error)
    assert 'Set photo_range to "0, 255"' in str(error)


def test_each_photo_is_judged_by_itself(data: SmallData) -> None:
    _write_deep(65535, ".png")(data)
    _store("train/t1.png", _encode(RNG.integers(0, 255, (HEIGHT, WIDTH), dtype=np.uint16), "PNG"))(data)
    (error,) = data.check().errors
    assert (error.kind, error.examples) == ("flat", ("train/t1.png",))
    assert "No photo_range fits all images: save them with 8 bits" in str(error)
    assert "No photo_range fits all images" in str(data.check(photo_range=(0, 99)))
    _store("train/t1.png", _encode(np.zeros((HEIGHT, WIDTH), np.uint16), "PNG"))(data)
    assert not data.check().errors


def test_a_range_that_is_given_is_judged_by_the_pixels(data: SmallData) -> None:
    _write_deep(65535, ".png")(data)
    (warning,) = data.check(photo_range=(0, 25000)).warnings
    assert warning.kind == "clipped"
    assert "with 0 as black and 25000 as white" in str(warning)
    assert 'Set photo_range to "0, 65535"' in str(warning)
    high = RNG.integers(3000, 65535, (HEIGHT, WIDTH), dtype=np.uint16)
    _store("train/t1.png", _encode(high, "PNG"))(data)
    assert "train/t1.png" in data.check(photo_range=(0, 255)).errors[0].examples


def test_16_bits_that_are_used_are_no_warning(data: SmallData) -> None:
    _write_deep(65535, ".png")(data)
    report = data.check()
    assert not report.errors
    assert not report.warnings


def test_a_photo_range_is_used(data: SmallData) -> None:
    _write_deep(4095, ".png")(data)
    report = data.check(photo_range=(0, 4095))
    assert not report.errors
    assert not report.warnings
    (error,) = data.check(photo_range=(5000, 9000)).errors
    assert "of one shade all over with 5000 as black and 9000 as white" in str(error)


def test_an_opaque_alpha_channel_is_no_warning(data: SmallData) -> None:
    opaque = np.dstack([RAMP] * 3 + [np.full((HEIGHT, WIDTH), 255, np.uint8)])
    _store("train_annotation/t1.png", _encode(opaque, "PNG"))(data)
    assert not data.check().warnings


def test_a_picture_with_too_many_pixels(data: SmallData) -> None:
    (error,) = data.check(max_pixels=HEIGHT * WIDTH - 1).errors
    text = str(error)
    assert (
        "10 pictures have more than max_pixels=47 pixels: train/t0.jpg has 48; train_annotation/t0.png has 48" in text
    )
    assert "Set max_pixels to 48, or make both smaller" in text


def test_colour_masks_are_told_from_damaged_ones(data: SmallData) -> None:
    coloured = _encode(COLOURS[RAMP], "PNG")
    _store("train_annotation/t0.png", coloured)(data)
    _store("train_annotation/t1.png", coloured[:-20])(data)
    unreadable, colour = data.check().errors
    assert (unreadable.kind, colour.kind, colour.examples) == ("unreadable", "colour", ("train_annotation/t0.png",))
    assert "1 masks are in colour, and labels are needed" in str(colour)


# Palettes.


def _with_palette(data: SmallData, name: str, colours: UInt8Array, table: dict[int, int], kind: str = "PNG") -> None:
    """Give a mask the colours of a palette; ``table`` changes its indices."""
    split, _, stem = name.partition("/")
    path = data.path(f"{split}_annotation/{stem}.png")
    labels = np.array(Image.open(path))
    for old, new in table.items():
        labels[np.array(Image.open(path)) == old] = new
    picture = Image.fromarray(labels)
    picture.putpalette(colours.ravel().tolist())
    path.unlink()
    picture.save(path.with_suffix(f".{kind.lower()}"), kind)


NAMES = ("train/t0", "train/t1", "train/t2", "validation/v0", "validation/v1")
VOC = np.array(voc_colours(256), np.uint8)


def test_one_palette_in_all_masks_is_no_mistake(data: SmallData) -> None:
    for number, name in enumerate(NAMES):
        # Some programs leave the end of a palette out, or fill it with one colour.
        colours = VOC.copy()
        colours[10 + number :] = VOC[0]
        _with_palette(data, name, colours, {255: 0})
    report = data.check()
    assert not report.errors
    assert not report.warnings


def test_two_classes_of_one_colour_are_no_mistake(data: SmallData) -> None:
    colours = VOC.copy()
    colours[2] = colours[1]
    for name in NAMES[:4]:
        _with_palette(data, name, colours, {2: 1})
    _with_palette(data, NAMES[4], colours, {1: 2})
    assert not data.check().errors


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "BMP"])
def test_a_colour_with_several_indices_is_refused(data: SmallData, kind: str) -> None:
    for name in NAMES:
        _with_palette(data, name, COLOURS, {255: 0}, kind)
    path = data.path(f"train_annotation/t1.{kind.lower()}")
    with Image.open(path) as picture:
        again = Image.fromarray(np.array(picture))
    again.putpalette(COLOURS[[0, 2, 1]].ravel().tolist())
    again.save(path, kind)
    (error,) = data.check().errors
    assert error.kind == "palettes"
    words = (
        f"#c81e1e is index 1 in train_annotation/t0.{kind.lower()} and index 2 in train_annotation/t1.{kind.lower()}"
    )
    assert words in str(error)
    assert "gluonseg prepare folders DATA OUT --masks DATA --by colour" in str(error)


def test_palettes_that_a_program_chose_for_each_mask_are_refused(data: SmallData) -> None:
    for name in NAMES:
        split, _, stem = name.partition("/")
        path = data.path(f"{split}_annotation/{stem}.png")
        labels = np.array(Image.open(path)) % 255
        if name == "train/t1":
            labels[labels == 1] = 0  # one colour less
        Image.fromarray(COLOURS[labels]).convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(path)
    assert [error.kind for error in data.check().errors] == ["palettes"]


def test_an_index_with_several_colours_is_a_warning(data: SmallData) -> None:
    for name in NAMES:
        _with_palette(data, name, COLOURS, {255: 0})
    _with_palette(data, "validation/v1", np.array([(0, 0, 0), (9, 9, 9), (30, 200, 30)], np.uint8), {})
    report = data.check()
    assert not report.errors
    (warning,) = report.warnings
    text = "index 1 is #c81e1e in train_annotation/t0.png and #090909 in validation_annotation/v1.png"
    assert (warning.kind, text in str(warning)) == ("index_colours", True)


def test_splits_with_their_own_label_maps_may_number_colours_differently(data: SmallData) -> None:
    for name in NAMES:
        is_train = name.startswith("train")
        _with_palette(data, name, COLOURS if is_train else COLOURS[[0, 2, 1]], {255: 0})
    assert [error.kind for error in data.check().errors] == ["palettes"]
    data.label_map("train", {"map": {"0": 0, "1": 1, "2": 2}})
    data.label_map("validation", {"map": {"0": 0, "1": 2, "2": 1}})
    assert not data.check().errors
