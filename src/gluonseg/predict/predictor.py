"""A trained model that turns a picture into class probabilities or a mask."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from gluonseg.data.transforms import compute_long_side_size, resize_image
from gluonseg.errors import ModelError, StorageError
from gluonseg.files import write_bytes
from gluonseg.labels import UInt8Array
from gluonseg.machine.gpu import NO_CUDA, GpuReport, find_gpus, is_cuda_build, log_report
from gluonseg.models.folder.artifact import find_weights, open_model, read_folder
from gluonseg.models.folder.card import CARD_FILE, ModelCard, read_card
from gluonseg.models.folder.manifest import FLOAT32, ONNX_FILE, ONNX_FILES, find_digest
from gluonseg.onnx.file import WEIGHTS_KEY, build_onnx_file, find_onnx
from gluonseg.onnx.symbol import find_symbol
from gluonseg.predict.engine import Engine, Float32Array
from gluonseg.predict.enlarge import Band, compute_mask_of_bands, compute_probabilities
from gluonseg.predict.tile import MAX_NETWORK_PIXELS, is_whole, iter_bands
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
    ) -> None:
        self.card = card
        self.engine = engine
        self._views = views or build_views(card)
        self._max_network_pixels = max_network_pixels
        self._turn = threading.Lock()

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
        """Logits (C, ceil(h/s), ceil(w/s)) float32: (h, w) is the size in the network, s its output stride.

        With several views they are the logarithms of the mean probabilities.
        """
        sizes = self._compute_view_sizes(*image_hwc.shape[:2])
        if self._views.is_single:
            return self._compute_one_view(resize_image(image_hwc, *sizes[0]))
        views = {"flip": self._views.flip, "align_corners": self.card.align_corners}
        return compute_view_logits(self._compute_one_view, image_hwc, sizes, **views)

    def compute_whole_logits(self, resized_hwc: UInt8Array) -> Float32Array:
        """Logits (C, ceil(H/s), ceil(W/s)) float32 of a picture as it is: not resized, and never in tiles."""
        logits: Float32Array = self._compute_in_turn(resized_hwc[None])[0]
        return logits

    def _compute_one_view(self, resized_hwc: UInt8Array) -> Float32Array:
        height, width = (self._count_places(pixels) for pixels in resized_hwc.shape[:2])
        logits = np.empty((self.card.num_classes, height, width), dtype=np.float32)
        for start, band in self._iter_bands(resized_hwc):
            if band.shape[1] == height:
                return band
            logits[:, start : start + band.shape[1]] = band
        return logits

    def _count_places(self, pixels: int) -> int:
        """How many logits lie along a side of that many pixels."""
        return -(-pixels // self.card.output_stride)

    def _iter_bands(self, resized_hwc: UInt8Array) -> Iterator[Band]:
        """The logits of a picture in its size for the network, from top to bottom."""
        height, width = resized_hwc.shape[:2]
        options = self.card.num_classes, self.card.output_stride
        if is_whole(height, width, *options):
            yield 0, self._compute_in_turn(resized_hwc[None])[0]
        else:
            yield from iter_bands(self._compute_in_turn, resized_hwc, *options)

    def _compute_in_turn(self, images_nhwc: UInt8Array) -> Float32Array:
        """One call of the engine: between the tiles of a large picture others have their turn."""
        with self._turn:
            logits = self.engine.compute_logits(images_nhwc)
        count, height, width, _ = images_nhwc.shape
        expected = count, self.card.num_classes, self._count_places(height), self._count_places(width)
        if logits.shape != expected:
            raise ModelError(
                f"the network gives logits {logits.shape} for {height}x{width} pixels, its model card says {expected}: "
                "num_classes and output_stride of the card must be those of the network"
            )
        # A value that is not finite would be a class like any other. Least and greatest show it: one of them is not
        # finite either, and np.isfinite of all values would take a quarter of their memory.
        if not (np.isfinite(logits.min()) and np.isfinite(logits.max())):
            raise ModelError("the network gives values that are no numbers: its weights are damaged, or overflow")
        return logits

    def predict_probabilities(self, image_hwc: UInt8Array) -> Float32Array:
        """Softmax probabilities (num_classes, H, W) float32 of an RGB picture (H, W, 3) uint8."""
        height, width = _check_picture(image_hwc)
        return compute_probabilities(self.compute_logits(image_hwc), height, width, self.card.align_corners)

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array:
        """Class ids (H, W) uint8 of an RGB picture (H, W, 3) uint8."""
        return self._compute_mask(image_hwc)

    def predict_confidence(self, image_hwc: UInt8Array) -> tuple[UInt8Array, UInt8Array]:
        """The mask, and the probability of its class at each pixel: (H, W) uint8, 255 is certain.

        A pixel takes two bytes, where :meth:`predict_probabilities` takes four for each class.
        """
        confidence = np.empty(_check_picture(image_hwc), dtype=np.uint8)
        return self._compute_mask(image_hwc, confidence), confidence

    def _compute_mask(self, image_hwc: UInt8Array, confidence_hw: UInt8Array | None = None) -> UInt8Array:
        height, width = _check_picture(image_hwc)
        bands: Iterable[Band]
        if self._views.is_single:
            resized = resize_image(image_hwc, *self._compute_view_sizes(height, width)[0])
            bands, places_y = self._iter_bands(resized), self._count_places(resized.shape[0])
        else:
            logits = self.compute_logits(image_hwc)
            bands, places_y = [(0, logits)], logits.shape[1]
        align_corners = self.card.align_corners
        return compute_mask_of_bands(bands, places_y, height, width, align_corners, confidence_hw=confidence_hw)


def _check_picture(image_hwc: UInt8Array) -> tuple[int, int]:
    """The (height, width) of a picture; ValueError when it is none."""
    if image_hwc.ndim != 3 or image_hwc.shape[2] != 3 or image_hwc.dtype != np.uint8 or not image_hwc.size:
        raise ValueError(f"an RGB picture (H, W, 3) uint8 is needed, got {image_hwc.shape} {image_hwc.dtype}")
    return image_hwc.shape[0], image_hwc.shape[1]


# The engine of a model folder. Each function imports what it needs: MXNet takes seconds to import.


def _find_onnx_engine(folder: Path, precision: str) -> tuple[Engine, ModelCard] | None:
    """The ONNX file of the folder; None when there is none, or it was not made of the parameters beside it."""
    from gluonseg.predict.onnx_engine import OnnxEngine

    file = find_onnx(folder, precision)
    if file is None:
        return None
    card = read_card(folder / CARD_FILE) if (folder / CARD_FILE).is_file() else read_folder(folder).card
    weights = find_weights(folder)
    engine = OnnxEngine(file, card)
    if weights is not None and engine.read_metadata().get(WEIGHTS_KEY) != find_digest(weights):
        _log.warning("%s was not made of %s and is not used; gluonseg export makes it anew", file.source, weights.name)
        return None
    return engine, card


def _load_on_cpu(folder: Path, precision: str) -> tuple[Engine, ModelCard]:
    found = _find_onnx_engine(folder, precision)
    if found:
        return found
    if precision != FLOAT32:
        raise ModelError(
            f"there is no {folder}/{ONNX_FILES[precision]} that fits the parameters; "
            "gluonseg export --int8 --channels DATA makes it"
        )
    artifact, nodes = read_folder(folder), find_symbol(folder)
    if nodes is None:
        return _convert_by_mxnet(folder)
    from gluonseg.onnx.trace import build_graph
    from gluonseg.predict.onnx_engine import OnnxEngine

    file = build_onnx_file(build_graph(artifact.card, artifact.arrays, nodes), f"the graph of {artifact.weights}")
    return OnnxEngine(file, artifact.card), artifact.card


def _convert_by_mxnet(folder: Path) -> tuple[Engine, ModelCard]:
    """The engine of a model without ``model_symbol.json``, as those of the built-in algorithm.

    MXNet is imported in a process of its own, whose memory is free again after it. The ONNX file is kept in the model's
    folder unless there is one already, or the folder cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="gluonseg-onnx-") as name:
        _log.info("Converting the model in %s to %s", folder, ONNX_FILE)
        target = Path(name).resolve()
        command = [sys.executable, "-m", "gluonseg", "export", str(folder.resolve()), "--output", str(target)]
        # Python looks for modules in the working folder first, and the caller's may hold others of the same names.
        home = Path(__file__).resolve().parents[2]
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
            reason = reason.removeprefix("gluonseg: ")
            raise ModelError(f"the model in {folder} has no usable {ONNX_FILE} and cannot be converted: {reason}")
        found = _find_onnx_engine(target, FLOAT32)
        if not (folder / ONNX_FILE).exists():
            with suppress(OSError, StorageError):
                write_bytes(folder / ONNX_FILE, (target / ONNX_FILE).read_bytes())
    assert found is not None  # it was made of these parameters just now
    return found


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
    from gluonseg.machine.device import find_devices

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
) -> Predictor:
    """Load a model folder or a model.tar.gz (ours, or the built-in's).

    On ``device``, which is one of MXNet's, the network runs in MXNet. Without ``device`` it runs on the first GPU that
    MXNet can use, in MXNet; where there is none, or without ``search_gpu``, on the CPU in ONNX Runtime, from
    ``model.onnx`` or converted from the parameters.
    ``scales`` and ``flip`` take the place of the card's, see :class:`gluonseg.predict.view.Views`. ``precision`` is
    ``float32``, or ``int8`` for the CPU when the model was exported so. Pictures of more than
    ``max_network_pixels`` are shrunk to that for the network; from a million pixels on they go through it in tiles.

    Raises:
        ModelError: see :func:`gluonseg.models.folder.artifact.read_artifact`.
    """
    with open_model(Path(source), precision) as folder:
        # A folder with an ONNX file alone has nothing for MXNet.
        if device is None and search_gpu and precision == FLOAT32 and find_weights(folder):
            device = _find_gpu()
        engine, card = _load_on_cpu(folder, precision) if device is None else _load_in_mxnet(folder, device)
    _log.info("Predicting with %s", engine.name if device is None else f"{engine.name} on {device}")
    views = build_views(card, scales, flip)
    return Predictor(engine, card, views=views, max_network_pixels=max_network_pixels)
