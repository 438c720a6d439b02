"""``model_int8.onnx``: the network in 8-bit integers, for CPUs, kept only while it is as good as in float32.

Static quantization by ONNX Runtime: weights by output channel, activations by the range that they take on
training photos. Weights use 7 bits: on processors without VNNI two products of 8 bits would overflow the 16
bits that they are added up in.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from gluonseg.data.dataset import Dataset
from gluonseg.data.transforms import resize_image
from gluonseg.errors import ModelError
from gluonseg.export import write_onnx
from gluonseg.models.onnx_file import INPUT, INT8, ONNX_FILES, OnnxFile
from gluonseg.predict.evaluation import Progress, evaluate_dataset
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
        self._indices: Iterator[int] = iter(np.linspace(0, len(dataset) - 1, count).astype(int).tolist())
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
    model = onnx.load_model_from_string(file.content)
    with tempfile.TemporaryDirectory(prefix="gluonseg-int8-") as folder:
        target = Path(folder) / ONNX_FILES[INT8]
        quantize_static(
            model,
            str(target),
            _Photos(training, predictor),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        quantized = onnx.load_model(str(target))
    onnx.helper.set_model_props(quantized, {prop.key: prop.value for prop in model.metadata_props})
    return OnnxFile(quantized.SerializeToString(), ONNX_FILES[INT8], INT8)


def export_int8(
    file: OnnxFile, predictor: Predictor, training: Dataset, validation: Dataset, output: Path, progress: Progress | None
) -> Path:
    """Write ``model_int8.onnx`` into ``output``; returns its path.

    ``predictor`` runs ``file``, the float32 network. Raises ModelError, and writes nothing, when int8 loses more than
    :data:`MAX_LOSS` of mIoU on whole validation photos.
    """
    card = predictor.card
    quantized = quantize_file(file, predictor, training)
    engine = OnnxEngine(quantized, card)
    scores = [
        evaluate_dataset(one, validation, card.num_classes, progress).compute_miou()
        for one in (predictor, Predictor(engine, card))
    ]
    exact, fast = scores
    _log.info("mIoU on %d validation photos: float32 %.4f, int8 %.4f", len(validation), exact, fast)
    if not exact - fast <= MAX_LOSS:
        raise ModelError(
            f"{quantized.source} is not written: in int8 the model loses {100 * (exact - fast):.2f} points of mIoU "
            f"({exact:.4f} to {fast:.4f}), at most {100 * MAX_LOSS:.1f} is allowed; serve it in float32"
        )
    return write_onnx(quantized, output / ONNX_FILES[INT8])
