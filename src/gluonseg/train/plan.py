"""Everything that is read, checked and settled before a job computes anything."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gluonseg.data.check import CheckReport
from gluonseg.data.label_channel import LabelMaps
from gluonseg.device import check_precision, check_syncbn, settle_devices
from gluonseg.errors import HyperparameterError
from gluonseg.hyperparameters import Hyperparameters, parse_hyperparameters
from gluonseg.models.artifact import ModelArtifact, read_artifact
from gluonseg.models.pretrained import find_backbone_weights
from gluonseg.models.registry import find_network
from gluonseg.train.data import check_job_data, read_maps
from gluonseg.train.memory import check_memory

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settled job: hyperparameters as they will be used, devices, data as checked, starting values."""

    hyperparameters: Hyperparameters
    devices: Sequence[Any]
    maps: LabelMaps
    check: CheckReport
    class_names: tuple[str, ...]
    weights: Path | None
    artifact: ModelArtifact | None


def plan_job(
    raw: Mapping[str, Any],
    channels: Mapping[str, Path],
    devices: Sequence[Any] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Plan:
    """Settle a job from raw hyperparameters and channel folders.

    Cheap checks come first: a wrong hyperparameter or missing weights are known before the data is read.

    Raises:
        UserError: of the kind that fits, naming field or file and the fix.
    """
    hp = parse_hyperparameters(raw)
    found = settle_devices(devices)
    check_precision(hp.precision_dtype, found)
    check_syncbn(hp.syncbn, found)
    artifact = read_artifact(channels["model"]) if "model" in channels else None
    inherited = artifact.card.output_stride if artifact and artifact.card.algorithm == hp.algorithm else None
    if hp.output_stride is None and inherited not in (None, find_network(hp.algorithm).output_strides[0]):
        hp = dataclasses.replace(hp, output_stride=inherited)
    weights = None
    if artifact is None and hp.use_pretrained_model:
        weights = find_backbone_weights(hp.backbone, channel=channels.get("pretrained"))
    maps = read_maps(hp, channels)
    _log_label_maps(maps)
    check = check_job_data(hp, channels, maps, progress)
    for path in check.skipped:
        _log.warning("%s is not a readable image file", path)
    for warning in check.warnings:
        _log.warning("%s", warning)
    check.raise_for_errors()
    hp = _settle_sample_count(hp, check)
    _log.info("Final configuration: %s", hp.to_strings())
    _check_batch(hp, check.num_validation, found)
    return Plan(hp, found, maps, check, check.class_names, weights, artifact)


def _log_label_maps(maps: LabelMaps) -> None:
    if maps.missing:
        _log.warning("label maps not provided, using defaults. (%s)", ", ".join(maps.missing))
    _log.info("#label_map train :%s", dict(maps.train.description))
    _log.info("#label_map validation :%s", dict(maps.validation.description))


def _settle_sample_count(hp: Hyperparameters, check: CheckReport) -> Hyperparameters:
    """The built-in believes num_training_samples, and a wrong one bends its learning-rate schedule."""
    if hp.num_training_samples not in (None, check.num_train):
        _log.warning(
            "num_training_samples is %d, the train channel has %d: using %d",
            hp.num_training_samples,
            check.num_train,
            check.num_train,
        )
    return dataclasses.replace(hp, num_training_samples=check.num_train)


def _check_batch(hp: Hyperparameters, num_validation: int, devices: Sequence[Any]) -> None:
    if hp.mini_batch_size < len(devices):
        raise HyperparameterError(
            f"mini_batch_size {hp.mini_batch_size} is less than one crop for each of {len(devices)} devices; raise it"
        )
    if hp.num_training_samples is not None and hp.mini_batch_size > hp.num_training_samples:
        _log.warning(
            "mini_batch_size is %d, the train channel has %d photos: batches will have %d",
            hp.mini_batch_size,
            hp.num_training_samples,
            hp.num_training_samples,
        )
    batch_size = min(hp.mini_batch_size, hp.num_training_samples or hp.mini_batch_size)
    check_memory(hp, batch_size, min(hp.validation_mini_batch_size, num_validation), devices)
