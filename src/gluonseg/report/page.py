"""The report of a comparison: one HTML file that needs nothing else, and the same numbers as JSON, CSV, Markdown."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from gluonseg.errors import UserError
from gluonseg.files import write_text
from gluonseg.models.folder.card import ModelCard
from gluonseg.predict.overlay import UNTINTED
from gluonseg.report.answer import Answer, answer, compute_gap
from gluonseg.report.chart import build_charts
from gluonseg.report.data import describe_splits, draw_examples
from gluonseg.report.gallery import Gallery, build_gallery
from gluonseg.report.photo import Album
from gluonseg.report.setting import COMPARED, describe_load, find_hardware, find_settings, find_versions
from gluonseg.report.single import CardScores, list_scores, read_single
from gluonseg.report.strip import build_strip
from gluonseg.report.summary import (
    METRICS,
    SCORED_ANEW,
    Comparison,
    Figure,
    Metric,
    ModelSummary,
    get_metric,
    is_comparison,
    read_comparison,
)
from gluonseg.report.table import format_csv, format_json, format_markdown, split_figure

PAGE_FILE, JSON_FILE, CSV_FILE, MARKDOWN_FILE = "report.html", "report.json", "report.csv", "report.md"
TEMPLATE = "comparison.html"
CROWDED = 8
"""Classes from which on a confusion matrix is written small."""
MAX_CONFUSED = 40
"""Classes up to which the page has the matrices; beyond, it lists the classes that are taken for another most."""
NUM_CONFUSIONS = 20
MAX_COLUMNS = 8
"""Pictures beside each other."""


@dataclasses.dataclass(frozen=True)
class Share:
    """A share of a true class's pixels as a shade, with its text."""

    text: str
    share: float


@dataclasses.dataclass(frozen=True)
class Bar:
    """A number of 0..1 as a bar, its text, and its spread as text."""

    text: str
    spread: str
    share: float


def _draw_bar(figure: Figure | None) -> Bar:
    return Bar(*split_figure(METRICS[0], figure), figure.mean if figure else 0.0)


def _list_confusions(model: ModelSummary, names: Sequence[str]) -> list[tuple[str, str, Share]]:
    """True class, predicted class and share of the true one's pixels, of the mistakes with the largest shares."""
    shares = model.confusion.compute_row_shares()
    np.fill_diagonal(shares, 0)
    largest = np.argsort(shares, axis=None)[::-1][:NUM_CONFUSIONS]
    pairs = [divmod(int(index), len(names)) for index in largest]
    return [
        (names[row], names[column], Share(f"{shares[row, column]:.1%}", float(shares[row, column])))
        for row, column in pairs
        if shares[row, column] > 0
    ]


def _write_share(share: float) -> str:
    """Two digits; nothing for next to nothing, so that the mistakes stand out."""
    return "" if share < 0.005 else f"{share:.2f}".lstrip("0")


def _shade_confusion(model: ModelSummary) -> list[list[Share]]:
    """Each true class's pixels by the class they were given."""
    shares = model.confusion.compute_row_shares().tolist()
    return [[Share(_write_share(share), share) for share in row] for row in shares]


def _find_metrics(comparison: Comparison) -> list[Metric]:
    """The columns that have a number in them."""
    models = comparison.models
    return [metric for metric in comparison.metrics if any(model.figures[metric.key] for model in models)]


def _rank_rows(models: Sequence[ModelSummary], metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    return [
        {
            "title": model.title,
            "seeds": len(model.runs),
            "gap": compute_gap(models[0], model),
            "cells": [split_figure(metric, model.figures[metric.key]) for metric in metrics],
        }
        for model in models
    ]


def _class_rows(comparison: Comparison) -> list[dict[str, Any]]:
    by_class = zip(*(model.class_iou for model in comparison.models), strict=True)
    return [
        {"name": name, "colour": colour, "cells": [_draw_bar(figure) for figure in figures]}
        for name, colour, figures in zip(comparison.class_names, comparison.colours, by_class, strict=False)
    ]


def _explain(metrics: Sequence[Metric], models: Sequence[ModelSummary]) -> list[tuple[str, str]]:
    """What each column of the ranked table means."""
    sizes = {tuple(score.gmacs_size) for model in models for score in model.scores}
    size = f", of {'×'.join(str(side) for side in sizes.pop()[::-1])} pixels here" if len(sizes) == 1 else ""
    return [(metric.title, metric.help + size * (metric.key == "gmacs")) for metric in metrics]


def _list_runs(comparison: Comparison) -> list[dict[str, Any]]:
    """Every run with the numbers of its own, in the order of the models and seeds."""
    keys = ("miou", "builtin_miou", "train_seconds", "train_peak_mb")
    order = {id(run): number for number, model in enumerate(comparison.models) for run in model.runs}
    records = sorted(comparison.records, key=lambda run: (order.get(id(run), len(order)), run.seed))
    return [
        {
            "name": record.name,
            "status": record.status,
            "cells": [metric.format(metric.read(record)) for metric in map(get_metric, keys)],
        }
        for record in records
    ]


def _count_columns(number: int) -> int:
    """How many of ``number`` pictures stand beside each other, in rows of about the same length."""
    return -(-number // max(1, -(-number // MAX_COLUMNS)))


def _format_date(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()


def _build_context(
    comparison: Comparison, found: Answer, gallery: Gallery, album: Album, scores: Sequence[CardScores] | None
) -> dict[str, Any]:
    """What the template shows; ``scores``, of its card alone, are not None when the page is about one model only."""
    models, is_single = comparison.models, scores is not None
    finished = sum(len(model.runs) for model in models)
    metrics = _find_metrics(comparison) if is_single else METRICS
    names, has_matrix = comparison.class_names, len(comparison.class_names) <= MAX_CONFUSED
    return {
        "answer": found,
        "created": _format_date(str(comparison.settings.get("created", ""))),
        "finished": finished,
        "planned": comparison.planned,
        "open": comparison.num_open,
        "is_single": is_single,
        "is_scored_anew": bool(comparison.settings.get(SCORED_ANEW)),
        "card_scores": scores or (),
        "load": describe_load(comparison),
        "metrics": metrics,
        "meanings": _explain(metrics, models),
        "models": models,
        "ranked": _rank_rows(models, metrics),
        "strip": build_strip(models),
        "runs": () if is_single else _list_runs(comparison),
        "classes": list(zip(names, comparison.colours, strict=False)),
        "class_rows": _class_rows(comparison),
        "charts": build_charts(comparison.trained),
        "confusions": [(model.title, _shade_confusion(model)) for model in models] if has_matrix else (),
        "mistakes": () if has_matrix else [(model.title, _list_confusions(model, names)) for model in models],
        "is_crowded": len(names) >= CROWDED,
        "count_columns": _count_columns,
        "untinted": UNTINTED,
        "gallery": gallery.rows,
        "gallery_notes": gallery.notes,
        "has_photos": bool(album.validation),
        "splits": describe_splits(comparison, album),
        "examples": draw_examples(comparison, album),
        "settings": find_settings(comparison, () if is_single else COMPARED),
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


def write_report(folder: Path, out: Path | None = None) -> Path:
    """Write ``report.html``, ``.json``, ``.csv`` and ``.md`` of the comparison in ``folder``; returns the page's path.

    They go into ``out``, or into ``folder`` itself.

    Works at any time: on the runs that have come to an end so far, each with its ``run.json``, and without the photos
    where those are gone. A folder that holds no comparison is taken for one of a run or of a model.

    Raises:
        UserError: the folder holds none of them, or comparison.json, a record or a card is damaged.
    """
    if not is_comparison(folder):
        return write_model_report(folder, out=out)
    comparison = read_comparison(folder)
    return _write(out or folder, comparison, answer(comparison))


def write_model_report(
    folder: Path,
    channels: Mapping[str, Path] | None = None,
    *,
    run: Path | None = None,
    out: Path | None = None,
    is_scored_anew: bool = False,
    hardware: Mapping[str, Any] | None = None,
) -> Path:
    """Write the same reports for one model into ``folder``: that of a run, of a training or of a model.

    Scores and overlays are those of the run's record where there is one, else the card tells what it knows.
    ``channels`` are where the data is, when it is no longer where the run found it; ``run`` is where the record and
    its masks are, ``out`` where the reports go, when that is not ``folder``. ``is_scored_anew`` says that the record's
    score is of the photos in ``channels``, which need not be the training's; ``hardware`` is what it ran on.
    """
    single = read_single(folder, channels, run, is_scored_anew=is_scored_anew, hardware=hardware)
    return _write(out or folder, single.comparison, single.answer, single.card)


def make_folder(folder: Path) -> None:
    """Make the folder that the reports go into; UserError when it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        why = "" if os.access(folder, os.W_OK) else "no permission"
    except OSError as error:
        why = "it is a file" if folder.is_file() else str(error.strerror)
    if why:
        raise UserError(f"the report cannot be written into {folder} ({why}); name another folder with --out")


def _write(folder: Path, comparison: Comparison, found: Answer, card: ModelCard | None = None) -> Path:
    make_folder(folder)
    album = Album(comparison.settings)
    gallery = build_gallery(comparison, album)
    scores = list_scores(card) if card and not comparison.models else []
    title = "Model" if card else "Comparison"
    # All are made before the first is written: an error leaves the earlier reports as they are, and of one state.
    texts = {
        JSON_FILE: format_json(comparison, found, scores=scores, disagreement=gallery.disagreement),
        CSV_FILE: format_csv(comparison, scores),
        MARKDOWN_FILE: format_markdown(comparison, found, title, scores),
        PAGE_FILE: _render(_build_context(comparison, found, gallery, album, scores if card else None)),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return folder / PAGE_FILE
