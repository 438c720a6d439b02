"""A model folder to measure with: an untrained network whose masks look like masks.

``python -m benchmarks.model FOLDER ALGORITHM BACKBONE`` makes it, in a process of its own, so that the programs that
are measured do not inherit the number of threads that MXNet gets here.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.variant import ROOT
from gluonseg.machine.limits import set_thread_count
from gluonseg.models.folder.card import CARD_FILE, build_card, encode_card
from gluonseg.models.folder.manifest import BEST_FILE, HYPERPARAMETERS_FILE, ONNX_FILE, listing_files

CLASSES = 21


def prepare_model(scratch: Path, algorithm: str, backbone: str) -> Path:
    """A model folder as training leaves it, without its report; made once, with the same values every time.

    ``algorithm`` and ``backbone`` are SageMaker's names (``fcn``, ``resnet-50``).
    """
    folder = scratch / f"model-{algorithm}-{backbone}-{CLASSES}"
    if not (folder / ONNX_FILE).is_file():  # the file that is written last
        command = [sys.executable, "-m", "benchmarks.model", str(folder), algorithm, backbone]
        subprocess.run(command, cwd=ROOT, stdout=sys.stderr, check=True)
    return folder


def main(name: str, algorithm: str, backbone: str) -> None:
    """Write the parameters, and the file that training leaves for the server."""
    set_thread_count()
    import mxnet as mx

    from gluonseg.export.float32 import export_model
    from gluonseg.models.network import build_network
    from gluonseg.models.registry import find_network
    from gluonseg.train.writer import ModelWriter, describe_versions, write_json

    mx.random.seed(5)
    network = build_network(algorithm, backbone, CLASSES)
    network.initialize(mx.init.Xavier(), force_reinit=True)
    # Batch normalisation sees some smooth noise. With its starting mean and variance the values would grow from layer
    # to layer, and one class would win everywhere.
    for _ in range(24):
        noise = mx.nd.contrib.BilinearResize2D(mx.nd.random.normal(shape=(4, 3, 6, 8)), height=96, width=128)
        with mx.autograd.train_mode():
            network(noise)
        mx.nd.waitall()
    folder = Path(name)
    folder.mkdir(parents=True, exist_ok=True)
    hyperparameters = {"algorithm": algorithm, "backbone": backbone, "num_classes": str(CLASSES)}
    details = {"versions": describe_versions(), "hyperparameters": hyperparameters}
    card = build_card(algorithm, backbone, CLASSES, **details, **find_network(algorithm).describe())
    with listing_files(folder, BEST_FILE, HYPERPARAMETERS_FILE, CARD_FILE):
        writer = ModelWriter(network, folder)
        writer.write_best(writer.last)
        write_json(folder / HYPERPARAMETERS_FILE, hyperparameters)
        (folder / CARD_FILE).write_text(encode_card(card), encoding="utf-8")
    export_model(folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
