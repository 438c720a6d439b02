"""The files of a model, and ``model_manifest.json``: the sha256 of each, by which damage is found before it is parsed.

A model of the built-in algorithm has no manifest; then nothing is compared. A listed file may be missing: a person who
needs one precision only can leave the other ONNX file out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from gluonseg.errors import ModelError
from gluonseg.files import hash_file, parse_json_object, read_regular, write_text
from gluonseg.models.folder.card import CARD_FILE
from gluonseg.text import shorten

MANIFEST_FILE = "model_manifest.json"
BEST_FILE = "model_best.params"
LAST_FILE = "model_algo-1"
HYPERPARAMETERS_FILE = "hyperparams.json"
SYMBOL_FILE = "model_symbol.json"
FLOAT32, INT8 = "float32", "int8"
ONNX_FILE = "model.onnx"
ONNX_FILES: Mapping[str, str] = MappingProxyType({FLOAT32: ONNX_FILE, INT8: "model_int8.onnx"})
"""File name by precision."""
MODEL_FILES = (BEST_FILE, LAST_FILE, HYPERPARAMETERS_FILE, CARD_FILE, SYMBOL_FILE, *ONNX_FILES.values())
"""All files that are read of a model, but for the manifest itself."""
FORMAT_VERSION = 1
_MAX_BYTES = 1 << 16
_THREADS = 2


def parse_manifest(data: bytes, source: str) -> dict[str, str]:
    """sha256 (hex) by file name; ModelError names ``source`` when it is not a manifest."""
    try:
        content = parse_json_object(data)
    except ValueError as error:
        raise ModelError(f"{source} is damaged: {error}; fetch the model again") from None
    if content.get("format_version") != FORMAT_VERSION:
        found = shorten(ascii(content.get("format_version")))
        raise ModelError(f"{source} has format_version {found}, this gluonseg reads {FORMAT_VERSION}")
    digests = content.get("sha256")
    if not isinstance(digests, dict):
        raise ModelError(f"{source} is damaged: it is no list of sha256 by file name; fetch the model again")
    return digests


def read_manifest(folder: Path) -> dict[str, str]:
    """The manifest of a model folder, see :func:`parse_manifest`; empty when there is none."""
    path = folder / MANIFEST_FILE
    try:
        return parse_manifest(read_regular(path, _MAX_BYTES), str(path))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None


def find_digest(path: Path) -> str:
    """sha256 (hex) of a file of a model folder: from the manifest, which was compared, or computed now."""
    return read_manifest(path.parent).get(path.name) or hash_file(path)


def check_files(folder: Path, names: Iterable[str] = MODEL_FILES) -> Mapping[str, str]:
    """Compare the files ``names`` of a model folder with its manifest.

    Returns sha256 (hex) by name of the files that are there and listed. Raises ModelError when a file is not the one
    that the manifest was written for.
    """
    manifest = read_manifest(folder)
    listed = [name for name in names if name in manifest and (folder / name).exists()]
    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            found = dict(zip(listed, pool.map(hash_file, (folder / name for name in listed)), strict=True))
    except OSError as error:
        raise ModelError(f"{error.filename} cannot be read: {error.strerror}") from None
    for name, digest in found.items():
        if digest != manifest[name]:
            raise ModelError(
                f"{folder / name} is damaged or was changed: its sha256 is {digest}, {MANIFEST_FILE} says "
                f"{manifest[name]}; fetch the model again, or remove {MANIFEST_FILE} if the change was meant"
            )
    return found


def _write(folder: Path, digests: Mapping[str, str]) -> None:
    content = {"format_version": FORMAT_VERSION, "sha256": dict(sorted(digests.items()))}
    write_text(folder / MANIFEST_FILE, json.dumps(content, indent=2) + "\n")


@contextmanager
def listing_files(folder: Path, *names: str) -> Iterator[None]:
    """List the files ``names``, which the block writes to ``folder``, in its manifest.

    Before the block they are removed from the manifest. A process that ends inside the block leaves files that are not
    listed, and no file that differs from its digest. When the block raises, they stay removed.
    """
    try:
        listed = read_manifest(folder)
    except ModelError:
        listed = {}
    kept = {name: digest for name, digest in listed.items() if name not in names}
    if kept != listed:
        _write(folder, kept)
    yield
    found = {name: hash_file(folder / name) for name in names if (folder / name).is_file()}
    _write(folder, {**kept, **found})
