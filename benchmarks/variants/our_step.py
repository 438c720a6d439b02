"""Steps of gluonseg's training on a batch as its loader yields it: uint8, normalised within the step.

``python -m benchmarks.variants.our_step BACKBONE CLASSES CROP BATCH STEPS``.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.training_batch import draw_batch, forget_empty_thread_count
from benchmarks.variant import serve_rounds
from gluonseg.cores import set_thread_count

LEARNING_RATE = 1e-3


def build_stepper(backbone: str, num_classes: int, crop_size: int, algorithm: str = "fcn") -> Any:
    """What a job of gluonseg trains with: its network, loss and optimizer, started and compiled as there."""
    import mxnet as mx

    from gluonseg.hyperparameters import parse_hyperparameters
    from gluonseg.losses import MixedLoss, build_weight_table
    from gluonseg.train.optimizer import build_optimizer_arguments
    from gluonseg.train.start import build_start_network
    from gluonseg.train.step import Stepper

    given = {
        "algorithm": algorithm, "backbone": backbone, "num_classes": str(num_classes),
        "crop_size": str(crop_size), "use_pretrained_model": "False", "optimizer": "sgd", "momentum": "0.9",
        "weight_decay": "0.0001", "learning_rate": str(LEARNING_RATE),
    }  # fmt: skip
    hp = parse_hyperparameters(given)
    devices = [mx.cpu()]
    network = build_start_network(hp, devices)
    name, arguments = build_optimizer_arguments(hp)
    trainer = mx.gluon.Trainer(network.collect_params(), name, arguments, kvstore=None)
    loss = MixedLoss(num_classes, hp._aux_weight)
    return Stepper(network, loss, trainer, devices, build_weight_table(num_classes))


def main(arguments: list[str]) -> None:
    """Serve rounds of some steps each."""
    forget_empty_thread_count()
    set_thread_count()  # as gluonseg's command line and container do

    from gluonseg.data.loader import Batch

    num_classes, crop_size, count, steps = (int(argument) for argument in arguments[1:])
    stepper = build_stepper(arguments[0].replace("resnet", "resnet-"), num_classes, crop_size)
    batch = Batch(*draw_batch(crop_size, count, num_classes))

    def run() -> dict[str, float]:
        loss = 0.0
        for _ in range(steps):
            loss = float(stepper.update(batch, LEARNING_RATE).asscalar())
        return {"steps": steps, "loss": loss}

    run()
    serve_rounds(run)


if __name__ == "__main__":
    main(sys.argv[1:])
