"""Files that sing when they are opened as code: pickles, modules, archives with scripts, documents that include."""

from __future__ import annotations

import gzip
import io
import json
import os
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

    def build_npy(self, name: str) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, np.array([_Singer(self.build_source(name))], dtype=object), allow_pickle=True)
        return buffer.getvalue()

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

    def build_document(self, name: str) -> bytes:
        """XML that includes, SVG that fetches and runs."""
        text = (
            f'<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "http://127.0.0.1:9/{TOKEN}">]>'
            f'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://127.0.0.1:9/{name}"/>'
            f"<script>{TOKEN}</script>&x;</svg>"
        )
        return text.encode()

    def build_scripts(self, name: str) -> Mapping[str, bytes]:
        """Path -> content of every file that some program would run, install or load by its name."""
        source, shell = self.build_source(name).encode(), self.build_shell(name)
        modules = (
            "sitecustomize", "usercustomize", "conftest", "inference", "model_handler", "service", "handler", "wsgi",
            "waitress", "setup", "train", "serve", "numpy", "json", "mxnet", "gluoncv", "onnxruntime", "PIL",
            "__init__", "__main__", "predictor", "transformer", "hubconf",
        )  # fmt: skip
        package = f"--index-url http://127.0.0.1:9/{TOKEN}\n-e .\n{TOKEN} @ file://{self._marks}\n"
        return {
            **{f"{module}.py": source for module in modules},
            **{f"code/{module}.py": source for module in ("inference", "train", "setup", "sitecustomize")},
            "requirements.txt": package.encode(),
            "code/requirements.txt": package.encode(),
            "canary.pth": f"import sys; exec({self.build_source(name)!r})\n".encode(),
            "pyproject.toml": f'[build-system]\nbuild-backend = "setup"\nbackend-path = ["."]\n# {TOKEN}\n'.encode(),
            "setup.cfg": b"[tool:pytest]\naddopts = -p conftest\n",
            "pytest.ini": b"[pytest]\naddopts = -p conftest\n",
            "matplotlibrc": b"backend: module://inference\ntext.usetex: True\n",
            "Makefile": f"all:\n\t{shell}\n".encode(),
            "train.sh": f"#!/bin/sh\n{shell}\n".encode(),
            "config.yaml": self.build_yaml(name),
            "MAR-INF/MANIFEST.json": b'{"model": {"handler": "inference.py", "serializedFile": "model.pkl"}}',
            "model-symbol.json": self.build_symbol(name),
            "model.pkl": self.build_pickle(name, 4),
            "model.states": self.build_pickle(name, 0),
            "model.npy": self.build_npy(name),
            "model.npz": self.build_npz(name),
            "model.pth": self.build_torch(name),
            "model.joblib": gzip.compress(self.build_pickle(name)),
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
    scripts = canaries.build_script_archive(name)
    form = (
        b'--b\r\nContent-Disposition: form-data; name="x"; filename="../sitecustomize.py"\r\n\r\n'
        + canaries.build_source(name).encode()
        + b"\r\n--b--\r\n"
    )
    instances = {"instances": [{"url": "http://127.0.0.1:9/x.jpg", TOKEN: "file:///etc/passwd"}]}
    return {
        "pickle": (canaries.build_pickle(name), "application/python-pickle"),
        "pickle as a picture": (canaries.build_pickle(name, 0), "image/jpeg"),
        "pickle without a type": (canaries.build_pickle(name, 4), ""),
        "npz": (canaries.build_npz(name), "application/x-npz"),
        "archive": (scripts, "application/x-tar"),
        "form": (form, "multipart/form-data; boundary=b"),
        "address": (b"http://127.0.0.1:9/picture.jpg", "image/jpeg"),
        "address of a file": (b"file:///etc/passwd", "text/plain"),
        "instances": (json.dumps(instances).encode(), "application/json"),
        "SVG": (canaries.build_document(name), "image/svg+xml"),
        "ONNX": (canaries.build_onnx(name), "application/octet-stream"),
        "picture with code": (canaries.build_picture(name), "image/jpeg"),
    }


def plant_around(canaries: Canaries, folder: Path, name: str) -> Path:
    """A folder to start programs in, full of files that they would take for their own."""
    canaries.plant_scripts(folder, name)
    for module in ("os", "logging", "encodings", "site", "gluonseg", "flask", "waitress"):
        (folder / f"{module}.py").write_text(canaries.build_source(name), encoding="utf-8")
    os.symlink("inference.py", folder / "linked.py")
    return folder
