"""Augmentation in two halves: a random policy draws a deterministic transform.

The policy decides, the transform does: one :class:`Transform` is applied to an image and its mask alike,
so the two cannot drift apart, and what was drawn can be looked at, stored and repeated.

The law is that of GluonCV's ``SegmentationDataset`` (which the built-in algorithm uses): mirror with
probability 1/2; long side to a whole number drawn from ``base_size`` times 0.5 to 2; padding right and below
up to the crop; a random crop; with probability 1/2 a Gaussian blur of sigma 0..1 pixels. It differs in two
points: padding of a mask is :data:`~gluonseg.labels.IGNORE`, where GluonCV fills in class 0, and OpenCV resizes
and blurs where GluonCV has Pillow do it. Pictures are the same to within a grey level or so. Rotation, vertical flip,
a change of colours and crops that show rare classes are added where they are asked for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from gluonseg.labels import IGNORE, UInt8Array

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.intp]

BLUR_REACH = 2
"""Pixels to each side that the blur of training looks at; the third has a weight below 1/200 at sigma 1."""
NO_BLUR = 0.28
"""Below this sigma (pixels) a neighbour's weight is less than half of 1/256: 8-bit pixels do not change."""
LEAST_BLUR = 0.01
"""Blurring before shrinking is left out when a neighbour would weigh less."""


@dataclass(frozen=True)
class Transform:
    """Mirror, resize to ``height`` x ``width``, rotate, cut ``crop_size`` squared at (top, left), blur, colour.

    Sizes and offsets are in pixels of the resized picture, ``blur_sigma`` too (0 = none). ``mirror`` exchanges left
    and right, ``flip`` top and bottom. ``angle`` is in degrees, counterclockwise, about the centre of what the crop
    shows of the picture; what comes into the crop by it is shown. Where the crop reaches past the picture it is
    padded: 0 in the image, ignore in the mask. ``brightness``, ``contrast`` and ``saturation`` are factors (1 =
    unchanged), applied to the image only.
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
    flip: bool = False
    angle: float = 0.0

    def apply_image(self, image_hwc: UInt8Array) -> UInt8Array:
        """Transform an RGB image (H, W, 3) uint8 into (crop_size, crop_size, 3) uint8."""
        resized = resize_smoothly(np.ascontiguousarray(image_hwc), self.height, self.width)
        if self.angle:
            crop = self._rotate_image(resized)
            _blur(crop, self.blur_sigma)
            return self._adjust_colour(crop)
        rows, columns = self._find_window()
        part = resized[rows, columns]
        height, width = part.shape[:2]
        crop = np.empty((self.crop_size, self.crop_size, 3), dtype=np.uint8)
        crop[:height, :width] = self._flip(part)
        crop[height:] = 0
        crop[:height, width:] = 0
        # Pixels further from the picture than the blur reaches stay black.
        _blur(crop[: height + BLUR_REACH, : width + BLUR_REACH], self.blur_sigma)
        return self._adjust_colour(crop)

    def apply_label(self, label_hw: UInt8Array) -> UInt8Array:
        """Transform a mask of class ids (H, W) uint8 into (crop_size, crop_size) uint8, by nearest."""
        if self.angle:
            return self._rotate_label(label_hw)
        rows = _nearest_indices(label_hw.shape[0], self.height)[self.top : self.top + self.crop_size]
        columns = _nearest_indices(label_hw.shape[1], self.width)[self.left : self.left + self.crop_size]
        if self.mirror:
            columns = label_hw.shape[1] - 1 - columns
        if self.flip:
            rows = label_hw.shape[0] - 1 - rows
        crop = np.full((self.crop_size, self.crop_size), IGNORE, dtype=np.uint8)
        crop[: rows.size, : columns.size] = _pick_pixels(label_hw, rows, columns)
        return crop

    def _find_window(self) -> tuple[slice, slice]:
        """Rows and columns of the resized picture that the crop shows, before mirroring and without rotation."""
        starts, sizes = (self.top, self.left), (self.height, self.width)
        windows = []
        for start, size, is_reversed in zip(starts, sizes, (self.flip, self.mirror), strict=True):
            end = min(start + self.crop_size, size)
            windows.append(slice(size - end, size - start) if is_reversed else slice(start, end))
        return windows[0], windows[1]

    def _flip(self, part: UInt8Array) -> UInt8Array:
        if not self.mirror and not self.flip:
            return part
        code = (-1 if self.flip else 1) if self.mirror else 0  # OpenCV's: both, left and right, top and bottom
        return np.asarray(cv2.flip(part, code), dtype=np.uint8)

    def _find_sources(self) -> tuple[FloatArray, FloatArray, BoolArray]:
        """Row and column in the resized picture of each pixel of the rotated crop, and whether it is in the picture.

        All are (crop_size, crop_size); whole numbers are the centres of pixels.
        """
        middle_y, middle_x = (
            (min(size - start, self.crop_size) - 1) / 2
            for start, size in ((self.top, self.height), (self.left, self.width))
        )
        y, x = np.mgrid[: self.crop_size, : self.crop_size].astype(np.float32)
        y -= np.float32(middle_y)
        x -= np.float32(middle_x)
        radians = math.radians(self.angle)
        cosine, sine = np.float32(math.cos(radians)), np.float32(math.sin(radians))
        rows = cosine * y + sine * x + np.float32(middle_y + self.top)
        columns = cosine * x - sine * y + np.float32(middle_x + self.left)
        is_inside = (np.abs(rows - (self.height - 1) / 2) < self.height / 2) & (
            np.abs(columns - (self.width - 1) / 2) < self.width / 2
        )
        if self.flip:
            rows = self.height - 1 - rows
        if self.mirror:
            columns = self.width - 1 - columns
        return rows, columns, is_inside

    def _rotate_image(self, resized: UInt8Array) -> UInt8Array:
        rows, columns, is_inside = self._find_sources()
        border = cv2.BORDER_REPLICATE
        crop = np.asarray(cv2.remap(resized, columns, rows, cv2.INTER_LINEAR, borderMode=border), dtype=np.uint8)
        crop[~is_inside] = 0
        return crop

    def _rotate_label(self, label_hw: UInt8Array) -> UInt8Array:
        rows, columns, is_inside = self._find_sources()
        places = (
            np.clip((position + 0.5) * (source / size), 0, source - 1).astype(np.intp)
            for position, source, size in zip((rows, columns), label_hw.shape, (self.height, self.width), strict=True)
        )
        return np.where(is_inside, label_hw[tuple(places)], np.uint8(IGNORE))

    def _adjust_colour(self, crop: UInt8Array) -> UInt8Array:
        if self.brightness == self.contrast == self.saturation == 1.0:
            return crop
        values = crop.astype(np.float32) * np.float32(self.brightness)
        values = (values - values.mean()) * np.float32(self.contrast) + values.mean()
        grey = values @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        values = grey[..., None] + (values - grey[..., None]) * np.float32(self.saturation)
        return np.asarray(np.clip(np.rint(values), 0, 255), dtype=np.uint8)


def _blur(crop: UInt8Array, sigma: float) -> None:
    """Blur in place, ``sigma`` in pixels; within two grey levels of the kernel that OpenCV would choose."""
    if sigma < NO_BLUR:
        return
    taps = 2 * min(BLUR_REACH, round(2.5 * sigma)) + 1
    # BORDER_REPLICATE: Pillow's blur, which GluonCV uses, extends the edge as well.
    crop[:] = cv2.GaussianBlur(crop, (taps, taps), sigma, borderType=cv2.BORDER_REPLICATE)


def _pick_pixels(label_hw: UInt8Array, rows: IndexArray, columns: IndexArray) -> UInt8Array:
    """``label_hw[rows][:, columns]``: transposed, so that both picks copy whole lines of memory."""
    first, last = sorted((int(rows[0]), int(rows[-1])))  # they rise or fall
    band = np.ascontiguousarray(label_hw[first : last + 1])
    picked = np.asarray(cv2.transpose(cv2.transpose(band)[columns]), dtype=np.uint8)
    found: UInt8Array = picked[rows - first]
    return found


def resize_smoothly(image_hwc: UInt8Array, height: int, width: int) -> UInt8Array:
    """Resize an RGB image (H, W, 3) uint8 to (height, width, 3) much as Pillow's bilinear filter does.

    Pillow's filter is a triangle that widens with the scale s of a shrinking picture: its variance is s * s / 6.
    The same variance comes cheaper as the sum of a mean over whole pixels (powers of two), three taps of blur
    and OpenCV's bilinear interpolation, which alone is a triangle of s = 1.
    """
    sizes = list(zip(image_hwc.shape[:2], (height, width), strict=True))
    factors = [_find_power_of_two(source / target) for source, target in sizes]
    if max(factors) > 1:
        reduced = [max(1, round(source / factor)) for (source, _), factor in zip(sizes, factors, strict=True)]
        image_hwc = np.asarray(cv2.resize(image_hwc, reduced[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)
    shares = [_compute_blur(source / target, factor) for (source, target), factor in zip(sizes, factors, strict=True)]
    if max(shares) > LEAST_BLUR:
        down, across = (np.array([share, 1 - 2 * share, share], dtype=np.float32) for share in shares)
        blurred = cv2.sepFilter2D(image_hwc, -1, across, down, borderType=cv2.BORDER_REPLICATE)
        image_hwc = np.asarray(blurred, dtype=np.uint8)
    if image_hwc.shape[:2] == (height, width):
        return image_hwc
    return np.asarray(cv2.resize(image_hwc, (width, height), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def _find_power_of_two(scale: float) -> int:
    """How many pixels of a picture that shrinks by ``scale`` become one beforehand; 1 for none.

    The rest of the scale is 1.12 to 2.24: the mean would blur too much below, the three taps too little above.
    """
    return 1 << max(0, math.floor(math.log2(scale / 1.12)))


def _compute_blur(scale: float, factor: int) -> float:
    """Weight of each outer one of three taps; the variance of the taps, in reduced pixels, is twice this weight."""
    remainder = scale / factor
    of_triangles = (remainder * remainder - 1) / 6
    of_mean = (1 - 1 / (factor * factor)) / 12
    return max(0.0, (of_triangles - of_mean) / 2)


def resize_image(image_hwc: UInt8Array, height: int, width: int) -> UInt8Array:
    """Resize an RGB image (H, W, 3) uint8 to (height, width, 3): area mean when shrinking, else bilinear."""
    if image_hwc.shape[:2] == (height, width):
        return image_hwc
    shrinking = height < image_hwc.shape[0]
    method = cv2.INTER_AREA if shrinking else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image_hwc, (width, height), interpolation=method), dtype=np.uint8)


def _nearest_indices(source_size: int, target_size: int) -> IndexArray:
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
    """Draws the training transform of one sample; the defaults are the built-in's law.

    ``rotation`` is the greatest angle in degrees, either way. With ``vertical_flip`` a sample is turned upside down,
    with probability 1/2.
    """

    base_size: int
    crop_size: int
    scale_min: float = 0.5
    scale_max: float = 2.0
    colour_jitter: float = 0.0
    rotation: float = 0.0
    vertical_flip: bool = False

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
        brightness, contrast, saturation = (float(factor) for factor in factors)
        # Last, and only where it is asked for: what is drawn without them stays as it is.
        angle = float(rng.uniform(-self.rotation, self.rotation)) if self.rotation else 0.0
        flip = self.vertical_flip and bool(rng.random() < 0.5)
        place = scaled_height, scaled_width, top, left, self.crop_size
        return Transform(*place, mirror, sigma, brightness, contrast, saturation, flip, angle)


@dataclass(frozen=True, eq=False)
class CropBalancer:
    """Moves half of the crops, at random, to where they show a pixel of a class that is drawn by ``weights``.

    ``weights`` are one number a class; drawn is among the classes in the photo's mask, and then among the pixels of the
    class, each as likely. A crop begins anywhere where it shows the pixel.
    """

    weights: npt.NDArray[np.float64]

    @classmethod
    def from_histogram(cls, pixels: npt.NDArray[np.int64]) -> CropBalancer:
        """Weigh each class by one over the number of its pixels in all masks, ``pixels``, (num_classes,)."""
        return cls(1 / np.maximum(pixels, 1))

    def move(self, rng: np.random.Generator, transform: Transform, class_ids_hw: UInt8Array) -> Transform:
        """Return ``transform``, or one that differs in ``top`` and ``left``."""
        if rng.random() < 0.5:
            return transform
        counts = cv2.calcHist([class_ids_hw], [0], None, [256], [0, 256]).ravel()[: len(self.weights)]
        weights = self.weights * (counts > 0)
        if not weights.any():  # every pixel is ignored
            return transform
        class_id = rng.choice(len(weights), p=weights / weights.sum())
        row, column = _draw_pixel(rng, class_ids_hw == class_id)
        top = self._draw_start(rng, transform, row, class_ids_hw.shape[0], transform.height, transform.flip)
        left = self._draw_start(rng, transform, column, class_ids_hw.shape[1], transform.width, transform.mirror)
        return replace(transform, top=top, left=left)

    def _draw_start(
        self, rng: np.random.Generator, transform: Transform, place: int, source: int, target: int, is_reversed: bool
    ) -> int:
        """Where a crop of a side of ``target`` pixels begins to show the pixel ``place`` of the ``source`` ones."""
        place = source - 1 - place if is_reversed else place
        pixel = min(target - 1, int((place + 0.5) * target / source))
        crop_size, last = transform.crop_size, max(target - transform.crop_size, 0)
        # What is within the crop's inner circle stays in it whatever the angle.
        margin = int(crop_size * 0.15) if transform.angle else 0
        first, final = (min(max(0, pixel - shown), last) for shown in (crop_size - 1 - margin, margin))
        return int(rng.integers(first, final + 1))


def _draw_pixel(rng: np.random.Generator, is_in_class: BoolArray) -> tuple[int, int]:
    """Row and column of one of the pixels that are True, each as likely."""
    ends = np.cumsum(np.count_nonzero(is_in_class, axis=1))
    number = int(rng.integers(ends[-1]))
    row = int(np.searchsorted(ends, number, side="right"))
    return row, int(np.flatnonzero(is_in_class[row])[number - ends[row]])


def build_validation_transform(height: int, width: int, crop_size: int) -> Transform:
    """The built-in's validation view: short side to ``crop_size``, then the centre square."""
    scaled_height, scaled_width = compute_short_side_size(height, width, crop_size)
    # round() rounds halves to even, exactly as GluonCV's _val_sync_transform does.
    top, left = round((scaled_height - crop_size) / 2), round((scaled_width - crop_size) / 2)
    return Transform(scaled_height, scaled_width, top, left, crop_size)
