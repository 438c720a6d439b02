"""``model.onnx``: the trained network in a format that other programs open, written beside its parameters.

The file is kept only when ONNX Runtime gives what MXNet gives.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from gluonseg.errors import ModelError
from gluonseg.files import write_bytes, write_text
from gluonseg.models.folder.artifact import ModelArtifact, find_weights, read_artifact
from gluonseg.models.folder.card import CARD_FILE, encode_card
from gluonseg.models.folder.manifest import ONNX_FILE, ONNX_FILES, listing_files
from gluonseg.onnx.file import OnnxFile, build_onnx_file
from gluonseg.onnx.symbol import describe_symbol, parse_symbol
from gluonseg.onnx.trace import build_graph
from gluonseg.predict.engine import Engine
from gluonseg.predict.mxnet_engine import build_mxnet_engine
from gluonseg.predict.onnx_engine import OnnxEngine

_log = logging.getLogger(__name__)
CHECKED_SIZES = ((97, 131), (160, 64))
"""(height, width) of the pictures that both engines are given: multiples of the strides, and others."""
TOLERANCE = 1e-4
"""Largest difference of two logits, as a share of the largest logit."""


def compute_difference(one: Engine, other: Engine, sizes: Sequence[tuple[int, int]] = CHECKED_SIZES) -> float:
    """Largest difference of the logits of two engines on drawn pictures, as a share of the second's largest logit.

    Infinite when one of them is not finite.
    """
    rng, worst = np.random.default_rng(0), 0.0
    for height, width in sizes:
        images: npt.NDArray[np.uint8] = rng.integers(0, 256, (1, height, width, 3), dtype=np.uint8)
        logits, wanted = one.compute_logits(images), other.compute_logits(images)
        if not (np.isfinite(logits).all() and np.isfinite(wanted).all()):
            return float("inf")
        worst = max(worst, float(np.abs(logits - wanted).max() / max(np.abs(wanted).max(), 1e-12)))
    return worst


def build_checked_file(artifact: ModelArtifact) -> OnnxFile:
    """The network of an artifact as an ONNX file in memory; ModelError when its logits are not MXNet's."""
    import mxnet as mx

    reference = build_mxnet_engine(artifact, mx.cpu())
    nodes = parse_symbol(describe_symbol(reference.network).encode(), f"the symbol of {artifact.card.describe()}")
    graph = build_graph(artifact.card, artifact.arrays, nodes, artifact.weights_sha256)
    file = build_onnx_file(graph, ONNX_FILE)
    difference = compute_difference(OnnxEngine(file, artifact.card), reference)
    if not difference <= TOLERANCE:
        raise ModelError(
            f"{ONNX_FILE} is not written: its logits differ from MXNet's by {difference:.1e} of the largest one, "
            f"at most {TOLERANCE:.0e} is allowed"
        )
    _log.info("%s gives MXNet's logits up to %.0e of the largest one", ONNX_FILE, difference)
    return file


def write_onnx(file: OnnxFile, path: Path) -> Path:
    """Write an ONNX file to ``path`` in one step, and list it in the manifest of its folder."""
    with listing_files(path.parent, path.name):
        write_bytes(path, file.read())
    return path


def export_model(source: Path, output: Path | None = None) -> Path:
    """Write ``model.onnx`` of a model folder or a model.tar.gz into ``output``; returns its path.

    ``output`` is the model folder itself by default. The model's card is written beside the file, so that the folder
    is a model of its own. ONNX files of an earlier export are removed: they may be of another model.

    Raises:
        ModelError: there is no usable model, ``output`` is needed, or the file would not give MXNet's logits.
        StorageError, OSError: the file cannot be written.
    """
    folder = output or source
    if output is None and (not source.is_dir() or find_weights(source) is None):
        raise ModelError(f"{source} is no folder with parameters: say with --output where {ONNX_FILE} shall be written")
    artifact = read_artifact(source)
    file = build_checked_file(artifact)
    folder.mkdir(parents=True, exist_ok=True)
    cards = [CARD_FILE] if folder != source or not (folder / CARD_FILE).is_file() else []
    with listing_files(folder, *cards, *ONNX_FILES.values()):
        for name in ONNX_FILES.values():
            (folder / name).unlink(missing_ok=True)
        for name in cards:
            write_text(folder / name, encode_card(artifact.card))
        write_bytes(folder / ONNX_FILE, file.read())
    return folder / ONNX_FILE
