"""The stand-in for the driver's library, and the loading of what MXNet's CUDA build is linked against."""

from __future__ import annotations

import ctypes
import json
import os
from pathlib import Path

import pytest

from gluonseg.machine import cuda_library
from libcuda_build import LINKED, build_driver, build_stub, compile_library, needs_compiler, run_python

pytestmark = needs_compiler

NO_DEVICE = 100
# Stands for libmxnet.so: needs libcuda.so.1 and a CUDA library, by SONAME, and knows no folder of either.
CLIENT = """
int cuLaunchKernel(void), cudaGetDeviceCount(void);
int client(void) { return 1000 * cudaGetDeviceCount() + cuLaunchKernel(); }
"""
LOAD = """
import ctypes, json, os, pathlib, sys
sys.path.insert(0, {wheels!r})
from gluonseg.machine import cuda_library
loaded = cuda_library.preload_libraries(pathlib.Path({stub!r}))
driver = cuda_library.open_driver()
try:
    answer = ctypes.CDLL({client!r}).client()
except OSError as error:
    answer = str(error)
print(json.dumps([[os.path.basename(path) for path in loaded], driver is not None, answer,
                  os.environ.get("MXNET_USE_FUSION")]))
"""


def has_driver() -> bool:
    try:
        ctypes.CDLL(cuda_library.DRIVER_LIBRARY)
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def stub(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return ctypes.CDLL(str(build_stub(tmp_path_factory.mktemp("stub") / "libcuda-stub.so")))


class Place:
    """A folder of wheels, a stub, and a library that needs both."""

    def __init__(self, folder: Path) -> None:
        self.stub = build_stub(folder / "stub" / "libcuda-stub.so")
        self.wheels = folder / "wheels"
        runtime = self.wheels / "nvidia" / "cuda_runtime" / "lib" / "libcudart.so.11.0"
        compile_library("int cudaGetDeviceCount(void) { return 7; }", runtime)
        compiler = self.wheels / "nvidia" / "cuda_nvrtc" / "lib" / "libnvrtc.so.11.2"
        compile_library("int nvrtcVersion(int *a, int *b) { *a = 11; *b = 8; return 0; }", compiler)
        needed = [str(self.stub), str(runtime)]
        self.client = compile_library(CLIENT, folder / "client" / "libclient.so", *needed)

    def load(
        self, libraries: Path | None = None, stub: Path | None = None, **variables: str
    ) -> tuple[list[str], bool, object, str | None]:
        source = LOAD.format(wheels=str(self.wheels), stub=str(stub or self.stub), client=str(self.client))
        loaded, has_driver, answer, fusion = json.loads(run_python(source, libraries, variables))
        return loaded, has_driver, answer, fusion


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("place"))


def test_stub_has_what_is_linked_and_asked(stub: ctypes.CDLL) -> None:
    asked = ("cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuGetErrorName")
    assert [name for name in (*LINKED, *asked) if not hasattr(stub, name)] == []


def test_stub_answers_no_device(stub: ctypes.CDLL) -> None:
    number, text = ctypes.c_int(5), ctypes.c_char_p()
    assert stub.cuInit(0) == NO_DEVICE
    assert (stub.cuDeviceGetCount(ctypes.byref(number)), number.value) == (NO_DEVICE, 0)
    assert stub.cuModuleLoadData(None, None) == NO_DEVICE
    number.value = 5
    assert (stub.cuDriverGetVersion(ctypes.byref(number)), number.value) == (0, 0)
    assert stub.cuGetErrorName(NO_DEVICE, ctypes.byref(text)) == 0
    assert text.value == b"CUDA_ERROR_NO_DEVICE"
    assert stub.cuGetErrorString(NO_DEVICE, ctypes.byref(text)) == 0
    assert text.value == b"no NVIDIA driver is installed here"


@pytest.mark.skipif(has_driver(), reason="a driver is installed here")
class TestWithoutDriver:
    def test_client_needs_the_stub(self, place: Place, tmp_path: Path) -> None:
        loaded, has_driver, answer, _ = place.load(stub=tmp_path / "missing.so")
        assert loaded == ["libcudart.so.11.0", "libnvrtc.so.11.2"]
        assert not has_driver
        assert "libcuda.so.1" in str(answer)

    def test_client_loads_with_wheels_and_stub(self, place: Place) -> None:
        loaded, has_driver, answer, fusion = place.load()
        assert loaded == ["libcudart.so.11.0", "libnvrtc.so.11.2", "libcuda-stub.so"]
        assert not has_driver
        assert answer == 7000 + NO_DEVICE
        assert fusion is None


def test_empty_file_in_place_of_the_driver(place: Place, tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").touch()
    assert place.load(tmp_path)[2] == 7000 + NO_DEVICE


def test_driver_wins(place: Place, tmp_path: Path) -> None:
    driver = build_driver(tmp_path)
    compile_library("#include <stddef.h>\nint cuLaunchKernel(void) { return 42; }", driver)
    # This driver has one function only, so fusion must not be asked about: no compiler among the wheels.
    source = LOAD.format(wheels=str(tmp_path), stub=str(place.stub), client=str(place.client))
    runtime = str(place.wheels / "nvidia" / "cuda_runtime" / "lib")
    loaded, has_driver, answer, _ = json.loads(run_python(source, Path(os.pathsep.join([str(tmp_path), runtime]))))
    assert (loaded, has_driver, answer) == ([], True, 7042)


@pytest.mark.parametrize(
    ("version", "chosen", "fusion"), [(11040, {}, "0"), (11080, {}, None), (11040, {"MXNET_USE_FUSION": "1"}, "1")]
)
def test_fusion_needs_a_driver_as_new_as_the_compiler(
    place: Place, tmp_path: Path, version: int, chosen: dict[str, str], fusion: str | None
) -> None:
    build_driver(tmp_path, version=version)
    assert place.load(tmp_path, None, **chosen)[3] == fusion


@pytest.mark.skipif(has_driver(), reason="a driver is installed here")
def test_import_of_gluonseg_does_nothing_without_the_cuda_build() -> None:
    source = (
        "import os, gluonseg; print('libcuda' in open('/proc/self/maps').read(), os.environ.get('MXNET_USE_FUSION'))"
    )
    assert run_python(source) == "False None"
