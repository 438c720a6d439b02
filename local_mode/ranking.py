"""The table of a comparison in local mode."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from example import find_metric
from price import Measured, format_columns

from gluonseg.compare.record import FAILED, FINISHED, RunRecord, Score
from gluonseg.metrics import Confusion
from gluonseg.models import registry
from gluonseg.report.summary import get_confusion


def get_title(record: RunRecord) -> str:
    """A run as people write it."""
    seed = f" seed {record.seed}" if record.seed else ""
    return f"{registry.get_title(record.algorithm)} {record.backbone}{seed}"


class Ranked(NamedTuple):
    """A finished run with its numbers."""

    record: RunRecord
    score: Score
    confusion: Confusion

    @property
    def measured(self) -> Measured:
        """Its times."""
        return Measured(get_title(self.record), self.record.train_seconds, self.score.latency_ms / 1000)


def rank(records: Sequence[RunRecord]) -> list[Ranked]:
    """The finished runs, best first."""
    finished = [(record, record.score) for record in records if record.status == FINISHED]
    ranked = [Ranked(record, score, get_confusion(score)) for record, score in finished if score]
    return sorted(ranked, key=lambda one: (-one.confusion.compute_miou(), one.record.name))


def _format(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "-"


def _list_cells(one: Ranked, log: str) -> list[str]:
    last = find_metric("validation:mIOU", log)
    scores = (one.confusion.compute_miou(), one.confusion.compute_pixel_accuracy(), last)
    times = (one.record.train_seconds, one.score.latency_ms)
    return [get_title(one.record), *map(_format, scores), *(f"{time:.0f}" for time in times)]


def format_ranking(records: Sequence[RunRecord], logs: Mapping[str, str]) -> str:
    """The runs, best first, then the failed ones with why, then IoU by class.

    ``logs`` are those of the jobs by the names of the runs: from there comes the job's last validation:mIOU.
    """
    ranked = rank(records)
    failed = [f"{get_title(record)} failed: {record.error}" for record in records if record.status == FAILED]
    if not ranked:
        return "\n".join(failed)
    head = ["", "mIoU", "pixel accuracy", "validation:mIOU", "training, s", "ms a photo"]
    table = [head, *(_list_cells(one, logs.get(one.record.name, "")) for one in ranked)]
    classes = [map(_format, one.confusion.compute_class_iou().tolist()) for one in ranked]
    by_class = [[name, *cells] for name, *cells in zip(ranked[0].score.class_names, *classes, strict=True)]
    titles = [get_title(one.record) for one in ranked]
    return "\n".join([format_columns(table), *failed, "", format_columns([["IoU by class", *titles], *by_class])])
