"""Pictures of noise, and pictures as the bytes of a file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

UInt8Array = npt.NDArray[np.uint8]


def draw_noise(height: int, width: int, seed: int = 0) -> UInt8Array:
    """A picture (height, width, 3) in which no two pixels are likely to be the same."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode_picture(picture: Image.Image | UInt8Array, file_format: str = "PNG", **options: Any) -> bytes:
    """The file; ``options`` are Pillow's for this format."""
    buffer = io.BytesIO()
    (picture if isinstance(picture, Image.Image) else Image.fromarray(picture)).save(buffer, file_format, **options)
    return buffer.getvalue()
