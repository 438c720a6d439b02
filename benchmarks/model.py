"""A model folder to measure with: an untrained network whose masks look like masks.

Made in a process of its own, ``python -m benchmarks.model FOLDER ALGORITHM BACKBONE NUM_CLASSES``: the thread count
that it settles for MXNet must not be inherited by what is measured.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.variant import ROOT
from gluonseg.cores import set_thread_count
from gluonseg.models.card import CARD_FILE, build_card, encode_card
from gluonseg.models.manifest import BEST_FILE, HYPERPARAMETERS_FILE, MANIFEST_FILE, listing_files
from gluonseg.models.onnx_file import ONNX_FILE

_SEED = 5
_PASSES = 24
_BATCH_SHAPE = (4, 3, 96, 128)


def prepare_model(scratch: Path, algorithm: str, backbone: str, num_classes: int, *, onnx: bool = False) -> Path:
    """A model folder as training leaves it, without its report; made once, with the same values every time.

    ``algorithm`` and ``backbone`` are SageMaker's names (``fcn``, ``resnet-50``). With ``onnx`` the folder also has the
    file that training leaves for the server.
    """
    folder = scratch / f"model-{algorithm}-{backbone}-{num_classes}"
    wanted = (MANIFEST_FILE, ONNX_FILE) if onnx else (MANIFEST_FILE,)
    if not all((folder / name).is_file() for name in wanted):
        names = (str(folder), algorithm, backbone, str(num_classes), *(("--onnx",) if onnx else ()))
        subprocess.run([sys.executable, "-m", "benchmarks.model", *names], cwd=ROOT, stdout=sys.stderr, check=True)
    return folder


def _settle_statistics(network: Any) -> None:
    """Let batch normalisation see some smooth noise, so that its running mean and variance fit the weights.

    With the starting ones the values grow from layer to layer, and one class wins everywhere.
    """
    import mxnet as mx
    import numpy as np

    draw = np.random.default_rng(_SEED)
    count, channels, height, width = _BATCH_SHAPE
    for _ in range(_PASSES):
        coarse = mx.nd.array(draw.normal(size=(count, channels, height // 16, width // 16)))
        noise = mx.nd.contrib.BilinearResize2D(coarse, height=height, width=width)
        with mx.autograd.train_mode():
            network(noise)
        mx.nd.waitall()


def _write_model(folder: Path, algorithm: str, backbone: str, num_classes: int) -> None:
    import mxnet as mx

    from gluonseg.models.network import build_network
    from gluonseg.models.registry import find_network
    from gluonseg.train.writer import ModelWriter, describe_versions, write_json

    mx.random.seed(_SEED)
    network = build_network(algorithm, backbone, num_classes)
    network.initialize(mx.init.Xavier(), force_reinit=True)
    _settle_statistics(network)
    folder.mkdir(parents=True, exist_ok=True)
    hyperparameters = {"algorithm": algorithm, "backbone": backbone, "num_classes": str(num_classes)}
    versions = describe_versions()
    details = {"versions": versions, "hyperparameters": hyperparameters, **find_network(algorithm).describe()}
    card = build_card(algorithm, backbone, num_classes, **details)
    # The manifest comes last: a folder with one is complete.
    with listing_files(folder, BEST_FILE, HYPERPARAMETERS_FILE, CARD_FILE):
        writer = ModelWriter(network, folder)
        writer.write_best(writer.last)
        write_json(folder / HYPERPARAMETERS_FILE, hyperparameters)
        (folder / CARD_FILE).write_text(encode_card(card), encoding="utf-8")


def main(arguments: Sequence[str]) -> None:
    """Make what is missing of a folder."""
    folder, (algorithm, backbone, num_classes) = Path(arguments[0]), arguments[1:4]
    set_thread_count()
    if not (folder / MANIFEST_FILE).is_file():
        _write_model(folder, algorithm, backbone, int(num_classes))
    if "--onnx" in arguments:
        from gluonseg.export import export_model

        export_model(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
