"""Augmentation: image and mask stay together, and the random law is GluonCV's."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from gluoncv.data.segbase import SegmentationDataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gluonseg.data.transforms import (
    TrainingPolicy,
    Transform,
    build_validation_transform,
    resize_image,
    resize_smoothly,
)
from gluonseg.labels import IGNORE, UInt8Array
from real_photo import find_pet_photos

sizes = st.integers(1, 60)
odd_sizes = st.integers(4, 60).map(lambda half: 2 * half + 1)
"""No pixel's centre lies between two others, where Pillow's choice of the nearest depends on rounding."""


def _draw_smooth(height: int, width: int) -> UInt8Array:
    """A photo-like picture: soft patches of colour."""
    coarse = np.random.default_rng(0).integers(0, 256, (max(2, height // 16), max(2, width // 16), 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _draw_mask(height: int, width: int) -> UInt8Array:
    """Large areas of the class ids 0, 3 and 5."""
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2, : width // 3] = 3
    mask[height // 3 :, width // 2 :] = 5
    return mask


@given(sizes, sizes, st.integers(0, 10**6), st.sampled_from([8, 24, 40]))
def test_image_and_mask_never_diverge(height: int, width: int, seed: int, crop_size: int) -> None:
    """A mask drawn as a picture, transformed as a picture, shows the same areas but for their seams."""
    mask = np.zeros((height, width), np.uint8)
    mask[height // 3 :, width // 2 :] = 1
    transform = TrainingPolicy(30, crop_size).draw(np.random.default_rng(seed), height, width)
    transform = dataclasses.replace(transform, blur_sigma=0.0)
    picture = transform.apply_image(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))[..., 0]
    class_ids = transform.apply_label(mask)
    inside = np.zeros((crop_size, crop_size), bool)
    inside[: transform.height - transform.top, : transform.width - transform.left] = True
    assert (picture[~inside] == 0).all()
    assert (class_ids[~inside] == IGNORE).all()
    assert (class_ids[inside] <= 1).all()
    # A picture is interpolated over a seam: 0 and 255 are certain, and have to be the mask's own.
    assert (class_ids[inside & (picture == 255)] == 1).all()
    assert (class_ids[inside & (picture == 0)] == 0).all()
    seam = inside & (picture > 0) & (picture < 255)
    # One source pixel to each side of both seams.
    reach_y = 2 * max(1, transform.height / height) + 1
    reach_x = 2 * max(1, transform.width / width) + 1
    assert seam.sum() <= crop_size * (reach_x + reach_y)


@given(sizes, sizes, st.integers(0, 10**6))
def test_a_mirrored_crop_is_the_crop_of_the_mirrored_picture(height: int, width: int, seed: int) -> None:
    image = _draw_smooth(height, width)
    mask = image[..., 0].copy()
    for array in (image, mask):
        array.setflags(write=False)  # a data set hands out the same arrays again
    transform = TrainingPolicy(40, 24, colour_jitter=0.1).draw(np.random.default_rng(seed), height, width)
    mirrored, plain = (dataclasses.replace(transform, mirror=mirror) for mirror in (True, False))
    assert (mirrored.apply_label(mask) == plain.apply_label(mask[:, ::-1])).all()
    difference = mirrored.apply_image(image).astype(int) - plain.apply_image(image[:, ::-1])
    assert np.abs(difference).max() <= 3


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


@given(sizes, sizes, sizes, sizes)
def test_a_flat_colour_stays_flat_at_any_size(height: int, width: int, new_height: int, new_width: int) -> None:
    image = np.full((height, width, 3), (7, 130, 255), np.uint8)
    for resize in (resize_smoothly, resize_image):
        resized = resize(image, new_height, new_width)
        assert resized.shape == (new_height, new_width, 3)
        assert (np.abs(resized.astype(int) - image[0, 0]) <= 1).all()


def test_the_blur_is_that_of_the_whole_padded_crop() -> None:
    image = _draw_smooth(20, 30)
    sharp = Transform(20, 30, 0, 0, 48)
    for sigma in (0.3, 0.7, 1.0):
        blurred = dataclasses.replace(sharp, blur_sigma=sigma).apply_image(image)
        reference = cv2.GaussianBlur(sharp.apply_image(image), (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
        assert np.abs(blurred - reference.astype(int)).max() <= 2


class _GluonCV(SegmentationDataset):  # type: ignore[misc]
    """GluonCV's transforms on Pillow pictures, without a data set on disk."""

    def __init__(self, base_size: int, crop_size: int) -> None:
        self.base_size, self.crop_size = base_size, crop_size

    def _img_transform(self, img: Any) -> Any:
        return np.asarray(img)

    _mask_transform = _img_transform


@given(odd_sizes, odd_sizes, st.integers(16, 60))
def test_the_validation_view_is_gluoncvs(height: int, width: int, crop_size: int) -> None:
    image, mask = _draw_smooth(height, width), _draw_mask(height, width)
    theirs, their_mask = _GluonCV(0, crop_size)._val_sync_transform(Image.fromarray(image), Image.fromarray(mask))
    transform = build_validation_transform(height, width, crop_size)
    assert (transform.apply_label(mask) == their_mask).all()
    assert np.abs(transform.apply_image(image).astype(int) - theirs).mean() <= 2


class _Choices:
    """Stands in for ``random`` and for numpy's generator, and chooses the same for both."""

    def __init__(self, mirror: float, blur: float, sigma: float, share: float) -> None:
        self._uniform: Iterator[float] = iter((mirror, blur, sigma))
        self._share = share

    def random(self) -> float:
        return next(self._uniform)

    def randint(self, low: int, high: int) -> int:
        """A whole number from ``low`` to ``high``, both included."""
        return low + round(self._share * (high - low))

    def integers(self, low: int, high: int) -> int:
        return self.randint(low, high - 1)

    def uniform(self, _low: float, _high: float, size: int) -> npt.NDArray[np.float64]:
        return np.zeros(size)


uniform = st.floats(0, 1, exclude_max=True)


@given(odd_sizes, odd_sizes, st.integers(16, 60), st.tuples(uniform, uniform, uniform, st.floats(0, 1)))
def test_the_random_law_is_gluoncvs(
    height: int, width: int, crop_size: int, choices: tuple[float, float, float, float]
) -> None:
    """The same choices out of the same ranges give the same crop of image and mask."""
    image, mask = _draw_smooth(height, width), _draw_mask(height, width)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gluoncv.data.segbase.random", _Choices(*choices))
        theirs, their_mask = _GluonCV(50, crop_size)._sync_transform(Image.fromarray(image), Image.fromarray(mask))
    rng: Any = _Choices(*choices)
    transform = TrainingPolicy(50, crop_size).draw(rng, height, width)
    class_ids = transform.apply_label(mask)
    # GluonCV takes padding for class 0.
    assert (np.where(class_ids == IGNORE, 0, class_ids) == their_mask).all()
    assert np.abs(transform.apply_image(image).astype(int) - theirs).mean() <= 2


def _draw_squares(height: int, width: int) -> UInt8Array:
    """A mask of class ids 1 to 200 in squares of 8 pixels."""
    rows, columns = np.mgrid[:height, :width] // 8
    return np.asarray(1 + (rows * 17 + columns * 5) % 200, np.uint8)


@given(sizes, sizes, st.integers(0, 10**6), st.sampled_from([8, 24, 40]))
def test_rotated_image_and_mask_never_diverge(height: int, width: int, seed: int, crop_size: int) -> None:
    mask = np.zeros((height, width), np.uint8)
    mask[height // 3 :, width // 2 :] = 1
    policy = TrainingPolicy(30, crop_size, rotation=180, vertical_flip=True)
    transform = dataclasses.replace(policy.draw(np.random.default_rng(seed), height, width), blur_sigma=0.0)
    # The picture is never black, so padding is what is.
    picture = transform.apply_image(np.repeat(mask[..., None] * np.uint8(200) + np.uint8(55), 3, axis=2))[..., 0]
    class_ids = transform.apply_label(mask)
    assert ((picture == 0) == (class_ids == IGNORE)).all()
    assert (class_ids[picture == 255] == 1).all()
    assert (class_ids[picture == 55] == 0).all()


@pytest.mark.parametrize(("angle", "turns"), [(90.0, 1), (180.0, 2), (-90.0, 3)])
@pytest.mark.parametrize("flips", [(False, False), (True, False), (False, True), (True, True)])
def test_quarter_turns_are_exact(angle: float, turns: int, flips: tuple[bool, bool]) -> None:
    """Counterclockwise, after mirroring; on both as numpy does it."""
    mask = _draw_squares(32, 32)
    image = np.repeat(mask[..., None], 3, axis=2)
    mirror, flip = flips
    flipped = mask[:: -1 if flip else 1, :: -1 if mirror else 1]
    for degrees, quarter_turns in ((angle, turns), (0.0, 0)):
        transform = Transform(32, 32, 0, 0, 32, mirror=mirror, flip=flip, angle=degrees)
        expected = np.rot90(flipped, quarter_turns)
        np.testing.assert_array_equal(transform.apply_label(mask), expected)
        np.testing.assert_array_equal(transform.apply_image(image)[..., 0], expected)


def test_a_small_angle_is_opencvs_rotation_of_the_whole_picture() -> None:
    image = _draw_smooth(90, 120)
    transform = Transform(90, 120, 20, 30, 48, angle=17.0)
    turn = cv2.getRotationMatrix2D((30 + 23.5, 20 + 23.5), 17.0, 1.0)
    whole = np.asarray(cv2.warpAffine(image, turn, (120, 90)))
    assert np.abs(transform.apply_image(image) - whole[20:68, 30:78].astype(int)).max() <= 3


@given(sizes, sizes, st.integers(0, 10**6))
def test_a_flipped_crop_is_the_crop_of_the_flipped_picture(height: int, width: int, seed: int) -> None:
    image = _draw_smooth(height, width)
    mask = image[..., 0].copy()
    transform = TrainingPolicy(40, 24).draw(np.random.default_rng(seed), height, width)
    flipped = dataclasses.replace(transform, flip=True)
    assert (flipped.apply_label(mask) == transform.apply_label(mask[::-1])).all()
    difference = flipped.apply_image(image).astype(int) - transform.apply_image(image[::-1])
    assert np.abs(difference).max() <= 3


def test_rotation_and_flip_are_drawn_where_they_are_asked_for_and_change_nothing_else() -> None:
    plain, policy = TrainingPolicy(64, 32), TrainingPolicy(64, 32, rotation=15, vertical_flip=True)
    drawn = [policy.draw(np.random.default_rng(seed), 50, 50) for seed in range(200)]
    expected = [plain.draw(np.random.default_rng(seed), 50, 50) for seed in range(200)]
    assert [dataclasses.replace(one, flip=False, angle=0.0) for one in drawn] == expected
    angles = np.array([one.angle for one in drawn])
    assert (angles.min() < -13, angles.max() > 13, np.abs(angles).max() <= 15) == (True, True, True)
    assert 80 < sum(one.flip for one in drawn) < 120


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
