"""What several tests share: the repository, a tiny drawn data set, a tiny trained model."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from docker_engine import find_sdk, gpu_image, image, serve_image  # noqa: F401  fixtures
from gluonseg.data.prepare.synthetic import prepare_synthetic
from gluonseg.hyperparameters import Hyperparameters
from gluonseg.sagemaker.log import LogLines, ProgressLine
from gluonseg.train.job import JobOutcome, JobSettings, run_job
from gluonseg.train.listener import Listener
from gluonseg.train.writer import ModelWriter
from newcomer import few_photos, silent_proxy  # noqa: F401  fixtures

CHANNELS = ("train", "train_annotation", "validation", "validation_annotation", "label_map")
TINY = {
    "algorithm": "fcn",
    "backbone": "resnet-18",
    "num_classes": "4",
    "use_pretrained_model": "False",
    "crop_size": "32",
    "base_size": "40",
    "epochs": "2",
    "mini_batch_size": "4",
    "validation_mini_batch_size": "4",
    "learning_rate": "0.01",
    "_logging_frequency": "1",
}
"""Hyperparameters of the smallest job that is still a real one, as SageMaker's strings."""

RunJob = Callable[..., JobOutcome]


def pytest_configure() -> None:
    """Give the tests one thread, and Ctrl-C as a terminal has it, which a shell's background job ignores."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """What is slow is skipped unless it is asked for."""
    if "slow" in config.option.markexpr:
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow; runs with -m slow"))


def build_listeners(hyperparameters: Hyperparameters, writer: ModelWriter) -> Sequence[Listener]:
    """The listeners of a real job, in their order."""
    lines = LogLines("algo-1", hyperparameters._logging_frequency)
    return [lines, writer, ProgressLine(lines)]


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The folder of setup.py."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def drawn_channels(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """Channel name -> folder of 9 training and 3 validation photos of about 40 pixels, 4 classes."""
    folder = tmp_path_factory.mktemp("drawn") / "data"
    prepare_synthetic(folder, count=12, size=40, seed=1)
    return {name: folder / name for name in CHANNELS}


@pytest.fixture
def run_tiny(drawn_channels: Mapping[str, Path], tmp_path: Path) -> RunJob:
    """Run the tiny job with changed hyperparameters; into ``tmp_path/model`` unless told otherwise."""

    def run(changes: Mapping[str, str] | None = None, model: Path | None = None, **settings: Any) -> JobOutcome:
        channels = {**drawn_channels, **settings.pop("extra_channels", {})}
        hyperparameters = {**TINY, **(changes or {})}
        return run_job(JobSettings(hyperparameters, channels, model or tmp_path / "model", **settings), build_listeners)

    return run


@pytest.fixture(scope="session")
def finished_job(drawn_channels: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny job, FCN on resnet-18, after its two epochs: the folders ``model`` and ``checkpoints``."""
    folder = tmp_path_factory.mktemp("finished")
    settings = JobSettings(TINY, drawn_channels, folder / "model", checkpoint_folder=folder / "checkpoints")
    run_job(settings, build_listeners)
    return folder


@pytest.fixture(scope="session")
def trained_model(finished_job: Path) -> Path:
    """The model folder of the tiny job."""
    return finished_job / "model"
