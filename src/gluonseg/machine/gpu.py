"""Which NVIDIA GPUs the driver shows, and whether MXNet's CUDA build has code for them.

The driver's own library is asked, through ctypes: it numbers GPUs as CUDA and ``mx.gpu(n)`` do, where NVML ignores
``CUDA_VISIBLE_DEVICES`` and counts in PCI order; and unlike ``nvidia-smi`` it is there wherever a GPU can be used.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import NamedTuple

from gluonseg.machine.cuda_library import open_driver, read_driver_version

_log = logging.getLogger(__name__)
COUNT_LINE = "Number of GPUs being used: "
"""How the built-in's line begins."""
NO_CUDA = "MXNet for CUDA is not installed"
CODE_FOR = ((5, 0), (6, 0), (7, 0), (8, 0), (8, 6))
"""Compute capabilities of the machine code in mxnet-cu112 1.9.1; it has no PTX, which newer GPUs could compile."""
OLDEST_DRIVER = 11000
"""CUDA 11 programs run on every driver from 450.80.02, whose CUDA version is 11.0."""
VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"
_NO_DEVICE = 100
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


class DriverError(Exception):
    """The driver refuses a call, or is too old."""


class Gpu(NamedTuple):
    """One GPU: its number for CUDA, the driver's name for it, and its compute capability (major, minor)."""

    number: int
    name: str
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name}, compute capability {self.capability[0]}.{self.capability[1]}"


class GpuReport(NamedTuple):
    """The GPUs that can be used, and why there are no others.

    ``note`` says why there is none where none is expected; ``problem`` names GPUs, or a driver, that are there and
    cannot be used, and what to do. Each is empty if it does not apply.
    """

    usable: tuple[Gpu, ...] = ()
    note: str = ""
    problem: str = ""


def is_cuda_build() -> bool:
    """Whether MXNet's package with CUDA is installed, told without importing it."""
    try:
        metadata.distribution("mxnet-cu112")
    except metadata.PackageNotFoundError:
        return False
    return True


def log_report(report: GpuReport) -> None:
    """Log the built-in's line with the GPUs that are used, or why there is none; before it a warning of a problem."""
    if report.problem:
        _log.warning("%s%s", report.problem, "" if report.usable else "; the CPU is used, many times slower")
    used = f" ({'; '.join(str(gpu) for gpu in report.usable)})" if report.usable else f": {report.note or 'see above'}"
    _log.info("%s%d%s", COUNT_LINE, len(report.usable), used)


def find_gpus(environ: Mapping[str, str] = os.environ) -> GpuReport:
    """Ask the driver for its GPUs, as far as ``CUDA_VISIBLE_DEVICES`` lets programs see them."""
    visible = environ.get(VISIBLE_VARIABLE)
    if visible is not None and visible.strip() in ("", "-1"):
        return GpuReport(note=f"{VISIBLE_VARIABLE} hides them all")
    driver = open_driver()
    if driver is None:
        return GpuReport(
            note="no NVIDIA driver is visible; run the container with --gpus all "
            "(SageMaker's GPU instances and instance_type='local_gpu' do it)"
        )
    try:
        gpus = _read_gpus(driver)
    except DriverError as error:
        return GpuReport(problem=f"the NVIDIA driver cannot be used: {error}; see whether nvidia-smi works on the host")
    if not gpus:
        hint = "" if visible is None else f" ({VISIBLE_VARIABLE} is {visible!r})"
        return GpuReport(note=f"the NVIDIA driver reports no device{hint}")
    return judge_gpus(gpus)


def judge_gpus(gpus: Sequence[Gpu]) -> GpuReport:
    """Tell the GPUs that MXNet has code for from the others: code for X.y runs on every X.z with z >= y."""
    runs = {gpu: any(gpu.capability[0] == x and gpu.capability[1] >= y for x, y in CODE_FOR) for gpu in gpus}
    others = "; ".join(f"GPU {gpu.number} ({gpu})" for gpu in gpus if not runs[gpu])
    problem = (
        f"MXNet has no code for {others}: it runs on compute capability 5.0 to 8.9; "
        "use a g4dn, g5, g6 or p3 instance, or another GPU of the Maxwell to Ada generations"
    )
    return GpuReport(tuple(gpu for gpu in gpus if runs[gpu]), problem=problem if others else "")


def _read_gpus(driver: ctypes.CDLL) -> list[Gpu]:
    code = driver.cuInit(0)
    if code == _NO_DEVICE:
        return []
    _check_code(driver, "cuInit", code)
    version = read_driver_version(driver)
    if version < OLDEST_DRIVER:
        known = f"CUDA {version // 1000}.{version % 1000 // 10}"
        raise DriverError(f"it is too old for CUDA 11 (it knows {known}): install version 450.80.02 or newer")
    count = ctypes.c_int(0)
    _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    return [_read_gpu(driver, number) for number in range(count.value)]


def _read_gpu(driver: ctypes.CDLL, number: int) -> Gpu:
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    _call(driver, "cuDeviceGet", ctypes.byref(device), number)
    _call(driver, "cuDeviceGetName", name, len(name), device)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, device)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, device)
    return Gpu(number, name.value.decode("utf-8", errors="replace"), (major.value, minor.value))


def _call(driver: ctypes.CDLL, function: str, *arguments: object) -> None:
    _check_code(driver, function, getattr(driver, function)(*arguments))


def _check_code(driver: ctypes.CDLL, function: str, code: int) -> None:
    if code:
        text = ctypes.c_char_p()
        driver.cuGetErrorString(code, ctypes.byref(text))
        reason = f", {text.value.decode(errors='replace')}" if text.value else ""
        raise DriverError(f"{function} answers with error {code}{reason}")
