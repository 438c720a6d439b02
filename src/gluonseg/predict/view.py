"""Several views of one picture: other scales, and mirrored. Slower, and often a little better.

The probabilities of all views are averaged, as the multi-scale evaluation of the segmentation papers does
(PSPNet, section 5.2); each view costs one pass through the network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gluonseg.data.transforms import resize_image
from gluonseg.errors import UserError
from gluonseg.labels import UInt8Array
from gluonseg.models.folder.card import LARGEST_SCALE, MAX_SCALES, SMALLEST_SCALE, ModelCard
from gluonseg.predict.engine import Float32Array
from gluonseg.predict.enlarge import compute_softmax, enlarge
from gluonseg.predict.tile import ComputeLogits

_LEAST_PROBABILITY = np.float32(1e-12)


@dataclass(frozen=True)
class Views:
    """``scales`` are factors of the size in the network; with ``flip`` each is seen mirrored, too.

    Raises UserError for scales outside 0.1 to 4, none, or more than ten.
    """

    scales: tuple[float, ...] = (1.0,)
    flip: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.scales) <= MAX_SCALES:
            raise UserError(f"scales must be 1 to {MAX_SCALES} factors, got {len(self.scales)}")
        for scale in self.scales:
            if not SMALLEST_SCALE <= scale <= LARGEST_SCALE:
                raise UserError(f"a scale must be from {SMALLEST_SCALE} to {LARGEST_SCALE}, got {scale}")

    @property
    def is_single(self) -> bool:
        """Whether there is nothing to average: the picture as it is."""
        return self.scales == (1.0,) and not self.flip


def build_views(card: ModelCard, scales: tuple[float, ...] | None = None, flip: bool | None = None) -> Views:
    """The views of the model's card, with ``scales`` and ``flip`` in place of the card's where they are given."""
    chosen = (card.prediction_scales if scales is None else scales) or (1.0,)
    return Views(chosen, card.prediction_flip if flip is None else flip)


def parse_scales(text: str) -> tuple[float, ...]:
    """Parse factors with commas between them, such as ``0.75,1,1.25``; UserError when one is no number."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UserError(f"scales must be numbers with commas between them, such as 0.75,1,1.25; got {text!r}") from None


def fit_size(height: int, width: int, min_side: int, max_pixels: int) -> tuple[int, int]:
    """The (height, width), shrunk to at most ``max_pixels``, each side at least ``min_side``."""
    if height * width > max_pixels:
        shrink = math.sqrt(max_pixels / (height * width))
        height, width = int(height * shrink), int(width * shrink)
    height, width = max(height, min_side), max(width, min_side)
    # When ``min_side`` has lengthened one side, the other is shortened to keep to ``max_pixels``.
    return min(height, max(min_side, max_pixels // width)), min(width, max(min_side, max_pixels // height))


def compute_view_sizes(size: tuple[int, int], views: Views, min_side: int, max_pixels: int) -> list[tuple[int, int]]:
    """The (height, width) of each scale in the network, the largest first; ``size`` is that of scale 1."""
    scales = sorted(views.scales, reverse=True)
    return [fit_size(round(size[0] * scale), round(size[1] * scale), min_side, max_pixels) for scale in scales]


def compute_view_logits(
    compute_logits: ComputeLogits,
    image_hwc: UInt8Array,
    sizes: Sequence[tuple[int, int]],
    *,
    flip: bool,
    align_corners: bool = True,
) -> Float32Array:
    """Logarithm of the mean probabilities of all views, (C, h, w) float32: what logits of one view would be.

    ``sizes`` are the (height, width) of the views in the network; the grid (h, w) is that of the first.
    """
    total: Float32Array | None = None
    for size in sizes:
        resized = resize_image(image_hwc, *size)
        for step in (1, -1)[: 1 + flip]:  # -1 mirrors the picture, and its probabilities back
            logits = compute_logits(np.ascontiguousarray(resized[:, ::step]))
            probabilities = np.ascontiguousarray(compute_softmax(logits)[:, :, ::step])
            if total is None:
                total = probabilities
            else:
                _, height, width = total.shape
                total += enlarge(probabilities, height, width, align_corners)
    assert total is not None  # there is at least one scale
    total /= len(sizes) * (1 + flip)
    found: Float32Array = np.log(np.maximum(total, _LEAST_PROBABILITY))
    return found
