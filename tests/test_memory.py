"""What a training needs of the memory that there is; test_limits.py is about what there is."""

from __future__ import annotations

import os
from pathlib import Path

import mxnet as mx
import pytest

from conftest import RunJob
from gluonseg.errors import HyperparameterError
from gluonseg.hyperparameters import parse_hyperparameters
from gluonseg.train.memory import check_memory
from program import run_source


def test_a_batch_that_cannot_fit(run_tiny: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gluonseg.train.memory.find_memory_limit", lambda: 1 << 30)
    changes = {"mini_batch_size": "9", "crop_size": "480", "base_size": "480"}
    words = r"batches of 9 crops of 480 pixels need at least \d+\.\d GB of memory with fcn on resnet-18, and there are"
    fix = r"1\.1 GB here; lower mini_batch_size to [1-8] or less, or crop_size"
    with pytest.raises(HyperparameterError, match=f"{words} {fix}"):
        run_tiny(changes)
    assert not (tmp_path / "model").exists()


def test_a_crop_that_cannot_fit() -> None:
    hp = parse_hyperparameters({"num_classes": "2", "backbone": "resnet-18", "crop_size": "9600"})
    with pytest.raises(HyperparameterError, match=r"GB here; lower crop_size$"):
        check_memory(hp, 1, [mx.cpu()], 2 << 30)
    check_memory(hp, 1, [mx.cpu()], 2 << 40)
    check_memory(hp, 1, [mx.gpu(0)], 1)


MEASURE = """
import gluonseg.compat
import mxnet as mx
import numpy as np
from gluonseg.data.loader import Batch
from gluonseg.hyperparameters import parse_hyperparameters
from gluonseg.train.losses import MixedLoss, build_weight_table
from gluonseg.train.job import build_trainer
from gluonseg.train.memory import estimate_bytes
from gluonseg.train.start import build_start_network
from gluonseg.train.step import Stepper

hp = parse_hyperparameters({settings!r})
network = build_start_network(hp, [mx.cpu()])
stepper = Stepper(network, MixedLoss(2, 0.5), build_trainer(hp, network), [mx.cpu()], build_weight_table(2, ()))
shape = (hp.mini_batch_size, hp.crop_size, hp.crop_size)
batch = Batch(np.zeros((*shape, 3), np.uint8), np.zeros(shape, np.uint8))
for _ in range(2):
    stepper.update(batch, 0.001)
fixed, each = estimate_bytes(hp)
# Of this program alone: what getrusage tells is also that of the one that started it.
peak = next(int(line.split()[1]) << 10 for line in open('/proc/self/status') if line.startswith('VmHWM'))
print(peak, fixed + hp.mini_batch_size * each)
"""


@pytest.mark.parametrize(("algorithm", "optimizer"), [("fcn", "sgd"), ("deeplab", "adam")])
def test_the_estimate_is_below_what_is_taken(algorithm: str, optimizer: str) -> None:
    """A job that would have gone through must not be refused."""
    settings = {"num_classes": "2", "algorithm": algorithm, "backbone": "resnet-18", "optimizer": optimizer}
    settings |= {"crop_size": "160", "mini_batch_size": "4", "use_pretrained_model": "False"}
    peak, estimate = map(int, run_source(MEASURE.format(settings=settings), dict(os.environ)).split())
    assert estimate < peak < 4 * estimate
