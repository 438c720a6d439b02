"""The memory there is, and what a training needs of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import mxnet as mx
import pytest

from conftest import RunJob
from gluonseg.errors import HyperparameterError
from gluonseg.hyperparameters import OPTIMIZERS, parse_hyperparameters
from gluonseg.machine.limits import find_memory_limit
from gluonseg.train.memory import check_memory, estimate_bytes
from program import run_source

MEMINFO = "MemTotal:        8000 kB\nMemFree:  1 kB\nHugePages_Total:       0\nSwapTotal:       2000 kB\n"
V2, V1 = "memory.max", "memory/memory.limit_in_bytes"


def _lay_out(folder: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, 10_000 << 10),
        ({V2: "max\n"}, 10_000 << 10),
        ({V2: "1048576\n"}, (1 << 20) + (2000 << 10)),
        ({V2: "nonsense"}, 10_000 << 10),
        ({V2: "99999999999\n"}, 10_000 << 10),
        ({V1: "1048576\n"}, (1 << 20) + (2000 << 10)),
        ({V1: "9223372036854771712\n"}, 10_000 << 10),
    ],
)
def test_limit(tmp_path: Path, files: Mapping[str, str], limit: int) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(MEMINFO)
    assert find_memory_limit(_lay_out(tmp_path / "cgroup", files), meminfo) == limit


@pytest.mark.parametrize("text", [None, "", "MemTotal: lots kB\n", "MemTotal\n", "é"])
def test_a_machine_that_does_not_tell(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "meminfo").write_text(text)
    assert find_memory_limit(tmp_path, tmp_path / "meminfo") is None


def test_this_machine() -> None:
    limit = find_memory_limit()
    assert limit is None or limit > 1 << 28


def test_a_batch_that_cannot_fit(run_tiny: RunJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gluonseg.train.memory.find_memory_limit", lambda: 1 << 30)
    changes = {"mini_batch_size": "9", "crop_size": "480", "base_size": "480"}
    words = r"batches of 9 crops of 480 pixels need at least \d+\.\d GB of memory with fcn on resnet-18, and there are"
    fix = r"1\.1 GB here; lower mini_batch_size to [1-8] or less, or crop_size"
    with pytest.raises(HyperparameterError, match=f"{words} {fix}"):
        run_tiny(changes)
    assert not (tmp_path / "model").exists()


def test_a_crop_that_cannot_fit() -> None:
    hp = parse_hyperparameters({"num_classes": "2", "crop_size": "9600"})
    with pytest.raises(HyperparameterError, match=r"GB here; lower crop_size$"):
        check_memory(hp, 1, 1, [mx.cpu()], 2 << 30)
    check_memory(hp, 1, 1, [mx.cpu()], 2 << 40)
    check_memory(hp, 1, 1, [mx.gpu(0)], 1)


def test_a_validation_batch_that_cannot_fit() -> None:
    hp = parse_hyperparameters({"num_classes": "2", "crop_size": "480", "backbone": "resnet-18"})
    fix = r"batches of 500 .*; lower validation_mini_batch_size to \d+ or less"
    with pytest.raises(HyperparameterError, match=fix):
        check_memory(hp, 1, 500, [mx.cpu()], 2 << 30)
    check_memory(hp, 1, 500, [mx.cpu()], 20 << 30)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimizer_is_known(optimizer: str) -> None:
    fixed, each = estimate_bytes(parse_hyperparameters({"num_classes": "2", "optimizer": optimizer, "crop_size": "32"}))
    assert fixed > 3 * 4 * 23_000_000
    assert each > 1_000_000


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
    stepper.update(batch, 0.001).asscalar()
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
