"""The image for GPUs, here without one: it computes on the CPU, and a driver wins over its stand-in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from docker_engine import run_container, started_container
from gluonseg.data.decode import read_image
from gluonseg.predict.predictor import load_predictor
from job_layout import Job, draw_channels, lay_out_job
from libcuda_build import build_driver, needs_compiler
from notebook_client import parse_mask

pytestmark = pytest.mark.docker
# Where NVIDIA's container runtime mounts the driver.
DRIVER_PATH = "/usr/lib/x86_64-linux-gnu/libcuda.so.1"


@pytest.fixture
def job(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    return lay_out_job(tmp_path / "ml", draw_channels(tmp_path_factory.getbasetemp()))


def test_without_a_driver(gpu_image: str, job: Job) -> None:
    """Trains and serves on the CPU, and its masks are those of MXNet's CPU build in this process."""
    run = run_container(gpu_image, "train", base=job.base)
    assert run.code == 0, run.log
    assert "Number of GPUs being used: 0: no NVIDIA driver is visible; run the container with --gpus all" in run.log
    predictor = load_predictor(job.model)
    photo = next(job.channel("validation").iterdir())
    with started_container(gpu_image, "serve", base=job.base) as container:
        container.wait_until_served()
        status, _, body = container.request("/invocations", photo.read_bytes())
        assert status == 200
        np.testing.assert_array_equal(parse_mask(body), predictor.predict_mask(read_image(photo)))
        assert "Number of GPUs being used: 0" in container.read_log()


@needs_compiler
def test_a_gpu_that_mxnet_has_no_code_for(gpu_image: str, job: Job, tmp_path: Path) -> None:
    """Training stops and says what to do, as the driver that is mounted is the one that is asked."""
    driver = build_driver(tmp_path / "driver", [("NVIDIA H100 80GB HBM3", 9, 0)])
    run = run_container(gpu_image, "train", base=job.base, options=["--volume", f"{driver}:{DRIVER_PATH}:ro"])
    assert run.code == 2, run.log
    failure = job.read_failure() or ""
    assert "GPU 0 (NVIDIA H100 80GB HBM3, compute capability 9.0)" in failure
    assert "CUDA_VISIBLE_DEVICES=-1" in failure
