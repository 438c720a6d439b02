"""One training job from settings to artifacts: the place that wires everything together."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gluonseg.atomic import write_text
from gluonseg.data.dataset import Dataset
from gluonseg.hyperparameters import Hyperparameters
from gluonseg.metrics import Confusion, describe_confusion
from gluonseg.models.artifact import BEST_FILE, HYPERPARAMETERS_FILE, LAST_FILE
from gluonseg.models.card import CARD_FILE, ModelCard, build_card, encode_card
from gluonseg.predict.evaluation import evaluate_dataset
from gluonseg.predict.predictor import load_predictor
from gluonseg.report.curves import draw_curves
from gluonseg.train.assemble import build_loaders, build_loop, open_dataset
from gluonseg.train.listener import EpochResult, Listener, Listeners
from gluonseg.train.plan import Plan, plan_job
from gluonseg.train.start import build_start_network
from gluonseg.train.writer import (
    CURVES_FILE,
    ModelWriter,
    describe_epochs,
    describe_versions,
    write_json,
)

_log = logging.getLogger(__name__)
CURVES_PICTURE = "curves.png"
Progress = Callable[[int, int], None]
BuildListeners = Callable[[Hyperparameters, ModelWriter], Sequence[Listener]]


@dataclasses.dataclass(frozen=True)
class JobSettings:
    """What a job is given: raw hyperparameters, channel folders, where its results go, who is told (done, total)."""

    hyperparameters: Mapping[str, Any]
    channels: Mapping[str, Path]
    model_folder: Path
    output_folder: Path | None = None
    devices: Sequence[Any] = ()
    check_progress: Progress | None = None
    evaluation_progress: Progress | None = None


@dataclasses.dataclass(frozen=True)
class JobOutcome:
    """What a job made: the card as written, the epochs, and the whole-image confusion of the best one."""

    card: ModelCard
    results: Sequence[EpochResult]
    confusion: Confusion | None


def run_job(settings: JobSettings, build_listeners: BuildListeners) -> JobOutcome:
    """Train, evaluate the best epoch on whole images, and write the artifacts.

    ``build_listeners`` gets the hyperparameters and the writer of the models, which has to be among the
    listeners it returns. Raises UserError and its kin for everything the caller can fix.
    """
    plan = plan_job(settings.hyperparameters, settings.channels, settings.devices, settings.check_progress)
    hp = plan.hyperparameters
    training = open_dataset(settings.channels, "train", plan)
    validation = open_dataset(settings.channels, "validation", plan)
    network = build_start_network(hp, plan.devices, weights=plan.weights, artifact=plan.artifact)
    # Only now: up to here a job can still be refused, and then nothing is lost.
    _clear_results(settings.model_folder)
    writer = ModelWriter(network, settings.model_folder, hp.precision_dtype)
    card = _build_card(plan)
    listener = Listeners([*build_listeners(hp, writer), _CardWriter(settings, card)])
    loop = build_loop(plan, network, build_loaders(hp, training, validation), listener)
    results = loop.run()
    writer.write_last()
    _write_curves(settings, card, results)
    return _finish(settings, plan, card, results, validation)


def _clear_results(folder: Path) -> None:
    """Remove what an earlier job left: its parameters must not be taken for those of this one."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (BEST_FILE, LAST_FILE, CARD_FILE, HYPERPARAMETERS_FILE, CURVES_FILE, CURVES_PICTURE):
        (folder / name).unlink(missing_ok=True)


def _build_card(plan: Plan) -> ModelCard:
    hp, check = plan.hyperparameters, plan.check
    return build_card(
        hp.algorithm,
        hp.backbone,
        hp.num_classes,
        class_names=plan.class_names,
        aux=hp._aux_loss,
        base_size=hp.base_size,
        crop_size=hp.crop_size,
        prediction_size=hp.prediction_size,
        versions=describe_versions(),
        hyperparameters=hp.to_strings(),
        data={
            "fingerprint": check.fingerprint,
            "num_training_samples": check.num_train,
            "num_validation_samples": check.num_validation,
            "pixels": {split: [int(count) for count in counts] for split, counts in check.histogram.items()},
        },
    )


class _CardWriter(Listener):
    """Puts hyperparameters and card beside each best model, so that a job cut short leaves one that can be used."""

    def __init__(self, settings: JobSettings, card: ModelCard) -> None:
        self._settings = settings
        self._card = card

    def on_epoch(self, result: EpochResult, is_best: bool) -> None:
        if is_best:
            _write_card(self._settings, self._card)


def _write_card(settings: JobSettings, card: ModelCard) -> None:
    write_json(settings.model_folder / HYPERPARAMETERS_FILE, dict(card.hyperparameters))
    write_text(settings.model_folder / CARD_FILE, encode_card(card))


def _write_curves(settings: JobSettings, card: ModelCard, results: Sequence[EpochResult]) -> None:
    epochs = describe_epochs(results, card.class_names)
    for folder in filter(None, (settings.model_folder, settings.output_folder)):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / CURVES_FILE, epochs)
        try:
            draw_curves(epochs, folder / CURVES_PICTURE, f"{card.algorithm} {card.backbone}")
        except Exception:
            # The model is trained and written: a picture of it must not make the job a failed one.
            _log.exception("The curves could not be drawn")


def _finish(
    settings: JobSettings, plan: Plan, card: ModelCard, results: Sequence[EpochResult], validation: Dataset
) -> JobOutcome:
    """Score the best epoch as users will run it, and write what was learnt about it."""
    _log.info("Evaluating the best epoch on %d whole validation images", len(validation))
    best = max(results, key=lambda result: result.miou)
    metrics: dict[str, Any] = {
        "best_epoch": best.epoch,
        "epochs": len(results),
        "centre_crop": describe_confusion(best.confusion, card.class_names),
    }
    confusion = None
    try:
        predictor = load_predictor(settings.model_folder, plan.devices[0])
        confusion = evaluate_dataset(predictor, validation, card.num_classes, settings.evaluation_progress)
        metrics["whole_image"] = describe_confusion(confusion, card.class_names)
    except Exception:
        # As for the curves: what is trained is kept.
        _log.exception("The model is complete, but could not be scored on whole images; try gluonseg evaluate")
    card = dataclasses.replace(card, metrics=metrics)
    _write_card(settings, card)
    return JobOutcome(card, tuple(results), confusion)
