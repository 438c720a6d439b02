"""A comparison's folder as read: the runs by model, the best model first."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from gluonseg.errors import UserError
from gluonseg.files import parse_json_object
from gluonseg.labels import default_class_names, voc_colours
from gluonseg.metrics import Confusion
from gluonseg.predict.overlay import choose_colours
from gluonseg.predict.score import Score
from gluonseg.report.columns import METRICS, Metric, SeedMean, compute_seed_mean, get_confusion
from gluonseg.report.mark import Mark, build_mark, number_algorithms
from gluonseg.report.record import COMPARISON_FILE, FAILED, FINISHED, RUNS_FOLDER, RunRecord, read_record

Colour = tuple[int, int, int]
SCORED_ANEW = "is_scored_anew"
"""In the settings: scores are on photos that were given to the report, curves of the training on its own."""


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
        return self.runs[0].title

    @cached_property
    def scores(self) -> Sequence[Score]:
        return [record.score for record in self.runs if record.score is not None]

    @cached_property
    def means(self) -> Mapping[str, SeedMean | None]:
        """Every metric by its key."""
        return {metric.key: compute_seed_mean([metric.read(record) for record in self.runs]) for metric in METRICS}

    @cached_property
    def confusion(self) -> Confusion:
        """Pixels of all seeds together."""
        first, *others = [get_confusion(score) for score in self.scores]
        return sum(others, first)

    @cached_property
    def class_iou(self) -> Sequence[SeedMean | None]:
        """IoU of each class; None for a class found nowhere."""
        by_seed = [get_confusion(score).compute_class_iou().tolist() for score in self.scores]
        return [compute_seed_mean(values) for values in zip(*by_seed, strict=True)]

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
    """``settings`` is comparison.json, ``records`` the runs that came to an end.

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
        return sorted(self._group(scored), key=lambda model: (-_get_miou(model), model.name))

    @cached_property
    def trained(self) -> Sequence[ModelSummary]:
        """All runs with curves by their model, also those that have failed or were not scored; scored models first."""
        ranks = {model.name: rank for rank, model in enumerate(self.models)}
        found = self._group([record for record in self.records if record.epochs])
        return sorted(found, key=lambda model: (ranks.get(model.name, len(ranks)), model.name))

    def _group(self, records: Sequence[RunRecord]) -> list[ModelSummary]:
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
        """The columns. Where a model was scored on other photos than in training, the built-in's title says so."""
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
        is_asked = "palette" in self.settings.get("hyperparameters", {})
        colours = given if len(given) >= len(names) else voc_colours(len(names))
        return choose_colours(names, colours, is_asked=is_asked)


def _get_miou(model: ModelSummary) -> float:
    number = model.means["miou"]
    return number.mean if number else -1.0


def is_comparison(folder: Path) -> bool:
    """Whether the folder is that of a comparison."""
    return (folder / COMPARISON_FILE).is_file() or (folder / RUNS_FOLDER).is_dir()


def read_settings(folder: Path) -> dict[str, Any]:
    """The content of comparison.json, empty where there is none; UserError for a damaged file."""
    path = folder / COMPARISON_FILE
    try:
        return parse_json_object(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def read_comparison(folder: Path) -> Comparison:
    """Read comparison.json and the record of every run that came to an end; UserError for a damaged file."""
    settings, runs = read_settings(folder), folder / RUNS_FOLDER
    folders = sorted(path for path in runs.iterdir() if path.is_dir()) if runs.is_dir() else []
    found = {path: record for path in folders if (record := read_record(path)) is not None}
    return Comparison(folder, settings, list(found.values()), {record.name: path for path, record in found.items()})
