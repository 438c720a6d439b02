#!/usr/bin/env python3
"""Train, evaluate and serve once, in a temporary folder laid out like /opt/ml.

Without ``--data`` it draws a small data set itself; with it, the photos of the Oxford-IIIT Pet data set
(the folder, or the two tar.gz files) are taken.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

CONTAINER = Path(__file__).resolve().parent
GLUONSEG = (sys.executable, "-m", "gluonseg")
CHANNELS = ("train", "train_annotation", "validation", "validation_annotation", "label_map")
START_LIMIT_S = 120
# The server is on this machine; a proxy that the environment names must not be asked for it.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
# Recipes for training from scratch; docs/results.md tells how they were found.
DRAWN: dict[str, object] = {"crop_size": 96, "base_size": 96, "scale_min": 0.75, "scale_max": 1.33, "epochs": 16}
PETS: dict[str, object] = {
    "crop_size": 128,
    "base_size": 160,
    "prediction_size": 160,
    "scale_min": 0.75,
    "scale_max": 1.33,
    "colour_jitter": 0.2,
    "class_weights": "balanced",
    "epochs": 12,
}
COMMON: dict[str, object] = {
    "algorithm": "fcn",
    "backbone": "resnet-18",
    "use_pretrained_model": False,
    "mini_batch_size": 8,
    "validation_mini_batch_size": 8,
    "optimizer": "adam",
    "learning_rate": 0.001,
    "head_lr_mult": 1,
    "warmup_epochs": 1,
}


def say(text: str) -> None:
    """Announce a step on standard output."""
    sys.stdout.write(f"\n== {text}\n")
    sys.stdout.flush()


def run(*command: str | Path, **environment: str) -> None:
    """Run a command that shares this terminal; leave with its exit code when it fails."""
    done = subprocess.run([str(part) for part in command], env={**os.environ, **environment}, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def prepare(base: Path, data: Path | None, epochs: int | None) -> None:
    """Write channels and configuration into ``base`` as SageMaker would."""
    channels = base / "input" / "data"
    channels.parent.mkdir(parents=True)
    if data is None:
        run(*GLUONSEG, "prepare", "synthetic", channels)
    else:
        run(*GLUONSEG, "prepare", "oxford-pets", data, channels)
    names = json.loads((channels / "label_map" / "class_names.json").read_text(encoding="utf-8"))
    hyperparameters = {**COMMON, **(PETS if data else DRAWN), "num_classes": len(names)}
    if epochs is not None:
        hyperparameters["epochs"] = epochs
    config = base / "input" / "config"
    config.mkdir()
    files = {
        "hyperparameters.json": {name: str(value) for name, value in hyperparameters.items()},
        "inputdataconfig.json": {channel: {"TrainingInputMode": "File"} for channel in CHANNELS},
        "resourceconfig.json": {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"},
    }
    for name, content in files.items():
        (config / name).write_text(json.dumps(content), encoding="utf-8")


def find_free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def wait_until_ready(url: str, server: subprocess.Popen[bytes]) -> None:
    """Wait until /ping answers 200."""
    end = time.monotonic() + START_LIMIT_S
    while time.monotonic() < end and server.poll() is None:
        try:
            with DIRECT.open(f"{url}/ping", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    sys.exit("the server did not come up; its last lines are above")


def ask(url: str, photo: Path, accept: str) -> bytes:
    """Send a photo to /invocations and return the body of the answer."""
    headers = {"Content-Type": "image/jpeg", "Accept": accept}
    request = urllib.request.Request(f"{url}/invocations", photo.read_bytes(), headers)
    with DIRECT.open(request, timeout=60) as answer:
        body: bytes = answer.read()
    return body


def serve(base: Path, photo: Path, mask: Path, overlay: Path) -> None:
    """Start the server on the new model, send it one photo, stop it."""
    port = find_free_port()
    environment = {**os.environ, "SAGEMAKER_BASE_DIR": str(base), "SAGEMAKER_BIND_TO_PORT": str(port)}
    server = subprocess.Popen([sys.executable, str(CONTAINER / "serve")], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, server)
        mask.write_bytes(ask(url, photo, "image/png"))
        overlay.write_bytes(ask(url, photo, "image/x-overlay+png"))
    finally:
        server.terminate()
        server.wait(timeout=40)


def main() -> None:
    """Run all steps; the results stay in the temporary folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="the Oxford-IIIT Pet data set instead of drawn photos")
    parser.add_argument("--epochs", type=int, help="train for this many epochs")
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="gluonseg-demo-"))
    base = home / "opt" / "ml"

    say("1. Prepare the data")
    prepare(base, arguments.data.resolve() if arguments.data else None, arguments.epochs)
    say("2. Train: container/train")
    run(sys.executable, CONTAINER / "train", SAGEMAKER_BASE_DIR=str(base))
    say("3. Evaluate on whole validation photos")
    data, model = base / "input" / "data", base / "model"
    run(*GLUONSEG, "evaluate", data / "validation", data / "validation_annotation", "--model", model)
    say("4. Serve: container/serve, and send it one photo")
    photo = sorted((data / "validation").iterdir())[0]
    mask, overlay = home / "mask.png", home / "overlay.png"
    serve(base, photo, mask, overlay)
    say("Done")
    results = {"photo": photo, "mask (class ids)": mask, "overlay to look at": overlay, "model": model}
    for title, path in results.items():
        sys.stdout.write(f"{title:<19} {path}\n")


if __name__ == "__main__":
    main()
