"""One training job from settings to artifacts: the place that wires everything together."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from gluonseg.data.dataset import Dataset
from gluonseg.errors import UserError
from gluonseg.export import build_checked_file, write_onnx
from gluonseg.hyperparameters import Hyperparameters
from gluonseg.metrics import Confusion
from gluonseg.models.artifact import BEST_FILE, read_folder
from gluonseg.models.card import ModelCard, build_card
from gluonseg.models.onnx_file import ONNX_FILE
from gluonseg.models.registry import find_network
from gluonseg.models.symbol import describe_symbol
from gluonseg.predict.evaluation import iter_predictions
from gluonseg.predict.predictor import load_predictor
from gluonseg.train.assemble import build_loaders, build_loop, open_dataset
from gluonseg.train.checkpoint import Checkpoint, build_identity
from gluonseg.train.checkpoint_file import CheckpointFolder, open_checkpoints
from gluonseg.train.folder_lock import hold_folder
from gluonseg.train.job_report import JobReport
from gluonseg.train.listener import EpochResult, Listener, Listeners
from gluonseg.train.plan import Plan, plan_job
from gluonseg.train.result import ResultFolder
from gluonseg.train.start import build_start_network
from gluonseg.train.stop import Stop, Stopped
from gluonseg.train.tensorboard import EVENTS_FOLDER, TensorBoard
from gluonseg.train.writer import ModelWriter, describe_versions

_log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
BuildListeners = Callable[[Hyperparameters, ModelWriter], Sequence[Listener]]


@dataclasses.dataclass(frozen=True)
class JobSettings:
    """What a job is given: raw hyperparameters, channel folders, where its results go, who is told (done, total).

    ``stop`` lets a signal handler or another thread end the job early. With ``checkpoint_folder`` the job goes on from
    the last checkpoint there, and leaves one after each epoch.
    """

    hyperparameters: Mapping[str, Any]
    channels: Mapping[str, Path]
    model_folder: Path
    output_folder: Path | None = None
    checkpoint_folder: Path | None = None
    devices: Sequence[Any] = ()
    check_progress: Progress | None = None
    evaluation_progress: Progress | None = None
    stop: Stop = dataclasses.field(default_factory=Stop)


@dataclasses.dataclass(frozen=True)
class JobOutcome:
    """What a job made: the card as written, the epochs, and the whole-image confusion of the best one.

    ``confusion`` is None for a job that was stopped or could not be scored, and for one that was finished earlier.
    """

    card: ModelCard
    results: Sequence[EpochResult]
    confusion: Confusion | None


def run_job(settings: JobSettings, build_listeners: BuildListeners) -> JobOutcome:
    """Train, evaluate the best epoch on whole images, and write the artifacts.

    ``build_listeners`` gets the hyperparameters and the writer of the models, which has to be among the
    listeners it returns. A job that is stopped during training returns as usual, with the epochs that it had time
    for and no whole-image scores.

    Raises:
        UserError: and its kin, for everything the caller can fix.
        Stopped: before training had begun; everything is as it was.
    """
    folder = settings.checkpoint_folder
    if folder and folder.resolve() == settings.model_folder.resolve():
        raise UserError(f"{folder} is the folder of the model; name another one for the checkpoints")
    with open_checkpoints(folder) as checkpoints:
        try:
            return _run(settings, build_listeners, checkpoints)
        except Stopped:
            has_model = (settings.model_folder / BEST_FILE).is_file()
            kept = f"the model in {settings.model_folder} is as it was" if has_model else "there is no model"
            if checkpoints and checkpoints.find_files():
                kept += f"; the next run goes on from the checkpoints in {folder}"
            _log.info("Stopped by %s before training had begun: %s", settings.stop.name, kept)
            raise


def _hold_model(folder: Path) -> AbstractContextManager[int]:
    return hold_folder(folder, "writes its model to")


def _run(settings: JobSettings, build_listeners: BuildListeners, checkpoints: CheckpointFolder | None) -> JobOutcome:
    def follow_check(done: int, total: int) -> None:
        if settings.check_progress:
            settings.check_progress(done, total)
        settings.stop.check()

    settings.stop.check()  # for a stop that came while MXNet was loaded
    plan = plan_job(settings.hyperparameters, settings.channels, settings.devices, follow_check)
    hp = plan.hyperparameters
    curves = _build_curves(plan, settings.output_folder)
    training = open_dataset(settings.channels, "train", plan)
    validation = open_dataset(settings.channels, "validation", plan)
    network = build_start_network(hp, plan.devices, weights=plan.weights, artifact=plan.artifact)
    writer = ModelWriter(network, settings.model_folder, hp.precision_dtype)
    card, symbol = _build_card(plan), describe_symbol(network)
    folder = ResultFolder(settings.model_folder, settings.output_folder, card, symbol, writer, settings.stop)
    listener = Listeners([*build_listeners(hp, writer), *curves, folder])
    loop = build_loop(plan, network, build_loaders(hp, training, validation), listener, settings.stop)
    checkpoint = None
    if checkpoints:
        identity = build_identity(plan, writer.last)
        checkpoint = Checkpoint(checkpoints, identity, network, loop.stepper.trainer, writer)
        loop.resume(checkpoint)
        if loop.is_finished and folder.holds_scored(checkpoint.best):
            if not (settings.model_folder / ONNX_FILE).is_file():  # the disk was full then, perhaps
                with _hold_model(settings.model_folder):
                    _export(settings)
            _log.info("This training is finished, and its model is in %s: nothing is left to do", settings.model_folder)
            return JobOutcome(folder.card, tuple(loop.results), None)
    settings.stop.check()
    settings.model_folder.mkdir(parents=True, exist_ok=True)
    with _hold_model(settings.model_folder):
        # Only now: up to here a job can still be refused, and then nothing is lost.
        folder.begin(checkpoint.best if checkpoint else {})
        earlier_s = checkpoint.seconds if checkpoint else 0.0
        report = JobReport(settings.model_folder, settings.output_folder, settings.channels, earlier_s)
        with suppress(Stopped):
            loop.run()
        try:
            folder.complete()
        finally:
            # Even when there is no room for the model: the checkpoint may be on another disk.
            loop.save()
        _export(settings)
        confusion = _score(settings, plan, folder, validation, report)
        report.write(folder.card, loop.results, confusion)
    return JobOutcome(folder.card, tuple(loop.results), confusion)


def _build_card(plan: Plan) -> ModelCard:
    hp, check = plan.hyperparameters, plan.check
    return build_card(
        hp.algorithm,
        hp.backbone,
        hp.num_classes,
        class_names=plan.class_names,
        **find_network(hp.algorithm).describe(aux=hp._aux_loss, output_stride=hp.output_stride),
        base_size=hp.base_size,
        crop_size=hp.crop_size,
        prediction_size=hp.prediction_size,
        prediction_scales=hp.prediction_scales,
        prediction_flip=hp.prediction_flip,
        versions=describe_versions(),
        hyperparameters=hp.to_strings(),
        data={
            "fingerprint": check.fingerprints["train"],
            "num_training_samples": check.num_train,
            "num_validation_samples": check.num_validation,
            "pixels": {split: [int(count) for count in counts] for split, counts in check.histogram.items()},
        },
    )


def _build_curves(plan: Plan, output_folder: Path | None) -> list[Listener]:
    """The listener that draws for TensorBoard, when it is asked for."""
    if not plan.hyperparameters.tensorboard or output_folder is None:
        return []
    return [TensorBoard(output_folder / EVENTS_FOLDER, plan.class_names)]


def _get_gpu(plan: Plan) -> Any:
    """The GPU to score on, or None: on a CPU the best epoch is scored by the engine that will serve it."""
    return plan.devices[0] if plan.devices[0].device_type == "gpu" else None


def _export(settings: JobSettings) -> None:
    """Write the ONNX file, unless the job was stopped; what is trained is kept, whatever happens here."""
    if settings.stop.is_requested:
        return
    try:
        file = build_checked_file(read_folder(settings.model_folder))
        write_onnx(file, settings.model_folder / ONNX_FILE)
    except UserError as error:
        _log.error("The model is complete, but without %s: %s; try gluonseg export", ONNX_FILE, error)
    except Exception:
        _log.exception("The model is complete, but %s could not be written; try gluonseg export", ONNX_FILE)


def _score(
    settings: JobSettings, plan: Plan, folder: ResultFolder, validation: Dataset, report: JobReport
) -> Confusion | None:
    """Score the best epoch as users will run it; what is trained is kept, whatever happens here."""
    if settings.stop.is_requested:
        folder.tell_unscored()
        return None

    _log.info("Evaluating the best epoch on %d whole validation images", len(validation))
    try:
        # Without its file the network was refused as ONNX.
        has_file = (settings.model_folder / ONNX_FILE).is_file()
        device = _get_gpu(plan) or (None if has_file else plan.devices[0])
        predictor = load_predictor(settings.model_folder, device, search_gpu=False)
        report.watch(predictor)
        confusion = Confusion.empty(folder.card.num_classes)
        for done, prediction in enumerate(iter_predictions(predictor, validation, folder.card.num_classes), 1):
            settings.stop.check()
            confusion += prediction.confusion
            report.keep(prediction)
            if settings.evaluation_progress:
                settings.evaluation_progress(done, len(validation))
        folder.add_scores(confusion)
    except Stopped:
        folder.tell_unscored()
        return None
    except UserError as error:
        _log.error("The model is complete, but not scored on whole images: %s; try gluonseg evaluate", error)
        return None
    except Exception:
        _log.exception("The model is complete, but could not be scored on whole images; try gluonseg evaluate")
        return None
    return confusion
