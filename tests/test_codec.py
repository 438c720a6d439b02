"""Requests to pictures, predictions to answers, and the negotiation of both types."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from gluonseg.errors import (
    BadRequestError,
    ImageError,
    ImageTooLargeError,
    NotAcceptableError,
    PayloadTooLargeError,
    UnsupportedImageError,
    UnsupportedMediaTypeError,
)
from gluonseg.models.folder.card import ModelCard, build_card
from gluonseg.predict.formats import compute_runs
from gluonseg.predict.recordio import Float32Array
from gluonseg.serve import codec, media
from notebook_client import parse_mask
from picture import UInt8Array, draw_noise, encode_picture

CARD = build_card("fcn", "resnet-18", 3, class_names=("pet", "Katze ü", "border"))
MAX_MB = 100


@dataclass(frozen=True)
class FakePredictor:
    """The class of a pixel is its red value modulo 3."""

    card: ModelCard = CARD

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array:
        mask: UInt8Array = image_hwc[..., 0] % np.uint8(3)
        return mask

    def predict_confidence(self, image_hwc: UInt8Array) -> tuple[UInt8Array, UInt8Array]:
        return self.predict_mask(image_hwc), np.full(image_hwc.shape[:2], 204, np.uint8)

    def predict_probabilities(self, image_hwc: UInt8Array) -> Float32Array:
        one_hot = np.eye(3, dtype=np.float32)[self.predict_mask(image_hwc)]
        probabilities: Float32Array = (np.float32(0.1) + np.float32(0.7) * one_hot).transpose(2, 0, 1)
        return probabilities


@pytest.mark.parametrize(
    "header", [None, "IMAGE/JPEG; charset=binary", "image/*", "application/x-image", "application/octet-stream"]
)
def test_content_types_of_pictures_are_taken(header: str | None) -> None:
    media.check_content_type(header)


@pytest.mark.parametrize("header", ["text/csv", "multipart/form-data; boundary=x", "jpeg"])
def test_other_content_types_are_refused_with_the_way_out(header: str) -> None:
    with pytest.raises(UnsupportedMediaTypeError, match="image/jpeg or image/png"):
        media.check_content_type(header)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", media.RECORDIO),
        ("application/*", media.RECORDIO),
        ("image/*", media.PNG),
        ("image/png", media.PNG),
        ("IMAGE/PNG", media.PNG),
        ("text/html, image/png;q=0.5", media.PNG),
        ("image/png;q=0.2, application/json;q=0.9", media.JSON),
        ("application/json, image/png", media.PNG),
        ("application/json; charset=utf-8", media.JSON),
        ("*/*;q=0.1, image/png;q=0.2", media.PNG),
        ("application/x-recordio-protobuf;q=0, application/x-protobuf;q=0.1, */*;q=0.01", media.PROTOBUF),
        # What a browser sends.
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", media.RECORDIO),
    ],
)
def test_accept_is_negotiated(header: str | None, expected: str) -> None:
    assert media.negotiate_accept(header, media.RECORDIO) == expected


@pytest.mark.parametrize("header", [None, "*/*", "image/*"])
def test_the_default_answer_can_be_changed(header: str | None) -> None:
    assert media.negotiate_accept(header, media.PNG) == media.PNG


@pytest.mark.parametrize("header", ["image/jpeg", "*/*;q=0", "nonsense"])
def test_an_answer_that_cannot_be_produced(header: str) -> None:
    with pytest.raises(NotAcceptableError, match=r"ask for one of .*image/png"):
        media.negotiate_accept(header, media.RECORDIO)


@given(st.text(max_size=200))
def test_any_accept_header_is_answered_or_refused(header: str) -> None:
    try:
        chosen = media.negotiate_accept(header, media.RECORDIO)
    except NotAcceptableError:
        return
    assert chosen in media.RESPONSE_TYPES


def test_png_requests_keep_their_pixels_and_grey_becomes_rgb() -> None:
    picture = draw_noise(11, 17)
    np.testing.assert_array_equal(codec.decode_request(encode_picture(picture, "PNG"), 10_000), picture)
    grey = codec.decode_request(encode_picture(picture[..., 0], "JPEG"), 10_000)
    assert grey.shape == (11, 17, 3)


def test_a_camera_file_with_two_pictures_gives_the_first() -> None:
    buffer, second = io.BytesIO(), Image.fromarray(draw_noise(16, 24))
    Image.fromarray(np.full((16, 24, 3), 200, np.uint8)).save(buffer, "MPO", save_all=True, append_images=[second])
    np.testing.assert_array_equal(codec.decode_request(buffer.getvalue(), 10_000), 200)


@pytest.mark.parametrize(
    ("body", "error", "status", "text"),
    [
        (b"", BadRequestError, 400, "empty"),
        (b"just text", UnsupportedImageError, 415, "no JPEG or PNG"),
        (encode_picture(draw_noise(11, 17), "BMP"), UnsupportedImageError, 415, "no JPEG or PNG"),
        (encode_picture(draw_noise(64, 64), "JPEG")[:700], ImageError, 400, "damaged"),
        (encode_picture(draw_noise(64, 64), "PNG")[:700], ImageError, 400, "damaged"),
        (encode_picture(draw_noise(101, 100), "PNG"), ImageTooLargeError, 413, "100x101"),
    ],
)
def test_bodies_that_cannot_be_used(body: bytes, error: type[Exception], status: int, text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        codec.decode_request(body, max_pixels=10_000)
    assert getattr(caught.value, "status") == status  # noqa: B009
    assert "\n" not in str(caught.value)


def test_the_mask_png_is_grey_with_class_ids_for_both_readers() -> None:
    predictor, picture = FakePredictor(), draw_noise(11, 17)
    body = codec.compute_answer(media.PNG, predictor, picture, MAX_MB)
    opened = Image.open(io.BytesIO(body))
    assert opened.mode == "L"
    np.testing.assert_array_equal(np.array(opened), predictor.predict_mask(picture))
    read_by_opencv = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(read_by_opencv, predictor.predict_mask(picture))


@pytest.mark.parametrize("media_type", [media.RECORDIO, media.PROTOBUF])
def test_protobuf_has_the_mask_of_the_png(media_type: str) -> None:
    predictor, picture = FakePredictor(), draw_noise(11, 17)
    mask = parse_mask(codec.compute_answer(media_type, predictor, picture, MAX_MB))
    np.testing.assert_array_equal(mask, predictor.predict_mask(picture))


def test_npy_loads_without_pickle() -> None:
    predictor, picture = FakePredictor(), draw_noise(11, 17)
    mask = np.load(io.BytesIO(codec.compute_answer(media.NPY, predictor, picture, MAX_MB)), allow_pickle=False)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, predictor.predict_mask(picture))


def test_the_overlay_is_an_rgb_png_of_the_same_size() -> None:
    opened = Image.open(io.BytesIO(codec.compute_answer(media.OVERLAY, FakePredictor(), draw_noise(11, 17), MAX_MB)))
    assert (opened.format, opened.mode, opened.size) == ("PNG", "RGB", (17, 11))


@pytest.mark.parametrize("media_type", [media.JSON, media.JSON_LINES])
def test_json_has_sizes_shares_and_a_mask_that_can_be_drawn(media_type: str) -> None:
    predictor, picture = FakePredictor(), draw_noise(11, 17)
    mask = predictor.predict_mask(picture)
    body = codec.compute_answer(media_type, predictor, picture, MAX_MB)
    assert body.count(b"\n") == 1
    answer = json.loads(body)
    assert (answer["width"], answer["height"]) == (17, 11)
    assert [entry["name"] for entry in answer["classes"]] == ["pet", "Katze ü", "border"]
    assert [entry["share"] for entry in answer["classes"]] == [round(float((mask == i).mean()), 6) for i in range(3)]
    class_ids, lengths = np.array(answer["mask"]["runs"]).T
    np.testing.assert_array_equal(np.repeat(class_ids, lengths).reshape(11, 17), mask)


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8), elements=st.integers(0, 2)))
def test_runs_are_maximal_and_draw_any_mask(mask: UInt8Array) -> None:
    runs = compute_runs(mask)
    class_ids = [class_id for class_id, _ in runs]
    assert all(left != right for left, right in pairwise(class_ids))
    np.testing.assert_array_equal(np.repeat(class_ids, [length for _, length in runs]).reshape(mask.shape), mask)


def test_a_mask_of_single_pixels_is_not_written_as_json() -> None:
    ragged = np.indices((1500, 1500)).sum(axis=0).astype(np.uint8) % np.uint8(2)
    with pytest.raises(PayloadTooLargeError, match="image/png"):
        compute_runs(ragged)


def test_probabilities_beyond_the_limit_are_refused_and_a_mask_is_not() -> None:
    picture = np.zeros((1000, 1000, 3), np.uint8)
    assert codec.compute_answer(media.RECORDIO, FakePredictor(), picture, 12)
    assert codec.compute_answer(media.PNG, FakePredictor(), picture, 11)
    with pytest.raises(PayloadTooLargeError, match=r"11 MB, the limit is 11 MB.*image/png"):
        codec.compute_answer(media.PROTOBUF, FakePredictor(), picture, 11)
