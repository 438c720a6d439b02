"""The tiny training that the drills interrupt, and what its end is compared by."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gluonseg.data.prepare.synthetic import prepare_synthetic
from gluonseg.files import hash_file
from gluonseg.train.checkpoint_file import KEPT, CheckpointFile, open_checkpoints
from job_layout import TRAIN, Job, lay_out_job
from program import LoggedProcess, start_logged

EPOCHS, UPDATES = 5, 3
"""Epochs of the training, and updates in each."""
LAUNCHER = Path(__file__).with_name("launcher.py")
CONFIGURED = "Final configuration"
"""In the line of the log with which the data is read and the work begins."""
_MODEL = ("model_best.params", "model_algo-1", "model_card.json", "model.onnx")
_METRIC = re.compile(
    r"#(?:quality|whole_image)_metric\. .*"
    r"|#progress_notice\. epoch: (\d+), iterations: (\d+) .*(learning_rate: .*)"
)
_RESUMED = re.compile(r"Resuming from checkpoint \S+ after (?:update (\d+) of )?epoch (\d+), ")


@dataclass(frozen=True)
class Outcome:
    """The end of a training: sha256 of the files of its model, of parameters and optimizer, and its metric lines."""

    model: Mapping[str, str]
    state: str
    metrics: Sequence[str]


def draw_data(folder: Path) -> Path:
    """Channels of 15 training and 5 validation photos of about 64 pixels."""
    data = folder / "data"
    if not data.exists():
        prepare_synthetic(data, count=20, size=64)
    return data


def lay_out(base: Path, data: Path, **changes: object) -> Job:
    """A job of five epochs of three updates, with a folder for checkpoints."""
    settings = {"mini_batch_size": "5", "crop_size": "64", "base_size": "72", "_logging_frequency": "1"}
    job = lay_out_job(base, data, link=True, **{"epochs": str(EPOCHS), "optimizer": "adam", **settings, **changes})
    (base / "checkpoints").mkdir()
    return job


class Running(LoggedProcess):
    """A training that runs."""

    def wait_for(self, pattern: str, timeout_s: float = 120.0) -> bool:
        """Wait until a line of the log has ``pattern``; False when the training ends before."""
        deadline = time.monotonic() + timeout_s
        while not re.search(pattern, self.log):
            if self.process.poll() is not None:
                return re.search(pattern, self.log) is not None
            if time.monotonic() > deadline:
                raise TimeoutError(f"no {pattern!r} in {timeout_s} s:\n{self.log}")
            time.sleep(0.005)
        return True

    def stop(self, number: int, timeout_s: float = 60.0) -> tuple[int, float]:
        """Send a signal; the exit code, and the seconds up to the end."""
        start = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(timeout_s), time.monotonic() - start


@contextmanager
def running(job: Job, name: str, each_update: bool = False, /, **variables: str) -> Iterator[Running]:
    """Run ``container/train``, or with ``each_update`` the launcher, in a process of its own."""
    program = LAUNCHER if each_update else TRAIN
    log_file = job.base.parent / f"{job.base.name}.{name}.log"
    threads = os.environ.get("OMP_NUM_THREADS", "1")
    variables = {"OMP_NUM_THREADS": threads, "SAGEMAKER_BASE_DIR": str(job.base), **variables}
    with start_logged([sys.executable, str(program)], log_file, **variables) as process:
        yield Running(process, log_file)


def run_to_end(job: Job, name: str, each_update: bool = False, /, **variables: str) -> tuple[int, str]:
    """Exit code and log of a training that nobody interrupts."""
    with running(job, name, each_update, **variables) as run:
        return run.process.wait(timeout=600), run.log


def list_metrics(log: str) -> list[str]:
    """What a log says of losses, scores and rates, line by line; not of speed."""
    found = [_METRIC.search(line) for line in log.splitlines()]
    return [" ".join(match.groups()) if match[1] else match[0] for match in found if match]


def find_position(log: str) -> int:
    """How many updates of the training are done, by its log."""
    resumed = _RESUMED.search(log)
    done = 0
    if resumed:
        epoch, updates = int(resumed[2]), resumed[1]
        done = epoch * UPDATES + int(updates) if updates else (epoch + 1) * UPDATES
    for match in _METRIC.finditer(log):
        if match[1]:
            done = int(match[1]) * UPDATES + int(match[2])
    return done


def find_resumed(log: str) -> int:
    """The number of updates behind the checkpoint that a training went on from; 0 when there was none."""
    match = _RESUMED.search(log)
    return find_position(match[0]) if match else 0


def list_checkpoints(job: Job) -> list[CheckpointFile]:
    """The furthest first."""
    with open_checkpoints(job.base / "checkpoints") as checkpoints:
        return checkpoints.find_files() if checkpoints else []


def hash_state(file: CheckpointFile) -> str:
    """sha256 (hex) of all parameters, states and counts of a checkpoint; times are not of them."""
    arrays, content = file.read()
    digest = hashlib.sha256(json.dumps(content["optimizer"], sort_keys=True).encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def read_outcome(job: Job, log: str) -> Outcome:
    """The end of a training."""
    model = {name: hash_file(job.model / name) for name in _MODEL}
    return Outcome(model, hash_state(list_checkpoints(job)[0]), list_metrics(log))


def describe_difference(found: Outcome, expected: Outcome) -> str:
    """What of a resumed training's end is not that of an uninterrupted one; empty when all is."""
    words = [name for name, sha256 in expected.model.items() if found.model.get(name) != sha256]
    if found.state != expected.state:
        words.append("parameters and optimizer")
    if list(found.metrics) != list(expected.metrics)[len(expected.metrics) - len(found.metrics) :]:
        words.append("metric lines")
    return ", ".join(words)


def list_leftovers(job: Job) -> list[str]:
    """Names of what an interrupted training has left that no job needs."""
    found = [path.name for folder in ("model", "output", "checkpoints") for path in (job.base / folder).rglob(".*")]
    checkpoints = [path.name for path in (job.base / "checkpoints").iterdir()]
    return found + checkpoints[KEPT:]


def loads(job: Job) -> bool:
    """Whether the model in the folder of a job predicts."""
    from gluonseg.predict.predictor import load_predictor

    return load_predictor(job.model).predict_mask(np.zeros((30, 50, 3), np.uint8)).shape == (30, 50)
