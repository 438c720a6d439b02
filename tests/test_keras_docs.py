"""docs/keras.md, as a reader would follow it, on fewer and smaller photos."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from gluonseg.hyperparameters import get_specs
from gluonseg.models.registry import find_network
from program import build_environment, run_program
from repository import ROOT, read_blocks, read_commands

PAGE = "docs/keras.md"
CHANGES = {
    "synthetic data\n": "synthetic data --count 12 --size 40\n",
    "synthetic test --seed 1": "synthetic test --count 12 --size 40 --seed 1",
    "unet,segnet,fcn,deeplab,psp": "unet,segnet",
    "--crop_size 96 --base_size 96 --mini_batch_size 8 --epochs 16": "--crop_size 40 --base_size 40 --epochs 1",
    "small --count 32 --size 48": "small --count 12 --size 40",
    "small_test --size 48": "small_test --count 12 --size 40",
    "--crop_size 96 --base_size 96 --prediction_size 96": "--crop_size 40 --base_size 40",
    "--epochs 12 --freeze_backbone_epochs 4": "--epochs 2 --freeze_backbone_epochs 1",
}
"""What is typed instead, so that it takes seconds."""


def test_every_command_runs_in_order(tmp_path: Path) -> None:
    text = "\n".join(re.sub(r" +", " ", command) for command in read_commands(PAGE))
    for shown, typed in CHANGES.items():
        assert text.count(shown) == 1, shown
        text = text.replace(shown, typed)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = build_environment(PATH=path, OMP_NUM_THREADS="1")
    printed = {}
    for command in text.splitlines():
        done = run_program(["bash", "-c", command], environment, cwd=tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}"
        printed[command] = done.stdout
    scores = [output for command, output in printed.items() if command.startswith("gluonseg evaluate")]
    assert len(scores) == 4
    assert all("pixel accuracy" in output.lower().replace("_", " ") for output in scores)
    assert "frequency" in scores[1]
    assert (tmp_path / "tuned" / "output" / "data" / "report.html").is_file()

    loss, summary = (
        run_program([sys.executable, "-c", block], environment, cwd=tmp_path) for block in read_blocks(PAGE, "python")
    )
    assert re.search(r"^segnet_mobilenet-v2_seed1 \d+\.\d{3}$", loss.stdout, flags=re.M), loss.stdout
    assert "Total params: 4038916" in summary.stdout, summary.stdout


def test_options_of_the_text_and_networks_exist() -> None:
    page = (ROOT / PAGE).read_text("utf-8")
    text = re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S)
    known = {*get_specs(), *re.findall(r'"--(\w+)"', (ROOT / "src/gluonseg/cli.py").read_text("utf-8"))}
    assert set(re.findall(r"--(\w+)", text)) <= known
    (networks,) = re.findall(r"--algorithms (\S+)", page)
    assert len(networks.split(",")) == 5
    for name in networks.split(","):
        assert not find_network(name).list_problems("mobilenet-v2", None)
