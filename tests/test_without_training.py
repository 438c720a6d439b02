"""A model is used without what only training needs: an import of that is refused, in child processes too."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from gluonseg.cli import TRAINING_MODULES
from gluonseg.data.decode import read_label
from gluonseg.models.folder.card import read_card
from gluonseg.predict.predictor import load_predictor
from local_server import find_free_port, started_server
from program import build_environment, run_program

_REFUSAL = f"""
import sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {TRAINING_MODULES}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Refusal())
"""
PROGRAM = (sys.executable, "-m", "gluonseg")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    folder = tmp_path_factory.mktemp("refusal")
    (folder / "sitecustomize.py").write_text(_REFUSAL, encoding="utf-8")
    return build_environment(PYTHONPATH=str(folder), OMP_NUM_THREADS="1")


@pytest.fixture(scope="module")
def data(drawn_channels: Mapping[str, Path]) -> Path:
    return drawn_channels["validation"].parent


def run(environment: Mapping[str, str], *arguments: str | Path, code: int = 0) -> str:
    done = run_program([*PROGRAM, *arguments], environment)
    assert done.returncode == code, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def masks(
    environment: Mapping[str, str], trained_model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What ``predict`` makes of the validation photos, from the model's ONNX file."""
    folder = tmp_path_factory.mktemp("masks")
    run(environment, "predict", data / "validation", "--model", trained_model, "--output", folder)
    assert len(list(folder.iterdir())) == len(list((data / "validation").iterdir()))
    return folder


def test_predict_from_parameters_and_symbol(
    environment: Mapping[str, str], trained_model: Path, data: Path, masks: Path, tmp_path: Path
) -> None:
    for name in ("model_best.params", "model_card.json", "model_symbol.json"):
        (tmp_path / name).hardlink_to(trained_model / name)
    run(environment, "predict", data / "validation", "--model", tmp_path, "--output", tmp_path)
    for path in masks.iterdir():
        np.testing.assert_array_equal(read_label(tmp_path / path.name), read_label(path))


def test_evaluate(environment: Mapping[str, str], trained_model: Path, data: Path, tmp_path: Path) -> None:
    """Nothing is written into the home folder: ONNX Runtime would keep there what it reports to its maker."""
    folders, home = (data / "validation", data / "validation_annotation"), {"HOME": str(tmp_path)}
    found = json.loads(run({**environment, **home}, "evaluate", *folders, "--model", trained_model, "--json"))
    assert list(tmp_path.iterdir()) == []
    assert found["images"] == 3
    assert found["mIoU"] == read_card(trained_model / "model_card.json").metrics["whole_image"]["mIoU"]


def test_report_has_the_cost_that_mxnet_counts(
    environment: Mapping[str, str], trained_model: Path, data: Path, masks: Path, tmp_path: Path
) -> None:
    run(environment, "report", trained_model, "--channels", data, "--out", tmp_path)
    (model,) = json.loads((tmp_path / "report.json").read_text("utf-8"))["models"]
    found = model["runs"][0]["metrics"]
    reference = load_predictor(trained_model, mx.cpu())
    sizes = [reference.compute_input_size(*read_label(path).shape) for path in masks.iterdir()]
    costs = [reference.engine.compute_cost(*size) for size in sizes]
    assert (found["parameters"], found["gmacs"]) in [(cost.parameters, cost.macs / 1e9) for cost in costs]


def test_serve(environment: Mapping[str, str], trained_model: Path, data: Path, masks: Path, tmp_path: Path) -> None:
    port = find_free_port()
    command = [*PROGRAM, "serve", "--model", str(trained_model), "--port", str(port)]
    with started_server(command, port, tmp_path / "log", environment) as server:
        server.wait_until_served()
        photo = next((data / "validation").iterdir())
        answer = server.request("/invocations", photo.read_bytes(), {"Accept": "image/png"})
    (tmp_path / "mask.png").write_bytes(answer.body)
    np.testing.assert_array_equal(read_label(tmp_path / "mask.png"), read_label(masks / f"{photo.stem}.png"))


def test_doctor(environment: Mapping[str, str]) -> None:
    lines = run(environment, "doctor").splitlines()
    assert {"mxnet      not installed", "gluoncv    not installed", "devices    cpu"} <= set(lines)


@pytest.mark.parametrize("command", ["train {data} --output {out}", "compare {data} --out {out}", "export {model}"])
def test_training_says_what_is_missing(
    environment: Mapping[str, str], trained_model: Path, data: Path, tmp_path: Path, command: str
) -> None:
    arguments = command.format(data=data, out=tmp_path, model=trained_model).split()
    problem = f'"{arguments[0]}" needs mxnet, which is not installed: it comes with the extra "train"'
    assert run(environment, *arguments, code=2) == f"gluonseg: {problem}, see docs/install.md\n"


def test_a_model_of_the_built_in_says_so_too(
    environment: Mapping[str, str], trained_model: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "model_best.params").hardlink_to(trained_model / "model_best.params")
    line = run(environment, "predict", data / "validation", "--model", tmp_path, "--output", tmp_path / "out", code=2)
    start = f"gluonseg: the model in {tmp_path} has no usable model.onnx and cannot be converted: "
    assert line.startswith(f'{start}"export" needs mxnet, which is not installed')


def test_data_is_prepared_without_opencv(tmp_path: Path) -> None:
    """The environments of SageMaker's SDKs have none."""
    code = "import sys; sys.modules['cv2'] = None; from gluonseg.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "prepare", "synthetic", str(tmp_path / "data"), "--count", "6"]
    done = run_program(command, build_environment())
    assert done.returncode == 0, done.stdout
