"""docker/build.sh: its options and messages, and weights in the image for jobs without network."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backbone_array import draw_arrays
from docker_engine import call_docker, run_container
from gluonseg.models.params import write_params
from job_layout import draw_channels, lay_out_job
from program import build_environment, run_program
from repository import ROOT

BASE = "gluonseg-base"


def run_build(*arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    environment = build_environment(PATH=path + os.environ["PATH"])
    return run_program([ROOT / "docker" / "build.sh", *arguments], environment, timeout=900)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with made weights of resnet-18, in a file that only its owner may read."""
    folder = tmp_path_factory.mktemp("weights")
    write_params(draw_arrays("resnet-18"), folder / "resnet-18.params")
    (folder / "resnet-18.params").chmod(0o600)
    return folder


@pytest.fixture
def image_with_weights(image: str, weights: Path) -> Iterator[str]:
    has_base = call_docker("image", "inspect", BASE).returncode == 0
    name = "gluonseg-test-weights"
    done = run_build("--tag", name, "--pretrained", str(weights), *(["--base", BASE] if has_base else []))
    assert done.returncode == 0, done.stdout
    yield name
    call_docker("rmi", name)


@pytest.mark.docker
def test_weights_in_the_image(
    image_with_weights: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A job without network starts from them; the image itself has none (test_what_the_user_can_fix)."""
    job = lay_out_job(tmp_path / "ml", draw_channels(tmp_path_factory.getbasetemp()), use_pretrained_model="True")
    for folder in (job.base, job.base / "output", job.base / "output/data", job.model):
        folder.chmod(0o777)
    run = run_container(image_with_weights, "train", base=job.base, options=["--network", "none", "--user", "4321"])
    assert run.code == 0, run.log
    assert "/usr/local/share/gluonseg/pretrained/resnet-18.params" in run.log


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--ca", "/nowhere.pem"], "--ca /nowhere.pem, or pip's setting cert: there is no such file"),
        (["--pretrained", "/nowhere"], "--pretrained /nowhere: there is no such folder"),
        (["--pretrained=/etc"], "--pretrained /etc: no .params or .safetensors file is in this folder"),
        (["-t"], "--tag needs a value"),
        (["--gpu", "--serve"], "--gpu and --serve exclude one another"),
    ],
)
def test_wrong_options(arguments: list[str], text: str) -> None:
    done = run_build(*arguments)
    assert (done.returncode, done.stdout) == (2, f"build.sh: {text}\n")


def test_help() -> None:
    done = run_build("--help")
    assert done.returncode == 0
    assert "--pretrained FOLDER" in done.stdout


def test_no_engine(tmp_path: Path) -> None:
    (tmp_path / "docker").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    (tmp_path / "docker").chmod(0o755)
    done = run_build(path=f"{tmp_path}:")
    assert (done.returncode, "Docker does not answer" in done.stdout) == (2, True)
