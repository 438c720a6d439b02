"""local_mode/compare.py with both SDKs, and its notebook, run as a newcomer runs them."""

from __future__ import annotations

import csv
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from test_notebook import EXECUTE

from docker_engine import FindSdk, call_docker
from gluonseg.report.summary import read_comparison
from local_server import find_free_port
from newcomer import SCRIPTS, TINY, Newcomer, build_watched_environment, list_containers
from program import build_environment, run_program

pytestmark = pytest.mark.docker
NOTEBOOK = SCRIPTS / "notebooks" / "compare.ipynb"
GRACE_S = 60
ALGORITHMS = ("fcn", "unet")


def build_arguments(image: str, data: Path) -> list[str]:
    place = ["--image", image, "--data", str(data), "--port", str(find_free_port())]
    return [*place, "--algorithms", ",".join(ALGORITHMS), "--epochs", "1", "--set", *TINY]


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "report.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def start_when_trained(scratch: Path, act: Callable[[], object]) -> threading.Thread:
    """Call ``act`` as soon as a training job's container runs."""

    def watch() -> None:
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline and not list_containers(scratch):
            time.sleep(0.2)
        act()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_a_job_and_an_endpoint_for_each_network(
    image: str, find_sdk: FindSdk, tmp_path: Path, few_photos: Path, silent_proxy: socket.socket
) -> None:
    user = Newcomer(find_sdk("v2"), tmp_path, **build_watched_environment(silent_proxy))
    done = user.run("compare.py", *build_arguments(image, few_photos))
    assert done.returncode == 0, done.stdout
    folder = tmp_path / "demo" / "compare" / "comparison"
    assert [model.runs[0].algorithm for model in read_comparison(folder).models] == [
        row["algorithm"] for row in read_rows(folder)
    ]
    photos = {path.stem for path in (few_photos / "validation").iterdir()}
    for name in ALGORITHMS:
        run = folder / "runs" / f"{name}_resnet-18_seed0"
        assert {path.stem for path in (run / "masks").iterdir()} == photos
        assert (run / "model" / "model_best.params").is_file()
        score = json.loads((run / "run.json").read_text(encoding="utf-8"))["score"]
        # The job has scored the same model on the same photos, without an endpoint.
        job = json.loads((run / "output" / "data" / "report.json").read_text(encoding="utf-8"))["models"][0]
        assert score["confusion"] == job["confusion"]
        assert score["parameters"] > 1e6
    assert (folder / "report.html").stat().st_size > 10_000
    assert (folder / "costs.txt").read_text(encoding="utf-8").strip() in done.stdout


def test_a_job_that_is_killed_does_not_sink_the_other(
    image: str, find_sdk: FindSdk, tmp_path: Path, few_photos: Path
) -> None:
    user = Newcomer(find_sdk("v3"), tmp_path)

    def kill() -> None:
        for container in list_containers(user.scratch):
            call_docker("kill", container.split()[0])

    thread = start_when_trained(user.scratch, kill)
    done = user.run("compare.py", *build_arguments(image, few_photos))
    thread.join()
    assert done.returncode == 1, done.stdout
    told = "\n== fcn resnet-18 seed 0 failed: the container ended with exit code 137: it was killed"
    assert told in done.stdout
    finished, failed = read_rows(tmp_path / "demo" / "compare" / "comparison")
    assert (finished["algorithm"], finished["status"], failed["algorithm"], failed["status"]) == (
        "unet", "finished", "fcn", "failed",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("sdk", "stop", "code", "told"),
    [
        ("v2", lambda pid: os.killpg(pid, signal.SIGINT), 130, "the same command goes on with what is left"),
        ("v3", lambda pid: os.kill(pid, signal.SIGTERM), 143, ""),
    ],
    ids=["ctrl-c", "sigterm"],
)
def test_a_stop_leaves_nothing_behind(
    sdk: str, stop: Callable[[int], None], code: int, told: str,
    image: str, find_sdk: FindSdk, tmp_path: Path, few_photos: Path,
) -> None:  # fmt: skip
    """Both SDKs swallow the exception that ends everything else."""
    user = Newcomer(find_sdk(sdk), tmp_path)
    command = [str(user.python), str(SCRIPTS / "compare.py"), *build_arguments(image, few_photos)]
    out = subprocess.PIPE
    with subprocess.Popen(
        command, env=user.environment, cwd=tmp_path, stdout=out, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as process:  # fmt: skip
        thread = start_when_trained(user.scratch, lambda: stop(process.pid))
        output, _ = process.communicate(timeout=2 * GRACE_S)
        thread.join()
    assert process.returncode == code, output
    assert told in output.splitlines()[-1]
    assert list_containers(user.scratch) == []
    assert list(user.scratch.iterdir()) == []


def test_the_notebook_is_stored_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    assert [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


def test_the_notebook_runs(image: str, find_sdk: FindSdk, tmp_path: Path, few_photos: Path) -> None:
    settings = {"IMAGE": image, "DATA": str(few_photos), "OUTPUT": str(tmp_path / "out"), "PORT": str(find_free_port())}
    small = {"EPOCHS": "1", "CROP_SIZE": "40"}
    environment = {f"GLUONSEG_{name}": value for name, value in {**settings, **small}.items()}
    executed = tmp_path / "executed.ipynb"
    command: list[str | Path] = [find_sdk("v2"), "-c", EXECUTE, NOTEBOOK, executed]
    done = run_program(command, build_environment(HOME=str(tmp_path), **environment), timeout=None)
    assert done.returncode == 0, done.stdout
    outputs = [output for cell in json.loads(executed.read_text())["cells"] for output in cell.get("outputs", [])]
    assert len([output for output in outputs if "image/png" in output.get("data", {})]) == 6
    printed = "".join("".join(output.get("text", "")) for output in outputs)
    assert "validation:mIOU" in printed
    assert "ml.m5.xlarge" in printed
    assert {path.parent.name for path in (tmp_path / "out").glob("*/model.tar.gz")} == {"fcn", "psp", "deeplab"}
