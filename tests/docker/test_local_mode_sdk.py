"""The programs and notebooks of local_mode/ with both SDKs in a Docker engine, run as a newcomer runs them."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backbone_array import draw_arrays
from docker_engine import FindSdk, call_docker
from gluonseg.models.params import write_params
from local_server import find_free_port
from newcomer import SCRIPTS, TINY, Newcomer, build_watched_environment, check_deployed, list_containers
from program import run_program
from repository import read_commands

COMMANDS = read_commands("docs/local-mode.md")
PROGRAMS = [command for command in COMMANDS if re.match(r"\.venv-sdk-v[23]/bin/python local_mode/", command)]
INSTALLING = ("sudo ", "make ", ".venv-sdk-v2/bin/python -m ")
SDKS = {"v2": "train_deploy_v2.py", "v3": "train_deploy_v3.py"}


def test_every_command_of_the_page_is_covered() -> None:
    assert [command for command in COMMANDS if command not in PROGRAMS and not command.startswith(INSTALLING)] == []
    assert {Path(shlex.split(command)[1]).name for command in PROGRAMS} == {*SDKS.values(), "builtin_notebook.py"}


@pytest.fixture(scope="module")
def image(image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The image with one thread, as docker_engine starts it; the SDKs pass no variable on."""
    folder, name = tmp_path_factory.mktemp("one_thread"), "gluonseg-test-one-thread"
    (folder / "Dockerfile").write_text(f"FROM {image}\nENV OMP_NUM_THREADS=1\n", encoding="utf-8")
    done = call_docker("build", "--tag", name, str(folder))
    assert done.returncode == 0, done.stdout
    yield name
    call_docker("rmi", name)


@pytest.mark.docker
def test_the_programs_of_the_page_run(
    image: str, find_sdk: FindSdk, tmp_path: Path, few_photos: Path, silent_proxy: socket.socket
) -> None:
    """As a reader would, but for one epoch, few steps and a free port; the public notebook has its weights.

    SDK v2 takes the model of SDK v3's job: the notebooks below train with it. The page's first program is left out: the
    third one is the same with options.
    """
    local = {"NO_PROXY": "localhost", "no_proxy": "localhost"}
    newcomer = Newcomer(find_sdk("v3"), tmp_path, **build_watched_environment(silent_proxy), **local)
    port = ("--image", image, "--port", str(find_free_port()))
    _, with_v3, with_options, notebook = (shlex.split(command)[2:] for command in PROGRAMS)

    done = newcomer.run(SDKS["v3"], *with_v3, *port, "--epochs", "1", "--set", *TINY)
    assert done.returncode == 0, done.stdout
    results = tmp_path / "demo" / "sdk_v3"
    check_deployed(done.stdout, results / "masks", results / "data" / "validation")
    assert 0 <= float(re.findall(r"mIOU of the last epoch (\S+)", done.stdout)[0]) <= 1
    model = results / "model" / "model.tar.gz"
    with tarfile.open(model) as archive:
        assert {"model_best.params", "model_algo-1", "hyperparams.json"} <= set(archive.getnames())

    newcomer.python = find_sdk("v2")
    data = shutil.copytree(few_photos, tmp_path / "demo" / "sdk_v2" / "data")
    done = newcomer.run(SDKS["v2"], *with_options, *port, "--model", model.as_uri())
    assert done.returncode == 0, done.stdout
    check_deployed(done.stdout, data.with_name("masks"), data / "validation")

    (data / "pretrained").mkdir()
    write_params(draw_arrays("resnet-18"), data / "pretrained" / "resnet-18.params")
    notebook.remove("use_pretrained_model=False")
    done = newcomer.run("builtin_notebook.py", *notebook, "backbone=resnet-18", "--data", data, *port)
    assert done.returncode == 0, done.stdout
    assert "'use_pretrained_model': 'True'" in done.stdout
    assert "== Run to the end" in done.stdout


@pytest.mark.docker
def test_two_hosts_train_one_model(image: str, find_sdk: FindSdk, tmp_path: Path, few_photos: Path) -> None:
    place = ("--image", image, "--data", few_photos, "--port", str(find_free_port()))
    done = Newcomer(find_sdk("v2"), tmp_path).run(
        SDKS["v2"], *place, "--instance_count", "2", "--epochs", "1", "--set", *TINY
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"Training on 2 hosts, algo-1-\w+, algo-2-\w+: of each batch this one has", done.stdout)
    masks = tmp_path / "demo" / "sdk_v2" / "masks"
    check_deployed(done.stdout, masks, few_photos / "validation")


@pytest.mark.docker
@pytest.mark.parametrize("sdk", SDKS)
def test_a_failed_training_ends_with_one_line(
    sdk: str, image: str, find_sdk: FindSdk, tmp_path: Path, few_photos: Path
) -> None:
    place = ("--image", image, "--data", few_photos, "--port", str(find_free_port()))
    done = Newcomer(find_sdk(sdk), tmp_path).run(SDKS[sdk], *place, "--set", "precision_dtype=float16")
    assert done.returncode == 1
    assert "ClientError: precision_dtype float16 needs a GPU" in done.stdout
    assert done.stdout.splitlines()[-1] == "the training failed; its last lines, above, say why"


@pytest.mark.docker
@pytest.mark.parametrize(
    ("sdk", "stop", "code"),
    [
        ("v2", lambda pid: os.killpg(pid, signal.SIGINT), 128 + signal.SIGINT),
        ("v3", lambda pid: os.kill(pid, signal.SIGTERM), 128 + signal.SIGTERM),
    ],
    ids=["ctrl-c", "sigterm"],
)
def test_a_stop_leaves_nothing_behind(
    sdk: str, stop: Callable[[int], None], code: int, image: str, find_sdk: FindSdk, tmp_path: Path, few_photos: Path
) -> None:
    """Both SDKs swallow the exception that ends everything else."""
    user = Newcomer(find_sdk(sdk), tmp_path)
    place = ["--image", image, "--data", str(few_photos), "--port", str(find_free_port())]

    def stop_when_training() -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not list_containers(user.scratch):
            time.sleep(0.2)
        stop(process.pid)

    with subprocess.Popen(
        [user.python, SCRIPTS / SDKS[sdk], *place], env=user.environment, cwd=tmp_path, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        thread = threading.Thread(target=stop_when_training)
        thread.start()
        output, _ = process.communicate(timeout=120)
        thread.join()
    assert process.returncode == code, output
    assert list_containers(user.scratch) == []
    assert list(user.scratch.iterdir()) == []


OWN_JOB = """
import sys
sys.path.insert(0, {folder!r})
from machine import open_scratch, stay_local
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, SourceCode
from sagemaker.train.model_trainer import Mode
stay_local()
with open_scratch({image!r}) as scratch:
    ModelTrainer(
        training_mode=Mode.LOCAL_CONTAINER,
        training_image={image!r},
        compute=Compute(instance_type="local", instance_count=1),
        source_code=SourceCode(source_dir={source!r}, entry_script="train.py"),
        hyperparameters={{"classes": 3}},
        local_container_root=str(scratch),
    ).train()
    (scratch / "compressed_artifacts" / "model.tar.gz").rename({target!r})
"""
OWN_SCRIPT = """
import argparse, os
import mxnet, gluoncv
import gluonseg
parser = argparse.ArgumentParser()
parser.add_argument("--classes", type=int)
classes = parser.parse_args().classes
network = gluonseg.get_segmentation_model("fcn", backbone="resnet18", pretrained_base=False, nclass=classes)
network.initialize()
network(mxnet.nd.zeros((1, 3, 32, 32)))
network.save_parameters(os.path.join(os.environ["SM_MODEL_DIR"], "own.params"))
"""


@pytest.mark.docker
def test_a_script_of_the_user(image: str, find_sdk: FindSdk, tmp_path: Path) -> None:
    """SDK v3 starts the script with the image's Python, past the image's own train."""
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "train.py").write_text(OWN_SCRIPT, encoding="utf-8")
    names = {"source": str(tmp_path / "source"), "target": str(tmp_path / "own.tar.gz")}
    job = tmp_path / "job.py"
    job.write_text(OWN_JOB.format(image=image, folder=str(SCRIPTS), **names), encoding="utf-8")
    done = Newcomer(find_sdk("v3"), tmp_path).run(str(job))
    assert done.returncode == 0, done.stdout
    with tarfile.open(tmp_path / "own.tar.gz") as archive:
        assert archive.getnames() == ["own.params"]


# --- the notebooks, from the first cell to the last

NOTEBOOKS = SCRIPTS / "notebooks"
EXECUTE = """
import sys, nbclient, nbformat
source, target = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": source.rpartition("/")[0]}}).execute()
nbformat.write(notebook, target)
"""


@pytest.mark.parametrize("notebook", ["train_and_deploy", "compare"])
def test_a_notebook_is_stored_without_outputs(notebook: str) -> None:
    cells = json.loads((NOTEBOOKS / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    assert [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []


@pytest.mark.docker
@pytest.mark.parametrize(
    ("notebook", "models", "printed"),
    [("train_and_deploy", {"model"}, "mIOU: "), ("compare", {"fcn", "unet"}, "ml.m5.xlarge")],
)
def test_a_notebook_runs(
    notebook: str, models: set[str], printed: str, image: str, find_sdk: FindSdk, tmp_path: Path, few_photos: Path
) -> None:
    places = {"IMAGE": image, "DATA": str(few_photos), "OUTPUT": str(tmp_path / "out"), "PORT": str(find_free_port())}
    settings = {**places, "EPOCHS": "1", "CROP_SIZE": "40", "ALGORITHMS": "fcn,unet"}
    user = Newcomer(find_sdk("v2"), tmp_path, **{f"GLUONSEG_{name}": value for name, value in settings.items()})
    executed = tmp_path / "executed.ipynb"
    command: list[str | Path] = [user.python, "-c", EXECUTE, NOTEBOOKS / f"{notebook}.ipynb", executed]
    done = run_program(command, user.environment, timeout=None)
    assert done.returncode == 0, done.stdout
    outputs = [output for cell in json.loads(executed.read_text())["cells"] for output in cell.get("outputs", [])]
    assert len([output for output in outputs if "image/png" in output.get("data", {})]) == 6
    assert printed in "".join("".join(output.get("text", "")) for output in outputs)
    assert {path.parent.name for path in (tmp_path / "out").glob("*/model.tar.gz")} == models
