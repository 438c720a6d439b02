"""A trained model that turns a picture into class probabilities or a mask."""

from __future__ import annotations

import logging
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from gluonseg.data.transforms import compute_long_side_size, resize_image
from gluonseg.errors import ModelError
from gluonseg.gpu import NO_CUDA, GpuReport, find_gpus, is_cuda_build, log_report
from gluonseg.models.artifact import ModelArtifact, find_weights, open_model, read_folder
from gluonseg.models.card import CARD_FILE, ModelCard, read_card
from gluonseg.models.manifest import find_digest
from gluonseg.models.onnx_file import FLOAT32, ONNX_FILES, WEIGHTS_KEY, OnnxFile, find_onnx
from gluonseg.predict.engine import Engine, Float32Array, UInt8Array
from gluonseg.predict.enlarge import compute_mask, compute_probabilities
from gluonseg.predict.tile import MAX_NETWORK_PIXELS, MAX_WHOLE_PIXELS, compute_tiled_logits
from gluonseg.predict.view import Views, build_views, compute_view_logits, compute_view_sizes, fit_size

_log = logging.getLogger(__name__)
MIN_SIDE = 8
"""Smaller pictures are enlarged to this before the network, whose first stages halve a side three times."""


class Predictor:
    """An immutable model; every method may be called from several threads.

    Calls take turns on the engine, which already spreads one of them over all cores.
    """

    def __init__(
        self,
        engine: Engine,
        card: ModelCard,
        *,
        views: Views | None = None,
        max_network_pixels: int = MAX_NETWORK_PIXELS,
        turn: AbstractContextManager[Any] | None = None,
    ) -> None:
        self.card = card
        self.engine = engine
        self._views = views or build_views(card)
        self._max_network_pixels = max_network_pixels
        self._turn = turn or threading.Lock()

    def compute_input_size(self, height: int, width: int) -> tuple[int, int]:
        """The (height, width) at which a picture of that size goes through the network."""
        if self.card.prediction_size:
            height, width = compute_long_side_size(height, width, self.card.prediction_size)
        return fit_size(height, width, MIN_SIDE, self._max_network_pixels)

    def compute_pass_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """The (height, width) of each pass through the network that a picture of that size takes: one a view."""
        return self._compute_view_sizes(height, width) * (1 + self._views.flip)

    def _compute_view_sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        size = self.compute_input_size(height, width)
        return compute_view_sizes(size, self._views, MIN_SIDE, self._max_network_pixels)

    def compute_logits(self, image_hwc: UInt8Array) -> Float32Array:
        """Logits (C, ceil(h/8), ceil(w/8)) float32, (h, w) being the size in the network."""
        if image_hwc.ndim != 3 or image_hwc.shape[2] != 3 or image_hwc.dtype != np.uint8 or not image_hwc.size:
            raise ValueError(f"an RGB picture (H, W, 3) uint8 is needed, got {image_hwc.shape} {image_hwc.dtype}")
        sizes = self._compute_view_sizes(*image_hwc.shape[:2])
        if self._views.is_single:
            logits = self._compute_one_view(resize_image(image_hwc, *sizes[0]))
        else:
            logits = compute_view_logits(self._compute_one_view, image_hwc, sizes, flip=self._views.flip)
        if not np.isfinite(logits).all():
            # The largest of them would be a class like any other.
            raise ModelError("the network gives values that are no numbers: its weights are damaged, or overflow")
        return logits

    def _compute_one_view(self, resized_hwc: UInt8Array) -> Float32Array:
        if resized_hwc.shape[0] * resized_hwc.shape[1] > MAX_WHOLE_PIXELS:
            return compute_tiled_logits(self._compute_in_turn, resized_hwc)
        logits: Float32Array = self._compute_in_turn(resized_hwc[None])[0]
        return logits

    def _compute_in_turn(self, images_nhwc: UInt8Array) -> Float32Array:
        """One call of the engine: between the tiles of a large picture others have their turn."""
        with self._turn:
            return self.engine.compute_logits(images_nhwc)

    def predict_probabilities(self, image_hwc: UInt8Array) -> Float32Array:
        """Softmax probabilities (num_classes, H, W) float32 of an RGB picture (H, W, 3) uint8."""
        return compute_probabilities(self.compute_logits(image_hwc), *image_hwc.shape[:2])

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array:
        """Class ids (H, W) uint8 of an RGB picture (H, W, 3) uint8."""
        return compute_mask(self.compute_logits(image_hwc), *image_hwc.shape[:2])


def _build_onnx_engine(artifact: ModelArtifact) -> Engine:
    """The network of an artifact without an ONNX file that fits."""
    # Here, not at the top: only this way needs the package that writes graphs.
    from gluonseg.models.onnx_graph import build_graph
    from gluonseg.predict.onnx_engine import OnnxEngine

    graph = build_graph(artifact.card, artifact.arrays)
    return OnnxEngine(OnnxFile(f"the graph of {artifact.weights}", graph.SerializeToString()), artifact.card)


def _open_onnx_file(folder: Path, precision: str) -> tuple[Engine, ModelCard] | None:
    """The ONNX file of the folder, if there is one and it was made of the parameters beside it."""
    from gluonseg.predict.onnx_engine import OnnxEngine

    file = find_onnx(folder, precision) if (folder / CARD_FILE).is_file() else None
    if file is None:
        return None
    card = read_card(folder / CARD_FILE)
    weights = find_weights(folder)
    engine = OnnxEngine(file, card)
    if weights is not None and engine.read_metadata().get(WEIGHTS_KEY) != find_digest(weights):
        _log.warning("%s was not made of %s and is not used; gluonseg export makes it anew", file.source, weights.name)
        return None
    return engine, card


def _load_on_cpu(folder: Path, precision: str) -> tuple[Engine, ModelCard]:
    found = _open_onnx_file(folder, precision)
    if found:
        return found
    if precision != FLOAT32:
        raise ModelError(
            f"there is no {folder}/{ONNX_FILES[precision]} that fits the parameters; "
            "gluonseg export --int8 --channels DATA makes it"
        )
    artifact = read_folder(folder)
    try:
        return _build_onnx_engine(artifact), artifact.card
    except Exception:  # whatever is wrong with the graph or the runtime, MXNet knows the network
        _log.warning("%s cannot be converted for ONNX Runtime, MXNet is used", artifact.weights.name, exc_info=True)
    import mxnet as mx

    from gluonseg.predict.mxnet_engine import build_mxnet_engine

    return build_mxnet_engine(artifact, mx.cpu()), artifact.card


def _load_in_mxnet(folder: Path, device: Any) -> tuple[Engine, ModelCard]:
    from gluonseg.predict.mxnet_engine import build_mxnet_engine

    artifact = read_folder(folder)
    return build_mxnet_engine(artifact, device), artifact.card


def _find_gpu() -> Any:
    """The first GPU that MXNet can use, or None; MXNet is not imported where there can be none."""
    report = find_gpus() if is_cuda_build() else GpuReport(note=NO_CUDA)
    if not report.usable:
        log_report(report)
        return None
    from gluonseg.device import find_devices

    device = find_devices()[0]
    return device if device.device_type == "gpu" else None


def load_predictor(
    source: Path,
    device: Any = None,
    *,
    search_gpu: bool = True,
    precision: str = FLOAT32,
    scales: tuple[float, ...] | None = None,
    flip: bool | None = None,
    max_network_pixels: int = MAX_NETWORK_PIXELS,
    turn: AbstractContextManager[Any] | None = None,
) -> Predictor:
    """Load a model folder or a model.tar.gz (ours, or the built-in's).

    ``device`` is one of MXNet's: the network then runs in MXNet there. Without one it runs on the first GPU that
    MXNet can use, in MXNet, and else on the CPU in ONNX Runtime: from ``model.onnx``, or converted from the parameters.
    Without ``search_gpu`` it is the CPU.
    ``scales`` and ``flip`` take the place of the card's, see :class:`gluonseg.predict.view.Views`. ``precision`` is
    ``float32``, or ``int8`` for the CPU when the model was exported so. Pictures of more than
    ``max_network_pixels`` are shrunk to that for the network; from a million pixels on they go through it in tiles.
    A call holds ``turn`` while it is on the engine, by default a lock; what it raises on entry ends the call.

    Raises:
        ModelError: see :func:`gluonseg.models.artifact.read_artifact`.
    """
    with open_model(Path(source), precision) as folder:
        # A folder with an ONNX file alone has nothing for MXNet.
        if device is None and search_gpu and precision == FLOAT32 and find_weights(folder):
            device = _find_gpu()
        engine, card = _load_on_cpu(folder, precision) if device is None else _load_in_mxnet(folder, device)
    _log.info("Predicting with %s", engine.name if device is None else f"{engine.name} on {device}")
    views = build_views(card, scales, flip)
    return Predictor(engine, card, views=views, max_network_pixels=max_network_pixels, turn=turn)
