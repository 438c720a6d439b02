"""The network in MXNet: for GPUs, and as the reference that exported files are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import mxnet as mx
import numpy as np

from gluonseg.errors import ModelError
from gluonseg.labels import UInt8Array
from gluonseg.models.cost import Cost, compute_cost
from gluonseg.models.folder.artifact import ModelArtifact
from gluonseg.models.folder.card import CARD_FILE, IMAGENET_MEAN, IMAGENET_STD, ModelCard
from gluonseg.models.network import build_network, load_params
from gluonseg.predict.engine import Float32Array


def normalise_images(
    images_nhwc: UInt8Array, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD
) -> Float32Array:
    """RGB images (N, H, W, 3) uint8 to float32 (N, 3, H, W): scaled to 0..1, minus ``mean``, divided by ``std``."""
    scale = np.asarray(255.0 * np.asarray(std), dtype=np.float32)
    offset = np.asarray(np.asarray(mean) / np.asarray(std), dtype=np.float32)
    # What each of the 256 levels becomes, by channel: looking it up is faster than computing it for each pixel.
    table = np.ascontiguousarray((np.arange(256, dtype=np.float32)[:, None] / scale - offset).T)
    batch = np.empty((len(images_nhwc), 3, *images_nhwc.shape[1:3]), dtype=np.float32)
    for image, planes in zip(images_nhwc, batch, strict=True):
        for channel, plane, values in zip(cv2.split(np.ascontiguousarray(image)), planes, table, strict=True):
            cv2.LUT(channel, values, dst=plane)
    return batch


class MXNetEngine:
    """``network`` with its parameters on ``device``, by default the CPU."""

    name = "MXNet"

    def __init__(self, network: Any, card: ModelCard, device: Any = None) -> None:
        self.network = network
        self._card = card
        self._device = device if device is not None else mx.cpu()

    def compute_logits(self, images_nhwc: UInt8Array) -> Float32Array:
        """See :class:`gluonseg.predict.engine.Engine`."""
        values = normalise_images(images_nhwc, self._card.mean, self._card.std)
        logits: Float32Array = self.network.predict_coarse(mx.nd.array(values, ctx=self._device)).asnumpy()
        return logits

    def compute_cost(self, height: int, width: int) -> Cost:
        """See :class:`gluonseg.predict.engine.Engine`."""
        return compute_cost(self.network.predict_coarse, height, width)


def build_mxnet_engine(artifact: ModelArtifact, device: Any) -> MXNetEngine:
    """Build the network of an artifact on ``device``; ModelError when its parameters are not those of its card."""
    card = artifact.card
    options = {"aux": card.aux, "output_stride": card.output_stride}
    try:
        network = build_network(card.algorithm, card.backbone, card.num_classes, ctx=device, **options)
        load_params(network, artifact.params, device)
    except ModelError as error:
        raise ModelError(f"{artifact.weights.name} is no {card.describe()}, as {CARD_FILE} says: {error}") from None
    return MXNetEngine(network, card, device)
