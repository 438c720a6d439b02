"""PNG files that every reader opens, pixel by pixel what was given."""

from __future__ import annotations

import io

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from gluonseg.labels import voc_colours
from gluonseg.predict.formats import encode_png

UInt8Array = npt.NDArray[np.uint8]


def _draw_mask(height: int, width: int) -> UInt8Array:
    """Six smooth regions, as a network's mask has them."""
    draw = np.random.default_rng(3)
    coarse = draw.normal(size=(height // 60 + 2, width // 60 + 2, 6))
    mask: UInt8Array = (
        cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC).argmax(axis=2).astype(np.uint8)
    )
    return mask


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=40), elements=st.integers(0, 255)))
def test_a_grey_picture_comes_back_from_both_readers(pixels: UInt8Array) -> None:
    data = encode_png(pixels)
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.mode) == ("PNG", "L")
        np.testing.assert_array_equal(np.array(picture), pixels)
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED), pixels)


@pytest.mark.parametrize("shape", [(1, 1, 3), (5, 40, 3)])
def test_a_colour_picture_comes_back(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    with Image.open(io.BytesIO(encode_png(pixels))) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.array(picture), pixels)


def test_views_of_an_array_are_read_as_they_are() -> None:
    pixels = np.arange(200, dtype=np.uint8).reshape(10, 20)[::-1, 3::2]
    with Image.open(io.BytesIO(encode_png(pixels))) as picture:
        np.testing.assert_array_equal(np.array(picture), pixels)


def test_a_mask_is_smaller_than_pillow_writes_it() -> None:
    mask = _draw_mask(720, 960)
    grey, colour = io.BytesIO(), io.BytesIO()
    Image.fromarray(mask).save(grey, "PNG")
    Image.fromarray(np.array(voc_colours(6), np.uint8)[mask]).save(colour, "PNG")
    size = len(encode_png(mask))
    assert size <= len(grey.getvalue())
    assert size <= 0.75 * len(colour.getvalue())
