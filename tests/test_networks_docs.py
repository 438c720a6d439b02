"""docs/networks.md, "Add your own", as a reader would follow it, in processes of their own."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from gluonseg.data.decode import read_image, read_label
from gluonseg.models.registry import get_networks
from program import build_environment, run_program
from repository import ROOT, read_blocks, read_commands

PAGE = "docs/networks.md"
CHANGES = {
    "synthetic data\n": "synthetic data --count 20 --size 40\n",
    "pip install ": "pip install --no-index --target site ",
    "--crop_size 96 --base_size 96 --mini_batch_size 8 --epochs 16": "--crop_size 40 --base_size 40 --epochs 1",
    "GLUONSEG/tests pytest ": f"{ROOT}/tests:site pytest -p no:cacheprovider --basetemp scratch ",
}
"""What is typed instead: all stays in one folder, and takes seconds."""
INSTALL, PREPARE, TRAIN, PREDICT, TEST = range(5)


def read_changed_commands() -> list[str]:
    """The page's commands after CHANGES, each of which must apply."""
    text = "\n".join(read_commands(PAGE))
    for shown, typed in CHANGES.items():
        assert text.count(shown) == 1, shown
        text = text.replace(shown, typed)
    return text.splitlines()


def write_files(folder: Path) -> None:
    """The blocks whose paragraph begins with the name of a file."""
    page = (ROOT / PAGE).read_text("utf-8")
    for name, content in re.findall(r"^`([\w/]+\.\w+)`(?:[^\n]+\n)+\n```\w+\n(.*?)^```$", page, flags=re.M | re.S):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, encoding="utf-8")


def run(command: str, folder: Path, *, is_installed: bool, code: int = 0) -> str:
    """Run it in ``folder``, with or without the package on the path; its output."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    variables = {"PATH": path, "OMP_NUM_THREADS": "1", **({"PYTHONPATH": str(folder / "site")} if is_installed else {})}
    done = run_program(["bash", "-c", command], build_environment("PYTHONPATH", **variables), cwd=folder)
    assert done.returncode == code, f"{command}\n{done.stdout}"
    return done.stdout


def test_a_network_of_another_package_from_its_installation_to_a_mask(tmp_path: Path) -> None:
    commands = read_changed_commands()
    write_files(tmp_path)
    run(commands[INSTALL], tmp_path, is_installed=False)
    run(commands[PREPARE], tmp_path, is_installed=False)

    refused = run(commands[TRAIN].replace("resnet-18", "resnet-50"), tmp_path, is_installed=True, code=2)
    assert "fpn has no backbone 'resnet-50'" in refused
    assert "valid ones: resnet-18, resnet-34" in refused
    unknown = run(commands[TRAIN], tmp_path, is_installed=False, code=2)
    assert f"algorithm must be one of {', '.join(get_networks())}; got 'fpn'" in unknown
    assert not (tmp_path / "run" / "model" / "model_best.params").exists()

    run(commands[TRAIN], tmp_path, is_installed=True)
    model = tmp_path / "run" / "model"
    assert (model / "model.onnx").is_file()
    card = json.loads((model / "model_card.json").read_bytes())
    assert (card["algorithm"], card["output_stride"], card["align_corners"]) == ("fpn", 4, False)

    # Away from the package, and with a module in MXNet's place that nothing may import.
    blocked = tmp_path / "blocked" / "mxnet.py"
    blocked.parent.mkdir()
    blocked.write_text("raise ImportError('MXNet is imported')\n", encoding="utf-8")
    run(f"PYTHONPATH={blocked.parent} {commands[PREDICT]}", tmp_path, is_installed=False)
    mask = read_label(tmp_path / "masks" / "disc_1.png")
    assert mask.shape == read_image(tmp_path / "data" / "validation" / "disc_1.jpg").shape[:2]
    assert mask.max() < 4

    assert " passed" in run(commands[TEST], tmp_path, is_installed=True)


def test_the_translation_that_the_page_shows_is_in_use() -> None:
    (shown,) = [block for block in read_blocks(PAGE, "python") if "op: Operator" in block]
    assert shown in (ROOT / "src/gluonseg/onnx/trace.py").read_text("utf-8")
