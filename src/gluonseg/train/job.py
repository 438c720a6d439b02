"""One training job, from hyperparameters and channels to the artifacts: everything is put together here."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import mxnet as mx
import numpy as np

from gluonseg.data.channel import SPLITS
from gluonseg.data.check.doctor import CheckReport
from gluonseg.data.dataset import DEFAULT_CACHE_BYTES, Dataset
from gluonseg.data.loader import DrawTransform, Loader
from gluonseg.data.transforms import TrainingPolicy, Transform, build_validation_transform
from gluonseg.errors import HyperparameterError, UserError
from gluonseg.export.float32 import build_checked_file, write_onnx
from gluonseg.hyperparameters import Hyperparameters, parse_hyperparameters
from gluonseg.machine.device import check_precision, check_syncbn, settle_devices
from gluonseg.machine.limits import count_usable_cores, find_memory_limit
from gluonseg.metrics import Confusion
from gluonseg.models.folder.artifact import BEST_FILE, ModelArtifact, read_artifact, read_folder
from gluonseg.models.folder.card import ModelCard, build_card
from gluonseg.models.folder.manifest import ONNX_FILE
from gluonseg.models.pretrained import find_backbone_weights
from gluonseg.models.registry import find_network
from gluonseg.onnx.symbol import describe_symbol
from gluonseg.predict.evaluation import iter_predictions
from gluonseg.predict.predictor import load_predictor
from gluonseg.train.checkpoint import Checkpoint, build_identity
from gluonseg.train.checkpoint_file import CheckpointFolder, open_checkpoints
from gluonseg.train.data import check_job_data, read_maps
from gluonseg.train.early_stop import EarlyStopping
from gluonseg.train.folder_lock import hold_folder
from gluonseg.train.freeze import Freeze
from gluonseg.train.job_report import JobReport
from gluonseg.train.listener import EpochResult, Listener, Listeners
from gluonseg.train.loop import Loop
from gluonseg.train.losses import MixedLoss, build_weight_table, compute_balanced_weights
from gluonseg.train.memory import check_memory
from gluonseg.train.result import ResultFolder
from gluonseg.train.schedule import build_schedule
from gluonseg.train.start import build_start_network
from gluonseg.train.step import Stepper
from gluonseg.train.stop import Stop, Stopped
from gluonseg.train.tensorboard import EVENTS_FOLDER, TensorBoard
from gluonseg.train.writer import ModelWriter, describe_versions

_log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]
BuildListeners = Callable[[Hyperparameters, ModelWriter], Sequence[Listener]]
_USE = "writes its model to"


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
    ``earlier_seconds`` and ``earlier_peak_mb`` are what the training took up to the checkpoint that it went on from.
    """

    card: ModelCard
    results: Sequence[EpochResult]
    confusion: Confusion | None
    earlier_seconds: float = 0.0
    earlier_peak_mb: float = 0.0


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


def _run(settings: JobSettings, build_listeners: BuildListeners, checkpoints: CheckpointFolder | None) -> JobOutcome:
    def follow_check(done: int, total: int) -> None:
        if settings.check_progress:
            settings.check_progress(done, total)
        settings.stop.check()

    settings.stop.check()  # for a stop that came while MXNet was loaded
    # Cheap checks come first: a wrong hyperparameter or missing weights are known before the data is read.
    hp, devices, start = _settle_start(settings)
    hp, check = settle_data(hp, settings.channels, follow_check)
    _check_batch(hp, check, devices)
    curves = []
    if hp.tensorboard and settings.output_folder:
        curves = [TensorBoard(settings.output_folder / EVENTS_FOLDER, check.class_names)]
    network = build_start_network(hp, devices, start)
    writer = ModelWriter(network, settings.model_folder, hp.precision_dtype)
    card, symbol = _build_card(hp, check), describe_symbol(network)
    folder = ResultFolder(settings.model_folder, settings.output_folder, card, symbol, writer, settings.stop)
    listener = Listeners([*build_listeners(hp, writer), *curves, folder])
    loop = _build_loop(hp, check, devices, network, listener, settings.stop)
    best: Mapping[str, Any] = {}
    earlier = 0.0, 0.0
    if checkpoints:
        identity = build_identity(hp, check, devices, writer.last)
        loop.resume(checkpoint := Checkpoint(checkpoints, identity, network, loop.stepper.trainer, writer))
        best, earlier = checkpoint.best, (checkpoint.seconds, checkpoint.peak_mb)
    if loop.is_finished and folder.holds_scored(best):
        _complete_finished(settings)
        return JobOutcome(folder.card, tuple(loop.results), None, *earlier)
    settings.stop.check()
    settings.model_folder.mkdir(parents=True, exist_ok=True)
    with hold_folder(settings.model_folder, _USE):
        # Only now: up to here a job can still be refused, and then nothing is lost.
        folder.begin(best)
        report = JobReport(settings.model_folder, settings.output_folder, settings.channels, earlier[0])
        _train(loop, folder)
        _export(settings)
        confusion = _score(settings, loop, folder, report)
        report.write(folder.card, loop.results, confusion)
    return JobOutcome(folder.card, tuple(loop.results), confusion, *earlier)


# What is settled before anything is computed.


def _settle_start(settings: JobSettings) -> tuple[Hyperparameters, list[Any], ModelArtifact | Path | None]:
    """Hyperparameters, devices, and what the parameters start from; see :func:`build_start_network`."""
    hp, channels = parse_hyperparameters(settings.hyperparameters), settings.channels
    devices = settle_devices(settings.devices)
    check_precision(hp.precision_dtype, devices)
    check_syncbn(hp.syncbn, devices)
    if "model" not in channels:
        pretrained = channels.get("pretrained")
        return hp, devices, find_backbone_weights(hp.backbone, channel=pretrained) if hp.use_pretrained_model else None
    artifact = read_artifact(channels["model"])
    inherited = artifact.card.output_stride if artifact.card.algorithm == hp.algorithm else None
    if hp.output_stride is None and inherited not in (None, find_network(hp.algorithm).output_strides[0]):
        hp = dataclasses.replace(hp, output_stride=inherited)
    return hp, devices, artifact


def settle_data(
    hp: Hyperparameters, channels: Mapping[str, Path], progress: Progress | None = None
) -> tuple[Hyperparameters, CheckReport]:
    """Read and check all photos and masks; the hyperparameters then have the true ``num_training_samples``.

    Raises:
        DataError: naming every file that is wrong, and the fix.
    """
    maps = read_maps(hp, channels)
    if maps.missing:
        _log.warning("label maps not provided, using defaults. (%s)", ", ".join(maps.missing))
    _log.info("#label_map train :%s", dict(maps.train.description))
    _log.info("#label_map validation :%s", dict(maps.validation.description))
    check = check_job_data(hp, channels, maps, progress)
    for path in check.skipped:
        _log.warning("%s is not a readable image file", path)
    for warning in check.warnings:
        _log.warning("%s", warning)
    check.raise_for_errors()
    if hp.num_training_samples not in (None, check.num_train):
        # The built-in believes the number, and a wrong one bends its learning-rate schedule.
        text = "num_training_samples is %d, the train channel has %d: using %d"
        _log.warning(text, hp.num_training_samples, check.num_train, check.num_train)
    hp = dataclasses.replace(hp, num_training_samples=check.num_train)
    _log.info("Final configuration: %s", hp.to_strings())
    return hp, check


def _check_batch(hp: Hyperparameters, check: CheckReport, devices: Sequence[Any]) -> None:
    if hp.mini_batch_size < len(devices):
        raise HyperparameterError(
            f"mini_batch_size {hp.mini_batch_size} is less than one crop for each of {len(devices)} devices; raise it"
        )
    photos = check.num_train
    if hp.mini_batch_size > photos:
        text = "mini_batch_size is %d, the train channel has %d photos: batches will have %d"
        _log.warning(text, hp.mini_batch_size, photos, photos)
    validation_size = min(hp.validation_mini_batch_size, check.num_validation)
    check_memory(hp, min(hp.mini_batch_size, photos), validation_size, devices)


# Of what the training is made.


def _build_card(hp: Hyperparameters, check: CheckReport) -> ModelCard:
    return build_card(
        hp.algorithm,
        hp.backbone,
        hp.num_classes,
        class_names=check.class_names,
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


def _build_loop(
    hp: Hyperparameters, check: CheckReport, devices: Sequence[Any], network: Any, listener: Listener, stop: Stop
) -> Loop:
    training, validation = build_loaders(hp, check)
    heads, patience = find_network(hp.algorithm).heads, hp.early_stopping_patience
    early_stopping = EarlyStopping(hp.early_stopping_min_epochs, patience, hp.early_stopping_tolerance)
    return Loop(
        network=network,
        stepper=_build_stepper(hp, check, devices, network),
        schedule=build_schedule(hp, len(training.dataset), training.batch_size),
        training=training,
        validation=validation,
        num_classes=hp.num_classes,
        epochs=hp.epochs,
        listener=listener,
        device=devices[0],
        seed=hp.seed,
        early_stopping=early_stopping if hp.early_stopping else None,
        freeze=Freeze(network, hp.freeze_backbone_epochs, heads) if hp.freeze_backbone_epochs else None,
        stop=stop,
    )


def build_loaders(hp: Hyperparameters, check: CheckReport) -> tuple[Loader, Loader]:
    """Training batches, shuffled and augmented; validation batches, centre crops in order."""

    def crop_centre(_rng: np.random.Generator, height: int, width: int) -> Transform:
        return build_validation_transform(height, width, hp.crop_size)

    # The workers are the threads; OpenCV would start its own in each of them.
    cv2.setNumThreads(1)
    workers = min(hp._workers, count_usable_cores())
    # Training and validation photos together a quarter of the memory at most: the rest is for the network.
    cache_bytes = min(DEFAULT_CACHE_BYTES, (find_memory_limit() or 0) // 8 or DEFAULT_CACHE_BYTES)
    training, validation = (
        Dataset(check.pairs[split], label_map, max_pixels=hp.max_pixels, cache_bytes=cache_bytes)
        for split, label_map in zip(SPLITS, (check.label_maps.train, check.label_maps.validation), strict=True)
    )
    policy = TrainingPolicy(hp.base_size, hp.crop_size, hp.scale_min, hp.scale_max, hp.colour_jitter)
    draw: DrawTransform = crop_centre if hp._augmentation_type == "none" else policy.draw
    return (
        Loader(training, draw, batch_size=hp.mini_batch_size, shuffle=True, seed=hp.seed, workers=workers),
        Loader(validation, crop_centre, batch_size=hp.validation_mini_batch_size, shuffle=False, workers=workers),
    )


def _build_stepper(hp: Hyperparameters, check: CheckReport, devices: Sequence[Any], network: Any) -> Stepper:
    loss = MixedLoss(hp.num_classes, hp._aux_weight)
    if len(devices) == 1:  # several threads would compile it at the same time
        loss.hybridize(static_alloc=True)
    table = build_weight_table(hp.num_classes, _settle_class_weights(hp, check))
    options = {"syncbn": hp.syncbn, "align_corners": find_network(hp.algorithm).align_corners}
    trainer = build_trainer(hp, network, len(devices))
    return Stepper(network, loss, trainer, devices, table, hp.precision_dtype, **options)


def _settle_class_weights(hp: Hyperparameters, check: CheckReport) -> tuple[float, ...]:
    if not isinstance(hp.class_weights, str):
        return hp.class_weights
    weights = compute_balanced_weights(np.asarray(check.histogram["train"], dtype=np.int64))
    shown = ", ".join(f"{name} {weight:.3f}" for name, weight in zip(check.class_names, weights, strict=True))
    _log.info("class_weights balanced: %s", shown)
    return weights


def build_trainer(hp: Hyperparameters, network: Any, num_devices: int = 1) -> Any:
    """MXNet's trainer of ``network`` with the optimizer of the hyperparameters.

    As the built-in documents it, momentum belongs to sgd (and nag), gamma1 and gamma2 to rmsprop.
    """
    arguments: dict[str, Any] = {"learning_rate": hp.learning_rate, "wd": hp.weight_decay}
    if hp.optimizer in ("sgd", "nag"):
        arguments["momentum"] = hp.momentum
    if hp.optimizer == "rmsprop":
        # centered is the variant that has two decay rates (Graves, arXiv:1308.0850).
        arguments |= {"gamma1": hp.gamma1, "gamma2": hp.gamma2, "centered": True}
    if hp.precision_dtype == "float16":
        arguments["multi_precision"] = True
    kvstore = hp._kvstore if num_devices > 1 else None
    return mx.gluon.Trainer(network.collect_params(), hp.optimizer, arguments, kvstore=kvstore)


# Training, and what comes after it.


def _complete_finished(settings: JobSettings) -> None:
    """Do what is left of a job whose training is finished, and whose model is there."""
    if not (settings.model_folder / ONNX_FILE).is_file():  # the disk was full then, perhaps
        with hold_folder(settings.model_folder, _USE):
            _export(settings)
    _log.info("This training is finished, and its model is in %s: nothing is left to do", settings.model_folder)


def _train(loop: Loop, folder: ResultFolder) -> None:
    with suppress(Stopped):
        loop.run()
    try:
        folder.complete()
    finally:
        # Even when there is no room for the model: the checkpoint may be on another disk.
        loop.save()


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


def _score(settings: JobSettings, loop: Loop, folder: ResultFolder, report: JobReport) -> Confusion | None:
    """Score the best epoch as users will run it; what is trained is kept, whatever happens here."""
    if settings.stop.is_requested:
        folder.tell_unscored()
        return None
    dataset, num_classes = loop.validation.dataset, loop.num_classes
    _log.info("Evaluating the best epoch on %d whole validation images", len(dataset))
    try:
        # On a CPU by the engine that will serve it; without its file the network was refused as ONNX.
        is_in_mxnet = loop.device.device_type == "gpu" or not (settings.model_folder / ONNX_FILE).is_file()
        predictor = load_predictor(settings.model_folder, loop.device if is_in_mxnet else None, search_gpu=False)
        report.watch(predictor)
        confusion = Confusion.empty(num_classes)
        for done, prediction in enumerate(iter_predictions(predictor, dataset, num_classes), 1):
            settings.stop.check()
            confusion += prediction.confusion
            report.keep(prediction)
            if settings.evaluation_progress:
                settings.evaluation_progress(done, len(dataset))
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
