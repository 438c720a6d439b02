"""Photos of 16 bits: which of their values become black and white, and what range they have."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import cv2
import numpy as np
import pytest
from PIL import Image

from gluonseg.data.dataset import Dataset
from gluonseg.data.decode import decode_image, find_value_range, suggest_photo_range
from gluonseg.data.pairs import Pair
from gluonseg.errors import ImageError
from gluonseg.labels import default_label_map
from gluonseg.models.folder.card import build_card
from gluonseg.predict.batch import iter_written
from gluonseg.predict.predictor import Predictor
from gluonseg.serve.codec import decode_request
from hostile_picture import build_png
from picture import UInt8Array, draw_noise, encode_picture
from tiff_file import DEFLATE, RGB, Layout, build_tiff

LOW = 300
SHOWN = draw_noise(13, 17)
DEEP = SHOWN.astype(np.uint16) + LOW
"""From 300 to 555: by its high bytes it is black, 1 or 2."""


def _encode_png(values: np.ndarray[tuple[int, ...], np.dtype[np.uint16]]) -> bytes:
    done, data = cv2.imencode(".png", values[..., [2, 1, 0, 3][: values.shape[2]]])
    assert done
    return data.tobytes()


GREY_FILES = {
    "grey PNG": encode_picture(Image.fromarray(DEEP[..., 0])),
    "grey TIFF": build_tiff(DEEP[..., 0], Layout(16)),
    "grey TIFF, high byte first": build_tiff(DEEP[..., 0], Layout(16, byte_order=">", compression=DEFLATE)),
}
COLOUR_FILES = {
    "PNG": _encode_png(DEEP),
    "PNG with alpha": _encode_png(np.dstack([DEEP, DEEP[..., 0]])),
    "TIFF with alpha": build_tiff(np.dstack([DEEP, DEEP[..., 0]]), Layout(16, RGB, extra=(2,))),
    "TIFF, turned": build_tiff(DEEP, Layout(16, RGB, tags={274: [6]})),
    **{
        f"TIFF {order} {compression} {in_tiles}": build_tiff(
            DEEP, Layout(16, RGB, byte_order=order, compression=compression, in_tiles=in_tiles, block=16)
        )
        for order in "<>"
        for compression in (1, DEFLATE)
        for in_tiles in (False, True)
    },
}
FILES = {**GREY_FILES, **COLOUR_FILES}


def _expect(kind: str, values: UInt8Array) -> UInt8Array:
    return values if kind in COLOUR_FILES else np.dstack([values[..., 0]] * 3)


@pytest.mark.parametrize("kind", FILES)
def test_the_range_becomes_black_to_white(kind: str) -> None:
    assert np.array_equal(decode_image(FILES[kind], photo_range=(LOW, LOW + 255)), _expect(kind, SHOWN))
    found = decode_image(FILES[kind], photo_range=(LOW + 64, LOW + 64 + 127))
    expected = np.clip((SHOWN.astype(int) - 64) * 2, 0, 255).astype(np.uint8)
    expected[SHOWN >= 64 + 128] = 255
    assert np.array_equal(found, _expect(kind, expected))
    assert np.array_equal(decode_image(FILES[kind]), _expect(kind, (DEEP >> 8).astype(np.uint8)))


@pytest.mark.parametrize("kind", FILES)
def test_the_range_of_a_photo(kind: str) -> None:
    values = DEEP if kind in COLOUR_FILES else DEEP[..., 0]
    assert find_value_range(FILES[kind]) == (values.min(), values.max())


def test_other_files_have_no_range_and_are_not_scaled() -> None:
    twelve = build_tiff(DEEP[..., 0], Layout(12))
    for data in (*(encode_picture(SHOWN, file_format) for file_format in ("PNG", "JPEG", "TIFF")), twelve, b"", b"II"):
        assert find_value_range(data) is None
    assert np.array_equal(decode_image(encode_picture(SHOWN), photo_range=(5, 6)), SHOWN)
    assert np.array_equal(decode_image(twelve)[..., 0], DEEP[..., 0] >> 4)


@pytest.mark.parametrize(
    "data",
    [
        build_png(2, 1, depth=16, colour=4, rows=bytes([0, 1, 0, 0, 0, 1, 0, 0, 0])),
        build_tiff(np.full((1, 2, 3), 256, np.uint16), Layout(16, RGB, compression=DEFLATE, in_planes=True)),
        build_tiff(np.full((1, 2, 4), 256, np.uint16), Layout(16, 5)),
    ],
    ids=["grey with alpha", "in planes", "CMYK"],
)
def test_colours_whose_low_bytes_cannot_be_had_are_refused_by_name(data: bytes) -> None:
    assert decode_image(data).shape == (1, 2, 3)
    assert find_value_range(data) is None
    words = "^a.png has 16-bit colours that photo_range cannot scale; save it as a grey or RGB PNG"
    with pytest.raises(ImageError, match=words):
        decode_image(data, "a.png", photo_range=(0, 9))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0, 255), (0, 255)),
        ((0, 1), (0, 255)),
        ((3, 4095), (0, 4095)),
        ((0, 4096), (0, 8191)),
        ((0, 32767), (0, 32767)),
        ((0, 32768), None),
        ((0, 65535), None),
        ((40000, 41000), (40000, 41000)),
        ((65535, 65535), None),
        ((30000, 31000), (30000, 31000)),
        ((10000, 15000), (0, 16383)),
        ((200, 255), (0, 255)),
    ],
)
def test_the_range_to_suggest(values: tuple[int, int], expected: tuple[int, int] | None) -> None:
    assert suggest_photo_range(*values) == expected


def test_training_prediction_and_the_server_scale_alike(tmp_path: Path) -> None:
    photo, mask = tmp_path / "a.png", tmp_path / "mask.png"
    photo.write_bytes(COLOUR_FILES["PNG"])
    mask.write_bytes(encode_picture(SHOWN[..., 0]))
    photo_range = (LOW, LOW + 255)
    image, _ = Dataset([Pair("a", photo, mask)], default_label_map(), photo_range=photo_range).read(0)
    assert np.array_equal(image, SHOWN)
    assert np.array_equal(decode_request(photo.read_bytes(), SHOWN.size, photo_range), SHOWN)
    seen: list[UInt8Array] = []

    def predict_mask(image: UInt8Array) -> UInt8Array:
        seen.append(image)
        return image[..., 0]

    card = build_card("fcn", "resnet-18", 3, photo_range=photo_range)
    predictor = SimpleNamespace(card=card, predict_mask=predict_mask)
    list(iter_written(cast(Predictor, predictor), [photo], tmp_path / "out"))
    assert np.array_equal(seen[0], SHOWN)
