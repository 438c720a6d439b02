"""A model folder to be served: a real network with weights of chance, and pictures with the answers it gives."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

from gluonseg.models.folder.card import CARD_FILE, build_card, encode_card
from gluonseg.models.folder.manifest import ONNX_FILE
from repository import ROOT

_PROGRAM = "import sys, pathlib; from served_model import write_model; write_model(pathlib.Path(sys.argv[1]))"
NAMES = ("pet", "background", "border")


def write_model(folder: Path) -> None:
    """An untrained FCN on resnet-18, 3 classes, with its file for the engine."""
    folder.mkdir(parents=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mxnet as mx

        from gluonseg.export.float32 import export_model
        from gluonseg.models.network import build_network

        mx.random.seed(0)
        network = build_network("fcn", "resnet-18", 3, aux=False)
        network.initialize(mx.init.Xavier(), force_reinit=True)
        network.predict(mx.nd.zeros((1, 3, 32, 32)))
        network.save_parameters(str(folder / "model_best.params"))
    (folder / CARD_FILE).write_text(encode_card(build_card("fcn", "resnet-18", 3, aux=False, class_names=NAMES)))
    export_model(folder)


def prepare_base(base: Path) -> Path:
    """A folder like /opt/ml with that model in it, made in a process of its own: MXNet's threads stay there."""
    if not (base / "model" / ONNX_FILE).exists():
        subprocess.run([sys.executable, "-c", _PROGRAM, str(base / "model")], cwd=ROOT / "tests", check=True)
    return base
