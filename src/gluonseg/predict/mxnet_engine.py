"""The network in MXNet: for GPUs, and as the reference that exported files are compared with."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import numpy.typing as npt

from gluonseg.errors import ModelError
from gluonseg.models.cost import Cost, compute_cost
from gluonseg.models.folder.artifact import ModelArtifact
from gluonseg.models.folder.card import CARD_FILE, ModelCard
from gluonseg.models.network import build_network, load_params
from gluonseg.predict.preprocess import normalise_images


class MXNetEngine:
    """``network`` with its parameters on ``device``."""

    name = "MXNet"

    def __init__(self, network: Any, card: ModelCard, device: Any = None) -> None:
        self.network = network
        self._card = card
        self._device = device if device is not None else mx.cpu()

    def compute_logits(self, images_nhwc: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """See :class:`gluonseg.predict.engine.Engine`."""
        values = normalise_images(images_nhwc, self._card.mean, self._card.std)
        logits = self.network.predict_coarse(mx.nd.array(values, ctx=self._device))
        found: npt.NDArray[np.float32] = logits.asnumpy()
        return found

    def compute_cost(self, height: int, width: int) -> Cost:
        """See :class:`gluonseg.predict.engine.Engine`."""
        return compute_cost(self.network.predict_coarse, height, width)


def build_mxnet_engine(artifact: ModelArtifact, device: Any) -> MXNetEngine:
    """Build the network of an artifact on ``device``; ModelError when there is none that the parameters fit."""
    card = artifact.card
    options = {"aux": card.aux, "output_stride": card.output_stride}
    try:
        network = build_network(card.algorithm, card.backbone, card.num_classes, ctx=device, **options)
        load_params(network, artifact.params, device)
    except ModelError as error:
        raise ModelError(f"{artifact.weights.name} is no {card.describe()}, as {CARD_FILE} says: {error}") from None
    return MXNetEngine(network, card, device)
