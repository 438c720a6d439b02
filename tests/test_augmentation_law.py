"""The law of the augmentation is GluonCV's: its own code draws beside ours, and the samples are compared."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from gluoncv.data.segbase import SegmentationDataset
from PIL import Image
from scipy.stats import fisher_exact, ks_2samp

from gluonseg.data.transforms import TrainingPolicy, Transform
from picture import draw_noise

DRAWS = 20_000
BASE, CROP, WIDTH, HEIGHT = 128, 40, 640, 480
"""So that no picture is smaller than the crop, which GluonCV would pad before it draws."""


class _Recorder:
    """Stands in for a picture, and notes what is asked of it."""

    def __init__(self) -> None:
        self.size = (WIDTH, HEIGHT)
        self.found = {"mirror": 0.0, "sigma": 0.0}

    def transpose(self, _method: Any) -> _Recorder:
        self.found["mirror"] = 1.0
        return self

    def resize(self, size: tuple[int, int], _method: Any) -> _Recorder:
        self.size = size
        self.found |= {"width": size[0], "height": size[1]}
        return self

    def crop(self, box: tuple[int, int, int, int]) -> _Recorder:
        self.found |= {"left": box[0], "top": box[1]}
        return self

    def filter(self, blur: Any) -> _Recorder:
        self.found["sigma"] = float(np.ravel(blur.radius)[0])
        return self


class _Drawing(SegmentationDataset):  # type: ignore[misc]
    def __init__(self) -> None:
        self.base_size, self.crop_size = BASE, CROP

    def _img_transform(self, img: Any) -> Any:
        return img

    def _mask_transform(self, mask: Any) -> Any:
        return mask


def _draw_theirs() -> list[dict[str, float]]:
    random.seed(11)
    found, data = [], _Drawing()
    for _ in range(DRAWS):
        recorder = _Recorder()
        data._sync_transform(recorder, _Recorder())
        found.append(recorder.found)
    return found


def _describe(one: Transform) -> dict[str, float]:
    sizes = {"width": one.width, "height": one.height, "left": one.left, "top": one.top}
    return {**sizes, "mirror": float(one.mirror), "sigma": one.blur_sigma}


def _draw_ours() -> list[dict[str, float]]:
    policy, rng = TrainingPolicy(BASE, CROP), np.random.default_rng(12)
    return [_describe(policy.draw(rng, HEIGHT, WIDTH)) for _ in range(DRAWS)]


@pytest.fixture(scope="module")
def draws() -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    return _draw_ours(), _draw_theirs()


@pytest.mark.parametrize("name", ["width", "height", "left", "top", "sigma"])
def test_the_draws_have_one_distribution(draws: Any, name: str) -> None:
    ours, theirs = ([draw[name] for draw in some] for some in draws)
    assert ks_2samp(ours, theirs).pvalue > 0.01


@pytest.mark.parametrize("name", ["mirror", "sigma"])
def test_as_many_are_mirrored_and_blurred(draws: Any, name: str) -> None:
    table = [[sum(draw[name] > 0 for draw in some), sum(draw[name] == 0 for draw in some)] for some in draws]
    assert fisher_exact(table).pvalue > 0.01


def _smooth_photo(height: int, width: int) -> npt.NDArray[np.uint8]:
    small = Image.fromarray(draw_noise(height // 6, width // 6, seed=3))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("long_side", [250, 310, 400, 500, 640, 800, 1000])
def test_without_augmentation_the_crop_is_pillows(long_side: int) -> None:
    photo = _smooth_photo(375, 500)
    height, width = round(375 * long_side / 500), long_side
    crop = Transform(height, width, 20, 30, 200).apply_image(photo)
    resized = np.array(Image.fromarray(photo).resize((width, height), Image.Resampling.BILINEAR))
    wanted = np.zeros_like(crop)
    part = resized[20:220, 30:230]
    wanted[: part.shape[0], : part.shape[1]] = part
    assert np.abs(crop.astype(int) - wanted).mean() < 2


def test_no_label_is_made_up() -> None:
    policy, rng = TrainingPolicy(520, 480), np.random.default_rng(0)
    labels = np.where(draw_noise(300, 400, seed=1)[..., 0] > 128, 7, 2).astype(np.uint8)
    for _ in range(30):
        found = policy.draw(rng, 300, 400).apply_label(labels)
        assert set(np.unique(found)) <= {2, 7, 255}
