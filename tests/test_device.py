"""Which devices are used and why: the real detection, in a process that finds a made-up driver."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mxnet as mx
import pytest

from gluonseg import device
from gluonseg.errors import UserError
from gluonseg.machine.gpu import Gpu, GpuReport, has_code_for, judge_gpus
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
        ({}, "the NVIDIA driver reports no device", ""),
        ({"init": 100}, "the NVIDIA driver reports no device", ""),
        ({"init": 999}, "", "cuInit answers with error 999, unknown error; see whether nvidia-smi works"),
        ({"count_result": 3}, "", "cuDeviceGetCount answers with error 3;"),
        ({"gpus": [T4], "version": 10020}, "", "too old for CUDA 11 (it knows CUDA 10.2): install version 450.80.02"),
    ],
)
def test_driver_without_usable_gpu(tmp_path: Path, driver: dict[str, Any], note: str, problem: str) -> None:
    build_driver(tmp_path, **driver)
    usable, _, found_note, found_problem = find(tmp_path)
    assert usable == []
    assert found_note == note
    assert problem in found_problem
    assert bool(found_problem) == bool(problem)


@needs_compiler
def test_oldest_driver_that_serves(tmp_path: Path) -> None:
    build_driver(tmp_path, [T4], version=11000)
    assert find(tmp_path)[1:] == ([0], "", "")


@needs_compiler
@pytest.mark.parametrize("value", ["", "-1", " "])
def test_hidden_gpus(tmp_path: Path, value: str) -> None:
    build_driver(tmp_path, [T4], init=999)  # the way out has to work with a driver that does not
    assert find(tmp_path, CUDA_VISIBLE_DEVICES=value) == ([], [], "CUDA_VISIBLE_DEVICES hides them all", "")


@needs_compiler
def test_variable_is_named_when_the_driver_hides_all(tmp_path: Path) -> None:
    build_driver(tmp_path, init=100)
    assert "(CUDA_VISIBLE_DEVICES is '7')" in find(tmp_path, CUDA_VISIBLE_DEVICES="7")[2]


@needs_compiler
def test_file_that_is_no_driver(tmp_path: Path) -> None:
    # The NVIDIA runtime leaves empty files behind in images that were made from a running container.
    (tmp_path / "libcuda.so.1").touch()
    usable, _, note, problem = find(tmp_path)
    assert (usable, problem) == ([], "")
    assert note.startswith("no NVIDIA driver is visible; run the container with --gpus all")


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[..., list[str]]:
    """The log and the result of ``find_devices`` with a CUDA build, a driver's report and a number for the runtime."""

    def run(report: GpuReport, count: int, *, strict: bool = True, has_cuda: bool = True) -> list[str]:
        monkeypatch.setattr(device, "_has_cuda", lambda: has_cuda)
        monkeypatch.setattr(device, "find_gpus", lambda: report)
        monkeypatch.setattr(mx.context, "num_gpus", lambda: count)
        caplog.set_level(logging.INFO)
        try:
            result = str(device.find_devices(strict=strict))
        except UserError as error:
            result = f"refused: {error}"
        return [*(f"{record.levelname} {record.getMessage()}" for record in caplog.records), result]

    return run


NONE = GpuReport(note="the NVIDIA driver reports no device")
ONE = judge_gpus([Gpu(0, "Tesla T4", (7, 5))])
NEW = judge_gpus([Gpu(0, "NVIDIA H100 80GB HBM3", (9, 0))])
BOTH = judge_gpus([Gpu(0, "NVIDIA H100 80GB HBM3", (9, 0)), Gpu(1, "Tesla T4", (7, 5))])


@pytest.mark.parametrize(
    ("report", "count", "strict", "printed"),
    [
        (ONE, 1, True, ["INFO Number of GPUs being used: 1 (Tesla T4, compute capability 7.5)", "[gpu(0)]"]),
        (NONE, 0, True, ["INFO Number of GPUs being used: 0: the NVIDIA driver reports no device", "[cpu(0)]"]),
        (BOTH, 2, True, ["WARNING MXNet has no code for GPU 0", "INFO Number of GPUs being used: 1 (", "[gpu(1)]"]),
        (NEW, 1, False, ["WARNING MXNet has no code for GPU 0", "INFO Number of GPUs being used: 0", "[cpu(0)]"]),
        (ONE, 0, True, ["refused: MXNet does not reach the GPUs that the driver shows: its CUDA runtime finds fewer"]),
    ],
)
def test_devices_and_log(
    watch: Callable[..., list[str]], report: GpuReport, count: int, strict: bool, printed: Sequence[str]
) -> None:
    lines = watch(report, count, strict=strict)
    assert len(lines) == len(printed)
    assert all(line.startswith(start) for line, start in zip(lines, printed, strict=True))


def test_refused_training_tells_how_to_use_the_cpu(watch: Callable[..., list[str]]) -> None:
    (line,) = watch(NEW, 1)
    assert line.startswith("refused: MXNet has no code for GPU 0")
    assert line.endswith("set CUDA_VISIBLE_DEVICES=-1")


def test_gpu_beside_a_build_without_cuda(watch: Callable[..., list[str]]) -> None:
    assert watch(ONE, 0, has_cuda=False) == [
        "INFO Number of GPUs being used: 0: MXNet for CUDA is not installed",
        "[cpu(0)]",
    ]


def test_error_of_the_cuda_runtime(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> int:
        raise mx.MXNetError("Traceback\n  File base.h\nMXNetError: CUDA: driver shutting down")

    monkeypatch.setattr(device, "_has_cuda", lambda: True)
    monkeypatch.setattr(device, "find_gpus", lambda: GpuReport((Gpu(0, "Tesla T4", (7, 5)),)))
    monkeypatch.setattr(mx.context, "num_gpus", fail)
    with pytest.raises(UserError, match="CUDA: driver shutting down; to train on the CPU"):
        device.find_devices(strict=True)
    with caplog.at_level(logging.INFO):
        assert device.find_devices() == [mx.cpu()]
    assert caplog.messages[-1] == "Number of GPUs being used: 0: see above"


@pytest.mark.parametrize(
    ("capability", "runs"),
    [
        *((capability, True) for capability in ((5, 0), (5, 2), (6, 1), (7, 0), (7, 5), (8, 0), (8, 6), (8, 9))),
        *((capability, False) for capability in ((3, 7), (9, 0), (10, 0), (12, 0))),
    ],
)
def test_code_for_a_generation(capability: tuple[int, int], runs: bool) -> None:
    assert has_code_for(capability) is runs
    report = judge_gpus([Gpu(0, "one", capability)])
    assert (len(report.usable), bool(report.problem)) == (int(runs), not runs)


@pytest.mark.parametrize(
    ("is_cuda", "report", "lines"),
    [
        (False, GpuReport(note="no driver"), ["Number of GPUs being used: 0: MXNet for CUDA is not installed"]),
        (True, GpuReport(note="no driver"), ["Number of GPUs being used: 0: no driver"]),
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
