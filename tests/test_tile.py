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
from gluonseg.models.cost import Cost
from gluonseg.predict.engine import Float32Array, UInt8Array
from gluonseg.predict.enlarge import compute_mask, compute_mask_of_bands
from gluonseg.predict.predictor import Predictor, load_predictor
from gluonseg.predict.tile import (
    ENCODER_STRIDE,
    MAX_BAND_BYTES,
    TILE,
    compute_tile_height,
    find_spans,
    is_whole,
    iter_bands,
)
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
    assert spans[0][0] == 0
    assert spans[-1][1] == length
    assert all(start % stride == 0 and 0 < end - start <= tile for start, end in spans)
    step = stride if stride >= 8 else ENCODER_STRIDE
    assert all(start % step == 0 for start, _ in spans)
    assert all(one[1] - other[0] >= overlap - step for one, other in pairwise(spans))


@pytest.mark.parametrize("stride", STRIDES)
@pytest.mark.parametrize("size", [(450, 282), (1000, 77), (8, 8), (193, 192), (200, 601)])
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
@pytest.mark.parametrize("stride", [1, 2, 8])
def test_a_mask_of_bands_is_that_of_all_logits(stride: int, align_corners: bool) -> None:
    logits = np.random.default_rng(3).normal(size=(4, 41, 29)).astype(np.float32)
    bands = [(0, logits[:, :17]), (16, logits[:, 16:18]), (17, logits[:, 17:])]
    for size in ((41 * stride, 29 * stride), (41 * stride - stride // 2, 29 * stride + 5), (13, 7)):
        wanted = compute_mask(logits, *size, align_corners)
        np.testing.assert_array_equal(compute_mask_of_bands(bands, 41, *size, align_corners), wanted)


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
    card = load_predictor(trained_model).card
    engine = LocalEngine()
    card = dataclasses.replace(card, num_classes=3, prediction_size=0)
    mask = Predictor(engine, card).predict_mask(draw_noise(1500, 1100))
    assert mask.shape == (1500, 1100)
    assert engine.largest <= 768 * 768 * 3


def test_views_are_the_mean_of_their_probabilities(trained_model: Path) -> None:
    picture = draw_noise(48, 64)  # sides that mirrored give the same grid
    plain, both = load_predictor(trained_model), load_predictor(trained_model, flip=True)
    mirrored = plain.predict_probabilities(np.ascontiguousarray(picture[:, ::-1]))[:, :, ::-1]
    mean = (plain.predict_probabilities(picture) + mirrored) / 2
    found = both.predict_probabilities(picture)
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-5)
    # At the places of the logits it is exactly the mean; between them both are interpolated, in different order.
    np.testing.assert_allclose(found[:, 0, 0], mean[:, 0, 0], atol=1e-5)
    assert np.abs(found - mean).mean() < 0.02


def test_scales_are_averaged(trained_model: Path) -> None:
    """In the corner, where all grids have a place: the mean of what each scale gives by itself."""
    picture = draw_noise(48, 64)
    scales = (0.5, 1.0, 1.5)
    alone = [load_predictor(trained_model, scales=(scale,)).predict_probabilities(picture) for scale in scales]
    found = load_predictor(trained_model, scales=scales).predict_probabilities(picture)
    np.testing.assert_allclose(found[:, 0, 0], np.mean(alone, axis=0)[:, 0, 0], atol=1e-5)
    assert np.abs(alone[0] - alone[2]).max() > 1e-3


def test_no_view_is_larger_than_the_limit(trained_model: Path) -> None:
    limited = load_predictor(trained_model, scales=(0.5, 1.0, 4.0), flip=True, max_network_pixels=6400)
    sizes = limited.compute_pass_sizes(80, 80)
    assert sizes == [(80, 80), (80, 80), (40, 40)] * 2
    assert limited.predict_mask(draw_noise(80, 80)).shape == (80, 80)


def test_with_flip_a_mirrored_picture_has_the_mirrored_mask(trained_model: Path) -> None:
    """Exactly so where the logits' grid is its own mirror image: one place."""
    both, picture = load_predictor(trained_model, flip=True), draw_noise(8, 8)
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    found = both.predict_probabilities(mirrored)[:, :, ::-1]
    np.testing.assert_allclose(found, both.predict_probabilities(picture), atol=1e-6)
    plain = load_predictor(trained_model)
    assert np.abs(plain.predict_probabilities(mirrored) - plain.predict_probabilities(picture)).max() > 1e-4


def test_the_card_says_which_views_a_model_has(trained_model: Path) -> None:
    plain = load_predictor(trained_model)
    card = dataclasses.replace(plain.card, prediction_scales=(0.5, 1.0), prediction_flip=True)
    picture = draw_noise(40, 40)
    found = Predictor(plain.engine, card).predict_probabilities(picture)
    wanted = load_predictor(trained_model, scales=(0.5, 1.0), flip=True).predict_probabilities(picture)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("scales", [(), (0.01,), (5.0,), (1.0,) * 11, (float("nan"),)])
def test_impossible_scales_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="scale"):
        Views(scales)


def test_scales_are_numbers() -> None:
    assert parse_scales("0.75,1, 1.25") == (0.75, 1.0, 1.25)
    with pytest.raises(UserError, match=r"got '1,big'"):
        parse_scales("1,big")
