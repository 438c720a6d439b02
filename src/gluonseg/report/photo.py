"""Photos and masks of a comparison, small enough to travel inside a page."""

from __future__ import annotations

import base64
import dataclasses
import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image

from gluonseg.data.decode import DEFAULT_MAX_PIXELS, read_image, read_label
from gluonseg.data.label_channel import default_label_maps, read_label_maps
from gluonseg.data.pairs import Pair, match_pairs
from gluonseg.errors import UserError
from gluonseg.hyperparameters import read_photo_range
from gluonseg.labels import IGNORE, LabelMap
from gluonseg.predict.overlay import draw_overlay

UInt8Array = npt.NDArray[np.uint8]
MAX_SIDE = 320
"""Long side of a picture in the page, in pixels."""
SIDES = (MAX_SIDE, 256, 192, 144, 96)
"""Sides tried in turn until all pictures fit into the budget."""
BUDGET_BYTES = 3_400_000
"""Of encoded pictures; base64 makes a third more of them."""
QUALITY = 78
OPACITY = 0.5
_Item = TypeVar("_Item")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture (H, W, 3) uint8 with what stands below it."""

    image_hwc: UInt8Array
    caption: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A picture as the page holds it."""

    uri: str
    width: int
    height: int
    caption: str
    note: str


def choose_spread(items: Sequence[_Item], count: int) -> list[_Item]:
    """At most ``count`` of the items, evenly spread from the first on."""
    number = min(count, len(items))
    return [items[index * len(items) // number] for index in range(number)]


def find_max_pixels(settings: Mapping[str, Any]) -> int:
    """The limit of a picture's pixels that the runs had."""
    return int((settings.get("hyperparameters") or {}).get("max_pixels", DEFAULT_MAX_PIXELS))


def shrink(image: UInt8Array, side: int, *, smooth: bool = True) -> UInt8Array:
    """The picture (H, W, 3) or mask (H, W) with its long side at most ``side``; masks take the nearest pixel."""
    height, width = image.shape[:2]
    if max(height, width) <= side:
        return image
    factor = side / max(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    resample = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(image).resize(size, resample))


def _encode(image_hwc: UInt8Array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image_hwc).save(buffer, "WEBP", quality=QUALITY)
    return buffer.getvalue()


def encode_pictures(pictures: Sequence[Picture], budget: int = BUDGET_BYTES) -> list[Encoded]:
    """Every picture as a data URI, together at most ``budget`` bytes where the smallest side allows it."""
    encoded: list[tuple[bytes, tuple[int, ...]]] = []
    for side in SIDES:
        small = [shrink(picture.image_hwc, side) for picture in pictures]
        encoded = [(_encode(image), image.shape) for image in small]
        if sum(len(data) for data, _ in encoded) <= budget:
            break
    return [
        Encoded(
            "data:image/webp;base64," + base64.b64encode(data).decode("ascii"),
            shape[1], shape[0], picture.caption, picture.note,
        )
        for (data, shape), picture in zip(encoded, pictures, strict=True)
    ]  # fmt: skip


class Album:
    """The photos and true masks of a comparison's channels; empty where they are no longer there."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._channels = {name: Path(path) for name, path in (settings.get("channels") or {}).items()}
        self._max_pixels = find_max_pixels(settings)
        self._photo_range = read_photo_range(settings.get("hyperparameters") or {})
        self._ignore_label = int((settings.get("hyperparameters") or {}).get("ignore_label", IGNORE))

    def find_pairs(self, split: str) -> Sequence[Pair]:
        """The pairs of ``train`` or ``validation``."""
        folders = [self._channels.get(name) for name in (split, f"{split}_annotation")]
        if not all(folder and folder.is_dir() for folder in folders):
            return ()
        return match_pairs(*(folder for folder in folders if folder)).pairs

    @cached_property
    def validation(self) -> Mapping[str, Pair]:
        """Validation pairs by name."""
        return {pair.name: pair for pair in self.find_pairs("validation")}

    @cached_property
    def _label_maps(self) -> Mapping[str, LabelMap]:
        try:
            maps = read_label_maps(self._channels.get("label_map"), self._ignore_label)
        except UserError:
            maps = default_label_maps(self._ignore_label)
        return {"train": maps.train, "validation": maps.validation}

    def read(self, pair: Pair, split: str) -> tuple[UInt8Array, UInt8Array] | None:
        """Photo (H, W, 3) and class ids (H, W), at most MAX_SIDE large; None when they cannot be read."""
        try:
            image = read_image(pair.image, max_pixels=self._max_pixels, photo_range=self._photo_range)
            mask = read_label(pair.label, max_pixels=self._max_pixels)
        except UserError:
            return None
        class_ids = self._label_maps[split].apply(mask)
        return shrink(image, MAX_SIDE), shrink(class_ids, MAX_SIDE, smooth=False)


def read_prediction(path: Path, max_pixels: int = DEFAULT_MAX_PIXELS) -> UInt8Array | None:
    """A predicted mask, class ids (H, W), at most MAX_SIDE large; None where there is none."""
    if not path.is_file():
        return None
    try:
        return shrink(read_label(path, max_pixels=max_pixels), MAX_SIDE, smooth=False)
    except UserError:
        return None


def overlay(image_hwc: UInt8Array, mask_hw: UInt8Array | None, colours: Sequence[tuple[int, int, int]]) -> UInt8Array:
    """The mask's colours over the photo; an even grey where there is no mask of the photo's size."""
    if mask_hw is None or mask_hw.shape != image_hwc.shape[:2]:
        return np.full_like(image_hwc, 128)
    return draw_overlay(image_hwc, mask_hw, colours, OPACITY)
