"""What the runs of a comparison come to: models ranked, with means and spreads over seeds."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gluonseg.errors import UserError
from gluonseg.files import parse_json_object
from gluonseg.labels import default_class_names, voc_colours
from gluonseg.metrics import Confusion
from gluonseg.models import registry
from gluonseg.predict.overlay import choose_colours
from gluonseg.predict.score import Score
from gluonseg.report.mark import Mark, build_mark, number_algorithms
from gluonseg.report.record import COMPARISON_FILE, FAILED, FINISHED, RUNS_FOLDER, RunRecord, read_record

Colour = tuple[int, int, int]
SCORED_ANEW = "is_scored_anew"
"""In the settings: scores are on photos that were given to the report, curves of the training on its own."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A number over seeds: its mean, and the sample standard deviation, None where one seed gave it."""

    mean: float
    spread: float | None
    count: int


def compute_figure(values: Sequence[float | None]) -> Figure | None:
    """Mean and spread of the values that are there; None when there are none."""
    found = [value for value in values if value is not None and math.isfinite(value)]
    if not found:
        return None
    return Figure(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))


def get_title(record: RunRecord) -> str:
    """The name of a run's model as people write it."""
    return f"{registry.get_title(record.algorithm)} {record.backbone}"


def get_confusion(score: Score) -> Confusion:
    """The confusion matrix of a score."""
    return Confusion(np.asarray(score.confusion, dtype=np.int64))


def _find_builtin_miou(record: RunRecord) -> float | None:
    """The built-in's mIOU, on centre crops, of the best epoch."""
    found = [entry.get("validation", {}).get("mIOU_builtin") for entry in record.epochs]
    return max((value for value in found if value is not None), default=None)


def _find_throughput(record: RunRecord) -> float | None:
    found = [value for entry in record.epochs if (value := entry.get("train_throughput"))]
    return statistics.median(found) if found else None


def _scored(read: Callable[[Score], float | None]) -> Callable[[RunRecord], float | None]:
    return lambda record: None if record.score is None else read(record.score)


@dataclasses.dataclass(frozen=True)
class Metric:
    """One column of the comparison. ``read`` finds it in a run; ``form`` and ``scale`` are how it is written."""

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


METRICS = (
    Metric("miou", "mIoU", _scored(lambda score: get_confusion(score).compute_miou()),
           "Mean IoU over the classes, on whole validation photos at their own size", has_spread=True),
    Metric("builtin_miou", "Built-in mIOU", _find_builtin_miou,
           "What the built-in algorithm logs: mean IoU on centre crops, best epoch", has_spread=True),
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


def get_metric(key: str) -> Metric:
    """The metric of that key."""
    return next(metric for metric in METRICS if metric.key == key)


@dataclasses.dataclass(frozen=True)
class ModelSummary:
    """One algorithm on one backbone over its seeds. ``runs``, by seed, are not empty; ``place`` is the algorithm's."""

    runs: Sequence[RunRecord]
    place: int = 0

    @property
    def mark(self) -> Mark:
        return build_mark(self.place)

    @property
    def name(self) -> str:
        return self.runs[0].model_name

    @property
    def title(self) -> str:
        """The name as people write it."""
        return get_title(self.runs[0])

    @cached_property
    def scores(self) -> Sequence[Score]:
        return [record.score for record in self.runs if record.score is not None]

    @cached_property
    def figures(self) -> Mapping[str, Figure | None]:
        """Every metric by its key."""
        return {metric.key: compute_figure([metric.read(record) for record in self.runs]) for metric in METRICS}

    @cached_property
    def confusion(self) -> Confusion:
        """Pixels of all seeds together."""
        first, *others = [get_confusion(score) for score in self.scores]
        return sum(others, first)

    @cached_property
    def class_iou(self) -> Sequence[Figure | None]:
        """IoU of each class; None for a class found nowhere."""
        by_seed = [get_confusion(score).compute_class_iou().tolist() for score in self.scores]
        return [compute_figure(values) for values in zip(*by_seed, strict=True)]

    @cached_property
    def photo_miou(self) -> Mapping[str, float]:
        """Mean over the seeds of each photo's mIoU."""
        found: dict[str, list[float]] = {}
        for score in self.scores:
            for photo in score.photos:
                found.setdefault(photo.name, []).append(photo.miou)
        return {name: statistics.fmean(values) for name, values in found.items()}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A comparison's folder as read: ``settings`` is comparison.json, ``records`` the runs that came to an end.

    ``run_folders`` says where each run, by its name, has its masks.
    """

    folder: Path
    settings: Mapping[str, Any]
    records: Sequence[RunRecord]
    run_folders: Mapping[str, Path] = dataclasses.field(default_factory=dict)

    @cached_property
    def models(self) -> Sequence[ModelSummary]:
        """The models that were scored, best first."""
        scored = [record for record in self.records if record.status == FINISHED and record.score is not None]
        return sorted(self._summarise(scored), key=lambda model: (-_mean(model, "miou"), model.name))

    @cached_property
    def trained(self) -> Sequence[ModelSummary]:
        """All runs with curves by their model, also those that have failed or were not scored; scored models first."""
        ranks = {model.name: rank for rank, model in enumerate(self.models)}
        found = self._summarise([record for record in self.records if record.epochs])
        return sorted(found, key=lambda model: (ranks.get(model.name, len(ranks)), model.name))

    def _summarise(self, records: Sequence[RunRecord]) -> list[ModelSummary]:
        places = number_algorithms(record.algorithm for record in self.records)
        groups: dict[str, list[RunRecord]] = {}
        for record in sorted(records, key=lambda run: run.seed):
            groups.setdefault(record.model_name, []).append(record)
        return [ModelSummary(runs, places[runs[0].algorithm]) for runs in groups.values()]

    @property
    def failed(self) -> Sequence[RunRecord]:
        return [record for record in self.records if record.status == FAILED]

    @property
    def planned(self) -> int:
        """How many runs were asked for."""
        return max(len(self.settings.get("runs", ())), len(self.records))

    @property
    def num_open(self) -> int:
        """How many runs have not come to an end yet."""
        return self.planned - len(self.records)

    @property
    def metrics(self) -> Sequence[Metric]:
        """The columns. Where the model was scored on other photos than in training, the built-in's score is told so."""
        if not self.settings.get(SCORED_ANEW):
            return METRICS
        return [
            dataclasses.replace(metric, title=f"{metric.title} at training") if metric.key == "builtin_miou" else metric
            for metric in METRICS
        ]

    @cached_property
    def class_names(self) -> Sequence[str]:
        if self.models:
            return list(self.models[0].scores[0].class_names)
        return list(self.settings.get("class_names") or default_class_names(0))

    @cached_property
    def colours(self) -> Sequence[Colour]:
        """RGB that each class is shown in."""
        given = [(int(red), int(green), int(blue)) for red, green, blue in self.settings.get("colours") or ()]
        names = self.class_names
        return choose_colours(names, given if len(given) >= len(names) else voc_colours(len(names)))


def _mean(model: ModelSummary, key: str) -> float:
    figure = model.figures[key]
    return figure.mean if figure else -1.0


def is_comparison(folder: Path) -> bool:
    """Whether the folder is that of a comparison."""
    return (folder / COMPARISON_FILE).is_file() or (folder / RUNS_FOLDER).is_dir()


def read_comparison(folder: Path) -> Comparison:
    """Read comparison.json and the record of every run that came to an end; UserError for a damaged file."""
    path = folder / COMPARISON_FILE
    try:
        settings = parse_json_object(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    runs = folder / RUNS_FOLDER
    folders = sorted(path for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []
    found = {path: record for path in folders if (record := read_record(path)) is not None}
    return Comparison(folder, settings, list(found.values()), {record.name: path for path, record in found.items()})
