"""What computes a network's logits: ONNX Runtime on CPUs, MXNet on GPUs and wherever it is asked for."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from gluonseg.labels import UInt8Array
from gluonseg.models.cost import Cost

Float32Array = npt.NDArray[np.float32]


class Engine(Protocol):
    """A network with its parameters. Its methods are called by one thread at a time."""

    @property
    def name(self) -> str:
        """The library, and the precision unless it is float32: for the log and for reports."""
        ...

    def compute_logits(self, images_nhwc: UInt8Array) -> Float32Array:
        """Logits (N, C, ceil(H/s), ceil(W/s)) float32 of RGB pictures (N, H, W, 3) uint8 of at least 8x8 pixels.

        s is the network's output stride.
        """
        ...

    def compute_cost(self, height: int, width: int) -> Cost:
        """Cost of one picture of that size in pixels, without an auxiliary head."""
        ...
