"""The files of a model, and ``model_manifest.json``: the sha256 of each, by which damage is found before it is parsed.

A model may be without one, as those of the built-in algorithm are; then there is nothing to compare with. A file that
the manifest lists and that is not there is no damage either: who needs one precision only may leave the other out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

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
"""All that is read of a model, the manifest itself left out."""
FORMAT_VERSION = 1
_MAX_BYTES = 1 << 16
_HEX = frozenset("0123456789abcdef")
_THREADS = 2
_MAX_SHOWN = 80


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and _HEX.issuperset(value)


def parse_manifest(data: bytes, source: str) -> dict[str, str]:
    """sha256 (hex) by file name; ModelError names ``source`` when it is not that, or a name not of MODEL_FILES."""
    try:
        content = parse_json_object(data)
    except ValueError as error:
        raise ModelError(f"{source} is damaged: {error}; fetch the model again") from None
    if content.get("format_version") != FORMAT_VERSION:
        found = shorten(ascii(content.get("format_version")), _MAX_SHOWN)
        raise ModelError(f"{source} has format_version {found}, this gluonseg reads {FORMAT_VERSION}")
    digests = content.get("sha256")
    if not isinstance(digests, dict) or not all(map(_is_digest, digests.values())) or len(content) != 2:
        raise ModelError(f"{source} is damaged: it is no list of sha256 by file name; fetch the model again")
    unknown = sorted(digests.keys() - set(MODEL_FILES))
    if unknown:
        raise ModelError(f"{source} lists {shorten(ascii(unknown[0]), _MAX_SHOWN)}, which is no file of a model")
    return digests


def read_manifest(folder: Path) -> dict[str, str]:
    """The manifest of a model folder, see :func:`parse_manifest`; empty when there is none."""
    path = folder / MANIFEST_FILE
    try:
        data = read_regular(path, _MAX_BYTES, follow=False)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None
    return parse_manifest(data, str(path))


def find_digest(path: Path) -> str:
    """sha256 (hex) of a file of a model folder: what the manifest says, with which it was compared, or computed now."""
    return read_manifest(path.parent).get(path.name) or hash_file(path)


def _hash(path: Path) -> str | None:
    """None when there is no such file."""
    try:
        return hash_file(path, follow=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from None


def check_files(folder: Path, names: Iterable[str] = MODEL_FILES) -> Mapping[str, str]:
    """Compare the files ``names`` of a model folder with its manifest.

    Returns sha256 (hex) by name of those that are there and listed. All known files may be no links.

    Raises:
        ModelError: a file is another one than when the manifest was written, or a link.
    """
    for name in (MANIFEST_FILE, *MODEL_FILES):
        if (folder / name).is_symlink():
            raise ModelError(f"{folder / name} is a symbolic link, which is not followed; put the file itself there")
    manifest = read_manifest(folder)
    if BEST_FILE in manifest and not (folder / BEST_FILE).exists() and (folder / LAST_FILE).exists():
        raise ModelError(
            f"{folder / BEST_FILE} is missing, which {MANIFEST_FILE} lists; fetch the model again, or remove "
            f"{MANIFEST_FILE} if {LAST_FILE} shall be used"
        )
    listed = {name: manifest[name] for name in names if name in manifest}
    with ThreadPoolExecutor(_THREADS) as pool:
        found = dict(zip(listed, pool.map(_hash, (folder / name for name in listed)), strict=True))
    for name, digest in found.items():
        if digest not in (None, listed[name]):
            raise ModelError(
                f"{folder / name} is damaged or was changed: its sha256 is {digest}, {MANIFEST_FILE} says "
                f"{listed[name]}; fetch the model again, or remove {MANIFEST_FILE} if the change was meant"
            )
    return {name: digest for name, digest in found.items() if digest is not None}


def _write(folder: Path, digests: Mapping[str, str]) -> None:
    content = {"format_version": FORMAT_VERSION, "sha256": dict(sorted(digests.items()))}
    write_text(folder / MANIFEST_FILE, json.dumps(content, indent=2) + "\n")


@contextmanager
def listing_files(folder: Path, *names: str) -> Iterator[None]:
    """List the files ``names``, which the block writes to ``folder``, in its manifest.

    Before the block they are taken off it: whoever ends the process in between leaves files that are not listed, and
    none that differs from what is said of it. When the block raises they stay off.
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
