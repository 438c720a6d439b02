"""Compiles the shared libraries that stand for a driver, or for what is linked against one, in tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from program import build_environment, run_source
from repository import ROOT

COMPILER = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
needs_compiler = pytest.mark.skipif(
    COMPILER is None or not sys.platform.startswith("linux"), reason="needs Linux and a C compiler"
)
STUB_SOURCE = ROOT / "container" / "libcuda" / "stub.c"

DRIVER = """
#include <stdio.h>
#include <string.h>
static const char *names[] = {NAMES};
static const int majors[] = {MAJORS}, minors[] = {MINORS};
int cuInit(unsigned flags) { return flags ? 1 : INIT; }
int cuDriverGetVersion(int *version) { *version = VERSION; return 0; }
int cuDeviceGetCount(int *count) { *count = COUNT; return COUNT_RESULT; }
int cuDeviceGet(int *device, int number) { *device = 70 + number; return number < COUNT ? 0 : 101; }
int cuDeviceGetName(char *name, int length, int device)
{
    if (device < 70 || device >= 70 + COUNT) return 101;
    snprintf(name, length, "%s", names[device - 70]);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device)
{
    if (device < 70 || device >= 70 + COUNT || (attribute != 75 && attribute != 76)) return 1;
    *value = (attribute == 75 ? majors : minors)[device - 70];
    return 0;
}
int cuGetErrorString(int code, const char **text)
{
    *text = code == 999 ? "unknown error" : NULL;
    return *text ? 0 : 1;
}
"""
"""A driver with the GPUs, version and answers that the macros name; handles of devices are not their numbers."""

LINKED = (
    "cuDeviceGet",
    "cuDevicePrimaryCtxRetain",
    "cuGetErrorString",
    "cuGraphKernelNodeGetParams",
    "cuGraphNodeGetType",
    "cuLaunchKernel",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleLoadDataEx",
    "cuModuleUnload",
)
"""What libmxnet.so of mxnet-cu112 1.9.1 names: its undefined symbols that begin with cu and a capital."""

Gpus = Sequence[tuple[str, int, int]]


def compile_library(source: str, target: Path, *options: str, soname: str | None = None) -> Path:
    """Compile C to the shared library ``target``."""
    assert COMPILER is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    name = f"-Wl,-soname,{soname or target.name}"
    command = [COMPILER, "-shared", "-fPIC", name, "-x", "c", "-", "-x", "none", "-o", str(target), *options]
    subprocess.run(command, input=source, text=True, check=True)
    return target


def build_driver(folder: Path, gpus: Gpus = (), *, version: int = 12040, init: int = 0, count_result: int = 0) -> Path:
    """Make ``folder/libcuda.so.1``, a driver that shows ``gpus`` (name, major, minor)."""
    padded = [*gpus, ("", 0, 0)]  # no array may be empty
    macros = {
        "NAMES": ",".join(f'"{name}"' for name, _, _ in padded),
        "MAJORS": ",".join(str(major) for _, major, _ in padded),
        "MINORS": ",".join(str(minor) for _, _, minor in padded),
        "COUNT": len(gpus),
        "VERSION": version,
        "INIT": init,
        "COUNT_RESULT": count_result,
    }
    rest = "".join(f"int {name}(void) {{ return 999; }}\n" for name in LINKED if f" {name}(" not in DRIVER)
    options = [f"-D{name}={value}" for name, value in macros.items()]
    return compile_library(DRIVER + rest, folder / "libcuda.so.1", *options)


def build_stub(target: Path) -> Path:
    """Compile the stub as its own first lines say, with every warning an error."""
    source = STUB_SOURCE.read_text(encoding="utf-8")
    return compile_library(source, target, "-Os", "-Wall", "-Wextra", "-Werror", soname="libcuda.so.1")


def run_python(source: str, libraries: Path | None = None, variables: Mapping[str, str] | None = None) -> str:
    """Run a program in a process of its own, with ``libraries`` where the loader looks first; return its output."""
    environment = build_environment("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "MXNET_USE_FUSION")
    if libraries is not None:
        environment["LD_LIBRARY_PATH"] = str(libraries)
    return run_source(source, {**environment, **(variables or {})})
