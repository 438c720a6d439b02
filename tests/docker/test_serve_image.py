"""gluonseg:serve uses a model as the full image does, without what only training needs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from docker_engine import call_docker, run_container, started_container
from gluonseg.cli import TRAINING_MODULES
from gluonseg.data.decode import read_image, read_label
from gluonseg.models.folder.card import read_card
from gluonseg.predict.predictor import load_predictor

pytestmark = pytest.mark.docker
LOCKED_DOWN = ("--user", "4321:4321", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")


@pytest.fixture(scope="module")
def folder(trained_model: Path, drawn_channels: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model`` and ``data``, which anybody can read."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(trained_model, folder / "model")
    shutil.copytree(drawn_channels["validation"].parent, folder / "data")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return folder


@pytest.fixture
def options(folder: Path) -> list[str]:
    mounts = [f"{folder / 'model'}:/opt/ml/model:ro", f"{folder / 'data'}:/data:ro"]
    return [*LOCKED_DOWN, *(word for mount in mounts for word in ("--volume", mount))]


def test_holds_nothing_of_training_and_is_smaller(image: str, serve_image: str) -> None:
    source = f"import importlib.util; print([name for name in {TRAINING_MODULES} if importlib.util.find_spec(name)])"
    assert run_container(serve_image, "python3", "-c", source).log == "[]\n"
    run = run_container(serve_image, "train")
    assert (run.code, "no command 'train'; it has serve, gluonseg (" in run.log) == (127, True)
    small, full = (int(call_docker("inspect", "--format", "{{.Size}}", one).stdout) for one in (serve_image, image))
    assert small < 0.6 * full


def test_predict_and_evaluate(serve_image: str, folder: Path, options: list[str], tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    model, out = ("--model", "/opt/ml/model"), ("--volume", f"{tmp_path}:/out")
    command = ("gluonseg", "predict", "/data/validation", *model, "--output", "/out")
    run = run_container(serve_image, *command, options=[*options, *out])
    assert run.code == 0, run.log
    predictor = load_predictor(folder / "model")
    for photo in (folder / "data/validation").iterdir():
        mask = read_label(tmp_path / f"{photo.stem}.png")
        np.testing.assert_array_equal(mask, predictor.predict_mask(read_image(photo)))
    command = ("gluonseg", "evaluate", "/data/validation", "/data/validation_annotation", *model, "--json")
    found = json.loads(run_container(serve_image, *command, options=options).log)
    assert found["mIoU"] == read_card(folder / "model/model_card.json").metrics["whole_image"]["mIoU"]


def test_serve(serve_image: str, folder: Path, options: list[str], tmp_path: Path) -> None:
    """It needs no command for that; SageMaker says serve."""
    photo = next((folder / "data/validation").iterdir())
    with started_container(serve_image, options=options) as container:
        container.wait_until_served()
        answer = container.request("/invocations", photo.read_bytes(), {"Accept": "image/png"})
        assert container.stop(grace=30)[0] == 0
    (tmp_path / "mask.png").write_bytes(answer.body)
    wanted = load_predictor(folder / "model").predict_mask(read_image(photo))
    np.testing.assert_array_equal(read_label(tmp_path / "mask.png"), wanted)
