"""A trained model that turns a picture into class probabilities or a mask."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt

from gluonseg.data.transforms import compute_long_side_size, resize_image
from gluonseg.models.artifact import ModelArtifact, read_artifact
from gluonseg.models.card import ModelCard
from gluonseg.models.network import load_params
from gluonseg.models.registry import build_network
from gluonseg.predict.preprocess import normalise_images

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]
MIN_SIDE = 8
"""Smaller pictures are enlarged to this before the network, whose first stages halve a side three times."""


class Predictor:
    """An immutable model; every method may be called from several threads.

    Calls take turns on the network: MXNet already spreads one of them over all cores.
    """

    def __init__(self, network: Any, card: ModelCard, device: Any = None) -> None:
        self.card = card
        self._network = network
        self._device = device if device is not None else mx.cpu()
        self._lock = threading.Lock()

    def compute_input_size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) at which a picture of that size goes through the network."""
        if self.card.prediction_size:
            height, width = compute_long_side_size(height, width, self.card.prediction_size)
        return max(height, MIN_SIDE), max(width, MIN_SIDE)

    def _compute_logits(self, image_hwc: UInt8Array) -> Any:
        """Logits (1, C, H, W) at the picture's own size, an NDArray on the device."""
        if image_hwc.ndim != 3 or image_hwc.shape[2] != 3 or image_hwc.dtype != np.uint8 or not image_hwc.size:
            raise ValueError(f"an RGB picture (H, W, 3) uint8 is needed, got {image_hwc.shape} {image_hwc.dtype}")
        height, width = image_hwc.shape[:2]
        resized = resize_image(image_hwc, *self.compute_input_size(height, width))
        batch = mx.nd.array(normalise_images(resized[None], self.card.mean, self.card.std), ctx=self._device)
        logits = self._network.predict(batch)
        if logits.shape[2:] != (height, width):
            logits = mx.nd.contrib.BilinearResize2D(logits, height=height, width=width)
        return logits

    def predict_probabilities(self, image_hwc: UInt8Array) -> Float32Array:
        """Softmax probabilities (num_classes, H, W) float32 of an RGB picture (H, W, 3) uint8."""
        with self._lock:
            found: Float32Array = mx.nd.softmax(self._compute_logits(image_hwc), axis=1)[0].asnumpy()
        return found

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array:
        """Class ids (H, W) uint8 of an RGB picture (H, W, 3) uint8."""
        with self._lock:
            found: UInt8Array = self._compute_logits(image_hwc).argmax(axis=1)[0].asnumpy().astype(np.uint8)
        return found


def build_predictor(artifact: ModelArtifact, device: Any = None) -> Predictor:
    """Build the network of an artifact and load its parameters; ModelError when they do not fit."""
    card = artifact.card
    device = device if device is not None else mx.cpu()
    network = build_network(card.algorithm, card.backbone, card.num_classes, aux=card.aux, ctx=device)
    load_params(network, artifact.params, device)
    return Predictor(network, card, device)


def load_predictor(source: Path, device: Any = None) -> Predictor:
    """Load a model folder or a model.tar.gz (ours, or the built-in's).

    Raises:
        ModelError: see :func:`gluonseg.models.artifact.read_artifact`.
    """
    return build_predictor(read_artifact(Path(source)), device)
