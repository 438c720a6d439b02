"""Photos and masks of a channel whose content is of another format than their name says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gluonseg.data.decode import decode_image, decode_label
from gluonseg.errors import UnsupportedImageError
from hostile_picture import OTHER_FORMATS
from picture import draw_noise
from small_data import HEIGHT, WIDTH, SmallData


@pytest.mark.fault(family=8, outcome="refused: not a picture in one of the formats")
@pytest.mark.parametrize("content", OTHER_FORMATS.values(), ids=OTHER_FORMATS.keys())
@pytest.mark.parametrize("decode", [decode_image, decode_label])
def test_other_files_are_refused_whatever_they_are_called(decode: Callable[..., object], content: bytes) -> None:
    with pytest.raises(UnsupportedImageError, match=r"a\.png is not a picture in one of the formats .*PNG"):
        decode(content, "a.png")


@pytest.mark.fault(family=8, outcome="accepted: the content counts, not the extension")
@pytest.mark.parametrize("file_format", ["PNG", "GIF", "BMP", "TIFF"])
def test_a_picture_of_another_format_than_its_name_says(tmp_path: Path, file_format: str) -> None:
    data = SmallData(tmp_path)
    data.image("train", "t0.jpg", draw_noise(HEIGHT, WIDTH), format=file_format)
    data.mask("train", "t0.png", np.zeros((HEIGHT, WIDTH), np.uint8), format=file_format)
    assert data.check().errors == ()
