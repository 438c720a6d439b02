"""Which devices are used and why: the real detection, in a process that finds a made-up driver."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mxnet as mx
import pytest

from gluonseg.errors import UserError
from gluonseg.machine import device
from gluonseg.machine.gpu import Gpu, GpuReport, judge_gpus
from gluonseg.predict import predictor
from libcuda_build import build_driver, needs_compiler, run_python

T4 = ("Tesla T4", 7, 5)
H100 = ("NVIDIA H100 80GB HBM3", 9, 0)
FIND = """
import json
from gluonseg.machine.gpu import find_gpus
usable, note, problem = find_gpus()
print(json.dumps([[str(gpu) for gpu in usable], [gpu.number for gpu in usable], note, problem]))
"""


def find(libraries: Path, **variables: str) -> tuple[list[str], list[int], str, str]:
    usable, numbers, note, problem = json.loads(run_python(FIND, libraries, variables))
    return usable, numbers, note, problem


@needs_compiler
def test_gpu_without_code_is_left_out_and_named(tmp_path: Path) -> None:
    build_driver(tmp_path, [H100, T4])
    usable, numbers, note, problem = find(tmp_path)
    assert (usable, numbers, note) == (["Tesla T4, compute capability 7.5"], [1], "")
    assert "GPU 0 (NVIDIA H100 80GB HBM3, compute capability 9.0)" in problem
    assert "use a g4dn, g5, g6 or p3 instance" in problem
    assert "\n" not in problem


@needs_compiler
@pytest.mark.parametrize(
    ("driver", "note", "problem"),
    [
        ({"init": 100}, "the NVIDIA driver reports no device (CUDA_VISIBLE_DEVICES is '7')", ""),
        ({"init": 999}, "", "cuInit answers with error 999, unknown error; see whether nvidia-smi works"),
        ({"count_result": 3}, "", "cuDeviceGetCount answers with error 3;"),
        ({"gpus": [T4], "version": 10020}, "", "too old for CUDA 11 (it knows CUDA 10.2): install version 450.80.02"),
    ],
)
def test_driver_without_usable_gpu(tmp_path: Path, driver: dict[str, Any], note: str, problem: str) -> None:
    build_driver(tmp_path, **driver)
    usable, _, found_note, found_problem = find(tmp_path, CUDA_VISIBLE_DEVICES="7")
    assert (usable, found_note) == ([], note)
    assert problem in found_problem
    assert bool(found_problem) == bool(problem)


@needs_compiler
def test_hidden_gpus(tmp_path: Path) -> None:
    build_driver(tmp_path, [T4], init=999)  # the way out has to work with a driver that does not
    assert find(tmp_path, CUDA_VISIBLE_DEVICES="-1") == ([], [], "CUDA_VISIBLE_DEVICES hides them all", "")


@needs_compiler
def test_file_that_is_no_driver(tmp_path: Path) -> None:
    # The NVIDIA runtime leaves empty files behind in images that were made from a running container.
    (tmp_path / "libcuda.so.1").touch()
    usable, _, note, problem = find(tmp_path)
    assert (usable, problem) == ([], "")
    assert note.startswith("no NVIDIA driver is visible; run the container with --gpus all")


NONE = GpuReport(note="the NVIDIA driver reports no device")
ONE = judge_gpus([Gpu(0, "Tesla T4", (7, 5))])
NEW = judge_gpus([Gpu(0, "NVIDIA H100 80GB HBM3", (9, 0))])
BOTH = judge_gpus([Gpu(0, "NVIDIA H100 80GB HBM3", (9, 0)), Gpu(1, "Tesla T4", (7, 5))])
COUNT = "INFO Number of GPUs being used: "


def fail() -> int:
    raise mx.MXNetError("Traceback\n  File base.h\nMXNetError: CUDA: driver shutting down")


@pytest.mark.parametrize(
    ("report", "count", "strict", "printed"),
    [
        (None, lambda: 0, True, [f"{COUNT}0: MXNet for CUDA is not installed", "[cpu(0)]"]),
        (NONE, lambda: 0, True, [f"{COUNT}0: the NVIDIA driver reports no device", "[cpu(0)]"]),
        (ONE, lambda: 1, True, [f"{COUNT}1 (Tesla T4, compute capability 7.5)", "[gpu(0)]"]),
        (BOTH, lambda: 2, True, ["WARNING MXNet has no code for GPU 0", f"{COUNT}1 (", "[gpu(1)]"]),
        (NEW, lambda: 1, False, ["WARNING MXNet has no code for GPU 0", f"{COUNT}0: see above", "[cpu(0)]"]),
        (NEW, lambda: 1, True, ["refused: MXNet has no code for GPU 0"]),
        (
            ONE,
            lambda: 0,
            True,
            ["refused: MXNet does not reach the GPUs that the driver shows: its CUDA runtime finds"],
        ),
        (
            ONE,
            fail,
            True,
            ["refused: MXNet does not reach the GPUs that the driver shows: MXNetError: CUDA: driver sh"],
        ),
    ],
)
def test_devices_and_log(
    report: GpuReport | None,
    count: Callable[[], int],
    strict: bool,
    printed: Sequence[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With what the driver tells, or MXNet without CUDA, and with the number of GPUs that MXNet's runtime finds."""
    monkeypatch.setattr(device, "_has_cuda", lambda: report is not None)
    monkeypatch.setattr(device, "find_gpus", lambda: report)
    monkeypatch.setattr(mx.context, "num_gpus", count)
    caplog.set_level(logging.INFO)
    try:
        result = str(device.find_devices(strict=strict))
    except UserError as error:
        result = f"refused: {error}"
        assert result.endswith("to train on the CPU all the same, set CUDA_VISIBLE_DEVICES=-1")
    lines = [*(f"{record.levelname} {record.getMessage()}" for record in caplog.records), result]
    assert len(lines) == len(printed)
    assert all(line.startswith(start) for line, start in zip(lines, printed, strict=True))


def test_code_for_a_generation() -> None:
    for capability in ((5, 0), (6, 1), (7, 5), (8, 0), (8, 9)):
        assert judge_gpus([Gpu(0, "one", capability)]) == ((Gpu(0, "one", capability),), "", "")
    for capability in ((3, 7), (9, 0), (12, 0)):
        assert judge_gpus([Gpu(0, "one", capability)]).usable == ()


@pytest.mark.parametrize(
    ("is_cuda", "report", "lines"),
    [
        (False, NONE, ["Number of GPUs being used: 0: MXNet for CUDA is not installed"]),
        (
            True,
            GpuReport(problem="too new"),
            ["too new; the CPU is used, many times slower", "Number of GPUs being used: 0: see above"],
        ),
    ],
)
def test_predictor_tells_why_it_is_on_the_cpu(
    is_cuda: bool,
    report: GpuReport,
    lines: Sequence[str],
    trained_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(predictor, "is_cuda_build", lambda: is_cuda)
    monkeypatch.setattr(predictor, "find_gpus", lambda: report)
    with caplog.at_level(logging.INFO):
        predictor.load_predictor(trained_model)
    assert caplog.messages == [*lines, "Predicting with ONNX Runtime"]
