"""Tiles and views: a large picture in parts, a picture seen several times."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonseg.errors import ModelError, UserError
from gluonseg.labels import UInt8Array
from gluonseg.models.cost import Cost
from gluonseg.predict.engine import Float32Array
from gluonseg.predict.enlarge import compute_mask, compute_mask_of_bands, compute_probabilities
from gluonseg.predict.predictor import Predictor, load_predictor
from gluonseg.predict.tile import MAX_BAND_BYTES, TILE, compute_tile_height, find_spans, is_whole, iter_bands
from gluonseg.predict.view import Views, parse_scales
from picture import draw_noise

STRIDES = (1, 2, 4, 8, 16, 32)


class LocalEngine:
    """Every place of its logits depends on one pixel, so that tiles must not make a difference."""

    name = "local"

    def __init__(self, stride: int = 8) -> None:
        self.largest = 0
        self.stride = stride

    def compute_cost(self, height: int, width: int) -> Cost:
        raise NotImplementedError

    def compute_logits(self, images_nhwc: UInt8Array) -> Float32Array:
        self.largest = max(self.largest, images_nhwc.size)
        return images_nhwc[:, :: self.stride, :: self.stride].astype(np.float32).transpose(0, 3, 1, 2)


@given(st.integers(1, 5000), st.sampled_from([(192, 64), (768, 128), (64, 8)]), st.sampled_from(STRIDES))
def test_spans_cover_a_side_and_share_the_overlap(length: int, setting: tuple[int, int], stride: int) -> None:
    tile, overlap = setting
    spans = find_spans(length, tile, overlap, stride)
    assert (spans[0][0], spans[-1][1]) == (0, length)
    step = stride if stride >= 8 else 32  # the stride of the encoder
    assert all(start % step == 0 and 0 < end - start <= tile for start, end in spans)
    assert all(one[1] - other[0] >= overlap - step for one, other in pairwise(spans))


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("size", [(450, 282), (8, 8), (193, 192), (200, 601)])
def test_tiles_are_put_together_in_place_and_none_is_large(size: tuple[int, int], stride: int) -> None:
    engine, picture = LocalEngine(stride), draw_noise(*size)
    whole = LocalEngine(stride).compute_logits(picture[None])[0]
    rows = 0
    for start, band in iter_bands(engine.compute_logits, picture, 3, stride, 192, 64):
        assert start == max(0, rows - 1)  # it begins with the last row of the band before
        rows = start + band.shape[1]
        np.testing.assert_allclose(band, whole[:, start:rows], atol=1e-4)
    assert rows == whole.shape[1]
    assert engine.largest <= 192 * 192 * 3


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("stride", [1, 8])
def test_a_mask_of_bands_is_that_of_all_logits(stride: int, align_corners: bool) -> None:
    logits = np.random.default_rng(3).normal(size=(4, 41, 29)).astype(np.float32)
    bands = [(0, logits[:, :17]), (16, logits[:, 16:18]), (17, logits[:, 17:])]
    for size in ((41 * stride, 29 * stride), (41 * stride - stride // 2, 29 * stride + 5), (13, 7)):
        wanted = compute_mask(logits, *size, align_corners)
        confidence = np.empty(size, dtype=np.uint8)
        found = compute_mask_of_bands(bands, 41, *size, align_corners, confidence_hw=confidence)
        np.testing.assert_array_equal(found, wanted)
        greatest = compute_probabilities(logits, *size, align_corners).max(axis=0)
        np.testing.assert_allclose(confidence, 255 * greatest, rtol=0, atol=0.51)


def test_a_row_of_tiles_is_as_high_as_its_logits_allow() -> None:
    assert compute_tile_height(2449, 150, 8) == compute_tile_height(2449, 3, 1) == TILE
    for classes, stride in ((150, 1), (150, 2), (254, 1)):
        height = compute_tile_height(2449, classes, stride)
        assert 128 <= height < TILE
        assert height == 128 or 4 * classes * (height // stride) * -(-2449 // stride) <= MAX_BAND_BYTES
    assert is_whole(1000, 1000, 150, 8)
    assert not is_whole(1000, 1000, 150, 1)


def test_a_card_of_another_stride_or_number_of_classes_is_told(trained_model: Path) -> None:
    card, picture = load_predictor(trained_model).card, draw_noise(64, 64)
    for wrong in (dataclasses.replace(card, num_classes=3, output_stride=4), dataclasses.replace(card, num_classes=5)):
        with pytest.raises(ModelError, match=r"gives logits \(1, 3, 8, 8\) for 64x64 pixels, its model card says"):
            Predictor(LocalEngine(8), wrong).predict_mask(picture)


def test_a_large_picture_goes_through_the_network_in_tiles(trained_model: Path) -> None:
    engine, card = LocalEngine(), load_predictor(trained_model).card
    card = dataclasses.replace(card, num_classes=3, prediction_size=0)
    assert Predictor(engine, card).predict_mask(draw_noise(1500, 1100)).shape == (1500, 1100)
    assert engine.largest <= 768 * 768 * 3


def test_the_card_says_which_views_are_averaged_at_which_scales(trained_model: Path) -> None:
    """In the corner, where all grids have a place, the mean of each scale and its mirror image by themselves."""
    plain, picture, scales = load_predictor(trained_model), draw_noise(48, 64), (0.5, 1.0, 1.5)
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    alone = []
    for scale in scales:
        predictor = load_predictor(trained_model, scales=(scale,))
        alone.append(predictor.predict_probabilities(picture)[:, 0, 0])
        alone.append(predictor.predict_probabilities(mirrored)[:, 0, -1])
    card = dataclasses.replace(plain.card, prediction_scales=scales, prediction_flip=True)
    found = Predictor(plain.engine, card).predict_probabilities(picture)
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(found[:, 0, 0], np.mean(alone, axis=0), atol=1e-5)
    assert all(np.abs(alone[0] - other).max() > 1e-4 for other in alone[1:])


def test_no_view_is_larger_than_the_limit(trained_model: Path) -> None:
    limited = load_predictor(trained_model, scales=(0.5, 1.0, 4.0), flip=True, max_network_pixels=6400)
    assert limited.compute_pass_sizes(80, 80) == [(80, 80), (80, 80), (40, 40)] * 2
    assert limited.predict_mask(draw_noise(80, 80)).shape == (80, 80)


@pytest.mark.parametrize("scales", [(), (0.01,), (5.0,), (1.0,) * 11, (float("nan"),)])
def test_impossible_scales_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="scale"):
        Views(scales)


def test_scales_are_numbers() -> None:
    assert parse_scales("0.75,1, 1.25") == (0.75, 1.0, 1.25)
    with pytest.raises(UserError, match=r"got '1,big'"):
        parse_scales("1,big")
