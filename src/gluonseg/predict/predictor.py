"""A trained model that turns a picture into class probabilities or a mask."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt

from gluonseg.data.transforms import compute_long_side_size, resize_image
from gluonseg.device import find_devices
from gluonseg.models.artifact import ModelArtifact, read_artifact
from gluonseg.models.card import ModelCard
from gluonseg.models.network import load_params
from gluonseg.models.registry import build_network
from gluonseg.predict.preprocess import normalise_images

UInt8Array = npt.NDArray[np.uint8]
Float32Array = npt.NDArray[np.float32]
MAX_NETWORK_PIXELS = 4_000_000
"""Larger pictures are shrunk to this for the network, which takes about 1 kB a pixel on resnet-50."""
MAX_LOGITS = 1 << 25
"""Enlarged logits held at a time while a mask is computed."""
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
        if height * width > MAX_NETWORK_PIXELS:
            shrink = math.sqrt(MAX_NETWORK_PIXELS / (height * width))
            height, width = int(height * shrink), int(width * shrink)
        return max(height, MIN_SIDE), max(width, MIN_SIDE)

    def _compute_logits(self, image_hwc: UInt8Array) -> Any:
        """Logits (1, C, h/8, w/8), an NDArray on the device; enlarging them to (H, W) is left to the caller."""
        if image_hwc.ndim != 3 or image_hwc.shape[2] != 3 or image_hwc.dtype != np.uint8 or not image_hwc.size:
            raise ValueError(f"an RGB picture (H, W, 3) uint8 is needed, got {image_hwc.shape} {image_hwc.dtype}")
        resized = resize_image(image_hwc, *self.compute_input_size(*image_hwc.shape[:2]))
        batch = mx.nd.array(normalise_images(resized[None], self.card.mean, self.card.std), ctx=self._device)
        return self._network.predict_coarse(batch)

    def predict_probabilities(self, image_hwc: UInt8Array) -> Float32Array:
        """Softmax probabilities (num_classes, H, W) float32 of an RGB picture (H, W, 3) uint8."""
        height, width = image_hwc.shape[:2]
        with self._lock:
            logits = mx.nd.contrib.BilinearResize2D(self._compute_logits(image_hwc), height=height, width=width)
            found: Float32Array = mx.nd.softmax(logits, axis=1)[0].asnumpy()
        return found

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array:
        """Class ids (H, W) uint8 of an RGB picture (H, W, 3) uint8."""
        with self._lock:
            return compute_mask(self._compute_logits(image_hwc), *image_hwc.shape[:2])


def compute_mask(logits: Any, height: int, width: int) -> UInt8Array:
    """Enlarge logits (1, C, h, w) to (height, width) and take the greatest, a few classes at a time.

    Of equal logits the lowest class wins, as in one argmax over all of them.
    """
    step = max(1, MAX_LOGITS // (height * width))
    mask = np.zeros((height, width), dtype=np.uint8)
    best: Float32Array | None = None
    for first in range(0, logits.shape[1], step):
        part = logits.slice_axis(axis=1, begin=first, end=min(first + step, logits.shape[1]))
        enlarged = mx.nd.contrib.BilinearResize2D(part, height=height, width=width)
        found = (enlarged.argmax(axis=1)[0].asnumpy() + first).astype(np.uint8)
        value = enlarged.max(axis=1)[0].asnumpy()
        if best is None:
            mask, best = found, value
            continue
        higher = value > best
        mask[higher], best[higher] = found[higher], value[higher]
    return mask


def build_predictor(artifact: ModelArtifact, device: Any = None) -> Predictor:
    """Build the network of an artifact and load its parameters; ModelError when they do not fit."""
    card = artifact.card
    device = device if device is not None else find_devices()[0]
    network = build_network(card.algorithm, card.backbone, card.num_classes, aux=card.aux, ctx=device)
    load_params(network, artifact.params, device)
    return Predictor(network, card, device)


def load_predictor(source: Path, device: Any = None) -> Predictor:
    """Load a model folder or a model.tar.gz (ours, or the built-in's); ``device`` is the first GPU, or the CPU.

    Raises:
        ModelError: see :func:`gluonseg.models.artifact.read_artifact`.
    """
    return build_predictor(read_artifact(Path(source)), device)
