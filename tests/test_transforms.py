"""Augmentation: image and mask stay together, and the random law is GluonCV's."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from gluoncv.data.segbase import SegmentationDataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from gluonseg.data.transforms import (
    TrainingPolicy,
    Transform,
    build_validation_transform,
    compute_long_side_size,
    compute_short_side_size,
    resize_image,
    resize_smoothly,
)
from gluonseg.labels import IGNORE
from real_photo import find_pet_photos

UInt8Array = npt.NDArray[np.uint8]
DRAWS = 3000
KS_LEVEL = 2.225
"""sqrt(-ln(p / 2) / 2) for p = 0.0001; seeds are fixed, so that a test fails always or never."""


def _draw_smooth(height: int, width: int, seed: int = 0) -> UInt8Array:
    """A photo-like picture: soft patches of colour."""
    coarse = np.random.default_rng(seed).integers(
        0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8
    )
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _draw_mask(height: int, width: int) -> UInt8Array:
    """Large areas of the class ids 0, 3 and 5."""
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2, : width // 3] = 3
    mask[height // 3 :, width // 2 :] = 5
    return mask


sizes = st.integers(1, 60)


@given(sizes, sizes, st.integers(0, 10**6), st.sampled_from([8, 24, 40]))
def test_image_and_mask_never_diverge(height: int, width: int, seed: int, crop_size: int) -> None:
    """A mask drawn as a picture, transformed as a picture, shows the same areas but for their seams."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 3 :, width // 2 :] = 1
    transform = TrainingPolicy(30, crop_size).draw(np.random.default_rng(seed), height, width)
    transform = dataclasses.replace(transform, blur_sigma=0.0)
    picture = transform.apply_image(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))[..., 0]
    class_ids = transform.apply_label(mask)
    inside = class_ids != IGNORE
    assert (picture[~inside] == 0).all()
    # A picture is interpolated over a seam: 0 and 255 are certain, and have to be the mask's own.
    assert (class_ids[inside & (picture == 255)] == 1).all()
    assert (class_ids[inside & (picture == 0)] == 0).all()
    seam = inside & (picture > 0) & (picture < 255)
    # One source pixel to each side of both seams.
    reach_y = 2 * max(1, transform.height / height) + 1
    reach_x = 2 * max(1, transform.width / width) + 1
    assert seam.sum() <= crop_size * (reach_x + reach_y)


@given(st.integers(4, 60), st.integers(4, 60), st.integers(0, 10**6))
def test_no_new_labels_and_padding_is_ignore(height: int, width: int, seed: int) -> None:
    mask = _draw_mask(height, width)
    transform = TrainingPolicy(40, 32, colour_jitter=0.5).draw(np.random.default_rng(seed), height, width)
    crop = transform.apply_label(mask)
    assert crop.shape == (32, 32)
    assert crop.dtype == np.uint8
    rows, columns = min(transform.height - transform.top, 32), min(transform.width - transform.left, 32)
    assert set(np.unique(crop[:rows, :columns])) <= {0, 3, 5}
    assert (crop[rows:] == IGNORE).all()
    assert (crop[:, columns:] == IGNORE).all()


def test_padding_of_the_image_is_black() -> None:
    white = np.full((10, 20, 3), 255, np.uint8)
    crop = Transform(10, 20, 0, 0, 32).apply_image(white)
    assert crop.shape == (32, 32, 3)
    assert (crop[:10, :20] == 255).all()
    assert (crop[10:] == 0).all()
    assert (crop[:, 20:] == 0).all()


def test_mirror_is_exact() -> None:
    image, mask = _draw_smooth(32, 32), _draw_mask(32, 32)
    plain, mirrored = Transform(32, 32, 0, 0, 32), Transform(32, 32, 0, 0, 32, mirror=True)
    assert (plain.apply_image(image) == image).all()
    assert (plain.apply_label(mask) == mask).all()
    assert (mirrored.apply_image(image) == image[:, ::-1]).all()
    assert (mirrored.apply_label(mask) == mask[:, ::-1]).all()


def test_ignore_stays_ignore_and_input_is_left_alone() -> None:
    image, mask = _draw_smooth(20, 30), np.full((20, 30), IGNORE, np.uint8)
    image.setflags(write=False)
    mask.setflags(write=False)
    transform = Transform(40, 60, 3, 5, 24, mirror=True, blur_sigma=0.7, brightness=1.3)
    first, second = transform.apply_image(image), transform.apply_image(image)
    assert (first == second).all()
    assert (transform.apply_label(mask) == IGNORE).all()


def test_the_same_generator_state_draws_the_same_transform() -> None:
    policy = TrainingPolicy(64, 32, colour_jitter=0.3)
    first, second = (policy.draw(np.random.default_rng([7, 1]), 50, 70) for _ in range(2))
    assert first == second
    assert first != policy.draw(np.random.default_rng([7, 2]), 50, 70)


def _measure_difference(image: UInt8Array, other: UInt8Array) -> float:
    """Mean over pixels of what Pillow's bilinear resizing of ``image`` to the size of ``other`` differs from it."""
    size = (other.shape[1], other.shape[0])
    reference = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
    return float(np.abs(other.astype(int) - reference).mean())


@pytest.mark.parametrize("scale", [0.13, 0.26, 0.49, 0.52, 0.75, 0.99, 1.5, 2.08])
def test_real_photos_are_resized_nearly_as_pillow_does(scale: float) -> None:
    differences = []
    for file in sorted((find_pet_photos() / "images").glob("*.jpg"))[::50]:
        image = np.asarray(Image.open(file).convert("RGB"))
        height, width = (round(size * scale) for size in image.shape[:2])
        differences.append(_measure_difference(image, resize_smoothly(image, height, width)))
    assert np.mean(differences) <= 1
    assert max(differences) <= 4


@pytest.mark.parametrize("size", [110, 70, 61, 47, 30, 21])
def test_stripes_finer_than_the_pixels_fade(size: int) -> None:
    """As they do with Pillow, where bilinear interpolation alone shows other stripes in their place."""
    stripes = np.zeros((120, 120, 3), np.uint8)
    stripes[:, ::2] = 255
    alone = np.asarray(cv2.resize(stripes, (size, size)), dtype=np.uint8)
    difference = _measure_difference(stripes, resize_smoothly(stripes, size, size))
    assert difference <= 0.7 * _measure_difference(stripes, alone) + 1


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.integers(1, 90))
def test_a_flat_colour_stays_flat_at_any_size(height: int, width: int, new_height: int, new_width: int) -> None:
    image = np.full((height, width, 3), (7, 130, 255), np.uint8)
    resized = resize_smoothly(image, new_height, new_width)
    assert resized.shape == (new_height, new_width, 3)
    assert (np.abs(resized.astype(int) - image[0, 0]) <= 1).all()


@given(sizes, sizes, st.integers(0, 10**6))
def test_a_mirrored_crop_is_the_crop_of_the_mirrored_picture(height: int, width: int, seed: int) -> None:
    image = _draw_smooth(height, width)
    mask = image[..., 0].copy()
    transform = TrainingPolicy(40, 24).draw(np.random.default_rng(seed), height, width)
    mirrored, plain = (dataclasses.replace(transform, mirror=mirror) for mirror in (True, False))
    assert (mirrored.apply_label(mask) == plain.apply_label(mask[:, ::-1])).all()
    difference = mirrored.apply_image(image).astype(int) - plain.apply_image(image[:, ::-1])
    assert np.abs(difference).max() <= 2


def test_the_blur_is_that_of_the_whole_padded_crop() -> None:
    """It is confined to the picture and what the kernel reaches beyond it."""
    image = _draw_smooth(20, 30)
    sharp = Transform(20, 30, 0, 0, 48).apply_image(image)
    blurred = Transform(20, 30, 0, 0, 48, blur_sigma=0.9).apply_image(image)
    reference = cv2.GaussianBlur(sharp, (0, 0), 0.9, borderType=cv2.BORDER_REPLICATE).astype(int)
    assert np.abs(blurred - reference).max() <= 2
    assert blurred[20, :30].any()
    assert not blurred[22:].any()


def test_blur_is_near_pillows() -> None:
    image = _draw_smooth(64, 64)
    sharp = Transform(64, 64, 0, 0, 64)
    for sigma in (0.3, 0.7, 1.0):
        blurred = dataclasses.replace(sharp, blur_sigma=sigma).apply_image(image).astype(int)
        reference = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma))).astype(int)
        assert np.abs(blurred - reference).max() <= 3


@given(st.integers(1, 700), st.integers(1, 700), st.integers(8, 300))
def test_validation_geometry_is_gluoncvs(height: int, width: int, crop_size: int) -> None:
    """Sizes and offsets as ``_val_sync_transform`` computes them, on pictures that it can take."""
    transform = build_validation_transform(height, width, crop_size)
    if width > height:
        scaled = (crop_size, int(1.0 * width * crop_size / height))
    else:
        scaled = (int(1.0 * height * crop_size / width), crop_size)
    assert (transform.height, transform.width) == scaled
    assert transform.top == round((scaled[0] - crop_size) / 2.0)
    assert transform.left == round((scaled[1] - crop_size) / 2.0)
    assert (transform.mirror, transform.blur_sigma) == (False, 0.0)


class _GluonCV(SegmentationDataset):  # type: ignore[misc]
    """GluonCV's transforms on Pillow pictures, without a data set on disk."""

    def __init__(self, base_size: int, crop_size: int) -> None:
        self.base_size, self.crop_size = base_size, crop_size

    def _img_transform(self, img: Any) -> Any:
        return np.asarray(img)

    _mask_transform = _img_transform


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (33, 35), (31, 97), (8, 8), (200, 123)])
def test_validation_mask_is_gluoncvs_pixel_by_pixel(size: tuple[int, int]) -> None:
    image, mask = _draw_smooth(*size), _draw_mask(*size)
    theirs, their_mask = _GluonCV(0, 32)._val_sync_transform(Image.fromarray(image), Image.fromarray(mask))
    transform = build_validation_transform(*size, 32)
    assert (transform.apply_label(mask) == their_mask).all()
    difference = np.abs(transform.apply_image(image).astype(int) - theirs.astype(int))
    assert difference.mean() <= 2


class _Recorder:
    """Stands in for a Pillow picture and notes what GluonCV's random transform does to it."""

    def __init__(self, width: int, height: int, log: dict[str, float]) -> None:
        self.size, self._log = (width, height), log

    def transpose(self, _method: Any) -> _Recorder:
        self._log["mirror"] = 1.0
        return self

    def resize(self, size: tuple[int, int], _filter: Any) -> _Recorder:
        self._log["long"] = float(max(size))
        return _Recorder(*size, self._log)

    def crop(self, box: tuple[int, int, int, int]) -> _Recorder:
        free = (self.size[0] - (box[2] - box[0]), self.size[1] - (box[3] - box[1]))
        for name, start, room in zip(("left", "top"), box, free, strict=False):
            if room:
                self._log[name] = start / room
        return self

    def filter(self, blur: Any) -> _Recorder:
        self._log["sigma"] = blur.radius
        return self

    def __array__(self, *_: Any, **__: Any) -> UInt8Array:
        return np.zeros((1, 1), np.uint8)


def _draw_theirs(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, base: int, crop: int
) -> list[dict[str, float]]:
    def expand(picture: _Recorder, border: tuple[int, int, int, int], fill: int) -> _Recorder:
        return _Recorder(picture.size[0] + border[2], picture.size[1] + border[3], picture._log)

    monkeypatch.setattr("gluoncv.data.segbase.ImageOps.expand", expand)
    random.seed(11)
    logs = []
    for _ in range(DRAWS):
        log: dict[str, float] = {}
        # The mask is another recorder, whose crop is the same one.
        _GluonCV(base, crop)._sync_transform(_Recorder(width, height, log), _Recorder(width, height, {}))
        logs.append(log)
    return logs


def _draw_ours(height: int, width: int, base: int, crop: int) -> list[dict[str, float]]:
    policy, rng = TrainingPolicy(base, crop), np.random.default_rng(11)
    logs = []
    for _ in range(DRAWS):
        t = policy.draw(rng, height, width)
        log = {"long": float(max(t.height, t.width))}
        for name, start, size in (("left", t.left, t.width), ("top", t.top, t.height)):
            if size > crop:
                log[name] = start / (size - crop)
        if t.mirror:
            log["mirror"] = 1.0
        if t.blur_sigma:
            log["sigma"] = t.blur_sigma
        logs.append(log)
    return logs


def _compute_ks_distance(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Kolmogorov and Smirnov: the greatest distance between two empirical distribution functions."""
    places = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(found), places, side="right") / len(found) for found in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


@pytest.mark.parametrize(("height", "width", "base", "crop"), [(375, 500, 520, 240), (64, 48, 100, 96)])
def test_the_random_law_is_gluoncvs(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, base: int, crop: int
) -> None:
    theirs, ours = _draw_theirs(monkeypatch, height, width, base, crop), _draw_ours(height, width, base, crop)
    for name in ("long", "left", "top", "sigma"):
        values = [np.array([log[name] for log in logs if name in log]) for logs in (theirs, ours)]
        assert all(len(found) > DRAWS / 10 for found in values), name
        assert _compute_ks_distance(*values) < KS_LEVEL * sum(1 / len(found) for found in values) ** 0.5, name
    for name in ("mirror", "sigma", "left", "top"):
        counts = [sum(name in log for log in logs) for logs in (theirs, ours)]
        # Two binomials: their difference has a variance of at most DRAWS / 2.
        assert abs(counts[0] - counts[1]) < 4 * (DRAWS / 2) ** 0.5, name
    lengths = [log["long"] for log in ours]
    assert min(lengths) >= int(base * 0.5)
    assert max(lengths) <= int(base * 2.0)


def test_both_ends_of_the_scale_are_drawn() -> None:
    policy, rng = TrainingPolicy(10, 8), np.random.default_rng(0)
    assert {policy.draw(rng, 10, 10).height for _ in range(500)} == set(range(5, 21))


def test_crop_offsets_reach_both_ends() -> None:
    policy, rng = TrainingPolicy(10, 8, scale_min=1.0, scale_max=1.0), np.random.default_rng(0)
    assert {policy.draw(rng, 10, 10).top for _ in range(100)} == {0, 1, 2}


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 600))
def test_scaled_sizes_keep_the_longer_or_shorter_side(height: int, width: int, side: int) -> None:
    assert max(compute_long_side_size(height, width, side)) == side
    assert min(compute_long_side_size(height, width, side)) >= 1
    assert min(compute_short_side_size(height, width, side)) == side


def test_colour_jitter_is_off_by_default_and_within_bounds() -> None:
    rng = np.random.default_rng(0)
    assert all(TrainingPolicy(64, 32).draw(rng, 50, 50).contrast == 1.0 for _ in range(20))
    drawn = [TrainingPolicy(64, 32, colour_jitter=0.2).draw(rng, 50, 50) for _ in range(200)]
    factors = np.array([(t.brightness, t.contrast, t.saturation) for t in drawn])
    assert 0.8 <= factors.min() < 0.85
    assert 1.15 < factors.max() <= 1.2


def test_colour_factors_do_what_they_say() -> None:
    image = _draw_smooth(16, 16)
    plain = Transform(16, 16, 0, 0, 16)
    brighter = dataclasses.replace(plain, brightness=1.5).apply_image(image)
    assert np.abs(brighter - np.clip(image * 1.5, 0, 255)).max() <= 1
    grey = dataclasses.replace(plain, saturation=0.0).apply_image(image)
    assert (grey == grey[..., :1]).all()
    flat = dataclasses.replace(plain, contrast=0.0).apply_image(image)
    assert np.ptp(flat) <= 1


def test_resize_to_the_same_size_copies_nothing() -> None:
    image = _draw_smooth(9, 7)
    assert resize_image(image, 9, 7) is image
