"""Steps of GluonCV's segmentation training on a batch that is loaded already: FCN on resnet-18.

``python -m benchmarks.peers.gluoncv_step CLASSES``. GluonCV's training script is not in its package; what it does in a
step, and its settings on a CPU with the auxiliary loss, are rebuilt here on GluonCV's and MXNet's public API: a network
that is not compiled, enlarged logits of a fixed size, ``MixSoftmaxCrossEntropyLoss``, ``DataParallelModel`` and
``DataParallelCriterion`` over ``[mx.cpu(0)]``, SGD in a ``local`` kvstore, and twice a step a wait for everything. Its
learning rates by layer and by step are left out. GluonCV's FCN is made for ResNets of 50 and more layers; here the same
parts are put together for 18.
"""

from __future__ import annotations

import sys
from typing import Any

import gluonseg  # noqa: F401  (makes MXNet importable on today's numpy)

# isort: split
import mxnet as mx
import numpy as np
from gluoncv.loss import MixSoftmaxCrossEntropyLoss
from gluoncv.model_zoo.fcn import _FCNHead
from gluoncv.model_zoo.segbase import SegBaseModel
from gluoncv.utils.parallel import DataParallelCriterion, DataParallelModel
from mxnet.gluon.data.vision import transforms

from benchmarks.training_batch import AUX_WEIGHT, COUNT, CROP, IGNORE, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, draw_batch
from benchmarks.variant import Measurement, serve_rounds
from gluonseg.models.folder.card import IMAGENET_MEAN, IMAGENET_STD


class SmallFCN(SegBaseModel):  # type: ignore[misc]
    """GluonCV's FCN with heads for 512 and 256 channels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes, True, "resnet18", crop_size=CROP, pretrained_base=False)
        with self.name_scope():
            self.head, self.auxlayer = _FCNHead(512, num_classes), _FCNHead(256, num_classes)

    def hybrid_forward(self, F: Any, x: Any) -> tuple[Any, ...]:
        c3, c4 = self.base_forward(x)
        coarse = (self.head(c4), self.auxlayer(c3))
        return tuple(F.contrib.BilinearResize2D(logits, **self._up_kwargs) for logits in coarse)


def _load_batch(num_classes: int) -> tuple[Any, Any]:
    """Photos and masks as the script's data set and loader hand them over."""
    images, class_ids = draw_batch(num_classes)
    to_input = transforms.Compose([transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    known = class_ids.astype("int32")
    known[class_ids == IGNORE] = -1
    photos = mx.nd.stack(*(to_input(mx.nd.array(image, dtype=np.uint8)) for image in images))
    return photos, mx.nd.array(known, dtype=np.int32)


def main(classes: str) -> None:
    """Serve rounds of one step each."""
    network, devices = SmallFCN(int(classes)), [mx.cpu(0)]
    network.initialize(mx.init.Xavier(), force_reinit=True)
    model = DataParallelModel(network, devices)
    criterion = DataParallelCriterion(MixSoftmaxCrossEntropyLoss(True, aux_weight=AUX_WEIGHT), devices)
    settings = {"learning_rate": LEARNING_RATE, "wd": WEIGHT_DECAY, "momentum": MOMENTUM}
    trainer = mx.gluon.Trainer(network.collect_params(), "sgd", settings, kvstore=mx.kv.create("local"))
    images, class_ids = _load_batch(int(classes))
    mx.nd.waitall()

    def run() -> Measurement:
        with mx.autograd.record(True):
            losses = criterion(model(images.astype("float32", copy=False)), class_ids)
            mx.nd.waitall()
            mx.autograd.backward(losses)
        trainer.step(COUNT)
        loss = sum(float(np.mean(one.asnumpy())) for one in losses) / len(losses)
        mx.nd.waitall()
        return {"loss": loss}

    run()
    serve_rounds(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
