"""The data of a job as its hyperparameters have it: checked, and in batches. Without MXNet."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from gluonseg.data.channel import SPLITS
from gluonseg.data.check.doctor import CheckReport, check_channels
from gluonseg.data.dataset import DEFAULT_CACHE_BYTES, Dataset
from gluonseg.data.label_channel import read_label_maps
from gluonseg.data.loader import DrawTransform, Loader, Share
from gluonseg.data.transforms import CropBalancer, TrainingPolicy, Transform, build_validation_transform
from gluonseg.hyperparameters import Hyperparameters
from gluonseg.machine.limits import count_usable_cores, find_memory_limit
from gluonseg.text import join_names
from gluonseg.train.group import Group

_log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]


def check_job_data(hp: Hyperparameters, channels: Mapping[str, Path], progress: Progress | None = None) -> CheckReport:
    """Read and check all photos and masks; what is wrong with them is in the report, and not raised.

    The hyperparameter ``class_names`` wins over the names in the label_map channel. ``progress`` is called with the
    number of photos and masks that are checked, and that of all.

    Raises:
        DataError: a file of the label_map channel is not what its name says.
    """
    maps = read_label_maps(channels.get("label_map"), hp.ignore_label)
    if hp.class_names:
        maps = maps._replace(class_names=list(hp.class_names))
    return check_channels(
        channels,
        num_classes=hp.num_classes,
        label_maps=maps,
        ignore_label=hp.ignore_label,
        crop_size=hp.crop_size,
        max_pixels=hp.max_pixels,
        photo_range=hp.photo_range,
        progress=progress,
    )


def settle_data(
    hp: Hyperparameters, channels: Mapping[str, Path], group: Group, progress: Progress | None = None
) -> tuple[Hyperparameters, CheckReport]:
    """Read and check all photos and masks; the hyperparameters then have the true ``num_training_samples``.

    Of splits that are sharded between hosts each checks its own photos; what the report counts is then of all hosts.

    Raises:
        DataError: naming every file that is wrong, and the fix.
    """
    check = check_job_data(hp, channels, progress)
    maps = check.label_maps
    if maps.missing:
        _log.warning("label maps not provided, using defaults. (%s)", ", ".join(maps.missing))
    _log.info("#label_map train :%s", dict(maps.train.description))
    _log.info("#label_map validation :%s", dict(maps.validation.description))
    for path in check.skipped:
        _log.warning("%s is not a readable image file", path)
    where = f"Of the photos of {group.names[group.rank]}: " if group.sharded else ""
    for warning in check.warnings:
        _log.warning("%s%s", where, warning)
    check.raise_for_errors()
    check = _add_shards(check, group)
    if hp.num_training_samples not in (None, check.num_train):
        # The built-in believes the number, and a wrong one bends its learning-rate schedule.
        text = "num_training_samples is %d, the train channel has %d: using %d"
        _log.warning(text, hp.num_training_samples, check.num_train, check.num_train)
    hp = dataclasses.replace(hp, num_training_samples=check.num_train)
    _log.info("Final configuration: %s", hp.to_strings())
    return hp, check


def _add_shards(check: CheckReport, group: Group) -> CheckReport:
    """``check`` with the numbers of all hosts for the splits of which each has a shard."""
    for split in sorted(group.sharded):
        own = len(check.pairs[split]), check.histogram[split].tolist(), check.fingerprints[split]
        counts, histograms, fingerprints = zip(*group.all_gather(own), strict=True)
        _log.info(
            "The channel %s is sharded: %s have %s photos", split, join_names(group.names), join_names(map(str, counts))
        )
        digest = hashlib.sha256("".join(fingerprints).encode()).hexdigest()
        check = dataclasses.replace(
            check,
            shards={**check.shards, split: counts},
            histogram={**check.histogram, split: np.sum(histograms, axis=0)},
            fingerprints={**check.fingerprints, split: digest},
        )
    return check


def build_loaders(hp: Hyperparameters, check: CheckReport, group: Group) -> tuple[Loader, Loader]:
    """Training batches, shuffled and augmented; validation batches, centre crops in order."""

    def crop_centre(_rng: np.random.Generator, height: int, width: int) -> Transform:
        return build_validation_transform(height, width, hp.crop_size)

    # The workers are the threads; OpenCV would start its own in each of them.
    cv2.setNumThreads(1)
    workers = min(hp._workers, count_usable_cores())
    # Training and validation photos together a quarter of the memory at most: the rest is for the network.
    cache_bytes = min(DEFAULT_CACHE_BYTES, (find_memory_limit() or 0) // 8 or DEFAULT_CACHE_BYTES)
    options: dict[str, Any] = {"max_pixels": hp.max_pixels, "photo_range": hp.photo_range, "cache_bytes": cache_bytes}
    training, validation = (
        Dataset(check.pairs[split], label_map, **options)
        for split, label_map in zip(SPLITS, (check.label_maps.train, check.label_maps.validation), strict=True)
    )
    policy = TrainingPolicy(
        hp.base_size, hp.crop_size, hp.scale_min, hp.scale_max, hp.colour_jitter, hp.rotation, hp.vertical_flip
    )
    draw: DrawTransform = crop_centre if hp._augmentation_type == "none" else policy.draw
    balancer = CropBalancer.from_histogram(check.histogram["train"]) if hp.class_balanced_crops else None
    batch, validation_batch = hp.mini_batch_size, hp.validation_mini_batch_size
    share, validation_share = (Share(group.rank, group.size, check.shards.get(split, ())) for split in SPLITS)
    shuffle: dict[str, Any] = {"shuffle": True, "seed": hp.seed, "balancer": balancer}
    return (
        Loader(training, draw, batch_size=batch, share=share, workers=workers, **shuffle),
        Loader(
            validation, crop_centre, batch_size=validation_batch, share=validation_share, workers=workers, shuffle=False
        ),
    )
