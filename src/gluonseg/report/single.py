"""One model as a comparison of one: a run that was scored, or a model folder with what its card tells."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gluonseg.compare.record import COMPARISON_FILE, FINISHED, RUN_FILE, RUNS_FOLDER, RunRecord, read_record
from gluonseg.errors import UserError
from gluonseg.json_object import parse_json_object
from gluonseg.models.card import CARD_FILE, ModelCard, read_card
from gluonseg.report.summary import ALGORITHM_TITLES, Answer, Comparison, answer

_CURVES_FILE = "curves.json"
_SCORED_ON = {"whole_image": "on whole validation photos", "centre_crop": "on centre crops, best epoch"}
_TITLES = {"mIoU": "mIoU", "mIOU_builtin": "mIOU as the built-in", "pixel_accuracy": "Pixel accuracy"}


@dataclasses.dataclass(frozen=True)
class Single:
    """One model and what is said of it."""

    comparison: Comparison
    answer: Answer
    card: ModelCard


@dataclasses.dataclass(frozen=True)
class CardScores:
    """A card's scores: ``means`` by title, ``classes`` by class name; None for a class found nowhere."""

    scored_on: str
    means: Mapping[str, float]
    classes: Mapping[str, float | None]


def list_scores(card: ModelCard) -> list[CardScores]:
    """What the card says of the model's quality, the better kind of score first."""
    found = []
    for key, scored_on in _SCORED_ON.items():
        scores = card.metrics.get(key)
        if isinstance(scores, Mapping):
            means = {title: scores[name] for name, title in _TITLES.items() if scores.get(name) is not None}
            found.append(CardScores(scored_on, means, scores.get("class_IoU") or {}))
    return found


def _find_model(folder: Path) -> Path:
    for candidate in (folder / "model", folder):
        if (candidate / CARD_FILE).is_file():
            return candidate
    raise UserError(f"{folder} holds no comparison, no run and no model ({COMPARISON_FILE}, {RUN_FILE}, {CARD_FILE})")


def _read_curves(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return content if isinstance(content, list) else []


def _build_record(card: ModelCard, model: Path) -> RunRecord:
    return RunRecord(
        algorithm=card.algorithm,
        backbone=card.backbone,
        seed=int(card.hyperparameters.get("seed", 0)),
        status=FINISHED,
        epochs=_read_curves(model / _CURVES_FILE),
        hyperparameters=card.hyperparameters,
        versions=card.versions,
    )


def _read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the comparison that a run belongs to; nothing where there is none."""
    path = folder.resolve().parent.parent / COMPARISON_FILE
    if folder.resolve().parent.name != RUNS_FOLDER or not path.is_file():
        return {}
    try:
        content = parse_json_object(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return {name: value for name, value in content.items() if name not in ("runs", "algorithms", "backbones", "seeds")}


def read_single(folder: Path, channels: Mapping[str, Path] | None = None, run: Path | None = None) -> Single:
    """Read a run's or a model's folder; UserError when it holds neither, or something in it is damaged.

    ``run`` is the folder of the run's record and masks, when they are not in ``folder``.
    """
    model = _find_model(folder)
    card = read_card(model / CARD_FILE)
    record = read_record(run or folder) or _build_record(card, model)
    known = {
        "class_names": card.class_names,
        "colours": card.colours,
        "data": card.data,
        "hyperparameters": dict(card.hyperparameters),
    }
    settings = {**known, **_read_settings(folder)}
    if channels:
        settings["channels"] = {name: str(path) for name, path in channels.items()}
    comparison = Comparison(folder, settings, [record], {record.name: run or folder})
    return Single(comparison, answer(comparison) if comparison.models else _answer_card(card), card)


def _answer_card(card: ModelCard) -> Answer:
    title = f"{ALGORITHM_TITLES.get(card.algorithm, card.algorithm)} {card.backbone}"
    scores = list_scores(card)
    if not scores or "mIoU" not in scores[0].means:
        return Answer(f"{title} has not been scored yet.")
    return Answer(f"{title} reaches mIoU {scores[0].means['mIoU']:.3f} {scores[0].scored_on}.")
