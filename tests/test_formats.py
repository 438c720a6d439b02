"""PNG files that every reader opens, pixel by pixel what was given."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from gluonseg.predict.formats import encode_png


@pytest.mark.parametrize("shape", [(1, 1), (5, 40), (1, 1, 3), (5, 40, 3)])
def test_pixels_come_back(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (shape[0], 2 * shape[1], *shape[2:])).astype(np.uint8)
    for view in (pixels, pixels[::-1, 1::2]):
        with Image.open(io.BytesIO(encode_png(view))) as picture:
            assert (picture.format, picture.mode) == ("PNG", "L" if len(shape) == 2 else "RGB")
            np.testing.assert_array_equal(np.array(picture), view)


def test_a_mask_is_smaller_than_pillow_writes_it() -> None:
    coarse = np.random.default_rng(3).normal(size=(14, 18, 6))
    mask = cv2.resize(coarse, (960, 720), interpolation=cv2.INTER_CUBIC).argmax(axis=2).astype(np.uint8)
    grey = io.BytesIO()
    Image.fromarray(mask).save(grey, "PNG")
    assert len(encode_png(mask)) <= len(grey.getvalue())
