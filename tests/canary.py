"""Files that sing when they are opened as code: pickles, modules, archives with scripts, ONNX files of Python."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from audit_hook import SUNG, TOKEN
from file_tree import add_member
from hostile_onnx import encode_model
from picture import draw_noise, encode_picture


class Canaries:
    """Canaries that leave a file in ``marks`` when they sing."""

    def __init__(self, marks: Path) -> None:
        marks.mkdir(parents=True, exist_ok=True)
        self._marks = marks

    def find_sung(self) -> list[str]:
        return sorted(path.name for path in self._marks.iterdir())

    def build_source(self, name: str) -> str:
        """Python that sings."""
        mark = str(self._marks / name)
        return f"import sys\n{TOKEN} = sys.audit({SUNG!r}, {name!r})\nopen({mark!r}, 'w').close()\n"

    def build_shell(self, name: str) -> str:
        """A shell command that sings."""
        return f"touch {self._marks / name}; : {TOKEN}"

    def build_pickle(self, name: str, protocol: int = 2) -> bytes:
        return pickle.dumps(_Singer(self.build_source(name)), protocol)

    def build_npz(self, name: str) -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, a=np.array([_Singer(self.build_source(name))], dtype=object))
        return buffer.getvalue()

    def build_torch(self, name: str) -> bytes:
        """What a .pth file is."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", self.build_pickle(name))
        return buffer.getvalue()

    def build_script_archive(self, name: str) -> bytes:
        """A tar.gz with a script in every place where other servers look for one."""
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
            for path, content in self.build_scripts(name).items():
                add_member(archive, path, content)
        return buffer.getvalue()

    def build_symbol(self, name: str) -> bytes:
        """A symbol file that asks MXNet for an operator in Python and for a library."""
        attributes = {"op_type": TOKEN, "library": f"./{name}.so", "__path__": f"./{name}.so"}
        node = {"op": "Custom", "name": TOKEN, "attrs": attributes, "inputs": []}
        return json.dumps({"nodes": [node], "arg_nodes": [0], "heads": [[0, 0, 0]]}).encode()

    def build_onnx(self, name: str) -> bytes:
        """An ONNX file whose tensor is in another one, and whose operator is in Python."""
        node = helper.make_node("PyOp", [], [TOKEN], name=TOKEN, domain="ai.onnx.contrib")
        return encode_model(node, external=f"{name}.so")

    def build_yaml(self, name: str) -> bytes:
        return f"!!python/object/apply:os.system ['{self.build_shell(name)}']\n".encode()

    def build_picture(self, name: str) -> bytes:
        """A good picture with code in its comment, its EXIF data and behind its end."""
        source, code = self.build_source(name).encode(), self.build_pickle(name)
        return encode_picture(draw_noise(40, 40), "JPEG", comment=source, exif=b"Exif\0\0" + code) + code

    def build_scripts(self, name: str) -> Mapping[str, bytes]:
        """Path -> content of every file that some program would run, install or load by its name."""
        source, shell = self.build_source(name).encode(), self.build_shell(name)
        modules = ("sitecustomize", "conftest", "inference", "model_handler", "setup", "numpy", "mxnet", "__init__")
        package = f"--index-url http://127.0.0.1:9/{TOKEN}\n-e .\n{TOKEN} @ file://{self._marks}\n"
        return {
            **{f"{folder}{module}.py": source for folder in ("", "code/") for module in modules},
            "requirements.txt": package.encode(),
            "code/requirements.txt": package.encode(),
            "canary.pth": f"import sys; exec({self.build_source(name)!r})\n".encode(),
            "matplotlibrc": b"backend: module://inference\ntext.usetex: True\n",
            "train.sh": f"#!/bin/sh\n{shell}\n".encode(),
            "config.yaml": self.build_yaml(name),
            "MAR-INF/MANIFEST.json": b'{"model": {"handler": "inference.py", "serializedFile": "model.pkl"}}',
            "model-symbol.json": self.build_symbol(name),
            "model.pkl": self.build_pickle(name),
            "model.npz": self.build_npz(name),
            "model.pth": self.build_torch(name),
            "library.so": b"\x7fELF" + TOKEN.encode(),
            "libcuda.so.1": b"\x7fELF" + TOKEN.encode(),
        }

    def plant_scripts(self, folder: Path, name: str) -> None:
        """Put all of :meth:`build_scripts` into ``folder``; what is there already stays."""
        for path, content in self.build_scripts(name).items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.write_bytes(content)
                target.chmod(0o755)


class _Singer:
    def __init__(self, source: str) -> None:
        self._source = source

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (self._source,)


def build_bodies(canaries: Canaries) -> Mapping[str, tuple[bytes, str]]:
    """Name -> body of a request and its Content-Type, all of which the server refuses, but for the last one."""
    name = "request"
    return {
        "pickle as a picture": (canaries.build_pickle(name), "image/jpeg"),
        "npz": (canaries.build_npz(name), "application/x-npz"),
        "archive": (canaries.build_script_archive(name), "application/x-tar"),
        "address": (b"http://127.0.0.1:9/picture.jpg", "image/jpeg"),
        "instances": (b'{"instances": [{"url": "file:///etc/passwd"}]}', "application/json"),
        "ONNX": (canaries.build_onnx(name), "application/octet-stream"),
        "picture with code": (canaries.build_picture(name), "image/jpeg"),
    }


def plant_around(canaries: Canaries, folder: Path, name: str) -> Path:
    """A folder to start programs in, full of files that they would take for their own."""
    canaries.plant_scripts(folder, name)
    for module in ("os", "logging", "gluonseg", "flask", "waitress", "onnxruntime", "PIL"):
        (folder / f"{module}.py").write_text(canaries.build_source(name), encoding="utf-8")
    return folder
