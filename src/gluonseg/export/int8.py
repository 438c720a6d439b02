"""``model_int8.onnx``: the network in 8-bit integers, for CPUs, kept only while it is as good as in float32.

Static quantization by ONNX Runtime: weights by output channel, activations by the range that they take on
training photos, the mean of the photos' ranges. The widest range would be that of the oddest photo: one photo in a
hundred can have activations forty times those of the others, and then all others share a few of the 256 levels.
Weights use 7 bits, -64 to 64: processors without VNNI add two products with activations of 0 to 255 in 16 bits,
where those of 8 bits overflow.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from gluonseg.data.dataset import Dataset
from gluonseg.data.transforms import resize_image
from gluonseg.errors import ModelError
from gluonseg.export.float32 import write_onnx
from gluonseg.models.folder.card import CARD_FILE, read_card
from gluonseg.models.folder.manifest import FLOAT32, INT8, ONNX_FILES
from gluonseg.onnx.file import INPUT, OnnxFile, build_onnx_file, find_onnx
from gluonseg.predict.evaluation import Progress, evaluate_dataset, open_dataset
from gluonseg.predict.onnx_engine import OnnxEngine
from gluonseg.predict.predictor import Predictor
from gluonseg.predict.tile import TILE

_log = logging.getLogger(__name__)
MAX_LOSS = 0.003
"""mIoU that may be lost: 0.3 points."""
CALIBRATION_PHOTOS = 100


class _Photos(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Training photos as they go through the network, evenly spread over the data set."""

    def __init__(self, dataset: Dataset, predictor: Predictor) -> None:
        count = min(CALIBRATION_PHOTOS, len(dataset))
        self._indices = iter(np.linspace(0, len(dataset) - 1, count).astype(int).tolist())
        self._dataset = dataset
        self._predictor = predictor

    def get_next(self) -> dict[str, Any] | None:
        """The input of one calibration run; None after the last."""
        index = next(self._indices, None)
        if index is None:
            return None
        image, _ = self._dataset.read(index)
        resized = resize_image(image, *self._predictor.compute_input_size(*image.shape[:2]))
        return {INPUT: resized[None, :TILE, :TILE]}


def quantize_file(file: OnnxFile, predictor: Predictor, training: Dataset) -> OnnxFile:
    """The network of ``file`` in int8, calibrated on photos of ``training``."""
    content = file.read()
    properties = {prop.key: prop.value for prop in onnx.load_model_from_string(content).metadata_props}
    with tempfile.TemporaryDirectory(prefix="gluonseg-int8-") as folder:
        exact, folded, target = (Path(folder) / name for name in ("exact.onnx", "folded.onnx", ONNX_FILES[INT8]))
        exact.write_bytes(content)
        # Folds the batch norms into the convolutions, which are what is quantized.
        quant_pre_process(exact, folded, skip_symbolic_shape=True)
        quantize_static(
            folded,
            target,
            _Photos(training, predictor),
            quant_format=QuantFormat.QDQ,
            # With the ReLU a convolution's output needs levels for what is above 0 only.
            op_types_to_quantize=["Conv", "Relu"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"CalibMovingAverage": True},
        )
        quantized = onnx.load_model(target)
    onnx.helper.set_model_props(quantized, properties)
    # ONNX Runtime lists every domain that it knows, but all operators are ONNX's own.
    opset = next(one for one in quantized.opset_import if not one.domain)
    del quantized.opset_import[:]
    quantized.opset_import.append(opset)
    return build_onnx_file(quantized, ONNX_FILES[INT8], INT8)


def export_model_int8(
    source: Path,
    channels: Mapping[str, Path],
    output: Path | None = None,
    build_progress: Callable[[str], Progress] | None = None,
) -> Path:
    """Write ``model_int8.onnx`` of a model that has its ``model.onnx`` into ``output``; returns its path.

    Both are in ``output``, by default ``source``. ``build_progress`` makes a progress for a title.

    Raises:
        ModelError: there is no ``model.onnx``, or int8 loses more than :data:`MAX_LOSS` of mIoU on whole validation
            photos; then nothing is written.
        DataError: there are no photos with masks in the channels ``train`` and ``validation``.
    """
    folder = output or source
    file = find_onnx(folder)
    if file is None:
        raise ModelError(f"there is no {ONNX_FILES[FLOAT32]} in {folder}; gluonseg export writes it")
    card = read_card(folder / CARD_FILE)
    predictor = Predictor(OnnxEngine(file, card), card)
    training, validation = (open_dataset(channels, split, card) for split in ("train", "validation"))
    progress = build_progress("scoring") if build_progress else None
    quantized = quantize_file(file, predictor, training)
    exact, fast = (
        evaluate_dataset(one, validation, card.num_classes, progress).compute_miou()
        for one in (predictor, Predictor(OnnxEngine(quantized, card), card))
    )
    _log.info("mIoU on %d validation photos: float32 %.4f, int8 %.4f", len(validation), exact, fast)
    if not exact - fast <= MAX_LOSS:
        raise ModelError(
            f"{quantized.source} is not written: in int8 the model loses {100 * (exact - fast):.2f} points of mIoU "
            f"({exact:.4f} to {fast:.4f}), at most {100 * MAX_LOSS:.1f} is allowed; serve it in float32"
        )
    return write_onnx(quantized, folder / ONNX_FILES[INT8])
