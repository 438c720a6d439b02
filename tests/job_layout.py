"""A training job in a folder laid out like /opt/ml, and ``container/train`` run on it as Docker would."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gluonseg.data.prepare.synthetic import prepare_synthetic
from program import build_environment, run_program
from repository import ROOT

TRAIN = ROOT / "container" / "train"
CHANNELS = ("train", "train_annotation", "validation", "validation_annotation", "label_map")
HYPERPARAMETERS: Mapping[str, str] = {
    "backbone": "resnet-18",
    "num_classes": "4",
    "use_pretrained_model": "False",
    "crop_size": "32",
    "base_size": "40",
    "epochs": "1",
    "mini_batch_size": "8",
    "validation_mini_batch_size": "8",
    "learning_rate": "0.01",
}
"""What the fastest job needs; strings, as SageMaker writes them."""


@dataclass(frozen=True)
class JobRun:
    """How a job ended; ``failure`` is the text of the failure file, None when there is none."""

    code: int
    log: str
    failure: str | None


@dataclass(frozen=True)
class Job:
    """A training job in ``base``, which stands for /opt/ml."""

    base: Path

    @property
    def model(self) -> Path:
        return self.base / "model"

    def channel(self, name: str) -> Path:
        return self.base / "input" / "data" / name

    def config(self, name: str) -> Path:
        return self.base / "input" / "config" / f"{name}.json"

    def write_config(self, name: str, content: object) -> None:
        self.config(name).write_text(json.dumps(content), encoding="utf-8")

    def set_hyperparameters(self, **values: object) -> None:
        """Add to, or replace, what hyperparameters.json says."""
        self.write_config("hyperparameters", {**json.loads(self.config("hyperparameters").read_text()), **values})

    def list_channels(self, *names: str) -> None:
        """Write inputdataconfig.json for these channels."""
        self.write_config("inputdataconfig", {name: {"TrainingInputMode": "File"} for name in names})

    def read_failure(self) -> str | None:
        file = self.base / "output" / "failure"
        return file.read_text(encoding="utf-8") if file.exists() else None

    def run(self, *arguments: str, **variables: str) -> JobRun:
        """Run ``container/train`` in a process of its own."""
        environment = build_environment(**{"OMP_NUM_THREADS": "1", "SAGEMAKER_BASE_DIR": str(self.base), **variables})
        done = run_program([sys.executable, TRAIN, *arguments], environment)
        return JobRun(done.returncode, done.stdout, self.read_failure())


def draw_channels(base_temp: Path) -> Path:
    """The channels of a tiny drawn data set, made once in the temporary folder of a test session."""
    folder = base_temp / "drawn-channels"
    if not folder.exists():
        prepare_synthetic(folder, count=24, size=40)
    return folder


def lay_out_job(base: Path, data: Path, *, link: bool = False, **hyperparameters: object) -> Job:
    """Lay out a job on the channels in ``data``, copied, or linked as local mode mounts them."""
    job = Job(base)
    for folder in ("input/config", "input/data", "model", "output/data"):
        (base / folder).mkdir(parents=True)
    for name in CHANNELS:
        if link:
            job.channel(name).symlink_to(data / name)
        else:
            shutil.copytree(data / name, job.channel(name))
    job.write_config("hyperparameters", {**HYPERPARAMETERS, **hyperparameters})
    job.list_channels(*CHANNELS)
    resources = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"}
    job.write_config("resourceconfig", resources)
    return job


def train_once(base_temp: Path) -> tuple[Job, JobRun]:
    """The good job of a test session: trained by the first test that asks, read from disk by the others.

    Two epochs, on channels that an S3 address without a slash at its end made: train holds train_annotation.
    """
    base, log = base_temp / "trained-job", base_temp / "trained-job.log"
    if log.exists():
        return Job(base), JobRun(0, log.read_text(encoding="utf-8"), Job(base).read_failure())
    data = draw_channels(base_temp)
    job = lay_out_job(base, data, epochs="2", _logging_frequency="1")
    for split in ("train", "validation"):
        shutil.copytree(data / f"{split}_annotation", job.channel(split) / f"{split}_annotation")
    run = job.run()
    if run.code:
        raise RuntimeError(f"the job that other tests build on failed:\n{run.log}")
    log.write_text(run.log, encoding="utf-8")
    return job, run
