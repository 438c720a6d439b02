"""The notebook, executed from its first cell to its last in the environment of SDK v2."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from docker_engine import FindSdk
from local_server import find_free_port
from program import build_environment, run_program
from repository import ROOT

pytestmark = pytest.mark.docker
NOTEBOOK = ROOT / "local_mode" / "notebooks" / "train_and_deploy.ipynb"
EXECUTE = """
import sys, nbclient, nbformat
source, target = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": source.rpartition("/")[0]}}).execute()
nbformat.write(notebook, target)
"""


def test_the_notebook_is_stored_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


def test_the_notebook_runs(image: str, find_sdk: FindSdk, tmp_path: Path) -> None:
    settings = {"IMAGE": image, "OUTPUT": str(tmp_path / "out"), "EPOCHS": "1", "PORT": str(find_free_port())}
    environment = {f"GLUONSEG_{name}": value for name, value in settings.items()}
    executed = tmp_path / "executed.ipynb"
    command: list[str | Path] = [find_sdk("v2"), "-c", EXECUTE, NOTEBOOK, executed]
    done = run_program(command, build_environment(HOME=str(tmp_path), **environment), timeout=None)
    assert done.returncode == 0, done.stdout
    outputs = [output for cell in json.loads(executed.read_text())["cells"] for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) == 6
    assert (tmp_path / "out" / "model" / "model.tar.gz").is_file()
