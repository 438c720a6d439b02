"""The score of a model on whole validation photos at their own size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class PhotoScore:
    """One validation photo under one model. ``miou`` is over the classes found in its mask or prediction."""

    name: str
    miou: float
    pixel_accuracy: float


@dataclass(frozen=True)
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
