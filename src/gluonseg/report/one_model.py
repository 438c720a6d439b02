"""One model as a comparison of one: a run that was scored, or a model folder with the scores of its card."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gluonseg.data.pairs import match_pairs
from gluonseg.errors import UserError
from gluonseg.models.folder.artifact import read_artifact
from gluonseg.models.folder.card import CARD_FILE, ModelCard, read_card
from gluonseg.models.folder.manifest import BEST_FILE, LAST_FILE
from gluonseg.report.columns import MIOU, get_confusion
from gluonseg.report.comparison import SCORED_ANEW, Comparison, read_settings
from gluonseg.report.record import (
    COMPARISON_FILE,
    FAILED,
    FINISHED,
    RUN_FILE,
    RUNS_FOLDER,
    RunRecord,
    check_epochs,
    read_record,
)
from gluonseg.report.verdict import Verdict

CURVES_FILE, CURVES_PICTURE = "curves.json", "curves.png"
WHOLE_IMAGE = "whole_image"
_SCORED_ON = {
    WHOLE_IMAGE: "on whole validation photos",
    "validation": "on whole validation photos, best epoch",
    "centre_crop": "on centre crops, best epoch",
}
_TITLES = {"mIoU": "mIoU", "mIOU_builtin": "mIOU as the built-in", "pixel_accuracy": "Pixel accuracy"}


@dataclasses.dataclass(frozen=True)
class CardScores:
    """A card's scores: ``numbers`` by their names there, ``classes`` by class name; None for a class found nowhere.

    ``key`` is theirs in the card: ``whole_image``, or that of the best epoch, ``validation`` or ``centre_crop``.
    """

    key: str
    scored_on: str
    numbers: Mapping[str, float]
    classes: Mapping[str, float | None]

    @property
    def means(self) -> dict[str, float]:
        """The numbers by title."""
        return {_TITLES[name]: value for name, value in self.numbers.items()}


def list_card_scores(card: ModelCard) -> list[CardScores]:
    """What the card says of the model's quality, the better kind of score first."""
    found = []
    for key, scored_on in _SCORED_ON.items():
        if scores := card.metrics.get(key):
            numbers = {name: scores[name] for name in _TITLES if scores.get(name) is not None}
            found.append(CardScores(key, scored_on, numbers, scores.get("class_IoU") or {}))
    return found


def judge_card(card: ModelCard, title: str) -> Verdict:
    """The sentence on a model that only its card tells of."""
    scores = list_card_scores(card)
    if not scores or "mIoU" not in scores[0].numbers:
        return Verdict(f"{title} has not been scored yet.")
    return Verdict(f"{title} reaches mIoU {MIOU.format(scores[0].numbers['mIoU'])} {scores[0].scored_on}.")


def find_model(folder: Path) -> Path:
    """The folder of the model in ``folder``: itself, or ``model`` in a run or a job; UserError when there is none."""
    for candidate in (folder / "model", folder):
        if any((candidate / name).is_file() for name in (CARD_FILE, BEST_FILE, LAST_FILE)):
            return candidate
    record = read_record(folder)
    if record is not None and record.status == FAILED:
        raise UserError(f"{folder} has no model: the run failed: {record.error or 'no reason was recorded'}")
    # The output data of a job has its page, and so has the folder of an earlier report.
    page = next((path for path in (folder / "report.html", folder / "data" / "report.html") if path.is_file()), None)
    seen = f"; {page} is there to be looked at" if page else ""
    wanted = f"{COMPARISON_FILE}, {RUN_FILE}, {CARD_FILE}"
    raise UserError(f"{folder} holds no comparison, no run and no model ({wanted}){seen}")


def read_model_card(model: Path) -> ModelCard:
    """The card of a model's folder; the built-in's models have none: then what their parameters tell."""
    return read_card(model / CARD_FILE) if (model / CARD_FILE).is_file() else read_artifact(model).card


def _read_curves(path: Path) -> list[Mapping[str, Any]]:
    try:
        return check_epochs(json.loads(path.read_bytes())) if path.is_file() else []
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); without it there are no curves in the report") from None


def build_record(card: ModelCard, model: Path) -> RunRecord:
    """The record of a training that nobody scored."""
    seed = str(card.hyperparameters.get("seed", 0))
    return RunRecord(
        algorithm=card.algorithm,
        backbone=card.backbone,
        seed=int(seed) if seed.isdecimal() else 0,
        status=FINISHED,
        epochs=_read_curves(model / CURVES_FILE),
        hyperparameters=card.hyperparameters,
        versions=card.versions,
    )


def _read_shared_settings(folder: Path) -> dict[str, Any]:
    """What the runs of the comparison that ``folder`` is a run of have in common; nothing where there is none."""
    runs = folder.resolve().parent
    content = read_settings(runs.parent) if runs.name == RUNS_FOLDER else {}
    return {name: value for name, value in content.items() if name not in ("runs", "algorithms", "backbones", "seeds")}


def _describe_data(card: ModelCard, record: RunRecord, channels: Mapping[str, Path]) -> dict[str, Any]:
    """What is known of the data of ``channels`` that the record's score is of; the card's where it is the same.

    It is taken for the same when the validation masks have the card's pixels of every class, and when there are as many
    training photos.
    """
    pixels = get_confusion(record.score).matrix.sum(axis=1).tolist() if record.score else []
    known = card.data.get("pixels") or {}
    training = [channels.get(name) for name in ("train", "train_annotation")]
    found = [path for path in training if path is not None and path.is_dir()]
    number = len(match_pairs(*found).pairs) if len(found) == 2 else 0
    if list(known.get("validation", ())) == pixels and number == card.data.get("num_training_samples"):
        return dict(card.data)
    return {"pixels": {"validation": pixels}}


def read_model(
    folder: Path,
    channels: Mapping[str, Path] | None = None,
    run: Path | None = None,
    *,
    is_scored_anew: bool = False,
    hardware: Mapping[str, Any] | None = None,
) -> tuple[Comparison, ModelCard]:
    """Read a run's or a model's folder; UserError when it holds neither, or something in it is damaged.

    ``run`` is the folder of the run's record and masks, when they are not in ``folder``. ``is_scored_anew`` says that
    its score is of ``channels``, which need not be the training's.
    """
    model = find_model(folder)
    card = read_model_card(model)
    record = read_record(run or folder) or build_record(card, model)
    known = {
        "class_names": card.class_names,
        "colours": card.colours,
        "data": card.data,
        "hyperparameters": dict(card.hyperparameters),
    }
    settings = {**known, **_read_shared_settings(folder)}
    if channels:
        settings["channels"] = {name: str(path) for name, path in channels.items()}
    if channels and is_scored_anew:
        settings |= {"data": _describe_data(card, record, channels), SCORED_ANEW: True}
    if hardware:
        settings["hardware"] = dict(hardware)
    return Comparison(folder, settings, [record], {record.name: run or folder}), card
