"""Which NVIDIA GPUs the driver shows, and whether MXNet's CUDA build has code for them.

The driver's own library is asked, through ctypes: it is there wherever a GPU can be used, which
``nvidia-smi`` is not, and it tells what the CUDA runtime does not before it fails.
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
    """A call of the driver failed; ``code`` is its CUresult."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Gpu(NamedTuple):
    """One GPU: its number for CUDA, the driver's name for it, and its compute capability (major, minor)."""

    number: int
    name: str
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name}, compute capability {self.capability[0]}.{self.capability[1]}"


class GpuReport(NamedTuple):
    """The GPUs that can be used, and why there are no others.

    ``note`` says why there is none to be used where none is expected; ``problem`` tells of GPUs, or a driver,
    that are there and cannot be used, and what to do. Each is empty if it does not apply.
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
    """The built-in's line, and after it which GPUs these are, or why there is none; before it a warning of others."""
    if report.problem:
        _log.warning("%s%s", report.problem, "" if report.usable else "; the CPU is used, many times slower")
    used = f" ({'; '.join(str(gpu) for gpu in report.usable)})" if report.usable else f": {report.note or 'see above'}"
    _log.info("%s%d%s", COUNT_LINE, len(report.usable), used)


def has_code_for(capability: tuple[int, int]) -> bool:
    """Whether MXNet's machine code runs: code for X.y runs on every X.z with z >= y."""
    return any(capability[0] == major and capability[1] >= minor for major, minor in CODE_FOR)


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
        return judge_gpus(_read_gpus(driver))
    except DriverError as error:
        if error.code == _NO_DEVICE:
            return GpuReport(note=f"the NVIDIA driver reports no device{_describe_variable(visible)}")
        return GpuReport(problem=f"the NVIDIA driver cannot be used: {error}; see whether nvidia-smi works on the host")


def judge_gpus(gpus: Sequence[Gpu]) -> GpuReport:
    """Tell the GPUs that MXNet has code for from the others."""
    usable = tuple(gpu for gpu in gpus if has_code_for(gpu.capability))
    others = [gpu for gpu in gpus if gpu not in usable]
    if not others:
        return GpuReport(usable)
    listed = "; ".join(f"GPU {gpu.number} ({gpu})" for gpu in others)
    return GpuReport(
        usable,
        problem=f"MXNet has no code for {listed}: it runs on compute capability 5.0 to 8.9; "
        "use a g4dn, g5, g6 or p3 instance, or another GPU of the Maxwell to Ada generations",
    )


def _describe_variable(visible: str | None) -> str:
    return "" if visible is None else f" ({VISIBLE_VARIABLE} is {visible!r})"


def _read_gpus(driver: ctypes.CDLL) -> list[Gpu]:
    _call(driver, "cuInit", 0)
    version = read_driver_version(driver)
    if version < OLDEST_DRIVER:
        known = f"CUDA {version // 1000}.{version % 1000 // 10}"
        raise DriverError(0, f"it is too old for CUDA 11 (it knows {known}): install version 450.80.02 or newer")
    count = ctypes.c_int(0)
    _call(driver, "cuDeviceGetCount", ctypes.byref(count))
    if count.value < 1:
        raise DriverError(_NO_DEVICE, "no device")
    return [_read_gpu(driver, number) for number in range(count.value)]


def _read_gpu(driver: ctypes.CDLL, number: int) -> Gpu:
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    _call(driver, "cuDeviceGet", ctypes.byref(device), number)
    _call(driver, "cuDeviceGetName", name, len(name), device)
    return Gpu(
        number,
        name.value.decode("utf-8", errors="replace"),
        (_read_attribute(driver, _MAJOR, device), _read_attribute(driver, _MINOR, device)),
    )


def _read_attribute(driver: ctypes.CDLL, attribute: int, device: ctypes.c_int) -> int:
    value = ctypes.c_int(0)
    _call(driver, "cuDeviceGetAttribute", ctypes.byref(value), attribute, device)
    return value.value


def _call(driver: ctypes.CDLL, function: str, *arguments: object) -> None:
    code = int(getattr(driver, function)(*arguments))
    if code:
        raise DriverError(code, f"{function} answers with error {code}{_describe_code(driver, code)}")


def _describe_code(driver: ctypes.CDLL, code: int) -> str:
    text = ctypes.c_char_p()
    driver.cuGetErrorString(code, ctypes.byref(text))
    return f", {text.value.decode(errors='replace')}" if text.value else ""
