"""The peer's side: FCN for multi-model-server, from GluonCV's own network; runs in the peer's environment.

A function that multi-model-server calls, as its page on custom services describes it: with no data once the model is to
be loaded. GluonCV's transform, its ``predict`` and a mask as PNG are what GluonCV's demo of the same network does.
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

    _network: Any = None
    _device: Any = None

    def _load(self, properties: dict[str, Any]) -> None:
        gpu = properties.get("gpu_id")
        self._device = mx.cpu() if gpu is None else mx.gpu(gpu)
        self._network = get_model(NETWORK, pretrained=False, pretrained_base=False)
        self._network.load_parameters(os.path.join(properties["model_dir"], PARAMETERS), ctx=self._device)
        self._network.hybridize(static_alloc=True)

    def _answer(self, body: bytes) -> bytes:
        """A photo to its class ids as a grey PNG file."""
        batch = test_transform(mx.image.imdecode(body), self._device)
        mask = mx.nd.argmax(self._network.predict(batch), axis=1)[0].asnumpy()
        buffer = io.BytesIO()
        Image.fromarray(mask.astype(np.uint8)).save(buffer, "PNG")
        return buffer.getvalue()

    def handle(self, requests: list[dict[str, Any]] | None, context: Any) -> list[bytes] | None:
        """Load the network at the first call, answer the requests of the others."""
        if self._network is None:
            self._load(context.system_properties)
        if requests is None:
            return None
        for index in range(len(requests)):
            context.set_response_content_type(index, "image/png")
        return [self._answer(request.get("body") or request["data"]) for request in requests]


handle = SegmentationHandler().handle
"""What multi-model-server calls."""
