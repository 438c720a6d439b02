"""Scoring a trained model on all validation photos, whole and at their own size.

``python -m gluonseg.compare.score CHANNELS RUN`` scores ``RUN/model`` and writes ``RUN/score.json`` and the predicted
masks, ``RUN/masks/<photo>.png``. It is a process of its own because its peak memory is part of the score.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gluonseg.atomic import write_text
from gluonseg.boundary import FloatArray, compute_boundary_f, compute_mean_boundary_f
from gluonseg.command import find_channels
from gluonseg.compare.record import MASKS_FOLDER, PhotoScore, Score
from gluonseg.cores import set_thread_count
from gluonseg.data.dataset import Dataset
from gluonseg.data.label_channel import read_label_maps
from gluonseg.data.pairs import match_pairs
from gluonseg.errors import DataError, UserError
from gluonseg.hyperparameters import get_specs
from gluonseg.metrics import Confusion
from gluonseg.models.card import ModelCard
from gluonseg.parameter import parse_value
from gluonseg.predict.batch import write_png
from gluonseg.predict.evaluation import MaskPredictor, evaluate_dataset

SCORE_FILE = "score.json"
MODEL_FOLDER = "model"
_WARM_UPS = 2
_PROCESS_STATUS = Path("/proc/self/status")
UInt8Array = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class _Photo:
    """One photo's outcome; ``boundary`` is the F-score of each class."""

    name: str
    size: tuple[int, int]
    confusion: Confusion
    boundary: FloatArray
    seconds: float


class _TimedPredictor:
    """Keeps the last mask of a predictor and the seconds that it took."""

    def __init__(self, predictor: MaskPredictor) -> None:
        self._predictor = predictor
        self.mask: UInt8Array = np.zeros((0, 0), dtype=np.uint8)
        self.seconds = 0.0

    def predict_mask(self, image_hwc: UInt8Array) -> UInt8Array:
        start = time.perf_counter()
        self.mask = self._predictor.predict_mask(image_hwc)
        self.seconds = time.perf_counter() - start
        return self.mask


def _read_setting(card: ModelCard, name: str) -> int:
    """A hyperparameter as the model was trained with it; its default where the card does not tell."""
    spec = get_specs()[name]
    value = parse_value(name, card.hyperparameters.get(name), spec)
    return int(spec.default if value is None else value)


def _open_photos(channels: Mapping[str, Path], card: ModelCard) -> Iterator[Dataset]:
    """Each validation photo as a data set of its own, so that none is kept; DataError when there is none."""
    for name in ("validation", "validation_annotation"):
        if name not in channels or not channels[name].is_dir():
            raise DataError(f"the channel {name} is missing; the model is scored on it")
    folders = channels["validation"], channels["validation_annotation"]
    pairs = match_pairs(*folders).pairs
    if not pairs:
        raise DataError(f"no picture in {folders[0]} has a mask of its name in {folders[1]}")
    label_map = read_label_maps(channels.get("label_map"), _read_setting(card, "ignore_label")).validation
    max_pixels = _read_setting(card, "max_pixels")
    return (Dataset([pair], label_map, max_pixels=max_pixels) for pair in pairs)


def _score_photo(predictor: _TimedPredictor, photo: Dataset, num_classes: int) -> _Photo:
    confusion = evaluate_dataset(predictor, photo, num_classes)
    image, truth = photo.read(0)
    boundary = compute_boundary_f(truth, predictor.mask, num_classes)
    height, width = image.shape[:2]
    return _Photo(photo.pairs[0].name, (height, width), confusion, boundary, predictor.seconds)


def _iter_scored(
    predictor: MaskPredictor, photos: Iterator[Dataset], num_classes: int, masks: Path | None
) -> Iterator[_Photo]:
    timed = _TimedPredictor(predictor)
    for number, photo in enumerate(photos):
        for _ in range(_WARM_UPS if number == 0 else 0):
            timed.predict_mask(photo.read(0)[0])
        scored = _score_photo(timed, photo, num_classes)
        if masks:
            write_png(timed.mask, masks / f"{scored.name}.png")
        yield scored


def read_peak_mb() -> float:
    """The most memory that this process has held so far, in MB (of 1024 * 1024 bytes)."""
    # A child that was forked inherits its parent's ru_maxrss; VmHWM begins anew with the program.
    if _PROCESS_STATUS.is_file():
        for line in _PROCESS_STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024


def _describe_photos(photos: Sequence[_Photo]) -> list[PhotoScore]:
    """Scores of the photos that have a scored pixel: without one there is no mIoU."""
    return [
        PhotoScore(photo.name, photo.confusion.compute_miou(), photo.confusion.compute_pixel_accuracy())
        for photo in photos
        if photo.confusion.matrix.any()
    ]


def _summarise(predictor: Any, photos: Sequence[_Photo], peak_mb: float) -> Score:
    from gluonseg.models.cost import compute_served_cost

    card: ModelCard = predictor.card
    typical = sorted((photo.size for photo in photos), key=lambda size: (size[0] * size[1], size))[len(photos) // 2]
    height, width = predictor.compute_input_size(*typical)
    cost = compute_served_cost(card, height, width)
    seconds = [photo.seconds for photo in photos]
    confusion = sum((photo.confusion for photo in photos), Confusion.empty(card.num_classes))
    return Score(
        class_names=list(card.class_names),
        confusion=confusion.matrix.tolist(),
        boundary_f=compute_mean_boundary_f([photo.boundary for photo in photos]),
        photos=_describe_photos(photos),
        parameters=cost.parameters,
        gmacs=cost.macs / 1e9,
        gmacs_size=[height, width],
        latency_ms=1000 * statistics.median(seconds),
        images_per_second=len(seconds) / sum(seconds),
        prediction_peak_mb=peak_mb,
    )


def score_model(model_folder: Path, channels: Mapping[str, Path], masks: Path | None = None) -> Score:
    """Score a model on the validation photos; write the predicted class ids as PNG into ``masks`` when given.

    Label maps and ``ignore_label`` are those of the model's training. ``gmacs_size`` is the size at which the photo of
    median area goes through the network. Photos without a scored pixel are not in ``photos``. Times are of
    ``predict_mask`` alone, after a warm-up.

    Raises:
        UserError: the model, a photo or a mask cannot be used.
    """
    # MXNet loads here: who calls settles the number of its threads before.
    from gluonseg.predict.predictor import load_predictor

    predictor = load_predictor(model_folder)
    card = predictor.card
    opened = _open_photos(channels, card)
    if masks:
        masks.mkdir(parents=True, exist_ok=True)
    photos = list(_iter_scored(predictor, opened, card.num_classes, masks))
    return _summarise(predictor, photos, read_peak_mb())


def score_run(channels: Mapping[str, Path], run_folder: Path) -> Score:
    """Score the model of a run, and write ``masks`` and ``score.json`` into the run's folder."""
    score = score_model(run_folder / MODEL_FOLDER, channels, run_folder / MASKS_FOLDER)
    write_text(run_folder / SCORE_FILE, json.dumps(dataclasses.asdict(score), indent=1, allow_nan=False) + "\n")
    return score


def main(arguments: Sequence[str] | None = None) -> int:
    """Score the model of a run; returns the exit code: 2 with one line on standard error for what the user can fix."""
    parser = argparse.ArgumentParser(prog="gluonseg.compare.score", description="Score the model of a run.")
    parser.add_argument("channels", type=Path, help="the folder of the channels")
    parser.add_argument("run", type=Path, help="the folder of the run; its model is in the folder model")
    given = parser.parse_args(arguments)
    try:
        set_thread_count()
        score_run(find_channels(given.channels), given.run)
    except UserError as error:
        sys.stderr.write(f"gluonseg: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
