"""The comparison's numbers as plain files: JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gluonseg.report.answer import Answer, Gap, compute_gap
from gluonseg.report.record import RunRecord, drop_non_finite
from gluonseg.report.setting import describe_load, find_versions
from gluonseg.report.single import WHOLE_IMAGE, CardScores
from gluonseg.report.summary import (
    METRICS,
    Comparison,
    Figure,
    Metric,
    ModelSummary,
    get_confusion,
)

FORMAT_VERSION = 1


def format_figure(metric: Metric, figure: Figure | None) -> str:
    """Mean and, for scores, the spread over seeds: ``0.642 ± 0.004``."""
    return " ".join(split_figure(metric, figure)).rstrip()


def split_figure(metric: Metric, figure: Figure | None) -> tuple[str, str]:
    """Mean and spread as texts; the second is empty where there is none to tell."""
    if figure is None:
        return "–", ""
    if figure.spread is None or not metric.has_spread:
        return metric.format(figure.mean), ""
    return metric.format(figure.mean), f"± {metric.format(figure.spread)}"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _describe_figure(figure: Figure | None) -> dict[str, float | int | None] | None:
    return None if figure is None else {"mean": figure.mean, "spread": figure.spread, "seeds": figure.count}


def _describe_run(record: RunRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "seed": record.seed,
        "status": record.status,
        "metrics": {metric.key: _finite(metric.read(record)) for metric in METRICS},
        "photo_mIoU": {photo.name: photo.miou for photo in record.score.photos} if record.score else {},
        "curves": record.epochs,
    }


def _describe_model(rank: int, comparison: Comparison) -> dict[str, Any]:
    model, class_names = comparison.models[rank - 1], comparison.class_names
    gap = compute_gap(comparison.models[0], model)
    return {
        "rank": rank,
        "name": model.name,
        "behind_first": gap and {"miou": gap.difference, "within_spread": gap.is_within_spread},
        "metrics": {key: _describe_figure(figure) for key, figure in model.figures.items()},
        "class_IoU": {
            name: _describe_figure(figure) for name, figure in zip(class_names, model.class_iou, strict=True)
        },
        "confusion": model.confusion.matrix.tolist(),
        "runs": [_describe_run(record) for record in model.runs],
    }


def _describe_card(scores: CardScores) -> dict[str, Any]:
    return {"scored_on": scores.key, "metrics": scores.numbers, "class_IoU": scores.classes}


def format_json(
    comparison: Comparison,
    answer: Answer,
    *,
    scores: Sequence[CardScores] = (),
    disagreement: Mapping[str, float] | None = None,
) -> str:
    """Everything the page shows in numbers.

    Args:
        scores: of a model that only its card tells of.
        disagreement: the share of pixels by photo.
    """
    ranked = {id(run) for model in comparison.models for run in model.runs}
    content = {
        "format_version": FORMAT_VERSION,
        "answer": answer.headline,
        "caveat": answer.caveat,
        "class_names": list(comparison.class_names),
        "models": [_describe_model(rank, comparison) for rank in range(1, len(comparison.models) + 1)],
        "card_scores": [_describe_card(one) for one in scores],
        "unscored_runs": [_describe_run(record) for record in comparison.records if id(record) not in ranked],
        "failed": [{"name": record.name, "error": record.error} for record in comparison.failed],
        "disagreement": disagreement or {},
        "versions": find_versions(comparison),
        "comparison": comparison.settings,
    }
    return json.dumps(drop_non_finite(content), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _list_cells(record: RunRecord, class_names: Sequence[str], whole: CardScores | None) -> list[float | str]:
    values: list[float | None] = [metric.read(record) for metric in METRICS]
    iou: list[float | None] = [None] * len(class_names)
    if record.score:
        iou = get_confusion(record.score).compute_class_iou().tolist()
    elif whole:
        known = {"miou": whole.numbers.get("mIoU"), "pixel_accuracy": whole.numbers.get("pixel_accuracy")}
        values = [known.get(metric.key, value) for metric, value in zip(METRICS, values, strict=True)]
        iou = [whole.classes.get(name) for name in class_names]
    return ["" if value is None else value for value in map(_finite, (*values, *iou))]


def format_csv(comparison: Comparison, scores: Sequence[CardScores] = ()) -> str:
    """One row a run, the best model's first, failed ones last; a run that was not scored has its card's ``scores``."""
    whole = next((one for one in scores if one.key == WHOLE_IMAGE), None)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head = ["rank", "algorithm", "backbone", "seed", "status", *(metric.key for metric in METRICS)]
    writer.writerow([*head, *(f"IoU {name}" for name in comparison.class_names), "error"])
    ranked = [(rank, record) for rank, model in enumerate(comparison.models, 1) for record in model.runs]
    listed = {id(record) for _, record in ranked}
    others = [("", record) for record in comparison.records if id(record) not in listed]
    for place, record in (*ranked, *others):
        cells = _list_cells(record, comparison.class_names, whole)
        row = [place, record.algorithm, record.backbone, record.seed, record.status]
        writer.writerow([*row, *cells, record.error])
    return buffer.getvalue()


def _escape_markdown(text: str) -> str:
    """Text from data inside a Markdown table: nothing of it is markup, and it stays on its line."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", " ".join(text.split()))


def _format_rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def _format_model(model: ModelSummary, gap: Gap | None) -> list[str]:
    figures = [format_figure(metric, model.figures[metric.key]) for metric in METRICS]
    # The gap beside the mIoU, which is the first of them.
    return [model.title, str(len(model.runs)), figures[0], gap.text if gap else "–", *figures[1:]]


def _format_card(scores: CardScores) -> list[str]:
    cells = {**scores.means, **{_escape_markdown(name): value for name, value in scores.classes.items()}}
    rows = [[name, METRICS[0].format(value)] for name, value in cells.items()]
    return [f"## Scores {scores.scored_on}", "", *_format_rows(["", "value"], rows), ""]


def format_markdown(
    comparison: Comparison, answer: Answer, title: str = "Comparison", scores: Sequence[CardScores] = ()
) -> str:
    """The answer, the ranked table, IoU by class and the failed runs; ``scores`` are those of a card alone."""
    models = comparison.models
    lines = [f"# {title}", "", f"**{_escape_markdown(answer.headline)}**", ""]
    for note in filter(None, (answer.caveat, describe_load(comparison))):
        lines += [_escape_markdown(note), ""]
    lines += [line for one in scores for line in _format_card(one)]
    if models:
        first, *others = [metric.title for metric in comparison.metrics]
        head = ["model", "seeds", first, "against the first", *others]
        rows = [_format_model(model, compute_gap(models[0], model)) for model in models]
        lines += [*_format_rows(head, rows), "", "## IoU by class", ""]
        by_class = zip(*(model.class_iou for model in models), strict=True)
        rows = [
            [_escape_markdown(name), *(format_figure(METRICS[0], figure) for figure in figures)]
            for name, figures in zip(comparison.class_names, by_class, strict=True)
        ]
        lines += [*_format_rows(["class", *(model.title for model in models)], rows), ""]
    if comparison.failed:
        lines += ["## Failed", ""]
        lines += [f"- {record.name}: {_escape_markdown(record.error)}" for record in comparison.failed] + [""]
    return "\n".join(lines)
