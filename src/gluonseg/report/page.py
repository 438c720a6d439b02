"""The report of a comparison: one HTML file that needs nothing else, and the same numbers as JSON, CSV, Markdown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from gluonseg.atomic import write_text
from gluonseg.compare.record import COMPARISON_FILE, RUNS_FOLDER
from gluonseg.models.card import ModelCard
from gluonseg.report.chart import build_charts
from gluonseg.report.data import describe_splits, draw_examples
from gluonseg.report.gallery import build_gallery
from gluonseg.report.photo import Album
from gluonseg.report.setting import find_hardware, find_settings, find_versions
from gluonseg.report.single import list_scores, read_single
from gluonseg.report.summary import METRICS, Answer, Comparison, Figure, Metric, ModelSummary, answer, read_comparison
from gluonseg.report.table import format_csv, format_figure, format_json, format_markdown, split_figure

PAGE_FILE, JSON_FILE, CSV_FILE, MARKDOWN_FILE = "report.html", "report.json", "report.csv", "report.md"
TEMPLATE = "comparison.html"
CROWDED = 12
"""Classes from which on a confusion matrix is written small."""
MAX_CONFUSED = 80
"""Classes up to which a model's own page has the matrix: 254 classes would make it of 10 MB. JSON always has it."""


@dataclasses.dataclass(frozen=True)
class Share:
    """A number of 0..1 as a bar or a shade, with its text."""

    text: str
    share: float


def _shade(figure: Figure | None) -> Share:
    return Share(format_figure(METRICS[0], figure), figure.mean if figure else 0.0)


def _shade_confusion(model: ModelSummary) -> list[list[Share]]:
    """Each true class's pixels by the class they were given."""
    rows = []
    for counts in model.confusion.matrix.tolist():
        total = sum(counts)
        shares = [count / total if total else 0.0 for count in counts]
        rows.append([Share(f"{share:.2f}".lstrip("0") if 0 < share < 1 else f"{share:.0f}", share) for share in shares])
    return rows


def _find_metrics(models: Sequence[ModelSummary]) -> list[Metric]:
    """The columns that have a number in them."""
    return [metric for metric in METRICS if any(model.figures[metric.key] for model in models)]


def _rank_rows(models: Sequence[ModelSummary], metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    return [
        {
            "title": model.title,
            "seeds": len(model.runs),
            "cells": [split_figure(metric, model.figures[metric.key]) for metric in metrics],
        }
        for model in models
    ]


def _class_rows(comparison: Comparison) -> list[dict[str, Any]]:
    by_class = zip(*(model.class_iou for model in comparison.models), strict=True)
    return [
        {"name": name, "colour": colour, "cells": [_shade(figure) for figure in figures]}
        for name, colour, figures in zip(comparison.class_names, comparison.colours, by_class, strict=False)
    ]


def _format_date(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()


def _build_context(comparison: Comparison, found: Answer, card: ModelCard | None = None) -> dict[str, Any]:
    """What the template shows; ``card`` is that of the model when the page is about one only."""
    models, album = comparison.models, Album(comparison.settings)
    finished = sum(len(model.runs) for model in models)
    metrics = _find_metrics(models) if card else METRICS
    has_confusion = card is None or len(comparison.class_names) <= MAX_CONFUSED
    return {
        "answer": found,
        "created": _format_date(str(comparison.settings.get("created", ""))),
        "finished": finished,
        "planned": comparison.planned,
        "open": comparison.planned - len(comparison.records),
        "is_single": card is not None,
        "card_scores": list_scores(card) if card and not models else (),
        "metrics": metrics,
        "models": models,
        "ranked": _rank_rows(models, metrics),
        "classes": list(zip(comparison.class_names, comparison.colours, strict=False)),
        "class_rows": _class_rows(comparison),
        "charts": build_charts(models or ([ModelSummary(comparison.records)] if card else ())),
        "confusions": [(model.title, _shade_confusion(model)) for model in models] if has_confusion else (),
        "is_crowded": len(comparison.class_names) >= CROWDED,
        "gallery": build_gallery(comparison, album),
        "splits": describe_splits(comparison, album),
        "examples": draw_examples(comparison, album),
        "settings": find_settings(comparison),
        "versions": find_versions(comparison),
        "hardware": find_hardware(comparison),
        "failed": comparison.failed,
    }


def _render(context: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("gluonseg.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(context)


def write_report(folder: Path) -> Path:
    """Write ``report.html``, ``.json``, ``.csv`` and ``.md`` of the comparison in ``folder``; returns the page's path.

    Works at any time: on the runs that have come to an end so far, each with its ``run.json``, and without the photos
    where those are gone. A folder that holds no comparison is taken for one of a run or of a model.

    Raises:
        UserError: the folder holds none of them, or comparison.json, a record or a card is damaged.
    """
    if not (folder / COMPARISON_FILE).is_file() and not (folder / RUNS_FOLDER).is_dir():
        return write_model_report(folder)
    comparison = read_comparison(folder)
    return _write(folder, comparison, answer(comparison))


def write_model_report(
    folder: Path, channels: Mapping[str, Path] | None = None, *, run: Path | None = None, out: Path | None = None
) -> Path:
    """Write the same reports for one model into ``folder``: that of a run, of a training or of a model.

    Scores and overlays are those of the run's record where there is one, else the card tells what it knows.
    ``channels`` are where the data is, when it is no longer where the run found it; ``run`` is where the record and
    its masks are, ``out`` where the reports go, when that is not ``folder``.
    """
    single = read_single(folder, channels, run)
    return _write(out or folder, single.comparison, single.answer, single.card)


def _write(folder: Path, comparison: Comparison, found: Answer, card: ModelCard | None = None) -> Path:
    write_text(folder / JSON_FILE, format_json(comparison, found))
    write_text(folder / CSV_FILE, format_csv(comparison))
    write_text(folder / MARKDOWN_FILE, format_markdown(comparison, found))
    write_text(folder / PAGE_FILE, _render(_build_context(comparison, found, card)))
    return folder / PAGE_FILE
