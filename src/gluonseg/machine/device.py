"""Which devices MXNet computes on, why these, and what they can do."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import mxnet as mx

from gluonseg.errors import HyperparameterError, UserError
from gluonseg.machine.gpu import COUNT_LINE, NO_CUDA, VISIBLE_VARIABLE, GpuReport, find_gpus, log_report

_log = logging.getLogger(__name__)


def find_devices(*, strict: bool = False) -> list[Any]:
    """All GPUs that MXNet can use, or the CPU; the log says which, and why.

    A GPU that is there and cannot be used is warned of. With ``strict`` (for training, which takes many times longer on
    a CPU) it is a UserError when no other GPU can be used.
    """
    report = _check_runtime(find_gpus()) if _has_cuda() else GpuReport(note=NO_CUDA)
    if report.problem and strict and not report.usable:
        raise UserError(f"{report.problem}; to train on the CPU all the same, set {VISIBLE_VARIABLE}=-1")
    log_report(report)
    return [mx.gpu(gpu.number) for gpu in report.usable] or [mx.cpu()]


def settle_devices(given: Sequence[Any]) -> list[Any]:
    """The devices of a training: those that are given, or else what ``find_devices(strict=True)`` finds."""
    if not given:
        return find_devices(strict=True)
    _log.info("%s%d", COUNT_LINE, sum(device.device_type == "gpu" for device in given))
    return list(given)


def _has_cuda() -> bool:
    return bool(mx.runtime.Features().is_enabled("CUDA"))


def _check_runtime(report: GpuReport) -> GpuReport:
    """The report without its GPUs when the CUDA runtime inside MXNet finds fewer than the driver shows."""
    if not report.usable:
        return report
    try:
        count, reason = mx.context.num_gpus(), "its CUDA runtime finds fewer than the driver"
    except mx.MXNetError as error:
        count, reason = 0, str(error).strip().splitlines()[-1]
    if all(gpu.number < count for gpu in report.usable):
        return report
    return GpuReport(problem=f"MXNet does not reach the GPUs that the driver shows: {reason}")


def check_precision(dtype: str, devices: Sequence[Any]) -> None:
    """Raise HyperparameterError when ``dtype`` is float16 and a device is not a GPU."""
    if dtype == "float16" and any(device.device_type != "gpu" for device in devices):
        raise HyperparameterError("precision_dtype float16 needs a GPU, and none is usable here; use float32")


def check_syncbn(syncbn: bool, devices: Sequence[Any]) -> None:
    """Raise HyperparameterError when batch norm would be synchronised over several CPUs: MXNet 1.9.1 hangs there."""
    if syncbn and len(devices) > 1 and any(device.device_type != "gpu" for device in devices):
        raise HyperparameterError("syncbn over several devices needs GPUs; use syncbn=False or one device")
