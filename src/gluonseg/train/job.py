"""One training job, from hyperparameters and channels to the artifacts: everything is put together here."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np

from gluonseg.data.check.doctor import CheckReport
from gluonseg.data.loader import Share
from gluonseg.data.palettes import choose_palette
from gluonseg.errors import DataError, HyperparameterError, UserError
from gluonseg.export.float32 import build_checked_file, write_onnx
from gluonseg.hyperparameters import Hyperparameters, parse_hyperparameters, split_loss, validates_whole_photos
from gluonseg.machine.device import check_precision, check_syncbn, settle_devices
from gluonseg.metrics import Confusion
from gluonseg.models.folder.artifact import ModelArtifact, read_artifact, read_folder
from gluonseg.models.folder.card import ModelCard, build_card
from gluonseg.models.folder.manifest import BEST_FILE, ONNX_FILE
from gluonseg.models.pretrained import find_backbone_weights
from gluonseg.models.registry import find_network
from gluonseg.onnx.symbol import describe_symbol
from gluonseg.predict.evaluation import iter_predictions
from gluonseg.predict.predictor import Predictor, load_predictor
from gluonseg.text import join_names
from gluonseg.train.checkpoint import Checkpoint, build_identity
from gluonseg.train.checkpoint_file import CheckpointFolder, open_checkpoints
from gluonseg.train.data import Progress, build_loaders, settle_data
from gluonseg.train.exchange import Exchange
from gluonseg.train.folder_lock import hold_folder
from gluonseg.train.group import Group
from gluonseg.train.job_report import JobReport
from gluonseg.train.listener import EpochResult, Listener
from gluonseg.train.loop import Loop
from gluonseg.train.loss_law import LossLaw
from gluonseg.train.losses import MixedLoss, build_weight_table, compute_balanced_weights
from gluonseg.train.memory import check_memory
from gluonseg.train.result import ResultFolder
from gluonseg.train.start import build_start_network
from gluonseg.train.step import Stepper
from gluonseg.train.stop import Stop, Stopped
from gluonseg.train.tensorboard import EVENTS_FOLDER, TensorBoard
from gluonseg.train.validation import (
    CropValidation,
    PhotoValidation,
    Validation,
    bound_compiled,
    find_part,
    iter_rounds,
)
from gluonseg.train.writer import ModelWriter, describe_versions, keeping_model

_log = logging.getLogger(__name__)
BuildListeners = Callable[[Hyperparameters, ModelWriter], Sequence[Listener]]


@dataclasses.dataclass(frozen=True)
class JobSettings:
    """What a job is given: raw hyperparameters, folders of channels and of results.

    With ``checkpoint_folder`` the job goes on from the last checkpoint there, and leaves one after each epoch.
    ``check_progress`` and ``evaluation_progress`` are called with the numbers of photos that are done and of all.
    ``stop`` lets a signal handler or another thread end the job early. ``fetch_channels`` gives channels besides
    ``channels``; it may take long, so it is called after all checks that need no data.

    ``group`` are the hosts that train together. Each does all of the job; those after the first have a model folder
    that is removed later, and neither ``output_folder`` nor ``checkpoint_folder``.
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
    fetch_channels: Callable[[], Mapping[str, Path]] = dict
    group: Group = dataclasses.field(default_factory=Group)


@dataclasses.dataclass(frozen=True)
class JobOutcome:
    """What a job made: the card as written, the epochs, and the whole-image confusion of the best one.

    ``confusion`` is None for a job that was stopped or could not be scored, and for one that was finished earlier.
    ``earlier_seconds`` and ``earlier_peak_mb`` (memory) are of the training before the checkpoint that it went on from.
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
        UserError: or a subclass, for everything the caller can fix.
        Stopped: the stop came before training had begun; all files are as they were.
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

    stop, group = settings.stop, settings.group
    stop.check()  # for a stop that came while MXNet was loaded
    # Cheap checks come first: a wrong hyperparameter or missing weights are known before the data is read.
    hp, devices, start = _settle_start(settings)
    group.check_same(hp.to_strings())
    is_whole = validates_whole_photos(hp.to_strings())
    if is_whole:
        bound_compiled()
    settings = dataclasses.replace(settings, channels={**settings.channels, **settings.fetch_channels()})
    hp, check = settle_data(hp, settings.channels, group, follow_check)
    _check_batch(hp, check, devices, group)
    curves = []
    if hp.tensorboard and settings.output_folder:
        curves = [TensorBoard(settings.output_folder / EVENTS_FOLDER, check.class_names)]
    network = build_start_network(hp, devices, start)
    writer = ModelWriter(network, settings.model_folder, hp.precision_dtype)
    card, symbol = _build_card(hp, check), describe_symbol(network)
    result = ResultFolder(settings.model_folder, settings.output_folder, card, symbol, writer, stop)
    listeners = [*build_listeners(hp, writer), *curves, result]
    exchange = Exchange(network, group, stop) if group.size > 1 else None
    training, loader = build_loaders(hp, check, group)
    stepper = _build_stepper(hp, check, devices, network, exchange)
    validation: Validation = CropValidation(stepper, loader, hp.num_classes, group, stop)
    if is_whole:
        validation = PhotoValidation(network, hp.precision_dtype, card, devices[0], loader, group, stop)
    loop = Loop(hp, network, stepper, training, validation, listeners, devices[0], stop, group)
    best: Mapping[str, Any] = {}
    earlier = 0.0, 0.0
    keeps_checkpoints = group.all_gather(checkpoints is not None)[0]
    if keeps_checkpoints or group.size > 1:
        identity = build_identity(hp, check, devices, writer.last, group.size)
        group.check_same(identity)
    if keeps_checkpoints:
        loop.resume(checkpoint := Checkpoint(checkpoints, identity, network, stepper.trainer, writer, group))
        best, earlier = checkpoint.best, (checkpoint.seconds, checkpoint.peak_mb)
    if group.all_gather(loop.is_finished and result.holds_scored(best))[0]:
        _log.info("This training is finished, and its model is in %s: nothing is left to do", settings.model_folder)
        return JobOutcome(result.card, tuple(loop.results), None, *earlier)
    stop.is_shared = group.size > 1
    group.agree_stop(stop)
    settings.model_folder.mkdir(parents=True, exist_ok=True)
    with hold_folder(settings.model_folder, "writes its model to"):
        # Only now: up to here a job can still be refused, and then nothing is lost.
        result.begin(best)
        report = JobReport(settings.model_folder, settings.output_folder, settings.channels, group, earlier[0])
        with suppress(Stopped):
            loop.run()
        try:
            result.complete()
        finally:
            # Even when there is no room for the model: the checkpoint may be on another disk.
            loop.save()
        if not stop.is_requested:
            _export(settings.model_folder)
        confusion = _score(settings, loop, result, report)
        report.write(result.card, loop.results, confusion)
    return JobOutcome(result.card, tuple(loop.results), confusion, *earlier)


# What is settled before anything is computed.


def _settle_start(settings: JobSettings) -> tuple[Hyperparameters, list[Any], ModelArtifact | Path | None]:
    """Hyperparameters, devices, and what the parameters start from; see :func:`build_start_network`."""
    hp, channels = parse_hyperparameters(settings.hyperparameters), settings.channels
    devices = settle_devices(settings.devices)
    check_precision(hp.precision_dtype, devices)
    check_syncbn(hp.syncbn, devices)
    if hp.syncbn and settings.group.size > 1:
        raise HyperparameterError(
            "syncbn works between the devices of one host only; leave it out, or train on one host"
        )
    if "model" not in channels:
        pretrained = channels.get("pretrained")
        return hp, devices, find_backbone_weights(hp.backbone, channel=pretrained) if hp.use_pretrained_model else None
    artifact = read_artifact(channels["model"])
    return _inherit(hp, artifact.card), devices, artifact


def _inherit(hp: Hyperparameters, card: ModelCard) -> Hyperparameters:
    """Take from the model of the channel what the hyperparameters leave open: its stride, the values of its photos."""
    stride = card.output_stride if card.algorithm == hp.algorithm else None
    if hp.output_stride is None and stride not in (None, find_network(hp.algorithm).output_strides[0]):
        hp = dataclasses.replace(hp, output_stride=stride)
    return hp if hp.photo_range else dataclasses.replace(hp, photo_range=card.photo_range)


def _check_batch(hp: Hyperparameters, check: CheckReport, devices: Sequence[Any], group: Group) -> None:
    count, photos = len(devices) * group.size, check.num_train
    where = f"{count} devices on {group.size} hosts" if group.size > 1 else f"{count} devices"
    if hp.mini_batch_size < count:
        raise HyperparameterError(
            f"mini_batch_size {hp.mini_batch_size} is less than one crop for each of {where}; raise it"
        )
    if group.size > 1 and photos < count:
        raise DataError(f"the train channel has {photos} photos, which is less than one for each of {where}")
    if hp.mini_batch_size > photos:
        text = "mini_batch_size is %d, the train channel has %d photos: batches will have %d"
        _log.warning(text, hp.mini_batch_size, photos, photos)
    own = len(Share(group.rank, group.size).cut(min(hp.mini_batch_size, photos)))
    if group.size > 1:
        _log.info(
            "Training on %d hosts, %s: of each batch this one has %d crops", group.size, join_names(group.names), own
        )
    check_memory(hp, own, devices)


# Of what the training is made.


def _build_card(hp: Hyperparameters, check: CheckReport) -> ModelCard:
    return build_card(
        hp.algorithm,
        hp.backbone,
        hp.num_classes,
        class_names=check.class_names,
        colours=choose_palette(hp.palette, hp.num_classes) if hp.palette else None,
        **find_network(hp.algorithm).describe(aux=hp._aux_loss, output_stride=hp.output_stride),
        base_size=hp.base_size,
        crop_size=hp.crop_size,
        photo_range=hp.photo_range,
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


def _build_stepper(
    hp: Hyperparameters, check: CheckReport, devices: Sequence[Any], network: Any, exchange: Exchange | None
) -> Stepper:
    law = LossLaw(split_loss(hp.loss), hp.focal_gamma, hp.ohem_threshold, hp.ohem_fraction)
    loss = MixedLoss(hp.num_classes, hp._aux_weight, law)
    if len(devices) == 1:  # several threads would compile it at the same time
        loss.hybridize(static_alloc=True)
    weights = hp.class_weights
    if isinstance(weights, str):  # balanced
        weights = compute_balanced_weights(np.asarray(check.histogram["train"], dtype=np.int64))
        shown = ", ".join(f"{name} {weight:.3f}" for name, weight in zip(check.class_names, weights, strict=True))
        _log.info("class_weights balanced: %s", shown)
    table = build_weight_table(hp.num_classes, weights)
    trainer = build_trainer(hp, network, len(devices), updates_on_devices=exchange is not None)
    return Stepper(
        network,
        loss,
        trainer,
        devices,
        table,
        hp.precision_dtype,
        syncbn=hp.syncbn,
        align_corners=find_network(hp.algorithm).align_corners,
        exchange=exchange,
    )


def build_trainer(hp: Hyperparameters, network: Any, num_devices: int = 1, *, updates_on_devices: bool = False) -> Any:
    """MXNet's trainer of ``network`` with the optimizer of the hyperparameters.

    With ``updates_on_devices`` gradients can be changed between ``allreduce_grads`` and ``update``. As the built-in
    documents it, momentum belongs to sgd (and nag), gamma1 and gamma2 to rmsprop.
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
    on_store = False if updates_on_devices else None
    return mx.gluon.Trainer(
        network.collect_params(), hp.optimizer, arguments, kvstore=kvstore, update_on_kvstore=on_store
    )


# After the training.


def _export(folder: Path) -> None:
    """Write the ONNX file of the model."""
    with keeping_model(f"The model is complete, but without {ONNX_FILE}; try gluonseg export"):
        write_onnx(build_checked_file(read_folder(folder)), folder / ONNX_FILE)


def _score(settings: JobSettings, loop: Loop, result: ResultFolder, report: JobReport) -> Confusion | None:
    """Score the best epoch on whole photos, as users will run it; None when the job is stopped, or on an error."""
    try:
        settings.group.agree_stop(settings.stop)
        with keeping_model("The model is complete, but not scored on whole images; try gluonseg evaluate"):
            confusion = _predict_photos(settings, loop, result.card.num_classes, report)
            result.add_scores(confusion)
            return confusion
    except Stopped:
        result.log_unscored()
    return None


def _predict_photos(settings: JobSettings, loop: Loop, num_classes: int, report: JobReport) -> Confusion:
    """The confusion over all validation photos; each host predicts a part of them."""
    group, loader = settings.group, loop.validation.loader
    part = find_part(loader)

    def load() -> Predictor:
        # On a CPU by the engine that will serve it; without its file the network was refused as ONNX.
        is_in_mxnet = loop.device.device_type == "gpu" or not (settings.model_folder / ONNX_FILE).is_file()
        return load_predictor(settings.model_folder, loop.device if is_in_mxnet else None, search_gpu=False)

    _log.info("Evaluating the best epoch on %d whole validation images", loader.num_samples)
    report.watch(predictor := group.run_together(load))
    predictions = iter_predictions(predictor, loader.dataset, num_classes, part)
    own = Confusion.empty(num_classes)
    rounds = iter_rounds(lambda: next(predictions, None), len(part), group, settings.stop)
    for number, (_, prediction) in enumerate(rounds, start=1):
        if prediction:
            own += prediction.confusion
            report.keep(prediction)
            if settings.evaluation_progress:
                settings.evaluation_progress(number, len(part))
    report.merge()
    return group.sum_confusions(own)
