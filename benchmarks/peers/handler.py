"""The peer's side: FCN for multi-model-server, from GluonCV's own network; runs in the peer's environment.

A handler as multi-model-server's page on custom services describes it: a class with ``initialize``, ``preprocess``,
``inference`` and ``postprocess``, and a function that multi-model-server calls, with no data once the model is to be
loaded. GluonCV's transform, its ``predict`` and a mask as PNG are what GluonCV's demo of the same network does.
"""

from __future__ import annotations

import io
import os
from typing import Any

import mxnet as mx
import numpy as np
from gluoncv.data.transforms.presets.segmentation import test_transform
from gluoncv.model_zoo import get_model
from PIL import Image

NETWORK = "fcn_resnet50_voc"
PARAMETERS = "model_best.params"


class SegmentationHandler:
    """Photos in, masks out."""

    def __init__(self) -> None:
        self.initialized = False
        self._context: Any = None
        self._device: Any = None
        self._network: Any = None

    def initialize(self, context: Any) -> None:
        """Load the network from the model's folder."""
        properties = context.system_properties
        gpu = properties.get("gpu_id")
        self._device = mx.cpu() if gpu is None else mx.gpu(gpu)
        self._network = get_model(NETWORK, pretrained=False, pretrained_base=False)
        self._network.load_parameters(os.path.join(properties.get("model_dir"), PARAMETERS), ctx=self._device)
        self._network.hybridize(static_alloc=True)
        self._context = context
        self.initialized = True

    def preprocess(self, requests: list[dict[str, Any]]) -> list[Any]:
        """Bodies to batches of one photo; photos have sizes of their own."""
        bodies = [request.get("body") or request.get("data") for request in requests]
        return [test_transform(mx.image.imdecode(body), self._device) for body in bodies]

    def inference(self, batches: list[Any]) -> list[Any]:
        """Class ids of each photo."""
        return [mx.nd.argmax(self._network.predict(batch), axis=1)[0].asnumpy() for batch in batches]

    def postprocess(self, masks: list[Any]) -> list[bytes]:
        """Masks as grey PNG files."""
        answers = []
        for index, mask in enumerate(masks):
            buffer = io.BytesIO()
            Image.fromarray(mask.astype(np.uint8)).save(buffer, "PNG")
            self._context.set_response_content_type(index, "image/png")
            answers.append(buffer.getvalue())
        return answers

    def handle(self, requests: list[dict[str, Any]], context: Any) -> list[bytes]:
        """Answer the requests of one call."""
        self._context = context
        return self.postprocess(self.inference(self.preprocess(requests)))


_HANDLER = SegmentationHandler()


def handle(data: list[dict[str, Any]] | None, context: Any) -> list[bytes] | None:
    """What multi-model-server calls."""
    if not _HANDLER.initialized:
        _HANDLER.initialize(context)
    return None if data is None else _HANDLER.handle(data, context)
