"""``docker run IMAGE serve``: another user, a read-only system, no network, limits, other ports, the end."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from docker_engine import call_docker, run_container, started_container
from gluonseg.data.decode import read_image
from gluonseg.predict.predictor import load_predictor
from notebook_client import parse_mask

pytestmark = pytest.mark.docker
ANOTHER_USER = ("--user", "4321:4321")


@pytest.fixture(scope="module")
def base(trained_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like /opt/ml that anybody can read."""
    folder = tmp_path_factory.mktemp("ml")
    folder.chmod(0o755)
    (folder / "model").mkdir()
    for file in trained_model.iterdir():
        copy = folder / "model" / file.name
        copy.write_bytes(file.read_bytes())
        copy.chmod(0o644)
    return folder


def test_least_privilege(image: str, base: Path, drawn_channels: dict[str, Path]) -> None:
    """Read-only with a small /tmp, no capabilities, another user, one core and 1 GB."""
    options = [*ANOTHER_USER, "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--cpus", "1", "--memory", "1g"]
    mount = ["--volume", f"{base / 'model'}:/opt/ml/model:ro"]
    photo = next(drawn_channels["validation"].iterdir())
    with started_container(image, "serve", options=[*options, *mount]) as container:
        container.wait_until_served()
        status, _, body = container.request("/invocations", photo.read_bytes())
        assert status == 200
        np.testing.assert_array_equal(
            parse_mask(body), load_predictor(base / "model").predict_mask(read_image(photo))
        )
        assert "Traceback" not in container.read_log()
        code, seconds = container.stop(grace=30)
    assert code == 0
    assert seconds < 25


def test_without_a_network(image: str, base: Path) -> None:
    """Asked from inside, as there is no way in."""
    ask = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8080/ping', timeout=5).status)"
    with started_container(image, "serve", base=base, options=["--network", "none"]) as container:
        for _ in range(100):
            done = call_docker("exec", container.name, "python3", "-c", ask)
            if done.returncode == 0:
                break
        assert done.stdout.split() == ["200"]


def test_port_of_a_pipeline(image: str, base: Path) -> None:
    with started_container(image, "serve", base=base, port=8765, SAGEMAKER_BIND_TO_PORT="8765") as container:
        container.wait_until_served()


@pytest.mark.fault(family=48, outcome="refused (2), naming the folder")
def test_no_model(image: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    run = run_container(image, "serve", base=tmp_path)
    assert run.code == 2
    assert "model_best.params" in run.log
    assert "Traceback" not in run.log
