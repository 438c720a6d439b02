"""A model for tests of the server: it computes nothing and fails on demand.

Each prediction sleeps ``STAND_IN_SECONDS``; the cores are free meanwhile.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import numpy as np

from gluonseg.labels import UInt8Array
from gluonseg.models.folder.card import build_card
from gluonseg.predict.formats import encode_png
from gluonseg.predict.recordio import Float32Array
from gluonseg.serve.server import run_server
from gluonseg.serve.settings import Settings, read_settings

NAMES = ("pet", "background", "border")
KILLS, HANGS = (3, 111), (3, 112)
"""(height, width) of a picture that ends the process, and of one whose prediction never ends."""
_WARM_UP_SHAPE = (32, 32)


def compute_mask(image_hwc: UInt8Array) -> UInt8Array:
    """The class of a pixel is 1 where it is bright."""
    return (image_hwc[..., 0] > 127).astype(np.uint8)


def encode_mask(image_hwc: UInt8Array) -> bytes:
    """The whole answer, as PNG."""
    return encode_png(compute_mask(image_hwc))


class StandIn:
    """A predictor."""

    card = build_card("fcn", "resnet-18", 3, class_names=NAMES)

    def __init__(self) -> None:
        self._seconds = float(os.environ.get("STAND_IN_SECONDS", "0"))

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array:
        size = image_hwc.shape[:2]
        if size == KILLS:
            os.kill(os.getpid(), signal.SIGKILL)
        if size == HANGS:
            threading.Event().wait()
        if size != _WARM_UP_SHAPE or image_hwc.any():
            time.sleep(self._seconds)
        return compute_mask(image_hwc)

    def predict_confidence(self, image_hwc: UInt8Array) -> tuple[UInt8Array, UInt8Array]:
        mask_hw = self.predict_mask(image_hwc)
        return mask_hw, 255 - mask_hw

    def predict_probabilities(self, image_hwc: UInt8Array) -> Float32Array:
        one_hot = np.eye(3, dtype=np.float32)[self.predict_mask(image_hwc)]
        probabilities: Float32Array = one_hot.transpose(2, 0, 1)
        return probabilities


def load(_settings: Settings) -> StandIn:
    """What the process with the model calls."""
    return StandIn()


if __name__ == "__main__":
    sys.exit(run_server(read_settings(os.environ), load))
