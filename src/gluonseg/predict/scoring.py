"""Scoring a trained model on all validation photos, whole and at their own size."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping
from pathlib import Path

from gluonseg.data.dataset import Dataset
from gluonseg.data.label_channel import read_label_maps
from gluonseg.data.pairs import match_pairs
from gluonseg.errors import DataError
from gluonseg.hyperparameters import read_integer
from gluonseg.metrics import Confusion
from gluonseg.models.folder.card import ModelCard
from gluonseg.predict.batch import write_png
from gluonseg.predict.boundary import compute_boundary_f, compute_mean_boundary_f
from gluonseg.predict.evaluation import MaskPredictor, iter_predictions
from gluonseg.predict.score import Score, build_score, compute_photo_facts

_WARM_UPS = 2
_PROCESS_STATUS = Path("/proc/self/status")


def _open_dataset(channels: Mapping[str, Path], card: ModelCard) -> Dataset:
    """The validation photos, none of which is kept; DataError when there is none."""
    for name in ("validation", "validation_annotation"):
        if name not in channels or not channels[name].is_dir():
            raise DataError(f"the channel {name} is missing; the model is scored on it")
    folders = channels["validation"], channels["validation_annotation"]
    pairs = match_pairs(*folders).pairs
    if not pairs:
        raise DataError(f"no picture in {folders[0]} has a mask of its name in {folders[1]}")
    ignore_label, max_pixels = (read_integer(card.hyperparameters, name) for name in ("ignore_label", "max_pixels"))
    label_map = read_label_maps(channels.get("label_map"), ignore_label).validation
    return Dataset(pairs, label_map, max_pixels=max_pixels, cache_bytes=0)


def _warm_up(predictor: MaskPredictor, dataset: Dataset) -> None:
    image, _ = dataset.read(0)
    for _ in range(_WARM_UPS):
        predictor.predict_mask(image)


def read_peak_mb() -> float:
    """The most memory that this process has held so far, in MB (of 1024 * 1024 bytes)."""
    # A child that was forked inherits its parent's ru_maxrss; VmHWM begins anew with the program.
    if _PROCESS_STATUS.is_file():
        for line in _PROCESS_STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20) if sys.platform == "darwin" else peak / 1024


def score_model(model_folder: Path, channels: Mapping[str, Path], masks: Path | None = None) -> Score:
    """Score a model on the validation photos; write the predicted class ids as PNG into ``masks`` when given.

    Label maps and ``ignore_label`` are those of the model's training. Times are after a warm-up; see
    :func:`gluonseg.predict.score.build_score`.

    Raises:
        UserError: the model, a photo or a mask cannot be used.
    """
    # MXNet loads here: who calls settles the number of its threads before.
    from gluonseg.predict.predictor import load_predictor

    predictor = load_predictor(model_folder)
    num_classes = predictor.card.num_classes
    dataset = _open_dataset(channels, predictor.card)
    if masks:
        masks.mkdir(parents=True, exist_ok=True)
    photos, boundaries, confusion = [], [], Confusion.empty(num_classes)
    _warm_up(predictor, dataset)
    for prediction in iter_predictions(predictor, dataset, num_classes):
        photos.append(compute_photo_facts(prediction))
        boundaries.append(compute_boundary_f(prediction.class_ids, prediction.mask, num_classes))
        confusion += prediction.confusion
        if masks:
            write_png(prediction.mask, masks / f"{prediction.pair.name}.png")
    boundary_f = compute_mean_boundary_f(boundaries)
    return build_score(predictor, photos, confusion, boundary_f=boundary_f, peak_mb=read_peak_mb())
