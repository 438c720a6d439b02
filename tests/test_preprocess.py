"""Normalisation by table is normalisation by arithmetic, to the last bit."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gluonseg.models.folder.card import IMAGENET_MEAN, IMAGENET_STD
from gluonseg.predict.preprocess import normalise_images
from picture import draw_noise


def _compute(
    images_nhwc: npt.NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]
) -> npt.NDArray[np.float32]:
    values = images_nhwc.astype(np.float32) / np.asarray(255.0 * np.asarray(std), dtype=np.float32)
    values -= np.asarray(np.asarray(mean) / np.asarray(std), dtype=np.float32)
    return np.asarray(values.transpose(0, 3, 1, 2))


@given(st.integers(0, 3), st.integers(1, 40), st.integers(1, 40))
def test_values_are_exact_at_any_size(count: int, height: int, width: int) -> None:
    images = draw_noise(count * height, width).reshape(count, height, width, 3)
    found = normalise_images(images)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.array_equal(found, _compute(images, IMAGENET_MEAN, IMAGENET_STD))


@pytest.mark.parametrize(("mean", "std"), [((0.0,) * 3, (1.0,) * 3), ((0.1, 0.9, 0.5), (0.3, 0.01, 2.0))])
def test_another_mean_and_deviation(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    assert np.array_equal(normalise_images(images, mean, std), _compute(images, mean, std))


def test_any_layout_in_memory_and_read_only() -> None:
    images = draw_noise(12, 20)[None]
    images.setflags(write=False)
    for view in (images[:, ::-1, ::-1], images[:, 1::2, ::3], images.transpose(0, 2, 1, 3)):
        assert np.array_equal(normalise_images(view), _compute(view, IMAGENET_MEAN, IMAGENET_STD))
