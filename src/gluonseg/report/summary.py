"""What the runs of a comparison come to: models ranked, means and spreads over seeds, and the answer in words."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gluonseg.compare.record import COMPARISON_FILE, FAILED, FINISHED, RUNS_FOLDER, RunRecord, Score, read_record
from gluonseg.errors import UserError
from gluonseg.json_object import parse_json_object
from gluonseg.labels import default_class_names, voc_colours
from gluonseg.metrics import Confusion

Colour = tuple[int, int, int]
ALGORITHM_TITLES = {"fcn": "FCN", "psp": "PSP", "deeplab": "DeepLab"}


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
           "Share of pixels predicted right", has_spread=True),
    Metric("boundary_f", "Boundary F", _scored(lambda score: score.boundary_f),
           "How well the outlines match: F-score of boundary pixels, mean over the classes", has_spread=True),
    Metric("parameters", "Parameters, M", _scored(lambda score: score.parameters), "Millions", "{:.1f}", 1e-6),
    Metric("gmacs", "GMACs", _scored(lambda score: score.gmacs),
           "Billions of multiply-accumulates for one photo", "{:.2f}"),
    Metric("train_peak_mb", "Training memory, MB", lambda record: record.train_peak_mb or None,
           "Peak of the training process", "{:,.0f}"),
    Metric("prediction_peak_mb", "Prediction memory, MB", _scored(lambda score: score.prediction_peak_mb),
           "Peak of the process that predicts", "{:,.0f}"),
    Metric("train_seconds", "Training, min", lambda record: record.train_seconds or None,
           "Wall-clock time of training", "{:.1f}", 1 / 60),
    Metric("train_images_per_second", "Training, images/s", _find_throughput, "Median over the epochs", "{:.1f}"),
    Metric("latency_ms", "Latency, ms", _scored(lambda score: score.latency_ms),
           "One photo after another", "{:,.0f}"),
    Metric("images_per_second", "Prediction, images/s", _scored(lambda score: score.images_per_second),
           "Photos predicted in a second", "{:.1f}"),
)  # fmt: skip


def get_metric(key: str) -> Metric:
    """The metric of that key."""
    return next(metric for metric in METRICS if metric.key == key)


@dataclasses.dataclass(frozen=True)
class ModelSummary:
    """One algorithm on one backbone over its finished seeds. ``runs`` are sorted by seed and not empty."""

    runs: Sequence[RunRecord]

    @property
    def name(self) -> str:
        return self.runs[0].model_name

    @property
    def title(self) -> str:
        """The name as people write it."""
        first = self.runs[0]
        return f"{ALGORITHM_TITLES.get(first.algorithm, first.algorithm)} {first.backbone}"

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
        groups: dict[str, list[RunRecord]] = {}
        for record in self.records:
            if record.status == FINISHED and record.score is not None:
                groups.setdefault(record.model_name, []).append(record)
        models = [ModelSummary(sorted(runs, key=lambda run: run.seed)) for runs in groups.values()]
        return sorted(models, key=lambda model: (-_mean(model, "miou"), model.name))

    @property
    def failed(self) -> Sequence[RunRecord]:
        return [record for record in self.records if record.status == FAILED]

    @property
    def planned(self) -> int:
        """How many runs were asked for."""
        return max(len(self.settings.get("runs", ())), len(self.records))

    @cached_property
    def class_names(self) -> Sequence[str]:
        if self.models:
            return list(self.models[0].scores[0].class_names)
        return list(self.settings.get("class_names") or default_class_names(0))

    @cached_property
    def colours(self) -> Sequence[Colour]:
        """RGB, one a class."""
        given = [(int(red), int(green), int(blue)) for red, green, blue in self.settings.get("colours") or ()]
        return given if len(given) >= len(self.class_names) else voc_colours(len(self.class_names))


def _mean(model: ModelSummary, key: str) -> float:
    figure = model.figures[key]
    return figure.mean if figure else -1.0


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


@dataclasses.dataclass(frozen=True)
class Answer:
    """The answer to "which is best": one sentence, and what must be known beside it."""

    headline: str
    caveat: str = ""


def answer(comparison: Comparison) -> Answer:
    """Say which model is best, and whether the difference to the second is more than the spread over seeds."""
    models = comparison.models
    if not models:
        return Answer("No run has finished yet." if not comparison.failed else "No run has come to a result.")
    best = models[0]
    value = get_metric("miou").format(_mean(best, "miou"))
    if len(models) == 1:
        return Answer(f"{best.title} reaches mIoU {value}.", _describe_single(best))
    second = models[1]
    first_figure, second_figure = best.figures["miou"], models[1].figures["miou"]
    if first_figure is None or second_figure is None:
        return Answer(f"{best.title} reaches mIoU {value}.")
    wins = _count_wins(best, second)
    if first_figure.spread is None or second_figure.spread is None:
        return _answer_one_seed(best, second, first_figure, second_figure, wins)
    return _answer_spread(best, second, first_figure, second_figure, wins)


def _describe_single(model: ModelSummary) -> str:
    figure = model.figures["miou"]
    if figure is None or figure.spread is None:
        return "One seed says nothing about the spread between trainings."
    return f"Spread over {figure.count} seeds: ±{figure.spread:.3f}."


def _count_wins(best: ModelSummary, second: ModelSummary) -> str:
    shared = best.photo_miou.keys() & second.photo_miou.keys()
    wins = sum(best.photo_miou[name] > second.photo_miou[name] for name in shared)
    if not shared:
        return ""
    return f" Photo by photo, {best.title} scores higher than {second.title} on {wins} of {len(shared)}."


def _subtract_as_shown(one: Figure, two: Figure) -> str:
    """The difference of the rounded numbers, so that what stands beside it adds up."""
    return f"{round(one.mean, 3) - round(two.mean, 3):.3f}"


def _answer_one_seed(best: ModelSummary, second: ModelSummary, one: Figure, two: Figure, wins: str) -> Answer:
    single = [model.title for model, figure in ((best, one), (second, two)) if figure.spread is None]
    owner = "each" if len(single) == 2 else f"of {single[0]}"
    caveat = (
        f"One seed {owner} says nothing about the spread between trainings: "
        "another seed could change the order. Compare with --seeds 1,2,3 to find out."
    )
    gap = _subtract_as_shown(one, two)
    if not float(gap):
        return Answer(f"{best.title} and {second.title} score the same: mIoU {one.mean:.3f}.", caveat + wins)
    headline = f"{best.title} scores highest: mIoU {one.mean:.3f}, {gap} above {second.title} ({two.mean:.3f})."
    return Answer(headline, caveat + wins)


def _answer_spread(best: ModelSummary, second: ModelSummary, one: Figure, two: Figure, wins: str) -> Answer:
    difference, margin = one.mean - two.mean, (one.spread or 0.0) + (two.spread or 0.0)
    gap = _subtract_as_shown(one, two)
    scores = f"mIoU {one.mean:.3f} ± {one.spread:.3f} and {two.mean:.3f} ± {two.spread:.3f}"
    seeds = f"{one.count} seeds each" if one.count == two.count else f"{one.count} and {two.count} seeds"
    few = " Two seeds measure a spread only roughly." if min(one.count, two.count) == 2 else ""
    if difference <= margin:
        headline = f"{best.title} and {second.title} cannot be told apart: {scores}."
        caveat = f"Their difference, {gap}, is within the spread over seeds ({seeds})."
    else:
        headline = f"{best.title} is best: {scores} for {second.title}."
        caveat = f"The difference, {gap}, is more than the spread over seeds ({seeds})."
    return Answer(headline, caveat + few + wins)
