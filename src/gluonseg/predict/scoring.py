"""Scoring a model on whole validation photos. It needs OpenCV, which reading a :class:`Score` does not."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gluonseg.machine.limits import read_peak_mb
from gluonseg.metrics import Confusion
from gluonseg.predict.batch import write_png
from gluonseg.predict.boundary import compute_boundary_f, compute_mean_boundary_f
from gluonseg.predict.evaluation import Prediction, iter_predictions, open_dataset
from gluonseg.predict.predictor import Predictor, load_predictor
from gluonseg.predict.score import PhotoScore, Score

_WARM_UPS = 2


@dataclass(frozen=True)
class PhotoFacts:
    """The few numbers of a photo that a score is made of, so that thousands of photos can be kept.

    ``size`` is (height, width) in pixels; ``score`` is None for a photo without a scored pixel, which has no mIoU.
    """

    size: tuple[int, int]
    seconds: float
    score: PhotoScore | None


def score_photo(name: str, confusion: Confusion) -> PhotoScore | None:
    """The score of one photo; None when it has no scored pixel."""
    if not confusion.matrix.any():
        return None
    return PhotoScore(name, confusion.compute_miou(), confusion.compute_pixel_accuracy())


def compute_photo_facts(prediction: Prediction) -> PhotoFacts:
    """The numbers of one predicted photo."""
    height, width = prediction.mask.shape
    return PhotoFacts((height, width), prediction.seconds, score_photo(prediction.pair.name, prediction.confusion))


def build_score(
    predictor: Predictor,
    photos: Sequence[PhotoFacts],
    confusion: Confusion,
    *,
    boundary_f: float | None = None,
    peak_mb: float = float("nan"),
) -> Score:
    """The score of a model from at least one photo and the ``confusion`` of all.

    Without ``boundary_f`` and ``peak_mb`` outlines and memory count as not measured. ``gmacs`` is what the photo of
    median area takes in all views, ``gmacs_size`` its size at scale 1. Photos without a scored pixel are not in
    ``photos``, but count for the times.
    """
    typical = sorted((photo.size for photo in photos), key=lambda size: (size[0] * size[1], size))[len(photos) // 2]
    costs = [predictor.engine.compute_cost(*size) for size in predictor.compute_pass_sizes(*typical)]
    seconds = [photo.seconds for photo in photos]
    return Score(
        class_names=list(predictor.card.class_names),
        confusion=confusion.matrix.tolist(),
        boundary_f=boundary_f,
        photos=[photo.score for photo in photos if photo.score],
        parameters=costs[0].parameters,
        gmacs=sum(cost.macs for cost in costs) / 1e9,
        gmacs_size=list(predictor.compute_input_size(*typical)),
        latency_ms=1000 * statistics.median(seconds),
        images_per_second=len(seconds) / sum(seconds),
        prediction_peak_mb=peak_mb,
    )


def score_model(model_folder: Path, channels: Mapping[str, Path], masks: Path | None = None) -> Score:
    """Score a model on the photos of the channel ``validation``; times are after a warm-up.

    The predicted class ids are written as PNG into the folder ``masks`` when it is given. Raises UserError when the
    model, a photo or a mask cannot be used.
    """
    predictor = load_predictor(model_folder)
    num_classes = predictor.card.num_classes
    dataset = open_dataset(channels, "validation", predictor.card)
    if masks:
        masks.mkdir(parents=True, exist_ok=True)
    photos, boundaries, confusion = [], [], Confusion.empty(num_classes)
    for _ in range(_WARM_UPS):
        predictor.predict_mask(dataset.read(0)[0])
    for prediction in iter_predictions(predictor, dataset, num_classes):
        photos.append(compute_photo_facts(prediction))
        boundaries.append(compute_boundary_f(prediction.class_ids, prediction.mask, num_classes))
        confusion += prediction.confusion
        if masks:
            write_png(prediction.mask, masks / f"{prediction.pair.name}.png")
    boundary_f = compute_mean_boundary_f(boundaries)
    return build_score(predictor, photos, confusion, boundary_f=boundary_f, peak_mb=read_peak_mb())
