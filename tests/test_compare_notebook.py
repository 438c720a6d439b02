"""The notebook that compares the three algorithms, executed from its first cell to its last on drawn photos."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from docker_engine import FindSdk
from gluonseg.data.prepare.synthetic import draw_oxford_layout
from program import build_environment, run_program
from repository import ROOT

NOTEBOOK = ROOT / "docs" / "notebooks" / "compare_oxford_pets.ipynb"
TINY = {"epochs": 1, "crop_size": 32, "base_size": 40, "prediction_size": 40, "mini_batch_size": 4}
EXECUTE = """
import sys, nbclient, nbformat
source, target, folder = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
nbformat.validate(notebook)
settings = {"timeout": 900, "kernel_name": "gluonseg", "resources": {"metadata": {"path": folder}}}
try:
    nbclient.NotebookClient(notebook, **settings).execute()
finally:
    nbformat.write(notebook, target)
"""
# This Python with its packages first; ipykernel and what it needs come from the SDK's environment, behind them.
KERNEL = "import sys; sys.path.append({packages!r}); from ipykernel.kernelapp import launch_new_instance as run; run()"


def read_cells(path: Path) -> list[dict[str, Any]]:
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return cells


def write_kernel(folder: Path, sdk: Path) -> None:
    """A kernel named gluonseg that runs in the environment of this test."""
    find = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = run_program([sdk, "-c", find]).stdout.strip()
    command = [sys.executable, "-c", KERNEL.format(packages=packages), "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "gluonseg", "language": "python"}
    (folder / "kernels" / "gluonseg").mkdir(parents=True)
    (folder / "kernels" / "gluonseg" / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")


def execute(sdk: Path, scratch: Path, **settings: str) -> Path:
    """Execute the notebook in the folder ``scratch``; returns the executed copy."""
    write_kernel(scratch / "jupyter", sdk)
    given = {f"GLUONSEG_{name}": value for name, value in settings.items()}
    environment = build_environment(
        "GLUONSEG_", HOME=str(scratch), JUPYTER_PATH=str(scratch / "jupyter"), OMP_NUM_THREADS="1", **given
    )
    executed = scratch / "executed.ipynb"
    done = run_program([sdk, "-c", EXECUTE, NOTEBOOK, executed, scratch], environment, timeout=None)
    assert done.returncode == 0, done.stdout
    return executed


def list_outputs(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Outputs of the code cells by the cell's id."""
    return {cell["id"]: cell["outputs"] for cell in read_cells(path) if cell["cell_type"] == "code"}


def test_the_notebook_is_stored_without_outputs_and_paths() -> None:
    cells = read_cells(NOTEBOOK)
    assert [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
    text = "".join(line for cell in cells for line in cell["source"])
    assert re.findall(r"""(?:^|[\s"'`(=])(?:/|~/|[A-Z]:\\)\w\S*""", text) == []


def test_links_lead_somewhere() -> None:
    text = "".join(line for cell in read_cells(NOTEBOOK) for line in cell["source"])
    targets = re.findall(r"\]\(([^)#\s]+)", text)
    assert len(targets) > 5
    assert [target for target in targets if "://" not in target and not (NOTEBOOK.parent / target).exists()] == []


def test_the_notebook_runs(find_sdk: FindSdk, tmp_path: Path) -> None:
    source = draw_oxford_layout(tmp_path / "pets", count=12, size=40)
    executed = execute(
        find_sdk("v2"),
        tmp_path,
        PETS=source.name,  # from the notebook's working folder
        OUTPUT="out",
        SEEDS="1",
        HYPERPARAMETERS=json.dumps(TINY),
    )
    outputs = list_outputs(executed)
    assert not [output for cell in outputs.values() for output in cell if output.get("name") == "stderr"]

    assert "9 training and 3 validation pairs" in read_text(outputs["prepare"], "text/plain")
    assert "the data can be used" in read_text(outputs["check"], "text/plain")
    progress = "".join(line for output in outputs["compare"] for line in output.get("text", ()))
    assert "run 3 of 3, deeplab resnet-18 seed 1, epoch 1/1" in progress
    assert read_text(outputs["compare"], "text/plain").count("finished") == 3

    table = [line for line in read_text(outputs["table"], "text/markdown").splitlines() if line.startswith("| ")]
    ranked = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[2:5]]
    assert {row[0] for row in ranked} == {"FCN resnet-18", "PSP resnet-18", "DeepLab resnet-18"}
    scores = [float(row[2]) for row in ranked]
    assert scores == sorted(scores, reverse=True)
    assert 0 < scores[0] < 1
    assert [line.split("|")[1].strip() for line in table[-3:]] == ["pet", "background", "border"]

    widths = [read_width(outputs[name]) for name in ("pairs", "curves", "confusions", "gallery")]
    assert min(widths) > 500
    assert 30 <= read_width(outputs["predict"]) <= 60
    model = tmp_path / "out" / "comparison" / "runs" / f"{ranked[0][0].split()[0].lower()}_resnet-18_seed1" / "model"
    assert f'gluonseg serve --model "{model}"' in read_text(outputs["commands"], "text/plain")
    assert (model / "model_best.params").is_file()


def read_text(outputs: list[dict[str, Any]], kind: str) -> str:
    (text,) = ["".join(output["data"][kind]) for output in outputs if kind in output.get("data", {})]
    return text


def read_width(outputs: list[dict[str, Any]]) -> int:
    """Width of the one picture; it is not of one colour."""
    with Image.open(io.BytesIO(base64.b64decode(read_text(outputs, "image/png")))) as picture:
        assert len(picture.convert("L").getcolors() or ()) > 1
        return picture.width
