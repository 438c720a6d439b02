"""Model folders and model.tar.gz: ours and those of the built-in algorithm.

Both hold ``model_best.params`` (the best epoch), ``model_algo-1`` (the last one) and ``hyperparams.json``;
ours add ``model_card.json``, ``model_symbol.json``, ``model.onnx`` and ``model_manifest.json``. From an archive only
these members are read.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from gluonseg.errors import ModelError
from gluonseg.files import read_regular
from gluonseg.labels import MAX_CLASSES
from gluonseg.models.folder.archive import copy_members
from gluonseg.models.folder.card import CARD_FILE, MAX_SIDE, ModelCard, build_card, read_card
from gluonseg.models.folder.manifest import BEST_FILE as BEST_FILE
from gluonseg.models.folder.manifest import (
    FLOAT32,
    MANIFEST_FILE,
    MODEL_FILES,
    ONNX_FILE,
    ONNX_FILES,
    SYMBOL_FILE,
    check_files,
    find_digest,
)
from gluonseg.models.folder.manifest import HYPERPARAMETERS_FILE as HYPERPARAMETERS_FILE
from gluonseg.models.folder.manifest import LAST_FILE as LAST_FILE
from gluonseg.models.params import check_finite, convert_arrays, read_arrays
from gluonseg.text import join_names

_NETWORKS = (BEST_FILE, LAST_FILE, ONNX_FILE)
"""Each of these makes a folder a model's."""
_MAX_SETTINGS_BYTES = 1 << 20
_FLOATS = ("float16", "float32", "float64")

_DEPTHS: dict[tuple[int, ...], str] = {
    (2, 2, 2, 2): "resnet-18",
    (3, 4, 6, 3): "resnet-34",
    (3, 4, 23, 3): "resnet-101",
    (3, 8, 36, 3): "resnet-152",
}
_BLOCK = re.compile(r"layer(\d)\.(\d+)\.")


@dataclass(frozen=True)
class ModelArtifact:
    """A model read into memory: its card and its parameters, by structural name, with the file they are from."""

    card: ModelCard
    arrays: Mapping[str, npt.NDArray[Any]]
    weights: Path
    weights_sha256: str

    @property
    def params(self) -> dict[str, Any]:
        """The parameters as MXNet's NDArrays on the CPU, copied anew with each call."""
        return convert_arrays(self.arrays)


def infer_architecture(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str, int]:
    """Tell (algorithm, backbone, num_classes) of a network from the names and shapes of its parameters."""
    if any(name.startswith("head.psp.") for name in shapes):
        algorithm = "psp"
    elif any(name.startswith("head.aspp.") for name in shapes):
        algorithm = "deeplab"
    else:
        algorithm = "fcn"
    classifiers = [name for name in shapes if re.fullmatch(r"head\.block\.\d+\.bias", name)]
    blocks = [match.groups() for name in shapes if (match := _BLOCK.match(name))]
    depth = tuple(len({block for stage, block in blocks if stage == str(number)}) for number in range(1, 5))
    backbone = _DEPTHS.get(depth)
    if depth == (3, 4, 6, 3) and "layer1.0.conv3.weight" in shapes:
        backbone = "resnet-50"
    if not classifiers or not shapes[classifiers[-1]] or backbone is None:
        raise ModelError("the parameters are not those of an FCN, PSPNet or DeepLabV3 on a ResNet")
    return algorithm, backbone, shapes[classifiers[-1]][0]


def _read_hyperparameters(path: Path) -> dict[str, Any]:
    """The built-in's file, read leniently: what is in it varies, and nothing here depends on it."""
    try:
        content = json.loads(read_regular(path, _MAX_SETTINGS_BYTES, follow=False).decode())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _as_size(value: Any, default: int) -> int:
    try:
        size = int(value)
    except (TypeError, ValueError, OverflowError):
        return default
    return size if 0 < size <= MAX_SIDE else default


def find_weights(folder: Path) -> Path | None:
    """The file with the parameters that count: those of the best epoch if they are there."""
    return next((folder / name for name in (BEST_FILE, LAST_FILE) if (folder / name).is_file()), None)


def _check_values(arrays: Mapping[str, npt.NDArray[Any]], weights: Path) -> None:
    odd = [f"{name} ({array.dtype})" for name, array in arrays.items() if array.dtype.name not in _FLOATS]
    if odd:
        raise ModelError(f"{weights} holds no parameters of a network: {join_names(odd, 3)}; they are floats")
    check_finite(arrays, weights)


def read_folder(folder: Path) -> ModelArtifact:
    """Read a model folder; raises ModelError when the weights or the card are missing or damaged.

    Whether the weights are those of the card's network is seen when the network is built.
    """
    weights = find_weights(folder)
    if weights is None:
        raise ModelError(f"no {BEST_FILE} (nor {LAST_FILE}) in {folder}; give a model folder or a model.tar.gz")
    arrays = read_arrays(weights)
    _check_values(arrays, weights)
    card = read_card(folder / CARD_FILE) if (folder / CARD_FILE).is_file() else _guess_card(folder, weights, arrays)
    return ModelArtifact(card, arrays, weights, find_digest(weights))


def _guess_card(folder: Path, weights: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> ModelCard:
    """The card of a model that has none, as those of the built-in algorithm."""
    algorithm, backbone, num_classes = infer_architecture({name: array.shape for name, array in arrays.items()})
    if not 2 <= num_classes <= MAX_CLASSES:
        raise ModelError(f"{weights} has {num_classes} classes; 2 to {MAX_CLASSES} can be told apart in a mask")
    found = _read_hyperparameters(folder / HYPERPARAMETERS_FILE)
    return build_card(
        algorithm,
        backbone,
        num_classes,
        aux=any(name.startswith("auxlayer.") for name in arrays),
        base_size=_as_size(found.get("base_size"), 520),
        crop_size=_as_size(found.get("crop_size"), 240),
        hyperparameters={str(name): str(value) for name, value in found.items()},
    )


def _list_read(folder: Path, precision: str) -> list[str]:
    """Names of the files that a program reads of a model: a server that starts has no time for the others."""
    weights = find_weights(folder)
    return [CARD_FILE, HYPERPARAMETERS_FILE, SYMBOL_FILE, ONNX_FILES[precision], *([weights.name] if weights else [])]


@contextmanager
def open_model(source: Path, precision: str = FLOAT32) -> Iterator[Path]:
    """The folder of a model: ``source`` itself, or for a model.tar.gz a temporary one.

    A folder that holds just one archive will do as well. The files that count are compared with the manifest: the
    parameters of the best epoch, the card and the ONNX file of ``precision``.

    Raises:
        ModelError: nothing there, not an archive, no model inside, or a file that is not the one its manifest lists. A
            ModelError of the body names the archive.
        StorageError: there is no room to unpack an archive; ``TMPDIR`` chooses another place.
    """
    if source.is_dir():
        archives = sorted(source.glob("*.tar.gz"))
        if len(archives) != 1 or any((source / name).is_file() for name in _NETWORKS):
            check_files(source, _list_read(source, precision))
            yield source
            return
        (source,) = archives
    if not source.is_file():
        raise ModelError(f"{source} does not exist; give a model folder or a model.tar.gz")
    with _unpacked(source) as folder:
        try:
            check_files(folder, _list_read(folder, precision))
            yield folder
        except ModelError as error:
            # The temporary folder is gone when the text is read; the archive is what the caller knows.
            raise ModelError(str(error).replace(f"{folder}/", f"{source}: ")) from None


def read_artifact(source: Path) -> ModelArtifact:
    """Read a model folder or a model.tar.gz; see :func:`open_model`.

    Raises:
        ModelError: as there, or damaged or foreign parameters.
    """
    with open_model(source) as folder:
        return read_folder(folder)


@contextmanager
def _unpacked(archive: Path) -> Iterator[Path]:
    """The known members of an archive in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="gluonseg-model-") as name:
        folder = Path(name)
        copy_members(archive, (MANIFEST_FILE, *MODEL_FILES), folder)
        if not any((folder / name).is_file() for name in _NETWORKS):
            raise ModelError(f"there is no {BEST_FILE} in {archive}; a model archive has it at its root")
        yield folder
