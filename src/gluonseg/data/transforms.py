"""Augmentation in two halves: a random policy draws a deterministic transform.

The policy decides, the transform does: one :class:`Transform` is applied to an image and its mask alike,
so the two cannot drift apart, and what was drawn can be looked at, stored and repeated.

The law is that of GluonCV's ``SegmentationDataset`` (which the built-in algorithm uses): mirror with
probability 1/2; long side to a whole number drawn from ``base_size`` times 0.5 to 2; padding right and below
up to the crop; a random crop; with probability 1/2 a Gaussian blur of sigma 0..1 pixels. It differs in two
points: padding of a mask is :data:`~gluonseg.labels.IGNORE`, where GluonCV fills in class 0, and OpenCV resizes
(area mean when shrinking) where GluonCV has Pillow do it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from gluonseg.labels import IGNORE

UInt8Array = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Transform:
    """Mirror, resize to ``height`` x ``width``, cut ``crop_size`` squared at (top, left), blur, colour.

    Sizes and offsets are in pixels of the resized picture, ``blur_sigma`` too (0 = none). Where the
    crop reaches past the picture it is padded: 0 in the image, ignore in the mask. ``brightness``,
    ``contrast`` and ``saturation`` are factors (1 = unchanged), applied to the image only.
    """

    height: int
    width: int
    top: int
    left: int
    crop_size: int
    mirror: bool = False
    blur_sigma: float = 0.0
    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0

    def apply_image(self, image_hwc: UInt8Array) -> UInt8Array:
        """Transform an RGB image (H, W, 3) uint8 into (crop_size, crop_size, 3) uint8."""
        source = image_hwc[:, ::-1] if self.mirror else image_hwc
        crop = self._cut_image(np.ascontiguousarray(source))
        if self.blur_sigma > 0:
            # BORDER_REPLICATE: Pillow's blur, which GluonCV uses, extends the edge as well.
            blurred = cv2.GaussianBlur(crop, (0, 0), self.blur_sigma, borderType=cv2.BORDER_REPLICATE)
            crop = np.asarray(blurred, dtype=np.uint8)
        return self._adjust_colour(crop)

    def apply_label(self, label_hw: UInt8Array) -> UInt8Array:
        """Transform a mask of class ids (H, W) uint8 into (crop_size, crop_size) uint8, by nearest."""
        source = label_hw[:, ::-1] if self.mirror else label_hw
        rows = _nearest_indices(source.shape[0], self.height)[self.top : self.top + self.crop_size]
        columns = _nearest_indices(source.shape[1], self.width)[self.left : self.left + self.crop_size]
        crop = np.full((self.crop_size, self.crop_size), IGNORE, dtype=np.uint8)
        crop[: rows.size, : columns.size] = source[rows[:, None], columns]
        return crop

    def _cut_image(self, source: UInt8Array) -> UInt8Array:
        resized = resize_image(source, self.height, self.width)
        part = resized[self.top : self.top + self.crop_size, self.left : self.left + self.crop_size]
        crop = np.zeros((self.crop_size, self.crop_size, 3), dtype=np.uint8)
        crop[: part.shape[0], : part.shape[1]] = part
        return crop

    def _adjust_colour(self, crop: UInt8Array) -> UInt8Array:
        if self.brightness == self.contrast == self.saturation == 1.0:
            return crop
        values = crop.astype(np.float32) * np.float32(self.brightness)
        values = (values - values.mean()) * np.float32(self.contrast) + values.mean()
        grey = values @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        values = grey[..., None] + (values - grey[..., None]) * np.float32(self.saturation)
        return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)


def resize_image(image_hwc: UInt8Array, height: int, width: int) -> UInt8Array:
    """Resize an RGB image (H, W, 3) uint8 to (height, width, 3): area mean when shrinking, else bilinear."""
    if image_hwc.shape[:2] == (height, width):
        return image_hwc
    shrinking = height < image_hwc.shape[0]
    method = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image_hwc, (width, height), interpolation=method), dtype=np.uint8)


def _nearest_indices(source_size: int, target_size: int) -> npt.NDArray[np.intp]:
    """Source index under the centre of each target pixel (the rule of Pillow's NEAREST)."""
    centres = (np.arange(target_size) + 0.5) * (source_size / target_size)
    return np.asarray(np.minimum(centres.astype(np.intp), source_size - 1), dtype=np.intp)


def compute_long_side_size(height: int, width: int, long_side: int) -> tuple[int, int]:
    """Return (height, width) in proportion with the longer one equal to ``long_side``, each at least 1."""
    if height > width:
        return long_side, max(1, int(width * long_side / height + 0.5))
    return max(1, int(height * long_side / width + 0.5)), long_side


def compute_short_side_size(height: int, width: int, short_side: int) -> tuple[int, int]:
    """Return (height, width) in proportion with the shorter one equal to ``short_side``."""
    if width > height:
        return short_side, max(short_side, int(width * short_side / height))
    return max(short_side, int(height * short_side / width)), short_side


@dataclass(frozen=True)
class TrainingPolicy:
    """Draws the training transform of one sample; ``colour_jitter`` 0 is the built-in's law."""

    base_size: int
    crop_size: int
    scale_min: float = 0.5
    scale_max: float = 2.0
    colour_jitter: float = 0.0

    def draw(self, rng: np.random.Generator, height: int, width: int) -> Transform:
        """Draw the transform for a picture of ``height`` x ``width`` pixels."""
        mirror = bool(rng.random() < 0.5)
        low, high = int(self.base_size * self.scale_min), int(self.base_size * self.scale_max)
        long_side = max(1, int(rng.integers(low, high + 1)))
        scaled_height, scaled_width = compute_long_side_size(height, width, long_side)
        top = int(rng.integers(0, max(scaled_height - self.crop_size, 0) + 1))
        left = int(rng.integers(0, max(scaled_width - self.crop_size, 0) + 1))
        sigma = float(rng.random()) if rng.random() < 0.5 else 0.0
        factors = 1.0 + self.colour_jitter * rng.uniform(-1.0, 1.0, size=3)
        return Transform(
            scaled_height, scaled_width, top, left, self.crop_size, mirror, sigma, *(float(f) for f in factors)
        )


def build_validation_transform(height: int, width: int, crop_size: int) -> Transform:
    """The built-in's validation view: short side to ``crop_size``, then the centre square."""
    scaled_height, scaled_width = compute_short_side_size(height, width, crop_size)
    # round() rounds halves to even, exactly as GluonCV's _val_sync_transform does.
    top, left = round((scaled_height - crop_size) / 2), round((scaled_width - crop_size) / 2)
    return Transform(scaled_height, scaled_width, top, left, crop_size)
