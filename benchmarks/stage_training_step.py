"""Steps of training beside those of GluonCV's training script and of PyTorch: steps per second, and the most memory.

FCN on resnet-18, crop 240, batch 8, on a batch that is loaded already. ``python -m benchmarks.stage_training_step
CLASSES`` is our side: steps of gluonseg's training on a batch as its loader yields it, uint8, normalised in the step.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from benchmarks.row import AT_MOST, ResultRow, build_ratio_row
from benchmarks.training_batch import AUX_WEIGHT, CROP, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, draw_batch
from benchmarks.variant import Measurement, Variant, compare, pick, serve_rounds
from gluonseg.machine.limits import count_usable_cores, set_thread_count

TORCH_VARIABLE = "GLUONSEG_BENCH_TORCH"
"""The Python of an environment with torch and numpy; without it PyTorch is not measured."""
_PEER = "the steps of GluonCV's script"
_PEER_NOTE = (
    "GluonCV's script is not in its package: its steps and settings are rebuilt on GluonCV's public API, the FCN of "
    "GluonCV's resnet-18 and head, since its own FCN cannot be built for that backbone; the batch is loaded, and "
    "normalised within our step"
)
_TORCH_NOTE = "the same network and settings written in PyTorch as its users do, run eagerly, loss at full size"


def measure(_scratch: Path) -> list[ResultRow]:
    """All rows of this stage."""
    cores = count_usable_cores()

    def start(module: str, classes: int, threads: int | None = None) -> Variant:
        return Variant(f"benchmarks.{module}", str(classes), threads=threads)

    variants = {
        "gluoncv": start("peers.gluoncv_step", 21),
        "ours": start("stage_training_step", 21),
        "gluoncv, all cores": start("peers.gluoncv_step", 21, cores),
    }
    python = os.environ.get(TORCH_VARIABLE)
    if python:
        variants["torch"] = Variant("benchmarks.peers.torch_step", "21", threads=cores, python=python)
    few = compare(variants)
    many = compare({"gluoncv": start("peers.gluoncv_step", 150, cores), "ours": start("stage_training_step", 150)})
    stage = f"training step, {cores} threads"
    speed = [
        ("training step, out of the box", few, "gluoncv", 1.8, _PEER_NOTE),
        (f"{stage}, 21 classes", few, "gluoncv, all cores", 1.2, ""),
        (f"{stage}, 150 classes", many, "gluoncv", 1.5, ""),
    ]
    rows = [
        build_ratio_row(name, _PEER, "steps/s", *pick(series, "rate", "ours", peer), bar, note=note)
        for name, series, peer, bar, note in speed
    ]
    if python:
        both, peer = pick(few, "rate", "ours", "torch"), f"PyTorch {few['torch'][0]['version']}"
        rows.append(build_ratio_row(f"{stage}, 21 classes", peer, "steps/s", *both, note=_TORCH_NOTE))
    note = "the most that the process ever had resident"
    for classes, series, peer, bar in ((21, few, "gluoncv, all cores", 0.8), (150, many, "gluoncv", 0.55)):
        both, name = pick(series, "peak_mb", "ours", peer), f"memory of training, {classes} classes"
        rows.append(build_ratio_row(name, _PEER, "MB", *both, bar, AT_MOST, note))
    return rows


def build_stepper(algorithm: str, backbone: str, num_classes: int) -> Any:
    """What a job of gluonseg trains with: its network, loss and optimizer, started and compiled as there."""
    import mxnet as mx

    from gluonseg.hyperparameters import parse_hyperparameters
    from gluonseg.train.job import build_trainer
    from gluonseg.train.losses import MixedLoss, build_weight_table
    from gluonseg.train.start import build_start_network
    from gluonseg.train.step import Stepper

    given = {
        "algorithm": algorithm, "backbone": backbone, "num_classes": num_classes, "crop_size": CROP,
        "use_pretrained_model": "False", "optimizer": "sgd", "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY,
        "learning_rate": LEARNING_RATE,
    }  # fmt: skip
    hp = parse_hyperparameters({name: str(value) for name, value in given.items()})
    devices = [mx.cpu()]
    network = build_start_network(hp, devices)
    trainer = build_trainer(hp, network)
    return Stepper(network, MixedLoss(num_classes, AUX_WEIGHT), trainer, devices, build_weight_table(num_classes))


def main(classes: str) -> None:
    """Be our side."""
    set_thread_count()  # as gluonseg's command line and container do
    from gluonseg.data.loader import Batch

    stepper = build_stepper("fcn", "resnet-18", int(classes))
    batch = Batch(*draw_batch(int(classes)))

    def run() -> Measurement:
        return {"loss": stepper.update(batch, LEARNING_RATE)}

    run()
    serve_rounds(run)


if __name__ == "__main__":
    main(*sys.argv[1:])
