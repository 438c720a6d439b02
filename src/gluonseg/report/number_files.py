"""The numbers of a report as plain files: JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gluonseg.report.columns import METRICS, MIOU, SeedMean, get_confusion
from gluonseg.report.comparison import Comparison, ModelSummary
from gluonseg.report.one_model import WHOLE_IMAGE, CardScores
from gluonseg.report.record import RunRecord, drop_non_finite
from gluonseg.report.run_facts import describe_load, find_versions
from gluonseg.report.verdict import Gap, Verdict, compute_gap

FORMAT_VERSION = 1


def _describe_mean(number: SeedMean | None) -> dict[str, float | int | None] | None:
    return None if number is None else {"mean": number.mean, "spread": number.spread, "seeds": number.count}


def _describe_run(record: RunRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "seed": record.seed,
        "status": record.status,
        "metrics": {metric.key: metric.read(record) for metric in METRICS},
        "photo_mIoU": {photo.name: photo.miou for photo in record.score.photos} if record.score else {},
        "curves": record.epochs,
    }


def _describe_model(rank: int, model: ModelSummary, comparison: Comparison) -> dict[str, Any]:
    gap = compute_gap(comparison.models[0], model)
    return {
        "rank": rank,
        "name": model.name,
        "behind_first": gap and {"miou": gap.difference, "within_spread": gap.is_within_spread},
        "metrics": {key: _describe_mean(number) for key, number in model.means.items()},
        "class_IoU": dict(zip(comparison.class_names, map(_describe_mean, model.class_iou), strict=True)),
        "confusion": model.confusion.matrix.tolist(),
        "runs": [_describe_run(record) for record in model.runs],
    }


def format_json(
    comparison: Comparison,
    verdict: Verdict,
    *,
    scores: Sequence[CardScores] = (),
    disagreement: Mapping[str, float] | None = None,
) -> str:
    """Every number that the page shows.

    Args:
        scores: those of the card, of a model that was not scored otherwise.
        disagreement: the share of pixels that the models disagree on, by photo.
    """
    ranked = {id(run) for model in comparison.models for run in model.runs}
    content = {
        "format_version": FORMAT_VERSION,
        "answer": verdict.headline,
        "caveat": verdict.caveat,
        "class_names": list(comparison.class_names),
        "models": [_describe_model(rank, model, comparison) for rank, model in enumerate(comparison.models, 1)],
        "card_scores": [{"scored_on": one.key, "metrics": one.numbers, "class_IoU": one.classes} for one in scores],
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
    return ["" if value is None else value for value in drop_non_finite([*values, *iou])]


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
    first, *others = [metric.join(model.means[metric.key]) for metric in METRICS]
    return [model.title, str(len(model.runs)), first, gap.text if gap else "–", *others]


def _format_card(scores: CardScores) -> list[str]:
    values = {**scores.means, **{_escape_markdown(name): value for name, value in scores.classes.items()}}
    rows = [[name, MIOU.format(value)] for name, value in values.items()]
    return [f"## Scores {scores.scored_on}", "", *_format_rows(["", "value"], rows), ""]


def format_markdown(
    comparison: Comparison, verdict: Verdict, title: str = "Comparison", scores: Sequence[CardScores] = ()
) -> str:
    """The verdict, the ranked table, IoU by class and the failed runs; ``scores`` are those of a card alone."""
    models = comparison.models
    lines = [f"# {title}", "", f"**{_escape_markdown(verdict.headline)}**", ""]
    for note in filter(None, (verdict.caveat, describe_load(comparison))):
        lines += [_escape_markdown(note), ""]
    lines += [line for one in scores for line in _format_card(one)]
    if models:
        first, *others = [metric.title for metric in comparison.metrics]
        head = ["model", "seeds", first, "against the first", *others]
        rows = [_format_model(model, compute_gap(models[0], model)) for model in models]
        lines += [*_format_rows(head, rows), "", "## IoU by class", ""]
        by_class = zip(comparison.class_names, *(model.class_iou for model in models), strict=True)
        rows = [[_escape_markdown(name), *map(MIOU.join, numbers)] for name, *numbers in by_class]
        lines += [*_format_rows(["class", *(model.title for model in models)], rows), ""]
    if comparison.failed:
        lines += ["## Failed", ""]
        lines += [f"- {record.name}: {_escape_markdown(record.error)}" for record in comparison.failed] + [""]
    return "\n".join(lines)
