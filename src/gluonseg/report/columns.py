"""The columns of a comparison: what is measured of a run, and how its mean over seeds is written."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence

import numpy as np

from gluonseg.metrics import Confusion
from gluonseg.predict.score import Score
from gluonseg.report.record import RunRecord


@dataclasses.dataclass(frozen=True)
class SeedMean:
    """A number over seeds: its mean, and the sample standard deviation, None where one seed gave it."""

    mean: float
    spread: float | None
    count: int


def compute_seed_mean(values: Sequence[float | None]) -> SeedMean | None:
    """Mean and spread of the values that are there; None when there are none."""
    found = [value for value in values if value is not None and math.isfinite(value)]
    if not found:
        return None
    return SeedMean(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))


@dataclasses.dataclass(frozen=True)
class Metric:
    """One column. ``read`` finds it in a run; ``form`` and ``scale`` are how it is written."""

    key: str
    title: str
    read: Callable[[RunRecord], float | None]
    help: str
    form: str = "{:.3f}"
    scale: float = 1.0
    has_spread: bool = False

    def format(self, value: float | None) -> str:
        """The value as text, a dash where there is none."""
        return "–" if value is None or not math.isfinite(value) else self.form.format(value * self.scale)

    def split(self, number: SeedMean | None) -> tuple[str, str]:
        """Mean and spread as texts; the second is empty for one seed and for columns without a spread."""
        if number is None:
            return "–", ""
        has_spread = self.has_spread and number.spread is not None
        return self.format(number.mean), f"± {self.format(number.spread)}" if has_spread else ""

    def join(self, number: SeedMean | None) -> str:
        """Mean and spread as one text: ``0.642 ± 0.004``."""
        return " ".join(self.split(number)).rstrip()


def get_confusion(score: Score) -> Confusion:
    """The confusion matrix of a score."""
    return Confusion(np.asarray(score.confusion, dtype=np.int64))


def _find_builtin_miou(record: RunRecord) -> float | None:
    """The built-in's mIOU of the best epoch."""
    found = [entry.get("validation", {}).get("mIOU_builtin") for entry in record.epochs]
    return max((value for value in found if value is not None), default=None)


def _find_throughput(record: RunRecord) -> float | None:
    found = [value for entry in record.epochs if (value := entry.get("train_throughput"))]
    return statistics.median(found) if found else None


def _scored(read: Callable[[Score], float | None]) -> Callable[[RunRecord], float | None]:
    return lambda record: None if record.score is None else read(record.score)


METRICS = (
    Metric("miou", "mIoU", _scored(lambda score: get_confusion(score).compute_miou()),
           "Mean IoU over the classes, on whole validation photos at their own size", has_spread=True),
    Metric("builtin_miou", "Built-in mIOU", _find_builtin_miou,
           "What the built-in algorithm logs, best epoch: mean IoU on centre crops, or on whole photos where "
           "validation_mini_batch_size is 1", has_spread=True),
    Metric("pixel_accuracy", "Pixel accuracy", _scored(lambda score: get_confusion(score).compute_pixel_accuracy()),
           "Share of the scored pixels that are predicted right", has_spread=True),
    Metric("boundary_f", "Boundary F-score", _scored(lambda score: score.boundary_f),
           "How well the outlines match: F-score of the boundary pixels, mean over the classes", has_spread=True),
    Metric("parameters", "Parameters, M", _scored(lambda score: score.parameters),
           "Millions of numbers that the served network holds", "{:.1f}", 1e-6),
    Metric("gmacs", "GMACs", _scored(lambda score: score.gmacs),
           "Billions of multiply-accumulates for one photo as it goes through the network", "{:.2f}"),
    Metric("train_peak_mb", "Training memory, MB", lambda record: record.train_peak_mb or None,
           "Most memory that the training process held, reading the data included", "{:,.0f}"),
    Metric("prediction_peak_mb", "Prediction memory, MB", _scored(lambda score: score.prediction_peak_mb),
           "Most memory that the process held that predicts the validation photos", "{:,.0f}"),
    Metric("train_seconds", "Training, min", lambda record: record.train_seconds or None,
           "Wall-clock time of the whole training process", "{:.1f}", 1 / 60),
    Metric("train_images_per_second", "Training, images/s", _find_throughput,
           "Photos trained on in a second, median over the epochs", "{:.1f}"),
    Metric("latency_ms", "Latency, ms", _scored(lambda score: score.latency_ms),
           "Time for one photo as a server predicts it, the model loaded and warm; median, one photo after another",
           "{:,.0f}"),
    Metric("images_per_second", "Prediction, images/s", _scored(lambda score: score.images_per_second),
           "Photos in a second in the same way; decoding and transfer are not in it", "{:.1f}"),
)  # fmt: skip
MIOU = METRICS[0]


def get_metric(key: str) -> Metric:
    """The metric of that key."""
    return next(metric for metric in METRICS if metric.key == key)
