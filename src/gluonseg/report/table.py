"""The comparison's numbers as plain files: JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Sequence
from typing import Any

from gluonseg.compare.record import RunRecord
from gluonseg.report.summary import METRICS, Answer, Comparison, Figure, Metric, ModelSummary, get_confusion

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
        "metrics": {metric.key: _finite(metric.read(record)) for metric in METRICS},
    }


def _describe_model(rank: int, model: ModelSummary, class_names: Sequence[str]) -> dict[str, Any]:
    return {
        "rank": rank,
        "name": model.name,
        "metrics": {key: _describe_figure(figure) for key, figure in model.figures.items()},
        "class_IoU": {
            name: _describe_figure(figure) for name, figure in zip(class_names, model.class_iou, strict=True)
        },
        "confusion": model.confusion.matrix.tolist(),
        "runs": [_describe_run(record) for record in model.runs],
    }


def format_json(comparison: Comparison, answer: Answer) -> str:
    """Everything the page shows in numbers."""
    content = {
        "format_version": FORMAT_VERSION,
        "answer": answer.headline,
        "caveat": answer.caveat,
        "class_names": list(comparison.class_names),
        "models": [
            _describe_model(rank, model, comparison.class_names) for rank, model in enumerate(comparison.models, 1)
        ],
        "failed": [{"name": record.name, "error": record.error} for record in comparison.failed],
        "comparison": comparison.settings,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _list_cells(record: RunRecord, num_classes: int) -> list[float | str]:
    values = [metric.read(record) for metric in METRICS]
    iou = get_confusion(record.score).compute_class_iou().tolist() if record.score else [None] * num_classes
    return ["" if _finite(value) is None else value for value in (*values, *iou)]


def format_csv(comparison: Comparison) -> str:
    """One row a run, the best model's first, failed ones last."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    head = ["rank", "algorithm", "backbone", "seed", "status", *(metric.key for metric in METRICS)]
    writer.writerow([*head, *(f"IoU {name}" for name in comparison.class_names), "error"])
    ranked = [(rank, record) for rank, model in enumerate(comparison.models, 1) for record in model.runs]
    listed = {id(record) for _, record in ranked}
    others = [("", record) for record in comparison.records if id(record) not in listed]
    for place, record in (*ranked, *others):
        cells = _list_cells(record, len(comparison.class_names))
        row = [place, record.algorithm, record.backbone, record.seed, record.status]
        writer.writerow([*row, *cells, record.error])
    return buffer.getvalue()


def _escape_markdown(text: str) -> str:
    """Text from data inside a Markdown table: nothing of it is markup, and it stays on its line."""
    return re.sub(r"([\\`*_{}\[\]<>|#~&])", r"\\\1", " ".join(text.split()))


def _format_rows(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def format_markdown(comparison: Comparison, answer: Answer) -> str:
    """The answer, the ranked table, IoU by class and the failed runs."""
    models = comparison.models
    lines = ["# Comparison", "", f"**{answer.headline}**", ""]
    lines += [answer.caveat, ""] if answer.caveat else []
    if models:
        head = ["model", "seeds", *(metric.title for metric in METRICS)]
        rows = [
            [model.title, str(len(model.runs)), *(format_figure(one, model.figures[one.key]) for one in METRICS)]
            for model in models
        ]
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
