"""Which devices are used and why: the real detection, in a process that finds a made-up driver."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mxnet as mx
import pytest

from gluonseg import device
from gluonseg.errors import UserError
from gluonseg.gpu import Gpu, GpuReport, has_code_for, judge_gpus
from gluonseg.predict import predictor
from libcuda_build import Gpus, build_driver, needs_compiler, run_python

T4 = ("Tesla T4", 7, 5)
H100 = ("NVIDIA H100 80GB HBM3", 9, 0)
FIND = """
import json
from gluonseg.gpu import find_gpus
usable, note, problem = find_gpus()
print(json.dumps([[str(gpu) for gpu in usable], [gpu.number for gpu in usable], note, problem]))
"""
# The installed MXNet has no CUDA, but for the GPUs it is asked about; the driver is found and read for real.
TRAIN = """
import logging, sys
from gluonseg import device, errors
import mxnet as mx
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(levelname)s %(message)s")
device._has_cuda = lambda: True
mx.context.num_gpus = lambda: {count}
try:
    print(device.find_devices(strict={strict}))
except errors.UserError as error:
    print("refused:", error)
"""


def find(libraries: Path, **variables: str) -> tuple[list[str], list[int], str, str]:
    usable, numbers, note, problem = json.loads(run_python(FIND, libraries, variables))
    return usable, numbers, note, problem


@needs_compiler
def test_one_gpu(tmp_path: Path) -> None:
    build_driver(tmp_path, [T4])
    assert find(tmp_path) == (["Tesla T4, compute capability 7.5"], [0], "", "")


@needs_compiler
def test_two_gpus(tmp_path: Path) -> None:
    build_driver(tmp_path, [T4, ("NVIDIA A10G", 8, 6)])
    assert find(tmp_path)[:2] == (["Tesla T4, compute capability 7.5", "NVIDIA A10G, compute capability 8.6"], [0, 1])


@pytest.mark.fault(family=47, outcome="left out and named: a generation that MXNet has no code for")
@needs_compiler
def test_gpu_without_code_is_left_out_and_named(tmp_path: Path) -> None:
    build_driver(tmp_path, [H100, T4])
    usable, numbers, note, problem = find(tmp_path)
    assert (usable, numbers, note) == (["Tesla T4, compute capability 7.5"], [1], "")
    assert "GPU 0 (NVIDIA H100 80GB HBM3, compute capability 9.0)" in problem
    assert "use a g4dn, g5, g6 or p3 instance" in problem
    assert "\n" not in problem


@pytest.mark.fault(family=47, outcome="told, with the reason")
@needs_compiler
@pytest.mark.parametrize(
    ("driver", "note", "problem"),
    [
        ({}, "the NVIDIA driver reports no device", ""),
        ({"count_result": 100}, "the NVIDIA driver reports no device", ""),
        ({"init": 100}, "the NVIDIA driver reports no device", ""),
        ({"init": 999}, "", "cuInit answers with error 999, unknown error; see whether nvidia-smi works"),
        ({"init": 803}, "", "cuInit answers with error 803; see whether nvidia-smi works"),
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


@needs_compiler
@pytest.mark.parametrize(
    ("gpus", "strict", "printed"),
    [
        ([T4], True, ["INFO Number of GPUs being used: 1 (Tesla T4, compute capability 7.5)", "[gpu(0)]"]),
        ([], True, ["INFO Number of GPUs being used: 0: the NVIDIA driver reports no device", "[cpu(0)]"]),
        ([H100, T4], True, ["WARNING MXNet has no code for GPU 0", "INFO Number of GPUs being used: 1 (", "[gpu(1)]"]),
        ([H100], True, ["refused: MXNet has no code for GPU 0"]),
        ([H100], False, ["WARNING MXNet has no code for GPU 0", "INFO Number of GPUs being used: 0", "[cpu(0)]"]),
    ],
)
def test_devices_and_log(tmp_path: Path, gpus: Gpus, strict: bool, printed: Sequence[str]) -> None:
    build_driver(tmp_path, gpus)
    lines = run_python(TRAIN.format(count=len(gpus), strict=strict), tmp_path).splitlines()
    assert len(lines) == len(printed)
    for line, start in zip(lines, printed, strict=True):
        assert line.startswith(start)


@pytest.mark.fault(family=47, outcome="refused (2), with the way to the CPU")
@needs_compiler
def test_refused_training_tells_how_to_use_the_cpu(tmp_path: Path) -> None:
    build_driver(tmp_path, [H100])
    assert run_python(TRAIN.format(count=1, strict=True), tmp_path).endswith("set CUDA_VISIBLE_DEVICES=-1")
    hidden = run_python(TRAIN.format(count=0, strict=True), tmp_path, {"CUDA_VISIBLE_DEVICES": "-1"})
    assert hidden.splitlines() == [
        "INFO Number of GPUs being used: 0: CUDA_VISIBLE_DEVICES hides them all",
        "[cpu(0)]",
    ]


@pytest.mark.fault(family=47, outcome="told")
@needs_compiler
def test_runtime_that_sees_fewer_gpus_than_the_driver(tmp_path: Path) -> None:
    build_driver(tmp_path, [T4])
    assert run_python(TRAIN.format(count=0, strict=True), tmp_path).startswith(
        "refused: MXNet does not reach the GPUs that the driver shows: its CUDA runtime finds fewer"
    )


@needs_compiler
@pytest.mark.skipif(mx.runtime.Features().is_enabled("CUDA"), reason="the installed MXNet has CUDA")
def test_gpu_beside_a_build_without_cuda(tmp_path: Path) -> None:
    build_driver(tmp_path, [T4])
    source = TRAIN.format(count=0, strict=True).replace("device._has_cuda", "unused")
    lines = run_python(source, tmp_path).splitlines()
    assert lines == ["INFO Number of GPUs being used: 0: MXNet for CUDA is not installed", "[cpu(0)]"]


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


@pytest.mark.fault(family=47, outcome="told for each generation")
@pytest.mark.parametrize(
    ("capability", "runs"),
    [
        ((3, 7), False),
        ((5, 0), True),
        ((5, 2), True),
        ((6, 1), True),
        ((7, 0), True),
        ((7, 5), True),
        ((8, 0), True),
        ((8, 6), True),
        ((8, 9), True),
        ((9, 0), False),
        ((10, 0), False),
        ((12, 0), False),
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
