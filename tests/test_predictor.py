"""From pixels to masks: normalising, sizes, memory limits, and the same answer by every way."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from gluonseg.models.folder.card import IMAGENET_MEAN, IMAGENET_STD
from gluonseg.predict import enlarge
from gluonseg.predict.enlarge import compute_mask, compute_probabilities
from gluonseg.predict.mxnet_engine import normalise_images
from gluonseg.predict.predictor import Predictor, load_predictor
from gluonseg.predict.view import fit_size
from measured import measure
from picture import draw_noise


@pytest.fixture(scope="module")
def tiny(trained_model: Path) -> Predictor:
    return load_predictor(trained_model)


@pytest.mark.parametrize(("mean", "std"), [(IMAGENET_MEAN, IMAGENET_STD), ((0.1, 0.9, 0.5), (0.3, 0.01, 2.0))])
def test_normalising_by_table_is_normalising_by_arithmetic(mean: Sequence[float], std: Sequence[float]) -> None:
    pictures = draw_noise(3 * 24, 38).reshape(3, 24, 38, 3)
    pictures.setflags(write=False)
    for images in (pictures, pictures[:0], pictures[:, ::-1, 1::3], pictures.transpose(0, 2, 1, 3)):
        wanted = images.astype(np.float32) / np.asarray(255.0 * np.asarray(std), dtype=np.float32)
        wanted -= np.asarray(np.asarray(mean) / np.asarray(std), dtype=np.float32)
        found = normalise_images(images, mean, std)
        assert found.flags.c_contiguous
        np.testing.assert_array_equal(found, wanted.transpose(0, 3, 1, 2))


@pytest.mark.parametrize("limit", [1, 5 * 90, 1 << 22])
@pytest.mark.parametrize("size", [(33, 21), (5, 3), (1, 1), (2, 40)])
@pytest.mark.parametrize("coarse", [(5, 3), (1, 1), (1, 6), (8, 2)])
@pytest.mark.parametrize("align_corners", [True, False])
def test_enlarging_follows_mxnet_and_a_few_cells_at_a_time_give_the_same_mask(
    monkeypatch: pytest.MonkeyPatch, limit: int, size: tuple[int, int], coarse: tuple[int, int], align_corners: bool
) -> None:
    monkeypatch.setattr(enlarge, "MAX_VALUES", limit)
    logits = np.random.default_rng(3).normal(size=(5, *coarse)).astype(np.float32)
    law = {"height": size[0], "width": size[1], "align_corners": align_corners}
    whole = mx.nd.contrib.BilinearResize2D(mx.nd.array(logits[None]), **law)
    np.testing.assert_array_equal(compute_mask(logits, *size, align_corners), whole.argmax(axis=1)[0].asnumpy())
    wanted = mx.nd.softmax(whole, axis=1)[0].asnumpy()
    np.testing.assert_allclose(compute_probabilities(logits, *size, align_corners), wanted, atol=1e-6)


def test_memory_does_not_grow_with_the_square_of_a_side(tmp_path: Path) -> None:
    setup = (
        "import numpy as np\n"
        "from gluonseg.predict.enlarge import compute_probabilities\n"
        "def compute(path):\n"
        "    height, width = map(int, path.read_text().split())\n"
        "    coarse = np.zeros((4, -(-height // 8), -(-width // 8)), np.float32)\n"
        "    assert compute_probabilities(coarse, height, width).shape == (4, height, width)\n"
    )
    for size in ("1 200000", "200000 1"):
        (tmp_path / size).write_text(size)
    for taken in measure(setup, "compute(path)", {path.name: path for path in tmp_path.iterdir()}).values():
        assert taken.outcome == ""
        assert taken.peak_mb < 64


def test_a_thin_picture_is_shortened_for_what_it_is_widened() -> None:
    for height, width in ((1, 50_000_000), (3, 9_000_000), (7000, 7000), (1, 1), (5, 4_000)):
        found = fit_size(height, width, 8, 4_000_000)
        assert found[0] * found[1] <= 4_000_000
        assert min(found) >= 8
        assert fit_size(width, height, 8, 4_000_000) == found[::-1]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (40, 1), (33, 47)])
def test_mask_and_probabilities_agree_at_the_size_of_the_picture(tiny: Predictor, height: int, width: int) -> None:
    picture = draw_noise(height, width)
    probabilities = tiny.predict_probabilities(picture)
    assert probabilities.shape == (4, height, width)
    np.testing.assert_allclose(probabilities.sum(axis=0), 1.0, rtol=1e-5)
    mask = probabilities.argmax(axis=0)
    np.testing.assert_array_equal(tiny.predict_mask(picture), mask)
    found, confidence = tiny.predict_confidence(picture)
    np.testing.assert_array_equal(found, mask)
    np.testing.assert_allclose(confidence, 255 * probabilities.max(axis=0), rtol=0, atol=0.51)


def test_a_large_picture_is_shrunk_for_the_network_only(tiny: Predictor) -> None:
    assert tiny.compute_input_size(2000, 1500) == (2000, 1500)
    height, width = tiny.compute_input_size(6000, 3000)
    assert 3_900_000 < height * width <= 4_000_000
    assert height / width == pytest.approx(2, rel=1e-3)
    small = Predictor(tiny.engine, tiny.card, max_network_pixels=400)
    assert small.compute_input_size(60, 50) == (21, 18)
    assert small.predict_mask(draw_noise(60, 50)).shape == (60, 50)


def test_prediction_size_is_the_long_side_in_the_network(tiny: Predictor) -> None:
    predictor = Predictor(tiny.engine, dataclasses.replace(tiny.card, prediction_size=32))
    assert predictor.compute_input_size(50, 100) == (16, 32)
    assert predictor.predict_mask(draw_noise(50, 100)).shape == (50, 100)


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (0, 8, 3)])
def test_what_is_no_rgb_picture_is_refused(tiny: Predictor, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="an RGB picture"):
        tiny.predict_mask(np.zeros(shape, dtype=np.uint8))
