"""The reports: one HTML page that needs nothing else, and the same numbers as JSON, CSV and Markdown.

There are two kinds, of the same parts: :func:`write_comparison_report` of several models side by side, and
:func:`write_model_report` of one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from gluonseg.errors import UserError
from gluonseg.files import write_text
from gluonseg.predict.overlay import UNTINTED
from gluonseg.report.columns import MIOU, Metric, get_metric
from gluonseg.report.comparison import SCORED_ANEW, Comparison, ModelSummary, read_comparison
from gluonseg.report.curves import draw_svgs, find_stages
from gluonseg.report.data_facts import describe_splits, draw_examples
from gluonseg.report.gallery import Gallery, build_gallery
from gluonseg.report.mark import COLOURS
from gluonseg.report.number_files import format_csv, format_json, format_markdown
from gluonseg.report.one_model import CardScores, judge_card, list_card_scores, read_model
from gluonseg.report.photo import Album
from gluonseg.report.record import RunRecord
from gluonseg.report.run_facts import COMPARED, describe_load, find_hardware, find_settings, find_versions
from gluonseg.report.strip import build_strip
from gluonseg.report.verdict import Verdict, build_verdict, compute_gap

PAGE_FILE, JSON_FILE, CSV_FILE, MARKDOWN_FILE = "report.html", "report.json", "report.csv", "report.md"
CROWDED = 8
"""Classes from which on a confusion matrix is written small."""
MAX_CONFUSED = 40
"""Classes up to which the page has the matrices; beyond, it lists the classes that are taken for another most."""
NUM_CONFUSIONS = 20
MAX_COLUMNS = 8
"""Pictures beside each other."""


def write_comparison_report(folder: Path, out: Path | None = None) -> Path:
    """Write ``report.html``, ``.json``, ``.csv`` and ``.md`` of the comparison in ``folder``; returns the page's path.

    They go into ``out``, or into ``folder`` itself.

    Works at any time: on the runs that have come to an end so far, each with its ``run.json``, and without the photos
    where those are gone.

    Raises:
        UserError: comparison.json or a record is damaged.
    """
    comparison = read_comparison(folder)
    return _write(out or folder, comparison, build_verdict(comparison))


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

    Scores and overlays are those of the run's record where there is one, else the scores are the card's.

    Args:
        channels: where the data is, when it is no longer where the run found it.
        run: where the run's record and masks are, when that is not ``folder``.
        out: where the reports go, when that is not ``folder``.
        is_scored_anew: whether the record's score is of the photos in ``channels``, which need not be the training's.
        hardware: what it ran on.

    Raises:
        UserError: the folder holds no run and no model, or a record or a card is damaged.
    """
    comparison, card = read_model(folder, channels, run, is_scored_anew=is_scored_anew, hardware=hardware)
    if comparison.models:
        return _write(out or folder, comparison, build_verdict(comparison), ())
    return _write(out or folder, comparison, judge_card(card, comparison.records[0].title), list_card_scores(card))


def make_folder(folder: Path) -> None:
    """Make the folder that the reports go into; UserError when it cannot be made or written into."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        why = "" if os.access(folder, os.W_OK) else "no permission"
    except OSError as error:
        why = "it is a file" if folder.is_file() else str(error.strerror)
    if why:
        raise UserError(f"the report cannot be written into {folder} ({why}); name another folder with --out")


def _write(
    folder: Path, comparison: Comparison, verdict: Verdict, card_scores: Sequence[CardScores] | None = None
) -> Path:
    """Write all four; ``card_scores`` are None for a comparison, and for one model those that only its card tells."""
    make_folder(folder)
    album, scores = Album(comparison.settings), card_scores or ()
    gallery = build_gallery(comparison, album)
    title = "Comparison" if card_scores is None else "Model"
    # All are made before the first is written: an error leaves the earlier reports as they are, and of one state.
    texts = {
        JSON_FILE: format_json(comparison, verdict, scores=scores, disagreement=gallery.disagreement),
        CSV_FILE: format_csv(comparison, scores),
        MARKDOWN_FILE: format_markdown(comparison, verdict, title, scores),
        PAGE_FILE: _render(_build_context(comparison, verdict, gallery, album, card_scores)),
    }
    for name, text in texts.items():
        write_text(folder / name, text)
    return folder / PAGE_FILE


def _render(context: dict[str, Any]) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("gluonseg.report", "template")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html").render(context)


def _build_context(
    comparison: Comparison,
    verdict: Verdict,
    gallery: Gallery,
    album: Album,
    card_scores: Sequence[CardScores] | None,
) -> dict[str, Any]:
    """What the template shows."""
    models, is_single = comparison.models, card_scores is not None
    names, has_matrix = comparison.class_names, len(comparison.class_names) <= MAX_CONFUSED
    measured = [metric for metric in comparison.metrics if any(model.means[metric.key] for model in models)]
    metrics = measured if is_single else comparison.metrics
    class_iou = zip(*(model.class_iou for model in models), strict=True)
    return {
        "verdict": verdict,
        "created": _format_date(str(comparison.settings.get("created", ""))),
        "comparison": comparison,
        "models": models,
        "is_single": is_single,
        "is_scored_anew": bool(comparison.settings.get(SCORED_ANEW)),
        "card_scores": card_scores or (),
        "load": describe_load(comparison),
        "metrics": metrics,
        "miou": MIOU,
        "meanings": _explain(metrics, models),
        "gaps": [compute_gap(models[0], model) for model in models],
        "strip": build_strip(models),
        "runs": () if is_single else _sort_runs(comparison),
        "run_metrics": [get_metric(key) for key in ("miou", "builtin_miou", "train_seconds", "train_peak_mb")],
        "classes": list(zip(names, comparison.colours, strict=False)),
        "class_iou": list(class_iou),
        "palette": COLOURS,
        "curves": draw_svgs(comparison.trained),
        "has_stages": bool(find_stages(comparison.trained)),
        "confusions": [(one.title, one.confusion.compute_row_shares().tolist()) for one in models if has_matrix],
        "mistakes": [(one.title, _list_mistakes(one, names)) for one in models if not has_matrix],
        "is_crowded": len(names) >= CROWDED,
        "count_columns": _count_columns,
        "untinted": UNTINTED,
        "gallery": gallery,
        "has_photos": bool(album.validation),
        "splits": describe_splits(comparison, album),
        "examples": draw_examples(comparison, album),
        "settings": find_settings(comparison, () if is_single else COMPARED),
        "versions": find_versions(comparison),
        "hardware": find_hardware(comparison),
    }


def _format_date(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()


def _explain(metrics: Sequence[Metric], models: Sequence[ModelSummary]) -> list[tuple[str, str]]:
    """Title and meaning of each column of the ranked table."""
    sizes = {tuple(score.gmacs_size) for model in models for score in model.scores}
    size = f", of {'×'.join(str(side) for side in sizes.pop()[::-1])} pixels here" if len(sizes) == 1 else ""
    return [(metric.title, metric.help + size * (metric.key == "gmacs")) for metric in metrics]


def _sort_runs(comparison: Comparison) -> list[RunRecord]:
    """Every run, in the order of the models and seeds."""
    order = {id(run): number for number, model in enumerate(comparison.models) for run in model.runs}
    return sorted(comparison.records, key=lambda run: (order.get(id(run), len(order)), run.seed))


def _list_mistakes(model: ModelSummary, names: Sequence[str]) -> list[tuple[str, str, float]]:
    """True class, predicted class and share of the true one's pixels, of the mistakes with the largest shares."""
    shares = model.confusion.compute_row_shares()
    np.fill_diagonal(shares, 0)
    largest = [divmod(int(index), len(names)) for index in np.argsort(shares, axis=None)[::-1][:NUM_CONFUSIONS]]
    return [(names[row], names[column], float(shares[row, column])) for row, column in largest if shares[row, column]]


def _count_columns(number: int) -> int:
    """How many of ``number`` pictures stand beside each other, in rows of about the same length."""
    return -(-number // max(1, -(-number // MAX_COLUMNS)))
