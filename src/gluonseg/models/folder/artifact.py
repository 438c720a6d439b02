"""Model folders and model.tar.gz: ours and those of the built-in algorithm.

Both hold ``model_best.params`` (the best epoch), ``model_algo-1`` (the last epoch) and ``hyperparams.json``; ours also
hold ``model_card.json``, ``model_symbol.json``, ``model.onnx`` and ``model_manifest.json``. Other members of an archive
are not unpacked. The files of an archive may lie in one folder, which holds all of them.
"""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from gluonseg.errors import ModelError
from gluonseg.files import parse_json_object, read_regular
from gluonseg.labels import MAX_CLASSES
from gluonseg.models.folder.archive import copy_members
from gluonseg.models.folder.card import CARD_FILE, MAX_SIDE, ModelCard, build_card, read_card
from gluonseg.models.folder.manifest import (
    BEST_FILE,
    FLOAT32,
    HYPERPARAMETERS_FILE,
    LAST_FILE,
    MANIFEST_FILE,
    MODEL_FILES,
    ONNX_FILES,
    SYMBOL_FILE,
    check_files,
    find_digest,
)
from gluonseg.models.params import check_finite, convert_arrays, read_arrays
from gluonseg.text import join_names, shorten

_log = logging.getLogger(__name__)
_NETWORKS = (BEST_FILE, LAST_FILE, *ONNX_FILES.values())
"""A folder with one of these is a model folder."""
_ARCHIVES = (".tar.gz", ".tgz", ".tar")
_OTHER_ARCHIVES = ("output.tar.gz", "sourcedir.tar.gz")
"""What SageMaker keeps beside a job's model.tar.gz: what else the job has written, and its script."""
_DEPTH = 3
"""Levels of folders that are searched for a model."""
_MAX_SETTINGS_BYTES = 1 << 20
_BACKBONES = {
    (8, False): "resnet-18",
    (16, False): "resnet-34",
    (16, True): "resnet-50",
    (33, True): "resnet-101",
    (50, True): "resnet-152",
}
"""By the number of blocks, and whether a block has a third convolution."""


@dataclass(frozen=True)
class ModelArtifact:
    """A model in memory: its card, its parameters by structural name, and the file that the parameters are from."""

    card: ModelCard
    arrays: Mapping[str, npt.NDArray[Any]]
    weights: Path
    weights_sha256: str

    @property
    def params(self) -> dict[str, Any]:
        """The parameters as MXNet's NDArrays on the CPU, copied anew with each call."""
        return convert_arrays(self.arrays)


def infer_architecture(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, str, int]:
    """(algorithm, backbone, num_classes) of a built-in algorithm's network, from its parameters' shapes by name."""
    modules = {".".join(name.split(".")[:2]) for name in shapes}
    algorithm = "psp" if "head.psp" in modules else "deeplab" if "head.aspp" in modules else "fcn"
    blocks = {module for module in modules if module.startswith("layer")}
    backbone = _BACKBONES.get((len(blocks), "layer1.0.conv3.weight" in shapes))
    classifiers = [name for name in shapes if re.fullmatch(r"head\.block\.\d+\.bias", name)]
    if not classifiers or len(shapes[classifiers[-1]]) != 1 or backbone is None:
        raise ModelError("the parameters are not those of an FCN, PSPNet or DeepLabV3 on a ResNet")
    return algorithm, backbone, shapes[classifiers[-1]][0]


def _read_settings(path: Path) -> Mapping[str, Any]:
    """The built-in algorithm's hyperparams.json; empty when it cannot be read, because a model works without it."""
    try:
        return parse_json_object(read_regular(path, _MAX_SETTINGS_BYTES))
    except (OSError, ValueError):
        return {}


def _parse_side(value: Any, default: int) -> int:
    """A side in pixels from a number or its digits."""
    side = int(value) if re.fullmatch(r"\d{1,9}", str(value)) else 0
    return side if 0 < side <= MAX_SIDE else default


def find_weights(folder: Path) -> Path | None:
    """The file of parameters to use: that of the best epoch, else that of the last one; None when there is none."""
    return next((folder / name for name in (BEST_FILE, LAST_FILE) if (folder / name).is_file()), None)


def read_folder(folder: Path) -> ModelArtifact:
    """Read a model folder; raises ModelError when the parameters or the card are missing or damaged.

    Whether the parameters fit the card's network is seen when the network is built.
    """
    weights = find_weights(folder)
    if weights is None:
        raise ModelError(f"no {BEST_FILE} (nor {LAST_FILE}) in {folder}; give a model folder or a model.tar.gz")
    arrays = read_arrays(weights)
    check_finite(arrays, weights)
    card = read_card(folder / CARD_FILE) if (folder / CARD_FILE).is_file() else _guess_card(folder, weights, arrays)
    return ModelArtifact(card, arrays, weights, find_digest(weights))


def _guess_card(folder: Path, weights: Path, arrays: Mapping[str, npt.NDArray[Any]]) -> ModelCard:
    """A card for a model without one, such as a model of the built-in algorithm."""
    algorithm, backbone, num_classes = infer_architecture({name: array.shape for name, array in arrays.items()})
    if not 2 <= num_classes <= MAX_CLASSES:
        raise ModelError(f"{weights} has {num_classes} classes; 2 to {MAX_CLASSES} can be told apart in a mask")
    found = _read_settings(folder / HYPERPARAMETERS_FILE)
    return build_card(
        algorithm,
        backbone,
        num_classes,
        aux=any(name.startswith("auxlayer.") for name in arrays),
        base_size=_parse_side(found.get("base_size"), 520),
        crop_size=_parse_side(found.get("crop_size"), 240),
        hyperparameters={str(name): str(value) for name, value in found.items()},
    )


def _check_read_files(folder: Path, precision: str) -> None:
    """Compare with the manifest the files that a program reads; a server that starts has no time for the others."""
    weights = find_weights(folder)
    names = [CARD_FILE, HYPERPARAMETERS_FILE, SYMBOL_FILE, ONNX_FILES[precision]]
    check_files(folder, [*names, weights.name] if weights else names)


def _list_entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def _is_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _NETWORKS)


def _list_models(folder: Path, depth: int = _DEPTH) -> list[Path]:
    """``folder`` when it is a model folder; else the archives in it; else the models of its sub-folders."""
    if _is_model(folder):
        return [folder]
    entries = _list_entries(folder)
    archives = [path for path in entries if path.name.endswith(_ARCHIVES) and path.name not in _OTHER_ARCHIVES]
    if archives or not depth:
        return [path for path in archives if path.name == "model.tar.gz"] or archives
    return [found for path in entries if path.is_dir() for found in _list_models(path, depth - 1)]


def find_model(folder: Path) -> Path:
    """The model that ``folder`` stands for: a model folder, or an archive.

    This is the folder itself, or the one model in it, as in the folder of all that a training job has written.

    Raises:
        ModelError: there is no model, or more than one; it names what is there.
    """
    found = _list_models(folder)
    if not found:
        names = [f"{path.name}/" if path.is_dir() else path.name for path in _list_entries(folder)]
        there = f"it holds {join_names(names)}" if names else "it is empty"
        raise ModelError(f"no {BEST_FILE}, no model.tar.gz in {folder}: {there}; give a model folder or a model.tar.gz")
    if len(found) > 1:
        names = [str(path.relative_to(folder)) for path in found]
        raise ModelError(f"there are {len(found)} models in {folder}: {join_names(names)}; give one of them")
    if found[0] != folder:
        _log.info("The model in %s is %s", folder, found[0].relative_to(folder))
    return found[0]


@contextmanager
def open_model(source: Path, precision: str = FLOAT32) -> Iterator[Path]:
    """The folder of a model: ``source`` itself, or for a model.tar.gz a temporary folder.

    ``source`` can also be a folder with one model in it, see :func:`find_model`. Before the block runs, the
    parameters, the card and the ONNX file of ``precision`` are compared with the manifest.

    Raises:
        ModelError: nothing there, not an archive, no model inside, several, or a file that is not the one its manifest
            lists.
            When the block raises a ModelError about a file of the archive, the error names the archive.
        StorageError: there is no room to unpack an archive; ``TMPDIR`` chooses another place.
    """
    if source.is_dir():
        source = find_model(source)
    if source.is_dir():
        _check_read_files(source, precision)
        yield source
        return
    if not source.is_file():
        raise ModelError(f"{source} does not exist; give a model folder or a model.tar.gz")
    with tempfile.TemporaryDirectory(prefix="gluonseg-model-") as temporary:
        folder = Path(temporary)
        wanted = (MANIFEST_FILE, *MODEL_FILES)
        names = copy_members(source, wanted, folder)
        tops = {name.removeprefix("./").partition("/")[0] for name in names} - {"", "."}
        if len(tops) == 1 and not _is_model(folder):
            names = copy_members(source, wanted, folder, f"{tops.pop()}/")
        if not _is_model(folder):
            there = f"it holds {shorten(join_names(map(ascii, names)), 300)}" if names else "it is empty"
            raise ModelError(f"there is no {BEST_FILE} at the root of {source}: {there}; pack the model's files there")
        try:
            _check_read_files(folder, precision)
            yield folder
        except ModelError as error:
            # The temporary folder is gone when the text is read; the archive is what the caller knows.
            raise ModelError(str(error).replace(f"{folder}/", f"{source}: ")) from None


def read_artifact(source: Path) -> ModelArtifact:
    """Read a model folder or a model.tar.gz; raises as :func:`open_model` and :func:`read_folder`."""
    with open_model(source) as folder:
        return read_folder(folder)
