"""TIFFs of every layout: read as they were written, or refused by name; never read wrong."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import tifffile
from PIL import Image

from gluonseg.data.check.header import read_header
from gluonseg.data.decode import decode_image, decode_label
from gluonseg.errors import ImageError, UnsupportedImageError
from picture import UInt8Array, draw_noise, encode_picture
from tiff_file import BLACK_IS_ZERO, DEFLATE, PALETTE, RAW, RGB, WHITE_IS_ZERO, Layout, Values, build_tiff

HEIGHT, WIDTH = 20, 37
GREYS = (WHITE_IS_ZERO, BLACK_IS_ZERO)


def _draw(layout: Layout, samples: int) -> Values:
    kind = np.uint8 if layout.bits <= 8 else np.uint16 if layout.bits <= 16 else np.uint32
    shape = (HEIGHT, WIDTH) if samples == 1 else (HEIGHT, WIDTH, samples)
    return np.random.default_rng(3).integers(0, 1 << layout.bits, shape).astype(kind)


def _show(values: Values, layout: Layout) -> UInt8Array:
    """The picture (H, W, 3) that the values stand for."""
    most = (1 << layout.bits) - 1
    shown = values.astype(np.int64) if layout.colours != WHITE_IS_ZERO else most - values.astype(np.int64)
    shown = shown >> (layout.bits - 8) if layout.bits > 8 else shown * (255 // most)
    return (shown[..., :3] if shown.ndim == 3 else np.dstack([shown] * 3)).astype(np.uint8)


def _iter_layouts(bits: int) -> Iterator[tuple[Layout, int]]:
    """Layouts with their number of samples; 4 is RGB with alpha."""
    for colours, in_planes, compression, order, in_tiles in itertools.product(
        (*GREYS, RGB), (False, True), (RAW, DEFLATE), "<>", (False, True)
    ):
        for samples in (3, 4) if colours == RGB else () if in_planes else (1,):
            block, extra = (16 if in_tiles else 7), (2,) if samples == 4 else ()
            yield Layout(bits, colours, in_planes, compression, order, block, in_tiles, extra), samples


def _must_be_read(layout: Layout) -> bool:
    if layout.colours == RGB:
        return layout.bits == 8 or (layout.bits == 16 and not (layout.in_planes and layout.compression == RAW))
    return layout.bits in (1, 2, 4, 8) or (
        layout.colours == BLACK_IS_ZERO and (layout.bits == 16 or (layout.bits == 12 and layout.byte_order == "<"))
    )


@pytest.mark.parametrize("bits", [1, 8, 16, 32])
def test_another_reader_reads_what_these_tests_write(bits: int) -> None:
    """Without one the decoder could agree with a writer that is wrong; of odd depths tifffile needs a codec."""
    for layout, samples in _iter_layouts(bits):
        if layout.in_tiles and bits == 1:
            continue
        values = _draw(layout, samples)
        found = tifffile.imread(io.BytesIO(build_tiff(values, layout)))
        found = np.moveaxis(found, 0, -1) if layout.in_planes else found
        assert np.array_equal(found, values), layout


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 10, 12, 16, 32])
def test_photos_are_read_as_they_were_written_or_refused(bits: int) -> None:
    for layout, samples in _iter_layouts(bits):
        values = _draw(layout, samples)
        data = build_tiff(values, layout)
        if _must_be_read(layout):
            assert np.array_equal(decode_image(data), _show(values, layout)), layout
        else:
            with pytest.raises(UnsupportedImageError, match=f"is a TIFF of {samples} samples? of {bits} bits a pixel"):
                decode_image(data)


@pytest.mark.parametrize(
    ("layout", "samples", "words"),
    [
        (Layout(16, RGB, in_planes=True), 3, "3 samples of 16 bits a pixel (RGB, in planes, not compressed)"),
        (Layout(16, WHITE_IS_ZERO), 1, "1 sample of 16 bits a pixel (grey whose 0 is white, not compressed)"),
        (Layout(8, sample_format=2, compression=DEFLATE), 1, "1 sample of 8 bits a pixel (grey, signed)"),
        (Layout(32, sample_format=3), 1, "1 sample of 32 bits a pixel (grey, floating point, not compressed)"),
        (Layout(8, extra=(0, 0)), 3, "3 samples of 8 bits a pixel (grey, not compressed)"),
        (Layout(16, in_planes=True, compression=DEFLATE), 2, "2 samples of 16 bits a pixel (grey, in planes)"),
        (Layout(16, RGB, extra=(0, 0)), 5, "5 samples of 16 bits a pixel (RGB, not compressed)"),
        (Layout(8, RGB, in_planes=True, compression=DEFLATE), 5, "5 samples of 8 bits a pixel (RGB, in planes)"),
    ],
)  # fmt: skip
def test_what_is_refused_is_named(layout: Layout, samples: int, words: str) -> None:
    data = build_tiff(_draw(layout, samples), layout)
    expected = f"a.tif is a TIFF of {words}, which is not read; save it as PNG, or as a grey or RGB TIFF of 8 bits"
    with pytest.raises(UnsupportedImageError) as caught:
        decode_image(data, "a.tif")
    assert str(caught.value) == expected
    with pytest.raises(ImageError):
        decode_label(data)


def test_a_header_that_cannot_be_read() -> None:
    with pytest.raises(UnsupportedImageError, match=r"^a.tif is a TIFF whose header cannot be read; save it as PNG"):
        decode_image(b"II*\0\x08\0\0\0" + bytes(30), "a.tif")


LABEL_LAYOUTS = [
    *(Layout(bits, compression=compression) for bits in (8, 16, 32) for compression in (RAW, DEFLATE)),
    Layout(8, PALETTE),
    Layout(16, byte_order=">", in_tiles=True, block=16),
    Layout(16, sample_format=2),
    Layout(32, sample_format=2, byte_order=">"),
]


@pytest.mark.parametrize("layout", LABEL_LAYOUTS)
def test_labels_are_the_numbers_that_were_written(layout: Layout) -> None:
    labels = _draw(Layout(8), 1).astype(_draw(layout, 1).dtype)
    assert np.array_equal(decode_label(build_tiff(labels, layout)), labels)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (Layout(8, WHITE_IS_ZERO), "grey whose 0 is white, not compressed"),
        (Layout(16, WHITE_IS_ZERO, compression=DEFLATE), "grey whose 0 is white"),
        (Layout(8, sample_format=2), "grey, signed, not compressed"),
        (Layout(32, sample_format=3), "grey, floating point, not compressed"),
    ],
)
def test_values_that_are_no_labels(layout: Layout, words: str) -> None:
    match = (
        rf"a.tif is a TIFF of 1 sample of {layout.bits} bits a pixel \({words}\), which is not read; save it as a pal"
    )
    with pytest.raises(UnsupportedImageError, match=match):
        decode_label(build_tiff(_draw(layout, 1), layout), "a.tif")


def test_a_mask_that_was_compressed_with_loss() -> None:
    data = encode_picture(draw_noise(32, 32)[..., 0], "TIFF", compression="jpeg")
    assert decode_image(data).shape == (32, 32, 3)
    with pytest.raises(UnsupportedImageError, match=r"\(grey, JPEG\), which is not read; save it as a palette or grey"):
        decode_label(data)


@pytest.mark.parametrize("kind", [1, 4, 5])
def test_smaller_copies_and_masks_are_no_pages(kind: int) -> None:
    """As of a GeoTIFF with overviews; 254 is NewSubfileType."""
    copies = [Image.fromarray(draw_noise(4, 4)) for _ in range(2)]
    for copy in copies:
        copy.encoderinfo = {"tiffinfo": {254: kind}}
    data = encode_picture(Image.fromarray(draw_noise(8, 8)), "TIFF", save_all=True, append_images=copies)
    assert read_header(data).pages == 1
    with Image.open(io.BytesIO(data)) as picture:
        assert getattr(picture, "n_frames", 1) == 3


def test_pages_that_are_not_read_are_counted() -> None:
    pages = [Image.fromarray(draw_noise(8, 8, seed)) for seed in range(9)]
    assert read_header(encode_picture(pages[0], "TIFF")).pages == 1
    assert read_header(encode_picture(pages[0], "TIFF", save_all=True, append_images=pages[1:])).pages == 9
    assert read_header(b"not a picture").pages == 1
