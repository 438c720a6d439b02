"""The data of a job as its hyperparameters have it read and checked; without MXNet."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from gluonseg.data.check.doctor import CheckReport, check_channels
from gluonseg.data.label_channel import LabelMaps, read_label_maps
from gluonseg.hyperparameters import Hyperparameters


def read_maps(hp: Hyperparameters, channels: Mapping[str, Path]) -> LabelMaps:
    """The label maps of the channels; the hyperparameter ``class_names`` wins over the file.

    Raises:
        DataError: a file of the label_map channel is not what its name says.
    """
    maps = read_label_maps(channels.get("label_map"), hp.ignore_label)
    return maps._replace(class_names=list(hp.class_names)) if hp.class_names else maps


def check_job_data(
    hp: Hyperparameters,
    channels: Mapping[str, Path],
    maps: LabelMaps,
    progress: Callable[[int, int], None] | None = None,
) -> CheckReport:
    """Read and check all photos and masks; what is wrong with them is in the report, and not raised."""
    return check_channels(
        channels,
        num_classes=hp.num_classes,
        label_maps=maps,
        ignore_label=hp.ignore_label,
        crop_size=hp.crop_size,
        max_pixels=hp.max_pixels,
        progress=progress,
    )
