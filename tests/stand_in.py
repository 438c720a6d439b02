"""A model for tests of the server: it computes nothing, takes the time it is told to, and fails on demand.

Environment variables tell it what to do: ``STAND_IN_SECONDS`` each prediction sleeps (the cores are free meanwhile),
``STAND_IN_LEAK`` bytes each leaves behind, ``STAND_IN_LOG`` a file that gets a line a prediction, with its beginning
and the sum of the picture, ``STAND_IN_AUDIT`` one that gets a line for every connection, program or class that Python
is asked for, ``STAND_IN_LOADING`` seconds to load, ``STAND_IN_END`` to end while loading.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from gluonseg.labels import UInt8Array
from gluonseg.models.folder.card import build_card
from gluonseg.predict.formats import encode_png
from gluonseg.predict.recordio import Float32Array
from gluonseg.serve.server import run_server
from gluonseg.serve.settings import Settings, read_settings

NAMES = ("pet", "background", "border")
CARD = build_card("fcn", "resnet-18", 3, class_names=NAMES)
KILLS, HANGS = (3, 111), (3, 112)
"""Size of a picture that ends the process, and of one that is never done."""
AUDITED = ("socket.connect", "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "pickle.find_class")
_WARM_UP_SHAPE = (32, 32)


def compute_mask(image_hwc: UInt8Array) -> UInt8Array:
    """The class of a pixel is 1 where it is bright."""
    return (image_hwc[..., 0] > 127).astype(np.uint8)


def encode_mask(image_hwc: UInt8Array) -> bytes:
    """The whole answer, as PNG."""
    return encode_png(compute_mask(image_hwc))


def _audit(log: Path) -> None:
    """Write down what nothing that comes from a client may lead to."""

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in AUDITED or event.startswith("socket.get"):
            with log.open("a", encoding="utf-8") as lines:
                lines.write(f"{event} {arguments!r}\n")

    sys.addaudithook(hook)


class StandIn:
    """A predictor."""

    card = CARD

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._seconds = float(environ.get("STAND_IN_SECONDS", "0"))
        self._leak = int(environ.get("STAND_IN_LEAK", "0"))
        self._log = Path(environ["STAND_IN_LOG"]) if "STAND_IN_LOG" in environ else None
        self._leaked: list[bytes] = []

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array:
        if image_hwc.shape[:2] == _WARM_UP_SHAPE and not image_hwc.any():
            return compute_mask(image_hwc)
        self._work(image_hwc)
        return compute_mask(image_hwc)

    def _work(self, image_hwc: UInt8Array) -> None:
        if self._log:
            with self._log.open("a", encoding="ascii") as log:
                log.write(f"{time.monotonic()} {image_hwc.sum()}\n")
        if image_hwc.shape[:2] == KILLS:
            os.kill(os.getpid(), signal.SIGKILL)
        if image_hwc.shape[:2] == HANGS:
            threading.Event().wait()
        self._leaked.append(bytes(self._leak))
        time.sleep(self._seconds)

    def predict_probabilities(self, image_hwc: UInt8Array) -> Float32Array:
        one_hot = np.eye(3, dtype=np.float32)[self.predict_mask(image_hwc)]
        probabilities: Float32Array = one_hot.transpose(2, 0, 1)
        return probabilities


def load(_settings: Settings) -> StandIn:
    """What the process with the model calls."""
    if "STAND_IN_AUDIT" in os.environ:
        _audit(Path(os.environ["STAND_IN_AUDIT"]))
    time.sleep(float(os.environ.get("STAND_IN_LOADING", "0")))
    if os.environ.get("STAND_IN_END"):
        os.kill(os.getpid(), signal.SIGKILL)
    return StandIn(os.environ)


if __name__ == "__main__":
    sys.exit(run_server(read_settings(os.environ), load))
