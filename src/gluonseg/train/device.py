"""Which devices train, and what they can do."""

from __future__ import annotations

import logging
import subprocess
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
    """Raise HyperparameterError when batch norm would be synchronised over several CPUs: MXNet waits for ever there."""
    if syncbn and len(devices) > 1 and any(device.device_type != "gpu" for device in devices):
        raise HyperparameterError("syncbn over several devices needs GPUs; use syncbn=False or one device")


def read_gpu_names() -> list[str]:
    """Names of the GPUs as nvidia-smi prints them, an empty list where there is none."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
