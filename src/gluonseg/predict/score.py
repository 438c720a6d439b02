"""The score of a model on whole validation photos: its numbers, and how they are put together from those of a photo."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gluonseg.metrics import Confusion
from gluonseg.predict.evaluation import Prediction

if TYPE_CHECKING:
    from gluonseg.predict.predictor import Predictor


@dataclasses.dataclass(frozen=True)
class PhotoScore:
    """One validation photo under one model. ``miou`` is over the classes found in its mask or prediction."""

    name: str
    miou: float
    pixel_accuracy: float


@dataclasses.dataclass(frozen=True)
class Score:
    """A model scored on whole validation photos at their own size.

    ``confusion`` has rows of true classes and columns of predicted ones, in pixels. ``boundary_f`` is the mean over the
    classes of the boundary F-score. Latency is of one photo after another, in milliseconds; ``gmacs`` are billions of
    multiply-accumulates for one photo of ``gmacs_size`` (height, width) pixels.
    """

    class_names: Sequence[str]
    confusion: Sequence[Sequence[int]]
    boundary_f: float | None
    photos: Sequence[PhotoScore]
    parameters: int
    gmacs: float
    gmacs_size: Sequence[int]
    latency_ms: float
    images_per_second: float
    prediction_peak_mb: float


def parse_score(content: Mapping[str, Any]) -> Score:
    """A score from its JSON object; TypeError or KeyError when fields are missing or unknown."""
    photos = [PhotoScore(**photo) for photo in content["photos"]]
    return Score(**{**content, "photos": photos})


@dataclasses.dataclass(frozen=True)
class PhotoFacts:
    """The few numbers that a score needs of one photo, for keeping thousands of them.

    ``size`` is (height, width); ``score`` is None for a photo without a scored pixel, which has no mIoU.
    """

    size: tuple[int, int]
    seconds: float
    score: PhotoScore | None


def score_photo(name: str, confusion: Confusion) -> PhotoScore | None:
    """The scores of one photo; None without a scored pixel, which leaves no mIoU."""
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
    """The score of a model from at least one photo and the ``confusion`` of all; by default outlines and memory were
    not measured.

    ``gmacs`` is what the photo of median area takes in all views, ``gmacs_size`` the size of scale 1. Photos without
    a scored pixel are not in ``photos``, but count for the times.
    """
    card = predictor.card
    typical = sorted((photo.size for photo in photos), key=lambda size: (size[0] * size[1], size))[len(photos) // 2]
    height, width = predictor.compute_input_size(*typical)
    costs = [predictor.engine.compute_cost(*size) for size in predictor.compute_pass_sizes(*typical)]
    seconds = [photo.seconds for photo in photos]
    return Score(
        class_names=list(card.class_names),
        confusion=confusion.matrix.tolist(),
        boundary_f=boundary_f,
        photos=[photo.score for photo in photos if photo.score],
        parameters=costs[0].parameters,
        gmacs=sum(cost.macs for cost in costs) / 1e9,
        gmacs_size=[height, width],
        latency_ms=1000 * statistics.median(seconds),
        images_per_second=len(seconds) / sum(seconds),
        prediction_peak_mb=peak_mb,
    )
