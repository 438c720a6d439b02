"""``docker run IMAGE serve``: another user, a read-only system, no network, limits, other ports, the end."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from docker_engine import Container, call_docker, run_container, started_container
from gluonseg.data.decode import read_image
from gluonseg.predict.predictor import load_predictor
from notebook_client import parse_mask

pytestmark = pytest.mark.docker
LOCKED_DOWN = (
    *("--read-only", "--tmpfs", "/tmp:size=64m", "--network", "none"),
    *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
    *("--pids-limit", "128", "--cpus", "1", "--memory", "1g"),
)


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


ASK = """
import base64, pathlib, urllib.request
photo = pathlib.Path("/photo").read_bytes()
print(urllib.request.urlopen("http://127.0.0.1:8080/ping", timeout=5).status)
answer = urllib.request.urlopen("http://127.0.0.1:8080/invocations", photo, timeout=60)
print(base64.b64encode(answer.read()).decode())
"""


def _ask_inside(container: Container) -> tuple[str, bytes]:
    """What /ping and /invocations say to a client in the container itself, when there is no way in."""
    for _ in range(100):
        done = call_docker("exec", container.name, "python3", "-c", ASK)
        if done.returncode == 0:
            break
    status, body = done.stdout.split()
    return status, base64.b64decode(body)


@pytest.mark.parametrize("user", ["4321:4321", "0:0"])
def test_least_privilege(image: str, base: Path, drawn_channels: dict[str, Path], user: str) -> None:
    photo = next(drawn_channels["validation"].iterdir())
    mounts = ["--volume", f"{base / 'model'}:/opt/ml/model:ro", "--volume", f"{photo}:/photo:ro"]
    with started_container(image, "serve", options=["--user", user, *LOCKED_DOWN, *mounts]) as container:
        status, body = _ask_inside(container)
        assert status == "200"
        wanted = load_predictor(base / "model").predict_mask(read_image(photo))
        np.testing.assert_array_equal(parse_mask(body), wanted)
        assert "Traceback" not in container.read_log()
        code, seconds = container.stop(grace=30)
    assert code == 0
    assert seconds < 25


def test_port_of_a_pipeline(image: str, base: Path) -> None:
    with started_container(image, "serve", base=base, port=8765, SAGEMAKER_BIND_TO_PORT="8765") as container:
        container.wait_until_served()


def test_no_model(image: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    run = run_container(image, "serve", base=tmp_path)
    assert run.code == 2
    assert "model_best.params" in run.log
    assert "Traceback" not in run.log
