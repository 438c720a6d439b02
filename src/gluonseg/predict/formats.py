"""What a mask is written as: a PNG file, or plain values for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from gluonseg.errors import PayloadTooLargeError
from gluonseg.labels import UInt8Array
from gluonseg.models.folder.card import ModelCard

MAX_RUNS = 2_000_000
"""Longest run-length mask that is written as JSON; a longer one has no advantage over a PNG."""

# The rows of a mask are much like the ones above them: their differences are almost all zeros, which run lengths
# pack well. With OpenCV's defaults a mask takes 1.5 times the bytes.
_OPTIONS = (
    *(cv2.IMWRITE_PNG_COMPRESSION, 1),
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP),
)


def encode_png(pixels: UInt8Array) -> bytes:
    """Pixels (H, W) uint8 become a grey PNG of 8 bits, (H, W, 3) an RGB one."""
    ordered = pixels if pixels.ndim == 2 else pixels[..., ::-1]  # OpenCV takes blue, green, red
    _, data = cv2.imencode(".png", np.ascontiguousarray(ordered), _OPTIONS)
    return bytes(data.tobytes())


def compute_runs(mask_hw: UInt8Array) -> list[list[int]]:
    """Run-length code of a mask in row-major order: ``[class_id, length]`` pairs, lengths add up to H*W.

    Raises:
        PayloadTooLargeError: there are more than :data:`MAX_RUNS`.
    """
    flat = mask_hw.reshape(-1)
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    if len(starts) > MAX_RUNS:
        raise PayloadTooLargeError("the mask is too ragged for JSON: ask for Accept image/png")
    lengths = np.diff(starts, append=flat.size)
    runs: list[list[int]] = np.stack((flat[starts].astype(np.int64), lengths), axis=1).tolist()
    return runs


def compute_shares(mask_hw: UInt8Array, class_names: Sequence[str]) -> dict[str, float]:
    """Share of the mask's pixels, above 0 to 1, of each class in it by name, the largest first."""
    counts = np.bincount(mask_hw.reshape(-1), minlength=len(class_names))
    found = [class_id for class_id in np.argsort(-counts, kind="stable") if counts[class_id]]
    return {class_names[class_id]: int(counts[class_id]) / mask_hw.size for class_id in found}


def describe_mask(mask_hw: UInt8Array, card: ModelCard) -> dict[str, Any]:
    """Size, share of each class, and the run-length mask, as plain values."""
    counts = np.bincount(mask_hw.reshape(-1), minlength=card.num_classes)
    height, width = mask_hw.shape
    shares = [
        {"id": class_id, "name": name, "share": round(int(counts[class_id]) / mask_hw.size, 6)}
        for class_id, name in enumerate(card.class_names)
    ]
    mask = {"order": "row-major", "runs": compute_runs(mask_hw)}
    return {"width": width, "height": height, "classes": shares, "mask": mask}
