"""Our engine in one precision: ``float32`` or ``int8``. Arguments: PRECISION MODEL CHANNELS.

int8 is made here, calibrated on training photos, whatever it costs in mIoU: the stage tells that.
"""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.variant import serve_rounds
from gluonseg.cores import set_thread_count
from gluonseg.data.dataset import Dataset
from gluonseg.data.label_channel import read_label_maps
from gluonseg.data.pairs import match_pairs


def _open(channels: Path, split: str) -> Dataset:
    maps = read_label_maps(channels / "label_map")
    label_map = maps.train if split == "train" else maps.validation
    return Dataset(match_pairs(channels / split, channels / f"{split}_annotation").pairs, label_map, cache_bytes=0)


def main() -> None:
    """Load, score on the validation photos, serve rounds of eight photos."""
    precision, model, channels = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    set_thread_count()
    from gluonseg.models.onnx_file import find_onnx
    from gluonseg.predict.evaluation import evaluate_dataset
    from gluonseg.predict.onnx_engine import OnnxEngine
    from gluonseg.predict.predictor import Predictor, load_predictor
    from gluonseg.quantize import quantize_file

    predictor = load_predictor(model)
    if precision == "int8":
        file = find_onnx(model)
        if file is None:
            raise SystemExit(f"there is no ONNX file in {model}: run gluonseg export")
        quantized = quantize_file(file, predictor, _open(channels, "train"))
        predictor = Predictor(OnnxEngine(quantized, predictor.card), predictor.card)
    validation = _open(channels, "validation")
    confusion = evaluate_dataset(predictor, validation, predictor.card.num_classes)
    photos = [validation.read(index)[0] for index in range(min(8, len(validation)))]

    def run() -> dict[str, float]:
        for photo in photos:
            predictor.predict_mask(photo)
        return {"photos": len(photos)}

    serve_rounds(run, {"miou": confusion.compute_miou()})


if __name__ == "__main__":
    main()
