"""docs/container.md, block after block, as a reader would type it."""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from pathlib import Path

import pytest

from docker_engine import ROOT, call_docker
from gluonseg.data.decode import read_image, read_label
from test_readme import find_free_port

pytestmark = pytest.mark.docker


def read_blocks(page: str) -> list[str]:
    """The fenced sh blocks of a page of docs/."""
    return re.findall(r"^```sh\n(.*?)^```$", (ROOT / "docs" / page).read_text("utf-8"), flags=re.M | re.S)


def test_every_block_runs(image: str, tmp_path: Path) -> None:
    """With one epoch, a free port, and the image under test, which exists already."""
    name = f"gluonseg-test-{uuid.uuid4().hex[:12]}"
    changes = [
        (r"^make image\n", ""),
        (r" gluonseg (gluonseg|train|serve)\b", rf" {image} \1"),
        (r'"epochs": "16"', '"epochs": "1"'),
        (r"\b8080:8080", f"{find_free_port()}:8080"),
        (r"\bpets\b", name),
    ]
    text = "\n".join(read_blocks("container.md"))
    for pattern, replacement in changes:
        text, count = re.subn(pattern, replacement, text, flags=re.M)
        assert count, f"docs/container.md has nothing that matches {pattern}"
    port = changes[3][1].split(":")[0]
    text = text.replace("localhost:8080", f"localhost:{port}")
    try:
        done = subprocess.run(
            ["bash", "-euxc", text],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        call_docker("rm", "--force", name)
    assert done.returncode == 0, done.stdout
    photo = tmp_path / "job/input/data/validation/disc_1.jpg"
    assert read_label(tmp_path / "mask.png").shape == read_image(photo).shape[:2]
    assert photo.stat().st_uid == os.getuid()
