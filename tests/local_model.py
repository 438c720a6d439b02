"""A model of the server without a process: for tests of what is before and behind it."""

from __future__ import annotations

from collections.abc import Callable

from gluonseg.serve.codec import MaskPredictor, compute_answer, decode_request
from gluonseg.serve.model import Model
from gluonseg.serve.settings import Settings


class LocalModel(Model):
    """Answers at once, in the thread that asks."""

    def __init__(self, predictor: MaskPredictor, settings: Settings) -> None:
        self.exit_code = None
        self.is_stopping = False
        self.card = predictor.card
        self._predictor, self._given = predictor, settings

    def check_ready(self) -> None:
        """It always is."""

    def predict(self, read_body: Callable[[], bytes], media_type: str) -> bytes:
        image_hwc = decode_request(read_body(), self._given.max_pixels)
        return compute_answer(media_type, self._predictor, image_hwc, self._given.max_response_mb)
