"""docs/container.md, block after block, as a reader would type it."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from docker_engine import call_docker, name_container
from gluonseg.data.decode import read_image, read_label
from local_server import find_free_port
from program import run_program
from repository import read_blocks

pytestmark = pytest.mark.docker


def test_every_block_runs(image: str, serve_image: str, tmp_path: Path) -> None:
    """With few photos, one epoch, a free port, and the images under test, which exist already."""
    name, port = name_container(), find_free_port()
    changes = [
        (r"^make image(-serve)?\n", ""),
        (r"\bgluonseg:serve\b", serve_image),
        (r" gluonseg (gluonseg|train|serve|app)\b", rf" {image} \1"),
        (r'"epochs": "16"', '"epochs": "1"'),
        (r"--epochs 16", "--epochs 1"),
        (r"--crop_size 96 --base_size 96", "--crop_size 40 --base_size 40"),
        (r"\b8080:8080", f"{port}:8080"),
        (r"\bpets\b", name),
        (r"\bdocker run ", r"\g<0>--env OMP_NUM_THREADS=1 "),
        (r"\bprepare synthetic job/input/data", r"\g<0> --count 32 --size 48"),
    ]
    text = "\n".join(read_blocks("docs/container.md"))
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text, flags=re.M)
        assert count, f"docs/container.md has nothing that matches {pattern}"
    text = text.replace("localhost:8080", f"localhost:{port}")
    try:
        done = run_program(["bash", "-euxc", text], cwd=tmp_path)
    finally:
        for container in (name, f"{name}-locked", f"{name}-page", f"{name}-baked"):
            call_docker("rm", "--force", container)
        call_docker("rmi", f"{name}-model")
    assert done.returncode == 0, done.stdout
    photo = tmp_path / "job/input/data/validation/disc_1.jpg"
    assert read_label(tmp_path / "mask.png").shape == read_image(photo).shape[:2]
    assert photo.stat().st_uid == os.getuid()
    assert (tmp_path / "job/comparison/report.html").stat().st_uid == os.getuid()
