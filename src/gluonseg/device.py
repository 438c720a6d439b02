"""Which devices compute, and what they can do."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import mxnet as mx

from gluonseg.errors import HyperparameterError

_log = logging.getLogger(__name__)


def find_devices() -> list[Any]:
    """All GPUs that MXNet can use, or the CPU."""
    try:
        count = mx.context.num_gpus()
    except mx.MXNetError as error:
        # A driver without a usable device answers with an error instead of zero.
        _log.warning("No GPU is used: %s", str(error).splitlines()[0])
        count = 0
    return [mx.gpu(index) for index in range(count)] or [mx.cpu()]


def check_precision(dtype: str, devices: Sequence[Any]) -> None:
    """Raise HyperparameterError when ``dtype`` is float16 and a device is not a GPU."""
    if dtype == "float16" and any(device.device_type != "gpu" for device in devices):
        raise HyperparameterError("precision_dtype float16 needs a GPU, and none is usable here; use float32")


def check_syncbn(syncbn: bool, devices: Sequence[Any]) -> None:
    """Raise HyperparameterError when batch norm would be synchronised over several CPUs: MXNet 1.9.1 hangs there."""
    if syncbn and len(devices) > 1 and any(device.device_type != "gpu" for device in devices):
        raise HyperparameterError("syncbn over several devices needs GPUs; use syncbn=False or one device")
