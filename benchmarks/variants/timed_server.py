"""``python -m benchmarks.variants.timed_server MODEL PORT TIMES``: the server, its model with a stopwatch.

Each prediction's seconds are a line of the file TIMES. A prediction's time differs from the next one's by more than
all else that a request takes, so that only the difference of the two times of one request tells what that is.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from gluonseg.models.card import ModelCard
from gluonseg.predict.recordio import Float32Array
from gluonseg.serve.codec import MaskPredictor, UInt8Array
from gluonseg.serve.server import run_server
from gluonseg.serve.settings import Settings

_TIMES = "GLUONSEG_BENCH_TIMES"
"""Tells the process with the model the file."""


class TimedPredictor:
    """A predictor that writes down how long it takes."""

    def __init__(self, predictor: MaskPredictor, times: Path) -> None:
        self._predictor = predictor
        self._times = times.open("w", buffering=1, encoding="ascii")

    @property
    def card(self) -> ModelCard:
        return self._predictor.card

    def predict_mask(self, image_hwc: UInt8Array, /) -> UInt8Array:
        start = time.perf_counter()
        mask = self._predictor.predict_mask(image_hwc)
        self._times.write(f"{time.perf_counter() - start}\n")
        return mask

    def predict_probabilities(self, image_hwc: UInt8Array, /) -> Float32Array:
        return self._predictor.predict_probabilities(image_hwc)


def load_timed(settings: Settings) -> MaskPredictor:
    """What the process with the model calls."""
    from gluonseg.predict.predictor import load_predictor

    return TimedPredictor(load_predictor(settings.model_path), Path(os.environ[_TIMES]))


def main(arguments: Sequence[str]) -> int:
    """Serve until SIGTERM."""
    model, port, times = arguments
    os.environ[_TIMES] = times
    settings = Settings(model_path=Path(model), host="127.0.0.1", port=int(port))
    return run_server(settings, load_timed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
