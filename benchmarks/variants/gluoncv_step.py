"""Steps of GluonCV's segmentation training on a batch that is loaded already.

``python -m benchmarks.variants.gluoncv_step BACKBONE CLASSES CROP BATCH STEPS``. GluonCV's training script is not in
its package; what it does in a step, and its settings on a CPU with the auxiliary loss, are rebuilt here on GluonCV's
and MXNet's public API: a network that is not compiled, enlarged logits of a fixed size, ``MixSoftmaxCrossEntropyLoss``,
``DataParallelModel`` and ``DataParallelCriterion`` over ``[mx.cpu(0)]``, SGD with the poly schedule in a ``local``
kvstore, and twice a step a wait for everything. GluonCV's FCN is made for ResNets of 50 and more layers; on the smaller
ones its backbone, its head and its enlargement are put together in the same way.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.training_batch import draw_batch, forget_empty_thread_count
from benchmarks.variant import serve_rounds
from gluonseg.labels import IGNORE
from gluonseg.models.card import IMAGENET_MEAN, IMAGENET_STD

AUX_WEIGHT = 0.5
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 1e-3, 0.9, 1e-4
EPOCHS, BATCHES = 50, 100
SMALL_BACKBONES = ("resnet18", "resnet34")


def build_network(backbone: str, num_classes: int, crop_size: int) -> Any:
    """FCN with the auxiliary head; parameters have random values."""
    import mxnet as mx
    from gluoncv.model_zoo.fcn import FCN, _FCNHead
    from gluoncv.model_zoo.segbase import SegBaseModel

    class SmallFCN(SegBaseModel):  # type: ignore[misc]
        """GluonCV's FCN with heads for 512 and 256 channels."""

        def __init__(self) -> None:
            super().__init__(num_classes, True, backbone, crop_size=crop_size, pretrained_base=False)
            with self.name_scope():
                self.head, self.auxlayer = _FCNHead(512, num_classes), _FCNHead(256, num_classes)
            for head in (self.head, self.auxlayer):
                head.collect_params().setattr("lr_mult", 10)

        def hybrid_forward(self, F: Any, x: Any) -> tuple[Any, ...]:
            c3, c4 = self.base_forward(x)
            return tuple(
                F.contrib.BilinearResize2D(coarse, **self._up_kwargs) for coarse in (self.head(c4), self.auxlayer(c3))
            )

    if backbone in SMALL_BACKBONES:
        network = SmallFCN()
    else:
        network = FCN(num_classes, backbone, aux=True, crop_size=crop_size, pretrained_base=False)
    network.initialize(mx.init.Xavier(), force_reinit=True)
    return network


def _load_batch(crop_size: int, count: int, num_classes: int) -> tuple[Any, Any]:
    """Photos and masks as the script's data set and loader hand them over."""
    import mxnet as mx
    import numpy as np
    from mxnet.gluon.data.vision import transforms

    images, class_ids = draw_batch(crop_size, count, num_classes)
    to_input = transforms.Compose([transforms.ToTensor(), transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD)])
    known = class_ids.astype("int32")
    known[class_ids == IGNORE] = -1
    return mx.nd.stack(*(to_input(mx.nd.array(image, dtype=np.uint8)) for image in images)), mx.nd.array(
        known, dtype=np.int32
    )


def _build_trainer(network: Any) -> Any:
    import mxnet as mx
    from gluoncv.utils import LRScheduler, LRSequential

    each = {"iters_per_epoch": BATCHES}
    schedule = LRSequential(
        [
            LRScheduler("linear", base_lr=0, target_lr=LEARNING_RATE, nepochs=0, **each),
            LRScheduler("poly", base_lr=LEARNING_RATE, nepochs=EPOCHS, power=0.9, **each),
        ]
    )
    arguments = {"lr_scheduler": schedule, "wd": WEIGHT_DECAY, "momentum": MOMENTUM}
    return mx.gluon.Trainer(network.collect_params(), "sgd", arguments, kvstore=mx.kv.create("local"))


def main(arguments: list[str]) -> None:
    """Serve rounds of some steps each."""
    forget_empty_thread_count()

    import gluonseg  # noqa: F401  (makes MXNet importable on today's numpy)

    # isort: split
    import mxnet as mx
    import numpy as np
    from gluoncv.loss import MixSoftmaxCrossEntropyLoss
    from gluoncv.utils.parallel import DataParallelCriterion, DataParallelModel

    num_classes, crop_size, count, steps = (int(argument) for argument in arguments[1:])
    network = build_network(arguments[0], num_classes, crop_size)
    devices = [mx.cpu(0)]
    model = DataParallelModel(network, devices)
    criterion = DataParallelCriterion(MixSoftmaxCrossEntropyLoss(True, aux_weight=AUX_WEIGHT), devices)
    trainer = _build_trainer(network)
    images, class_ids = _load_batch(crop_size, count, num_classes)
    mx.nd.waitall()

    def run() -> dict[str, float]:
        loss = 0.0
        for _ in range(steps):
            with mx.autograd.record(True):
                losses = criterion(model(images.astype("float32", copy=False)), class_ids)
                mx.nd.waitall()
                mx.autograd.backward(losses)
            trainer.step(count)
            loss = sum(float(np.mean(one.asnumpy())) for one in losses) / len(losses)
            mx.nd.waitall()
        return {"steps": steps, "loss": loss}

    run()
    serve_rounds(run)


if __name__ == "__main__":
    main(sys.argv[1:])
