"""From a settled plan to data sets, network and loop."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import mxnet as mx
import numpy as np

from gluonseg.cores import count_usable_cores
from gluonseg.data.dataset import DEFAULT_CACHE_BYTES, Dataset
from gluonseg.data.loader import DrawTransform, Loader
from gluonseg.data.pairs import match_pairs
from gluonseg.data.transforms import TrainingPolicy, Transform, build_validation_transform
from gluonseg.hyperparameters import Hyperparameters
from gluonseg.losses import MixedLoss, build_weight_table, compute_balanced_weights
from gluonseg.memory import find_memory_limit
from gluonseg.models.registry import find_network
from gluonseg.train.early_stop import EarlyStopping
from gluonseg.train.freeze import Freeze
from gluonseg.train.listener import Listener
from gluonseg.train.loop import Loop
from gluonseg.train.optimizer import build_optimizer_arguments, build_schedule
from gluonseg.train.plan import Plan
from gluonseg.train.step import Stepper
from gluonseg.train.stop import Stop

_log = logging.getLogger(__name__)


def open_dataset(channels: Mapping[str, Path], split: str, plan: Plan) -> Dataset:
    """The pairs of ``train`` or ``validation``."""
    pairs = match_pairs(channels[split], channels[f"{split}_annotation"]).pairs
    label_map = plan.maps.train if split == "train" else plan.maps.validation
    # Training and validation photos together a quarter of the memory at most: the rest is for the network.
    cache_bytes = min(DEFAULT_CACHE_BYTES, (find_memory_limit() or 0) // 8 or DEFAULT_CACHE_BYTES)
    return Dataset(pairs, label_map, max_pixels=plan.hyperparameters.max_pixels, cache_bytes=cache_bytes)


def _build_training_draw(hp: Hyperparameters) -> DrawTransform:
    if hp._augmentation_type == "none":
        return _build_validation_draw(hp.crop_size)
    return TrainingPolicy(hp.base_size, hp.crop_size, hp.scale_min, hp.scale_max, hp.colour_jitter).draw


def _build_validation_draw(crop_size: int) -> DrawTransform:
    def draw(_rng: np.random.Generator, height: int, width: int) -> Transform:
        return build_validation_transform(height, width, crop_size)

    return draw


def build_loaders(hp: Hyperparameters, training: Dataset, validation: Dataset) -> tuple[Loader, Loader]:
    """Training batches, shuffled and augmented; validation batches, centre crops in order."""
    workers = min(hp._workers, count_usable_cores())
    # The workers are the threads; OpenCV would start its own in each of them.
    cv2.setNumThreads(1)
    train_loader = Loader(
        training,
        _build_training_draw(hp),
        batch_size=hp.mini_batch_size,
        shuffle=True,
        seed=hp.seed,
        workers=workers,
    )
    validation_loader = Loader(
        validation,
        _build_validation_draw(hp.crop_size),
        batch_size=hp.validation_mini_batch_size,
        shuffle=False,
        workers=workers,
    )
    return train_loader, validation_loader


def _settle_class_weights(plan: Plan) -> tuple[float, ...]:
    weights = plan.hyperparameters.class_weights
    if isinstance(weights, str):
        weights = compute_balanced_weights(np.asarray(plan.check.histogram["train"], dtype=np.int64))
        shown = ", ".join(f"{name} {weight:.3f}" for name, weight in zip(plan.class_names, weights, strict=True))
        _log.info("class_weights balanced: %s", shown)
    return weights


def _build_stepper(plan: Plan, network: Any) -> Stepper:
    hp = plan.hyperparameters
    name, arguments = build_optimizer_arguments(hp)
    kvstore = hp._kvstore if len(plan.devices) > 1 else None
    trainer = mx.gluon.Trainer(network.collect_params(), name, arguments, kvstore=kvstore)
    loss = MixedLoss(hp.num_classes, hp._aux_weight)
    if len(plan.devices) == 1:  # several threads would compile it at the same time
        loss.hybridize(static_alloc=True)
    table = build_weight_table(hp.num_classes, _settle_class_weights(plan))
    options = {"syncbn": hp.syncbn, "align_corners": find_network(hp.algorithm).align_corners}
    return Stepper(network, loss, trainer, plan.devices, table, hp.precision_dtype, **options)


def _build_freeze(hp: Hyperparameters, network: Any) -> Freeze | None:
    if not hp.freeze_backbone_epochs:
        return None
    return Freeze(network, hp.freeze_backbone_epochs, find_network(hp.algorithm).heads)


def build_loop(plan: Plan, network: Any, loaders: tuple[Loader, Loader], listener: Listener, stop: Stop) -> Loop:
    """The training loop of a job."""
    hp = plan.hyperparameters
    training, validation = loaders
    patience = (hp.early_stopping_min_epochs, hp.early_stopping_patience, hp.early_stopping_tolerance)
    return Loop(
        network=network,
        stepper=_build_stepper(plan, network),
        schedule=build_schedule(hp, len(training.dataset), training.batch_size),
        training=training,
        validation=validation,
        num_classes=hp.num_classes,
        epochs=hp.epochs,
        listener=listener,
        device=plan.devices[0],
        seed=hp.seed,
        early_stopping=EarlyStopping(*patience) if hp.early_stopping else None,
        freeze=_build_freeze(hp, network),
        stop=stop,
    )
