"""A training job on two hosts beside one on one: photos a second, and the share of a step that communication takes.

FCN on resnet-18, crop 240, a batch of 16 in all (the algorithm's own), one thread a host, with and without delay
between the hosts, which are namespaces of this machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.delayed_link import INTERFACE, open_link
from benchmarks.inputs import prepare_channels
from benchmarks.row import ResultRow, build_ratio_row
from benchmarks.variant import ROOT, THREADS
from gluonseg import METRIC_DEFINITIONS
from gluonseg.data.channel import find_channels

_DELAYS_MS = (0, 1, 5)
_PHOTOS = {"train": 32, "validation": 4}
_TRAINING = {
    "algorithm": "fcn", "backbone": "resnet-18", "use_pretrained_model": "false", "epochs": "4", "crop_size": "240",
    "base_size": "260", "mini_batch_size": "16", "learning_rate": "0.001",
}  # fmt: skip
_ROUNDS, _BAR, _LIMIT_S = 2, 1.8, 900
_THROUGHPUT = {item["Name"]: item["Regex"] for item in METRIC_DEFINITIONS}["train:throughput"]
_COMMUNICATION = r"Communication took ([0-9.]+) % of the"
_NOTE = "a packet takes so long either way; a relay in user space, which computes on the same cores, makes the delay"


class HostsError(RuntimeError):
    """A job has failed, or its log lacks what is measured."""


class Progress(NamedTuple):
    """Epoch by epoch: photos a second, and the share of the training time that communication took, in per cent."""

    rates: list[float]
    shares: list[float]


def parse_log(text: str) -> Progress:
    """What the log of a job's first host says; the first epoch, which compiles the network, is left out."""
    rates, shares = (list(map(float, re.findall(one, text)))[1:] for one in (_THROUGHPUT, _COMMUNICATION))
    return Progress(rates, shares)


def _prepare_part(scratch: Path) -> Path:
    """Channels of a few photos, in links."""
    part = scratch / "hosts-channels"
    shutil.rmtree(part, ignore_errors=True)
    for name, folder in find_channels(prepare_channels(scratch)).items():
        (part / name).mkdir(parents=True)
        for file in sorted(folder.iterdir())[: _PHOTOS.get(name.removesuffix("_annotation"))]:
            (part / name / file.name).symlink_to(file)
    return part


def _lay_out(base: Path, channels: Path, hosts: Sequence[str], host: str) -> None:
    """The folder that SageMaker would give to ``host`` as /opt/ml."""
    names = json.loads((channels / "label_map" / "class_names.json").read_text(encoding="utf-8"))
    config = base / "input" / "config"
    config.mkdir(parents=True)
    (base / "input" / "data").symlink_to(channels)
    contents: Mapping[str, object] = {
        "hyperparameters": {**_TRAINING, "num_classes": str(len(names))},
        "inputdataconfig": {folder.name: {"TrainingInputMode": "File"} for folder in channels.iterdir()},
        "resourceconfig": {"hosts": hosts, "current_host": host, "network_interface_name": INTERFACE},
    }
    for name, content in contents.items():
        (config / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def _train(folder: Path, channels: Path, prefixes: Mapping[str, Sequence[str]]) -> Progress:
    """Run one job; ``prefixes`` has, for each host, what comes before the command."""
    shutil.rmtree(folder, ignore_errors=True)
    jobs = []
    for host, prefix in prefixes.items():
        base = folder / host
        _lay_out(base, channels, list(prefixes), host)
        environ = {**os.environ, THREADS: "1", "SAGEMAKER_BASE_DIR": str(base)}
        with (base / "log").open("wb") as log:
            command = [*prefix, sys.executable, str(ROOT / "container" / "train")]
            jobs.append(subprocess.Popen(command, env=environ, stdout=log, stderr=subprocess.STDOUT))
    try:
        codes = [job.wait(_LIMIT_S) for job in jobs]
    finally:
        for job in jobs:
            job.kill()
    text = (folder / next(iter(prefixes)) / "log").read_text(encoding="utf-8")
    found = parse_log(text)
    if any(codes) or not found.rates or (len(jobs) > 1 and not found.shares):
        raise HostsError(f"the job in {folder} ended with codes {codes}; the end of its first log:\n{text[-3000:]}")
    return found


def measure(scratch: Path) -> list[ResultRow]:
    """Raises HostsError when a job fails, and where network namespaces cannot be made."""
    if os.geteuid() or not shutil.which("ip"):
        raise HostsError("the stage hosts needs root and the command ip (Debian's package iproute2)")
    channels, folder = _prepare_part(scratch), scratch / "hosts-jobs"
    alone: list[float] = []
    pairs = {delay_ms: Progress([], []) for delay_ms in _DELAYS_MS}
    for _ in range(_ROUNDS):
        alone += _train(folder, channels, {"algo-1": ()}).rates
        for delay_ms, pair in pairs.items():
            with open_link(2, delay_ms / 1000) as hosts:
                found = _train(folder, channels, hosts)
            pair.rates.extend(found.rates)
            pair.shares.extend(found.shares)
    speed, communication = [], []
    for delay_ms, pair in pairs.items():
        stage, note = f"2 hosts, {delay_ms} ms", _NOTE if delay_ms == max(_DELAYS_MS) else ""
        bar = None if delay_ms else _BAR
        speed.append(build_ratio_row(f"training, {stage}", "1 host", "photos/s", pair.rates, alone, bar))
        share = median(pair.shares)
        communication.append(ResultRow(f"communication, {stage}", "-", "% of training", share, None, share, note=note))
    return [*speed, *communication]
