"""Makes the libraries that MXNet's CUDA build is linked against findable, before MXNet is imported.

When a library needs another one by its SONAME, the dynamic loader takes the one that the process has loaded already. So
the CUDA 11 libraries are loaded here from where their wheels put them, and ``LD_LIBRARY_PATH`` and the loader's cache
do not matter. ``libcuda.so.1`` belongs to the driver: it is looked for as the loader does, and only where there is none
the stub (container/libcuda/stub.c) takes its place, so that a driver, wherever it is mounted, always wins.

Where neither the wheels nor the stub are installed, nothing happens.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import sys
from pathlib import Path

DRIVER_LIBRARY = "libcuda.so.1"
STUB = Path(sys.prefix) / "lib" / "gluonseg" / "libcuda-stub.so"
_STUB_MARK = "gluonseg_libcuda_stub"
_NVRTC = "cuda_nvrtc/lib/libnvrtc.so.11.2"
_WHEEL_LIBRARIES = (  # each after those that it is linked against
    "cuda_runtime/lib/libcudart.so.11.0",
    "nvtx/lib/libnvToolsExt.so.1",
    _NVRTC,
    "cublas/lib/libcublasLt.so.11",
    "cublas/lib/libcublas.so.11",
    "cudnn/lib/libcudnn.so.8",
    "cufft/lib/libcufft.so.10",
    "curand/lib/libcurand.so.10",
    "cusolver/lib/libcusolver.so.11",
    "nccl/lib/libnccl.so.2",
)


def open_driver() -> ctypes.CDLL | None:
    """The driver's libcuda.so.1; None where there is none, or only the stub."""
    try:
        library = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return None
    return None if hasattr(library, _STUB_MARK) else library


def read_driver_version(driver: ctypes.CDLL) -> int:
    """The newest CUDA that the driver knows, 1000 * major + 10 * minor; 0 if it does not say."""
    version = ctypes.c_int(0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    return version.value


def preload_libraries(stub: Path = STUB) -> list[str]:
    """Load the wheels' CUDA 11 libraries, and the stub if there is no driver; return what was loaded, as paths."""
    loaded = [path for path in _find_wheel_libraries() if _load(path) is not None]
    driver = open_driver()
    if driver is None:
        if stub.is_file() and _load(stub) is not None:
            loaded.append(stub)
    else:
        _settle_fusion(driver, [path for path in loaded if path.match(_NVRTC)])
    return [str(path) for path in loaded]


def _find_wheel_libraries() -> list[Path]:
    spec = importlib.util.find_spec("nvidia")
    folders = (spec.submodule_search_locations if spec else None) or ()
    paths = [Path(folder, name) for name in _WHEEL_LIBRARIES for folder in folders]
    return [path for path in paths if path.is_file()]


def _load(path: Path) -> ctypes.CDLL | None:
    # When MXNet needs a library that cannot be loaded, its own import says so.
    with contextlib.suppress(OSError):
        return ctypes.CDLL(str(path))
    return None


def _settle_fusion(driver: ctypes.CDLL, nvrtc: list[Path]) -> None:
    """Tell MXNet not to compile kernels of its own when the driver is older than the compiler.

    MXNet fuses element-wise operators into new kernels as PTX of the compiler's CUDA version, and a driver
    refuses PTX of a newer version than its own. All other code is compiled already and runs.
    """
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    for path in nvrtc:
        ctypes.CDLL(str(path)).nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        if read_driver_version(driver) < 1000 * major.value + 10 * minor.value:
            os.environ.setdefault("MXNET_USE_FUSION", "0")
